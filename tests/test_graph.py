"""The graph: interning, traversals, text that reads back, the interpreter, and what the verifier refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest

from netc.compiler import ops
from netc.compiler.interpret import interpret
from netc.compiler.ir import Graph, Node, node, substitute, topological, users
from netc.compiler.text import TextError, format_graph, format_size, parse_graph
from netc.compiler.types import Dim, TypeRuleError, boolean, f32, f64, i32, i64
from netc.compiler.verify import VerifyError, verify

N, T = Dim.symbol("N"), Dim.symbol("T")


def running_sum(reverse=False):
    """A scan over [T, 3] that carries the sum so far, scaled by an invariant, and stores it at each step."""
    total, x, scale = ops.local(0, f64, (3,)), ops.local(1, f64, (3,)), ops.local(2, f64, (3,))
    after = ops.add(ops.mul(total, scale), x)
    body = Graph((total, x, scale), {"0": after, "1": ops.tanh(after)})
    start, xs, by = ops.input("start", f64, (3,)), ops.input("xs", f64, (T, 3)), ops.input("by", f64, (3,))
    loop = ops.scan([start], [xs], [by], body, T, reverse)
    return Graph((start, xs, by), {"last": ops.item(loop, 0), "all": ops.item(loop, 1)})


def marked():
    """A value with a gradient rule of its own."""
    x, g = ops.local(0, f64, (N,)), ops.local(1, f64, (N,))
    rule = Graph((x, g), {"0": ops.mul(g, ops.sigmoid(x))})
    a = ops.input("a", f64, (N,))
    return Graph((a,), {"y": ops.custom(ops.log1p(ops.exp(a)), [a], rule)})


def test_equal_nodes_are_the_same_object():
    x = ops.input("x", f32, (N, 3))
    assert ops.exp(x) is ops.exp(ops.input("x", f32, (N, 3)))
    assert ops.constant(0.0, f32) is not ops.constant(-0.0, f32)
    assert ops.constant(1.0, f32) is not ops.constant(1, i32)
    assert running_sum() == running_sum() and running_sum() != running_sum(reverse=True)


def test_a_graph_may_be_deeper_than_the_stack():
    x = ops.input("x", f64, ())
    y = x
    for _ in range(20_000):
        y = ops.neg(y)
    graph = Graph((x,), {"y": y})
    verify(graph)
    assert parse_graph(format_graph(graph)) == graph
    assert interpret(graph, {x: np.array(2.0)})["y"] == 2.0


def test_traversals():
    x, y = ops.input("x", f64, ()), ops.input("y", f64, ())
    total = ops.add(x, ops.mul(x, y))
    assert topological([total]) == [x, y, ops.mul(x, y), total]
    assert users([total])[x] == [ops.mul(x, y), total]
    assert substitute([total], {y: x}) == [ops.add(x, ops.mul(x, x))]


# --- text --------------------------------------------------------------------------------------------------------


def test_the_text_is_readable():
    x, w = ops.input("x", f32, (N, 64)), ops.param("dense.kernel", f32, (64, 10))
    h = ops.matmul(x, w)
    graph = Graph((x, w), {"y": ops.reduce(h, "max", (1,))})
    assert format_graph(graph, {h: "dense"}) == """\
graph(%0, %1) -> (y: %3) {
  %0 = input "x" : f32[N, 64]
  %1 = param "dense.kernel" : f32[64, 10]
  %2 = contract([i, j] = sum[k < 64] %0[i, k] * %1[k, j]) : f32[N, 10]  # dense
  %3 = reduce(%2; axes=[1], kind="max") : f32[N]
}"""


def test_a_loop_shows_its_body():
    assert format_graph(running_sum()) == """\
