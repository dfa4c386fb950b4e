"""The training loop: shuffled batches, epochs, validation, history.  It knows nothing of models.

What it drives is a ``Step``: a callable that takes one batch and returns named numbers.  Everything random comes from
NumPy's Philox generator under the caller's seed, so a run repeats.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from .errors import InputError, listing
from .history import VALIDATION, History

Batch = Mapping[str, np.ndarray]
SPLIT_STREAM, SHUFFLE_STREAM = 1, 2


class Step(Protocol):
    """One step of training on one batch: named losses and metrics come back."""

    def __call__(self, **batch: Any) -> Mapping[str, float]: ...


@dataclass(frozen=True)
class Position:
    """Where training stands: ``batch`` batches of epoch number ``epoch`` (from 1) are done, ``totals`` and ``samples``
    are the sums of what they reported and the samples in them.  Training that goes on from here takes the same
    steps."""

    epoch: int = 1
    batch: int = 0
    totals: Mapping[str, float] = field(default_factory=dict)
    samples: int = 0


@dataclass(frozen=True)
class Progress:
    """What a callback is told.  ``logs``: means so far in this epoch, at its end with ``val_...`` too."""

    epoch: int                          # from 1
    epochs: int
    batch: int                          # done in this epoch
    batches: int
    logs: Mapping[str, float]
    trainer: Any                        # ``trainer.weights`` gives the weights as of now
    samples: int = 0                    # done in this epoch
    seconds: float = 0.0                # of this epoch's training, validation not counted
    history: History = field(default_factory=History)
    position: Position = Position()     # where training would go on from here


class Mean:
    """Running means of named numbers, weighted by batch size."""

    def __init__(self, totals: Mapping[str, float] | None = None, count: int = 0):
        self.totals: dict[str, float] = dict(totals or {})
        self.count = count

    def add(self, values: Mapping[str, float], samples: int) -> None:
        for name, value in values.items():
            self.totals[name] = self.totals.get(name, 0.0) + float(value) * samples
        self.count += samples

    def result(self) -> dict[str, float]:
        return {name: total / self.count for name, total in self.totals.items()} if self.count else {}


class Dataset:
    """Named arrays; those in ``batched`` hold one sample a row, the others go whole into every batch."""

    def __init__(self, arrays: Batch, batched: Sequence[str]):
        if not batched:
            raise InputError("no input leads with a symbolic dimension, so there is nothing to cut into batches")
        self.arrays, self.batched = dict(arrays), list(batched)
        self.samples = len(arrays[batched[0]])

    def take(self, rows) -> dict[str, np.ndarray]:
        # NumPy's `take` gathers rows in half the time that it takes to index with them.
        return {name: array if name not in self.batched else array[rows] if isinstance(rows, slice) else
                array.take(rows, 0) for name, array in self.arrays.items()}

    def subset(self, rows) -> Dataset:
        return Dataset(self.take(rows), self.batched)

    def batches(self, size: int, order: np.ndarray | None = None,
                first: int = 0) -> Iterator[tuple[dict[str, np.ndarray], int]]:
        """(batch, its number of samples) from batch number ``first`` on, the last one as short as need be."""
        for start in range(first * size, self.samples, size):
            rows = slice(start, start + size) if order is None else order[start:start + size]
            yield self.take(rows), min(size, self.samples - start)

    def split(self, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
        """(the rest, a random ``fraction`` of the samples).  Raises InputError where one part would be empty."""
        if isinstance(fraction, bool) or not 0 < fraction < 1:
            raise InputError(f"`validation` is {fraction!r}, expected a fraction between 0 and 1, or data")
        count = round(self.samples * fraction)
        if not 0 < count < self.samples:
            raise InputError(f"{fraction:g} of {self.samples} samples leaves nothing to train or to validate on")
        order = generator(seed, SPLIT_STREAM).permutation(self.samples)
        # In the data's own order, so that a look at the parts is a look at the data.
        return self.subset(np.sort(order[count:])), self.subset(np.sort(order[:count]))


def generator(seed: int, stream: int, number: int = 0) -> np.random.Generator:
    """The generator of one purpose and, within it, one number: streams of one seed do not overlap."""
    counter = np.array([0, 0, 0, number], np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=np.array([seed % 2 ** 64, stream], np.uint64)))


def measure(evaluate: Callable[..., Mapping[str, float]], data: Dataset, batch_size: int) -> dict[str, float]:
    """The mean of ``evaluate(**batch)`` over all samples."""
    mean = Mean()
    for batch, samples in data.batches(batch_size):
        mean.add(evaluate(**batch), samples)
    return mean.result()


def fit(step: Step, data: Dataset, *, epochs: int, batch_size: int, seed: int, shuffle: bool = True,
        validate: Callable[[], Mapping[str, float]] | None = None, callbacks: Iterable = (),
        start: Position = Position(), history: History | None = None) -> History:
    """Train; the weights live in ``step``.

    ``validate()`` gives the validation numbers at the end of an epoch.  A callback is a function called with a
    ``Progress`` at the end of each epoch, or an object with any of the methods of ``Callback``.  Ctrl-C stops after the
    current batch; a second one at once.  ``start`` and ``history`` are where an earlier run ended: the order of an
    epoch's samples depends on the seed and the epoch alone, so that training goes on as if it had never stopped.
    """
    check_count("epochs", epochs)
    check_count("batch_size", batch_size)
    loop = _Loop(step, data, epochs, batch_size, seed, shuffle, validate, [_Callback(each) for each in callbacks],
                 history or History())
    with Interrupt() as interrupt:
        loop.run(start, interrupt)
    return loop.history


class _Loop:
    """Epochs and batches."""

    def __init__(self, step, data, epochs, batch_size, seed, shuffle, validate, callbacks, history):
        self.step, self.data, self.epochs, self.batch_size = step, data, epochs, batch_size
        self.seed, self.shuffle, self.validate, self.callbacks = seed, shuffle, validate, callbacks
        self.batches = -(-data.samples // batch_size)
        self.history: History = history
        self.before = history.seconds
        self.started = time.perf_counter()

    def run(self, position: Position, interrupt: Interrupt) -> None:
        history = self.history
        history.interrupted, history.stopped = False, ""
        told = None
        self._answers([call.on_start(history) for call in self.callbacks], interrupt)
        while position.epoch <= self.epochs and not history.stopped:
            told = self._epoch(position, interrupt)
            position = told.position
        self._clock()
        for call in self.callbacks if told is not None else ():
            call.on_end(told)

    def _epoch(self, position: Position, interrupt: Interrupt) -> Progress:
        """One epoch, or what is left of it."""
        order = None
        if self.shuffle:
            order = generator(self.seed, SHUFFLE_STREAM, position.epoch).permutation(self.data.samples)
        mean, began = Mean(position.totals, position.samples), time.perf_counter()
        done = position.batch
        for batch, samples in self.data.batches(self.batch_size, order, position.batch):
            mean.add(self.step(**batch), samples)
            done += 1
            if not self.callbacks and not interrupt.stopped:
                continue
            told = self._told(position.epoch, done, mean, began)
            # A list: every callback is told, whatever the first ones say.
            self._answers([call.on_batch(told) for call in self.callbacks], interrupt)
            if self.history.stopped:
                if done < self.batches:
                    return told
                break
        told = self._told(position.epoch, self.batches, mean, began)
        logs = mean.result()
        if self.validate is not None:
            logs |= {f"{VALIDATION}{name}": value for name, value in self.validate().items()}
        self.history.epochs.append(logs)
        self._clock()
        told = replace(told, logs=logs, position=Position(position.epoch + 1))
        answers = [call.on_epoch(told) for call in self.callbacks]
        if position.epoch < self.epochs:                # after the last epoch there is nothing to stop
            self._answers(answers, interrupt)
        return told

    def _told(self, epoch: int, batch: int, mean: Mean, began: float) -> Progress:
        self._clock()
        return Progress(epoch, self.epochs, batch, self.batches, mean.result(), self.step, mean.count,
                        time.perf_counter() - began, self.history,
                        Position(epoch, batch, dict(mean.totals), mean.count))

    def _clock(self) -> None:
        self.history.seconds = self.before + time.perf_counter() - self.started

    def _answers(self, answers: list, interrupt: Interrupt) -> None:
        """Whether to stop, and why: a text is a reason, anything else that is true an interruption."""
        reasons = [answer for answer in answers if answer]
        if reasons or interrupt.stopped:
            texts = [reason for reason in reasons if isinstance(reason, str)]
            self.history.interrupted = self.history.interrupted or interrupt.stopped or len(texts) < len(reasons)
            self.history.stopped = "interrupted" if interrupt.stopped else texts[0] if texts \
                else "stopped by a callback"


def check_count(name: str, value: Any) -> int:
    """The value as Python's own number.  Raises InputError unless it is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise InputError(f"`{name}` is {value!r}, expected a whole number of at least 1")
    return int(value)


