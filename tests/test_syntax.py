"""The grammar, the tree, and what is said of text that is not in the language."""

import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from netc.compiler import syntax as ast, tables as tables_module
from netc.compiler.diagnostics import TITLES, Diagnostic, Diagnostics, Source, Span, nearest
from netc.compiler.parser import MAX_ERRORS
from netc.compiler.syntax import parse
from netc.compiler.tables import GRAMMAR, load_grammar, tables

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
MODEL = "net 1\nmodel M(x: f32[N]):\n"


def show(node) -> str:
    """A node as text: fully bracketed, without places."""
    match node:
        case ast.Number() | ast.Boolean() | ast.String():
            return repr(node.value)
        case ast.Name():
            return node.name
        case ast.NoneValue():
            return "none"
        case ast.Ellipsis():
            return "..."
        case ast.Unary():
            return f"({node.op} {show(node.operand)})"
        case ast.Binary() | ast.Compare():
            return f"({show(node.left)} {node.op} {show(node.right)})"
        case ast.BoolOp():
            return "(" + f" {node.op} ".join(map(show, node.operands)) + ")"
        case ast.Conditional():
            return f"({show(node.then)} if {show(node.condition)} else {show(node.otherwise)})"
        case ast.Pipe():
            return "(" + " |> ".join(map(show, (node.value, *node.stages))) + ")"
        case ast.Tuple():
            return "<" + ", ".join(map(show, node.items)) + ">"
        case ast.Starred():
            return "*" + show(node.value)
        case ast.Call():
            named = [f"{item.name}={show(item.value)}" for item in node.kwargs]
            return f"{show(node.callee)}({', '.join([*map(show, node.args), *named])})"
        case ast.Slice():
            start, stop, step = ("" if part is None else show(part) for part in (node.start, node.stop, node.step))
            return f"{start}:{stop}" + (f":{step}" if step else "")
        case ast.Index():
            return f"{show(node.value)}[{', '.join(map(show, node.items))}]"
        case ast.Attribute():
            return f"{show(node.value)}.{node.name}"
    raise AssertionError(node)


def expression(text: str):
    return parse(f"net 1\nconst k = {text}\n").consts[0].value


def body(text: str) -> tuple:
    """The statements of a model with this body."""
    return parse(MODEL + "".join(f"    {line}\n" for line in text.splitlines())).models[0].body


def errors(text: str | bytes) -> list[Diagnostic]:
    with pytest.raises(Diagnostics) as caught:
        parse(text, "m.net")
    assert "Traceback" not in caught.value.render()
    return caught.value.items


def only(text: str | bytes) -> Diagnostic:
    found = errors(text)
    assert len(found) == 1, "\n\n".join(item.render() for item in found)
    return found[0]


# ---- the grammar -----------------------------------------------------------------------------------------------------


def test_grammar_is_lalr_without_conflicts_or_colliding_terminals():
    pytest.importorskip("interegular")
    load_grammar(strict=True)


def test_every_keyword_ends_at_a_word_boundary():
    words = re.findall(r"^(\w+)\.1: /(.*)/$", GRAMMAR.read_text(), re.MULTILINE)
    assert len(words) > 25
    assert all(pattern.endswith("(?![A-Za-z0-9_])") for _, pattern in words)


def test_grammar_is_built_once():
    assert tables() is tables()


def test_the_tables_are_those_of_the_grammar():
    """After an edit of the grammar: python -m netc.compiler.tables"""
    assert tables_module.tables.__wrapped__() == tables_module.make_tables()
    assert json.loads(tables_module.MADE.read_text(encoding="utf-8"))["grammar"] == tables_module._identity()


def test_the_tables_are_written_the_same_on_every_run(tmp_path):
    code = ("import sys\nfrom pathlib import Path\nfrom netc.compiler import tables\n"
            "tables.MADE = Path(sys.argv[1])\ntables.write_tables()\n")
    for seed in ("1", "2"):
        subprocess.run([sys.executable, "-c", code, tmp_path / seed], check=True,
                       env=os.environ | {"PYTHONHASHSEED": seed})
        assert (tmp_path / seed).read_bytes() == tables_module.MADE.read_bytes().replace(b"\r\n", b"\n")


