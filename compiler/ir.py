"""The graph: immutable, interned nodes.

A ``Node`` is a primitive applied to nodes.  Two nodes with the same primitive, arguments, attributes and type are the
same object, so common subexpressions are free and ``is`` is equality.  Nodes carry no spans and no names: those live
in side tables of whoever made them.  Every traversal here is iterative: a graph may be deeper than Python's stack.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..runtime.records import dataclass
from .types import TensorType


@dataclass(frozen=True, eq=False)
class Primitive:
    """All that the compiler knows of one primitive, in one place.

    name      as printed
    infer     (argument types, attrs) -> TensorType, or a tuple of them for several results (see ``item``)
    evaluate  (arrays, node, sizes) -> array: NumPy's answer; ``sizes`` gives every symbol's value
    gradient  (node, cotangent) -> one cotangent node or None an argument; None if the result is not differentiable
    sample    (rng) -> iterable of nodes over fresh inputs, for the generated tests: types, values, gradients
    """

    name: str
    infer: Callable
    evaluate: Callable
    gradient: Callable | None = None
    sample: Callable | None = None

    def __repr__(self) -> str:
        return self.name


class Node:
    """``op(args; attrs) : type``; make one with ``node(...)`` or a builder of ``ops``, never directly."""

    __slots__ = ("op", "args", "attrs", "type", "__weakref__")

    op: Primitive
    args: tuple[Node, ...]
    attrs: Mapping[str, Any]
    type: Any

    @property
    def shape(self):
        return self.type.shape

    @property
    def dtype(self):
        return self.type.dtype

    def __repr__(self) -> str:
        return f"<{self.op.name} {self.type}>"


_interned: weakref.WeakValueDictionary[tuple, Node] = weakref.WeakValueDictionary()


def node(op: Primitive, args: Iterable[Node] = (), **attrs) -> Node:
    """The node ``op(args; attrs)``: its type is inferred, and an equal node that exists is returned.

    Attributes must be hashable.  Raises TypeRuleError where the primitive's type rule refuses the arguments.
    """
    args = tuple(args)
    key = _key(op, args, attrs)
    try:
        found = _interned.get(key)
    except TypeError as error:
        raise TypeError(f"attributes of {op.name} must be hashable: {attrs}") from error
    if found is not None:
        return found
    return _make(key, attrs, op.infer(tuple([arg.type for arg in args]), attrs))


def remake(op: Primitive, args: tuple[Node, ...], attrs: Mapping[str, Any], type_: Any) -> Node:
    """``node`` for one that was made by it once: the type is known."""
    key = _key(op, args, attrs)
    return _interned.get(key) or _make(key, attrs, type_)


def _key(op: Primitive, args: tuple[Node, ...], attrs: Mapping[str, Any]) -> tuple:
    # Values that compare equal but are not the same (1, 1.0, True; 0.0, -0.0) must not be interned together.
    if not attrs:
        return op, args, ()
    return op, args, tuple([(name, type(value := attrs[name]), repr(value) if isinstance(value, float) else value)
                            for name in (sorted(attrs) if len(attrs) > 1 else attrs)])


def _make(key: tuple, attrs: Mapping[str, Any], type_: Any) -> Node:
    made = object.__new__(Node)
    made.op, made.args, made.attrs, made.type = key[0], key[1], attrs, type_
    _interned[key] = made
    return made


@dataclass(frozen=True, eq=False)
class Graph:
    """A closed function: leaf nodes in, named nodes out.

    ``inputs`` fixes the order of the arguments; outputs keep their order.  The body of a scan is a Graph too.
    Graphs of the same nodes are equal, so that scans with equal bodies are interned as one node.
    """

    inputs: tuple[Node, ...]
    outputs: Mapping[Any, Node]         # by name; those of a scan's body by number

    def _key(self) -> tuple:
        return self.inputs, tuple(self.outputs.items())

    def __eq__(self, other) -> bool:
        return isinstance(other, Graph) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    @property
    def results(self) -> tuple[Node, ...]:
        return tuple(self.outputs.values())

    def nodes(self) -> list[Node]:
        """Every node that an output needs, arguments before users."""
        return topological(self.results)


def topological(roots: Iterable[Node]) -> list[Node]:
    """The nodes reachable from ``roots``, arguments before users, in a deterministic order."""
    return list(_order(tuple(roots)))


@functools.lru_cache(maxsize=1)         # one pass after another walks the same graph
def _order(roots: tuple[Node, ...]) -> list[Node]:
    order: list[Node] = []
    seen: set[Node] = set()
    for root in roots:
        pending: list[Node | None] = [root]
        while pending:
            current = pending.pop()
            if current is None:                 # the one below it comes after its arguments, which are done
                order.append(pending.pop())     # type: ignore[arg-type]
            elif current not in seen:
                seen.add(current)
                if current.args:
                    pending += (current, None, *current.args[::-1])
                else:
                    order.append(current)
    return order


def rewrite(roots: Iterable[Node], rule: Callable[[Node, tuple[Node, ...]], Node]) -> list[Node]:
    """Rebuild bottom-up: ``rule(node, new_args)`` gives each node's replacement; the new roots, in order."""
    roots = list(roots)
    new: dict[Node, Node] = {}
    for current in topological(roots):
        new[current] = rule(current, tuple(new[arg] for arg in current.args))
    return [new[root] for root in roots]


def rebuild(current: Node, args: tuple[Node, ...]) -> Node:
    """The same primitive on other arguments; the node itself where nothing changed."""
    return current if args == current.args else node(current.op, args, **current.attrs)


def substitute(roots: Iterable[Node], replacement: Mapping[Node, Node]) -> list[Node]:
    """The roots with some nodes replaced, everything above them rebuilt."""
    return rewrite(roots, lambda current, args: replacement.get(current) or rebuild(current, args))


def users(roots: Iterable[Node]) -> dict[Node, list[Node]]:
    """For each reachable node, the nodes that take it as an argument (one entry a use)."""
    table: dict[Node, list[Node]] = {}
    for current in topological(roots):
        table.setdefault(current, [])
        for arg in current.args:
            table[arg].append(current)
    return table


def is_tensor(current: Node) -> bool:
    """True unless the node has several results (a scan)."""
    return isinstance(current.type, TensorType)
