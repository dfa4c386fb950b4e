"""``netc bench`` and ``python -m netc.bench``: what a run measures, and where its results go."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console

from .measure import Row, Settings, measure
from .models import ALL, MODELS
from .peers import ALONE, JOBS, NETC, PEERS, Peer
from .plot import svg
from .report import Report, against, summary
from .starts import (
    BATCH,
    QUICK_REPEATS,
    REPEATS,
    commands_table,
    import_seconds,
    measure_commands,
    measure_starts,
    starts_table,
    to_dict,
)

BATCHES, QUICK_BATCHES = (1, 32, 128), (1, 32)
PLAIN_WIDTH = 190


def run(models: Iterable[str], batches: Iterable[int], jobs: Iterable[str], peers: Iterable[Peer], settings: Settings,
        console: Console) -> Report:
    """Measure everything that is asked for; what is not installed is left out.  Ctrl-C ends it with what there is."""
    chosen = [peer for peer in peers if peer is ALONE or peer.installed]
    rows: list[Row] = []
    with _progress(console) as told:
        try:
            for model in models:
                for job in jobs:
                    for row in measure(MODELS[model], job, batches, chosen, settings, told):
                        rows.append(row)
                        if not console.is_terminal:
                            click.echo(summary(row), err=True)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
    return Report.of(settings, rows, chosen)


@contextmanager
def _progress(console: Console) -> Iterator:
    """What is going on, on a terminal; nothing where the output goes elsewhere."""
    if not console.is_terminal:
        yield lambda text: None
        return
    with console.status("starting") as status:
        yield status.update


def main(models: tuple[str, ...], batches: tuple[int, ...], jobs: tuple[str, ...], peers: tuple[str, ...], quick: bool,
         scaling: bool, starts: bool, earlier: Path | None, as_json: Path | None, figure: Path | None,
         **limits) -> None:
    """The command, its options read; ``limits`` are fields of Settings, None for those that were not given."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = {name: value for name, value in limits.items() if value is not None}
    settings = Settings(**{"threads": min(2, cores)} | given)
    console = _console()
    if starts:
        _starts(models, jobs, peers, quick, settings, as_json, console)
        return
    for name in models:
        if name not in MODELS:
            raise click.BadParameter(f"{name} is only for --compile", param_hint="--models")
    past = _past_rows(earlier) if earlier is not None else []
    if quick:
        settings.turns, settings.seconds = 3, 0.15
    chosen = [ALONE] * scaling + [PEERS[name] for name in peers or PEERS if name != NETC.name]
    report = run(models or MODELS, batches or (QUICK_BATCHES if quick else BATCHES), jobs or JOBS, chosen, settings,
                 console)
    console.print(report.shown(), highlight=False)
    if earlier is not None:
        console.print(f"\nnetc in {earlier} and now, milliseconds", highlight=False)
        console.print(against(report.rows, past), highlight=False)
    if as_json is not None:
        as_json.write_text(report.to_json())
    if figure is not None:
        figure.write_text(svg(report.rows))


def _past_rows(path: Path) -> list[dict]:
    """The rows of an earlier run's JSON; refused now, not after the run, where it is none."""
    try:
        rows = json.loads(path.read_text())["rows"]
        sound = all(NETC.name in row["timings"] and {"job", "model", "batch", "floor"} <= row.keys() for row in rows)
    except (ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise click.BadParameter(f"{path} is not the JSON of a run", param_hint="--against")
    return rows


def _starts(models, jobs, peers, quick: bool, settings: Settings, as_json: Path | None, console: Console) -> None:
    """First results in fresh processes, cold and warm; of netc alone unless peers are named."""
    chosen = [PEERS[name] for name in peers if name != NETC.name and PEERS[name].installed]
    repeats = QUICK_REPEATS if quick else REPEATS
    with _progress(console) as told:
        found = measure_starts(models or ALL, jobs or JOBS, chosen, settings, repeats, told)
        told("commands")
        commands = measure_commands(models or ALL, settings, repeats)
    imported = import_seconds()
    console.print(f"import netc: {1e3 * imported:.0f} ms\n\nfrom the start of a process to its first result at batch "
                  f"{BATCH}; cold: with no compiled code on disk, warm: the second process, after others: with the "
                  "code of the models above\n", highlight=False)
    console.print(starts_table(found), highlight=False)
    console.print("\nseconds of a command, cold and warm\n", highlight=False)
    console.print(commands_table(commands), highlight=False)
    if as_json is not None:
        as_json.write_text(json.dumps(to_dict(found, commands, imported), indent=1))


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=PLAIN_WIDTH)


def names(context, parameter, text: str | None) -> tuple:
    """A list of names with commas between, as a tuple; each must be known."""
    known: dict[str, Iterable] = {"models": ALL, "jobs": JOBS, "peers": [NETC.name, *PEERS]}
    found = tuple(part.strip() for part in (text or "").split(",") if part.strip())
    for name in found:
        if name not in known[parameter.name]:
            raise click.BadParameter(f"there is no {name!r}: there are {', '.join(known[parameter.name])}")
    return found


def numbers(context, parameter, text: str | None) -> tuple[int, ...]:
    """A list of counts with commas between."""
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{text!r} is not a list of numbers of at least 1")
    return tuple(map(int, parts))
