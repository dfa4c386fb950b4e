"""``netc init``."""

from __future__ import annotations

from pathlib import Path

import click

from .options import FILE, MODEL, PRECISION, SEED, read_file, save_path


@click.command()
@FILE
@MODEL
@SEED
@PRECISION
@click.option("--save", type=click.Path(path_type=Path), help="Where to; without it, FILE's name with .safetensors.")
def init(file: Path, model: str | None, seed: int, precision: str, save: Path | None) -> None:
    """Make fresh weights and save them."""
    function = read_file(file, model, precision)
    target = save_path(file, save)
    function.save(function.init(seed), target)
    click.echo(f"{function.layout.trainable_size:,} parameters saved to {target}")
