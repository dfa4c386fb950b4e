"""The pages of the error index: what they call a mistake provokes just that error, and what they call the mend
compiles."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from netc.compiler.build import elaborate
from netc.compiler.diagnostics import TITLES, Diagnostic, Diagnostics
from netc.compiler.error_index import FAMILIES, PAGES, contents
from netc.compiler.format import format_text
from netc.compiler.syntax import parse

FILES = sorted(PAGES.glob("*.md"))
UPDATE = os.environ.get("NETC_UPDATE_GOLDEN") == "1"
BLOCK = re.compile(r"(?:with `([^`]+)`:\n\n)?```(\w+)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


class Page:
    """The programs of a page. A mistake that is too long to be shown is written as the Python that makes its text."""

    def __init__(self, path: Path):
        self.path, self.text = path, path.read_text(encoding="utf-8")
        found = re.fullmatch(r"# (\w+): ([^\n]+)\n\n(.+)\n\n## The mistake\n\n(.*)\n## The mend\n\n(.*)", self.text,
                             re.DOTALL)
        self.code, self.title, self.why, mistake, mend = found.groups()
        self.mistake, self.mend = self.programs(mistake), self.programs(mend)
        ((self.message, self.made),) = [(body, "```python\n" in mistake) for _, kind, body in BLOCK.findall(mistake)
                                        if kind == "text"]

    @staticmethod
    def programs(section: str) -> dict[str, str | bytes]:
        files: dict[str, str | bytes] = {}
        for name, kind, body in BLOCK.findall(section):
            if kind == "python":
                made: dict = {}
                exec(body, made)
                body = made["text"]
            if kind != "text":
                files[name or "example.net"] = body
        return files


def diagnostics(files: dict[str, str | bytes]) -> list[Diagnostic]:
    """Everything that is said about the first of the files."""
    try:
        return list(elaborate(files["example.net"], "example.net", loader=files.__getitem__).warnings)
    except Diagnostics as raised:
        return raised.items


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_mistake_provokes_this_error(path):
    page = Page(path)
    said = diagnostics(page.mistake)[-1 if page.made else 0:]
    assert {item.code for item in said} == {page.code}
    message = "\n\n".join(item.render() for item in said) + "\n"
    if UPDATE:
        path.write_text(page.text.replace(page.message, message), encoding="utf-8")
    else:
        assert message == page.message, "after a deliberate change of the messages run this with NETC_UPDATE_GOLDEN=1"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_mend_compiles(path):
    page = Page(path)
    assert diagnostics(page.mend) == []
    assert page.mend != page.mistake
    for text in page.mend.values():
        assert format_text(text) == text
    for text in page.mistake.values():
        try:
            parse(text)
        except Diagnostics:
            continue
        assert format_text(text) == text


def test_every_code_has_its_page():
    assert [path.stem for path in FILES] == sorted(TITLES)
    for path in FILES:
        page = Page(path)
        assert (page.code, page.title) == (path.stem, TITLES[path.stem])
        assert len(page.why) > 80 and all(len(line) <= 120 for line in page.why.splitlines())


def test_every_code_has_its_family():
    assert all(code[:3] in FAMILIES for code in TITLES)
    assert re.findall(r"E\d{4}", contents()) == list(TITLES)


def test_command(netc_command):
    code, out, _ = netc_command("explain", "E0201")
    assert code == 0 and out == (PAGES / "E0201.md").read_text(encoding="utf-8")
    assert netc_command("explain", "e0201")[1] == netc_command("explain", "201")[1] == out
    code, out, _ = netc_command("explain")
    assert code == 0 and all(f"{code}  {title}" in out for code, title in TITLES.items())


@pytest.mark.parametrize("code", ["E0299", "nonsense", "../E0201"])
def test_command_of_an_unknown_code(netc_command, code):
    assert netc_command("explain", code) == (1, "",
                                             f"error: there is no error {code!r}: `netc explain` lists them all\n")


@pytest.mark.parametrize("body, hint",
                         [("    return rely(x)\n", "E0201"), ("    y = rely(x)\n    return Dense(3.5)(x)\n", "CODE")])
def test_errors_tell_of_their_pages(netc_command, tmp_path, body, hint):
    path = tmp_path / "wrong.net"
    path.write_text(f"net 1\n\nmodel M(x: f32[N, 3]):\n{body}")
    code, _, err = netc_command("check", path)
    assert code == 1 and err.splitlines()[-1] == f"for more: netc explain {hint}"
