"""What ``fit`` can be given to do on the way: stop early, keep checkpoints, write a log.

A callback with ``state()`` and ``restore(state)`` is part of a checkpoint, so that training that is resumed stops
early, say, exactly where it would have.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from . import checkpoint
from .errors import InputError, listing, nearest
from .history import VALIDATION, History
from .train import Progress, check_count
from .weights import Weights

ADJUSTABLE = "optimizer.lr.scale"          # the state of the prelude's `adjustable`
LARGER_IS_BETTER = ("accuracy", "hits", "auc", "precision", "recall", "f1", "r2")


def _check_watch(mode: str, min_delta: float) -> None:
    if mode not in ("auto", "min", "max"):
        raise InputError(f"`mode` is {mode!r}, expected \"auto\", \"min\" or \"max\"")
    if not min_delta >= 0:
        raise InputError(f"`min_delta` is {min_delta!r}, expected a number of at least 0")


def _watched(callback: Any, reported: Collection[str]) -> str:
    """The name of what a callback watches.  Raises InputError where that is not reported."""
    name = callback.monitor or (VALIDATION + "loss" if VALIDATION + "loss" in reported else "loss")
    if name not in reported:
        raise InputError(f"{type(callback).__name__} watches `{name}`, which is not reported"
                         f"{nearest(name, reported)}; there are {listing(reported)}")
    return name


def _watch(callback: Any, told: Progress) -> tuple[str, float, int]:
    """What a callback watches: its name, its value, and 1 where less is better, -1 where more is."""
    name = _watched(callback, told.logs)
    larger = callback.mode == "max" or callback.mode == "auto" and name.endswith(LARGER_IS_BETTER)
    return name, told.logs[name], -1 if larger else 1


class EarlyStopping:
    """Stop when nothing has become better for ``patience`` epochs; then the best epoch's weights are what ``fit``
    returns.

    ``monitor``: the number to watch; without it "val_loss" where there is validation, else "loss".  ``min_delta``: how
    much better counts as better.  ``mode``: "min", "max", or "auto": "max" for names that end in accuracy and the like.
    With ``restore_best=False`` the last weights are returned.  ``best`` and ``best_epoch`` say what was found.
    """

    def __init__(self, monitor: str | None = None, patience: int = 5, min_delta: float = 0.0, mode: str = "auto",
                 restore_best: bool = True):
        check_count("patience", patience)
        _check_watch(mode, min_delta)
        self.monitor, self.patience, self.min_delta, self.mode = monitor, patience, min_delta, mode
        self.restore_best = restore_best
        self.best: float | None = None
        self.best_epoch = 0
        self.best_weights: Weights | None = None
        self._watched = ""

    def check(self, reported: Collection[str], optimizer: Mapping[str, Any]) -> None:
        """Before training.  Raises InputError where what it watches will not be reported."""
        _watched(self, reported)

    def on_start(self, history: History) -> str | None:
        """Training that had stopped does not go on when it is resumed; with more patience it does."""
        return self._verdict(len(history.epochs))

    def on_epoch(self, told: Progress) -> str | None:
        name, value, sign = _watch(self, told)
        if self.best is None or math.isnan(self.best) or sign * (self.best - value) > self.min_delta:
            self.best, self.best_epoch = value, told.epoch
            if self.restore_best:
                self.best_weights = told.trainer.weights
        self._watched = name
        return self._verdict(told.epoch)

    def _verdict(self, epochs: int) -> str | None:
        if self.best is None or epochs - self.best_epoch < self.patience:
            return None
        return (f"`{self._watched}` is no better than {self.best:.6g}, that of epoch {self.best_epoch}, "
                f"for {epochs - self.best_epoch} epochs")

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"watched": self._watched, "best": self.best, "best_epoch": self.best_epoch,
                "best_weights": self.best_weights}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` gave."""
        self._watched, self.best, self.best_epoch = state["watched"], state["best"], state["best_epoch"]
        self.best_weights = state["best_weights"]


