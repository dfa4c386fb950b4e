"""The formatter: the same program with the same comments, in one form that formatting leaves as it is."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path

import pytest
from net_texts import Generator

from netc.compiler.diagnostics import Diagnostics
from netc.compiler.format import FormatError, check, comments_of, format_text, same_program
from netc.compiler.parser import parse_stages
from netc.compiler.syntax import parse

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SHIPPED = sorted([*(ROOT / "grammar" / "prelude").glob("*.net"), *(ROOT / "examples").rglob("*.net"),
                  *(ROOT / "bench").rglob("*.net"), HERE / "syntax" / "language.net"])
GOLDEN = sorted((HERE / "golden" / "format").glob("*.net"))
FAULTY = sorted((HERE / "golden" / "errors").rglob("*.net"))
UPDATE = os.environ.get("NETC_UPDATE_GOLDEN") == "1"


def formatted(text: str) -> str:
    """The formatted text, once it is proven to be the same program and stable."""
    before, result = parse_stages(text), format_text(text)
    after = parse_stages(result)
    assert same_program(before.file, after.file)
    assert comments_of(before) == comments_of(after)
    assert format_text(result) == result
    assert not re.search(r"[ \t]$", result, re.MULTILINE) and result.endswith("\n") and not result.endswith("\n\n")
    return result


def code_blocks():
    for path in (ROOT / "README.md", ROOT / "grammar" / "REFERENCE.md"):
        for i, block in enumerate(re.findall(r"^```net\n(.*?)^```", path.read_text(encoding="utf-8"),
                                             re.MULTILINE | re.DOTALL)):
            yield pytest.param(block, id=f"{path.name}-{i}")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_are_formatted(path):
    text = path.read_text(encoding="utf-8")
    assert formatted(text) == text, f"run `netc fmt {path.relative_to(ROOT)}`"


@pytest.mark.parametrize("text", list(code_blocks()))
def test_programs_in_the_documents_are_formatted(text):
    assert format_text(text) == text


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden(path):
    result, golden = formatted(path.read_text(encoding="utf-8")), path.with_suffix(".txt")
    if UPDATE:
        golden.write_text(result, encoding="utf-8")
    assert result == golden.read_text(encoding="utf-8")


def test_files_with_other_errors_are_formatted_too():
    """What does not compile is formatted as long as it parses; what does not parse is refused."""
    parsing = 0
    for path in FAULTY[::3]:
        text = path.read_text(encoding="utf-8")
        try:
            parse(text)
        except Diagnostics:
            with pytest.raises(Diagnostics):
                format_text(text)
        else:
            formatted(text)
            parsing += 1
    assert parsing > 20


# ---- generated texts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_any_text_keeps_its_program_and_its_comments(seed):
    generator = Generator(seed, deep=9)
    for _ in range(8):
        formatted(generator.item(longest=150))


def test_several_items_in_one_text():
    generator = Generator(100, deep=6)
    for _ in range(5):
        items = [generator.item(longest=60).removeprefix("net 1\n") for _ in range(5)]
        formatted("net 1\n" + "\n".join(items))


def relaid(text: str, random_: random.Random) -> str:
    """The text with other blanks between its tokens, and other line breaks inside brackets."""
    rows, depth = [], 0
    for line in parse_stages(text).lines:
        row = ""
        for token in line.tokens:
            depth -= token.type in ("RPAR", "RSQB")
            if not row:
                row = indent = " " * (token.column - 1)
            elif depth and random_.random() < 0.2:
                row += f"\n{indent}    "
            else:
                row += " " * random_.randint(1, 3)
            row += str(token)
            depth += token.type in ("LPAR", "LSQB")
        rows.append(row)
    return "\n".join(rows)


@pytest.mark.parametrize("path", [path for path in SHIPPED if "layers" in path.name or "norm" in path.name
                                  or "optim" in path.name],
                         ids=lambda path: path.stem)
def test_the_form_does_not_depend_on_the_layout(path):
    """Blank lines, comments and breaks of pipes aside, which are the writer's: they are taken out first."""
    text = re.sub(r"#.*", "", path.read_text(encoding="utf-8"))
    text = re.sub(r"\n\s*\|>", " |>", re.sub(r"\n\s*\n", "\n", text))
    canonical = format_text(text)
    for seed in range(4):
        assert format_text(relaid(text, random.Random(seed))) == canonical


# ---- particular forms -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before, after", [
    ("a=.5+1.*2.E3", "a = 0.5 + 1.0 * 2.0e3"),
    ("a = - x ** - 2", "a = -x ** -2"),
    ("a = not  x", "a = not x"),
    ("a = ((x))", "a = x"),
    ("a = ((x + 1) * (2))", "a = (x + 1) * (2)"),
    ("a = x[none, 1 : , ... , :: 2, None]", "a = x[None, 1:, ..., ::2, None]"),
    ("a = f(None, x = none)", "a = f(none, x = none)"),
    ("a = (1,)", "a = (1,)"), ("a = 1,", "a = 1,"), ("a = (1, 2,)", "a = (1, 2)"), ("a = f(1,)", "a = f(1)"),
    ("a = ( )", "a = ()"),
    ("a = f( * b , * c )", "a = f(*b, *c)"),
    ("a: ( int , ) = (1,)", "a: (int,) = (1,)"),
    ("a = x|>f|> g( 1 )", "a = x |> f |> g(1)"),
    ("a = x if y else(z)", "a = x if y else (z)"),
    ("a = blocks . Head( 3 ) . z", "a = blocks.Head(3).z"),
    ('a = "two  blanks # and no comment"', 'a = "two  blanks # and no comment"'),
])
def test_forms(before, after):
    assert formatted(f"net 1\nconst {before}") == f"net 1\n\nconst {after}\n"


