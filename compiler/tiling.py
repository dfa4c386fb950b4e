"""Contractions as matrix products over strided memory, for the runtime's tile kernel.

A contraction fits if each operand's position is linear in the indices.  Every index is then one of: a *row* (runs in
the first operand and the result), the *column* (contiguous in the second operand and the result), a *sum*, or a
*batch* index (in both operands and the result).  A convolution on a padded image is such a product as it lies in
memory: rows are output pixels, sums are kernel row and (kernel column, channel), nothing is unrolled or copied.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..runtime.records import dataclass
from .ir import Node
from .loops import Affine, Load
from .nest import Loop, Nest, View
from .schedule import Extent, Product
from .types import Size

LEVELS = 4          # nested indices of each group that the tile kernel takes
# A vector along so few columns is nearly empty, which one along so many terms is not.
FEW_COLUMNS, MANY_TERMS = 4, 128


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
    """The matrix product, or the dot products, that a contraction is, if it is either and has no more indices than the
    tile kernel takes."""
    made = (_outer_product(current, result, first, second, loops)
            or _dot_product(current, result, first, second, loops)
            or _dot_product(current, result, second, first, loops))
    if made is None or max(map(len, (made.batch, made.rows, made.sums))) > LEVELS:
        return None
    first, second = (first, second) if made.first is first else (second, first)
    a, b = (View(s.view.buffer, s.view.offset + s.index.offset, s.view.dtype) for s in (first, second))
    c = View(target.buffer, target.offset + result.offset, target.dtype)
    return Product(a, b, c, made.batch, made.rows, made.sums, made.columns, made.column_stride)


@dataclass(frozen=True)
class _Indices:
    """How a contraction's indices serve a product; ``first`` is the operand that has the rows."""

    first: Strided
    batch: tuple[Extent, ...]
    rows: tuple[Extent, ...]
    sums: tuple[Extent, ...]
    columns: Size
    column_stride: Size


def _outer_product(current: Node, result: Affine, first: Strided, second: Strided, loops) -> _Indices | None:
    """With the result's last index as the column, if it runs in one operand only and is contiguous in the result."""
    rank = current.type.rank
    column = next((k for k in reversed(range(rank)) if loops[k].extent != 1), None)
    if column is None or result.coefficient(loops[column].variable) != 1:
        return None
    name = loops[column].variable
    occurs = [s.index.coefficient(name) != 0 for s in (first, second)]
    if occurs == [True, False]:
        first, second = second, first
    elif occurs != [False, True]:
        return None
    columns, stride = loops[column].extent, second.index.coefficient(name)
    batch, rows, sums = _grouped(rank, result, first, second, loops, without=column)
    # Batch indices that go on where the columns end are columns too: such as a kernel's columns and channels.
    while batch and batch[-1].a == 0 and batch[-1].b == columns * stride and batch[-1].c == columns:
        columns, batch = columns * batch[-1].size, batch[:-1]
    if stride != 1 and (not rows or _suit_dots(columns, sums)):
        return None         # the second operand would be packed, for a single row or a few columns
    return _Indices(first, batch, rows, sums, columns, stride)


def _suit_dots(columns: Size, sums: tuple[Extent, ...]) -> bool:
    """Whether each element is better computed as a dot product of its own."""
    last = sums[-1] if sums else None
    return (last is not None and last.a == last.b == 1 and isinstance(last.size, int) and last.size >= MANY_TERMS
            and isinstance(columns, int) and columns <= FEW_COLUMNS)


def _dot_product(current: Node, result: Affine, first: Strided, second: Strided, loops) -> _Indices | None:
    """With no column, if the last sum index is contiguous in both operands."""
    batch, rows, sums = _grouped(current.type.rank, result, first, second, loops)
    if not sums or sums[-1].a != 1 or sums[-1].b != 1:
        return None
    return _Indices(first, batch, rows, sums, 1, 0)


def _grouped(rank: int, result: Affine, first: Strided, second: Strided, loops,
             without: int | None = None) -> tuple[tuple[Extent, ...], ...]:
    """The indices as batch, rows and sums; what lies together in memory is one index."""
    batch: list[Extent] = []
    rows: list[Extent] = []
    sums: list[Extent] = []
    for k, loop in enumerate(loops):
        if k == without or loop.extent == 1:
            continue
        extent = Extent(loop.extent,
                        *(index.coefficient(loop.variable) for index in (first.index, second.index, result)))
        group = sums if k >= rank else (batch if extent.b != 0 else rows)
        group.append(extent)
    # The sum runs through the first operand in memory order.
    sums.sort(key=lambda extent: -abs(extent.a) if isinstance(extent.a, int) else float("-inf"))
    return merge(batch), merge(rows), merge(sums)


def merge(extents: Sequence[Extent]) -> tuple[Extent, ...]:
    """Neighbouring indices that walk all memory in step, as one."""
    merged: list[Extent] = []
    for inner in extents:
        outer = merged[-1] if merged else None
        if outer is not None and (outer.a, outer.b, outer.c) == tuple(s * inner.size
                                                                      for s in (inner.a, inner.b, inner.c)):
            merged[-1] = Extent(outer.size * inner.size, inner.a, inner.b, inner.c)
        else:
            merged.append(inner)
    return tuple(merged)

