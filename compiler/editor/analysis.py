"""A file under an editor's cursor: its trees, its names, and the values that its expressions have in its models.

`Analysis` belongs to one state of one text. What stands at a place in it may lead into other files: the prelude's, and
those that it imports.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path

from ...runtime.records import dataclass
from .. import syntax as ast
from ..build import Inspection, inspect
from ..build.builtins import scope_names
from ..build.values import Function, Instance, ModelValue, Partial, Record
from ..diagnostics import Diagnostics, Span
from ..parser import parse_stages
from ..prelude import PRELUDE, prelude_index, prelude_tree
from .bindings import Bindings, Symbol, bindings, covers, path_to

MOST_VALUES = 4          # that are remembered for one place: a layer may be called a hundred times

Loader = Callable[[str], "str | None"]


class Values:
    """The values that each tree of one source had, in the order in which they were first seen."""

    def __init__(self, file: str):
        self.file = file
        self.found: dict[int, list] = {}

    def see(self, tree: ast.Node, value) -> None:
        if tree.span.file == self.file:
            values = self.found.setdefault(id(tree), [])
            if len(values) < MOST_VALUES and not any(value is other for other in values):
                values.append(value)

    def of(self, tree: ast.Node) -> list:
        return self.found.get(id(tree), [])


@dataclass(frozen=True, eq=False)
class Place:
    """Where a name is defined: a file on the disk, the tree of the definition, the place of its name."""

    path: str
    tree: ast.Node
    span: Span


@dataclass(frozen=True, eq=False)
class Named:
    """What a name in the text stands for: a symbol of the file, a definition elsewhere, or a builtin."""

    name: str
    span: Span
    symbol: Symbol | None = None
    place: Place | None = None
    builtin: object = None


class Analysis:
    """One state of a text. `loader` gives the text of another file that is open, or None; `before` is the last state
    that had values.
    """

    def __init__(self, text: str, path: str, loader: Loader | None = None, before: Analysis | None = None):
        self.text, self.path, self.loader, self.before = text, path, loader, before
        self.values = Values(path)

    @cached_property
    def inspection(self) -> Inspection:
        """What there is to say about the text; making it fills `values`."""
        return inspect(self.text, self.path, loader=self.loader, observer=self.values)

    @property
    def elaborated(self) -> bool:
        """Whether values are there already: nobody needs those of a text that was gone before it was checked."""
        return "inspection" in self.__dict__ and bool(self.values.found)

    @property
    def file(self) -> ast.File | None:
        return self.inspection.file

    @cached_property
    def names(self) -> Bindings | None:
        return bindings(self.file) if self.file is not None else None

    @property
    def bound(self) -> Bindings:
        """``names``, of a file that has a tree."""
        assert self.names is not None
        return self.names

    # -- other files --

    @cached_property
    def imported(self) -> dict[str, tuple[str, ast.File]]:
        """(path, tree) of each import that can be read, by its name in this file."""
        found = {}
        for item in self.file.imports if self.file is not None else ():
            path = os.path.normpath(os.path.join(os.path.dirname(self.path), item.path))
            text = self.loader(path) if self.loader is not None else None
            try:
                content = Path(path).read_bytes() if text is None else text
                found[item.name] = (path, parse_stages(content, path).file)
            except (OSError, Diagnostics, ValueError):
                continue
        return found

    def member_of_import(self, name: str, member: str) -> Place | None:
        """`member` of the file that is imported as `name`."""
        found = self.imported.get(name)
        return place_in(*found, member) if found is not None else None

    # -- what stands at a place --

    def named(self, line: int, column: int) -> Named | None:
        """What the name at a place stands for."""
        if self.names is None:
            return None
        found = self.names.at(line, column)
        if found is not None:
            span, symbol = found
            if symbol.kind == "import" and symbol.name in self.imported:
                path, file = self.imported[symbol.name]
                return Named(symbol.name, span, symbol, Place(path, file, file.version.span))
            return Named(symbol.name, span, symbol, Place(self.path, symbol.tree, symbol.places[0]))
        for span, name in self.names.free:
            if covers(span, line, column):
                return Named(name, span, place=prelude_place(name), builtin=scope_names().get(name))
        for call, keyword in self.names.keywords:
            if covers(keyword.name_span, line, column):
                return self._named_keyword(call, keyword)
        for attribute, _ in self.names.members:
            if covers(attribute.name_span, line, column):
                return self._named_member(attribute)
        return None

    def _named_keyword(self, call: ast.Call, keyword: ast.KeywordArgument) -> Named | None:
        found = self.parameters_of(call)
        place = parameter_place(found, keyword.name) if found is not None else None
        if place is None:
            return None
        symbol = self.symbol_of(place.tree)
        return Named(keyword.name, keyword.name_span, symbol, place)

    def _named_member(self, attribute: ast.Attribute) -> Named | None:
        place = None
        if isinstance(attribute.value, ast.Name):
            place = self.member_of_import(attribute.value.name, attribute.name)
        for value in self.values.of(attribute.value) if place is None else ():
            if isinstance(value, Instance):
                place = place or inner_place(self._path_of(value.model.tree), value.model.tree, attribute.name)
            elif isinstance(value, Record):
                model = self.definition(value.kind)
                if place is None and model is not None and isinstance(model.tree, ast.Model):
                    place = inner_place(model.path, model.tree, attribute.name)
        symbol = self.symbol_of(place.tree) if place is not None else None
        return Named(attribute.name, attribute.name_span, symbol, place) if place is not None else None

    def symbol_of(self, tree: ast.Node) -> Symbol | None:
        """The symbol of this file that a tree declares."""
        return next((symbol for symbol in self.bound.symbols if symbol.tree is tree), None)

    def definition(self, name: str) -> Place | None:
        """A model, function or constant of this file, of one that it imports, or of the prelude, by its plain name."""
        own = place_in(self.path, self.file, name) if self.file is not None else None
        if own is not None:
            return own
        for path, file in self.imported.values():
            found = place_in(path, file, name)
            if found is not None:
                return found
        return prelude_place(name)

    def _path_of(self, tree: ast.Node) -> str:
        file = tree.span.file
        return str(PRELUDE / Path(file).name) if file.startswith("prelude/") else file

    # -- calls --

    def parameters_of(self, call: ast.Call) -> tuple[Place, str] | None:
        """What a call gives values to: the definition, and which of its lists: `settings`, `inputs` or `params`."""
        callee = call.callee
        for value in self.values.of(callee):
            while isinstance(value, Partial):
                value = value.function
            tree = getattr(value.model if isinstance(value, Instance) else value, "tree", None)
            which = {Instance: "inputs", ModelValue: "settings", Function: "params"}.get(type(value))
            if which is not None and tree is not None:
                return Place(self._path_of(tree), tree, tree.name_span), which
        return self._parameters_by_name(callee)

    def _parameters_by_name(self, callee: ast.Node) -> tuple[Place, str] | None:
        """The same where nothing was elaborated."""
        if isinstance(callee, ast.Call):
            inner = self._parameters_by_name(callee.callee)
            return (inner[0], "inputs") if inner is not None and inner[1] == "settings" else None
        place = None
        if isinstance(callee, ast.Name):
            symbol = self.bound.scope_at(callee.span.line).find(callee.name)
            place = prelude_place(callee.name) if symbol is None else Place(self.path, symbol.tree, symbol.places[0])
        elif isinstance(callee, ast.Attribute) and isinstance(callee.value, ast.Name):
            place = self.member_of_import(callee.value.name, callee.name)
        which = {ast.Model: "settings", ast.Def: "params"}.get(type(place.tree)) if place is not None else None
        return (place, which) if place is not None and which is not None else None

    # -- values --

    def values_of(self, symbol: Symbol) -> list:
        """The values of a symbol where it is declared; in a text that does not parse, those of the last that did."""
        values = self.values.of(symbol.tree)
        if values or self.before is None or self.before.names is None:
            return values
        owner = getattr(symbol.owner, "name", None)
        for other in self.before.names.symbols:
            if other.name == symbol.name and getattr(other.owner, "name", None) == owner:
                return self.before.values.of(other.tree)
        return []

    def values_at(self, line: int, column: int) -> tuple[ast.Node, list] | None:
        """The innermost tree at a place that has values, with them."""
        for tree in reversed(path_to(self.file, line, column) if self.file is not None else []):
            values = self.values.of(tree)
            if values:
                return tree, values
        return None


# ---- definitions in files -------------------------------------------------------------------------------------------


def place_in(path: str, file: ast.File, name: str) -> Place | None:
    for item in file.items:
        if not isinstance(item, (ast.Train, ast.Import)) and item.name == name:
            return Place(path, item, item.name_span)
    return None


@cache
def prelude_place(name: str) -> Place | None:
    path = prelude_index().get(name)
    return place_in(path, prelude_tree(path), name) if path is not None else None


def parameter_place(found: tuple[Place, str], name: str) -> Place | None:
    place, which = found
    for parameter in getattr(place.tree, which):
        if parameter.name == name:
            return Place(place.path, parameter, parameter.name_span)
    return None


def inner_place(path: str, model: ast.Model, name: str) -> Place | None:
    """A name of a model's body: a weight, an output, a value."""
    file = ast.File(model.span, ast.Version(model.span, 1), (), (), (), (model,), (), (model,))
    scope = bindings(file).scope_at(model.span.line)
    symbol = scope.names.get(name) if scope.tree is model else None
    return Place(path, symbol.tree, symbol.places[0]) if symbol is not None else None
