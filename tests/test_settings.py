"""Settings and counts that come from Python: NumPy's numbers, lists, expressions of the language; in ``compile``, in
``fit`` and in the estimators."""

from __future__ import annotations

import re

import numpy as np
import pytest

import netc

pytest.importorskip("sklearn")

SOURCE = """net 1
def twice(x) = 2 * x
model M(widths = (3,), k: int = 2, r = 0.5, flag = true, act = linear, pad = valid)(x: f32[N, 3]) -> (y: f32[N, 2]):
    h = x
    for width in widths:
        h = Dense(width, act)(h)
    h = h * r * k if flag else h
    y = Dense(2)(h)
train M:
    input target: f32[N, 2]
    loss square = mean((y - target) ** 2)
    optimizer = sgd()
"""
X = np.linspace(-1, 1, 12).reshape(4, 3)


def compiled(**settings):
    return netc.compile(SOURCE, settings=settings, target="numpy")


@pytest.mark.parametrize(("given", "plain"), [
    ({"widths": (np.int64(4),)}, {"widths": (4,)}), ({"widths": [4, 5]}, {"widths": (4, 5)}),
    ({"widths": np.array([4, 5])}, {"widths": (4, 5)}), ({"widths": range(4, 6)}, {"widths": (4, 5)}),
    ({"k": np.uint8(3)}, {"k": 3}), ({"k": np.array(3)}, {"k": 3}), ({"r": np.float32(2)}, {"r": 2.0}),
    ({"flag": np.False_}, {"flag": False}), ({"k": "1 + 2"}, {"k": 3})])
def test_numbers_of_numpys_are_numbers(given, plain):
    assert compiled(**given).emit("graph") == compiled(**plain).emit("graph")


@pytest.mark.parametrize(("text", "activation"), [
    ("tanh", np.tanh), ("twice", lambda h: 2 * h), ("leaky_relu(alpha = 0.1)", lambda h: np.where(h > 0, h, 0.1 * h))])
def test_a_text_is_an_expression_in_the_file(text, activation):
    plain, fn = compiled(flag=False), compiled(flag=False, act=text)
    w = plain.init()
    hidden = X @ w["h.kernel"] + w["h.bias"]
    expected = activation(hidden) @ w["y.kernel"] + w["y.bias"]
    np.testing.assert_allclose(fn(fn.weights_from(w), X), expected, rtol=1e-5, atol=1e-6)


def test_words_are_words():
    assert compiled(pad="same").emit("graph") == compiled().emit("graph")


@pytest.mark.parametrize(("settings", "error", "told"), [
    ({"act": "tanhh"}, netc.CompileError, "<act>:2:13: error[E0201]: `tanhh` is not defined"),
    ({"act": "tanh("}, netc.CompileError, "<act>:2:"),
    ({"act": "tanh\nmodel N(x: f32[N]):\n    return x"}, netc.CompileError, "one expression is expected here"),
    ({"k": 2.0}, netc.CompileError, "the setting `k` of M must be an integer"),
    ({"act": np.tanh}, netc.ModelError, "the setting `act` is <ufunc 'tanh'>, expected a number"),
    ({"widths": (3, {4})}, netc.ModelError, "the setting `widths` is {4}, expected a number"),
    ({"k": 2 ** 70}, netc.ModelError, "does not fit in 64 bits"),
    ({"kk": 1}, netc.CompileError, "M has no setting `kk`"),
    ([1], netc.ModelError, "`settings` is [1], expected a mapping of names to values")])
def test_what_is_no_setting(settings, error, told):
    for way in (lambda: netc.compile(SOURCE, settings=settings, target="numpy"),
                lambda: netc.Regressor(SOURCE, settings=settings, target="numpy").fit(X, X[:, :2])):
        with pytest.raises(error, match=re.escape(told)):
            way()


def test_estimators_check_target_and_precision():
    for wrong in ({"target": "gpu"}, {"precision": "f16"}):
        with pytest.raises(netc.ModelError, match="there is no"):
            netc.Regressor(SOURCE, **wrong).fit(X, X[:, :2])


def test_estimators_tell_equal_numbers_of_other_kinds_apart():
    def fitted(k):
        return netc.Regressor(SOURCE, settings={"k": k}, target="numpy", epochs=1).fit(X, X[:, :2])
    fitted(1)
    with pytest.raises(netc.CompileError, match="must be an integer"):
        fitted(1.0)


def test_a_search_over_activations_and_numpys_widths():
    from sklearn.model_selection import GridSearchCV
    grid = {"settings": [{"act": "relu", "widths": [np.int64(2)]}, {"act": "tanh", "widths": np.arange(2, 4)}],
            "seed": np.arange(1, 2), "epochs": np.arange(1, 2), "batch_size": np.arange(2, 3)}
    search = GridSearchCV(netc.Regressor(SOURCE, target="numpy"), grid, cv=2).fit(X, X[:, :2])
    best = search.best_params_["settings"]["widths"][0]
    assert search.best_estimator_.weights_["h.kernel"].shape == (3, best) and np.isfinite(search.best_score_)


def test_numpys_numbers_in_fit(tmp_path):
    fn = compiled()
    data = {"x": X, "target": X[:, :2]}
    runs = []
    for seed, one, two, half, folder in ((-3, 1, 2, 0.5, "plain"), (np.int32(-3), np.int64(1), np.uint8(2),
                                                                   np.float32(0.5), "numpy")):
        saved = netc.Checkpoint(tmp_path / folder)
        runs.append(fn.fit(fn.init(seed), data, epochs=one, batch_size=two, validation=half, seed=seed,
                           callbacks=[saved]))
        resumed, _ = fn.fit(fn.init(), data, epochs=two, batch_size=two, validation=half, seed=seed,
                            resume=tmp_path / folder, callbacks=[netc.Checkpoint(tmp_path / folder)])
        runs[-1] += (resumed,)
    assert runs[0][0] == runs[1][0] and runs[0][1].epochs == runs[1][1].epochs and runs[0][2] == runs[1][2]


@pytest.mark.parametrize("labels", [np.array([7, 3]), np.array(["no", "ham"])])
def test_validation_as_fit_takes_its_data(labels):
    X, y = np.random.default_rng(0).normal(size=(30, 4)), np.arange(30) % 2
    as_fit = netc.Classifier(epochs=1, target="numpy", validation=(X[20:], labels[y[20:]])).fit(X[:20], labels[y[:20]])
    numbers = {"x": X[20:], "label": np.searchsorted(as_fit.classes_, labels[y[20:]])}
    plain = netc.Classifier(epochs=1, target="numpy", validation=numbers).fit(X[:20], labels[y[:20]])
    assert as_fit.history_.epochs == plain.history_.epochs and "val_accuracy" in plain.history_.last
    with pytest.raises(ValueError, match="none of the classes"):
        netc.Classifier(target="numpy", validation=(X, np.full(30, "x"))).fit(X, labels[y])


def test_an_altered_model_does_not_resume(tmp_path):
    data = {"x": X, "target": X[:, :2]}
    fn, other = compiled(), compiled(widths=(4,))
    fn.fit(fn.init(), data, callbacks=[netc.Checkpoint(tmp_path)])
    with pytest.raises(netc.InputError, match="follow: the model, its losses or its optimiser has changed; to go on"):
        other.fit(other.init(), data, epochs=2, resume=tmp_path)
