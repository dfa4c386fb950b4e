"""The examples built anew in Keras 3, as the texts that they come from build them, each with data and its loss.

Importing this needs Keras over PyTorch (the extra ``oracle``); a suite that does is skipped without them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from batches import CASES, Case

os.environ.setdefault("KERAS_BACKEND", "torch")        # read when Keras is imported
torch = pytest.importorskip("torch")
keras = pytest.importorskip("keras")
if keras.config.backend() != "torch":
    pytest.skip("the oracle is Keras over PyTorch: KERAS_BACKEND=torch", allow_module_level=True)

from keras import Input, layers, losses, ops, regularizers


@dataclass(frozen=True, eq=False)
class Twin:
    """A model of ours and the same in Keras.

    ``build()`` gives the Keras model; ``loss(outputs, batch)`` the loss in Keras' terms, without regularisers;
    ``order`` the layers of ours in the order of Keras' ``get_weights()``, where that is not the order of our file.

    ``onednn``: whether torch may use oneDNN.  In torch 2.13 its weight gradient of a 1x1 convolution with stride 2 on 3
    channels, channels last, is wrong and writes past its memory (an abort or a hang, without netc in the process);
    while torch's own transposed convolutions have no gradients for Keras' kernels.
    """

    case: Case
    build: Callable
    loss: Callable | None = None
    order: list[str] | None = None
    onednn: bool = False

    @cache
    def keras(self):
        """The Keras model, with our weights."""
        model = self.build()
        if not model.built:
            model(self._arguments())
        model.set_weights(self.case.weights().to_arrays(self.order))
        return model

    def _arguments(self):
        names = [*self.case.function().inputs, *self.case.drawn]
        values = [ops.convert_to_tensor(self.case.batch()[name]) for name in names]
        return values if len(values) > 1 else values[0]

    def outputs(self, training: bool = False) -> list:
        """The outputs of the Keras model on the batch, as tensors that carry gradients."""
        outputs = self.keras()(self._arguments(), training=training)
        return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]

    @cache
    def loss_and_gradient(self):
        """(loss with regularisers, its gradient and the new states as our Weights), in training mode."""
        with torch.backends.mkldnn.flags(enabled=self.onednn):
            return self._loss_and_gradient()

    def _loss_and_gradient(self):
        model, weights_from = self.keras(), self.case.function().weights_from
        before = model.get_weights()
        outputs = self.outputs(training=True)
        loss = self.loss(outputs, {name: ops.convert_to_tensor(value) for name, value in self.case.batch().items()})
        loss = loss + sum(model.losses)
        trainable = {id(variable): variable.value for variable in model.trainable_weights}
        slopes = dict(zip(trainable, torch.autograd.grad(loss, list(trainable.values()))))
        gradient = [slopes[id(variable)].numpy() if id(variable) in slopes else np.zeros(tuple(variable.shape))
                    for variable in model.weights]
        after = model.get_weights()
        model.set_weights(before)                              # running means moved
        return loss.item(), weights_from(gradient, self.order), weights_from(after, self.order)


# --- losses ---------------------------------------------------------------------------------------------------------


def mean_of(loss, target: str):
    return lambda outputs, batch: loss(batch[target], outputs[0])


# --- the models -----------------------------------------------------------------------------------------------------


def pure_mlp():
    return keras.Sequential([Input((3,)), layers.Dense(3, activation="relu"), layers.Dense(1)])


def conv_dense():
    return keras.Sequential([Input((28, 28, 3)), layers.Conv2D(16, 3, padding="same", activation="relu"),
                             layers.Flatten(),
                             layers.Dense(10)])


def sequential():
    return keras.Sequential([Input((10,)), layers.Dense(5, activation="relu"), layers.Dense(1, activation="sigmoid")])


def functional():
    inputs = Input((10,))
    hidden = layers.Dense(5, activation="relu")(inputs)
    return keras.Model(inputs, layers.Dense(1, activation="sigmoid")(hidden))


def weights_large():
    return keras.Sequential([Input((784,)), layers.Dense(10, activation="relu"), layers.Dense(1, activation="sigmoid")])


def weights_linear():
    return keras.Sequential([Input((2,)), layers.Dense(5)])


def weights_binary():
    return keras.Sequential([Input((2,)), layers.Dense(4, activation="relu"), layers.Dense(1, activation="sigmoid")])


def classifier():
    inputs = Input((3,))
    x = layers.Dense(4, activation="relu")(inputs)
    return keras.Model(inputs, layers.Dense(5, activation="softmax")(x))


def ticket():
    title, body, tags = Input((None,), name="title"), Input((None,), name="body"), Input((12,), name="tags")
    title_features = layers.LSTM(128)(layers.Embedding(10_000, 64)(title))
    body_features = layers.LSTM(32)(layers.Embedding(10_000, 64)(body))
    x = layers.concatenate([title_features, body_features, tags])
    return keras.Model([title, body, tags],
                       [layers.Dense(1, name="priority")(x), layers.Dense(4, name="department")(x)])


def ticket_loss(outputs, batch):
    priority = losses.BinaryCrossentropy(from_logits=True)(batch["priority_target"], outputs[0])
    department = losses.CategoricalCrossentropy(from_logits=True)(batch["department_target"], outputs[1])
    return 1.0 * priority + 0.2 * department


def encoder():
    image = Input((28, 28, 1), name="original_img")
    x = layers.Conv2D(16, 3, activation="relu")(image)
    x = layers.Conv2D(32, 3, activation="relu")(x)
    x = layers.MaxPooling2D(3)(x)
    x = layers.Conv2D(32, 3, activation="relu")(x)
    x = layers.Conv2D(16, 3, activation="relu")(x)
    return keras.Model(image, layers.GlobalMaxPooling2D()(x), name="encoder")


def decoder():
    code = Input((16,), name="encoded_img")
    x = layers.Reshape((4, 4, 1))(code)
    x = layers.Conv2DTranspose(16, 3, activation="relu")(x)
    x = layers.Conv2DTranspose(32, 3, activation="relu")(x)
    x = layers.UpSampling2D(3)(x)
    x = layers.Conv2DTranspose(16, 3, activation="relu")(x)
    return keras.Model(code, layers.Conv2DTranspose(1, 3, activation="relu")(x), name="decoder")


def autoencoder():
    image = Input((28, 28, 1), name="img")
    return keras.Model(image, decoder()(encoder()(image)), name="autoencoder")


class Words(layers.Layer):
    """Vectors of words and of their places."""

    def __init__(self, words, longest, width):
        super().__init__()
        self.places = layers.Embedding(longest, width)
        self.embedding = layers.Embedding(words, width)

    def call(self, x):
        return self.embedding(x) + self.places(ops.arange(ops.shape(x)[1]))


class Feedforward(layers.Layer):
    def __init__(self, hidden, width, activation):
        super().__init__()
        self.dense = layers.Dense(hidden, activation=activation)
        self.dense_1 = layers.Dense(width)

    def call(self, x):
        return self.dense_1(self.dense(x))


class EncoderBlock(layers.Layer):
    """Vaswani et al.: normalised after each residual; with ``first`` before, as in GPT."""

    def __init__(self, width, heads, hidden, activation="relu", first=False, causal=False):
        super().__init__()
        self.first, self.causal = first, causal
        self.attention_norm = layers.LayerNormalization(epsilon=1e-5)
        self.attention = layers.MultiHeadAttention(heads, width // heads)
        self.feedforward_norm = layers.LayerNormalization(epsilon=1e-5)
        self.feedforward = Feedforward(hidden, width, activation)

    def call(self, x, mask=None):
        def attend(h):
            return self.attention(h, h, attention_mask=mask, use_causal_mask=self.causal)
        if self.first:
            h = x + attend(self.attention_norm(x))
            return h + self.feedforward(self.feedforward_norm(h))
        h = self.attention_norm(x + attend(x))
        return self.feedforward_norm(h + self.feedforward(h))


class DecoderBlock(layers.Layer):
    def __init__(self, width, heads, hidden):
        super().__init__()
        self.self_attention = layers.MultiHeadAttention(heads, width // heads)
        self.self_norm = layers.LayerNormalization(epsilon=1e-5)
        self.cross_attention = layers.MultiHeadAttention(heads, width // heads)
        self.cross_norm = layers.LayerNormalization(epsilon=1e-5)
        self.feedforward = Feedforward(hidden, width, "relu")
        self.feedforward_norm = layers.LayerNormalization(epsilon=1e-5)

    def call(self, x, memory, memory_mask):
        h = self.self_norm(x + self.self_attention(x, x, use_causal_mask=True))
        h = self.cross_norm(h + self.cross_attention(h, memory, attention_mask=memory_mask))
        return self.feedforward_norm(h + self.feedforward(h))


class Transformer(keras.Model):
    def __init__(self):
        super().__init__()
        self.source_words = Words(2_000, 32, 64)
        self.encoders = [EncoderBlock(64, 4, 256) for _ in range(2)]
        self.target_words = Words(2_000, 32, 64)
        self.decoders = [DecoderBlock(64, 4, 256) for _ in range(2)]
        self.logits = layers.Dense(2_000)

    def call(self, inputs, training=False):
        source, target = inputs
        seen = ops.not_equal(source, 0)[:, None]
        memory = self.source_words(source)
        for block in self.encoders:
            memory = block(memory, seen)
        y = self.target_words(target)
        for block in self.decoders:
            y = block(y, memory, seen)
        return self.logits(y)


# The attribute that a Keras layer has first holds its weights first: here the norms.
ENCODER_BLOCK = ["attention_norm", "attention", "feedforward_norm", "feedforward"]


def below(path: str, names: list[str]) -> list[str]:
    return [f"{path}.{name}" for name in names]


def transformer_loss(outputs, batch):
    counted = ops.cast(ops.not_equal(batch["next"], 0), "float32")
    each = losses.sparse_categorical_crossentropy(batch["next"], outputs[0], from_logits=True)
    return ops.sum(counted * each) / ops.sum(counted)


def vae():
    """The sampled noise is an input, so that both draw the same."""
    image, noise = Input((28, 28, 1)), Input((2,))
    h = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu")(image)
    h = layers.Conv2D(64, 3, strides=2, padding="same", activation="relu")(h)
    h = layers.Dense(16, activation="relu")(layers.Flatten()(h))
    encode = keras.Model(image, [layers.Dense(2, name="z_mean")(h), layers.Dense(2, name="z_log_var")(h)])
    z = Input((2,))
    y = layers.Reshape((7, 7, 64))(layers.Dense(7 * 7 * 64, activation="relu")(z))
    y = layers.Conv2DTranspose(64, 3, strides=2, padding="same", activation="relu")(y)
    y = layers.Conv2DTranspose(32, 3, strides=2, padding="same", activation="relu")(y)
    decode = keras.Model(z, layers.Conv2DTranspose(1, 3, padding="same", activation="sigmoid")(y))
    z_mean, z_log_var = encode(image)
    sampled = z_mean + ops.exp(0.5 * z_log_var) * noise
    return keras.Model([image, noise], [decode(sampled), z_mean, z_log_var])


def vae_losses(outputs, image) -> dict:
    """As the text's own training step computes them."""
    reconstruction, z_mean, z_log_var = outputs
    reconstruction_loss = ops.mean(ops.sum(losses.binary_crossentropy(image, reconstruction), axis=(1, 2)))
    kl_loss = -0.5 * (1 + z_log_var - ops.square(z_mean) - ops.exp(z_log_var))
    kl_loss = ops.mean(ops.sum(kl_loss, axis=1))
    return {"loss": reconstruction_loss + kl_loss, "reconstruction": reconstruction_loss, "kl": kl_loss}


