"""Whether a product's B is copied to panels once, for all units of the product.

A tile reads sixteen columns of B, row after row; rows that are far apart collide in the cache, so they are copied next
to each other.  Of a product with many rows every unit would make that copy anew.  Weights that are bound lie in panels
from the beginning (see ``binding``); in training they change, and the gradients' products have no weights in B.
"""

from __future__ import annotations

from collections.abc import Mapping

from .schedule import Product
from .types import DType, evaluate, product

PANEL_BYTES = 64            # of a panel's row: a cache line, two vectors of AVX2
FAR = 384                   # bytes from one row of B to the next from which on they collide
LEAST_ROWS, LEAST_TERMS = 128, 32   # of the product, for a copy to be used often and read long
LEAST_PRODUCTS = 1 << 22    # multiply-adds that are worth a step more


def panel_columns(dtype: DType) -> int:
    """Columns of a panel."""
    return PANEL_BYTES // dtype.itemsize


def may_have_panels(matrix: Product) -> bool:
    """Whether, at some sizes, B is copied."""
    return (not matrix.batch and not matrix.is_dot and isinstance(matrix.columns, int) and matrix.columns > 0
            and matrix.columns % panel_columns(matrix.c.dtype) == 0)


def has_panels(matrix: Product, sizes: Mapping[str, int]) -> bool:
    """Whether B is copied at these sizes."""
    if not may_have_panels(matrix):
        return False
    rows, columns, stride = (evaluate(size, sizes) for size in (matrix.row_count, matrix.columns, matrix.column_stride))
    terms = evaluate(product(extent.size for extent in matrix.sums), sizes)
    inner = next((evaluate(extent.b, sizes) for extent in reversed(matrix.sums) if evaluate(extent.size, sizes) > 1), 0)
    is_far = stride != 1 or abs(inner) * matrix.c.dtype.itemsize >= FAR
    return is_far and rows >= LEAST_ROWS and terms >= LEAST_TERMS and rows * columns * terms >= LEAST_PRODUCTS
