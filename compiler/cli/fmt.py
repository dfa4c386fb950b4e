"""``netc fmt``."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import click

from .options import FILES, echo_error, net_files


@click.command()
@FILES
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 if a file is not in the canonical style.")
@click.option("--diff", is_flag=True, help="Write nothing; show what would change, and exit with 1 if anything would.")
def fmt(files: tuple[Path, ...], check: bool, diff: bool) -> None:
    """Bring files into the canonical style; comments stay.

    A folder stands for every .net file below it, `-` for the standard input, whose formatted text goes to the output.
    Without FILES, the working folder.
    """
    from ...runtime.errors import NetcError
    counts = {"formatted": 0, "fine": 0, "wrong": 0}
    for path in net_files(files or (Path("."),), stdin=True):
        try:
            before, after, newline = _format(path)
        except NetcError as error:
            echo_error(str(error))
            counts["wrong"] += 1
            continue
        counts["fine" if before == after else "formatted"] += 1
        if diff:
            click.echo(_difference(path, before, after), nl=False)
        elif path == Path("-") and not check:
            click.echo(after.encode().replace(b"\n", newline), nl=False)
        elif before != after:
            if not check:
                _write(path, after.encode().replace(b"\n", newline))
            click.echo(f"{'would format' if check else 'formatted'} {path}", err=path == Path("-"))
    if len(files) != 1 or files[0] != Path("-"):
        click.echo(_total(counts, check or diff), err=diff)
    sys.exit(1 if counts["wrong"] or (counts["formatted"] and (check or diff)) else 0)


def _format(path: Path) -> tuple[str, str, bytes]:
    """(the text, the text formatted, the line end of the file), line ends made plain in both."""
    from ..kept_models import formatted
    from ..source import read
    data = sys.stdin.buffer.read() if path == Path("-") else path.read_bytes()
    name = "<stdin>" if path == Path("-") else str(path)
    source = read(data, name)
    newline = b"\r\n" if data.split(b"\n", 1)[0].endswith(b"\r") else b"\n"
    return source.text, formatted(source.text, name), newline


def _difference(path: Path, before: str, after: str) -> str:
    from difflib import unified_diff
    lines = unified_diff(before.splitlines(), after.splitlines(), f"a/{path}", f"b/{path}", lineterm="")
    return "".join(line + "\n" for line in lines)


def _write(path: Path, data: bytes) -> None:
    """Replaces the file's content in one step: it is the old or the new one, never a part. Links and rights stay."""
    target = path.resolve()
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except OSError as error:            # the name that the user knows
        raise type(error)(error.errno, error.strerror, str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


def _total(counts: dict[str, int], dry: bool) -> str:
    words = {"formatted": "would be formatted" if dry else "formatted", "fine": "fine already", "wrong": "with errors"}
    return ", ".join(f"{_files(counts[kind])} {word}" for kind, word in words.items() if counts[kind])


def _files(count: int) -> str:
    return f"{count} file{'s' if count != 1 else ''}"
