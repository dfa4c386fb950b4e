"""``netc diff`` and ``Function.diff``: what changed from one model to another."""

from __future__ import annotations

import json

import pytest

import netc

BASE = """net 1

model M(x: f32[N, 8]) -> (y: f32[N, 3]):
    h = x |> Dense(16, relu) |> Dense(4, tanh)
    y = Dense(3)(h)

train M:
    input target: f32[N, 3]
    loss error = mean((y - target) ** 2)
    optimizer = adam()
"""


def difference(old: str, new: str, text: str = BASE, **options):
    assert text.count(old) == 1
    return netc.compile(text.replace(old, new)).diff(netc.compile(text), **options)


def changes(found) -> list[tuple]:
    return [(change.sign, change.row.name, {inner.name: (inner.before, inner.after) for inner in change.changes})
            for change in found.rows]


def test_equal_models():
    found = difference("net 1", "net 1  # the same")
    assert not found and str(found) == "no difference" and found.to_dict()["rows"] == [] \
        and found.kept == found.weight_count == 6


def test_a_wider_layer():
    found = difference("Dense(16, relu)", "Dense(32, relu)")
    assert found
    assert {c.name: (c.before, c.after) for c in found.totals} \
        == {"parameters": ("227", "435"), "FLOPs at N = 1": ("451", "867")}
    assert changes(found) == [
        ("~", "dense", {"units": ("16", "32"), "output": ("f32[N, 16]", "f32[N, 32]"), "parameters": ("144", "288"),
                        "FLOPs": ("288", "576")}),
        ("~", "dense_1", {"parameters": ("68", "132"), "FLOPs": ("136", "264")})]
    assert [(c.name, c.before, c.after) for c in found.weights] == [
        ("dense.kernel", "f32[8, 16]", "f32[8, 32]"), ("dense.bias", "f32[16]", "f32[32]"),
        ("dense_1.kernel", "f32[16, 4]", "f32[32, 4]")]
    assert "parameters         227    435  (+91.6%)" in str(found) \
        and "3 of 6 weights keep their path and shape" in str(found)


def test_a_layer_that_is_put_in_is_one_new_row():
    """Though the names of those after it change."""
    found = difference("x |> Dense(16", "x |> Dense(8, relu) |> Dense(16")
    assert [(sign, name) for sign, name, _ in changes(found)] == [("+", "dense"), ("~", "dense_1"), ("~", "dense_2")]
    assert changes(found)[1][2] == {"name": ("dense", "dense_1"), "from": ("x", "dense")}
    assert changes(found)[2][2] == {"name": ("dense_1", "dense_2")}


def test_a_layer_that_is_taken_out():
    found = difference(" |> Dense(4, tanh)", "")
    assert [(sign, name) for sign, name, _ in changes(found)] == [("-", "dense_1"), ("~", "y")]
    assert "- dense_1: 2 weights" in str(found) and "~ y.kernel  f32[4, 3] → f32[16, 3]" in str(found)


def test_training_and_inputs():
    found = difference("adam()", "sgd()")
    assert [(c.name, c.before, c.after) for c in found.totals] == [("optimiser", "adam", "sgd")] and not found.rows \
        and not found.weights
    found = difference("loss error", "loss square")
    assert [(c.name, c.before, c.after) for c in found.totals] == [("losses", "error", "square")]
    found = difference("x: f32[N, 8]", "x: f32[N, 9]")
    assert changes(found)[0] == ("~", "x", {"output": ("f32[N, 8]", "f32[N, 9]")})


def test_nested_models_are_folded_in_the_report_and_whole_in_the_data():
    text = BASE.replace("model M", "model Part()(x: f32[N, K]):\n    return x |> Dense(5) |> Dense(5)\n\nmodel M")
    found = difference("    y = Dense(3)(h)", "    h = Part()(h)\n    y = Dense(3)(h)", text)
    added = [line for _, line in found.lines() if line.startswith("+")]
    assert added == ["+ h (Part)   f32[N, 5]  55 parameters", "+ h: 4 weights"]
    assert [row["path"] for row in found.to_dict()["rows"] if row["change"] == "added"] == ["h", "h.dense", "h.dense_1"]


def test_sizes_and_depth():
    assert "FLOPs at N = 32" in [c.name for c in difference("Dense(16", "Dense(32", sizes={"N": 32}).totals]
    text = BASE
    for name, size in (("x", 8), ("y", 3), ("target", 3)):
        text = text.replace(f"{name}: f32[N, {size}]", f"{name}: f32[N, T, {size}]")
    assert ("451*T", "867*T") in [(c.before, c.after) for c in difference("Dense(16", "Dense(32", text).totals]


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.net").write_text(BASE)
    (tmp_path / "b.net").write_text(BASE.replace("Dense(16", "Dense(32"))
    return tmp_path


def test_command(files, netc_command):
    code, out, _ = netc_command("diff", "a.net", "b.net")
    assert code == 0 and out.startswith("--- a.net: M\n+++ b.net: M\n\n") \
        and "~ dense (Dense)    units 16 → 32; output" in out
    code, out, _ = netc_command("diff", "a.net", "a.net", "--exit-code")
    assert code == 0 and out.endswith("no difference\n")
    assert netc_command("diff", "a.net", "b.net", "--exit-code")[0] == 1
    code, out, _ = netc_command("diff", "a.net", "b.net", "--json", "--size", "N=2")
    assert code == 0 and json.loads(out)["sizes"] == {"N": 2} and json.loads(out)["weights_kept"] == 3


def test_command_on_wrong_files(files, netc_command):
    assert netc_command("diff", "a.net")[0] == 2
    assert "c.net: No such file" in netc_command("diff", "a.net", "c.net")[2]
    assert "there is no model `K`" in netc_command("diff", "a.net", "b.net", "--model", "K")[2]
