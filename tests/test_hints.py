"""What people who come from Python or NumPy write at first, and what they are told."""

from __future__ import annotations

import os

import numpy as np
import pytest

import netc
from netc.compiler.build import elaborate

HEAD = "net 1\nmodel M(m = none)(x: f32[N, 3], k: f32[N]) -> f32[N, 3]:\n    return "


@pytest.mark.parametrize(("text", "told"), [
    (HEAD + "x if m is none else 2 * x\n", "to compare write `==` or `!=`"),
    (HEAD + "x if m is not none else 2 * x\n", "to compare write `==` or `!=`"),
    (HEAD + "Activation(lambda y: 2 * y)(x)\n", "functions have names: `def name(x) = ...`"),
    (HEAD.replace("[N, 3], k", "[None, 3], k") + "x\n", "a size that is not known yet has a capitalised name"),
    (HEAD.replace("[N, 3], k", "[-1, 3], k") + "x\n", "a size that is not known yet has a capitalised name"),
    (HEAD.replace("    return ", "    scan a in x, b in k along 1 carrying h = zeros(N):\n        h = h + a + b\n"
                                 "    return x\n"), "found: a tensor f32[N], along which `b` walks")])
def test_habits_of_python(text, told):
    with pytest.raises(netc.CompileError) as found:
        elaborate(text)
    assert told in str(found.value)


PAIRS = """net 1
model M(x: f32[N, 3], t: f32[T, 1]) -> (y: f32[N, 1]):
    y = Dense(1)(x)
train M:
    input plain: f32[N]
    input column: f32[N, 1]
    loss   square = mean(({}) ** 2)
    optimizer = sgd()
"""


@pytest.mark.parametrize(("text", "name", "row"), [
    ("y - plain", "y", "plain"), ("plain - y", "y", "plain"), ("cast(y > plain, f32)", "y", "plain"),
    ("2 * y - plain", "value", "plain"), ("y * abs(plain)", "y", "value")])
def test_a_column_meets_a_row(text, name, row):
    warning, = elaborate(PAIRS.format(text)).warnings
    assert warning.code == "E0313" and "takes every sample with every other one" in warning.message
    assert f"`{name}[..., 0]`" in warning.hint and f"`{row}[None]`" in warning.hint
    assert elaborate(PAIRS.format(text)).training.losses["square"].shape == ()


@pytest.mark.parametrize("text", [
    "y - column", "y[..., 0] - plain", "plain[:, None] - plain", "y - plain[None]", "y - transpose(y)",
    "y - mean(plain)", "x - mean(x, axis = 0)", "t - t[:, 0]",
    "mean_squared_error(y, column)", "y[:, 0, None] - plain"])
def test_what_is_meant_is_not_warned_of(text):
    assert elaborate(PAIRS.format(text)).warnings == ()


def test_training_shows_warnings(netc_command, tmp_path):
    (tmp_path / "m.net").write_text(PAIRS.format("y - plain").replace(", t: f32[T, 1]", ""))
    np.savez(tmp_path / "d.npz", x=np.ones((4, 3)), plain=np.ones(4), column=np.ones((4, 1)))
    code, _, err = netc_command("train", tmp_path / "m.net", "--data", tmp_path / "d.npz", "--epochs", "1", "--target",
                                "numpy", "--save", tmp_path / "w.safetensors")
    assert code == 0 and "m.net:7:27: warning[E0313]" in err


@pytest.mark.parametrize(("body", "told"), [
    ("    return Dense(2_000_000_000)(x)\n",
     "m.net:3:12: error[E0805]: in `Dense`: the shape of `kernel` is too large"),
    ("    y = Dense(600_000_000)(x)\n    return y + Dense(600_000_000)(x)\n",
     "m.net:2:7: error[E0805]: the weights of M have 121,200,000,000 elements; at most 68,719,476,735 are allowed")])
def test_weights_beyond_all_memory_have_a_place(body, told):
    with pytest.raises(netc.CompileError) as found:
        elaborate("net 1\nmodel M(x: f32[N, 100]):\n" + body, "m.net")
    assert str(found.value).startswith(told)


def test_weights_beyond_this_machines_memory(monkeypatch):
    fn = netc.compile("net 1\nmodel M(x: f32[N, 1000]):\n    return Dense(2_000_000)(x)\n", target="numpy")
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 2 ** 20, "SC_PAGE_SIZE": 4096}.__getitem__)
    with pytest.raises(netc.WeightsError, match=r"the weights of M take 7\.5 GiB, this machine has 4\.0 GiB of memory"):
        fn.init()
