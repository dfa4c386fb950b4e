"""Layers, losses and optimisers of the prelude against PyTorch: values and gradients, in double precision.

Each case is one expression of the language on inputs ``x``, ``y`` of given shapes, and a function of PyTorch tensors
with the same weights.  Weights are random rather than initial values, so that no bias or gain hides behind its 0 or 1.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from netc.compiler import ops
from netc.compiler.build import elaborate
from netc.compiler.gradient import gradient
from netc.compiler.interpret import interpret
from netc.compiler.ir import Graph

torch = pytest.importorskip("torch")
F = torch.nn.functional


def model_of(expression: str, shapes: dict):
    """The expression as a model over inputs of these shapes (a leading N is the batch)."""
    inputs = ", ".join(f"{name}: {kind}[{', '.join(map(str, shape))}]" for name, (kind, shape) in shapes.items())
    return elaborate(f"net 1\n\nmodel Case({inputs}):\n    return {expression}\n", "case.net", precision="f64")


def leaf(variable):
    return (ops.param if variable.trainable else ops.state)(variable.path, variable.type.dtype, variable.type.shape)


def run(model, mode, arrays: dict, weights: dict, cotangent=None):
    """Output, and where a cotangent is given the gradients of weights and float inputs, each by name."""
    output = mode.outputs["output"]
    leaves = {node: arrays[node.attrs["name"]] for node in model.inputs}
    variables = {v.path: leaf(v) for v in (*model.parameters, *model.states)}
    leaves.update({variables[path]: weights[path] for path in variables})
    leaves[ops.input("seed", ops.input("seed", _i64(), ()).dtype, ())] = np.array(7)
    roots = {"output": output, **{f"new {path}": node for path, node in mode.updates.items()}}
    if cotangent is not None:
        seed = ops.input("cotangent", output.dtype, output.shape)
        leaves[seed] = cotangent
        wrt = {v.path: variables[v.path] for v in model.parameters}
        wrt.update({n.attrs["name"]: n for n in model.inputs if n.dtype.kind == "float"})
        for name, node in zip(wrt, gradient([(output, seed)], list(wrt.values()))):
            roots[f"d {name}"] = node
    return interpret(Graph(tuple(leaves), roots), leaves, {"N": 3, "T": 5})


def _i64():
    from netc.compiler.types import i64
    return i64


def arrays_for(shapes, rng):
    arrays = {}
    for name, (kind, shape) in shapes.items():
        shape = tuple({"N": 3, "T": 5}.get(size, size) for size in shape)
        if kind == "f32":
            arrays[name] = rng.normal(size=shape)
        elif kind == "bool":
            arrays[name] = rng.random(shape) < 0.6
        else:
            arrays[name] = rng.integers(0, 4, shape).astype(np.int32)
    return arrays


def check(expression, shapes, reference, training=False, seed=0):
    """The expression and the reference agree, as do their gradients by every weight and input."""
    rng = np.random.default_rng(seed)
    model = model_of(expression, shapes)
    mode = model.training if training else model.inference
    arrays = arrays_for(shapes, rng)
    weights = {v.path: rng.normal(size=v.type.shape) for v in model.parameters}
    weights.update({v.path: rng.random(v.type.shape) + 0.5 for v in model.states})
    tensors = {name: torch.tensor(a, requires_grad=a.dtype == float) for name, a in {**arrays, **weights}.items()}
    expected = reference(SimpleNamespace(**{n.replace(".", "_"): t for n, t in tensors.items()}))
    cotangent = rng.normal(size=tuple(expected.shape))
    expected.backward(torch.tensor(cotangent))
    got = run(model, mode, arrays, weights, cotangent)
    assert got["output"].shape == tuple(expected.shape)
    np.testing.assert_allclose(got["output"], expected.detach().numpy(), rtol=1e-9, atol=1e-9)
    for name, tensor in tensors.items():
        if f"d {name}" in got:
            want = np.zeros(tensor.shape) if tensor.grad is None else tensor.grad.numpy()
            np.testing.assert_allclose(got[f"d {name}"], want, rtol=1e-8, atol=1e-8, err_msg=f"gradient of {name}")


X = {"x": ("f32", ("N", 6))}
IMAGE = {"x": ("f32", ("N", 9, 8, 4))}
SEQUENCE = {"x": ("f32", ("N", "T", 6))}
PAIR = {"x": ("f32", ("N", 6)), "y": ("f32", ("N", 6))}

ACTIVATIONS = {
    "linear": lambda x: x, "relu": F.relu, "relu6": F.relu6, "leaky_relu": lambda x: F.leaky_relu(x, 0.2), "elu": F.elu,
    "selu": F.selu, "gelu": F.gelu, "gelu(approximate = true)": lambda x: F.gelu(x, approximate="tanh"), "silu": F.silu,
    "softplus": F.softplus, "softsign": F.softsign, "log_sigmoid": F.logsigmoid,
    "hard_sigmoid": lambda x: torch.clip(x / 6 + 0.5, 0, 1),
    "hard_silu": lambda x: x * torch.clip(x / 6 + 0.5, 0, 1), "mish": F.mish, "exponential": torch.exp,
    "softmax": lambda x: F.softmax(x, -1),
    "log_softmax": lambda x: F.log_softmax(x, -1), "sigmoid": torch.sigmoid, "tanh": torch.tanh,
    "softmax(axis = 0)": lambda x: F.softmax(x, 0),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name):
    check(f"Activation({name})(3 * x)", X, lambda t: ACTIVATIONS[name](3 * t.x))


@pytest.mark.parametrize("name, gradient_at_0", [("relu", 0.0), ("leaky_relu", 0.2), ("elu", 1.0), ("softplus", 0.5)])
def test_activation_gradient_at_0(name, gradient_at_0):
    model = model_of(f"{name}(x)", X)
    got = run(model, model.inference, {"x": np.zeros((3, 6))}, {}, np.ones((3, 6)))
    np.testing.assert_allclose(got["d x"], gradient_at_0)


@pytest.mark.parametrize("name", ["elu", "selu", "softplus", "softmax", "log_softmax", "mish", "log_sigmoid"])
def test_activation_is_finite_far_out(name):
    model = model_of(f"{name}(x)", X)
    x = np.array([[-1e4, -800, 0, 800, 1e4, 3e4]] * 3)
    got = run(model, model.inference, {"x": x}, {}, np.ones((3, 6)))
    assert np.isfinite(got["output"]).all() and np.isfinite(got["d x"]).all()


def test_dense():
    check("Dense(5, tanh)(x)", X, lambda t: torch.tanh(t.x @ t.dense_kernel + t.dense_bias))
    check("Dense(5, use_bias = false)(x)", SEQUENCE, lambda t: t.x @ t.dense_kernel)


def test_embedding():
    check("Embedding(4, 3)(x)", {"x": ("i32", ("N", "T"))}, lambda t: t.embedding_embeddings[t.x.long()])


# --- convolution ------------------------------------------------------------------------------------------------


def same(x, kernel, stride, dilation=1):
    """x [N, *places, C] with Keras' filler for padding = same."""
    filler = []
    for size, width in zip(x.shape[1:-1], kernel):
        total = max((-(-size // stride) - 1) * stride + dilation * (width - 1) + 1 - size, 0)
        filler = [total // 2, total - total // 2] + filler
    return F.pad(x, [0, 0] + filler)


def convolution(x, kernel, bias, stride=1, dilation=1, groups=1, padding="valid"):
    rank = x.ndim - 2
    x = same(x, kernel.shape[:rank], stride, dilation) if padding == "same" else x
    apply = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[rank]
    y = apply(x.movedim(-1, 1), kernel.movedim((-1, -2), (0, 1)), bias, stride, 0, dilation, groups)
    return y.movedim(1, -1)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("stride, dilation, groups", [(1, 1, 1), (2, 1, 1), (1, 2, 1), (2, 2, 1), (3, 2, 2), (1, 1, 4)])
def test_convolution_2d(padding, stride, dilation, groups):
    check(f"Conv2D(8, 3, strides = {stride}, padding = {padding}, dilation = {dilation}, groups = {groups})(x)", IMAGE,
          lambda t: convolution(t.x, t.conv2d_kernel, t.conv2d_bias, stride, dilation, groups, padding))


def test_convolution_2d_of_unequal_window():
    check("Conv2D(3, (2, 5), padding = same)(x)", IMAGE,
          lambda t: convolution(t.x, t.conv2d_kernel, t.conv2d_bias, padding="same"))


@pytest.mark.parametrize("padding, stride", [("valid", 1), ("same", 2)])
def test_convolution_1d_and_3d(padding, stride):
    check(f"Conv1D(5, 3, strides = {stride}, padding = {padding})(x)", {"x": ("f32", ("N", 9, 4))},
          lambda t: convolution(t.x, t.conv1d_kernel, t.conv1d_bias, stride, padding=padding))
    check(f"Conv3D(2, 3, strides = {stride}, padding = {padding})(x)", {"x": ("f32", ("N", 5, 4, 6, 2))},
          lambda t: convolution(t.x, t.conv3d_kernel, t.conv3d_bias, stride, padding=padding))


def test_convolution_1d_causal_of_any_length():
    check("Conv1D(5, 3, padding = causal, dilation = 2)(x)", SEQUENCE,
          lambda t: convolution(F.pad(t.x, (0, 0, 4, 0)), t.conv1d_kernel, t.conv1d_bias, dilation=2))
    check("Conv1D(5, 3)(x)", SEQUENCE, lambda t: convolution(t.x, t.conv1d_kernel, t.conv1d_bias))


@pytest.mark.parametrize("stride, padding", [(1, "valid"), (2, "same")])
def test_depthwise_convolution(stride, padding):
    def reference(t):
        kernel = t.depthwise_conv2d_kernel.reshape(3, 3, 1, 8)
        return convolution(t.x, kernel, t.depthwise_conv2d_bias, stride, groups=4, padding=padding)
    check(f"DepthwiseConv2D(3, strides = {stride}, padding = {padding}, multiplier = 2)(x)", IMAGE, reference)


def test_separable_convolution():
    def reference(t):
        y = convolution(t.x, t.separable_conv2d_depthwise_kernel.reshape(3, 3, 1, 8), None, groups=4, padding="same")
        return convolution(y, t.separable_conv2d_pointwise_kernel, t.separable_conv2d_pointwise_bias)
    check("SeparableConv2D(5, 3, padding = same, multiplier = 2)(x)", IMAGE, reference)


def test_padding_by_numbers():
    check("Conv2D(3, 3, padding = ((1, 2), (0, 3)))(x)", IMAGE,
          lambda t: convolution(F.pad(t.x, (0, 0, 0, 3, 1, 2)), t.conv2d_kernel, t.conv2d_bias))


@pytest.mark.parametrize("kernel, stride, padding", [(3, 1, "valid"), (3, 2, "valid"), (3, 2, "same"), (4, 2, "same"),
                                                     (3, 1, "same"), (2, 3, "valid"), (5, 3, "same")])
def test_transposed_convolution(kernel, stride, padding):
    def reference(t):
        weight = t.conv2d_transpose_kernel.permute(3, 2, 0, 1)
        y = F.conv_transpose2d(t.x.movedim(-1, 1), weight, None, stride)
        over = max(kernel - stride, 0)
        cut = over // 2 if padding == "same" else 0
        sizes = [n * stride + (0 if padding == "same" else over) for n in (9, 8)]
        y = F.pad(y, (0, stride, 0, stride))[:, :, cut:cut + sizes[0], cut:cut + sizes[1]]
        return y.movedim(1, -1) + t.conv2d_transpose_bias
    check(f"Conv2DTranspose(5, {kernel}, strides = {stride}, padding = {padding})(x)", IMAGE, reference)


@pytest.mark.parametrize("size, stride, padding", [(2, 2, "valid"), (3, 1, "valid"), (3, 1, "same"), (3, 2, "same")])
def test_pooling(size, stride, padding):
    def pool(t, average):
        x = t.x
        inside = torch.ones_like(x)
        if padding == "same":
            inside = same(inside, (size, size), stride)
            x = same(x, (size, size), stride)
            x = x if average else torch.where(inside > 0, x, -torch.inf)
        x, inside = x.movedim(-1, 1), inside.movedim(-1, 1)
        y = F.avg_pool2d(x, size, stride) / F.avg_pool2d(inside, size, stride) if average \
            else F.max_pool2d(x, size, stride)
        return y.movedim(1, -1)
    settings = f"({size}, strides = {stride}, padding = {padding})(x)"
    check("MaxPool2D" + settings, IMAGE, lambda t: pool(t, False))
    check("AvgPool2D" + settings, IMAGE, lambda t: pool(t, True))


def test_pooling_1d():
    check("MaxPool1D(2)(x)", {"x": ("f32", ("N", 7, 3))}, lambda t: F.max_pool1d(t.x.mT, 2).mT)
    check("AvgPool1D(3, strides = 2)(x)", {"x": ("f32", ("N", 7, 3))}, lambda t: F.avg_pool1d(t.x.mT, 3, 2).mT)


def test_global_pooling():
    check("GlobalMaxPool2D()(x)", IMAGE, lambda t: t.x.amax((1, 2)))
    check("GlobalAvgPool2D(keepdims = true)(x)", IMAGE, lambda t: t.x.mean((1, 2), keepdim=True))
    check("GlobalMaxPool1D()(x)", SEQUENCE, lambda t: t.x.amax(1))
    check("GlobalAvgPool1D()(x)", SEQUENCE, lambda t: t.x.mean(1))


def test_sizes():
    check("UpSample2D((2, 3))(x)", IMAGE, lambda t: t.x.repeat_interleave(2, 1).repeat_interleave(3, 2))
    check("UpSample1D(3)(x)", SEQUENCE, lambda t: t.x.repeat_interleave(3, 1))
    check("ZeroPad2D(((1, 2), (3, 4)))(x)", IMAGE, lambda t: F.pad(t.x, (0, 0, 3, 4, 1, 2)))
    check("ZeroPad1D((1, 2))(x)", SEQUENCE, lambda t: F.pad(t.x, (0, 0, 1, 2)))
    check("Crop2D((1, (2, 3)))(x)", IMAGE, lambda t: t.x[:, 1:8, 2:5])
    check("x |> Flatten() |> Reshape(8, -1)", IMAGE, lambda t: t.x.reshape(3, 8, 36))
    check("Permute(3, 1, 2)(x)", IMAGE, lambda t: t.x.permute(0, 3, 1, 2))


# --- recurrence -------------------------------------------------------------------------------------------------


def recurrence(module, x, kernel, recurrent, input_bias, recurrent_bias, backwards=False):
    values = {"weight_ih_l0": kernel.T, "weight_hh_l0": recurrent.T, "bias_ih_l0": input_bias,
              "bias_hh_l0": recurrent_bias}
    x = x.flip(1) if backwards else x
    return torch.func.functional_call(module(6, 4, batch_first=True, dtype=torch.float64), values, (x,))[0]


def lstm(x, w, prefix, backwards=False):
    kernel, recurrent, bias = (getattr(w, f"{prefix}_{n}") for n in ("kernel", "recurrent", "bias"))
    return recurrence(torch.nn.LSTM, x, kernel, recurrent, bias, torch.zeros_like(bias), backwards)


def test_simple_rnn():
    def reference(t):
        bias = t.simple_rnn_bias
        return recurrence(torch.nn.RNN, t.x, t.simple_rnn_kernel, t.simple_rnn_recurrent, bias, torch.zeros_like(bias))
    check("SimpleRNN(4, return_sequences = true)(x)", SEQUENCE, reference)
    check("SimpleRNN(4)(x)", SEQUENCE, lambda t: reference(t)[:, -1])


def test_lstm():
    check("LSTM(4, return_sequences = true)(x)", SEQUENCE, lambda t: lstm(t.x, t, "lstm"))
    check("LSTM(4, go_backwards = true)(x)", SEQUENCE, lambda t: lstm(t.x, t, "lstm", True)[:, -1])


def test_gru():
    def swap(w):                                   # ours: update, reset, candidate; PyTorch's: reset, update, new
        update, reset, candidate = w.split(4, -1)
        return torch.cat((reset, update, candidate), -1)

    def reference(t):
        return recurrence(torch.nn.GRU, t.x, swap(t.gru_kernel), swap(t.gru_recurrent), swap(t.gru_bias[0]),
                          swap(t.gru_bias[1]))
    check("GRU(4, return_sequences = true)(x)", SEQUENCE, reference)
    check("GRU(4)(x)", SEQUENCE, lambda t: reference(t)[:, -1])


def test_bidirectional():
    def both(t):
        return lstm(t.x, t, "bidirectional_forward"), lstm(t.x, t, "bidirectional_backward", True)
    check("Bidirectional(LSTM, 4)(x)", SEQUENCE, lambda t: torch.cat([y[:, -1] for y in both(t)], -1))
    check("Bidirectional(LSTM, 4, return_sequences = true)(x)", SEQUENCE,
          lambda t: torch.cat((both(t)[0], both(t)[1].flip(1)), -1))


# --- attention and normalisation --------------------------------------------------------------------------------


def attention(t, prefix, x, memory, mask=None, causal=False):
    def heads(name, value):
        kernel, bias = getattr(t, f"{prefix}_{name}_kernel"), getattr(t, f"{prefix}_{name}_bias")
        return torch.einsum("ntd,dhk->nhtk", value, kernel) + bias[:, None]
    y = F.scaled_dot_product_attention(heads("query", x), heads("key", memory), heads("value", memory),
                                       None if mask is None else mask[:, None], is_causal=causal)
    return torch.einsum("nhtk,hkd->ntd", y, getattr(t, f"{prefix}_output_kernel")) + getattr(t, f"{prefix}_output_bias")


MEMORY = {"x": ("f32", ("N", "T", 6)), "y": ("f32", ("N", 4, 6))}


def test_attention():
    name = "multi_head_attention"
    check("MultiHeadAttention(2, 3)(x, x)", SEQUENCE, lambda t: attention(t, name, t.x, t.x))
    check("MultiHeadAttention(2, 3, causal = true)(x, x)", SEQUENCE,
          lambda t: attention(t, name, t.x, t.x, causal=True))
    check("MultiHeadAttention(2, 3, value_dim = 5)(x, y)", MEMORY, lambda t: attention(t, name, t.x, t.y))


def test_masked_attention():
    shapes = {**MEMORY, "m": ("bool", ("N", "T", 4))}
    check("MultiHeadAttention(2, 3)(x, y, m)", shapes, seed=3,
          reference=lambda t: attention(t, "multi_head_attention", t.x, t.y, t.m))


def norm(t, name, x, eps=1e-5):
    return F.layer_norm(x, x.shape[-1:], getattr(t, f"{name}_gamma"), getattr(t, f"{name}_beta"), eps)


def feedforward(t, name, x):
    h = F.relu(x @ getattr(t, f"{name}_dense_kernel") + getattr(t, f"{name}_dense_bias"))
    return h @ getattr(t, f"{name}_dense_1_kernel") + getattr(t, f"{name}_dense_1_bias")


@pytest.mark.parametrize("first", [False, True])
def test_transformer_encoder(first):
    def reference(t):
        p = "transformer_encoder_"
        if first:
            a = norm(t, p + "attention_norm", t.x)
            h = t.x + attention(t, p + "attention", a, a)
            return h + feedforward(t, p + "feedforward", norm(t, p + "feedforward_norm", h))
        h = norm(t, p + "attention_norm", t.x + attention(t, p + "attention", t.x, t.x))
        return norm(t, p + "feedforward_norm", h + feedforward(t, p + "feedforward", h))
    check(f"TransformerEncoder(7, 2, normalize_first = {str(first).lower()})(x)", SEQUENCE, reference)


def test_transformer_decoder():
    def reference(t):
        p = "transformer_decoder_"
        h = norm(t, p + "self_norm", t.x + attention(t, p + "self_attention", t.x, t.x, causal=True))
        h = norm(t, p + "cross_norm", h + attention(t, p + "cross_attention", h, t.y))
        return norm(t, p + "feedforward_norm", h + feedforward(t, p + "feedforward", h))
    check("TransformerDecoder(7, 2)(x, y)", MEMORY, reference)


def test_normalisation():
    check("LayerNorm()(x)", SEQUENCE, lambda t: norm(t, "layer_norm", t.x, 1e-3))
    check("RMSNorm()(x)", SEQUENCE, lambda t: F.rms_norm(t.x, (6,), t.rms_norm_scale, 1e-6))
    check("GroupNorm(2)(x)", IMAGE, lambda t: F.group_norm(
        t.x.movedim(-1, 1), 2, t.group_norm_gamma, t.group_norm_beta, 1e-3).movedim(1, -1))


@pytest.mark.parametrize("training", [False, True])
def test_batch_norm(training):
    def reference(t):
        mean, var = t.batch_norm_running_mean.detach().clone(), t.batch_norm_running_var.detach().clone()
        y = F.batch_norm(t.x.movedim(-1, 1), mean, var, t.batch_norm_gamma, t.batch_norm_beta, training, 0.01, 1e-3)
        return y.movedim(1, -1)
    check("BatchNorm()(x)", IMAGE, reference, training)


def test_batch_norm_keeps_running_statistics():
    model = model_of("BatchNorm(momentum = 0.9)(x)", X)
    x = np.random.default_rng(0).normal(2.0, 3.0, (3, 6))
    weights = {"batch_norm.gamma": np.ones(6), "batch_norm.beta": np.zeros(6),
               "batch_norm.running_mean": np.full(6, 5.0), "batch_norm.running_var": np.full(6, 7.0)}
    got = run(model, model.training, {"x": x}, weights)
    np.testing.assert_allclose(got["new batch_norm.running_mean"], 0.9 * 5 + 0.1 * x.mean(0))
    np.testing.assert_allclose(got["new batch_norm.running_var"], 0.9 * 7 + 0.1 * x.var(0))


def test_dropout():
    model = model_of("Dropout(0.25)(x)", {"x": ("f32", ("N", 4000))})
    x = np.ones((3, 4000))
    np.testing.assert_array_equal(run(model, model.inference, {"x": x}, {})["output"], x)
    y = run(model, model.training, {"x": x}, {}, x)
    assert set(np.unique(y["output"])) == {0.0, 1 / 0.75}
    assert abs((y["output"] == 0).mean() - 0.25) < 0.02
    np.testing.assert_array_equal(y["d x"], y["output"])


# --- losses -----------------------------------------------------------------------------------------------------

LOSSES = {
    "mean_squared_error(x, y)": lambda x, y: ((x - y) ** 2).mean(-1),
    "mean_absolute_error(x, y)": lambda x, y: (x - y).abs().mean(-1),
    "huber(x, y, delta = 0.7)": lambda x, y: F.huber_loss(x, y, reduction="none", delta=0.7).mean(-1),
    "log_cosh(x, y)": lambda x, y: torch.log(torch.cosh(x - y)).mean(-1),
    "hinge(x, y)": lambda x, y: F.relu(1 - x * y).mean(-1),
    "binary_crossentropy(x, y, from_logits = true)":
        lambda x, y: F.binary_cross_entropy_with_logits(x, y, reduction="none"),
    "binary_crossentropy(sigmoid(x), sigmoid(y))":
        lambda x, y: F.binary_cross_entropy(torch.sigmoid(x), torch.sigmoid(y), reduction="none"),
    "categorical_crossentropy(x, softmax(y), from_logits = true)":
        lambda x, y: F.cross_entropy(x, F.softmax(y, -1), reduction="none"),
    "categorical_crossentropy(softmax(x), softmax(y))":
        lambda x, y: F.cross_entropy(x, F.softmax(y, -1), reduction="none"),
    "categorical_crossentropy(x, softmax(y), from_logits = true, label_smoothing = 0.1)":
        lambda x, y: F.cross_entropy(x, F.softmax(y, -1), reduction="none", label_smoothing=0.1),
    "kl_divergence(softmax(x), softmax(y))":
        lambda x, y: F.kl_div(F.log_softmax(x, -1), F.log_softmax(y, -1), reduction="none", log_target=True).sum(-1),
}


@pytest.mark.parametrize("expression", LOSSES)
def test_loss(expression):
    check(expression, PAIR, lambda t: LOSSES[expression](t.x, t.y))


@pytest.mark.parametrize("prediction, logits", [("x", "true"), ("softmax(x)", "false")])
def test_sparse_categorical_crossentropy(prediction, logits):
    shapes = {"x": ("f32", ("N", "T", 6)), "y": ("i32", ("N", "T"))}
    check(f"sparse_categorical_crossentropy({prediction}, y, from_logits = {logits})", shapes,
          lambda t: F.cross_entropy(t.x.movedim(-1, 1), t.y.long(), reduction="none"))


def test_probabilities_are_clipped():
    model = model_of("binary_crossentropy(x, y)", PAIR)
    got = run(model, model.inference, {"x": np.zeros((3, 6)), "y": np.ones((3, 6))}, {}, np.ones((3, 6)))
    np.testing.assert_allclose(got["output"], -np.log(1e-7))
    np.testing.assert_array_equal(got["d x"], 0)


@pytest.mark.parametrize("expression", [
    "sparse_categorical_crossentropy(x, argmax(y, axis = -1), from_logits = true)",
    "sparse_categorical_crossentropy(softmax(x), argmax(y, axis = -1))", "binary_crossentropy(sigmoid(x), sigmoid(y))",
    "binary_crossentropy(x, sigmoid(y), from_logits = true)", "kl_divergence(softmax(x), softmax(y))",
    "categorical_crossentropy(softmax(x), softmax(y))", "log_cosh(x, y)"])
def test_loss_is_finite_far_out(expression):
    model = model_of(expression, PAIR)
    x = np.array([[-1e4, -800, 0, 800, 1e4, 3e4]] * 3)
    shape = tuple({"N": 3}.get(str(size), size) for size in model.inference.outputs["output"].shape)
    got = run(model, model.inference, {"x": x, "y": -x}, {}, np.ones(shape))
    assert np.isfinite(got["output"]).all() and np.isfinite(got["d x"]).all()


def test_metrics():
    rng = np.random.default_rng(0)
    x, y = rng.random((3, 6)), rng.integers(0, 2, (3, 6)).astype(float)
    for expression, want in (("binary_accuracy(x, y)", (x > 0.5) == y),
                             ("categorical_accuracy(x, y)", x.argmax(1) == y.argmax(1)),
                             ("sparse_categorical_accuracy(x, argmax(y, axis = -1))", x.argmax(1) == y.argmax(1))):
        model = model_of(expression, PAIR)
        np.testing.assert_array_equal(run(model, model.inference, {"x": x, "y": y}, {})["output"], want)


# --- optimisers -------------------------------------------------------------------------------------------------

OPTIMIZERS = {
    "sgd(lr = 0.1)": lambda p: torch.optim.SGD(p, 0.1),
    "sgd(lr = 0.1, momentum = 0.9)": lambda p: torch.optim.SGD(p, 0.1, 0.9),
    "sgd(lr = 0.1, momentum = 0.9, nesterov = true)": lambda p: torch.optim.SGD(p, 0.1, 0.9, nesterov=True),
    "rmsprop(lr = 0.1, eps = 0.0)": lambda p: torch.optim.RMSprop(p, 0.1, 0.9, 0.0),
    "rmsprop(lr = 0.1, momentum = 0.5, eps = 0.0)": lambda p: torch.optim.RMSprop(p, 0.1, 0.9, 0.0, momentum=0.5),
    "rmsprop(lr = 0.1, eps = 1e-12, centered = true)": lambda p: torch.optim.RMSprop(p, 0.1, 0.9, 1e-12, centered=True),
    "adam(lr = 0.1, eps = 0.0)": lambda p: torch.optim.Adam(p, 0.1, eps=0.0),
    "adam(lr = 0.1, eps = 0.0, amsgrad = true)": lambda p: torch.optim.Adam(p, 0.1, eps=0.0),
    "adamw(lr = 0.1, weight_decay = 0.3, eps = 0.0)": lambda p: torch.optim.AdamW(p, 0.1, eps=0.0, weight_decay=0.3),
    "sgd(lr = 0.1, clipvalue = 0.5)": lambda p: torch.optim.SGD(p, 0.1),
    "sgd(lr = 0.1, global_clipnorm = 0.5)": lambda p: torch.optim.SGD(p, 0.1),
    "sgd(lr = exponential_decay(initial = 0.1, decay_steps = 2, decay_rate = 0.5))": lambda p: torch.optim.SGD(p, 0.1),
}


def optimizer_of(text):
    source = ("net 1\n\nmodel Case(x: f32[N, 6]) -> f32[N, 1]:\n    return Dense(1)(x)\n\n"
              f"train Case:\n    loss error = mean(output ** 2)\n    optimizer = {text}\n")
    return elaborate(source, "case.net", precision="f64").optimizer


@pytest.mark.parametrize("text", OPTIMIZERS)
def test_optimizer(text):
    optimizer = optimizer_of(text)
    rng = np.random.default_rng(0)
    weight = rng.normal(size=7)
    states = {v.path: np.zeros([7 if not isinstance(n, int) else n for n in v.type.shape], v.type.dtype.numpy)
              for v in optimizer.states}
    tensor = torch.tensor(weight, requires_grad=True)
    reference = OPTIMIZERS[text]([tensor])
    schedule = torch.optim.lr_scheduler.ExponentialLR(reference, 0.5 ** 0.5) if "decay(" in text else None
    largest = np.zeros(7)
    for step in range(5):
        gradient_ = rng.normal(size=7)
        leaves = {n: {"weight": weight, "gradient": gradient_}.get(n.attrs.get("name"), states.get(n.attrs.get("path")))
                  for n in optimizer.update.inputs}
        new = interpret(optimizer.update, leaves, {"P": 7})
        weight, states = new["weight"], {path: new[path] for path in states}
        tensor.grad = torch.tensor(np.clip(gradient_, -0.5, 0.5) if "clipvalue" in text else gradient_)
        if "clipnorm" in text:
            torch.nn.utils.clip_grad_norm_([tensor], 0.5)
        if "amsgrad" in text:                # Keras keeps the largest v before the correction; PyTorch the same, but
            largest = _amsgrad(tensor, largest, gradient_, step)      # it divides otherwise: by hand here
        else:
            reference.step()
        if schedule:
            schedule.step()
        np.testing.assert_allclose(weight, tensor.detach().numpy(), rtol=1e-6, atol=1e-6)


_moments = {}


def _amsgrad(tensor, largest, gradient_, step):
    """One step of Keras' amsgrad."""
    if step == 0:
        _moments.update(m=np.zeros(7), v=np.zeros(7))
    _moments["m"] = 0.9 * _moments["m"] + 0.1 * gradient_
    _moments["v"] = 0.999 * _moments["v"] + 0.001 * gradient_ ** 2
    largest = np.maximum(largest, _moments["v"])
    rate = 0.1 * np.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1))
    with torch.no_grad():
        tensor -= torch.tensor(rate * _moments["m"] / np.sqrt(largest))
    return largest


def cosine(step, initial, steps, alpha=0.0, target=None, warmup=0):
    """keras.optimizers.schedules.CosineDecay."""
    top = initial if target is None else target
    if target is not None and step < warmup:
        return initial + (target - initial) * step / warmup
    along = min(max(step - warmup, 0), steps) / steps
    return top * ((1 - alpha) * 0.5 * (1 + np.cos(np.pi * along)) + alpha)


SCHEDULES = {
    "exponential_decay(initial = 0.1, decay_steps = 4, decay_rate = 0.5)": lambda t: 0.1 * 0.5 ** (t / 4),
    "exponential_decay(initial = 0.1, decay_steps = 4, decay_rate = 0.5, staircase = true)": lambda t: 0.1
    * 0.5 ** (t // 4),
    "inverse_time_decay(initial = 0.1, decay_steps = 4, decay_rate = 0.5)": lambda t: 0.1 / (1 + 0.5 * t / 4),
    "polynomial_decay(initial = 0.1, decay_steps = 6, end = 0.01, power = 2.0)":
        lambda t: 0.09 * (1 - min(t, 6) / 6) ** 2 + 0.01,
    "cosine_decay(initial = 0.1, decay_steps = 6, alpha = 0.1)": lambda t: cosine(t, 0.1, 6, 0.1),
    "cosine_decay(initial = 0.0, decay_steps = 6, warmup_target = 0.2, warmup_steps = 3)":
        lambda t: cosine(t, 0.0, 6, 0.0, 0.2, 3),
    "piecewise_constant(boundaries = (2, 5), values = (0.3, 0.2, 0.1))": lambda t: 0.3 if t <= 2 else 0.2 if t <= 5
    else 0.1,
}


@pytest.mark.parametrize("text", SCHEDULES)
def test_schedule(text):
    model = model_of(f"({text})(x)", {"x": ("i32", ())})
    for step in range(10):
        got = run(model, model.inference, {"x": np.array(step, np.int32)}, {})["output"]
        np.testing.assert_allclose(got, SCHEDULES[text](step), rtol=1e-12, atol=1e-15)


# --- initialisers -----------------------------------------------------------------------------------------------


def initial(text, shape):
    model = elaborate(f"net 1\n\nmodel Case(x: f32[N, 1]) -> f32[N]:\n    param p: f32[{shape}] = {text}\n"
                      "    return x[:, 0] + sum(p)\n", "case.net", precision="f64")
    graph = model.parameters[0].initial
    return interpret(graph, {n: np.array(11) for n in graph.inputs}, {})["value"]


@pytest.mark.parametrize("text, spread", [
    ("glorot_uniform", (2 / 500) ** 0.5), ("glorot_normal", (2 / 500) ** 0.5), ("he_uniform", (2 / 200) ** 0.5),
    ("he_normal", (2 / 200) ** 0.5), ("lecun_uniform", (1 / 200) ** 0.5), ("lecun_normal", (1 / 200) ** 0.5),
    ("normal", 0.05), ("uniform", 0.05 / 3 ** 0.5), ("truncated_normal(stddev = 1.0)", 0.8796256610342398)])
def test_random_initialiser(text, spread):
    values = initial(text, "200, 300")
    assert abs(values.mean()) < 4 * spread / 60_000 ** 0.5
    assert abs(values.std() / spread - 1) < 0.015
    bound = {"uniform": 3 ** 0.5, "normal": 2 / 0.8796256610342398}
    if text != "normal":
        kind = "uniform" if "uniform" in text else "normal"
        assert abs(values).max() <= bound[kind] * spread * (1 + 1e-6)
        assert abs(values).max() > 0.97 * bound[kind] * spread


def test_truncated_normal_has_the_quantiles_of_a_normal():
    from statistics import NormalDist
    values = np.sort(initial("truncated_normal(stddev = 1.0)", "200, 300").ravel())
    low, high = NormalDist().cdf(-2), NormalDist().cdf(2)
    for part in (0.01, 0.1, 0.3, 0.5, 0.8, 0.95):
        assert abs(values[int(part * values.size)] - NormalDist().inv_cdf(low + part * (high - low))) < 0.03


def test_plain_initialisers():
    np.testing.assert_array_equal(initial("zeros", "2, 3"), np.zeros((2, 3)))
    np.testing.assert_array_equal(initial("ones", "2, 3"), np.ones((2, 3)))
    np.testing.assert_array_equal(initial("constant(value = 0.5)", "2, 3"), np.full((2, 3), 0.5))
    np.testing.assert_array_equal(initial("0.5", "2, 3"), np.full((2, 3), 0.5))
    np.testing.assert_array_equal(initial("unit_forget", "8"), [0, 0, 1, 1, 0, 0, 0, 0])


@pytest.mark.parametrize("shape", ["5, 5", "3, 7", "7, 3", "2, 3, 4"])
def test_orthogonal(shape):
    values = initial("orthogonal", shape)
    flat = values.reshape(-1, values.shape[-1])
    flat = flat if flat.shape[0] <= flat.shape[1] else flat.T
    np.testing.assert_allclose(flat @ flat.T, np.eye(len(flat)), atol=1e-10)
