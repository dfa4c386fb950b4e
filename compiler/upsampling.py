"""Convolutions of repeated places, as a decoder's upsampling makes them, without the repetition; and other products of
what repeats.

To repeat each place s times is to put zeros between the places, and to add up s neighbours; and sums of neighbours may
as well be taken after the convolution:

    forward             conv(repeat(x), w) = neighbours(conv(spaced(x), w)),        a transposed convolution
    by the input        sums of s places of conv(g, w)    = conv(neighbours(g), w) with strides of s
    by the kernel       correlation of repeat(x) with g   = correlation of x with neighbours(g), s apart

Along each axis that takes one product where there were s.  The sums' order changes, so that this is a pass and no rule
of ``simplify``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product as combinations
from math import prod

from ..runtime.records import dataclass
from . import ops
from .ir import Graph, Node, rebuild, rewrite, users
from .ops.contract import Index, affine, plain
from .types import Size, evaluate, symbols

MOST_NEIGHBOURS = 16        # that one value adds up
LEAST_PRODUCTS = 32         # for each value that is added up from neighbours
TYPICAL = 16                # what stands for a size that is not known


def skip_repeats(graph: Graph, trains: bool = False) -> Graph:
    """The same function with such convolutions rewritten, but for those in the bodies of loops.

    The rules of the way back are for programs that train: of what they fit a prediction may have as well, such as
    means of a layer's places, its bits would depend on whether its weights are bound, and so arranged otherwise.
    """
    readers, results = users(graph.results), set(graph.results)

    def is_read_once(value: Node) -> bool:
        return len(readers[value]) == 1 and value not in results

    def rewritten(current: Node, args: tuple[Node, ...]) -> Node:
        made = rebuild(current, args)
        if trains and current.op.name == "reduce":
            # What something else reads too is computed in any case.
            is_alone = all(is_read_once(value) for value in (*current.args, *current.args[0].args))
            return (_by_input(made) if is_alone else None) or made
        if current.op.name != "contract":
            return made
        while trains and (found := _by_kernel(made)) is not None:       # an axis at a time
            made = found
        return _forward(made) or made

    return Graph(graph.inputs, dict(zip(graph.outputs, rewrite(graph.results, rewritten))))


@dataclass(frozen=True)
class _Repeated:
    """A value each of whose places along ``axis`` is one of ``source``, ``times`` in a row."""

    source: Node
    axis: int
    times: int


def _repeated(value: Node) -> _Repeated | None:
    """The value as that, if it is: a new axis behind one, along which nothing changes, merged with it."""
    inner = value.args[0] if value.op.name == "reshape" else value
    if inner.op.name != "broadcast" or inner.type.rank != value.type.rank + 1:
        return None
    source, rank = inner.args[0], inner.type.rank
    for axis in range(value.type.rank):
        times = inner.shape[axis + 1]
        if inner.attrs["axes"] == (*range(axis + 1), *range(axis + 2, rank)) and isinstance(times, int) and times > 1 \
                and value.shape == (*source.shape[:axis], source.shape[axis] * times, *source.shape[axis + 1:]):
            return _Repeated(source, axis, times)
    return None


# --- forward ----------------------------------------------------------------------------------------------------------


def _forward(current: Node) -> Node | None:
    """conv(repeat(x), w) -> the neighbours of a transposed convolution, along as many axes at once as can be."""
    for position, operand in enumerate(current.args):
        if not symbols(operand.type.size):
            continue            # of weights alone: computed once where these are bound
        spaced, shifted = current, {}
        while (found := _repeated(spaced.args[position])) is not None:
            made = _spaced(spaced, position, found)
            if made is None:
                break
            spaced, axis = made
            shifted[axis] = found.times
            if prod(shifted.values()) > MOST_NEIGHBOURS:
                break
        if shifted and prod(shifted.values()) <= MOST_NEIGHBOURS and _pays(current, spaced.shape):
            starts = combinations(*(range(shifted.get(axis, 1)) for axis in range(current.type.rank)))
            return _sum_of_slices(spaced, list(starts), current.shape)
    return None


def _spaced(current: Node, position: int, repeated: _Repeated) -> tuple[Node, int] | None:
    """The contraction of the source, with zeros between its places, and the axis of the result that is that much
    longer; None where the places are not read by an index of the result, one after the other, and one of a kernel."""
    index, rank = current.attrs["maps"][position][repeated.axis], current.type.rank
    outer = [which for which, factor in index.terms if which < rank and factor == 1]
    inner = [(which, factor) for which, factor in index.terms if which >= rank]
    if len(outer) != 1 or len(inner) != len(index.terms) - 1 or len(inner) > 1 or index.divisor != 1 \
            or any(factor not in (-1, 1) for _, factor in inner) or _occurrences(current.attrs["maps"], outer[0]) != 1 \
            or any(_typical(_extents(current)[which]) > _typical(current.shape[outer[0]]) for which, _ in inner):
        return None
    maps = [list(places) for places in current.attrs["maps"]]
    shape, longer = list(current.shape), repeated.times - 1
    shape[outer[0]] = shape[outer[0]] + longer
    if inner and inner[0][1] == 1:      # with the kernel reversed it is a transposed convolution, which has phases
        which = inner[0][0]
        last = current.attrs["reduce"][which - rank] - 1
        maps = [[_replaced(each, which, {which: -1}, last) for each in places] for places in maps]
    moved = maps[position][repeated.axis]
    maps[position][repeated.axis] = affine(dict(moved.terms), moved.offset - longer, repeated.times)
    operands = list(current.args)
    operands[position] = repeated.source
    return ops.contract(operands, shape, current.attrs["reduce"], maps), outer[0]


# --- backward ---------------------------------------------------------------------------------------------------------


def _by_kernel(current: Node) -> Node | None:
    """sum[a] repeat(x)[a] g[a + v] -> sum[q] x[q] neighbours(g)[s q + v]"""
    if len(current.args) != 2:
        return None
    for position, other in ((0, 1), (1, 0)):
        found = _repeated(current.args[position])
        if found is None or (walk := _summed_along(current, position, found)) is None:
            continue
        (which, maps), count = walk, found.source.shape[found.axis]
        made = _neighbours(current, other, maps, which, found.times, count) if _occurrences(maps, which) == 2 else None
        if made is not None:
            operands, reduce = list(current.args), list(current.attrs["reduce"])
            operands[position], operands[other] = found.source, made
            reduce[which - current.type.rank] = count
            return ops.contract(operands, current.shape, reduce, maps)
    return None


def _summed_along(current: Node, position: int, repeated: _Repeated) -> tuple[int, list[list[Index]]] | None:
    """The sum index that runs through the repeated places, and the maps, where it does so as it is; where indices of a
    kernel are added to it, and it alone is what the other's dimension is read by, they are moved there."""
    rank, maps = current.type.rank, [list(places) for places in current.attrs["maps"]]
    index = maps[position][repeated.axis]
    size = current.args[position].shape[repeated.axis]
    inner = [which for which, factor in index.terms if which >= rank and factor == 1]
    if index.divisor != 1 or len(inner) != 1 or sum(inner[0] in each.indices for each in maps[position]) != 1:
        return None
    which, other = inner[0], 1 - position
    if index == plain(which):
        return (which, maps) if current.attrs["reduce"][which - rank] == size else None
    extent, rest = current.attrs["reduce"][which - rank], {k: -factor for k, factor in index.terms if k != which}
    if any(_typical(_extents(current)[k]) >= _typical(extent) for k in rest) or not any(
            each == plain(which) and length == extent for each, length in zip(maps[other], current.args[other].shape)):
        return None
    maps[other] = [_replaced(each, which, {which: 1, **rest}, -index.offset) for each in maps[other]]
    maps[position][repeated.axis] = plain(which)
    return which, maps


