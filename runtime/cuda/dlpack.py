"""DLPack: arrays of other libraries in, and a DeviceArray out, over the same memory.

The structures are those of dlpack.h, version 0, which every library takes.  Kernels run on the default stream; who
takes an array out gets it finished.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

CPU, CUDA = 1, 2            # device types
_KINDS = {"i": 0, "u": 1, "f": 2, "b": 6}
_NAME, _USED = b"dltensor", b"used_dltensor"
LEGACY_STREAM = 1


class _Tensor(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
                ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
                ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
                ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64))


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


_DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_DESTRUCTOR = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)


def _function(name: str, result, *arguments):
    prototype = ctypes.PYFUNCTYPE(result, *arguments)
    return prototype((name, ctypes.pythonapi))


_new = _function("PyCapsule_New", ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_pointer_of = _function("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
_rename = _function("PyCapsule_SetName", ctypes.c_int, ctypes.py_object, ctypes.c_char_p)
# In a destructor the capsule is no object any more that Python may count references of.
_is_unused = _function("PyCapsule_IsValid", ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)
_pointer_in = _function("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)

_out: dict[int, tuple] = {}         # what others hold, by the address of its structure


@_DELETER
def _forget(address):
    _out.pop(address, None)


@_DESTRUCTOR
def _drop(capsule):
    """Of a capsule that nobody took."""
    if _is_unused(capsule, _NAME):
        _out.pop(_pointer_in(capsule, _NAME), None)


def export(array, device: tuple[int, int]):
    """The capsule of a contiguous array with ``address``, ``shape`` and ``dtype``, which lives as long as its taker
    wants."""
    shape = (ctypes.c_int64 * max(len(array.shape), 1))(*array.shape)
    bits = array.dtype.itemsize * 8
    tensor = _Tensor(array.address, *device, len(array.shape), _KINDS[array.dtype.kind], bits, 1, shape, None, 0)
    managed = _Managed(tensor, None, ctypes.cast(_forget, ctypes.c_void_p))
    address = ctypes.addressof(managed)
    _out[address] = managed, shape, array
    return _new(address, _NAME, ctypes.cast(_drop, ctypes.c_void_p))


class Taken:
    """An array that another library offers by ``__dlpack__``, as ``__cuda_array_interface__``."""

    def __init__(self, value: Any):
        capsule = value.__dlpack__(stream=LEGACY_STREAM) if device_of(value) == CUDA else value.__dlpack__()
        self._managed = ctypes.cast(_pointer_of(capsule, _NAME), ctypes.POINTER(_Managed))
        _rename(capsule, _USED)
        tensor = self._managed.contents.tensor
        kind = next((kind for kind, code in _KINDS.items() if code == tensor.code), None)
        if kind is None or tensor.lanes != 1:
            raise TypeError(f"its elements are of a type that NumPy has not (DLPack's number {tensor.code})")
        dtype, shape = np.dtype(f"{kind}{tensor.bits // 8}"), tuple(tensor.shape[:tensor.ndim])
        strides = tuple(step * dtype.itemsize for step in tensor.strides[:tensor.ndim]) if tensor.strides else None
        self.__cuda_array_interface__ = {"shape": shape, "typestr": dtype.str, "strides": strides, "version": 3,
                                         "data": ((tensor.data or 0) + tensor.byte_offset, False)}

    def __del__(self) -> None:
        managed = getattr(self, "_managed", None)
        if managed is not None and managed.contents.deleter:
            _DELETER(managed.contents.deleter)(ctypes.addressof(managed.contents))


def device_of(value: Any) -> int | None:
    """The type of the device that an object with ``__dlpack_device__`` lies on."""
    return int(value.__dlpack_device__()[0]) if hasattr(value, "__dlpack_device__") else None
