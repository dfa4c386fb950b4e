"""The compiler against the interpreter: every primitive's samples, then graphs that exercise fusion and scans."""

from __future__ import annotations

import numpy as np
import pytest

from netc.compiler import ops
from netc.compiler.gradient import grad
from netc.compiler.interpret import interpret
from netc.compiler.ir import Graph, topological
from netc.compiler.loops import Store, statements
from netc.compiler.pipeline import Executable, optimize
from netc.compiler.types import Dim, evaluate, f32, f64, i32
from netc.runtime import machine

N = Dim.symbol("N")
NOT_ALONE = {"orthogonal", "local"}   # only the interpreter makes weights; a body has locals


def run_both(outputs, leaves, sizes=None, seed=0, tolerance=1e-12):
    """Run a graph compiled and interpreted on the same arrays; the compiled answers, once they agree."""
    sizes = sizes or {}
    rng = np.random.default_rng(seed)
    arrays = {}
    for leaf in leaves:
        if isinstance(leaf, tuple):
            leaf, arrays[leaf[0]] = leaf[0], leaf[1]
            continue
        shape = tuple(evaluate(size, sizes) for size in leaf.shape)
        arrays[leaf] = _values(rng, leaf.dtype, shape)
    graph = Graph(tuple(arrays), outputs)
    want = interpret(graph, arrays, sizes)
    executable = Executable(optimize(graph), {leaf: (f"s{k}", 0) for k, leaf in enumerate(arrays)})
    got = executable.run({f"s{k}": np.ascontiguousarray(a) for k, a in enumerate(arrays.values())}, sizes)
    for name in want:
        assert got[name].shape == np.shape(want[name])
        assert got[name].dtype == want[name].dtype
        np.testing.assert_allclose(got[name], want[name], rtol=tolerance, atol=tolerance)
    return got


def _values(rng, dtype, shape):
    if dtype.kind == "float":
        return rng.uniform(0.2, 0.9, shape).astype(dtype.numpy)
    if dtype.kind == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    return rng.integers(0, 2, shape).astype(dtype.numpy)


@pytest.mark.parametrize("name", [n for n, p in ops.PRIMITIVES.items() if p.sample and n not in NOT_ALONE])
def test_a_primitive_compiles_to_the_interpreters_values(name):
    samples = list(ops.PRIMITIVES[name].sample(np.random.default_rng(3)))
    for number, sample in enumerate(samples[:8]):
        root = sample[0] if isinstance(sample, tuple) else sample
        roots = {"y": root} if not isinstance(root.type, tuple) else {
            f"y{k}": ops.item(root, k) for k in range(len(root.type))}
        leaves = [n for n in topological(roots.values()) if n.op.name in ("input", "param", "state")]
        run_both(roots, leaves, {"N": 3, "M": 5}, seed=number, tolerance=1e-9)


def test_a_symbolic_batch_compiles_once():
    x, w = ops.input("x", f32, (N, 5)), ops.param("w", f32, (5, 7))
    y = ops.tanh(ops.matmul(x, w))
    graph = optimize(Graph((x, w), {"y": y}))
    executable = Executable(graph, {x: ("x", 0), w: ("w", 0)})
    weights = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    count = None
    for batch in (3, 1, 32, 7, 2, 240):
        data = np.random.default_rng(batch).normal(size=(batch, 5)).astype(np.float32)
        got = executable.run({"x": data, "w": weights}, {"N": batch})["y"]
        np.testing.assert_allclose(got, np.tanh(data @ weights), rtol=2e-6, atol=1e-6)
        count = machine.counts.total if count is None else count
        assert machine.counts.total == count


