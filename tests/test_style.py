"""The tree, held by the tools that pyproject.toml configures; each test is skipped where its tool is not installed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from beside import Beside

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.skipif(find_spec("ruff") is None, reason="ruff is not installed")
def test_ruff_finds_nothing():
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise", "."],
                          cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def mypy() -> Beside:
    """On this tree under its package's name, whatever its folder is called; what mypy learnt is kept between runs."""
    kept = Path(os.environ["NETC_CACHE_DIR"]) / "mypy" / hashlib.blake2b(bytes(ROOT), digest_size=8).hexdigest()
    kept.mkdir(parents=True, exist_ok=True)
    if not (kept / "netc").is_symlink():
        (kept / "netc").symlink_to(ROOT, target_is_directory=True)
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(kept)]
    return Beside((command, {"MYPYPATH": str(kept)}))


MYPY = mypy()


@pytest.mark.slow
@pytest.mark.beside(MYPY)
@pytest.mark.skipif(find_spec("mypy") is None, reason="mypy is not installed")
def test_mypy_finds_nothing():
    done, = MYPY.results()
    assert done.returncode == 0, done.stdout + done.stderr
