"""A model made of kinds of layers that were seen before needs few kernels of its own, whatever its sizes."""

from __future__ import annotations

import numpy as np
import pytest

import netc
from netc.compiler.emit_cpu import emit
from netc.compiler.loops import Affine, Divide, For, Kernel, Load, Store, Units, Within
from netc.compiler.nest import View
from netc.compiler.rebase import rebase
from netc.compiler.schedule import Buffer, Step
from netc.compiler.types import f32


def copying(rows: int, columns: int, read_stride: int, write_stride: int, shift: int = 0) -> Kernel:
    load = Load("v", 0, Affine({"i": read_stride, "j": 1}, shift))
    store = Store(1, Affine({"i": write_stride, "j": 1}, shift), "v")
    return Kernel((f32, f32), (Units((("k", rows), ("i", rows)), (For("j", columns, (load, store)),)),))


def test_equal_sizes_of_different_things_are_arguments_each():
    sources = [emit(copying(*sizes)) for sizes in ((5, 5, 5, 5, 5), (5, 6, 6, 7, 5), (4, 5, 6, 7, 8))]
    assert len({source.text for source in sources}) == 1
    assert [source.integers for source in sources[1:]] == [(5, 6, 6, 5, 7, 5), (4, 5, 6, 8, 7, 8)]
    assert emit(copying(4, 5, 6, 1)).text != sources[0].text        # what lies beside each other is worth a kernel


def test_a_size_that_is_told_twice_is_one_argument():
    shift = Affine({"i": 7, "j": 1}, 9)
    body = (Divide("q", "e", shift, 3), Within("g", ((shift, 9, 20),)), Load("v", 0, shift), Store(0, shift, "v"))
    source = emit(Kernel((f32,), (Units((("i", 6),), (For("j", 6, body),)),)))
    assert source.integers == (6, 7, 9, 7, 9, 9, 20, 7, 9)


RECURRENT = """net 1
model M(units: int)(x: i32[N, T], z: f32[N, 5]) -> f32[N, K]:
    h = x |> Embedding(50, units) |> LSTM(units)
    return concat(h, z) |> Dense(K)
train M:
    input y: f32[N, K]
    loss square = mean((output - y) ** 2)
    optimizer = adam()
"""


@pytest.mark.parametrize("known, new", [(24, 5), (5, 24), (16, 5)])
def test_a_model_of_other_sizes_needs_no_kernels(known, new):
    """Five is the width of what the LSTM's output is joined with, too."""
    def kernels(units: int) -> set[str]:
        fn = netc.compile(RECURRENT.replace("K", "5"), settings={"units": units})
        programs = fn.program("predict"), fn.program("step"), fn.bound_program()[1]
        return {source.text for program in programs for source in program.executable.sources.values()}
    assert kernels(new) <= kernels(known)


def test_where_operands_begin_is_no_part_of_a_kernel():
    text = """net 1
model M(x: f32[N, 6], z: f32[N, 8]) -> (a: f32[N, 14], b: f32[N, 4]):
    a = concat(tanh(x), tanh(z))
    b = tanh(z[:, 3:7])
"""
    fn = netc.compile(text)
    kernels = fn.program("predict").executable.kernels()
    assert len(kernels) == 1, "\n".join(source for _, source in kernels)
    w, rng = fn.init(), np.random.default_rng(0)
    x, z = rng.normal(size=(5, 6)).astype(np.float32), rng.normal(size=(5, 8)).astype(np.float32)
    a, b = fn(w, x=x, z=z)
    np.testing.assert_array_equal(b, a[:, 9:13])
    np.testing.assert_allclose(a, np.tanh(np.concatenate([x, z], 1)), rtol=1e-6)


def test_a_view_begins_where_all_accesses_do():
    def body(*offsets, guard=None):
        loads = tuple(Load(f"v{k}", 0, Affine({"i": 7}, offset), guard=guard) for k, offset in enumerate(offsets))
        return Kernel((f32, f32), (Units((("i", 6),), (*loads, Store(1, Affine({"i": 1}, 2), "v0"))),))
    views = (View(Buffer(60, f32), 5, f32), View(Buffer(60, f32), 0, f32))

    def rebased(kernel):
        step, = rebase([Step(kernel, views, 6, 1, "map")])
        return [view.offset for view in step.views], step.kernel
    assert rebased(body(3, 3)) == ([8, 2], Kernel((f32, f32), (Units((("i", 6),), (
        Load("v0", 0, Affine({"i": 7})), Load("v1", 0, Affine({"i": 7})), Store(1, Affine({"i": 1}), "v0"))),)))
    assert rebased(body(3, 4))[0] == [5, 2]             # what lies beside each other is known to LLVM
    assert rebased(body(3, 3, guard="g"))[0] == [5, 2]  # where the guard fails the first element of all is read


def test_like_layers_share_their_kernels():
    text = ("net 1\nmodel M(x: f32[N, 6]) -> f32[N, 6]:\n    for i in range(4):\n        x = x + Dense(6, tanh)(x)\n"
            "    return x\n")
    executable = netc.compile(text).program("predict").executable
    kernels = [step.kernel for step in executable.steps if step.kernel is not None]
    assert len(kernels) > len(set(map(id, kernels)))
    sources = {step: executable.sources[step] for step in executable.steps if step.kernel is not None}
    assert all(emit(step.kernel) == source for step, source in sources.items())


ODD = """net 1
model M(x: f32[N, 11, 11, 4]) -> f32[N, 1]:
    return x |> Conv2D(4, 1) |> MaxPool2D(2) |> Conv2D(1, 1) |> GlobalAvgPool2D()
train M:
    loss square = mean(output ** 2)
    optimizer = sgd()
"""


def test_elements_at_each_place_of_a_window_share_a_kernel():
    """Where windows do not cover an image, the elements at each place of a window have a step of their own."""
    executable = netc.compile(ODD).program("step").executable
    puts = [source.text for step, source in executable.sources.items() if step.label == "window_put"]
    assert len(puts) == 4 and len(set(puts)) == 1
