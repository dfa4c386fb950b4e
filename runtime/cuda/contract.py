"""The contraction kernels of a GPU: C[g, m, n] = sum over k of A[g, m, k] * B[g, k, n].

As on the CPU (``runtime.tile``), g, m and k are each several nested indices with strides of their own in every operand,
n is one; so a dense layer, a convolution, and its weight gradient are the same kernel with other integers (implicit
GEMM: nothing is unrolled in memory).

Each element of C is computed in a tile (see ``tiles``) and has one accumulator whose terms are added in ascending k by
fma.  A sum of more than ``LONGEST`` terms is cut in chunks, which blocks take side by side and leave in scratch memory;
a second launch adds them in ascending order.  So an element's bits depend on the number of its terms alone, neither on
the tile nor on rows and columns beside.  A dot product (one column, both operands contiguous along k) is shared by the
lanes of a block, which meet in a fixed tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from ..records import dataclass
from ..tile import Axis
from .entry import with_kernel
from .tiles import GROUP, SIMULATED, Tile, choose, form_of, tile_text
from .words import (
    BATCHES,
    CHUNK_STRIDE,
    CHUNKS,
    COLUMNS,
    DEPTH,
    LEVELS,
    ROW_INDEX,
    ROWS,
    SUM_INDEX,
    Epilogue,
    Plain,
    work,
    zero,
)

DOT_LANES = 64

# The most terms of a sum that are added one after the other, and how many are where there are more.  A weight gradient
# has few elements and a term a sample and place: without chunks, few blocks would do all of it.
LONGEST, CHUNK = 4096, 2048
SIMULATED_CHUNK = 24


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
         simulated: bool, tile: Tile | None = None, epilogue: Epilogue | None = None,
         alignments: Sequence[int] = (GROUP, GROUP, GROUP)) -> Plan:
    """The launches for these indices, each a sequence of at most four ``runtime.tile.Axis``.

    dtype: "f32" or "f64"; the column is contiguous in C and has ``column_stride`` in B; 0 for a dot product.
    ``alignments``: of how many elements A, B and C each begin at a multiple.  With an ``epilogue`` the word
    ``C_OFFSET`` of what finishes elements is where C's first lies, in elements; the words of its own operands are the
    caller's, from ``WORDS`` on.
    """
    batch, rows, sums = ([axis for axis in axes if axis.size != 1] for axes in (batch, rows, sums))
    batches, row_count, depth = (prod(axis.size for axis in axes) for axes in (batch, rows, sums))
    chunks, terms = _chunks(depth, simulated)
    if tile is None:
        tile = SIMULATED if simulated else choose(dtype, chunks * batches, row_count, columns)
    row_tiles, column_tiles = -(-row_count // tile.rows), -(-columns // tile.columns)
    cells = batches * row_count * columns
    moves = _moves(sums, tile.depth)
    steps = (sum(move * getattr(axis, operand) for move, axis in zip(moves, sums)) for operand in "ab")
    head = (columns, column_stride, row_count, depth, row_tiles, column_tiles, batches, chunks, terms, cells, *steps)

    def words(batch: Sequence, rows: Sequence) -> tuple[int, ...]:
        return (*head, *_index_words(batch, rows, sums), *[0] * (LEVELS - len(moves)), *moves)

    def in_tiles(batch: Sequence, rows: Sequence, c: str, alignment: int, epilogue: Epilogue | None) -> Part:
        form = form_of(tile, batch, rows, Axis(columns, b=column_stride, c=1), sums, (*alignments[:2], alignment))
        return Part(tile_text(dtype, tile, form, epilogue), ("a", "b", c), words(batch, rows),
                    chunks * batches * row_tiles * column_tiles, tile.threads)
    if columns == 1 and column_stride == 0:
        lanes = 4 if simulated else DOT_LANES
        text = with_kernel(dot_text(dtype, epilogue), lanes)
        return Plan((Part(text, ("a", "b", "c"), words(batch, rows), batches * row_count, lanes),))
    if chunks == 1:
        return Plan((in_tiles(batch, rows, "c", 1 if epilogue else alignments[2], epilogue),))
    dense = _dense(batch, row_count * columns), _dense(rows, columns)
    text = with_kernel(sum_text(dtype, epilogue), 1)
    return Plan((in_tiles(*dense, "scratch", GROUP, None),
                 Part(text, ("scratch", "scratch", "c"), words(batch, rows), cells, 1)), chunks * cells)


def _chunks(depth: int, simulated: bool) -> tuple[int, int]:
    """How many chunks a sum is cut in, and their terms; of its length alone."""
    longest, terms = (SIMULATED_CHUNK, SIMULATED_CHUNK) if simulated else (LONGEST, CHUNK)
    if depth <= longest:
        return 1, max(depth, 1)
    return -(-depth // terms), terms


def _moves(sums: Sequence, step: int) -> list[int]:
    """How far each index of a sum goes, in so many terms."""
    moves: list[int] = []
    for axis in reversed(sums[1:]):
        step, move = divmod(step, max(axis.size, 1))
        moves.insert(0, move)
    return [step, *moves] if sums else []


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


# --- source -----------------------------------------------------------------------------------------------------------


def sum_text(dtype: str, epilogue: Epilogue | None = None) -> str:
    """The source of what adds the chunks of a contraction."""
    finish = epilogue or Plain(dtype)
    return work(finish, f"""    scratch = buffer_{dtype}(bases, args, 0)
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
        here = {finish.first_c}place(args, {BATCHES}, {BATCHES + 3 * LEVELS}, batch)
        here += place(args, {ROW_INDEX}, {ROW_INDEX + 2 * LEVELS}, row)
        {finish.store("here + column", "total")}
        unit += stride
""".splitlines())


def dot_text(dtype: str, epilogue: Epilogue | None = None) -> str:
    """The source of dot products, one a block."""
    finish = epilogue or Plain(dtype)
    return work(finish, f"""    a = buffer_{dtype}(bases, args, 0)
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
        here_c = {finish.first_c}place(args, {BATCHES}, {BATCHES + 3 * LEVELS}, batch)
        here_c += place(args, {ROW_INDEX}, {ROW_INDEX + 2 * LEVELS}, row)
        total = {zero(dtype)}
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
