"""Processes that run beside the tests: they begin with the session, and the tests that wait for them come last.

The other tests keep one core busy, seldom two.  The processes yield to them.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

WORKERS = 2
_running: set[subprocess.Popen] = set()
_pools: list[ThreadPoolExecutor] = []


class Beside:
    """Commands, each with the environment variables that it needs more; ``results()`` waits for them."""

    def __init__(self, *commands: tuple[Sequence[str], Mapping[str, str]]):
        self._commands = commands
        self._futures: list[Future] = []

    def start(self) -> None:
        if not self._futures:
            if not _pools:
                _pools.append(ThreadPoolExecutor(WORKERS))
            # What tests set for a while in the environment is not for these.
            self._futures = [_pools[0].submit(_run, command, {**os.environ, **more})
                             for command, more in self._commands]

    def results(self) -> list[subprocess.CompletedProcess]:
        self.start()
        return [future.result() for future in self._futures]


def stop() -> None:
    """End what still runs."""
    for pool in _pools:
        pool.shutdown(wait=False, cancel_futures=True)
    for process in list(_running):
        process.kill()


def _run(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess:
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
                          cwd=Path(__file__).parent) as process:
        _running.add(process)
        if hasattr(os, "setpriority"):
            os.setpriority(os.PRIO_PROCESS, process.pid, 19)
        out, err = process.communicate()
        _running.discard(process)
    return subprocess.CompletedProcess(command, process.returncode, out, err)
