"""Checks of the text itself: names that nothing reads, unknown names where the compiled model does not come."""

from __future__ import annotations

from dataclasses import fields

from .. import syntax
from .statements import bound_names
from .values import Fault, nearest


def children(tree):
    """The trees below a tree."""
    for field in fields(tree):
        value = getattr(tree, field.name)
        items = value if isinstance(value, tuple) else (value,)
        for item in items:
            if isinstance(item, syntax.Node):
                yield item


def walk(tree):
    """A tree and everything below it."""
    stack = [tree]
    while stack:
        current = stack.pop()
        yield current
        stack.extend(children(current))


def read_names(*trees) -> set[str]:
    """Names that are read, those inside the braces of messages included."""
    names = set()
    for tree in trees:
        for current in walk(tree):
            if isinstance(current, syntax.Name):
                names.add(current.name)
            elif isinstance(current, syntax.Collect):
                names.add(current.value)
            elif isinstance(current, syntax.Assert) and current.message:
                names.update(current.message.replace("{", " ").replace("}", " ").replace("[", " ").split())
    return names


def warn_unused(build, tree: syntax.File) -> None:
    """Warns of bindings that nothing reads.  A name that starts with `_` is meant to be unused."""
    for model in tree.models:
        trains = [t for t in tree.trains if t.model == model.name]
        used = read_names(model, *trains) | {o.name for o in model.outputs or ()}
        states = {s.name for s in walk(model) if isinstance(s, syntax.State)}
        for name, span, noun in _bindings(model):
            if name not in used and name not in states and not name.startswith("_"):
                build.warn("unused", span, f"the {noun} `{name}` of {model.name} is never used")
    for definition in tree.defs:
        if not isinstance(definition.body, tuple):
            continue
        used = read_names(definition)
        for name, span, noun in _bindings(definition):
            if name not in used and not name.startswith("_"):
                build.warn("unused", span, f"the {noun} `{name}` of {definition.name} is never used")
    everywhere = read_names(tree)
    for item in tree.imports:
        if item.name not in everywhere:
            build.warn("unused", item.name_span, f"the import `{item.name}` is never used")


def _bindings(tree):
    """(name, span, what it is) for each name that the body of a model or a function binds, once a name."""
    seen = set()
    for current in walk(tree):
        found = []
        if isinstance(current, syntax.Assign) and not current.unpack:
            found = [(t.name, t.span, "name") for t in current.targets]
        elif isinstance(current, syntax.Param):
            found = [(current.name, current.name_span, "parameter")]
        elif isinstance(current, syntax.Collect):
            found = [(current.name, current.name_span, "name")]
        for name, span, noun in found:
            if name not in seen:
                seen.add(name)
                yield name, span, noun


def check_names(build, scope, tree: syntax.File) -> None:
    """Reports unknown names in models, functions and branches that the compiled model does not reach."""
    for item in (*tree.models, *tree.defs):
        if build.sink.full:
            return
        known = set(scope.known()) | _own_names(item) | {"training"}
        for current in walk(item):
            if isinstance(current, syntax.Name) and current.name not in known and not current.name[:1].isupper():
                build.report(Fault("name", f"`{current.name}` is not defined", span=current.span,
                                   hint=nearest(current.name, known)))
            elif isinstance(current, syntax.Call) and isinstance(current.callee, syntax.Name) \
                    and current.callee.name not in known and current.callee.name[:1].isupper():
                build.report(Fault("name", f"`{current.callee.name}` is not defined", span=current.callee.span,
                                   hint=nearest(current.callee.name, known)))


def _own_names(item) -> set[str]:
    names = bound_names(item.body) if isinstance(item.body, tuple) else set()
    for current in walk(item):
        if isinstance(current, (syntax.Parameter, syntax.Carry, syntax.ScanSource, syntax.Target)):
            names.add(current.name)
        elif isinstance(current, syntax.GradientRule):
            names.add(current.parameter)
        elif isinstance(current, syntax.TypeAnnotation):
            names |= {n.name for d in current.dims for n in walk(d) if isinstance(n, syntax.Name)}
        elif isinstance(current, syntax.Scan):
            names |= bound_names(current.body)
    return names
