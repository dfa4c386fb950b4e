"""What is said to the writer of a `.net` file: places in the source, one message, and the list that is raised.

`Diagnostic.render()` is plain text:

    ticket.net:7:22: error[E0201]: unknown name `unit`
      7 |     h = x |> Dense(unit)
        |                    ^^^^
      expected: ...
      found: ...
      note: ...
      in model Ticket, called from main.net:3:9
      hint: did you mean `units`?
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import field, replace

from ..runtime.errors import NetcError
from ..runtime.records import dataclass

SHOWN_WIDTH = 120    # characters of a source line that are shown; longer lines are cut around the caret
TAB = "    "

TITLES: dict[str, str] = {
    # syntax
    "E0101": "unexpected text",
    "E0102": "the version line is missing",
    "E0103": "unknown version of the language",
    "E0104": "a colon is missing",
    "E0105": "a bracket is not closed, or closes nothing",
    "E0106": "wrong indentation",
    "E0107": "a character that the language does not have",
    "E0108": "malformed number",
    "E0109": "malformed string",
    "E0110": "this cannot be assigned to",
    "E0111": "an expression whose value is not used",
    "E0112": "the same argument is given twice",
    "E0113": "a positional argument follows a named one",
    "E0114": "`=` where a comparison is meant",
    "E0115": "a reserved word used as a name",
    "E0116": "the file is not UTF-8 text",
    "E0117": "comparisons do not chain",
    "E0118": "an index or shape that is not well formed",
    "E0119": "malformed parameter list",
    "E0120": "an unknown kind of statement",
    # names
    "E0201": "unknown name",
    "E0202": "a name is defined twice",
    "E0203": "a name is used before it is assigned",
    "E0204": "an output is not assigned",
    "E0205": "a name that nothing reads",
    "E0206": "unknown member",
    "E0207": "a reserved name cannot be bound",
    "E0208": "definitions that refer to each other without end",
    # types and shapes
    "E0301": "shapes do not match",
    "E0302": "element types do not match",
    "E0303": "wrong kind of value",
    "E0304": "wrong rank",
    "E0305": "index out of range",
    "E0306": "a size cannot be determined",
    "E0307": "the number of values does not match",
    "E0308": "axis out of range",
    "E0309": "a value that must be known while compiling",
    "E0310": "unknown element type",
    "E0311": "not a scalar",
    "E0312": "a gradient that is zero everywhere",
    "E0313": "every sample meets every other one",
    # settings and calls
    "E0401": "unknown setting",
    "E0402": "a setting is missing",
    "E0403": "a setting is given twice",
    "E0404": "too many arguments",
    "E0405": "a setting has the wrong type",
    "E0406": "a setting has a value that is not allowed",
    "E0407": "an input is missing",
    "E0408": "this cannot be called",
    "E0409": "a model is used where an instance is needed",
    "E0410": "unknown input",
    "E0411": "an assertion does not hold",
    # structure
    "E0501": "a statement that does not belong here",
    "E0502": "`return` is missing or misplaced",
    "E0503": "outputs and `return` do not agree",
    "E0504": "a malformed signature",
    "E0505": "a malformed scan",
    "E0506": "a malformed gradient rule",
    "E0507": "an unrolled loop over something that is not a range or a tuple",
    "E0508": "a condition that is not a compile-time boolean",
    "E0509": "no model to compile",
    "E0510": "a state or parameter that is declared wrongly",
    # train
    "E0601": "a statement that does not belong in a train block",
    "E0602": "a train block without a loss",
    "E0603": "a train block for an unknown model",
    "E0604": "a loss or metric is not a scalar",
    "E0605": "the optimiser is not usable",
    "E0606": "a loss, metric or input has no name",
    "E0607": "a loss, metric or input is named twice",
    "E0608": "the optimiser is given twice or not at all",
    # imports
    "E0701": "the imported file cannot be read",
    "E0702": "imports that form a circle",
    "E0703": "an import outside the allowed folder",
    # limits
    "E0801": "nested too deeply",
    "E0802": "a number out of range",
    "E0803": "the file is too long",
    "E0804": "too many errors",
    "E0805": "a tensor or loop that is too large",
    "E0806": "models that instantiate each other without end",
}


@dataclass(frozen=True, eq=False)
class Source:
    """One source text and the name it is shown under."""

    file: str
    text: str
    lines: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self):
        object.__setattr__(self, "lines", tuple(self.text.split("\n")))

    def line(self, number: int) -> str:
        """The text of a line, counted from 1; "" beyond the end."""
        return self.lines[number - 1] if 1 <= number <= len(self.lines) else ""


@dataclass(frozen=True)
class Span:
    """A stretch of source text; lines and columns count characters from 1, the end is exclusive."""

    source: Source = field(repr=False, compare=False)
    line: int
    column: int
    end_line: int
    end_column: int

    @property
    def file(self) -> str:
        return self.source.file

    @property
    def text(self) -> str:
        """The source text that the span covers."""
        rows = [self.source.line(number) for number in range(self.line, self.end_line + 1)]
        rows[-1] = rows[-1][: self.end_column - 1]
        rows[0] = rows[0][self.column - 1 :]
        return "\n".join(rows)

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    def to(self, other: Span) -> Span:
        """The span from this one's start to the other's end."""
        return Span(self.source, self.line, self.column, other.end_line, other.end_column)

    def start(self) -> Span:
        """The span's first character."""
        return Span(self.source, self.line, self.column, self.line, self.column + 1)


