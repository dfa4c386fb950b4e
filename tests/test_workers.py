"""Compiling side by side: the same objects, whatever becomes of the processes that help."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

import netc
from netc.runtime import workers
from netc.runtime.builders import build
from netc.runtime.pool import pool

TEXTS = [f"def kernel(bases, args, begin, end):\n    y = buffer_f32(bases, args, 0)\n    y[{n}] = float32({n})\n"
         for n in range(6)]
ENDLESS = "import sys, time; sys.stdout.buffer.write(bytes(8)); sys.stdout.flush(); time.sleep(60)"


@pytest.fixture(autouse=True)
def own_subprocess(monkeypatch):
    """Other threads start processes too: what a test does to ``workers.subprocess`` is not for them."""
    monkeypatch.setattr(workers, "subprocess", SimpleNamespace(**vars(subprocess)))


@pytest.fixture
def helped(monkeypatch):
    """Two helpers however little there is to do; gives the processes that were started."""
    monkeypatch.setattr(workers, "START_COST", 1)
    monkeypatch.setattr(workers, "threads", lambda: 3)
    monkeypatch.setattr(workers, "_ahead", [])          # one that another test has left is not waited for
    started = []
    start = subprocess.Popen

    def noted(*arguments, **options):
        started.append(start(*arguments, **options))
        return started[-1]
    monkeypatch.setattr(workers.subprocess, "Popen", noted)
    yield started
    assert all(process.poll() is not None for process in started)
    assert not [thread for thread in threading.enumerate() if thread.name == "netc-compile"]


@pytest.fixture(scope="module")
def expected():
    return {text: (made.symbol, made.content) for text, made in ((text, build(text)) for text in TEXTS)}


def built(texts=TEXTS):
    return {text: (made.symbol, made.content) for text, made, _ in workers.build_all(texts)}


def test_helpers_make_the_same_objects(helped, expected, monkeypatch):
    by_me = []

    def slow(text):                     # so that the helpers get to work
        by_me.append(text)
        time.sleep(5 if len(by_me) == 1 else 0)
        return text, build(text), 1.0
    monkeypatch.setattr(workers, "_build", slow)
    assert built() == expected
    assert len(helped) == 2 and len(by_me) < len(TEXTS)


def test_little_is_compiled_without_help(expected, monkeypatch):
    monkeypatch.setattr(workers, "_ahead", [])
    monkeypatch.setattr(workers.subprocess, "Popen", lambda *arguments, **options: pytest.fail("started a process"))
    assert built() == expected
    monkeypatch.setattr(workers, "START_COST", 1)
    monkeypatch.setattr(workers, "threads", lambda: 1)
    assert built() == expected


@pytest.mark.parametrize("executable", ["/no/such/python", "", sys.executable], ids=["absent", "none", "ends at once"])
def test_helpers_that_do_not_start(helped, expected, monkeypatch, executable):
    monkeypatch.setattr(workers.sys, "executable", executable)
    monkeypatch.setattr(workers, "__name__", "no.such.module")
    assert built() == expected


def test_a_helper_that_is_killed(helped, expected, monkeypatch):
    def kill(text):
        while not helped:
            time.sleep(0.01)
        for process in helped:
            os.kill(process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        return text, build(text), 1.0
    monkeypatch.setattr(workers, "_build", kill)
    assert built() == expected


def test_a_helper_that_falls_silent(helped, expected, monkeypatch):
    """It says that it is ready, and takes a text, but never gives an object."""
    start = workers.subprocess.Popen
    monkeypatch.setattr(workers.subprocess, "Popen",
                        lambda command, **options: start([command[0], "-c", ENDLESS], **options))
    monkeypatch.setattr(workers, "PATIENCE", 0.5)
    mine = []

    def wait(text):
        mine.append(text)
        time.sleep(1 if len(mine) == 1 else 0)
        return text, build(text), 1.0
    monkeypatch.setattr(workers, "_build", wait)
    assert built() == expected


def test_a_text_that_does_not_compile_is_an_error_here(helped):
    bad = "def kernel(bases, args, begin, end):\n    y = no_such_function(bases)\n"
    with pytest.raises(Exception, match="no_such_function"):
        built([*TEXTS, bad])


# --- a process that is started ahead ----------------------------------------------------------------------------------


@pytest.fixture
def unprepared(monkeypatch, helped):
    """As in a process that has compiled nothing; gives the processes that were started."""
    monkeypatch.setattr(workers, "_not_prepared", [True])
    monkeypatch.setattr(workers.machine, "counts", workers.machine.Counts())
    monkeypatch.setattr(workers, "START_COST", 1000)        # no others
    return helped


def test_what_is_made_ahead_is_taken(unprepared, expected, monkeypatch, tmp_path):
    monkeypatch.setenv("NETC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(workers, "LONGEST", TEXTS[0])
    workers.prepare("f32")
    mine = []
    monkeypatch.setattr(workers, "_build", lambda text: mine.append(text) or (text, build(text), 1.0))
    assert built(TEXTS[1:]) == {text: expected[text] for text in TEXTS[1:]}
    assert mine == TEXTS[1:] and workers._ahead             # it is left to what it is at
    assert built() == expected
    assert len(unprepared) == 1 and TEXTS[0] not in mine and not workers._ahead
    workers.prepare("f32")                                  # only the first compilation is worth it
    assert len(unprepared) == 1


def test_what_the_cache_has_is_not_made_ahead(unprepared, expected, monkeypatch, tmp_path):
    monkeypatch.setenv("NETC_CACHE_DIR", str(tmp_path))
    machine = workers.machine
    for text in TEXTS[:2]:
        machine.cache.put(machine._key(text), b"anything")
    process = workers._start(*TEXTS[:3])
    answers = [workers._receive(process.stdout) for _ in range(4)]
    workers._end(process)
    assert [bool(answer) for answer in answers] == [False, False, False, True]      # the first says that it is ready
    assert answers[3].partition(b"\0")[2] == expected[TEXTS[2]][1]


@pytest.mark.skipif(os.name != "posix", reason="told early only where pipes are known to hold it")
def test_what_is_told_early_is_made_ahead(unprepared, expected, monkeypatch, tmp_path):
    monkeypatch.setenv("NETC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(workers, "LONGEST", TEXTS[0])
    machine = workers.machine
    machine.cache.put(machine._key(TEXTS[1]), b"anything")
    monkeypatch.setattr(workers, "EARLY_BYTES", len("".join(TEXTS[:4])))
    workers.begin(TEXTS)                                    # to nobody
    workers.prepare("f32")
    workers.begin(TEXTS[:3])
    workers.begin(TEXTS)                                    # of which one more is told
    assert workers._ahead[0].texts == TEXTS[:4]
    mine = []
    monkeypatch.setattr(workers, "_build", lambda text: mine.append(text) or (text, build(text), 1.0))
    assert built(TEXTS[4:5]) == {TEXTS[4]: expected[TEXTS[4]]}
    assert mine == [TEXTS[4]] and workers._ahead            # it is left to what was told, which comes later
    machine.cache.put(machine._key(TEXTS[0]), b"anything")
    wanted = [TEXTS[5], TEXTS[3], TEXTS[2]]
    assert built(wanted) == {text: expected[text] for text in wanted}
    assert mine == TEXTS[4:] and not workers._ahead and len(unprepared) == 1


@pytest.mark.skipif(os.name != "posix", reason="told early only where pipes are known to hold it")
def test_a_process_that_ends_is_told_nothing(unprepared, expected, monkeypatch):
    monkeypatch.setattr(workers, "LONGEST", TEXTS[0])
    workers.prepare("f32")
    unprepared[0].kill()
    unprepared[0].wait()
    workers.begin(TEXTS)
    assert built() == expected


@pytest.mark.skipif(os.name != "posix", reason="told early only where pipes are known to hold it")
def test_a_program_tells_its_kernels_early(monkeypatch, tmp_path):
    monkeypatch.setenv("NETC_CACHE_DIR", str(tmp_path))
    told: list[str] = []
    monkeypatch.setattr(workers, "begin", told.extend)
    fn = netc.compile("net 1\nmodel M(x: f32[N, 2]) -> f32[N, 3]:\n    return x |> Dense(3, elu)\n")
    for compiled in (lambda: fn.program("predict"), lambda: fn.bound_program()[1]):     # not what arranges the weights
        del told[:]
        assert [source.text for source in compiled().executable.sources.values()] == told and told


def test_what_was_started_ahead_and_has_nothing_to_make_helps(unprepared, expected, monkeypatch, tmp_path):
    monkeypatch.setenv("NETC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(workers, "LONGEST", TEXTS[0])
    workers.machine.cache.put(workers.machine._key(TEXTS[0]), b"anything")
    workers.prepare("f32")
    mine = []

    def slow(text):                     # so that it gets to work
        mine.append(text)
        time.sleep(5 if len(mine) == 1 else 0)
        return text, build(text), 1.0
    monkeypatch.setattr(workers, "_build", slow)
    assert built(TEXTS[1:]) == {text: expected[text] for text in TEXTS[1:]}
    assert len(mine) < len(TEXTS) - 1 and not workers._ahead


def test_a_process_that_was_started_ahead_and_is_gone(unprepared, expected, monkeypatch):
    monkeypatch.setattr(workers, "LONGEST", TEXTS[0])
    workers.prepare("f32")
    unprepared[0].kill()
    unprepared[0].wait()
    assert built() == expected


def test_only_what_is_new_prepares(monkeypatch, tmp_path):
    prepared: list[str] = []
    monkeypatch.setenv("NETC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(workers, "prepare", prepared.append)
    text = "net 1\nmodel M(x: f32[N, 2]) -> f32[N, 3]:\n    return x |> Dense(3)\n"
    netc.compile(text, target="numpy")
    assert prepared == []
    netc.compile(text.replace("M", "Other"))
    assert prepared == ["f32"]
    netc.compile(text.replace("M", "Other"))
    assert prepared == ["f32"]
    netc.compile(text.replace("M", "Other"), precision="f64")
    assert prepared == ["f32", "f64"]
    for _ in range(2):
        fn = netc.compile(text.replace("M", "Other"))       # known, but not its program
        fn.program("predict")
        assert prepared == ["f32", "f64", "f32"]


def test_what_is_prepared_is_what_a_model_needs(unprepared, monkeypatch):
    asked = []
    monkeypatch.setattr(workers, "_start", lambda *first: asked.extend(first) or subprocess.Popen(
        [sys.executable, "-c", ""], stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    workers.prepare("f32")
    workers._discard()
    fn = netc.compile("net 1\nmodel M(x: f32[N, 2]) -> f32[N, 3]:\n    return x |> Dense(3)\n")
    fn(fn.init(), np.ones((5, 2), np.float32))
    pool()
    assert asked and {*asked} <= {*workers.machine.loaded()}


def test_an_unused_process_ends_with_this_one_and_is_not_a_childs(tmp_path):
    code = ("import os, sys\nfrom netc.runtime import workers\nworkers.threads = lambda: 2\n"
            "workers.prepare('f32')\nprocess = workers._ahead[0].process\n"
            "if hasattr(os, 'fork'):\n"
            "    child = os.fork()\n"
            "    if not child:\n"
            "        workers.prepare('f32')\n"
            "        os._exit(len(workers._ahead))\n"
            "    assert os.waitpid(child, 0)[1] == 0\n"
            "assert process.poll() is None\nprint(process.pid)\n")
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60,
                          env=os.environ | {"NETC_CACHE_DIR": str(tmp_path)})
    assert done.returncode == 0 and not done.stderr, done.stderr
    if os.name == "posix":
        with pytest.raises(ProcessLookupError):
            os.kill(int(done.stdout), 0)


def test_an_idle_process_ends(unprepared, monkeypatch):
    monkeypatch.setattr(workers.subprocess, "Popen", lambda command, start=workers.subprocess.Popen, **options: start(
        [*command[:2], command[2].replace("import main;", "import main; import netc.runtime.workers as workers; "
                                          "workers.IDLE_SECONDS = 0.2;")], **options))
    process = workers._start()
    assert process.wait(30) == 0
    workers._end(process)
