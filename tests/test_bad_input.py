"""Bad data, by every way that data take into a model: one clear error that names the array, the place and the mend."""

from __future__ import annotations

import numpy as np
import pytest

import netc

SOURCE = """net 1

model Shop(x: f32[N, 4], item: i32[N, T]) -> (score: f32[N, 1], logits: f32[N, 3]):
    h = x + mean(Embedding(10, 4)(item), axis = 1)
    score = Dense(1)(h)
    logits = Dense(3)(h)

train Shop:
    input target: f32[N, 1]
    input label: i32[N]
    loss   score  = mean((score - target) ** 2)
    loss   kind   = mean(sparse_categorical_crossentropy(logits, label, from_logits = true))
    optimizer = adam(lr = 1e-2)
"""
N = 6


def batch() -> dict:
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(N, 4)).astype(np.float32),
        "item": rng.integers(0, 10, (N, 5)),
        "target": rng.normal(size=(N, 1)).astype(np.float32),
        "label": rng.integers(0, 3, N),
    }


def changed(array: np.ndarray, place, value) -> np.ndarray:
    array = np.array(array)
    array[place] = value
    return array


@pytest.fixture(scope="module")
def fn():
    return netc.compile(SOURCE, target="numpy")


@pytest.fixture(scope="module")
def w(fn):
    return fn.init()


WAYS = {
    "fit": lambda fn, w, data: fn.fit(w, data),
    "fit of a tuple": lambda fn, w, data: fn.fit(w, tuple(data.values())),
    "validation": lambda fn, w, data: fn.fit(w, batch(), validation=data),
    "evaluate": lambda fn, w, data: fn.evaluate(w, data),
    "trainer": lambda fn, w, data: fn.trainer(w)(data),
    "step": lambda fn, w, data: fn.step(w, fn.init_optimizer(), data),
    "value_and_grad": lambda fn, w, data: fn.value_and_grad(w, **data),
    "losses_and_grad": lambda fn, w, data: fn.losses_and_grad(w, data),
}