@pytest.mark.parametrize("first", ["a", "aaa", "a" * 8])
def test_the_bracket_that_a_broken_tuple_gets_counts_for_what_stands_before_it(first):
    """At whichever width the annotation fits only without the bracket that its broken value begins with."""
    for width in range(70, 110):
        text = f"net 1\n\nconst {'c' * width}: (int, int, int, int) = {first}, {'b' * 30}, {'b' * 30}, {'b' * 30}\n"
        result = format_text(text)
        assert format_text(result) == result and max(map(len, result.split("\n"))) <= 120


def test_blank_lines():
    text = ("\n\nnet 1\nconst a = 1\n\n\nconst b = 2\nconst c = 3\ndef f(x) = x\ndef g(x):\n\n    y = x\n\n\n    "
            "return y\n\n\n")
    assert formatted(text) == ("net 1\n\nconst a = 1\n\nconst b = 2\nconst c = 3\n\ndef f(x) = x\n\n"
                               "def g(x):\n    y = x\n\n    return y\n")


def test_a_text_of_nothing_but_the_version():
    assert formatted("net 1") == "net 1\n"
    assert formatted("# a\n\n# b\nnet 1 # c") == "# a\n\n# b\nnet 1                                              # c\n"


def test_line_ends_and_byte_order_mark():
    assert format_text("\ufeffnet 1\r\nconst a=1\r\n".encode()) == "net 1\n\nconst a = 1\n"


@pytest.mark.parametrize("deep", ["(" * 190 + "x" + ")" * 190, "-" * 190 + "x", "f(" * 95 + "x" + ")" * 95,
                                  "(a + " * 95 + "x" + ")" * 95,
                                  "+".join(["x"] * 190), "(" + "1, " * 2000 + ")", "x" + " |> f" * 2000],
                         ids=["brackets", "minus", "calls", "sums", "long sum", "long tuple", "long pipe"])
def test_deep_and_long(deep):
    formatted(f"net 1\nconst a = {deep}\n")


def test_a_result_that_is_another_program_is_refused():
    before = parse_stages("net 1\nconst a = 1  # one\n")
    for other in ("net 1\nconst a = 2  # one\n", "net 1\nconst a = 1\n", "net 1\nconst a = # one\n"):
        with pytest.raises(FormatError, match="another program"):
            check(before, parse_stages(other))


# ---- the command ----------------------------------------------------------------------------------------------------

UGLY, PRETTY = "net 1\nconst a=1 # one\n", "net 1\n\nconst a = 1                                        # one\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ugly.net").write_text(UGLY)
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "pretty.net").write_text(PRETTY)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "ugly.net").write_text(UGLY)
    return tmp_path


def test_command_formats_files_and_folders(folder, netc_command):
    os.chmod("ugly.net", 0o640)
    code, out, _ = netc_command("fmt", ".")
    assert code == 0 and out == "formatted ugly.net\n1 file formatted, 1 file fine already\n"
    assert Path("ugly.net").read_text() == PRETTY and Path(".hidden/ugly.net").read_text() == UGLY
    assert os.stat("ugly.net").st_mode & 0o777 == 0o640
    assert netc_command("fmt") == (0, "2 files fine already\n", "")
    assert sorted(path.name for path in folder.iterdir()) == [".hidden", "below", "ugly.net"]


def test_command_checks(folder, netc_command):
    code, out, _ = netc_command("fmt", "--check", "ugly.net", "below")
    assert code == 1 and out == "would format ugly.net\n1 file would be formatted, 1 file fine already\n"
    assert Path("ugly.net").read_text() == UGLY
    assert netc_command("fmt", "--check", "below")[0] == 0


def test_command_shows_the_difference(folder, netc_command):
    code, out, err = netc_command("fmt", "--diff", "ugly.net")
    assert code == 1 and "--- a/ugly.net\n+++ b/ugly.net\n" in out and "\n-const a=1 # one\n" in out \
        and "\n+const a = 1   " in out
    assert err == "1 file would be formatted\n" and Path("ugly.net").read_text() == UGLY
    assert netc_command("fmt", "--diff", "below")[:2] == (0, "")


def test_command_on_the_standard_input(folder, netc_command, monkeypatch):
    import io
    import sys
    from types import SimpleNamespace
    for text, expected in ((UGLY, PRETTY), (UGLY.replace("\n", "\r\n"), PRETTY.replace("\n", "\r\n"))):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text.encode())))
        assert netc_command("fmt", "-") == (0, expected, "")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(UGLY.encode())))
    assert netc_command("fmt", "--check", "-")[:2] == (1, "")


def test_command_goes_on_after_a_faulty_file(folder, netc_command):
    Path("bad.net").write_text("net 1\nconst a = )\n")
    code, out, err = netc_command("fmt", "bad.net", "ugly.net")
    assert code == 1 and "bad.net:2:11: error[E0105]" in err and "1 file formatted, 1 file with errors" in out
    assert Path("ugly.net").read_text() == PRETTY


def test_command_refuses_what_is_not_there(folder, netc_command):
    (folder / "empty").mkdir()
    assert netc_command("fmt", "nothing.net")[0] == 1
    code, _, err = netc_command("fmt", "empty")
    assert code == 1 and "no .net file" in err


def test_line_ends_and_links_stay(folder, netc_command):
    Path("windows.net").write_bytes(UGLY.replace("\n", "\r\n").encode())
    os.symlink("windows.net", "link.net")
    assert netc_command("fmt", "link.net")[0] == 0
    assert Path("link.net").is_symlink() and Path("windows.net").read_bytes() == PRETTY.replace("\n", "\r\n").encode()
