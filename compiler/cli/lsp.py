"""``netc lsp``."""

from __future__ import annotations

import click


@click.command()
@click.option("--stdio", is_flag=True, help="Talk over standard input and output, which it does anyway.")
def lsp(stdio: bool) -> None:
    """Serve an editor: the language server, over standard input and output.

    Errors as you type, shapes of values, definitions, completion, renaming, formatting. Needs the extra `netc[lsp]`.
    """
    from ...runtime.errors import NetcError
    try:
        import pygls.lsp.server  # noqa: F401
    except ImportError:
        raise NetcError("the language server needs pygls: pip install 'netc[lsp]'") from None
    from ..editor.server import server
    server.start_io()
