"""``netc bench --compile``: how long a person waits, for a first result and for a command, in fresh processes.

Cold: with an empty folder for compiled code.  Warm: a second process with the same folder.  After others: with a
folder that the models before it in the table have filled; the last ones in it are of layers that were in these.
Seconds count from the start of the process to the first result, the interpreter's start and all imports included.
"""

from __future__ import annotations

import functools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from .measure import QUIET, Settings
from .models import ALL, MODELS, NEW, Model
from .peers import NETC, Peer
from .process import PeerError, Process, variables
from .quiet import undisturbed, wait_for_quiet

REPEATS, QUICK_REPEATS = 5, 1
IMPORT_REPEATS = 9
BATCH, OTHER_BATCH = 32, 7
TITLES = ("model", "job", "peer", "cold s", "after others s", "warm s", "of it import s", "other batch s", "MiB cold",
          "warm", "compiled: cold", "after others", "warm", "other batch")
KINDS = ("cold", "after others", "warm")
COMMANDS = (("check",), ("summary",), ("fmt", "--check"))
# JAX keeps only what took long to compile, unless told otherwise.
ALWAYS_KEEP = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}


@dataclass
class Start:
    """One peer's start on one model and job: medians of seconds.  ``after_others`` is netc's, with the code of the
    models before; ``other_batch`` is what another batch size took after the warm one; ``memory`` gives, by kind of
    start, the process's peak in bytes, ``counts`` how many kernels netc compiled and how many came from the cache."""

    peer: str
    model: str
    job: str
    cold: float | None = None
    after_others: float | None = None
    warm: float | None = None
    import_seconds: float | None = None
    other_batch: float | None = None
    memory: dict[str, int] = field(default_factory=dict)
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    error: str | None = None


def measure_starts(models: Iterable[str], jobs: Iterable[str], peers: Iterable[Peer], settings: Settings,
                   repeats: int, told: Callable[[str], None] = lambda text: None) -> list[Start]:
    found = []
    with tempfile.TemporaryDirectory(prefix="netc-bench-") as place:
        shared = Path(place) / "shared"
        for name in models:
            for job in jobs:
                for peer in (NETC, *peers):
                    if job in peer.jobs and (peer is NETC or name in MODELS):
                        told(f"{name} {job}: {peer.name}")
                        found.append(_start(ALL[name], job, peer, settings, repeats, shared))
    return found


def _start(model: Model, job: str, peer: Peer, settings: Settings, repeats: int, shared: Path) -> Start:
    start = Start(peer.name, model.name, job)
    with tempfile.TemporaryDirectory(prefix="netc-bench-") as place:
        folder = Path(place)
        from .. import compile
        weights: dict[str, Any] = dict(compile(model.path).init(0))
        np.savez(folder / "weights.npz", **weights)
        for batch in (BATCH, OTHER_BATCH):
            np.savez(folder / f"{batch}.npz", **dict[str, Any](model.draw(job, batch)))

        def once(kind: str, cache: Path) -> tuple[float, float]:
            kept = {name: str(cache) for name in peer.fresh} | ALWAYS_KEEP
            return _once(start, kind, model, job, peer, settings, kept, folder)

        def cold_and_warm() -> tuple[float, float, float]:
            cache = Path(tempfile.mkdtemp(dir=folder))
            return once("cold", cache)[0], *once("warm", cache)
        try:
            found = [undisturbed(cold_and_warm, QUIET, settings.patience) for _ in range(repeats)]
            if peer is NETC:
                wait_for_quiet(QUIET, time.monotonic() + settings.patience)
                start.after_others = once("after others", shared)[0]
        except PeerError as error:
            start.error = str(error)
            return start
    start.cold, start.warm, start.import_seconds = map(statistics.median, zip(*found, strict=True))
    return start


