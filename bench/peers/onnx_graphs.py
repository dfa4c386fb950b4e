"""The inference of the benchmark's models as ONNX graphs (NCHW), with netc's weights as initialisers.

Run as a process of its own (``python -m netc.bench.peers.onnx_graphs``), so that building takes no memory of the peer
that is measured.
"""

from __future__ import annotations

import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 20
TYPES = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32}


class Builder:
    """Nodes in order; values are names."""

    def __init__(self, weights: dict[str, np.ndarray]):
        self.weights = weights
        self.nodes: list = []
        self.constants: dict[str, np.ndarray] = {}

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes):
        names = [f"v{len(self.nodes)}_{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, array) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.ascontiguousarray(array)
        return name

    def ints(self, *numbers: int) -> str:
        return self.constant(np.array(numbers, np.int64))

    def weight(self, path: str, arrange=lambda array: array) -> str:
        return self.constant(arrange(self.weights[path]))

    # --- layers

    def dense(self, path: str, x: str, arrange=lambda array: array) -> str:
        """On [N, K]."""
        return self.op("Gemm", x, self.weight(f"{path}.kernel", arrange), self.weight(f"{path}.bias"))

    def linear(self, kernel: np.ndarray, bias: np.ndarray, x: str) -> str:
        """On [..., K]."""
        return self.op("Add", self.op("MatMul", x, self.constant(kernel)), self.constant(bias))

    def conv(self, path: str, x: str, places: int, stride: int = 1, same: bool = True) -> str:
        kernel = self.weights[f"{path}.kernel"]
        size = kernel.shape[0]
        filler = max((-(-places // stride) - 1) * stride + size - places, 0) if same else 0
        before, after = filler // 2, filler - filler // 2
        return self.op("Conv", x, self.constant(kernel.transpose(3, 2, 0, 1)), self.weight(f"{path}.bias"),
                       kernel_shape=[size, size], strides=[stride, stride], pads=[before, before, after, after])

    def conv_transpose(self, path: str, x: str, stride: int = 1, crop: tuple[int, int] = (0, 0)) -> str:
        kernel = self.weights[f"{path}.kernel"]
        return self.op("ConvTranspose", x, self.constant(kernel.transpose(3, 2, 0, 1)), self.weight(f"{path}.bias"),
                       kernel_shape=list(kernel.shape[:2]), strides=[stride, stride],
                       pads=[crop[0], crop[0], crop[1], crop[1]])

    def norm(self, path: str, x: str) -> str:
        return self.op("LayerNormalization", x, self.weight(f"{path}.gamma"), self.weight(f"{path}.beta"), epsilon=1e-5)

    def lstm(self, path: str, x: str) -> str:
        """The last state of [T, N, D]; ONNX orders the gates i, o, f, g."""
        units = self.weights[f"{path}.recurrent"].shape[0]

        def gates(array: np.ndarray) -> np.ndarray:
            i, f, g, o = np.split(array, 4, axis=-1)
            return np.concatenate([i, o, f, g], axis=-1)
        bias = gates(self.weights[f"{path}.bias"])
        _, last, _ = self.op("LSTM", x, self.constant(gates(self.weights[f"{path}.kernel"]).T[None]),
                             self.constant(gates(self.weights[f"{path}.recurrent"]).T[None]),
                             self.constant(np.concatenate([bias, np.zeros_like(bias)])[None]), outputs=3,
                             hidden_size=units)
        return self.op("Squeeze", last, self.ints(0))

    def attention(self, path: str, x: str, memory: str, causal: bool = False) -> str:
        width, heads, size = self.weights[f"{path}.query.kernel"].shape

        def packed(names, source):
            kernel = np.concatenate([self.weights[f"{path}.{name}.kernel"].reshape(width, -1) for name in names], 1)
            bias = np.concatenate([self.weights[f"{path}.{name}.bias"].reshape(-1) for name in names])
            y = self.linear(kernel, bias, source)
            if len(names) == 1:
                return [y]
            return self.op("Split", y, outputs=len(names), axis=-1, num_outputs=len(names))
        names = ["query", "key", "value"]
        parts = packed(names, x) if x == memory else packed(names[:1], x) + packed(names[1:], memory)
        orders = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
        q, k, v = (self.op("Transpose", self.op("Reshape", part, self.ints(0, 0, heads, size)), perm=order)
                   for part, order in zip(parts, orders))
        scores = self.op("Mul", self.op("MatMul", q, k), self.constant(np.float32(size ** -0.5)))
        if causal:
            hidden = np.triu(np.full((self.length, self.length), -1e9, np.float32), 1)
            scores = self.op("Add", scores, self.constant(hidden))
        y = self.op("MatMul", self.op("Softmax", scores, axis=-1), v)
        y = self.op("Reshape", self.op("Transpose", y, perm=[0, 2, 1, 3]), self.ints(0, 0, width))
        kernel = self.weights[f"{path}.output.kernel"].reshape(width, width)
        return self.linear(kernel, self.weights[f"{path}.output.bias"], y)

    def feedforward(self, path: str, x: str, activation: str) -> str:
        w = self.weights
        y = self.op(activation, self.linear(w[f"{path}.dense.kernel"], w[f"{path}.dense.bias"], x))
        return self.linear(w[f"{path}.dense_1.kernel"], w[f"{path}.dense_1.bias"], y)

    def inception(self, path: str, x: str, places: int) -> str:
        def elu(name, value, stride=1):
            return self.op("Elu", self.conv(f"{path}.{name}", value, places, stride))
        pooled = self.op("MaxPool", x, kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
        return self.op("Concat", elu("branch_a", x, 2), elu("conv2d_1", elu("conv2d", x), 2),
                       elu("conv2d_3", elu("conv2d_2", x), 2), elu("conv2d_4", pooled, 2), axis=1)

    def features(self, image: str, path: str = "") -> str:
        y = self.inception(f"{path}inception_1", self.inception(f"{path}inception", image, 32), 16)
        flat = self.op("Flatten", y, axis=1)
        return self.op("Elu", self.dense(f"{path}dense", flat, lambda kernel: channels_first(kernel, 8, 8, 160)))


def channels_first(kernel: np.ndarray, height: int, width: int, channels: int) -> np.ndarray:
    """A dense kernel that reads (y, x, channel), for values in the order (channel, y, x)."""
    return kernel.reshape(height, width, channels, -1).transpose(2, 0, 1, 3).reshape(kernel.shape)


# --- models: names of outputs, given the builder and the names of inputs ------------------------------------------


def tiny(b: Builder, x):
    return {"y": b.op("Sigmoid", b.dense("dense_1", b.op("Relu", b.dense("dense", x))))}


def mlp(b: Builder, x):
    h = b.op("Relu", b.dense("dense", x))
    return {"logits": b.dense("dense_2", b.op("Relu", b.dense("dense_1", h)))}


def inception(b: Builder, image):
    return {"probability": b.op("Sigmoid", b.dense("dense_2", b.op("Elu", b.dense("dense_1", b.features(image)))))}


def two_images(b: Builder, first, second):
    x = b.op("Concat", b.features(first, "features."), b.features(second, "features."), axis=1)
    return {"probability": b.op("Sigmoid", b.dense("dense_1", b.op("Elu", b.dense("dense", x))))}


def autoencoder(b: Builder, image):
    def relu(value):
        return b.op("Relu", value)
    h = relu(b.conv("encoder.conv2d_1", relu(b.conv("encoder.conv2d", image, 28, same=False)), 26, same=False))
    h = b.op("MaxPool", h, kernel_shape=[3, 3], strides=[3, 3])
    h = relu(b.conv("encoder.conv2d_3", relu(b.conv("encoder.conv2d_2", h, 8, same=False)), 6, same=False))
    h = b.op("Reshape", b.op("GlobalMaxPool", h), b.ints(-1, 1, 4, 4))
    h = relu(b.conv_transpose("decoder.conv2d_transpose_1", relu(b.conv_transpose("decoder.conv2d_transpose", h))))
    scales = b.constant(np.array([1, 1, 3, 3], np.float32))
    h = b.op("Resize", h, "", scales, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    h = relu(b.conv_transpose("decoder.conv2d_transpose_2", h))
    return {"reconstruction": relu(b.conv_transpose("decoder.conv2d_transpose_3", h))}


def ticket(b: Builder, title, body, tags):
    def read(index, table, path):
        return b.lstm(path, b.op("Gather", b.weight(f"{table}.embeddings"), b.op("Transpose", index, perm=[1, 0])))
    x = b.op("Concat", read(title, "embedding", "lstm"), read(body, "embedding_1", "lstm_1"), tags, axis=1)
    return {"priority": b.dense("priority", x), "department": b.dense("department", x)}


def transformer(b: Builder, source, target):
    def add(x, y):
        return b.op("Add", x, y)
    h = b.norm("encoder.attention_norm", add(source, b.attention("encoder.attention", source, source)))
    memory = b.norm("encoder.feedforward_norm", add(h, b.feedforward("encoder.feedforward", h, "Relu")))
    h = b.norm("decoder.self_norm", add(target, b.attention("decoder.self_attention", target, target, True)))
    h = b.norm("decoder.cross_norm", add(h, b.attention("decoder.cross_attention", h, memory)))
    h = b.norm("decoder.feedforward_norm", add(h, b.feedforward("decoder.feedforward", h, "Relu")))
    return {"logits": b.linear(b.weights["logits.kernel"], b.weights["logits.bias"], h)}


def vae(b: Builder, image, noise):
    def relu(value):
        return b.op("Relu", value)
    h = relu(b.conv("encoder.conv2d_1", relu(b.conv("encoder.conv2d", image, 28, 2)), 14, 2))
    flat = b.op("Flatten", h, axis=1)
    h = relu(b.dense("encoder.dense", flat, lambda kernel: channels_first(kernel, 7, 7, 64)))
    mean, log_var = b.dense("encoder.z_mean", h), b.dense("encoder.z_log_var", h)
    spread = b.op("Exp", b.op("Mul", log_var, b.constant(np.float32(0.5))))
    z = b.op("Add", mean, b.op("Mul", spread, noise))
    path = "reconstruction"
    # The widening layer writes (channel, y, x), so that no transposition follows.
    order = np.arange(3136).reshape(7, 7, 64).transpose(2, 0, 1).reshape(-1)
    wide = b.op("Gemm", z, b.weight(f"{path}.dense.kernel", lambda kernel: kernel[:, order]),
                b.weight(f"{path}.dense.bias", lambda bias: bias[order]))
    h = b.op("Reshape", relu(wide), b.ints(-1, 64, 7, 7))
    h = relu(b.conv_transpose(f"{path}.conv2d_transpose", h, 2, (0, 1)))
    h = relu(b.conv_transpose(f"{path}.conv2d_transpose_1", h, 2, (0, 1)))
    return {"reconstruction": b.op("Sigmoid", b.conv_transpose(f"{path}.conv2d_transpose_2", h, 1, (1, 1))),
            "z_mean": mean, "z_log_var": log_var}


def gpt(b: Builder, tokens):
    words = b.weights["words.embeddings"]
    x = b.op("Add", b.op("Gather", b.constant(words), tokens), b.constant(b.weights["places.embeddings"][:b.length]))
    for path in ("x", "x_1", "x_2", "x_3"):
        h = b.norm(f"{path}.attention_norm", x)
        x = b.op("Add", x, b.attention(f"{path}.attention", h, h, True))
        h = b.norm(f"{path}.feedforward_norm", x)
        x = b.op("Add", x, b.feedforward(f"{path}.feedforward", h, "Gelu"))
    return {"logits": b.op("MatMul", b.norm("layer_norm", x), b.constant(words.T))}


MODELS = {"tiny": tiny, "mlp": mlp, "inception": inception, "two_images": two_images, "autoencoder": autoencoder,
          "ticket": ticket, "transformer": transformer, "vae": vae, "gpt": gpt}


def build(model: str, weights: dict[str, np.ndarray], inputs: dict[str, np.ndarray]) -> onnx.ModelProto:
    """The graph for inputs of exactly these shapes (images already NCHW)."""
    builder = Builder(weights)
    builder.length = next(iter(inputs.values())).shape[1]
    outputs = MODELS[model](builder, *inputs)
    nodes = list(builder.nodes)
    nodes += [helper.make_node("Identity", [value], [f"output/{name}"]) for name, value in outputs.items()]
    given = [helper.make_tensor_value_info(name, TYPES[str(array.dtype)], array.shape)
             for name, array in inputs.items()]
    made = [helper.make_tensor_value_info(f"output/{name}", TensorProto.FLOAT, None) for name in outputs]
    constants = [numpy_helper.from_array(array, name) for name, array in builder.constants.items()]
    return helper.make_model(helper.make_graph(nodes, model, given, made, constants),
                             opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def main(model: str, weights: str, inputs: str, target: str) -> None:
    with np.load(weights) as w, np.load(inputs) as x:
        onnx.save(build(model, dict(w), dict(x)), target)


if __name__ == "__main__":
    main(*sys.argv[1:])
