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
from dataclasses import replace
from math import prod

from ..records import dataclass
from .entry import with_kernel

LEVELS = 4              # nested indices of batch, rows and sums, outermost first; unused outer ones have size 1
DOT_LANES = 64

# Terms of a sum that are added one after the other.  A weight gradient has few elements and a term a sample and place:
# without chunks, few blocks would do all of it.
CHUNK, SIMULATED_CHUNK = 2048, 24

# Argument words of a contraction: three buffers, then (CHUNKS: pieces of a sum, each of CHUNK_TERMS but the last;
# CHUNK_STRIDE: elements of C from one to the next).
(COLUMNS, COLUMN_STRIDE, ROWS, DEPTH, ROW_TILES, COLUMN_TILES, A_ALONG_SUM, B_ALONG_SUM, BATCH_COUNT, CHUNKS,
 CHUNK_TERMS, CHUNK_STRIDE) = range(6, 18)
C_OFFSET = 5                        # of C's two words, where an epilogue takes its elements
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
    def down(self) -> int:
        """Threads along a column of the tile."""
        return self.rows // self.thread_rows

    @property
    def across(self) -> int:
        """Threads along a row of the tile."""
        return self.columns // self.thread_columns

    @property
    def threads(self) -> int:
        return self.down * self.across

    @property
    def cells(self) -> list[tuple[int, int]]:
        """A thread's elements."""
        return [(i, j) for i in range(self.thread_rows) for j in range(self.thread_columns)]

    # In shared memory a slice's rows are one element longer than they need be, so that neighbours along k lie in
    # different banks.

    @property
    def high(self) -> int:
        return self.rows + 1

    @property
    def wide(self) -> int:
        return self.columns + 1


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
         simulated: bool, tile: Tile | None = None, epilogue: Epilogue | None = None) -> Plan:
    """The launches for these indices, each a sequence of at most four ``runtime.tile.Axis``.

    dtype: "f32" or "f64"; the column is contiguous in C and has ``column_stride`` in B; 0 for a dot product.
    With an ``epilogue`` the word ``C_OFFSET`` of what finishes elements is where C's first lies, in elements; the words
    of its own operands are the caller's, from ``WORDS`` on.
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
        return Plan((_part(dot_text(dtype, epilogue), ("a", "b", "c"), words, batches * row_count, lanes),))
    units = chunks * batches * row_tiles * column_tiles
    if chunks == 1:
        return Plan((_part(tile_text(dtype, tile, epilogue), ("a", "b", "c"), words, units, tile.threads),))
    dense_batch, dense_rows = _dense(batch, row_count * columns), _dense(rows, columns)
    apart = head + _index_words(dense_batch, dense_rows, sums)
    return Plan((_part(tile_text(dtype, tile), ("a", "b", "scratch"), apart, units, tile.threads),
                 _part(sum_text(dtype, epilogue), ("scratch", "scratch", "c"), words, cells, 1)), chunks * cells)


def _part(work: str, buffers: tuple[str, str, str], words: tuple[int, ...], units: int, threads: int) -> Part:
    return Part(with_kernel(work, threads), buffers, words, units, threads)


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

@dataclass(frozen=True)
class Epilogue:
    """What is done with each element of C instead of storing it.

    ``text`` is the source of a function ``finish(*operands, unit, value)``; unit is the element's place in C as if C
    lay there by itself.  ``opening`` are the statements that bring its operands, and ``operands`` their names.
    """

    text: str
    opening: tuple[str, ...]
    operands: tuple[str, ...]

    def store(self, place: str, value: str) -> str:
        return f"finish({', '.join((*self.operands, place, value))})"


@dataclass(frozen=True)
class _Plain:
    """C as it is."""

    dtype: str
    text = ""

    @property
    def opening(self) -> tuple[str, ...]:
        return (f"c = buffer_{self.dtype}(bases, args, 4)",)

    def store(self, place: str, value: str) -> str:
        return f"c[{place}] = {value}"


def _zero(dtype: str) -> str:
    return f"{'float32' if dtype == 'f32' else 'float64'}(0.0)"


def _work(finish: Epilogue | _Plain, body: Sequence[str], more: Sequence[str] = ()) -> str:
    """The source of what may finish elements: what it calls (``more``: beside that), then its function ``work``."""
    head = [*PLACE.splitlines(), "", *more, "", *finish.text.splitlines(), "", "@device",
            "def work(bases, args, unit, end, stride):", *(f"    {line}" for line in finish.opening)]
    if isinstance(finish, Epilogue):
        head += [f"    first_c = args[{C_OFFSET}]"]
    return "\n".join([*head, *body]) + "\n"


def _first_c(finish: Epilogue | _Plain) -> str:
    """What an element's place begins with."""
    return "first_c + " if isinstance(finish, Epilogue) else ""


