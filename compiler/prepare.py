"""Rewrites before fusion that no algebra asks for, but that give better kernels.

Sums are cut in two steps, so that threads can share them and rounding errors stay small; contractions sum over an
index that needs no division where there is one.
"""

from __future__ import annotations

from . import ops
from .ir import Graph, Node, rebuild, rewrite
from .types import Size


def prepare(graph: Graph) -> Graph:
    """The same function in the form that lowering likes best."""
    return Graph(graph.inputs, dict(zip(graph.outputs, rewrite(graph.results, _prepare))))


def _prepare(current: Node, args: tuple[Node, ...]) -> Node:
    current = rebuild(current, args)
    rule = {"reduce": split_sum, "contract": sum_over_coordinate}.get(current.op.name)
    return current if rule is None else rule(current)


def split_sum(current: Node) -> Node:
    """A sum over several axes that keeps the last one, such as a bias's gradient over (image, y, x), becomes a sum
    over the inner axes for each element of the first, then a sum over the first.

    How a sum is cut depends on its shape alone, so its bits do not depend on the threads.
    """
    x, axes = current.args[0], current.attrs["axes"]
    if current.attrs["kind"] != "sum" or current.dtype.kind != "float" or len(axes) < 2 or x.type.rank - 1 in axes:
        return current
    return ops.reduce(ops.reduce(x, "sum", axes[1:]), "sum", (axes[0],))


def sum_over_coordinate(current: Node) -> Node:
    """Where a summed index r occurs as a coordinate (r + rest) / divisor, sum over the coordinate q instead, with
    r = divisor * q - rest.

    With a divisor, every q counts, where only one r in ``divisor`` did.  Without, this is done for the operand that has
    the result's last index: what is in ``rest`` then runs in the other operand, as rows of a product rather than as
    products of their own.  The terms are the same if another operand bounds r, by having a dimension that is r itself.
    """
    maps = [list(index_map) for index_map in current.attrs["maps"]]
    summed = list(current.attrs["reduce"])
    rank = current.type.rank
    for operand, index_map in zip(current.args, maps):
        for dimension, index in enumerate(index_map):
            which = _summed_index(index, rank, current, index_map)
            if which is not None:
                _replace_sum(maps, index, which)
                index_map[dimension] = ops.plain(which)
                summed[which - rank] = operand.shape[dimension]
    if maps == [list(index_map) for index_map in current.attrs["maps"]]:
        return current
    return ops.contract(current.args, current.shape, summed, maps)


def _summed_index(index, rank: int, current: Node, own_map) -> int | None:
    """The sum index of a coordinate to sum over that another operand bounds and no other coordinate here has."""
    if index.divisor == 1 and not (ops.plain(rank - 1) in own_map and any(k < rank for k, _ in index.terms)):
        return None
    for which, coefficient in index.terms:
        if which < rank or coefficient != 1 or sum(which in m.indices for m in own_map) != 1:
            continue
        extent: Size = current.attrs["reduce"][which - rank]
        for operand, index_map in zip(current.args, current.attrs["maps"]):
            bounded = any(m == ops.plain(which) and size == extent for m, size in zip(index_map, operand.shape))
            whole = all(m.divisor == 1 for m in index_map if which in m.indices)
            if index not in index_map and bounded and whole:
                return which
    return None


def _replace_sum(maps: list[list], index, which: int) -> None:
    """Put divisor * q - rest for the summed index in every coordinate; q takes the number of the index."""
    rest = {k: c for k, c in index.terms if k != which}
    for index_map in maps:
        for dimension, other in enumerate(index_map):
            if other is index or which not in other.indices:
                continue
            terms = dict(other.terms)
            factor = terms.pop(which)
            for k, c in rest.items():
                terms[k] = terms.get(k, 0) - factor * c
            terms[which] = factor * index.divisor
            index_map[dimension] = ops.affine(terms, other.offset - factor * index.offset, other.divisor)
