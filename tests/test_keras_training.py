"""Fifty steps of training beside Keras: from equal weights and equal batches, every optimiser gives Keras's losses.

In double precision with the compiled gradient and the interpreted optimiser, and with the optimisers that most people
use as one compiled step in single precision.  ``pytest tests/test_keras_training.py --errors`` prints the worst
relative error of a loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from oracle import double_precision, keras, torch
from tolerances import ERRORS, tolerance

import netc

EXAMPLES = Path(__file__).parent.parent / "examples"
STEPS, BATCH = 50, 16
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")  # Keras's own
L, opt, S = keras.layers, keras.optimizers, keras.optimizers.schedules


# --- models -------------------------------------------------------------------------------------------------------


@dataclass
class Subject:
    """A model here and in Keras.  ``parts``: Keras's layers, in the order of our weights."""

    source: str
    data: Callable[[np.random.Generator], Mapping[str, np.ndarray]]
    parts: Callable[[], Mapping[str, keras.layers.Layer]]
    loss: Callable  # (parts, batch as tensors) -> scalar


def digits() -> Subject:
    held = np.load(EXAMPLES / "digits.npz")

    def loss(p, batch):
        logits = p["third"](p["second"](p["first"](batch["x"])))
        return keras.ops.mean(keras.losses.sparse_categorical_crossentropy(batch["label"], logits, from_logits=True))

    return Subject(
        (EXAMPLES / "digits.net").read_text(encoding="utf-8"),
        lambda rng: {name: held[name][: STEPS * BATCH] for name in ("x", "label")},
        lambda: {
            "first": L.Dense(128, activation="relu"),
            "second": L.Dense(64, activation="relu"),
            "third": L.Dense(10),
        },
        loss,
    )


TICKET = """net 1

model Ticket(title: i32[N, T], body: i32[N, B], tags: f32[N, 3]) -> (priority: f32[N, 1], department: f32[N, 4]):
    t = title |> Embedding(30, 5) |> LSTM(6)
    b = body |> Embedding(30, 5) |> LSTM(4)
    x = concat(t, b, tags)
    priority = Dense(1)(x)
    department = Dense(4)(x)

train Ticket:
    input priority_target: f32[N, 1]
    input department_target: f32[N, 4]
    loss priority   = mean(binary_crossentropy(priority, priority_target, from_logits = true))
    loss department = 0.2 * mean(categorical_crossentropy(department, department_target, from_logits = true))
    optimizer = adam()
"""


def ticket() -> Subject:
    def data(rng):
        n = STEPS * BATCH
        return {
            "title": rng.integers(0, 30, (n, 4)).astype(np.int32),
            "body": rng.integers(0, 30, (n, 7)).astype(np.int32),
            "tags": rng.integers(0, 2, (n, 3)).astype(float),
            "priority_target": rng.random((n, 1)),
            "department_target": np.eye(4)[rng.integers(0, 4, n)],
        }

    def parts():
        return {
            "title": L.Embedding(30, 5),
            "t": L.LSTM(6),
            "body": L.Embedding(30, 5),
            "b": L.LSTM(4),
            "priority": L.Dense(1),
            "department": L.Dense(4),
        }

    def loss(p, batch):
        x = keras.ops.concatenate(
            [p["t"](p["title"](batch["title"])), p["b"](p["body"](batch["body"])), batch["tags"]], -1
        )
        priority = keras.losses.binary_crossentropy(batch["priority_target"], p["priority"](x), from_logits=True)
        department = keras.losses.categorical_crossentropy(
            batch["department_target"], p["department"](x), from_logits=True
        )
        return keras.ops.mean(priority) + 0.2 * keras.ops.mean(department)

    return Subject(TICKET, data, parts, loss)


AUTOENCODER = """net 1

model Encoder(img: f32[N, 10, 10, 1]) -> f32[N, 4]:
    return img |> Conv2D(3, 3, activation = relu) |> MaxPool2D(2)
               |> Conv2D(4, 3, activation = relu) |> GlobalMaxPool2D()

model Decoder(code: f32[N, 4]) -> f32[N, 10, 10, 1]:
    return code |> Reshape(2, 2, 1) |> Conv2DTranspose(3, 3, activation = relu) |> UpSample2D(2)
                |> Conv2DTranspose(1, 3)

model Autoencoder(img: f32[N, 10, 10, 1]) -> f32[N, 10, 10, 1]:
    return img |> Encoder() |> Decoder()

train Autoencoder:
    loss reconstruction = mean(mean_squared_error(output, img))
    optimizer = adam()
"""


