"""Long sums in parts: the gradient of a small kernel sums over all samples and pixels of a batch.

Few tiles of a result share one such sum, so that threads would get slivers of it, each of which reads all of an
operand.  Cut into parts that are products of their own, it gives whole tiles to every thread; one pass adds the parts
up.  How many parts depends on sizes alone, never on threads, so that the bits do not either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .schedule import Extent, Product
from .types import Dim, evaluate, product

# elements of a result that is cut into so many parts at most
MOST_PARTS = {8 * 1024: 8, 24 * 1024: 4}
LEAST_TERMS = 256           # of a part's sums: what they take must outweigh that the parts are stored and read


def may_have_parts(matrix: Product) -> bool:
    """Whether a product, at some sizes, is cut: one of known, dense result whose outermost sum has a symbolic length.

    No other will do: the samples' own results must not depend on how many samples there are.
    """
    if matrix.batch or matrix.is_dot or not matrix.rows or not matrix.sums or not isinstance(matrix.columns, int):
        return False
    cells = matrix.columns
    for extent in reversed(matrix.rows):
        if not isinstance(extent.size, int) or extent.c != cells:
            return False
        cells *= extent.size
    return isinstance(matrix.sums[0].size, Dim) and cells <= max(MOST_PARTS)


def count_parts(matrix: Product, sizes: Mapping[str, int]) -> int:
    """Into how many parts the outermost sum is cut; 1 where it stays whole."""
    if not may_have_parts(matrix):
        return 1
    cells, (outer, *inner) = cells_of(matrix), [evaluate(extent.size, sizes) for extent in matrix.sums]
    most = next(count for bound, count in MOST_PARTS.items() if cells <= bound)
    return max(_divisors(outer, min(most, outer * product(inner) // LEAST_TERMS)), default=1)


def cells_of(matrix: Product) -> int:
    """Elements of the result of a product that may have parts."""
    return evaluate(product(extent.size for extent in (*matrix.rows, Extent(matrix.columns, 0, 0, 1))), {})


def _divisors(number: int, most: int) -> Sequence[int]:
    return [count for count in range(1, most + 1) if number % count == 0]
