"""The reference semantics: a graph evaluated node by node with each record's NumPy answer."""

from __future__ import annotations

from collections.abc import Mapping

from ..runtime.deferred import np
from .ir import Graph, Node, is_tensor, topological
from .types import Dim, TensorType, evaluate, symbols

LEAVES = frozenset(("input", "param", "state", "local"))


def interpret(graph: Graph, leaves: Mapping[Node, np.ndarray], sizes: Mapping[str, int] | None = None):
    """The outputs of a graph by name, given an array for every leaf that they need.

    ``sizes`` gives every symbol's value; symbols that stand alone as a dimension of a leaf may be left out.  Raises
    ValueError where an array does not have its leaf's dtype or shape.
    """
    sizes = _with_bound_symbols(leaves, sizes or {})
    for leaf, array in leaves.items():
        _check(leaf.type, np.asarray(array), sizes, leaf)
    values = run(graph.results, leaves, sizes)
    return dict(zip(graph.outputs, values))


def run(roots, leaves: Mapping[Node, np.ndarray], sizes: Mapping[str, int]) -> list[np.ndarray]:
    """The values of ``roots``; the records of primitives with bodies call this once a step."""
    roots = list(roots)
    order = topological(roots)
    uses = _use_counts(order, roots)
    values: dict[Node, np.ndarray] = {}
    with np.errstate(all="ignore"):
        for current in order:
            values[current] = _value(current, values, leaves, sizes)
            for arg in current.args:
                uses[arg] -= 1
                if not uses[arg]:
                    del values[arg]      # a large graph holds only what is still needed
    return [values[root] for root in roots]


def _value(current: Node, values: Mapping[Node, np.ndarray], leaves, sizes):
    if current.op.name in LEAVES:
        if current not in leaves:
            raise ValueError(f"no array was given for {current} {dict(current.attrs)}")
        return np.asarray(leaves[current])
    value = current.op.evaluate([values[arg] for arg in current.args], current, sizes)
    if not is_tensor(current):
        value = tuple(np.asarray(part) for part in value)
        for part, type_ in zip(value, current.type, strict=True):
            _check(type_, part, sizes, current)
        return value
    value = np.asarray(value)
    _check(current.type, value, sizes, current)
    return value


def _check(type_: TensorType, array: np.ndarray, sizes: Mapping[str, int], current: Node) -> None:
    shape = tuple(evaluate(size, sizes) for size in type_.shape)
    if array.dtype != type_.dtype.numpy or array.shape != shape:
        raise ValueError(f"{current} is {array.dtype}{list(array.shape)}, expected {type_.dtype.numpy}{list(shape)}")


def _use_counts(order, roots) -> dict[Node, int]:
    """Uses of each node, a root's result counting as one that never ends."""
    uses = dict.fromkeys(order, 0)
    for current in order:
        for arg in current.args:
            uses[arg] += 1
    for root in roots:
        uses[root] += 1
    return uses


def _with_bound_symbols(leaves: Mapping[Node, np.ndarray], sizes: Mapping[str, int]) -> dict[str, int]:
    """The sizes, extended by symbols that are a whole dimension of some leaf."""
    bound = dict(sizes)
    for leaf, array in leaves.items():
        for size, actual in zip(leaf.shape, np.shape(array)):
            for name in symbols(size):
                if size == Dim.symbol(name):
                    bound.setdefault(name, actual)
    return bound
