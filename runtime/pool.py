"""The process-wide pool of worker threads.

Workers are Python daemon threads.  Between jobs they spin in native code for a moment (the GIL released), so that a
hot loop pays no wake-up, then block in Python.  One job runs at a time: a second thread that asks while the pool is
busy is told so and runs its program alone, with the same result.  A forked child starts with no pool and makes its own
when it needs one.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
import time
from typing import TYPE_CHECKING

from . import runner
from .deferred import np

if TYPE_CHECKING:
    from queue import SimpleQueue

# Longer than Python takes between two steps of a training loop whose arrays have driven its own out of the caches.
SPIN_NANOSECONDS = 500_000


class Pool:
    """``workers`` threads beside the caller."""

    def __init__(self, workers: int):
        from queue import SimpleQueue
        self._control = np.zeros(runner.CONTROL_WORDS + 8, np.int64)
        # Words that different threads write must not share a cache line.
        address = self._control.ctypes.data
        self._first = -address % 64 // 8
        self.address = address + self._first * 8            # of the control block
        self._sleeping = threading.Lock()                   # held while it changes who sleeps
        self._asleep: list[SimpleQueue] = []                # of each worker that sleeps, what it waits for
        self._parallel = runner.native_function("parallel")
        self._work = runner.native_function("work")
        self._threads = [threading.Thread(target=self._serve, args=(place, SimpleQueue()), name=f"netc-{place}",
                                          daemon=True) for place in range(1, workers + 1)]
        for thread in self._threads:
            thread.start()

    def _get(self, word: int) -> int:
        return self._control[self._first + word]

    def _set(self, word: int, value: int) -> None:
        self._control[self._first + word] = value

    def _serve(self, place: int, wake: SimpleQueue) -> None:
        while not self._get(runner.STOP):
            self._work(self.address, SPIN_NANOSECONDS, place)
            # This worker first says that it sleeps, then looks whether a job is there; a job first says that it is
            # there, then looks who sleeps.  So at least one of them sees the other, and no job goes by beside a
            # sleeping worker.
            with self._sleeping:
                self._asleep.append(wake)
                self._set(runner.ASLEEP, 1)
            if not self._get(runner.BUSY) and not self._get(runner.STOP):
                wake.get()
            with self._sleeping:
                if wake in self._asleep:
                    self._asleep.remove(wake)
                    self._set(runner.ASLEEP, len(self._asleep) > 0)

    def wake(self) -> None:
        """Wake the workers that sleep.  Wherever Ctrl-C interrupts it, the next call wakes those that it did not: to be
        woken twice costs a worker nothing but a look."""
        with self._sleeping:
            for wake in self._asleep:
                wake.put(None)
            self._asleep.clear()
            self._set(runner.ASLEEP, 0)

    def run(self, program: runner.Runner, bases: int, times: np.ndarray | None = None) -> bool:
        """Run the program with all threads; False, and nothing done, where the pool is busy or stopped."""
        def ask() -> int:
            if times is None:
                return self._parallel(self.address, program.address, bases)
            timed = runner.native_function("parallel_timed")
            return timed(self.address, program.address, bases, times.ctypes.data)
        answer = ask()
        while answer == runner.SLEEPERS:
            self.wake()
            answer = ask()
        return answer == runner.DONE

    def stop(self) -> None:
        """End the workers, after the running job if there is one; later ones find no workers."""
        self._set(runner.STOP, 1)
        self.wake()
        # A job looks at STOP once more after it has said that it runs: what is not seen here does not begin.
        while self._get(runner.BUSY):
            time.sleep(0.0005)
        for thread in self._threads:
            thread.join(timeout=5)
            self.wake()

    def forget(self) -> None:
        """In a forked child, where the workers do not exist: let nobody run anything with them."""
        self._set(runner.STOP, 1)


def _default_threads() -> int:
    value = os.environ.get("NETC_THREADS", "")
    if value.isdigit() and int(value) > 0:
        return int(value)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_threads = 0                    # 0: not decided yet
_pool: Pool | None = None
_pool_lock = threading.Lock()
_epoch = ctypes.c_int64(0)      # how often the threads changed: what was planned for others is planned again
EPOCH_ADDRESS = ctypes.addressof(_epoch)


def threads() -> int:
    """How many threads run a program, the caller's included."""
    global _threads
    if _threads == 0:
        _threads = _default_threads()
    return _threads


def epoch() -> int:
    """A number that is another one whenever programs run with other threads than before."""
    return _epoch.value


def set_threads(count: int) -> None:
    """Use this many threads (the caller's included) from now on; results do not depend on it.  Raises ValueError below
    1."""
    global _threads, _pool
    if count < 1:
        raise ValueError(f"threads must be at least 1, not {count}")
    with _pool_lock:
        # First: a program's counters are its own, so that it must not run with two pools at once.
        if _pool is not None:
            _pool.stop()
        _pool, _threads = None, count
        _epoch.value += 1


def pool() -> Pool | None:
    """The pool, made at the first call; None where there is one thread."""
    global _pool
    current = _pool
    if current is None and threads() > 1:
        with _pool_lock:
            if _pool is None and _threads > 1:
                _pool = Pool(_threads - 1)
            current = _pool
    return current


def run(program: runner.Runner, bases: int, times: np.ndarray | None = None) -> bool:
    """Run the program with all threads; False, and nothing done, where there is one, or the pool is busy."""
    current = _pool or pool()
    return current is not None and current.run(program, bases, times)


def _forget() -> None:
    """In a forked child: its parent's workers do not exist here, and locks may be held by threads that do not."""
    global _pool, _pool_lock
    if _pool is not None:
        _pool.forget()
    _pool, _pool_lock = None, threading.Lock()
    _epoch.value += 1


def _stop_at_exit() -> None:
    # A worker must not spin on memory that the interpreter's teardown frees.
    if _pool is not None:
        _pool.stop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
atexit.register(_stop_at_exit)
