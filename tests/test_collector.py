"""The garbage collector rests while the compiler works, and only then."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest

import netc
from netc.compiler.collector import paused

TEXT = "net 1\nmodel M(x: f32[N, 4]) -> f32[N, 2]:\n    return x" + " |> Dense(3, tanh)" * 60 + " |> Dense(2)\n"


@pytest.fixture
def collections():
    """What the collector has done so far, by generation."""
    found: list[int] = []

    def note(phase, info):
        if phase == "start":
            found.append(info["generation"])
    gc.callbacks.append(note)
    yield found
    gc.callbacks.remove(note)


def test_nothing_is_collected_while_a_model_is_compiled(collections, tmp_path, monkeypatch):
    monkeypatch.setenv("NETC_CACHE_DIR", str(tmp_path))
    netc.compile(TEXT.replace("tanh", "relu"), target="numpy").program("predict")       # with the imports
    gc.collect()
    del collections[:]
    fn = netc.compile(TEXT, target="numpy")
    fn.program("predict")
    assert len(collections) < 3         # before and after, not on the way
    assert gc.isenabled()
    assert fn(fn.init(), np.ones((5, 4), np.float32)).shape == (5, 2)


def test_a_faulty_text_leaves_the_collector_on():
    with pytest.raises(netc.CompileError):
        netc.compile(TEXT.replace("Dense", "Dens"))
    assert gc.isenabled()


def test_a_collector_that_is_off_stays_off():
    gc.disable()
    try:
        with paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_threads_leave_it_on_in_any_order():
    entered, leave = threading.Event(), threading.Event()

    def first():
        with paused():
            entered.set()
            leave.wait(10)
    thread = threading.Thread(target=first)
    thread.start()
    entered.wait(10)
    with paused():
        leave.set()
        thread.join()
    assert gc.isenabled()


def test_what_was_made_is_old_at_the_end():
    gc.collect()
    before = len(gc.get_objects(generation=2))
    with paused():
        made = [[] for _ in range(100_000)]
    assert len(gc.get_objects(generation=2)) - before >= len(made)
    assert gc.get_count()[0] < 1_000                # so that the next collection is a short one


def test_what_others_have_set_aside_stays_there():
    gc.freeze()
    try:
        with paused():
            pass
        assert gc.get_freeze_count()
    finally:
        gc.unfreeze()
