"""Copies of a product's second operand in panels, made once for all units."""

from __future__ import annotations

import numpy as np
import pytest

import netc
from netc.runtime.runner import Runner
from netc.runtime.tile import Axis, packing, plan

SOURCE = """net 1

model M(x: f32[N, 160]) -> (y: f32[N, 3]):
    y = x |> Dense(256, tanh) |> Dense(160, tanh) |> Dense(3)

train M:
    input t: f32[N, 3]
    loss square = mean((y - t) ** 2)
    optimizer = adam(lr = 1e-2)
"""


def run(steps, *arrays):
    """Run plans, each with the numbers of its buffers among the arrays."""
    words, table = [], []
    for step, buffers in steps:
        table.append([step.address, len(words), step.units, step.grain])
        words += [word for slot in buffers for word in (slot, 0)] + list(step.words)
    bases = np.array([array.ctypes.data for array in arrays], np.intp)
    Runner(np.array(table), np.array(words, np.int64)).serial(bases.ctypes.data)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_a_product_of_the_copy_has_the_same_bits(dtype):
    numbers, wide = np.random.default_rng(0), 64 // np.dtype(dtype.replace("f32", "f4").replace("f64", "f8")).itemsize
    for rows, sums, columns, transposed in [(70, (90,), 32, False), (5, (130,), 48, True), (20, (3, 7, 70), 64, False),
                                            (9, (4, 9), 2 * wide, True), (1, (1,), wide, False),
                                            (30, (3, 7, 10), 10, True), (9, (2, 70), 2 * wide + 8, True),
                                            (4, (5,), 3, True)]:
        depth = int(np.prod(sums))
        a, b = (numbers.normal(size=shape).astype("f4" if dtype == "f32" else "f8")
                for shape in ((rows, depth), (depth, columns)))
        # the sums lie in reverse order of their indices in B, so that no two of them are one
        order = np.arange(depth).reshape(sums[::-1]).transpose().ravel()
        stored = np.ascontiguousarray(b[np.argsort(order)].T if transposed else b[np.argsort(order)])
        step = 1 if transposed else columns
        axes = [Axis(size, int(np.prod(sums[k + 1:])), int(np.prod(sums[:k])) * step) for k, size in enumerate(sums)]
        stride = depth if transposed else 1
        c, expected, copy = (np.full(size, 7, a.dtype) for size in (rows * columns,) * 2 + (depth * columns + 8,))
        row = [Axis(rows, depth, 0, columns)]
        run([(plan(dtype, [], row, axes, columns, stride), (0, 1, 2))], a, stored, expected)
        first, packed, panel = packing(dtype, axes, columns, stride, columns if columns % wide else wide)
        run([(first, (1, 3)), (plan(dtype, [], row, packed, columns, panel=panel), (0, 3, 2))], a, stored, c, copy)
        np.testing.assert_array_equal(c, expected)
        np.testing.assert_allclose(c.reshape(rows, columns), a @ b, rtol=1e-4, atol=1e-4)
        assert (copy[depth * columns:] == 7).all()


def test_large_batches_read_copies_and_give_the_same_bits():
    fn = netc.compile(SOURCE)
    w, rng = fn.init(seed=0), np.random.default_rng(1)
    x = rng.normal(size=(300, 160)).astype(np.float32)
    together = fn(w, x=x)
    executable = fn.program("predict").executable
    packing_rows = {size: sum(row.packs for row in executable.bind({"N": size}, flat=True).rows) for size in (2, 300)}
    assert packing_rows == {2: 0, 300: 2}
    np.testing.assert_array_equal(together[:2], fn(w, x=x[:2]))
    np.testing.assert_array_equal(together, fn.bind(w)(x=x))
    t = rng.normal(size=(300, 3)).astype(np.float32)
    oracle = netc.compile(SOURCE, target="numpy")
    (loss, slope), (expected, exact) = (each.value_and_grad(w, x=x, t=t) for each in (fn, oracle))
    assert loss == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(slope.flat, exact.flat, atol=2e-6)
    assert sum(row.packs for row in fn.program("gradient").executable.bind({"N": 300}, flat=True).rows) >= 4
    names = {row.kernel for row in fn.profile("gradient", batch=300).kernels}
    assert any(name.startswith("copy for product") for name in names), names


def test_a_kernels_gradient_whose_rows_are_wider_than_a_tile():
    """With one filter the rows of the kernel lie side by side: as panels only where they are as wide as one."""
    text = """net 1
model M(x: f32[N, 6, 6, 16]) -> f32[N, 2]:
    narrow = Conv2D(1, 2)(x[..., :8])
    wide = Conv2D(1, 5)(x)
    return concat(sum(narrow, axis = (1, 2)), sum(tanh(wide), axis = (1, 2)))
train M:
    loss square = mean(output ** 2)
"""
    x, found = np.random.default_rng(2).normal(size=(3, 6, 6, 16)), []
    for target in ("cpu", "numpy"):
        fn = netc.compile(text, target=target)
        found.append(fn.value_and_grad(fn.init(seed=0), x=x)[1].flat)
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-4)
