"""Steps of a GPU over the same rows become one kernel.  No GPU is needed to see that; cuda_device.py runs some."""

from __future__ import annotations

import pytest

from netc.compiler import ops, pipeline_cuda
from netc.compiler.emit_cuda import emit
from netc.compiler.ir import Graph
from netc.compiler.loops import Combine, Let, Load, Share, Store, format_kernel, statements
from netc.compiler.pipeline import optimize
from netc.compiler.pipeline_cuda import CudaExecutable
from netc.compiler.types import Dim, f32, i32

N, T = Dim.symbol("N"), Dim.symbol("T")
x, g = ops.input("x", f32, (N, 4, T)), ops.input("g", f32, (N, 4, T))


def over(value, like=x, axes=(0, 1)):
    return ops.broadcast(value, like.shape, axes)


def softmax(value, axis=2):
    kept = tuple(k for k in range(3) if k != axis)
    e = ops.exp(ops.sub(value, over(ops.reduce(value, "max", (axis,)), value, kept)))
    return ops.div(e, over(ops.reduce(e, "sum", (axis,)), value, kept))


def normalised(value):
    def mean(of):
        return over(ops.div(ops.reduce(of, "sum", (2,)), ops.broadcast(ops.constant(8.0, f32), (N, 4), ())), value)
    centred = ops.sub(value, mean(value))
    return ops.div(centred, ops.sqrt(mean(ops.mul(centred, centred))))


def slope(p):
    """The gradient of a softmax."""
    weighted = ops.mul(g, p)
    return ops.sub(weighted, ops.mul(p, over(ops.reduce(weighted, "sum", (2,)))))


def steps(monkeypatch, *values):
    """The steps as they are, and how many there were."""
    def compiled():
        outputs = {f"y{k}": each for k, each in enumerate(values)}
        return CudaExecutable(optimize(Graph((x, g), outputs)), {x: ("x", 0), g: ("g", 0)}).steps
    joined = compiled()
    with monkeypatch.context() as patch:
        patch.setattr(pipeline_cuda, "share_rows", tuple)
        return joined, len(compiled())


def found(step, kind) -> list:
    return [s for s in statements(step.kernel.body) if isinstance(s, kind)]


@pytest.mark.parametrize("make, before, loops", [
    (softmax, 4, 3), (normalised, 3, 3), (lambda v: normalised(softmax(v)), 7, 5), (lambda v: slope(softmax(v)), 5, 4)])
def test_what_works_on_rows_is_one_kernel_that_stores_its_result_alone(monkeypatch, make, before, loops):
    (step,), apart = steps(monkeypatch, make(x))
    assert apart == before and step.label == "rows" and step.lanes == 32
    assert len(found(step, Store)) == 1 and len(found(step, Share)) == loops
    assert len(found(step, Combine)) == loops - 1


def test_a_loop_over_a_row_computes_again_what_it_needs_of_an_earlier_one(monkeypatch):
    (step,), _ = steps(monkeypatch, softmax(x))
    assert format_kernel(step.kernel) == """kernel(b0: f32, b1: f32)
  parallel i0 < 4*N:
    total2 = f32(-inf)
    lanes share r1 < T:
      v1 = b0[T*i0 + r1]
      v3 = maximum_any_order(total2, v1)
      total2 := v3
    total2 = maximum of the lanes' total2
    total6 = f32(0.0)
    lanes share r1 < T:
      v1 = b0[T*i0 + r1]
      v4 = sub(v1, total2)
      v5 = exp(v4)
      v7 = add_any_order(total6, v5)
      total6 := v7
    total6 = add of the lanes' total6
    lanes share r1 < T:
      v1 = b0[T*i0 + r1]
      v4 = sub(v1, total2)
      v5 = exp(v4)
      v8 = div(v5, total6)
      b1[T*i0 + r1] = v8"""


def test_what_somebody_else_reads_is_stored_and_read_back(monkeypatch):
    e = ops.exp(ops.sub(x, over(ops.reduce(x, "max", (2,)))))
    (step,), _ = steps(monkeypatch, ops.div(e, over(ops.reduce(e, "sum", (2,)))), e)
    assert [let.op for let in found(step, Let)].count("exp") == 1
    stored = found(step, Store)
    assert len(stored) == 2 and sum(s.buffer == stored[0].buffer for s in found(step, Load)) == 1


def test_what_costs_too_much_to_compute_again_is_read_back(monkeypatch):
    dear = ops.erf(ops.sin(ops.exp(ops.tanh(x))))
    (step,), _ = steps(monkeypatch, ops.div(dear, over(ops.reduce(dear, "sum", (2,)))))
    assert [let.op for let in found(step, Let)].count("erf") == 1 and len(found(step, Store)) == 2


@pytest.mark.parametrize("length, lanes", [(8, 1), (40, 32), (512, 256)])
def test_the_longer_a_row_the_more_threads_share_it(length, lanes):
    row = ops.input("row", f32, (N, 4, length))
    step, = CudaExecutable(optimize(Graph((row,), {"y": softmax(row)})), {row: ("row", 0)}).steps
    assert step.lanes == lanes and ("cuda.syncthreads()" in emit(step.kernel, lanes).text) == (lanes > 1)


def test_values_of_several_dtypes_meet_in_memory_of_their_own(monkeypatch):
    counted = ops.reduce(ops.cast(ops.lt(x, g), i32), "sum", (2,))
    (step,), before = steps(monkeypatch, ops.reduce(ops.mul(x, g), "sum", (2,)), counted)
    source = emit(step.kernel, step.lanes).text
    assert before == 2 and all(f"shared_{dtype} = cuda.shared.array(32, type_{dtype})" in source
                               for dtype in ("f32", "i32"))


@pytest.mark.parametrize("make", [
    lambda: (softmax(x, 1),),                                                           # rows of another axis
    lambda: (ops.sub(x, ops.broadcast(ops.reduce(x, "max", (0, 1, 2)), x.shape, ())),),      # one row of all
])
def test_what_needs_other_rows_stays_apart(monkeypatch, make):
    joined, before = steps(monkeypatch, *make())
    assert len(joined) == before > 1


def test_an_element_that_another_lane_wrote_is_not_read(monkeypatch):
    e = ops.exp(ops.sub(x, over(ops.reduce(x, "max", (2,)))))
    for axes in ((0,), (2,)):
        turned = ops.reduce(ops.mul(ops.reverse(e, axes), g), "sum", (2,))
        joined, before = steps(monkeypatch, turned, e)
        assert (len(joined), before) == (2, 3)
