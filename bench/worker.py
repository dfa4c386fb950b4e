"""One implementation in a process of its own: commands come as lines of JSON on stdin, answers go as lines to a pipe.

    {"do": "import"}                                     -> {"seconds"}
    {"do": "load", "model", "job", "weights", "inputs"}  -> {"seconds"}: preparing, compiling and a first run
    {"do": "check", "result"}                            -> writes outputs, or losses and gradients, as .npz
    {"do": "time", "seconds"}                            -> {"samples"}: seconds a call
    {"do": "memory"}                                     -> {"peak", "resident"} in bytes; the peak since the check
    {"do": "facts"}                                      -> netc: what the program takes, and the machine's limits
    {"do": "speeds"}                                     -> netc: what the machine does at this moment
    {"do": "counts"}                                     -> netc: {"compiled", "cached"} kernels of this process

An answer holds "error" where the command failed.  What the libraries print goes to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

BLOCK_SECONDS = 1e-3        # calls that are shorter are timed in blocks about as long
TRAINING_LOSSES = 3


class Worker:
    def __init__(self, peer: str, threads: int):
        self.peer, self.threads = peer, threads
        self.module: Any = None
        self.task: Any = None
        self.job = ""
        self.loss = 0.0

    def do_import(self) -> dict:
        started = time.perf_counter()
        self.module = importlib.import_module(self.peer)
        return {"seconds": time.perf_counter() - started}

    def do_load(self, model: str, job: str, weights: str, inputs: str) -> dict:
        import numpy as np
        with np.load(weights) as file:
            loaded = dict(file)
        with np.load(inputs) as file:
            given = dict(file)
        self.task, self.job = None, job
        make = self.module.Inference if job == "inference" else self.module.Training
        started = time.perf_counter()
        self.task = make(model, loaded, given, self.threads)
        first = self.task.run()
        seconds = time.perf_counter() - started
        if job == "training":
            self.loss = float(first)
        return {"seconds": seconds}

    def do_check(self, result: str) -> dict:
        import numpy as np
        if self.job == "inference":
            found = self.task.outputs()
        else:
            found = {f"gradient/{path}": array for path, array in self.task.first_gradient().items()}
            found["losses"] = np.array([self.loss] + [float(self.task.run()) for _ in range(TRAINING_LOSSES - 1)])
        np.savez(result, **found)
        del found
        forget_peak()           # the copies compared are the harness's
        return {}

    def do_time(self, seconds: float) -> dict:
        return {"samples": timed(self.task.run, seconds)}

    def do_memory(self) -> dict:
        return memory()

    def do_facts(self) -> dict:
        return self.task.facts()

    def do_speeds(self) -> dict:
        return self.task.speeds()

    def do_counts(self) -> dict:
        return self.task.counts()


def timed(run: Callable, seconds: float) -> list[float]:
    """Seconds a call, for about so many seconds: a sample is the mean of a block of short calls, or one long call."""
    started = time.perf_counter()
    run()                                   # the first call after a pause wakes threads and fills caches
    took = time.perf_counter() - started
    calls = max(1, round(BLOCK_SECONDS / max(took, 1e-7)))
    samples: list[float] = []
    deadline = started + seconds
    while len(samples) < 3 or time.perf_counter() < deadline:
        before = time.perf_counter()
        for _ in range(calls):
            run()
        samples.append((time.perf_counter() - before) / calls)
        if len(samples) == 1:               # the first call may have been slow to start
            calls = max(1, round(BLOCK_SECONDS / max(samples[0], 1e-7)))
    return samples


def memory() -> dict[str, int]:
    """The process's largest and present resident memory in bytes.

    Not getrusage: on Linux its maximum begins with that of the process that started this one.
    """
    try:
        with open("/proc/self/status") as file:
            fields = dict(line.split(":", 1) for line in file)
        return {"peak": int(fields["VmHWM"].split()[0]) * 1024, "resident": int(fields["VmRSS"].split()[0]) * 1024}
    except OSError:
        import resource
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return {"peak": peak, "resident": peak}


def forget_peak() -> None:
    """Let the process's largest memory begin anew, where the system can (Linux)."""
    with suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def serve(peer: str, threads: int) -> None:
    """Answer commands until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)                           # whatever prints must not get between the answers
    worker = Worker(peer, threads)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(worker, f"do_{command.pop('do')}")(**command)
        except Exception as error:          # noqa: BLE001 - a peer may fail in any way: it is reported, the others go on
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
