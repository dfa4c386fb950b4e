"""The contraction kernels of a GPU: C[g, m, n] = sum over k of A[g, m, k] * B[g, k, n].

As on the CPU (``runtime.tile``), g, m and k are each several nested indices with strides of their own in every operand,
n is one; so a dense layer, a convolution, and its weight gradient are the same kernel with other integers (implicit
GEMM: nothing is unrolled in memory).

A block of threads computes a tile of C: it walks along k, a slice at a time; the slices of A and B come into shared
memory, their places in the operands with them; each thread keeps its part of the tile in registers.  Each element of C
has one accumulator whose terms are added in ascending k by fma.  A sum of more than ``CHUNK`` terms is cut in chunks,
which blocks take side by side and leave in scratch memory; a second launch adds them in ascending order.  So an
element's bits depend on the number of its terms alone, neither on the tile nor on rows and columns beside.  A dot
product (one column, both operands contiguous along k) is shared by the lanes of a block, which meet in a fixed tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

LEVELS = 4              # nested indices of batch, rows and sums, outermost first; unused outer ones have size 1
DOT_LANES = 64

# Terms of a sum that are added one after the other.  A weight gradient has few elements and a term a sample and place:
# without chunks, few blocks would do all of it.
CHUNK, SIMULATED_CHUNK = 2048, 24

# Argument words of a contraction: three buffers, then (CHUNKS: pieces of a sum, each of CHUNK_TERMS but the last;
# CHUNK_STRIDE: elements of C from one to the next).
(COLUMNS, COLUMN_STRIDE, ROWS, DEPTH, ROW_TILES, COLUMN_TILES, A_ALONG_SUM, B_ALONG_SUM, BATCH_COUNT, CHUNKS,
 CHUNK_TERMS, CHUNK_STRIDE) = range(6, 18)
BATCHES = 18                        # LEVELS sizes, then LEVELS strides each in A, B and C
ROW_INDEX = BATCHES + 4 * LEVELS    # sizes, strides in A, in C
SUM_INDEX = ROW_INDEX + 3 * LEVELS  # sizes, strides in A, in B
WORDS = SUM_INDEX + 3 * LEVELS


@dataclass(frozen=True)
class Tile:
    """A block's part of C, how much of k it takes at a time, and a thread's part of the tile."""

    rows: int
    columns: int
    depth: int
    thread_rows: int
    thread_columns: int

    @property
    def threads(self) -> int:
        return self.rows // self.thread_rows * (self.columns // self.thread_columns)


LARGE, MEDIUM = Tile(128, 128, 8, 8, 8), Tile(64, 64, 16, 4, 4)
FEW_ROWS, FEW_COLUMNS = Tile(16, 64, 32, 1, 4), Tile(64, 16, 32, 4, 1)
SIMULATED = Tile(8, 8, 16, 4, 4)         # of four threads: the simulator's are Python's
LARGE_TILES = 96                        # so many large tiles keep a GPU busy


def choose(batches: int, rows: int, columns: int) -> Tile:
    """The tile for a product; its bits are the same with any."""
    if rows <= FEW_ROWS.rows:
        return FEW_ROWS
    if columns <= FEW_COLUMNS.columns:
        return FEW_COLUMNS
    if batches * (rows // LARGE.rows) * (columns // LARGE.columns) >= LARGE_TILES:
        return LARGE
    return MEDIUM


@dataclass(frozen=True)
class Part:
    """A launch of a contraction: its source, its three buffers ("a", "b", "c" or "scratch"), the argument words after
    them, its units, and the threads that share a unit (1: none do)."""

    text: str
    buffers: tuple[str, str, str]
    words: tuple[int, ...]
    units: int
    threads: int


@dataclass(frozen=True)
class Plan:
    """A contraction as launches; ``scratch`` is how many elements of memory they need between them."""

    parts: tuple[Part, ...]
    scratch: int = 0


def plan(dtype: str, batch: Sequence, rows: Sequence, sums: Sequence, columns: int, column_stride: int,
         simulated: bool, tile: Tile | None = None) -> Plan:
    """The launches for these indices, each a sequence of at most four ``runtime.tile.Axis``.

    dtype: "f32" or "f64"; the column is contiguous in C and has ``column_stride`` in B; 0 for a dot product.
    """
    batches, row_count, depth = (prod(axis.size for axis in axes) for axes in (batch, rows, sums))
    is_dot = columns == 1 and column_stride == 0
    if tile is None:
        tile = SIMULATED if simulated else choose(batches, row_count, columns)
    row_tiles, column_tiles = -(-row_count // tile.rows), -(-columns // tile.columns)
    terms = SIMULATED_CHUNK if simulated else CHUNK
    chunks = 1 if is_dot else max(1, -(-depth // terms))
    cells = batches * row_count * columns
    head = (columns, column_stride, row_count, depth, row_tiles, column_tiles, int(_step(sums, "a") == 1),
            int(_step(sums, "b") == 1 and column_stride != 1), batches, chunks, terms, cells)
    words = head + _index_words(batch, rows, sums)
    if is_dot:
        lanes = 4 if simulated else DOT_LANES
        return Plan((Part(dot_text(dtype), ("a", "b", "c"), words, batches * row_count, lanes),))
    text, units = tile_text(dtype, tile), chunks * batches * row_tiles * column_tiles
    if chunks == 1:
        return Plan((Part(text, ("a", "b", "c"), words, units, tile.threads),))
    dense_batch, dense_rows = _dense(batch, row_count * columns), _dense(rows, columns)
    apart = head + _index_words(dense_batch, dense_rows, sums)
    return Plan((Part(text, ("a", "b", "scratch"), apart, units, tile.threads),
                 Part(sum_text(dtype), ("scratch", "scratch", "c"), words, cells, 1)), chunks * cells)


def _index_words(batch: Sequence, rows: Sequence, sums: Sequence) -> tuple[int, ...]:
    """Sizes and strides of the three groups of indices."""
    words: list[int] = []
    for axes, strides in ((batch, "abc"), (rows, "ac"), (sums, "ab")):
        padding = LEVELS - len(axes)
        words += [1] * padding + [axis.size for axis in axes]
        for stride in strides:
            words += [0] * padding + [getattr(axis, stride) for axis in axes]
    return tuple(words)


def _dense(axes: Sequence, step: int) -> list:
    """The indices with strides in C as if they lay there one after another, the innermost ``step`` apart."""
    made: list = []
    for axis in reversed(axes):
        made.insert(0, replace(axis, c=step))
        step *= axis.size
    return made


def _step(axes: Sequence, operand: str) -> int:
    """The stride of the innermost index that runs."""
    return next((getattr(axis, operand) for axis in reversed(axes) if axis.size > 1), 1)


# --- source -----------------------------------------------------------------------------------------------------------

PLACE = f"""@device
def place(args, sizes, strides, index):
    total = 0
    for level in range({LEVELS - 1}, 0, -1):
        size = args[sizes + level]
        outer = quotient(index, size)
        total += (index - outer * size) * args[strides + level]
        index = outer
    return total + index * args[strides]
