"""The loops around the tiles of a contraction; see ``tile``.  This module is imported only to compile."""

from __future__ import annotations

from llvmlite import ir

from .kinds import Typed, int64, template
from .machine import Object
from .native import ARGS, KERNEL, buffer_f32, buffer_f64, compile_native, least, stack_words
from .packing_code import lay_out_a, pack_a, pack_columns, pack_rows, rows_of
from .simd import I64, call_intrinsic, counting
from .tile import (
    ACCUMULATE,
    BATCH,
    BLOCK_COLUMNS,
    BLOCK_ROWS,
    BY_ROWS,
    CHUNKS,
    COLUMN_STRIDE_B,
    COLUMNS,
    HALF,
    HEIGHTS,
    LANES,
    LAST_WIDE,
    LEVELS,
    MAX_DEPTH,
    MAX_ROWS,
    NEAR,
    PACKED_A,
    PACKED_BYTES,
    PACKS,
    PACKS_A,
    PANEL_COLUMNS,
    PANEL_STRIDE,
    ROWS,
    STRETCH,
    SUMS,
    TALL,
    TILES,
    TOTAL_CHUNK,
    WIDE,
)
from .tile_code import AHEAD_A, AHEAD_B, DEPTH_WORDS, PANEL_WORD, STRETCH_WORD
from .vectors import Vectors, offset, pointer, spread, stack_floats


@template
def _call_tiles(args: Typed, word: Typed, a: Typed, *rest: Typed):
    """Call the tiles whose address is args[word]."""
    def emit(builder, args, word, *values):
        function = ir.FunctionType(ir.VoidType(), [value.type for value in values])
        place = builder.bitcast(builder.gep(args, [word]), function.as_pointer().as_pointer())
        builder.call(builder.load(place), values)
    return emit, None, ARGS, int64, a.kind, ARGS, a.kind, a.kind, ARGS, ARGS, int64, int64, int64


@template
def _add_scaled(target: Typed, source: Typed, factor: Typed, count: Typed, keep: Typed):
    """target[j] = (target[j] if ``keep`` != 0 else 0) + factor[0] * source[j] for ``count`` values."""
    def emit(builder, target, source, factor, count, keep):
        vectors = Vectors(builder, target.type.pointee)
        factor, none = builder.load(factor), ir.Constant(I64, 0)
        keeps = builder.icmp_signed("!=", keep, none)
        whole, _ = vectors.split(count)
        factors = spread(builder, factor, vectors.type)
        with counting(builder, none, whole, ir.Constant(I64, vectors.width)) as (at, _):
            old = builder.select(keeps, vectors.load(target, at), ir.Constant(vectors.type, None))
            new = call_intrinsic(builder, "fma", vectors.type, [factors, vectors.load(source, at), old])
            vectors.store(new, target, at)
        with counting(builder, whole, count, ir.Constant(I64, 1)) as (at, _):
            place, other = builder.gep(target, [at]), builder.load(builder.gep(source, [at]))
            old = builder.select(keeps, builder.load(place), ir.Constant(vectors.element, 0.0))
            builder.store(call_intrinsic(builder, "fma", vectors.element, [factor, other, old]), place)
    return emit, None, target.kind, target.kind, target.kind, int64, int64


def _product(words, first):
    total = 1
    for level in range(LEVELS):
        total *= words[first + level]
    return total


def _batch_offsets(args, batch, offsets):
    """Offsets of batch element ``batch`` in A, B and C."""
    rest = batch
    offsets[0] = offsets[1] = offsets[2] = 0
    for i in range(LEVELS):
        level = BATCH + LEVELS - 1 - i
        size = args[level]
        if size > 1:        # a division costs more than all the rest
            place = rest % size
            rest //= size
            for operand in range(3):
                offsets[operand] += place * args[level + (1 + operand) * LEVELS]


def _row_offsets(args, first, count, rows_a, rows_c, position):
    """Offsets of rows first .. first + count - 1 in A and C."""
    rest, at_a, at_c = first, 0, 0
    for i in range(LEVELS):
        level = LEVELS - 1 - i
        size = args[ROWS + level]
        position[level] = 0
        if size > 1:
            position[level] = rest % size
            rest //= size
        at_a += position[level] * args[ROWS + LEVELS + level]
        at_c += position[level] * args[ROWS + 2 * LEVELS + level]
    inner = LEVELS - 1
    size, step_a, step_c = args[ROWS + inner], args[ROWS + LEVELS + inner], args[ROWS + 2 * LEVELS + inner]
    row = 0
    while row < count:
        here = least(size - position[inner], count - row)
        for i in range(here):
            rows_a[row + i], rows_c[row + i] = at_a + i * step_a, at_c + i * step_c
        row += here
        # The row after the last of the innermost index: back to its first, and the next one outside goes on.
        at_a -= position[inner] * step_a
        at_c -= position[inner] * step_c
        position[inner] = 0
        level = inner - 1
        while level >= 0:
            position[level] += 1
            at_a += args[ROWS + LEVELS + level]
            at_c += args[ROWS + 2 * LEVELS + level]
            if position[level] < args[ROWS + level]:
                break
            at_a -= position[level] * args[ROWS + LEVELS + level]
            at_c -= position[level] * args[ROWS + 2 * LEVELS + level]
            position[level] = 0
            level -= 1


