"""Maps taken into the products that they alone read: which are, and which must not be."""

from __future__ import annotations

import pytest

from netc.compiler import ops
from netc.compiler.cost import cost_of
from netc.compiler.ir import Graph
from netc.compiler.pipeline import compile_graph
from netc.compiler.types import Dim, f32

N = Dim.symbol("N")
X, W = ops.input("x", f32, (N, 6)), ops.input("w", f32, (6, 6))
BIAS = ops.input("bias", f32, (6,))
LEAVES = (X, W, BIAS)
PRODUCT = ops.matmul(X, W)
BIASED = ops.add(PRODUCT, ops.broadcast(BIAS, (N, 6), (1,)))


def steps_of(outputs, replaced=()):
    """The program, and of each of its steps whether it has a product, and whether it has a kernel."""
    layout = {leaf: (leaf.attrs["name"], 0) for leaf in LEAVES}
    executable = compile_graph(Graph(LEAVES, outputs), layout, "cuda", replaced)
    return executable, [(step.matrix is not None, step.kernel is not None) for step in executable.steps]


FUSED, APART, MAP = (True, True), (True, False), (False, True)


def test_a_map_of_the_products_elements_is_done_with_them():
    executable, steps = steps_of({"y": ops.tanh(BIASED)})
    assert steps == [FUSED]
    step, = executable.steps
    assert step.label == "contract and map" and executable.bind({"N": 5}).arena_bytes == 0


def test_its_cost_is_that_of_both_without_the_memory_between():
    executable, _ = steps_of({"y": ops.tanh(BIASED)})
    step, = executable.steps
    found = cost_of(step, {"N": 5}, lambda name: 10)
    assert found.flops == 2 * 5 * 6 * 6 + 5 * 6 * (1 + 10)
    assert (found.loaded, found.stored) == (4 * (5 * 6 + 6 * 6 + 6), 4 * 5 * 6)


def test_the_last_of_two_products_takes_it():
    _, steps = steps_of({"y": ops.add(ops.tanh(PRODUCT), ops.matmul(PRODUCT, W))})
    assert steps == [APART, FUSED]
    other = ops.matmul(ops.tanh(X), W)
    _, steps = steps_of({"y": ops.mul(BIASED, other)})
    assert sorted(steps) == sorted([MAP, APART, FUSED])


@pytest.mark.parametrize("outputs", [
    {"y": ops.tanh(BIASED), "product": PRODUCT},
    {"y": ops.tanh(BIASED), "z": ops.transpose(ops.exp(PRODUCT), (1, 0))},
    {"y": ops.add(PRODUCT, ops.reverse(PRODUCT, (1,)))},
    {"y": ops.exp(ops.transpose(PRODUCT, (1, 0)))},
    {"y": ops.exp(ops.slice(PRODUCT, (0, 0), (N, 3)))},
], ids=["an output", "another reader", "other elements", "transposed", "a part"])
def test_what_else_is_read_of_a_product_keeps_it_in_memory(outputs):
    assert FUSED not in steps_of(outputs)[1]


def test_weights_that_the_product_reads_are_not_replaced_by_its_elements():
    """The new weights come of a product that reads the old ones, all of them for each element."""
    executable, steps = steps_of({"w": ops.add(W, ops.matmul(W, W))}, replaced=("w",))
    assert steps == [APART, MAP] and executable.in_place == {"w"}
    executable, steps = steps_of({"w": ops.sub(W, SLOPE)}, replaced=("w",))
    assert steps == [FUSED] and executable.in_place == {"w"}


SLOPE = ops.matmul(ops.transpose(X, (1, 0)), X)


def test_a_product_does_not_move_beyond_what_replaces_its_operands():
    new = ops.sub(W, SLOPE)
    total = ops.broadcast(ops.reduce(ops.exp(new), "sum", (0,)), (N, 6), (1,))
    executable, steps = steps_of({"y": ops.add(PRODUCT, total), "w": new}, replaced=("w",))
    assert executable.in_place == {"w"}
    reading = next(step for step in executable.steps if step.matrix is not None and step.matrix.b.buffer.slot == "w")
    assert reading.kernel is None and executable.steps[0] is reading
    _, steps = steps_of({"y": ops.add(PRODUCT, total), "w": new})
    assert steps.count(FUSED) == 2      # where new weights have memory of their own, it may
