"""A scan whose samples do not meet, as one launch: a block of threads takes some samples through all turns, and never
waits for another block.

Its source is that of the steps of a turn, one function each, and a kernel that calls them in order, turn by turn, with
a barrier after each.  Argument words: the number of turns; then for every step of every turn where its own words begin
(from here), how many units it has, and how many of them belong to a block's samples.
"""

from __future__ import annotations

from collections.abc import Sequence

from .words import CHUNK_TERMS, COLUMN_STRIDE, COLUMNS, DEPTH, LEVELS, ROW_INDEX, SUM_INDEX

THREADS = 256
BLOCKS = 128            # wanted: one for each multiprocessor of a large GPU
ROW_WORDS = 3


def samples_of_block(samples: int) -> int:
    """How many samples a block takes."""
    return -(-samples // BLOCKS)


def text(steps: Sequence[str]) -> str:
    """The source of a scan whose turn is these steps, each a source with a function ``work``."""
    distinct = list(dict.fromkeys(steps))
    functions = [source.replace("def work(", f"def work_{number}(").strip("\n")
                 for number, source in enumerate(distinct)]
    calls = []
    for position, source in enumerate(steps):
        row = f"row + {position * ROW_WORDS}"
        calls += [f"            here = words(args + 8 * table[{row}])",
                  f"            first = region * table[{row} + 2] + cuda.threadIdx.x",
                  f"            last = min((region + 1) * table[{row} + 2], table[{row} + 1])",
                  f"            work_{distinct.index(source)}(words(bases), here, first, last, cuda.blockDim.x)",
                  "            cuda.syncthreads()"]
    kernel = f"""def kernel(bases, args, units):
    table = words(args)
    region = cuda.blockIdx.x
    while region < units:
        for turn in range(table[0]):
            row = 1 + turn * {len(steps) * ROW_WORDS}
""" + "\n".join(calls) + "\n        region += cuda.gridDim.x\n"
    return "\n\n\n".join([*functions, kernel])


def words(rows: Sequence[tuple[int, int, Sequence[int]]], turns: int) -> list[int]:
    """The argument words of a scan, of (units, units of a block's samples, argument words) for all steps in order."""
    table, inner = [turns], []
    first = 1 + ROW_WORDS * len(rows)
    for units, each, arguments in rows:
        table += [first + len(inner), units, each]
        inner += arguments
    return table + inner


def product_text(dtype: str) -> str:
    """The source of a product within a scan: an element of C is a thread's.  Rows and sums are one index each.

    It adds in the order of the tiles' kernel (``contract``), so that its bits are the same.
    """
    zero = f"{'float32' if dtype == 'f32' else 'float64'}(0.0)"
    return f"""@device
def work(bases, args, unit, end, stride):
    a = buffer_{dtype}(bases, args, 0)
    b = buffer_{dtype}(bases, args, 2)
    c = buffer_{dtype}(bases, args, 4)
    columns = args[{COLUMNS}]
    column_stride = args[{COLUMN_STRIDE}]
    depth = args[{DEPTH}]
    terms = args[{CHUNK_TERMS}]
    row_a = args[{ROW_INDEX + 2 * LEVELS - 1}]
    row_c = args[{ROW_INDEX + 3 * LEVELS - 1}]
    sum_a = args[{SUM_INDEX + 2 * LEVELS - 1}]
    sum_b = args[{SUM_INDEX + 3 * LEVELS - 1}]
    while unit < end:
        row = quotient(unit, columns)
        column = unit - row * columns
        at_a = row * row_a
        at_b = column * column_stride
        total = {zero}
        for start in range(0, depth, terms):
            part = {zero}
            for k in range(start, min(start + terms, depth)):
                part = fma_{dtype}(a[at_a], b[at_b], part)
                at_a += sum_a
                at_b += sum_b
            total = total + part
        c[row * row_c + column] = total
        unit += stride

"""