def saliency():
    image = Input((32, 32, 3))
    x = layers.MaxPooling2D(2)(layers.Conv2D(8, 3, activation="relu")(image))
    features = layers.Conv2D(16, 3, activation="relu")(x)
    return keras.Model(image, [layers.Dense(1)(layers.GlobalAveragePooling2D()(features)), features])


class MLP(keras.Model):
    """The text's: its parts are made in the constructor."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dense_1 = layers.Dense(64, activation="relu")
        self.dense_2 = layers.Dense(10)

    def call(self, inputs, training=False):
        return self.dense_2(self.dense_1(inputs))


class Twins(keras.Model):
    def __init__(self):
        super().__init__()
        self.mlp = MLP()

    def call(self, inputs, training=False):
        return self.mlp(inputs[0]) + self.mlp(inputs[1])


class Mistake(keras.Model):
    """What an MLP that is made in the call amounts to: a new one for each call."""

    def __init__(self):
        super().__init__()
        self.mlps = [MLP(), MLP()]

    def call(self, inputs, training=False):
        return self.mlps[0](inputs[0]) + self.mlps[1](inputs[1])


def inception_module(x, filters, name, activation="elu", l2=None):
    """Seed 004's, with names of its own."""
    def conv(count, size, strides, label):
        return layers.Conv2D(count, size, strides=strides, padding="same", activation=activation,
                             name=f"{label}_{name}",
                             kernel_regularizer=regularizers.L2(l2) if l2 else None)
    a = conv(filters[0], (1, 1), (2, 2), "convA")(x)
    b0 = conv(filters[1][0], (1, 1), (1, 1), "convB0")(x)
    b1 = conv(filters[1][1], (3, 3), (2, 2), "convB1")(b0)
    c0 = conv(filters[2][0], (1, 1), (1, 1), "convC0")(x)
    c1 = conv(filters[2][1], (5, 5), (2, 2), "convC1")(c0)
    pooled = layers.MaxPooling2D((3, 3), strides=(1, 1), padding="same", name=f"MAX_{name}")(x)
    d = conv(filters[3], (1, 1), (2, 2), "convD0")(pooled)
    return layers.Concatenate(name=f"concatenate_{name}")([a, b1, c1, d])