@dataclass(frozen=True)
class Diagnostic:
    """One message. `chain` is innermost first: (name of the model, where it was called from). `related` are further
    places."""

    code: str
    message: str
    span: Span | None = None
    expected: str | None = None
    found: str | None = None
    notes: tuple[str, ...] = ()
    related: tuple[tuple[str, Span], ...] = ()
    chain: tuple[tuple[str, Span | None], ...] = ()
    hint: str | None = None
    severity: str = "error"          # or "warning", or "note"

    @property
    def title(self) -> str:
        return TITLES[self.code]

    def within(self, model: str, called_from: Span | None) -> Diagnostic:
        """The same message, come through one more model."""
        return replace(self, chain=self.chain + ((model, called_from),))

    def render(self) -> str:
        place = f"{self.span.where}: " if self.span else ""
        lines = [f"{place}{self.severity}[{self.code}]: {self.message}"]
        if self.span:
            lines += excerpt(self.span)
        if self.expected is not None:
            lines.append(f"  expected: {self.expected}")
        if self.found is not None:
            lines.append(f"  found: {self.found}")
        lines += [f"  note: {note}" for note in self.notes]
        for text, span in self.related:
            lines += [f"  {span.where}: {text}", *excerpt(span)]
        for model, called_from in self.chain:
            lines.append(f"  in model {model}" + (f", called from {called_from.where}" if called_from else ""))
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)


class Diagnostics(NetcError):
    """One or more diagnostics, in the order of the source: iterating gives them, each with ``code``, ``message``, its
    place ``span`` and ``hint``; ``str()`` is what ``netc check`` prints."""

    def __init__(self, items: Iterable[Diagnostic] | Diagnostic):
        self.items: list[Diagnostic] = [items] if isinstance(items, Diagnostic) else list(items)
        super().__init__(self.items)

    def __iter__(self) -> Iterator[Diagnostic]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def errors(self) -> list[Diagnostic]:
        return [item for item in self.items if item.severity == "error"]

    @property
    def advice(self) -> str:
        """Where more is said about the errors, as a line for the terminal."""
        codes = {item.code for item in self.items}
        return f"for more: netc explain {codes.pop() if len(codes) == 1 else 'CODE'}"

    def render(self) -> str:
        return "\n\n".join(item.render() for item in self.items)

    def __str__(self) -> str:
        return self.render()


# ---- the source line with a caret ------------------------------------------------------------------------------------


def excerpt(span: Span) -> list[str]:
    """The span's first source line and a line of carets under it; both indented, with the line's number in a gutter."""
    text = span.source.line(span.line)
    first = min(span.column - 1, len(text))
    last = len(text) if span.end_line > span.line else min(span.end_column - 1, len(text))
    last = max(last, first)
    head, tail = "", ""
    if len(text) > SHOWN_WIDTH:
        cut = max(0, first - SHOWN_WIDTH // 2)
        head, tail = "..." if cut else "", "..." if cut + SHOWN_WIDTH < len(text) else ""
        text, first, last = text[cut : cut + SHOWN_WIDTH], first - cut, min(last - cut, SHOWN_WIDTH)
    gutter = str(span.line)
    before, under, after = (visible(part) for part in (text[:first], text[first:last], text[last:]))
    carets = " " * width(head + before) + "^" * max(1, width(under))
    shown = f"{head}{before}{under}{after}{tail}".rstrip()
    return [f"  {gutter} | {shown}".rstrip(), f"  {' ' * len(gutter)} | {carets}"]


def visible(text: str) -> str:
    """The text as it may be printed: tabs as spaces, control and format characters and lone surrogates as a replacement
    character."""
    return "".join(TAB if c == "\t" else "\ufffd" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c
                   for c in text)


def width(text: str) -> int:
    """Columns that the text takes on a terminal."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


# ---- nearest names ---------------------------------------------------------------------------------------------------


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that `name` is most likely a slip for, or None. Ties go to the first in alphabetical order."""
    best, best_distance = None, 1 + max(1, len(name) // 3)
    for candidate in sorted(set(candidates) - {name}):
        a, b = name.lower(), candidate.lower()
        if len(a) >= 3 and candidate.startswith(name):
            distance = 1  # a name cut short, whatever its length
        elif abs(len(a) - len(b)) >= best_distance:
            continue
        else:
            distance = edit_distance(a, b)
        if distance < best_distance and distance < max(len(a), len(b)):
            best, best_distance = candidate, distance
    return best


def did_you_mean(name: str, candidates: Iterable[str]) -> str | None:
    """A hint's text, or None where nothing is near."""
    near = nearest(name, candidates)
    return f"did you mean `{near}`?" if near else None


def edit_distance(a: str, b: str) -> int:
    """Insertions, deletions, replacements and swaps of neighbours that turn one text into the other."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        older, before, row = before, row, [i]
        for j, y in enumerate(b, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, older[j - 2] + 1)
            row.append(cost)
    return row[-1]
