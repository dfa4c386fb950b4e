"""A function in machine code that Python calls: a call's own Python would take longer than small programs.

CPython calls it by its convention for built-in functions with keywords: arguments as an array of objects, the names of
those that come by keyword as a tuple.  It knows calls by their form: how many arguments, which by which name, and of
each, an ndarray, the shape, the type, and what its elements must be below.  Where a call has one of its forms, it puts
the arrays' addresses in place, has NumPy make the outputs, and runs the program.  Any other call it hands on to the
long way, and one that comes while another thread's is under way.  The native part is ``walker``'s; what an ndarray
begins with is NumPy's ABI, on which compiled extensions rely.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import machine
from .pool import EPOCH_ADDRESS, Pool
from .records import dataclass

FORMS = 8               # that an entry knows at most
MOST_OUTPUTS = 16

# Words of an entry: the long way, how many forms it knows, the address of each.
LONG_WAY, FORM_COUNT, FIRST_FORM = range(3)
# Words of a form.  MAKE: what is called with the outputs for the result, 0 where the one output is the result.
# RELEASES: whether the program runs outside of the interpreter's lock; RUNNING: it does just now, in some thread;
# CONTROL: the control block of the pool with which it runs, 0 for none; WAKE: what is called to wake its workers.
# EPOCH: that of the threads for which it was planned; NOW: the address of the present one.
(PROGRAM, FRAME, RELEASES, RUNNING, CONTROL, WAKE, EPOCH, NOW, ARRAY_TYPE, EMPTY, MAKE, POSITIONAL, INPUTS, OUTPUTS,
 FIRST_INPUT) = range(15)
# Of each input, in order: its name, where its address goes (-1: nowhere), its type, the bytes of an element, what its
# elements, integers from 0 on, must be below (0: they may be anything), its shape.
INPUT_NAME, INPUT_PLACE, INPUT_TYPE, INPUT_BYTES, INPUT_LIMIT, INPUT_RANK, INPUT_SHAPE = range(7)
# Of each output, behind the inputs: where its address goes, and the address of its shape and its type, two objects.
OUTPUT_PLACE, OUTPUT_KIND, OUTPUT_WORDS = range(3)

# What an object, an ndarray and a tuple begin with, in words.  Rank and flags are half a word each.
OBJECT_TYPE = 1
ARRAY_DATA, ARRAY_RANK, ARRAY_SHAPE, ARRAY_DTYPE, ARRAY_FLAGS = 2, 3, 4, 7, 8
TUPLE_SIZE, TUPLE_ITEMS = 2, tuple.__basicsize__ // 8
HALF = 0xFFFF_FFFF
ORDERED = 0x101         # the flags of contiguous rows and aligned elements


@dataclass(frozen=True)
class Form:
    """How a call may look, and what answers it.  ``program``, ``frame``: addresses; ``releases``: as RELEASES;
    ``workers``: the pool with which it runs; ``epoch``: as EPOCH; ``inputs``: (name, None where it comes by position;
    place; shape; type; limit of its elements); ``outputs``: (shape, type, place); ``make``: as MAKE; ``kept``: what
    must live as long as the form."""

    program: int
    frame: int
    releases: bool
    workers: Pool | None
    epoch: int
    inputs: Sequence[tuple[str | None, int, tuple[int, ...], np.dtype, int | None]]
    outputs: Sequence[tuple[tuple[int, ...], np.dtype, int]]
    make: Callable | None
    kept: Any


class _Words(np.ndarray):
    """Words, and what they point to."""

    kept: Any


class Entry:
    """``entry.call`` is what Python calls; until there is a form, and where there is none that fits, it is
    ``long_way``."""

    def __init__(self, long_way: Callable):
        self.call, self._long_way = long_way, long_way
        self._forms: tuple[_Words, ...] = ()

    def add(self, form: Form) -> None:
        """Answer calls of this form from now on."""
        if is_possible() and len(form.outputs) <= MOST_OUTPUTS and len(self._forms) < FORMS:
            # A function's words never change: other threads may be in it, or here.
            self._forms = forms = (*self._forms, _write(form))
            self.call = _function(_words([id(self._long_way), len(forms), *(each.ctypes.data for each in forms)],
                                         (self._long_way, forms)))

    def forget(self) -> None:
        """Answer all calls by the long way."""
        self._forms, self.call = (), self._long_way


def weakly(method: Callable) -> Callable:
    """A bound method without a hold on its object, which lives at each call: so that what an object's entry calls does
    not keep the object."""
    reference = weakref.WeakMethod(method)

    def call(*args, **named):
        found = reference()
        if found is None:
            raise ReferenceError("the object of this entry is gone")
        return found(*args, **named)
    return call


def _words(values: Sequence[int], kept: Any) -> _Words:
    words = np.array(values, np.int64).view(_Words)
    words.kept = kept
    return words


def _write(form: Form) -> _Words:
    """The words of a form."""
    wake = None if form.workers is None else form.workers.wake
    kept: list = [form, wake]
    words = [form.program, form.frame, form.releases, 0, 0 if form.workers is None else form.workers.address, id(wake),
             form.epoch, EPOCH_ADDRESS, id(np.ndarray), id(np.empty),
             0 if form.make is None else id(form.make),
             sum(name is None for name, *_ in form.inputs), len(form.inputs), len(form.outputs)]
    for name, place, shape, dtype, limit in form.inputs:
        words += [id(name), place, id(dtype), dtype.itemsize, limit or 0, len(shape), *shape]
    for shape, dtype, place in form.outputs:
        pair = (ctypes.py_object * 2)(ctypes.py_object(shape), ctypes.py_object(dtype))
        kept.append(pair)
        words += [place, ctypes.addressof(pair)]
    return _words(words, kept)


class _MethodDefinition(ctypes.Structure):
    """CPython's PyMethodDef."""

    _fields_ = [("name", ctypes.c_char_p), ("function", ctypes.c_void_p), ("flags", ctypes.c_int),
                ("doc", ctypes.c_char_p)]


