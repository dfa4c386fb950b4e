"""Convolutions of repeated places: the same values from a part of the products."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest

import netc
from netc.compiler import ops
from netc.compiler.gradient import grad
from netc.compiler.interpret import interpret
from netc.compiler.ir import Graph, topological
from netc.compiler.pipeline import Executable, optimize
from netc.compiler.simplify import simplify_graph
from netc.compiler.types import Dim, evaluate, f32, f64
from netc.compiler.upsampling import skip_repeats

N, H = Dim.symbol("N"), Dim.symbol("H")
SIZES = {"N": 2, "H": 5}


def repeat(x, axis, times):
    """As the language's `repeat`."""
    shape = (*x.shape[:axis + 1], times, *x.shape[axis + 1:])
    longer = (*x.shape[:axis], x.shape[axis] * times, *x.shape[axis + 1:])
    return ops.reshape(ops.broadcast(x, shape, tuple(k for k in range(len(shape)) if k != axis + 1)), longer)


def convolved(spatial, times, kernel, low=0, stride=1, transposed=False, channels=16, filters=8, dilation=1):
    """A convolution of repeated places, its gradients, and their leaves; ``low``: places added at each end."""
    x = ops.input("x", f64, (N, *spatial, channels))
    up = x
    for axis, each in enumerate(times):
        up = repeat(up, axis + 1, each) if each > 1 else up
    rank = len(spatial)
    kernels = (kernel,) * rank
    settings = (stride,) * rank, (dilation,) * rank, (low,) * rank
    if transposed:
        w = ops.param("w", f64, (*kernels, filters, channels))
        out = [(size - 1) * stride + kernel - 2 * low for size in up.shape[1:-1]]
        y = ops.convolution_transpose(up, w, *settings, out)
    else:
        w = ops.param("w", f64, (*kernels, channels, filters))
        out = [(size + 2 * low - (kernel - 1) * dilation - 1) // stride + 1 for size in up.shape[1:-1]]
        y = ops.convolution(up, w, *settings, out)
    g = ops.input("g", f64, y.shape)
    dx, dw = grad(ops.reduce(ops.mul(y, g), "sum", tuple(range(y.type.rank))), [x, w])
    return Graph((x, w, g), {"y": y, "dx": dx, "dw": dw})


def products(graph) -> dict[str, int]:
    """About how many multiply-adds the contractions take that make each result."""
    def taken(node) -> float:
        extents = (evaluate(size, SIZES) for size in (*node.shape, *node.attrs["reduce"]))
        return prod(extents) / prod(index.divisor for places in node.attrs["maps"] for index in places)
    return {name: sum(taken(node) for node in topological([root]) if node.op.name == "contract")
            for name, root in graph.outputs.items()}


def whole_numbers(graph) -> dict:
    rng = np.random.default_rng(1)
    return {leaf: rng.integers(-4, 5, [evaluate(size, SIZES) for size in leaf.shape]).astype(leaf.dtype.numpy)
            for leaf in graph.inputs}


CASES = {
    "valid": ((5, 4), (2, 2), 3, {}, 2.3),
    "same": ((5, 4), (2, 2), 3, {"low": 1}, 3.0),
    "wider than the kernel": ((4, 4), (4, 4), 3, {"low": 1}, 9.0),
    "transposed": ((4, 4), (3, 3), 3, {"transposed": True}, 6.0),
    "transposed, cropped": ((4, 5), (2, 3), 3, {"transposed": True, "low": 1}, 4.0),
    "along one axis": ((4, 5), (1, 2), 3, {"low": 1}, 1.7),
    "a sequence": ((7,), (2,), 5, {"low": 2}, 1.7),
    "a volume": ((3, 2, 3), (2, 2, 2), 3, {"low": 1}, 4.5),
    "a kernel of one place": ((4, 4), (2, 2), 1, {"channels": 64}, 2.5),
    "any height": ((H, 4), (2, 2), 3, {"low": 1}, 3.0),
}


@pytest.mark.parametrize("spatial, times, kernel, settings, fewer", CASES.values(), ids=CASES)
def test_the_same_values_from_fewer_products(spatial, times, kernel, settings, fewer):
    before = simplify_graph(convolved(spatial, times, kernel, **settings))
    after = skip_repeats(before, trains=True)
    had, has = products(before), products(after)
    assert all(had[name] > fewer * has[name] for name in had), (had, has)
    arrays = whole_numbers(before)
    want, got = (interpret(graph, arrays, SIZES) for graph in (before, after))
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value)         # of whole numbers sums are exact in any order


@pytest.mark.parametrize("spatial, times, kernel, settings, fewer", CASES.values(), ids=CASES)
def test_it_compiles_to_the_same_values(spatial, times, kernel, settings, fewer):
    graph = convolved(spatial, times, kernel, **settings)
    arrays = whole_numbers(graph)
    executable = Executable(optimize(graph, trains=True), {leaf: (f"s{k}", 0) for k, leaf in enumerate(graph.inputs)})
    got = executable.run({f"s{k}": array for k, array in enumerate(arrays.values())}, SIZES)
    for name, value in interpret(graph, arrays, SIZES).items():
        np.testing.assert_array_equal(got[name], value)


def test_both_gradients_add_up_neighbours_once():
    made = skip_repeats(simplify_graph(convolved((5, 4), (2, 2), 3, low=1)), trains=True)
    dx, dw = (next(node for node in topological([made.outputs[name]]) if node.op.name == "contract")
              for name in ("dx", "dw"))
    assert [arg for arg in dx.args if arg.op.name == "add"] == [arg for arg in dw.args if arg.op.name == "add"] != []