def test_symbolic_columns_compile_once():
    length = Dim.symbol("T")
    x, y = ops.input("x", f32, (N, length, 6)), ops.input("y", f32, (N, length, 6))
    scores = ops.product(x, "nik", y, "njk", "nij")
    mixed = ops.product(scores, "nij", y, "njk", "nik")
    executable = Executable(optimize(Graph((x, y), {"mixed": mixed})), {x: ("x", 0), y: ("y", 0)})
    counts = set()
    for batch, size in ((2, 5), (1, 1), (3, 16), (1, 37), (2, 2)):
        a, b = np.random.default_rng(size).normal(size=(2, batch, size, 6)).astype(np.float32)
        got = executable.run({"x": a.copy(), "y": b.copy()}, {"N": batch, "T": size})["mixed"]
        np.testing.assert_allclose(got, a @ b.transpose(0, 2, 1) @ b, rtol=1e-4, atol=1e-4)
        counts.add(machine.counts.total)
    assert len(counts) == 1


def test_a_row_does_not_depend_on_the_rows_beside_it():
    x, w = ops.input("x", f32, (N, 33)), ops.param("w", f32, (33, 19))
    h = ops.matmul(x, w)
    top = ops.broadcast(ops.reduce(h, "max", (1,)), (N, 19), (0,))
    e = ops.exp(ops.sub(h, top))
    y = ops.div(e, ops.broadcast(ops.reduce(e, "sum", (1,)), (N, 19), (0,)))
    executable = Executable(optimize(Graph((x, w), {"y": y})), {x: ("x", 0), w: ("w", 0)})
    rng = np.random.default_rng(1)
    data, weights = rng.normal(size=(32, 33)).astype(np.float32), rng.normal(size=(33, 19)).astype(np.float32)
    whole = executable.run({"x": data, "w": weights}, {"N": 32})["y"]
    for batch in (1, 7, 31):
        part = executable.run({"x": data[:batch].copy(), "w": weights}, {"N": batch})["y"]
        assert part.tobytes() == whole[:batch].tobytes()


def test_a_flat_concat_is_written_in_place():
    x = ops.input("x", f32, (N, 4))
    a, b = ops.reduce(x, "sum", (0,)), ops.reduce(x, "max", (0,))
    flat = ops.concat((a, ops.reshape(b, (4,))), 0)
    executable = Executable(optimize(Graph((x,), {"flat": flat})), {x: ("x", 0)})
    assert len(executable.steps) == 2          # one kernel a piece, no copy
    run_both({"flat": flat}, [x], {"N": 6}, tolerance=1e-6)


def test_an_output_may_be_an_input_and_appear_twice():
    x = ops.input("x", f32, (N, 3))
    y = ops.exp(x)
    run_both({"a": x, "b": y, "c": y, "d": ops.reshape(y, (N * 3,))}, [x], {"N": 4}, tolerance=1e-6)


def test_integer_and_boolean_values():
    x = ops.input("k", i32, (N, 6))
    hit = ops.eq(x, ops.broadcast(ops.constant(1, i32), (N, 6), ()))
    count = ops.reduce(ops.cast(hit, i32), "sum", (1,))
    run_both({"hit": hit, "count": count, "best": ops.argmax(x, 1)}, [x], {"N": 5})


def test_sizes_of_the_model_reach_values():
    x = ops.input("x", f64, (N, 2))
    mean = ops.div(ops.reduce(x, "sum", (0, 1)), ops.size(N * 2, f64))
    run_both({"mean": mean}, [x], {"N": 9})


def lstm(x, w, u, units):
    """An LSTM's last output over x [T, N, D], as a scan."""
    length, batch = x.shape[0], x.shape[1]
    h, c, z, r = (ops.local(k, x.dtype, shape) for k, shape in enumerate(
        [(batch, units), (batch, units), (batch, 4 * units), (units, 4 * units)]))
    gates = ops.add(z, ops.matmul(h, r))
    i, f, g, o = (ops.slice(gates, (0, k * units), (batch, (k + 1) * units)) for k in range(4))
    cell = ops.add(ops.mul(ops.sigmoid(f), c), ops.mul(ops.sigmoid(i), ops.tanh(g)))
    out = ops.mul(ops.sigmoid(o), ops.tanh(cell))
    body = Graph((h, c, z, r), {"0": out, "1": cell, "2": out})
    zeros = ops.broadcast(ops.constant(0, x.dtype), (batch, units), ())
    loop = ops.scan((zeros, zeros), (ops.product(x, "tnd", w, "dk", "tnk"),), (u,), body, length)
    return ops.item(loop, 0), ops.item(loop, 2)