B = batch()
# what is wrong -> (the change of the batch, the whole message)
MISTAKES = {
    "label out of range": ({"label": changed(B["label"], 4, 3)}, "`label` holds 3 at [4], allowed are 0 to 2"),
    "label negative": ({"label": changed(B["label"], 2, -1)}, "`label` holds -1 at [2], allowed are 0 to 2"),
    "index out of range": ({"item": changed(B["item"], (3, 1), 10)}, "`item` holds 10 at [3, 1], allowed are 0 to 9"),
    "no rows": (
        {name: array[:0] for name, array in B.items()},
        "`x` is empty: its shape is [0, 4], expected f32[N, 4] with N at least 1",
    ),
    "no columns": (
        {"item": B["item"][:, :0]},
        "`item` is empty: its shape is [6, 0], expected i32[N, T] with T at least 1",
    ),
    "too few labels": (
        {"label": B["label"][:4]},
        "`x` and `label` disagree on N: N is 6 in `x`, 4 in `label` ([4], expected i32[N])",
    ),
    "one sample without a batch": (
        {"x": B["x"][0]},
        "`x` has 1 dimensions ([4]), expected 2: f32[N, 4] (a batch is needed, even of one: value[None])",
    ),
    "numbers as objects": (
        {"x": B["x"].astype(object)},
        "`x` has dtype object, expected f32[N, 4]; convert it first: x.astype(np.float32)",
    ),
    "no column": (
        {"target": B["target"][:, 0]},
        "`target` has 1 dimensions ([6]), expected 2: f32[N, 1] (it lacks the last axis, of size 1: value[..., None])",
    ),
    "a column too many": (
        {"label": B["label"][:, None]},
        "`label` has 2 dimensions ([6, 1]), expected 1: i32[N] (it has one axis too many: value[..., 0])",
    ),
    "too wide": ({"x": np.zeros((N, 5))}, "dimension 1 of `x` is 5, expected 4 ([6, 5], expected f32[N, 4])"),
    "ragged": (
        {"x": [[1.0] * 4, [2.0] * 4, [3.0] * 3, *[[1.0] * 4] * 3]},
        "`x` is no array of numbers, expected f32[N, 4]: it is ragged: row 0 has the shape [4], row 2 [3]",
    ),
    "deeply ragged": (
        {"x": [[1.0, 2.0, 3.0, [4.0]]] * N},
        "`x` is no array of numbers, expected f32[N, 4]: its row 0 is ragged",
    ),
    "ragged array of arrays": (
        {"item": np.array([np.arange(5), np.arange(4)] * 3, dtype=object)},
        "`item` has dtype object, expected i32[N, T]: it is ragged: row 0 has the shape [5], row 1 [4]",
    ),
    "text": ({"x": np.full((N, 4), "a")}, "`x` has dtype <U1, expected f32[N, 4]"),
    "objects": ({"x": np.full((N, 4), None)}, "`x` has dtype object, expected f32[N, 4]"),
    "complex": ({"x": np.zeros((N, 4), complex)}, "`x` has dtype complex128, expected f32[N, 4]"),
    "dates": ({"x": np.zeros((N, 4), "datetime64[s]")}, "`x` has dtype datetime64[s], expected f32[N, 4]"),
    "floats for integers": (
        {"label": B["label"].astype(float)},
        "`label` has dtype float64, expected i32[N]; convert it first: label.astype(np.int32)",
    ),
    "integers too large": (
        {"item": changed(B["item"], (0, 0), 2**40)},
        "`item` holds 1099511627776, which does not fit in i32",
    ),
    "masked": ({"x": np.ma.zeros((N, 4))}, "`x` is a masked array, expected f32[N, 4]: fill it first"),
    "missing": (
        {"label": None},
        "input `label` is missing; the inputs are x: f32[N, 4], item: i32[N, T], target: f32[N, 1], label: i32[N]",
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_whatever_the_way(fn, w, mistake, way):
    changes, message = MISTAKES[mistake]
    data = {name: value for name, value in (batch() | changes).items() if value is not None}
    with pytest.raises(netc.InputError) as raised:
        WAYS[way](fn, w, data)
    assert str(raised.value) == message


def test_sparse_arrays(fn, w):
    matrix = pytest.importorskip("scipy.sparse").csr_matrix(B["x"])
    with pytest.raises(netc.InputError, match="`x` is a sparse array, expected f32"):
        fn.fit(w, batch() | {"x": matrix})


# --- NaN ----------------------------------------------------------------------------------------------------------

CLEAN = "Clean the data, or allow it for a model that expects this: allow_nan=True, --allow-nan"
NOT_FINITE = {
    "NaN": (
        {"x": changed(changed(B["x"], (2, 3), np.nan), (4, 0), np.nan)},
        f"`x` holds NaN in row 2, at [2, 3]; rows with such values: 2 of 6. {CLEAN}",
    ),
    "NaN in a target": (
        {"target": changed(B["target"], 5, np.nan)},
        f"`target` holds NaN in row 5, at [5, 0]; rows with such values: 1 of 6. {CLEAN}",
    ),
    "infinity": (
        {"x": changed(B["x"], (1, 1), -np.inf)},
        ("`x` holds -inf (or a number too large for float32) in row 1, at [1, 1]; rows with such values: 1 of 6. "
         f"{CLEAN}"),
    ),
    "too large": (
        {"x": changed(B["x"].astype(float), (0, 2), 1e300)},
        ("`x` holds inf (or a number too large for float32) in row 0, at [0, 2]; rows with such values: 1 of 6. "
         f"{CLEAN}"),
    ),
}


@pytest.mark.parametrize("way", ["fit", "validation", "evaluate"])
@pytest.mark.parametrize("mistake", NOT_FINITE)
def test_data_that_are_not_finite_are_refused(fn, w, mistake, way):
    changes, message = NOT_FINITE[mistake]
    with pytest.raises(netc.InputError) as raised:
        WAYS[way](fn, w, batch() | changes)
    assert str(raised.value) == message


GAPS = """net 1

model Gaps(x: f32[N, 3]) -> f32[N, 1]:
    return Dense(1)(where(is_finite(x), x, 0))

train Gaps:
    loss size = mean(output ** 2)
    optimizer = sgd()
"""


def test_a_model_may_expect_nan():
    fn = netc.compile(GAPS, target="numpy")
    data = {"x": np.array([[1, np.nan, 2], [3, 4, np.inf]], np.float32)}
    new, history = fn.fit(fn.init(), data, allow_nan=True)
    assert np.isfinite(new.flat).all() and np.isfinite(history["loss"]).all()
    assert np.isfinite(fn.evaluate(new, data, allow_nan=True)["loss"])
    with pytest.raises(netc.InputError, match="`x` holds NaN in row 0"):
        fn.fit(fn.init(), data)


def test_the_command_refuses_and_allows_nan(netc_command, tmp_path):
    (tmp_path / "m.net").write_text(GAPS)
    np.savez(tmp_path / "gaps.npz", x=np.array([[1, 2, 3], [1, np.nan, 3]]))
    given = ("train", tmp_path / "m.net", "--data", tmp_path / "gaps.npz", "--target", "numpy", "--epochs", 1)
    code, _, errors = netc_command(*given)
    assert code == 1 and "`x` holds NaN in row 1, at [1, 1]; rows with such values: 1 of 2" in errors
    assert netc_command(*given, "--allow-nan", "--save", tmp_path / "m.safetensors")[0] == 0


def test_a_single_call_computes_with_nan(fn, w):
    """Prediction gives NaN for NaN, row by row: what it costs to look would be paid by every call."""
    score = fn(w, changed(B["x"], (2, 3), np.nan), B["item"]).score
    assert np.isnan(score[2]) and np.isfinite(np.delete(score, 2)).all()


# --- weights and settings -----------------------------------------------------------------------------------------

WEIGHTS = {
    "a vector": (lambda w: w.flat, "the weights are ndarray, expected netc.Weights: fn.init() or fn.load()"),
    "a list": (lambda w: list(w.values()), "the weights are list, expected netc.Weights: fn.init() or fn.load()"),
    "another model's": (
        lambda w: netc.compile(SOURCE.replace("Dense(3)", "Dense(4)").replace("N, 3]", "N, 4]"), target="numpy").init(),
        "`logits.kernel` has shape [4, 4], expected [4, 3]",
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mistake", WEIGHTS)
def test_wrong_weights_are_named_whatever_the_way(fn, w, mistake, way):
    change, message = WEIGHTS[mistake]
    with pytest.raises(netc.WeightsError) as raised:
        WAYS[way](fn, change(w), batch())
    assert str(raised.value) == message


@pytest.mark.parametrize(
    "values, message",
    [
        (lambda w: w.to_arrays()[:-1], r"4 arrays came, the model has 5 variables"),
        (lambda w: [*w.to_arrays(), np.zeros(1)], r"6 arrays came, the model has 5 variables"),
        (lambda w: [w.to_arrays()[0].T, *w.to_arrays()[1:]], r"5 variables; 1 differ in shape"),
        (lambda w: w.flat[:-1], r"the flat vector has shape \[59\], expected \[60\]"),
        (lambda w: np.zeros((2, 2)), "2 arrays came, the model has 5 variables"),
    ],
)
def test_weights_of_a_wrong_length_or_shape(fn, w, values, message):
    with pytest.raises(netc.WeightsError, match=message):
        fn.weights_from(values(w))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"epochs": 0}, "`epochs` is 0, expected a whole number of at least 1"),
        ({"batch_size": -1}, "`batch_size` is -1, expected a whole number of at least 1"),
        ({"seed": 0.5}, "`seed` is 0.5, expected an integer"),
        ({"validation": 2.0}, "`validation` is 2.0, expected a fraction between 0 and 1, or data"),
    ],
)
def test_wrong_settings_of_fit(fn, w, settings, message):
    with pytest.raises(netc.InputError) as raised:
        fn.fit(w, batch(), **settings)
    assert str(raised.value) == message


@pytest.mark.parametrize("wrong", [-1, 10, 2 ** 31 - 1, -2 ** 31])
def test_repeated_calls_check_their_indices_too(wrong):
    """A call of known form takes a shorter way, compiled and bound alike."""
    compiled = netc.compile(SOURCE)
    weights, good = compiled.init(), {"x": B["x"], "item": B["item"].astype(np.int32)}
    bad = good | {"item": changed(good["item"], (2, 3), wrong)}
    bound = compiled.bind(weights)
    for call in (lambda **inputs: compiled(weights, **inputs), bound):
        first, second = (call(**good).score for _ in range(2))
        assert (first == second).all()
        with pytest.raises(netc.InputError, match=rf"`item` holds {wrong} at \[2, 3\], allowed are 0 to 9"):
            call(**bad)
        assert (call(**good).score == first).all()
