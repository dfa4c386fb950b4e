"""From text to the syntax tree: the grammar's tables, fed line by line, with recovery at the next statement.

The parser's state is copied before each logical line. A line that does not parse is explained (`explain.py`), the copy
is taken back, and a harmless line of the same shape (a block opener, or a simple statement) takes its place, so that
all that follows is parsed as if that line had been right. One run so reports every line that is wrong by itself.
"""

from __future__ import annotations

from ..runtime.records import dataclass
from .diagnostics import Diagnostic, Diagnostics, Source, Span
from .explain import explain, likely_opener
from .lalr import Cursor, Token, Tree
from .layout import Line, after, layout, token_span
from .source import read
from .syntax import File
from .tables import tables
from .tree import build

MAX_ERRORS = 50


@dataclass(frozen=True, eq=False)
class Parsed:
    """A text at every stage of parsing. With `errors`, in the order of the text, the trees hold what was understood of
    it."""

    source: Source
    lines: list[Line]           # every token of the text, in logical lines
    concrete: Tree              # each rule of the grammar that was used
    file: File
    errors: list[Diagnostic]


def parse(text: str | bytes, filename: str = "<text>") -> File:
    """The tree of a source text; raises Diagnostics with all that is wrong, in the order of the text."""
    parsed = parse_stages(text, filename)
    if parsed.errors:
        raise Diagnostics(parsed.errors)
    return parsed.file


def parse_stages(text: str | bytes, filename: str = "<text>") -> Parsed:
    """The tree with what it was made from, and with what is wrong; raises Diagnostics only for what is not text at
    all."""
    source = read(text, filename)
    lines = layout(tables().tokens(source.text), source)
    tree, errors = Parsing(source, lines).run()
    file, more = build(tree, source)
    # Recovery takes the parser's stack back but not the lists on it: beside an error, a good statement may stand in the
    # tree twice.
    distinct = {(error.span, error.code, error.message): error for error in errors + more}
    errors = sorted(distinct.values(), key=lambda error: (error.span.line, error.span.column))
    if len(errors) > MAX_ERRORS:
        hidden = Diagnostic("E0804", f"{len(errors) - MAX_ERRORS} more errors are not shown", errors[MAX_ERRORS].span)
        errors = errors[:MAX_ERRORS] + [hidden]
    return Parsed(source, lines, tree, file, errors)