@pytest.mark.parametrize("dtype, tolerance", [(f64, 1e-10), (f32, 2e-5)])
def test_a_scan_and_its_gradient(dtype, tolerance):
    x, w = ops.input("x", dtype, (Dim.symbol("T"), N, 3)), ops.param("w", dtype, (3, 16))
    u = ops.param("u", dtype, (4, 16))
    last, every = lstm(x, w, u, 4)
    loss = ops.add(ops.reduce(ops.mul(last, last), "sum", (0, 1)), ops.reduce(every, "sum", (0, 1, 2)))
    dx, dw, du = grad(loss, [x, w, u])
    for length in (1, 2, 5):
        run_both({"last": last, "every": every, "loss": loss, "dx": dx, "dw": dw, "du": du}, [x, w, u],
                 {"T": length, "N": 3}, tolerance=tolerance)


@pytest.mark.parametrize("dtype, tolerance", [(f64, 1e-10), (f32, 5e-5)])
@pytest.mark.parametrize("size, kernel, stride, low, out, channels, filters", [
    (8, 3, 1, 0, 6, 3, 16), (9, 3, 2, 1, 5, 16, 8), (8, 5, 2, 2, 4, 10, 10), (7, 1, 2, 0, 4, 5, 40),
    (6, 2, 3, 0, 2, 1, 4), (12, 3, 1, 1, 12, 8, 1),
])
def test_a_convolution_and_its_gradients(size, kernel, stride, low, out, channels, filters, dtype, tolerance):
    x = ops.input("x", dtype, (N, size, size, channels))
    w = ops.param("w", dtype, (kernel, kernel, channels, filters))
    y = ops.convolution(x, w, (stride, stride), (1, 1), (low, low), (out, out))
    loss = ops.reduce(ops.mul(y, y), "sum", (0, 1, 2, 3))
    dx, dw = grad(loss, [x, w])
    run_both({"y": y, "dx": dx, "dw": dw}, [x, w], {"N": 3}, tolerance=tolerance)


@pytest.mark.parametrize("length, size, stride, low, out", [
    (7, 3, 2, 1, 4),        # windows overlap
    (8, 2, 2, 0, 4),        # they do not
    (9, 3, 3, 0, 3),
    (8, 3, 3, 0, 2),        # and leave elements at the end,
    (10, 2, 3, 0, 3),       # or between them
    (9, 2, 3, 1, 4),
    (6, 3, 1, 1, 6),
    (5, 1, 2, 0, 3),
    (1, 3, 4, 1, 1),        # fewer elements than a stride
    (20, 7, 7, 0, 2),       # too large to be read at once
])
def test_max_pooling_and_its_gradient(length, size, stride, low, out):
    x = ops.input("x", f32, (N, length, length, 5))
    settings = {"sizes": (size, size), "strides": (stride, stride), "low": (low, low)}
    y = ops.window_take(x, ops.window_argmax(x, **settings, out_sizes=(out, out)), **settings, out_sizes=(out, out))
    dx, = grad(ops.reduce(ops.mul(y, y), "sum", (0, 1, 2, 3)), [x])
    run_both({"y": y, "dx": dx}, [x], {"N": 2}, tolerance=1e-6)


def test_the_gradient_of_a_pooling_whose_windows_do_not_overlap_is_one_kernel():
    x = ops.input("x", f32, (N, 12, 12, 8))
    settings = {"sizes": (3, 3), "strides": (3, 3), "low": (0, 0)}
    y = ops.window_take(x, ops.window_argmax(x, **settings, out_sizes=(4, 4)), **settings, out_sizes=(4, 4))
    dx, = grad(ops.reduce(ops.mul(y, y), "sum", (0, 1, 2, 3)), [x])
    executable = Executable(optimize(Graph((x,), {"dx": dx})), {x: ("x", 0)})
    put, = (step for step in executable.steps if step.label == "window_put")
    assert sum(isinstance(each, Store) for each in statements(put.code.body)) == 9


