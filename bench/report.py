"""What was measured, as data and as tables for a terminal."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from .measure import Row, Settings, Timing, geometric_mean
from .peers import ALONE, NETC, PEERS, Peer
from .sizes import installed_bytes, version

MIB = 2 ** 20
LEAST_FLOOR = 1e-6          # seconds; below, a call's own cost is everything
DISTURBED = 0.1             # a time is marked if others took more of the machine meanwhile


@dataclass
class Report:
    """Every row of a run, with what is needed to judge it."""

    settings: Settings
    rows: list[Row]
    versions: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    machine: dict[str, object] = field(default_factory=dict)

    @staticmethod
    def of(settings: Settings, rows: list[Row], peers: list[Peer]) -> Report:
        libraries = dict.fromkeys(peer.library for peer in (NETC, *peers))
        machine: dict[str, object] = {"processor": processor(), "system": platform.platform(),
                                      "python": platform.python_version(), "cores": os.cpu_count()}
        return Report(settings, rows, {name: version(name) for name in libraries},
                      {name: installed_bytes(name) for name in libraries}, machine)

    def ahead(self, job: str) -> float | None:
        """The geometric mean over the rows of a job of: the best peer's time over netc's."""
        return geometric_mean(row.ahead for row in self.rows if row.job == job)

    def to_json(self) -> str:
        """Everything; times in seconds, sizes in bytes."""
        data = {"settings": asdict(self.settings), "machine": self.machine, "versions": self.versions,
                "installed_bytes": self.sizes, "ahead": {job: self.ahead(job) for job in self.jobs},
                "rows": [row.to_dict() for row in self.rows]}
        return json.dumps(data, indent=1)

    @property
    def jobs(self) -> list[str]:
        return list(dict.fromkeys(row.job for row in self.rows))

    def shown(self):
        """Everything for rich's console."""
        parts: list = [Text(self._head())]
        for job in self.jobs:
            rows = [row for row in self.rows if row.job == job]
            names = [name for name in (ALONE.name, *PEERS) if any(name in row.timings for row in rows)]
            unit = "call" if job == "inference" else "step"
            title = f"\n{job}, milliseconds a {unit} (median ± half of the middle 80 %)"
            parts += [Text(title), times(rows, names)]
            mean = self.ahead(job)
            if mean is not None:
                parts.append(Text(f"geometric mean against the best peer of each row: {mean:.2f}x"))
            parts += [Text("\nlargest memory of the process while it was timed, MiB"), table(rows, names, _memory),
                      Text("\nseconds from the ready import to the first result: compiling, or reading compiled code"),
                      table(rows, names, _first),
                      Text("\nnetc's program: what products and kernels compute and move, its arena over the least "
                           "that could hold it"), work(rows)]
        sizes = ", ".join(f"{name} {size / MIB:.0f}" for name, size in self.sizes.items())
        parts.append(Text(f"\ninstalled, with all that it needs, MiB: {sizes}"))
        parts += [Text(note) for note in self.notes()]
        return Group(*parts)

    def _head(self) -> str:
        peak = max((row.facts.get("peak_flops", 0.0) for row in self.rows), default=0.0)
        stream = max((row.facts["bandwidths"][-1][1] for row in self.rows if row.facts), default=0.0)
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return (f"{self.machine.get('processor', '')}, {self.settings.threads} threads each; measured: "
                f"{peak / 1e9:.0f} GFLOP/s, {stream / 1e9:.0f} GB/s from memory\n{versions}\n"
                "floor: the graph's products, in training and one pass of the optimiser over the weights, at the "
                "speeds that the machine had between netc's turns")

    def notes(self) -> list[str]:
        """What a reader must know: failures, differences, a machine that was not quiet."""
        found = []
        for row in self.rows:
            place = f"{row.model} {row.job} {row.batch}"
            for timing in row.timings.values():
                if timing.error is not None:
                    found.append(f"{place}: {timing.peer}: {timing.error}")
                elif not timing.agrees:
                    by = f"{timing.difference:.2g} times the tolerance"
                    found.append(f"{place}: {timing.peer}: results differ by {by}")
        disturbed = [timing.disturbance for row in self.rows for timing in row.timings.values()
                     if timing.disturbance is not None and timing.disturbance > DISTURBED]
        if disturbed:
            found.append(f"{len(disturbed)} times, marked ~, were taken while others used the machine, at the worst "
                         f"{100 * max(disturbed):.0f} % of it: libraries whose threads wait for each other suffer most")
        return found


