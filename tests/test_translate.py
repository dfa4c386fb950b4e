"""The kernels' Python compiled: each rule against Python itself, and what is refused."""

from __future__ import annotations

import ctypes
import itertools
import math

import numpy as np
import pytest

from netc.runtime import machine
from netc.runtime.kinds import float32, int32, int64
from netc.runtime.native import KERNEL, buffer_f32, buffer_f64, buffer_i32, buffer_i64, compile_native, least
from netc.runtime.translate import TranslationError

SMALLEST = -2 ** 63
INTS = [0, 1, -1, 2, -2, 3, 7, -7, 10, 2 ** 31, -2 ** 31 - 1, 2 ** 62, SMALLEST]
FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, 2.5, -2.5, 7.0, 1e30, -1e-30, math.inf, -math.inf, math.nan]
THREE = 3


def run(function, *arrays, begin=0, end=1, extra=()) -> None:
    """Compile and call a kernel; buffer k is the k-th array."""
    compiled = machine.link(compile_native(function, KERNEL))
    bases = np.array([array.ctypes.data for array in arrays], np.intp)
    args = np.array([word for slot in range(len(arrays)) for word in (slot, 0)] + list(extra), np.int64)
    ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)(compiled.address)(bases.ctypes.data, args.ctypes.data, begin, end)


