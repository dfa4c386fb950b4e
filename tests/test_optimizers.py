"""Every optimiser compiled, against the same one interpreted: a few steps on gradients that were drawn."""

from __future__ import annotations

import numpy as np
import pytest
from tolerances import relative_error, tolerance

import netc

SOURCE = """net 1

model Small(x: f32[N, 5]) -> f32[N, 3]:
    return x |> Dense(7, relu) |> Dense(3)

train Small:
    loss size = mean(output ** 2)
    optimizer = sgd()
"""
OPTIMIZERS = [
    "sgd(momentum = 0.9, nesterov = true, weight_decay = 0.1, clipnorm = 0.5)",
    "sgd(clipvalue = 0.3, lr = polynomial_decay(initial = 0.1, decay_steps = 2, cycle = true))",
    "rmsprop(momentum = 0.5, centered = true, global_clipnorm = 1.0)",
    "adam(amsgrad = true, lr = cosine_decay_restarts(initial = 0.1, first_decay_steps = 2))",
    "adamw(lr = cosine_decay(initial = 0.0, decay_steps = 3, warmup_target = 0.1, warmup_steps = 2))",
    "adagrad(lr = 0.1)",
    "adadelta(lr = 0.1)",
    "adamax(lr = 0.1)",
    "nadam(lr = 0.1)",
    "lion(lr = 0.1, weight_decay = 0.1)",
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_compiled_update_is_the_interpreted_one(optimizer):
    compiled = netc.compile(SOURCE, optimizer=optimizer)
    exact = netc.compile(SOURCE, optimizer=optimizer, target="numpy", precision="f64")
    rng = np.random.default_rng(1)
    ours, expected = compiled.init(), exact.init()
    assert relative_error(ours.flat, expected.flat) <= tolerance("forward", "f32")
    state, expected_state = compiled.init_optimizer(), exact.init_optimizer()
    for _ in range(4):
        slope = rng.normal(size=ours.flat.size)
        ours, state = compiled.update(ours, state, ours.with_flat(slope))
        expected, expected_state = exact.update(expected, expected_state, expected.with_flat(slope))
        assert relative_error(ours.flat, expected.flat) <= tolerance("forward", "f32")
    for path, value in expected_state.items():
        assert relative_error(state[path], value) <= tolerance("state", "f32"), path


def test_clipnorm_shortens_each_parameter_by_itself():
    fn = netc.compile(SOURCE, optimizer="sgd(lr = 1.0, clipnorm = 2.0)", target="numpy", precision="f64")
    start = fn.init()
    slope = start.replace({"dense.kernel": np.full((5, 7), 3.0), "dense.bias": np.full(7, 1e-3),
                           "dense_1.bias": np.zeros(3)})
    moved, _ = fn.update(start, fn.init_optimizer(), slope)
    lengths = {path: np.linalg.norm(moved[path] - start[path]) for path in start}
    expected = {path: min(np.linalg.norm(slope[path]), 2.0) for path in start}
    assert lengths == pytest.approx(expected) and lengths["dense.kernel"] == pytest.approx(2.0)
