"""Layout: from the flat tokens of a text to its logical lines, with indentation.

Works on where tokens stand, so that blank lines and comments need no care. A logical line goes on over a line break
- inside brackets,
- where the next row begins with `|>`,
- where a `model` signature or the head of a `scan` goes on in the next row (a `(`, a `->`, a clause word).

Also here, because it is a matter of place: the words of declarations (`net`, `state`, `loss`, ...) are keywords only
where they begin a line, and names everywhere else; brackets that do not match, and where an unclosed one must have
ended.
"""

from __future__ import annotations

import unicodedata
from dataclasses import field

from ..runtime.records import dataclass
from .diagnostics import TAB, Diagnostic, Source, Span
from .lalr import Token

MAX_BRACKETS = 200

HEADS = {"_NET", "_IMPORT", "_CONST", "_DEF", "_MODEL", "_TRAIN", "_PENALTY", "_ASSERT", "_PARAM", "_STATE", "_INPUT",
         "_LOSS",
         "_METRIC", "_SCAN"}
CLAUSES = {"_AS": {"_IMPORT", "_SCAN"}, "_ALONG": {"_SCAN"}, "REVERSED": {"_SCAN"}, "_CARRYING": {"_SCAN"},
           "_COLLECTING": {"_SCAN"}}
GOES_ON = {"_MODEL": {"LPAR", "ARROW"}, "_SCAN": {"_ALONG", "REVERSED", "_CARRYING", "_COLLECTING"}}
CLOSERS = {"RPAR": "LPAR", "RSQB": "LSQB"}
PAIRS = {"LPAR": ")", "LSQB": "]"}
OPERAND_ENDS = {"NAME", "NUMBER", "STRING", "RPAR", "RSQB", "_TRUE", "_FALSE", "_NONE", "_ELLIPSIS"}
NEVER_IN_BRACKETS = {"_RETURN", "_FOR", "_ELIF"}


@dataclass
class Line:
    """One logical line. `lead` holds what its indentation means: one _INDENT, or any number of _DEDENT. `tokens` end
    with _NEWLINE."""

    lead: list[Token]
    tokens: list[Token] = field(default_factory=list)
    errors: list[Diagnostic] = field(default_factory=list)

    @property
    def head(self) -> str:
        return self.tokens[0].type if self.tokens else ""


def token_span(token: Token, source: Source) -> Span:
    return Span(source, token.line, token.column, token.end_line, token.end_column)


def after(token: Token, kind: str) -> Token:
    """An empty token of a kind, right behind another."""
    return Token(kind, "", token.end_pos, token.end_line, token.end_column, token.end_line, token.end_column,
                 token.end_pos)


def layout(tokens: list[Token], source: Source) -> list[Line]:
    """The logical lines of a text. The last one has no tokens and closes the blocks that are still open."""
    return Layout(tokens, source).run()