def summary(row: Row) -> str:
    """A row in a line, for a log."""
    found = [f"{timing.peer} {milliseconds(timing.median)} ms" if timing.error is None else f"{timing.peer} failed"
             for timing in row.timings.values()]
    return f"{row.model} {row.job} {row.batch}: {', '.join(found)}"


def times(rows: list[Row], names: list[str]) -> Table:
    """A row a model and batch: floor, netc, the peers."""
    made = _table("model", "batch", "floor", "netc", "/ floor", *names, "best / netc")
    for row in rows:
        best = row.best
        cells = [_cell(row.timings[name], row.timings[name] is best) if name in row.timings else "" for name in names]
        floor = row.floor if row.floor and row.floor > LEAST_FLOOR else None
        over = f"{row.netc.median / floor:.1f}x" if row.netc.median and floor else ""
        made.add_row(row.model, str(row.batch), milliseconds(floor), _cell(row.netc), over, *cells,
                     "" if row.ahead is None else f"{row.ahead:.2f}x")
    return made


def against(rows: list[Row], earlier: list[dict]) -> Table:
    """netc's times and their distance from the floor, in an earlier run and now."""
    made = _table("job", "model", "batch", "before", "now", "faster", "before / floor", "now / floor")
    known = {(row["job"], row["model"], row["batch"]): row for row in earlier}
    for row in rows:
        old = known.get((row.job, row.model, row.batch))
        before, now = old["timings"][NETC.name]["median"] if old else None, row.netc.median
        if old and before and now:
            over = [f"{seconds / floor:.1f}x" if floor and floor > LEAST_FLOOR else ""
                    for seconds, floor in ((before, old["floor"]), (now, row.floor))]
            made.add_row(row.job, row.model, str(row.batch), milliseconds(before), milliseconds(now),
                         f"{before / now:.2f}x",
                         *over)
    return made


def table(rows: list[Row], names: list[str], cell) -> Table:
    made = _table("model", "batch", "netc", *names)
    for row in rows:
        made.add_row(row.model, str(row.batch), *(cell(row.timings[name]) if name in row.timings else ""
                                                  for name in (NETC.name, *names)))
    return made


def work(rows: list[Row]) -> Table:
    """FLOPs, bytes and memory of netc's programs."""
    made = _table("model", "batch", "parameters", "MFLOP products", "MFLOP", "MB", "GFLOP/s", "arena MiB", "/ live",
                  *["speedup"] * any(row.speedup for row in rows))
    for row in rows:
        facts = row.facts
        if facts:
            rate = facts["work_flops"] / row.netc.median / 1e9 if row.netc.median else 0.0
            over = f"{facts['arena'] / facts['live']:.2f}" if facts["live"] else "-"
            made.add_row(row.model, str(row.batch), f"{facts['parameters']:,}", f"{facts['work_flops'] / 1e6:,.1f}",
                         f"{facts['flops'] / 1e6:,.1f}", f"{facts['bytes'] / 1e6:,.1f}", f"{rate:.1f}",
                         f"{facts['arena'] / MIB:.1f}", over, *([f"{row.speedup:.2f}x"] if row.speedup else []))
    return made


def _table(*titles: str) -> Table:
    made = Table(box=None, pad_edge=False, header_style="bold")
    for position, title in enumerate(titles):
        made.add_column(title, justify="left" if position == 0 else "right", no_wrap=True)
    return made


def _cell(timing: Timing, best: bool = False) -> Text:
    if timing.error is not None:
        return Text("cut off" if timing.error.startswith("cut off") else "failed", style="red")
    assert timing.median and timing.low is not None and timing.high is not None     # there is no error
    spread = (timing.high - timing.low) / 2 / timing.median
    mark = "~" if (timing.disturbance or 0.0) > DISTURBED else ""
    text = f"{mark}{milliseconds(timing.median)} ±{100 * spread:.0f}%"
    return Text(text, style="bold" if best else "") if timing.agrees else Text(f"{text} differs", style="red")


def _memory(timing: Timing) -> str:
    return f"{timing.peak_memory / MIB:.0f}" if timing.peak_memory else "-"


def _first(timing: Timing) -> str:
    return f"{timing.first_seconds:.2f}" if timing.first_seconds is not None else "-"


def milliseconds(seconds: float | None) -> str:
    """Three digits."""
    if seconds is None:
        return "-"
    value = seconds * 1e3
    places = 4 if value < 0.1 else 3 if value < 1 else 2 if value < 10 else 1
    return f"{value:.{places}f}"


def processor() -> str:
    """The processor's name, as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass                # not Linux
    return platform.processor() or platform.machine()