@pytest.mark.parametrize("times, settings", [
    ((5, 4), {}),                               # twenty additions for a value
    ((2, 2), {"stride": 2}),                    # half of the neighbours would not be read
    ((2, 2), {"dilation": 2}),
    ((2, 2), {"channels": 2, "filters": 2}),    # few products
])
def test_what_must_stay(times, settings):
    y = simplify_graph(convolved((6, 6), times, 3, low=1, **settings)).outputs["y"]
    assert skip_repeats(Graph((), {"y": y}), trains=True).outputs["y"] is y


def test_what_is_already_read_as_it_is_must_stay():
    x, w = ops.input("x", f32, (N, 6, 6, 16)), ops.param("w", f32, (3, 3, 16, 8))
    y = ops.convolution(x, w, (1, 1), (1, 1), (1, 1), (6, 6))
    graph = simplify_graph(Graph((x, w), {"y": y, "dw": grad(ops.reduce(y, "sum", (0, 1, 2, 3)), [w])[0]}))
    assert skip_repeats(graph, trains=True).outputs == graph.outputs


def test_a_decoder_is_the_function_that_it_was(tmp_path):
    """Against the interpreter, which repeats and convolves as it is told."""
    path = tmp_path / "decoder.net"
    path.write_text("""net 1

model Decoder(code: f32[N, 6, 6, 8]) -> (image: f32[N, 24, 24, 2]):
    image = code |> UpSample2D(2) |> Conv2D(12, 3, padding = same, activation = elu) |> UpSample2D((2, 2))
                 |> Conv2DTranspose(8, 3, padding = same, activation = relu) |> Conv2D(2, 1, activation = sigmoid)

train Decoder:
    input target: f32[N, 24, 24, 2]
    loss square = mean((image - target) ** 2)
    optimizer = adam(lr = 1e-3)
""")
    functions = [netc.compile(path, target=target) for target in ("cpu", "numpy")]
    weights, rng = functions[0].init(seed=3), np.random.default_rng(0)
    data = {"code": rng.normal(size=(3, 6, 6, 8)).astype(np.float32),
            "target": rng.random((3, 24, 24, 2)).astype(np.float32)}
    (loss, slope), (want, expected) = (function.value_and_grad(weights, **data) for function in functions)
    assert loss == pytest.approx(want, rel=1e-6)
    np.testing.assert_allclose(slope.flat, expected.flat, rtol=2e-5, atol=1e-7)


def test_what_both_operands_have_is_no_neighbour():
    """Heads that share keys: their gradient is a sum of products of different heads, not a product of sums."""
    keys, queries = ops.input("keys", f64, (N, 3, 8, 16)), ops.input("queries", f64, (N, 6, 8, 16))
    scores = ops.product(queries, "nhid", repeat(keys, 1, 2), "nhjd", "nhij")
    slope, = grad(ops.reduce(ops.mul(scores, scores), "sum", (0, 1, 2, 3)), [keys])
    graph = simplify_graph(Graph((keys, queries), {"scores": scores, "slope": slope}))
    assert skip_repeats(graph, trains=True).outputs == graph.outputs


def test_a_product_that_something_else_reads_stays():
    x, w = ops.input("x", f64, (N, 12, 32)), ops.input("w", f64, (32, 48))
    y = ops.product(x, "nik", w, "kj", "nij")
    graph = Graph((x, w), {"y": y, "pairs": ops.reduce(ops.reshape(y, (N, 6, 2, 48)), "sum", (2,))})
    assert skip_repeats(graph, trains=True).outputs == graph.outputs


def test_weights_are_not_added_up_in_every_step():
    x, w = ops.input("x", f64, (N, 512)), ops.param("w", f64, (512, 1024))
    graph = Graph((x, w), {"y": ops.reduce(ops.reshape(ops.matmul(x, w), (N, 512, 2)), "sum", (2,))})
    assert skip_repeats(graph, trains=True).outputs == graph.outputs


def test_an_axis_of_no_places():
    x, w = ops.input("x", f64, (0, 64)), ops.input("w", f64, (64, 64))
    y = ops.reduce(ops.reshape(ops.matmul(x, w), (0, 2, 64)), "sum", (1,))
    assert skip_repeats(Graph((x, w), {"y": y}), trains=True).outputs["y"] is y


SUMS_IN_A_PREDICTION = [
    "y = mean(reshape(x |> Dense(128, use_bias = false), (N, 8, 2, 128)), axis = 2)",
    "y = mean(reshape(x |> Dense(128, use_bias = false), (N, 16, 4, 2, 16)), axis = 3)",
    "param k: f32[32, 48] = glorot_uniform\n    y = x @ repeat(k, 2, axis = 0)",
]


@pytest.mark.parametrize("body", SUMS_IN_A_PREDICTION)
def test_bound_weights_give_the_same_bits(body):
    fn = netc.compile(f"net 1\nmodel M(x: f32[N, 16, 64]):\n    {body}\n    return y\n")
    weights = fn.init(seed=1)
    x = np.random.default_rng(0).normal(size=(3, 16, 64)).astype(np.float32)
    np.testing.assert_array_equal(fn(weights, x), fn.bind(weights)(x))


def test_a_sum_over_heads_takes_one_product():
    """sum[r] x[2 q + r] w = (sum[r] x[2 q + r]) w"""
    x, w = ops.input("x", f64, (N, 12, 32)), ops.input("w", f64, (32, 48))
    y = ops.reduce(ops.reshape(ops.product(x, "nik", w, "kj", "nij"), (N, 6, 2, 48)), "sum", (2,))
    before = Graph((x, w), {"y": y})
    after = skip_repeats(before, trains=True)
    assert products(after)["y"] * 2 == products(before)["y"]
    arrays = whole_numbers(before)
    np.testing.assert_array_equal(*(interpret(graph, arrays, SIZES)["y"] for graph in (before, after)))
