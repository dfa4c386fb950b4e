"""Documents: text with places where a line may break, and the printer that chooses which of them do.

After Wadler's "A prettier printer" and Oppen's algorithm. A document says what belongs together; a group is printed on
one line if it fits and broken at its own `Line`s otherwise. Two additions: `Fill`, which puts as many items on a line
as fit, and `Here`, whose broken form depends on the column where it begins. Comments are documents too (`Trail`,
`Own`): they take no width, and whatever holds one is broken, so that a comment never swallows the code behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ...runtime.records import dataclass

WIDTH = 120


class Doc:
    """`width` is that on one line; `forced` tells that there is no such form, and `width` is then what it would be."""

    __slots__ = ("width", "forced")
    width: int
    forced: bool


class Text(Doc):
    __slots__ = ("text",)

    def __init__(self, text: str):
        self.text, self.width, self.forced = text, len(text), False


class Line(Doc):
    """A space, or in a broken group the end of the line; `hard`: always the end of the line."""

    __slots__ = ()

    def __init__(self, hard: bool = False):
        self.width, self.forced = 1, hard


class Trail(Doc):
    """A comment behind the code of the line that ends here."""

    __slots__ = ("comment",)

    def __init__(self, comment: str):
        self.comment, self.width, self.forced = comment, 0, True


class Own(Trail):
    """A comment on a line of its own, at the start of a line."""

    __slots__ = ()


class Concat(Doc):
    __slots__ = ("parts",)

    def __init__(self, parts: Iterable[Doc]):
        self.parts = tuple(parts)
        self.width = sum(part.width for part in self.parts)
        self.forced = any(part.forced for part in self.parts)


class Wrapper(Doc):
    __slots__ = ("part",)

    def __init__(self, part: Doc):
        self.part, self.width, self.forced = part, part.width, part.forced


class Group(Wrapper):
    """On one line if that fits, else broken at the Lines that are directly in it."""

    __slots__ = ()


class Flat(Wrapper):
    """On one line, whether it fits or not."""

    __slots__ = ()


class Align(Wrapper):
    """Lines inside begin at the column where it begins itself."""

    __slots__ = ()


class Nest(Wrapper):
    """Lines inside begin `by` columns further right."""

    __slots__ = ("by",)

    def __init__(self, by: int, part: Doc):
        super().__init__(part)
        self.by = by


class Here(Doc):
    """`on_one_line`, or what `broken` gives for the column where it begins and the indentation around.

    `ahead`, like `on_one_line` if it is not given, has in front what stands on the first line of the broken form.
    """

    __slots__ = ("on_one_line", "broken", "ahead")

    def __init__(self, on_one_line: Doc, broken: Callable[[int, int], Doc], ahead: Doc | None = None):
        self.on_one_line, self.broken, self.ahead = on_one_line, broken, ahead or on_one_line
        self.width, self.forced = on_one_line.width, on_one_line.forced


class Fill(Doc):
    """Items with spaces between them, as many on a line as fit. `leads[i]`, if any, ends the line before item i."""

    __slots__ = ("items", "leads")

    def __init__(self, items: Iterable[Doc], leads: Iterable[Doc | None]):
        self.items, self.leads = tuple(items), tuple(leads)
        self.width = sum(item.width for item in self.items) + max(0, len(self.items) - 1)
        self.forced = any(item.forced for item in self.items) or any(lead is not None for lead in self.leads[1:])


HARD = Line(hard=True)


def line_end(trail: Iterable[str] = (), own: Iterable[str] = ()) -> Doc:
    """The end of a line: with comments behind its code, and comments on lines of their own after it."""
    return Concat([*map(Trail, trail), HARD, *map(Own, own)])


def join(items: Iterable[Doc], separator: Doc) -> Doc:
    parts: list[Doc] = []
    for item in items:
        parts += [separator, item] if parts else [item]
    return Concat(parts)


@dataclass
class Row:
    """One line of the result: its code, or "" where the comment has the line to itself."""

    code: str
    comment: str | None = None
    indent: int = 0


@dataclass(frozen=True)
class _Rest:
    """What is left of a Fill from item `at` on; `rows` were done when the item before began."""

    fill: Fill
    at: int
    rows: int


def render(doc: Doc, indent: int) -> list[Row]:
    """The lines of a document that begins at a column."""
    return Printer(doc, indent).run()


class Printer:
    def __init__(self, doc: Doc, indent: int):
        self.rows: list[Row] = []
        self.code = " " * indent
        self.trails: list[str] = []          # comments that wait for the end of the line
        self.indent = indent
        self.stack: list[tuple[int, bool, Doc | _Rest]] = [(indent, False, doc)]    # (indentation, on one line?, what)

    def run(self) -> list[Row]:
        while self.stack:
            indent, flat, doc = self.stack.pop()
            getattr(self, "print_" + type(doc).__name__.strip("_").lower())(indent, flat, doc)
        self.end_line(self.indent)
        return self.rows

    @property
    def column(self) -> int:
        return len(self.code)

    def end_line(self, indent: int) -> None:
        code = self.code.rstrip()
        trails: list = self.trails or [None]
        first, *more = trails
        if code or first is not None:
            self.rows.append(Row(code, first, indent))
        self.rows += [Row("", comment, indent) for comment in more]
        self.trails = []
        self.code = " " * indent

    # -- one method a document --

    def print_text(self, indent, flat, doc) -> None:
        self.code += doc.text

    def print_line(self, indent, flat, doc) -> None:
        if flat:
            self.code += " "
        else:
            self.end_line(indent)

    def print_trail(self, indent, flat, doc) -> None:
        self.trails.append(doc.comment)

    def print_own(self, indent, flat, doc) -> None:
        self.trails.append(doc.comment)
        self.end_line(indent)

    def print_concat(self, indent, flat, doc) -> None:
        self.stack += [(indent, flat, part) for part in reversed(doc.parts)]

    def print_group(self, indent, flat, doc) -> None:
        self.stack.append((indent, flat or (not doc.forced and self.fits(doc)), doc.part))

    def print_flat(self, indent, flat, doc) -> None:
        self.stack.append((indent, not doc.forced, doc.part))

    def print_nest(self, indent, flat, doc) -> None:
        self.stack.append((indent + doc.by, flat, doc.part))

    def print_align(self, indent, flat, doc) -> None:
        self.stack.append((self.column, flat, doc.part))

    def print_here(self, indent, flat, doc) -> None:
        self.stack.append((indent, flat, doc.on_one_line if flat else doc.broken(self.column, indent)))

    def print_fill(self, indent, flat, doc) -> None:
        if flat:
            self.stack.append((indent, True, join(doc.items, Line())))
        else:
            self.item(indent, doc, 0)

    def print_rest(self, indent, flat, rest) -> None:
        item, lead = rest.fill.items[rest.at], rest.fill.leads[rest.at]
        if lead is not None:
            for part in lead.parts:
                getattr(self, "print_" + type(part).__name__.lower())(indent, False, part)
            self.item(indent, rest.fill, rest.at)
        elif len(self.rows) == rest.rows and not item.forced and self.fits(item, 1, _Rest(rest.fill, rest.at + 1, 0)):
            self.code += " "
            self.item(indent, rest.fill, rest.at)
        else:
            self.end_line(indent)
            self.item(indent, rest.fill, rest.at)

    def item(self, indent: int, fill: Fill, at: int) -> None:
        """Puts an item of a Fill and what follows it on the stack."""
        if at + 1 < len(fill.items):
            self.stack.append((indent, False, _Rest(fill, at + 1, len(self.rows))))
        self.stack.append((indent, False, Group(fill.items[at])))

    # -- looking ahead --

    def fits(self, doc: Any, before: int = 0, then: _Rest | None = None) -> bool:
        """Whether the document on one line, and what must follow it up to the next possible break, fit the width."""
        room = WIDTH - self.column - before - doc.width
        follow: list[tuple[bool, Any]] = [(False, then)] if then is not None and then.at < len(then.fill.items) else []
        position = len(self.stack)
        while room >= 0:
            if not follow:
                if position == 0:
                    return True
                position -= 1
                _, flat, waiting = self.stack[position]
                follow.append((flat, waiting))
            flat, doc = follow.pop()
            if isinstance(doc, (_Rest, Trail)) or (isinstance(doc, Line) and not flat):
                return True
            if isinstance(doc, (Text, Line)):
                room -= doc.width
            elif isinstance(doc, Concat):
                follow += [(flat, part) for part in reversed(doc.parts)]
            elif isinstance(doc, Fill):
                follow += [(flat, part) for part in reversed(_flat_fill(doc))]
            elif isinstance(doc, Wrapper):
                follow.append((flat, doc.part))
            elif isinstance(doc, Here):
                follow.append((flat, doc.on_one_line if flat else doc.ahead))
        return False


def _flat_fill(fill: Fill) -> list[Doc]:
    parts: list[Doc] = []
    for item in fill.items:
        parts += [Line(), item] if parts else [item]
    return parts