def _cover(args, count, counts):
    """How many tiles of each height cover ``count`` rows: tall ones and ones of a row less if they do so exactly; else
    tall ones, and the last rows get the smallest tile that covers them, in which rows too many repeat the last one."""
    tall, near = args[TALL], args[NEAR]
    counts[0], counts[1], counts[2], counts[3] = count // tall, 0, 0, 0
    rest = count - counts[0] * tall
    if rest != 0:
        tiles = counts[0] + 1
        if count >= tiles * near:
            counts[1] = tiles * tall - count
            counts[0] = tiles - counts[1]
        else:
            counts[0 if rest > args[HALF] else (2 if rest > 1 else 3)] += 1


CHUNK_WORDS = 2 + LEVELS - 1        # offsets of a chunk of k in A and B, and its sizes


def _pieces(args, pieces):
    """Into how many pieces each sum index falls, and how many chunks there are: one even of an empty sum, which stores
    the zeros."""
    chunks = 1
    for level in range(LEVELS):
        size, here = args[SUMS + level], args[CHUNKS + level]
        pieces[level] = (size + here - 1) // here if size > here else 1
        chunks *= pieces[level]
    return chunks


def _chunk(args, number, pieces, chunk):
    """Where chunk ``number`` of k is in A and B, and how much of each inner sum index it takes."""
    rest = number
    chunk[0] = chunk[1] = 0
    for i in range(LEVELS):
        level = LEVELS - 1 - i
        first, here = 0, args[CHUNKS + level]
        if pieces[level] > 1:
            first = rest % pieces[level] * here
            rest //= pieces[level]
            chunk[0] += first * args[SUMS + LEVELS + level]
            chunk[1] += first * args[SUMS + 2 * LEVELS + level]
        if level > 0:
            chunk[1 + level] = least(here, args[SUMS + level] - first)


def _place_in_b(args, column):
    """Where in B the tile is that begins with this column."""
    panel = args[PANEL_COLUMNS]
    return column // panel * args[PANEL_STRIDE] if panel != 0 else column


def _block(args, a, rows_a, starts, tiles, b, c, rows_c, depth, tile_depth, panels, packed_a, packed_rows, counts,
           first_column, last_column, accumulate):
    """A block of rows and columns over one chunk of k."""
    wide, last_wide, packs = args[WIDE], args[LAST_WIDE], args[PACKS]
    size1, size0 = depth[1], depth[2]
    for i in range(DEPTH_WORDS):
        tile_depth[i] = depth[i]
    if args[PACKS_A] != 0:
        tile_depth[AHEAD_A] = 0
        tall = args[TALL]
        pack_a(packed_a, a, rows_a, starts, tiles, tall, depth)
        a, rows_a = packed_a, packed_rows
        tile_depth[3], tile_depth[4], tile_depth[5] = size1 * size0 * tall, size0 * tall, tall
    group = packs if packs != 0 else last_column - first_column
    for group_column in range(first_column, last_column, group):
        group_end = least(group_column + group, last_column)
        if packs != 0:
            stride = args[COLUMN_STRIDE_B]
            source, size = offset(b, group_column * stride), depth[0] * size1 * size0 * wide
            if stride == 1:
                pack_rows(panels, source, depth, group_end - group_column, wide, last_wide, size)
            else:
                pack_columns(panels, source, depth, stride, group_end - group_column, wide, last_wide, size,
                              args[LANES])
        for column in range(group_column, group_end, wide):
            here = least(wide, group_end - column)
            at_b = _place_in_b(args, column)
            tile_b = offset(b, at_b)
            # The columns beside these come next, and after the last ones the next chunk's first; after the last chunk,
            # for the next unit, the first chunk's.
            if column + wide < last_column:
                tile_depth[AHEAD_B] = _place_in_b(args, column + wide) - at_b
            else:
                tile_depth[AHEAD_B] = _place_in_b(args, first_column) - at_b + depth[AHEAD_B]
            if packs != 0:
                tile_depth[AHEAD_B] = 0
                tile_b = offset(panels, (column - group_column) * depth[0] * size1 * size0)
                width = wide if here == wide else last_wide
                tile_depth[6], tile_depth[7], tile_depth[8] = size1 * size0 * width, size0 * width, width
            tile = TILES if here == wide else TILES + HEIGHTS
            row = 0
            for height in range(HEIGHTS):
                high = counts[height]
                if high != 0:
                    _call_tiles(args, tile + height, a, offset(rows_a, row), tile_b, offset(c, column),
                                offset(rows_c, row), tile_depth, here, accumulate, high)
                    row += high * rows_of(args, height)


