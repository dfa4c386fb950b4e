"""The pages as a site: Sphinx builds them without a warning, and what a reader looks for is there."""

from __future__ import annotations

import re
import sys
from html import unescape
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from beside import Beside

import netc
from netc.compiler.cli import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
NEEDED = ("sphinx", "myst_parser", "sphinx_click", "furo", "sklearn")

OUT = TemporaryDirectory(prefix="netc-site-")          # goes with the session
SPHINX = Beside(([sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", str(ROOT / "docs"), "-d",
                  f"{OUT.name}/trees", str(ROOT), f"{OUT.name}/site"], {"PYTHONWARNINGS": "ignore"}))


@pytest.fixture(scope="module")
def site() -> Path:
    done, = SPHINX.results()
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(OUT.name) / "site"


pytestmark = [pytest.mark.slow, pytest.mark.beside(SPHINX),
              pytest.mark.skipif(not all(map(find_spec, NEEDED)), reason="the extra docs is not there")]


def text_of(page: Path) -> str:
    return unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


def test_the_pages_are_there(site):
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert pages <= {path.stem for path in (site / "docs").glob("*.html")}
    assert "The .net language" in text_of(site / "grammar/REFERENCE.html")
    assert len(list((site / "grammar/errors").glob("E*.html"))) == len(list((ROOT / "grammar/errors").glob("E*.md")))


def test_every_public_name_is_documented(site):
    page = (site / "docs/python.html").read_text(encoding="utf-8")
    described = set(re.findall(r'id="netc\.(\w+)"', page)) | set(re.findall(r'id="netc\.[\w.]+\.(\w+)"', page))
    told = text_of(site / "docs/python.html")
    missing = [name for name in dir(netc) if not name.startswith("_") and name in netc.__all__
               and name not in described and f"netc.{name}" not in told]
    assert not missing


def test_every_command_is_documented(site):
    told = text_of(site / "docs/command-line.html")
    assert not [name for name in COMMANDS if f"netc {name}" not in told]


def test_every_public_method_says_what_it_does():
    for name in ("Function", "Bound", "Weights", "History", "Trainer", "Trace", "EarlyStopping", "Checkpoint", "Log"):
        public = getattr(netc, name)
        assert public.__doc__, name
        for method, value in vars(public).items():
            if callable(value) and not method.startswith("_") and method not in ("on_start", "on_batch", "on_epoch",
                                                                                 "on_end"):
                assert value.__doc__, f"{name}.{method} has no docstring"
