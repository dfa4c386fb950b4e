"""What ``fit`` can be given to do on the way: stop early, keep checkpoints, write a log.

A callback with ``state()`` and ``restore(state)`` is part of a checkpoint, so that training that is resumed stops
early, say, exactly where it would have.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from . import checkpoint
from .errors import InputError, listing, nearest
from .history import VALIDATION, History
from .train import Progress, check_count
from .weights import Weights

LARGER_IS_BETTER = ("accuracy", "hits", "auc", "precision", "recall", "f1", "r2")


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
        if mode not in ("auto", "min", "max"):
            raise InputError(f"`mode` is {mode!r}, expected \"auto\", \"min\" or \"max\"")
        if not min_delta >= 0:
            raise InputError(f"`min_delta` is {min_delta!r}, expected a number of at least 0")
        self.monitor, self.patience, self.min_delta, self.mode = monitor, patience, min_delta, mode
        self.restore_best = restore_best
        self.best: float | None = None
        self.best_epoch = 0
        self.best_weights: Weights | None = None
        self._watched = ""

    def on_start(self, history: History) -> str | None:
        """Training that had stopped does not go on when it is resumed; with more patience it does."""
        return self._verdict(len(history.epochs))

    def on_epoch(self, told: Progress) -> str | None:
        name = self.monitor or (VALIDATION + "loss" if VALIDATION + "loss" in told.logs else "loss")
        if name not in told.logs:
            raise InputError(f"EarlyStopping watches `{name}`, which is not reported{nearest(name, told.logs)}; there "
                             f"are {listing(told.logs)}")
        value = told.logs[name]
        sign = -1 if self.mode == "max" or self.mode == "auto" and name.endswith(LARGER_IS_BETTER) else 1
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