def _add_rows(args, a, rows_a, b, c, rows_c, count):
    """A block of rows of a sum of one term, each row of C by itself: a tile's beginning and end would take longer."""
    for row in range(count):
        _add_scaled(offset(c, rows_c[row]), b, offset(a, rows_a[row]), args[COLUMNS], args[ACCUMULATE])


def _define_contract(is_double):
    panel_size = MAX_DEPTH * PACKED_BYTES // (8 if is_double else 4)

    def contract(bases, args, begin, end):
        a, b = pointer(bases, args, 0, is_double), pointer(bases, args, 2, is_double)
        c = pointer(bases, args, 4, is_double)
        rows_a, rows_c, position = stack_words(MAX_ROWS + 1), stack_words(MAX_ROWS), stack_words(LEVELS)
        pieces, chunk = stack_words(LEVELS), stack_words(CHUNK_WORDS)
        packed_rows, starts = stack_words(MAX_ROWS + 1), stack_words(MAX_ROWS + 1)
        depth, tile_depth, counts = stack_words(DEPTH_WORDS), stack_words(DEPTH_WORDS), stack_words(HEIGHTS)
        depth[PANEL_WORD], depth[STRETCH_WORD] = args[PANEL_STRIDE], args[STRETCH]
        panel, packed_a = stack_floats(panel_size, is_double), stack_floats(PACKED_A, is_double)
        rows, columns = _product(args, ROWS), args[COLUMNS]
        column_blocks = (columns + args[BLOCK_COLUMNS] - 1) // args[BLOCK_COLUMNS]
        row_blocks = (rows + args[BLOCK_ROWS] - 1) // args[BLOCK_ROWS]
        for level in range(3):
            depth[3 + level] = args[SUMS + LEVELS + 1 + level]
            depth[6 + level] = args[SUMS + 2 * LEVELS + 1 + level]
        chunks = _pieces(args, pieces)
        if args[BY_ROWS] != 0:          # nothing is left to the chunks
            chunks = 0
        for unit in range(begin, end):
            column_block, rest = unit % column_blocks, unit // column_blocks
            first_row, batch = rest % row_blocks * args[BLOCK_ROWS], rest // row_blocks
            count = least(args[BLOCK_ROWS], rows - first_row)
            _row_offsets(args, first_row, count, rows_a, rows_c, position)
            whole = (count + args[TALL] - 1) // args[TALL] * args[TALL]
            rows_a[whole] = rows_a[0]
            for row in range(count, whole):
                rows_a[row], rows_c[row] = rows_a[count - 1], rows_c[count - 1]
            _cover(args, count, counts)
            tiles = lay_out_a(args, counts, starts, packed_rows) if args[PACKS_A] != 0 else 0
            first_column = column_block * args[BLOCK_COLUMNS]
            last_column = least(first_column + args[BLOCK_COLUMNS], columns)
            _batch_offsets(args, batch, position)
            unit_a, unit_b, unit_c = offset(a, position[0]), offset(b, position[1]), offset(c, position[2])
            if args[BY_ROWS] != 0:
                _add_rows(args, unit_a, rows_a, unit_b, unit_c, rows_c, count)
            accumulate = args[ACCUMULATE]
            _chunk(args, 0, pieces, chunk)
            for number in range(chunks):
                at_a, at_b = chunk[0], chunk[1]
                for level in range(3):
                    depth[level] = chunk[2 + level]
                _chunk(args, number + 1 if number + 1 < chunks else 0, pieces, chunk)
                depth[AHEAD_A] = chunk[0] - at_a if depth[5] != 1 else 0
                depth[AHEAD_B] = chunk[1] - at_b
                _block(args, offset(unit_a, at_a), rows_a, starts, tiles, offset(unit_b, at_b),
                       unit_c, rows_c, depth, tile_depth, panel, packed_a, packed_rows, counts, first_column,
                       last_column, accumulate)
                accumulate = 1
    return contract


def build_contract(dtype: str) -> Object:
    """The contraction kernel for "f32" or "f64"."""
    return compile_native(_define_contract(dtype == "f64"), KERNEL, f"contract_{dtype}", level=2)


# --- sums in parts ------------------------------------------------------------------------------------------------


def _define_total(is_double):
    buffer = buffer_f64 if is_double else buffer_f32

    def total(bases, args, begin, end):
        parts, c = buffer(bases, args, 0), buffer(bases, args, 2)
        count, cells = args[4], args[5]
        first, last = begin * TOTAL_CHUNK, least(end * TOTAL_CHUNK, cells)
        for i in range(first, last):
            c[i] = parts[i] + parts[cells + i]
        for part in range(2, count):
            for i in range(first, last):
                c[i] = c[i] + parts[part * cells + i]
    return total


def build_total(dtype: str) -> Object:
    """The kernel that adds up parts, for "f32" or "f64"."""
    return compile_native(_define_total(dtype == "f64"), KERNEL, f"total_{dtype}")
