"""What is said of a line that does not parse: what was found, what could have stood there, and what was probably meant.

A message is chosen by what the parser would have accepted, the token before, and the token that did not fit; never by
the parser's state numbers, so that the grammar can change freely.
"""

from __future__ import annotations

from ..runtime.records import dataclass
from .diagnostics import Diagnostic, Source, Span, nearest
from .lalr import Token
from .layout import token_span

RESERVED = {"_IF": "if", "_ELIF": "elif", "_ELSE": "else", "_FOR": "for", "_IN": "in", "_AND": "and", "_OR": "or",
            "_NOT": "not",
            "_RETURN": "return", "_TRUE": "true", "_FALSE": "false", "_NONE": "none"}
TOP = {"_IMPORT": "import", "_CONST": "const", "_DEF": "def", "_MODEL": "model", "_TRAIN": "train"}
INSIDE = {"_IF": "if", "_ELIF": "elif", "_ELSE": "else", "_FOR": "for", "_SCAN": "scan", "_RETURN": "return",
          "_PARAM": "param",
          "_STATE": "state", "_PENALTY": "penalty", "_ASSERT": "assert", "_INPUT": "input", "_LOSS": "loss",
          "_METRIC": "metric"}
WORDS = {**RESERVED, **TOP, **INSIDE, "_NET": "net", "_AS": "as", "_ALONG": "along", "REVERSED": "reversed",
         "_CARRYING": "carrying",
         "_COLLECTING": "collecting"}
SIGNS = {"LPAR": "(", "RPAR": ")", "LSQB": "[", "RSQB": "]", "COLON": ":", "COMMA": ",", "DOT": ".", "EQUAL": "=",
         "PLUS": "+",
         "MINUS": "-", "STAR": "*", "SLASH": "/", "FLOORDIV": "//", "PERCENT": "%", "AT": "@", "POWER": "**",
         "PIPE": "|>", "ARROW": "->",
         "EQ": "==", "NE": "!=", "LT": "<", "LE": "<=", "GT": ">", "GE": ">=", "_ELLIPSIS": "..."}
COMPARISONS = {"EQ", "NE", "LT", "LE", "GT", "GE"}
OPERATORS = COMPARISONS | {"PLUS", "MINUS", "STAR", "SLASH", "FLOORDIV", "PERCENT", "AT", "POWER", "PIPE",
                           "_AND", "_OR"}
ARITHMETIC = {"PLUS", "MINUS", "STAR", "SLASH", "FLOORDIV", "PERCENT", "AT", "POWER"}
STARTS = {"NAME", "NUMBER", "STRING", "_TRUE", "_FALSE", "_NONE", "LPAR", "MINUS", "PLUS", "_NOT"}
OPERANDS = {"NAME", "NUMBER", "STRING", "_TRUE", "_FALSE", "_NONE", "RPAR", "RSQB"}
OPENERS = {"_IF", "_ELIF", "_ELSE", "_FOR", "_SCAN", "_MODEL", "_TRAIN"}

# Words of other languages at the start of a line.
FOREIGN = {
    "class": "a layer or model is defined with `model Name(...)(x: f32[N]):`",
    "function": "a function is defined with `def name(x) = ...`",
    "func": "a function is defined with `def name(x) = ...`",
    "fn": "a function is defined with `def name(x) = ...`",
    "let": "a name is bound with `name = value`",
    "var": "a name is bound with `name = value`",
    "while": "loops are `for i in range(n):`, which unrolls, and `scan` over an axis",
    "from": "a file is imported with `import \"file.net\" as name`",
    "pass": "a block needs a statement; leave the whole block out",
    "with": "there is no `with`",
    "lambda": "functions have names: `def name(x) = ...`",
    "print": "a file computes values and prints nothing",
}


@dataclass(frozen=True)
class Spot:
    """The place of an error: the line's tokens, the index of the one that does not fit, and what would have."""

    tokens: list[Token]
    at: int
    accepted: set[str]
    source: Source
    inside: bool

    @property
    def token(self) -> Token:
        return self.tokens[self.at]

    @property
    def before(self) -> Token | None:
        return self.tokens[self.at - 1] if self.at else None

    @property
    def head(self) -> str:
        return self.tokens[0].type

    @property
    def span(self) -> Span:
        """The token's place; one character behind the last token at the end of a line."""
        span = token_span(self.token, self.source)
        if self.token.type == "_NEWLINE":
            return Span(self.source, span.line, span.column, span.line, span.column + 1)
        return span

    def has(self, kind: str) -> bool:
        """Whether a token of the kind stands before this place in the line."""
        return any(token.type == kind for token in self.tokens[: self.at])


