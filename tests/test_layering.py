"""The architecture, held by the imports: who may import whom, and that the wheel holds what the tree does."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CODE = ("compiler", "runtime", "grammar", "bench")
# A module of the compiler may import these of the runtime: plain data, nothing that runs.
PLAIN_DATA = {"runtime.errors", "runtime.records", "runtime.weights", "runtime.cache", "runtime.deferred",
              "runtime.digest"}
# Modules that meet the machine: they may import the runtime where they compile or run something.
BACK_END = {"compiler.pipeline", "compiler.pipeline_cuda", "compiler.emit_cpu", "compiler.stages", "compiler.lower",
            "compiler.contraction", "compiler.tiling", "compiler.ahead"}
FACE = {"function", "bound", "trainer", "inputs", "shortcuts", "profiling", "tracing", "fitting", "estimators"}
# What the benchmark may import beside netc's public face: the command line that it is a part of, the count of kernels,
# and how fast the machine is just now.
BENCH = {("bench.__main__", "compiler.cli"), ("bench.peers.netc_peer", "runtime.machine"),
         ("bench.peers.netc_peer", "runtime.roofline")}
# What runtime.cuda.door opens: the only other modules that know numba-cuda.
CUDA_ROOMS = {"runtime.cuda.device", "runtime.cuda.driver", "runtime.cuda.simulated", "runtime.cuda.vectors"}
# The only other module that knows Numba, and those that may import it, for the target "numba" alone.
REFERENCE, REFERRING = "runtime.numba_backend", {"function", "compiler.pipeline"}
HEAVY = {"numba", "llvmlite", "torch", "keras", "jax", "tensorflow", "sklearn", "scipy"}


def modules():
    paths = [*ROOT.glob("*.py"), *(path for folder in CODE for path in (ROOT / folder).rglob("*.py"))]
    return sorted(path for path in paths if "__pycache__" not in path.parts)


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, top_level_only: bool = False):
    """(module as seen from the package's root, or the absolute name; whether relative)."""
    package = path.relative_to(ROOT).parent.parts
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if not node.level:
                yield node.module, False
                continue
            base = package[:len(package) - node.level + 1]
            module = ".".join((*base, *((node.module or "").split(".") if node.module else ())))
            for alias in node.names:
                inner = ROOT.joinpath(*module.split("."), alias.name) if module else ROOT / alias.name
                is_module = inner.with_suffix(".py").exists() or (inner / "__init__.py").exists()
                yield (f"{module}.{alias.name}".lstrip(".") if is_module else module), True


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_follow_the_table(path):
    name = name_of(path)
    for target, relative in imports(path):
        assert relative or target.split(".")[0] != "netc", f"{name} imports {target} absolutely"
        if not relative:
            continue
        area, other = name.split(".")[0], target.split(".")[0]
        if area == "runtime":
            assert other == "runtime", f"{name} imports {target}: the runtime never imports the compiler"
        if area == "compiler" and other == "runtime" and name not in BACK_END and not name.startswith("compiler.cli"):
            assert target in PLAIN_DATA, f"{name} imports {target}: only the back end may"
        if area == "compiler" and other in FACE:
            assert name.startswith("compiler.cli"), f"{name} imports {target}: only the command line may"
        if area == "bench":
            assert other in ("", "bench") or (name, target) in BENCH, f"{name} imports {target}, not netc's public face"
        elif other == "bench":
            assert name == "compiler.cli.bench", f"{name} imports {target}: only its command may"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_only_the_runtimes_machine_modules_import_llvm(path):
    name = name_of(path)
    for target, _ in imports(path, top_level_only=True):
        if target.split(".")[0] in HEAVY:
            fine = {"sklearn"} if name == "estimators" else {"numba"} if name in CUDA_ROOMS | {REFERENCE} else set()
            if name.startswith("runtime.") and name != REFERENCE:
                fine |= {"llvmlite"}
            peer = name.startswith("bench.peers.")          # imported in a process of its own
            assert peer or target.split(".")[0] in fine, f"{name} imports {target} when it is imported"


def test_numba_is_behind_one_door():
    for path in modules():
        name = name_of(path)
        if name not in CUDA_ROOMS | {"runtime.cuda.door", REFERENCE}:
            assert not any(target.split(".")[0] in ("numba", "numba_cuda", "cuda") for target, relative in imports(path)
                           if not relative), f"{name} imports numba-cuda, which is for runtime.cuda.door"
            if not name.startswith("runtime.cuda"):
                assert not any(target in CUDA_ROOMS for target, _ in imports(path))


def test_numba_compiles_for_its_target_alone():
    for path in modules():
        name = name_of(path)
        always = any(target == REFERENCE for target, _ in imports(path, top_level_only=True))
        assert not always and (name in REFERRING or all(target != REFERENCE for target, _ in imports(path))), \
            f"{name} imports {REFERENCE}"


def test_the_packages_are_the_tree():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    found = {"netc"}
    for folder in CODE:
        for path in (ROOT / folder, *(ROOT / folder).rglob("*")):
            if path.is_dir() and path.name != "__pycache__" \
                    and any(child.suffix in (".py", ".net", ".lark") for child in path.iterdir()):
                found.add("netc." + ".".join(path.relative_to(ROOT).parts))
    assert set(settings["packages"]) == found


def test_every_file_of_the_packages_is_shipped():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    for package in settings["packages"][1:]:
        folder = ROOT.joinpath(*package.split(".")[1:])
        patterns = ["*.py", *settings["package-data"].get(package, [])]
        for path in folder.iterdir():
            if path.is_file() and path.suffix not in (".pyc", ".pyi"):
                assert any(path.match(pattern) for pattern in patterns), f"{path.relative_to(ROOT)} is not in the wheel"


def test_no_module_of_the_root_is_generic_code():
    assert {path.stem for path in ROOT.glob("*.py")} == FACE | {"__init__", "__main__"}


def test_importing_netc_imports_nothing_heavy():
    code = ("import sys; before = set(sys.modules); import netc; new = set(sys.modules) - before;"
            "bad = {'numpy', 'llvmlite', 'lark', 'click', 'rich', 'netc.compiler', 'netc.runtime'} & new;"
            "assert not bad, bad; print(len(new))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_checking_a_file_needs_no_llvm():
    code = ("import sys, netc; netc.compile('net 1\\nmodel M(x: f32[N, 2]) -> f32[N, 2]:\\n    return x + 1\\n');"
            "assert 'llvmlite' not in sys.modules")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_checking_a_new_text_needs_no_numpy(tmp_path):
    text = (ROOT / "examples" / "sequential.net").read_text(encoding="utf-8")
    (tmp_path / "m.net").write_text(text + "# new\n", encoding="utf-8")
    code = ("import sys\nfrom netc.compiler.kept_models import report\n"
            f"found = report(open({str(tmp_path / 'm.net')!r}, 'rb').read(), 'm.net', None, 'f32')\n"
            "assert found.fine, found.messages\nassert 'numpy' not in sys.modules")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
                          env=os.environ | {"NETC_CACHE_DIR": str(tmp_path / "cache")})
    assert done.returncode == 0, done.stderr


def test_what_needs_an_extra_names_it():
    code = ("import sys; sys.modules['sklearn'] = None; import netc; assert 'Classifier' in dir(netc);"
            "from netc import *; netc.Classifier")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "ImportError: netc.Classifier needs scikit-learn: pip install 'netc[sklearn]'" in done.stderr
