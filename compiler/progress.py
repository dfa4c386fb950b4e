"""Training's progress on a terminal: a bar that lives, or a line an epoch where the output is no terminal."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Iterator, Mapping

import click


@contextmanager
def progress(quiet: bool) -> Iterator:
    """A callback for ``fit``."""
    from rich.console import Console
    console = Console()
    if quiet:
        yield lambda told: None
    elif console.is_terminal:
        yield from _bars(console)
    else:
        yield lambda told: click.echo(_line(told))


def _bars(console) -> Iterator:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[numbers]}"), TimeRemainingColumn())
    with Progress(*columns, console=console) as bars:
        yield _Bars(bars)


class _Bars:
    """One bar for the whole run; each finished epoch leaves a line above it."""

    def __init__(self, bars):
        self._bars = bars
        self._task = bars.add_task("training", total=None, numbers="")

    def on_batch(self, told) -> None:
        done = (told.epoch - 1) * told.batches + told.batch
        self._bars.update(self._task, description=f"epoch {told.epoch}/{told.epochs}", completed=done,
                          total=told.epochs * told.batches, numbers=_numbers(told.logs))

    def on_epoch(self, told) -> None:
        self._bars.console.print(_line(told), highlight=False, markup=False)


def _line(told) -> str:
    return f"epoch {told.epoch}/{told.epochs}  {_numbers(told.logs)}"


def _numbers(logs: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in distinct(logs).items())


def distinct(logs: Mapping[str, float]) -> dict[str, float]:
    """Without what only repeats the total: the one loss of a model that has one, and no penalty."""
    kept: dict[str, float] = {}
    for name, value in logs.items():
        total = "val_loss" if name.startswith("val_") else "loss"
        if name == total or value != logs.get(total):
            kept[name] = value
    return kept
