"""Whether the tiles of a product ask for operands before they need them.

The hardware foresees what is read in order.  It does not foresee an A whose terms are far apart, as a weight gradient
has it; and of a B that comes from beyond the second-level cache it brings no more than is read at once, although few
rows of A leave no time to wait for it.  To ask costs a hot product some hundredths, so that only those ask to which it
is known to be of use, whatever their sizes: tiles are compiled before sizes are known.
"""

from __future__ import annotations

from functools import lru_cache

from .schedule import Product
from .types import is_symbol, product

LEAST_TERMS = 256           # of a sum of known length: a shorter one is read at once
LEAST_BYTES = 1 << 19       # of a B that few rows use


@lru_cache(1024)
def asks_ahead(matrix: Product) -> bool:
    """Whether its tiles ask for A and B ahead.  What is copied before it is used they cannot ask for."""
    return not matrix.is_dot and (_is_far(matrix) or _is_long(matrix))


def _is_far(matrix: Product) -> bool:
    """Whether A's terms are far apart and many, more than samples alone, and A is not copied."""
    from ..runtime.tile import STRIDED_DEPTH, lines_kept, may_pack_a
    terms = product(extent.size for extent in matrix.sums)
    apart = next((extent.a for extent in reversed(matrix.sums) if extent.size != 1), 1)
    if apart == 1 or is_symbol(terms) or (isinstance(terms, int) and terms < LEAST_TERMS):
        return False
    is_copied = may_pack_a(matrix.c.dtype.name, matrix.columns if isinstance(matrix.columns, int) else None)
    return not is_copied or not isinstance(apart, int) or lines_kept(apart * matrix.a.dtype.itemsize) >= STRIDED_DEPTH


def _is_long(matrix: Product) -> bool:
    """Whether B is large and not copied, and its rows of A are samples alone, which may be few."""
    from ..runtime.tile import FAR_ASKED_B
    parts = matrix.batch[:-1] if matrix.panels else matrix.batch        # of its sum
    cells = product(extent.size for extent in (*parts, *matrix.sums)) * matrix.all_columns
    if not is_symbol(matrix.row_count) or not isinstance(cells, int) or cells * matrix.b.dtype.itemsize < LEAST_BYTES:
        return False
    apart = next((extent.b for extent in reversed(matrix.sums) if extent.size != 1), 0)
    is_near = isinstance(apart, int) and abs(apart) * matrix.b.dtype.itemsize < FAR_ASKED_B
    return matrix.panels is not None or (is_near and matrix.column_stride == 1)
