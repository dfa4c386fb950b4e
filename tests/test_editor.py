"""What an editor asks about a text: names, hover, completion, renaming. The cursor is a `^` in the text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from netc.compiler.editor import edits
from netc.compiler.editor.analysis import Analysis
from netc.compiler.editor.bindings import bindings, walk
from netc.compiler.editor.completion import complete, resolve
from netc.compiler.editor.hover import hover
from netc.compiler.syntax import Name, Target, parse

ROOT = Path(__file__).resolve().parent.parent
NETS = sorted([*(ROOT / "examples").glob("*.net"), *(ROOT / "grammar" / "prelude").glob("*.net"),
               ROOT / "tests" / "syntax" / "language.net"])

BLOCKS = """net 1

# A head of one layer.
model Head(units: int, activation = linear)(x: f32[N, K]) -> f32[N, units]:
    return Dense(units, activation)(x)
"""
TEXT = """net 1

import "blocks.net" as blocks

# The width of
# everything.
const width = 16

# Twice x.
def twice(x, factor = 2.0) = factor * x

model Encoder(depth: int = 2)(x: f32[N, K]) -> (code: f32[N, width], spread: f32[N, 1]):
    assert depth > 0, "depth must be positive, got {depth}"
    h = x
    for i in range(depth):
        h = h |> Dense(width, relu) |> twice(factor = 3.0)
    code = h
    spread = Dense(1)(h)

model Reader(x: f32[N, T, 8]) -> (scores: f32[N, 3], last: f32[N, 16]):
    cell = Dense(16, tanh)
    scan z in x along 1 carrying h = zeros(N, 16) collecting h as hs:
        a = concat(h, z)
        h = cell(a)
    encoded = Encoder(depth = 1)(h)
    last = hs[:, -1]
    scores = blocks.Head(units = 3)(encoded.code + encoded.spread)

train Reader:
    input label: i32[N]
    loss   scores = mean(sparse_categorical_crossentropy(scores, label, from_logits = true))
    metric bias   = mean(cell.bias)
    optimizer = adam(lr = 1e-3)
