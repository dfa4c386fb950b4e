"""The training loop: shuffled batches, epochs, validation, history.  It knows nothing of models.

What it drives is a ``Step``: a callable that takes one batch and returns named numbers.  Everything random comes from
NumPy's Philox generator under the caller's seed, so a run repeats.
"""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Iterable, Iterator, Mapping, Protocol, Sequence

import numpy as np

from .errors import InputError

Batch = Mapping[str, np.ndarray]
SPLIT_STREAM, SHUFFLE_STREAM = 1, 2


class Step(Protocol):
    """One step of training on one batch: named losses and metrics come back."""

    def __call__(self, **batch: np.ndarray) -> Mapping[str, float]: ...


@dataclass(frozen=True)
class Progress:
    """What a callback is told.  ``logs``: means so far in this epoch, at its end with ``val_...`` too."""

    epoch: int                          # from 1
    epochs: int
    batch: int                          # done in this epoch
    batches: int
    logs: Mapping[str, float]
    trainer: Any                        # ``trainer.weights`` gives the weights as of now


@dataclass
class History:
    """Losses and metrics by epoch, each the mean over the epoch's samples; ``history["loss"]`` is a list."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False           # Ctrl-C, or a callback said so: the last epoch may be cut short
    optimizer: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)

    def __getitem__(self, name: str) -> list[float]:
        if not any(name in epoch for epoch in self.epochs):
            raise KeyError(name)
        return [epoch.get(name, float("nan")) for epoch in self.epochs]

    @property
    def last(self) -> dict[str, float]:
        """The last epoch's numbers; empty if none ended."""
        return self.epochs[-1] if self.epochs else {}


class Mean:
    """Running means of named numbers, weighted by batch size."""

    def __init__(self):
        self.totals: dict[str, float] = {}
        self.count = 0

    def add(self, values: Mapping[str, float], samples: int) -> None:
        for name, value in values.items():
            self.totals[name] = self.totals.get(name, 0.0) + float(value) * samples
        self.count += samples

    def result(self) -> dict[str, float]:
        return {name: total / self.count for name, total in self.totals.items()}


class Dataset:
    """Named arrays; those in ``batched`` hold one sample a row, the others go whole into every batch."""

    def __init__(self, arrays: Batch, batched: Sequence[str]):
        if not batched:
            raise InputError("no input leads with a symbolic dimension, so there is nothing to cut into batches")
        self.arrays, self.batched = dict(arrays), list(batched)
        self.samples = len(arrays[batched[0]])

    def take(self, rows) -> dict[str, np.ndarray]:
        return {name: array[rows] if name in self.batched else array for name, array in self.arrays.items()}

    def subset(self, rows) -> "Dataset":
        return Dataset(self.take(rows), self.batched)

    def batches(self, size: int, order: np.ndarray | None = None) -> Iterator[tuple[dict[str, np.ndarray], int]]:
        """(batch, its number of samples), the last one as short as need be."""
        for start in range(0, self.samples, size):
            rows = slice(start, start + size) if order is None else order[start:start + size]
            yield self.take(rows), min(size, self.samples - start)

    def split(self, fraction: float, seed: int) -> tuple["Dataset", "Dataset"]:
        """(the rest, a random ``fraction`` of the samples).  Raises InputError where one part would be empty."""
        if isinstance(fraction, bool) or not 0 < fraction < 1:
            raise InputError(f"`validation` is {fraction!r}, expected a fraction between 0 and 1, or data")
        count = round(self.samples * fraction)
        if not 0 < count < self.samples:
            raise InputError(f"{fraction:g} of {self.samples} samples leaves nothing to train or to validate on")
        order = generator(seed, SPLIT_STREAM).permutation(self.samples)
        # In the data's own order, so that a look at the parts is a look at the data.
        return self.subset(np.sort(order[count:])), self.subset(np.sort(order[:count]))


def generator(seed: int, stream: int) -> np.random.Generator:
    """The generator of one purpose: streams of one seed do not overlap."""
    return np.random.Generator(np.random.Philox(key=np.array([seed % 2 ** 64, stream], np.uint64)))


def measure(evaluate: Callable[..., Mapping[str, float]], data: Dataset, batch_size: int) -> dict[str, float]:
    """The mean of ``evaluate(**batch)`` over all samples."""
    mean = Mean()
    for batch, samples in data.batches(batch_size):
        mean.add(evaluate(**batch), samples)
    return mean.result()


def fit(step: Step, data: Dataset, *, epochs: int, batch_size: int, seed: int, shuffle: bool = True,
        validate: Callable[[], Mapping[str, float]] | None = None, callbacks: Iterable = ()) -> History:
    """Train; the weights live in ``step``.

    ``validate()`` gives the validation numbers at the end of an epoch.  A callback is a function called with a
    ``Progress`` at the end of each epoch, or an object with ``on_batch`` or ``on_epoch``; a true answer stops.
    Ctrl-C stops after the current batch; a second one at once.
    """
    check_count("epochs", epochs), check_count("batch_size", batch_size)
    calls = [_Callback(callback) for callback in callbacks]
    history, started = History(), time.perf_counter()
    random = generator(seed, SHUFFLE_STREAM)
    with Interrupt() as interrupt:
        for epoch in range(1, epochs + 1):
            order = random.permutation(data.samples) if shuffle else None
            logs = _epoch(step, data, batch_size, order, epoch, epochs, calls, interrupt)
            if interrupt.stopped:
                break
            if validate is not None:
                logs |= {f"val_{name}": value for name, value in validate().items()}
            history.epochs.append(logs)
            batches = -(-data.samples // batch_size)
            told = Progress(epoch, epochs, batches, batches, logs, step)
            if any([call.on_epoch(told) for call in calls]) or interrupt.stopped:
                interrupt.stopped = interrupt.stopped or epoch < epochs
                break
    history.seconds, history.interrupted = time.perf_counter() - started, interrupt.stopped
    return history


def _epoch(step, data, batch_size, order, epoch, epochs, calls, interrupt) -> dict[str, float]:
    mean, batches = Mean(), -(-data.samples // batch_size)
    for number, (batch, samples) in enumerate(data.batches(batch_size, order), 1):
        mean.add(step(**batch), samples)
        told = Progress(epoch, epochs, number, batches, mean.result(), step)
        # A list: every callback is told, whatever the first ones say.
        if any([call.on_batch(told) for call in calls]):
            interrupt.stopped = True
        if interrupt.stopped:
            break
    return mean.result()


def check_count(name: str, value: Any) -> None:
    """Raise InputError unless the value is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise InputError(f"`{name}` is {value!r}, expected a whole number of at least 1")


class _Callback:
    """A function, or an object with any of the two methods, as both methods."""

    def __init__(self, callback):
        plain = callable(callback) and not hasattr(callback, "on_epoch") and not hasattr(callback, "on_batch")
        self.on_batch = getattr(callback, "on_batch", _ignore)
        self.on_epoch = callback if plain else getattr(callback, "on_epoch", _ignore)
        if self.on_batch is _ignore and self.on_epoch is _ignore:
            raise InputError(f"{callback!r} is no callback: neither callable nor with `on_batch` or `on_epoch`")


def _ignore(progress: Progress) -> None:
    return None


class Interrupt:
    """While open, the first Ctrl-C only sets ``stopped``; the second interrupts as ever.

    Signals reach the main thread alone; elsewhere this does nothing.
    """

    def __init__(self):
        self.stopped = False
        self._previous: Any = None

    def __enter__(self) -> "Interrupt":
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
