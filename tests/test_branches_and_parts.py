"""Work that is laid out otherwise than the model says it: branches computed together, sums in parts, bound tables."""

from __future__ import annotations

import numpy as np
import pytest

import netc
from netc.compiler import ops
from netc.compiler.gradient import grad
from netc.compiler.interpret import interpret
from netc.compiler.ir import Graph, topological
from netc.compiler.parts import count_parts, may_have_parts
from netc.compiler.pipeline import Executable, optimize
from netc.compiler.schedule import ScanStep
from netc.compiler.siblings import merge_siblings
from netc.compiler.types import Dim, f32
from netc.runtime import pool

N = Dim.symbol("N")


@pytest.fixture
def threads_as_before():
    before = pool.threads()
    yield
    netc.set_threads(before)


# --- branches ---------------------------------------------------------------------------------------------------------


def branches(*widths: int, activations=(ops.tanh, ops.tanh)):
    x = ops.input("x", f32, (N, 5, 6))
    pieces, leaves = [], [x]
    for number, (width, activation) in enumerate(zip(widths, activations)):
        w, b = ops.param(f"w{number}", f32, (6, width)), ops.param(f"b{number}", f32, (width,))
        leaves += [w, b]
        product = ops.product(x, "nti", w, "io", "nto")
        pieces.append(activation(ops.add(product, ops.broadcast(b, product.shape, (2,)))))
    return leaves, pieces


def agree(outputs, leaves, tolerance=2e-6) -> Executable:
    """Compile the outputs and compare them with the interpreter's."""
    rng = np.random.default_rng(0)
    sizes = {"N": 3}
    arrays = {leaf: rng.normal(size=[sizes.get(str(size), size) for size in leaf.shape]).astype(np.float32)
              for leaf in leaves}
    graph = Graph(tuple(leaves), outputs)
    executable = Executable(optimize(graph), {leaf: (f"s{k}", 0) for k, leaf in enumerate(leaves)})
    got = executable.run({f"s{k}": array for k, array in enumerate(arrays.values())}, sizes)
    for name, want in interpret(graph, arrays, sizes).items():
        np.testing.assert_allclose(got[name], want, rtol=tolerance, atol=tolerance)
    return executable


def count(roots, name: str) -> int:
    return sum(current.op.name == name for current in topological(roots))


def test_like_branches_are_computed_together():
    leaves, pieces = branches(10, 3)
    joined = ops.concat(pieces, 2)
    merged = merge_siblings(Graph(tuple(leaves), {"y": joined})).results
    assert (count([joined], "tanh"), count(merged, "tanh"), count(merged, "contract")) == (2, 1, 2)
    agree({"y": joined}, leaves)


def test_who_reads_a_branch_reads_its_part_of_the_whole():
    leaves, pieces = branches(10, 3)
    joined = ops.concat(pieces, 2)
    outputs = {"y": joined, "twice": ops.add(pieces[0], pieces[0])}
    assert count(merge_siblings(Graph(tuple(leaves), outputs)).results, "tanh") == 1
    agree(outputs, leaves)
    loss = ops.reduce(ops.mul(joined, joined), "sum", (0, 1, 2))
    agree(dict(zip("abcd", grad(loss, leaves[1:]))), leaves, 2e-5)


@pytest.mark.parametrize("make", [
    lambda: branches(10, 3, activations=(ops.tanh, ops.sigmoid)),       # nothing in common
    lambda: branches(80, 70),                                          # rows that are long enough
])
def test_other_branches_stay_apart(make):
    leaves, pieces = make()
    graph = Graph(tuple(leaves), {"y": ops.concat(pieces, 2)})
    assert merge_siblings(graph).results == graph.results


def test_a_branch_that_reads_another_stays_apart():
    leaves, (first, _) = branches(6, 3)
    w = ops.param("more", f32, (6, 4))
    second = ops.tanh(ops.product(first, "nti", w, "io", "nto"))
    graph = Graph((*leaves[:3], w), {"y": ops.concat([first, second], 2)})
    assert merge_siblings(graph).results == graph.results
    agree(graph.outputs, graph.inputs)


# --- sums in parts ----------------------------------------------------------------------------------------------------


