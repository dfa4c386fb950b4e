"""``netc train``."""

from __future__ import annotations

import math
import time
from pathlib import Path

import click

from .options import FILE, MODEL, PRECISION, SEED, TARGET, THREADS, compile_file, save_path


@click.command()
@FILE
@click.option("--data", type=click.Path(path_type=Path), required=True, help=".npz with one array an input and target.")
@click.option("--epochs", type=click.IntRange(1), default=10, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option("--validation", metavar="FRACTION|FILE", help="Held out: a fraction of the samples, or an .npz file.")
@click.option("--save", type=click.Path(path_type=Path), help="Where to; without it, FILE's name with .safetensors.")
@click.option("--weights", type=click.Path(path_type=Path), help="Start from these weights, not from fresh ones.")
@click.option("--quiet", is_flag=True, help="No progress.")
@MODEL
@SEED
@TARGET
@PRECISION
@THREADS
def train(file, data, epochs, batch_size, validation, save, weights, quiet, model, seed, target, precision,
          threads) -> None:
    """Train a model on data and save its weights.

    Ctrl-C stops after the current batch and saves what was trained.
    """
    from ...runtime.data import load_arrays
    function = compile_file(file, model, None, target, precision, threads)
    target_path = save_path(file, save, data)
    names = [*function.inputs, *function.targets]
    arrays = load_arrays(data, names)
    held_out = _validation(validation, names)
    start = function.load(weights) if weights is not None else function.init(seed)
    click.echo(f"{function.model.name}: {function.layout.trainable_size:,} parameters")
    started = time.perf_counter()
    samples = function.dataset(arrays)
    first = samples.take(slice(0, min(batch_size, samples.samples)))
    function.program("step_metrics").prepare(first)
    click.echo(f"{samples.samples:,} samples; compiled in {time.perf_counter() - started:.1f} s")
    from ..progress import distinct, progress
    with progress(quiet) as show:
        trained, history = function.fit(start, arrays, epochs=epochs, batch_size=batch_size, validation=held_out,
                                        seed=seed, callbacks=[show])
    function.save(trained, target_path)
    done = f"{len(history.epochs)} epochs in {history.seconds:.1f} s"
    click.echo(f"interrupted after {done}" if history.interrupted else done)
    if history.last:
        click.echo("  ".join(f"{name} {value:.4f}" for name, value in distinct(history.last).items()))
    click.echo(f"weights saved to {target_path.resolve()}")
    if not all(map(math.isfinite, history.last.values())):
        click.echo("warning: the loss is no longer a finite number: look for NaN in the data, or lower the learning rate",
                   err=True)


def _validation(text: str | None, names: list[str]):
    """A fraction as a number, a file's arrays, or None."""
    if text is None:
        return None
    try:
        fraction = float(text)
    except ValueError:
        from ...runtime.data import load_arrays
        return load_arrays(text, names)
    if not 0 < fraction < 1:
        raise click.BadParameter(f"{text} is not between 0 and 1", param_hint="--validation")
    return fraction