def test_tables_of_another_grammar_are_not_used(monkeypatch, tmp_path):
    edited = tmp_path / "net.lark"
    edited.write_text(GRAMMAR.read_text(encoding="utf-8").replace("collecting", "gathering"), encoding="utf-8")
    monkeypatch.setattr(tables_module, "GRAMMAR", edited)
    assert "gathering" in tables_module.tables.__wrapped__().pattern


def test_lark_is_imported_only_to_make_the_tables():
    importing = [path.name for path in (ROOT / "compiler").rglob("*.py")
                 if re.search(r"^\s*(import|from) lark", path.read_text(encoding="utf-8"), re.MULTILINE)]
    assert importing == ["tables.py"]


def test_programs_of_the_design():
    file = parse((HERE / "syntax" / "language.net").read_bytes(), "language.net")
    assert (len(file.models), len(file.trains), len(file.defs)) == (14, 3, 1)


@pytest.mark.parametrize("path", sorted((ROOT / "grammar" / "prelude").glob("*.net")), ids=lambda path: path.stem)
def test_prelude_parses(path):
    parse(path.read_bytes(), path.name)


# ---- expressions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text, expected", [
    ("1 + 2 * 3", "(1 + (2 * 3))"),
    ("a - b - c", "((a - b) - c)"),
    ("a @ b * c // d % e / f", "(((((a @ b) * c) // d) % e) / f)"),
    ("-a ** -b ** c", "(- (a ** (- (b ** c))))"),
    ("-x + +y", "((- x) + (+ y))"),
    ("2 ** 3 ** 2", "(2 ** (3 ** 2))"),
    ("not a == b and c or d", "(((not (a == b)) and c) or d)"),
    ("a and b and c", "(a and b and c)"),
    ("a + 1 < b * 2", "((a + 1) < (b * 2))"),
    ("a if b else c if d else e", "(a if b else (c if d else e))"),
    ("x |> f |> g(1)", "(x |> f |> g(1))"),
    ("x + y |> f", "((x + y) |> f)"),
    ("x |> f if c else x |> g", "((x |> f) if c else (x |> g))"),
    ("(x |> f) + x", "((x |> f) + x)"),
    ("x |> (f if c else g)", "(x |> (f if c else g))"),
    ("f(1, *s, a = 2, b = x |> g,)", "f(1, *s, a=2, b=(x |> g))"),
    ("blocks.Dense(10)(x)", "blocks.Dense(10)(x)"),
    ("x[:, -1]", "x[:, (- 1)]"),
    ("x[..., None]", "x[..., none]"),
    ("x[1:n:2, ::2, 3:, :4][0]", "x[1:n:2, ::2, 3:, :4][0]"),
    ("(1, 2)", "<1, 2>"),
    ("1, 2", "<1, 2>"),
    ("(1,)", "<1>"),
    ("()", "<>"),
    ("((1))", "1"),
    ("(1, (2, 3), *r)", "<1, <2, 3>, *r>"),
    ("true, false, none, None", "<True, False, none, none>"),
    ('"a\\n\\"b\\\\"', repr('a\n"b\\')),
    ("10_000, 1e-3, .5, 2., 1_0.5e+1_0", f"<10000, 0.001, 0.5, 2.0, {10.5e10!r}>"),
    ("007", "7"),
])
def test_expressions(text, expected):
    assert show(expression(text)) == expected


def test_numbers_keep_their_kind():
    items = expression("1, 1.0, 9223372036854775807").items
    assert [type(item.value) for item in items] == [int, float, int]
    assert items[2].value == 2**63 - 1


def test_dump():
    assert ast.dump(parse("net 1\nconst k = f(1, a = x)\n", "a.net").consts[0]).splitlines() == [
        "Const 2:1 name='k' annotation=None", "  value: Call 2:11", "    callee: Name 2:11 name='f'",
        "    args: Number 2:13 value=1",
        "    kwargs: KeywordArgument 2:16 name='a'", "      value: Name 2:20 name='x'"]


