"""The program as data, and the native code that walks it.

A program is a table ``steps``, int64[S, 4]: kernel address, offset of its arguments in ``args`` (in words), number of
work units, and grain (how many units a thread claims at once).  Steps run in order; the units of a step are
independent, so any split of them among threads yields the same bits.

Threads claim pieces of ``grain`` units dynamically: each takes the next from one of the step's two ends by an atomic
addition to its counter until none is left, adds what it did to the step's second counter, and waits there for the
rest.  Nobody waits for a thread that has claimed nothing: a late or missing worker costs speed, never a hang.  A worker
that arrives in the middle joins at the current step.
"""

from __future__ import annotations

import ctypes
import functools

from . import machine
from .deferred import np

STEP_WORDS = 4          # of a step, in the table and within a region
COUNTER_WORDS = 8       # a step's two counters fill a cache line, so that steps do not share one
BACK = 1 << 32          # what a piece claimed from the back adds to the counter of claims, one from the front adds 1

# The pool's control block, int64 words.  Words written by different threads are 64 bytes apart.
OPEN = 0                # the running job's number, 0 when there is none
ACTIVE = 8              # workers inside the job
CURRENT = 16            # the step that the caller is at
STOP = 24               # 1: workers return, and no job begins
JOB_PROGRAM, JOB_BASES = 32, 33         # addresses of the running job's program and bases
NUMBER = 34             # of jobs so far
BUSY = 40               # 1 while a job runs
ASLEEP = 48             # 1 where a worker sleeps, or is about to
CONTROL_WORDS = 56

# A program block, int64 words: address of the steps, their number, address of the arguments, whether it flushes,
# address of the counters, address of the runs' ends: for the first step of each run the step after it.
PROGRAM_STEPS, PROGRAM_COUNT, PROGRAM_ARGS, PROGRAM_FLUSHES, PROGRAM_COUNTERS, PROGRAM_ENDS = range(6)

# What a request to run with all threads is answered: it is done; nothing is done, since another job runs or there are
# no workers any more; or since a worker must be woken first.
DONE, OCCUPIED, SLEEPERS = range(3)

ARGUMENTS = {"serial": 2, "timed": 3, "parallel": 3, "parallel_timed": 4, "work": 3}
ANSWERING = ("parallel", "parallel_timed")


def texts(with_regions: bool) -> list[str]:
    """What stands for the code that runs programs, with or without regions."""
    from .pool import threads
    names = ["serial"] + ["parallel", "work"] * (threads() > 1) + ["region"] * with_regions
    return [_text(name) for name in names]


def _text(name: str) -> str:
    return f"runner {name}"


@functools.cache
def native_function(name: str, brief: bool = False):
    """The ctypes function of a name in ARGUMENTS, which are int64, none negative.

    It releases the GIL, unless it is ``brief``: to release and take it costs as much as a small model.
    """
    compiled = machine.code(_text(name))
    # ctypes converts an address in a fifth of the time that it takes for an int64.
    kind = ctypes.PYFUNCTYPE if brief else ctypes.CFUNCTYPE
    result = ctypes.c_int64 if name in ANSWERING else None
    return kind(result, *[ctypes.c_void_p] * ARGUMENTS[name])(compiled.address)


def region_address() -> int:
    """The kernel whose units each do their part of many steps, one after the other.

    Its arguments: how many steps; for each the address of a kernel, where its arguments begin (in words, from here),
    its number of units, and how many of them belong to a unit of the region; then these arguments.
    """
    return machine.code(_text("region")).address


def _ends_of_runs(steps: np.ndarray) -> np.ndarray:
    """Where the run that begins at each step ends: of steps that are one piece each, which one thread does without
    meeting the others between them; a step of several is a run by itself."""
    is_whole = (steps[:, 2] <= np.maximum(steps[:, 3], 1)).tolist()
    ends = list(range(1, len(steps) + 1))
    for step in range(len(steps) - 2, -1, -1):
        if is_whole[step] and is_whole[step + 1]:
            ends[step] = ends[step + 1]
    return np.array(ends, np.int64)


class Runner:
    """A program bound to its sizes: ``runner(bases)`` runs it.

    steps: int64[S, 4], args: int64[...]; both are kept (not copied when already int64 and contiguous), so a caller may
    rewrite argument words between runs, but not during one.  Calls from several Python threads may overlap, each
    with its own ``bases``, as long as their slots do not overlap.  ``flushes``: numbers below the smallest normal one
    are 0, on every thread that takes part: with them some processors take ten times as long.  ``is_brief``: a run on
    one thread takes so short a time that it keeps the interpreter's lock.  ``is_flat``: threads meet after every step,
    even between those that are one piece each, so that each has a time of its own.
    """

    def __init__(self, steps: np.ndarray, args: np.ndarray, worth_threads: bool = True, flushes: bool = False,
                 is_brief: bool = False, is_flat: bool = False):
        self.steps = np.ascontiguousarray(steps, dtype=np.int64).reshape(-1, STEP_WORDS)
        self.args = np.ascontiguousarray(args, dtype=np.int64)
        self.count = len(self.steps)
        self.is_parallel = worth_threads and bool((self.steps[:, 2] > np.maximum(self.steps[:, 3], 1)).any())
        # A program runs with several threads once at a time: its counters are its own.
        self._counters = np.zeros((self.count + 1) * COUNTER_WORDS if self.is_parallel else 0, np.int64)
        counters = self._counters.ctypes.data
        self._ends = _ends_of_runs(self.steps) if self.is_parallel and not is_flat else \
            np.arange(1, self.count + 1, dtype=np.int64)
        self._program = np.array([self.steps.ctypes.data, self.count, self.args.ctypes.data, flushes,
                                  counters + -counters % 64, self._ends.ctypes.data], np.int64)
        self.address = self._program.ctypes.data
        self.is_brief = is_brief and not self.is_parallel
        self._serial = native_function("serial", self.is_brief)

    def __call__(self, bases: int) -> None:
        """Run every step; ``bases`` is the address of an intp array of slot addresses that lives until this returns."""
        self.direct()(bases)

    def direct(self):
        """``self`` as a function of ``bases`` that is as fast as can be.

        One step with more units than its grain is enough for the pool to be asked; it may be busy, and then the
        calling thread does all by itself.
        """
        if not self.is_parallel:
            return functools.partial(self._serial, self.address)
        from .pool import run

        def shared(bases: int) -> None:
            if not run(self, bases):
                self._serial(self.address, bases)
        return shared

    def serial(self, bases: int) -> None:
        """Run every step on the calling thread."""
        self._serial(self.address, bases)

    def profile(self, bases: int, threads: bool = True) -> np.ndarray:
        """Run once, with a clock between steps: nanoseconds int64[S]; ``threads=False``: on the calling thread."""
        from .pool import run
        times = np.zeros(self.count, np.int64)
        if not (threads and self.is_parallel and run(self, bases, times)):
            native_function("timed")(self.address, bases, times.ctypes.data)
        return times
