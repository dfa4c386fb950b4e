"""The command line ``netc``.  Exit codes: 0 fine, 1 the user's error, 2 wrong usage.

A command is a module of this folder that defines a click command of the module's name; it is imported when it is
called, and imports what it needs when it runs: ``netc --help`` and ``netc check`` start no compiler back end.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import warnings

import click

# In the order of the help text.
COMMANDS = {
    "check": "Check files and report every error with its place.",
    "explain": "Explain an error by its code; without one, list them all.",
    "fmt": "Bring files into the canonical style; comments stay.",
    "summary": "Show the layers, their shapes, parameters, costs and kernels.",
    "diff": "Show what changed from one model to another.",
    "plot": "Draw a model as SVG, DOT or Mermaid.",
    "emit": "Print one stage of the compilation.",
    "init": "Make fresh weights and save them.",
    "run": "Run a model on data.",
    "train": "Train a model on data and save its weights.",
    "evaluate": "Measure losses and metrics on data.",
    "profile": "Show where the time goes, kernel by kernel.",
    "bench": "Compare speed and memory with other libraries, and with the machine's limit.",
    "cache": "Show or clear the cache of compiled code.",
    "lsp": "Serve an editor: the language server, over standard input and output.",
}


class _Commands(click.Group):
    """The commands by name, each imported when it is wanted."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return getattr(importlib.import_module(f".{name}", __name__), name)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(self, context: click.Context, arguments: list[str]):
        # click's own suggestion for a mistyped name, without importing every command.
        name = arguments[0] if arguments else ""
        if name and not name.startswith("-") and name not in COMMANDS:
            from difflib import get_close_matches
            near = get_close_matches(name, COMMANDS, 1)
            context.fail(f"no command `{name}`" + (f": did you mean `{near[0]}`?" if near else ""))
        return super().resolve_command(context, arguments)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="netc")
def cli() -> None:
    """Neural networks in .net files: check, look at, train and run them."""


def main(arguments: list[str] | None = None) -> None:
    """The entry point: errors of the user become messages, never tracebacks."""
    # NumPy's linear algebra has nothing large to do here, and starting its threads takes longer than most commands.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from ...runtime.errors import NetcError
    from ..diagnostics import Diagnostics
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")       # as for errors: a path may hold bytes that are no text
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *place: click.echo(f"warning: {message}", err=True)
            cli.main(args=arguments, prog_name="netc")
    except Diagnostics as error:
        _fail(f"{error}\n\n{error.advice}")
    except NetcError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
    except MemoryError as error:
        _fail(f"out of memory: {error}")


def _fail(message: str) -> None:
    from .options import echo_error
    echo_error(message)
    sys.exit(1)
