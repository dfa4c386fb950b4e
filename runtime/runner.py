"""The program as data, and the native code that walks it.

A program is a table ``steps``, int64[S, 4]: kernel address, offset of its arguments in ``args`` (in words), number of
work units, and grain (how many units a thread claims at once).  Steps run in order; the units of a step are
independent, so any split of them among threads yields the same bits.

Threads claim units dynamically: each takes [i, i + grain) from the step's counter by an atomic addition until none is
left, adds what it did to the step's second counter, and waits there for the rest.  Nobody waits for a thread that
has claimed nothing: a late or missing worker costs speed, never a hang.  A worker that arrives in the middle joins
at the current step.
"""

from __future__ import annotations

import ctypes
import functools

import numpy as np
from numba import njit, types

from .native import (ARGS, BASES, bases_at, call_kernel, compile_native, exchange, fetch_add, load_acquire,
                     nanoseconds, pause, sched_yield, source_digest, store_release, words_at)

STEP_WORDS = 4
COUNTER_WORDS = 8       # a step's two counters fill a cache line, so that steps do not share one

# The pool's control block, int64 words.  Words written by different threads are 64 bytes apart.
OPEN = 0                # the running job's number, 0 when there is none
ACTIVE = 8              # workers inside the job
CURRENT = 16            # the step that the caller is at
STOP = 24               # 1: workers return
JOB_PROGRAM, JOB_BASES, JOB_COUNTERS = 32, 33, 34       # addresses of the running job's program, bases, counters
NUMBER = 35             # of jobs so far
CONTROL_WORDS = 40

# A program block, int64 words: address of the steps, their number, address of the arguments.
PROGRAM_STEPS, PROGRAM_COUNT, PROGRAM_ARGS = range(3)

_PAUSES = 1000          # spins (some 40 us) after which a waiting thread gives up its time slice at each look


@njit(nogil=True, error_model="numpy")
def _wait(words, index, value):
    """Wait until words[index] >= value."""
    spins = 0
    while load_acquire(words, index) < value:
        pause()
        spins += 1
        if spins > _PAUSES:
            sched_yield()


@njit(nogil=True, error_model="numpy")
def _walk(control, is_caller, times, timed):
    """Do steps from the current one to the last of the job that ``control`` describes."""
    program, bases = words_at(control, JOB_PROGRAM), bases_at(control, JOB_BASES)
    steps, count, args = words_at(program, PROGRAM_STEPS), program[PROGRAM_COUNT], words_at(program, PROGRAM_ARGS)
    counters = words_at(control, JOB_COUNTERS)
    clock = nanoseconds() if timed else 0
    step = load_acquire(control, CURRENT)
    while step < count:
        if is_caller:
            store_release(control, CURRENT, step)
        row, claimed = step * STEP_WORDS, step * COUNTER_WORDS
        done = claimed + 1
        units, grain = steps[row + 2], max(steps[row + 3], 1)
        while load_acquire(counters, claimed) < units:
            begin = fetch_add(counters, claimed, grain)
            if begin >= units:
                break
            end = min(begin + grain, units)
            call_kernel(steps, row, bases, args, steps[row + 1], begin, end)
            fetch_add(counters, done, end - begin)
        _wait(counters, done, units)
        if timed:
            now = nanoseconds()
            times[step] += now - clock
            clock = now
        step += 1


def _define_serial(digest):
    def serial(program, bases):
        digest                                      # see source_digest
        steps, args = words_at(program, PROGRAM_STEPS), words_at(program, PROGRAM_ARGS)
        for step in range(program[PROGRAM_COUNT]):
            row = step * STEP_WORDS
            if steps[row + 2] > 0:
                call_kernel(steps, row, bases, args, steps[row + 1], 0, steps[row + 2])
    return serial


def _define_timed(digest):
    def timed(program, bases, times):
        """``serial``, adding each step's nanoseconds to times[step]."""
        digest
        steps, args = words_at(program, PROGRAM_STEPS), words_at(program, PROGRAM_ARGS)
        clock = nanoseconds()
        for step in range(program[PROGRAM_COUNT]):
            row = step * STEP_WORDS
            if steps[row + 2] > 0:
                call_kernel(steps, row, bases, args, steps[row + 1], 0, steps[row + 2])
            now = nanoseconds()
            times[step] += now - clock
            clock = now
    return timed


