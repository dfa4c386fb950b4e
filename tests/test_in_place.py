"""Outputs that replace their inputs in memory: where that is safe, and that it changes no result."""

from __future__ import annotations

import platform
import re

import numpy as np
import pytest

import netc
from netc.compiler import ops, pipeline, programs
from netc.compiler.ir import Graph
from netc.compiler.pipeline import compile_graph
from netc.compiler.types import f32
from netc.runtime import listing

SIZE = 1000
VECTOR = ops.input("w", f32, (SIZE,))
OTHER = ops.input("x", f32, (SIZE,))


def run(outputs, replaced=("w",)):
    """What is computed in place, and every output, computed so and apart."""
    found = []
    for names in (replaced, ()):
        leaves = (VECTOR, OTHER)
        executable = compile_graph(Graph(leaves, outputs), {VECTOR: ("w", 0), OTHER: ("x", 0)}, replaced=names)
        arrays = {"w": np.arange(SIZE, dtype=np.float32), "x": np.linspace(0, 1, SIZE, dtype=np.float32)}
        before = arrays["w"].copy()
        results = executable.run(arrays, {})
        assert all(results[name] is arrays[name] for name in executable.in_place)
        assert executable.in_place or (arrays["w"] == before).all()
        found.append((executable.in_place, results))
    (in_place, results), (_, apart) = found
    assert all((results[name] == apart[name]).all() for name in outputs)
    return in_place


def test_an_element_from_itself_is_replaced():
    assert run({"w": ops.add(VECTOR, OTHER)}) == {"w"}
    total = ops.reduce(VECTOR, "sum", (0,))
    assert run({"total": total, "w": ops.sub(VECTOR, ops.mul(OTHER, VECTOR))}) == {"w"}


def test_a_value_that_is_still_read_is_not_replaced():
    new = ops.add(VECTOR, OTHER)
    assert run({"w": new, "total": ops.reduce(ops.mul(new, VECTOR), "sum", (0,))}) == set()


def test_elements_from_others_are_not_replaced():
    assert run({"w": ops.add(ops.reverse(VECTOR, (0,)), OTHER)}) == set()


def test_weights_are_replaced_while_other_weights_are_yet_to_be_read():
    """The first table's gradient is known, and the table renewed, before the second branch reads its kernels."""
    fn = netc.compile("""net 1

model M(a: i32[N, T], b: i32[N, T]) -> (y: f32[N, 1]):
    y = concat(a |> Embedding(900, 40) |> LSTM(8), b |> Embedding(900, 40) |> LSTM(8)) |> Dense(1)

train M:
    input t: f32[N, 1]
    loss square = mean((y - t) ** 2)
    optimizer = adam(lr = 1e-2)
""")
    executable = fn.program("step").executable
    written = [at for at, step in enumerate(executable.steps) if hasattr(step, "views") and step.label == "map"
               and {"weights", "optimizer/optimizer.m"} <= {getattr(view.buffer, "slot", "") for view in step.views}]
    read = [at for at, step in enumerate(executable.steps) if not hasattr(step, "views") and any(
        getattr(view.buffer, "slot", "") == "weights" for inner in step.body for view in inner.views)]
    assert written[0] < read[-1] and "weights" in executable.in_place


@pytest.mark.parametrize("optimizer", ["adam(lr = 1e-2)", "sgd(lr = 1e-2, momentum = 0.9)",
                                       "adam(lr = 1e-2, global_clipnorm = 1.0)"])
def test_training_is_in_place_and_pure_outside(optimizer):
    fn = netc.compile("""net 1

model M(x: f32[N, 8]) -> (output: f32[N, 2]):
    output = x |> Dense(16, tanh) |> BatchNorm() |> Dense(2)

train M:
    input y: f32[N, 2]
    loss square = mean((output - y) ** 2)
    metric same = mean(argmax(output, axis = -1) == argmax(y, axis = -1))
    optimizer = adam(lr = 1e-2)
""", optimizer=optimizer)
    w, rng = fn.init(seed=0), np.random.default_rng(0)
    batch = {"x": rng.normal(size=(9, 8)).astype(np.float32), "y": rng.normal(size=(9, 2)).astype(np.float32)}
    before, state = w.flat.copy(), fn.init_optimizer()
    states_before = {name: array.copy() for name, array in state.items()}
    trainer = fn.trainer(w)
    for _ in range(3):
        trainer(batch)
    for program in ("step", "step_metrics"):
        assert "weights" in fn.program(program).executable.in_place
    new, given = w, state
    for _ in range(3):
        new, given, _ = fn.step(new, given, batch)
    assert (trainer.weights.flat == new.flat).all() and (w.flat == before).all()
    assert all((state[name] == states_before[name]).all() for name in state)
    apart, again = w, state
    for _ in range(3):
        _, slope, states = fn.losses_and_grad(apart, **batch)
        apart, again = fn.update(apart.replace(states) if states else apart, again, slope)
    assert (apart.flat == new.flat).all() and all((again[name] == given[name]).all() for name in again)


@pytest.mark.parametrize("optimizer", ["adam(lr = 1e-2)", "sgd(lr = 1e-2)", "rmsprop(lr = 1e-2, centered = true)",
                                       "adam(lr = 1e-2, clipvalue = 0.01)", "adam(lr = 1e-2, clipnorm = 0.1)",
                                       "adamw(lr = 1e-2, global_clipnorm = 0.1)"])
