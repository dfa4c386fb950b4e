"""What layers do beside their values, against Keras: initial values, regularisers, metrics over batches, running
statistics, dropout.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
from oracle import Case, Compiled, double_precision, keras, torch
from tolerances import relative_error, tolerance

import netc

L, R = keras.layers, keras.regularizers
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")  # Keras's own


def close(found, expected, what: str = "forward") -> None:
    assert relative_error(found, expected) <= tolerance(what, "f64")


# --- initial values -----------------------------------------------------------------------------------------------


def initial(text: str, shape) -> np.ndarray:
    sizes = ", ".join(map(str, shape))
    fn = netc.compile(
        f"net 1\n\nmodel M(x: f32[N]) -> f32[N]:\n    param p: f32[{sizes}] = {text}\n    return x * sum(p)\n",
        precision="f64",
        target="numpy",
    )
    return fn.init(seed=5)["p"]


@pytest.mark.parametrize("shape", [(300, 200), (3, 3, 40, 60), (5, 60, 70), (60, 4, 80), (2, 3, 3, 30, 50), (20000,)])
@pytest.mark.parametrize(
    "name",
    [
        "GlorotUniform",
        "GlorotNormal",
        "HeUniform",
        "HeNormal",
        "LecunUniform",
        "LecunNormal",
        "RandomNormal",
        "RandomUniform",
        "TruncatedNormal",
    ],
)
def test_initial_values_spread_as_those_of_keras(name, shape):
    """The generators differ, so the numbers do; their spread and their bounds are the same."""
    found = initial(
        {"RandomNormal": "normal", "RandomUniform": "uniform", "TruncatedNormal": "truncated_normal"}.get(
            name, re.sub(r"(.)([A-Z])", r"\1_\2", name).lower()
        ),
        shape,
    )
    expected = np.asarray(getattr(keras.initializers, name)(seed=1)(shape).detach())
    assert abs(found.mean()) < 4 * expected.std() / found.size**0.5
    assert abs(found.std() / expected.std() - 1) < 0.03
    if name != "RandomNormal":
        assert abs(np.abs(found).max() / np.abs(expected).max() - 1) < 0.03


@pytest.mark.parametrize("shape", [(6, 6), (7, 3), (3, 7), (2, 3, 4)])
def test_orthogonal_values_are_as_orthogonal_as_those_of_keras(shape):
    found, expected = (
        initial("orthogonal", shape),
        np.asarray(keras.initializers.Orthogonal(seed=1)(shape).detach(), float),
    )
    for values in (found, expected):
        flat = values.reshape(-1, shape[-1])
        flat = flat if flat.shape[0] <= flat.shape[1] else flat.T
        np.testing.assert_allclose(flat @ flat.T, np.eye(len(flat)), atol=1e-5)


# --- regularisers -------------------------------------------------------------------------------------------------

# expression, shape of its input, Keras's layer with a regulariser
REGULARISED = {
    "Dense(4, l2 = 0.1)": ((3, 5), lambda: L.Dense(4, kernel_regularizer=R.L2(0.1))),
    "Dense(4, l1 = 0.2)": ((3, 5), lambda: L.Dense(4, kernel_regularizer=R.L1(0.2))),
    "Dense(4, l1 = 0.2, l2 = 0.3)": ((3, 5), lambda: L.Dense(4, kernel_regularizer=R.L1L2(0.2, 0.3))),
    "Conv1D(2, 3, l2 = 0.1)": ((2, 6, 3), lambda: L.Conv1D(2, 3, kernel_regularizer=R.L2(0.1))),
    "Conv2D(2, 3, l1 = 0.1)": ((2, 5, 6, 3), lambda: L.Conv2D(2, 3, kernel_regularizer=R.L1(0.1))),
    "Conv3D(2, 2, l2 = 0.1)": ((1, 3, 4, 3, 2), lambda: L.Conv3D(2, 2, kernel_regularizer=R.L2(0.1))),
    "DepthwiseConv2D(3, l2 = 0.1)": ((2, 5, 6, 3), lambda: L.DepthwiseConv2D(3, depthwise_regularizer=R.L2(0.1))),
    "Conv2DTranspose(2, 3, l1 = 0.1, l2 = 0.2)": (
        (2, 5, 6, 3),
        lambda: L.Conv2DTranspose(2, 3, kernel_regularizer=R.L1L2(0.1, 0.2)),
    ),
    "Embedding(7, 3, l2 = 0.1)": ((2, 4), lambda: L.Embedding(7, 3, embeddings_regularizer=R.L2(0.1))),
    "SimpleRNN(3, l2 = 0.1)": ((2, 4, 3), lambda: L.SimpleRNN(3, kernel_regularizer=R.L2(0.1))),
    "LSTM(3, l1 = 0.1)": ((2, 4, 3), lambda: L.LSTM(3, kernel_regularizer=R.L1(0.1))),
    "GRU(3, l2 = 0.1)": ((2, 4, 3), lambda: L.GRU(3, kernel_regularizer=R.L2(0.1))),
}


def trained(
    body: str, shape, kind: str = "f32", loss: str = "0 * sum(output)", optimizer: str = "sgd(lr = 0.1)", **options
) -> netc.Function:
    sizes = ", ".join(["N", *map(str, shape[1:])])
    return netc.compile(
        f"net 1\n\nmodel M(x: {kind}[{sizes}]):\n{body}\n\ntrain M:\n    loss value = {loss}\n    optimizer = "
        f"{optimizer}\n",
        **{"precision": "f64", "target": "numpy"} | options,
    )


@pytest.mark.parametrize("text", REGULARISED)
@double_precision()
def test_a_regulariser_adds_what_keras_adds(text):
    shape, make = REGULARISED[text]
    kind = "i32" if text.startswith("Embedding") else "f32"
    fn, rng = trained(f"    return {text}(x)", shape, kind), np.random.default_rng(1)
    weights = fn.init().with_flat(rng.normal(size=fn.init().flat.size))
    x = rng.integers(0, 7, shape).astype(np.int32) if kind == "i32" else rng.normal(size=shape)
    loss, slope = fn.value_and_grad(weights, x=x)
    layer = make()
    layer.build(shape)
    for variable, value in zip(layer.trainable_weights, weights.values(), strict=True):
        variable.assign(value)
    layer(torch.tensor(x))
    expected = sum(layer.losses)
    expected.backward()
    close(loss, expected.detach().numpy())
    for variable, value in zip(layer.trainable_weights, slope.values()):
        close(value, np.zeros(value.shape) if variable.value.grad is None else variable.value.grad.numpy(), "gradient")


def test_a_shared_layer_is_charged_once():
    fn = trained("    dense = Dense(5, l2 = 0.5)\n    return dense(dense(x))", (3, 5))
    weights = fn.init(seed=1)
    close(fn.value_and_grad(weights, x=np.ones((3, 5)))[0], 0.5 * np.sum(weights["dense.kernel"] ** 2))


def test_any_weight_may_be_charged_by_its_path():
    fn = trained(
        "    dense = Dense(5, bias_init = ones)\n    y = dense(x)\n"
        "    penalty 0.1 * sum(abs(dense.bias))\n    return y",
        (3, 5),
    )
    close(fn.value_and_grad(fn.init(), x=np.ones((3, 5)))[0], 0.5)


def test_a_charge_is_a_matter_of_training_only():
    fn = trained("    return Dense(4, l2 = 1.0)(x)", (3, 5), loss="mean(output)")
    weights, x = fn.init(), np.ones((3, 5))
    report = fn.evaluate(weights, {"x": x})
    close(report["loss"] - report["value"], np.sum(weights["dense.kernel"] ** 2))
    close(report["value"], np.mean(fn(weights, x)))


# --- metrics over batches -----------------------------------------------------------------------------------------

METRICS = """net 1

