"""Models whose losses and gradients the compiler once got wrong, against the interpreter in double precision."""

from __future__ import annotations

import numpy as np
import pytest

import netc

TEXT = """net 1
model M(x: f32[N, {shape}]):
    return {body}
train M:
    loss square = mean(output ** 2) + 0.1 * mean(tanh(output))
    optimizer = sgd(lr = 0.05)
"""


@pytest.mark.parametrize(("shape", "body"), [
    # The pooling's gradient lies inside the border that the convolution's reads.
    ((4, 5, 3), 'x |> Conv2D(2, 1) |> Conv2D(4, 3, padding = "same") |> MaxPool2D(2)'),
])
def test_losses_and_gradients(shape, body):
    text = TEXT.format(shape=", ".join(map(str, shape)), body=body)
    x = np.random.default_rng(0).normal(size=(3, *shape))
    fn, oracle = netc.compile(text), netc.compile(text, target="numpy", precision="f64")
    w = fn.init(seed=1)
    loss, gradient = fn.value_and_grad(w, x=x)
    wanted, slope = oracle.value_and_grad(oracle.weights_from(w.flat.astype(np.float64)), x=x)
    assert loss == pytest.approx(wanted, rel=1e-5)
    np.testing.assert_allclose(gradient.flat, slope.flat, atol=2e-5 * abs(slope.flat).max())