def inception_features(image, l2=None, pool=layers.Flatten):
    x = inception_module(image, (10, (10, 10), (10, 10), 10), "i1", l2=l2)
    x = inception_module(x, (40, (40, 40), (40, 40), 40), "i2", l2=l2)
    dense = layers.Dense(100, activation="elu", kernel_regularizer=regularizers.L2(l2) if l2 else None, name="D1")
    return dense(pool(name="flatten")(x))


def inception(pool=layers.Flatten, l2=1e-4):
    image = Input((32, 32, 3), name="input")
    regular = regularizers.L2(l2) if l2 else None
    x = inception_features(image, l2, pool)
    x = layers.Dense(20, activation="elu", kernel_regularizer=regular, name="D2")(x)
    return keras.Model(image, layers.Dense(1, activation="sigmoid", name="output")(x))


def inception_pooled():
    return inception(layers.GlobalMaxPooling2D)


def instrumented():
    return inception(l2=None)


def two_images():
    image = Input((32, 32, 3))
    features = keras.Model(image, inception_features(image), name="features")
    first, second = Input((32, 32, 3), name="input1"), Input((32, 32, 3), name="input2")
    x = layers.Concatenate()([features(first), features(second)])
    x = layers.Dense(20, activation="elu", name="D3")(x)
    return keras.Model([first, second], layers.Dense(1, activation="sigmoid", name="output")(x))