def _once(start: Start, kind: str, model: Model, job: str, peer: Peer, settings: Settings, cache: dict[str, str],
          folder: Path) -> tuple[float, float]:
    """Seconds from a process's start to its first result, and those of its import."""
    began, limit = time.perf_counter(), settings.limit
    with Process(peer.module, settings.threads, cache) as process:
        imported = process.ask(limit, "import")["seconds"]
        task = {"model": model.name, "job": job, "weights": str(folder / "weights.npz")}
        process.ask(limit, "load", **task, inputs=str(folder / f"{BATCH}.npz"))
        seconds = time.perf_counter() - began
        start.memory[kind] = process.ask(limit, "memory")["peak"]
        if peer is NETC:
            start.counts[kind] = _counts(process, limit)
        if kind == "warm":
            start.other_batch = process.ask(limit, "load", **task, inputs=str(folder / f"{OTHER_BATCH}.npz"))["seconds"]
            if peer is NETC:
                start.counts["other batch"] = _counts(process, limit)
    return seconds, imported


def _counts(process: Process, limit: float) -> tuple[int, int]:
    counts = process.ask(limit, "counts")
    return counts["compiled"], counts["cached"]


def import_seconds() -> float:
    """What ``import netc`` adds to the start of Python: median of fresh processes."""
    pairs = [_process_seconds("-c", "import netc") - _process_seconds("-c", "pass") for _ in range(IMPORT_REPEATS)]
    return max(0.0, statistics.median(pairs))


def _process_seconds(*arguments: str, **given: str) -> float:
    """How long a process of Python takes."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, env=variables() | given, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


@dataclass
class CommandTimes:
    """A command on a model's file: medians of seconds with an empty cache, and with what that left there."""

    command: str
    model: str
    cold: float
    warm: float


def measure_commands(models: Iterable[str], settings: Settings, repeats: int) -> list[CommandTimes]:
    def cold_and_warm(command: tuple[str, ...], name: str) -> list[float]:
        with tempfile.TemporaryDirectory(prefix="netc-bench-") as cache:
            return [_process_seconds("-m", __package__.partition(".")[0], *command, str(ALL[name].path),
                                     NETC_CACHE_DIR=cache) for _ in range(2)]
    found = []
    for command in COMMANDS:
        for name in models:
            if name in NEW:         # a command reads a text, whatever was compiled before
                continue
            measure = functools.partial(cold_and_warm, command, name)
            seconds = [undisturbed(measure, QUIET, settings.patience) for _ in range(repeats)]
            found.append(CommandTimes(" ".join(command), name, *map(statistics.median, zip(*seconds, strict=True))))
    return found


def commands_table(times: Iterable[CommandTimes]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("command", no_wrap=True)
    by_command: dict[str, list[CommandTimes]] = {}
    for one in times:
        by_command.setdefault(one.command, []).append(one)
    for one in next(iter(by_command.values()), []):
        table.add_column(one.model, justify="right", no_wrap=True)
    for command, row in by_command.items():
        table.add_row(f"netc {command}", *(f"{one.cold:.2f} {one.warm:.2f}" for one in row))
    return table


def starts_table(starts: Iterable[Start]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in TITLES:
        table.add_column(title, justify="left" if title in ("model", "job", "peer") else "right", no_wrap=True)
    for start in starts:
        if start.error is not None:
            table.add_row(start.model, start.job, start.peer, start.error)
            continue
        compiled = [str(start.counts[kind][0]) if kind in start.counts else "" for kind in KINDS]
        extra = str(start.counts["other batch"][0] - start.counts["warm"][0]) if "other batch" in start.counts else ""
        seconds = (_seconds(value) for value in (start.cold, start.after_others, start.warm, start.import_seconds,
                                                 start.other_batch))
        peaks = (f"{start.memory[kind] / 2 ** 20:.0f}" for kind in ("cold", "warm"))
        table.add_row(start.model, start.job, start.peer, *seconds, *peaks, *compiled, extra)
    return table


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def to_dict(starts: Iterable[Start], commands: Iterable[CommandTimes], imported: float) -> dict:
    return {"import_netc_seconds": imported, "batch": BATCH, "other_batch": OTHER_BATCH,
            "commands": [asdict(one) for one in commands], "starts": [asdict(start) for start in starts]}
