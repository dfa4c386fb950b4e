"""Numba makes the same bits of the kernels' text as our own translator.

It takes tens of seconds to compile them, so test_numba.py runs these in a process beside the other tests::

    pytest tests/numba_bits.py
"""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

import netc
from netc.runtime import machine, numba_backend, scalar

# Convolution, pooling and its gradient, an embedding and its gradient, random bits, attention, a scan, softmax.
MODEL = """net 1
model Everything(x: f32[N, 6, 6, 2], words: i32[N, 5]) -> (y: f32[N, 10]):
    seen = x |> Conv2D(3, 3, activation = relu) |> MaxPool2D() |> Flatten()
    read = Embedding(9, 6)(words) |> Dropout(0.3)
    shares = softmax(read @ transpose(read, (0, 2, 1)), axis = -1)
    told = LSTM(5)(shares @ read)
    y = softmax(Dense(10)(concat(seen, told)))
train Everything:
    input target: f32[N, 10]
    loss square = mean((y - target) ** 2)
    optimizer = adam(lr = 0.1)
"""
DOUBLE = """net 1
model Double(x: f32[N, 70]) -> (y: f32[N, 3]):
    y = Dense(3, tanh)(x * sigmoid(sum(log1p(x * x), axis = -1, keepdims = true)))
train Double:
    input target: f32[N, 3]
    loss square = mean((y - target) ** 2)
    optimizer = sgd(lr = 0.1)
"""
BATCH = 33


@pytest.mark.parametrize("text, precision", [(MODEL, "f32"), (DOUBLE, "f64")])
def test_outputs_and_a_step_are_the_same_bits(text, precision):
    found = []
    for target in ("numba", "cpu"):
        fn = netc.compile(text, target=target, precision=precision)
        rng = np.random.default_rng(0)
        batch = {name: rng.integers(0, 9, (BATCH, *type_.shape[1:])) if type_.dtype.kind == "int"
                 else rng.normal(size=(BATCH, *type_.shape[1:])) for name, type_ in (fn.inputs | fn.targets).items()}
        w = fn.init(1)
        y = fn(w, {name: batch[name] for name in fn.inputs})
        seed = 3 if fn.model.uses_seed else None
        after, state, losses = fn.step(w, fn.init_optimizer(), batch, seed=seed)
        found.append([y, after.flat, *state.values(), np.array(list(losses.values()))])
        assert np.abs(after.flat - w.flat).max() > 1e-3 and np.isfinite(after.flat).all()
        for program in ("predict", "step"):
            texts = [text for _, text in fn.program(program).executable.kernels()]
            emitted = fn.emit("numba", program)
            assert texts and all(text in emitted for text in texts)
            if target == "numba":           # and Numba it was that compiled each
                ours = machine.loaded()
                assert all(numba_backend.loaded()[text].seconds > 0 and (
                    text not in ours or ours[text].address != numba_backend.loaded()[text].address) for text in texts)
    for numbas, ours in zip(*found):
        np.testing.assert_array_equal(numbas, ours, strict=True)


SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, 2.5, np.inf, -np.inf, np.nan, 1e30, -1e-30, 90.0, -90.0, 3e5]
INTEGERS = """def kernel(bases, args, begin, end):
    a = buffer_i64(bases, args, 0)
    b = buffer_i64(bases, args, 2)
    out = buffer_i64(bases, args, 4)
    for i in range(begin, end):
        out[5 * i] = floordiv(a[i], b[i])
        out[5 * i + 1] = mod(a[i], b[i])
        out[5 * i + 2] = sign_i64(a[i]) + sign_i32(int32(b[i]))
        out[5 * i + 3] = maximum(a[i], b[i]) - minimum(int32(a[i]), int32(b[i]))
        out[5 * i + 4] = random_bits(a[i], b[i], i)
"""
# Of those of floats, what takes more than one number.
COUNTS = {"fma": 3} | dict.fromkeys(["add_any_order", "maximum_any_order", "minimum_any_order", "maximum", "minimum",
                                     "floordiv", "mod", "pow_f32", "pow_f64", "maximum_f32", "maximum_f64",
                                     "minimum_f32", "minimum_f64"], 2)
OTHERS = {"float32", "float64", "int32", "int64", "boolean", "random_bits"}


def _functions(precision: str) -> list[str]:
    """The names of the kernels' functions of floats."""
    other = ("_f64" if precision == "f32" else "_f32", "_i32", "_i64", "_bool")
    return sorted(name for name in scalar.namespace() if not name.startswith("_") and not name.endswith(other)
                  and not name.startswith("buffer_") and name not in OTHERS)


def _kernel_of_all(precision: str) -> str:
    """A kernel that calls each of the functions for every element."""
    names = _functions(precision)
    lines = ["def kernel(bases, args, begin, end):"]
    lines += [f"    {name} = buffer_{precision}(bases, args, {2 * k})" for k, name in enumerate(["a", "b", "out"])]
    lines += ["    for i in range(begin, end):"]
    for k, name in enumerate(names):
        arguments = ", ".join(["a[i]", "b[i]", "a[i]"][:COUNTS.get(name, 1)])
        lines.append(f"        out[{len(names)} * i + {k}] = {name}({arguments})")
    return "\n".join(lines) + "\n"


def _results(code: machine.Code, a: np.ndarray, b: np.ndarray, count: int) -> np.ndarray:
    out = np.zeros((len(a), count), a.dtype)
    bases = np.array([array.ctypes.data for array in (a, b, out)], np.intp)
    args = np.array([0, 0, 1, 0, 2, 0], np.int64)
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)(code.address)
    function(bases.ctypes.data, args.ctypes.data, 0, len(a))
    return out


def test_every_function_of_kernels_is_the_same_to_numba():
    rng = np.random.default_rng(0)
    floats = np.concatenate([SPECIAL, rng.normal(size=50) * 10.0 ** rng.integers(-3, 4, 50)])
    whole = np.concatenate([[0, 1, -1, 2 ** 31 - 1, -2 ** 31], rng.integers(-99, 99, 59)])
    cases = [(_kernel_of_all(precision), floats.astype(dtype), len(_functions(precision)))
             for precision, dtype in (("f32", np.float32), ("f64", np.float64))] + [(INTEGERS, whole, 5)]
    texts = [text for text, *_ in cases]
    ours, numbas = machine.codes(texts), numba_backend.codes(texts)
    for text, a, count in cases:
        b = rng.permutation(a)
        found = _results(numbas[text], a, b, count)
        np.testing.assert_array_equal(found, _results(ours[text], a, b, count))
        assert all(len(np.unique(column)) > 2 for column in found.T)          # each was computed
