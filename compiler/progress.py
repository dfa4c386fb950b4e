"""Training's progress: a bar that lives on a terminal or in a notebook, a line an epoch where the output is neither."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import click

SECONDS_BETWEEN_LOOKS = 0.05


@contextmanager
def progress() -> Iterator[list]:
    """The callbacks for ``fit`` that show it."""
    from rich.console import Console
    console = Console()
    if console.is_terminal or console.is_jupyter:
        yield from _bars(console)
    else:
        yield [lambda told: click.echo(_line(told))]


def _bars(console) -> Iterator[list]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24),
               TextColumn("{task.fields[numbers]}", markup=False),
               TextColumn("{task.fields[speed]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        yield [_Bars(bars)]


class _Bars:
    """One bar for the whole run, with the time that is left; each finished epoch leaves a line above it."""

    def __init__(self, bars):
        self._bars = bars
        self._task = bars.add_task("training", total=None, numbers="", speed="")
        self._next = 0.0

    def on_batch(self, told) -> None:
        now = time.perf_counter()
        if now < self._next:                # a small model does thousands of batches between two looks
            return
        self._next = now + SECONDS_BETWEEN_LOOKS
        done = (told.epoch - 1) * told.batches + told.batch
        self._bars.update(self._task,
                          description=f"epoch {told.epoch}/{told.epochs}  batch {told.batch}/{told.batches}",
                          completed=done, total=told.epochs * told.batches, numbers=numbers(told.logs),
                          speed=_speed(told))

    def on_epoch(self, told) -> None:
        self._bars.console.print(_line(told), highlight=False, markup=False)


def _line(told) -> str:
    """An epoch's numbers, and what it took."""
    return f"epoch {told.epoch}/{told.epochs}  {numbers(told.logs)}  {told.seconds:.1f} s" + (
        f"  {_speed(told)}" if told.seconds else "")


def _speed(told) -> str:
    rate = told.samples / told.seconds if told.seconds else 0.0
    return f"{rate:,.0f} samples/s"


def numbers(logs: Mapping[str, float]) -> str:
    """Losses and metrics in a line, without what only repeats the total."""
    return "  ".join(f"{name} {value:.4f}" for name, value in distinct(logs).items())


def distinct(logs: Mapping[str, float]) -> dict[str, float]:
    """Without what only repeats the total: the one loss of a model that has one, and no penalty."""
    kept: dict[str, float] = {}
    for name, value in logs.items():
        total = "val_loss" if name.startswith("val_") else "loss"
        if name == total or value != logs.get(total):
            kept[name] = value
    return kept
