"""Inner values of a run, and where NaN and infinity begin."""

from __future__ import annotations

import numpy as np
import pytest

import netc

SOURCE = """net 1

model Fragile(x: f32[N, 4], mask: bool[N, 4]) -> (y: f32[N, 2]):
    h = Dense(4)(x)
    p = softmax(where(mask, h, -1e9))
    same = p
    z = log(x + 1) * p
    y = Dense(2)(z)

train Fragile:
    input target: f32[N, 2]
    loss square = mean((y - target) ** 2)
    optimizer = sgd(lr = 0.1)
"""

SCAN = """net 1
model Sum(x: f32[N, T, 2]) -> f32[N, 2]:
    noise = random_normal(shape = (N, 2))
    scan z in x along 1 carrying total = noise:
        total = total * z
    return Dense(2)(total)
"""


@pytest.fixture(scope="module", params=["cpu", "numpy"])
def fn(request):
    return netc.compile(SOURCE, target=request.param)


def data():
    x = np.random.default_rng(0).random((5, 4), np.float32)
    return {"x": x, "mask": x > 0.2}


def test_every_named_value_in_the_order_of_computing(fn):
    w, inputs = fn.init(), data()
    trace = fn.trace(w, **inputs)
    assert list(trace) == ["h.y", "h", "p", "same", "z", "y.y", "y"]
    np.testing.assert_allclose(trace["h"], inputs["x"] @ w["h.kernel"] + w["h.bias"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(trace["p"].sum(axis=1), 1, rtol=1e-5)
    assert trace["same"] is trace["p"]
    np.testing.assert_allclose(trace["y"], fn(w, **inputs), rtol=1e-5, atol=1e-6)
    assert trace.places["z"] == "<text>:7:5" and str(trace.types["z"]) == "f32[N, 4]"
    assert trace.first_not_finite() is None and trace.check_finite() is None
    assert "z " in repr(trace) and "<table" in trace._repr_html_()
    with pytest.raises(KeyError, match="did you mean `same`"):
        trace["sam"]


def test_the_first_value_that_is_not_finite_is_named(fn):
    inputs = data()
    inputs["x"][2, 1] = -1
    found = fn.trace(fn.init(), **inputs).first_not_finite()
    assert (found.name, found.place, found.operation, found.position) == ("z", "<text>:7:5", "log", (2, 1))
    assert set(found.reads) == {"x", "p"} and found.operands[0].min() == 0
    text = str(found)
    assert "`z`, made at <text>:7:5" in text and "1 of 20 elements; the first at [2, 1] is -inf" in text
    assert "first given by `log` of 0 .. " in text and "    x  float32[5, 4]  -1 .. " in text
    with pytest.raises(netc.NotFiniteError, match="is `z`") as caught:
        fn.trace(fn.init(), **inputs).check_finite()
    assert isinstance(caught.value, netc.NetcError) and isinstance(caught.value, FloatingPointError)


def test_inputs_and_weights_come_before_what_is_made_of_them(fn):
    w, inputs = fn.init(), data()
    spoilt = w.replace({"y.bias": np.array([0, np.inf], np.float32)})
    found = fn.trace(spoilt, **inputs).first_not_finite()
    assert (found.name, found.position, found.operation) == ("y.bias", (1,), None)
    inputs["x"][1, 3] = np.nan
    found = fn.trace(spoilt, **inputs).first_not_finite()
    assert (found.name, found.position) == ("x", (1, 3)) and "is nan" in str(found)


def test_training_is_traced_to_the_gradients(fn):
    w, inputs = fn.init(), data() | {"target": np.ones((5, 2))}
    trace = fn.trace(w, inputs, training=True)
    loss, gradient = fn.value_and_grad(w, **inputs)
    assert trace["total loss"] == pytest.approx(loss, rel=1e-5)
    assert trace["loss square"] == pytest.approx(loss, rel=1e-5)
    for path in fn.parameters:
        np.testing.assert_allclose(trace[f"grad {path}"], gradient[path], rtol=1e-4, atol=1e-6)
    with pytest.raises(netc.InputError, match="`target` is missing"):
        fn.trace(w, training=True, **data())


def test_an_inner_gradient_that_is_not_finite():
    fn = netc.compile("net 1\nmodel Root(x: f32[N, 2]) -> f32[N, 2]:\n    return sqrt(Dense(2)(x))\n"
                      "train Root:\n    loss size = mean(output)\n    optimizer = sgd()\n", target="numpy")
    w = fn.init().with_flat(np.zeros(6))
    found = fn.trace(w, np.zeros((3, 2)), training=True).first_not_finite()
    assert found.name.startswith("grad dense.") and not np.isfinite(found.array[found.position])


def test_random_models_and_scans():
    fn = netc.compile(SCAN, target="numpy")
    x = np.ones((3, 5, 2), np.float32)
    with pytest.raises(netc.InputError, match="give `seed`"):
        fn.trace(fn.init(), x)
    trace = fn.trace(fn.init(), x, seed=3)
    np.testing.assert_array_equal(trace["total"], trace["noise"])
    x[:, 1:] = 1e38
    found = fn.trace(fn.init(), x, seed=3).first_not_finite()
    assert (found.name, found.operation) == ("total", "scan") and set(found.reads) == {"x", "noise"}


def test_many_values_are_cut_short():
    from netc.tracing import _ranges
    lines = _ranges({f"v{k}": np.zeros(2) for k in range(20)})
    assert len(lines) == 13 and lines[-1] == "    and 8 more"
    assert _ranges({}) == [] and "[0]" in _ranges({"empty": np.zeros(0)})[0]


@pytest.mark.parametrize("name", ["relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "softplus",
                                  "hard_sigmoid",
                                  "hard_silu", "mish", "softsign", "sigmoid", "tanh"])
def test_no_activation_hides_a_nan(name):
    fn = netc.compile(f"net 1\nmodel M(x: f32[N]) -> f32[N]:\n    return {name}(x)\n", target="numpy")
    assert np.isnan(fn(fn.init(), np.array([np.nan, 1], np.float32))).tolist() == [True, False]
