"""Branches side by side: where the pieces of a concatenation are one function of different values, the function is
computed once, of what these values make together.

    concat(relu(x A + p), relu(y B + q)) = relu(concat(x A, y B) + concat(p, q))

A kernel then runs along whole rows; along pieces of ten channels it would spend its time on what is left over of
vectors.  The products still write each into its part of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from . import ops
from .ir import Graph, Node, node, substitute, topological

ELEMENTWISE = frozenset(record.name for record in ops.elementwise.PRIMITIVES)
SHORT_PIECE = 64            # elements of a piece's rows, from which on a row of its own is long enough


def merge_siblings(graph: Graph) -> Graph:
    """The same function with such pieces merged."""
    results, seen = list(graph.results), set()
    while True:
        current = next((node for node in topological(results) if node.op.name == "concat" and node not in seen), None)
        if current is None:
            return Graph(graph.inputs, dict(zip(graph.outputs, results)))
        seen.add(current)
        whole = _merged(current)
        if whole is not None:
            results = substitute(results, {current: whole, **_pieces(current, whole)})
            seen.update(value for value in topological([whole]) if value.op.name == "concat")


def _merged(current: Node) -> Node | None:
    """The concatenation with the function outside; None where its pieces have none in common."""
    axis, pieces = current.attrs["axis"], current.args
    if axis != current.type.rank - 1 or len(set(pieces)) < len(pieces) or not all(
            isinstance(piece.shape[axis], int) and piece.shape[axis] <= SHORT_PIECE and piece.op.name in ELEMENTWISE
            for piece in pieces):
        return None
    leaves: list[Node] = []
    whole = _lift(pieces, axis, leaves)
    below = set(topological(leaves))
    is_worth = whole.op.name in ELEMENTWISE and all(leaf.op.name == "contract" for leaf in leaves)
    return whole if is_worth and below.isdisjoint(pieces) else None


def _lift(pieces: Sequence[Node], axis: int, leaves: list[Node]) -> Node:
    """What the pieces are together, with what they have in common outside; adds to ``leaves`` the tensors that stay
    pieces of a concatenation, but for those of one dimension, such as biases."""
    first = pieces[0]
    same = all((piece.op, piece.attrs.keys()) == (first.op, first.attrs.keys()) for piece in pieces)
    if same and first.op.name == "broadcast" and all(p.attrs["axes"] == first.attrs["axes"] for p in pieces):
        axes, sources = first.attrs["axes"], [piece.args[0] for piece in pieces]
        shape = (*first.shape[:axis], sum(piece.shape[axis] for piece in pieces), *first.shape[axis + 1:])
        if axis in axes:
            return ops.broadcast(_lift(sources, axes.index(axis), leaves), shape, axes)
        if len(set(sources)) == 1:
            return ops.broadcast(sources[0], shape, axes)
    if same and first.op.name in ELEMENTWISE and all(piece.attrs == first.attrs for piece in pieces):
        args = [_lift(group, axis, leaves) for group in zip(*(piece.args for piece in pieces))]
        return node(first.op, args, **first.attrs)
    if first.type.rank > 1:
        leaves.extend(pieces)
    return ops.concat(pieces, axis)


def _pieces(current: Node, whole: Node) -> dict[Node, Node]:
    """Each piece as a part of the whole, for who else reads it."""
    axis = current.attrs["axis"]
    ends = list(accumulate(piece.shape[axis] for piece in current.args))
    found = {}
    for piece, end in zip(current.args, ends):
        start = end - piece.shape[axis]
        starts = tuple(start if k == axis else 0 for k in range(whole.type.rank))
        stops = tuple(end if k == axis else size for k, size in enumerate(whole.shape))
        found[piece] = ops.slice(whole, starts, stops)
    return found