"""

THREADS = """
def kernel(bases, args, units):
    work(words(bases), words(args), cuda.grid(1), units, cuda.gridsize(1))
"""

KERNEL = """
def kernel(bases, args, units):
    work(words(bases), words(args), cuda.blockIdx.x, units, cuda.gridDim.x)
"""


def tile_text(dtype: str, tile: Tile) -> str:
    """The source of a product in tiles."""
    across = tile.columns // tile.thread_columns            # threads along a row of the tile
    down = tile.rows // tile.thread_rows
    # A slice's rows are one element longer than they need be, so that neighbours along k lie in different banks.
    high, wide = tile.rows + 1, tile.columns + 1
    cells = [(i, j) for i in range(tile.thread_rows) for j in range(tile.thread_columns)]
    lines = f"""
@device
def work(bases, args, unit, end, stride):
    a = buffer_{dtype}(bases, args, 0)
    b = buffer_{dtype}(bases, args, 2)
    c = buffer_{dtype}(bases, args, 4)
    slice_a = pointer_{dtype}(cuda.shared.array({tile.depth * high}, type_{dtype}))
    slice_b = pointer_{dtype}(cuda.shared.array({tile.depth * wide}, type_{dtype}))
    row_a = pointer_i64(cuda.shared.array({tile.rows}, type_i64))
    row_c = pointer_i64(cuda.shared.array({tile.rows}, type_i64))
    sum_a = pointer_i64(cuda.shared.array({tile.depth}, type_i64))
    sum_b = pointer_i64(cuda.shared.array({tile.depth}, type_i64))
    columns = args[{COLUMNS}]
    column_stride = args[{COLUMN_STRIDE}]
    rows = args[{ROWS}]
    depth = args[{DEPTH}]
    row_tiles = args[{ROW_TILES}]
    column_tiles = args[{COLUMN_TILES}]
    zero = {'float32' if dtype == 'f32' else 'float64'}(0.0)
    lane = cuda.threadIdx.x
    down = lane // {across}
    across = lane % {across}
    while unit < end:
        rest = quotient(unit, column_tiles)
        first_column = (unit - rest * column_tiles) * {tile.columns}
        outer = quotient(rest, row_tiles)
        first_row = (rest - outer * row_tiles) * {tile.rows}
        chunk = quotient(outer, args[{BATCH_COUNT}])
        batch = outer - chunk * args[{BATCH_COUNT}]
        start = chunk * args[{CHUNK_TERMS}]
        stop = min(depth, start + args[{CHUNK_TERMS}])
        batch_a = place(args, {BATCHES}, {BATCHES + LEVELS}, batch)
        batch_b = place(args, {BATCHES}, {BATCHES + 2 * LEVELS}, batch) + first_column * column_stride
        batch_c = place(args, {BATCHES}, {BATCHES + 3 * LEVELS}, batch) + first_column + chunk * args[{CHUNK_STRIDE}]
        rows_here = min(rows - first_row, {tile.rows})
        columns_here = min(columns - first_column, {tile.columns})
        for i in range(lane, rows_here, {tile.threads}):
            row_a[i] = batch_a + place(args, {ROW_INDEX}, {ROW_INDEX + LEVELS}, first_row + i)
            row_c[i] = batch_c + place(args, {ROW_INDEX}, {ROW_INDEX + 2 * LEVELS}, first_row + i)