# Keras lists the layers of a functional model by their depth: the branches of a module side by side.
MODULE = ["conv2d", "conv2d_2", "branch_a", "conv2d_1", "conv2d_3", "conv2d_4"]


def shared_dense():
    first, second = Input((1000,), name="input1"), Input((1000,), name="input2")
    dense = layers.Dense(units=100, activation="elu")
    return keras.Model([first, second], ops.mean(ops.square(dense(first) - dense(second)), axis=-1, keepdims=True))


def contrastive(outputs, batch):
    distance, same = outputs[0], batch["same"]
    return ops.mean(same * distance + (1 - same) * ops.square(ops.relu(1 - ops.sqrt(distance + 1e-7))))


class ResidualBlock(layers.Layer):
    def __init__(self, filters, strides, project):
        super().__init__()
        if project:
            self.projection = [layers.Conv2D(filters, 1, strides, padding="same", use_bias=False),
                               layers.BatchNormalization()]
        self.project = project
        self.first = [layers.Conv2D(filters, 3, strides, padding="same", use_bias=False), layers.BatchNormalization()]
        self.second = [layers.Conv2D(filters, 3, padding="same", use_bias=False), layers.BatchNormalization()]

    def call(self, x, training=False):
        shortcut = self.projection[1](self.projection[0](x), training=training) if self.project else x
        y = ops.relu(self.first[1](self.first[0](x), training=training))
        return ops.relu(shortcut + self.second[1](self.second[0](y), training=training))


