"""What this machine can do, measured: the roofline that profiles and benchmarks compare with.

Two small kernels run through the same runner as every program: fused multiply-adds on registers alone, and a pass
over four arrays of which three are written back, as an Adam update makes it (28 bytes an element).
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable

import numpy as np

from . import machine
from .host import vector_bytes
from .pool import threads
from .records import dataclass
from .runner import Runner

WORKING_SETS = (2 ** 18, 2 ** 21, 2 ** 24, 2 ** 27)     # bytes: within a core's own cache up to main memory
SECONDS = 0.001         # a run takes about this long, or one pass: short, so that some runs find all cores free
RUNS = 25               # of the roofline the best counts: whatever else the machine does only slows a run
FMA_CHAINS = 12         # independent accumulators: two units, busy for four or five cycles each
FMA_TURNS = 2_000       # of the loop that holds one fma a chain
STREAM_ARRAYS = 4
STREAM_BYTES = 28       # an element: four floats read, three written


@dataclass(frozen=True)
class Roofline:
    """FLOP/s of f32 multiply-adds, and bytes/s for working sets of some sizes, both with ``threads`` threads; or those
    that a GPU of this ``name`` has by its clocks."""

    threads: int
    flops: float
    bandwidths: tuple[tuple[int, float], ...]
    name: str = ""

    def bandwidth(self, working_set: int) -> float:
        """Bytes/s where this many bytes are in use, between the measured sizes in proportion to their logarithm."""
        sizes = [math.log(size) for size, _ in self.bandwidths]
        return float(np.interp(math.log(max(working_set, 1)), sizes, [rate for _, rate in self.bandwidths]))

    def seconds(self, flops: float, nbytes: float, working_set: int) -> float:
        """The least time that the machine needs for this much arithmetic and traffic, done side by side."""
        return max(flops / self.flops, nbytes / self.bandwidth(working_set))


def roofline() -> Roofline:
    """The machine's limits with as many threads as programs use (``set_threads``), measured once a process, in a second
    or two: ``.flops`` is FLOP/s of f32 multiply-adds, ``.bandwidth(n)`` bytes/s where n bytes are in use."""
    return _measure(threads())


def speeds_now(working_set: int) -> tuple[float, float]:
    """FLOP/s of f32 multiply-adds, and bytes/s where this many bytes are in use, as the machine is at this moment: what
    it does in the median of its runs, whereas ``roofline`` tells what it does at its best.  It takes some 0.1 s."""
    count, used = threads(), min(max(working_set, WORKING_SETS[0]), WORKING_SETS[-1])
    return _peak(count, statistics.median), _bandwidth(used, count, statistics.median)


@functools.cache
def _measure(count: int) -> Roofline:
    return Roofline(count, _peak(count), tuple((size, _bandwidth(size, count)) for size in WORKING_SETS))


def _kernel(name: str) -> int:
    return machine.code(f"roofline {name}").address


def _peak(count: int, pick: Callable = min) -> float:
    lanes = vector_bytes() // 4
    flops = 2 * FMA_CHAINS * lanes * FMA_TURNS
    memory = np.zeros(16 * count, np.float32)
    turns = 100
    words = np.array([0, 0, turns], np.int64)
    seconds = _seconds(_kernel("fma"), words, [memory], count, 3)
    words[2] = max(1, int(turns * SECONDS / seconds))
    return float(count * flops * words[2]) / _seconds(_kernel("fma"), words, [memory], count, pick=pick)


def _bandwidth(working_set: int, count: int, pick: Callable = min) -> float:
    chunk = working_set // (4 * STREAM_ARRAYS * count) // 16 * 16
    arrays = [np.zeros(chunk * count, np.float32) for _ in range(STREAM_ARRAYS)]
    words = np.array([0, 0, 1, 0, 2, 0, 3, 0, chunk, 1], np.int64)
    seconds = _seconds(_kernel("stream"), words, arrays, count, 3)
    words[9] = max(1, int(SECONDS / seconds))
    seconds = _seconds(_kernel("stream"), words, arrays, count, pick=pick)
    return float(STREAM_BYTES * chunk * count * words[9]) / seconds


def _seconds(address: int, words: np.ndarray, arrays: list[np.ndarray], count: int, runs: int = RUNS,
             pick: Callable = min) -> float:
    """Seconds of one unit a thread, which ``pick`` picks of some runs."""
    runner = Runner(np.array([[address, 0, count, 1]], np.int64), words)
    bases = np.array([array.ctypes.data for array in arrays], np.intp)
    run = runner if count > 1 else runner.serial
    found = []
    for _ in range(runs):
        start = time.perf_counter()
        run(bases.ctypes.data)
        found.append(time.perf_counter() - start)
    return pick(found)
