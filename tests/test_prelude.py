"""The trees of the prelude's definitions, which are data beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from test_kept_trees import differences

from netc.compiler import kept_trees, prelude
from netc.compiler.parser import parse
from netc.compiler.source import read


def test_the_trees_are_those_of_the_prelude():
    """After an edit of the prelude, the grammar or what makes trees: python -m netc.compiler.tables"""
    assert set(prelude._trees()) == set(prelude.prelude_index())
    for name, rows in prelude._trees().items():
        text, shown = prelude._definition(name)
        made = kept_trees.tree_of(json.loads(rows), read(text, shown))
        assert list(differences(parse(text, shown), made)) == [], name


@pytest.mark.parametrize("name", ["Dense", "adam", "LSTM", "glorot_uniform"])
def test_a_definition_has_the_places_of_its_file(name):
    tree = prelude.prelude_definition(name)
    whole = prelude.prelude_tree(prelude.prelude_index()[name])
    (found,), (there,) = tree.items, [item for item in whole.items if item.name == name]
    assert found.name_span == there.name_span and found.span.line == there.span.line


def test_trees_of_another_prelude_are_not_used(monkeypatch, tmp_path):
    edited = tmp_path / "prelude"
    edited.mkdir()
    for path in prelude.PRELUDE.glob("*.net"):
        (edited / path.name).write_text(path.read_text(encoding="utf-8").replace("glorot", "xavier"), encoding="utf-8")
    monkeypatch.setattr(prelude, "PRELUDE", edited)
    for cached in (prelude._texts, prelude._trees, prelude.prelude_index, prelude.prelude_definition):
        monkeypatch.setattr(prelude, cached.__name__, cached.__wrapped__)
    assert prelude._trees() == {} and prelude.prelude_definition("xavier_uniform").items[0].name == "xavier_uniform"


def test_they_are_written_the_same_on_every_run(tmp_path):
    code = ("import sys\nfrom pathlib import Path\nfrom netc.compiler import prelude\n"
            "prelude.TREES = Path(sys.argv[1])\nprelude.write_trees()\n")
    subprocess.run([sys.executable, "-c", code, tmp_path / "trees"], check=True,
                   env=os.environ | {"PYTHONHASHSEED": "1"})
    assert (tmp_path / "trees").read_bytes() == prelude.TREES.read_bytes().replace(b"\r\n", b"\n")


def test_a_model_of_layers_parses_its_own_text_alone(tmp_path):
    code = ("import sys\nfrom netc.compiler import build, parser\nseen = []\nreal = parser.parse_stages\n"
            "parser.parse_stages = lambda text, name: seen.append(name) or real(text, name)\n"
            "print(len(build.inspect(open(sys.argv[1]).read(), 'a.net').errors), seen)\n")
    (tmp_path / "a.net").write_text("net 1\nmodel M(x: f32[N, 8]) -> (y: f32[N, 4]):\n"
                                    "    y = x |> Dense(8, relu) |> LayerNorm() |> Dense(4, softmax)\n")
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.net"], check=True, text=True,
                          capture_output=True, env=os.environ | {"NETC_CACHE_DIR": str(tmp_path / "cache")})
    assert done.stdout == "0 ['a.net']\n"
