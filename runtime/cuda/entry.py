"""What is launched: a source's function ``work``, and the kernel that shares its units out.

``work(bases, args, unit, end, stride)`` does the units ``unit``, ``unit + stride``, ... below ``end``.
"""

from __future__ import annotations

_THREADS = """
def kernel(bases, args, units):
    work(words(bases), words(args), cuda.grid(1), units, cuda.gridsize(1))
"""
_BLOCKS = """
def kernel(bases, args, units):
    work(words(bases), words(args), cuda.blockIdx.x, units, cuda.gridDim.x)
"""


def with_kernel(work: str, lanes: int) -> str:
    """The source with its ``kernel(bases, args, units)``: a unit is a thread's, or a block's where so many threads
    share it.  Bases and args come as addresses, since a launch's cost grows with its arguments."""
    return work + (_BLOCKS if lanes > 1 else _THREADS)