def tile_text(dtype: str, tile: Tile, epilogue: Epilogue | None = None) -> str:
    """The source of a product in tiles."""
    finish = epilogue or _Plain(dtype)
    return _work(finish, [*_tile_head(dtype, tile), *_tile_unit(tile, _first_c(finish)),
                          *(f"        c{i}_{j} = zero" for i, j in tile.cells), *_slices(tile),
                          *_products(dtype, tile), *_stores(tile, finish),
                          "        cuda.syncthreads()", "        unit += stride", ""], _bring(tile))


def _tile_head(dtype: str, tile: Tile) -> list[str]:
    """Operands, shared memory, sizes, and which part of the tile is the thread's."""
    return f"""    a = buffer_{dtype}(bases, args, 0)
    b = buffer_{dtype}(bases, args, 2)
    slice_a = pointer_{dtype}(cuda.shared.array({tile.depth * tile.high}, type_{dtype}))
    slice_b = pointer_{dtype}(cuda.shared.array({tile.depth * tile.wide}, type_{dtype}))
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
    zero = {_zero(dtype)}
    lane = cuda.threadIdx.x
    down = lane // {tile.across}
    across = lane % {tile.across}
    while unit < end:""".splitlines()


def _tile_unit(tile: Tile, first_c: str) -> list[str]:
    """Which tile, of which chunk of the sum, a unit is, and where its rows lie."""
    return f"""        rest = quotient(unit, column_tiles)
        first_column = (unit - rest * column_tiles) * {tile.columns}
        outer = quotient(rest, row_tiles)
        first_row = (rest - outer * row_tiles) * {tile.rows}
        chunk = quotient(outer, args[{BATCH_COUNT}])
        batch = outer - chunk * args[{BATCH_COUNT}]
        start = chunk * args[{CHUNK_TERMS}]
        stop = min(depth, start + args[{CHUNK_TERMS}])
        batch_a = place(args, {BATCHES}, {BATCHES + LEVELS}, batch)
        batch_b = place(args, {BATCHES}, {BATCHES + 2 * LEVELS}, batch) + first_column * column_stride
        batch_c = {first_c}place(args, {BATCHES}, {BATCHES + 3 * LEVELS}, batch)
        batch_c += first_column + chunk * args[{CHUNK_STRIDE}]
        rows_here = min(rows - first_row, {tile.rows})
        columns_here = min(columns - first_column, {tile.columns})
        for i in range(lane, rows_here, {tile.threads}):
            row_a[i] = batch_a + place(args, {ROW_INDEX}, {ROW_INDEX + LEVELS}, first_row + i)
            row_c[i] = batch_c + place(args, {ROW_INDEX}, {ROW_INDEX + 2 * LEVELS}, first_row + i)
        cuda.syncthreads()""".splitlines()


def _bring(tile: Tile) -> list[str]:
    """The functions that bring a slice of either operand into shared memory: the same whatever becomes of the
    elements, so that their types are inferred once."""
    return f"""@device
def bring_a(a, slice_a, row_a, sum_a, is_along_sum, rows_here, depth_here, lane, zero):
    for i in range(lane, {tile.rows * tile.depth}, {tile.threads}):
        if is_along_sum == 1:
            k = i % {tile.depth}
            m = i // {tile.depth}
        else:
            k = i // {tile.rows}
            m = i % {tile.rows}
        slice_a[k * {tile.high} + m] = a[row_a[m] + sum_a[k]] if (m < rows_here) & (k < depth_here) else zero

@device
def bring_b(b, slice_b, batch_b, column_stride, sum_b, is_along_sum, columns_here, depth_here, lane, zero):
    for i in range(lane, {tile.columns * tile.depth}, {tile.threads}):
        if is_along_sum == 1:
            k = i % {tile.depth}
            n = i // {tile.depth}
        else:
            k = i // {tile.columns}
            n = i % {tile.columns}
        is_inside = (n < columns_here) & (k < depth_here)
        slice_b[k * {tile.wide} + n] = b[batch_b + n * column_stride + sum_b[k]] if is_inside else zero
""".splitlines()


