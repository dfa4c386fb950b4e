"""``netc plot``."""

from __future__ import annotations

from pathlib import Path

import click

from .options import FILE, MODEL, PRECISION, SIZES, check_target, read_file, sizes_of

PROGRAMS = ("predict", "evaluate", "gradient", "update", "step")


@click.command()
@FILE
@MODEL
@PRECISION
@click.option("--view", type=click.Choice(["model", "kernels"]), default="model", show_default=True,
              help="The layers as they were written, or the kernels that they became and the memory between them.")
@click.option("--depth", type=click.IntRange(1), metavar="LEVELS",
              help="Levels of nested models to open; without it your own, and the prelude's as long as it stays "
                   "readable.")
@click.option("--unroll", is_flag=True, help="Draw like models that follow one another one by one.")
@click.option("--program", type=click.Choice(PROGRAMS), default="predict", show_default=True, help="Of the kernels.")
@SIZES
@click.option("--save", type=click.Path(path_type=Path), metavar="PATH",
              help=".svg, .dot, .mmd (Mermaid) or .md; without it, FILE's name with .svg.")
def plot(file: Path, model: str | None, precision: str, view: str, depth: int | None, unroll: bool, program: str,
         sizes: tuple[str, ...], save: Path | None) -> None:
    """Draw a model as SVG, DOT or Mermaid."""
    from ..plot import format_of
    target = save if save is not None else Path(file.with_suffix(".svg").name)
    format_of(target)
    check_target(target, file)
    function = read_file(file, model, precision)
    picture = function.plot(view, depth=depth, unroll=unroll, program=program, sizes=sizes_of(sizes, function.model))
    picture.save(target)
    click.echo(f"{len(picture.figure.blocks)} boxes, {len(picture.figure.links)} arrows saved to {target}")
