"""Models and compiled programs in the cache: what comes back is what was made, and only for what it was made from."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import netc
from netc.compiler import kept, kept_models, ops, pickles
from netc.compiler.build import elaborate
from netc.compiler.diagnostics import Diagnostics
from netc.compiler.ir import Graph, topological
from netc.compiler.types import Dim, f32
from netc.runtime import cache

ROOT = Path(netc.__file__).parent
SHIPPED = Path(__file__).resolve().parents[1] / "examples"        # beside the tests, not in the installed package
EXAMPLES = sorted(path for path in SHIPPED.glob("*.net") if "\ntrain " in path.read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv("NETC_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_kept_model_is_the_model(path):
    model = elaborate(path.read_text(encoding="utf-8"), str(path))
    again = pickles.loads(pickles.dumps(model))
    assert again == model and again is not model        # nodes are equal only where they are the same
    assert again.layers == model.layers and again.structure == model.structure


@pytest.mark.parametrize("name", sorted(ops.PRIMITIVES))
def test_every_primitive_is_kept(name):
    for node, _ in ops.PRIMITIVES[name].sample(np.random.default_rng(0)):
        assert pickles.loads(pickles.dumps({"value": node}))["value"] is node


def test_a_deep_graph_is_kept():
    value = ops.input("x", f32, (Dim.symbol("N"),))
    for _ in range(20_000):
        value = ops.tanh(value)
    content = pickles.dumps(Graph((), {"value": value}))
    count = len(topological([value]))
    del value
    assert len(pickles.loads(content).nodes()) == count


def test_nodes_that_are_gone_are_made_again():
    """In another process none of them exist: the texts of the graphs are the same there."""
    code = """
import sys
from netc.compiler.ir import Graph
from netc.compiler.kept_models import elaborate
from netc.compiler.text import format_graph
source = open(sys.argv[1]).read()
model = elaborate(source, sys.argv[1])
for graph in (model.inference.outputs, model.training.losses, model.optimizer.update.outputs):
    print(format_graph(Graph((), graph)))