graph(%0, %1, %2) -> (last: %4, all: %5) {
  %0 = input "start" : f64[3]
  %1 = input "xs" : f64[T, 3]
  %2 = input "by" : f64[3]
  %3 = scan(%0, %1, %2; carries=1, length=T, reverse=false, xs=1, body=graph(%0, %1, %2) -> (0: %4, 1: %5) {
    %0 = local 0 : f64[3]
    %1 = local 1 : f64[3]
    %2 = local 2 : f64[3]
    %3 = mul(%0, %2) : f64[3]
    %4 = add(%3, %1) : f64[3]
    %5 = tanh(%4) : f64[3]
  }) : (f64[3], f64[T, 3])
  %4 = item(%3; index=0) : f64[3]
  %5 = item(%3; index=1) : f64[T, 3]
}"""


def strided_convolution():
    x, kernel = ops.input("x", f32, (N, N, 9, 3)), ops.param("k", f32, (3, 3, 3, 4))
    return Graph((x, kernel), {"y": ops.convolution(x, kernel, (2, 1), (1, 2), (1, 2), (N // 2, 9))})


def odd_names_and_values():
    x = ops.input('a "quoted"\nname', f32, (Dim.symbol("inf"), 2 * N * T - 3 * (N // 2), (N + 1) // 2))
    values = [ops.constant(value, f64) for value in (-0.0, math.inf, -math.inf, 1e-30, -1.5, math.nan)]
    values += [ops.constant(-7, i64), ops.constant(True, boolean), ops.size(2 * ((N + 1) // 3) * N, i32)]
    return Graph((x,), {"unused input": values[0], **{f"{k}": value for k, value in enumerate(values)}})


def crowded_indices():
    """Symbols with the names that indices get, and a coefficient that is a symbol."""
    i, k = Dim.symbol("i"), Dim.symbol("k")
    x = ops.input("x", f32, (i * k, 4))
    places = (ops.Index(((0, k), (2, 1))), ops.Index(((1, 2),), -1, 3))
    return Graph((x,), {"y": ops.contract([x], (i, 5), (k,), [places])})


@pytest.mark.parametrize("make", [running_sum, marked, strided_convolution, odd_names_and_values, crowded_indices])
def test_text_reads_back_to_the_identical_nodes(make):
    graph = make()
    text = format_graph(graph)
    back = parse_graph(text)
    assert back.inputs == graph.inputs and list(back.outputs) == list(graph.outputs)
    assert all(a is b for a, b in zip(back.results, graph.results))
    verify(graph)


@pytest.mark.parametrize("name", [name for name, record in ops.PRIMITIVES.items() if record.sample])
def test_every_primitive_reads_back(name):
    for sample in list(ops.PRIMITIVES[name].sample(np.random.default_rng(0)))[:6]:
        root = sample[0] if isinstance(sample, tuple) else sample
        roots = [root] if not isinstance(root.type, tuple) else [ops.item(root, k) for k in range(len(root.type))]
        leaves = [each for each in topological(roots) if each.op.name in ("input", "param", "state", "local")]
        graph = Graph(tuple(leaves), {str(k): each for k, each in enumerate(roots)})
        assert parse_graph(format_graph(graph)) == graph
        if not any(leaf.op.name == "local" for leaf in leaves):
            verify(graph)


def test_sizes_keep_their_floor_divisions():
    assert format_size(2 * (N // 2) + 1) == "2*((N)//2) + 1"
    assert format_size(-N + 4) == "-N + 4"


@pytest.mark.parametrize("text, message", [
    ("graph() -> (y: %0) {}", "line 1: %0 is not defined"),
    ("graph() -> () {\n %0 = nosuch() : f32[]\n}", "line 2: there is no primitive nosuch"),
    ("graph() -> () {\n\n %0 = constant 1.0 : f32[3]\n}", r"line 3: constant has the type f32\[\], not f32\[3\]"),
    ("graph() -> () {\n %0 = constant 1.0 : f32[]\n %0 = constant 1.0 : f32[]\n}", "line 3: %0 is defined twice"),
    ('graph() -> () {\n %0 = input "x" : f32[2]\n %1 = logical_not(%0) : bool[2]\n}', "line 3: logical_not"),
    ("graph() -> () {} extra", "line 1: expected end, found extra"),
    ("graph() -> () { ? }", "line 1: unexpected character"),
])
def test_bad_text_is_refused_with_its_line(text, message):
    with pytest.raises(TextError, match=message):
        parse_graph(text)


# --- interpreter -------------------------------------------------------------------------------------------------


def test_the_interpreter_runs_loops():
    graph = running_sum()
    start, xs, by = graph.inputs
    data = np.arange(12.0).reshape(4, 3)
    got = interpret(graph, {start: np.ones(3), xs: data, by: np.full(3, 0.5)})       # T comes from xs
    state, every = np.ones(3), []
    for row in data:
        state = state * 0.5 + row
        every.append(np.tanh(state))
    np.testing.assert_allclose(got["last"], state)
    np.testing.assert_allclose(got["all"], every)


def test_the_interpreter_checks_what_it_is_given():
    x = ops.input("x", f32, (N, 2))
    graph = Graph((x,), {"y": ops.neg(x)})
    with pytest.raises(ValueError, match="float64"):
        interpret(graph, {x: np.zeros((3, 2))})
    with pytest.raises(ValueError, match=r"expected float32\[4, 2\]"):
        interpret(graph, {x: np.zeros((3, 2), np.float32)}, {"N": 4})
    with pytest.raises(ValueError, match="no array was given"):
        interpret(graph, {}, {"N": 4})


# --- verifier ----------------------------------------------------------------------------------------------------


def test_leaves_must_be_listed_and_differ():
    x = ops.input("x", f32, (2,))
    with pytest.raises(VerifyError, match="%0 = input in the graph is not among the graph's inputs"):
        verify(Graph((), {"y": ops.neg(x)}))
    other = ops.input("x", f64, (2,))
    with pytest.raises(VerifyError, match="another input is called 'x'"):
        verify(Graph((x, other), {}))
    with pytest.raises(VerifyError, match="lists an input twice"):
        verify(Graph((x, x), {}))
    with pytest.raises(VerifyError, match="no leaf"):
        verify(Graph((x, ops.neg(x)), {}))
    with pytest.raises(VerifyError, match="belongs to bodies"):
        local = ops.local(0, f32, ())
        verify(Graph((local,), {"y": local}))


def test_a_node_must_carry_what_its_rule_gives():
    x = ops.input("x", f32, (2,))
    forged = object.__new__(Node)
    forged.op, forged.args, forged.attrs, forged.type = ops.exp(x).op, (x,), {}, ops.input("z", f32, (3,)).type
    with pytest.raises(VerifyError, match=r"%1 = exp in the graph carries the type f32\[3\]"):
        verify(Graph((x,), {"y": forged}))
    forged.attrs, forged.args = {}, (x, x)
    with pytest.raises(VerifyError, match="%1 = exp"):
        verify(Graph((x,), {"y": forged}))
    with pytest.raises(VerifyError, match="negative size"):
        bad = ops.input("bad", f32, (-N,))
        verify(Graph((bad,), {}))


def test_an_output_is_one_tensor():
    graph = running_sum()
    with pytest.raises(VerifyError, match="output 'y'"):
        verify(Graph(graph.inputs, {"y": graph.outputs["last"].args[0]}))


def test_bodies_are_closed():
    x, free = ops.local(0, f64, ()), ops.input("free", f64, ())
    with pytest.raises(TypeRuleError):
        ops.scan([ops.constant(0.0, f64)], [], [], Graph((x,), {"0": ops.add(x, free)}), 3)
    rule = Graph((ops.local(0, f64, ()), ops.local(1, f64, ())), {"0": ops.mul(ops.local(1, f64, ()), free)})
    y = node(ops.PRIMITIVES["custom"], (ops.exp(free), free), rule=rule)
    with pytest.raises(VerifyError, match=r"the rule of .* may only refer to its own arguments"):
        verify(Graph((free,), {"y": y}))
