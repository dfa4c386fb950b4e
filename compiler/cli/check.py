"""``netc check``."""

from __future__ import annotations

from pathlib import Path

import click

from .options import FILE, MODEL, PRECISION, compile_file


@click.command()
@FILE
@MODEL
@PRECISION
def check(file: Path, model: str | None, precision: str) -> None:
    """Check a file and report every error with its place."""
    function = compile_file(file, model, precision=precision)
    for warning in function.model.warnings:
        click.echo(warning.render(), err=True)
    click.echo(f"{file}: fine: {function!r}")
