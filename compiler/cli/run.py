"""``netc run``."""

from __future__ import annotations

from pathlib import Path

import click

from .options import FILE, MODEL, PRECISION, SEED, TARGET, THREADS, check_target, compile_file


@click.command()
@FILE
@click.option("--data", type=click.Path(path_type=Path), required=True,
              help="One array an input: .npz, .npy, .csv, .safetensors, a folder.")
@click.option("--weights", type=click.Path(path_type=Path), help=".safetensors; without it, fresh weights of the seed.")
@click.option("--save", type=click.Path(path_type=Path),
              help="Where to, in the same formats; without it, outputs are described.")
@click.option("--check-finite", is_flag=True, help="Say where the first value that is NaN or infinite comes from.")
@click.option("--output", "outputs", multiple=True, metavar="PATH", help="A value by its path; may be repeated.")
@MODEL
@SEED
@TARGET
@PRECISION
@THREADS
def run(file, data, weights, save, check_finite, outputs, model, seed, target, precision, threads) -> None:
    """Run a model on data."""
    import numpy as np

    from ...runtime.data import check_format, load_arrays, save_arrays
    function = compile_file(file, model, outputs or None, target, precision, threads)
    if save is not None:
        check_format(save, function.outputs)
        if not save.is_dir():
            check_target(save, file, data, weights)
    arrays = load_arrays(data, function.inputs)
    values = function.load(weights) if weights is not None else function.init(seed)
    random = function.program("predict").uses_seed
    if check_finite:
        function.trace(values, arrays, seed=seed if random else None).check_finite()
    result = function(values, arrays, seed=seed if random else None)
    named = dict(zip(function.outputs, result if isinstance(result, tuple) else (result,)))
    if save is not None:
        save_arrays(save, named)
        click.echo(f"{', '.join(named)} saved to {save}")
        return
    for name, value in named.items():
        click.echo(f"{name}: {function.outputs[name].dtype}{list(value.shape)}")
        click.echo(np.array2string(value, threshold=60, precision=5))
