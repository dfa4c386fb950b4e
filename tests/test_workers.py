"""Compiling side by side: the same objects, whatever becomes of the processes that help."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from netc.runtime import workers
from netc.runtime.builders import build

TEXTS = [f"def kernel(bases, args, begin, end):\n    y = buffer_f32(bases, args, 0)\n    y[{n}] = float32({n})\n"
         for n in range(6)]
ENDLESS = "import sys, time; sys.stdout.buffer.write(bytes(8)); sys.stdout.flush(); time.sleep(60)"


@pytest.fixture
def helped(monkeypatch):
    """Two helpers however little there is to do; gives the processes that were started."""
    monkeypatch.setattr(workers, "START_COST", 1)
    monkeypatch.setattr(workers, "threads", lambda: 3)
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
