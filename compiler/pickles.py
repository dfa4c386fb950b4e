"""Pickles of what holds graphs: models, compiled programs.

The nodes come first in a pickle, arguments before users, and are interned as they are read: a graph may be deeper than
Python's stack, and a node that is there already is the same node.  Only classes of this package are read.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable
from typing import Any

from .ir import Graph, Node, Primitive, remake
from .ops import PRIMITIVES

PACKAGE = __name__.rsplit(".", 1)[0]


def dumps(value: Any) -> bytes:
    """The value and the nodes that it refers to, as bytes."""
    found = _Finder(io.BytesIO())
    found.dump(value)
    content = io.BytesIO()
    _Pickler(content, protocol=5).dump((_ordered(found.nodes), value))
    return content.getvalue()


def loads(content: bytes) -> Any:
    """The value of ``dumps``; only for content that the cache vouches for."""
    return _Unpickler(io.BytesIO(content)).load()[1]


class _Finder(pickle.Pickler):
    """Finds the nodes that a value refers to, not those below them."""

    def __init__(self, file):
        super().__init__(file, protocol=5)
        self.nodes: dict[Node, None] = {}
        self.dispatch_table = {Node: self._find}        # by type: asked for every object, a method would take long

    def _find(self, value: Node):
        self.nodes[value] = None
        return tuple, ()


class _Pickler(pickle.Pickler):
    dispatch_table = {
        Node: lambda value: (_node, (value.op.name, value.args, dict(value.attrs), value.type)),
        Primitive: lambda value: (_primitive, (value.name,))}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if module.startswith(f"{PACKAGE}.") and "." not in name:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is nothing that is kept")


def _node(op: str, args: tuple[Node, ...], attrs: dict[str, Any], type_) -> Node:
    return remake(PRIMITIVES[op], args, attrs, type_)


def _primitive(name: str) -> Primitive:
    return PRIMITIVES[name]


def _ordered(roots: Iterable[Node]) -> list[Node]:
    """The nodes below the roots and those of their bodies, what a node needs before it."""
    order: list[Node] = []
    seen: set[Node] = set()
    pending = [(root, False) for root in roots]
    while pending:
        current, is_ready = pending.pop()
        if current in seen:
            continue
        if is_ready:
            seen.add(current)
            order.append(current)
            continue
        pending.append((current, True))
        pending += [(arg, False) for arg in current.args]
        for body in current.attrs.values():
            if isinstance(body, Graph):
                pending += [(inner, False) for inner in (*body.inputs, *body.results)]
    return order
