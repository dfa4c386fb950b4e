"""The command line: what it prints, where it writes, and its exit codes."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

import netc
from netc.compiler.cli import COMMANDS, cli

SOURCE = """net 1
model Line(x: f32[N, 2]) -> (y: f32[N, 1]):
    y = Dense(1)(x)
train Line:
    input target: f32[N, 1]
    loss square = mean((y - target) ** 2)
    optimizer = sgd(lr = 0.1)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "line.net").write_text(SOURCE)
    x = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, target=x @ np.array([[2], [-1]], np.float32) + 1)
    return tmp_path


def test_check(folder, netc_command):
    code, out, _ = netc_command("check", "line.net")
    assert code == 0 and "line.net: fine" in out and "3 parameters" in out


def test_a_faulty_file_is_the_users_error(folder, netc_command):
    (folder / "line.net").write_text(SOURCE.replace("Dense(1)", "Dens(1)").replace("sgd", "sdg"))
    for command in (["check"], ["summary"], ["emit"], ["init"], ["train", "--data", "data.npz"]):
        code, _, err = netc_command(command[0], "line.net", *command[1:])
        assert code == 1 and "line.net:3:9" in err and "did you mean `Dense`" in err and "`sdg`" in err


def test_summary(folder, netc_command):
    code, out, _ = netc_command("summary", "line.net")
    assert code == 0 and "Dense" in out and "3 parameters" in out
    code, out, _ = netc_command("summary", "line.net", "--json", "--size", "N=4")
    assert code == 0 and json.loads(out)["flops"] == 4 * (2 * 2 + 1)
    for size in ("M=4", "N=0", "N"):
        code, _, err = netc_command("summary", "line.net", "--size", size)
        assert code == 2 and "the symbols are N" in err


