"""Rules for ``contract``: what moves an operand's elements can be said by the operand's index map."""

from __future__ import annotations

from .. import ops
from ..ir import Node, node
from ..ops.contract import Index, affine
from ..types import Size, known_nonnegative, product
from .movement import unit_reshape
from .reduction import count_of
from .table import rule, scalar, spread

HERE = Index((), 0, 1)      # the coordinate 0


def contract_like(x: Node, operands, maps, reduce=None) -> Node:
    """A contraction of the same result and, without ``reduce``, the same sums, of other operands."""
    return node(x.op, operands, shape=x.shape, reduce=x.attrs["reduce"] if reduce is None else tuple(reduce),
                maps=tuple(map(tuple, maps)))


@rule("contract")
def absorb_movement(x: Node) -> Node | None:
    """contract(transpose(a), ...), also of reverse, pad with zeros, slice, broadcast ... -> contract(a, ...)"""
    for position, operand in enumerate(x.args):
        absorb = _ABSORB.get(operand.op.name)
        places = absorb(x, operand, x.attrs["maps"][position]) if absorb else None
        if places is None:
            continue
        operands, maps = list(x.args), list(x.attrs["maps"])
        operands[position], maps[position] = operand.args[0], places
        return contract_like(x, operands, maps)
    return None


def _transpose(x: Node, operand: Node, places) -> list[Index]:
    perm = operand.attrs["perm"]
    return [places[perm.index(axis)] for axis in range(len(perm))]


def _reverse(x: Node, operand: Node, places) -> list[Index]:
    return [_affine(index, -1, size - 1) if axis in operand.attrs["axes"] else index
            for axis, (index, size) in enumerate(zip(places, operand.shape))]


def _pad(x: Node, operand: Node, places) -> list[Index] | None:
    """The fillers are zeros, as is everything outside of an operand and between its elements."""
    if operand.attrs["value"] != 0:
        return None
    moved = (_affine(index, 1, -low) for index, low in zip(places, operand.attrs["low"]))
    return [affine(dict(index.terms), index.offset, index.divisor * (gap + 1))
            for index, gap in zip(moved, operand.attrs["interior"])]


def _slice(x: Node, operand: Node, places) -> list[Index] | None:
    """Outside of the slice is 0, which the operand is not: the coordinate must be known to stay inside."""
    if not all(stays_inside(x, index, size) for index, size in zip(places, operand.shape)):
        return None
    return [_affine(index, step, start)
            for index, start, step in zip(places, operand.attrs["starts"], operand.attrs["steps"])]


def _broadcast(x: Node, operand: Node, places) -> list[Index] | None:
    axes = operand.attrs["axes"]
    if not all(stays_inside(x, index, operand.shape[axis]) for axis, index in enumerate(places) if axis not in axes):
        return None
    return [places[axis] for axis in axes]


def _reshape(x: Node, operand: Node, places) -> list[Index] | None:
    """Only axes of size 1 that the reshape adds; those that it drops are better dropped than read at 0."""
    where = unit_reshape(operand.args[0].shape, operand.shape)
    if where is None or None in where:
        return None
    units = (axis for axis in range(len(operand.shape)) if axis not in where)
    return [places[axis] for axis in where] if all(stays_inside(x, places[axis], 1) for axis in units) else None


_ABSORB = {"transpose": _transpose, "reverse": _reverse, "pad": _pad, "slice": _slice, "broadcast": _broadcast,
           "reshape": _reshape}


def _affine(index: Index, factor: int, shift: Size) -> Index:
    """The index c as factor * c + shift."""
    terms = {which: coefficient * factor for which, coefficient in index.terms}
    return affine(terms, index.offset * factor + shift * index.divisor, index.divisor)


def stays_inside(x: Node, index: Index, size: Size) -> bool:
    """True if the coordinate is a whole number from 0 to size - 1 wherever the indices run."""
    if index.divisor != 1:
        return False
    extents = (*x.shape, *x.attrs["reduce"])
    low: Size = index.offset
    high: Size = index.offset
    for which, coefficient in index.terms:
        reach = coefficient * (extents[which] - 1)
        if known_nonnegative(coefficient):
            high = high + reach
        elif known_nonnegative(-coefficient):
            low = low + reach
        else:
            return False
    return known_nonnegative(low) and known_nonnegative(size - 1 - high)