class Callback(Protocol):
    """What a callback may have; each method may be left out.  A true answer stops training, a text says why."""

    def on_start(self, history: History) -> Any:
        """Before the first batch; ``history`` holds what was done before, where training is resumed."""

    def on_batch(self, told: Progress) -> Any: ...

    def on_epoch(self, told: Progress) -> Any: ...

    def on_end(self, told: Progress) -> None:
        """After the last epoch, or where training stopped; not if there was nothing to do."""


class _Callback:
    """A function, or an object with some of the methods, as all of them."""

    METHODS = ("on_start", "on_batch", "on_epoch", "on_end")

    def __init__(self, callback):
        found = {name: getattr(callback, name, None) for name in self.METHODS}
        if not any(found.values()):
            if not callable(callback):
                raise InputError(f"{callback!r} is no callback: neither callable nor with {listing(self.METHODS)}")
            found["on_epoch"] = callback
        self.on_start, self.on_batch, self.on_epoch, self.on_end = (method or _ignore for method in found.values())


def _ignore(told: Any) -> None:
    return None


class Interrupt:
    """While open, the first Ctrl-C only sets ``stopped``; the second interrupts as ever.

    Signals reach the main thread alone; elsewhere this does nothing.
    """

    def __init__(self):
        self.stopped = False
        self._previous: Any = None

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread() \
                and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._previous = signal.signal(signal.SIGINT, self._stop)
        return self

    def _stop(self, number, frame) -> None:
        self.stopped = True
        self._restore()

    def __exit__(self, *_) -> None:
        self._restore()

    def _restore(self) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None