"""


def at(text: str) -> tuple[str, int, int]:
    """(the text without its mark, line and column of the mark)."""
    before, after = text.split("^")
    return before + after, before.count("\n") + 1, len(before) - before.rfind("\n")


def open_(text: str, before: Analysis | None = None) -> tuple[Analysis, int, int]:
    text, line, column = at(text)
    return Analysis(text, "/models/main.net", {"/models/blocks.net": BLOCKS}.get, before), line, column


def mark(old: str, new: str) -> str:
    """TEXT with one place of it changed, to one that has the mark."""
    assert TEXT.count(old) == 1, old
    return TEXT.replace(old, new)


# ---- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", NETS, ids=lambda path: path.stem)
def test_every_place_of_a_symbol_is_its_name(path):
    found = bindings(parse(path.read_text(encoding="utf-8"), path.name))
    assert found.symbols
    for symbol in found.symbols:
        assert {span.text for span in symbol.places} == {symbol.name}
        assert len(set(symbol.places)) == len(symbol.places)
    known = {span for symbol in found.symbols for span in symbol.places} | {span for span, _ in found.free}
    for node in walk(*found.file.items):
        if isinstance(node, (Name, Target)):
            assert node.span in known, node.span.where


def places(name: str, kind: str, text: str = TEXT) -> list[int]:
    """The lines of the one symbol of a name and a kind."""
    (symbol,) = [s for s in bindings(parse(text)).symbols if (s.name, s.kind) == (name, kind)]
    return sorted(span.line for span in symbol.places)


def test_scopes():
    assert places("width", "const") == [7, 12, 16]
    assert places("depth", "setting") == [12, 13, 13, 15]
    assert places("K", "dimension") == [12]
    assert places("scores", "output") == [20, 27, 31]
    assert places("scores", "loss") == [31]
    assert places("label", "target") == [30, 31]
    assert places("hs", "value") == [22, 26]
    assert places("z", "value") == [22, 23] and places("cell", "value") == [21, 24, 32]
    h = [sorted(span.line for span in s.places) for s in bindings(parse(TEXT)).symbols if s.name == "h"]
    assert h == [[14, 16, 16, 17, 18], [22, 22, 23, 24, 25]]


def test_nested_scans_share_what_they_carry():
    text = ("net 1\nmodel M(x: f32[N, T, S]):\n    scan a in x along 1 carrying h = zeros(N):\n        scan b in a "
            "along 1 carrying h = h:\n"
            "            t = h + b\n            h = t\n    return h\n")
    assert places("h", "value", text) == [3, 4, 4, 5, 6, 7]
    assert places("t", "value", text) == [5, 6]


# ---- hover ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old, new, expected", [
    ("    h = x\n", "    h^ = x\n", ["h: f32[N, 16]", "value of Encoder"]),
    ("|> Dense(width, relu)", "|> De^nse(width, relu)", ["model Dense(units: int", "activation(x @ kernel + bias)",
                                                         "gives `f32[N, 16]`"]),
    ("twice(factor = 3.0)", "tw^ice(factor = 3.0)", ["def twice(x, factor = 2.0)", "Twice x.", "gives `f32[N, 16]`"]),
    ("twice(factor = 3.0)", "twice(fac^tor = 3.0)", ["factor: 3.0", "input of twice"]),
    ("const width = 16", "const wi^dth = 16", ["const width = 16", "The width of everything."]),
    ("model Encoder(depth", "model Encoder(de^pth", ["depth: 1", "setting of Encoder"]),
    ("got {depth}", "got {de^pth}", ["depth: 1", "setting of Encoder"]),
    ("f32[N, width], spread", "f32[N, wi^dth], spread", ["const width = 16"]),
    ("cell = Dense(16, tanh)", "ce^ll = Dense(16, tanh)", ["cell: instance of Dense"]),
    ("concat(h, z)", "con^cat(h, z)", ["concat(*", "builtin", "gives `f32[N, 24]`"]),
    ("concat(h, z)", "concat(h, z^)", ["z: f32[N, 8]"]),
    ("    encoded = ", "    enc^oded = ", ["encoded: (code: f32[N, 16], spread: f32[N, 1])"]),
    ("encoded.code + ", "encoded.co^de + ", ["code: f32[N, 16]", "output of Encoder"]),
    ("encoded.code + encoded", "encoded.code ^+ encoded", ["encoded.code + encoded.spread: f32[N, 16]"]),
    ("blocks.Head(units = 3)", "blocks.He^ad(units = 3)",
     ["model Head(units: int, activation = linear)", "A head of one layer.", "weights below `scores`"]),
    ("blocks.Head(units = 3)", "blo^cks.Head(units = 3)", ["import \"blocks.net\""]),
    ("mean(cell.bias)", "mean(cell.bi^as)", ["bias: f32[16]"]),
    ("along 1 carrying", "al^ong 1 carrying", None),
    ("import \"blocks", "imp^ort \"blocks", None),
])
def test_hover(old, new, expected):
    found = hover(*open_(mark(old, new)))
    if expected is None:
        assert found is None
    else:
        assert all(part in found[0] for part in expected), found[0]


def test_hover_shows_every_call_of_a_layer():
    text = ("net 1\n\nmodel L()(x: f32[N, K]):\n    y^ = 2 * x\n    return y\n\nmodel M(a: f32[N, 3], b: f32[N, 5]):\n"
            "    return L()(a), L()(b)\n")
    assert "y: f32[N, 3]\ny: f32[N, 5]" in hover(*open_(text))[0]


def test_hover_reaches_models_that_nothing_uses():
    text = ("net 1\n\nmodel Alone(x: f32[N, 4]):\n    y^ = x @ transpose(x)\n    return y\n\nmodel M(a: f32[N, 3]):\n "
            "   return a\n")
    assert "y: f32[N, N]" in hover(*open_(text))[0]


def test_hover_in_a_text_with_errors():
    analysis, line, column = open_(mark("    last = hs[:, -1]\n", "    last = hs[:, -1]\n    wrong = rely(^x)\n"))
    assert analysis.inspection.errors and "x: f32[N, T, 8]" in hover(analysis, line, column)[0]
    analysis, line, column = open_(mark("    last = hs[:, -1]\n", "    wrong = = 1\n    last = hs^[:, -1]\n"))
    assert "value of Reader" in hover(analysis, line, column)[0]


# ---- definitions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old, new, file, text", [
    ("|> Dense(width", "|> Den^se(width", "layers.net", "Dense"),
    ("relu)", "re^lu)", "activations.net", "relu"),
    ("adam(lr = 1e-3)", "adam(l^r = 1e-3)", "optimizers.net", "lr"),
    ("blocks.Head(units = 3)", "blocks.Hea^d(units = 3)", "blocks.net", "Head"),
    ("blocks.Head(units = 3)", "blocks.Head(uni^ts = 3)", "blocks.net", "units"),
    ("Encoder(depth = 1)", "Encoder(de^pth = 1)", "main.net", "depth"),
    ("encoded.spread)", "encoded.spr^ead)", "main.net", "spread"),
    ("mean(cell.bias)", "mean(cell.bia^s)", "layers.net", "bias"),
    ("h = cell(a)", "h = cell(^a)", "main.net", "a"),
    ("range(depth)", "ra^nge(depth)", None, None),
])
def test_definition(old, new, file, text):
    analysis, line, column = open_(mark(old, new))
    named = analysis.named(line, column)
    if file is None:
        assert named.place is None
    else:
        assert Path(named.place.path).name == file and named.place.span.text == text


def test_definition_without_elaboration():
    analysis, line, column = open_(mark("    last = hs[:, -1]\n",
                                        "    last = hs[:, -1]\n    x = = 1\n    y = Dense(uni^ts = 3)(x)\n"))
    assert analysis.named(line, column).place.span.text == "units"


# ---- renaming -------------------------------------------------------------------------------------------------------


def renamed(text: str, new: str) -> str:
    analysis, line, column = open_(text)
    found = edits.rename(analysis, line, column, new, [])
    lines = analysis.text.split("\n")
    for edit in sorted(found, key=lambda edit: (edit.span.line, edit.span.column), reverse=True):
        assert edit.path == "/models/main.net"
        row, start, end = edit.span.line - 1, edit.span.column - 1, edit.span.end_column - 1
        lines[row] = lines[row][:start] + edit.text + lines[row][end:]
    return "\n".join(lines)


@pytest.mark.parametrize("old, new, word, by", [
    ("    h = x\n", "    h^ = x\n", None, "hidden"),
    ("carrying h = ", "carrying h^ = ", None, "hidden"),
    ("model Encoder(depth", "model Encoder(dep^th", r"\bdepth\b(?! must)", "layers"),
    ("Encoder(depth = 1)", "Encoder(dep^th = 1)", r"\bdepth\b(?! must)", "layers"),
    ("const width", "const wid^th", r"(?<!The )\bwidth\b", "size"),
    ("model Reader(", "model Read^er(", r"\bReader\b", "Listener"),
    ("def twice(x, factor", "def twice(x, fac^tor", r"\bfactor\b", "times"),
    ("as blocks\n", "as blo^cks\n", r"\bblocks\b(?!\.net)", "parts"),
    ("encoded.spread)", "encoded.sp^read)", r"\bspread\b", "variance"),
    ("metric bias ", "metric bi^as ", None, "offset"),
])
def test_rename(old, new, word, by):
    result = renamed(mark(old, new), by)
    if word is not None:
        assert result == re.sub(word, by, TEXT)
    assert result != TEXT and renamed_keeps_the_program(result)


def renamed_keeps_the_program(text: str) -> bool:
    analysis = Analysis(text, "/models/main.net", {"/models/blocks.net": BLOCKS}.get)
    return analysis.inspection.diagnostics == () and analysis.inspection.model is not None


def test_rename_reaches_files_that_import():
    analysis = Analysis(BLOCKS, "/models/blocks.net")
    other = Analysis(TEXT, "/models/main.net", {"/models/blocks.net": BLOCKS}.get)
    line = 4
    found = edits.rename(analysis, line, BLOCKS.split("\n")[3].index("units") + 1, "outputs", [other])
    assert {(Path(edit.path).name, edit.span.line) for edit in found} \
        == {("blocks.net", 4), ("blocks.net", 5), ("main.net", 27)}
    found = edits.rename(analysis, line, BLOCKS.split("\n")[3].index("Head") + 1, "Output", [other])
    assert {(Path(edit.path).name, edit.span.line) for edit in found} == {("blocks.net", 4), ("main.net", 27)}


@pytest.mark.parametrize("old, new, by, message", [
    ("|> Dense(width", "|> Den^se(width", "Layer", "belongs to the prelude"),
    ("range(depth)", "ra^nge(depth)", "span", "belongs to the language"),
    ("blocks.Head(u", "blocks.He^ad(u", "Tail", "belongs to another file"),
    ("    h = x\n", "    h^ = x\n", "if", "reserved"),
    ("    h = x\n", "    h^ = x\n", "2h", "not a name"),
    ("    h = x\n", "    h^ = x\n", "code", "already means something else"),
    ("    h = x\n", "    h^ = x\n", "relu", "already means something else"),
    ("const width", "const wid^th", "x", "already means something else"),
    ("T, 8]", "T^, 8]", "t", "capitalised"),
    ("along 1", "al^ong 1", "a", "no name here"),
])
def test_rename_refuses(old, new, by, message):
    with pytest.raises(edits.RenameError, match=message):
        renamed(mark(old, new), by)


def test_rename_refuses_a_text_that_does_not_parse():
    with pytest.raises(edits.RenameError, match="syntax errors"):
        renamed(mark("    h = x\n", "    h^ = x\n    y = = 1\n"), "hidden")


# ---- completion -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old, new, there, absent", [
    ("    code = h\n", "    code = ^\n", ["h", "x", "depth", "width", "twice", "Dense", "relu", "zeros", "blocks"],
     ["cell", "spread_", "if"]),
    ("    code = h\n", "    ^\n    code = h\n", ["param", "return", "scan", "h", "Dense"], ["loss", "model"]),
    ("    code = h\n", "    pa^\n    code = h\n", ["param"], []),
    ("Dense(width, relu)", "Dense(^)", ["units", "activation", "use_bias", "width"], []),
    ("Dense(width, relu)", "Dense(width, ^)", ["activation", "use_bias"], []),
    ("Dense(width, relu)", "Dense(units = width, ^)", ["activation", "relu"], ["units"]),
    ("blocks.Head(units = 3)", "blocks.^", ["Head"], ["Dense"]),
    ("blocks.Head(units = 3)", "blocks.Head(^)", ["units", "activation"], ["use_bias"]),
    ("Encoder(depth = 1)(h)", "Encoder(depth = 1)(^", ["x"], ["depth", "units"]),
    ("encoded.spread)", "encoded.^)", ["code", "spread"], ["Dense"]),
    ("mean(cell.bias)", "mean(cell.^)", ["kernel", "bias"], ["Dense"]),
    ("    optimizer = adam(lr = 1e-3)\n", "    ^\n", ["loss", "metric", "optimizer", "scores"], ["param", "return"]),
    ("    optimizer = adam(lr = 1e-3)\n", "    optimizer = ad^\n", ["adam"], ["loss "]),
    ("train Reader:", "train ^:", ["Reader", "Encoder"], ["Dense"]),
    ("input label: i32[N]", "input label: ^", ["f32", "i32", "bool"], ["Dense"]),
    ("model Encoder(depth: int", "model Encoder(depth: ^", ["int", "float"], ["Dense"]),
    ("const width = 16", "^\nconst width = 16", ["model", "def", "train", "import"], ["param"]),
    ("# Twice x.", "# Tw^ice x.", [], ["Dense", "twice"]),
    ("got {depth}\"", "got ^{depth}\"", [], ["Dense"]),
    ("const width = 16", "const ^", [], ["Dense", "width"]),
])
def test_completion(old, new, there, absent):
    before = Analysis(TEXT, "/models/main.net", {"/models/blocks.net": BLOCKS}.get)
    assert before.inspection.model is not None
    labels = [item.label for item in complete(*open_(mark(old, new), before))]
    assert set(there) <= set(labels), set(there) - set(labels)
    assert not set(absent) & set(labels)
    assert len(labels) == len(set(labels))


def test_completion_says_what_things_are():
    found = {item.label: item for item in complete(*open_(mark("Dense(width, relu)", "Dense(^)")))}
    assert found["use_bias"].detail == "use_bias = true" and found["use_bias"].insert == "use_bias = " \
        and found["use_bias"].group == 0
    assert found["width"].detail == "16" and found["concat"].detail.startswith("concat(*")
    analysis = open_(mark("Dense(width, relu)", "Dense(^)"))[0]
    assert resolve(analysis, "LSTM")[0].startswith("model LSTM(units: int") and "1997" in resolve(analysis, "LSTM")[1]
    assert resolve(analysis, "nothing") == (None, None)


def test_completion_of_an_import(tmp_path):
    (tmp_path / "below").mkdir()
    for name in ("main.net", "blocks.net", "below/more.net"):
        (tmp_path / name).write_text(BLOCKS)
    text, line, column = at('net 1\nimport "^')
    assert [item.label for item in complete(Analysis(text, str(tmp_path / "main.net")), line,
                                            column)] == ["below/more.net", "blocks.net"]


def test_completion_of_an_empty_text():
    assert next(iter(complete(Analysis("", "/models/main.net"), 1, 1))).label == "net"


# ---- the outline and fixes ------------------------------------------------------------------------------------------


def test_outline():
    entries = edits.outline(parse(TEXT))
    assert [(entry.name, entry.kind) for entry in entries] == [
        ("blocks", "import"), ("width", "const"), ("twice", "function"), ("Encoder", "model"), ("Reader", "model"),
        ("train Reader", "train")]
    assert [(child.name, child.kind, child.detail) for child in entries[-1].children] == [
        ("label", "target", "i32[N]"), ("scores", "loss", ""), ("bias", "metric", "")]
    layers = edits.outline(parse((ROOT / "grammar" / "prelude" / "layers.net").read_text(encoding="utf-8")))
    assert ["kernel", "bias"] in [[child.name for child in layer.children] for layer in layers if layer.name == "Dense"]


@pytest.mark.parametrize("old, new, fix", [
    ("relu)", "rely)", "relu"), ("adam(lr", "adam(learning_rate", "lr"),
    ("Encoder(depth = 1)", "Encodr(depth = 1)", "Encoder"),
    ("    last = hs", "    spare = x\n    last = hs", None)])
def test_fixes(old, new, fix):
    found = Analysis(mark(old, new), "/models/main.net", {"/models/blocks.net": BLOCKS}.get).inspection.diagnostics
    assert [text for item in found for _, text in edits.fixes(item)][:1] == ([fix] if fix else [])
