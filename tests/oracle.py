"""One expression of the language beside one layer of Keras: values, gradients by weights and inputs, new states.

A suite that imports this needs Keras with PyTorch below it (the extra ``oracle``) and is skipped without them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import Any
from unittest import mock

import numpy as np
import pytest
from tolerances import ERRORS, relative_error, tolerance

from netc.compiler import ops
from netc.compiler.build import elaborate
from netc.compiler.gradient import gradient
from netc.compiler.ir import Graph
from netc.compiler.model import Model
from netc.compiler.pipeline import compile_graph
from netc.compiler.programs import seed_leaf
from netc.compiler.types import evaluate

torch = pytest.importorskip("torch")
keras = pytest.importorskip("keras")
if keras.config.backend() != "torch":
    pytest.skip("the oracle is Keras over PyTorch: KERAS_BACKEND=torch", allow_module_level=True)

SETTINGS = 24  # of each layer, at least 20
DRAWS = 3000  # combinations to choose from, where there are more
KINDS = {"f": "f32", "i": "i32", "b": "bool"}


# --- settings -----------------------------------------------------------------------------------------------------


def combinations(
    name: str, valid: Callable[..., bool] = lambda **_: True, count: int = SETTINGS, **axes: tuple
) -> list[dict[str, Any]]:
    """``count`` different combinations out of all that are valid, drawn by the name.

    Every value of every axis occurs where a valid combination has it: the draw takes combinations with values that
    have not been seen first.
    """
    draw = random.Random(name)
    every = (
        list(product(*axes.values()))
        if math.prod(map(len, axes.values())) <= DRAWS
        else list(dict.fromkeys(tuple(map(draw.choice, axes.values())) for _ in range(DRAWS)))
    )
    draw.shuffle(every)
    every = [one for values in every if valid(**(one := dict(zip(axes, values))))]
    unseen = {(axis, value) for one in every for axis, value in one.items()}
    chosen, rest = [], []
    for one in every:
        new = unseen & set(one.items())
        unseen -= new
        (chosen if new else rest).append(one)
    return (chosen + rest)[: max(count, len(chosen))]


def text_of(value) -> str:
    """A Python value in the language."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"({', '.join(map(text_of, value))}{',' * (len(value) == 1)})"
    return str(value)


def arguments(*args, **named) -> str:
    """``(3, padding = same)``."""
    return f"({', '.join([*map(text_of, args), *(f'{name} = {text_of(value)}' for name, value in named.items())])})"


# --- a case -------------------------------------------------------------------------------------------------------