class ReduceLROnPlateau:
    """Lower the learning rate when nothing has become better for ``patience`` epochs, as Keras' callback of this name.

    The optimiser's rate must be ``adjustable``: ``adam(lr = adjustable(1e-3))`` in the file, or
    ``lr="adjustable(1e-3)"`` for ``netc.compile``.  What changes is a part of the optimiser's state, by which the rate
    is multiplied: it is 1 at first, times ``factor`` at each plateau, and never less than ``min_scale``.  So it goes
    into checkpoints, and training that is resumed takes the same steps.

    ``monitor``, ``min_delta``, ``mode``: as for EarlyStopping.  ``cooldown``: epochs after a change in which nothing is
    counted.  ``scale`` is what the rate is multiplied by now.
    """

    def __init__(self, monitor: str | None = None, factor: float = 0.1, patience: int = 10, min_delta: float = 1e-4,
                 mode: str = "auto", cooldown: int = 0, min_scale: float = 0.0):
        check_count("patience", patience)
        _check_watch(mode, min_delta)
        if not 0 < factor < 1:
            raise InputError(f"`factor` is {factor!r}, expected a number between 0 and 1")
        if not 0 <= min_scale <= 1:
            raise InputError(f"`min_scale` is {min_scale!r}, expected a number from 0 to 1")
        if cooldown != 0:
            check_count("cooldown", cooldown)
        self.monitor, self.factor, self.patience, self.min_delta, self.mode = monitor, factor, patience, min_delta, mode
        self.cooldown, self.min_scale = cooldown, min_scale
        self.best: float | None = None
        self.scale = 1.0
        self._waited = self._cooling = 0

    def check(self, reported: Collection[str], optimizer: Mapping[str, Any]) -> None:
        """Before training.  Raises InputError where what it watches will not be reported, or the rate is fixed."""
        _watched(self, reported)
        _adjustable(optimizer)

    def on_epoch(self, told: Progress) -> None:
        _, value, sign = _watch(self, told)
        path = _adjustable(told.trainer.optimizer)
        if self._cooling:
            self._cooling -= 1
            self._waited = 0
        if self.best is None or math.isnan(self.best) or sign * (self.best - value) > self.min_delta:
            self.best, self._waited = value, 0
        elif not self._cooling:
            self._waited += 1
            if self._waited >= self.patience and self.scale > self.min_scale:
                self.scale = max(self.scale * self.factor, self.min_scale)
                told.trainer.adjust({path: self.scale})
                self._waited, self._cooling = 0, self.cooldown

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"best": self.best, "scale": self.scale, "waited": self._waited, "cooling": self._cooling}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` gave."""
        self.best, self.scale = state["best"], state["scale"]
        self._waited, self._cooling = state["waited"], state["cooling"]


def _adjustable(optimizer: Mapping[str, Any]) -> str:
    """The path of what the rate is multiplied by.  Raises InputError where the rate is fixed."""
    if ADJUSTABLE not in optimizer:
        raise InputError("ReduceLROnPlateau needs a learning rate that may change: "
                         "`optimizer = adam(lr = adjustable(1e-3))` in the file, or lr=\"adjustable(1e-3)\"")
    return ADJUSTABLE


class Checkpoint:
    """Keep what training needs to go on, bit for bit, in a file of ``folder``: ``fit(..., resume=folder)``.

    ``every``: epochs between checkpoints; ``batches``: batches between further ones within an epoch.  The last ``keep``
    files stay.  One is also written where training stops, be it by Ctrl-C in the middle of an epoch.  Each file is
    whole or not there, whatever happens meanwhile.
    """

    def __init__(self, folder: str | os.PathLike, every: int = 1, batches: int | None = None, keep: int = 2):
        for name, value in (("every", every), ("keep", keep), ("batches", 1 if batches is None else batches)):
            check_count(name, value)
        self.folder, self.every, self.batches, self.keep = Path(folder), every, batches, keep
        self.run: checkpoint.Run | None = None           # ``fit`` says what it runs
        self._saved: Any = None

    def on_batch(self, told: Progress) -> None:
        if self.batches is not None and told.batch % self.batches == 0 and told.batch < told.batches:
            self._save(told)

    def on_epoch(self, told: Progress) -> None:
        if told.epoch % self.every == 0:
            self._save(told)

    def on_end(self, told: Progress) -> None:
        if told.position != self._saved:
            self._save(told)

    def _save(self, told: Progress) -> None:
        if self.run is None:
            raise InputError("a Checkpoint works with `fit`, which tells it what it runs")
        self.folder.mkdir(parents=True, exist_ok=True)
        checkpoint.save(self.folder / checkpoint.name_of(told.position), self.run, told)
        self._saved = told.position
        for old in checkpoint.files(self.folder)[:-self.keep]:
            old.unlink(missing_ok=True)


class Log:
    """Write losses and metrics to a file after each epoch: CSV or JSON, by the file's ending."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        if self.path.suffix not in (".csv", ".json"):
            raise InputError(f"a log is a .csv or a .json file, not {os.fspath(path)}")

    def on_start(self, history: History) -> None:
        """What was done before training was resumed is part of the log."""
        if history.epochs:
            self._write(history)

    def on_epoch(self, told: Progress) -> None:
        self._write(told.history)

    def _write(self, history: History) -> None:
        history.to_csv(self.path) if self.path.suffix == ".csv" else history.to_json(self.path)
