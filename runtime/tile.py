"""The contraction kernel: one register tile, and the loops around it, for matrix products and convolutions alike.

    C[g, m, n] = or += sum over k of A[g, m, k] * B[g, k, n]

A row index m, a reduction index k and a batch index g are each several nested indices with strides of their own (in
elements) in every operand, n is one; so a dense layer, a direct convolution on an image with a zero halo, and its
weight gradient are the same kernel with other integers (the kernel's columns and channels lie together, as one index):

  convolution          m = (image, y, x), n = output channel, k = (kernel row, kernel column and channel)
  its weight gradient  m = (kernel row, kernel column and channel), n = output channel, k = (image, y, x)

A tile is ``rows`` x ``vectors`` accumulators in registers; A is broadcast, B and C are read by vectors along n.  Each
element of C has one accumulator and its terms are added in ascending k by fma; a K cut in chunks continues from what is
in C.  So the result's bits do not depend on the tile, the blocking, or the number of threads.
"""

from __future__ import annotations

import functools
from math import gcd

from . import machine
from .host import has_mask_registers, vector_bytes, vector_registers
from .pool import threads
from .records import dataclass

# k values in a chunk: a tile's columns of B, at most CHUNK_BYTES, and the rows of A must stay in the first-level cache.
# Where A's rows are not contiguous along k, each k takes a cache line of A.
MAX_DEPTH, STRIDED_DEPTH, PACKED_DEPTH = 384, 128, 256
CHUNK_BYTES = 24 << 10
MAX_ROWS = 168          # rows of a work unit
PACKED_SPILL = 16       # elements after a tile's in a copy of A, over which its last vector may reach
PACKED_A = MAX_ROWS * (PACKED_DEPTH + PACKED_SPILL)     # elements of such a copy
# A copy of A pays if each element meets so many of B, and tiles have so few accumulators that to ask for A, a line for
# each of its terms, would take a notable part of the time: as all have that share 16 registers.
PACK_A_COLUMNS, PACK_A_TILE = 48, 16
# A copy of B whose rows are far apart pays if so many rows of A use it: fewer where B is so long that its lines fall
# out of the second-level cache too.
PACK_B_ROWS, LONG_B, PACK_LONG_B_ROWS = 48, 768, 24
FAR_B, FAR_ASKED_B = 384, 576       # least bytes from row to row of such a B; of one that is asked for ahead
PREFETCH_ROWS = 12
PREFETCHED = 8          # values of the shortest cache line, in those of the longest type
PACKED_BYTES = 512      # of a row of B that is packed at once: the widest tile of the widest vectors
MAX_TILE_ROWS = 8       # a row pointer each: more than 8 spill general registers


def _lanes(dtype: str) -> int:
    """Elements of a vector."""
    return vector_bytes() // (8 if dtype == "f64" else 4)


