"""Weights from elsewhere, and training steps that a user writes himself; on the slow target, no machine code is
needed."""

from __future__ import annotations

import numpy as np
import pytest

import netc

SOURCE = """net 1

model Net(x: f32[N, 3]) -> f32[N, 1]:
    state seen: i32 = 0
    seen = seen + 1
    left = x |> Dense(4, tanh)
    right = x |> Dense(4, relu) |> BatchNorm()
    return Dense(1)(concat(left, right))

train Net:
    input y: f32[N, 1]
    loss square = mean((output - y) ** 2)
    loss small  = 0.01 * mean(abs(output))
    optimizer = adam(lr = 0.1, amsgrad = true)
"""

NOISY = """net 1
model Noisy(x: f32[N, 3]) -> f32[N, 3]:
    return Dense(3)(x) + random_normal(shape = (N, 3))
train Noisy:
    loss size = mean(output ** 2)
    optimizer = sgd(lr = 0.1, momentum = 0.9)
"""


@pytest.fixture(scope="module")
def fn():
    return netc.compile(SOURCE, target="numpy")


@pytest.fixture(scope="module")
def w(fn):
    start = fn.init(0)
    rng = np.random.default_rng(0)
    return start.with_flat(rng.random(start.flat.shape)).replace({"seen": 5})


def batches(count, samples=6):
    rng = np.random.default_rng(1)
    return [{"x": rng.normal(size=(samples, 3)).astype(np.float32),
             "y": rng.normal(size=(samples, 1)).astype(np.float32)}
            for _ in range(count)]


def test_variables_come_in_the_order_of_making_and_parameters_lie_first(fn, w):
    assert list(w) == list(fn.variables) == [
        "seen", "dense.kernel", "dense.bias", "dense_1.kernel", "dense_1.bias", "batch_norm.gamma", "batch_norm.beta",
        "batch_norm.running_mean", "batch_norm.running_var", "dense_2.kernel", "dense_2.bias"]
    parameters = np.concatenate([w[path].ravel() for path in fn.parameters])
    np.testing.assert_array_equal(w.flat[:w.trainable_count], parameters)


def test_a_list_a_mapping_and_a_vector_give_the_same_weights(fn, w):
    arrays = w.to_arrays()
    assert fn.weights_from(arrays) == w
    assert fn.weights_from(tuple(array.astype(np.float64) if array.dtype.kind == "f" else array
                                 for array in arrays)) == w
    assert fn.weights_from(array.tolist() for array in arrays) == w
    assert fn.weights_from(dict(w)) == w
    assert fn.weights_from(w.flat) == w.replace({"seen": 0})        # an integer is not in the vector: it starts anew
    assert fn.weights_from(np.array(arrays, object)) == w


def test_an_order_by_layers_or_variables(fn, w):
    order = ["dense_1", "dense", "batch_norm.running_mean", "batch_norm.running_var", "batch_norm.gamma",
             "batch_norm.beta", "dense_2", "seen"]
    arrays = w.to_arrays(order)
    assert arrays[0].shape == (3, 4) and np.array_equal(arrays[0], w["dense_1.kernel"]) and arrays[-1] == 5
    assert fn.weights_from(arrays, order) == w
    swapped = fn.weights_from(w.to_arrays(["seen", "dense_1", "dense", "batch_norm", "dense_2"]))
    assert swapped["dense.kernel"].tolist() == w["dense_1.kernel"].tolist()       # equal shapes: only the order tells


@pytest.mark.parametrize("change, message", [
    (lambda a: a[:-1], r"(?s)10 arrays came, the model has 11 variables\n.*dense_2.bias: float32\[1\]\s+got nothing"),
    (lambda a: [*a, np.zeros(3)], r"(?s)12 arrays came, the model has 11.*\(no more variables\)\s+got \[3\]"),
    (lambda a: [a[0], a[1].T, *a[2:]],
     r"11 variables; 1 differ in shape\n.*\n +1  dense.kernel: float32\[3, 4\] +got \[4, 3\]"),
    (lambda a: a[::-1], "another order: give `order`"),
    (lambda a: [a[0], [[1, 2], [3]], *a[2:]], "number 1 of the list is no array of numbers"),
    (lambda a: [*a[:4], np.zeros(4, complex), *a[5:]], "`dense_1.bias` has dtype complex128"),
    (lambda a: [1.5, *a[1:]], "`seen` has dtype float64, expected int32"),
    (lambda a: "weights.h5", "the weights are str, expected a list of arrays"),
    (lambda a: 5, "the weights are int, expected a list of arrays"),
    (lambda a: np.zeros(7), r"the flat vector has shape \[7\], expected \[57\]"),
    (lambda a: {"dense.kernel": a[1]}, "missing: `seen`, `dense.bias`"),
])
def test_a_list_that_does_not_fit_is_refused(fn, w, change, message):
    with pytest.raises(netc.WeightsError, match=message):
        fn.weights_from(change(w.to_arrays()))


