"""Pickles of what holds graphs: models, compiled programs.

The nodes come first in a pickle, arguments before users, and are interned as they are read: a graph may be deeper than
Python's stack, and a node that is there already is the same node.  Only classes of this package are read.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .ir import Graph, Node, Primitive, remake
from .ops import PRIMITIVES

PACKAGE = __name__.rsplit(".", 1)[0]


def dumps(value: Any) -> bytes:
    """The nodes that the value refers to, and the value, as bytes."""
    found: dict[Node, int] = {}
    content = _dumped(value, lambda current: (_found, (found.setdefault(current, len(found)),)))
    nodes = _dumped((_ordered(found), tuple(found)),
                    lambda current: (_node, (current.op.name, current.args, dict(current.attrs), current.type)))
    return nodes + content


def loads(content: bytes) -> Any:
    """The value of ``dumps``; only for content that the cache vouches for."""
    file = io.BytesIO(content)
    _, found = _Unpickler(file).load()
    return _Unpickler(file, found).load()


def _dumped(value: Any, reduced: Callable[[Node], tuple]) -> bytes:
    """The pickle of a value whose nodes are reduced so."""
    file = io.BytesIO()
    pickler = pickle.Pickler(file, protocol=5)
    # By type: a method that is asked for every object would take longer than all else.
    pickler.dispatch_table = {Node: reduced, Primitive: lambda value: (_primitive, (value.name,))}
    pickler.dump(value)
    return file.getvalue()


class _Unpickler(pickle.Unpickler):
    """Reads a pickle that refers to these nodes by their numbers."""

    def __init__(self, file: io.BytesIO, nodes: Sequence[Node] = ()):
        super().__init__(file)
        self._nodes = nodes

    def find_class(self, module: str, name: str):
        if not module.startswith(f"{PACKAGE}.") or "." in name:
            raise pickle.UnpicklingError(f"{module}.{name} is nothing that is kept")
        found = super().find_class(module, name)
        return self._nodes.__getitem__ if found is _found else found


def _found(number: int) -> Node:
    """What stands in a pickle for the node of this number."""
    raise pickle.UnpicklingError(f"the node {number} is not there")


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
