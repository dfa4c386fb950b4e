"""``netc diff``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from .options import PRECISION, SIZES, read_file, sizes_of

COLOURS = {"+": "green", "-": "red", "~": "yellow"}


@click.command()
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option("--model", metavar="NAME",
              help="The model in both files; without it, the one that is trained, or the last.")
@PRECISION
@click.option("--depth", type=click.IntRange(1), metavar="LEVELS",
              help="Levels of nested models to compare; without it all but the layers of the prelude.")
@SIZES
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
@click.option("--exit-code", is_flag=True, help="Exit with 1 if there is a difference.")
def diff(before: Path, after: Path, model: str | None, precision: str, depth: int | None, sizes: tuple[str, ...],
         as_json: bool, exit_code: bool) -> None:
    """Show what changed from one model to another.

    Parameters, FLOPs, layers that were added, removed or changed, and the weights that can be taken over.
    """
    old, new = (read_file(path, model, precision) for path in (before, after))
    found = new.diff(old, depth, sizes_of(sizes, new.model) or None)
    if as_json:
        import json
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        click.echo(f"--- {before}: {old.model.name}\n+++ {after}: {new.model.name}\n")
        for sign, line in found.lines():
            click.secho(line, fg=COLOURS.get(sign))
    sys.exit(1 if exit_code and found else 0)
