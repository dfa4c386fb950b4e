"""Attention in one pass: C[g, m, :] = sum over n of p[g, m, n] * V[g, n, :] / sum over n of p[g, m, n], where p is
exp(score(Q[g, m, :] * K[g, n, :])).

A block takes some rows m of one g and goes over all n, a slice of keys at a time.  A slice's scores are a product in
registers.  What the block keeps of the slices before is, for each row, the largest score, the sum of the p, which are
told from that score on, and the row of C; both are scaled down where a larger score comes.  So no score lies in memory.
The order of a sum depends on the number of keys alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ..records import dataclass
from .contract import Part
from .entry import with_kernel
from .words import LEVELS, PLACE, Epilogue

# Four buffers, then these; steps are in elements, of neighbours in a row, a sum, the keys or the columns.
ROWS, KEYS, ROW_TILES, ROW_Q, SUM_Q, KEY_K, SUM_K, KEY_V, COLUMN_V, ROW_C = range(8, 18)
BATCHES = 18                    # LEVELS sizes, then LEVELS strides each in Q, K, V and C
WORDS = BATCHES + 5 * LEVELS
MOST_COLUMNS = 64               # of Q and K, and of V: more do not fit in shared memory
GROUP = 4                       # rows and keys of a thread
DEPTH = 8                       # terms that are added in one go
BLOCKS = 3                      # of a multiprocessor, as many as registers and shared memory are enough for


@dataclass(frozen=True)
class Tile:
    """A block's rows, and how many keys it takes at a time."""

    rows: int
    keys: int

    @property
    def down(self) -> int:
        return self.rows // GROUP

    @property
    def across(self) -> int:
        return self.keys // GROUP

    @property
    def threads(self) -> int:
        return self.down * self.across

    # Where a thread reads: so many neighbours in a row are threads side by side, which then write to different banks.

    @property
    def beside(self) -> int:
        return min(8, self.threads // 2)

    @property
    def apart(self) -> int:
        return self.threads // self.beside


TILE, SIMULATED = Tile(64, 32), Tile(8, 8)


def plan(batch: Sequence[tuple[int, int, int, int, int]], steps: Sequence[int], rows: int, keys: int, depth: int,
         columns: int, simulated: bool, score: Epilogue) -> Part:
    """The launch for these sizes.  ``batch``: of each of at most four indices its size and its strides in Q, K, V, C;
    ``steps``: the words from ``ROW_Q`` to ``ROW_C``; ``score``: the function, whose operands' words begin at ``WORDS``.
    """
    tile = SIMULATED if simulated else TILE
    batch = [(1, 0, 0, 0, 0)] * (LEVELS - len(batch)) + list(batch)
    row_tiles = -(-rows // tile.rows)
    words = (rows, keys, row_tiles, *steps, *(value for group in zip(*batch) for value in group))
    return Part(text(tile, depth, columns, score), ("q", "k", "v", "c"), words,
                prod(size for size, *_ in batch) * row_tiles, tile.threads)


def text(tile: Tile, depth: int, columns: int, score: Epilogue) -> str:
    """The source, with its kernel."""
    own = -(-columns // (GROUP * tile.across)) * GROUP              # columns of a thread
    high, wide, broad = tile.rows + GROUP, tile.keys + GROUP, tile.across * own + GROUP
    depth_there = -(-depth // DEPTH) * DEPTH
    each = range(GROUP)
    rows, buffers = f"({GROUP}, {GROUP}, 0, {high})", [f"{name} = buffer_f32(bases, args, {2 * number})"
                                                       for number, name in enumerate("qkvc")]
    shared = {"slice_q": depth_there * high, "slice_k": depth_there * wide, "slice_v": tile.keys * broad,
              "slice_p": tile.keys * high, "part": tile.rows * (tile.across + 1)}
    lines = [*PLACE.splitlines(), "", *score.text.splitlines(), "", *f"""
add_scores = products_f32(depth={DEPTH}, rows={rows}, columns=({GROUP}, {GROUP}, 0, {wide}))
add_values = products_f32(depth={DEPTH}, rows={rows}, columns=({own}, {GROUP}, {tile.across * GROUP}, {broad}))
no_scores = zeros_f32({GROUP * GROUP})
no_values = zeros_f32({GROUP * own})


@device
def scaled(total, a0, a1, a2, a3):
    return ({', '.join(f'total[{i * own + j}] * a{i}' for i in each for j in range(own))})


@device
def work(bases, args, unit, end, stride):
{_lines(4, [*buffers, *score.opening])}
{_lines(4, [f"{name} = pointer_f32(cuda.shared.array({size}, type_f32, 16))" for name, size in shared.items()])}
""".splitlines(), *_unit(tile, depth, depth_there, high)]
    lines += _slice(tile, depth, depth_there, columns, (high, wide, broad)) + _scores(tile, score, high)
    places = f"slice_p, at * {high} + down * {GROUP}, slice_v, at * {broad} + across * {GROUP}"
    lines += [f"            for at in range(0, {tile.keys}, {DEPTH}):",
              f"                total = add_values({places}, total)", *_ends(tile, columns, own)]
    return with_kernel("\n".join(lines) + "\n", tile.threads, BLOCKS)


def _unit(tile: Tile, depth: int, depth_there: int, high: int) -> list[str]:
    """Which rows a unit is, and these of Q in shared memory."""
    return f"""    lane = cuda.threadIdx.x
    down = lane // {tile.across}
    across = lane % {tile.across}
    beside = lane % {tile.beside}
    apart = lane // {tile.beside}
    rows = args[{ROWS}]
    keys = args[{KEYS}]
    row_tiles = args[{ROW_TILES}]
    lowest = float32(-1e400)
    while unit < end:
        batch = quotient(unit, row_tiles)
        first_row = (unit - batch * row_tiles) * {tile.rows}
        last = min(rows - first_row, {tile.rows}) - 1
        at_q = place(args, {BATCHES}, {BATCHES + LEVELS}, batch) + first_row * args[{ROW_Q}]
        at_k = place(args, {BATCHES}, {BATCHES + 2 * LEVELS}, batch)
        at_v = place(args, {BATCHES}, {BATCHES + 3 * LEVELS}, batch)
        at_c = place(args, {BATCHES}, {BATCHES + 4 * LEVELS}, batch) + first_row * args[{ROW_C}]
        first_row += batch * rows
        for d in range(beside, {depth_there}, {tile.beside}):
            for m in range(apart, {tile.rows}, {tile.apart}):
                here = at_q + min(m, last) * args[{ROW_Q}] + d * args[{SUM_Q}]
                slice_q[d * {high} + m] = {_inside("q[here]", "d", depth, depth_there)}
        total = no_values()
{_lines(8, [f"top{i} = lowest" for i in range(GROUP)] + [f"sum{i} = float32(0.0)" for i in range(GROUP)])}
        for first in range(0, keys, {tile.keys}):""".splitlines()


def _inside(value: str, index: str, size: int, there: int) -> str:
    return value if size == there else f"{value} if {index} < {size} else float32(0.0)"


def _slice(tile: Tile, depth: int, depth_there: int, columns: int, steps: tuple[int, int, int]) -> list[str]:
    """A slice of K and V in shared memory, with zeros where they have none, and the thread's products of Q and K."""
    high, wide, broad = steps
    return f"""            cuda.syncthreads()
            few = min(keys - first, {tile.keys})
            for d in range(beside, {depth_there}, {tile.beside}):
                for n in range(apart, {tile.keys}, {tile.apart}):
                    here = at_k + (first + min(n, few - 1)) * args[{KEY_K}] + d * args[{SUM_K}]
                    slice_k[d * {wide} + n] = {_inside("k[here]", "d", depth, depth_there)}
            for j in range(beside, {broad - GROUP}, {tile.beside}):
                for n in range(apart, {tile.keys}, {tile.apart}):
                    here = at_v + (first + n) * args[{KEY_V}] + j * args[{COLUMN_V}]
                    slice_v[n * {broad} + j] = v[here] if (n < few) & (j < {columns}) else float32(0.0)
            cuda.syncthreads()
            raw = no_scores()
            for at in range(0, {depth_there}, {DEPTH}):
                raw = add_scores(slice_q, at * {high} + down * {GROUP}, slice_k, at * {wide} + across * {GROUP}, raw)
""".splitlines()


def _scores(tile: Tile, score: Epilogue, high: int) -> list[str]:
    """The thread's p of the slice, for all threads in shared memory; what was kept is told from the new top on."""
    lines: list[str] = []
    for i in range(GROUP):
        lines += [f"row = first_row + min(down * {GROUP} + {i}, last)"]
        for j in range(GROUP):
            value = f"score({', '.join((*score.operands, 'row', f'first + key{j}', f'raw[{i * GROUP + j}]'))})"
            lines += [f"p{i}{j} = {value} if key{j} < few else lowest"]
        top = f"maximum(maximum(p{i}0, p{i}1), maximum(p{i}2, p{i}3))"
        lines += [f"part[(down * {GROUP} + {i}) * {tile.across + 1} + across] = {top}"]
    lines += ["cuda.syncthreads()"]
    for i in range(GROUP):
        lines += [f"new = top{i}", f"for other in range({tile.across}):",
                  f"    new = maximum(new, part[(down * {GROUP} + {i}) * {tile.across + 1} + other])",
                  "shift = new if new > lowest else float32(0.0)",         # of no keys but such of probability 0
                  f"down{i} = exp_f32(top{i} - shift)", f"top{i} = new",
                  *(f"p{i}{j} = exp_f32(p{i}{j} - shift)" for j in range(GROUP)),
                  f"sum{i} = sum{i} * down{i} + ((p{i}0 + p{i}1) + (p{i}2 + p{i}3))"]
    lines += [f"store4_f32(slice_p, key{j} * {high} + down * {GROUP}, p0{j}, p1{j}, p2{j}, p3{j})"
              for j in range(GROUP)]
    keys = [f"key{j} = across * {GROUP} + {j}" for j in range(GROUP)]
    return _lines(12, [*keys, *lines, "total = scaled(total, down0, down1, down2, down3)",
                       "cuda.syncthreads()"]).splitlines()


def _ends(tile: Tile, columns: int, own: int) -> list[str]:
    """The rows' sums over all threads, and the thread's elements of C."""
    places = [f"(down * {GROUP} + {i}) * {tile.across + 1}" for i in range(GROUP)]
    lines = ["cuda.syncthreads()", *(f"part[{place} + across] = sum{i}" for i, place in enumerate(places)),
             "cuda.syncthreads()"]
    for i, place in enumerate(places):
        lines += [f"whole = part[{place}]", f"for other in range(1, {tile.across}):",
                  f"    whole = whole + part[{place} + other]", f"if down * {GROUP} + {i} <= last:",
                  f"    here = at_c + (down * {GROUP} + {i}) * args[{ROW_C}]"]
        for j in range(own):
            column = f"across * {GROUP} + {j // GROUP * tile.across * GROUP + j % GROUP}"
            lines += [f"    if {column} < {columns}:", f"        c[here + {column}] = total[{i * own + j}] / whole"]
    return _lines(8, [*lines, "cuda.syncthreads()", "unit += stride"]).splitlines()


def _lines(spaces: int, lines: Sequence[str]) -> str:
    return "\n".join(" " * spaces + line for line in lines)
