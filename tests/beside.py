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
            self._futures = [_pools[0].submit(_run, *command) for command in self._commands]

    def results(self) -> list[subprocess.CompletedProcess]:
        self.start()
        return [future.result() for future in self._futures]


def stop() -> None:
    """End what still runs."""
    for pool in _pools:
        pool.shutdown(wait=False, cancel_futures=True)
    for process in list(_running):
        process.kill()


def _run(command: Sequence[str], more: Mapping[str, str]) -> subprocess.CompletedProcess:
    settings = {"preexec_fn": lambda: os.nice(19)} if hasattr(os, "nice") else {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env={**os.environ, **more}, cwd=Path(__file__).parent, **settings) as process:
        _running.add(process)
        out, err = process.communicate()
        _running.discard(process)
    return subprocess.CompletedProcess(command, process.returncode, out, err)