@pytest.mark.parametrize("order, message", [
    (["dens"], "no variable or layer `dens` .did you mean `dense`"),
    (["dense", "dense.bias"], "`order` names `dense.bias` twice"),
    (["dense", "dense_1", "dense_2"], "`order` leaves out `seen`, `batch_norm.gamma`"),
    ("dense", r"`order` is a list of paths: \['dense'\]"),
])
def test_an_order_that_is_none_is_refused(fn, w, order, message):
    for values in (w.to_arrays(), w.flat):
        with pytest.raises(netc.WeightsError, match=message):
            fn.weights_from(values, order)


def test_a_vector_in_another_order(w):
    fn = netc.compile(SOURCE.replace("    state seen: i32 = 0\n    seen = seen + 1\n", ""), target="numpy")
    w = fn.weights_from({path: w[path] for path in fn.variables})
    keras = np.concatenate([array.ravel() for array in w.to_arrays()])       # states between the parameters
    assert not np.array_equal(keras, w.flat)
    assert fn.weights_from(keras, list(fn.variables)) == w and fn.weights_from(w.flat) == w
    with pytest.raises(netc.WeightsError, match=r"shape \[56\], expected \[57\]"):
        fn.weights_from(keras[1:], list(fn.variables))


# --- a step of one's own ------------------------------------------------------------------------------------------


def test_gradient_and_update_are_the_step(fn, w):
    own = pure = w
    own_state = pure_state = fn.init_optimizer()
    for batch in batches(4):
        before = own.copy()
        losses, gradient, states = fn.losses_and_grad(own, **batch)
        new, own_state = fn.update(own, own_state, gradient)
        assert own == before and new["seen"] == own["seen"]
        own = new.replace(states)
        pure, pure_state, expected = fn.step(pure, pure_state, batch)
        assert losses == expected and set(losses) == {"loss", "square", "small"}
        assert own == pure and own["seen"] == pure["seen"]
        assert all(np.array_equal(own_state[path], pure_state[path]) for path in pure_state)
    assert not np.array_equal(own["batch_norm.running_mean"], w["batch_norm.running_mean"])


def test_value_and_grad_is_the_same_gradient(fn, w):
    batch, = batches(1)
    loss, gradient = fn.value_and_grad(w, batch)
    losses, again, _ = fn.losses_and_grad(w, batch)
    assert gradient == again and losses["loss"] == loss
    half, state = fn.update(w, fn.init_optimizer(), gradient.with_flat(0.5 * gradient.flat))
    assert half.flat.dtype == np.float32 and half != w and set(state) == set(fn.init_optimizer())


def test_a_loop_draws_what_fit_draws():
    fn = netc.compile(NOISY, target="numpy")
    data = {"x": np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)}
    fitted, _ = fn.fit(fn.init(0), data, epochs=1, batch_size=4, shuffle=False, seed=-3)
    w, state = fn.init(0), fn.init_optimizer()
    for k in range(3):
        _, gradient = fn.value_and_grad(w, data["x"][4 * k:4 * k + 4], seed=netc.step_seed(-3, k))
        w, state = fn.update(w, state, gradient)
    assert w == fitted
    assert len({netc.step_seed(seed, step) for seed in (0, 1, -1) for step in range(3)}) == 9


@pytest.mark.parametrize("change, message", [
    (lambda fn, w, s: (w.flat, s, w), "the weights are ndarray, expected netc.Weights"),
    (lambda fn, w, s: (w, {}, w), "the optimiser's state holds none, expected"),
    (lambda fn, w, s: (w, None, w), "the optimiser's state is NoneType, expected a mapping"),
    (lambda fn, w, s: (w, {**s, "optimizer.m": np.zeros(3)}, w),
     r"`optimizer.m` of the optimiser has shape \[3\], expected \[49\]"),
    (lambda fn, w, s: (w, s, w.flat), "expected netc.Weights"),
])
def test_an_update_refuses_what_does_not_fit(fn, w, change, message):
    with pytest.raises(netc.WeightsError, match=message):
        fn.update(*change(fn, w, fn.init_optimizer()))


def test_an_update_needs_an_optimiser():
    fn = netc.compile(NOISY.replace("    optimizer = sgd(lr = 0.1, momentum = 0.9)\n", ""), target="numpy")
    with pytest.raises(netc.ModelError, match="has no optimiser"):
        fn.update(fn.init(), {}, fn.init())