def test_two_equal_calls_are_two_nodes():
    first, second = expression("f(1), f(1)").items
    assert first != second and len({first, second}) == 2


# ---- statements and definitions --------------------------------------------------------------------------------------


def test_statements():
    statements = body(
        "param kernel: f32[K, 2 * units] = init(3)\nstate step: i32\npenalty -l2 * x\npenalty(x)\nassert n > 0, \"n is "
        "{n}\"\n"
        "a, b = split(x, 2)\n(c, d) = a, b\ny = x\n"
        "for i, j in pairs:\n    x = y\n"
        "return a, b")
    kinds = [type(item) for item in statements]
    assert kinds == [ast.Param, ast.State, ast.Penalty, ast.Penalty, ast.Assert, ast.Assign, ast.Assign, ast.Assign,
                     ast.For, ast.Return]
    param, state = statements[:2]
    assert (param.annotation.name, [show(dim) for dim in param.annotation.dims],
            show(param.initial)) == ("f32", ["K", "(2 * units)"], "init(3)")
    assert (state.annotation.dims, state.annotation.bracketed, state.initial) == ((), False, None)
    assert statements[4].message == "n is {n}"
    assert [target.name for target in statements[6].targets] == ["c", "d"] and statements[6].unpack
    assert not statements[7].unpack
    assert show(statements[-1].value) == "<a, b>"


def test_if_chain_nests():
    (chain,) = body("if a:\n    x = 1\nelif b:\n    x = 2\nelse:\n    x = 3")
    assert isinstance(chain, ast.If) and isinstance(chain.otherwise[0], ast.If)
    assert show(chain.otherwise[0].otherwise[0].value) == "3"
    assert (chain.otherwise[0].span.line, chain.otherwise[0].span.column) == (5, 5)


def test_scan():
    (scan,) = body("scan z in x @ k, w in y along 1 reversed carrying h = zeros(N, u), c = h collecting h as hs, c:\n "
                   "   h = z")
    assert [(source.name, show(source.value)) for source in scan.sources] == [("z", "(x @ k)"), ("w", "y")]
    assert show(scan.axis) == "1" and scan.reversed
    assert [(carry.name, show(carry.initial)) for carry in scan.carries] == [("h", "zeros(N, u)"), ("c", "h")]
    assert [(collect.value, collect.name) for collect in scan.collects] == [("h", "hs"), ("c", "c")]
    (plain,) = body("scan z in x along 0:\n    h = z")
    assert (plain.reversed, plain.carries, plain.collects) == (False, (), ())


def test_scan_head_over_several_rows():
    (scan,) = body("scan z in x along 1\n        carrying h = 0\n        collecting h as hs:\n    h = z")
    assert len(scan.carries) == len(scan.collects) == 1


def test_signatures():
    file = parse(
        "net 1\n"
        "model A(x: f32[..., K]) -> f32[..., 2]:\n    return x\n"
        "model B(n: int, b: (int, int), act = relu, *rest: int)\n       (x, mask: bool[N] = none)\n       -> (p: "
        "f32[N], q: f32[]):\n    p = x\n"
        "model C()(x: f32):\n    return x\n"
        "model D(x: f32) -> (f32[N], i32):\n    return x\n")
    a, b, c, d = file.models
    assert (a.settings, len(a.inputs), a.outputs, a.result.name) == ((), 1, None, "f32")
    assert isinstance(a.inputs[0].annotation.dims[0], ast.Ellipsis)
    assert [parameter.name for parameter in b.settings] == ["n", "b", "act", "rest"]
    assert [parameter.variadic for parameter in b.settings] == [False, False, False, True]
    assert isinstance(b.settings[1].annotation, ast.TupleAnnotation)
    assert [parameter.name for parameter in b.outputs] == ["p", "q"] and b.result is None
    assert b.outputs[1].annotation.bracketed and isinstance(b.inputs[1].default, ast.NoneValue)
    assert (b.header.line, b.header.end_line) == (4, 6)
    assert c.settings == () and len(c.inputs) == 1 and c.outputs is None and c.result is None
    assert isinstance(d.result, ast.TupleAnnotation) and d.outputs is None