@pytest.mark.parametrize("channels, make, strides", [
    (8, lambda x: x, {(2, 2)}), (5, ops.neg, {(2, 2)}), (5, lambda x: x, {(2, 1), (2, 2)})])
def test_a_pooling_is_computed_where_a_convolution_with_strides_reads_it(channels, make, strides):
    """And of an image of few channels that comes in, which is read by rows, at all windows of a row."""
    x, w = ops.input("x", f32, (N, 8, 8, channels)), ops.param("w", f32, (1, 1, channels, 6))
    settings = {"sizes": (3, 3), "strides": (1, 1), "low": (1, 1)}
    image = make(x)
    pool = ops.window_take(image, ops.window_argmax(image, **settings, out_sizes=(8, 8)), **settings, out_sizes=(8, 8))
    y = ops.convolution(pool, w, (2, 2), (1, 1), (0, 0), (4, 4))
    dx, dw = grad(ops.reduce(ops.mul(y, y), "sum", (0, 1, 2, 3)), [x, w])
    compiled = optimize(Graph((x, w), {"y": y, "dx": dx, "dw": dw}))
    assert {node.attrs["strides"] for node in compiled.nodes() if node.op.name.startswith("window")} == strides
    run_both({"y": y, "dx": dx, "dw": dw}, [x, w], {"N": 3}, tolerance=1e-5)


def test_positions_from_elsewhere_may_belong_to_every_second_window():
    """As in the way back through a loop, where they are kept from the way there."""
    x, w = ops.input("x", f32, (N, 8, 8, 5)), ops.param("w", f32, (1, 1, 5, 6))
    chosen = ops.input("chosen", i32, (N, 6, 6, 5))
    pool = ops.window_take(x, chosen, (3, 3), (1, 1), (0, 0), (6, 6))
    y = ops.convolution(pool, w, (2, 2), (1, 1), (0, 0), (3, 3))
    dx, = grad(ops.reduce(ops.mul(y, y), "sum", (0, 1, 2, 3)), [x])
    run_both({"y": y, "dx": dx}, [x, w, chosen], {"N": 2}, tolerance=1e-5)


def test_an_embedding_and_its_gradient():
    table, indices = ops.param("table", f32, (11, 6)), ops.input("k", i32, (N, 4))
    y = ops.gather(table, indices)
    dt, = grad(ops.reduce(ops.mul(y, y), "sum", (0, 1, 2)), [table])
    run_both({"y": y, "dt": dt}, [table, indices], {"N": 3}, tolerance=1e-5)


@pytest.mark.parametrize("terms, columns, is_dot", [(200, 2, True), (200, 8, False), (50, 2, False)])
def test_few_columns_along_which_nothing_is_contiguous_are_dot_products(terms, columns, is_dot):
    x, w = ops.input("x", f32, (N, terms)), ops.param("w", f32, (columns, terms))
    y = ops.product(x, "nk", w, "jk", "nj")
    executable = Executable(optimize(Graph((x, w), {"y": y})), {x: ("x", 0), w: ("w", 0)})
    assert [step.matrix.is_dot for step in executable.steps] == [is_dot]
    for batch in (1, 7):
        run_both({"y": y}, [x, w], {"N": batch}, tolerance=1e-5)


def test_every_phase_of_a_strided_pointwise_convolution_is_a_product():
    x, w = ops.input("x", f32, (N, 8, 8, 5)), ops.param("w", f32, (1, 1, 5, 6))
    y = ops.convolution(x, w, (2, 2), (1, 1), (0, 0), (4, 4))
    dx, = grad(ops.reduce(ops.mul(y, y), "sum", (0, 1, 2, 3)), [x])
    executable = Executable(optimize(Graph((x, w), {"dx": dx})), {x: ("x", 0), w: ("w", 0)})
    assert sum(step.matrix is not None for step in executable.steps) == 2      # y, and one phase of dx of four
    run_both({"dx": dx}, [x, w], {"N": 3}, tolerance=1e-5)
