"""Measuring: every peer of a row in a process of its own, results compared first, then timed in turns."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .models import Model
from .peers import ALONE, NETC, Peer
from .process import PeerError, Process
from .quiet import Watch, wait_for_quiet

# Largest differences that rounding explains, relative: float32 sums of up to some ten thousand terms in another order,
# and for gradients what the layers above amplify.
OUTPUT_TOLERANCE = 1e-4         # of the largest element of an output
GRADIENT_TOLERANCE = 1e-3       # of a weight's gradient, by its norm
LOSS_TOLERANCE = 1e-4           # of each of the first losses
SMALL_GRADIENT = 1e-3           # of the whole: a smaller one (attention's key bias) is noise, and measured as this much
QUIET = 0.05                    # the share of the cores' time that others may take in a turn that counts as quiet
PAUSE = 0.02                    # seconds between turns: threads that spin while they wait for work come to rest


@dataclass
class Settings:
    """``turns`` of ``seconds`` each; a command that takes longer than ``limit`` seconds is cut off.  Turns in which
    others used the machine are repeated for up to ``patience`` seconds a row."""

    threads: int = 2
    turns: int = 7
    seconds: float = 0.4
    limit: float = 120.0
    patience: float = 20.0


@dataclass
class Timing:
    """One peer on one row.  Times in seconds a call: median, tenth and ninetieth percentile, and the least;
    ``difference`` is the largest from netc's results, in units of the tolerance; ``disturbance`` the share of the
    cores' time that other processes took in the turns that count (their median); ``peak_memory`` the largest of the
    process in bytes since its results were compared.  ``error``: why there is no time."""

    peer: str
    error: str | None = None
    median: float | None = None
    low: float | None = None
    high: float | None = None
    least: float | None = None
    samples: int = 0
    disturbance: float | None = None
    difference: float | None = None
    import_seconds: float | None = None
    first_seconds: float | None = None
    peak_memory: int | None = None

    @property
    def agrees(self) -> bool:
        return self.difference is None or self.difference <= 1


@dataclass
class Row:
    """One model, job and batch.  ``facts`` is what netc says of its program: FLOPs, bytes, parameters; ``speeds`` what
    the machine did, in FLOP/s and bytes/s, beside netc's turns."""

    model: str
    job: str
    batch: int
    timings: dict[str, Timing] = field(default_factory=dict)
    facts: dict = field(default_factory=dict)
    speeds: list[dict[str, float]] = field(default_factory=list)

    @property
    def netc(self) -> Timing:
        return self.timings[NETC.name]

    @property
    def best(self) -> Timing | None:
        """The fastest peer with right results."""
        found = [(t.median, t) for name, t in self.timings.items()
                 if name not in (NETC.name, ALONE.name) and t.median is not None and t.agrees]
        return min(found, key=lambda pair: pair[0], default=(0.0, None))[1]

    @property
    def ahead(self) -> float | None:
        """How many times faster than the best peer netc is."""
        best = self.best
        return best.median / self.netc.median if best is not None and best.median and self.netc.median else None

    @property
    def floor(self) -> float | None:
        """The least time that the machine could take, as it was while netc was timed: the graph's products at its rate
        of multiply-adds; in training, one pass of the optimiser besides: weights, two moments and the gradient read,
        all but this written."""
        if not self.facts or not self.speeds:
            return None
        flops, bandwidth = (statistics.median(speed[name] for speed in self.speeds) for name in ("flops", "bandwidth"))
        passed = 28 * self.facts["parameters"] / bandwidth if self.job == "training" else 0.0
        return self.facts["work_flops"] / flops + passed

    @property
    def speedup(self) -> float | None:
        """How many times faster netc's threads together are than one alone, where that was measured."""
        alone = self.timings.get(ALONE.name)
        return alone.median / self.netc.median if alone is not None and alone.median and self.netc.median else None

    def to_dict(self) -> dict:
        best = self.best.peer if self.best else None
        return asdict(self) | {"best": best, "ahead": self.ahead, "speedup": self.speedup, "floor": self.floor}


