"""What someone who comes from Keras or PyTorch meets on the first day: names that are others here, and settings that
are refused before training, not after an epoch of it."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

import netc
from netc.compiler.build.expressions import ELSEWHERE, FOREIGN

SOURCE = """net 1
model Line(x: f32[N, 2]) -> (y: f32[N, 1]):
    y = Dense(1)(x)
train Line:
    input target: f32[N, 1]
    loss   square = mean((y - target) ** 2)
    metric worst  = max(abs(y - target))
    optimizer = sgd()
"""
DATA = {"x": np.arange(8.0).reshape(4, 2), "target": np.ones((4, 1))}


@pytest.fixture(scope="module")
def fn():
    return netc.compile(SOURCE, target="numpy")


def error_of(body: str) -> str:
    with pytest.raises(netc.CompileError) as found:
        netc.compile(f"net 1\nmodel M(x: f32[N, 3]):\n    return {body}\n")
    return str(found.value)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_names_of_others_lead_to_ours(name):
    assert f"hint: it is called `{ELSEWHERE[name]}` here" in error_of(f"{name}(3)(x)")
    assert "is not defined" not in error_of(f"no_such + {ELSEWHERE[name]}").replace("`no_such` is not defined", "")


@pytest.mark.parametrize("name", FOREIGN)
def test_there_are_no_modules(name):
    assert "hint: there are no modules" in error_of(f"{name}.relu(x)")


def test_what_cannot_be_watched_is_refused_before_training(fn):
    batches: list = []

    class Count:
        def on_batch(self, told):
            batches.append(told)
    fixed = netc.ReduceLROnPlateau("square")
    for callback, told in ((netc.EarlyStopping("val_loss"), "watches `val_loss`, which is not reported"),
                           (netc.EarlyStopping("worse"), "did you mean `worst`"), (fixed, "a learning rate that may")):
        with pytest.raises(netc.InputError, match=told):
            fn.fit(fn.init(), DATA, callbacks=[Count(), callback])
    assert not batches
    for name in ("loss", "worst", "val_square", "val_worst", None):
        _, history = fn.fit(fn.init(), DATA, validation=0.5, callbacks=[Count(), netc.EarlyStopping(name)])
        assert name is None or name in history.last
    with pytest.raises(netc.InputError, match=r"`callbacks` is <.*EarlyStopping.*>, expected a list of them"):
        fn.fit(fn.init(), DATA, callbacks=netc.EarlyStopping())


def test_paths_that_lead_nowhere(fn, tmp_path):
    with pytest.raises(netc.InputError, match="the path is empty"):
        netc.compile("")
    with pytest.raises(FileNotFoundError) as found:
        fn.save(fn.init(), tmp_path / "nowhere" / "w.safetensors")
    assert found.value.filename == os.fspath(tmp_path / "nowhere" / "w.safetensors")


def test_a_size_for_one_axis_may_be_a_tuple():
    def made(size):
        fn = netc.compile(f"net 1\nmodel M(x: f32[N, 3, 1]) -> f32[N, 6, 1]:\n    return UpSample1D({size})(x)\n",
                          target="numpy")
        return fn(fn.init(), x=np.arange(3.0).reshape(1, 3, 1)).ravel()
    np.testing.assert_array_equal(made("2"), [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(made("(2,)"), made("2"))


def test_losses_and_metrics_from_the_command_line(fn, tmp_path, netc_command):
    (tmp_path / "line.net").write_text(SOURCE)
    np.savez(tmp_path / "d.npz", **DATA)
    w = fn.init(seed=3)
    fn.save(w, tmp_path / "w.safetensors")
    command = ("evaluate", tmp_path / "line.net", "--data", tmp_path / "d.npz", "--weights", tmp_path / "w.safetensors",
               "--target", "numpy")
    code, out, _ = netc_command(*command, "--json")
    assert code == 0 and json.loads(out) == fn.evaluate(w, DATA)
    code, out, _ = netc_command(*command)
    assert code == 0 and out.startswith("loss ") and "  worst " in out
    np.savez(tmp_path / "d.npz", x=DATA["x"])
    code, _, err = netc_command(*command)
    assert code == 1 and "has no array `target`" in err
    (tmp_path / "line.net").write_text(SOURCE[:SOURCE.index("train")])
    code, _, err = netc_command(*command)
    assert code == 1 and err.startswith("error: ")
