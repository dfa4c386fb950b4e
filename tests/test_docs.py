"""The pages in docs/ are true: every program compiles, every block of Python runs and prints what the page says.

A ```net block is a file, whose first line `# NAME.net` is its name.  The ```python blocks of a page run in order in one
namespace, the lines of ```sh blocks as commands; a ```text block right below a ```python block is what it prints.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from netc.compiler.build import elaborate

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
NEEDS = {"from-keras.md": ("torch", "keras"), "from-pytorch.md": ("torch",)}     # torch is the tests' backend of Keras


class Block(NamedTuple):
    language: str
    text: str
    line: int               # of the page, of the text's first line
    end: int                # where the block ends in the page


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(match[1], match[2], text.count("\n", 0, match.start(2)) + 1, match.end())
            for match in re.finditer(r"^```(\w+)\n(.*?)^```\n", text, re.MULTILINE | re.DOTALL)]


def programs():
    for page in PAGES:
        for block in blocks(page):
            if block.language == "net":
                yield pytest.param(block.text, id=f"{page.name}:{block.line}")


@pytest.mark.parametrize("text", list(programs()))
def test_program_compiles_without_a_warning(text):
    assert re.match(r"# \w+\.net\nnet 1\n", text), "a program begins with its file's name"
    model = elaborate(text, "page.net")
    assert model.inference.outputs and not model.warnings


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_runs_and_prints_what_it_says(page, tmp_path, monkeypatch, capsys, netc_command):
    for module in NEEDS.get(page.name, ()):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "page"}
    end, output = -1, ""        # where the last block of Python ends, what it printed
    for block in blocks(page):
        if block.language == "net":
            Path(block.text.split()[1]).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            capsys.readouterr()
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), namespace)
            end, output = block.end, capsys.readouterr().out
        elif block.language == "sh":
            for command in block.text.splitlines():
                name, *arguments = command.split()
                assert name == "netc"
                code, _, errors = netc_command(*arguments)
                assert code == 0, f"{page.name}:{block.line}: {command}\n{errors}"
        elif block.language != "console":           # a transcript: test_side_by_side.py holds it
            assert block.language == "text", f"{page.name}:{block.line}: what is ```{block.language}?"
            follows = end >= 0 and page.read_text(encoding="utf-8")[end:].startswith("```text")
            assert follows, f"{page.name}:{block.line}: whose output?"
            assert output == block.text, f"{page.name}:{block.line}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
