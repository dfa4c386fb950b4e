"""Indices stay in range: a pass that proves it, asks the caller to check inputs, or clamps.

Kernels do not check indices.  For each gather and scatter_add this pass finds where its indices come from:

- elements of a model's input, moved about but unchanged: the range becomes a ``Range`` that the caller checks before
  each run, so that a wrong index is an error that names the input;
- values whose interval is known to fit (an iota, an argmax, a remainder): nothing to do;
- anything else: clamped into the range in the graph.

Class labels, which a loss compares with 0..classes-1, are asked for too: one outside would silently train nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..runtime.records import dataclass
from . import ops
from .ir import Graph, Node, node, rebuild, topological
from .types import Size, known_nonnegative


@dataclass(frozen=True)
class Range:
    """Every element of the input ``leaf`` must be in [0, limit)."""

    leaf: Node
    limit: Size


@dataclass(frozen=True)
class Extent:
    """What is known of an integer tensor's elements.

    Each is an unchanged element of one of ``sources``, or in the closed ``interval``, whose ends may be unknown (None).
    ``interval`` None says that there are no elements of the second kind.
    """

    interval: tuple[Size | None, Size | None] | None
    sources: frozenset[Node] = frozenset()


ANYTHING = Extent((None, None))
MOVEMENT = {"reshape", "transpose", "broadcast", "slice", "reverse", "stop_gradient"}


def bound_indices(graph: Graph, labels: Iterable[Node] = ()) -> tuple[Graph, tuple[Range, ...]]:
    """The graph with every index in range, provided that the inputs' ranges hold.  ``labels``: the training targets."""
    finder = _Finder(frozenset(labels))
    results = finder.rewrite(graph.results, {})
    return Graph(graph.inputs, dict(zip(graph.outputs, results))), tuple(dict.fromkeys(finder.ranges))


class _Finder:
    def __init__(self, labels: frozenset[Node]):
        self.labels = labels
        self.ranges: list[Range] = []

    def rewrite(self, roots: Iterable[Node], extents: Mapping[Node, Extent]) -> list[Node]:
        """New roots; ``extents`` gives what is known of the leaves of a scan's body."""
        roots = list(roots)
        known: dict[Node, Extent] = dict(extents)
        new: dict[Node, Node] = {}
        for current in topological(roots):
            if current not in known:
                known[current] = extent(current, [known[arg] for arg in current.args])
            new[current] = self._rule(current, tuple(new[arg] for arg in current.args), known)
        return [new[root] for root in roots]

    def _rule(self, current: Node, args: tuple[Node, ...], known: Mapping[Node, Extent]) -> Node:
        name = current.op.name
        if name == "gather":
            args = (args[0], self._in_range(args[1], known[current.args[1]], args[0].shape[0]))
        elif name == "scatter_add":
            args = (self._in_range(args[0], known[current.args[0]], current.attrs["rows"]), args[1])
        elif name == "eq" and self.labels:
            for label, classes in (current.args, current.args[::-1]):
                self._compared(known[label], classes)
        elif name == "scan":
            return self._scan(current, args, known)
        return rebuild(current, args)

    def _scan(self, current: Node, args: tuple[Node, ...], known: Mapping[Node, Extent]) -> Node:
        body, carries = current.attrs["body"], current.attrs["carries"]
        # A carry changes from step to step; a slice of xs and an invariant hold elements of the argument.
        inner = {leaf: ANYTHING if position < carries else known[arg]
                 for position, (leaf, arg) in enumerate(zip(body.inputs, current.args))}
        results = self.rewrite(body.results, inner)
        if tuple(results) == body.results:
            return rebuild(current, args)
        changed = Graph(body.inputs, dict(zip(body.outputs, results)))
        return node(current.op, args, **{**current.attrs, "body": changed})

    def _in_range(self, indices: Node, found: Extent, rows: Size) -> Node:
        if found.interval is None or _at_least(found.interval[0], 0) and _at_least(rows - 1, found.interval[1]):
            self.ranges += [Range(leaf, rows) for leaf in sorted(found.sources, key=lambda leaf: leaf.attrs["name"])]
            return indices
        low, high = ops.constant(0, indices.dtype), ops.size(rows - 1, indices.dtype)
        return ops.minimum(ops.maximum(indices, _spread(low, indices)), _spread(high, indices))

    def _compared(self, found: Extent, classes: Node) -> None:
        while classes.op.name in ("broadcast", "reshape", "transpose", "cast"):
            classes = classes.args[0]
        if classes.op.name == "iota" and found.interval is None and found.sources <= self.labels:
            limit = classes.shape[classes.attrs["axis"]]
            self.ranges += [Range(leaf, limit) for leaf in sorted(found.sources, key=lambda leaf: leaf.attrs["name"])]


