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
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def init(file: Path, model: str | None, seed: int, precision: str, save: Path | None, force: bool) -> None:
    """Make fresh weights and save them."""
    function = read_file(file, model, precision)
    target = save_path(file, save)
    if target.exists() and not force:
        raise OSError(f"{target} is there already, perhaps with trained weights: --force replaces it, --save names "
                      f"another file")
    function.save(function.init(seed), target)
    click.echo(f"{function.layout.trainable_size:,} parameters saved to {target}")
