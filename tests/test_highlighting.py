"""The two highlighters, held against the compiler's own tokens on every shipped file: the Pygments lexer and the
TextMate grammar."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pygments")

from pygments.token import Comment, Error, Keyword, Name, Number, Operator, Punctuation, String, Whitespace

from netc.compiler.editor import lexer
from netc.compiler.editor.lexer import NetLexer
from netc.compiler.explain import RESERVED, WORDS
from netc.compiler.parser import parse_stages
from netc.compiler.types import DTYPES

ROOT = Path(__file__).resolve().parent.parent
EDITORS = ROOT / "editors"
GRAMMAR = json.loads((EDITORS / "netc.tmLanguage.json").read_text(encoding="utf-8"))
FILES = sorted([*(ROOT / "examples").rglob("*.net"), *(ROOT / "grammar" / "prelude").glob("*.net"),
                ROOT / "tests" / "syntax" / "language.net",
                *(ROOT / "tests" / "golden" / "format").glob("*.net")])
TRICKY = """net 1
import "a.net" as as
const model: (int, int) = (1, 2)
def scan(x, loss = 0.5, input: float = 1.) = x ** .5 + loss * 1e-3 / 10_000 - input
model M(units: int, *rest: int)(x: f32[N, ..., 2 * K], mask: bool[N] = none) -> (state: f32[N], param: i32[]):
    assert units > 0 and not training, "a \\"quoted\\" {units} # no comment"
    penalty = x[:, ::2, None, ...]; # a stray sign
    assert, state = penalty |> f(x = 1) |> (model if true else scan)(param)
    penalty sum(penalty ** 2)
    scan along in x[1:2], reversed in f(carrying) along -1 reversed carrying as = zeros(N), h = g(
        collecting) collecting as as collecting: # scan
        loss.x = metric
    for i, j in range(3):
        x = x @ y // 2 % 3 if i <= 2 or j != 1 else x
    gradient(dy) = dy
"""


def compilers_kinds(text: str) -> dict[int, tuple[str, str]]:
    """Offset -> (kind, text) of each token of the compiler, in words of its own: keyword, name, number, string, sign;
    and comments."""
    kinds: dict[int, tuple[str, str]] = {}
    end = 0
    tokens = sorted((token for line in parse_stages(text).lines for token in line.tokens if str(token)),
                    key=lambda token: token.start_pos)
    for token in [*tokens, None]:
        gap = text[end:token.start_pos if token is not None else len(text)]
        kinds |= {end + found.start(): ("comment", found[0].rstrip()) for found in re.finditer("#.*", gap)}
        if token is not None:
            kind = {"NAME": "name", "NUMBER": "number", "STRING": "string"}.get(token.type)
            kind = kind or ("wrong" if token.type.startswith("BAD") else "keyword" if token.type in WORDS else "sign")
            kinds[token.start_pos] = ("constant" if token in ("true", "false", "none", "None") else kind, str(token))
            end = token.end_pos
    return kinds


# ---- Pygments -------------------------------------------------------------------------------------------------------


def pygments_kind(kind) -> str:
    for known, word in ((Comment, "comment"), (Keyword.Constant, "constant"), (Keyword.Type, "name"),
                        (Keyword, "keyword"), (Number, "number"), (String, "string"),
                        (Name, "name"), (Operator, "sign"), (Punctuation, "sign"), (Whitespace, "blank"),
                        (Error, "wrong")):
        if kind in known:
            return word
    return str(kind)


def check(text: str, found: dict[int, str]) -> None:
    """Every token of the compiler begins where the highlighter begins one of its kind."""
    for offset, (kind, word) in compilers_kinds(text).items():
        if word == "training":
            kind = "constant"                      # a name to the grammar, which can be bound nowhere
        line = text.count("\n", 0, offset) + 1
        assert found.get(offset) == kind, f"line {line}: {word!r} is a {kind}, highlighted as {found.get(offset)}"


def by_pygments(text: str) -> dict[int, str]:
    found = {}
    for offset, kind, value in NetLexer().get_tokens_unprocessed(text):
        found[offset + len(value) - len(value.lstrip())] = pygments_kind(kind)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_pygments_on_shipped_files(path):
    text = path.read_text(encoding="utf-8")
    tokens = list(NetLexer().get_tokens(text))
    assert not [value for kind, value in tokens if kind in Error]
    assert "".join(value for _, value in tokens).strip() == text.strip()
    check(text, by_pygments(text))


def test_pygments_on_words_that_are_names():
    assert [value for kind, value in NetLexer().get_tokens(TRICKY) if kind in Error] == [";"]
    check(TRICKY, by_pygments(TRICKY))


def test_pygments_colours_meanings():
    text = 'model M(x: f32[N]):\n    h = Dense(2, relu)(x) |> f()  # c\n    assert x, "{x}\\n"\n'
    found = [(str(kind), value) for kind, value in NetLexer().get_tokens(text)]
    for pair in (("Token.Name.Class", "M"), ("Token.Keyword.Type", "f32"), ("Token.Name.Class", "Dense"),
                 ("Token.Name.Function", "f"),
                 ("Token.Operator", "|>"), ("Token.Comment.Single", "# c"), ("Token.Literal.String.Interpol", "{x}"),
                 ("Token.Literal.String.Escape", "\\n")):
        assert pair in found


def test_pygments_finds_the_language():
    assert NetLexer.analyse_text("# licence\n\nnet 1  # version\n") == 1.0 \
        and NetLexer.analyse_text("import os\n") == NetLexer.analyse_text("") == 0.0
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    points = settings["project"]["entry-points"]
    assert points["pygments.lexers"] == {"netc": f"netc.compiler.editor.lexer:{NetLexer.__name__}"}


def test_the_words_are_the_compilers():
    assert set(lexer.RESERVED) | {"true", "false", "none"} == set(RESERVED.values())
    assert set(lexer.ELEMENT_TYPES) == set(DTYPES)
    patterns = (EDITORS / "netc.tmLanguage.json").read_text(encoding="utf-8")
    source = Path(lexer.__file__).read_text(encoding="utf-8")
    for word in (*WORDS.values(), *DTYPES):
        assert re.search(rf"\b{word}\b", patterns) and re.search(rf"\b{word}\b", source), word


# ---- TextMate -------------------------------------------------------------------------------------------------------


class TextMate:
    """Enough of TextMate's matching to run a grammar of `match`, `begin`/`end`, `captures` and `include`."""

    def __init__(self, grammar: dict):
        self.grammar = grammar
        self.compiled: dict[str, re.Pattern] = {}

    def regex(self, pattern: str) -> re.Pattern:
        return self.compiled.setdefault(pattern, re.compile(pattern))

    def rules(self, patterns: list[dict]) -> Iterator[dict]:
        for rule in patterns:
            if "include" in rule:
                rule = self.grammar["repository"][rule["include"].removeprefix("#")]
            if "match" in rule or "begin" in rule:
                yield rule
            else:
                yield from self.rules(rule["patterns"])

    def scopes(self, text: str) -> Iterator[tuple[int, str, str]]:
        """(offset, text, scope) of everything that gets a scope."""
        stack: list[dict] = []
        start = 0
        for line in text.split("\n"):
            at = 0
            while at <= len(line):
                at = self.step(line, at, start, stack, out := [])
                yield from out
            start += len(line) + 1

    def step(self, line: str, at: int, start: int, stack: list[dict], out: list) -> int:
        patterns = list(self.rules(stack[-1].get("patterns", []) if stack else self.grammar["patterns"]))
        end = self.regex(stack[-1]["end"]).search(line, at) if stack else None
        best, found = None, None
        for rule in patterns:
            match = self.regex(rule.get("match") or rule["begin"]).search(line, at)
            if match and (found is None or match.start() < found.start()):
                best, found = rule, match
        if end is not None and (found is None or end.start() <= found.start()):
            self.capture(stack.pop(), end, start, "endCaptures", out)
            return end.end() if end.end() > at or not stack else at + (not end[0] and end.start() == len(line))
        if found is None:
            return len(line) + 1
        if "match" in best:
            self.capture(best, found, start, "captures", out)
        else:
            self.capture(best, found, start, "beginCaptures", out)
            stack.append(best)
        return max(found.end(), at + (found.end() == at and "match" in best))

    @staticmethod
    def capture(rule: dict, match: re.Match, start: int, kind: str, out: list) -> None:
        if kind == "captures" and "name" in rule:
            out.append((start + match.start(), match[0], rule["name"]))
        for group, scope in rule.get(kind, {}).items():
            if match[int(group)] is not None:
                out.append((start + match.start(int(group)), match[int(group)], scope["name"]))