def autoencoder() -> Subject:
    def parts():
        return {
            "a": L.Conv2D(3, 3, activation="relu"),
            "b": L.Conv2D(4, 3, activation="relu"),
            "c": L.Conv2DTranspose(3, 3, activation="relu"),
            "d": L.Conv2DTranspose(1, 3),
        }

    def loss(p, batch):
        code = L.GlobalMaxPooling2D()(p["b"](L.MaxPooling2D(2)(p["a"](batch["img"]))))
        output = p["d"](L.UpSampling2D(2)(p["c"](L.Reshape((2, 2, 1))(code))))
        return keras.ops.mean(keras.losses.mean_squared_error(batch["img"], output))

    return Subject(AUTOENCODER, lambda rng: {"img": rng.random((STEPS * BATCH, 10, 10, 1))}, parts, loss)


SUBJECTS = {"digits": digits, "ticket": ticket, "autoencoder": autoencoder}

# --- optimisers ---------------------------------------------------------------------------------------------------

OPTIMIZERS: dict[str, Callable] = {
    "sgd(lr = 0.1)": lambda: opt.SGD(0.1),
    "sgd(lr = 0.05, momentum = 0.9)": lambda: opt.SGD(0.05, 0.9),
    "sgd(lr = 0.05, momentum = 0.9, nesterov = true)": lambda: opt.SGD(0.05, 0.9, True),
    "rmsprop()": opt.RMSprop,
    "rmsprop(lr = 2e-3, rho = 0.8, momentum = 0.5, centered = true)": lambda: opt.RMSprop(
        2e-3, 0.8, 0.5, centered=True
    ),
    "adam()": opt.Adam,
    "adam(lr = 3e-3, beta_1 = 0.8, beta_2 = 0.99, amsgrad = true)": lambda: opt.Adam(3e-3, 0.8, 0.99, amsgrad=True),
    "adamw(lr = 3e-3, weight_decay = 0.1)": lambda: opt.AdamW(3e-3, weight_decay=0.1),
    "adagrad(lr = 0.05)": lambda: opt.Adagrad(0.05),
    "adadelta(lr = 0.5)": lambda: opt.Adadelta(0.5),
    "adamax(lr = 3e-3)": lambda: opt.Adamax(3e-3),
    "nadam(lr = 3e-3)": lambda: opt.Nadam(3e-3),
    "lion(lr = 3e-4)": lambda: opt.Lion(3e-4),
}

# Schedules, decay and clipping have one code for all optimisers: on one model.
VARIANTS: dict[str, Callable] = {
    "sgd(lr = 0.1, clipvalue = 0.01)": lambda: opt.SGD(0.1, clipvalue=0.01),
    "sgd(lr = 0.1, clipnorm = 0.1)": lambda: opt.SGD(0.1, clipnorm=0.1),
    "adam(lr = 1e-2, global_clipnorm = 0.5)": lambda: opt.Adam(1e-2, global_clipnorm=0.5),
    "sgd(lr = 0.05, momentum = 0.9, weight_decay = 0.05)": lambda: opt.SGD(0.05, 0.9, weight_decay=0.05),
    "rmsprop(weight_decay = 0.1)": lambda: opt.RMSprop(weight_decay=0.1),
    "adam(weight_decay = 0.1)": lambda: opt.Adam(weight_decay=0.1),
    "adam(lr = exponential_decay(initial = 0.01, decay_steps = 7, decay_rate = 0.8))": lambda: opt.Adam(
        S.ExponentialDecay(0.01, 7, 0.8)
    ),
    "adam(lr = exponential_decay(initial = 0.01, decay_steps = 7, decay_rate = 0.8, staircase = true))": lambda: (
        opt.Adam(S.ExponentialDecay(0.01, 7, 0.8, staircase=True))
    ),
    "sgd(lr = inverse_time_decay(initial = 0.2, decay_steps = 5, decay_rate = 0.5))": lambda: opt.SGD(
        S.InverseTimeDecay(0.2, 5, 0.5)
    ),
    "sgd(lr = polynomial_decay(initial = 0.2, decay_steps = 30, end = 0.01, power = 2.0))": lambda: opt.SGD(
        S.PolynomialDecay(0.2, 30, 0.01, 2.0)
    ),
    "sgd(lr = polynomial_decay(initial = 0.2, decay_steps = 12, end = 0.01, cycle = true))": lambda: opt.SGD(
        S.PolynomialDecay(0.2, 12, 0.01, cycle=True)
    ),
    "rmsprop(lr = cosine_decay(initial = 0.01, decay_steps = 40, alpha = 0.1))": lambda: opt.RMSprop(
        S.CosineDecay(0.01, 40, 0.1)
    ),
    "adamw(lr = cosine_decay(initial = 0.0, decay_steps = 30, warmup_target = 0.01, warmup_steps = 10))": lambda: (
        opt.AdamW(S.CosineDecay(0.0, 30, warmup_target=0.01, warmup_steps=10))
    ),
    "sgd(lr = cosine_decay_restarts(initial = 0.2, first_decay_steps = 7))": lambda: opt.SGD(
        S.CosineDecayRestarts(0.2, 7)
    ),
    "sgd(lr = cosine_decay_restarts(initial = 0.2, first_decay_steps = 9, t_mul = 1.0, m_mul = 0.5, "
    "alpha = 0.1))": lambda: (
        opt.SGD(S.CosineDecayRestarts(0.2, 9, 1.0, 0.5, 0.1))
    ),
    "sgd(lr = piecewise_constant(boundaries = (10, 30), values = (0.2, 0.05, 0.01)))": lambda: opt.SGD(
        S.PiecewiseConstantDecay([10, 30], [0.2, 0.05, 0.01])
    ),
}