def geometric_mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return math.exp(statistics.fmean(map(math.log, found))) if found else None


def measure(model: Model, job: str, batches: Iterable[int], peers: Iterable[Peer], settings: Settings,
            told: Callable[[str], None] = lambda text: None) -> Iterator[Row]:
    """The rows of one model and job, one a batch size, as they are done."""
    peers = [NETC, *(peer for peer in peers if job in peer.jobs)]
    with tempfile.TemporaryDirectory(prefix="netc-bench-") as folder:
        race = _Race(model, job, peers, settings, Path(folder), told)
        try:
            for batch in sorted(batches):
                yield race.row(batch)
        finally:
            race.close()


@dataclass(frozen=True)
class Turn:
    """Seconds a call, what others took of the machine meanwhile, and for netc what the machine did right after."""

    samples: list[float]
    disturbance: float | None
    speed: dict[str, float] | None = None

    @property
    def is_quiet(self) -> bool:
        return self.disturbance is None or self.disturbance <= QUIET


class _Race:
    """The processes of one model and job.  They stay from batch to batch, but for one that had to be cut off."""

    def __init__(self, model: Model, job: str, peers: list[Peer], settings: Settings, folder: Path, told):
        self.model, self.job, self.peers, self.settings = model, job, peers, settings
        self.folder, self.told = folder, told
        self.processes: dict[str, Process] = {}
        self.surveyor: Process | None = None
        self.import_seconds: dict[str, float] = {}
        self.weights = folder / "weights.npz"
        from .. import compile
        np.savez(self.weights, **compile(model.path).init(0))

    def close(self) -> None:
        for process in (*self.processes.values(), *filter(None, [self.surveyor])):
            process.close()
        self.processes, self.surveyor = {}, None

    def row(self, batch: int) -> Row:
        row = Row(self.model.name, self.job, batch)
        inputs = self.folder / "inputs.npz"
        np.savez(inputs, **dict[str, Any](self.model.draw(self.job, batch)))
        reference = None
        for peer in self.peers:
            self.told(f"{self.model.name} {self.job} {batch}: {peer.name}")
            timing = row.timings[peer.name] = Timing(peer.name)
            result = self._attempt(timing, partial(self._prepare, peer, timing, inputs))
            if result is not None:
                reference = result if peer is NETC else reference
                timing.difference = difference(self.job, result, reference) if reference is not None else None
        if row.netc.error is None:
            self.told(f"{self.model.name} {self.job} {batch}: counting FLOPs")
            row.facts = self._survey("facts", inputs)
        self._time(row)
        return row

    def _survey(self, what: str, inputs: Path | None = None) -> dict:
        """What netc knows of its program or of the machine, asked in another process: it costs memory and time.  With
        ``inputs`` the program is loaded first; {} where that process fails, or has failed."""
        try:
            if inputs is not None:
                if self.surveyor is None:
                    self.surveyor = Process(NETC.module, self.settings.threads)
                    self.surveyor.ask(self.settings.limit, "import")
                self._load(self.surveyor, inputs)
            return self.surveyor.ask(self.settings.limit, what) if self.surveyor is not None else {}
        except PeerError as error:
            self.surveyor = None
            self.told(str(error))
            return {}

    def _load(self, process: Process, inputs: Path) -> float:
        """Seconds until the first result."""
        return process.ask(self.settings.limit, "load", model=self.model.name, job=self.job, weights=str(self.weights),
                           inputs=str(inputs))["seconds"]

    def _prepare(self, peer: Peer, timing: Timing, inputs: Path) -> dict[str, np.ndarray]:
        """Start, load and check; the peer's results."""
        limit = self.settings.limit
        if peer.name not in self.processes:
            process = self.processes[peer.name] = Process(peer.module, peer.threads or self.settings.threads)
            self.import_seconds[peer.name] = process.ask(limit, "import")["seconds"]
        process = self.processes[peer.name]
        timing.import_seconds = self.import_seconds[peer.name]
        timing.first_seconds = self._load(process, inputs)
        result = self.folder / "result.npz"
        process.ask(limit, "check", result=str(result))
        with np.load(result) as file:
            return dict(file)

    def _time(self, row: Row) -> None:
        """Turns: each peer in its turn, while the others wait for theirs."""
        turns: dict[str, list[Turn]] = {peer.name: [] for peer in self.peers if row.timings[peer.name].error is None}
        deadline = time.monotonic() + self.settings.patience
        number = 0
        while number < self.settings.turns or time.monotonic() < deadline and any(
                row.timings[name].error is None and self._wants_more(found) for name, found in turns.items()):
            number += 1
            self.told(f"{self.model.name} {self.job} {row.batch}: turn {number}")
            if number > self.settings.turns:
                wait_for_quiet(QUIET, deadline)
            for name, found in turns.items():
                if row.timings[name].error is None and (number <= self.settings.turns or self._wants_more(found)):
                    turn = self._attempt(row.timings[name], partial(self._turn, name))
                    found.extend([turn] if turn is not None else [])
                    time.sleep(PAUSE)
        for name, found in turns.items():
            if row.timings[name].error is None:
                kept = self._conclude(row.timings[name], found)
                row.speeds += [turn.speed for turn in kept if turn.speed]

    def _wants_more(self, found: list[Turn]) -> bool:
        return sum(turn.is_quiet for turn in found) < self.settings.turns

    def _turn(self, name: str) -> Turn:
        process = self.processes[name]
        watch = Watch(process.child.pid)
        samples = process.ask(self.settings.limit, "time", seconds=self.settings.seconds)["samples"]
        disturbance = watch.disturbance()
        return Turn(samples, disturbance, self._survey("speeds") if name == NETC.name else None)

    def _conclude(self, timing: Timing, turns: list[Turn]) -> list[Turn]:
        """The times of the quietest turns, which are returned."""
        kept = sorted(turns, key=lambda turn: turn.disturbance or 0.0)[:self.settings.turns]
        samples = [sample for turn in kept for sample in turn.samples]
        timing.samples = len(samples)
        timing.low, timing.median, timing.high = (float(x) for x in np.percentile(samples, (10, 50, 90)))
        timing.least = min(samples)
        known = [turn.disturbance for turn in kept if turn.disturbance is not None]
        timing.disturbance = statistics.median(known) if known else None
        timing.peak_memory = self.processes[timing.peer].ask(self.settings.limit, "memory")["peak"]
        return kept

    def _attempt(self, timing: Timing, action: Callable):
        """What the action gives; where the peer fails its error is noted, and its process ended."""
        try:
            return action()
        except PeerError as error:
            timing.error = str(error)
            process = self.processes.pop(timing.peer, None)
            if process is not None:
                process.close()
            return None


def difference(job: str, found: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> float:
    """The largest difference between results, 1 being what rounding may explain; infinite where they do not compare."""
    if found.keys() != reference.keys():
        return math.inf
    with np.errstate(all="ignore"):
        worst = [_difference_of(job, name, found[name], value, reference) for name, value in reference.items()]
    return max((value if value == value else math.inf for value in worst), default=0.0)


def _difference_of(job: str, name: str, found: np.ndarray, want: np.ndarray, reference: dict[str, np.ndarray]) -> float:
    if found.shape != want.shape:
        return math.inf
    if job == "inference":
        return float(np.abs(found - want).max() / (np.abs(want).max() + 1e-30)) / OUTPUT_TOLERANCE
    if name == "losses":
        return float((np.abs(found - want) / np.abs(want)).max()) / LOSS_TOLERANCE
    whole = math.sqrt(sum(float((array ** 2).sum()) for key, array in reference.items() if key != "losses"))
    scale = max(float(np.linalg.norm(want)), SMALL_GRADIENT * whole, 1e-30)
    return float(np.linalg.norm(found - want)) / scale / GRADIENT_TOLERANCE
