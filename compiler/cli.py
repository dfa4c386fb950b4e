"""The command line ``netc``.  Exit codes: 0 fine, 1 the user's error, 2 wrong usage.

Commands import what they need when they run: ``netc --help`` and ``netc check`` start no compiler back end.
"""

from __future__ import annotations

import math
import os
import sys
import time
from pathlib import Path

import click

MODEL = click.option("--model", metavar="NAME", help="The model; without it, the one that is trained, or the last.")
PRECISION = click.option("--precision", type=click.Choice(["f32", "f64"]), default="f32", show_default=True)
TARGET = click.option("--target", type=click.Choice(["cpu", "numpy"]), default="cpu", show_default=True,
                      help="numpy is the slow oracle.")
SEED = click.option("--seed", type=click.IntRange(-2 ** 63, 2 ** 63 - 1), default=0, show_default=True)
THREADS = click.option("--threads", type=click.IntRange(1), help="Threads; without it, one a core.")
FILE = click.argument("file", type=click.Path(path_type=Path))
PROGRAMS = ("predict", "evaluate", "gradient", "step")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="netc")
def cli() -> None:
    """Neural networks in .net files: check, look at, train and run them."""


@cli.command()
@FILE
@MODEL
@PRECISION
def check(file: Path, model: str | None, precision: str) -> None:
    """Check a file and report every error with its place."""
    function = _compile(file, model, precision=precision)
    for warning in function.model.warnings:
        click.echo(warning, err=True)
    click.echo(f"{file}: fine: {function!r}")


@cli.command()
@FILE
@MODEL
def summary(file: Path, model: str | None) -> None:
    """Show the layers, their shapes and parameters."""
    click.echo(_compile(file, model).summary())


@cli.command()
@FILE
@MODEL
@PRECISION
@click.option("--stage", type=click.Choice(["ast", "graph", "grad", "simplified", "fused", "loops", "numba"]),
              default="graph", show_default=True)
@click.option("--program", type=click.Choice(PROGRAMS), help="What to show; without it predict, and gradient for grad.")
def emit(file: Path, model: str | None, precision: str, stage: str, program: str | None) -> None:
    """Print one stage of the compilation."""
    from .stages import format_stage, format_tree
    if stage == "ast":
        from ..function import read_source
        from .syntax import parse
        click.echo(format_tree(parse(*read_source(file))))
        return
    function = _compile(file, model, precision=precision)
    click.echo(format_stage(function.lower(program or ("gradient" if stage == "grad" else "predict")), stage))


@cli.command()
@FILE
@MODEL
@SEED
@PRECISION
@click.option("--save", type=click.Path(path_type=Path), help="Where to; without it, FILE's name with .safetensors.")
def init(file: Path, model: str | None, seed: int, precision: str, save: Path | None) -> None:
    """Make fresh weights and save them."""
    function = _compile(file, model, precision=precision)
    target = _save_path(file, save)
    function.save(function.init(seed), target)
    click.echo(f"{function.layout.trainable_size:,} parameters saved to {target}")


@cli.command()
@FILE
@click.option("--data", type=click.Path(path_type=Path), required=True, help=".npz with one array an input.")
@click.option("--weights", type=click.Path(path_type=Path), help=".safetensors; without it, fresh weights of the seed.")
@click.option("--save", type=click.Path(path_type=Path), help=".npz for the outputs; without it, they are described.")
@click.option("--output", "outputs", multiple=True, metavar="PATH", help="A value by its path; may be repeated.")
@MODEL
@SEED
@TARGET
@PRECISION
@THREADS
def run(file, data, weights, save, outputs, model, seed, target, precision, threads) -> None:
    """Run a model on data."""
    import numpy as np

    from ..runtime.data import load_arrays, save_arrays
    function = _compile(file, model, outputs or None, target, precision, threads)
    if save is not None:
        _check_target(save, file, data, weights)
    arrays = load_arrays(data, function.inputs)
    values = function.load(weights) if weights is not None else function.init(seed)
    random = function.program("predict").uses_seed
    result = function(values, arrays, seed=seed if random else None)
    named = dict(zip(function.outputs, result if isinstance(result, tuple) else (result,)))
    if save is not None:
        save_arrays(save, named)
        click.echo(f"{', '.join(named)} saved to {save}")
        return
    for name, value in named.items():
        click.echo(f"{name}: {function.outputs[name].dtype}{list(value.shape)}")
        click.echo(np.array2string(value, threshold=60, precision=5))


@cli.command()
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
    from ..runtime.data import load_arrays
    function = _compile(file, model, None, target, precision, threads)
    target_path = _save_path(file, save, data)
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
    from .progress import distinct, progress
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


# --- helpers --------------------------------------------------------------------------------------------------------


def _compile(file: Path, model=None, outputs=None, target="cpu", precision="f32", threads=None):
    from ..function import compile
    if threads is not None:
        from ..runtime.pool import set_threads
        set_threads(threads)
    return compile(file, model=model, outputs=outputs, target=target, precision=precision)


def _save_path(file: Path, save: Path | None, *read: Path) -> Path:
    """Where the weights go; refused now, not after an hour of training, where that is no place to write to."""
    target = save if save is not None else Path(file.with_suffix(".safetensors").name)
    _check_target(target, file, *read)
    return target


def _check_target(target: Path, *read: Path | None) -> None:
    """Refuses a place that cannot be written to, and one that would overwrite what the command reads."""
    folder = target.resolve().parent
    if target.suffix == ".net" or target.resolve() in [path.resolve() for path in read if path is not None]:
        raise OSError(f"cannot write {target}: it is what this command reads, or a model file")
    if target.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise OSError(f"cannot write {target}: {'it is a folder' if target.is_dir() else f'no writable folder {folder}'}")


def _validation(text: str | None, names: list[str]):
    """A fraction as a number, a file's arrays, or None."""
    if text is None:
        return None
    try:
        fraction = float(text)
    except ValueError:
        from ..runtime.data import load_arrays
        return load_arrays(text, names)
    if not 0 < fraction < 1:
        raise click.BadParameter(f"{text} is not between 0 and 1", param_hint="--validation")
    return fraction


def main(arguments: list[str] | None = None) -> None:
    """The entry point: errors of the user become messages, never tracebacks."""
    from ..runtime.errors import NetcError
    from .diagnostics import Diagnostics
    try:
        cli.main(args=arguments, prog_name="netc")
    except (Diagnostics, NetcError) as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
    except MemoryError as error:
        _fail(f"out of memory: {error}")


def _fail(message: str) -> None:
    # A name or a path may hold anything; the terminal must show it all the same.
    encoding = sys.stderr.encoding or "utf-8"
    text = message if message.startswith(("error", "warning")) or "error[" in message else f"error: {message}"
    click.echo(text.encode(encoding, "backslashreplace").decode(encoding), err=True)
    sys.exit(1)
