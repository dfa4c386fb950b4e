"""``fn.fit()``: the training loop of ``runtime.train`` around a Trainer, with validation, checkpoints and what comes of
them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np

from .inputs import convert_seed
from .runtime import checkpoint, train
from .runtime.callbacks import VALIDATION, Checkpoint, EarlyStopping, ReduceLROnPlateau
from .runtime.digest import blake2b
from .runtime.errors import InputError
from .runtime.history import History
from .runtime.weights import Weights
from .trainer import Trainer

if TYPE_CHECKING:
    from .function import Function


def fit(function: Function, weights: Weights, data, epochs: int, batch_size: int, validation, seed: int, shuffle: bool,
        callbacks: Iterable, optimizer: Mapping[str, np.ndarray] | None, resume: str | os.PathLike | None,
        check_finite: bool, progress: bool, allow_nan: bool) -> tuple[Weights, History]:
    """See ``Function.fit``."""
    if not isinstance(callbacks, Iterable):
        raise InputError(f"`callbacks` is {callbacks!r}, expected a list of them")
    seed, shuffle = int(convert_seed(seed)), bool(shuffle)
    epochs, batch_size = train.check_count("epochs", epochs), train.check_count("batch_size", batch_size)
    trainer = Trainer(function, weights, optimizer, seed=seed, metrics=True, check_finite=check_finite)
    samples, held_out = _datasets(function, data, validation, seed, allow_nan)
    # Checkpoints come last: they keep what the others have just decided.
    calls = sorted(callbacks, key=lambda callback: isinstance(callback, Checkpoint))
    run = checkpoint.Run(function.model.name, {
        checkpoint.PROGRAM: _fingerprint(function), "seed": seed, "batch_size": batch_size, "shuffle": shuffle,
        "samples": samples.samples, "validation samples": held_out.samples if held_out is not None else 0}, calls)
    for callback in calls:
        if isinstance(callback, Checkpoint):
            callback.run = run
    reported = ["loss", *function.model.training.losses, *function.model.training.metrics]
    reported += [VALIDATION + name for name in reported] if held_out is not None else []
    for callback in calls:          # now, not after an hour's epoch
        if isinstance(callback, (EarlyStopping, ReduceLROnPlateau)):
            callback.check(reported, trainer.optimizer)
    position, history = _resumed(function, trainer, run, resume)
    history.losses = tuple(function.model.training.losses)

    def validate():
        return function._measure(trainer.slots, held_out, max(batch_size, 256), seed)
    with _display(progress) as display:
        train.fit(trainer, samples, epochs=epochs, batch_size=batch_size, seed=seed, shuffle=shuffle,
                  validate=validate if held_out is not None else None, callbacks=[*display, *calls], start=position,
                  history=history)
    history.optimizer = trainer.optimizer
    best = [each.best_weights for each in calls if isinstance(each, EarlyStopping) and each.best_weights is not None]
    return best[0] if best else trainer.weights, history


def _datasets(function: Function, data, validation, seed: int,
              allow_nan: bool) -> tuple[train.Dataset, train.Dataset | None]:
    samples = function.dataset(data, allow_nan)
    if isinstance(validation, (int, float, np.number)):
        return samples.split(float(validation) if isinstance(validation, np.number) else validation, seed)
    return samples, function.dataset(validation, allow_nan) if validation is not None else None


def _fingerprint(function: Function) -> str:
    """What tells one training step from another: the model, its losses and its optimiser."""
    from .compiler.text import format_graph
    return blake2b(format_graph(function.lower("step_metrics").graph).encode(), digest_size=8).hexdigest()


def _resumed(function: Function, trainer: Trainer, run: checkpoint.Run, resume) -> tuple[train.Position, History]:
    """Where training begins; the trainer and the callbacks take over what the checkpoint holds."""
    path = checkpoint.find(resume) if resume is not None else None
    if path is None:
        return train.Position(), History()
    saved = checkpoint.load(path, function.layout, run)
    trainer.restore(saved.weights, saved.optimizer, saved.steps)
    checkpoint.hand_back(saved, run.callbacks)
    return saved.position, saved.history


def _display(progress: bool):
    """A context that gives the callbacks that show progress."""
    if not progress:
        return nullcontext(())
    from .compiler.progress import progress as show
    return show()
