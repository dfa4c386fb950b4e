"""``netc emit``."""

from __future__ import annotations

from pathlib import Path

import click

from .options import FILE, MODEL, PRECISION, compile_file

PROGRAMS = ("predict", "evaluate", "gradient", "update", "step")


@click.command()
@FILE
@MODEL
@PRECISION
@click.option("--stage", type=click.Choice(["ast", "graph", "grad", "simplified", "fused", "loops", "numba"]),
              default="graph", show_default=True)
@click.option("--program", type=click.Choice(PROGRAMS), help="What to show; without it predict, and gradient for grad.")
def emit(file: Path, model: str | None, precision: str, stage: str, program: str | None) -> None:
    """Print one stage of the compilation."""
    from ..stages import format_stage, format_tree
    if stage == "ast":
        from ...function import read_source
        from ..syntax import parse
        click.echo(format_tree(parse(*read_source(file))))
        return
    function = compile_file(file, model, precision=precision)
    click.echo(format_stage(function.lower(program or ("gradient" if stage == "grad" else "predict")), stage))
