"""``netc.Classifier`` and ``netc.Regressor``: scikit-learn's own checks, and what they do for their user."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import netc

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

SMALL = {"settings": {"hidden": (16,)}, "lr": 0.02}


@parametrize_with_checks([netc.Classifier(epochs=30, **SMALL), netc.Regressor(epochs=60, **SMALL)])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


# --- for a user ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return StandardScaler().fit_transform(X), np.array(["setosa", "versicolor", "virginica"])[y]


TWO_LAYERS = """net 1

model Iris(x: f32[N, 4]) -> f32[N, 3]:
    return x |> Dense(8, tanh) |> Dense(3, softmax)
"""

TRAINS = {
    "class numbers": """train Iris:
    input label: i32[N]
    loss error = mean(sparse_categorical_crossentropy(output, label))
    optimizer = adam(lr = 0.05)
""",
    "rows with one 1": """train Iris:
    input hot: f32[N, 3]
    loss error = mean(categorical_crossentropy(output, hot))
    optimizer = adam(lr = 0.05)
""",
    "a column of class numbers": """train Iris:
    input label: i32[N, 1]
    loss error = mean(sparse_categorical_crossentropy(output, label[:, 0]))
    optimizer = adam(lr = 0.05)
""",
}


@pytest.mark.parametrize("kind", TRAINS)
def test_a_model_of_ones_own(iris, kind, tmp_path):
    X, y = iris
    path = tmp_path / "iris.net"
    path.write_text(TWO_LAYERS + "\n" + TRAINS[kind])
    estimator = netc.Classifier(path, epochs=30).fit(X, y)
    assert estimator.score(X, y) > 0.9 and estimator.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    path.unlink()  # a fitted estimator outlives its file
    assert estimator.predict(X[:3]).tolist() == ["setosa"] * 3
    assert "Dense" in str(estimator.function_.summary()) and estimator.weights_["dense.kernel"].shape == (4, 8)
    assert len(estimator.history_["loss"]) == estimator.n_iter_ == 30


BINARY = """net 1

model Two(x: f32[N, 4]) -> (RESULT: f32[N, 1]):
    RESULT = Dense(1, ACTIVATION)(x)

train Two:
    input y: f32[N, 1]
    loss error = mean(binary_crossentropy(RESULT, y, from_logits = LOGITS))
    optimizer = adam(lr = 0.05)
"""


@pytest.mark.parametrize(
    "name, activation, logits, told",
    [("logits", "linear", "true", None), ("chance", "sigmoid", "false", None), ("score", "linear", "true", True)],
)
def test_two_classes_by_one_number(iris, name, activation, logits, told):
    X, y = iris[0][:100], iris[1][:100]
    text = BINARY.replace("RESULT", name).replace("ACTIVATION", activation).replace("LOGITS", logits)
    estimator = netc.Classifier(text, epochs=20, from_logits=told).fit(X, y)
    chances = estimator.predict_proba(X)
    assert chances.shape == (100, 2) and np.allclose(chances.sum(1), 1) and estimator.score(X, y) > 0.95


def test_logits_under_another_name_are_noticed(iris):
    estimator = netc.Classifier(
        BINARY.replace("RESULT", "score").replace("ACTIVATION", "linear").replace("LOGITS", "true"), epochs=20
    )
    with pytest.raises(netc.ModelError, match=r"`score` holds no probabilities.*from_logits=True"):
        estimator.fit(iris[0][:100], iris[1][:100]).predict(iris[0])


IMAGES = """net 1

model Images(image: f32[N, 2, 2, 1]) -> (logits: f32[N, 3]):
    logits = image |> Conv2D(4, 2, activation = relu) |> Flatten() |> Dense(3)

train Images:
    input label: i32[N]
    loss error = mean(sparse_categorical_crossentropy(logits, label, from_logits = true))
    optimizer = adam(lr = 0.05)
"""


def test_rows_fold_into_images(iris):
    X, y = iris
    flat = netc.Classifier(IMAGES, epochs=20).fit(X, y)
    folded = netc.Classifier(IMAGES, epochs=20).fit(X.reshape(-1, 2, 2, 1), y)
    assert flat.weights_ == folded.weights_ and flat.score(X, y) > 0.7
    with pytest.raises(netc.InputError, match="3 features, which do not fold into `image`"):
        netc.Classifier(IMAGES).fit(X[:, :3], y)


WORDS = """net 1

model Words(word: i32[N, T]) -> (logits: f32[N, 2]):
    logits = word |> Embedding(10, 4) |> GlobalAvgPool1D() |> Dense(2)

train Words:
    input label: i32[N]
    loss error = mean(sparse_categorical_crossentropy(logits, label, from_logits = true))
    optimizer = adam(lr = 0.1)