def _spread(scalar: Node, like: Node) -> Node:
    return ops.broadcast(scalar, like.shape, ()) if like.shape else scalar


def _at_least(high: Size | None, low: Size | None) -> bool:
    """Whether ``high >= low`` is certain."""
    return high is not None and low is not None and known_nonnegative(high - low)


# --- the extent of one node ---------------------------------------------------------------------------------------


def extent(current: Node, args: list[Extent]) -> Extent:
    """What is known of a node's elements, given the same of its arguments."""
    name, attrs = current.op.name, current.attrs
    if name == "scan" or not hasattr(current.type, "dtype") or current.dtype.kind != "int":
        return ANYTHING
    if name == "input":
        return Extent(None, frozenset([current]))
    if name == "item" or not args and name not in ("constant", "size", "iota"):
        return ANYTHING
    if name in MOVEMENT:
        return args[0]
    if name == "cast":
        return args[0] if current.args[0].dtype.kind == "int" else ANYTHING
    if name == "concat":
        return _union(args)
    if name == "pad":
        return _union([args[0], Extent((int(attrs["value"]),) * 2)])
    rule = _INTERVALS.get(name)
    interval = rule(current, [_interval(arg) for arg in args]) if rule else (None, None)
    return Extent(interval)


def _interval(found: Extent) -> tuple[Size | None, Size | None]:
    """The interval of all elements; those of an input may be anything as long as they are only computed with."""
    return (None, None) if found.sources or found.interval is None else found.interval


def _union(extents: list[Extent]) -> Extent:
    intervals = [found.interval for found in extents if found.interval is not None]
    sources = frozenset().union(*(found.sources for found in extents))
    return Extent(_hull(intervals) if intervals else None, sources)


def _hull(intervals) -> tuple[Size | None, Size | None]:
    low, high = intervals[0]
    for other_low, other_high in intervals[1:]:
        low = low if _at_least(other_low, low) else other_low if _at_least(low, other_low) else None
        high = high if _at_least(high, other_high) else other_high if _at_least(other_high, high) else None
    return low, high


def _sum(_, args):
    return tuple(None if a is None or b is None else a + b for a, b in zip(*args))


def _difference(_, args):
    (low, high), (other_low, other_high) = args
    return (None if low is None or other_high is None else low - other_high,
            None if high is None or other_low is None else high - other_low)


def _remainder(current, args):
    low, high = args[1]
    return (0, high - 1) if high is not None and _at_least(low, 1) else (None, None)


def _maximum(_, args):
    (low, _high), (other_low, _other_high) = args
    best = low if other_low is None else other_low if low is None or _at_least(other_low, low) else low
    return best, _hull(args)[1]


def _minimum(_, args):
    (_low, high), (_other_low, other_high) = args
    best = high if other_high is None else other_high if high is None or _at_least(high, other_high) else high
    return _hull(args)[0], best


def _positions(current, _):
    return 0, current.args[0].shape[current.attrs["axis"]] - 1


_INTERVALS = {
    "constant": lambda current, _: (int(current.attrs["value"]),) * 2,
    "size": lambda current, _: (current.attrs["dim"],) * 2,
    "iota": lambda current, _: (0, current.shape[current.attrs["axis"]] - 1),
    "argmax": _positions, "argmin": _positions,
    "random_bits": lambda current, _: (0, 2 ** 24 - 1),
    "add": _sum, "sub": _difference, "mod": _remainder, "maximum": _maximum, "minimum": _minimum,
    "where": lambda _, args: _hull(args[1:]),
}
