"""A function in machine code that Python calls: for programs so small that a call's own Python would take longer.

CPython calls it by its convention for built-in functions with keywords: arguments as an array of objects, the names of
those that come by keyword as a tuple.  It knows calls by their form: how many arguments, which by which name, and of
each, an ndarray, the shape, the type, and what its elements must be below.  Where a call has one of its forms, it puts
the arrays' addresses in place, has NumPy make the outputs, and runs the program.  Any other call it hands on to the
long way, and one that comes while another thread's is under way.  The native part is ``walker``'s; what an ndarray
begins with is NumPy's ABI, on which compiled extensions rely.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import machine
from .pool import Pool
from .records import dataclass

FORMS = 8               # that an entry knows at most
MOST_OUTPUTS = 16

# Words of an entry: the long way, how many forms it knows, the address of each.
LONG_WAY, FORM_COUNT, FIRST_FORM = range(3)
# Words of a form.  MAKE: what is called with the outputs for the result, 0 where the one output is the result.
# RELEASES: whether the program runs outside of the interpreter's lock; RUNNING: it does just now, in some thread;
# CONTROL: the control block of the pool with which it runs, 0 for none; WAKE: what is called to wake its workers.
(PROGRAM, FRAME, RELEASES, RUNNING, CONTROL, WAKE, ARRAY_TYPE, EMPTY, MAKE, POSITIONAL, INPUTS, OUTPUTS,
 FIRST_INPUT) = range(13)
# Of each input, in order: its name, where its address goes (-1: nowhere), its type, the bytes of an element, what its
# elements, integers from 0 on, must be below (0: they may be anything), its shape.
INPUT_NAME, INPUT_PLACE, INPUT_TYPE, INPUT_BYTES, INPUT_LIMIT, INPUT_RANK, INPUT_SHAPE = range(7)
# Of each output, behind the inputs: where its address goes, and the address of its shape and its type, two objects.
OUTPUT_PLACE, OUTPUT_KIND, OUTPUT_WORDS = range(3)

# What an object, an ndarray and a tuple begin with, in words.  Rank and flags are half a word each.
OBJECT_TYPE = 1
ARRAY_DATA, ARRAY_RANK, ARRAY_SHAPE, ARRAY_DTYPE, ARRAY_FLAGS = 2, 3, 4, 7, 8
TUPLE_SIZE, TUPLE_ITEMS = 2, 3
HALF = 0xFFFF_FFFF
ORDERED = 0x101         # the flags of contiguous rows and aligned elements


@dataclass(frozen=True)
class Form:
    """How a call may look, and what answers it.  ``program``, ``frame``: addresses; ``releases``: as RELEASES;
    ``workers``: the pool with which it runs; ``inputs``: (name, None where it comes by position; place; an array of its
    shape and type; limit of its elements); ``outputs``: (shape, type, place); ``make``: as MAKE; ``kept``: what must
    live as long as the form."""

    program: int
    frame: int
    releases: bool
    workers: Pool | None
    inputs: Sequence[tuple[str | None, int, np.ndarray, int | None]]
    outputs: Sequence[tuple[tuple[int, ...], np.dtype, int]]
    make: Callable | None
    kept: Any


class _Words(np.ndarray):
    """The words of an entry, and what they point to."""

    kept: list


class Entry:
    """``entry.call`` is what Python calls; until there is a form, and where there is none that fits, it is
    ``long_way``."""

    def __init__(self, long_way: Callable):
        self.call, self._long_way = long_way, long_way
        self._words: _Words | None = None

    def add(self, form: Form) -> None:
        """Answer calls of this form from now on."""
        if not is_possible() or len(form.outputs) > MOST_OUTPUTS:
            return
        if self._words is None:
            self._words = np.zeros(FIRST_FORM + FORMS, np.int64).view(_Words)
            self._words.kept = [self._long_way]
            self._words[LONG_WAY] = id(self._long_way)
        words, known = self._words, int(self._words[FORM_COUNT])
        if known < FORMS:
            written, kept = _write(form)
            words.kept += [form, written, kept]
            words[FIRST_FORM + known] = written.ctypes.data
            words[FORM_COUNT] = known + 1
            self.call = _function(words)


def _write(form: Form) -> tuple[np.ndarray, list]:
    """The words of a form, and what they point to."""
    wake = None if form.workers is None else form.workers.wake
    kept: list = [wake]
    words = [form.program, form.frame, form.releases, 0, 0 if form.workers is None else form.workers.address, id(wake),
             id(np.ndarray), id(np.empty),
             0 if form.make is None else id(form.make),
             sum(name is None for name, *_ in form.inputs), len(form.inputs), len(form.outputs)]
    for name, place, array, limit in form.inputs:
        kept += [name, array.dtype]
        words += [id(kept[-2]), place, id(kept[-1]), array.itemsize, limit or 0, array.ndim, *array.shape]
    for shape, dtype, place in form.outputs:
        pair = (ctypes.py_object * 2)(ctypes.py_object(shape), ctypes.py_object(dtype))
        kept.append(pair)
        words += [place, ctypes.addressof(pair)]
    return np.array(words, np.int64), kept


class _MethodDefinition(ctypes.Structure):
    """CPython's PyMethodDef."""

    _fields_ = [("name", ctypes.c_char_p), ("function", ctypes.c_void_p), ("flags", ctypes.c_int),
                ("doc", ctypes.c_char_p)]


_FASTCALL, _KEYWORDS = 0x80, 0x02
_definitions: list[_MethodDefinition] = []      # the one that all entries share, once there is one


def _function(words: _Words) -> Callable:
    """The built-in function over these words, which it keeps."""
    if not _definitions:
        address = machine.code("runner entry").address
        _definitions.append(_MethodDefinition(b"call", address, _FASTCALL | _KEYWORDS, None))
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p]
    return make(ctypes.addressof(_definitions[0]), words, None)


_PROBES: tuple[np.ndarray, ...] = np.zeros((2, 3), np.float32), np.zeros(5)[::2], np.array(1)
_known: list[bool] = []


def is_possible() -> bool:
    """Whether this is CPython with its lock, and arrays begin as they are known to."""
    if not _known:
        _known.append(sys.implementation.name == "cpython" and ctypes.sizeof(ctypes.c_void_p) == 8
                      and sys.byteorder == "little" and getattr(sys, "_is_gil_enabled", lambda: True)()
                      and all(_is_as_expected(array) for array in _PROBES))
    return _known[0]


def _is_as_expected(array: np.ndarray) -> bool:
    words = (ctypes.c_int64 * (ARRAY_FLAGS + 1)).from_address(id(array))
    shape = (ctypes.c_int64 * array.ndim).from_address(words[ARRAY_SHAPE]) if array.ndim else ()
    return (words[OBJECT_TYPE] == id(np.ndarray) and words[ARRAY_DATA] == array.ctypes.data
            and words[ARRAY_RANK] & HALF == array.ndim and tuple(shape) == array.shape
            and words[ARRAY_DTYPE] == id(array.dtype) and words[ARRAY_FLAGS] & ORDERED == array.flags.num & ORDERED)
