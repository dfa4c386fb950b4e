"""Contractions as matrix products over strided memory, for the runtime's tile kernel.

A contraction fits if each operand's position is linear in the indices.  Every index is then one of: a *row* (runs in
the first operand and the result), the *column* (contiguous in the second operand and the result), a *sum*, or a
*batch* index (in both operands and the result).  A convolution on a padded image is such a product as it lies in
memory: rows are output pixels, sums are kernel row and (kernel column, channel), nothing is unrolled or copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

from .ir import Node
from .loops import Affine, Load
from .nest import Loop, Nest, View
from .schedule import Extent, Product

LEVELS = 4          # nested indices of each group that the tile kernel takes


@dataclass(frozen=True)
class Strided:
    """An operand as a view and its position, affine in the indices of the contraction."""

    view: View
    index: Affine


def strided_operand(lowering, operand: Node, coordinates: tuple[Affine, ...], loops: Sequence[Loop]) -> Strided | None:
    """The operand as strided memory, through the movements that are only indices; None if it must be computed."""
    nest = Nest(loops, lowering.view_of)
    nest.expression(operand, coordinates)
    if len(nest.statements) != 1 or not isinstance(nest.statements[0], Load):
        return None
    load = nest.statements[0]
    return None if load.dynamic or load.guard else Strided(nest.views[load.buffer], load.index)


def product_of(current: Node, target: View, result: Affine, first: Strided, second: Strided,
               loops: Sequence[Loop]) -> Product | None:
    """The matrix product that a contraction is, if it is one and has no more indices than the tile kernel takes."""
    rank = current.type.rank
    variables = [loop.variable for loop in loops]
    extents = [loop.extent for loop in loops]
    column = next((k for k in reversed(range(rank)) if extents[k] != 1), None)
    if column is None or result.coefficient(variables[column]) != 1:
        return None
    name = variables[column]
    occurs = [s.index.coefficient(name) != 0 for s in (first, second)]
    if occurs == [True, False]:
        first, second = second, first
    elif occurs != [False, True]:
        return None
    batch, rows, sums = [], [], []
    for k, (variable, size) in enumerate(zip(variables, extents)):
        extent = Extent(size, first.index.coefficient(variable), second.index.coefficient(variable),
                        result.coefficient(variable))
        if k == column or size == 1:
            continue
        group = sums if k >= rank else (batch if extent.b != 0 else rows)
        group.append(extent)
    # The sum runs through the first operand in memory order; what lies together there is then one index.
    sums.sort(key=lambda extent: -abs(extent.a) if isinstance(extent.a, int) else float("-inf"))
    batch, rows, sums = merge(batch), merge(rows), merge(sums)
    if max(len(batch), len(rows), len(sums)) > LEVELS:
        return None
    stride = second.index.coefficient(name)
    if not rows and stride != 1:
        return None         # the second operand would be packed for a single row
    a, b = (View(s.view.buffer, s.view.offset + s.index.offset, s.view.dtype) for s in (first, second))
    c = View(target.buffer, target.offset + result.offset, target.dtype)
    return Product(a, b, c, batch, rows, sums, extents[column], stride)


def merge(extents: Sequence[Extent]) -> tuple[Extent, ...]:
    """Neighbouring indices that walk all memory in step, as one."""
    merged: list[Extent] = []
    for inner in extents:
        outer = merged[-1] if merged else None
        if outer is not None and (outer.a, outer.b, outer.c) == tuple(s * inner.size for s in (inner.a, inner.b, inner.c)):
            merged[-1] = Extent(outer.size * inner.size, inner.a, inner.b, inner.c)
        else:
            merged.append(inner)
    return tuple(merged)

