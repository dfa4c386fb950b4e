"""Where an array's elements lie, at a fraction of what ``array.ctypes.data`` costs.

In CPython an object's ``id`` is its address, and an ndarray begins with the object's header followed by the pointer to
its elements: part of NumPy's ABI, which compiled extensions rely on.  Elsewhere the slow way is taken.
"""

from __future__ import annotations

import ctypes
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
