"""A program on a GPU: one launch a step, over tables in the device's memory.

The table of addresses (``bases``) is rewritten for each run, the argument words never: a launch takes two addresses and
a number of units, whatever it computes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np

from ..errors import DeviceError
from ..records import dataclass
from . import door, kernels
from .arrays import DeviceArray, empty, upload

THREADS = 256               # of a block whose threads take units of their own
MOST_BLOCKS = 1 << 16       # of a launch; each takes units until none is left
SIMULATED = 2               # the same of the simulator; lanes are twice as many


@dataclass(frozen=True)
class Launch:
    """A step or a part of one: its source, where its argument words begin, its units, the threads that share a unit
    (1: none do), what it does, and the number of its step among all."""

    text: str
    first_word: int
    units: int
    lanes: int
    label: str = ""
    row: int = 0


class Program:
    """Launches in their order, and their argument words."""

    def __init__(self, launches: Sequence[Launch], words: Sequence[int]):
        self._words = upload(np.array(words or [0], np.int64))
        self._runs = 0
        self._replay: Callable[[], None] | None = None
        first = self._words.address
        launches = [launch for launch in launches if launch.units > 0]
        found = kernels.load(launch.text for launch in launches)
        self._launches = [(found[launch.text].launch, _shape(launch), first + 8 * launch.first_word, launch.units)
                          for launch in launches]

    def run(self, bases: DeviceArray) -> None:
        """Launch every step; they run in order, and this may return before they are done.

        ``bases`` is the same array each time.  What runs a second time is recorded as a CUDA graph, and is one launch
        from then on.
        """
        self._runs += 1
        if self._runs == 2 and door.can_capture():      # the first run has loaded all kernels
            try:
                self._replay = door.capture(lambda stream: self._launch(bases, stream))
            except DeviceError as error:
                warnings.warn(f"steps are launched one by one, as no CUDA graph: {error}", RuntimeWarning, stacklevel=2)
        if self._replay is not None:
            self._replay()
        else:
            self._launch(bases, 0)

    def profile(self, bases: DeviceArray) -> list[float]:
        """One run with an event after each launch: the seconds of those that have units, in order."""
        from . import driver
        marks = [driver.mark()]
        with door.launching():
            for launch, (blocks, threads), words, units in self._launches:
                launch(blocks, threads, 0, bases.address, words, units)
                marks.append(driver.mark())
        return driver.between(marks)

    def _launch(self, bases: DeviceArray, stream: int) -> None:
        with door.launching():
            for launch, (blocks, threads), words, units in self._launches:
                launch(blocks, threads, stream, bases.address, words, units)


def _shape(launch: Launch) -> tuple[int, int]:
    """Blocks, and threads of a block."""
    threads, most = (SIMULATED, SIMULATED) if door.is_simulated() else (THREADS, MOST_BLOCKS)
    if launch.lanes > 1:
        return min(launch.units, most), launch.lanes
    return min(-(-launch.units // threads), most), threads


def lanes(wanted: int) -> int:
    """How many threads share a unit that would be shared by so many: fewer in the simulator, whose threads are
    Python's."""
    return min(wanted, 2 * SIMULATED) if door.is_simulated() else wanted


class Frame:
    """The memory that runs of a program need beside inputs and outputs; ``bases`` is the table of addresses."""

    def __init__(self, arena_bytes: int, slots: int, constants: np.ndarray, arena: int, constant: int):
        self._arena = empty((arena_bytes,), np.uint8)
        self._constants = upload(constants)
        self.table = np.zeros(slots, np.int64)
        self.table[arena], self.table[constant] = self._arena.address, self._constants.address
        self.bases = empty((slots,), np.int64)
