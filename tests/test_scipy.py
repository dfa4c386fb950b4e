"""A model as a function of one flat vector, minimised by scipy.optimize."""

from __future__ import annotations

import numpy as np
import pytest

import netc

optimize = pytest.importorskip("scipy.optimize")

LINE = """net 1

model Line(x: f32[N, 3]) -> f32[N, 2]:
    return Dense(2)(x)

train Line:
    input y: f32[N, 2]
    loss error = mean(mean_squared_error(output, y))
"""

CURVE = """net 1

model Curve(x: f32[N, 1]) -> f32[N, 1]:
    return x |> Dense(6, tanh) |> Dense(1, l2 = 1e-5)

train Curve:
    input y: f32[N, 1]
    loss error = mean(mean_squared_error(output, y))
"""


def minimise(fn: netc.Function, start: netc.Weights, data, method: str):
    """(the best weights, scipy's result)."""

    def loss_and_slope(flat):
        loss, slope = fn.value_and_grad(start.with_flat(flat), data)
        return loss, slope.flat

    found = optimize.minimize(loss_and_slope, start.flat, jac=True, method=method, options={"maxiter": 500})
    return start.with_flat(found.x), found


@pytest.mark.parametrize("method", ["BFGS", "L-BFGS-B", "CG"])
def test_a_line_is_that_of_least_squares(method):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), rng.normal(size=(40, 2))
    fn = netc.compile(LINE, precision="f64", target="numpy")
    start = fn.init()
    before = start.flat.copy()
    best, found = minimise(fn, start, {"x": x, "y": y}, method)
    expected, *_ = np.linalg.lstsq(np.hstack([x, np.ones((40, 1))]), y, rcond=None)
    assert found.success
    np.testing.assert_allclose(best["dense.kernel"], expected[:3], atol=1e-4)
    np.testing.assert_allclose(best["dense.bias"], expected[3], atol=1e-4)
    np.testing.assert_array_equal(start.flat, before)


def test_a_curve_is_learnt_compiled():
    x = np.linspace(-3, 3, 60)[:, None]
    data = {"x": x, "y": np.sin(x)}
    fn = netc.compile(CURVE, precision="f64")
    best, found = minimise(fn, fn.init(seed=1), data, "BFGS")
    assert found.success or found.fun < 1e-3
    assert np.abs(fn(best, x) - np.sin(x)).max() < 0.05


def test_the_slope_is_that_of_the_loss():
    fn = netc.compile(CURVE, precision="f64", target="numpy")
    start = fn.init(seed=2)
    data = {"x": np.ones((4, 1)), "y": np.zeros((4, 1))}
    error = optimize.check_grad(
        lambda flat: fn.value_and_grad(start.with_flat(flat), data)[0],
        lambda flat: fn.value_and_grad(start.with_flat(flat), data)[1].flat,
        np.array(start.flat),
    )
    assert error < 1e-6
