"""Every message that a writer of a broken file gets, whole, against a golden file.

``tests/golden/errors/NAME.net`` is the broken file and ``NAME.txt`` what is said about it.  After a deliberate change
of the messages run the tests with ``NETC_UPDATE_GOLDEN=1`` and read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from netc.compiler.build import elaborate
from netc.compiler.diagnostics import Diagnostics

GOLDEN = Path(__file__).parent / "golden" / "errors"
FILES = sorted(GOLDEN.glob("*.net"))
UPDATE = os.environ.get("NETC_UPDATE_GOLDEN") == "1"


def message(path: Path, monkeypatch) -> str:
    """What is said about a file, its name being relative, so that the text is the same on every machine."""
    monkeypatch.chdir(GOLDEN)
    with pytest.raises(Diagnostics) as raised:
        elaborate(path.read_text(encoding="utf-8"), path.name)
    return raised.value.render() + "\n"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_message(path, monkeypatch):
    said = message(path, monkeypatch)
    golden = path.with_suffix(".txt")
    if UPDATE:
        golden.write_text(said, encoding="utf-8")
    assert golden.exists(), f"no golden file {golden.name}; NETC_UPDATE_GOLDEN=1 writes it"
    assert said == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_message_is_for_the_writer(path, monkeypatch):
    """A place with its source line and caret; nothing of the compiler's own insides."""
    said = message(path, monkeypatch)
    for inside in ("Traceback", ".py", "lark", "Lark", "numba", "NoneType", "UnexpectedToken", "ANONYMOUS", "_NEWLINE",
                   "$END", "0x", "<netc", "Node("):
        assert inside not in said
    for item in said.rstrip("\n").split("\n\n"):
        lines = item.splitlines()
        assert "error[E" in lines[0]
        assert "^" in lines[2], "no caret under the source line"


def test_golden_files_have_their_sources():
    assert len(FILES) >= 60
    assert {path.stem for path in GOLDEN.glob("*.txt")} == {path.stem for path in FILES}


@pytest.mark.parametrize("name, count", [
    ("several_independent", 5), ("several_syntax", 4), ("several_train", 4), ("several_no_cascade", 2),
    ("several_models", 3)])
def test_independent_errors_are_reported_together(name, count, monkeypatch):
    assert message(GOLDEN / f"{name}.net", monkeypatch).count("error[E") == count
