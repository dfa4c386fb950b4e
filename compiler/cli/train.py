"""``netc train``."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import click

from .options import FILE, MODEL, PRECISION, SEED, TARGET, THREADS, check_target, compile_file, echo_aside, save_path

PATH = click.Path(path_type=Path)


@click.command()
@FILE
@click.option("--data", type=PATH, required=True,
              help="One array an input and target: .npz, .npy, .csv, .safetensors, a folder.")
@click.option("--epochs", type=click.IntRange(1), default=10, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option("--validation", metavar="FRACTION|FILE", help="Held out: a fraction of the samples, or data as --data.")
@click.option("--save", type=PATH, help="Where to; without it, FILE's name with .safetensors.")
@click.option("--weights", type=PATH, help="Start from these weights, not from fresh ones.")
@click.option("--optimizer", metavar="EXPRESSION", help="Instead of the file's: \"sgd(momentum = 0.9)\".")
@click.option("--lr", metavar="EXPRESSION", help="The learning rate: a number, or a schedule such as "
              "\"cosine_decay(initial = 1e-3, decay_steps = 1_000)\".")
@click.option("--patience", type=click.IntRange(1), metavar="EPOCHS",
              help="Stop when nothing became better for so long, and keep the best weights.")
@click.option("--plateau", type=click.IntRange(1), metavar="EPOCHS",
              help="Lower the learning rate tenfold when nothing became better for so long; the rate must be "
                   "`adjustable`, a number in --lr is.")
@click.option("--monitor", metavar="NAME", help="What --patience and --plateau watch; without it val_loss, or loss.")
@click.option("--checkpoint", type=PATH, metavar="FOLDER", help="Keep checkpoints, one an epoch, in this folder.")
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint of the folder, if it has one.")
@click.option("--log", type=PATH, metavar="FILE", help="Write losses and metrics by epoch: .csv or .json.")
@click.option("--check-finite", is_flag=True,
              help="Stop at the first loss that is NaN or infinite, and say where it is from.")
@click.option("--allow-nan", is_flag=True, help="Take data with NaN or infinities, for a model that expects them.")
@click.option("--quiet", is_flag=True, help="No progress.")
@MODEL
@SEED
@TARGET
@PRECISION
@THREADS
def train(file, data, epochs, batch_size, validation, save, weights, optimizer, lr, patience, plateau, monitor,
          checkpoint, resume, log, check_finite, allow_nan, quiet, model, seed, target, precision, threads) -> None:
    """Train a model on data and save its weights.

    Ctrl-C stops after the current batch and saves what was trained; a second one stops at once and saves nothing.
    """
    from ...runtime.data import load_arrays
    from ...runtime.errors import NetcError
    if resume and checkpoint is None:
        raise click.UsageError("--resume needs --checkpoint FOLDER: where are the checkpoints?")
    if monitor is not None and patience is None and plateau is None:
        raise click.UsageError("--monitor says what --patience or --plateau watches: give one of them too")
    if plateau is not None and lr is not None and _is_number(lr):
        lr = f"adjustable({lr})"
    function = compile_file(file, model, None, target, precision, threads, optimizer=optimizer, lr=lr)
    for warning in function.model.warnings:
        echo_aside(warning.render())
    target_path = save_path(file, save, data)
    callbacks = _callbacks(patience, plateau, monitor, checkpoint, log, (file, data, target_path))
    types = {**function.inputs, **function.targets}
    arrays = load_arrays(data, types)
    held_out = _validation(validation, types)
    start = function.load(weights) if weights is not None else function.init(seed)
    click.echo(f"{function.model.name}: {function.layout.trainable_size:,} parameters")
    started = time.perf_counter()
    samples = function.dataset(arrays, allow_nan)
    function.program("step_metrics").prepare(samples.take(slice(0, min(batch_size, samples.samples))))
    click.echo(f"{samples.samples:,} samples; compiled in {time.perf_counter() - started:.1f} s")
    _tell_where_from(checkpoint, resume)
    try:
        trained, history = function.fit(start, arrays, epochs=epochs, batch_size=batch_size, validation=held_out,
                                        seed=seed, callbacks=callbacks, resume=checkpoint if resume else None,
                                        check_finite=check_finite, progress=not quiet, allow_nan=allow_nan)
        function.save(trained, target_path)
    except KeyboardInterrupt:
        raise NetcError(_lost(checkpoint)) from None
    _report(history, callbacks)
    click.echo(f"weights saved to {target_path.resolve()}")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _callbacks(patience, plateau, monitor, checkpoint, log, taken) -> list:
    from ...runtime.callbacks import Checkpoint, EarlyStopping, Log, ReduceLROnPlateau
    made: list = []
    if patience is not None:
        made.append(EarlyStopping(monitor, patience))
    if plateau is not None:
        made.append(ReduceLROnPlateau(monitor, patience=plateau))
    if log is not None:
        made.append(Log(log))
        check_target(log, *taken)
    if checkpoint is not None:
        place = next(path for path in (checkpoint.resolve(), *checkpoint.resolve().parents) if path.exists())
        if not place.is_dir() or not os.access(place, os.W_OK):
            raise OSError(f"cannot keep checkpoints in {checkpoint}: {place} is no "
                          f"{'writable ' * place.is_dir()}folder")
        made.append(Checkpoint(checkpoint))
    return made


def _tell_where_from(checkpoint: Path | None, resume: bool) -> None:
    if not resume or checkpoint is None:
        return
    from ...runtime.checkpoint import find
    found = find(checkpoint)
    click.echo(f"resuming from {found}" if found is not None else f"no checkpoint in {checkpoint} yet: starting afresh")


def _lost(checkpoint: Path | None) -> str:
    """What to say when Ctrl-C came a second time, or before the first batch."""
    from ...runtime.checkpoint import find
    newest = find(checkpoint) if checkpoint is not None else None
    return "stopped at once by Ctrl-C: no weights were saved" + (
        f"; --resume goes on from {newest}" if newest is not None else
        "; a single one in training stops after the current batch and saves")


def _report(history, callbacks: list) -> None:
    """What was done, and what came of it."""
    from ...runtime.callbacks import EarlyStopping
    from ..progress import numbers
    done = f"{len(history.epochs)} epochs in {history.seconds:.1f} s"
    click.echo(f"interrupted after {done}" if history.interrupted else done)
    if history.stopped and not history.interrupted:
        click.echo(f"stopped early: {history.stopped}")
    best = next((each.best_epoch for each in callbacks if isinstance(each, EarlyStopping) and each.best_epoch), None)
    kept = history.epochs[best - 1] if best is not None and best <= len(history.epochs) else history.last
    if kept:
        click.echo(("" if kept is history.last else f"best epoch {best}: ") + numbers(kept))
    if not all(map(math.isfinite, kept.values())):
        click.echo("warning: the loss is no longer a finite number: look for NaN in the data, or lower the learning "
                   "rate; --check-finite says where it begins", err=True)


def _validation(text: str | None, types: dict):
    """A fraction as a number, a file's arrays, or None."""
    if text is None:
        return None
    try:
        fraction = float(text)
    except ValueError:
        from ...runtime.data import load_arrays
        return load_arrays(text, types)
    if not 0 < fraction < 1:
        raise click.BadParameter(f"{text} is not between 0 and 1", param_hint="--validation")
    return fraction
