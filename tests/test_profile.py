"""``netc profile``: what steps cost is counted from their loops, and named in the words of the model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import netc
from netc.compiler import ops
from netc.compiler.cli import main
from netc.compiler.cost import cost_of
from netc.compiler.graph_cost import contraction_flops
from netc.compiler.ir import Graph
from netc.compiler.names import Names
from netc.compiler.pipeline import Executable, optimize
from netc.compiler.types import Dim, evaluate, f32, i32
from netc.profiling import random_inputs
from netc.runtime import math as vector_math
from netc.runtime.roofline import Roofline, roofline

N = Dim.symbol("N")
EXAMPLES = Path(__file__).parents[1] / "examples"
SOURCE = """net 1
model Line(x: f32[N, T, 20], place: i32[N]) -> (y: f32[N, 5]):
    y = Dense(5, tanh)(x[:, 0]) + Embedding(7, 5)(place)
train Line:
    input target: f32[N, 5]
    loss square = mean((y - target) ** 2)
    optimizer = adam()
"""


def costs(outputs, leaves, **sizes):
    """The cost of each step of a graph, functions of one FLOP; nothing is compiled to machine code."""
    graph = Graph(tuple(leaves), outputs)
    executable = Executable(optimize(graph), {leaf: (f"s{k}", 0) for k, leaf in enumerate(leaves)})
    return [cost_of(step, sizes, lambda name: 1) for step in executable.steps]


def test_the_cost_of_a_map():
    x, y = ops.input("x", f32, (N, 8)), ops.input("y", f32, (8,))
    wide = ops.broadcast(y, (N, 8), (1,))
    cost, = costs({"z": ops.add(ops.mul(x, wide), ops.exp(x))}, [x, y], N=10)
    assert (cost.flops, cost.loaded, cost.stored) == (3 * 80, 4 * (80 + 8), 4 * 80)


def test_equal_kernels_of_different_sizes_cost_what_each_does():
    x, y = ops.input("x", f32, (N, 8)), ops.input("y", f32, (N, 30))
    one, other = costs({"a": ops.exp(x), "b": ops.exp(y)}, [x, y], N=10)
    assert (one.flops, one.bytes, other.flops, other.bytes) == (80, 2 * 4 * 80, 300, 2 * 4 * 300)


def test_choices_and_integers_are_no_flops():
    x, i = ops.input("x", f32, (N,)), ops.input("i", i32, (N,))
    zero = ops.broadcast(ops.constant(0.0, f32), (N,), ())
    cost, = costs({"y": ops.where(ops.lt(zero, x), x, zero)}, [x], N=9)
    assert (cost.flops, cost.bytes) == (0, 4 * 18)
    cost, = costs({"y": ops.mul(i, i)}, [i], N=9)
    assert cost.flops == 0


def test_the_cost_of_sums_by_rows_and_by_columns():
    x = ops.input("x", f32, (N, 8))
    for axis, out in ((1, 10), (0, 8)):
        cost, = costs({"y": ops.reduce(x, "sum", (axis,))}, [x], N=10)
        assert (cost.flops, cost.loaded, cost.stored) == (80, 4 * 80, 4 * out)


def test_overlapping_windows_load_an_element_once():
    fn = netc.compile("net 1\nmodel M(x: f32[N, 9, 9, 2]):\n    return MaxPool2D(3, strides = 1)(x)\n")
    program = fn.lower("predict")
    executable = Executable(optimize(program.graph), program.layout)
    pooling, = (step for step in executable.steps if step.label == "max_pool")
    cost = cost_of(pooling, {"N": 4}, lambda name: 1)
    assert cost.loaded == 4 * 4 * 9 * 9 * 2 and cost.stored == 4 * 4 * 7 * 7 * 2
    assert cost.flops == 8 * 4 * 7 * 7 * 2      # the largest of nine takes eight comparisons


def test_the_cost_of_a_gather():
    table, i = ops.input("table", f32, (100, 6)), ops.input("i", i32, (N,))
    cost, = costs({"y": ops.gather(table, i)}, [table, i], N=10)
    assert (cost.flops, cost.loaded, cost.stored) == (0, 4 * (60 + 10), 4 * 60)


@pytest.mark.parametrize("body, flops", [
    ("Dense(7, use_bias = false)(x)", 2 * 10 * 9 * 9 * 3 * 7),
    ("Conv2D(4, 3, use_bias = false)(x)", 2 * 10 * 7 * 7 * 3 * 3 * 3 * 4),
    ("Conv2D(4, 3, strides = 2, padding = same, use_bias = false)(x)", 2 * 10 * 5 * 5 * 3 * 3 * 3 * 4),
    # every element of the image meets every element of the kernel once, whatever the stride
    ("Conv2DTranspose(4, 4, strides = 2, padding = valid, use_bias = false)(x)", 2 * 10 * 9 * 9 * 3 * 4 * 4 * 4),
    ("SimpleRNN(6, use_bias = false)(x[:, 0])", 10 * 9 * 2 * (3 * 6 + 6 * 6)),
])
def test_the_work_of_products(body, flops):
    fn = netc.compile(f"net 1\nmodel M(x: f32[N, 9, 9, 3]):\n    return {body}\n")
    graph = optimize(fn.lower("predict").graph)
    allowed = 1.25 if "Transpose" in body else 1.0      # its border is computed with the rest
    assert flops <= evaluate(contraction_flops(graph.nodes()), {"N": 10}) <= allowed * flops


def test_products_cost_what_the_graph_says():
    fn = netc.compile(EXAMPLES / "autoencoder.net")
    program = fn.lower("gradient")
    graph = optimize(program.graph)
    executable = Executable(graph, program.layout)
    products = [step for step in executable.steps if step.matrix is not None]
    loops = [step for step in executable.steps if step.label == "contract" and step.matrix is None]
    total = sum(cost_of(step, {"N": 4}, lambda name: 1).flops for step in products + loops)
    assert len(products) > 15 and total == evaluate(contraction_flops(graph.nodes()), {"N": 4})


def test_the_flops_of_functions_are_those_that_are_emitted():
    assert vector_math.flops("sqrt") == 1 and vector_math.flops("rsqrt") == 2 and vector_math.flops("abs") == 0
    # clamping; two fma and a subtraction for each of x's parts; a polynomial of degree 4 and what is around it
    assert 15 < vector_math.flops("exp") < vector_math.flops("tanh") < 60


def test_names_follow_the_model_through_gradients():
    fn = netc.compile(EXAMPLES / "inception.net")
    program = fn.lower("step")
    executable = Executable(optimize(program.graph), program.layout)
    names = Names(fn.model, program, executable.graph, training=True)
    named = [names.of(step.values) for step in executable.steps]
    found = {name for group in named for name in group}
    for name in ("inception_1.conv2d_3.y", "grad inception_1.conv2d_3.kernel", "grad inception.branch_a.bias",
                 "weights",
                 "grad dense.kernel", "inception.max_pool2d"):
        assert name in found, found
    assert all(named)


@pytest.fixture(scope="module")
def fn():
    return netc.compile(SOURCE)


def test_a_profile_of_random_inputs(fn):
    found = fn.profile("step", batch=6, sizes={"T": 3})
    assert found.sizes == {"N": 6, "T": 3} and found.seconds > 0
    assert found.flops == sum(row.flops for row in found.kernels) > found.work_flops >= 2 * 2 * 6 * 20 * 5
    assert sum(row.share for row in found.kernels) == pytest.approx(1)
    assert [row.seconds for row in found.kernels] == sorted((row.seconds for row in found.kernels), reverse=True)
    assert any("grad y.kernel" in row.values or "grad dense.kernel" in row.values for row in found.kernels)
    assert any(row.kernel.startswith("product 6x5x20") for row in found.kernels)
    text = str(found)
    assert "GFLOP/s" in text and "of roofline" in text and max(map(len, text.splitlines())) <= 170
    assert json.loads(json.dumps(found.to_dict()))["steps"][0]["seconds"] >= 0


def test_the_cost_of_a_program(fn):
    one, many = (fn.cost("step", batch=batch, sizes={"T": 3}) for batch in (1, 6))
    assert many.sizes == {"N": 6, "T": 3} and many.work_flops == 6 * one.work_flops >= 2 * 2 * 6 * 20 * 5
    assert one.flops > one.work_flops and one.bytes > 4 * 3 * fn.layout.size and one.live <= one.arena <= one.memory
    data = {"x": np.ones((4, 3, 20), np.float32), "place": np.array([0, 6, 1, 2])}
    assert fn.cost("predict", data).sizes == {"N": 4, "T": 3}


def test_a_profile_of_data_and_of_weights(fn):
    data = {"x": np.ones((4, 2, 20), np.float32), "place": np.array([0, 6, 1, 2])}
    found = fn.profile("predict", data, weights=fn.init(1))
    assert found.sizes == {"N": 4, "T": 2}
    with pytest.raises(netc.InputError, match="`batch` and `sizes`, or data"):
        fn.profile("predict", data, batch=3)
    with pytest.raises(netc.InputError, match="holds 7"):
        fn.profile("predict", data | {"place": np.array([0, 7, 1, 2])})


def test_what_cannot_be_profiled(fn):
    with pytest.raises(netc.InputError, match="no size `Q`; the sizes are `N`, `T`"):
        fn.profile(sizes={"Q": 3})
    with pytest.raises(netc.ModelError, match="no program 'train'"):
        fn.profile("train")
    with pytest.raises(netc.ModelError, match="no kernels"):
        netc.compile(SOURCE, target="numpy").profile()


def test_random_inputs_stay_in_range(fn):
    made = random_inputs(fn.program("gradient").signature, 500, {})
    assert made["place"].min() == 0 and made["place"].max() == 6 and made["x"].shape == (500, 16, 20)


def test_the_roofline_is_measured():
    found = roofline()
    assert found is roofline() and found.threads >= 1 and found.flops > 1e8
    assert all(rate > 1e7 for _, rate in found.bandwidths)


def test_a_floor_is_the_slower_of_arithmetic_and_traffic():
    limits = Roofline(1, 1e9, ((100, 4e9), (10_000, 2e9)))
    assert limits.bandwidth(1) == 4e9 and limits.bandwidth(1000) == pytest.approx(3e9) \
        and limits.bandwidth(10 ** 9) == 2e9
    assert limits.seconds(2e9, 1, 100) == 2 and limits.seconds(1, 8e9, 100) == 2


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "line.net").write_text(SOURCE)

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["profile", "line.net", *map(str, arguments)])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return ended.value.code or 0, captured.out, captured.err
    return run


def test_the_command(command, tmp_path):
    code, out, _ = command("--batch", 6, "--size", "T=3", "--program", "step")
    assert code == 0 and "Line, program step, N = 6, T = 3" in out and "product 6x5x20" in out and "total" in out
    code, out, _ = command("--batch", 6, "--steps", "--top", 1)
    assert code == 0 and "more" in out
    np.savez(tmp_path / "d.npz", x=np.zeros((9, 2, 20)), place=np.zeros(9, int))
    code, out, _ = command("--data", "d.npz", "--batch", 6, "--json")
    assert code == 0 and json.loads(out)["sizes"] == {"N": 6, "T": 2}


@pytest.mark.parametrize("arguments, code, message", [
    (["--size", "T"], 2, "NAME=NUMBER"), (["--size", "T=0"], 2, "NAME=NUMBER"), (["--size", "S=3"], 1, "no size `S`"),
    (["--program", "train"], 2, "step"), (["--data", "none.npz"], 1, "none.npz")])
def test_wrong_usage_of_the_command(command, arguments, code, message):
    found, _, err = command(*arguments)
    assert found == code and message in err
