"""Random models, compiled and interpreted: the same outputs, gradients and steps of training.

Each is a chain of operations on whatever came before, so that values meet that no example brings together: a pooling
right before a border, a piece of a concatenation that is also read by itself.  Equal seeds write equal models.
"""

from __future__ import annotations

import random

import numpy as np
import pytest

import netc

TEXT = """net 1
model Random(x: {type}):
    {body}
    return {last}
train Random:
    loss square = mean(output ** 2) + 0.1 * mean(tanh(output))
    optimizer = adam(lr = 0.01)
"""
SIZES = (1, 2, 3, 4, 5, 8, 9, 16, 17)
UNITS = (1, 2, 4, 8, 10, 17, 33)


class Writer:
    """Writes a model line by line; ``values`` are the names so far with their shapes, without the batch's axis."""

    def __init__(self, seed: int, is_image: bool):
        self.random = random.Random(seed)
        first = tuple(self.random.choice(SIZES[3:-2] if is_image else SIZES)
                      for _ in range(3 if is_image else self.random.choice((1, 2, 2))))
        self.lines: list[str] = []
        self.values = [("x", first)]
        self.parameters = 0
        kinds = [self.activation, self.joined, self.sliced, self.padded, self.normalised, self.combined]
        kinds += 6 * [self.convolution] + 4 * [self.pooling] if is_image else \
            [self.matrix, self.products, self.permuted, self.reshaped, self.broadcast, self.reduced]
        for _ in range(self.random.randint(4, 9)):
            name, shape = self.random.choice((self.values[-1], *self.values[-2:]))
            self.random.choice(kinds)(name, shape)
        name, shape = self.values[-1]
        self.write(f"{name} * {self.parameter(())}", shape)     # at least one parameter

    def text(self) -> str:
        shape = ", ".join(map(str, ("N", *self.values[0][1])))
        return TEXT.format(type=f"f32[{shape}]", body="\n    ".join(self.lines), last=self.values[-1][0])

    def write(self, expression: str, shape: tuple) -> None:
        if all(size <= 40 for size in shape):
            self.values.append((f"t{len(self.lines)}", shape))
            self.lines.append(f"t{len(self.lines)} = {expression}")

    def parameter(self, shape: tuple) -> str:
        self.parameters += 1
        self.lines.append(f"param w{self.parameters}: f32[{', '.join(map(str, shape))}] = "
                          + ("normal" if shape else "ones"))
        return f"w{self.parameters}"

    def axis(self, shape: tuple) -> int:
        return self.random.randrange(len(shape))

    def changed(self, shape: tuple, axis: int, size: int) -> tuple:
        return (*shape[:axis], size, *shape[axis + 1:])

    # --- operations

    def convolution(self, name, shape):
        filters, window = self.random.choice(UNITS[:5]), self.random.choice((1, 2, 3))
        activation = self.random.choice(("", "", ", activation = relu", ", use_bias = false"))
        self.write(f'Conv2D({filters}, {window}, padding = "same"{activation})({name})', (*shape[:2], filters))

    def pooling(self, name, shape):
        kind, step = self.random.choice(("MaxPool2D", "AvgPool2D")), self.random.choice((1, 2))
        size = tuple(-(-extent // step) for extent in shape[:2])
        self.write(f'{kind}({self.random.choice((2, 3))}, strides = {step}, padding = "same")({name})',
                   (*size, shape[2]))

    def matrix(self, name, shape):
        units = self.random.choice(UNITS)
        self.write(f"{name} @ {self.parameter((shape[-1], units))}", (*shape[:-1], units))

    def products(self, name, shape):
        if len(shape) == 2:
            self.write(f"0.3 * ({name} @ transpose({name}, (0, 2, 1)))", (shape[0], shape[0]))

    def permuted(self, name, shape):
        order = self.random.sample(range(len(shape)), len(shape))
        self.write(f"transpose({name}, (0, {', '.join(str(axis + 1) for axis in order)}))",
                   tuple(shape[axis] for axis in order))

    def reshaped(self, name, shape):
        size = int(np.prod(shape))
        rows = self.random.choice([n for n in range(1, size + 1) if size % n == 0])
        self.write(f"reshape({name}, (N, {rows}, {size // rows}))", (rows, size // rows))

    def activation(self, name, shape):
        self.write(f"{self.random.choice(('relu', 'tanh', 'sigmoid', 'gelu', 'elu', 'sin'))}({name})", shape)

    def broadcast(self, name, shape):
        other = self.parameter(tuple(size if self.random.random() < 0.7 else 1 for size in shape))
        self.write(self.random.choice((f"{name} + {other}", f"{name} * {other}", f"maximum({name}, {other})")), shape)

    def joined(self, name, shape):
        axis = self.axis(shape)
        other, wide = self.random.choice([(n, s) for n, s in self.values if len(s) == len(shape)
                                          and self.changed(s, axis, 0) == self.changed(shape, axis, 0)])
        self.write(f"concat({name}, {other}, axis = {axis + 1})", self.changed(shape, axis, shape[axis] + wide[axis]))

    def sliced(self, name, shape):
        axis = self.axis(shape)
        first = self.random.randrange(shape[axis])
        part, size = self.random.choice(((f"{first}:", shape[axis] - first), ("::-1", shape[axis])))
        self.write(f"{name}[{', '.join([':'] * (axis + 1) + [part])}]", self.changed(shape, axis, size))

    def padded(self, name, shape):
        widths = [(self.random.randint(0, 2), self.random.randint(0, 2)) for _ in shape]
        self.write(f"pad({name}, ((0, 0), {', '.join(map(str, widths))}), {self.random.choice((0.0, 1.5))})",
                   tuple(size + sum(width) for size, width in zip(shape, widths)))

    def normalised(self, name, shape):
        self.write(self.random.choice((f"softmax({name})", f"LayerNorm()({name})")), shape)

    def reduced(self, name, shape):
        axis = self.axis(shape)
        self.write(f"{self.random.choice(('sum', 'mean', 'max'))}({name}, axis = {axis + 1}, keepdims = true)",
                   self.changed(shape, axis, 1))

    def combined(self, name, shape):
        other = self.random.choice([n for n, s in self.values if s == shape])
        self.write(f"{name} {self.random.choice('+-*')} {other}", shape)


@pytest.mark.parametrize("seed", range(32))
def test_random_models_are_what_the_interpreter_says(seed):
    text, precision = Writer(seed, is_image=seed % 2 == 0).text(), ("f32", "f64")[seed // 2 % 2]
    fn, oracle = netc.compile(text, precision=precision), netc.compile(text, precision="f64", target="numpy")
    tolerance, w = {"f32": 3e-4, "f64": 1e-10}[precision], fn.init(seed)
    exact = oracle.weights_from(w.flat.astype(np.float64))
    shape = tuple(fn.inputs["x"].shape[1:])
    x = np.random.default_rng(seed).normal(size=(9, *shape)).astype(fn.inputs["x"].dtype.numpy)

    def check(found, wanted, loosely=1):
        assert abs(found - wanted).max() <= loosely * tolerance * (abs(wanted).max() + 1e-2), text
    check(fn(w, x), oracle(exact, x))
    np.testing.assert_array_equal(fn.bind(w)(x[:4]), fn(w, x)[:4])
    (loss, slope), (exact_loss, exact_slope) = fn.value_and_grad(w, x), oracle.value_and_grad(exact, x)
    check(loss, exact_loss)
    check(slope.flat, exact_slope.flat, 30)
    trainer = fn.trainer(w)
    trainer(x=x)
    assert trainer.weights == fn.step(w, fn.init_optimizer(), {"x": x})[0]