def _by_input(current: Node) -> Node | None:
    """sum[r] conv(g, w)[s q + r] -> conv(neighbours(g), w) with strides of s"""
    split, axes = current.args[0], current.attrs["axes"]
    if current.attrs["kind"] != "sum" or split.op.name != "reshape" or len(axes) != 1 or axes[0] == 0:
        return None
    product, which, times = split.args[0], axes[0] - 1, split.shape[axes[0]]
    if product.op.name != "contract" or len(product.args) != 2 or not isinstance(times, int) or times < 2 \
            or product.type.rank != current.type.rank \
            or product.shape != (*current.shape[:which], current.shape[which] * times, *current.shape[which + 1:]):
        return None
    for position in (0, 1):
        maps = [list(places) for places in product.attrs["maps"]]
        if _occurrences(maps, which) > 1:
            return None
        made = _neighbours(product, position, maps, which, times, current.shape[which])
        if made is not None:
            operands = list(product.args)
            operands[position] = made
            return ops.contract(operands, current.shape, product.attrs["reduce"], maps)
    return None


def _neighbours(current: Node, position: int, maps: list[list[Index]], which: int, times: int,
                count: Size) -> Node | None:
    """The sums of ``times`` neighbours of an operand that index ``which`` runs through; in ``maps`` its index is
    changed, such that ``which`` goes ``times`` places at once, ``count`` times.  None where that cannot be, or does not
    pay."""
    value, extents = current.args[position], _extents(current)
    axis = next((axis for axis, index in enumerate(maps[position]) if which in index.indices), None)
    # Sums of weights would be taken anew in each step, for a few samples at more than they save.
    if axis is None or count == 0 or times > MOST_NEIGHBOURS or not symbols(value.type.size) \
            or not _pays(current, value.shape):
        return None
    index = maps[position][axis]
    rest = {k: factor for k, factor in index.terms if k != which}
    if index.divisor != 1 or dict(index.terms)[which] != 1 or not isinstance(index.offset, int) or any(
            factor not in (-1, 1) or not isinstance(extents[k], int) for k, factor in rest.items()):
        return None
    first = index.offset - sum(extents[k] - 1 for k, factor in rest.items() if factor < 0)
    # Without a kernel only every so many-th of the sums is read.
    step = 1 if rest else times
    length = times * (count - 1) + 1 + sum(extents[k] - 1 for k in rest) if rest else count
    beyond = first + step * (length - 1) + times - value.shape[axis]
    if not isinstance(beyond, int):
        return None
    maps[position][axis] = affine({which: times // step, **rest}, index.offset - first)
    return _sums_along(value, axis, first, length, times, step, beyond)


def _sums_along(value: Node, axis: int, first: int, length: Size, times: int, step: int, beyond: int) -> Node:
    """At place k of an axis the sum of what the value has there from first + k * step on, ``times`` places; ``beyond``
    of those that are read come after the value, and count as 0, as do those before it."""
    def along(number: int, others: int = 0) -> tuple[int, ...]:
        return tuple(number if k == axis else others for k in range(value.type.rank))
    shape = (*value.shape[:axis], length, *value.shape[axis + 1:])
    low = max(0, -first)
    starts = [along(first + low + turn) for turn in range(times)]
    return _sum_of_slices(ops.pad(value, along(low), along(max(0, beyond))), starts, shape, along(step, 1))


# --- what they share --------------------------------------------------------------------------------------------------


def _sum_of_slices(value: Node, starts: Sequence[tuple[int, ...]], shape: Sequence[Size],
                   steps: Sequence[int] | None = None) -> Node:
    """The sum of the parts of a value that begin there and have this shape."""
    steps = steps or (1,) * len(shape)
    total, *others = (ops.slice(value, start, [first + (size - 1) * step + 1 if step != 1 else first + size
                                               for first, size, step in zip(start, shape, steps)], steps)
                      for start in starts)
    for other in others:
        total = ops.add(total, other)
    return total


def _replaced(index: Index, which: int, terms: dict[int, int], offset: Size) -> Index:
    """The index with a sum of indices, and a number, in place of one."""
    found = dict(index.terms)
    factor = found.pop(which, 0)
    for k, c in terms.items():
        found[k] = found.get(k, 0) + factor * c
    return affine(found, index.offset + factor * offset, index.divisor)


def _occurrences(maps: Sequence[Sequence[Index]], which: int) -> int:
    return sum(which in index.indices for places in maps for index in places)


def _extents(current: Node) -> tuple[Size, ...]:
    return *current.shape, *current.attrs["reduce"]


def _typical(size: Size) -> int:
    """A size as a number that may stand for it."""
    return evaluate(size, dict.fromkeys(symbols(size), TYPICAL))


def _pays(current: Node, shape: Sequence[Size]) -> bool:
    """Whether a contraction takes so many products that sums of a value of this shape are little beside them."""
    return prod(map(_typical, _extents(current))) >= LEAST_PRODUCTS * prod(map(_typical, shape))
