"""Whether a measurement was disturbed: how much of the processors' time others took meanwhile.

On a machine that others use, most of a long run may be worthless; a turn that was quiet is as good as on any machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

FIELDS_BUSY = (0, 1, 2, 5, 6, 7)        # of the line "cpu" in /proc/stat: user, nice, system, irq, softirq, steal
LOOK_SECONDS = 0.2
USER, SYSTEM = 11, 12                   # of /proc/PID/stat, after the name


@dataclass
class Watch:
    """Made before a turn; ``disturbance()`` after it is the share of all cores' time that went to processes
    other than this one and ``pid``.  None where the system does not tell."""

    pid: int

    def __post_init__(self):
        self.started, self.busy, self.own = time.perf_counter(), busy_seconds(), self._own()

    def disturbance(self) -> float | None:
        busy, own = busy_seconds(), self._own()
        if busy is None or own is None or self.busy is None or self.own is None:
            return None
        cores = os.cpu_count() or 1
        others = (busy - self.busy) - (own - self.own)
        return max(0.0, others / cores / (time.perf_counter() - self.started))

    def _own(self) -> float | None:
        worker = process_seconds(self.pid)
        return None if worker is None else worker + time.process_time()


def undisturbed(measure: Callable[[], T], share: float, patience: float) -> T:
    """What ``measure`` gives, which works in processes that end with it; again while others took more than this share
    of the cores meanwhile, and ``patience`` seconds are not over: then the least disturbed one counts."""
    deadline = time.monotonic() + patience
    results: list[tuple[float, int, T]] = []
    while True:
        wait_for_quiet(share, deadline)
        started, others = time.perf_counter(), _others()
        result = measure()
        seconds, later = time.perf_counter() - started, _others()
        if others is None or later is None:
            return result
        results.append(((later - others) / (os.cpu_count() or 1) / seconds, len(results), result))
        if results[-1][0] <= share or time.monotonic() >= deadline:
            return min(results)[2]


def _others() -> float | None:
    """Processor seconds of all but this process and its children that have ended."""
    busy = busy_seconds()
    if busy is None:
        return None
    import resource  # which there is where there is /proc
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return busy - time.process_time() - children.ru_utime - children.ru_stime


def wait_for_quiet(share: float, deadline: float) -> None:
    """Until others take no more than this share of the cores, or ``time.monotonic()`` reaches the deadline."""
    while time.monotonic() < deadline:
        before, started = busy_seconds(), time.perf_counter()
        time.sleep(LOOK_SECONDS)
        after = busy_seconds()
        if before is None or after is None:
            return
        if (after - before) / (os.cpu_count() or 1) / (time.perf_counter() - started) <= share:
            return


def busy_seconds() -> float | None:
    """Processor seconds that were not idle since the system started, of all cores together."""
    try:
        with open("/proc/stat") as file:
            counts = list(map(int, file.readline().split()[1:]))
    except OSError:
        return None
    return sum(counts[field] for field in FIELDS_BUSY) / os.sysconf("SC_CLK_TCK")


def process_seconds(pid: int) -> float | None:
    """Processor seconds of a process, all its threads together."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return (int(fields[USER]) + int(fields[SYSTEM])) / os.sysconf("SC_CLK_TCK")