def test_functions_and_their_gradients():
    file = parse(
        "net 1\n"
        "def f(x, a = 1.0) = x, a\n"
        "def g(x) = exp(x)\n    gradient(dy) = dy * exp(x)\n"
        "def h(x):\n    y = x\n    return y\n    gradient(dy) = (dy,)\n")
    f, g, h = file.defs
    assert show(f.body) == "<x, a>" and f.gradient is None
    assert g.gradient.parameter == "dy" and show(g.gradient.value) == "(dy * exp(x))"
    assert len(h.body) == 2 and show(h.gradient.value) == "<dy>"


def test_file():
    file = parse('net 1\nimport "lib/blocks.net" as blocks\nconst K: int = 3\nmodel M(x: f32):\n    return x\n'
                 "train M:\n    input t: f32[N]\n    loss a = t\n    metric b = t\n    if K == 3:\n        optimizer = "
                 "adam()\n", "f.net")
    assert (file.version.number, file.imports[0].path, file.imports[0].name) == (1, "lib/blocks.net", "blocks")
    assert (file.consts[0].name, file.consts[0].annotation.name) == ("K", "int")
    assert [type(item).__name__ for item in file.items] == ["Import", "Const", "Model", "Train"]
    train = file.trains[0]
    assert [type(item) for item in train.body] == [ast.Input, ast.Loss, ast.Metric, ast.If]
    assert isinstance(train.body[3].then[0], ast.Optimizer)


@pytest.mark.parametrize("word", ["net", "model", "state", "loss", "input", "metric", "param", "train", "const", "scan",
                                  "along", "reversed"])
def test_words_of_declarations_are_names_elsewhere(word):
    assign, other = body(f"{word} = f({word}, {word} = x[{word}])\ny, {word} = {word}, {word}")
    assert assign.targets[0].name == other.targets[1].name == word
    parse(f"net 1\nmodel M({word}: f32[N]) -> ({word}: f32[N]):\n    x = {word}\n")


# ---- layout ----------------------------------------------------------------------------------------------------------


def test_line_breaks_inside_brackets_and_before_pipes():
    (statement,) = body("return (x\n+ 1)\n\n  # a comment between\n|> f(\n1,\n  2)\n      |> g")
    assert show(statement.value) == "((x + 1) |> f(1, 2) |> g)"


def test_line_ends_and_byte_order_mark():
    text = "net 1\n# c\n\nmodel M(x: f32):\n\n    y = x  # c\n\n  # odd comment\n    return y"
    for variant in (text, text.replace("\n", "\r\n"), text.replace("\n", "\r"), "\ufeff" + text, text + "\n\n   "):
        assert len(parse(variant.encode()).models[0].body) == 2


def test_blocks_close_at_the_end_of_the_text():
    (chain,) = body("if a:\n    for i in b:\n        if c:\n            x = 1")
    assert isinstance(chain.then[0].body[0], ast.If)


# ---- places ----------------------------------------------------------------------------------------------------------


def walk(node):
    stack = [node]
    while stack:
        node = stack.pop()
        yield node
        for field in fields(node):
            value = getattr(node, field.name)
            stack += [item for item in (value if isinstance(value, tuple) else (value,)) if isinstance(item, ast.Node)]


def test_every_node_spans_its_text():
    source = (HERE / "syntax" / "language.net").read_text()
    file = parse(source, "language.net")
    nodes = list(walk(file))
    assert len(nodes) > 800
    for node in nodes:
        span = node.span
        assert (span.line, span.column) < (span.end_line, span.end_column), node
        if isinstance(node, (ast.Name, ast.Target)):
            assert span.text == node.name
        if hasattr(node, "name_span"):
            assert node.name_span.text == (node.model if isinstance(node, ast.Train) else node.name)
        if isinstance(node, (ast.Binary, ast.Compare)):
            assert node.op_span.text == node.op
            assert node.left.span.line <= node.op_span.line <= node.right.span.line


