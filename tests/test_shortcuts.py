"""Calls on arrays of a form that came before take a shorter way: to the same bits, with the same checks."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

import netc
from netc.compiler import pipeline
from netc.shortcuts import Shortcuts, _Way

SOURCE = """net 1

model M(x: f32[N, 3], item: i32[N]) -> f32[N, 2]:
    return x + Embedding(5, 3)(item) |> Dropout(0.3) |> Dense(2)

train M:
    input label: i32[N]
    loss error = mean(sparse_categorical_crossentropy(output, label, from_logits = true))
    metric hits = mean(sparse_categorical_accuracy(output, label))
    optimizer = OPTIMIZER
"""


@pytest.fixture(scope="module")
def fn():
    return netc.compile(SOURCE.replace("OPTIMIZER", "adam(lr = 0.1)"))


@pytest.fixture
def taken(monkeypatch):
    """How often a shorter way was taken."""
    found = []

    class Counting(_Way):
        def __init__(self, *rest):
            super().__init__(*rest)
            call = self.call
            self.call = lambda *arrays: (found.append(self), call(*arrays))[1]
    monkeypatch.setattr("netc.shortcuts._Way", Counting)
    monkeypatch.setattr(Shortcuts, "add", lambda self, form: None)      # machine code would not be counted
    return found


def draw(seed: int, samples: int = 4) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {"x": generator.random((samples, 3), np.float32), "item": generator.integers(0, 5, samples, np.int32),
            "label": generator.integers(0, 2, samples, np.int32)}


@pytest.mark.parametrize("metrics", (False, True))
def test_steps_by_the_shorter_way_are_those_of_the_pure_function(fn, taken, metrics):
    weights, state = fn.init(1), fn.init_optimizer()
    trainer = fn.trainer(weights, seed=7, metrics=metrics)
    for number in range(6):
        batch = draw(number, samples=4 if number % 3 else 2)
        losses = trainer(batch) if number % 2 else trainer(**batch)
        weights, state, expected = fn.step(weights, state, batch, seed=netc.step_seed(7, number))
        assert {name: losses[name] for name in expected} == expected
        assert ("hits" in losses) == metrics
        assert trainer.weights.flat.tobytes() == weights.flat.tobytes()
        assert {path: array.tobytes() for path, array in trainer.optimizer.items()} \
            == {path: array.tobytes() for path, array in state.items()}
    assert len(taken) == 4 and trainer.steps == 6


def test_a_seed_of_ones_own(fn, taken):
    trainers = [fn.trainer(fn.init(1), seed=seed) for seed in (3, 4)]
    for number in range(3):
        first, second = (trainer(draw(number), seed=100 + number) for trainer in trainers)
        assert first == second
    assert len(taken) == 4


def test_losses_that_were_given_stay(fn):
    trainer = fn.trainer(fn.init(1))
    found = [trainer(draw(number)) for number in range(3)]
    assert len({losses["loss"] for losses in found}) == 3


@pytest.mark.parametrize("name, value", (("label", 2), ("label", -1), ("item", 5)))
def test_what_is_out_of_range_changes_nothing(fn, taken, name, value):
    trainer = fn.trainer(fn.init(1))
    trainer(draw(0)), trainer(draw(1))
    before, batch = trainer.weights, draw(2)
    batch[name][3] = value
    with pytest.raises(netc.InputError, match=rf"`{name}` .*{value}"):
        trainer(batch)
    assert trainer.weights.flat.tobytes() == before.flat.tobytes() and trainer.steps == 2
    trainer(draw(2))
    assert trainer.steps == 3 and len(taken) == 3       # the refused one looked at it too


def test_other_kinds_of_arrays_take_the_long_way(fn, taken):
    trainer, other = fn.trainer(fn.init(1)), fn.trainer(fn.init(1))
    batch = draw(0)
    variants = [batch, {**batch, "x": batch["x"].astype(np.float64)}, {**batch, "x": np.asfortranarray(batch["x"])},
                {**batch, "x": batch["x"].tolist()}, {**batch, "item": batch["item"].astype(np.int64)},
                {**batch, "x": batch["x"].view(np.memmap)}]
    for variant in variants:
        assert trainer(variant) == other(batch)
    assert len(taken) == len(variants) - 1              # all of them `other`'s


def test_arrays_that_may_not_be_written(fn, taken):
    trainer, other = fn.trainer(fn.init(1)), fn.trainer(fn.init(1))
    batch = draw(0)
    sealed = {name: array.copy() for name, array in batch.items()}
    for array in sealed.values():
        array.flags.writeable = False
    for _ in range(3):
        assert trainer(sealed) == other(batch)
    assert len(taken) == 4


def test_restored_and_adjusted(taken):
    fn = netc.compile(SOURCE.replace("OPTIMIZER", "adam(lr = adjustable(0.1))"))
    trainer, start = fn.trainer(fn.init(1), seed=7), fn.init(1)
    first = [trainer(draw(number)) for number in range(3)]
    trainer.restore(start, fn.init_optimizer())
    assert [trainer(draw(number)) for number in range(3)] == first
    path = next(path for path in trainer.optimizer if path.endswith("lr.scale"))
    before = trainer.weights
    trainer.adjust({path: 0})
    trainer(draw(3))
    assert trainer.weights.flat.tobytes() == before.flat.tobytes() and len(taken) == 5


def test_bound_and_not(fn, taken):
    w = fn.init(1)
    for call in (fn.bind(w), partial(fn, w)):
        taken.clear()
        for number in range(3):
            batch = draw(number)
            found = call(batch["x"], batch["item"]) if number < 2 else call(x=batch["x"], item=batch["item"])
            assert found.tobytes() == fn(w, **{name: batch[name].tolist() for name in fn.inputs}).tobytes()
        assert len(taken) == 1


@pytest.mark.parametrize("samples", (4, 6000), ids=("brief", "parallel"))
def test_memory_is_taken_once(samples, monkeypatch):
    taken = []

    class Counting(pipeline.Frame):
        def __init__(self, *rest):
            taken.append(self)
            super().__init__(*rest)
    monkeypatch.setattr(pipeline, "Frame", Counting)
    fn = netc.compile(SOURCE.replace("Dropout(0.3)", "tanh").replace("OPTIMIZER", "sgd(lr = 0.1)"))
    batch, w = draw(0, samples), fn.init(1)
    inputs = {"x": batch["x"], "item": batch["item"]}
    for call, given in ((fn.trainer(w), batch), (fn.bind(w), inputs), (lambda **named: fn(w, **named), inputs),
                        (lambda **named: fn.value_and_grad(w, **named), batch)):
        taken.clear()
        for _ in range(6):
            call(**given)
        assert len(taken) == 1
