"""Processes that compile beside this one: LLVM's binding lets in one thread at a time, so threads would not help.

A worker takes texts, one at a time, and gives objects.  It only ever helps: where one does not start, fails or falls
silent, this process compiles what it was to do.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import IO

from .machine import Object
from .pool import threads

MOST_WORKERS = 3
START_COST = 8          # kernels that this process compiles while a worker starts
CONTRACT_COST = 12      # what the contraction kernel costs, in kernels
PATIENCE = 20.0         # seconds that a worker may take for its last text when nothing else is left to do

Built = tuple[str, Object, float]       # a text, its object, the seconds that took


def build_all(texts: list[str]) -> Iterator[Built]:
    """The object of each text, in the order in which they are ready."""
    waiting = deque(sorted(texts, key=_cost, reverse=True))
    count = min(MOST_WORKERS, threads() - 1, sum(map(_cost, texts)) // (2 * START_COST))
    results: SimpleQueue[tuple[str, Object | None, float]] = SimpleQueue()
    workers = [_Worker(waiting, results) for _ in range(count)] if sys.executable and count > 0 else []
    try:
        yield from _with_help(waiting, results, set(texts))
    finally:
        waiting.clear()
        for worker in workers:
            worker.stop()


def _cost(text: str) -> int:
    return CONTRACT_COST if text.startswith("contract ") else 1


def _with_help(waiting: deque, results: SimpleQueue, missing: set[str]) -> Iterator[Built]:
    """Compile what is waiting, while others may take from it too, and give what they made."""
    while missing:
        try:
            text = waiting.popleft()
        except IndexError:
            try:
                text, made, seconds = results.get(timeout=PATIENCE)
            except Empty:                   # the workers that took the rest are gone
                break
            if made is not None:
                missing.discard(text)
                yield text, made, seconds
                continue
        if text in missing:
            missing.discard(text)
            yield _build(text)
    for text in missing:
        yield _build(text)


def _build(text: str) -> Built:
    from .builders import build
    started = time.perf_counter()
    made = build(text)
    return text, made, time.perf_counter() - started


class _Worker:
    """A process, and a thread that hands it what is waiting; ``results`` gets None for what the process failed to
    make."""

    def __init__(self, waiting: deque, results: SimpleQueue):
        self._waiting, self._results = waiting, results
        self._process: subprocess.Popen | None = None
        self._thread = threading.Thread(target=self._serve, name="netc-compile", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        text = None
        try:
            # This process' own path: the package may have been found in any way.
            code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import main; main()"
            self._process = subprocess.Popen(
                [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0))
            stdin, stdout = self._process.stdin, self._process.stdout
            assert stdin is not None and stdout is not None
            _receive(stdout)          # it is ready
            while self._waiting:
                text = self._waiting.popleft()
                started = time.perf_counter()
                _send(stdin, text.encode())
                symbol, _, content = _receive(stdout).partition(b"\0")
                made = Object(symbol.decode(), content) if content else None
                self._results.put((text, made, time.perf_counter() - started))
                text = None
        except (OSError, EOFError, IndexError, ValueError):     # no such process, or it ended; or nothing is left to do
            if text is not None:
                self._results.put((text, None, 0.0))

    def stop(self) -> None:
        """End the process, whatever it does."""
        if self._process is not None:
            self._process.kill()
        self._thread.join()
        if self._process is not None:
            self._process.kill()                    # it may have started just now
            with self._process:                     # waits, and closes the pipes
                pass


def _send(pipe: IO[bytes], content: bytes) -> None:
    pipe.write(len(content).to_bytes(8, "little") + content)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes:
    """Raises EOFError where the other side has ended."""
    head = pipe.read(8)
    content = pipe.read(int.from_bytes(head, "little")) if len(head) == 8 else b""
    if len(head) < 8 or len(content) < int.from_bytes(head, "little"):
        raise EOFError
    return content


def main() -> None:
    """The process' side."""
    from . import scalar  # with LLVM
    from .builders import build
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    scalar.namespace()
    _send(replies, b"")
    try:
        while True:
            text = _receive(requests).decode()
            try:
                made = build(text)
                answer = made.symbol.encode() + b"\0" + made.content
            except Exception:       # noqa: BLE001 - the other process will meet it too, and say so
                answer = b""
            _send(replies, answer)
    except (EOFError, BrokenPipeError):
        return
