"""The argument words of a contraction, and what its kernels' sources have in common."""

from __future__ import annotations

from collections.abc import Sequence

from ..records import dataclass

LEVELS = 4              # nested indices of batch, rows and sums, outermost first; unused outer ones have size 1

# Three buffers, then (CHUNKS: pieces of a sum, each of CHUNK_TERMS but the last; CHUNK_STRIDE: elements of C from one
# to the next; A_STEP, B_STEP: elements from a slice to the next where no index of the sum begins anew).
(COLUMNS, COLUMN_STRIDE, ROWS, DEPTH, ROW_TILES, COLUMN_TILES, BATCH_COUNT, CHUNKS, CHUNK_TERMS, CHUNK_STRIDE, A_STEP,
 B_STEP) = range(6, 18)
C_OFFSET = 5                        # of C's two words, where an epilogue takes its elements
BATCHES = 18                        # LEVELS sizes, then LEVELS strides each in A, B and C
ROW_INDEX = BATCHES + 4 * LEVELS    # sizes, strides in A, in C
SUM_INDEX = ROW_INDEX + 3 * LEVELS  # sizes, strides in A, in B
SLICE = SUM_INDEX + 3 * LEVELS      # how far each index of the sum goes in a slice
WORDS = SLICE + LEVELS

PLACE = f"""@device
def place(args, sizes, strides, index):
    total = 0
    for level in range({LEVELS - 1}, 0, -1):
        size = args[sizes + level]
        if size > 1:
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

    first_c = "first_c + "          # what an element's place begins with

    def store(self, place: str, value: str) -> str:
        return f"finish({', '.join((*self.operands, place, value))})"


@dataclass(frozen=True)
class Plain:
    """C as it is."""

    dtype: str
    text = ""
    first_c = ""
    operands = ("c",)

    @property
    def opening(self) -> tuple[str, ...]:
        return (f"c = buffer_{self.dtype}(bases, args, 4)",)

    def store(self, place: str, value: str) -> str:
        return f"c[{place}] = {value}"


Finish = Epilogue | Plain


def zero(dtype: str) -> str:
    return f"{'float32' if dtype == 'f32' else 'float64'}(0.0)"


def work(finish: Finish, body: Sequence[str], before: Sequence[str] = (), after: Sequence[str] = ()) -> str:
    """The source of what may finish elements: functions that it calls, before and after the one that finishes an
    element, then its own function ``work``."""
    head = [*PLACE.splitlines(), "", *before, "", *finish.text.splitlines(), *after, "", "@device",
            "def work(bases, args, unit, end, stride):", *(f"    {line}" for line in finish.opening)]
    if isinstance(finish, Epilogue):
        head += [f"    first_c = args[{C_OFFSET}]"]
    return "\n".join([*head, *body]) + "\n"
