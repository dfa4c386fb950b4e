"""Every program in grammar/REFERENCE.md compiles: blocks marked ```net are whole files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from netc.compiler.build import elaborate

REFERENCE = Path(__file__).parents[1] / "grammar" / "REFERENCE.md"
PRELUDE = REFERENCE.parent / "prelude"
TEXT = REFERENCE.read_text(encoding="utf-8")
FILES = {"blocks.net": "net 1\n\nmodel Head(units: int)(x: f32[N, K]) -> f32[N, units]:\n    return Dense(units)(x)\n"}


def blocks():
    """(line of the reference, text) of each program."""
    for match in re.finditer(r"^```net\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL):
        yield pytest.param(match[1], id=f"line {TEXT.count(chr(10), 0, match.start()) + 2}")


@pytest.mark.parametrize("text", list(blocks()))
def test_program_compiles(text):
    model = elaborate(text, "reference.net", loader=lambda path: FILES[Path(path).name])
    assert model.inference.outputs


def test_every_name_of_the_prelude_is_in_the_reference():
    for path in PRELUDE.glob("*.net"):
        for name in re.findall(r"^(?:model|def) ([a-zA-Z]\w*)", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert f"`{name}" in TEXT, f"{name} of {path.name} is not in the reference"