""".splitlines()
    lines += ["        cuda.syncthreads()", *(f"        c{i}_{j} = zero" for i, j in cells)]
    lines += f"""        for first in range(start, stop, {tile.depth}):
            depth_here = min(stop - first, {tile.depth})
            for i in range(lane, depth_here, {tile.threads}):
                sum_a[i] = place(args, {SUM_INDEX}, {SUM_INDEX + LEVELS}, first + i)
                sum_b[i] = place(args, {SUM_INDEX}, {SUM_INDEX + 2 * LEVELS}, first + i)
            cuda.syncthreads()
            for i in range(lane, {tile.rows * tile.depth}, {tile.threads}):
                if args[{A_ALONG_SUM}] == 1:
                    k = i % {tile.depth}
                    m = i // {tile.depth}
                else:
                    k = i // {tile.rows}
                    m = i % {tile.rows}
                slice_a[k * {high} + m] = a[row_a[m] + sum_a[k]] if (m < rows_here) & (k < depth_here) else zero
            for i in range(lane, {tile.columns * tile.depth}, {tile.threads}):
                if args[{B_ALONG_SUM}] == 1:
                    k = i % {tile.depth}
                    n = i // {tile.depth}
                else:
                    k = i // {tile.columns}
                    n = i % {tile.columns}
                is_inside = (n < columns_here) & (k < depth_here)
                slice_b[k * {wide} + n] = b[batch_b + n * column_stride + sum_b[k]] if is_inside else zero
            cuda.syncthreads()
            at_a = down
            at_b = across
            k = 0
            while k < {tile.depth}:""".splitlines()
    pad = " " * 16
    lines += [f"{pad}a{i} = slice_a[at_a + {i * down}]" for i in range(tile.thread_rows)]
    lines += [f"{pad}b{j} = slice_b[at_b + {j * across}]" for j in range(tile.thread_columns)]
    lines += [f"{pad}c{i}_{j} = fma_{dtype}(a{i}, b{j}, c{i}_{j})" for i, j in cells]
    lines += [f"{pad}at_a += {high}", f"{pad}at_b += {wide}", f"{pad}k += 1", "            cuda.syncthreads()"]
    for i in range(tile.thread_rows):
        lines += [f"        if down + {i * down} < rows_here:"]
        for j in range(tile.thread_columns):
            lines += [f"            if across + {j * across} < columns_here:",
                      f"                c[row_c[down + {i * down}] + across + {j * across}] = c{i}_{j}"]
    lines += ["        cuda.syncthreads()", "        unit += stride", ""]
    return PLACE + "\n" + "\n".join(lines) + "\n" + KERNEL


def sum_text(dtype: str) -> str:
    """The source of what adds the chunks of a contraction."""
    return PLACE + f"""
