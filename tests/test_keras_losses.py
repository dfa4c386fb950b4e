"""Losses and metrics of the prelude against Keras over a grid of shapes and settings: values and gradients."""

from __future__ import annotations

import pytest
from oracle import Case, combinations, compare, keras

A = keras.activations
SHAPES = ((1, 1), (1, 5), (4, 1), (3, 6), (2, 3, 4), (2, 1, 2, 3))
BOOLS = (True, False)


def settings_of(**settings) -> str:
    return "".join(f", {name} = {str(value).lower()}" for name, value in settings.items())


# name -> (what makes the prediction and the target out of any numbers, here and there; settings; kind of the target)
PLAIN = (lambda t: t, "{}")
PROBABILITY, DISTRIBUTION = (A.sigmoid, "sigmoid({})"), (A.softmax, "softmax({})")
POSITIVE = (A.exponential, "exp({})")
LOSSES = {
    "mean_squared_error": (PLAIN, PLAIN, {}, "f"),
    "mean_absolute_error": (PLAIN, PLAIN, {}, "f"),
    "mean_absolute_percentage_error": (PLAIN, PLAIN, {}, "f"),
    "mean_squared_logarithmic_error": (PLAIN, PLAIN, {}, "f"),
    "huber": (PLAIN, PLAIN, {"delta": (0.3, 1.0, 2.5)}, "f"),
    "log_cosh": (PLAIN, PLAIN, {}, "f"),
    "hinge": (PLAIN, PLAIN, {}, "i2"),
    "squared_hinge": (PLAIN, PLAIN, {}, "i2"),
    "categorical_hinge": (PLAIN, DISTRIBUTION, {}, "f"),
    "poisson": (POSITIVE, POSITIVE, {}, "f"),
    "cosine_similarity": (PLAIN, PLAIN, {}, "f"),
    "kl_divergence": (DISTRIBUTION, DISTRIBUTION, {}, "f"),
    "binary_crossentropy": (PROBABILITY, PROBABILITY, {"label_smoothing": (0.0, 0.1, 0.5)}, "f"),
    "binary_crossentropy of logits": (PLAIN, PROBABILITY, {"label_smoothing": (0.0, 0.1, 0.5)}, "f"),
    "categorical_crossentropy": (DISTRIBUTION, DISTRIBUTION, {"label_smoothing": (0.0, 0.1)}, "f"),
    "categorical_crossentropy of logits": (PLAIN, DISTRIBUTION, {"label_smoothing": (0.0, 0.1)}, "f"),
    "sparse_categorical_crossentropy": (DISTRIBUTION, PLAIN, {}, "i"),
    "sparse_categorical_crossentropy of logits": (PLAIN, PLAIN, {}, "i"),
}


def losses(name: str):
    predicted, wanted, settings, kind = LOSSES[name]
    loss, _, logits = name.partition(" of ")
    for s in combinations(name, shape=SHAPES, scale=(0.1, 1.0, 4.0, 20.0), **settings):
        own = {key: s[key] for key in settings} | ({"from_logits": True} if logits else {})
        shape, kinds = s["shape"], {}
        if kind == "i":  # class numbers, one axis less
            kinds, target = {"y": f"i{shape[-1]}"}, shape[:-1]
        else:
            kinds, target = ({"y": kind} if kind != "f" else {}), shape
        text = f"{loss}({predicted[1].format('x')}, {wanted[1].format('y')}{settings_of(**own)})"
        text = f"mean({text}, axis = -1)" if loss == "binary_crossentropy" else text

        def reference(x, y, own=own):
            return getattr(keras.losses, loss)(wanted[0](y), predicted[0](x), **own)

        yield Case(text, {"x": shape, "y": target}, reference, kinds, scale=s["scale"])


@pytest.mark.filterwarnings("ignore:You are using a softmax over axis", "ignore:In loss categorical_crossentropy")
@pytest.mark.parametrize("name", LOSSES)
def test_loss_equals_keras(name):
    compare("loss", name, lambda: losses(name))


METRICS = {
    "binary_accuracy": ("i2", {"threshold": (0.5, 0.2)}),
    "binary_accuracy of soft targets": ("f", {}),
    "categorical_accuracy": ("f", {}),
    "sparse_categorical_accuracy": ("i", {}),
    "top_k_categorical_accuracy": ("f", {"k": (1, 2)}),
    "sparse_top_k_categorical_accuracy": ("i", {"k": (1, 2)}),
}


def metrics(name: str):
    kind, settings = METRICS[name]
    metric = name.partition(" of ")[0]
    for s in combinations(
        name,
        lambda shape, **_: shape[-1] >= 2 or not settings.get("k"),
        shape=SHAPES + ((7, 5), (9, 2)),
        scale=(0.3, 1.0, 5.0),
        **settings,
    ):
        own, shape = {key: s[key] for key in settings}, s["shape"]
        target = shape[:-1] if kind == "i" else shape
        kinds = {"i": {"y": f"i{shape[-1]}"}, "i2": {"y": "i2"}, "f": {}}[kind]
        yield Case(
            f"where({metric}(x, y{settings_of(**own)}), 1.0, 0.0)",
            {"x": shape, "y": target},
            lambda x, y, own=own: getattr(keras.metrics, metric)(y, x, **own),
            kinds,
            scale=s["scale"],
        )


@pytest.mark.parametrize("name", METRICS)
def test_metric_equals_keras(name):
    compare("metric", name, lambda: metrics(name))
