"""``netc summary``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from .options import FILE, MODEL, PRECISION, SIZES, read_model, sizes_of


@click.command()
@FILE
@MODEL
@PRECISION
@click.option("--depth", type=click.IntRange(1), metavar="LEVELS",
              help="Levels of nested models to open; without it all but the layers of the prelude.")
@SIZES
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def summary(file: Path, model: str | None, precision: str, depth: int | None, sizes: tuple[str, ...],
            as_json: bool) -> None:
    """Show the layers, their shapes, parameters, costs and kernels."""
    from ..collector import paused
    from ..kept_models import shown

    @paused()
    def make():
        from ..summary import summarize
        found = read_model(file, model, precision)
        return found, summarize(found, depth, sizes_of(sizes, found) or None)
    found = shown(file.read_bytes(), str(file), (model, precision, depth, sizes), make)
    if as_json:
        import json
        click.echo(json.dumps(found.data, indent=2))
        return
    if sys.stdout.isatty() or "FORCE_COLOR" in os.environ:
        from rich.console import Console
        _print(Console(), found)
    else:
        click.echo(found.text)


STYLES = {"input": "green", "output": "green", "operation": "dim", "parameter": "yellow"}


def _print(console, found) -> None:
    """The table on a terminal: what does not fit is folded within its cell."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from ..summary import COLUMNS, NUMBERS
    table = Table(box=box.SIMPLE_HEAD, title=f"model {found.model}", title_justify="left", title_style="bold",
                  header_style="bold", pad_edge=False)
    shown = [column for column in range(len(COLUMNS)) if any(cells[column] for _, _, *cells in found.rows)]
    for column in shown:
        table.add_column(COLUMNS[column], justify="right" if column in NUMBERS else "left",
                         no_wrap=column in (0, *NUMBERS), overflow="fold")
    for kind, depth, *texts in found.rows:
        style = "bold" if kind == "layer" and not depth else STYLES.get(kind, "")
        table.add_row(*(Text(texts[column], style=style if column == 0 else "cyan" if texts[column] == "shared" else "")
                        for column in shown))
    console.print(table)
    for line in found.totals:
        console.print(line, markup=False, highlight=False)
