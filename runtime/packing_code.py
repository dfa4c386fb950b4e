"""Copies of a contraction's operands, in which its tiles find what they need side by side; see ``tile``.

This module is imported only to compile.
"""

from __future__ import annotations

from llvmlite import ir

from .kinds import Typed, int64, template
from .machine import Object
from .native import KERNEL, compile_native, least, stack_words
from .simd import I32, I64
from .tile import (
    HEIGHTS,
    LEVELS,
    MAX_ROWS,
    MAX_TILE_ROWS,
    PACK_COLUMNS,
    PACK_SUMS,
    PACKED_BYTES,
    PACKED_DEPTH,
    PACKED_SPILL,
    PREFETCH_ROWS,
    PREFETCHED,
    TALL,
)
from .tile_code import DEPTH_WORDS
from .vectors import Vectors, ask_for, lanes_below, load_masked, offset, pointer


@template
def _copy_rows(target: Typed, source: Typed, count: Typed):
    """Copy at most MAX_TILE_ROWS values; as many after them as fill a vector may be overwritten."""
    def emit(builder, target, source, count):
        vectors = Vectors(builder, target.type.pointee)
        for first in range(0, MAX_TILE_ROWS, vectors.width):
            at = ir.Constant(I64, first)
            left = builder.sub(count, at)
            with builder.if_then(builder.icmp_signed(">", left, ir.Constant(I64, 0))):
                mask = lanes_below(builder, vectors.element, left)
                vectors.store(load_masked(builder, vectors.place(source, at), mask), target, at)
    return emit, None, target.kind, target.kind, int64


@template
def _copy_padded(target: Typed, source: Typed, count: Typed):
    """Copy ``count`` values and, up to a whole vector, zeros after them."""
    def emit(builder, target, source, count):
        vectors = Vectors(builder, target.type.pointee)
        whole, rest = vectors.split(count)
        vectors.copy_whole(target, source, whole)
        with builder.if_then(builder.icmp_signed(">", rest, ir.Constant(I64, 0))):
            values = load_masked(builder, vectors.place(source, whole), lanes_below(builder, vectors.element, rest))
            vectors.store(values, target, whole)
    return emit, None, target.kind, target.kind, int64


@template
def _transpose(target: Typed, target_step: Typed, source: Typed, source_step: Typed):
    """target[i * target_step + j] = source[j * source_step + i] for i and j below a vector's width."""
    def emit(builder, target, target_step, source, source_step):
        vectors = Vectors(builder, target.type.pointee)
        width = vectors.width
        rows = [vectors.load(source, builder.mul(source_step, ir.Constant(I64, j))) for j in range(width)]
        distance = 1
        while distance < width:     # exchange what lies off the diagonal of ever larger blocks
            for i in range(width):
                if not i & distance:
                    rows[i], rows[i + distance] = _exchange(builder, rows[i], rows[i + distance], distance, width)
            distance *= 2
        for i, row in enumerate(rows):
            vectors.store(row, target, builder.mul(target_step, ir.Constant(I64, i)))
    return emit, None, target.kind, int64, target.kind, int64


def _exchange(builder, upper, lower, distance: int, width: int):
    """Swap the right parts of one row's blocks of 2 * distance with the left parts of the other's."""
    number = ir.VectorType(I32, width)
    first = [width + c - distance if c & distance else c for c in range(width)]
    second = [width + c if c & distance else c + distance for c in range(width)]
    return tuple(builder.shuffle_vector(upper, lower, ir.Constant(number, [ir.Constant(I32, c) for c in mask]))
                 for mask in (first, second))


# --- B, in panels -------------------------------------------------------------------------------------------------


def pack_rows(panels, b, depth, columns, wide, last_wide, panel_size):
    """Copy ``columns`` contiguous columns of a chunk of B to panels, each of ``wide`` columns (the last of
    ``last_wide``) whose rows lie together, ``panel_size`` apart.

    Row by row, not panel by panel: B's rows may be far apart, and neighbouring cache lines come at once.
    """
    size2, size1, size0 = depth[0], depth[1], depth[2]
    whole = columns // wide
    row = 0
    for k2 in range(size2):
        for k1 in range(size1):
            source = offset(b, k2 * depth[6] + k1 * depth[7])
            for k0 in range(size0):
                from_row = offset(source, k0 * depth[8])
                for p in range(whole + 1):
                    width = wide if p < whole else last_wide
                    here = least(wide, columns - p * wide)
                    # The hardware does not foresee rows that are far apart.
                    ask_for(from_row, p * wide + PREFETCH_ROWS * depth[8])
                    _copy_padded(offset(panels, p * panel_size + row * width), offset(from_row, p * wide), here)
                row += 1