def explain(tokens: list[Token], at: int, accepted: set[str], source: Source, inside: bool) -> Diagnostic:
    """The message for tokens[at], where only `accepted` could follow; `inside` tells a block from the top level."""
    spot = Spot(tokens, at, accepted, source, inside)
    for rule in (statement_rule, colon_rule, comparison_rule, assignment_rule, declaration_rule, reserved_rule,
                 pipe_rule):
        found = rule(spot)
        if found is not None:
            return found
    return Diagnostic("E0101", f"unexpected {shown(spot.token)}", spot.span, expected=expectation(spot),
                      hint=hint(spot))


def likely_opener(token: Token) -> str:
    """A placeholder line (parser.py) for a broken top-level line that opens a block."""
    word = WORDS.get(token.type, str(token))
    meant = word if word in TOP.values() else nearest(word, TOP.values())
    return {"train": "train ? :", "def": "def ? ( ) :"}.get(meant or "", "model ? ( ) :")


# ---- the cases -------------------------------------------------------------------------------------------------------


def statement_rule(spot: Spot) -> Diagnostic | None:
    """The line begins with something that begins no statement here."""
    first = spot.tokens[0]
    second = spot.tokens[1].type if len(spot.tokens) > 1 else ""
    span = token_span(first, spot.source)
    if spot.at == 0:
        if first.type in ("_ELIF", "_ELSE"):
            return Diagnostic("E0120", f"`{first}` without an `if`", span,
                              hint="it stands at the same indentation as its `if`, right after the block")
        if first.type in TOP and spot.inside:
            return Diagnostic("E0120", f"`{first}` cannot stand inside a block", span,
                              hint="it belongs at the top level, without indentation")
        if first.type == "_NET":
            return Diagnostic("E0120", "the version of the language is given once, in the first line", span)
        if not spot.inside:
            return top_level(first, span)
    if spot.at == 1 and first.type == "NAME" and (spot.token.type in STARTS or spot.token.type in RESERVED
                                                  or spot.token.type == "COLON"):
        words = INSIDE if spot.inside else TOP
        if str(first) in FOREIGN:
            return Diagnostic("E0120", f"there is no statement `{first}`", span, hint=FOREIGN[str(first)])
        near = nearest(str(first), words.values())
        if near:
            return Diagnostic("E0120", f"there is no statement `{first}`", span, hint=f"did you mean `{near}`?")
        if second == "COLON" and spot.tokens[2].type == "EQUAL":
            return Diagnostic("E0101", "there is no `:=`", spot.span, hint="a name is bound with `=`")
        if second == "COLON" and "EQUAL" in spot.accepted:
            return Diagnostic("E0120", "a plain binding carries no type", spot.span, expected="`=`", found="`:`",
                              hint=f"weights are declared: `param {first}: ...`, `state {first}: ...`")
    return None


def top_level(first: Token, span: Span) -> Diagnostic:
    words = "`import`, `const`, `def`, `model` or `train`"
    text = WORDS.get(first.type, str(first))
    if text in FOREIGN:
        return Diagnostic("E0120", f"there is no statement `{text}`", span, hint=FOREIGN[text])
    near = nearest(text, TOP.values()) if first.type == "NAME" else None
    hint = f"did you mean `{near}`?" if near else None
    if first.type in INSIDE:
        hint = "it belongs into the block of a `train`" if first.type in ("_INPUT", "_LOSS", "_METRIC") \
            else "it belongs into the block of a `model` or a `def`"
    elif near is None and first.type == "NAME":
        hint = "a value of the whole file is bound with `const NAME = ...`"
    return Diagnostic("E0120", f"unexpected {shown(first)} at the top level", span, expected=words, hint=hint)


def colon_rule(spot: Spot) -> Diagnostic | None:
    if spot.token.type == "_NEWLINE" and spot.head in OPENERS and "COLON" in spot.accepted:
        return Diagnostic("E0104", f"`:` is missing at the end of the `{spot.tokens[0]}` line", spot.span)
    if spot.head == "_ELSE" and spot.token.type == "_IF":
        return Diagnostic("E0101", "unexpected `if` after `else`", spot.span, expected="`:`", hint="write `elif`")
    if spot.head == "_DEF" and spot.token.type == "ARROW":
        return Diagnostic("E0101", "a def has no result type", spot.span, expected="`=` or `:`",
                          hint="leave `-> ...` out: the type follows from the body")
    if spot.head == "_DEF" and spot.token.type == "_NEWLINE" and "COLON" in spot.accepted:
        return Diagnostic("E0104", "`=` and an expression, or `:` and a block, is missing after the parameters",
                          spot.span)
    if spot.before is not None and spot.before.type == "COLON" and spot.accepted == {"_NEWLINE"}:
        return Diagnostic("E0106", "a block begins on the next line", spot.span,
                          hint="break the line after `:` and indent what follows")
    return None


