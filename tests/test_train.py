"""The training loop by itself: batches, means, splits, callbacks, interruption."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from netc.runtime.errors import InputError
from netc.runtime.train import Dataset, fit, measure


class Recorder:
    """A step that remembers its batches and reports their mean."""

    def __init__(self):
        self.batches = []

    def __call__(self, **batch):
        self.batches.append(batch["x"].copy())
        return {"loss": float(batch["x"].mean())}


def numbers(count):
    return Dataset({"x": np.arange(count, dtype=np.float32), "scale": np.ones(3)}, ["x"])


def test_each_epoch_sees_every_sample_once_the_last_batch_is_partial():
    step = Recorder()
    fit(step, numbers(10), epochs=2, batch_size=4, seed=0)
    assert [len(batch) for batch in step.batches] == [4, 4, 2] * 2
    for epoch in (step.batches[:3], step.batches[3:]):
        np.testing.assert_array_equal(np.sort(np.concatenate(epoch)), np.arange(10))
    assert not np.array_equal(step.batches[0], step.batches[3])


def test_a_seed_repeats_and_another_differs():
    orders = []
    for seed in (0, 0, 1):
        step = Recorder()
        fit(step, numbers(50), epochs=1, batch_size=50, seed=seed)
        orders.append(step.batches[0])
    np.testing.assert_array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])


def test_without_shuffling_the_order_is_the_datas():
    step = Recorder()
    fit(step, numbers(5), epochs=1, batch_size=2, seed=0, shuffle=False)
    np.testing.assert_array_equal(np.concatenate(step.batches), np.arange(5))


def test_means_weigh_each_sample_the_same():
    history = fit(Recorder(), numbers(10), epochs=1, batch_size=4, seed=0)
    assert history["loss"] == [pytest.approx(4.5)] and history.last == {"loss": pytest.approx(4.5)}
    assert measure(Recorder(), numbers(7), 3) == {"loss": pytest.approx(3.0)}


def test_what_is_not_batched_goes_whole():
    def step(**batch):
        assert batch["scale"].shape == (3,)
        return {"loss": 0.0}
    fit(step, numbers(4), epochs=1, batch_size=3, seed=0)


def test_a_split_is_random_complete_and_repeats():
    rest, held = numbers(100).split(0.2, seed=3)
    again, _ = numbers(100).split(0.2, seed=3)
    assert held.samples == 20 and rest.samples == 80
    np.testing.assert_array_equal(np.sort(np.concatenate([rest.arrays["x"], held.arrays["x"]])), np.arange(100))
    np.testing.assert_array_equal(rest.arrays["x"], again.arrays["x"])
    assert held.arrays["x"][-1] - held.arrays["x"][0] > 30


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, True, 0.001, float("nan")])
def test_a_split_that_leaves_nothing_is_refused(fraction):
    with pytest.raises(InputError):
        numbers(10).split(fraction, seed=0)


@pytest.mark.parametrize("settings", [{"epochs": 0}, {"batch_size": 0}, {"epochs": 1.5}, {"batch_size": True}])
def test_counts_are_checked(settings):
    with pytest.raises(InputError, match="whole number of at least 1"):
        fit(Recorder(), numbers(4), **{"epochs": 1, "batch_size": 2, "seed": 0} | settings)


def test_validation_joins_the_history():
    history = fit(Recorder(), numbers(4), epochs=3, batch_size=2, seed=0, validate=lambda: {"loss": 7.0})
    assert history["val_loss"] == [7.0] * 3


def test_callbacks_are_told_and_may_stop():
    seen = []

    class Watch:
        def on_batch(self, told):
            seen.append((told.epoch, told.batch, told.batches))

        def on_epoch(self, told):
            return told.epoch == 2
    history = fit(Recorder(), numbers(4), epochs=5, batch_size=2, seed=0, callbacks=[Watch()])
    assert seen == [(1, 1, 2), (1, 2, 2), (2, 1, 2), (2, 2, 2)]
    assert len(history.epochs) == 2 and history.interrupted
    logs = []
    fit(Recorder(), numbers(4), epochs=2, batch_size=2, seed=0, callbacks=[lambda told: logs.append(told.logs)])
    assert len(logs) == 2
    with pytest.raises(InputError, match="is no callback"):
        fit(Recorder(), numbers(4), epochs=1, batch_size=2, seed=0, callbacks=[3])


def test_ctrl_c_stops_after_the_current_batch():
    step = Recorder()

    def interrupted(**batch):
        if len(step.batches) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(**batch)
    history = fit(interrupted, numbers(10), epochs=3, batch_size=2, seed=0)
    assert len(step.batches) == 3 and history.interrupted and history.epochs == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_interrupts_at_once():
    def interrupted(**batch):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return {"loss": 0.0}
    with pytest.raises(KeyboardInterrupt):
        fit(interrupted, numbers(10), epochs=3, batch_size=2, seed=0)