def test_spans_include_brackets_of_tuples_and_calls():
    call = expression("f( (1, 2) , g(3) )")
    assert call.span.text == "f( (1, 2) , g(3) )"
    assert [item.span.text for item in call.args] == ["(1, 2)", "g(3)"]
    assert expression("x[1:, None]").span.text == "x[1:, None]"


# ---- traps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text, word", [("modelx()\n", "model"), ("constk = 1\n", "const"),
                                        ("trainM:\n    loss a = 1\n", "train"), ("defx(x) = 1\n", "def")])
def test_a_keyword_needs_a_boundary(text, word):
    found = only("net 1\n" + text)
    assert found.code == "E0120" and found.hint == f"did you mean `{word}`?"


@pytest.mark.parametrize("text", ["ifx = 1", "notx = 1", "inx = orx", "returny = 1", "x = truef", "statey = 1",
                                  "penaltyx = 1"])
def test_names_may_begin_with_a_keyword(text):
    assert isinstance(body(text)[0], ast.Assign)


@pytest.mark.parametrize("deep", [
    "-" * 3000 + "x", "not " * 3000 + "x", "(" * 3000 + "x" + ")" * 3000, "+".join(["x"] * 3000),
    "**".join(["x"] * 3000),
    "f" + "(1)" * 3000, "x" + "[0]" * 3000, "x" + ".a" * 3000, "a if b else " * 3000 + "x",
    "f(" * 3000 + "x" + ")" * 3000,
], ids=["minus", "not", "brackets", "sum", "power", "calls", "index", "members", "choices", "nested calls"])
def test_deep_expressions(deep):
    assert only(MODEL + f"    y = {deep}\n").code == "E0801"


def test_deep_statements():
    assert only(MODEL + "    if x:\n        y = 1\n" + "    elif x:\n        y = 1\n" * 3000).code == "E0801"
    blocks = "".join(" " * (4 + i) + "if x:\n" for i in range(1000))
    assert only(MODEL + blocks + " " * 1004 + "y = 1\n").code == "E0801"


def test_long_but_flat_is_fine():
    assert len(expression("x" + " |> f" * 2000).stages) == 2000
    assert len(expression("(" + "1, " * 2000 + ")").items) == 2000
    assert len(body("\n".join(f"y{i} = {i}" for i in range(1000)))) == 1000


def test_depth_that_is_allowed():
    assert show(expression("-" * 150 + "x")).count("-") == 150
    assert show(expression("(" * 150 + "x" + ")" * 150)) == "x"


# ---- hostile text ----------------------------------------------------------------------------------------------------


def test_text_that_is_no_text():
    found = only(b"net 1\n# \xff")
    assert (found.code, found.span.line, found.span.column, found.found) == ("E0116", 2, 3, "the byte 0xff")
    found = only("net 1\nconst a = 1\0")
    assert (found.code, found.span.line, found.span.column) == ("E0116", 2, 12)
    assert only("net 1\n#" + "a" * 4_000_000).code == "E0803"


@pytest.mark.parametrize("text, code", [
    ("9" * 5000, "E0802"), ("9223372036854775808", "E0802"), ("1e999", "E0802"), ("1e-999", "E0802"),
    ("1" + "0" * 400 + ".0", "E0802"),
    ("0x10", "E0108"), ("1__0", "E0108"), ("10_", "E0108"), ("3abc", "E0108"), ("1e", "E0108"),
    ('"abc', "E0109"), ('"abc\\', "E0109"), ('"a\\q"', "E0109"),
    ("'a'", "E0107"), ("a && b", "E0107"), ("!a", "E0107"), ("{}", "E0107"), ("1 \u2212 2", "E0107"),
    ("\u03b1", "E0107"), ("a; b", "E0107"),
])
def test_malformed_tokens(text, code):
    assert only(f"net 1\nconst k = {text}\n").code == code


