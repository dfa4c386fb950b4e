"""Syntax trees in the cache: what comes back is what was parsed."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from netc.compiler import kept_trees, syntax
from netc.compiler.diagnostics import Diagnostics, Span
from netc.compiler.parser import parse
from netc.compiler.source import read

ROOT = Path(__file__).resolve().parents[1]
TEXTS = [*sorted((ROOT / "grammar" / "prelude").glob("*.net")), *sorted((ROOT / "examples").rglob("*.net")),
         ROOT / "tests" / "syntax" / "language.net"]


def differences(left, right, path="file"):
    """Where two trees differ, spans included."""
    pending = [(left, right, path)]
    while pending:
        a, b, where = pending.pop()
        if isinstance(a, syntax.Node) and type(a) is type(b):
            pending += [(getattr(a, f.name), getattr(b, f.name), f"{where}.{f.name}") for f in fields(a)]
        elif isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
            pending += [(x, y, f"{where}[{k}]") for k, (x, y) in enumerate(zip(a, b))]
        elif isinstance(a, Span) and isinstance(b, Span):
            if a != b or a.text != b.text or a.file != b.file:
                yield where
        elif type(a) is not type(b) or a != b:
            yield where


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_a_kept_tree_is_the_tree(path):
    text = path.read_text(encoding="utf-8")
    tree = parse(text, path.name)
    again = kept_trees.decode(kept_trees.encode(tree), read(text, path.name))
    assert list(differences(tree, again)) == []
    assert syntax.dump(tree) == syntax.dump(again)
    # a node is one object wherever it is reached from
    assert [id(item) for item in again.items if isinstance(item, syntax.Model)] == [id(m) for m in again.models]


def test_a_deep_tree_is_kept():
    text = "net 1\nconst long = " + " + ".join(["1"] * 150) + "\n"
    tree = parse(text, "deep.net")
    again = kept_trees.decode(kept_trees.encode(tree), read(text, "deep.net"))
    depth, one, other = 0, tree.consts[0].value, again.consts[0].value
    while isinstance(one, syntax.Binary):
        assert (one.op, one.span) == (other.op, other.span)
        depth, one, other = depth + 1, one.left, other.left
    assert depth == 149 and other.value == 1


def test_a_faulty_text_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("NETC_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(Diagnostics) as first:
        syntax.parse("net 1\nmodel (\n", "bad.net")
    with pytest.raises(Diagnostics) as second:
        syntax.parse("net 1\nmodel (\n", "bad.net")
    assert str(first.value) == str(second.value)


CHECK = """
import sys
import netc
fn = netc.compile(f'net 1\\nmodel M(x: f32[N, 2]) -> f32[N, 3]:\\n    return x |> Dense(3, {sys.argv[1]})\\n')
print(fn, *(name in sys.modules for name in ('lark', 'netc.compiler.parser', 'netc.runtime.translate', 'llvmlite')))
"""


def check(folder, activation: str) -> str:
    done = subprocess.run([sys.executable, "-c", CHECK, activation], capture_output=True, text=True, timeout=120,
                          env=os.environ | {"NETC_CACHE_DIR": str(folder)})
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_nothing_needs_lark_and_only_new_texts_the_parser(tmp_path):
    function = "<netc.Function M(x: f32[N, 2]) -> (output: f32[N, 3]), 9 parameters>"
    assert check(tmp_path / "cache", "gelu") == f"{function} False True False False\n"
    assert check(tmp_path / "cache", "gelu") == f"{function} False False False False\n"
    assert check(tmp_path / "cache", "relu") == f"{function} False True False False\n"


def test_a_node_is_written_by_what_it_is():
    assert {kinds for _, _, kinds in kept_trees._classes()} > {("span", "plain"), ("span", "nodes", "nodes", "nodes")}
    for kind, _, kinds in kept_trees._classes():
        for field, what in zip(fields(kind), kinds):
            assert (what == "span") == (field.type == "Span")
            assert (what == "plain") == all(part.strip() in kept_trees.PLAIN for part in field.type.split("|"))