class Layout:
    def __init__(self, tokens: list[Token], source: Source):
        self.tokens = tokens
        self.source = source
        self.lines: list[Line] = []
        self.line = Line([])
        self.is_open = False
        self.indents = [0]
        self.brackets: list[Token] = []
        self.tab_seen = False

    def run(self) -> list[Line]:
        for i, token in enumerate(self.tokens):
            new_row = i == 0 or token.line != self.tokens[i - 1].end_line
            if new_row and self.is_open and self.ends_before(i):
                self.close()
            if not self.is_open:
                self.open(token)
            self.check(token)
            self.line.tokens.append(self.retyped(i))
        if self.is_open:
            self.close()
        last = self.tokens[-1] if self.tokens else Token("NAME", "", 0, 1, 1, 1, 1, 0)
        self.lines.append(Line([after(last, "_DEDENT") for _ in self.indents[1:]]))
        return self.lines

    def ends_before(self, i: int) -> bool:
        """Whether the logical line ends before the i-th token, which is the first of its row."""
        token, head = self.tokens[i], self.line.head
        if self.brackets:
            return self.begins_statement(i)
        if token.type == "PIPE":
            return False
        return not (token.type in GOES_ON.get(head, ()) and self.line.tokens[-1].type != "COLON" and self.column(token)
                    > self.indents[-1])

    def begins_statement(self, i: int) -> bool:
        """Whether the i-th token, first of its row and inside brackets, can only be the start of a statement: a bracket
        is not closed."""
        token = self.tokens[i]
        following = self.tokens[i + 1] if i + 1 < len(self.tokens) else None
        beside = following.type if following is not None and following.line == token.line else ""
        if token.type in NEVER_IN_BRACKETS or (token.type == "_ELSE" and beside == "COLON"):
            return True
        if token.type in HEADS and (beside in ("NAME", "STRING") or beside in HEADS
                                    or (token.type == "_NET" and beside == "NUMBER")):
            return True
        starts = token.type in HEADS or token.type in CLAUSES or token.type in ("NAME", "_IF")
        return starts and self.tokens[i - 1].type in OPERAND_ENDS and self.column(token) <= self.indents[-1]

    def column(self, token: Token) -> int:
        """The token's indentation, counted from 0, with tabs as wide as they are shown."""
        before = self.source.line(token.line)[: token.column - 1]
        return len(before.replace("\t", TAB))

    def open(self, token: Token) -> None:
        width = self.column(token)
        self.line, self.is_open = Line([]), True
        self.lines.append(self.line)
        tab = self.source.line(token.line)[: token.column - 1].find("\t")
        if tab >= 0 and not self.tab_seen:
            self.tab_seen = True  # one message is enough: the writer will look at all of them
            where = Span(self.source, token.line, tab + 1, token.line, tab + 2)
            self.line.errors.append(Diagnostic("E0106", "a tab in the indentation", where,
                                               hint="indent with spaces only"))
        if width > self.indents[-1]:
            self.indents.append(width)
            self.line.lead.append(Token("_INDENT", "", token.start_pos, token.line, token.column, token.line,
                                        token.column, token.start_pos))
            return
        while width < self.indents[-1]:
            if self.indents[-2] < width:
                self.uneven(token, width)
                return
            self.indents.pop()
            self.line.lead.append(Token("_DEDENT", "", token.start_pos, token.line, token.column, token.line,
                                        token.column, token.start_pos))

    def uneven(self, token: Token, width: int) -> None:
        """A line that stands between two indentations; it is taken to go on with the inner block."""
        ends = " or ".join(str(level) for level in self.indents)
        self.indents[-1] = width
        self.line.errors.append(Diagnostic(
            "E0106", "this indentation matches no block around the line", token_span(token, self.source),
            expected=f"{ends} spaces", found=f"{width} spaces"))

    def close(self) -> None:
        last = self.line.tokens[-1]
        if self.brackets:
            opening = self.brackets[-1]
            self.brackets.clear()
            self.line.errors.append(Diagnostic(
                "E0105", f"`{opening}` is never closed", token_span(opening, self.source),
                expected=f"`{PAIRS[opening.type]}` before the end of the statement on line {last.line}"))
        self.line.tokens.append(after(last, "_NEWLINE"))
        self.is_open = False

    def check(self, token: Token) -> None:
        """Brackets, and tokens that are no tokens. One message of a kind a line: what follows a slip is mostly its
        echo."""
        kind = token.type
        if kind in PAIRS:
            self.brackets.append(token)
            if len(self.brackets) == MAX_BRACKETS + 1:
                self.line.errors.append(Diagnostic(
                    "E0801", f"brackets nested more than {MAX_BRACKETS} deep", token_span(token, self.source),
                    hint="give a part of the expression a name"))
        elif kind in CLOSERS:
            self.check_closing(token)
        elif kind.startswith("BAD_") and not any(error.code in ("E0107", "E0108", "E0109")
                                                 for error in self.line.errors):
            self.line.errors.append(bad_token(token, self.source))

    def check_closing(self, token: Token) -> None:
        span = token_span(token, self.source)
        if not self.brackets:
            if not any(error.code == "E0105" for error in self.line.errors):
                self.line.errors.append(Diagnostic("E0105", f"`{token}` closes nothing", span,
                                                   hint="a bracket too many, or its opening one is missing"))
            return
        opening = self.brackets.pop()
        if opening.type != CLOSERS[token.type]:
            self.line.errors.append(Diagnostic(
                "E0105", f"`{token}` cannot close `{opening}`", span, expected=f"`{PAIRS[opening.type]}`",
                found=f"`{token}`",
                related=(("opened here", token_span(opening, self.source)),)))

    def retyped(self, i: int) -> Token:
        """The i-th token; a NAME where it is a word that has no meaning at this place."""
        token = self.tokens[i]
        if token.type in HEADS and self.line.tokens == []:
            following = self.tokens[i + 1].type if i + 1 < len(self.tokens) else ""
            return token.retyped("NAME") if following in ("EQUAL", "COMMA", "DOT", "LSQB") else token
        if token.type in HEADS:
            return token.retyped("NAME")
        if token.type in CLAUSES and (self.brackets or self.line.head not in CLAUSES[token.type]):
            return token.retyped("NAME")
        return token


