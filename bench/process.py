"""The other side of a worker: start it, ask it, and cut it off where it hangs."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

LAST_WORDS = 400        # characters of stderr that are shown of a process that died


def variables() -> dict[str, str]:
    """The environment of processes that are measured: Python keeps their bytecode, as an installed package has it."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


class PeerError(Exception):
    """A peer that failed, died, or took too long; the message is for the report."""


class Process:
    """A worker process.  ``ask`` raises PeerError and leaves no process behind where there is no answer in time."""

    def __init__(self, peer: str, threads: int, environment: dict[str, str] | None = None):
        self.peer = peer
        self.errors = tempfile.TemporaryFile("w+", errors="replace")         # noqa: SIM115 - `close` closes it
        many = str(threads)
        set_for_all = {**variables(), "OMP_NUM_THREADS": many, "MKL_NUM_THREADS": many, "OPENBLAS_NUM_THREADS": many,
                     "NETC_THREADS": many, **(environment or {})}
        # A session of its own: what it starts (compilers) ends with it.
        self.child = subprocess.Popen([sys.executable, "-m", f"{__package__}.worker", peer, many], env=set_for_all,
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
                                      start_new_session=True)
        if hasattr(os, "sched_setaffinity"):
            cores = sorted(os.sched_getaffinity(0))[:threads]
            os.sched_setaffinity(self.child.pid, cores)
        self._waiting = selectors.DefaultSelector()
        self._waiting.register(self.child.stdout, selectors.EVENT_READ)
        self._buffer = b""

    def ask(self, limit: float, do: str, **arguments: Any) -> dict:
        """The answer to a command, within ``limit`` seconds."""
        try:
            self.child.stdin.write((json.dumps({"do": do, **arguments}) + "\n").encode())
            self.child.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        answer = self._line(time.monotonic() + limit, limit, do)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def _line(self, deadline: float, limit: float, do: str) -> dict:
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not self._waiting.select(left):
                self.close()
                raise PeerError(f"cut off: no answer to `{do}` within {limit:.0f} s")
            part = os.read(self.child.stdout.fileno(), 1 << 20)
            if not part:
                raise self._died()
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def _died(self) -> PeerError:
        code = self.child.wait()
        self.errors.seek(0)
        words = self.errors.read().strip()[-LAST_WORDS:].splitlines()
        self.close()
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return PeerError(f"died ({name}): {words[-1] if words else ''}")

    def close(self) -> None:
        """End the process and whatever it started."""
        try:
            os.killpg(self.child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass                # it is gone already
        self.child.wait()
        self._waiting.close()
        for pipe in (self.child.stdin, self.child.stdout):
            try:
                pipe.close()
            except BrokenPipeError:
                pass            # a command that was never read
        self.errors.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exception) -> None:
        if not self.errors.closed:
            self.close()
