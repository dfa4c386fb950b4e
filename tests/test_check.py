"""``netc check``: several files, folders, libraries, and the watch; and ``inspect``, which is behind it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from netc.compiler.build import inspect

ROOT = Path(__file__).resolve().parent.parent
RIGHT = "net 1\n\nmodel M(x: f32[N, 2]) -> f32[N, 3]:\n    return Dense(3)(x)\n"
WRONG = RIGHT.replace("Dense", "Dens")
LIBRARY = "net 1\n\nmodel Head(units: int)(x: f32[..., K]):\n    return Dense(units)(x)\n\ndef twice(x) = 2 * x\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "right.net").write_text(RIGHT)
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "library.net").write_text(LIBRARY)
    return tmp_path


def test_files_and_folders(folder, netc_command):
    assert netc_command("check", ".") == (
        0, "below/library.net: fine: 1 model, 1 function\nright.net: fine: M, 9 parameters\n2 of 2 files are fine\n",
        "")
    Path("wrong.net").write_text(WRONG)
    code, out, err = netc_command("check", "wrong.net", "right.net")
    assert code == 1 and "right.net: fine" in out and "1 of 2 files are fine" in out
    assert err.startswith("wrong.net:4:12: error[E0201]: `Dens` is not defined") \
        and err.endswith("for more: netc explain E0201\n")


def test_the_model_that_is_named(folder, netc_command):
    Path("two.net").write_text(RIGHT + "\nmodel K(width: int)(x: f32[N, 2]) -> f32[N, 3]:\n    return x\n")
    assert netc_command("check", "two.net")[0] == 0
    code, _, err = netc_command("check", "two.net", "--model", "K")
    assert code == 1 and "error[E0402]" in err
    assert "there is no model `L`" in netc_command("check", "two.net", "--model", "L")[2]


def test_a_named_model_is_checked_as_strictly_as_it_is_compiled(folder, netc_command):
    Path("layers.net").write_text("net 1\n\nmodel L(a = 1)(x):\n    return Dense(a)(x)\n\ndef f(x) = x\n")
    assert netc_command("check", "layers.net")[0] == 0
    code, _, err = netc_command("check", "layers.net", "--model", "L")
    assert code == 1 and "the input `x` of the compiled model needs a type" in err


def test_warnings_leave_the_exit_code(folder, netc_command):
    Path("warned.net").write_text(RIGHT.replace("    return", "    h = 1\n    return"))
    code, out, err = netc_command("check", "warned.net")
    assert code == 0 and "fine" in out and "warned.net:4:5: warning[E0205]" in err


@pytest.mark.parametrize("arguments, code", [((), 2), (("nothing.net",), 1), (("empty",), 1), (("--interval",), 2)])
def test_wrong_usage(folder, netc_command, arguments, code):
    (folder / "empty").mkdir()
    assert netc_command("check", *arguments)[0] == code


def test_everything_that_is_shipped_is_fine(netc_command):
    code, out, _ = netc_command("check", ROOT / "examples", ROOT / "grammar" / "prelude")
    assert code == 0 and out.splitlines()[-1].endswith("files are fine")


# ---- a whole file ---------------------------------------------------------------------------------------------------


def found(text: str) -> list[tuple[str, str, int]]:
    return [(item.severity, item.code, item.span.line) for item in inspect(text, "m.net").diagnostics]


def test_each_trained_model_is_checked():
    text = RIGHT + "\nmodel K(x: f32[N, 2]) -> f32[N, 2]:\n    return x\n"
    for name in ("M", "K"):
        text += f"\ntrain {name}:\n    loss a = output\n"
    assert found(text) == [("error", "E0604", 10), ("error", "E0604", 13)]


def test_a_library_is_fine_and_its_names_are_checked():
    assert found(LIBRARY) == found("net 1\n") == found("net 1\n\ndef f(x) = x\n") == []
    assert found(LIBRARY.replace("2 * x", "2 * z")) == [("error", "E0201", 6)]
    assert found("net 1\n\nmodel Bad(n: int)(x: f32[N, K]):\n    return Dense(n)(y)\n") == [("error", "E0201", 4)]


def test_what_a_layer_leaves_open_is_a_note():
    layer = ("net 1\n\nmodel Shift(by = 1.0)(x: f32[N, K]) -> f32[N, K]:\n    param b: f32[K] = zeros\n    return x + "
             "by * b\n")
    assert found(layer) == [("note", "E0306", 4)]
    assert found(layer.replace("(by = 1.0)", "").replace("by * ", "")) == [("error", "E0306", 4)]
    assert found(layer + "\ntrain Shift:\n    loss a = sum(output)\n") == [("error", "E0306", 4)]


def test_text_that_does_not_parse():
    inspection = inspect("net 1\nmodel M(x: f32[N, 2]):\n    y = = 1\n    return x\n")
    assert [item.code for item in inspection.errors] == ["E0101"] and inspection.file.models[0].name == "M"
    assert inspect(b"\xff").file is None


def test_imported_files_are_known(tmp_path):
    (tmp_path / "library.net").write_text(LIBRARY)
    text = 'net 1\n\nimport "library.net" as lib\n\nmodel M(x: f32[N, 2]) -> f32[N, 2]:\n    return lib.twice(x)\n'
    assert inspect(text, str(tmp_path / "m.net")).read == {str(tmp_path / "library.net")}


# ---- watching -------------------------------------------------------------------------------------------------------


def test_watch(folder):
    """Checked at once, after each change of the file or of one that it imports, and ended by Ctrl-C."""
    Path("main.net").write_text('net 1\n\nimport "below/library.net" as lib\n\nmodel M(x: f32[N, 2]) -> f32[N, 3]:\n  '
                                '  return lib.Head(3)(x)\n')
    process = subprocess.Popen([sys.executable, "-u", "-m", "netc", "check", "--watch", "main.net"], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    guard = threading.Timer(180, process.kill)
    guard.start()
    try:
        def wait_for(text: str) -> None:
            assert any(text in line for line in process.stdout), f"{text!r} never came"
        wait_for("main.net: fine: M, 9 parameters")
        Path("below/library.net").write_text(LIBRARY.replace("Dense", "Dens"))
        wait_for("changed: below/library.net")
        wait_for("`Dens` is not defined")
        Path("below/library.net").write_text(LIBRARY)
        wait_for("main.net: fine")
        os.replace("right.net", "main.net")
        wait_for("changed: main.net")
        wait_for("main.net: fine")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        guard.cancel()
        process.kill()
        process.stdout.close()
        process.wait()
