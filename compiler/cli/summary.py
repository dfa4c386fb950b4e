"""``netc summary``."""

from __future__ import annotations

from pathlib import Path

import click

from .options import FILE, MODEL, PRECISION, compile_file


@click.command()
@FILE
@MODEL
@PRECISION
@click.option("--depth", type=click.IntRange(1), metavar="LEVELS",
              help="Levels of nested models to open; without it all but the layers of the prelude.")
@click.option("--size", "sizes", multiple=True, metavar="SYMBOL=NUMBER", help="A value for a symbol; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def summary(file: Path, model: str | None, precision: str, depth: int | None, sizes: tuple[str, ...], as_json: bool) -> None:
    """Show the layers, their shapes, parameters, costs and kernels."""
    function = compile_file(file, model, precision=precision)
    found = function.summary(depth, _sizes(sizes, function) if sizes else None)
    if as_json:
        import json
        click.echo(json.dumps(found.to_dict(), indent=2))
        return
    from rich.console import Console
    console = Console()
    if console.is_terminal:
        _print(console, found)
    else:
        click.echo(str(found))


def _sizes(given: tuple[str, ...], function) -> dict[str, int]:
    from ..types import symbols
    known = sorted({name for type_ in function.inputs.values() for size in type_.shape for name in symbols(size)})
    sizes = {}
    for text in given:
        name, _, number = text.partition("=")
        if name not in known or not number.isdecimal() or int(number) < 1:
            raise click.BadParameter(f"{text!r} is no SYMBOL=NUMBER; the symbols are {', '.join(known) or 'none'}",
                                     param_hint="--size")
        sizes[name] = int(number)
    return sizes


STYLES = {"input": "green", "output": "green", "operation": "dim", "parameter": "yellow"}


def _print(console, found) -> None:
    """The table on a terminal: what does not fit is folded within its cell."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from ..summary import COLUMNS, NUMBERS
    cells = found.table()
    table = Table(box=box.SIMPLE_HEAD, title=f"model {found.model}", title_justify="left", title_style="bold",
                  header_style="bold", pad_edge=False)
    shown = [column for column in range(len(COLUMNS)) if any(row[column] for row in cells)]
    for column in shown:
        table.add_column(COLUMNS[column], justify="right" if column in NUMBERS else "left",
                         no_wrap=column in (0, *NUMBERS), overflow="fold")
    for row, texts in zip(found.rows, cells):
        style = "bold" if row.kind == "layer" and not row.depth else STYLES.get(row.kind, "")
        table.add_row(*(Text(texts[column], style=style if column == 0 else "cyan" if texts[column] == "shared" else "")
                        for column in shown))
    console.print(table)
    for line in found.totals():
        console.print(line, markup=False, highlight=False)
