"""``netc profile``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .options import FILE, MODEL, PRECISION, SEED, TARGET, THREADS, compile_file


def _sizes(context, parameter, values: tuple[str, ...]) -> dict[str, int]:
    """NAME=NUMBER pairs as a mapping."""
    found = {}
    for text in values:
        name, _, number = text.partition("=")
        if not name or not number.isdigit() or int(number) < 1:
            raise click.BadParameter(f"{text!r} is not NAME=NUMBER, a number of at least 1")
        found[name] = int(number)
    return found


@click.command()
@FILE
@click.option("--program", type=click.Choice(["predict", "evaluate", "gradient", "step"]), default="predict",
              show_default=True, help="Inference, losses, loss and gradient, or the training step.")
@click.option("--batch", type=click.IntRange(1), help="Samples; without it 32, or all that the data hold.")
@click.option("--size", "sizes", multiple=True, metavar="NAME=NUMBER", callback=_sizes,
              help="Another symbolic size, 16 if not given; may be repeated.")
@click.option("--data", type=click.Path(path_type=Path), help=".npz with one array an input; without it, random ones.")
@click.option("--weights", type=click.Path(path_type=Path), help=".safetensors; without it, fresh weights of the seed.")
@click.option("--steps", is_flag=True, help="A row for each step, in order, not for each kernel.")
@click.option("--top", type=click.IntRange(1), help="Show this many rows.")
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
@MODEL
@SEED
@TARGET
@PRECISION
@THREADS
def profile(file, program, batch, sizes, data, weights, steps, top, as_json, model, seed, target, precision,
            threads) -> None:
    """Show where the time goes, kernel by kernel.

    FLOPs and bytes are counted from the kernels' loops, "of roofline" sets the time against what this machine, measured
    at the same time, would need for them; on a GPU, what its clocks allow.
    """
    from rich.console import Console
    function = compile_file(file, model, None, target, precision, threads)
    found = function.profile(program, _data(function, program, data, batch), batch=batch if data is None else None,
                             sizes=sizes, weights=function.load(weights) if weights is not None else None, seed=seed)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1))
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=170)
    console.print(found.describe(), highlight=False, markup=False)
    console.print()
    console.print(found.table(steps, top))


def _data(function, program: str, path: Path | None, batch: int | None):
    """The arrays of a file, the first ``batch`` samples of them; None where there is no file."""
    if path is None:
        return None
    from ...runtime.data import load_arrays
    signature = function.program(program).signature
    arrays = load_arrays(path, signature.types)
    samples = signature.batched() if batch is not None else ()
    return {name: array[:batch] if name in samples else array for name, array in arrays.items()}