def test_zero_is_not_too_small():
    assert [item.value for item in expression("0.0, 0e5, 0e-999").items] == [0.0, 0.0, 0.0]


# ---- messages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line, code, column, hint", [
    ("if x = 3:", "E0114", 10, "to compare write `==`"),
    ("return x = 3", "E0114", 14, "to compare write `==`"),
    ("a < b < c", "E0117", 11, "write `a < b and b < c`"),
    ("y == 3", "E0111", 5, "a name is bound with `=`"),
    ("y += 2", "E0101", 7, "write `y = y + ...`"),
    ("y = a = 3", "E0101", 11, "to compare write `==`"),
    ("y := 3", "E0101", 7, "a name is bound with `=`"),
    ("f(x) = 3", "E0110", 5, "def name"),
    ("x[0] = 3", "E0110", 5, "`where`"),
    ("3 = x", "E0110", 5, "`==`"),
    ("retrun x", "E0120", 5, "did you mean `return`?"),
    ("parm k: f32[N] = zeros", "E0120", 5, "did you mean `param`?"),
    ("while x:", "E0120", 5, "range"),
    ("let y = 3", "E0120", 5, "name = value"),
    ("elif x:", "E0120", 5, "its `if`"),
    ("def f(x) = 3", "E0120", 5, "top level"),
    ("model K(x: f32):", "E0120", 5, "top level"),
    ("else if x:", "E0120", 5, "its `if`"),
    ("y: f32[N] = 3", "E0120", 6, "param y"),
    ("param k = zeros", "E0101", 13, "param k: f32[N]"),
    ("if = 3", "E0115", 5, "another name"),
    ("for if in y:", "E0115", 9, "another name"),
    ("y = f(a, if = 3)", "E0115", 14, "another name"),
    ("y = f(a b)", "E0101", 13, "a comma is missing"),
    ("y = a b", "E0101", 11, "an operator is missing"),
    ("y = [1, 2]", "E0101", 9, "round brackets"),
    ("y = x |> f + 3", "E0101", 16, "(x |> f) + y"),
    ("y = x |>", "E0101", 13, "start of the next line"),
    ("y = x +", "E0101", 12, "inside brackets"),
    ("y = x if a", "E0101", 15, "else"),
    ("y = f(a, k = 2, c)", "E0113", 21, "come first"),
    ("y = f(k = 1, k = 2)", "E0112", 18, None),
    ("y = *x", "E0101", 9, "(*values,)"),
    ("y = x[]", "E0118", 9, None),
    ("y = x[..., ...]", "E0118", 16, None),
    ("y = f(x]", "E0105", 12, None),
    ("y = x)", "E0105", 10, None),
    ("y = (x", "E0105", 9, None),
    ("input t: f32[N]", "E0501", 5, "signature"),
    ("loss a = 3", "E0501", 5, "train"),
    ("gradient(dy) = 3", "E0506", 5, "def"),
    ("scan z in x along 1 carrying h = 1, h = 2:", "E0101", None, None),
])
def test_messages_of_a_line(line, code, column, hint):
    found = errors(MODEL + f"    {line}\n")[0]
    if column is None:
        found = errors(MODEL + f"    {line}\n        h = z\n")[0]
        code = "E0505"
    assert found.code == code, found.render()
    if column is not None:
        assert (found.span.line, found.span.column) == (3, column), found.render()
    if hint is not None:
        assert hint in (found.hint or ""), found.render()


