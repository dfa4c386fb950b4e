"""The room behind the door where numba-cuda's simulator takes the GPU's place: buffers over the host's memory, whose
every access is checked against what was allocated, and NumPy's functions.
"""

from __future__ import annotations

import copy
import ctypes
import math
import sys
import threading
import weakref

import numpy as np
from numba.cuda.np import numpy_support
from numba.cuda.simulator import kernelapi
from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

from . import philox

DTYPES = {"f32": np.float32, "f64": np.float64, "i32": np.int32, "i64": np.int64, "bool": np.bool_}

# Everything that kernels may touch, by the address of its first byte.
_allocated: weakref.WeakValueDictionary[int, np.ndarray] = weakref.WeakValueDictionary()
ALIGNMENT = 256             # of memory on a device


def allocate(nbytes: int) -> tuple[int, np.ndarray]:
    """(address, owner) of memory."""
    whole = np.full(nbytes + 2 * ALIGNMENT, 0xCB, np.uint8)         # not zeros: memory on a device holds anything
    start = -whole.ctypes.data % ALIGNMENT
    owner = whole[start:start + max(nbytes, 1)]
    _allocated[owner.ctypes.data] = owner
    return owner.ctypes.data, owner


def memory_of(address: int, nbytes: int):
    """The simulator's array over bytes of memory."""
    return FakeCUDAArray(np.frombuffer((ctypes.c_uint8 * nbytes).from_address(address), np.uint8))


def register(address: int, nbytes: int) -> np.ndarray:
    """Let kernels touch memory that somebody else allocated, as long as the result lives."""
    for start, known in list(_allocated.items()):
        if start <= address and address + nbytes <= start + known.nbytes:
            return known
    owner = np.frombuffer((ctypes.c_uint8 * nbytes).from_address(address), np.uint8)
    _allocated[address] = owner
    return owner


def _allocation(address: int) -> np.ndarray:
    for start, owner in list(_allocated.items()):
        if start <= address < start + owner.nbytes:
            return owner
    raise IndexError(f"a kernel would touch {address:#x}, which nobody allocated")


class Buffer:
    """Values of a dtype from an address on, in one allocation."""

    def __init__(self, address: int, dtype):
        owner = _allocation(address)
        shift = address - owner.ctypes.data
        size = np.dtype(dtype).itemsize
        self._first = shift // size
        self._values = owner[shift % size:][:(owner.nbytes - shift % size) // size * size].view(dtype)

    def __getitem__(self, index):
        place = self._first + index
        if place < 0:
            raise IndexError(f"a kernel would touch element {place} of its memory")
        return self._values[place]

    def __setitem__(self, index, value) -> None:
        place = self._first + index
        if place < 0:
            raise IndexError(f"a kernel would touch element {place} of its memory")
        self._values[place] = value


    def later(self, index) -> Buffer:
        """The same from an element on."""
        made = copy.copy(self)
        made._first += index
        return made


class Words(Buffer):
    """Integers as Python's, which are faster to reckon with than NumPy's."""

    def __init__(self, address: int):
        super().__init__(address, np.int64)

    def __getitem__(self, index) -> int:
        return int(super().__getitem__(index))


_sharing = threading.Lock()


def _shared_array(self, shape, dtype, alignment=None):
    """The simulator's own gives two threads two arrays where both ask for the first time at once."""
    frame = sys._getframe(1)
    place = frame.f_code.co_filename, frame.f_lineno
    with _sharing:
        if place not in self._allocations:
            kind = dtype if isinstance(dtype, np.dtype) else numpy_support.as_dtype(dtype)
            self._allocations[place] = np.full(shape, -1, kind)
    return self._allocations[place]


kernelapi.FakeCUDAShared.array = _shared_array


def _buffer_of(dtype):
    def buffer(bases, args, k):
        return Buffer(bases[args[k]] + args[k + 1], dtype)
    return buffer


def _integer(dtype):
    """A conversion that takes NaN and what is too large as a machine does: to some number."""
    def convert(value):
        return np.asarray(value).astype(dtype)[()]
    return convert


def _erf(x):
    return math.erf(x)


def _sigmoid(x):
    z = np.exp(-np.abs(x))
    return (1.0 if x >= 0 else z) / (1.0 + z)


def _functions() -> dict:
    return {"exp": np.exp, "expm1": np.expm1, "log": np.log, "log1p": np.log1p, "tanh": np.tanh, "erf": _erf,
            "sin": np.sin, "cos": np.cos, "sqrt": np.sqrt, "floor": np.floor, "ceil": np.ceil, "round": np.rint,
            "pow": np.power, "sigmoid": _sigmoid, "sign": np.sign}


def _typed(function, dtype):
    return lambda *args: dtype(function(*args))


def _fma_f32(a, b, c):
    return np.float32(float(a) * float(b) + float(c))


def _load(count: int):
    return lambda values, at: tuple(values[at + i] for i in range(count))


def _store(values, at, *new) -> None:
    for i, value in enumerate(new):
        values[at + i] = value


def _zeros_of(dtype):
    return lambda count: lambda: (dtype(0),) * count


def _products_of(dtype):
    """``products`` of ``vectors``: with a product and its sum in 64 bits, as ``fma`` here."""
    def products(depth, rows, columns):
        def places(count, neighbours, apart, row):
            return [[k * row + i // neighbours * apart + i % neighbours for i in range(count)] for k in range(depth)]
        along = list(zip(places(*rows), places(*columns)))

        def add_products(a, at_a, b, at_b, total):
            sums = np.array(total, dtype).reshape(rows[0], columns[0])
            for left, right in along:
                terms = np.outer(a[np.add(left, at_a)].astype(np.float64), b[np.add(right, at_b)].astype(np.float64))
                sums = (terms + sums).astype(dtype)
            return tuple(sums.ravel())
        return add_products
    return products


def namespace() -> dict:
    """The names that generated source may use, but for ``cuda`` itself."""
    names = {"device": lambda function: function, "quotient": lambda a, b: a // b, "words": Words,
             "float32": np.float32, "float64": np.float64,
             "int32": _integer(np.int32), "int64": _integer(np.int64), "boolean": np.bool_,
             "maximum": np.maximum, "minimum": np.minimum, "floordiv": np.floor_divide, "mod": np.mod,
             "sign_i32": np.sign, "sign_i64": np.sign, "fma_f32": _fma_f32, "fma_f64": lambda a, b, c: a * b + c,
             "random_bits": philox.define(np.uint64, np.int32)}
    names |= {"or_zeros": lambda values, condition: values if condition else tuple(0 * value for value in values),
              "small": lambda value: value, "bounded": lambda threads, blocks: lambda kernel: kernel}
    for kind in ("f32", "f64"):
        names |= {f"load{count}_{kind}": _load(count) for count in (2, 4)}
        names |= {f"store{count}_{kind}": _store for count in (2, 4)}
        names |= {f"products_{kind}": _products_of(DTYPES[kind]), f"zeros_{kind}": _zeros_of(DTYPES[kind]),
                  f"from_{kind}": Buffer.later}
    names |= {f"buffer_{name}": _buffer_of(dtype) for name, dtype in DTYPES.items()}
    names |= {f"pointer_{name}": lambda array: array for name in DTYPES}
    names |= {f"type_{name}": np.dtype(dtype) for name, dtype in DTYPES.items()}
    for kind in ("f32", "f64"):
        names |= {f"{name}_{kind}": _typed(function, DTYPES[kind]) for name, function in _functions().items()}
    return names
