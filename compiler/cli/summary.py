"""``netc summary``."""

from __future__ import annotations

from pathlib import Path

import click

from .options import FILE, MODEL, compile_file


@click.command()
@FILE
@MODEL
def summary(file: Path, model: str | None) -> None:
    """Show the layers, their shapes and parameters."""
    click.echo(compile_file(file, model).summary())
