"""Rewrites before fusion that no algebra asks for, but that give better kernels.

Sums are cut in two steps, so that threads can share them and rounding errors stay small; so are the long sums of
products with few columns; contractions sum over an index that needs no division where there is one.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import ops
from .ir import Graph, Node, rebuild, rewrite
from .types import Size, is_symbol, product

# Terms of a long sum, least and of each part of one; and its most columns: more of them are shared by threads.
LONG_SUM, PART_OF_SUM, MOST_PARTS, FEW_COLUMNS = 2048, 512, 8, 256


def prepare(graph: Graph) -> Graph:
    """The same function in the form that lowering likes best."""
    return Graph(graph.inputs, dict(zip(graph.outputs, rewrite(graph.results, _prepare))))


def _prepare(current: Node, args: tuple[Node, ...]) -> Node:
    current = rebuild(current, args)
    if current.op.name == "reduce":
        return split_sum(current)
    if current.op.name == "contract":
        return split_product(sum_over_coordinate(current))
    return current


def split_sum(current: Node) -> Node:
    """A sum over several axes that keeps the last one, such as a bias's gradient over (image, y, x), becomes a sum
    over the inner axes for each element of the first, then a sum over the first.

    How a sum is cut depends on its shape alone, so its bits do not depend on the threads.
    """
    x, axes = current.args[0], current.attrs["axes"]
    if current.attrs["kind"] != "sum" or current.dtype.kind != "float" or len(axes) < 2 or x.type.rank - 1 in axes:
        return current
    return ops.reduce(ops.reduce(x, "sum", axes[1:]), "sum", (axes[0],))


def split_product(current: Node) -> Node:
    """A product of samples with a long, narrow matrix, such as a dense layer on a flattened image: a sum of products
    over stretches of the terms, which threads share even where there is one sample.

    Into how many depends on the matrix alone, so a sample's bits do not depend on those beside it; samples whose number
    the model says are not cut.  The columns may be several indices: in panels (see ``binding``) they are, and are cut
    alike.
    """
    parts = stretches_of(current)
    if parts == 1:
        return current
    shape, (terms,), summed = current.shape, current.attrs["reduce"], current.type.rank
    length = terms // parts
    maps = [[_cut(index, summed, length) for index in index_map] for index_map in current.attrs["maps"]]
    stretches = ops.contract(current.args, (parts, *shape), (length,), maps)
    zeros = (0,) * len(shape)
    total, *others = (ops.reshape(ops.slice(stretches, (part, *zeros), (part + 1, *shape)), shape)
                      for part in range(parts))
    for other in others:
        total = ops.add(total, other)
    return total


def stretches_of(current: Node) -> int:
    """Into how many stretches the sum of a product is cut."""
    (samples, *columns), sums, rank = current.shape or (1,), current.attrs["reduce"], current.type.rank
    if not (current.dtype.kind == "float" and is_symbol(samples) and len(current.args) == 2 and len(sums) == 1
            and all(isinstance(size, int) for size in (*columns, *sums))
            and sums[0] >= LONG_SUM and product(columns) <= FEW_COLUMNS
            and all(ops.plain(rank) in index_map for index_map in current.attrs["maps"])):
        return 1
    return max(parts for parts in _powers_of_two(MOST_PARTS)
               if sums[0] % parts == 0 and sums[0] // parts >= PART_OF_SUM)


def _powers_of_two(most: int) -> Sequence[int]:
    return [1 << k for k in range(most.bit_length())]


def _cut(index: ops.Index, summed: int, length: int) -> ops.Index:
    """A coordinate in terms of the indices after a new first one, which counts stretches of the summed index."""
    terms = {which + 1: c for which, c in index.terms}
    if summed + 1 in terms:
        terms[0] = length * terms[summed + 1]
    return ops.affine(terms, index.offset, index.divisor)


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