def comparison_rule(spot: Spot) -> Diagnostic | None:
    if spot.token.type in COMPARISONS and "_AND" in spot.accepted and not spot.accepted & COMPARISONS \
            and any(token.type in COMPARISONS for token in spot.tokens[: spot.at]):
        return Diagnostic("E0117", "comparisons do not chain", spot.span, hint="write `a < b and b < c`")
    if spot.token.type == "EQUAL" and spot.at > 1 and spot.head in ("_IF", "_ELIF", "_ASSERT", "_RETURN", "_PENALTY"):
        return Diagnostic("E0114", f"`=` cannot stand in the expression of `{spot.tokens[0]}`", spot.span,
                          hint="to compare write `==`")
    if spot.token.type == "EQUAL" and spot.before is not None and spot.before.type in COMPARISONS | {"EQUAL"}:
        return Diagnostic("E0101", "unexpected `=`", spot.span, expected="an expression",
                          hint="equality is written `==`")
    return None


def assignment_rule(spot: Spot) -> Diagnostic | None:
    before = spot.before
    if spot.token.type != "EQUAL" or before is None:
        return None
    if before.type in ARITHMETIC and before.end_pos == spot.token.start_pos:
        name = spot.tokens[0]
        return Diagnostic("E0101", f"there is no `{before}=`", token_span(before, spot.source).to(spot.span),
                          hint=f"write `{name} = {name} {before} ...`")
    if spot.has("EQUAL") and spot.accepted >= {"_NEWLINE", "PLUS"}:
        return Diagnostic("E0101", "unexpected `=`: a line binds once", spot.span,
                          hint="to compare write `==`; to bind twice write two lines")
    return None


def declaration_rule(spot: Spot) -> Diagnostic | None:
    """Declarations that lack a part."""
    head, kind = spot.head, spot.token.type
    name = str(spot.tokens[1]) if len(spot.tokens) > 1 and spot.tokens[1].type == "NAME" else "name"
    word = WORDS.get(head, "")
    if head in ("_PARAM", "_STATE", "_INPUT") and spot.at == 2 and spot.accepted == {"COLON"}:
        return Diagnostic("E0101", f"the type of `{name}` is missing", spot.span, expected="`:` and a type",
                          found=shown(spot.token),
                          hint=f"as in `{word} {name}: f32[N]`")
    if head == "_INPUT" and kind == "EQUAL":
        return Diagnostic("E0101", "an input has no initial value", spot.span, expected="the end of the line")
    if head in ("_LOSS", "_METRIC") and spot.at == 1:
        return Diagnostic("E0606", f"the {word} has no name", spot.span, expected=f"`{word} name = ...`",
                          found=shown(spot.token))
    if head == "_IMPORT" and spot.at == 1 and kind == "NAME":
        return Diagnostic("E0101", "the file's name stands in quotes", spot.span, expected="text",
                          found=shown(spot.token),
                          hint=f'as in `import "{spot.token}.net" as {spot.token}`')
    if head == "_IMPORT" and kind == "_NEWLINE" and spot.accepted == {"_AS"}:
        return Diagnostic("E0101", "the import has no name", spot.span, expected="`as` and a name",
                          hint='as in `import "blocks.net" as blocks`')
    if head == "_NET":
        return Diagnostic("E0103", f"unexpected {shown(spot.token)} in the version line", spot.span, expected="`net 1`")
    if head == "_MODEL" and spot.at == 2 and spot.accepted == {"LPAR"}:
        return Diagnostic("E0101", f"the inputs of `{name}` are missing", spot.span, expected="`(`",
                          found=shown(spot.token),
                          hint=f"as in `model {name}(x: f32[N, 10]) -> f32[N, 1]:`")
    return None