def test_summary_on_a_terminal(folder, netc_command, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    code, out, _ = netc_command("summary", "line.net")
    assert code == 0 and "\x1b[" in out and "y (Dense)" in out and "3 parameters" in out


@pytest.mark.parametrize("stage, shown", [
    ("ast", "Model(name='Line'"), ("graph", "contract"), ("grad", "gradient"), ("simplified", "contract"),
    ("fused", "contract"), ("loops", ""), ("numba", "def kernel("), ("llvm", "define void @kernel_"),
    ("asm", "\nkernel_")])
def test_every_stage_prints(folder, netc_command, stage, shown):
    code, out, _ = netc_command("emit", "line.net", "--stage", stage)
    assert code == 0 and out and shown in out
    if stage not in ("ast", "llvm", "asm"):
        code, out, _ = netc_command("emit", "line.net", "--stage", stage, "--program", "step")
        assert code == 0 and out


def test_train_saves_and_says_where(folder, netc_command):
    code, out, _ = netc_command("train", "line.net", "--data", "data.npz", "--epochs", 30, "--validation", 0.2)
    assert code == 0 and str(folder / "line.safetensors") in out and "val_loss" in out and out.count("epoch ") == 30
    fn = netc.compile("line.net", target="numpy")
    w = fn.load("line.safetensors")
    np.testing.assert_allclose(w["y.kernel"] if "y.kernel" in w else w.flat[:2].reshape(2, 1), [[2], [-1]], atol=0.1)


def test_train_is_the_apis_fit(folder, netc_command):
    netc_command("train", "line.net", "--data", "data.npz", "--epochs", 2, "--batch-size", 8, "--seed", 3,
                 "--save", "a",
                 "--target", "numpy", "--quiet")
    fn = netc.compile("line.net", target="numpy")
    with np.load("data.npz") as data:
        want, _ = fn.fit(fn.init(3), dict(data), epochs=2, batch_size=8, seed=3)
    assert fn.load("a") == want
    code, _, _ = netc_command("train", "line.net", "--data", "data.npz", "--epochs", 1, "--weights", "a", "--save", "b")
    assert code == 0 and fn.load("b") != want


def test_init_and_run(folder, netc_command):
    assert netc_command("init", "line.net", "--seed", 4)[0] == 0
    fn = netc.compile("line.net", target="numpy")
    code, _, err = netc_command("init", "line.net", "--seed", 5)
    assert code == 1 and "line.safetensors is there already" in err and fn.load("line.safetensors") == fn.init(4)
    assert netc_command("init", "line.net", "--seed", 5, "--force")[0] == 0
    assert fn.load("line.safetensors") == fn.init(5)
    assert netc_command("init", "line.net", "--seed", 4, "--force")[0] == 0
    code, out, _ = netc_command("run", "line.net", "--data", "data.npz", "--weights", "line.safetensors", "--save",
                                "o.npz")
    assert code == 0
    with np.load("data.npz") as data, np.load("o.npz") as result:
        np.testing.assert_allclose(result["y"], fn(fn.init(4), data["x"]), rtol=1e-5, atol=1e-6)
    code, out, _ = netc_command("run", "line.net", "--data", "data.npz", "--seed", 4)
    assert code == 0 and "y: f32[50, 1]" in out


def test_run_says_where_a_value_stops_being_finite(folder, netc_command):
    command = ["run", "line.net", "--data", "data.npz", "--target", "numpy", "--check-finite"]
    assert netc_command(*command)[0] == 0
    fn = netc.compile("line.net", target="numpy")
    fn.save(fn.init().with_flat(np.full(3, 3e38)), "w")
    np.savez("data.npz", x=np.ones((3, 2)), target=np.zeros((3, 1)))
    code, out, err = netc_command(*command, "--weights", "w")
    assert code == 1 and not out and err.startswith("error: the first value that is not finite is `y") \
        and "line.net:3:9" in err


def broken_npz(kind):
    if kind == "text":
        Path("data.npz").write_text("no zip", encoding="utf-8")
    elif kind == "objects":
        np.savez("data.npz", x=np.array([{}], object), target=np.zeros(1))
    elif kind == "npy":
        np.save("data.npy", np.zeros(3))
        os.replace("data.npy", "data.npz")
    elif kind == "huge":
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000), }"
        header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
        with zipfile.ZipFile("data.npz", "w") as archive:
            for name in ("x.npy", "target.npy"):
                archive.writestr(name, b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    elif kind == "missing":
        np.savez("data.npz", x=np.zeros((3, 2)))
    elif kind == "shape":
        np.savez("data.npz", x=np.zeros((3, 3)), target=np.zeros((3, 1)))


@pytest.mark.parametrize("kind, message", [
    ("text", "not a sound .npz file"), ("objects", "Python objects"), ("npy", "not a sound .npz file"),
    ("huge", "claims the shape"), ("missing", "has no array `target`; it holds `x`"),
    ("shape", "dimension 1 of `x` is 3, expected 2")])
def test_faulty_data_is_the_users_error(folder, netc_command, kind, message):
    broken_npz(kind)
    code, _, err = netc_command("train", "line.net", "--data", "data.npz", "--target", "numpy")
    assert code == 1 and message in err


@pytest.mark.parametrize("arguments, message", [
    (["check", "nowhere.net"], "nowhere.net: No such file"),
    (["train", "line.net", "--data", "nowhere.npz"], "nowhere.npz"),
    (["train", "line.net", "--data", "data.npz", "--save", "no/such/folder/w"], "cannot write"),
    (["train", "line.net", "--data", "data.npz", "--save", "."], "it is a folder"),
    (["train", "line.net", "--data", "data.npz", "--weights", "data.npz"], "not a safetensors file"),
    (["train", "line.net", "--data", "data.npz", "--validation", "0.001"], "nothing to train or to validate"),
    (["check", "data.npz"], "error"),
    (["check", "line.net", "--model", "Lime"], "Lime"),
    (["run", "line.net", "--data", "data.npz", "--output", "z"], "no value `z`"),
    (["summary", "."], "directory"),
])
def test_the_users_errors(folder, netc_command, arguments, message):
    code, _, err = netc_command(*arguments)
    assert code == 1 and message in err


@pytest.mark.parametrize("arguments", [
    ["chek"], ["check"], ["train", "line.net"], ["train", "line.net", "--data", "d", "--epochs", "0"],
    ["emit", "line.net", "--stage", "soup"], ["check", "line.net", "--colour"],
    ["train", "line.net", "--data", "data.npz", "--validation", "1.5"]])
def test_wrong_usage(folder, netc_command, arguments):
    code, _, err = netc_command(*arguments)
    assert code == 2 and "Error" in err


def test_ctrl_c_saves_what_was_trained(folder):
    process = subprocess.Popen(
        [sys.executable, "-m", "netc", "train", "line.net", "--data", "data.npz", "--epochs", "10000000"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("epoch 3/"):
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "interrupted after" in out and "weights saved to" in out and not err
    assert (folder / "line.safetensors").exists()


@pytest.mark.parametrize(("more", "told"), [
    ([], "a single one in training stops after the current batch and saves"),
    (["--checkpoint", "kept"], f"--resume goes on from {Path('kept', 'epoch-0001.safetensors')}")])
def test_a_second_ctrl_c_says_what_is_lost(folder, netc_command, monkeypatch, more, told):
    def interrupted(self, weights, path):
        raise KeyboardInterrupt
    monkeypatch.setattr("netc.function.Function.save", interrupted)
    code, _, err = netc_command("train", "line.net", "--data", "data.npz", "--epochs", "1", "--target", "numpy", *more)
    assert code == 1 and f"error: stopped at once by Ctrl-C: no weights were saved; {told}" in err
    assert not (folder / "line.safetensors").exists()


@pytest.mark.parametrize(("arguments", "told"), [
    (["train", "line.net", "--data", "data.npz", "--checkpoint", "data.npz/kept"], "cannot keep checkpoints in"),
    (["bench", "--quick", "--models", "tiny", "--svg", "nowhere/figure.svg"], "cannot write nowhere/figure.svg"),
    (["bench", "--quick", "--models", "tiny", "--json", "nowhere/all.json"], "cannot write nowhere/all.json")])
def test_a_place_that_takes_no_files_is_refused_at_once(folder, netc_command, arguments, told):
    code, out, err = netc_command(*arguments)
    assert code == 1 and told in err and not out


def test_a_file_that_cannot_be_replaced_keeps_its_name_in_the_message(folder, netc_command, monkeypatch):
    def refused(*_):
        raise PermissionError(errno.EACCES, "Permission denied", ".line.net.123")
    monkeypatch.setattr(os, "replace", refused)
    assert netc_command("fmt", "line.net")[2].strip() == "error: line.net: Permission denied"
    assert sorted(path.name for path in folder.iterdir()) == ["data.npz", "line.net"]


def test_names_of_files_that_are_no_text(folder, netc_command):
    name = os.fsdecode(b"l\xffne \xd0\x9c")
    try:
        (folder / "line.net").rename(f"{name}.net")
    except OSError:
        pytest.skip("this file system takes no such names")
    for command in (["check"], ["summary"], ["init"], ["fmt"],
                    ["train", "--data", "data.npz", "--epochs", "1", "--target", "numpy"]):
        code, _, err = netc_command(command[0], f"{name}.net", *command[1:])
        assert (code, err) == (0, "")
    assert (folder / f"{name}.safetensors").exists()
    code, _, err = netc_command("check", f"no {name}.net")
    assert code == 1 and "No such file" in err


def test_the_modules_are_run_as_a_command(folder):
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "netc", "check", "line.net"], capture_output=True, text=True)
    assert done.returncode == 0 and "fine" in done.stdout and time.perf_counter() - started < 20


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_each_says_of_itself(name):
    assert cli.get_command(None, name).help.splitlines()[0] == COMMANDS[name]