"""


def test_whole_numbers_are_words_even_as_floats():
    X = np.random.default_rng(0).integers(0, 10, (80, 5)).astype(float)
    y = X.mean(axis=1) > 4.5
    assert netc.Classifier(WORDS, epochs=60).fit(X, y).score(X, y) > 0.8
    with pytest.raises(netc.InputError, match="`word` has dtype float64"):
        netc.Classifier(WORDS).fit(X + 0.5, y)


def test_a_search_over_settings_in_a_pipeline(iris):
    pipeline = make_pipeline(StandardScaler(), netc.Classifier(epochs=15))
    search = GridSearchCV(
        pipeline, {"classifier__settings": [{"hidden": [2]}, {"hidden": [16]}], "classifier__lr": [1e-6, 0.05]}, cv=3
    )
    search.fit(*iris)
    assert search.best_params_["classifier__lr"] == 0.05 and search.best_score_ > 0.9


def test_the_optimiser_may_be_another(iris):
    X, y = iris
    estimator = netc.Classifier(
        optimizer="sgd(momentum = 0.9)", lr="cosine_decay(initial = 0.1, decay_steps = 100)", epochs=20
    )
    assert estimator.fit(X, y).score(X, y) > 0.9 and estimator.function_.model.optimizer.name == "sgd"


def test_equal_seeds_give_equal_estimators_and_a_pickle_predicts_the_same(iris):
    X, y = iris
    first = netc.Classifier(epochs=3, seed=5).fit(X, y)
    again = clone(first).fit(X, y)
    assert first.weights_ == again.weights_ != netc.Classifier(epochs=3, seed=6).fit(X, y).weights_
    loaded = pickle.loads(pickle.dumps(first))
    np.testing.assert_array_equal(loaded.predict_proba(X), first.predict_proba(X))
    assert loaded.fit(X, y).weights_ == first.weights_


def test_partial_fit_goes_on(iris):
    X, y = iris
    estimator = netc.Classifier(**SMALL)
    with pytest.raises(ValueError, match="first call of partial_fit needs `classes`"):
        estimator.partial_fit(X, y)
    scores = []
    for _ in range(20):
        estimator.partial_fit(X[::2], y[::2], classes=np.unique(y))
        estimator.partial_fit(X[1::2], y[1::2])
        scores.append(estimator.score(X, y))
    assert estimator.n_iter_ == 40 and scores[-1] > 0.9 > scores[0]
    with pytest.raises(ValueError, match="y holds 'rose', which is none of the classes"):
        estimator.partial_fit(X[:2], ["rose", "setosa"])
    with pytest.raises(ValueError, match="not those of the first call"):
        estimator.partial_fit(X, y, classes=["a", "b"])


def test_several_outputs_and_one():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(200, 3))
    y = np.stack([X[:, 0] - X[:, 1], 2 * X[:, 2]], axis=1)
    estimator = netc.Regressor(epochs=60, **SMALL).fit(X, y)
    assert estimator.predict(X).shape == (200, 2) and estimator.n_outputs_ == 2 and estimator.score(X, y) > 0.95
    assert estimator.fit(X, y[:, 0]).predict(X).shape == (200,)
    assert estimator.fit(X, y[:, :1]).predict(X).shape == (200, 1)
    online = netc.Regressor(**SMALL)
    for _ in range(40):
        online.partial_fit(X, y[:, 0])
    assert online.score(X, y[:, 0]) > 0.9


LINE = """net 1

model Line(x: f32[N, 3]) -> f32[N]:
    return Dense(1)(Dropout(0.1)(x))[:, 0]

train Line:
    input y: f32[N]
    loss error = mean((output - y) ** 2)
    optimizer = adam(lr = 0.1)
"""


def test_a_target_without_columns_and_a_random_model():
    X = np.random.default_rng(2).normal(size=(100, 3))
    estimator = netc.Regressor(LINE, epochs=40, precision="f64", target="numpy").fit(X, X @ [1, 2, 3])
    assert estimator.score(X, X @ [1, 2, 3]) > 0.95 and estimator.predict(X).dtype == np.float64


@pytest.mark.parametrize(
    "text, message",
    [
        (
            LINE.replace("(x: f32[N, 3])", "(x: f32[N, 3], z: f32[N, 3])").replace("(x))", "(x + z))"),
            "one input, Line has 2: x, z",
        ),
        (LINE.replace("    input y: f32[N]\n", "").replace("- y", "- 1"), "one target, Line has 0: none"),
        (LINE.replace("    optimizer = adam(lr = 0.1)\n", ""), "`Line` has no optimiser"),
    ],
)
def test_a_model_that_is_no_estimator_is_refused(text, message):
    with pytest.raises(netc.ModelError, match=message):
        netc.Regressor(text).fit(np.ones((4, 3)), np.arange(4.0))


def test_what_is_asked_too_early_or_of_the_wrong_data(iris):
    with pytest.raises(NotFittedError):
        netc.Regressor().predict(iris[0])
    with pytest.raises(NotFittedError):
        netc.Classifier().function_.summary()
    with pytest.raises(ValueError, match="at least two classes"):
        netc.Classifier().fit(iris[0], np.zeros(150))
    mixed = np.array(["a", 1, *["b"] * 148], object)
    for train in (netc.Classifier().fit, lambda X, y: netc.Classifier().partial_fit(X, y, classes=["a", "b"])):
        with pytest.raises(ValueError, match="no common order: int, str; make them all strings"):
            train(iris[0], mixed)
    with pytest.raises(netc.CompileError, match="has no setting `hiden`"):
        netc.Classifier(settings={"hiden": (3,)}).fit(*iris)
    with pytest.raises(ValueError, match="NaN"):
        netc.Classifier().fit(np.where(iris[0] > 2, np.nan, iris[0]), iris[1])
