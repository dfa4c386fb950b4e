"""Elaboration: what a file means, checked by the interpreter's numbers, by paths and shapes, and by messages."""

import itertools

import numpy as np
import pytest

from netc.compiler.build import elaborate
from netc.compiler.diagnostics import Diagnostics
from netc.compiler.interpret import interpret
from netc.compiler.ir import Graph, topological
from netc.compiler.types import product
from netc.compiler.verify import verify


def build(body, **options):
    return elaborate("net 1\n\n" + body, "test.net", **options)


def weights_of(model, seed=0):
    """An array for each variable, by path."""
    values = {}
    for variable in model.parameters + model.states:
        verify(variable.initial)
        (seed_leaf,) = variable.initial.inputs
        values[variable.path] = interpret(variable.initial, {seed_leaf: np.asarray(seed, np.int64)})["value"]
        assert values[variable.path].shape == variable.type.shape
    return values


def run(model, *inputs, training=False, seed=0, weights=None, nodes=None, sizes=None):
    """The outputs of a model (or other nodes of it), by the interpreter."""
    mode = model.training if training else model.inference
    nodes = nodes or mode.outputs
    weights = weights_of(model) if weights is None else weights
    given = dict(zip((leaf.attrs["name"] for leaf in model.inputs + model.targets), inputs))
    leaves = {}
    for node in topological(nodes.values()):
        name = node.attrs.get("name", node.attrs.get("path"))
        if node.op.name in ("param", "state"):
            leaves[node] = weights[node.attrs["path"]]
        elif node.op.name == "input":
            leaves[node] = np.asarray(seed if name == "seed" else given[name], node.dtype.numpy)
    verify(Graph(tuple(leaves), nodes))
    return interpret(Graph(tuple(leaves), nodes), leaves, sizes or {})


def value_of(expression, *arrays, types=None, definitions=""):
    """The value of one expression over inputs a, b, c ..."""
    names = "abcdefg"[:len(arrays)]
    kinds = {"float32": "f32", "int32": "i32", "bool": "bool", "float64": "f64", "int64": "i64"}
    types = types or [f"{kinds[str(x.dtype)]}[{', '.join(map(str, x.shape))}]" for x in arrays]
    signature = ", ".join(f"{n}: {t}" for n, t in zip(names, types))
    model = build(f"{definitions}\nmodel M({signature}):\n    return {expression}\n")
    return run(model, *arrays)["output"]


def errors_of(body, **options):
    with pytest.raises(Diagnostics) as caught:
        build(body, **options)
    return list(caught.value)


def one_error(body, **options):
    found = errors_of(body, **options)
    assert len(found) == 1, [e.message for e in found]
    return found[0]


rng = np.random.default_rng(0)
X = rng.normal(size=(3, 4)).astype(np.float32)
Y = rng.normal(size=(4,)).astype(np.float32)
CUBE = rng.normal(size=(2, 3, 4)).astype(np.float32)
I = np.arange(12, dtype=np.int32).reshape(3, 4)


# --- expressions against NumPy ----------------------------------------------------------------------------------

