"""Arrays in a GPU's memory: what programs read and write, and what comes in and goes out without a copy to the host."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InputError
from . import dlpack, door


class DeviceArray:
    """A C-contiguous array on the GPU.  ``copy_to_host()`` brings it to the CPU, and so does ``np.asarray``; CuPy,
    Numba and PyTorch take it as it is, by ``__cuda_array_interface__`` or DLPack."""

    def __init__(self, address: int, shape: tuple[int, ...], dtype, owner):
        self.address = address
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        self._owner = owner             # of the memory, which lives as long

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a scalar has no length")
        return self.shape[0]

    @property
    def __cuda_array_interface__(self) -> dict:
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (self.address, False), "strides": None,
                "version": 3}

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CPU if door.is_simulated() else dlpack.CUDA, 0

    def __dlpack__(self, **_):
        """Its memory, for ``torch.from_dlpack``, ``jax.dlpack.from_dlpack`` and their like."""
        door.synchronize()          # whichever stream it goes to
        return dlpack.export(self, self.__dlpack_device__())

    def copy_to_host(self) -> np.ndarray:
        """A copy as a NumPy array."""
        host = np.empty(self.shape, self.dtype)
        if self.size:
            door.memory(self.address, self.nbytes).copy_to_host(host.reshape(-1).view(np.uint8))
        return host

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        host = self.copy_to_host()
        return host if dtype is None else host.astype(dtype, copy=False)

    def copy(self) -> DeviceArray:
        """A copy on the device."""
        made = empty(self.shape, self.dtype)
        if self.size:
            door.memory(made.address, self.nbytes).copy_to_device(door.memory(self.address, self.nbytes))
        return made

    def fill_from(self, host: np.ndarray) -> None:
        """Overwrite it with an array of the same shape and dtype."""
        if self.size:
            door.memory(self.address, self.nbytes).copy_to_device(np.ascontiguousarray(host).reshape(-1).view(np.uint8))

    def __repr__(self) -> str:
        return f"<netc device array {self.dtype}{list(self.shape)}>"


def empty(shape: tuple[int, ...], dtype) -> DeviceArray:
    """New memory that holds anything.  Raises DeviceError where there is not enough."""
    nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    address, owner = door.allocate(nbytes)
    return DeviceArray(address, shape, dtype, owner)


def upload(host: np.ndarray) -> DeviceArray:
    """A copy of a NumPy array on the device."""
    made = empty(host.shape, host.dtype)
    made.fill_from(host)
    return made


def is_on_device(value: Any) -> bool:
    """Whether a value is an array in a GPU's memory: by ``__cuda_array_interface__``, or DLPack."""
    return hasattr(value, "__cuda_array_interface__") or (
        type(value) is not np.ndarray and dlpack.device_of(value) == dlpack.CUDA)


def adopt(name: str, value: Any) -> DeviceArray:
    """An array of another library on the device, in its own memory.  Raises InputError where it is not contiguous."""
    if isinstance(value, DeviceArray):
        return value
    if not hasattr(value, "__cuda_array_interface__"):
        value = dlpack.Taken(value)
    interface = value.__cuda_array_interface__
    dtype, shape, strides = np.dtype(interface["typestr"]), tuple(interface["shape"]), interface.get("strides")
    dense, step = [], dtype.itemsize
    for size in reversed(shape):
        dense.insert(0, step)
        step *= size
    if strides is not None and any(size > 1 and have != want for size, have, want in zip(shape, strides, dense)):
        raise InputError(f"`{name}` is not contiguous on the device: make it so first, as PyTorch's "
                         "`.contiguous()` does")
    address = interface["data"][0]
    owner = (value, door.share(address, int(np.prod(shape, dtype=np.int64)) * dtype.itemsize, interface.get("stream")))
    return DeviceArray(address, shape, dtype, owner)


class DeviceMemory:
    """Where a Trainer's arrays live: in the GPU's memory."""

    def place(self, array) -> DeviceArray:
        """A copy of an array, of the host or the device."""
        return array.copy() if isinstance(array, DeviceArray) else upload(np.asarray(array))

    def like(self, array: DeviceArray) -> DeviceArray:
        return empty(array.shape, array.dtype)

    def fetch(self, array) -> np.ndarray:
        """A copy on the host."""
        return array.copy_to_host()

    def assign(self, array: DeviceArray, value) -> None:
        """Overwrite an array with a value of the host that broadcasts to it."""
        array.fill_from(np.broadcast_to(np.asarray(value, array.dtype), array.shape))