def _slices(tile: Tile) -> list[str]:
    """The walk along the sum, a slice of either operand at a time."""
    return f"""        for first in range(start, stop, {tile.depth}):
            depth_here = min(stop - first, {tile.depth})
            for i in range(lane, depth_here, {tile.threads}):
                sum_a[i] = place(args, {SUM_INDEX}, {SUM_INDEX + LEVELS}, first + i)
                sum_b[i] = place(args, {SUM_INDEX}, {SUM_INDEX + 2 * LEVELS}, first + i)
            cuda.syncthreads()
            bring_a(a, slice_a, row_a, sum_a, args[{A_ALONG_SUM}], rows_here, depth_here, lane, zero)
            bring_b(b, slice_b, batch_b, column_stride, sum_b, args[{B_ALONG_SUM}], columns_here, depth_here, lane,
                    zero)
            cuda.syncthreads()""".splitlines()


def _products(dtype: str, tile: Tile) -> list[str]:
    """A slice's part of the thread's elements, which lie in registers."""
    pad = " " * 16
    return ["            at_a = down", "            at_b = across", "            k = 0",
            f"            while k < {tile.depth}:",
            *(f"{pad}a{i} = slice_a[at_a + {i * tile.down}]" for i in range(tile.thread_rows)),
            *(f"{pad}b{j} = slice_b[at_b + {j * tile.across}]" for j in range(tile.thread_columns)),
            *(f"{pad}c{i}_{j} = fma_{dtype}(a{i}, b{j}, c{i}_{j})" for i, j in tile.cells),
            f"{pad}at_a += {tile.high}", f"{pad}at_b += {tile.wide}", f"{pad}k += 1", "            cuda.syncthreads()"]


def _stores(tile: Tile, finish: Epilogue | _Plain) -> list[str]:
    """The thread's elements that C has."""
    lines = [f"        column{j} = across + {j * tile.across}" for j in range(tile.thread_columns)]
    lines += [f"        has{j} = column{j} < columns_here" for j in range(tile.thread_columns)]
    for i in range(tile.thread_rows):
        lines += [f"        m = down + {i * tile.down}", "        if m < rows_here:", "            here = row_c[m]"]
        for j in range(tile.thread_columns):
            lines += [f"            if has{j}:", f"                {finish.store(f'here + column{j}', f'c{i}_{j}')}"]
    return lines


def sum_text(dtype: str, epilogue: Epilogue | None = None) -> str:
    """The source of what adds the chunks of a contraction."""
    finish = epilogue or _Plain(dtype)
    return _work(finish, f"""    scratch = buffer_{dtype}(bases, args, 0)
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
        here = {_first_c(finish)}place(args, {BATCHES}, {BATCHES + 3 * LEVELS}, batch)
        here += place(args, {ROW_INDEX}, {ROW_INDEX + 2 * LEVELS}, row)
        {finish.store("here + column", "total")}
        unit += stride
""".splitlines())


def dot_text(dtype: str, epilogue: Epilogue | None = None) -> str:
    """The source of dot products, one a block."""
    finish = epilogue or _Plain(dtype)
    return _work(finish, f"""    a = buffer_{dtype}(bases, args, 0)
    b = buffer_{dtype}(bases, args, 2)
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
        here_c = {_first_c(finish)}place(args, {BATCHES}, {BATCHES + 3 * LEVELS}, batch)
        here_c += place(args, {ROW_INDEX}, {ROW_INDEX + 2 * LEVELS}, row)
        total = {_zero(dtype)}
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
            {finish.store("here_c", "shared[0]")}
        cuda.syncthreads()
        unit += stride
""".splitlines())