NUMPY = [
    ("a + b", (X, Y), X + Y), ("a[:, 0:1] * b", (X, Y), X[:, 0:1] * Y), ("2 * a - 1", (X,), 2 * X - 1),
    ("a ** 2", (X,), X ** 2), ("abs(a) ** 0.5", (X,), np.abs(X) ** 0.5), ("a // 2.0", (X,), X // 2),
    ("a % 2", (I,), I % 2), ("-a", (X,), -X), ("a / 2", (I,), (I / 2).astype(np.float32)),
    ("a * 0.5", (I,), (I * 0.5).astype(np.float32)), ("a + 1", (I,), I + 1), ("a > 0", (X,), X > 0),
    ("a >= b", (X, Y), X >= Y), ("a == 3", (I,), I == 3), ("not (a != 3)", (I,), I == 3),
    ("a > 1 and a < 5", (I,), (I > 1) & (I < 5)), ("a < 1 or a > 5", (I,), (I < 1) | (I > 5)),
    ("where(a > 0, a, 0)", (X,), np.where(X > 0, X, 0)), ("maximum(a, 0)", (X,), np.maximum(X, 0)),
    ("a[1]", (X,), X[1]), ("a[-1]", (X,), X[-1]), ("a[:, -1]", (X,), X[:, -1]), ("a[..., None]", (X,), X[..., None]),
    ("a[None, :, 1]", (X,), X[None, :, 1]), ("a[1:, ::2]", (X,), X[1:, ::2]), ("a[::-1]", (X,), X[::-1]),
    ("a[:, ::-2]", (X,), X[:, ::-2]), ("a[..., 1:-1]", (CUBE,), CUBE[..., 1:-1]), ("a[:, 3:0:-1]", (X,), X[:, 3:0:-1]),
    ("a[0, ..., -1]", (CUBE,), CUBE[0, ..., -1]), ("a[:, 1:99]", (X,), X[:, 1:99]), ("a[-2:]", (X,), X[-2:]),
    ("a[2:1]", (X,), X[2:1]), ("a[5:1:-1]", (X,), X[5:1:-1]), ("a[:1:-1]", (X,), X[:1:-1]),
    ("a @ b", (X, Y), X @ Y), ("b @ transpose(a)", (X, Y), Y @ X.T),
    ("a @ a[:4]", (np.eye(4, dtype=np.float32),), np.eye(4)),
    ("a @ transpose(b)", (CUBE, X), CUBE @ X.T),
    ("a @ transpose(a, (0, 2, 1))", (CUBE,), CUBE @ CUBE.transpose(0, 2, 1)),
    ("a[None] @ transpose(b)", (CUBE, X), CUBE[None] @ X.T), ("a[:1] @ transpose(a, (0, 2, 1))", (CUBE,),
                                                             CUBE[:1] @ CUBE.transpose(0, 2, 1)),
    ("sum(a)", (X,), X.sum()), ("mean(a, axis = 1)", (X,), X.mean(1)),
    ("max(a, axis = (0, 2))", (CUBE,), CUBE.max((0, 2))),
    ("sum(a, axis = -1, keepdims = true)", (X,), X.sum(-1, keepdims=True)), ("min(a)", (X,), X.min()),
    ("prod(a, axis = 0)", (X,), X.prod(0)), ("argmax(a, axis = -1)", (X,), X.argmax(-1)),
    ("argmin(a)", (X,), X.argmin()),
    ("any(a > 2, axis = 0)", (X,), (X > 2).any(0)), ("all(a > -9)", (X,), True), ("mean(a > 0)", (X,), (X > 0).mean()),
    ("sum(a > 0)", (X,), (X > 0).sum()), ("reshape(a, (2, -1))", (X,), X.reshape(2, -1)),
    ("concat(a, a, axis = 0)", (X,), np.concatenate([X, X])), ("stack(a, a)", (X,), np.stack([X, X])),
    ("split(a, 2)[1]", (X,), X[:, 2:]), ("split(a, (1, 3))[1]", (X,), X[:, 1:]), ("reverse(a, 1)", (X,), X[:, ::-1]),
    ("broadcast_to(a, (3, 4))", (Y,), np.broadcast_to(Y, (3, 4))),
    ("pad(a, ((1, 0), (0, 2)))", (X,), np.pad(X, ((1, 0), (0, 2)))),
    ("repeat(a, 2, axis = 0)", (X,), X.repeat(2, 0)), ("iota(4) * a", (Y,), np.arange(4) * Y),
    ("a[b]", (X, np.array([2, 0], np.int32)), X[[2, 0]]),
    ("a[:, b]", (X, np.array([[2, 0]], np.int32)), X[:, [[2, 0]]]),
    ("one_hot(a, 3)", (np.array([2, 0], np.int32),), np.eye(3)[[2, 0]]),
    ("scatter_add(b, a, 4)", (X, np.array([1, 1, 3], np.int32)), np.stack([0 * Y, X[0] + X[1], 0 * Y, X[2]])),
    ("cast(a > 0, i32)", (X,), (X > 0).astype(np.int32)), ("a + (1, 2, 3, 4)", (Y,), Y + np.array([1, 2, 3, 4])),
    ("where(iota(4)[:, None] >= iota(4), 1.0, 0.0) * a", (Y,), np.tril(np.ones((4, 4))) * Y),
    ("sqrt(16) * a", (Y,), 4 * Y), ("a * 2 ** -1", (Y,), Y / 2), ("7 // 2 * a", (Y,), 3 * Y),
    ("a * len((1, 2))", (Y,), 2 * Y),
    ("sum((1, 2, 3)) * a", (Y,), 6 * Y), ("a * maximum(2, 3)", (Y,), 3 * Y), ("a + shape(a)[0]", (Y,), Y + 4),
    ("a if 1 < 2 and true else a + (1, 2)", (Y,), Y), ("clip(a, -1, 1)", (X,), X.clip(-1, 1)),
    ("full((2,), 3) + a[:2]", (Y,), 3 + Y[:2]), ("arange(1, 5) * a", (Y,), np.arange(1, 5) * Y),
    ("transpose(a, (2, 0, 1))", (CUBE,), CUBE.transpose(2, 0, 1)), ("size(a) + a", (Y,), Y + 4),
    ("a |> reshape((2, 2)) |> sum(axis = 0)", (Y,), Y.reshape(2, 2).sum(0)),
    ("a |> softmax", (X,), np.exp(X) / np.exp(X).sum(-1, keepdims=True)),
    ("a |> leaky_relu(alpha = 0.5)", (X,), np.where(X > 0, X, 0.5 * X)),
]


@pytest.mark.parametrize("expression, arrays, expected", NUMPY, ids=[case[0] for case in NUMPY])
def test_expression(expression, arrays, expected):
    answer = value_of(expression, *arrays)
    assert answer.shape == np.shape(expected)
    np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("expression, arrays, dtype", [
    ("a * 0.5", (I,), "float32"), ("a * 2", (I,), "int32"), ("a + b", (X, I), "float32"), ("a / a", (I,), "float32"),
    ("a > 0", (X,), "bool"), ("cast(a, i64) + a", (I,), "int64"), ("a + 1", (X.astype(np.float64),), "float64"),
    ("cast(a, f64) * a", (X,), "float64"), ("sum(a > 0)", (X,), "int32"), ("argmax(a, axis = 0)", (X,), "int32"),
])
def test_promotion(expression, arrays, dtype):
    assert str(value_of(expression, *arrays).dtype) == dtype


def test_symbolic_sizes():
    model = build("model M(x: f32[N, T]):\n    a = x[:, 1:] - x[:, :-1]\n    return sum(a) / N + mean(x) * T + x[-1, "
                  "-1]\n")
    x = CUBE[0]
    expected = np.diff(x, axis=1).sum() / 3 + x.mean() * 4 + x[-1, -1]
    np.testing.assert_allclose(run(model, x)["output"], expected, rtol=1e-5)
    flat = build("model M(x: f32[N, T, 2]):\n    return reshape(x, (N, T * 2)) + iota(2 * T)\n")
    y = rng.normal(size=(3, 5, 2)).astype(np.float32)
    np.testing.assert_allclose(run(flat, y)["output"], y.reshape(3, 10) + np.arange(10), rtol=1e-6)


# --- models, instances, paths -----------------------------------------------------------------------------------

INCEPTION = """
model Inception(a: int, b: (int, int), c: (int, int), d: int, act = elu, l2 = 0.0)(x: f32[N, H, W, C]):
    branch_a = Conv2D(a, 1, strides = 2, padding = same, activation = act, l2 = l2)(x)
    branch_b = x |> Conv2D(b[0], 1, padding = same, activation = act, l2 = l2)
                 |> Conv2D(b[1], 3, strides = 2, padding = same, activation = act, l2 = l2)
    branch_c = x |> Conv2D(c[0], 1, padding = same, activation = act, l2 = l2)
                 |> Conv2D(c[1], 5, strides = 2, padding = same, activation = act, l2 = l2)
    branch_d = x |> MaxPool2D(3, strides = 1, padding = same)
                 |> Conv2D(d, 1, strides = 2, padding = same, activation = act, l2 = l2)
    return concat(branch_a, branch_b, branch_c, branch_d)

model Features(image: f32[N, 32, 32, 3]) -> f32[N, 100]:
    return image |> Inception(10, (10, 10), (10, 10), 10) |> Inception(40, (40, 40), (40, 40), 40)
                 |> Flatten() |> Dense(100, elu)

model TwoImages(first: f32[N, 32, 32, 3], second: f32[N, 32, 32, 3]) -> f32[N, 1]:
    features = Features()
    x = concat(features(first), features(second))
    return x |> Dense(20, elu) |> Dense(1, sigmoid)
"""


def count(model):
    return sum(product(v.type.shape) for v in model.parameters)


def test_shared_instance_and_paths():
    model = build(INCEPTION)
    assert count(model) == 1_092_761 and model.name == "TwoImages"
    values = model.inference.values
    assert str(values["features.inception_1.branch_b"].type) == "f32[N, 8, 8, 40]"
    assert values["features:1.inception_1.branch_b"] is not values["features.inception_1.branch_b"]
    calls = [(layer.path, layer.call, layer.depth) for layer in model.layers if layer.path in ("features", "dense", "")]
    assert calls == [("", 0, 0), ("features", 0, 1), ("features", 1, 1), ("dense", 0, 1)]
    assert "features.inception.branch_a.kernel" in [v.path for v in model.parameters]


def test_weight_names():
    model = build("""
model Block(width: int)(x: f32[N, D]):
    up = Dense(width, relu)
    y = Dense(D)(up(x))
    return x + up(y |> Dense(D)) @ ones(width, D)

model M(x: f32[N, 4]):
    return x |> Block(3) |> Block(3) |> Dense(1)
""")
    kernels = [v.path for v in model.parameters if v.path.endswith("kernel")]
    assert kernels == ["block.up.kernel", "block.y.kernel", "block.dense.kernel", "block_1.up.kernel",
                       "block_1.y.kernel", "block_1.dense.kernel", "dense.kernel"]


def test_settings_may_be_models_functions_and_instances():
    model = build("""
model Twice(layer, make, act = relu)(x: f32[N, D]):
    return act(layer(layer(x))) |> make(2) |> make(2)

model M(x: f32[N, 4]):
    return x |> Twice(Dense(4), Dense, leaky_relu(alpha = 0.5))
""")
    assert [v.path for v in model.parameters if "kernel" in v.path] == [
        "twice.layer.kernel", "twice.dense.kernel", "twice.dense_1.kernel"]


def test_named_outputs_are_records():
    model = build("""
model Pair(x: f32[N, 2]) -> (left: f32[N], right: f32[N]):
    left, right = x[:, 0], x[:, 1]

model M(x: f32[N, 2]) -> (a: f32[N], b: f32[N], c: f32[N]):
    pair = Pair()(x)
    a, b = pair
    c = pair.right - Pair()(x)[0]
""")
    x = X[:, :2]
    out = run(model, x)
    np.testing.assert_allclose(out["c"], x[:, 1] - x[:, 0])
    assert list(out) == ["a", "b", "c"]
    assert "pair.left" in model.inference.values


def test_dimensions_unify_per_call():
    model = build("""
model Flat(x: f32[N, ..., 2 * K]) -> f32[N, K]:
    y = reshape(x, (N, -1))
    return y[:, :K]

model M(x: f32[N, 3, 4], z: f32[B, 6]):
    return sum(Flat()(x)) + sum(Flat()(z))
""")
    z = rng.normal(size=(5, 6)).astype(np.float32)
    np.testing.assert_allclose(run(model, CUBE, z)["output"], CUBE[:, 0, :2].sum() + z[:, :3].sum(), rtol=1e-5)


def test_parameter_counts_of_the_seeds():
    autoencoder = build("""
model Encoder(img: f32[N, 28, 28, 1]) -> f32[N, 16]:
    return img |> Conv2D(16, 3, activation = relu) |> Conv2D(32, 3, activation = relu) |> MaxPool2D(3)
               |> Conv2D(32, 3, activation = relu) |> Conv2D(16, 3, activation = relu) |> GlobalMaxPool2D()

model Decoder(code: f32[N, 16]) -> f32[N, 28, 28, 1]:
    return code |> Reshape(4, 4, 1)
                |> Conv2DTranspose(16, 3, activation = relu) |> Conv2DTranspose(32, 3, activation = relu)
                |> UpSample2D(3)
                |> Conv2DTranspose(16, 3, activation = relu) |> Conv2DTranspose(1, 3, activation = relu)

model Autoencoder(img: f32[N, 28, 28, 1]) -> f32[N, 28, 28, 1]:
    return img |> Encoder() |> Decoder()
""")
    assert count(autoencoder) == 28_241
    by_layer = {layer.path: sum(product(v.type.shape) for v in autoencoder.parameters if v.path in layer.parameters)
                for layer in autoencoder.layers}
    assert (by_layer["encoder"], by_layer["decoder"]) == (18_672, 9_569)


# --- state, penalties, randomness, gradients --------------------------------------------------------------------

def test_state_is_updated_in_training_only():
    model = build("model M(x: f32[N, 4]):\n    return x |> BatchNorm(momentum = 0.5)\n")
    (path,) = [v.path for v in model.states if v.path.endswith("mean")]
    updated = run(model, X, training=True, nodes=model.training.updates)[path]
    np.testing.assert_allclose(updated, 0.5 * X.mean(0), rtol=1e-5)
    np.testing.assert_array_equal(run(model, X, nodes=model.inference.updates)[path], 0 * Y)
    shared = build("model M(x: f32[N, 4]):\n    n = BatchNorm(momentum = 0.5)\n    return n(n(x))\n")
    assert [v.path for v in shared.states] == ["n.running_mean", "n.running_var"]


def test_penalties_count_shared_weights_once():
    body = "model M(x: f32[N, 4]):\n    d = Dense(4, l2 = {})\n    return d(d(x))\n"
    assert len(build(body.format("0.1")).training.penalties) == 1
    assert len(build(body.format("0.0")).training.penalties) == 0


def test_random_numbers():
    model = build("model M(x: f32[N, 4]):\n    return x + random_normal(shape = shape(x)) - random_normal(shape = (N, "
                  "4))\n")
    assert model.uses_seed
    x = np.zeros((5000, 4), np.float32)
    first, again, other = (run(model, x, seed=s)["output"] for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other) and abs(first.std() - 2 ** 0.5) < 0.05 and abs(first.mean()) < 0.05
    dropout = build("model M(x: f32[N, 4]):\n    return x |> Dropout(0.25)\n")
    kept = run(dropout, np.ones((5000, 4), np.float32), training=True)["output"]
    assert abs((kept > 0).mean() - 0.75) < 0.02 and abs(kept.mean() - 1) < 0.05
    assert run(dropout, X)["output"] is not None and not [n for n in topological(dropout.inference.outputs.values())
                                                         if n.op.name == "random_bits"]


def test_initial_values_depend_on_the_path_only():
    alone = weights_of(build("model M(x: f32[N, 4]):\n    out = Dense(3)(x)\n    return out\n"))
    beside = weights_of(build("model M(x: f32[N, 4]):\n    y = x |> Dense(4)\n    out = Dense(3)(y)\n    return out\n"))
    np.testing.assert_array_equal(alone["out.kernel"], beside["out.kernel"])
    limit = (6 / 7) ** 0.5
    assert 0.5 * limit < np.abs(alone["out.kernel"]).max() <= limit


def test_gradients_of_expressions():
    model = build("""
def cube(x) = x ** 3
    gradient(dy) = 10 * dy * x

model M(x: f32[N, 4]) -> (a: f32[N, 4], b: f32[N, 4], c: f32[N, 4]):
    h = x * x
    y = sum(h ** 2)
    a = grad(y, x)
    b = grad(y, h)
    c = grad(sum(cube(x)), x)
""")
    out = run(model, X)
    np.testing.assert_allclose(out["a"], 4 * X ** 3, rtol=1e-4)
    np.testing.assert_allclose(out["b"], 2 * X ** 2, rtol=1e-4)
    np.testing.assert_allclose(out["c"], 10 * X, rtol=1e-5)


def test_f64_precision():
    model = build("model M(x: f32[N, 4]):\n    return cast(x, f32) |> Dense(2, tanh)\n", precision="f64")
    assert {str(v.type.dtype) for v in model.parameters} == {"f64"} and str(model.inputs[0].dtype) == "f64"
    assert str(model.inference.outputs["output"].dtype) == "f64"


def test_tied_weights():
    model = build("""
model M(x: i32[N]):
    table = Embedding(7, 4)
    return table(x) @ transpose(table.embeddings)
""")
    weights = weights_of(model)
    (e,) = weights.values()
    np.testing.assert_allclose(run(model, np.array([1, 3]), weights=weights)["output"], e[[1, 3]] @ e.T, rtol=1e-5)


# --- scans ------------------------------------------------------------------------------------------------------

def test_scan_collects_along_its_axis():
    model = build("""
model M(x: f32[N, T, D]) -> (last: f32[N, D], all: f32[N, T, D], back: f32[N, T, D]):
    scale = mean(x) * 2
    scan a in x along 1 carrying s = zeros(N, D) collecting s as sums:
        s = s * 0.5 + a * scale
    last = s
    all = sums
    scan a in x along -2 reversed carrying r = zeros(N, D) collecting r as rs:
        r = r + a
    back = rs
""")
    out = run(model, CUBE)
    s, sums = np.zeros((2, 4), np.float32), []
    for t in range(3):
        s = s * 0.5 + CUBE[:, t] * CUBE.mean() * 2
        sums.append(s)
    np.testing.assert_allclose(out["last"], s, rtol=1e-4)
    np.testing.assert_allclose(out["all"], np.stack(sums, 1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(out["back"], CUBE[:, ::-1].cumsum(1)[:, ::-1], rtol=1e-5, atol=1e-6)


def test_scan_hoists_what_does_not_change():
    model = build("""
model M(x: f32[N, T, 4]):
    param w: f32[4, 4]
    scan a in x along 1 carrying s = zeros(N, 4):
        s = s + a @ (w * 2) + 1
    return s
""")
    (scan,) = [n for n in topological(model.inference.outputs.values()) if n.op.name == "scan"]
    assert all(n.op.name not in ("param", "input") for n in scan.attrs["body"].nodes())
    assert [a.op.name for a in scan.args][-1] == "mul"              # w * 2, computed once
    w = weights_of(model)
    expected = (CUBE @ (2 * w["w"]) + 1).sum(1)
    np.testing.assert_allclose(run(model, CUBE, weights=w)["output"], expected, rtol=1e-4)


def test_nested_scans_and_random_steps():
    model = build("""
model M(x: f32[N, 3]):
    scan a in x along 1 carrying s = zeros(N) collecting r as rs:
        scan b in x along 0 carrying q = 0.0:
            q = q + sum(b) * mean(a)
        s = s + q
        r = random_uniform(shape = (N,))
    return stack(s, rs[:, 0], rs[:, 1], rs[:, 2])
""")
    out = run(model, CUBE[0][:, :3])["output"]
    x = CUBE[0][:, :3]
    np.testing.assert_allclose(out[0], np.full(3, x.sum() * x.mean(0).sum()), rtol=1e-4)
    rows = out[1:]
    assert all(not np.allclose(a, b) for a, b in itertools.combinations(rows, 2))


def test_lstm_against_numpy():
    model = build("model M(x: f32[N, T, 3]):\n    return x |> LSTM(2, return_sequences = true)\n")
    w = weights_of(model)
    x = rng.normal(size=(2, 5, 3)).astype(np.float32)
    sigmoid = lambda v: 1 / (1 + np.exp(-v))
    h = c = np.zeros((2, 2))
    hs = []
    for t in range(5):
        i, f, g, o = np.split(x[:, t] @ w["lstm.kernel"] + h @ w["lstm.recurrent"] + w["lstm.bias"], 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        hs.append(h)
    np.testing.assert_allclose(run(model, x, weights=w)["output"], np.stack(hs, 1), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(w["lstm.bias"], [0, 0, 1, 1, 0, 0, 0, 0])


# --- train ------------------------------------------------------------------------------------------------------

DIGITS = """
model Digits(x: f32[N, 64]) -> (logits: f32[N, 10]):
    h = x |> Dense(128, relu) |> Dense(64, relu)
    logits = Dense(10)(h)

train Digits:
    input label: i32[N]
    loss   cross_entropy = mean(sparse_categorical_crossentropy(logits, label, from_logits = true))
    metric accuracy      = mean(argmax(logits, axis = -1) == label)
    metric size          = mean(abs(h))
    optimizer = adam(lr = 1e-3)
"""


def test_train_block():
    model = build(DIGITS)
    x, label = rng.normal(size=(6, 64)).astype(np.float32), np.arange(6, dtype=np.int32)
    w = weights_of(model)
    out = run(model, x, weights=w)["logits"]
    got = run(model, x, label, weights=w, training=True, nodes={**model.training.losses, **model.training.metrics})
    log_p = out - np.log(np.exp(out).sum(-1, keepdims=True))
    np.testing.assert_allclose(got["cross_entropy"], -log_p[np.arange(6), label].mean(), rtol=1e-5)
    np.testing.assert_allclose(got["accuracy"], (out.argmax(-1) == label).mean())
    assert not model.uses_seed and [t.attrs["name"] for t in model.targets] == ["label"]


def test_optimizer_is_a_pure_function():
    optimizer = build(DIGITS).optimizer
    assert [v.path for v in optimizer.states] == ["optimizer.step", "optimizer.m", "optimizer.v"]
    assert set(optimizer.update.outputs) == {"weight", "optimizer.step", "optimizer.m", "optimizer.v"}
    weight, gradient, step, m, v = optimizer.update.inputs
    verify(optimizer.update)
    g = rng.normal(size=weight.shape).astype(np.float32)
    zero = np.zeros_like(g)
    new = interpret(optimizer.update, {weight: zero, gradient: g, step: np.int32(0), m: zero, v: zero})
    np.testing.assert_allclose(new["weight"], -1e-3 * np.sign(g), rtol=0, atol=1e-4)
    assert new["optimizer.step"] == 1


def test_learning_rate_schedule():
    model = build(DIGITS.replace("lr = 1e-3", "lr = cosine_decay(initial = 1e-3, decay_steps = 10)"))
    weight, gradient, step, m, v = model.optimizer.update.inputs
    z = np.zeros(weight.shape, np.float32)
    new = interpret(model.optimizer.update, {weight: z, gradient: z + 1, step: np.int32(10), m: z, v: z})
    np.testing.assert_allclose(new["weight"], 0, atol=1e-7)


# --- files ------------------------------------------------------------------------------------------------------

def test_imports(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "blocks.net").write_text(
        'net 1\nimport "deep.net" as deep\nconst WIDTH = deep.HALF * 2\nmodel Block()(x: f32[N, D]):\n'
        "    return x |> Dense(WIDTH)\n")
    (tmp_path / "sub" / "deep.net").write_text("net 1\nconst HALF = 3\n")
    text = 'net 1\nimport "sub/blocks.net" as blocks\nmodel M(x: f32[N, 4]):\n    return x |> blocks.Block()\n'
    model = elaborate(text, str(tmp_path / "main.net"))
    assert [v.path for v in model.parameters] == ["block.dense.kernel", "block.dense.bias"]
    assert model.parameters[0].type.shape == (4, 6)
    files = {"a.net": 'net 1\nimport "b.net" as b\nconst A = 1\n',
             "b.net": 'net 1\nimport "a.net" as a\nconst B = a.A\n'}
    with pytest.raises(Diagnostics) as caught:
        elaborate('net 1\nimport "a.net" as a\nmodel M(x: f32[4]):\n    return x * a.A\n', "m.net",
                  loader=files.__getitem__)
    assert any("a.net -> b.net -> a.net" in e.render() for e in caught.value)


@pytest.mark.parametrize("path", ["../up.net", "/etc/passwd.net", "a/../../b.net", "C:/x.net", "a\\\\b.net", "x.txt",
                                  "~/x.net"])
def test_imports_stay_inside(path, tmp_path):
    with pytest.raises(Diagnostics) as caught:
        elaborate(f'net 1\nimport "{path}" as q\nmodel M(x: f32[4]):\n    return x\n', str(tmp_path / "main.net"))
    assert next(iter(caught.value)).code in ("E0701", "E0703")


def test_symbolic_links_do_not_lead_out(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret.net").write_text("net 1\nconst A = 1\n")
    (inside / "link.net").symlink_to(tmp_path / "secret.net")
    with pytest.raises(Diagnostics) as caught:
        elaborate('net 1\nimport "link.net" as q\nmodel M(x: f32[4]):\n    return x * q.A\n', str(inside / "main.net"))
    assert caught.value.items[0].code == "E0703"


def test_warnings():
    model = build("model M(x: f32[N, 4]):\n    y = x + 1\n    _z = x\n    h = grad(sum(x), grad_of(x))\n"
                  "    return x + h\n"
                  "def grad_of(x) = x * 2\n")
    assert sorted((w.code, w.severity, w.message.split(":")[0]) for w in model.warnings) == [
        ("E0205", "warning", "the name `y` of M is never used"), ("E0312", "warning", "the gradient is zero")]


# --- mistakes ---------------------------------------------------------------------------------------------------

M = "model M(x: f32[N, 4], i: i32[N]):\n"
MISTAKES = [
    ("    return rely(x)\n", "E0201", "did you mean `relu`?"),
    ("    return x + h\n    h = x\n", "E0203", None),
    ("    return x |> Dense(3, unit = 3)\n", "E0401", "did you mean `units`?"),
    ("    return x |> Dense()\n", "E0402", "write `Dense(units = ...)`"),
    ("    return x |> Dense(activation = relu)\n", "E0402", "write `Dense(units = ...)`"),
    ("    return Dense(10) + x\n", "E0303", "is an instance: call it on a value"),
    ("    return Dense(x)\n", "E0409", "is an instance: call it on the value"),
    ("    return Dense(3.5)(x)\n", "E0405", None),
    ("    return Dense(3)(x, x)\n", "E0404", None),
    ("    return Dense(3)()\n", "E0407", None),
    ("    return Dense(3)(i)\n", "E0302", "cast(x, f32)"),
    ("    return x @ ones(5, 4)\n", "E0301", "the right operand is transposed"),
    ("    return x + i\n", "E0301", "add axes at the end of the smaller one"),
    ("    return x if sum(x) > 0 else -x\n", "E0508", "where(condition, a, b)"),
    ("    return x[:, 4]\n", "E0305", None),
    ("    return x[1]\n", "E0305", None),
    ("    return sum(x, axis = 2)\n", "E0308", None),
    ("    return grad(x, x)\n", "E0311", "grad(sum(y), x)"),
    ("    return x(3)\n", "E0408", "is a `*` missing?"),
    ("    return x.shape\n", "E0206", "shape(x)"),
    ("    return reshape(x, (N, 3))\n", "E0301", None),
    ("    return x ** (10 ** 99)\n", "E0802", None),
    ("    return zeros(10 ** 6, 10 ** 6)\n", "E0805", None),
    ("    for k in x:\n        x = x\n    return x\n", "E0507", "scan"),
    ("    return x |> Dropout(1.5)\n", "E0411", None),
    ("    param w: f32[N] = zeros\n    return x * w\n", "E0306", None),
    ("    param w: f32[4] = sum(x)\n    return x * w\n", "E0510", None),
    ("    param w: f32[4] = zeros(5)\n    return x * w\n", "E0301", None),
    ("    state s: i32 = 0\n    s = s + 0.5\n    return x\n", "E0302", "cast(..., i32)"),
    ("    scan a in x along 1 carrying h = 0.0:\n        h = h + a\n    return h\n", "E0505", "zeros(N)"),
    ("    return M()(x, i)\n", "E0806", "call itself"),
    ("    training = 3\n    return x\n", "E0207", None),
    ("    return where(x, x, 0)\n", "E0303", "where(x > 0, x, 0)"),
    ("    a, b = split(x, 4)\n    return a + b\n", "E0307", None),
    ("    assert N > 3\n    return x\n", "E0309", None),
    ("    y = x\n", "E0502", None),
]


@pytest.mark.parametrize("body, code, hint", MISTAKES, ids=[case[0].strip() for case in MISTAKES])
def test_mistake(body, code, hint):
    error = one_error(M + body)
    assert error.code == code and error.span.line >= 3, error.render()
    if hint:
        assert hint in error.hint, error.render()


def test_independent_mistakes_are_reported_together():
    found = errors_of("""
model A(x: f32[N, 3]) -> (p: f32[N, 3], q: f32[N, 2]):
    a = foo(x)
    b = a + 1
    p = b * 2
    q = x

model M(x: f32[N, 3]):
    y, z = A()(x)
    c = bar(x)
    return y + z + c

model Elsewhere(x: f32[N, 3]):
    return baz(x)
""")
    assert [e.message.split("`")[1] for e in found] == ["foo", "q", "bar", "baz"]


def test_a_mistake_shows_its_chain_and_both_shapes():
    error = one_error("""
model Inner(x: f32[N, K]) -> f32[N, K]:
    return x @ ones(K + 1, K)

model M(x: f32[N, 3]):
    return x |> Inner()
""")
    assert error.found == "[N, 3] @ [4, 3]" and [name for name, _ in error.chain] == ["Inner", "M"]
    loss = one_error("model M(x: f32[N, 3]):\n    return x\ntrain M:\n    input y: f32[N, 2]\n"
                     "    loss a = mean(mean_squared_error(output, y))\n")
    assert loss.span.file == "test.net" and "mean_squared_error" in loss.message


@pytest.mark.parametrize("text", [
    "def f(x) = f(f(x))\nmodel M(x: f32[4]):\n    return f(x)\n",
    "def f(n) = 0 if n == 0 else f(n - 1) + f(n - 1)\nmodel M(x: f32[4]):\n    return x + f(40)\n",
    "model M(x: f32[4]):\n    for i in range(10 ** 12):\n        x = x + 1\n    return x\n",
    "model M(x: f32[4]):\n    return x + " + "(" * 80 + "1" + " + 1)" * 80 + "\n    y = x[nothing]\n",
    "const a = (1,) * 10 ** 9\nmodel M(x: f32[4]):\n    return x\n",
])
def test_hostile_text_is_refused_in_time(text, monkeypatch):
    from netc.compiler.build import session
    monkeypatch.setattr(session, "MOST_STEPS", 20_000)
    for error in errors_of(text):
        error.render()


def test_train_mistakes():
    head = "model M(x: f32[N, 4]):\n    return x |> Dense(1)\ntrain M:\n"
    cases = [("    loss a = output ** 2\n", "E0604"), ("    metric a = mean(output)\n", "E0602"),
             ("    loss a = mean(output)\n    optimizer = adam\n", "E0605"),
             ("    loss a = mean(output)\n    optimizer = adam(learning_rate = 1)\n", "E0401"),
             ("    loss a = mean(output)\n    loss a = mean(output)\n", "E0607"),
             ("    loss a = mean(output)\n    optimizer = adam()\n    optimizer = sgd()\n", "E0608"),
             ("    loss a = sum(cast(x, i32))\n", "E0604"), ("    input x: f32[N]\n    loss a = mean(x)\n", "E0607")]
    for body, code in cases:
        assert one_error(head + body).code == code


@pytest.mark.parametrize(("lines", "paths"), [
    ("loss a = mean(Dense(2)(x))", {"dense", "dense_1"}),
    ("dense = Dense(1)\n    loss a = mean(dense(output))", {"dense", "dense_1"}),
    ("d = Dense(1)\n    loss a = mean(d(output))", {"dense", "d"}),
    ("loss a = mean(Flatten()(output))", {"dense"})])
def test_what_a_train_block_makes_has_weights_of_its_own(lines, paths):
    model = elaborate(ONE_LAYER + lines + "\n")
    assert {variable.path.partition(".")[0] for variable in model.variables} == paths


def test_an_optimiser_cannot_be_piped_into_a_layer():
    with pytest.raises(Diagnostics, match="Dense can be called only inside a model"):
        elaborate(ONE_LAYER + "loss a = mean(output)\n    optimizer = adam() |> Dense(3)\n")


@pytest.mark.parametrize("layer", ["Conv2D(0, 3)", "Conv2D(2, (0, 3))", "Reshape(25, 2) |> LSTM(0)"])
def test_a_parameter_has_elements(layer):
    with pytest.raises(Diagnostics, match="`kernel` would have no elements"):
        elaborate(f"net 1\nmodel M(x: f32[N, 5, 5, 2]):\n    return x |> {layer}\n")


ONE_LAYER = "net 1\nmodel M(x: f32[N, 3]) -> f32[N, 2]:\n    return Dense(2)(x)\ntrain M:\n    "