@rule("contract")
def order_sums(x: Node) -> Node | None:
    """sum[j, i] a[i, j] -> sum[i, j] a[i, j]: sums run in the order of the first operand's dimensions"""
    rank, reduce = len(x.shape), x.attrs["reduce"]
    seen = dict.fromkeys(which - rank for places in x.attrs["maps"] for index in places
                         for which in index.indices if which >= rank)
    order = [*seen, *(k for k in range(len(reduce)) if k not in seen)]
    if order == list(range(len(reduce))):
        return None
    number = {axis: axis for axis in range(rank)} | {rank + k: rank + place for place, k in enumerate(order)}
    maps = [[affine({number[which]: c for which, c in index.terms}, index.offset, index.divisor) for index in places]
            for places in x.attrs["maps"]]
    return contract_like(x, x.args, maps, [reduce[k] for k in order])


@rule("contract")
def drop_single_reduction(x: Node) -> Node | None:
    """sum over one element -> that element; sum over an index that no operand has -> times its size"""
    rank, reduce = len(x.shape), x.attrs["reduce"]
    used = {which for places in x.attrs["maps"] for index in places for which, _ in index.terms}
    gone = [k for k, size in enumerate(reduce) if size == 1 or rank + k not in used]
    if not gone:
        return None
    count = product(reduce[k] for k in gone)
    number = {rank + k: rank + place for place, k in enumerate(k for k in range(len(reduce)) if k not in gone)}
    number |= {axis: axis for axis in range(rank)}
    maps = [[Index(tuple((number[which], c) for which, c in index.terms if which in number), index.offset,
                   index.divisor) for index in places] for places in x.attrs["maps"]]
    rest = contract_like(x, x.args, maps, [size for k, size in enumerate(reduce) if k not in gone])
    return rest if count == 1 else ops.mul(rest, spread(count_of(count, x.dtype), x.shape, ()))


@rule("contract")
def drop_unit_dimensions(x: Node) -> Node | None:
    """A dimension of size 1 that is read at 0 -> reshape without it"""
    for position, (operand, places) in enumerate(zip(x.args, x.attrs["maps"])):
        gone = [axis for axis, index in enumerate(places) if index == HERE and operand.shape[axis] == 1]
        if not gone:
            continue
        kept = [axis for axis in range(len(places)) if axis not in gone]
        operands, maps = list(x.args), list(x.attrs["maps"])
        operands[position] = ops.reshape(operand, tuple(operand.shape[axis] for axis in kept))
        maps[position] = [places[axis] for axis in kept]
        return contract_like(x, operands, maps)
    return None


@rule("contract")
def scalar_operand(x: Node) -> Node | None:
    """contract(a, s) with a scalar s -> contract(a) * s"""
    if len(x.args) != 2:
        return None
    for position in (0, 1):
        factor, rest = x.args[position], 1 - position
        if factor.shape == ():
            alone = contract_like(x, [x.args[rest]], [x.attrs["maps"][rest]])
            return alone if scalar(factor) == 1 else ops.mul(alone, spread(factor, x.shape, ()))
    return None


@rule("contract")
def no_contraction(x: Node) -> Node | None:
    """contract that sums over nothing and reads every element in place -> a product of broadcasts"""
    if x.attrs["reduce"]:
        return None
    factors = []
    for operand, places in zip(x.args, x.attrs["maps"]):
        axes = [index.terms[0][0] for index in places if _plain(index)]
        if len(axes) != len(places) or len(set(axes)) != len(axes):
            return None
        if any(operand.shape[k] != x.shape[axis] for k, axis in enumerate(axes)):
            return None
        order = sorted(range(len(axes)), key=axes.__getitem__)
        moved = ops.transpose(operand, tuple(order)) if order != list(range(len(axes))) else operand
        factors.append(spread(moved, x.shape, sorted(axes)))
    return factors[0] if len(factors) == 1 else ops.mul(*factors)


def _plain(index: Index) -> bool:
    return len(index.terms) == 1 and index.terms[0][1] == 1 and index.offset == 0 and index.divisor == 1


@rule("contract")
def plain_sum(x: Node) -> Node | None:
    """contract of one operand that reads every element in place -> transpose(sum(x))"""
    if len(x.args) != 1 or not x.attrs["reduce"]:
        return None
    operand, (places,) = x.args[0], x.attrs["maps"]
    extents = (*x.shape, *x.attrs["reduce"])
    axes = [index.terms[0][0] for index in places if _plain(index)]
    if len(axes) != len(places) or sorted(axes) != list(range(len(extents))):
        return None
    if any(operand.shape[k] != extents[axis] for k, axis in enumerate(axes)):
        return None
    rank = len(x.shape)
    total = ops.reduce(operand, "sum", tuple(k for k, axis in enumerate(axes) if axis >= rank))
    kept = [axis for axis in axes if axis < rank]
    return ops.transpose(total, tuple(kept.index(axis) for axis in range(rank))) if rank > 1 else total
