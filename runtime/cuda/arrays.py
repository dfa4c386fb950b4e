"""Arrays in a GPU's memory: what programs read and write, and what comes in and goes out without a copy to the host."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InputError
from . import dlpack, door

VECTOR_BYTES = 16           # of the widest loads: kernels take it that all memory begins at a multiple


class DeviceArray:
    """A C-contiguous array on the GPU.  ``copy_to_host()`` brings it to the CPU, and so does ``np.asarray``; CuPy,
    Numba and PyTorch take it as it is, by ``__cuda_array_interface__`` or DLPack."""

    is_lent = False                     # whether another library owns the memory

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
        # What computes it may still run, on the default stream; the interface wants 0 where there is nothing.
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (self.address if self.size else 0, False),
                "strides": None, "version": 3, "stream": dlpack.LEGACY_STREAM}

    def __dlpack_device__(self) -> tuple[int, int]:
        return (dlpack.CPU, 0) if door.is_simulated() else (dlpack.CUDA, door.device_number())

    def __dlpack__(self, *, dl_device: tuple[int, int] | None = None, copy: bool | None = None, **_):
        """Its memory, or a copy, for ``torch.from_dlpack``, ``jax.dlpack.from_dlpack`` and their like.  Raises
        BufferError for another device."""
        device = self.__dlpack_device__()
        if dl_device is not None and tuple(map(int, dl_device)) != device:
            raise BufferError("by DLPack it goes to no other device: copy_to_host() brings it to the host")
        lent = self.copy() if copy else self
        door.synchronize()          # whichever stream it goes to
        return dlpack.export(lent, device)

    def copy_to_host(self) -> np.ndarray:
        """A copy as a NumPy array."""
        host = np.empty(self.shape, self.dtype)
        if self.size:
            door.memory(self.address, self.nbytes).copy_to_host(host.reshape(-1).view(np.uint8))
        return host

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        if copy is False:
            raise ValueError("an array on the GPU comes to the host as a copy alone")
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
    """Whether a value is an array in a GPU's memory: by DLPack, or ``__cuda_array_interface__``."""
    if isinstance(value, DeviceArray):
        return True
    device = None if type(value) is np.ndarray else dlpack.device_of(value)
    return device == dlpack.CUDA or (device is None and hasattr(value, "__cuda_array_interface__"))


def adopt(name: str, value: Any) -> DeviceArray:
    """An array of another library on the device, in its own memory, or in a copy there if that begins at an odd place.
    Raises InputError where it cannot be taken, such as where it is not contiguous."""
    if isinstance(value, DeviceArray):
        return value
    try:
        source = value if hasattr(value, "__cuda_array_interface__") else dlpack.Taken(value)
        interface = source.__cuda_array_interface__
    except (RuntimeError, BufferError, TypeError) as error:         # PyTorch's, where it wants a gradient
        raise InputError(f"`{name}` lies on the device and is not given away: {error}") from None
    dtype, shape, strides = np.dtype(interface["typestr"]), tuple(interface["shape"]), interface.get("strides")
    dense, step = [], dtype.itemsize
    for size in reversed(shape):
        dense.insert(0, step)
        step *= size
    if strides is not None and any(size > 1 and have != want for size, have, want in zip(shape, strides, dense)):
        raise InputError(f"`{name}` is not contiguous on the device: make it so first, as PyTorch's "
                         "`.contiguous()` does")
    address = interface["data"][0]
    owner = (source, door.share(address, int(np.prod(shape, dtype=np.int64)) * dtype.itemsize, interface.get("stream")))
    lent = DeviceArray(address, shape, dtype, owner)
    lent.is_lent = True
    if address % VECTOR_BYTES == 0:
        return lent
    copied = lent.copy()
    door.synchronize()              # what was lent may be given back
    return copied


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
