"""Whether a product's B is copied once, for all units of the product.

A tile reads sixteen columns of B, row after row.  Rows that are far apart collide in the cache, so they are copied next
to each other, in panels; columns that are apart, such as those of a kernel in the gradient of what it is applied to,
are copied side by side.  Of a product with many rows every unit would make that copy anew.  Weights that are bound lie
in panels from the beginning (see ``binding``); in training they change, and the gradients' products have no weights in
B.
"""

from __future__ import annotations

from collections.abc import Mapping

from .schedule import Product
from .types import DType, evaluate, product

PANEL_BYTES = 64            # of a panel's row: a cache line, two vectors of AVX2
FAR = 384                   # bytes from one row of B to the next from which on they collide
LEAST_ROWS, LEAST_TERMS = 128, 32   # of the product, for a copy to be used often and read long
# Multiply-adds that are worth a step more; where columns are apart fewer, as a unit takes longer for a copy of its own.
LEAST_PRODUCTS, LEAST_OF_COLUMNS = 1 << 22, 1 << 20


def panel_columns(dtype: DType) -> int:
    """Columns of a panel."""
    return PANEL_BYTES // dtype.itemsize


def copied_columns(matrix: Product) -> int:
    """How many columns lie side by side in a copy of B: those of a panel, or all; 0 if none is made at any sizes."""
    columns, width = matrix.columns, panel_columns(matrix.c.dtype)
    if matrix.batch or matrix.is_dot or not isinstance(columns, int) or columns == 0:
        return 0
    if columns % width == 0:
        return width
    return columns if matrix.column_stride != 1 and columns * matrix.c.dtype.itemsize < FAR else 0


def is_copied(matrix: Product, sizes: Mapping[str, int]) -> bool:
    """Whether B is copied at these sizes."""
    if not copied_columns(matrix):
        return False
    rows, columns, stride = (evaluate(size, sizes) for size in (matrix.row_count, matrix.columns, matrix.column_stride))
    terms = evaluate(product(extent.size for extent in matrix.sums), sizes)
    if rows < LEAST_ROWS:
        return False
    if stride != 1:
        return rows * columns * terms >= LEAST_OF_COLUMNS
    inner = next((evaluate(extent.b, sizes) for extent in reversed(matrix.sums) if evaluate(extent.size, sizes) > 1), 0)
    is_far = abs(inner) * matrix.c.dtype.itemsize >= FAR
    return is_far and terms >= LEAST_TERMS and rows * columns * terms >= LEAST_PRODUCTS