COMPILED = (
    "sgd(lr = 0.05, momentum = 0.9, nesterov = true)",
    "rmsprop()",
    "adam()",
    "adamw(lr = 3e-3, weight_decay = 0.1)",
)


# --- fifty steps --------------------------------------------------------------------------------------------------


def batches(data: Mapping[str, np.ndarray]):
    for start in range(0, STEPS * BATCH, BATCH):
        yield {name: array[start : start + BATCH] for name, array in data.items()}


@cache
def prepared(name: str):
    """(subject, data, the function that gives gradients): one compilation for all optimisers."""
    subject = SUBJECTS[name]()
    return subject, subject.data(np.random.default_rng(5)), netc.compile(subject.source, precision="f64")


def our_losses(name: str, optimizer: str) -> list[float]:
    subject, data, differentiable = prepared(name)
    optimizing = netc.compile(subject.source, optimizer=optimizer, precision="f64", target="numpy")
    weights, state, losses = differentiable.init(seed=3), optimizing.init_optimizer(), []
    for batch in batches(data):
        loss, slope = differentiable.value_and_grad(weights, batch)
        weights, state = optimizing.update(weights, state, slope)
        losses.append(float(loss))
    return losses


def compiled_losses(name: str, optimizer: str) -> list[float]:
    subject, data, differentiable = prepared(name)
    fn = netc.compile(subject.source, optimizer=optimizer)
    step = fn.trainer(fn.init().with_flat(differentiable.init(seed=3).flat))
    return [step(batch)["loss"] for batch in batches(data)]


@double_precision()
def keras_losses(subject: Subject, optimizer: Callable, data, weights: netc.Weights) -> list[float]:
    def tensors(batch):
        return {
            name: torch.tensor(array.astype(float) if array.dtype.kind == "f" else array)
            for name, array in batch.items()
        }

    parts, made = subject.parts(), optimizer()
    subject.loss(parts, tensors(next(batches(data))))  # builds the layers
    variables = [variable for part in parts.values() for variable in part.trainable_weights]
    for variable, value in zip(variables, weights.values(), strict=True):
        variable.assign(value)
    losses = []
    for batch in batches(data):
        for variable in variables:
            variable.value.grad = None
        loss = subject.loss(parts, tensors(batch))
        loss.backward()
        slopes = [variable.value.grad for variable in variables]
        with torch.no_grad():
            made.apply(slopes, variables)
        losses.append(float(loss.detach()))
    return losses


def worst(found, expected) -> float:
    return float(np.max(np.abs(np.array(found) / np.array(expected) - 1)))


def compare(name: str, optimizer: str, reference: Callable) -> None:
    subject, data, differentiable = prepared(name)
    expected = keras_losses(subject, reference, data, differentiable.init(seed=3))
    assert abs(expected[-1] / expected[0] - 1) > 1e-3, "nothing was learnt"
    check(optimizer, f"{name} f64", worst(our_losses(name, optimizer), expected), tolerance("losses", "f64"))
    if optimizer in COMPILED:
        check(optimizer, f"{name} f32", worst(compiled_losses(name, optimizer), expected), tolerance("losses", "f32"))
    ERRORS.count("optimiser", optimizer)


def check(row: str, column: str, error: float, bound: float) -> None:
    ERRORS.add("optimiser", row, column, error)
    assert error <= bound, f"the losses of {row} on {column} are off by {error:.2g}, allowed {bound:.0e}"


@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizer_gives_the_losses_of_keras(optimizer, name):
    compare(name, optimizer, OPTIMIZERS[optimizer])


@pytest.mark.parametrize("optimizer", VARIANTS)
def test_schedule_decay_and_clipping_give_the_losses_of_keras(optimizer):
    compare("digits", optimizer, VARIANTS[optimizer])