def weight_gradient(samples=N):
    x, dy = ops.input("x", f32, (samples, 40, 12)), ops.input("dy", f32, (samples, 40, 9))
    return [x, dy], ops.product(x, "nti", dy, "nto", "io")


def product_of(leaves, value) -> object:
    executable = Executable(optimize(Graph(tuple(leaves), {"dw": value})), {leaf: (leaf.attrs["name"], 0)
                                                                            for leaf in leaves})
    return executable, next(step.matrix for step in executable.steps if step.matrix is not None)


def test_a_sum_over_samples_has_parts_and_no_other():
    leaves, value = weight_gradient()
    _, matrix = product_of(leaves, value)
    assert may_have_parts(matrix)
    assert [count_parts(matrix, {"N": n}) for n in (1, 7, 32, 64)] == [1, 1, 5, 8]     # of N * 40 terms
    leaves, value = weight_gradient(samples=32)
    assert not may_have_parts(product_of(leaves, value)[1])
    x, w = ops.input("x", f32, (N, 2000)), ops.param("w", f32, (2000, 9))
    forward = ops.product(x, "ni", w, "io", "no")
    executable = Executable(optimize(Graph((x, w), {"y": forward})), {x: ("x", 0), w: ("w", 0)})
    assert not any(may_have_parts(step.matrix) for step in executable.steps if step.matrix is not None)


def test_parts_give_the_sum_and_the_same_bits_with_any_threads(threads_as_before):
    leaves, value = weight_gradient()
    rng = np.random.default_rng(1)
    arrays = {leaf.attrs["name"]: rng.normal(size=(64, *leaf.shape[1:])).astype(np.float32) for leaf in leaves}
    found = set()
    for threads in (1, 2, 3):
        netc.set_threads(threads)
        executable, matrix = product_of(leaves, value)
        binding = executable.bind({"N": 64})
        assert len(binding.rows) == 2 and binding.rows[1].parts == count_parts(matrix, {"N": 64}) == 8
        assert binding.arena_bytes >= 8 * 12 * 9 * 4
        found.add(executable.run(arrays, {"N": 64})["dw"].tobytes())
    assert len(found) == 1
    want = np.einsum("nti,nto->io", *(array.astype(np.float64) for array in arrays.values()))
    np.testing.assert_allclose(np.frombuffer(found.pop(), np.float32).reshape(12, 9), want, rtol=1e-4, atol=1e-3)


def test_a_profile_shows_what_adds_up_the_parts():
    fn = netc.compile("net 1\nmodel M(x: f32[N, T, 40]) -> (y: f32[N, T, 20]):\n    y = Dense(20)(x)\ntrain M:\n"
                      "    input t: f32[N, T, 20]\n    loss error = mean((y - t) ** 2)\n    optimizer = sgd(0.1)\n")
    kernels = [step.kernel for step in fn.profile("step", batch=32, sizes={"T": 64}).steps]
    assert any(kernel.startswith("sum of ") for kernel in kernels)


def test_the_long_sum_of_a_narrow_layer_is_cut_alike_for_any_number_of_samples(threads_as_before):
    fn = netc.compile("net 1\nmodel M(x: f32[N, 5120]) -> (y: f32[N, 100]):\n    y = Dense(100, relu)(x)\n")
    weights, x = fn.init(seed=1), np.random.default_rng(0).normal(size=(40, 5120)).astype(np.float32)
    kernels = [kernel.kernel for kernel in fn.profile("predict", {"x": x[:1]}).kernels]
    assert "product 8 of 1x100x640" in kernels and not any(kernel.startswith("sum of") for kernel in kernels)
    want = np.maximum(x.astype(np.float64) @ weights["y.kernel"], 0)
    for threads in (1, 2, 3):
        netc.set_threads(threads)
        predict = fn.bind(weights)                      # in panels, the last of which is filled up with zeros
        whole = predict(x)
        np.testing.assert_allclose(whole, want, rtol=1e-4, atol=1e-3)
        for samples in (1, 3, 40):
            for result in (predict(x[:samples]), fn(weights, x[:samples])):
                assert result.tobytes() == whole[:samples].tobytes()