def _define_parallel(digest):
    def parallel(control, program, bases, counters, times, timed):
        """The caller's side of a job; program, bases and counters are addresses as integers."""
        digest
        control[JOB_PROGRAM] = program
        control[JOB_BASES] = bases
        control[JOB_COUNTERS] = counters
        words = words_at(control, JOB_COUNTERS)
        for i in range(words_at(control, JOB_PROGRAM)[PROGRAM_COUNT] * COUNTER_WORDS):
            words[i] = 0
        control[NUMBER] += 1
        store_release(control, CURRENT, 0)
        exchange(control, OPEN, control[NUMBER])
        _walk(control, True, times, timed)
        # Nobody may still look at the counters when the next job clears them.  A worker counts itself in before it
        # looks at OPEN a second time, so once OPEN is 0 and ACTIVE is 0 all have left.
        exchange(control, OPEN, 0)
        spins = 0
        while load_acquire(control, ACTIVE) != 0:
            pause()
            spins += 1
            if spins > _PAUSES:
                sched_yield()
    return parallel


def _define_work(digest):
    def work(control, patience):
        """A worker's side: join jobs as they come; return after ``patience`` nanoseconds without one, or at STOP."""
        digest
        seen = 0
        quiet_since = nanoseconds()
        while load_acquire(control, STOP) == 0:
            job = load_acquire(control, OPEN)
            if job != 0 and job != seen:
                fetch_add(control, ACTIVE, 1)
                job = load_acquire(control, OPEN)
                if job != 0:
                    _walk(control, False, control, False)
                fetch_add(control, ACTIVE, -1)
                seen = job
                quiet_since = nanoseconds()
            else:
                for _ in range(8):
                    pause()
                if nanoseconds() - quiet_since > patience:
                    break
    return work


_SIGNATURES = {
    "serial": (_define_serial, types.void(ARGS, BASES)),
    "timed": (_define_timed, types.void(ARGS, BASES, ARGS)),
    "parallel": (_define_parallel, types.void(ARGS, *[types.int64] * 3, ARGS, types.int64)),
    "work": (_define_work, types.void(ARGS, types.int64)),
}


@functools.cache
def native_function(name: str):
    """The ctypes function (it releases the GIL) of "serial", "timed", "parallel" or "work"; its arguments are int64."""
    define, sig = _SIGNATURES[name]
    compiled = compile_native(define(source_digest("native", "runner")), sig, cache=True)
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * len(sig.args))(compiled.address)
    function.compiled = compiled        # keeps the machine code alive
    return function


class Runner:
    """A program bound to its sizes: ``runner(bases)`` runs it.

    steps: int64[S, 4], args: int64[...]; both are kept (not copied when already int64 and contiguous), so a caller may
    rewrite argument words between runs, but not during one.  Calls from several Python threads may overlap, each
    with its own ``bases``, as long as their slots do not overlap.
    """

    def __init__(self, steps: np.ndarray, args: np.ndarray):
        self.steps = np.ascontiguousarray(steps, dtype=np.int64).reshape(-1, STEP_WORDS)
        self.args = np.ascontiguousarray(args, dtype=np.int64)
        self.count = len(self.steps)
        self.is_parallel = bool((self.steps[:, 2] > np.maximum(self.steps[:, 3], 1)).any())
        self._program = np.array([self.steps.ctypes.data, self.count, self.args.ctypes.data], np.int64)
        self.address = self._program.ctypes.data
        self._serial = native_function("serial")

    def __call__(self, bases: int) -> None:
        """Run every step; ``bases`` is the address of an intp array of slot addresses that lives until this returns.

        One step with more units than its grain is enough for the pool to be asked; it may be busy, and then the
        calling thread does all by itself.
        """
        if self.is_parallel:
            from .pool import pool
            threads = pool()
            if threads is not None and threads.run(self, bases):
                return
        self._serial(self.address, bases)

    def serial(self, bases: int) -> None:
        """Run every step on the calling thread."""
        self._serial(self.address, bases)

    def profile(self, bases: int, threads: bool = True) -> np.ndarray:
        """Run once, with a clock between steps: nanoseconds int64[S]; ``threads=False``: on the calling thread."""
        from .pool import pool
        times = np.zeros(self.count, np.int64)
        workers = pool() if threads and self.is_parallel else None
        if workers is None or not workers.run(self, bases, times):
            native_function("timed")(self.address, bases, times.ctypes.data)
        return times