@device
def work(bases, args, unit, end, stride):
    scratch = buffer_{dtype}(bases, args, 0)
    c = buffer_{dtype}(bases, args, 4)
    columns = args[{COLUMNS}]
    rows = args[{ROWS}]
    while unit < end:
        rest = quotient(unit, columns)
        column = unit - rest * columns
        batch = quotient(rest, rows)
        row = rest - batch * rows
        total = scratch[unit]
        for chunk in range(1, args[{CHUNKS}]):
            total = total + scratch[unit + chunk * args[{CHUNK_STRIDE}]]
        here = place(args, {BATCHES}, {BATCHES + 3 * LEVELS}, batch)
        here += place(args, {ROW_INDEX}, {ROW_INDEX + 2 * LEVELS}, row)
        c[here + column] = total
        unit += stride

""" + THREADS


def dot_text(dtype: str) -> str:
    """The source of dot products, one a block."""
    return PLACE + f"""
@device
def work(bases, args, unit, end, stride):
    a = buffer_{dtype}(bases, args, 0)
    b = buffer_{dtype}(bases, args, 2)
    c = buffer_{dtype}(bases, args, 4)
    shared = cuda.shared.array({DOT_LANES}, type_{dtype})
    rows = args[{ROWS}]
    depth = args[{DEPTH}]
    lane = cuda.threadIdx.x
    lanes = cuda.blockDim.x
    while unit < end:
        batch = quotient(unit, rows)
        row = unit - batch * rows
        here_a = place(args, {BATCHES}, {BATCHES + LEVELS}, batch)
        here_a += place(args, {ROW_INDEX}, {ROW_INDEX + LEVELS}, row)
        here_b = place(args, {BATCHES}, {BATCHES + 2 * LEVELS}, batch)
        here_c = place(args, {BATCHES}, {BATCHES + 3 * LEVELS}, batch)
        here_c += place(args, {ROW_INDEX}, {ROW_INDEX + 2 * LEVELS}, row)
        total = {'float32' if dtype == 'f32' else 'float64'}(0.0)
        for k in range(lane, depth, lanes):
            at_a = here_a + place(args, {SUM_INDEX}, {SUM_INDEX + LEVELS}, k)
            at_b = here_b + place(args, {SUM_INDEX}, {SUM_INDEX + 2 * LEVELS}, k)
            total = fma_{dtype}(a[at_a], b[at_b], total)
        shared[lane] = total
        cuda.syncthreads()
        half = lanes // 2
        while half > 0:
            if lane < half:
                shared[lane] = shared[lane] + shared[lane + half]
            cuda.syncthreads()
            half //= 2
        if lane == 0:
            c[here_c] = shared[0]
        cuda.syncthreads()
        unit += stride

""" + KERNEL
