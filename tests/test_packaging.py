"""What is shipped: the sdist and the wheel, built without a network, used from a virtual environment of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(int(version("setuptools").split(".")[0]) < 77,
                                                   reason="the build needs setuptools 77")]


def run(*command, **options) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def left_out(folder: str, names: list[str]) -> list[str]:
    made = ("build", "dist") if Path(folder) == ROOT else ()
    return [name for name in names if name.startswith(".") or name == "__pycache__" or name in made
            or name.endswith((".egg-info", ".pyc"))]


def built(kind: str, source: Path, out: Path) -> Path:
    return out / run(sys.executable, "-c", BUILD, f"build_{kind}", out, cwd=source).splitlines()[-1]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> tuple[Path, Path, Path]:
    """(the sdist, its content, the wheel that is built from that)."""
    folder = tmp_path_factory.mktemp("shipped")
    shutil.copytree(ROOT, folder / "checkout", ignore=left_out)         # a build writes beside its source
    sdist = built("sdist", folder / "checkout", folder)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "content", filter="data")
    (content,) = (folder / "content").iterdir()
    return sdist, content, built("wheel", content, folder)


@pytest.fixture(scope="module")
def environment(shipped, tmp_path_factory) -> Path:
    """A fresh virtual environment with the wheel; what netc needs is this environment's."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=False, symlinks=os.name != "nt")
    python = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet", shipped[2])
    own = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (own / "needed.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    return place


def netc(environment: Path, *arguments, cwd: Path) -> str:
    """The command of the environment, away from the checkout."""
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return run(next(environment.glob("*/netc*")), *arguments, cwd=cwd, env=variables)


def test_the_sdist_holds_the_tree(shipped):
    """All that the tests need, the tests too: the wheel is built from it, and nothing of the tree is missing."""
    folders = ("bench", "compiler", "docs", "editors", "examples", "grammar", "runtime", "tests")
    tree = {path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"}
    tree |= {Path(name) for name in ("README.md", "pyproject.toml", "MANIFEST.in", "py.typed", "__init__.py")}
    content = shipped[1]
    assert not sorted(path for path in tree if not (content / path).is_file())


def test_the_wheel_holds_the_package_and_nothing_else(shipped):
    with zipfile.ZipFile(shipped[2]) as wheel:
        names = wheel.namelist()
    tops = {name.split("/")[0] for name in names}
    assert len(tops) == 2 and "netc" in tops, tops
    assert {"netc/py.typed", "netc/grammar/net.lark", "netc/grammar/REFERENCE.md", "netc/grammar/prelude/layers.net",
            "netc/bench/models/tiny.net"} <= set(names)
    assert not [name for name in names if name.startswith(("netc/tests", "netc/docs", "netc/examples"))]


def test_the_metadata_name_what_is_supported(shipped):
    with zipfile.ZipFile(shipped[2]) as wheel:
        (path,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        lines = wheel.read(path).decode().split("\n\n")[0].splitlines()
    assert "Name: netc" in lines and "Requires-Python: >=3.11" in lines
    assert sum(line.startswith("Classifier: Programming Language :: Python :: 3.1") for line in lines) == 3
    needed = [line.split(": ")[1] for line in lines if line.startswith("Requires-Dist") and "extra" not in line]
    assert {name.rstrip("0123456789.<>=,") for name in needed} \
        == {"numpy", "llvmlite", "numba", "lark", "rich", "click", "platformdirs", "safetensors"}


def test_the_wheel_checks_and_trains(environment, tmp_path):
    for name in ("digits.net", "digits.npz"):
        shutil.copy(ROOT / "examples" / name, tmp_path)
    assert "digits.net: fine: Digits, 17,226 parameters" in netc(environment, "check", "digits.net", cwd=tmp_path)
    netc(environment, "train", "digits.net", "--data", "digits.npz", "--epochs", 2, "--log", "log.json",
         "--save", "digits.safetensors", cwd=tmp_path)
    first, second = json.loads((tmp_path / "log.json").read_text(encoding="utf-8"))
    assert second["loss"] < first["loss"] and second["accuracy"] > 0.8
    arguments = ("--data", "digits.npz", "--weights", "digits.safetensors")
    assert netc(environment, "run", "digits.net", *arguments, cwd=tmp_path).startswith("logits: f32[1797, 10]")


def test_the_wheel_is_what_is_imported(environment, tmp_path):
    python = next(path for path in environment.glob("*/python*") if path.name in ("python", "python.exe"))
    code = "import netc, netc.compiler.cli; print(netc.__file__); print(sorted(netc.compiler.cli.COMMANDS))"
    place, commands = run(python, "-c", code, cwd=tmp_path, env={"PATH": os.environ["PATH"]}).splitlines()
    assert Path(place).is_relative_to(environment) and "train" in commands
