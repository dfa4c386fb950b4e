"""Arrays of others: whatever offers NumPy's protocols or DLPack becomes a NumPy array, without a copy where that can
be."""

from __future__ import annotations

import math
import os
from typing import Any

from .deferred import np
from .errors import InputError, NetcError


def as_array(name: str, value: Any, expected: str, error: type[NetcError] = InputError) -> np.ndarray:
    """The value as a NumPy array: lists, and objects with ``__array__``, ``__array_interface__`` or ``__dlpack__``,
    such as PyTorch's tensors and JAX's arrays.

    Memory on the CPU is shared, so the result may be read-only or of another dtype than is wanted.  Raises ``error``.
    """
    # Naming `np.ma` imports it, which takes 20 ms.
    if type(value) is not np.ndarray and isinstance(value, np.ma.MaskedArray):
        raise error(f"`{name}` is a masked array, expected {expected}: fill it first")
    if type(value) is not np.ndarray and hasattr(value, "toarray"):
        raise error(f"`{name}` is a sparse array, expected {expected}: make it dense first, as `.toarray()` does")
    try:
        if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
            array = np.from_dlpack(value)
        else:
            array = np.asarray(value)
    except Exception as fault:                  # noqa: BLE001 - the other library's own, of any class
        raise error(f"`{name}` is no array of numbers, expected {expected}: {_hint(value, fault)}") from None
    # JAX's half precision, which NumPy has no kind for.
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _hint(value: Any, fault: Exception) -> str:
    """Why it cannot be read, with what mends the usual cases."""
    device = str(getattr(value, "device", ""))
    if device and not device.startswith(("cpu", "Cpu", "TFRT_CPU")):
        return f"it is on the device {device}; bring it to the CPU first, as `.cpu()` does"
    if getattr(value, "requires_grad", False):
        return "it is part of PyTorch's graph; take it out of there first, as `.detach()` does"
    if "bfloat16" in str(getattr(value, "dtype", "")).lower():
        return "NumPy has no bfloat16; convert it first, as `.float()` does"
    return uneven(value) or (str(fault).splitlines()[0] if str(fault) else type(fault).__name__)


def uneven(value: Any) -> str | None:
    """What is ragged about the rows of a list, or of an array of objects; None where they have one shape."""
    if not isinstance(value, (list, tuple)) and not (isinstance(value, np.ndarray) and value.dtype == object
                                                     and value.ndim):
        return None
    first = None
    for number, row in enumerate(value):
        try:
            shape = list(np.shape(row))
        except ValueError:
            return f"its row {number} is ragged"
        if first is not None and shape != first:
            return f"it is ragged: row 0 has the shape {first}, row {number} {shape}"
        first = shape
    return None


def physical_memory() -> float:
    """Bytes of memory that this machine has; infinite where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):           # Windows; a system without these names
        return math.inf


class HostMemory:
    """Where a Trainer's arrays live: in the host's memory."""

    def place(self, array: np.ndarray) -> np.ndarray:
        """A copy of an array."""
        from .addresses import aligned_copy
        return aligned_copy(array)

    def like(self, array: np.ndarray) -> np.ndarray:
        from .addresses import aligned
        return aligned(array.shape, array.dtype)

    def fetch(self, array: np.ndarray) -> np.ndarray:
        """A copy on the host."""
        return array.copy()

    def assign(self, array: np.ndarray, value) -> None:
        """Overwrite an array with a value that broadcasts to it."""
        array[...] = value
