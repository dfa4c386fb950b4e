"""``netc check``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import click

from .options import FILES, MODEL, PRECISION, echo_aside, echo_error, net_files

INTERVAL = 0.25          # seconds between two looks at the files


@click.command()
@FILES
@MODEL
@PRECISION
@click.option("--watch", is_flag=True, help="Check again when a file, or one that it imports, changes; Ctrl-C ends.")
def check(files: tuple[Path, ...], model: str | None, precision: str, watch: bool) -> None:
    """Check files and report every error with its place.

    A folder stands for every .net file below it.  All models of a file are checked; a file of layers and functions
    alone is fine.  Exits with 1 if there is an error; warnings and notes leave it at 0.
    """
    if not files:
        raise click.UsageError("name a file or a folder to check")

    def check_all() -> tuple[int, set[Path]]:
        paths = net_files(files)
        results = [_check(path, model, precision) for path in paths]
        wrong = sum(not fine for fine, _ in results)
        if len(paths) > 1:
            click.echo(f"{len(paths) - wrong} of {len(paths)} files are fine")
        return wrong, {*paths, *(path for _, read in results for path in read)}

    if watch:
        _watch(files, check_all)
    else:
        sys.exit(1 if check_all()[0] else 0)


def _check(path: Path, model: str | None, precision: str) -> tuple[bool, list[Path]]:
    """Reports on one file: (whether it is right, the files that it imports)."""
    from ..kept_models import report
    try:
        data = path.read_bytes()
    except OSError as error:
        echo_error(f"{path}: {error.strerror}")
        return False, []
    found = report(data, str(path), model, precision)
    for message in found.messages:
        echo_aside(message + "\n")
    if found.fine:
        click.echo(f"{path}: fine: {found.contents}")
    else:
        echo_aside(found.advice)
    return found.fine, [Path(read) for read in found.read]


def _watch(files: Iterable[Path], check_all: Callable[[], tuple[int, set[Path]]]) -> None:
    """Checks, and checks again after every change, until Ctrl-C."""
    from ...runtime.errors import NetcError
    read: set[Path] = set()
    seen: dict[Path, tuple] | None = None
    try:
        while True:
            start, now = time.time_ns(), _state(files, read)
            if now != seen:
                if seen is not None:
                    changed = sorted(str(path) for path in {*seen, *now} if seen.get(path) != now.get(path))
                    click.echo(f"--- {time.strftime('%H:%M:%S')}: changed: {', '.join(changed)}")
                try:
                    read = check_all()[1]
                except (NetcError, OSError) as error:      # a file in the middle of being replaced, a folder emptied
                    echo_error(str(error))
                # A file found only now may have changed since it was read: then it counts as changed.
                found = {path: stamp if stamp and stamp[0] < start else () for path, stamp in _state((), read).items()}
                seen = {**found, **now}
                sys.stdout.flush()
            time.sleep(INTERVAL)
    except KeyboardInterrupt:
        click.echo("")


def _state(files: Iterable[Path], read: Iterable[Path]) -> dict[Path, tuple]:
    """When each file was written, and how long it is."""
    found = {}
    for path in files:
        for file in (path.rglob("*.net") if path.is_dir() else (path,)):
            found[file] = _stamp(file)
    return {**found, **{path: _stamp(path) for path in read}}


def _stamp(path: Path) -> tuple:
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_size, status.st_ino