model M(x: f32[N, 6]) -> f32[N, 6]:
    return softmax(x)

train M:
    input label: i32[N]
    input hot: f32[N, 6]
    loss   sparse   = mean(sparse_categorical_crossentropy(output, label))
    metric dense    = mean(categorical_crossentropy(output, hot))
    metric binary   = mean(binary_accuracy(output, hot))
    metric right    = mean(categorical_accuracy(output, hot))
    metric accuracy = mean(sparse_categorical_accuracy(output, label))
    metric top      = mean(sparse_top_k_categorical_accuracy(output, label, k = 2))
    metric squared  = mean(mean_squared_error(output, hot))
    metric absolute = mean(mean_absolute_error(output, hot))
    metric distance = mean(kl_divergence(output, hot))
    metric cosine   = mean(cosine_similarity(output, hot))
"""


@double_precision()
def test_metrics_of_uneven_batches_are_those_of_keras():
    rng = np.random.default_rng(2)
    x, label = rng.normal(size=(23, 6)), rng.integers(0, 6, 23).astype(np.int32)
    hot = np.eye(6)[label]
    fn = netc.compile(METRICS, precision="f64", target="numpy")
    found = fn.evaluate(fn.init(), {"x": x, "label": label, "hot": hot}, batch_size=5)
    M = keras.metrics
    metrics = {
        "sparse": (M.SparseCategoricalCrossentropy(), label),
        "dense": (M.CategoricalCrossentropy(), hot),
        "binary": (M.BinaryAccuracy(), hot),
        "right": (M.CategoricalAccuracy(), hot),
        "accuracy": (M.SparseCategoricalAccuracy(), label),
        "top": (M.SparseTopKCategoricalAccuracy(2), label),
        "squared": (M.MeanSquaredError(), hot),
        "absolute": (M.MeanAbsoluteError(), hot),
        "distance": (M.KLDivergence(), hot),
    }
    prediction = fn(fn.init(), x)
    for start in range(0, 23, 5):
        for metric, target in metrics.values():
            metric.update_state(torch.tensor(target[start : start + 5]), torch.tensor(prediction[start : start + 5]))
    for name, (metric, _) in metrics.items():
        close(found[name], float(metric.result()))
    close(found["cosine"], float(keras.losses.cosine_similarity(torch.tensor(hot), torch.tensor(prediction)).mean()))


# --- running statistics -------------------------------------------------------------------------------------------

NORMALISED = """    h = x |> Dense(4, use_bias = false) |> BatchNorm(momentum = 0.8) |> relu
    return h |> Dense(3, use_bias = false) |> BatchNorm(center = false)"""


@double_precision()
def test_running_statistics_over_steps_of_training():
    fn, rng = trained(NORMALISED, (8, 5), loss="mean(output ** 2)"), np.random.default_rng(3)
    weights = fn.init(seed=2)
    step = fn.trainer(weights)
    parts = [
        L.Dense(4, use_bias=False),
        L.BatchNormalization(momentum=0.8),
        L.ReLU(),
        L.Dense(3, use_bias=False),
        L.BatchNormalization(center=False),
    ]
    net = keras.Sequential([L.Input((5,)), *parts])
    net.set_weights(list(weights.values()))  # Keras's order is that of the layers, states included
    optimizer = keras.optimizers.SGD(0.1)
    for _ in range(6):
        x = rng.normal(1.0, 2.0, (8, 5))
        step(x=x)
        for variable in net.trainable_weights:
            variable.value.grad = None
        (net(torch.tensor(x), training=True) ** 2).mean().backward()
        with torch.no_grad():
            optimizer.apply([v.value.grad for v in net.trainable_weights], net.trainable_weights)
        for (path, value), expected in zip(step.weights.items(), net.get_weights(), strict=True):
            assert relative_error(value, expected) <= tolerance("state", "f64"), path
    x = rng.normal(size=(3, 5))
    close(fn(step.weights, x), net(torch.tensor(x), training=False).detach().numpy())


def test_inference_leaves_the_statistics_alone():
    fn = trained(NORMALISED, (8, 5), loss="mean(output ** 2)")
    weights, x = fn.init(), np.random.default_rng(0).normal(size=(8, 5))
    before = weights.flat.copy()
    fn(weights, x), fn.evaluate(weights, {"x": x})
    np.testing.assert_array_equal(weights.flat, before)
    _, _, states = fn.losses_and_grad(weights, x=x)
    assert all(not np.array_equal(value, weights[path]) for path, value in states.items())


# --- dropout ------------------------------------------------------------------------------------------------------


def kept_of(layer: str, shape, seed: int) -> np.ndarray:
    """What the layer multiplies by: its output for ones."""
    case = Case(f"{layer}(x)", {"x": shape}, training=True)
    return Compiled(case)({"x": np.ones(shape), "cotangent": np.ones(shape)}, seed=seed)["output"]


@pytest.mark.parametrize("layer, rate", [("Dropout(0.25)", 0.25), ("Dropout(0.8)", 0.8), ("SpatialDropout(0.5)", 0.5)])
def test_a_mask_belongs_to_a_seed(layer, rate):
    shape = (50, 4, 30)
    kept = kept_of(layer, shape, seed=11)
    np.testing.assert_array_equal(kept, kept_of(layer, shape, seed=11))
    assert (kept != kept_of(layer, shape, seed=12)).any()
    assert set(np.unique(kept)) == {0.0, 1 / (1 - rate)}, "Keras scales by 1 / (1 - rate)"
    draws = kept.size if layer.startswith("Dropout") else kept.size // 4
    assert abs((kept == 0).mean() - rate) < 4 * (rate * (1 - rate) / draws) ** 0.5
    if layer.startswith("Spatial"):
        assert (kept == kept[:, :1]).all(), "a channel is kept or dropped as a whole"
    x, cotangent = np.random.default_rng(0).normal(size=(2, *shape))
    got = Compiled(Case(f"{layer}(x)", {"x": shape}, training=True))({"x": x, "cotangent": cotangent}, seed=11)
    close(got["output"], kept * x)
    close(got["d x"], kept * cotangent)


def test_noise_is_normal():
    shape = (200, 100)
    got = Compiled(Case("GaussianNoise(0.5)(x)", {"x": shape}, training=True))(
        {"x": np.ones(shape), "cotangent": np.ones(shape)}
    )
    assert abs(got["output"].mean() - 1) < 0.02 and abs(got["output"].std() - 0.5) < 0.02
    np.testing.assert_array_equal(got["d x"], 1)


@double_precision()
def test_training_with_dropout_is_keras_under_the_same_masks():
    """The mask of step k is that of the seed ``netc.step_seed(seed, k)``, whatever else is in the model."""
    fn = trained(
        "    h = Dense(6, tanh)(x)\n    return h |> Dropout(0.4) |> Dense(1)",
        (8, 5),
        loss="mean(output ** 2)",
        optimizer="adam(lr = 0.05)",
    )
    weights, rng = fn.init(seed=4), np.random.default_rng(4)
    step = fn.trainer(weights, seed=9)
    first, last = L.Dense(6, activation="tanh"), L.Dense(1)
    first.build((8, 5)), last.build((8, 6))
    variables = first.trainable_weights + last.trainable_weights
    for variable, value in zip(variables, weights.values(), strict=True):
        variable.assign(value)
    optimizer = keras.optimizers.Adam(0.05)
    for number in range(5):
        x = rng.normal(size=(8, 5))
        loss = step(x=x)["loss"]
        kept = kept_of("Dropout(0.4)", (8, 6), netc.step_seed(9, number))
        for variable in variables:
            variable.value.grad = None
        expected = (last(first(torch.tensor(x)) * torch.tensor(kept)) ** 2).mean()
        expected.backward()
        with torch.no_grad():
            optimizer.apply([v.value.grad for v in variables], variables)
        close(loss, float(expected.detach()))
    for value, variable in zip(step.weights.values(), variables):
        close(value, variable.value.detach().numpy(), "gradient")
