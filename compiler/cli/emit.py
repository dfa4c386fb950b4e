"""``netc emit``."""

from __future__ import annotations

from pathlib import Path

import click

from .options import FILE, MODEL, PRECISION, SIZES, read_file, sizes_of

PROGRAMS = ("predict", "evaluate", "gradient", "update", "step")
STAGES = ("ast", "graph", "grad", "simplified", "fused", "loops", "numba", "llvm", "asm", "cuda", "ptx")


@click.command()
@FILE
@MODEL
@PRECISION
@click.option("--stage", type=click.Choice(STAGES), default="graph", show_default=True)
@click.option("--program", type=click.Choice(PROGRAMS), help="What to show; without it predict, and gradient for grad.")
@SIZES
def emit(file: Path, model: str | None, precision: str, stage: str, program: str | None,
         sizes: tuple[str, ...]) -> None:
    """Print one stage of the compilation."""
    if stage == "ast":              # of a file that may not be a model yet
        from ..source import read_source
        from ..stages import format_tree
        from ..syntax import parse
        click.echo(format_tree(parse(*read_source(file))))
        return
    function = read_file(file, model, precision)
    chosen = program or ("gradient" if stage == "grad" else "predict")
    click.echo(function.emit(stage, chosen, sizes_of(sizes, function.model)))