def resnet():
    image = Input((32, 32, 3))
    x = layers.Conv2D(16, 3, padding="same", use_bias=False)(image)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for stage, filters in enumerate((16, 32, 64)):
        for i in range(3):
            down = stage > 0 and i == 0
            x = ResidualBlock(filters, 2 if down else 1, down)(x)
    return keras.Model(image, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


class GPT(keras.Model):
    def __init__(self, words=256, width=64, depth=2, heads=4):
        super().__init__()
        self.embedding = layers.Embedding(words, width)
        self.places = layers.Embedding(128, width)
        self.blocks = [EncoderBlock(width, heads, 4 * width, lambda x: ops.gelu(x, approximate=True), first=True,
                                    causal=True)
                       for _ in range(depth)]
        self.norm = layers.LayerNormalization(epsilon=1e-5)

    def call(self, text, training=False):
        x = self.embedding(text) + self.places(ops.arange(ops.shape(text)[1]))
        for block in self.blocks:
            x = block(x)
        return ops.matmul(self.norm(x), ops.transpose(self.embedding.embeddings))


def gpt_loss(outputs, batch):
    return losses.SparseCategoricalCrossentropy(from_logits=True)(batch["text"][:, 1:], outputs[0][:, :-1])


def tagger():
    return keras.Sequential([Input((None,)), layers.Embedding(1_000, 32),
                             layers.Bidirectional(layers.GRU(32, return_sequences=True)),
                             layers.GRU(32, return_sequences=True), layers.Dense(12)])


def tagger_loss(outputs, batch):
    counted = ops.cast(ops.not_equal(batch["text"], 0), "float32")
    each = losses.sparse_categorical_crossentropy(batch["tag"], outputs[0], from_logits=True)
    return ops.sum(counted * each) / ops.sum(counted)


def unet(widths=(8, 16, 32)):
    def twice(x, filters):
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
            x = layers.ReLU()(layers.BatchNormalization()(x))
        return x
    image = x = Input((64, 64, 1))
    skips = []
    for filters in widths[:-1]:
        x = twice(x, filters)
        skips.append(x)
        x = layers.MaxPooling2D(2)(x)
    x = twice(x, widths[-1])
    for filters in reversed(widths[:-1]):
        x = layers.Conv2DTranspose(filters, 2, strides=2)(x)
        x = twice(layers.Concatenate()([skips.pop(), x]), filters)
    return keras.Model(image, layers.Conv2D(1, 1, activation="sigmoid")(x))


def unet_loss(outputs, batch):
    mask, target = outputs[0], batch["target"]
    overlap = ops.sum(mask * target, axis=(1, 2, 3))
    areas = ops.sum(mask, axis=(1, 2, 3)) + ops.sum(target, axis=(1, 2, 3))
    return losses.BinaryCrossentropy()(target, mask) + ops.mean(1 - (2 * overlap + 1) / (areas + 1))


INCEPTION = [*below("inception", MODULE), *below("inception_1", MODULE), "dense", "dense_1", "dense_2"]
BUILT = {
    "pure_mlp": (pure_mlp, mean_of(losses.MeanSquaredError(), "target")),
    "conv_dense": (conv_dense, mean_of(losses.SparseCategoricalCrossentropy(from_logits=True), "label")),
    "sequential": (sequential, mean_of(losses.BinaryCrossentropy(), "label")),
    "functional": (functional,),
    "weights_large": (weights_large,),
    "weights_linear": (weights_linear,),
    "weights_binary": (weights_binary, mean_of(losses.BinaryCrossentropy(), "label")),
    "classifier": (classifier, mean_of(losses.SparseCategoricalCrossentropy(), "label")),
    "ticket": (ticket, ticket_loss, ["embedding", "embedding_1", "lstm", "lstm_1", "priority", "department"]),
    "autoencoder": (autoencoder, mean_of(losses.MeanSquaredError(), "img"), None, True),
    "transformer": (Transformer, transformer_loss,
                    ["memory", *below("memory_1", ENCODER_BLOCK), *below("memory_2", ENCODER_BLOCK), "y", "y_1", "y_2",
                     "logits"]),
    "vae": (vae, lambda outputs, batch: vae_losses(outputs, batch["image"])["loss"], None, True),
    "gradient_ascent": (saliency, mean_of(losses.BinaryCrossentropy(from_logits=True), "label")),
    "subclassed": (Twins, mean_of(losses.MeanSquaredError(), "target")),
    "subclassed_mlp": (MLP,),
    "subclassed_mistake": (Mistake,),
    "inception": (inception, mean_of(losses.BinaryCrossentropy(), "label"), INCEPTION),
    "inception_pooled": (inception_pooled, mean_of(losses.BinaryCrossentropy(), "label"), INCEPTION),
    "two_images": (two_images, mean_of(losses.BinaryCrossentropy(), "same_object"),
                   [*below("features.inception", MODULE), *below("features.inception_1", MODULE), "features.dense",
                    "dense", "dense_1"]),
    "shared_dense": (shared_dense, contrastive),
    "instrumented": (instrumented, mean_of(losses.BinaryCrossentropy(), "label"),
                     [*below("everything.first", MODULE), *below("everything.second", MODULE),
                      *below("everything", ["dense", "dense_1", "dense_2"])]),
    "resnet": (resnet, mean_of(losses.SparseCategoricalCrossentropy(from_logits=True), "label")),
    "gpt": (GPT, gpt_loss, ["embedding", "places", *below("x_1", ENCODER_BLOCK), *below("x_2", ENCODER_BLOCK),
                            "layer_norm"]),
    "gru": (tagger, tagger_loss),
    "unet": (unet, unet_loss),
}
TWINS = {name: Twin(CASES[name], *built) for name, built in BUILT.items()}
