"""The kernel of a contraction that works in tiles: which tiles there are, how a block reads its operands, the source.

A block of threads computes a tile of C.  It walks along the sum a slice at a time: while its threads multiply one slice
of A and B in shared memory, what they read of the next waits in their registers, and goes to a second place in shared
memory when they are done; so they meet once a slice.  A thread's part of the tile, and its share of a slice, are the
same each time: where it reads moves on by additions alone.  A slice of either operand lies in shared memory k by k, so
that a thread takes its rows of A and columns of B by vectors of four.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..records import dataclass
from .entry import with_kernel
from .words import (
    A_STEP,
    B_STEP,
    BATCH_COUNT,
    BATCHES,
    CHUNK_STRIDE,
    CHUNK_TERMS,
    COLUMN_STRIDE,
    COLUMN_TILES,
    COLUMNS,
    DEPTH,
    LEVELS,
    ROW_INDEX,
    ROW_TILES,
    ROWS,
    SLICE,
    SUM_INDEX,
    Finish,
    Plain,
    work,
)

GROUP = 4               # elements of the widest load, and of one thread's neighbours in a tile
FAR = 2**31             # elements, more than 32 bits tell


@dataclass(frozen=True)
class Tile:
    """A block's part of C, how much of k it takes at a time, a thread's part of the tile (its columns come in GROUPs),
    and how many blocks a multiprocessor is to hold at once (see ``blocks``)."""

    rows: int
    columns: int
    depth: int
    thread_rows: int
    thread_columns: int
    blocks: int = 1

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
    def cells(self) -> int:
        """A thread's elements."""
        return self.thread_rows * self.thread_columns

    # In shared memory a k's elements are some more than they need be, so that what threads write along k at once lies
    # in different banks; a multiple of four, so that vectors stay aligned.

    @property
    def high(self) -> int:
        return self.rows + GROUP

    @property
    def wide(self) -> int:
        return self.columns + GROUP

    @property
    def parked(self) -> int:
        """How many of each thread's rows the memory of A's slices takes at once."""
        return max(n for n in (1, 2, 4, 8) if self.thread_rows % n == 0
                   and n * self.down * self.wide <= 2 * self.depth * self.high)

    def price(self) -> float:
        """Cycles for a multiply-add of a scheduler's 32 lanes: 1 if nothing else had to be issued.

        A slice takes also its vectors from shared memory, which serves half a warp in a cycle, and the four schedulers
        one after the other; some instructions for each element that a thread brings, and some for itself.  These two
        are what the machine code has: with them the sum is at most 2 % off its inner loops.
        """
        vectors = self.depth * (-(-self.thread_rows // GROUP) + -(-self.thread_columns // GROUP))
        brought = self.depth * (self.rows + self.columns) // self.threads
        products = self.depth * self.cells
        return max(products + vectors + 5 * brought // 2 + 20, 4 * 2 * vectors) / products


LARGE, TALL, MEDIUM = Tile(128, 128, 8, 8, 8, 1), Tile(128, 64, 8, 8, 8, 3), Tile(64, 64, 16, 8, 4, 4)
NARROW, FEW_COLUMNS, FEW_ROWS = Tile(128, 32, 16, 8, 4, 4), Tile(128, 16, 16, 4, 4, 4), Tile(16, 64, 32, 2, 4, 4)
TILES = (LARGE, TALL, MEDIUM, NARROW, FEW_COLUMNS, FEW_ROWS)
SIMULATED = Tile(8, 8, 4, 4, 4)         # of four threads: the simulator's are Python's
MOST_DOUBLES = 32                       # accumulators of 64 bits, which take two registers each
PROCESSORS = 108                        # of a GPU that small tiles are to fill (an A100's)


def choose(dtype: str, batches: int, rows: int, columns: int) -> Tile:
    """The tile that takes least for a product; its bits are the same with any."""
    def cost(tile: Tile) -> tuple[float, int]:
        tiles = batches * -(-rows // tile.rows) * -(-columns // tile.columns)
        return -(-tiles // PROCESSORS) * tile.rows * tile.columns * tile.price(), -tile.cells
    return min((tile for tile in TILES if dtype == "f32" or tile.cells <= MOST_DOUBLES), key=cost)


# --- how operands are read --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """How threads share out a slice of an operand: whether neighbours lie along the sum or across it, and how many
    elements, that lie together in memory, a thread takes at once."""

    along: bool
    width: int


@dataclass(frozen=True)
class Form:
    """What the source of a tile depends on beside tile and dtype: how A and B are read, how many nested indices the
    sum has, how many of C's elements are written at once, and whether an operand's rows may lie so far apart that 32
    bits do not tell how far."""

    a: Reading
    b: Reading
    levels: int = 1
    width: int = 1
    is_far: bool = False


def blocks(dtype: str, tile: Tile, form: Form) -> int:
    """How many blocks of a multiprocessor registers are kept for: fewer for doubles, and where each element has an
    address of its own or the sum's indices have to be kept."""
    of_type = tile.blocks if dtype == "f32" else tile.blocks // 2
    is_light = form.levels == 1 and form.a.width > 1 and form.b.width > 1
    return max(1, of_type if is_light else of_type - 1)


def form_of(tile: Tile, batch: Sequence, rows: Sequence, columns, sums: Sequence, alignments: Sequence[int]) -> Form:
    """The form for a product with these indices (``runtime.tile.Axis``), of which none but the columns has size 1.  A,
    B and C begin at multiples of so many elements."""
    a = _reading(tile, tile.rows, batch, rows, sums, "a", alignments[0])
    b = _reading(tile, tile.columns, batch, [columns], sums, "b", alignments[1])
    steps = [alignments[2], columns.size, *(axis.c for axis in (*batch, *rows))]
    is_whole = all(step % GROUP == 0 for step in steps)
    is_far = max(_span(rows, "a"), _span([columns], "b")) >= FAR
    return Form(a, b, max(len(sums), 1), GROUP if is_whole else 1, is_far)


def _span(axes: Sequence, operand: str) -> int:
    """How far the last of some elements lies from the first."""
    return sum((axis.size - 1) * abs(getattr(axis, operand)) for axis in axes)


def _reading(tile: Tile, extent: int, batch: Sequence, across: Sequence, sums: Sequence, operand: str,
             alignment: int) -> Reading:
    """How to read an operand, of which the tile has ``extent`` rows or columns."""
    steps = [[(axis.size, getattr(axis, operand)) for axis in axes] for axes in (batch, across, sums)]

    def width(along: bool) -> int:
        """As many elements as lie together wherever a thread begins, if each thread has so many."""
        group = steps[2 if along else 1]
        if not group or group[-1][1] != 1:
            return 1
        others = [step for axes in steps for step in axes]
        others.remove(group[-1])
        multiples = [alignment, group[-1][0], *(stride for _, stride in others)]
        return max(w for w in (1, 2, GROUP) if all(number % w == 0 for number in multiples)
                   and extent * tile.depth % (w * tile.threads) == 0)

    is_across = bool(steps[1]) and steps[1][-1][1] == 1
    is_along = bool(steps[2]) and steps[2][-1][1] == 1
    best = max((width(True), is_along and not is_across, True), (width(False), is_across, False))
    return Reading(best[2], best[0])


@dataclass(frozen=True)
class _Share:
    """A thread's share of a slice of an operand: from row ``first`` on (a row of A, a column of B), ``count`` times
    ``width`` elements, ``step`` rows apart, all at k = ``place`` (and on, if they lie along the sum)."""

    along: bool
    width: int
    count: int
    step: int
    place: str
    first: str

    @staticmethod
    def of(tile: Tile, extent: int, how: Reading) -> _Share:
        width, count = how.width, extent * tile.depth // (how.width * tile.threads)
        if how.along:
            beside = tile.depth // width            # threads along the sum
            return _Share(True, width, count, tile.threads // beside, f"lane % {beside} * {width}", f"lane // {beside}")
        beside = tile.threads // tile.depth         # threads across it
        return _Share(False, width, count, beside * width, f"lane // {beside}", f"lane % {beside} * {width}")


# --- source -----------------------------------------------------------------------------------------------------------


def tile_text(dtype: str, tile: Tile, form: Form, finish: Finish | None = None) -> str:
    """The source of a product in tiles, with its kernel."""
    finish = finish or Plain(dtype)
    a, b = _Share.of(tile, tile.rows, form.a), _Share.of(tile, tile.columns, form.b)
    more = [*_products(dtype, tile), "", *_moves("a", dtype, a, tile.high), "", *_moves("b", dtype, b, tile.wide), "",
            *_accumulate(dtype, tile, form, a, b)]
    text = work(finish, [*_head(dtype, tile, form.is_far), *_unit(tile, form, finish.first_c),
                         *_stores(dtype, tile, form, finish), "        unit += stride", ""],
                more, ["", *_ends(dtype, tile, form, finish)])
    return with_kernel(text, tile.threads, blocks(dtype, tile, form))


def _group(count: int) -> int:
    return min(GROUP, count)


def _products(dtype: str, tile: Tile) -> list[str]:
    """What adds a slice's products: a thread's rows and columns are groups of neighbours, so many apart."""
    rows, columns = (f"({count}, {_group(count)}, {threads * _group(count)}, {row})" for count, threads, row in (
        (tile.thread_rows, tile.down, tile.high), (tile.thread_columns, tile.across, tile.wide)))
    return ["# rows, columns: (of a thread, of neighbours, from neighbours to the next, from k to k + 1)",
            f"add_products = products_{dtype}(depth={tile.depth}, rows={rows}, columns={columns})",
            f"no_products = zeros_{dtype}({tile.cells})"]


def _moves(operand: str, dtype: str, share: _Share, row: int) -> list[str]:
    """The functions that read a thread's share of a slice, and that write it to shared memory."""
    rows = [f"rows[row + {j * share.step}]" for j in range(share.count)]
    if share.width == 1:
        read = f"({', '.join(f'here[{r}]' for r in rows)},)"
    else:
        read = " + ".join(f"load{share.width}_{dtype}(here, {r})" for r in rows)
    lines = ["@device", f"def read_{operand}(here, rows, row):", f"    return {read}", "",
             "@device", f"def write_{operand}(slice_{operand}, at, read):"]
    for j in range(share.count):
        if share.along or share.width == 1:
            lines += [f"    slice_{operand}[at + {j * share.step + i * row}] = read[{j * share.width + i}]"
                      for i in range(share.width)]
        else:
            values = ", ".join(f"read[{j * share.width + i}]" for i in range(share.width))
            lines += [f"    store{share.width}_{dtype}(slice_{operand}, at + {j * share.step}, {values})"]
    return lines


def _accumulate(dtype: str, tile: Tile, form: Form, a: _Share, b: _Share) -> list[str]:
    """The function that walks along the sum, or a chunk of it."""
    # No branch, around which loads would not be issued early: a thread beyond the sum reads from its beginning.
    reads = ["read = read_a(here_a if k_a < left else first_a, row_a, m)",
             "other = read_b(here_b if k_b < left else first_b, column_b, n)"]
    sizes = [(f"size{level}", SUM_INDEX + level, f"move{level}", SLICE + level) for level in _inner(form.levels)]
    before = [*(f"{size} = small(args[{of}])\n    {move} = small(args[{by}])" for size, of, move, by in sizes),
              *_first(dtype, "a", form.levels, 1), *_first(dtype, "b", form.levels, 2)]
    size_a, size_b = tile.depth * tile.high, tile.depth * tile.wide
    return f"""@device
def accumulate(args, a, b, batch_a, batch_b, slice_a, slice_b, row_a, column_b, start, stop, down, across, lane):
    if stop <= start:
        return no_products()
    k_a, m = small({a.place}), {a.first}
    k_b, n = small({b.place}), {b.first}
{_lines(4, before)}
    to_a = k_a * {tile.high} + m
    to_b = k_b * {tile.wide} + n
    left = small(stop - start)
{_lines(4, reads)}
    write_a(slice_a, to_a, or_zeros(read, k_a < left))
    write_b(slice_b, to_b, or_zeros(other, k_b < left))
    cuda.syncthreads()
    total = no_products()
    turn = small(0)
    while left > 0:
        left = small(left - {tile.depth})
{_lines(8, [*_next(dtype, "a", form.levels), *_next(dtype, "b", form.levels), *reads])}
        total = add_products(slice_a, turn * {size_a} + down * {_group(tile.thread_rows)}, slice_b,
                             turn * {size_b} + across * {_group(tile.thread_columns)}, total)
        turn = small(1 - turn)
        write_a(slice_a, to_a + turn * {size_a}, or_zeros(read, k_a < left))
        write_b(slice_b, to_b + turn * {size_b}, or_zeros(other, k_b < left))
        cuda.syncthreads()
    return total""".splitlines()


def _lines(spaces: int, lines: Sequence[str]) -> str:
    return "\n".join(" " * spaces + line for line in lines)


def _first(dtype: str, operand: str, levels: int, strides: int) -> list[str]:
    """Where a thread's share of the first slice is, as a pointer from which its rows or columns are told, and all
    indices of the sum but the outermost, which never begins anew."""
    size, stride = SUM_INDEX, SUM_INDEX + strides * LEVELS
    lines = [f"step_{operand} = args[{A_STEP if operand == 'a' else B_STEP}]", f"at_{operand} = batch_{operand}",
             f"first_{operand} = from_{dtype}({operand}, batch_{operand})",
             f"rest = start + k_{operand}"]
    for level in _inner(levels):
        lines += [f"outer = quotient(rest, args[{size + level}])",
                  f"index{level}_{operand} = small(rest - outer * args[{size + level}])",
                  f"at_{operand} += index{level}_{operand} * args[{stride + level}]",
                  f"anew{level}_{operand} = args[{stride + level - 1}] - args[{size + level}] * args[{stride + level}]",
                  "rest = outer"]
    return [*lines, f"at_{operand} += rest * args[{stride + LEVELS - levels}]",
            f"here_{operand} = from_{dtype}({operand}, at_{operand})"]


def _inner(levels: int) -> range:
    """The nested indices of the sum but the outermost, innermost first."""
    return range(LEVELS - 1, LEVELS - levels, -1)


def _next(dtype: str, operand: str, levels: int) -> list[str]:
    """The same for the next slice."""
    here = f"here_{operand} = from_{dtype}(here_{operand}, {{}})"
    lines = [here.format(f"step_{operand}")]
    for level in _inner(levels):
        index = f"index{level}_{operand}"
        lines += [f"{index} = small({index} + move{level})",
                  f"if {index} >= size{level}:",
                  f"    {index} = small({index} - size{level})",
                  "    " + here.format(f"anew{level}_{operand}")]
        if level - 1 in _inner(levels):
            lines += [f"    index{level - 1}_{operand} = small(index{level - 1}_{operand} + 1)"]
    return lines


def _head(dtype: str, tile: Tile, is_far: bool) -> list[str]:
    """Operands, shared memory, sizes, and which part of the tile is the thread's: two rows and eight columns beside
    one another are half a warp's, which shared memory serves at once."""
    beside, row = min(8, tile.across), "i64" if is_far else "i32"
    return f"""    a = buffer_{dtype}(bases, args, 0)
    b = buffer_{dtype}(bases, args, 2)
    slice_a = pointer_{dtype}(cuda.shared.array({2 * tile.depth * tile.high}, type_{dtype}, 16))
    slice_b = pointer_{dtype}(cuda.shared.array({2 * tile.depth * tile.wide}, type_{dtype}, 16))
    row_a = pointer_{row}(cuda.shared.array({tile.rows}, type_{row}))
    column_b = pointer_{row}(cuda.shared.array({tile.columns}, type_{row}))
    row_c = pointer_i64(cuda.shared.array({tile.rows}, type_i64))
    columns = args[{COLUMNS}]
    rows = args[{ROWS}]
    row_tiles = args[{ROW_TILES}]
    column_tiles = args[{COLUMN_TILES}]
    lane = cuda.threadIdx.x
    pair = lane // {2 * beside}
    down = pair // {tile.across // beside} * 2 + lane % 2
    across = pair % {tile.across // beside} * {beside} + lane // 2 % {beside}
    while unit < end:""".splitlines()


def _unit(tile: Tile, form: Form, first_c: str) -> list[str]:
    """Which tile, of which chunk of the sum, a unit is, and where its rows and columns lie, from its first ones on;
    those that C has not are read as the last."""
    kept = "" if form.is_far else "small"
    last_a, last_b = (1 if how.along else how.width for how in (form.a, form.b))
    return f"""        rest = quotient(unit, column_tiles)
        first_column = (unit - rest * column_tiles) * {tile.columns}
        outer = quotient(rest, row_tiles)
        first_row = (rest - outer * row_tiles) * {tile.rows}
        chunk = quotient(outer, args[{BATCH_COUNT}])
        batch = outer - chunk * args[{BATCH_COUNT}]
        start = chunk * args[{CHUNK_TERMS}]
        stop = min(args[{DEPTH}], start + args[{CHUNK_TERMS}])
        first_a = place(args, {ROW_INDEX}, {ROW_INDEX + LEVELS}, first_row)
        batch_a = place(args, {BATCHES}, {BATCHES + LEVELS}, batch) + first_a
        batch_b = place(args, {BATCHES}, {BATCHES + 2 * LEVELS}, batch) + first_column * args[{COLUMN_STRIDE}]
        batch_c = {first_c}place(args, {BATCHES}, {BATCHES + 3 * LEVELS}, batch)
        batch_c += first_column + chunk * args[{CHUNK_STRIDE}]
        rows_here = min(rows - first_row, {tile.rows})
        columns_here = min(columns - first_column, {tile.columns})
        for i in range(lane, {tile.rows}, {tile.threads}):
            row = first_row + min(i, rows_here - {last_a})
            row_a[i] = {kept}(place(args, {ROW_INDEX}, {ROW_INDEX + LEVELS}, row) - first_a)
            row = first_row + min(i, rows_here - 1)
            row_c[i] = batch_c + place(args, {ROW_INDEX}, {ROW_INDEX + 2 * LEVELS}, row)
        for i in range(lane, {tile.columns}, {tile.threads}):
            column_b[i] = {kept}(min(i, columns_here - {last_b}) * args[{COLUMN_STRIDE}])
        cuda.syncthreads()
        total = accumulate(args, a, b, batch_a, batch_b, slice_a, slice_b, row_a, column_b, start, stop, down, across,
                           lane)""".splitlines()


def _ends(dtype: str, tile: Tile, form: Form, finish: Finish) -> list[str]:
    """The function that stores a thread's elements of a row by vectors; or what stores, or finishes, those of some
    rows of each thread from shared memory: so neighbouring threads take neighbouring elements, as memory wants it."""
    if form.width > 1:
        values = [f"value{j}" for j in range(tile.thread_columns)]
        lines = ["@device", f"def store_row(c, row, across, columns_here, {', '.join(values)}):"]
        for j in range(0, tile.thread_columns, form.width):
            lines += [f"    column = {_place(j, tile.thread_columns, tile.across, 'across')}",
                      "    if column < columns_here:",
                      f"        store{form.width}_{dtype}(c, row + column, {', '.join(values[j:j + form.width])})"]
        return lines
    group = _group(tile.thread_rows)
    return f"""@device
def finish_rows({', '.join(finish.operands)}, first, slice_a, row_c, rows_here, columns_here, lane):
    for i in range(lane, {tile.parked * tile.down * tile.columns}, {tile.threads}):
        parked, column = i // {tile.columns}, i % {tile.columns}
        own = first + parked // {tile.down}
        m = own // {group} * {tile.down * group} + own % {group} + parked % {tile.down} * {group}
        if (m < rows_here) & (column < columns_here):
            {finish.store("row_c[m] + column", f"slice_a[parked * {tile.wide} + column]")}""".splitlines()


def _stores(dtype: str, tile: Tile, form: Form, finish: Finish) -> list[str]:
    """The thread's elements that C has."""
    def values(row: int, column: int, count: int) -> str:
        first = row * tile.thread_columns + column
        return ", ".join(f"total[{first + i}]" for i in range(count))
    if form.width > 1:
        rows = ((f"        m = {_place(i, tile.thread_rows, tile.down, 'down')}", "        if m < rows_here:",
                 f"            store_row(c, row_c[m], across, columns_here, {values(i, 0, tile.thread_columns)})")
                for i in range(tile.thread_rows))
        return [*(line for row in rows for line in row), "        cuda.syncthreads()"]
    lines = []
    for first in range(0, tile.thread_rows, tile.parked):
        for own in range(tile.parked):
            lines += [f"        row = ({own * tile.down} + down) * {tile.wide}"]
            lines += [f"        store{GROUP}_{dtype}(slice_a, row + "
                      f"{_place(j, tile.thread_columns, tile.across, 'across')}, {values(first + own, j, GROUP)})"
                      for j in range(0, tile.thread_columns, GROUP)]
        operands = ", ".join((*finish.operands, str(first)))
        lines += ["        cuda.syncthreads()",
                  f"        finish_rows({operands}, slice_a, row_c, rows_here, columns_here, lane)",
                  "        cuda.syncthreads()"]
    return lines


def _place(number: int, count: int, threads: int, own: str) -> str:
    """Where one of a thread's rows or columns is in the tile."""
    group = _group(count)
    return f"{own} * {group} + {number // group * threads * group + number % group}"