def reserved_rule(spot: Spot) -> Diagnostic | None:
    """A reserved word where a name must stand."""
    word = RESERVED.get(spot.token.type)
    if spot.at == 1 and spot.token.type == "EQUAL" and spot.head in RESERVED:
        return Diagnostic("E0115", f"`{spot.tokens[0]}` is a reserved word and cannot be a name",
                          token_span(spot.tokens[0], spot.source),
                          hint="choose another name")
    following = spot.tokens[spot.at + 1].type if spot.at + 1 < len(spot.tokens) else ""
    if word is None or "NAME" not in spot.accepted:
        return None
    if "NUMBER" not in spot.accepted or following in ("EQUAL", "COMMA", "RPAR", "COLON"):
        return Diagnostic("E0115", f"`{spot.token}` is a reserved word and cannot be a name", spot.span,
                          hint="choose another name")
    return None


def pipe_rule(spot: Spot) -> Diagnostic | None:
    if spot.token.type in OPERATORS and "PIPE" in spot.accepted and spot.token.type not in spot.accepted \
            and spot.has("PIPE"):
        return Diagnostic("E0101", f"unexpected {shown(spot.token)} after a stage of a pipe", spot.span,
                          expected="`|>` or the end of the pipe",
                          hint="put the pipe into brackets: `(x |> f) + y`; or the stage: `x |> (f if c else g)`")
    return None


# ---- words -----------------------------------------------------------------------------------------------------------


def shown(token: Token) -> str:
    """A token as a message names it."""
    kind = token.type
    if kind == "_NEWLINE":
        return "end of the line"
    if kind in RESERVED or kind in WORDS or kind in SIGNS:
        return f"`{token}`"
    text = str(token) if len(token) <= 40 else str(token)[:40] + "..."
    return {"NAME": f"name `{text}`", "NUMBER": f"number {text}", "STRING": f"text {text}"}.get(kind, f"`{text}`")


def expectation(spot: Spot) -> str:
    """What could have stood at the place, in words; the closing bracket and the like first, the countless operators as
    one."""
    accepted = set(spot.accepted)
    words: list[str] = []
    if "NUMBER" in accepted and "MINUS" in accepted and "LPAR" in accepted and "NAME" in accepted:
        words.append("an expression")
        accepted -= STARTS
        accepted.discard("STAR")
    elif spot.before is not None and spot.before.type == "PIPE":
        return "a function or an instance to apply"
    operators = len(accepted & OPERATORS) > 3
    if operators or ("PIPE" in accepted and len(accepted) > 3):
        accepted -= OPERATORS | {"LPAR", "LSQB", "DOT", "_IF"}
    ends_statement = "_NEWLINE" in accepted
    for kind in ("NAME", "STRING", "NUMBER"):
        if kind in accepted:
            words.append({"NAME": "a name", "STRING": "a text in double quotes", "NUMBER": "a number"}[kind])
            accepted.discard(kind)
    words += [f"`{SIGNS[kind]}`" for kind in SIGNS if kind in accepted]
    words += [f"`{word}`" for kind, word in WORDS.items() if kind in accepted]
    if operators:
        words.append("an operator")
    if ends_statement:
        words.append("the end of the line")
    if "_INDENT" in accepted:
        words.append("an indented block")
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words) or "nothing more"


def hint(spot: Spot) -> str | None:
    before, token = spot.before, spot.token
    kind = before.type if before is not None else ""
    if token.type == "LSQB" and "NUMBER" in spot.accepted:
        return "a tuple stands in round brackets: `(1, 2)`"
    if "is" in (before, token) and token.type in STARTS | {"NAME"}:
        return "to compare write `==` or `!=`, as in `mask == none`"
    if before == "lambda":
        return FOREIGN["lambda"]
    if kind in OPERANDS and token.type in STARTS - {"LPAR", "MINUS", "PLUS"} | {"_NONE"}:
        if "COMMA" in spot.accepted and ("RPAR" in spot.accepted or "RSQB" in spot.accepted):
            return "a comma is missing"
        if "PLUS" in spot.accepted:
            return "an operator is missing, or the rest belongs on a line of its own"
    if token.type == "_NEWLINE" and kind in OPERATORS | {"EQUAL"}:
        return "put `|>` at the start of the next line" if kind == "PIPE" \
            else "a line goes on only inside brackets, or with `|>` at the start of the next one"
    if token.type == "_NEWLINE" and "_ELSE" in spot.accepted and spot.has("_IF"):
        return "a conditional expression has both sides: `a if condition else b`"
    if token.type == "EQUAL" and "RPAR" in spot.accepted:
        return "an argument is named by a plain name: `name = value`; to compare write `==`"
    if token.type == "PIPE":
        return "the value comes first: `x |> f`"
    if token.type in ("STAR", "SLASH", "PERCENT", "AT") and kind == token.type:
        return {"STAR": "a power is written `**`", "SLASH": "whole division is written `//`"}.get(token.type)
    return None