def tile_rows(vectors: int) -> int:
    """The tallest tile of this width whose accumulators, B vectors and one broadcast fit in the registers."""
    return max(1, min(MAX_TILE_ROWS, (vector_registers() - 1) // vectors - 1))

LEVELS = 4              # nested indices of batch, rows and sums, outermost first; unused outer ones have size 1

# Argument words of a contraction: three buffers, then (PACKS: how many columns of B are packed at once, 0 for none;
# PACKS_A: whether A is packed; LANES: of a vector; TALL, NEAR and HALF: heights of tiles)
(COLUMNS, COLUMN_STRIDE_B, ACCUMULATE, PACKS, PACKS_A, LANES, BLOCK_ROWS, BLOCK_COLUMNS, TALL, NEAR, HALF, WIDE,
 LAST_WIDE) = range(6, 19)
# the tiles: addresses for TALL, NEAR, HALF and one row of WIDE columns, then for as many rows of the rest of the
# columns; a tile for the rest of the columns is LAST_WIDE wide, as many whole vectors as it takes.
TILES, HEIGHTS = 19, 4
# of a B that lies in panels, each of so many columns (0: it does not), so many elements apart
PANEL_COLUMNS, PANEL_STRIDE = 27, 28
STRETCH = 29            # k of the next tile's A that a tile asks for at a time; 0: it does not
BY_ROWS = 30            # whether C is computed row by row: a tile's beginning and end outweigh a single term
BATCH = 31              # LEVELS sizes, then LEVELS strides each in A, B and C
ROWS = BATCH + 4 * LEVELS       # sizes, strides in A, in C
SUMS = ROWS + 3 * LEVELS        # sizes, strides in A, in B
CHUNKS = SUMS + 3 * LEVELS      # how much of each sum index a chunk takes
WORDS = CHUNKS + LEVELS


# --- machine code -----------------------------------------------------------------------------------------------------


# Whether a tile's vectors are whole; or the last one masked in B and C; or all in C alone, as many columns as there
# are.
WHOLE, MASKED, PADDED = range(3)


def tile_text(dtype: str, rows: int, vectors: int, last: int, panel: int = 0, asks: bool = False) -> str:
    """What stands for the register tile of these rows and vectors (0: one column, vectors along k), which is WHOLE,
    MASKED or PADDED.  With ``panel`` B lies in panels of so many vectors a row; with ``asks`` it asks for operands
    ahead."""
    return f"tile {dtype} {rows} {vectors} {last} {panel} {int(asks)}"


def counts_loads(rows: int, vectors: int) -> bool:
    """Whether loads of A hold such a tile up: with one vector there are as many as products.

    One whose address is a register and a number is one operation with its product, where a product takes an operand
    from memory for all lanes; with an address of two registers it is one more, and then issuing takes longer than
    computing.
    """
    return vectors == 1 and rows > 4 and has_mask_registers()


@functools.cache
def contract_kernel(dtype: str) -> machine.Code:
    """The contraction kernel for "f32" or "f64"."""
    return machine.code(f"contract {dtype}")


PACK_ROWS = 64          # of a B that a unit copies
PACK_COLUMNS, PACK_SUMS = 4, 10     # argument words: columns and what follows in ``packing``; sums' sizes and strides


def pack_text(dtype: str) -> str:
    """What stands for the kernel that copies a B to panels."""
    return f"pack {dtype}"


def packing(dtype: str, sums, columns: int, column_stride_b: int, wide: int) -> tuple[Plan, list[Axis], Panel | None]:
    """The step that copies a B to panels of ``wide`` columns, which all columns fill.  Its buffers are B and the copy,
    of depth * columns elements.  With it the sums and the panels, if there are several, for the product of the copy."""
    padded = _pad(sums)
    depth, inner = _count(padded), padded[-1].size
    words = (columns, column_stride_b, wide, depth * wide, _lanes(dtype), PACK_ROWS,
             *(axis.size for axis in padded), *(axis.b for axis in padded))
    units = depth // max(inner, 1) * -(-inner // PACK_ROWS)
    packed: list[Axis] = []
    stride = wide
    for axis in reversed(padded):
        after = packed[0] if packed else None
        if after is not None and axis.a == after.size * after.a:        # one index, in the copy and in A
            packed[0] = Axis(axis.size * after.size, after.a, after.b)
        else:
            packed.insert(0, Axis(axis.size, axis.a, stride))
        stride *= axis.size
    work = max(1, min(inner, PACK_ROWS) * columns)
    return (Plan(machine.code(pack_text(dtype)).address, words, units, max(1, 20_000 // work)), packed,
            Panel(wide, depth * wide) if wide < columns else None)


TOTAL_CHUNK = 1024      # elements of a unit of what adds up parts


def total_text(dtype: str) -> str:
    """What stands for the kernel that adds up the parts of a product."""
    return f"total {dtype}"


def total_kernel(dtype: str) -> machine.Code:
    """The kernel C = parts[0] + parts[1] + ..., for "f32" or "f64".  Its arguments: the buffers of the parts and of C,
    how many parts, elements of C, which lie one behind the other in each; a unit is TOTAL_CHUNK elements."""
    return machine.code(total_text(dtype))


# --- choosing tiles and blocks ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Axis:
    """One index of a contraction: its size, and its stride (elements) in A, B and C; 0 where it does not occur."""

    size: int
    a: int = 0
    b: int = 0
    c: int = 0


@dataclass(frozen=True)
class Panel:
    """How B lies in panels: each has so many columns (whole vectors) whose rows lie together, and begins ``stride``
    elements after the one before."""

    columns: int
    stride: int


@dataclass(frozen=True)
class Plan:
    """A contraction as a step: the kernel's address, the argument words after the three buffers, units and grain."""

    address: int
    words: tuple[int, ...]
    units: int
    grain: int


WIDTHS = (1, 2, 3, 4, 5, 6, 8)      # of tiles, in vectors
# for an unknown number of columns, if there are many rows: a padded tile fits any rest
ANY_COLUMNS_VECTORS = 2


def _tile_cost(rows: int, vectors: int) -> float:
    """Cycles per k: two fma and two loads start in each, an accumulator is busy for four; and a little a load."""
    if not rows or not vectors:
        return 0
    return max(rows * vectors / 2, (rows + vectors) / 2, 4) + 0.05 * rows + 0.1 * vectors


MANY_COLUMNS = 96       # rows of a sum of one term and so many columns go one by one, without tiles
LONG_SUM = 1024         # terms from which on reading the operands costs more than an uneven end
MANY_ROWS = 240         # stands for "many" where a tile is chosen: which tile must not depend on how many rows come


def tile_heights(rows: int, vectors: int) -> tuple[int, ...]:
    """The heights of tiles of this width for one row or for any larger number of rows: tall, one less, half and one.

    Tiles of the first two cover most numbers of rows without waste."""
    tall = tile_rows(vectors) if rows > 1 else 1
    return tall, max(tall - 1, 1), -(-tall // 2), 1


def _tile_vectors(width: int, rows: int, columns: int, multiple: int = 1) -> int:
    """The width, in vectors (of ``width`` columns), of the tile that covers one row, or many, of these columns
    fastest; a multiple of ``multiple``."""
    needed = -(-columns // width)

    def cost(vectors: int) -> tuple:
        tall = tile_heights(rows, vectors)[0]
        whole, last = divmod(needed, vectors)
        turns = MANY_ROWS / tall if rows > 1 else 1
        return turns * (whole * _tile_cost(tall, vectors) + _tile_cost(tall, last)), -tall * vectors
    return min((vectors for vectors in WIDTHS if vectors % multiple == 0), key=cost)


def _pad(axes, count: int = LEVELS) -> list[Axis]:
    if len(axes) > count:
        raise ValueError(f"a contraction's index has at most {count} parts, not {len(axes)}")
    return [Axis(1)] * (count - len(axes)) + list(axes)


def _chunks(sums: list[Axis], room: int) -> list[int]:
    """How much of each sum index (outermost first) a chunk of ``room`` takes; the outermost goes one by one."""
    sizes = [axis.size for axis in sums]
    chunks = [1] * LEVELS
    for level in range(LEVELS - 1, 0, -1):
        size = max(sizes[level], 1)
        pieces = -(-size // max(room, 1))
        chunks[level] = -(-size // pieces)
        room = room // size if pieces == 1 else 0
    return chunks


def plan(dtype: str, batch, rows, sums, columns: int, column_stride_b: int = 1, accumulate: bool = False,
         any_columns: bool = False, any_rows: bool = True, block_rows: int | None = None,
         panel: Panel | None = None, asks: bool = False) -> Plan:
    """The step for C = (or, with ``accumulate``, +=) sum of A * B; sizes are numbers here.

    dtype: "f32" or "f64"; batch, rows, sums: sequences of at most four Axis, outermost first; the column is contiguous
    in C, has ``column_stride_b`` in B (1 is fast, any other is packed; 0 for a single column whose last sum index is
    contiguous in A and B), and does not occur in A.  An empty sum gives zeros.  C must not overlap A or B.
    ``any_columns``, ``any_rows``: use tiles that serve every number of them.  ``block_rows``: a unit is exactly so many
    rows (the last one fewer) and all columns.  ``panel``: how the columns lie in B, if not in one row.  ``asks``: the
    tiles ask for A and B ahead.  The kernel's arguments are the buffers A, B, C (two words each), then ``words``.
    """
    return _plan(dtype, tuple(batch), tuple(rows), tuple(sums), columns, column_stride_b, accumulate,
                 any_columns, any_rows, threads(), block_rows, panel, asks)


@functools.lru_cache(4096)
def _plan(dtype: str, batch, rows, sums, columns: int, column_stride_b: int, accumulate: bool, any_columns: bool,
          any_rows: bool, thread_count: int, unit_rows: int | None, panel: Panel | None, asks: bool) -> Plan:
    itemsize = 8 if dtype == "f64" else 4
    batch, rows, sums = _pad(batch), _pad(rows), _pad(sums)
    row_count, depth, batches = (_count(axes) for axes in (rows, sums, batch))
    if depth == 0:
        sums = [Axis(1)] * (LEVELS - 1) + [Axis(0)]
    is_dot = columns == 1 and column_stride_b == 0
    if panel is not None:
        tiles = _compiled(_panel_choice(dtype, row_count, columns, panel.columns, asks))
    else:
        tiles = (_dot_tiles(dtype) if is_dot else
                 _tiles(dtype, row_count, max(columns, 1), any_columns, any_rows, asks))
    (tall, near, half, _), wide, last_wide = tiles.heights, tiles.wide, tiles.last_wide
    # A row of B that is long makes a panel's rows fall into few cache sets; copying it pays if enough rows use it.
    apart = next((abs(axis.b) for axis in reversed(sums) if axis.size > 1), 0) * itemsize
    far = panel is None and apart >= (FAR_ASKED_B if asks else FAR_B)
    must_pack = not is_dot and (tiles.is_padded or column_stride_b != 1)
    by_rows = (depth == 1 and row_count >= tall and columns >= MANY_COLUMNS and column_stride_b == 1
               and panel is None)
    if by_rows and unit_rows is None:
        unit_rows = -(-row_count // _up(-(-row_count // MAX_ROWS), thread_count))
    if unit_rows is None:
        # Every unit packs, or at least reads, its part of B and of A by itself.
        units_a_thread = 2 if must_pack or far or depth >= LONG_SUM else 4
        block_rows, block_columns = _blocks(batches, row_count, columns, depth, tall, wide,
                                            units_a_thread * thread_count, thread_count)
    else:
        block_rows, block_columns = unit_rows, _up(max(columns, 1), wide)
    packs = must_pack or (not is_dot and far and depth >= 32
                          and block_rows >= (PACK_B_ROWS if depth < LONG_B else PACK_LONG_B_ROWS))
    group = PACKED_BYTES // (wide * itemsize) * wide        # columns packed at once: whole panels
    stride = next((abs(axis.a) for axis in reversed(sums) if axis.size > 1), 1)
    packs_a = _packs_a(rows, stride * itemsize, min(depth, STRIDED_DEPTH), min(block_columns, columns),
                       tall * wide // _lanes(dtype))
    most = MAX_DEPTH if stride == 1 else PACKED_DEPTH if packs_a else STRIDED_DEPTH
    if not is_dot and row_count > tall:         # else no two tiles read the same of B
        most = min(most, CHUNK_BYTES // ((wide if columns >= wide else max(last_wide, 1)) * itemsize))
    chunks = _chunks(sums, most)
    words = [columns, column_stride_b, int(accumulate), group if packs else 0, int(packs_a),
             _lanes(dtype), block_rows, block_columns, tall, near, half, wide, last_wide,
             *tiles.addresses, *((panel.columns, panel.stride) if panel is not None else (0, 0)),
             CACHE_LINE // itemsize if stride == 1 and _has_room_ahead(rows, itemsize, tall) else 0,
             int(by_rows)]
    for axes, strides in ((batch, "abc"), (rows, "ac"), (sums, "ab")):
        words += [axis.size for axis in axes]
        for stride in strides:
            words += [getattr(axis, stride) for axis in axes]
    words += chunks
    units = 0
    if row_count and columns:
        units = batches * -(-row_count // block_rows) * -(-columns // block_columns)
    # A unit should be worth the microsecond that claiming it may cost.
    cost = max(1, 2 * max(min(block_rows, row_count), 8) * min(block_columns, max(columns, 1)) * depth)
    return Plan(contract_kernel(dtype).address, tuple(words), units, max(1, 100_000 // cost))


CACHE_SETS, CACHE_WAYS, CACHE_LINE = 64, 8, 64      # of the first-level data cache


def _has_room_ahead(rows: list[Axis], itemsize: int, tall: int) -> bool:
    """Whether the first-level cache has room for the rows of A of two tiles beside a panel of B, which takes half of
    it: rows that are a multiple of its sets apart collide."""
    apart = gcd(next((abs(axis.a) for axis in reversed(rows) if axis.size > 1), 1) * itemsize, CACHE_SETS * CACHE_LINE)
    return 2 * tall * apart <= CACHE_SETS * CACHE_LINE * CACHE_WAYS // 2


def _packs_a(rows: list[Axis], stride: int, depth: int, columns: int, accumulators: int) -> bool:
    """Whether to copy A, whose k are ``stride`` bytes apart: where rows are contiguous, each k takes a cache line that
    several tiles use, and if the lines fall into few sets of the cache, they are gone before the next tile comes."""
    if stride <= CACHE_LINE or next((axis.a for axis in reversed(rows) if axis.size > 1), 0) != 1:
        return False
    return columns >= PACK_A_COLUMNS and accumulators < PACK_A_TILE and depth > lines_kept(stride)


def may_pack_a(dtype: str, columns: int | None) -> bool:
    """Whether A is copied for many rows and so many columns (None: any number), if its lines fall out of the cache."""
    vectors = ANY_COLUMNS_VECTORS if columns is None else _tile_vectors(_lanes(dtype), MANY_ROWS, columns)
    return (columns is None or columns >= PACK_A_COLUMNS) and tile_rows(vectors) * vectors < PACK_A_TILE


def lines_kept(stride: int) -> int:
    """How many cache lines that are so many bytes apart the first-level cache keeps."""
    apart = max(gcd(stride, CACHE_SETS * CACHE_LINE), CACHE_LINE)
    return CACHE_SETS * CACHE_LINE // apart * CACHE_WAYS


@dataclass(frozen=True)
class Tiles:
    """The tiles of a contraction: their heights, their width in columns, that of the last ones, and their addresses.

    ``is_padded``: the last tiles read whole vectors of B, which must be packed.  A masked load in the innermost loop
    would cost more, where masks are not registers of their own.
    """

    heights: tuple[int, ...]
    wide: int
    last_wide: int
    addresses: tuple[int, ...]
    is_padded: bool = False


@dataclass(frozen=True)
class _Choice:
    """Tiles before they are compiled: their heights and widths, and the text of each, None for one that is not
    needed."""

    heights: tuple[int, ...]
    wide: int
    last_wide: int
    texts: tuple[str | None, ...]
    is_padded: bool = False


@functools.cache
def _choice(dtype: str, rows: int, columns: int, any_columns: bool, any_rows: bool, asks: bool = False) -> _Choice:
    """The tiles for one row or for many (``rows`` > 1: the same ones for all with ``any_rows``): a program that meets
    another number of rows, or with ``any_columns`` of columns, compiles nothing."""
    if rows > 1 and rows != MANY_ROWS and (any_rows or rows > MAX_TILE_ROWS):
        return _choice(dtype, MANY_ROWS, columns, any_columns, True, asks)
    width = _lanes(dtype)
    if any_columns:
        vectors = ANY_COLUMNS_VECTORS if rows > 1 else 1
    else:
        vectors = _tile_vectors(width, rows, columns)
    wide = vectors * width
    rest = wide - 1 if any_columns else columns % wide
    heights = tile_heights(rows, vectors)
    # One tile high, a copy of B would be read once; but a mask is for a known number of columns, in the last vector.
    is_padded = rest % width != 0 and (rows > 1 if any_columns else rows > heights[0] and not has_mask_registers())
    texts: list[str | None] = []
    for here, needed in ((wide, any_columns or columns >= wide), (rest, rest > 0)):
        last = WHOLE if here % width == 0 else PADDED if is_padded else MASKED
        texts += [tile_text(dtype, height, -(-here // width), last, 0, asks and _asks_at(height, heights))
                  if needed else None for height in heights]
    return _Choice(heights, wide, _up(rest, width), tuple(texts), is_padded)


def _asks_at(height: int, heights: tuple[int, ...]) -> bool:
    """Whether a tile of this height asks, where the product does.  The lower ones do the rows that are left over, and
    are done before anything comes."""
    tall_or_near = heights[:2]
    return height > 1 and height in tall_or_near


DOT_ROWS = 8            # rows of a tile of one column: as many sums are under way as cover the latency of fma


@functools.cache
def _dot_choice(dtype: str) -> _Choice:
    """The tiles for a single column, with vectors along k."""
    heights = DOT_ROWS, DOT_ROWS, DOT_ROWS // 2, 1
    return _Choice(heights, 1, 1, (*(tile_text(dtype, height, 0, WHOLE) for height in heights), *[None] * HEIGHTS))


@functools.cache
def _compiled(choice: _Choice) -> Tiles:
    codes = machine.codes(text for text in choice.texts if text)
    addresses = tuple(codes[text].address if text else 0 for text in choice.texts)
    return Tiles(choice.heights, choice.wide, choice.last_wide, addresses, choice.is_padded)


def _tiles(dtype: str, rows: int, columns: int, any_columns: bool, any_rows: bool, asks: bool) -> Tiles:
    return _compiled(_choice(dtype, rows, columns, any_columns, any_rows, asks))


def _dot_tiles(dtype: str) -> Tiles:
    return _compiled(_dot_choice(dtype))


@functools.cache
def _panel_choice(dtype: str, rows: int, columns: int, panel_columns: int, asks: bool = False) -> _Choice:
    """The tiles for a B in panels, each whole vectors wide: of one panel, or several side by side."""
    rows = MANY_ROWS if rows > 1 else 1
    width = _lanes(dtype)
    part, panels = panel_columns // width, columns // panel_columns
    vectors = _tile_vectors(width, rows, columns, part)
    heights = tile_heights(rows, vectors)
    rest = panels * part % vectors
    texts = [tile_text(dtype, height, here, WHOLE, part if here > part else 0, asks and _asks_at(height, heights))
             if needed else None for here, needed in ((vectors, panels * part >= vectors), (rest, rest > 0))
             for height in heights]
    return _Choice(heights, vectors * width, rest * width, tuple(texts))


def texts(dtype: str, rows: int | None, columns: int | None, panel_columns: int = 0, asks: bool = False) -> list[str]:
    """What stands for the code that contractions of so many rows (None: any number) and columns (None: any number; 0:
    dot products) need; with B in panels of ``panel_columns``, if that is not 0, or with tiles that ask ahead."""
    numbers = (1, MANY_ROWS) if rows is None else (rows,)
    if panel_columns and columns is not None:
        choices = [_panel_choice(dtype, number, columns, panel_columns, asks) for number in numbers]
    elif columns == 0:
        choices = [_dot_choice(dtype)]
    else:
        choices = [_choice(dtype, number, columns or 1, columns is None, rows is None, asks)
                   for number in numbers]
    return [f"contract {dtype}", *(text for choice in choices for text in choice.texts if text)]


def _count(axes) -> int:
    total = 1
    for axis in axes:
        total *= axis.size
    return total


def _blocks(batches: int, rows: int, columns: int, depth: int, tall: int, wide: int,
            most_units: int, thread_count: int) -> tuple[int, int]:
    """Rows and columns of a work unit: enough units for threads to share evenly, and otherwise as large as the cache
    allows; of two ways to cut, the one whose units have the smaller border, which is what a unit loads."""
    # To read an element of B takes as long as some eight rows' products with it.
    work = 2 * batches * max(rows, 8) * columns * depth
    wanted = -(-min(most_units, max(1, work // 200_000)) // max(batches, 1))
    most = max(1, MAX_ROWS // tall) * tall
    most_row_pieces, most_column_pieces = max(-(-rows // tall), 1), max(-(-columns // wide), 1)
    wanted = min(wanted, most_row_pieces * most_column_pieces)
    best, best_cost = (tall, wide), None
    for column_pieces in range(1, most_column_pieces + 1):
        block_columns = _up(-(-columns // column_pieces), wide)
        row_pieces = max(-(-wanted // column_pieces), -(-rows // most), 1)
        if row_pieces * column_pieces * batches > thread_count:
            # As many for each thread; where that takes more pieces, by one or two.
            row_pieces = _up(row_pieces, thread_count // gcd(thread_count, column_pieces * batches))
        block_rows = _up(-(-rows // row_pieces), tall)
        cost = 1 / max(block_rows, 1) + 0.5 / block_columns
        if row_pieces <= most_row_pieces and (best_cost is None or cost < best_cost):
            best, best_cost = (max(block_rows, tall), block_columns), cost
        if column_pieces >= wanted:
            break
    return best


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