print(model.variables, model.layers, model.warnings)
print(sorted({'lark', 'netc.compiler.build', 'netc.runtime.translate'} & set(sys.modules)))
"""
    outputs = [subprocess.run([sys.executable, "-c", code, str(SHIPPED / "ticket.net")], capture_output=True,
                              text=True, timeout=120, check=True).stdout for _ in range(2)]
    assert outputs[0].rsplit("[", 1)[0] == outputs[1].rsplit("[", 1)[0]
    assert outputs[1].endswith("\n[]\n")


@pytest.mark.parametrize("content", [pickle.dumps(os.system), pickle.dumps(np.arange(3)), pickle.dumps(eval),
                                     pickle.dumps(kept_models.Path("."))], ids=["system", "array", "eval", "path"])
def test_only_the_compilers_own_classes_are_read(content):
    with pytest.raises(pickle.UnpicklingError, match="nothing that is kept"):
        pickles.loads(content)


# --- models -------------------------------------------------------------------------------------------------------

MAIN = ("net 1\nimport \"part.net\" as part\nmodel M(n: int = 2)(x: f32[N, 3]) -> f32[N, K]:\n    return x |> "
        "part.Part(n)\n")
PART = "net 1\nmodel Part(n: int)(x: f32[N, 3]) -> f32[N, K]:\n    return x |> Dense({units})\n"


@pytest.fixture
def built(folder, monkeypatch):
    """The names of the files that were elaborated, not taken from the cache."""
    from netc.compiler import build
    names = []
    original = build.elaborate
    monkeypatch.setattr(build, "elaborate", lambda text, name, **options: names.append(name)
                        or original(text, name, **options))
    (folder / "main.net").write_text(MAIN)
    (folder / "part.net").write_text(PART.format(units="n"))
    return names


def width(folder, **options) -> int:
    return netc.compile(folder / "main.net", **options).outputs["output"].shape[1]


def test_a_model_is_elaborated_once(folder, built):
    assert [width(folder) for _ in range(3)] == [2, 2, 2]
    assert len(built) == 1


def test_settings_model_and_precision_make_other_models(folder, built):
    for _ in range(2):
        assert width(folder, settings={"n": 5}) == 5
        assert width(folder, settings={"n": 1}) == 1
        assert netc.compile(folder / "main.net", precision="f64").inputs["x"].dtype.name == "f64"
    assert len(built) == 3
    with pytest.raises(Diagnostics, match="the setting `n` of M must be an integer"):
        width(folder, settings={"n": True})         # equal to 1, and still another value


def test_an_imported_file_that_changed_counts(folder, built):
    first = netc.compile(folder / "main.net")
    (folder / "part.net").write_text(PART.format(units="7"))
    assert width(folder) == 7
    second = netc.compile(folder / "main.net")
    assert first.model.identity != second.model.identity
    (folder / "part.net").unlink()
    with pytest.raises(Diagnostics, match="the imported file cannot be read"):
        width(folder)
    (folder / "part.net").write_text(PART.format(units="n"))
    assert width(folder) == 2
    assert netc.compile(folder / "main.net").model.identity == first.model.identity


def test_the_same_text_elsewhere_has_its_own_imports_and_places(folder, built):
    width(folder)
    other = folder / "other"
    other.mkdir()
    (other / "main.net").write_text(MAIN)
    (other / "part.net").write_text(PART.format(units="9"))
    assert width(other) == 9
    assert netc.compile(other / "main.net").model.layers[0].where.startswith(str(other))


def test_warnings_are_kept(folder, built):
    (folder / "main.net").write_text("net 1\nmodel M(x: f32[N, 3]) -> f32[N, 3]:\n    unused = x + 1\n    return x\n")
    shown = [[str(warning) for warning in netc.compile(folder / "main.net").model.warnings] for _ in range(2)]
    assert shown[0] == shown[1] and "unused" in shown[0][0]
    assert len(built) == 1


def test_faulty_files_are_not_kept(folder, built):
    (folder / "main.net").write_text("net 1\nmodel M(x: f32[N, 3]) -> f32[N, 3]:\n    return y\n")
    for _ in range(2):
        with pytest.raises(Diagnostics, match="`y` is not defined"):
            width(folder)
    assert len(built) == 2


def test_settings_that_are_no_plain_values_are_not_kept(folder, built):
    class Three(int):
        pass
    assert [width(folder, settings={"n": Three(3)}) for _ in range(2)] == [3, 3]
    assert len(built) == 2


# --- programs -----------------------------------------------------------------------------------------------------


def test_a_program_is_lowered_once(folder, built, monkeypatch):
    from netc.compiler import pipeline
    lowered = []
    original = pipeline.optimize
    monkeypatch.setattr(pipeline, "optimize", lambda *given: lowered.append(1) or original(*given))
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    results = []
    for outputs in (None, None, ["part.dense"], None):
        fn = netc.compile(folder / "main.net", outputs=outputs)
        results.append(fn(fn.init(), x=x))
    assert len(lowered) == 2                    # other outputs are another program
    assert len({result.tobytes() for result in results}) == 1
    # the oracle is never kept
    oracle = netc.compile(folder / "main.net", target="numpy")
    np.testing.assert_allclose(oracle(oracle.init(), x=x), results[0], rtol=1e-5)
    assert "kept" not in repr(oracle.program("predict").executable) and len(lowered) == 2


def test_a_model_made_elsewhere_is_not_kept(folder, monkeypatch):
    """One without an identity, as an editor makes it."""
    from netc.function import Function
    model = elaborate(PART.format(units="4").replace("(n: int)", ""), "part.net")
    assert model.identity == ""
    put = []
    monkeypatch.setattr(kept, "put", lambda key, value: put.append(key))
    fn = Function(model)
    fn(fn.init(), x=np.ones((1, 3), np.float32))
    assert put == []


def test_every_part_of_the_compiler_is_in_the_key(monkeypatch):
    kept._version.cache_clear()
    before = kept.key_of("text")
    read = kept._content
    names = ["grammar/net.lark", "grammar/prelude/layers.net", "compiler/lower.py", "compiler/ops/contract.py",
             "compiler/build/models.py", "compiler/kept.py", "runtime/weights.py"]
    keys = set()
    for name in names:
        changed = ROOT / name
        monkeypatch.setattr(kept, "_content", lambda file, changed=changed: read(file) + b"#"
                            * (Path(file).name == changed.name))
        kept._version.cache_clear()
        keys.add(kept.key_of("text"))
    monkeypatch.undo()
    kept._version.cache_clear()
    assert len(keys | {before}) == len(names) + 1
    assert kept.key_of("text") == before and cache.key_of("text") != before


# --- what commands show -------------------------------------------------------------------------------------------

COMMAND = """
import sys
from netc.compiler.cli import main
try:
    main(sys.argv[1:])
except SystemExit as ended:
    code = ended.code
print(code or 0, sorted({'lark', 'netc.compiler.lalr', 'numpy', 'llvmlite'} & set(sys.modules)), file=sys.stderr)
"""


def command(folder, *arguments) -> tuple[str, str]:
    """What a command prints in a new process, and what that imported."""
    done = subprocess.run([sys.executable, "-c", COMMAND, *arguments], capture_output=True, text=True, timeout=120,
                          cwd=folder, check=True)
    return done.stdout, done.stderr.strip()


@pytest.mark.parametrize("arguments", [("summary",), ("summary", "--json", "--depth", "1"), ("fmt", "--diff"),
                                       ("check",)], ids=" ".join)
def test_what_a_command_shows_is_worked_out_once(folder, built, arguments):
    shown, imported = command(folder, *arguments, "main.net")
    again, imported_again = command(folder, *arguments, "main.net")
    assert again == shown and "netc.compiler.lalr" in imported and imported_again.endswith("[]")
    assert not any(name in imported for name in ("'lark'", "llvmlite", "numpy"))


def test_a_summary_follows_the_files_that_are_imported(folder, built):
    def parameters():
        return [line for line in command(folder, "summary", "main.net")[0].splitlines() if "parameters (" in line]
    assert parameters() == parameters() == ["8 parameters (0.00 MiB)"]
    (folder / "part.net").write_text(PART.format(units=4))
    assert parameters() == ["16 parameters (0.00 MiB)"]
