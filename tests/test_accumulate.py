"""Sums of products in the memory of a summand: which are computed so, and that nothing else of them changes."""

from __future__ import annotations

import numpy as np
import pytest

import netc
from netc.compiler import ops
from netc.compiler.ir import Graph
from netc.compiler.pipeline import compile_graph
from netc.compiler.types import Dim, f32

N = Dim.symbol("N")
A, B, C = (ops.input(name, f32, (N, 24)) for name in "abc")
P, Q, R = (ops.input(name, f32, (24, 40)) for name in "pqr")
LEAVES = (A, B, C, P, Q, R)


def product(x, y):
    return ops.matmul(x, y)


def accumulating(outputs) -> int:
    """How many products add to something, after the results were compared with the interpreter's."""
    graph, layout = Graph(LEAVES, outputs), {leaf: (leaf.attrs["name"], 0) for leaf in LEAVES}
    rng = np.random.default_rng(0)
    arrays = {leaf.attrs["name"]: rng.normal(size=[7 if size == N else size for size in leaf.shape]).astype("f4")
              for leaf in LEAVES}
    executable = compile_graph(graph, layout, trains=True)
    assert not any(step.matrix is not None and step.matrix.accumulates for step in compile_graph(graph, layout).steps)
    found, expected = executable.run(arrays, {"N": 7}), compile_graph(graph, layout, "numpy").run(arrays, {"N": 7})
    for name in outputs:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-4)
    return sum(step.matrix is not None and step.matrix.accumulates for step in executable.steps)


def test_a_sum_of_products_is_computed_in_one_memory():
    total = ops.add(ops.add(product(A, P), product(B, Q)), product(C, R))
    assert accumulating({"y": ops.tanh(total)}) == 2
    assert accumulating({"y": ops.tanh(total), "z": ops.exp(total)}) == 2
    right = ops.add(product(A, P), ops.add(product(B, Q), product(C, R)))
    assert accumulating({"y": ops.tanh(right)}) == 2


def test_a_product_is_added_to_what_is_computed_before_it():
    first = ops.tanh(product(A, P))
    normed = ops.mul(first, ops.broadcast(ops.reduce(first, "sum", (1,)), (N, 40), (0,)))
    assert accumulating({"y": ops.exp(ops.add(first, product(ops.slice(normed, (0, 0), (N, 24)), Q)))}) == 1


def test_summands_that_are_needed_alone_stay():
    first, second = product(A, P), product(B, Q)
    total = ops.add(first, second)
    assert accumulating({"y": ops.mul(total, first)}) == 0
    assert accumulating({"y": ops.tanh(total), "z": ops.reduce(second, "sum", (0,))}) == 0
    assert accumulating({"y": ops.add(ops.mul(first, second), total)}) == 0
    assert accumulating({"y": ops.sub(first, second)}) == 0
    assert accumulating({"y": total}) == 0


SOURCE = """net 1

model M(image: f32[N, 12, 12, 3]) -> (y: f32[N, 1]):
    x = image |> Conv2D(8, 3, padding = same, activation = tanh)
    y = concat(Conv2D(6, 1, strides = 2, activation = elu)(x), Conv2D(6, 3, strides = 2, padding = same)(x),
               x |> MaxPool2D(3, strides = 2, padding = same)) |> GlobalAvgPool2D() |> Dense(1)

train M:
    input t: f32[N, 1]
    loss square = mean((y - t) ** 2)
    optimizer = sgd(lr = 1e-2)
"""


def test_gradients_of_branches_meet_in_one_memory():
    """That of a strided kernel, with zeros between, too."""
    batch = {"image": np.random.default_rng(1).normal(size=(5, 12, 12, 3)).astype("f4"), "t": np.ones((5, 1), "f4")}
    fn, reference = netc.compile(SOURCE), netc.compile(SOURCE, target="numpy")
    weights = fn.init(seed=2)
    (value, gradient), (expected, wanted) = (f.value_and_grad(weights, batch) for f in (fn, reference))
    assert value == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(gradient.flat, wanted.flat, rtol=1e-3, atol=1e-5)
    products = [step.matrix for step in fn.program("gradient").executable.steps if step.matrix is not None]
    assert sum(matrix.accumulates for matrix in products) >= 2