def test_division_of_ints_rounds_down_and_never_traps():
    def kernel(bases, args, begin, end):
        a, b, c = buffer_i64(bases, args, 0), buffer_i64(bases, args, 2), buffer_i64(bases, args, 4)
        for i in range(begin, end):
            c[5 * i] = a[i] // b[i]
            c[5 * i + 1] = a[i] % b[i]
            c[5 * i + 2] = a[i] // -3
            c[5 * i + 3] = a[i] % THREE
            c[5 * i + 4] = a[i] // 8
    pairs = np.array(list(itertools.product(INTS, INTS)), np.int64)
    results = np.zeros((len(pairs), 5), np.int64)
    run(kernel, pairs[:, 0].copy(), pairs[:, 1].copy(), results, end=len(pairs))
    for (a, b), found in zip(pairs.tolist(), results.tolist()):
        fails = b == 0 or (a, b) == (SMALLEST, -1)
        assert found == [0 if fails else a // b, 0 if fails else a % b, a // -3, a % 3, a // 8]


@pytest.mark.parametrize("dtype, buffer", [(np.float32, buffer_f32), (np.float64, buffer_f64)])
def test_division_of_floats_is_pythons(dtype, buffer):
    def kernel(bases, args, begin, end):
        a, b, c = buffer(bases, args, 0), buffer(bases, args, 2), buffer(bases, args, 4)
        for i in range(begin, end):
            c[3 * i], c[3 * i + 1], c[3 * i + 2] = a[i] // b[i], a[i] % b[i], a[i] / b[i]
    pairs = np.array(list(itertools.product(FLOATS, FLOATS)), dtype)
    results = np.zeros((len(pairs), 3), dtype)
    run(kernel, pairs[:, 0].copy(), pairs[:, 1].copy(), results, end=len(pairs))
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(results[:, 2], pairs[:, 0] / pairs[:, 1])
        by_zero = pairs[:, 1] == 0
        np.testing.assert_array_equal(results[by_zero, 0], np.floor_divide(*pairs[by_zero].T))
    for (a, b), (quotient, rest, _) in zip(pairs, results):
        if b != 0 and np.isfinite(a) and not np.isnan(b):
            exact = float(a) // float(b), float(a) % float(b)
            with np.errstate(over="ignore"):
                assert (quotient, rest) == tuple(map(dtype, exact))
            assert np.signbit([quotient, rest]).tolist() == [math.copysign(1, x) < 0 for x in exact]


def test_kinds_and_conversions():
    def kernel(bases, args, begin, end):
        i, f = buffer_i32(bases, args, 0), buffer_f32(bases, args, 2)
        d, j = buffer_f64(bases, args, 4), buffer_i64(bases, args, 6)
        j[0] = i[0] + i[0]                  # int32 sums are int64
        j[1] = int32(i[0] + i[0])
        j[2] = (i[0] > 0) + (i[0] > 1)
        j[3] = int64(f[0]) - abs(-i[0])
        j[4] = -i[0] if f[0] > 0 else 5
        j[5] = 1 if not i[0] else 2
        j[6] = i[0] & 0xFFFF | 1 ^ 3
        j[7] = (i[0] >> 3) << 2
        d[0] = f[0] * f[0]                  # float32, rounded
        d[1] = f[0] * 1.1                   # float64
        d[2] = i[0] / 3
        d[3] = f[0] + i[0]
        f[1] = 0.1
        f[2] = float32(0.1) + float32(0.2)
        i[1] = f[0]
        d[4] = abs(-f[0]) + math.exp(d[5]) + np.sqrt(d[5])
    i, j = np.array([2 ** 31 - 1, 0], np.int32), np.zeros(8, np.int64)
    f, d = np.array([3.3, 0, 0], np.float32), np.full(6, 2.0)
    run(kernel, i, f, d, j)
    big, x = 2 ** 31 - 1, float(f[0])
    assert j.tolist() == [2 * big, -2, 2, 3 - big, -big, 2, big & 0xFFFF | 1 ^ 3, (big >> 3) << 2]
    assert d[:5].tolist() == [float(f[0] * f[0]), x * 1.1, big / 3, x + big, x + math.exp(2) + math.sqrt(2)]
    assert f[1:].tolist() == [np.float32(0.1), np.float32(0.1) + np.float32(0.2)] and i[1] == 3


def _halve(number, limit):
    """A function of kernels: its names are its own, and what it changes stays inside."""
    turns = 0
    while number > limit:
        number //= 2
        turns += 1
    return turns


def test_loops_branches_and_functions():
    def reference(x, count):
        found = []
        for i in range(count):
            total, number = 0, x[i]
            for j in range(1, number, 3):
                if j % 4 == 0 and j > 5 or j == 1:
                    total += j
                elif j > 20:
                    break
                else:
                    total -= 1
            found += [total, number, _halve(number, 2), _halve(total, 0), least(total, number)]
        return found

    def kernel(bases, args, begin, end):
        x, y = buffer_i64(bases, args, 0), buffer_i64(bases, args, 2)
        for i in range(begin, end):
            total, number = 0, x[i]
            for j in range(1, number, 3):
                if j % 4 == 0 and j > 5 or j == 1:
                    total += j
                elif j > 20:
                    break
                else:
                    total -= 1
            y[5 * i] = total
            y[5 * i + 1], y[5 * i + 2] = number, _halve(number, 2)
            y[5 * i + 3] = _halve(total, 0)
            y[5 * i + 4] = least(total, number)
    x = np.array([0, 1, 2, 5, 20, 40, 100, -3], np.int64)
    y = np.zeros(5 * len(x), np.int64)
    run(kernel, x, y, end=len(x))
    global least
    native, least = least, min
    try:
        assert y.tolist() == reference(x.tolist(), len(x))
    finally:
        least = native


@pytest.mark.parametrize("statement, why", [
    ("y = missing", "is not known here"),
    ("y = 'text'", "no expression of kernels"),
    ("y = x + 1", "no number"),
    ("begin[0] = 1", "no pointer"),
    ("x = begin", "is expected"),
    ("y = 1; y = 1.5", "a variable is int64"),
    ("import os", "no statement of kernels"),
    ("y = print(1)", "is not known here"),
    ("y = begin()", "is not known here"),
    ("y = begin ** 2", "no operator"),
    ("for i in x: pass", "a loop counts"),
    ("for i in range(3): i = 1", "assigned elsewhere"),
    ("y = begin; return y; y", "no statement of kernels"),
    ("a, b = begin", "as many values"),
])
def test_what_is_not_the_kernels_python_is_refused(statement, why):
    from netc.runtime.scalar import build_kernel
    text = f"def kernel(bases, args, begin, end):\n    x = buffer_f32(bases, args, 0)\n    {statement}\n    z = 0\n"
    with pytest.raises(TranslationError, match=why):
        build_kernel(text)