def textmate_kind(scope: str) -> str:
    for prefix, word in (("comment", "comment"), ("constant.language", "constant"), ("constant.numeric", "number"),
                         ("punctuation.definition.string", "string"),
                         ("storage", "keyword"), ("keyword.control", "keyword"), ("keyword.operator.word", "keyword"),
                         ("keyword.operator", "sign"),
                         ("punctuation", "sign"), ("support.type", "name"), ("entity", "name"), ("variable", "name")):
        if scope.startswith(prefix):
            return word
    return scope


def by_textmate(text: str) -> dict[int, str]:
    return {offset: textmate_kind(scope) for offset, _, scope in TextMate(GRAMMAR).scopes(text)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_textmate_on_shipped_files(path):
    text = path.read_text(encoding="utf-8")
    check(text, by_textmate(text))


def test_textmate_on_words_that_are_names():
    found = by_textmate(TRICKY)
    check(TRICKY, {**found, TRICKY.index(";"): "wrong"})


def test_the_extension_names_its_files():
    manifest = json.loads((EDITORS / "package.json").read_text(encoding="utf-8"))
    (language,), (grammar,) = manifest["contributes"]["languages"], manifest["contributes"]["grammars"]
    for name in (language["configuration"], grammar["path"], manifest["main"]):
        assert (EDITORS / name).is_file()
    assert language["id"] == grammar["language"] and grammar["scopeName"] == GRAMMAR["scopeName"]
    assert language["extensions"] == [".net"] and GRAMMAR["fileTypes"] == ["net"]
    assert manifest["contributes"]["configuration"]["properties"]["netc.command"]["default"][:2] == ["netc", "lsp"]
    configuration = json.loads((EDITORS / "language-configuration.json").read_text(encoding="utf-8"))
    assert configuration["comments"]["lineComment"] == "#"
    for rule in configuration["indentationRules"].values():
        re.compile(rule)
    increase, decrease = (re.compile(configuration["indentationRules"][name])
                          for name in ("increaseIndentPattern", "decreaseIndentPattern"))
    assert increase.match("model M(x: f32[N]) -> f32[N]:  # c") and not increase.match("const a = x[1:]") \
        and decrease.match("    else:")
