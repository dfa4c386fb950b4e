"""``netc explain``."""

from __future__ import annotations

import sys

import click


@click.command()
@click.argument("code", required=False)
def explain(code: str | None) -> None:
    """Explain an error by its code; without one, list them all.

    The page shows a file that makes the mistake, the message, and the file as it should be.
    """
    from ..error_index import contents, page
    if code is None:
        click.echo(contents(), nl=False)
    elif sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown
        Console(width=min(124, Console().width)).print(Markdown(page(code)))
    else:
        click.echo(page(code), nl=False)
