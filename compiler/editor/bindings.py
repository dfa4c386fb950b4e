"""Which name means what: every place where a name of a file is bound or used, by the language's rules of scope alone.

Nothing is elaborated here, so it works on a file that is being written. A model, a function and a train block are one
scope each, as in Python; a train block sees the names of its model; the body of a scan has names of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from .. import syntax as ast
from ..diagnostics import Span

BRACES = re.compile(r"\{([^{}\n]*)\}")
WORD = re.compile(r"(?<![\w.])[A-Za-z_]\w*")


@dataclass(eq=False)
class Symbol:
    """A name of the file with all its places; the first is where it is bound first.

    `kind`: import, const, function, model; or of a name in the definition `owner`: setting, input, output, dimension,
    parameter, state, value, target, loss, metric.
    """

    name: str
    kind: str
    tree: ast.Node
    owner: ast.Node | None
    places: list[Span] = field(default_factory=list)


@dataclass(eq=False)
class Scope:
    names: dict[str, Symbol]
    parent: Scope | None
    tree: ast.Node
    owner: ast.Node | None = None

    def find(self, name: str) -> Symbol | None:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.parent
        return None

    def define(self, name: str, kind: str, tree: ast.Node, span: Span) -> None:
        symbol = self.names.get(name)
        if symbol is None:
            symbol = self.names[name] = Symbol(name, kind, tree, self.owner)
        symbol.places.append(span)


@dataclass(eq=False)
class Bindings:
    """All that was found out about the names of one file."""

    file: ast.File
    top: Scope
    scopes: list[Scope]                                # of every model, function, train block and scan
    symbols: list[Symbol]
    free: list[tuple[Span, str]]                       # names that the file does not bind: the prelude's, the builtins
    keywords: list[tuple[ast.Call, ast.KeywordArgument]]
    members: list[tuple[ast.Attribute, Scope]]

    def at(self, line: int, column: int) -> tuple[Span, Symbol] | None:
        """The symbol whose name stands at a place (counted from 1; the place right behind a name counts too)."""
        for symbol in self.symbols:
            for span in symbol.places:
                if covers(span, line, column):
                    return span, symbol
        return None

    def scope_at(self, line: int) -> Scope:
        """The innermost scope of a line."""
        inside = [scope for scope in self.scopes if scope.tree.span.line <= line <= scope.tree.span.end_line]
        return min(inside, key=lambda scope: scope.tree.span.end_line - scope.tree.span.line, default=self.top)


def covers(span: Span, line: int, column: int) -> bool:
    return (span.line, span.column) <= (line, column) <= (span.end_line, span.end_column)


def children(tree: ast.Node) -> Iterator[ast.Node]:
    for part in fields(tree):
        value = getattr(tree, part.name)
        yield from (item for item in (value if isinstance(value, tuple) else (value,)) if isinstance(item, ast.Node))


def walk(*trees: ast.Node) -> Iterator[ast.Node]:
    stack = list(trees)
    while stack:
        tree = stack.pop()
        yield tree
        stack.extend(children(tree))


def path_to(root: ast.Node, line: int, column: int) -> list[ast.Node]:
    """The nodes around a place, the outermost first."""
    path = [root]
    while True:
        inner = [child for child in children(path[-1]) if covers(child.span, line, column)]
        if not inner:
            return path
        path.append(min(inner, key=lambda child: len(child.span.text)))


def bindings(file: ast.File) -> Bindings:
    return Resolver(file).run()


class Resolver:
    def __init__(self, file: ast.File):
        self.top = Scope({}, None, file)
        self.found = Bindings(file, self.top, [], [], [], [], [])
        self.inner: dict[int, Scope] = {}              # of a scan's body
        self.owners: dict[str, Scope] = {}             # the scope of each model, for its train block

    def run(self) -> Bindings:
        file = self.found.file
        for item in file.items:
            if not isinstance(item, ast.Train):
                kind = {ast.Import: "import", ast.Const: "const", ast.Def: "function", ast.Model: "model"}[type(item)]
                self.top.define(item.name, kind, item, item.name_span)
        for const in file.consts:
            self.const(const)
        for function in file.defs:
            self.function(function)
        for model in file.models:
            self.model(model)
        for train in file.trains:
            self.train(train)
        scopes = [self.top, *self.found.scopes]
        self.found.symbols += {id(symbol): symbol for scope in scopes for symbol in scope.names.values()}.values()
        return self.found

    def scope(self, tree: ast.Node, parent: Scope, owner: ast.Node) -> Scope:
        scope = Scope({}, parent, tree, owner)
        self.found.scopes.append(scope)
        return scope

    # -- top level --

    def const(self, item: ast.Const) -> None:
        self.annotation(item.annotation, self.top)
        self.use(self.top, item.value)

    def function(self, item: ast.Def) -> None:
        scope = self.scope(item, self.top, item)
        self.parameters(scope, item.params, "input")
        if isinstance(item.body, tuple):
            self.body(scope, item.body)
        else:
            self.use(scope, item.body)
        if item.gradient is not None:
            inner = self.scope(item.gradient, scope, item)
            inner.define(item.gradient.parameter, "input", item.gradient, item.gradient.parameter_span)
            self.use(inner, item.gradient.value)

    def model(self, item: ast.Model) -> None:
        scope = self.owners[item.name] = self.scope(item, self.top, item)
        self.parameters(scope, item.settings, "setting")
        self.parameters(scope, item.inputs, "input")
        self.parameters(scope, item.outputs or (), "output")
        self.annotation(item.result, scope)
        self.body(scope, item.body)

    def train(self, item: ast.Train) -> None:
        model = self.top.names.get(item.model)
        if model is not None:
            model.places.append(item.name_span)
        self.body(self.scope(item, self.owners.get(item.model, self.top), item), item.body)

    def parameters(self, scope: Scope, parameters: Iterable[ast.Parameter], kind: str) -> None:
        for parameter in parameters:
            scope.define(parameter.name, kind, parameter, parameter.name_span)
            self.annotation(parameter.annotation, scope, dimensions=True)
            self.use(scope, parameter.default)

    def annotation(self, annotation: ast.Annotation | None, scope: Scope, dimensions: bool = False) -> None:
        """The names in a type; with `dimensions`, a capitalised one that is bound nowhere else is bound here."""
        for node in walk(*([annotation] if annotation is not None else [])):
            if isinstance(node, ast.Name):
                if dimensions and node.name[:1].isupper() and scope.find(node.name) is None:
                    scope.define(node.name, "dimension", node, node.span)
                else:
                    self.name(scope, node)

    # -- bodies --

    def body(self, scope: Scope, statements: Iterable[ast.Node]) -> None:
        self.bind(scope, statements)
        self.uses(scope, statements)

    def bind(self, scope: Scope, statements: Iterable[ast.Node], outer: Scope | None = None) -> None:
        """Binds the names of a body. In a scan's body, `outer` has the carried ones."""
        def define(name: str, kind: str, tree: ast.Node, span: Span) -> None:
            (outer if outer is not None and name in outer.names else scope).define(name, kind, tree, span)
        for statement in statements:
            match statement:
                case ast.Assign() | ast.For():
                    for target in statement.targets:
                        define(target.name, "value", target, target.span)
                case ast.Param() | ast.State():
                    kind = "parameter" if isinstance(statement, ast.Param) else "state"
                    define(statement.name, kind, statement, statement.name_span)
                case ast.Input():
                    define(statement.name, "target", statement, statement.name_span)
                    self.annotation(statement.annotation, scope, dimensions=True)
                case ast.Loss() | ast.Metric():
                    self.report(scope, statement)
                case ast.Scan():
                    self.bind_scan(scope, statement, define, outer)
            for inner in {ast.If: ("then", "otherwise"), ast.For: ("body",)}.get(type(statement), ()):
                self.bind(scope, getattr(statement, inner), outer)

    def report(self, scope: Scope, statement: ast.Loss | ast.Metric) -> None:
        """A loss may have the name of an output, which keeps its meaning: then it is a symbol beside the scope."""
        kind = "loss" if isinstance(statement, ast.Loss) else "metric"
        if scope.find(statement.name) is None:
            scope.define(statement.name, kind, statement, statement.name_span)
        else:
            self.found.symbols.append(Symbol(statement.name, kind, statement, scope.owner, [statement.name_span]))

    def bind_scan(self, scope: Any, scan: ast.Scan, define, outer: Scope | None) -> None:
        """A carried name is the same inside the scan and after it; sources belong inside, collected names outside."""
        carried = Scope(dict(outer.names) if outer is not None else {}, None, scan)
        for carry in scan.carries:
            define(carry.name, "value", carry, carry.name_span)
            carried.names[carry.name] = scope.find(carry.name)
        inner = self.inner[id(scan)] = self.scope(scan, scope, scope.owner)
        for source in scan.sources:
            inner.define(source.name, "value", source, source.name_span)
        self.bind(inner, scan.body, carried)
        for collect in scan.collects:
            value = inner.find(collect.value)
            if collect.value_span != collect.name_span and value is not None:
                value.places.append(collect.value_span)
            if collect.value_span == collect.name_span and collect.name in carried.names and value is not None:
                value.places.append(collect.name_span)
            else:
                define(collect.name, "value", collect, collect.name_span)

    def uses(self, scope: Scope, statements: Iterable[ast.Node]) -> None:
        for statement in statements:
            match statement:
                case ast.If():
                    self.use(scope, statement.condition)
                    self.uses(scope, (*statement.then, *statement.otherwise))
                case ast.For():
                    self.use(scope, statement.iterable)
                    self.uses(scope, statement.body)
                case ast.Scan():
                    for source in statement.sources:
                        self.use(scope, source.value)
                    for carry in statement.carries:
                        self.use(scope, carry.initial)
                    self.use(scope, statement.axis)
                    self.uses(self.inner[id(statement)], statement.body)
                case ast.Param() | ast.State():
                    self.annotation(statement.annotation, scope)
                    self.use(scope, statement.initial)
                case ast.Assert():
                    self.use(scope, statement.condition)
                    self.message(scope, statement)
                case ast.Input():
                    pass
                case _:
                    self.use(scope, statement)

    # -- uses --

    def use(self, scope: Scope, tree: ast.Node | None) -> None:
        for node in walk(*([tree] if tree is not None else [])):
            if isinstance(node, ast.Name):
                self.name(scope, node)
            elif isinstance(node, ast.Attribute):
                self.found.members.append((node, scope))
            elif isinstance(node, ast.Call):
                self.found.keywords += [(node, keyword) for keyword in node.kwargs]

    def name(self, scope: Scope, node: ast.Name) -> None:
        symbol = scope.find(node.name)
        if symbol is None:
            self.found.free.append((node.span, node.name))
        else:
            symbol.places.append(node.span)

    def message(self, scope: Scope, statement: ast.Assert) -> None:
        """The names in the braces of an assertion's message. A text stands on one line, the last of the statement."""
        if statement.message is None:
            return
        span = statement.span
        line = span.source.line(span.end_line)[:span.end_column - 1]
        condition = statement.condition.span
        start = condition.end_column - 1 if condition.end_line == span.end_line else 0
        for braces in BRACES.finditer(line, start):
            for word in WORD.finditer(line, *braces.span(1)):
                place = Span(span.source, span.end_line, word.start() + 1, span.end_line, word.end() + 1)
                self.name(scope, ast.Name(place, word[0]))
