"""Kernels over the same rows become one, with the same bits; over other rows they stay apart."""

from __future__ import annotations

import re

import numpy as np
import pytest

import netc
from netc.compiler import ops, pipeline
from netc.compiler.interpret import interpret
from netc.compiler.ir import Graph
from netc.compiler.pipeline import Executable, optimize
from netc.compiler.rows import join_rows
from netc.compiler.types import Dim, f32
from netc.runtime import listing

N, T = Dim.symbol("N"), Dim.symbol("T")
x, b = ops.input("x", f32, (N, 4, T)), ops.param("b", f32, (T,))


def over(value, like=x, axes=(0, 1)):
    return ops.broadcast(value, like.shape, axes)


def softmax(value, axis=2):
    kept = tuple(k for k in range(3) if k != axis)
    e = ops.exp(ops.sub(value, over(ops.reduce(value, "max", (axis,)), axes=kept)))
    return ops.div(e, over(ops.reduce(e, "sum", (axis,)), axes=kept))


def normalised(value):
    mean = ops.div(ops.reduce(value, "sum", (2,)), ops.broadcast(ops.constant(8.0, f32), (N, 4), ()))
    return ops.mul(ops.sub(value, over(mean)), over(b, axes=(2,)))


def executables(monkeypatch, value, *more):
    """The compiled graph with rows joined, and without."""
    def compiled():
        outputs = {f"y{k}": each for k, each in enumerate((value, *more))}
        return Executable(optimize(Graph((x, b), outputs)), {x: ("x", 0), b: ("b", 0)})
    joined = compiled()
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "join_rows", lambda steps: steps)
        return joined, compiled()


def agree(joined, apart, value, *more):
    for sizes in ({"N": 1, "T": 1}, {"N": 3, "T": 7}, {"N": 5, "T": 40}):
        rng = np.random.default_rng(0)
        arrays = {"x": rng.normal(size=(sizes["N"], 4, sizes["T"])).astype(np.float32),
                  "b": rng.normal(size=sizes["T"]).astype(np.float32)}
        results = [executable.run(arrays, sizes) for executable in (joined, apart)]
        want = interpret(Graph((x, b), {f"y{k}": each for k, each in enumerate((value, *more))}),
                         {x: arrays["x"], b: arrays["b"]}, sizes)
        for name in want:
            assert results[0][name].tobytes() == results[1][name].tobytes()
            np.testing.assert_allclose(results[0][name], want[name], rtol=1e-5, atol=1e-6)


def scaled(value):
    """By what is computed of a row's sum, which is an element for each row."""
    root = ops.sqrt(ops.sqrt(ops.reduce(ops.mul(value, value), "sum", (2,))))
    return ops.sub(ops.mul(value, over(root)), over(ops.mul(root, root)))


@pytest.mark.parametrize("make, before", [(softmax, 4), (normalised, 2), (scaled, 3),
                                          (lambda v: normalised(softmax(v)), 5)])
def test_what_works_on_rows_is_one_kernel(monkeypatch, make, before):
    value = make(x)
    joined, apart = executables(monkeypatch, value)
    assert (len(joined.steps), len(apart.steps)) == (1, before)
    assert joined.steps[0].label == "rows"
    agree(joined, apart, value)


@pytest.mark.parametrize("make", [
    lambda: (softmax(x, 1),),                                                   # rows of another axis
    lambda: (ops.sub(x, ops.broadcast(ops.reduce(ops.exp(x), "max", (0, 1, 2)), x.shape, ())),),    # one of them all
])
def test_what_needs_other_rows_stays_apart(monkeypatch, make):
    values = make()
    joined, apart = executables(monkeypatch, *values)
    assert len(joined.steps) == len(apart.steps) > 1
    agree(joined, apart, *values)


def test_elements_moved_to_other_rows_stay_apart(monkeypatch):
    e = ops.exp(ops.sub(x, over(ops.reduce(x, "max", (2,)))))
    turned = ops.reduce(ops.mul(ops.reverse(e, (0,)), x), "sum", (2,))      # of the row of another sample
    joined, apart = executables(monkeypatch, turned, e)
    agree(joined, apart, turned, e)
    assert len(joined.steps) == 2 and len(apart.steps) == 3


def test_an_attention_layer_has_one_kernel_for_its_softmax():
    fn = netc.compile("net 1\nmodel M(x: f32[N, T, 16]):\n    return MultiHeadAttention(2, 8)(x, x)\n")
    steps = fn.program("predict").executable.steps
    assert sum(step.label == "rows" for step in steps) == 1
    assert join_rows(steps) == list(steps)


def test_the_largest_of_a_row_is_found_by_vectors_and_a_nan_is_larger():
    graph = Graph((x,), {kind: ops.reduce(x, kind, (2,)) for kind in ("max", "min")})
    found = Executable(optimize(graph), {x: ("x", 0)})
    code = "".join(listing.listing(text, "asm") for _, text in found.kernels())
    assert re.search(r"maxps|fmax\tv", code) and re.search(r"minps|fmin\tv", code)
    for length in (1, 8, 37, 70):
        rows = np.random.default_rng(0).normal(size=(length + 3, 4, length)).astype(np.float32)
        rows[range(length), 1, range(length)] = np.nan              # at each place of a row
        rows[:, 2] = -np.inf
        rows[0, 3] = np.inf
        results = found.run({"x": rows}, {"N": length + 3, "T": length})
        np.testing.assert_array_equal(results["max"], rows.max(axis=2))
        np.testing.assert_array_equal(results["min"], rows.min(axis=2))


def test_a_factor_for_each_row_does_not_turn_sums_over_rows(monkeypatch):
    """Rows are added up element by element, in memory's order, though the factors lie one after the other."""
    factors = ops.reduce(x, "max", (2,))
    sums = ops.reduce(ops.mul(ops.exp(x), over(factors)), "sum", (1,))
    joined, apart = executables(monkeypatch, sums)
    assert [step.label for step in joined.steps] == ["rows", "columns"]
    agree(joined, apart, sums)