@pytest.mark.parametrize("text, code, part", [
    ("", "E0102", "`net 1`"),
    ("# only this", "E0102", "`net 1`"),
    ("const a = 1\n", "E0102", "`net 1`"),
    ("net 2\n", "E0103", "unknown version 2"),
    ("net 1.0\n", "E0103", "unknown version 1.0"),
    ("net one\n", "E0103", "name `one`"),
    ("net 1\nnet 1\n", "E0120", "given once"),
    ("net 1\nx = 3\n", "E0120", "const NAME"),
    ("net 1\n    const a = 3\n", "E0106", "unexpected indentation"),
    ("net 1\nmodle M(x: f32):\n    return x\n", "E0120", "did you mean `model`?"),
    ("net 1\ndfe f(x) = x\n", "E0120", "did you mean `def`?"),
    ("net 1\nclass M:\n    return 3\n", "E0120", "model Name"),
    ("net 1\nloss a = 3\n", "E0120", "`train`"),
    ("net 1\nmodel M(x: f32)\n    return x\n", "E0104", "`:` is missing at the end of the `model` line"),
    ("net 1\ntrain M\n    loss a = x\n", "E0104", "`train` line"),
    ("net 1\ndef f(x)\n", "E0104", "`=` and an expression"),
    ("net 1\ndef f(x) -> f32 = x\n", "E0101", "no result type"),
    ("net 1\nmodel M:\n    return x\n", "E0101", "inputs of `M` are missing"),
    ("net 1\nmodel M(x: f32): return x\n", "E0106", "next line"),
    ("net 1\nmodel M(x: f32):\n", "E0106", "indented block"),
    ("net 1\nmodel M(x: f32):\nconst a = 3\n", "E0106", "indented block"),
    ("net 1\nmodel M(x: f32):\n    y = 1\n      z = 2\n    w = 3\n", "E0106", "unexpected indentation"),
    ("net 1\nmodel M(x: f32):\n    y = 1\n  z = 2\n  w = 3\n", "E0106", "matches no block"),
    ("net 1\nmodel M(x: f32):\n\ty = 1\n\tz = 2\n", "E0106", "spaces only"),
    ("net 1\nimport a\n", "E0101", "in quotes"),
    ('net 1\nimport "a.net"\n', "E0101", "`as`"),
    ("net 1\ndef f(x, x) = x\n", "E0119", "stands twice"),
    ("net 1\ndef f(x = 1, y) = x\n", "E0119", "has no default"),
    ("net 1\nmodel M(n: int)(n: f32):\n    return n\n", "E0119", "a setting and an input"),
    ("net 1\nmodel M(x: f32) -> (a: f32, a: f32):\n    a = x\n", "E0119", "stands twice"),
    ("net 1\ndef f(x):\n    param w: f32 = x\n    return x\n", "E0501", "a def"),
    ("net 1\ndef f(x) = x\n    y = 3\n", "E0506", "only its gradient"),
    ("net 1\ndef f(x) = x\n    gradient(a, b) = 3\n", "E0506", "one parameter"),
    ("net 1\ntrain M:\n    loss = 3\n", "E0606", "`loss name = ...`"),
    ("net 1\ntrain M:\n    loss (x)\n", "E0606", "`loss name = ...`"),
    ("net 1\ntrain M:\n    return 3\n", "E0601", "train block"),
])
def test_messages_of_a_file(text, code, part):
    found = only(text)
    assert found.code == code and part in found.render(), found.render()


def test_rendered_message():
    found = only(MODEL + "    y = f(x], 2)\n    return y\n")
    assert found.render() == (
        "m.net:3:12: error[E0105]: `]` cannot close `(`\n"
        "  3 |     y = f(x], 2)\n"
        "    |            ^\n"
        "  expected: `)`\n"
        "  found: `]`\n"
        "  m.net:3:10: opened here\n"
        "  3 |     y = f(x], 2)\n"
        "    |          ^")


# ---- recovery --------------------------------------------------------------------------------------------------------


def test_independent_errors_are_reported_together():
    found = errors(
        "net 1\n"
        "const a = = 3\n"
        "modle First(x: f32[N]):\n"
        "    y = x +\n"
        "    return y\n"
        "model Second(x: f32[N])\n"
        "    if x = 3:\n"
        "        y = (1, 2\n"
        "        z = [3]\n"
        "    elseif y:\n"
        "        y = 4\n"
        "    return y\n"
        "trian Second:\n"
        "    loss a = y y\n"
        "    metric b = y\n")
    assert [item.span.line for item in found] == [2, 3, 4, 6, 7, 8, 9, 10, 13, 14]


