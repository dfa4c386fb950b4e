"""``netc evaluate``."""

from __future__ import annotations

from pathlib import Path

import click

from .options import FILE, MODEL, PRECISION, SEED, TARGET, THREADS, compile_file

PATH = click.Path(path_type=Path)


@click.command()
@FILE
@click.option("--data", type=PATH, required=True,
              help="One array an input and target: .npz, .npy, .csv, .safetensors, a folder.")
@click.option("--weights", type=PATH, required=True, help=".safetensors, as `netc train` saves them.")
@click.option("--batch-size", type=click.IntRange(1), default=256, show_default=True)
@click.option("--allow-nan", is_flag=True, help="Take data with NaN or infinities, for a model that expects them.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
@MODEL
@SEED
@TARGET
@PRECISION
@THREADS
def evaluate(file, data, weights, batch_size, allow_nan, as_json, model, seed, target, precision, threads) -> None:
    """Measure losses and metrics on data.

    They are means over all samples, of the model as it predicts: without dropout, with the running means of BatchNorm.
    """
    import json

    from ...runtime.data import load_arrays
    from ..progress import numbers
    function = compile_file(file, model, None, target, precision, threads)
    values = function.load(weights)
    arrays = load_arrays(data, {**function.inputs, **function.targets})
    found = function.evaluate(values, arrays, batch_size=batch_size, seed=seed, allow_nan=allow_nan)
    click.echo(json.dumps(found) if as_json else numbers(found))
