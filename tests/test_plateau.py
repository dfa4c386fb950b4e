"""ReduceLROnPlateau: when it acts, what that does to the steps, and that it is part of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import netc
from netc.runtime.callbacks import ADJUSTABLE
from netc.runtime.weights import read_tensors

SOURCE = """net 1
model Line(x: f32[N, 3]) -> (y: f32[N, 1]):
    y = Dense(1)(x)
train Line:
    input target: f32[N, 1]
    loss error = mean((y - target) ** 2)
    optimizer = sgd(lr = adjustable(0.125))
"""
rng = np.random.default_rng(0)
DATA = {"x": rng.normal(size=(24, 3)).astype("f4"), "target": rng.normal(size=(24, 1)).astype("f4")}


@pytest.fixture(scope="module")
def line():
    return netc.compile(SOURCE)


class Scales:
    """The scale after each epoch, as the trainer has it."""

    def __init__(self):
        self.found = []

    def on_epoch(self, told):
        self.found.append(float(told.trainer.optimizer[ADJUSTABLE]))


def drive(callback, values, name="loss"):
    """The scales that a callback sets when it is told these values, one an epoch."""
    trainer = SimpleNamespace(optimizer={ADJUSTABLE: 1.0})
    trainer.adjust = trainer.optimizer.update
    scales = []
    for value in values:
        callback.on_epoch(SimpleNamespace(logs={name: value}, trainer=trainer))
        scales.append(trainer.optimizer[ADJUSTABLE])
    return scales


def test_it_acts_after_patience_and_not_while_it_cools():
    values = [1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.4, 0.4, 0.4]
    assert drive(netc.ReduceLROnPlateau(factor=0.5, patience=2), values) == [1, 1, 1, .5, .5, .25, .25, .25, .25, .125]
    assert drive(netc.ReduceLROnPlateau(factor=0.5, patience=2, cooldown=3), values) == [1, 1, 1, .5, .5, .5, .5, .5,
                                                                                         .5, .25]
    assert drive(netc.ReduceLROnPlateau(factor=0.5, patience=1, min_scale=0.3), values)[-1] == 0.3
    assert drive(netc.ReduceLROnPlateau("accuracy", 0.5, 1, mode="min"), [0.1, 0.2, 0.3], "accuracy")[-1] == 0.25
    assert drive(netc.ReduceLROnPlateau("accuracy", 0.5, 2), [0.1, 0.2, 0.3, 0.4], "accuracy")[-1] == 1


@pytest.mark.parametrize("settings", [{}, {"cooldown": 2}, {"min_delta": 0.2}, {"mode": "max"}, {"patience": 1}],
                         ids=str)
def test_it_acts_when_keras_callback_does(settings):
    keras = pytest.importorskip("keras")
    settings = {"factor": 0.5, "patience": 3} | settings
    values = np.random.default_rng(7).choice([1.0, 0.9, 0.7, 0.6, 0.55], 60).tolist()
    theirs = keras.callbacks.ReduceLROnPlateau("loss", **settings)
    theirs.set_model(SimpleNamespace(optimizer=keras.optimizers.SGD(1.0)))
    theirs.on_train_begin()
    rates = []
    for epoch, value in enumerate(values):
        theirs.on_epoch_end(epoch, {"loss": value})
        rates.append(float(theirs.model.optimizer.learning_rate))
    scales = drive(netc.ReduceLROnPlateau("loss", **settings), values)
    assert scales == pytest.approx(rates, rel=1e-6) and rates[-1] < 1


def test_the_steps_are_those_of_the_lower_rate(line):
    """A quarter of the rate from some step on is what a file with that rate does."""
    w = line.init(0)
    adjusted = line.trainer(w)
    adjusted.adjust({ADJUSTABLE: 0.25})
    slower = netc.compile(SOURCE, lr="adjustable(0.03125)").trainer(w)
    for _ in range(3):
        assert adjusted(DATA) == slower(DATA)
    assert np.array_equal(adjusted.weights.flat, slower.weights.flat)
    fixed = netc.compile(SOURCE, lr=0.03125).trainer(w)
    for _ in range(3):
        fixed(DATA)
    assert np.array_equal(fixed.weights.flat, slower.weights.flat)


def test_training_that_is_resumed_takes_the_same_steps(line, tmp_path):
    def train(epochs, **options):
        told = Scales()
        plateau = netc.ReduceLROnPlateau(factor=0.5, patience=2, min_delta=0.01, cooldown=1)
        found = line.fit(line.init(1), DATA, epochs=epochs, batch_size=8, seed=3, **options,
                         callbacks=[plateau, told, netc.Checkpoint(tmp_path / "run")] if options else [plateau, told])
        return *found, told.found, plateau

    whole, history, scales, plateau = train(12)
    assert scales[0] == 1 and scales[-1] < 0.5 and plateau.scale == scales[-1]
    train(7, resume=tmp_path / "run")
    resumed, continued, later, again = train(12, resume=tmp_path / "run")
    assert later == scales[7:] and again.scale == plateau.scale
    assert np.array_equal(resumed.flat, whole.flat) and continued["loss"] == history["loss"]


def test_a_fixed_rate_is_refused(line):
    fixed = netc.compile(SOURCE, lr=0.1)
    with pytest.raises(netc.InputError,
                       match=r"needs a learning rate that may change: `optimizer = adam\(lr = adjustable"):
        fixed.fit(fixed.init(0), DATA, epochs=1, batch_size=8, callbacks=[netc.ReduceLROnPlateau()])
    with pytest.raises(netc.WeightsError,
                       match=r"no state `optimizer\.lr\.scala` \(did you mean `optimizer\.lr\.scale`"):
        line.trainer(line.init(0)).adjust({"optimizer.lr.scala": 1})


@pytest.mark.parametrize("settings", [{"factor": 1.0}, {"factor": 0}, {"patience": 0}, {"cooldown": -1},
                                      {"min_scale": 2},
                                      {"mode": "up"}, {"min_delta": -1}], ids=str)
def test_bad_settings(settings):
    with pytest.raises(netc.InputError, match=f"`{next(iter(settings))}` is "):
        netc.ReduceLROnPlateau(**settings)


def test_what_is_not_reported(line):
    with pytest.raises(netc.InputError, match=r"ReduceLROnPlateau watches `eror`, which is not reported.*`error`"):
        line.fit(line.init(0), DATA, epochs=1, batch_size=8, callbacks=[netc.ReduceLROnPlateau("eror")])


def test_the_command_lowers_the_rate(netc_command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("line.net").write_text(SOURCE, encoding="utf-8")
    np.savez("data.npz", **DATA)
    given = ("train", "line.net", "--data", "data.npz", "--epochs", 60, "--plateau", 1,
             "--checkpoint", "run", "--quiet")
    assert netc_command(*given)[0] == 0
    newest = max(Path("run").iterdir())
    assert read_tensors(newest)[0][f"optimizer/{ADJUSTABLE}"] < 1
    assert netc_command(*given[:-3], "--lr", "0.5")[0] == 0             # a number may change, too
    code, _, errors = netc_command(*given[:-3], "--lr", "cosine_decay(initial = 0.1, decay_steps = 5)")
    assert code == 1 and "needs a learning rate that may change" in errors
    code, _, errors = netc_command("train", "line.net", "--data", "data.npz", "--monitor", "loss")
    assert code == 2 and "--patience or --plateau" in errors