def test_a_layer_on_rows_of_a_table_whose_sum_is_cut_stays_where_weights_are_bound():
    """Of the table's own rows, which are a known number, it would not be."""
    fn = netc.compile("net 1\nmodel M(w: i32[N]) -> (y: f32[N, 20]):\n    y = Dense(20)(Embedding(50, 2048)(w))\n")
    weights, words = fn.init(seed=1), np.arange(40, dtype=np.int32)
    assert fn.bind(weights)(words).tobytes() == fn(weights, words).tobytes()


@pytest.mark.parametrize("text, stretches", [
    ("x: f32[N, 2048]): return Dense(16)(x)", 4), ("x: f32[N, 2047]): return Dense(16)(x)", 1),
    ("x: f32[N, 5127]): return Dense(16)(x)", 1), ("x: f32[N, 4096]): return Dense(256)(x)", 8),
    ("x: f32[N, 4096]): return Dense(257)(x)", 1), ("x: f32[N, T, 4096]): return Dense(16)(x)", 1),
    ("x: f32[4, 4096]): return Dense(16)(x)", 1)])
def test_which_sums_are_cut(text, stretches):
    fn = netc.compile("net 1\nmodel M(" + text.replace("): ", "):\n    ") + "\n")
    product, = (current for current in fn.program("predict").executable.graph.nodes() if current.op.name == "contract")
    assert (product.shape[0] if product.type.rank > len(fn.inputs["x"].shape) else 1) == stretches


# --- scans ------------------------------------------------------------------------------------------------------------

STATES = """net 1
model M(x: f32[N, T, 3], k: f32[3]) -> (last: f32[N, 3], all: f32[N, T, 3], back: f32[N, T, 3]):
    param w: f32[3] = 0.7 * ones(3)
    scan a in x along 1 carrying s = zeros(N, 3) collecting s as all:
        s = tanh(s * w + a)
    last = s
    scan a in x along 1 reversed carrying r = zeros(N, 3) + k collecting r as back:
        r = sin(r * w - a)
train M:
    loss sizes = mean(last ** 2) + mean(all ** 3) + mean(back ** 2)
"""


def test_states_that_are_results_go_from_row_to_row():
    fn, oracle = netc.compile(STATES), netc.compile(STATES, target="numpy")
    weights, rng = fn.init(seed=1), np.random.default_rng(2)
    for length in (1, 2, 5):
        inputs = {"x": rng.normal(size=(4, length, 3)).astype(np.float32), "k": rng.normal(size=3).astype(np.float32)}
        for found, wanted in zip(fn(weights, **inputs), oracle(weights, **inputs), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
        (loss, slope), (least, steep) = (each.value_and_grad(weights, **inputs) for each in (fn, oracle))
        assert loss == pytest.approx(least, rel=1e-5)
        np.testing.assert_allclose(slope.flat, steep.flat, rtol=1e-4, atol=1e-6)
    bodies = [step.body for step in fn.program("predict").executable.steps if isinstance(step, ScanStep)]
    assert [len(body) for body in bodies] == [1, 1]             # and no copy of the state


# --- bound tables and panels ------------------------------------------------------------------------------------------

LOOP = """net 1
model M(words: i32[N, T], more: f32[N, T, 48]) -> (last: f32[N, 40], all: f32[N, T, 17]):
    x = Embedding(50, 24)(words)
    last = LSTM(40)(x)
    all = Dense(17)(more)
"""


def test_layers_on_rows_of_a_table_become_a_table_and_loops_read_panels():
    fn = netc.compile(LOOP)
    weights, rng = fn.init(seed=2), np.random.default_rng(3)
    predict = fn.bind(weights)
    for batch in (1, 3, 20):
        inputs = {"words": rng.integers(0, 50, (batch, 7)), "more": rng.normal(size=(batch, 7, 48)).astype(np.float32)}
        for one, other in zip(fn(weights, **inputs), predict(**inputs), strict=True):
            assert one.tobytes() == other.tobytes()
    arranging, rest = fn.bound_program()
    assert any(value.op.name == "contract" for value in arranging.graph.nodes())       # the table times the kernel
    scan, = (value for value in rest.executable.graph.nodes() if value.op.name == "scan")
    assert any(leaf.shape == (10, 40, 16) for leaf in scan.attrs["body"].inputs)       # 160 columns in panels of 16
    assert not any(value.op.name == "contract" and 24 in value.attrs["reduce"]
                   for value in rest.executable.graph.nodes())