_FASTCALL, _KEYWORDS = 0x80, 0x02


@functools.cache
def _definition() -> int:
    """The address of the definition that all entries share.  Functions look at it even as they are freed, and the
    interpreter's teardown frees in any order: it lives forever."""
    definition = _MethodDefinition(b"call", machine.code("runner entry").address, _FASTCALL | _KEYWORDS, None)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(definition))
    return ctypes.addressof(definition)


def _function(words: _Words) -> Callable:
    """The built-in function over these words, which it keeps."""
    kind = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
    return kind(("PyCFunction_NewEx", ctypes.pythonapi))(_definition(), words, None)


_PROBES: tuple[np.ndarray, ...] = np.zeros((2, 3), np.float32), np.zeros(5)[::2], np.array(1)
_known: list[bool] = []


def is_possible() -> bool:
    """Whether this is CPython with its lock, and arrays and tuples begin as they are known to."""
    if not _known:
        _known.append(sys.implementation.name == "cpython" and ctypes.sizeof(ctypes.c_void_p) == 8
                      and sys.byteorder == "little" and getattr(sys, "_is_gil_enabled", lambda: True)()
                      and all(_is_as_expected(array) for array in _PROBES) and _has_items_as_expected(_PROBES))
    return _known[0]


def _is_as_expected(array: np.ndarray) -> bool:
    words = (ctypes.c_int64 * (ARRAY_FLAGS + 1)).from_address(id(array))
    shape = (ctypes.c_int64 * array.ndim).from_address(words[ARRAY_SHAPE]) if array.ndim else ()
    return (words[OBJECT_TYPE] == id(np.ndarray) and words[ARRAY_DATA] == array.ctypes.data
            and words[ARRAY_RANK] & HALF == array.ndim and tuple(shape) == array.shape
            and words[ARRAY_DTYPE] == id(array.dtype) and words[ARRAY_FLAGS] & ORDERED == array.flags.num & ORDERED)


def _has_items_as_expected(items: tuple) -> bool:
    words = (ctypes.c_int64 * (TUPLE_ITEMS + len(items))).from_address(id(items))
    return words[TUPLE_SIZE] == len(items) and words[TUPLE_ITEMS:] == [id(item) for item in items]
