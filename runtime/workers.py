"""Processes that compile beside this one: LLVM's binding lets in one thread at a time, so threads would not help.

A worker takes texts, one at a time, and gives objects.  It only ever helps: where one does not start, fails or falls
silent, this process compiles what it was to do.  Since a worker takes as long to start as some kernels to compile, the
first one may be started ahead, while the front end is still at work on a model, and be told some of the kernels as soon
as they are known, long before the program is first run.
"""

from __future__ import annotations

import atexit
import gc
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import IO, Any

from . import machine
from .machine import Object
from .pool import threads
from .records import dataclass

MOST_WORKERS = 3
START_COST = 8          # kernels that this process compiles while a worker starts
CONTRACT_COST, TILE_COST = 16, 2        # what the contraction kernel and a tile cost, in kernels
LONGEST = "contract {}"                 # what takes longest to compile
PATIENCE = 20.0         # seconds that a worker may take for its last text when nothing else is left to do
IDLE_SECONDS = 60.0     # after which a process that nobody asks for anything ends
EARLY_BYTES = 12_000    # of texts that a process is told early: some six kernels; a pipe holds them till they are read

Built = tuple[str, Object, float]       # a text, its object, the seconds that took


@dataclass(frozen=True, eq=False)
class _Ahead:
    """A process that was started before there was anything to compile, and the texts that it makes first; those that
    the cache has it leaves alone."""

    process: subprocess.Popen
    texts: list[str]


_ahead: list[_Ahead] = []               # none or one
_not_prepared = [True]                  # empty once ``prepare`` was called; lists, since their `pop` is atomic


def prepare(dtype: str) -> None:
    """Start a worker for this process' first compilation.  Until that asks for it, it makes what takes longest of all
    that programs on ``dtype`` need, unless the cache has it.  A second call does nothing."""
    if threads() == 1 or not sys.executable or machine.counts.total or not _not_prepared:
        return
    _not_prepared.pop()
    text = LONGEST.format(dtype)
    try:
        _ahead.append(_Ahead(_start(text), [text]))
    except OSError:
        return                          # no process can be started; nothing depends on it


def begin(texts: Iterable[str]) -> None:
    """Let the process that was started ahead go on with the longest of these, which will be asked for soon."""
    if not _ahead or os.name != "posix":    # elsewhere pipes may hold less
        return
    with machine.lock:                      # which is held where a process is taken
        told = _ahead[0].texts if _ahead else []
        for text in sorted({*texts} - {*told}, key=lambda text: (-len(text), text)):
            if not _ahead or sum(map(len, told)) + len(text) > EARLY_BYTES:
                return
            stdin = _ahead[0].process.stdin
            assert stdin is not None
            try:
                _send(stdin, text.encode())
                told.append(text)
            except OSError:                 # it has ended
                _discard()


def _discard() -> None:
    """End a process that was started ahead and is of no use."""
    while _ahead:
        _end(_ahead.pop().process)


def _forget() -> None:
    """In a forked child: the process is the parent's."""
    _not_prepared.clear()
    while _ahead:
        process = _ahead.pop().process
        process.returncode = 0          # not to be waited for here
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


atexit.register(_discard)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def build_all(texts: list[str]) -> Iterator[Built]:
    """The object of each text, in the order in which they are ready."""
    waiting = deque(sorted(texts, key=_cost, reverse=True))
    count = min(MOST_WORKERS, threads() - 1, sum(map(_cost, texts)) // (2 * START_COST)) if sys.executable else 0
    results: SimpleQueue[tuple[str, Object | None, float]] = SimpleQueue()
    workers = []
    if _ahead and _ahead[0].process.poll() is not None:     # nobody needed it for too long
        _discard()
    # It is at its texts, or has made them: where those are for a later compilation, it is left alone.
    if _ahead and (_ahead[0].texts[0] in texts
                   or all(text in texts or machine.is_kept(text) for text in _ahead[0].texts)):
        ahead = _ahead.pop()
        for text in {*texts} & {*ahead.texts}:
            waiting.remove(text)
        workers.append(_Worker(waiting, results, ahead))
    workers += [_Worker(waiting, results) for _ in range(count - len(workers))]
    try:
        yield from _with_help(waiting, results, set(texts))
    finally:
        waiting.clear()
        for worker in workers:
            worker.stop()


def _cost(text: str) -> int:
    return CONTRACT_COST if text.startswith("contract ") else TILE_COST if text.startswith("tile ") else 1


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
            if made is not None and text in missing:
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

    def __init__(self, waiting: deque, results: SimpleQueue, ahead: _Ahead | None = None):
        self._waiting, self._results = waiting, results
        self._process = ahead.process if ahead is not None else None
        self._asked = deque(ahead.texts if ahead is not None else [])       # what the process has not answered yet
        self._thread = threading.Thread(target=self._serve, name="netc-compile", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        try:
            if self._process is None:
                self._process = _start()
            stdin, stdout = self._process.stdin, self._process.stdout
            assert stdin is not None and stdout is not None
            _receive(stdout)          # it is ready
            while self._asked or self._waiting:
                if not self._asked:
                    self._asked.append(self._waiting.popleft())
                    _send(stdin, self._asked[0].encode())
                head, _, content = _receive(stdout).partition(b"\0")
                symbol, _, seconds = head.decode().partition(" ")
                self._results.put((self._asked[0], Object(symbol, content) if content else None,
                                   float(seconds or "0")))
                self._asked.popleft()
        except (OSError, EOFError, IndexError, ValueError):     # no such process, or it ended; or nothing is left to do
            for text in self._asked:
                self._results.put((text, None, 0.0))

    def stop(self) -> None:
        """End the process, whatever it does."""
        if self._process is not None:
            self._process.kill()
        self._thread.join()
        if self._process is not None:
            _end(self._process)                     # it may have started just now


def _start(*first: str) -> subprocess.Popen:
    """A process of ``main``."""
    # This process' own path: the package may have been found in any way.
    code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import main; main({first!r})"
    return subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"}, creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0))


def _end(process: subprocess.Popen) -> None:
    process.kill()
    with suppress(BrokenPipeError), process:        # waits, and closes the pipes, one perhaps with what nobody took
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


# --- the process' side ------------------------------------------------------------------------------------------------


def main(first: Sequence[str]) -> None:
    """Make the texts of ``first``, then what is asked for, unless the cache has it: the answer is empty then."""
    gc.disable()                # what is made here is not worth looking through: the process ends soon
    from . import scalar  # with LLVM
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    scalar.namespace()
    try:
        _in_time(_send, replies, b"")
        for text in first:
            _in_time(_send, replies, _answer(text))
        while True:
            _in_time(_send, replies, _answer(_in_time(_receive, requests).decode()))
    except (EOFError, BrokenPipeError):
        return


def _answer(text: str) -> bytes:
    if machine.is_kept(text):
        return b""
    try:
        _, made, seconds = _build(text)
    except Exception:       # noqa: BLE001 - the other process will meet it too, and say so
        return b""
    return f"{made.symbol} {seconds}".encode() + b"\0" + made.content


def _in_time(exchange: Callable, *arguments: Any) -> Any:
    """Wait for the other process, but not forever: it may have no use for this one."""
    end = threading.Timer(IDLE_SECONDS, os._exit, (0,))
    end.daemon = True
    end.start()
    try:
        return exchange(*arguments)
    finally:
        end.cancel()