class Parsing:
    """One parse of the lines of a source."""

    def __init__(self, source: Source, lines: list[Line]):
        self.source = source
        self.lines = lines
        self.errors: list[Diagnostic] = []
        self.cursor = Cursor(tables())
        self.blocks: list[bool] = []  # per open indentation: whether the parser knows of it
        self.failed = False           # whether the line before was wrong
        self.header: Token | None = None  # the colon of the line before, where that line opens a block
        self.foreign = False          # inside a block of another language (`class ...:`), whose lines say nothing more

    def run(self) -> tuple[Tree, list[Diagnostic]]:
        self.version()
        for i, line in enumerate(self.lines):
            before = len(self.errors)
            self.indentation(line)
            self.foreign = self.foreign and bool(self.blocks)
            if line.tokens:
                opens = any(token.type == "_INDENT" for token in self.lines[i + 1].lead)
                self.line(line, opens)
                if self.foreign:
                    del self.errors[before:]
                elif any(error.message == "unexpected indentation" for error in self.errors[before:]):
                    del self.errors[before + 1:]      # what the line says belongs elsewhere
                elif not self.blocks and opens and self.failed and self.errors:
                    said = self.errors[-1]
                    hint = said.hint or ""
                    self.foreign = said.message.startswith("there is no statement") and "did you mean" not in hint
        return self.cursor.finish(), self.errors

    # -- feeding --

    def feed(self, tokens: list[Token]) -> int | None:
        """Feeds all tokens, or none and gives the index of the first that does not fit."""
        trial = self.cursor.copy()
        for i, token in enumerate(tokens):
            if not trial.feed(token):
                return i
        self.cursor = trial
        return None

    def accepted(self, tokens: list[Token]) -> set[str]:
        """The kinds of tokens that can follow the given ones."""
        trial = self.cursor.copy()
        for token in tokens:
            trial.feed(token)
        return trial.accepts()

    def version(self) -> None:
        first = self.lines[0]
        if first.head == "_NET" and not first.errors:
            return
        start = Span(self.source, 1, 1, 1, 2)
        if first.head != "_NET":
            where = token_span(first.tokens[0], self.source) if first.tokens else start
            self.errors.append(Diagnostic(
                "E0102", "the first statement must be the version of the language", where,
                expected="`net 1`", hint="write `net 1` as the first line"))
            origin = first.tokens[0] if first.tokens else Token("NAME", "", 0, 1, 1, 1, 1, 0)
            self.feed(placeholder("net 1", origin))

    def indentation(self, line: Line) -> None:
        indents = bool(line.lead) and line.lead[0].type == "_INDENT"
        if self.header is not None and not indents:
            self.errors.append(Diagnostic("E0106", "an indented block must follow this line",
                                          token_span(self.header, self.source)))
            self.feed(placeholder("{ x = 0 }", self.header))
        self.header = None
        for token in line.lead:
            if token.type == "_DEDENT":
                if self.blocks.pop():
                    self.feed([token])
                continue
            known = self.feed([token]) is None
            self.blocks.append(known)
            if not known and not self.failed:
                self.errors.append(Diagnostic(
                    "E0106", "unexpected indentation", token_span(line.tokens[0], self.source),
                    hint="only a line that ends with `:` opens a block; a line goes on inside brackets or with `|>`"))

    def line(self, line: Line, opens: bool) -> None:
        brackets = [error for error in line.errors if error.code == "E0105"]
        self.errors += [error for error in line.errors if error not in brackets[1:]]    # one bracket upsets the next
        at = None if line.errors else self.feed(line.tokens)
        self.failed = bool(line.errors) or at is not None
        if not self.failed:
            if line.tokens[-2].type == "COLON":
                self.header = line.tokens[-2]
            return
        if at is not None:
            accepted = self.accepted(line.tokens[:at])
            self.errors.append(explain(line.tokens, at, accepted, self.source, inside=any(self.blocks)))
        self.replace(line, opens)

    def replace(self, line: Line, opens: bool) -> None:
        """Feeds a right line in place of a wrong one: a block's opener where a block follows, so that its inside is
        checked."""
        origin, inside = line.tokens[0], any(self.blocks)
        if "_NET" in self.accepted([]):
            self.feed(placeholder("net 1", origin))
        elif not opens:
            # a clause of an `if` has a block to follow, even where that is missing too
            if inside:
                self.feed(placeholder("x = 0", origin))
        elif inside:
            clause = {"_ELIF": "elif 0 :", "_ELSE": "else :"}.get(line.head, "if 0 :")
            if self.feed(placeholder(clause, origin)) is not None:
                self.feed(placeholder("if 0 :", origin))
        else:
            self.feed(placeholder(likely_opener(origin), origin))


PLACEHOLDER_TOKENS = {
    "net": ("_NET", "net"), "1": ("NUMBER", "1"), "0": ("NUMBER", "0"), "x": ("NAME", "x"), "=": ("EQUAL", "="),
    ":": ("COLON", ":"),
    "if": ("_IF", "if"), "elif": ("_ELIF", "elif"), "else": ("_ELSE", "else"), "model": ("_MODEL", "model"),
    "def": ("_DEF", "def"),
    "train": ("_TRAIN", "train"), "?": ("NAME", ""), "(": ("LPAR", "("), ")": ("RPAR", ")"), "{": ("_INDENT", ""),
    "}": ("_DEDENT", ""),
}


def placeholder(words: str, origin: Token) -> list[Token]:
    """Tokens for a line that stands at the place of `origin`; `?` is a name that no text can hold."""
    tokens = []
    for word in words.split():
        kind, value = PLACEHOLDER_TOKENS[word]
        if word == "}":
            tokens.append(after(origin, "_NEWLINE"))
        tokens.append(origin.retyped(kind, value))
    if words[-1] != "}":
        tokens.append(after(origin, "_NEWLINE"))
    return tokens
