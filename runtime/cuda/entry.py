"""What is launched: a source's function ``work``, and the kernel that shares its units out.

``work(bases, args, unit, end, stride)`` does the units ``unit``, ``unit + stride``, ... below ``end``.
"""

from __future__ import annotations

_KERNEL = """
{bounds}def kernel(bases, args, units):
    work(words(bases), words(args), {first}, units, {stride})
"""


def with_kernel(work: str, lanes: int, blocks: int = 0) -> str:
    """The source with its ``kernel(bases, args, units)``: a unit is a thread's, or a block's where so many threads
    share it.  Bases and args come as addresses, since a launch's cost grows with its arguments.  ``blocks``: so many
    are to be on a multiprocessor at once, for which a thread's registers are limited."""
    bounds = f"@bounded({lanes}, {blocks})\n" if blocks else ""
    first, stride = ("cuda.blockIdx.x", "cuda.gridDim.x") if lanes > 1 else ("cuda.grid(1)", "cuda.gridsize(1)")
    return work + _KERNEL.format(bounds=bounds, first=first, stride=stride)
