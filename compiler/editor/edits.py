"""Places of a name, new names, and fixes: what changes the text."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ...runtime.errors import NetcError
from ...runtime.records import dataclass
from .. import syntax as ast
from ..diagnostics import Diagnostic, Span
from ..prelude import PRELUDE
from .analysis import Analysis, Named

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
RESERVED = {"if", "elif", "else", "for", "in", "and", "or", "not", "return", "true", "false", "none", "None",
            "training"}
SUGGESTION = re.compile(r"(?:did you mean|it is called|write) `([A-Za-z_]\w*)`")


class RenameError(NetcError):
    """Why a name cannot be changed, or not to this one."""


@dataclass(frozen=True)
class Edit:
    path: str
    span: Span
    text: str


def references(analysis: Analysis, named: Named, others: Iterable[Analysis] = ()) -> list[tuple[str, Span]]:
    """(path, place) of every occurrence of what a name stands for: in its file, and in the `others` that import it."""
    found: list[tuple[str, Span]] = []
    for other in (analysis, *others):
        if other.names is None:
            continue
        found += [(other.path, span) for span in _in_file(other, named)]
    return list(dict.fromkeys(found))


def _in_file(analysis: Analysis, named: Named) -> list[Span]:
    if named.place is None or named.symbol is not None and named.symbol.kind == "import":
        if named.symbol is not None:
            return list(named.symbol.places) if named.symbol in analysis.bound.symbols else []
        return [span for span, name in analysis.bound.free if name == named.name]
    target = (named.place.path, named.place.span)
    symbol = named.symbol if named.symbol in analysis.bound.symbols else None
    spans = list(symbol.places) if symbol is not None else []
    if named.symbol is None:
        spans += [span for span, name in analysis.bound.free if name == named.name]
    tied = [*(keyword for _, keyword in analysis.bound.keywords), *(member for member, _ in analysis.bound.members)]
    for tree in tied:
        place = tree.name_span
        if tree.name == named.name and _same(analysis.named(place.line, place.column), target):
            spans.append(place)
    return spans


def _same(named: Named | None, target: tuple[str, Span]) -> bool:
    return named is not None and named.place is not None and (named.place.path, named.place.span) == target


def renamable(analysis: Analysis, line: int, column: int) -> Named:
    """The name at a place, if it may get another one. Raises RenameError."""
    named = analysis.named(line, column)
    if named is None:
        raise RenameError("there is no name here that could be changed")
    if named.symbol is None:
        prelude = named.place is not None and named.place.path.startswith(str(PRELUDE))
        owner = "the prelude" if prelude else "another file" if named.place is not None else "the language"
        raise RenameError(f"`{named.name}` belongs to {owner}")
    if analysis.inspection.file is None or _does_not_parse(analysis):
        raise RenameError("the file has syntax errors: mend them first, so that no occurrence is missed")
    return named


def _does_not_parse(analysis: Analysis) -> bool:
    return any(item.code.startswith("E01") for item in analysis.inspection.errors)


def rename(analysis: Analysis, line: int, column: int, new: str, others: Iterable[Analysis] = ()) -> list[Edit]:
    """The edits that give a name another form everywhere. Raises RenameError where that would change a meaning."""
    named = renamable(analysis, line, column)
    if not NAME.match(new):
        raise RenameError(f"`{new}` is not a name: letters, digits and `_`, no digit first")
    if new in RESERVED:
        raise RenameError(f"`{new}` is a reserved word")
    if named.symbol is not None and named.symbol.kind == "dimension" and not new[:1].isupper():
        raise RenameError("the names of dimensions are capitalised")
    places = references(analysis, named, others)
    if new != named.name:
        _check_free(analysis, named, new, [span for path, span in places if path == analysis.path])
    return [Edit(path, span, new) for path, span in places]


def _check_free(analysis: Analysis, named: Named, new: str, places: list[Span]) -> None:
    """Refuses a name that has a meaning already, in the scopes of the old one or where the old one stands."""
    names = analysis.bound
    regions = [scope.tree.span for scope in (names.top, *names.scopes) if named.symbol in scope.names.values()]
    uses = [span for symbol in names.symbols if symbol.name == new for span in symbol.places]
    uses += [span for span, name in names.free if name == new]
    if any(region.line <= use.line <= region.end_line for region in regions for use in uses) \
            or any(names.scope_at(place.line).find(new) is not None for place in places):
        raise RenameError(f"`{new}` already means something else here")


def fixes(item: Diagnostic) -> list[tuple[str, str]]:
    """(title, text to put in place of the diagnostic's) for what its hint proposes."""
    found = SUGGESTION.search(item.hint or "")
    if found is None or item.span is None or not NAME.match(item.span.text):
        return []
    return [(f"change to `{found[1]}`", found[1])]


# ---- outline --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One row of a file's outline."""

    name: str
    kind: str
    detail: str
    span: Span
    name_span: Span
    children: tuple[Entry, ...] = ()


def outline(file: ast.File) -> list[Entry]:
    """The definitions of a file with what they declare."""
    entries = []
    for item in file.items:
        match item:
            case ast.Import():
                entries.append(Entry(item.name, "import", item.path, item.span, item.name_span))
            case ast.Const():
                entries.append(Entry(item.name, "const", "", item.span, item.name_span))
            case ast.Def():
                entries.append(Entry(item.name, "function", "", item.span, item.name_span))
            case ast.Model():
                entries.append(Entry(item.name, "model", "", item.span, item.name_span, tuple(_declared(item.body))))
            case ast.Train():
                inside = tuple(_declared(item.body))
                entries.append(Entry(f"train {item.model}", "train", "", item.span, item.name_span, inside))
    return [entry for entry in entries if entry.name.strip()]


DECLARATIONS = {ast.Param: "parameter", ast.State: "state", ast.Input: "target", ast.Loss: "loss", ast.Metric: "metric"}


def _declared(body: Iterable[ast.Node]) -> Iterable[Entry]:
    for statement in body:
        kind = DECLARATIONS.get(type(statement))
        if kind is not None:
            annotation = getattr(statement, "annotation", None)
            type_ = annotation.span.text if annotation is not None else ""
            yield Entry(statement.name, kind, type_, statement.span, statement.name_span)
        for inner in ("then", "otherwise", "body"):
            yield from _declared(getattr(statement, inner, ()))
