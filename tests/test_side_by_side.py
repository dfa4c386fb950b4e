"""docs/side-by-side.md: what it says that netc prints is what netc prints."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "side-by-side.md").read_text(encoding="utf-8")


@pytest.fixture
def digits(tmp_path, monkeypatch):
    """The page's model and the data, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    text = re.search(r"^```net\n# digits\.net\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[1]
    Path("digits.net").write_text(text, encoding="utf-8")
    shutil.copy(ROOT / "examples" / "digits.npz", ".")
    return dict(np.load("digits.npz"))


def shown(command: str) -> str:
    """What the page shows below a command of netc's."""
    return re.search(rf"^\$ {re.escape(command)}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[1]


def test_the_page_counts_its_lines(digits):
    keras = re.search(r"^```\{code-block\} python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[1]
    for name, text in (("py", keras), ("net", Path("digits.net").read_text(encoding="utf-8"))):
        assert len(text.splitlines()) == int(re.search(rf"`digits\.{name}`, (\d+) lines", PAGE)[1])


def test_an_unknown_name(digits, netc_command):
    path = Path("digits.net")
    path.write_text(path.read_text(encoding="utf-8").replace("128, relu", "128, rely"), encoding="utf-8")
    code, out, errors = netc_command("check", "digits.net")
    assert code == 1 and (out + errors).rstrip() == shown("netc check digits.net").rstrip()


@pytest.mark.parametrize("name", ["narrow", "wrong", "nan"])
def test_data_that_do_not_fit(name, digits, netc_command):
    if name == "narrow":
        digits["x"] = digits["x"][:, :63]
    elif name == "wrong":
        digits["label"][1200] = 10
    else:
        digits["x"][700, 5] = np.nan
    np.savez(f"{name}.npz", **digits)
    command = f"netc train digits.net --data {name}.npz"
    code, out, errors = netc_command(*command.split()[1:])
    assert code == 1 and (out + errors).rstrip() == shown(command).rstrip()