def pack_columns(panels, b, depth, column_stride, columns, wide, last_wide, panel_size, lane_count):
    """As ``pack_rows`` where B's columns are ``column_stride`` apart: by square blocks if k is contiguous."""
    size2, size1, size0 = depth[0], depth[1], depth[2]
    blocks = size0 // lane_count if depth[8] == 1 else 0
    for k2 in range(size2):
        for k1 in range(size1):
            source = offset(b, k2 * depth[6] + k1 * depth[7])
            row = (k2 * size1 + k1) * size0
            column = 0
            while column < columns:
                panel, at = column // wide, column % wide
                width = wide if (panel + 1) * wide <= columns else last_wide
                to = offset(panels, panel * panel_size + row * width + at)
                origin = offset(source, column * column_stride)
                whole = blocks if columns - column >= lane_count else 0
                here = lane_count if whole != 0 else 1
                for block in range(whole):
                    for j in range(lane_count):         # the hardware does not foresee the next columns
                        ask_for(origin, (lane_count + j) * column_stride + block * lane_count)
                    _transpose(offset(to, block * lane_count * width), width,
                               offset(origin, block * lane_count), column_stride)
                for k0 in range(whole * lane_count, size0):
                    for j in range(here):
                        to[k0 * width + j] = origin[k0 * depth[8] + j * column_stride]
                column += here
            if columns % wide != 0:
                to = offset(panels, columns // wide * panel_size + row * last_wide)
                for k0 in range(size0):
                    for j in range(columns % wide, last_wide):
                        to[k0 * last_wide + j] = 0


def _define_pack(is_double):
    packed_columns = PACKED_BYTES // (8 if is_double else 4)

    def pack(bases, args, begin, end):
        b, panels = pointer(bases, args, 0, is_double), pointer(bases, args, 2, is_double)
        depth = stack_words(DEPTH_WORDS)
        columns, column_stride, wide, panel_size = (args[PACK_COLUMNS], args[PACK_COLUMNS + 1], args[PACK_COLUMNS + 2],
                                                    args[PACK_COLUMNS + 3])
        lane_count, most_rows = args[PACK_COLUMNS + 4], args[PACK_COLUMNS + 5]
        size0, stride0 = args[PACK_SUMS + LEVELS - 1], args[PACK_SUMS + 2 * LEVELS - 1]
        pieces = (size0 + most_rows - 1) // most_rows
        depth[0], depth[1], depth[6], depth[7], depth[8] = 1, 1, 0, 0, stride0
        for unit in range(begin, end):
            outer, first = unit // pieces, unit % pieces * most_rows
            row, at = outer * size0 + first, first * stride0
            for i in range(1, LEVELS):
                level = PACK_SUMS + LEVELS - 1 - i
                at += outer % args[level] * args[level + LEVELS]
                outer //= args[level]
            depth[2] = least(most_rows, size0 - first)
            if column_stride == 1:
                # All panels side by side would fall out of the cache before their lines are full: they are often a
                # power of two apart.
                group = packed_columns // wide * wide
                for column in range(0, columns, group):
                    pack_rows(offset(panels, row * wide + column // wide * panel_size), offset(b, at + column), depth,
                              least(group, columns - column), wide, wide, panel_size)
            else:
                pack_columns(offset(panels, row * wide), offset(b, at), depth, column_stride, columns, wide, wide,
                              panel_size, lane_count)
    return pack


def build_pack(dtype: str) -> Object:
    """The kernel that copies a B to panels, for "f32" or "f64"."""
    return compile_native(_define_pack(dtype == "f64"), KERNEL, f"pack_{dtype}", level=2)


# --- A, by tiles --------------------------------------------------------------------------------------------------


def rows_of(args, height):
    """Rows of a tile of the height of this number; the last one has one row."""
    return args[TALL + height] if height < HEIGHTS - 1 else 1


def lay_out_a(args, counts, starts, packed_rows):
    """Where a copy of A has the rows of each tile: write the first row of every tile, after them how many there are in
    all, and the rows' offsets; the number of tiles is returned."""
    distance = args[TALL] * PACKED_DEPTH + PACKED_SPILL
    tile, row = 0, 0
    for height in range(HEIGHTS):
        rows = rows_of(args, height)
        for _ in range(counts[height]):
            starts[tile] = row
            for r in range(rows):
                packed_rows[row + r] = tile * distance + r
            tile += 1
            row += rows
    starts[tile] = row
    return tile


def pack_a(packed, a, rows_a, starts, tiles, tall, depth):
    """Copy a block of rows of a chunk of A: tile by tile, in which each k is ``tall`` further."""
    distance, last = tall * PACKED_DEPTH + PACKED_SPILL, tiles - 1
    rows, near = starts[tiles], stack_words(MAX_ROWS)
    is_whole = _are_near(rows_a, 0, rows)
    for tile in range(last):
        near[tile] = _are_near(rows_a, starts[tile], starts[tile + 1])
    for k2 in range(depth[0]):
        for k1 in range(depth[1]):
            source = offset(a, k2 * depth[3] + k1 * depth[4])
            for k0 in range(depth[2]):
                origin = offset(source, k0 * depth[5])
                if is_whole:
                    first = offset(origin, rows_a[0])
                    for value in range(0, rows, PREFETCHED):
                        ask_for(first, value + PREFETCH_ROWS * depth[5])
                    # With a tile that is not tall a row of the next one is copied; the last one has no next.
                    for tile in range(last):
                        _copy_rows(offset(packed, tile * distance), offset(first, starts[tile]), tall)
                else:
                    for tile in range(last):
                        _pack_tile(offset(packed, tile * distance), origin, rows_a, starts[tile], starts[tile + 1],
                                   near[tile])
                for row in range(starts[last], rows):
                    packed[last * distance + row - starts[last]] = origin[rows_a[row]]
                packed = offset(packed, tall)


def _are_near(rows_a, first, end):
    """Whether each of the rows is an element after the one before."""
    row = first + 1
    while row < end:
        if rows_a[row] != rows_a[row - 1] + 1:
            break
        row += 1
    return row == end


def _pack_tile(to, origin, rows_a, first, end, near):
    """Copy the rows of a tile, neighbours if ``near`` is not 0, at one k."""
    if near != 0:
        _copy_rows(to, offset(origin, rows_a[first]), end - first)
    else:
        for row in range(first, end):
            to[row - first] = origin[rows_a[row]]