def test_a_large_penalised_gradient_is_never_stored(optimizer):
    """The optimiser takes the flat vector in stretches where a penalty can be added on the way; same bits as apart."""
    fn = netc.compile("""net 1

model M(x: f32[N, 190]) -> (output: f32[N, 2]):
    output = x |> Dense(20, tanh, l2 = 1e-2) |> Dense(190, tanh) |> Dense(190, tanh, l2 = 1e-2) |> Dense(2)

train M:
    input y: f32[N, 2]
    loss square = mean((output - y) ** 2)
    optimizer = adam(lr = 1e-2)
""", optimizer=optimizer)
    w, rng = fn.init(seed=0), np.random.default_rng(0)
    batch = {"x": rng.normal(size=(9, 190)).astype(np.float32), "y": rng.normal(size=(9, 2)).astype(np.float32)}
    together = apart = w
    state = other = fn.init_optimizer()
    for _ in range(3):
        together, state, _ = fn.step(together, state, batch)
        _, slope, _ = fn.losses_and_grad(apart, **batch)
        apart, other = fn.update(apart, other, slope)
    assert (together.flat == apart.flat).all() and all((state[name] == other[name]).all() for name in state)
    program = fn.program("step").executable
    assert len(program.in_place) >= 1 + sum(array.ndim for array in state.values())
    passes = [step.units for step in program.steps if step.label == "map" and step.units in (190 * 190, len(w.flat))]
    # A norm is that of all gradients, which must wait for it.
    assert len(w.flat) in passes if "norm" in optimizer else passes == [190 * 190]


# --- inner values in the memory of those that they are made of --------------------------------------------------------

LAYERS = "net 1\nmodel M(x: f32[N, 64]) -> (y: f32[N, 8]):\n    h = Dense(64)(x)\n    {}\n    y = Dense(8)(g)\n"


def reused(monkeypatch, line, vectors):
    """The arena for 40 samples, in vectors of 64 for each, is so large; without values in the memory of others it is as
    large as what this gives.  The results are the same."""
    fn = netc.compile(LAYERS.format(line))
    program, w, found = fn.program("predict").program, fn.init(seed=1), []
    for is_apart in (False, True):
        with monkeypatch.context() as patch:
            if is_apart:
                patch.setattr(pipeline, "reuse_memory", list)
            executable = pipeline.Executable(pipeline.optimize(program.graph), program.layout)
        results = []
        for n in (1, 7, 40):
            x = np.random.default_rng(n).normal(size=(n, 64)).astype(np.float32)
            y, = executable.run({"weights": w.flat, programs.input_slot(program.inputs[0]): x}, {"N": n}).values()
            results.append(y.tobytes())
        found.append((executable.bind({"N": 40}).arena_bytes / (40 * 64 * 4), results))
    (mine, results), (apart, others) = found
    assert results == others
    assert mine == pytest.approx(vectors, abs=0.2)
    return apart


def test_values_replace_those_that_they_are_made_of(monkeypatch):
    assert reused(monkeypatch, "g = gelu(h)", 1) > 1.8
    assert reused(monkeypatch, "g = softmax(h, axis = -1)", 1) > 1.8            # in loops that go over a row again
    assert reused(monkeypatch, "g = gelu(Dense(64)(gelu(h)) + x) |> LayerNorm()", 2) > 2.8


def test_values_that_are_read_elsewhere_or_later_stay(monkeypatch):
    assert reused(monkeypatch, "g = h * reverse(h, axis = 1)", 2) < 2.2         # from another place
    assert reused(monkeypatch, "g = Dense(64)(relu(h)) * h", 3) < 3.2           # and by another step
    assert reused(monkeypatch, "g = h - sum(h * reverse(h, axis = 1), axis = -1, keepdims = true) * h", 2) < 2.2


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="looks for x86's instructions")
def test_a_value_that_may_be_the_old_one_is_stored_whole(monkeypatch):
    """LLVM would make a masked store of it, which takes several times as long on some processors."""
    assert reused(monkeypatch, "g = relu(h)", 1) > 1.8
    line = "g = relu(Dense(64, use_bias = false)(h))"
    reused(monkeypatch, line, 2)                                    # its results are right
    kernels = [text for _, text in netc.compile(LAYERS.format(line)).program("predict").executable.kernels()]
    kernel, = (text for text in kernels if " if " in text and "b1" not in text)     # of one buffer
    assembly = listing.listing(kernel, "asm")
    assert re.search(r"[xyz]mm\d+, [^\n]*\(%\w+", assembly)               # by vectors
    assert not re.search(r"vmaskmov|mm\d+, [^\n]*\) \{%k", assembly)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="only x86's control word is set")
def test_what_a_dead_unit_leaves_behind_does_not_slow_training():
    """Moments of a weight that gets no more gradient never become numbers that processors are slow with."""
    fn = netc.compile("""net 1

model M(x: f32[N, 2]) -> (output: f32[N, 1]):
    output = x |> Dense(1)

train M:
    input y: f32[N, 1]
    loss square = mean((output - y) ** 2)
    optimizer = adam(lr = 1e-3)
""")
    trainer, y = fn.trainer(fn.init(seed=0)), np.ones((4, 1), np.float32)
    trainer({"x": np.ones((4, 2), np.float32), "y": y})
    for _ in range(1100):
        trainer({"x": np.array([[1, 0]] * 4, np.float32), "y": y})
    alive, dead, _ = trainer.optimizer["optimizer.m"]
    assert alive != 0 and abs(dead) < 1e-36 and (dead == 0 or abs(dead) >= np.finfo(np.float32).tiny)
