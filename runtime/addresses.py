"""Where an array's elements lie: at a fraction of what ``array.ctypes.data`` costs; and arrays that lie well.

In CPython an object's ``id`` is its address, and an ndarray begins with the object's header followed by the pointer to
its elements: part of NumPy's ABI, which compiled extensions rely on.  Elsewhere the slow way is taken.
"""

from __future__ import annotations

import ctypes
import math
import sys

from .deferred import np

_HEADER = object.__basicsize__


def _slow(array: np.ndarray) -> int:
    return array.ctypes.data


def _fast(array: np.ndarray) -> int:
    return _word_at(id(array) + _HEADER).value


_word_at = ctypes.c_ssize_t.from_address
_probe = np.arange(3.0)[1:]
_is_known = sys.implementation.name == "cpython" and 2 * ctypes.sizeof(ctypes.c_ssize_t) == _HEADER

# The address of an array's first element.
address_of = _fast if _is_known and _fast(_probe) == _slow(_probe) else _slow


LINE = 64           # bytes of a cache line, and of the widest vector
LEAST_BYTES = 4096  # a smaller array may lie anywhere


def aligned(shape: tuple[int, ...], dtype) -> np.ndarray:
    """An array, not set, that begins with a cache line.  NumPy's begin where they may, mostly 16 bytes into one: then
    every whole vector that is read of them takes two lines."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < LEAST_BYTES:
        return np.empty(shape, dtype)
    memory = np.empty(size + LINE, np.uint8)
    first = -address_of(memory) % LINE
    return memory[first:first + size].view(dtype).reshape(shape)


def aligned_copy(array: np.ndarray, dtype=None) -> np.ndarray:
    """A copy, in row-major order, that begins with a cache line."""
    copy = aligned(array.shape, array.dtype if dtype is None else dtype)
    copy[...] = array
    return copy