@pytest.mark.parametrize("following", ["z = g(y)", "return y", "param k: f32[N] = zeros", "for i in y:\n        y = 1",
                                       "if y:\n        y = 1"])
def test_an_unclosed_bracket_ends_with_its_statement(following):
    found = errors(MODEL + f"    y = f(x, (1, 2)\n    {following}\n    q = r s\n")
    assert [(item.code, item.span.line, item.span.column) for item in found] \
        == [("E0105", 3, 10), ("E0101", 5 + following.count("\n"), 11)]


def test_an_unclosed_bracket_ends_before_the_next_definition():
    found = errors("net 1\nconst a = f(\n\nmodel B(x: f32):\n    return x x\n")
    assert [(item.code, item.span.line) for item in found] == [("E0105", 2), ("E0101", 5)]


def test_a_comma_that_is_missing_in_a_deeper_row_is_no_unclosed_bracket():
    found = only(MODEL + "    y = f(x\n          z = 3)\n    return y\n")
    assert (found.code, found.span.line, found.hint) == ("E0101", 4, "a comma is missing")


def test_no_error_is_reported_twice():
    found = errors(MODEL + "    loss a = 3\n" + "    y = x x\n" * 5)
    assert [item.code for item in found] == ["E0501"] + ["E0101"] * 5


def test_many_errors_are_cut():
    found = errors(MODEL + "    y = x x\n" * 500)
    assert len(found) == MAX_ERRORS + 1 and found[-1].code == "E0804"


# ---- diagnostics -----------------------------------------------------------------------------------------------------


def test_every_code_that_the_compiler_uses_has_a_title():
    for path in (ROOT / "compiler").rglob("*.py"):
        used = set(re.findall(r"\"(E0\d{3})\"", path.read_text()))
        assert used <= set(TITLES), (path.name, used - set(TITLES))


def test_excerpt_with_tabs_wide_and_long_lines():
    source = Source("a.net", "\tx = \u6f22\u5b57 + y\n" + "x" * 500 + "\x1b[31m")
    rendered = Diagnostic("E0101", "m", Span(source, 1, 9, 1, 10)).render().splitlines()
    assert rendered[1:] == ["  1 |     x = \u6f22\u5b57 + y", "    | " + " " * 13 + "^"]
    rendered = Diagnostic("E0101", "m", Span(source, 1, 6, 1, 8)).render().splitlines()
    assert rendered[2] == "    | " + " " * 8 + "^^^^"
    shown, carets = Diagnostic("E0101", "m", Span(source, 2, 501, 2, 502)).render().splitlines()[1:]
    assert len(shown) < 150 and "\x1b" not in shown and shown[carets.index("^")] == "\ufffd"


def test_render_with_everything():
    source = Source("a.net", "x = unit\n")
    span = Span(source, 1, 5, 1, 9)
    found = Diagnostic("E0201", "unknown name `unit`", span, expected="a", found="b", notes=("n",),
                       hint="did you mean `units`?")
    found = found.within("Dense", span).within("Main", None)
    assert found.render().splitlines() == [
        "a.net:1:5: error[E0201]: unknown name `unit`", "  1 | x = unit", "    |     ^^^^", "  expected: a",
        "  found: b", "  note: n",
        "  in model Dense, called from a.net:1:5", "  in model Main", "  hint: did you mean `units`?"]
    assert str(Diagnostics(found)) == found.render()
    assert len(Diagnostics([found, Diagnostic("E0205", "m", severity="warning")]).errors) == 1


@pytest.mark.parametrize("name, expected", [
    ("unit", "units"), ("untis", "units"), ("dense", "Dense"), ("strid", "strides"), ("qqq", None), ("x", None),
    ("Dense", None),
])
def test_nearest(name, expected):
    assert nearest(name, ["units", "Dense", "strides"]) == expected