# ---- tokens that are no tokens ---------------------------------------------------------------------------------------

CHARACTER_HINTS = {
    "'": "text stands in double quotes",
    "`": "text stands in double quotes",
    ";": "each statement stands on a line of its own",
    "{": "there are no braces: blocks are made by indentation, tuples with round brackets",
    "}": "there are no braces: blocks are made by indentation, tuples with round brackets",
    "&": "write `and`",
    "|": "write `or`; the pipe is `|>`",
    "!": "write `not`, and `!=` for unequal",
    "^": "a power is written `**`",
    "~": "write `not`",
    "?": "a choice is written `a if condition else b`",
    "$": "names hold letters, digits and `_`",
    "\\": "a line goes on inside brackets, or with `|>` at the start of the next one",
}
LOOKALIKES = {"\u2212": "-", "\u2013": "-", "\u2014": "-", "\u00d7": "*", "\u00b7": "*", "\u00f7": "/", "\u201c": '"',
              "\u201d": '"',
              "\u2018": '"', "\u2019": '"', "\u2264": "<=", "\u2265": ">=", "\u2260": "!=", "\u2026": "...",
              "\u2192": "->",
              "\uff1a": ":", "\uff08": "(", "\uff09": ")", "\uff0c": ",", "\uff1d": "=", "\u25b7": "|>", "\u00a0": " "}


def bad_token(token: Token, source: Source) -> Diagnostic:
    span = token_span(token, source)
    if token.type == "BAD_NUMBER":
        shown = str(token) if len(token) <= 40 else str(token)[:40] + "..."
        return Diagnostic("E0108", f"`{shown}` is neither a number nor a name", span, hint=number_hint(str(token)))
    if token.type == "BAD_STRING":
        return Diagnostic("E0109", "the text is not closed on its line", span, expected='`"`')
    character = str(token)
    if character in LOOKALIKES:
        meant = LOOKALIKES[character]
        return Diagnostic("E0107", f"the character {named(character)} only looks like one of the language", span,
                          hint="write a plain space" if meant == " " else f"write `{meant}`")
    hint = CHARACTER_HINTS.get(character)
    if hint is None and character.isalpha():
        hint = "names hold the letters a-z and A-Z, digits and `_`"
    return Diagnostic("E0107", f"the language has no character {named(character)}", span, hint=hint)


def number_hint(text: str) -> str:
    if text[:2].lower() in ("0x", "0b", "0o"):
        return "numbers are decimal"
    if text.endswith("_") or "__" in text:
        return "`_` stands between two digits, as in 10_000"
    if text[-1] in "eE":
        return "an exponent needs digits, as in 1e-3"
    return "a name cannot begin with a digit; a product is written with `*`"


def named(character: str) -> str:
    if character.isascii() and character.isprintable():
        return f"`{character}`"
    code = f"U+{ord(character):04X}"
    name = unicodedata.name(character, "")
    if unicodedata.category(character)[0] in "CZ":
        return f"{code} {name}".rstrip()
    return f"`{character}` ({code} {name}".rstrip() + ")"