@dataclass
class Case:
    """An expression of inputs, and the Keras layer (or function) that it must equal.

    ``inputs``: shapes by name, in the order in which the layer takes them; ``kinds`` gives their types where they are
    not floats: "i4" is integers below 4, "b" booleans, the first of a row true.  ``declared``: how shapes are written
    in the model, by name; without it the first axis is N.  ``layer``: called with tensors; it has weights where it is a
    Keras layer or ``Joined``.  ``preamble``: definitions before the model.
    """

    text: str
    inputs: Mapping[str, tuple[int, ...]]
    layer: Callable | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)
    training: bool = False
    scale: float = 1.0
    declared: Mapping[str, str] = field(default_factory=dict)
    preamble: str = ""

    def source(self) -> str:
        inputs = ", ".join(
            f"{name}: {KINDS[self.kinds.get(name, 'f')[0]]}[{self.declared.get(name) or self._shape(shape)}]"
            for name, shape in self.inputs.items()
        )
        return f"net 1\n\n{self.preamble}\nmodel Case({inputs}):\n    return {self.text}\n"

    @staticmethod
    def _shape(shape: tuple[int, ...]) -> str:
        return ", ".join(["N", *map(str, shape[1:])][: len(shape)])

    def arrays(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Numbers for the inputs."""
        made = {}
        for name, shape in self.inputs.items():
            kind = self.kinds.get(name, "f")
            if kind == "f":
                made[name] = rng.normal(size=shape) * self.scale
            elif kind == "b":
                made[name] = rng.random(shape) < 0.6
                made[name][..., 0] = True
            else:
                made[name] = rng.integers(0, int(kind[1:]), shape).astype(np.int32)
        return made


def variables_of(model: Model):
    return (*model.parameters, *model.states)


def random_weights(model: Model, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """No initial values: no bias or gain hides behind its 0 or 1.  States may be variances: they are positive."""
    weights = {v.path: rng.normal(size=v.type.shape) for v in model.parameters}
    return weights | {v.path: rng.random(v.type.shape) + 0.5 for v in model.states}


# --- ours ---------------------------------------------------------------------------------------------------------


class Compiled:
    """The output, the new states and the gradients of a case as one graph, on a target."""

    def __init__(self, case: Case, precision: str = "f64", target: str = "numpy"):
        self.model = elaborate(case.source(), "case.net", precision=precision)
        mode = self.model.training if case.training else self.model.inference
        self.output = output = mode.outputs["output"]
        leaves = {node.attrs["name"]: node for node in self.model.inputs}
        leaves |= {
            v.path: (ops.param if v.trainable else ops.state)(v.path, v.type.dtype, v.type.shape)
            for v in variables_of(self.model)
        }
        cotangent = ops.input("cotangent", output.dtype, output.shape)
        wrt = {
            name: leaves[name]
            for name in (
                *(v.path for v in self.model.parameters),
                *(n for n in case.inputs if leaves[n].dtype.kind == "float"),
            )
        }
        slopes = gradient([(output, cotangent)], list(wrt.values()))
        roots = {
            "output": output,
            **{f"new {path}": node for path, node in mode.updates.items()},
            **{f"d {name}": node for name, node in zip(wrt, slopes)},
        }
        leaves |= {"cotangent": cotangent, "seed": seed_leaf()}
        graph = Graph((), roots)
        used = {leaf for leaf in graph.nodes() if not leaf.args}
        placed = {leaf: (name, 0) for name, leaf in leaves.items() if leaf in used}
        self.executable = compile_graph(Graph(tuple(placed), roots), placed, target)
        self._leaves = {name: leaf for name, leaf in leaves.items() if leaf in placed}

    def sizes(self, arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
        """The symbols, by the shapes of the inputs."""
        return {
            str(size): have
            for name, leaf in self._leaves.items()
            if name in arrays and name != "cotangent"
            for size, have in zip(leaf.shape, np.shape(arrays[name]))
            if not isinstance(size, int)
        }

    def output_shape(self, arrays: Mapping[str, np.ndarray]) -> tuple[int, ...]:
        sizes = self.sizes(arrays)
        return tuple(evaluate(size, sizes) for size in self.output.shape)

    def __call__(self, arrays: Mapping[str, np.ndarray], seed: int = 7) -> dict[str, np.ndarray]:
        """Results by name: "output", "d NAME", "new PATH"."""
        given = {**arrays, "seed": np.array(seed)}
        slots = {name: np.array(given[name], leaf.dtype.numpy, order="C") for name, leaf in self._leaves.items()}
        return self.executable.run(slots, self.sizes(slots))


# --- Keras's ------------------------------------------------------------------------------------------------------


def expected_of(
    case: Case, arrays: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray], rng
) -> dict[str, np.ndarray]:
    """Keras's results under our names, and the cotangent that the gradients belong to."""
    tensors = {name: torch.tensor(arrays[name], requires_grad=arrays[name].dtype == np.float64) for name in case.inputs}
    layer = case.layer
    trainable, others = [], []
    if isinstance(layer, (keras.layers.Layer, Joined)):
        layer.build(*(arrays[name].shape for name in case.inputs))
        trainable, others = layer.trainable_weights, layer.non_trainable_weights
        own = list(weights)
        assert [tuple(w.shape) for w in trainable + others] == [weights[path].shape for path in own]
        for variable, path in zip(trainable + others, own):
            variable.assign(weights[path])
    elif weights:
        raise AssertionError(f"the reference of {case.text} takes no weights")
    output = (
        layer(*tensors.values(), training=case.training)
        if isinstance(layer, keras.layers.Layer)
        else layer(*tensors.values())
    )
    cotangent = rng.normal(size=tuple(output.shape))
    if output.requires_grad:
        output.backward(torch.tensor(cotangent))
    results = {"output": output.detach().numpy(), "cotangent": cotangent}
    for name, tensor in tensors.items():
        if tensor.requires_grad:
            results[f"d {name}"] = np.zeros(tensor.shape) if tensor.grad is None else tensor.grad.numpy()
    for variable, path in zip(trainable, weights):
        slope = variable.value.grad
        results[f"d {path}"] = np.zeros(tuple(variable.shape)) if slope is None else slope.numpy().copy()
    for variable, path in zip(others, list(weights)[len(trainable) :]):
        results[f"new {path}"] = variable.value.detach().numpy().copy()
    return results


class Joined:
    """Several Keras layers as one: ``parts`` in the order of their weights, ``call`` over them."""

    def __init__(self, parts: Mapping[str, Any], shapes: Callable, call: Callable):
        self.parts, self._shapes, self._call = dict(parts), shapes, call

    def build(self, *shapes) -> None:
        for name, args in self._shapes(*shapes).items():
            self.parts[name].build(*args)

    @property
    def trainable_weights(self):
        return [weight for part in self.parts.values() for weight in part.trainable_weights]

    @property
    def non_trainable_weights(self):
        return [weight for part in self.parts.values() for weight in part.non_trainable_weights]

    def __call__(self, *tensors):
        return self._call(self.parts, *tensors)


# --- the comparison -----------------------------------------------------------------------------------------------


@contextmanager
def double_precision():
    """Keras computes in float64 throughout: over PyTorch it narrows most results to float32 by a table of its own.

    Some of PyTorch's float64 functions refuse to give the gradient of a transposed view, as Keras hands them.
    """
    functional = torch.nn.functional
    names = ["nll_loss", *(f"{kind}{rank}d" for kind in ("conv", "conv_transpose") for rank in (1, 2, 3))]

    def contiguous(function):
        return lambda a, b, *args, **named: function(a.contiguous(), b.contiguous(), *args, **named)

    before, policy, threads = keras.config.floatx(), keras.config.dtype_policy(), torch.get_num_threads()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")  # the layers' own, which is settled once, at its first use
    torch.set_num_threads(1)  # the tensors are tiny
    try:
        with (
            mock.patch.dict(keras.src.backend.common.dtypes.BIT64_TO_BIT32_DTYPE, {"float64": "float64"}),
            mock.patch.multiple(functional, **{name: contiguous(getattr(functional, name)) for name in names}),
        ):
            yield
    finally:
        keras.config.set_floatx(before)
        keras.config.set_dtype_policy(policy)
        torch.set_num_threads(threads)


@double_precision()
def compare(table: str, row: str, cases: Callable[[], Iterator[Case]]) -> None:
    """Every case agrees in f64; the worst errors of the row go to the tables."""
    number = 0
    for number, case in enumerate(cases(), 1):
        rng = np.random.default_rng([number, *row.encode()])
        compiled = Compiled(case)
        arrays, weights = case.arrays(rng), random_weights(compiled.model, rng)
        expected = expected_of(case, arrays, weights, rng)
        found = compiled({**arrays, **weights, "cotangent": expected["cotangent"]})
        check(table, row, case, arrays, found, expected, "f64")
    ERRORS.count(table, row, number)
    assert number >= 20, f"{row} is compared in {number} settings"


def compare_compiled(table: str, row: str, case: Case) -> None:
    """The compiled graph in f32 agrees with the interpreter in f64, which ``compare`` held against Keras."""
    rng = np.random.default_rng([0, *row.encode()])
    exact, compiled = Compiled(case), Compiled(case, "f32", "cpu")
    arrays = {**case.arrays(rng), **random_weights(exact.model, rng)}
    arrays = {name: array.astype(np.float32) if array.dtype == np.float64 else array for name, array in arrays.items()}
    arrays["cotangent"] = rng.normal(size=exact.output_shape(arrays)).astype(np.float32)
    expected = exact(arrays) | {"cotangent": arrays["cotangent"]}
    check(table, row, case, arrays, compiled(arrays), expected, "f32")


def check(table: str, row: str, case: Case, arrays, found, expected, precision: str) -> None:
    """Raises AssertionError where a result is further off than the table of tolerances allows.

    A result a hundred times smaller than what it was made of is what cancellation left: its error is that of its parts.
    """

    def floor(values) -> float:
        return 1e-2 * max((float(np.abs(value).max()) for value in values if value.dtype.kind == "f"), default=0.0)

    floors = {
        "forward": floor(arrays[name] for name in case.inputs),
        "state": 0.0,
        "gradient": floor(value for name, value in expected.items() if name.startswith("d ") or name == "cotangent"),
    }
    for name, value in found.items():
        what = {"d": "gradient", "new": "state"}.get(name.split(" ")[0], "forward")
        error = relative_error(value, expected[name], floors[what])
        ERRORS.add(table, row, f"{what} {precision}", error)
        bound = tolerance(what, precision, row)
        assert error <= bound, (
            f"{name} of {case.text} on {dict(case.inputs)} is off by {error:.2g}, allowed {bound:.0e}"
        )
