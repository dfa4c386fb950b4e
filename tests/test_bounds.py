"""Indices: proved in range, asked of the caller, or clamped."""

from __future__ import annotations

import numpy as np
import pytest

import netc
from netc.compiler import ops
from netc.compiler.bounds import Range, bound_indices
from netc.compiler.interpret import interpret
from netc.compiler.ir import Graph
from netc.compiler.types import Dim, f32, i32, i64
from netc.compiler.verify import verify

N, V = Dim.symbol("N"), Dim.symbol("V")
TABLE = ops.param("table", f32, (5, 2))
INDEX = ops.input("index", i32, (N,))


def bounded(indices, table=TABLE, labels=()):
    graph = Graph(tuple(dict.fromkeys((TABLE, INDEX, table if table.op.name == "input" else TABLE))),
                  {"y": ops.gather(table, indices)})
    result, ranges = bound_indices(graph, labels)
    verify(result)
    return result.outputs["y"] is graph.outputs["y"], ranges


def spread(value):
    return ops.broadcast(ops.constant(value, i32), (N,), ())


MOVED = {
    "itself": INDEX,
    "reshaped": ops.reshape(INDEX, (N, 1)),
    "broadcast": ops.broadcast(INDEX, (N, 3), (0,)),
    "reversed": ops.reverse(INDEX, (0,)),
    "wider": ops.cast(INDEX, i64),
    "with a filler in range": ops.pad(INDEX, (1,), (0,), (0,), 0.0),
    "beside numbers in range": ops.concat([INDEX, ops.iota((5,), 0, i32)], 0),
}


@pytest.mark.parametrize("name", MOVED)
def test_an_input_that_is_only_moved_is_asked_for(name):
    assert bounded(MOVED[name]) == (True, (Range(INDEX, 5),))


PROVED = {
    "an iota": ops.iota((5,), 0, i32),
    "an argmax": ops.argmax(ops.broadcast(TABLE, (N, 5, 2), (1, 2)), 1),
    "a remainder": ops.mod(INDEX, spread(5)),
    "clamped by hand": ops.minimum(ops.maximum(INDEX, spread(0)), spread(4)),
    "a choice of two": ops.where(ops.lt(INDEX, spread(0)), spread(4), spread(0)),
    "a difference": ops.sub(spread(4), ops.mod(INDEX, spread(3))),
}


@pytest.mark.parametrize("name", PROVED)
def test_what_is_in_range_is_left_alone(name):
    assert bounded(PROVED[name]) == (True, ())


COMPUTED = {
    "shifted": ops.add(INDEX, spread(1)),
    "a remainder too large": ops.mod(INDEX, spread(6)),
    "half clamped": ops.maximum(INDEX, spread(0)),
    "a choice of the input": ops.where(ops.lt(INDEX, spread(0)), spread(0), INDEX),
    "from floats": ops.cast(ops.cast(INDEX, f32), i32),
    "beside a number out of range": ops.concat([INDEX, spread(5)], 0),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_anything_else_is_clamped(name):
    same, ranges = bounded(COMPUTED[name])
    assert not same and not ranges
    graph, _ = bound_indices(Graph((TABLE, INDEX), {"y": ops.gather(TABLE, COMPUTED[name])}))
    leaves = {TABLE: np.arange(10, dtype=np.float32).reshape(5, 2), INDEX: np.array([-9, 0, 3, 4, 99], np.int32)}
    assert set(interpret(graph, leaves, {"N": 5})["y"][:, 0]) <= {0, 2, 4, 6, 8}


def test_a_symbolic_table_has_a_symbolic_range():
    table = ops.input("rows", f32, (V, 2))
    assert bounded(INDEX, table)[1] == (Range(INDEX, V),)
    assert bounded(ops.argmax(ops.broadcast(table, (N, V, 2), (1, 2)), 1), table) == (True, ())


def test_a_scatter_is_bounded_as_its_gather_is():
    updates = ops.input("updates", f32, (N, 2))
    graph = Graph((INDEX, updates), {"y": ops.scatter_add(ops.add(INDEX, spread(1)), updates, 5)})
    bounded_graph, ranges = bound_indices(graph)
    leaves = {INDEX: np.array([7, -7], np.int32), updates: np.ones((2, 2), np.float32)}
    assert not ranges
    np.testing.assert_array_equal(interpret(bounded_graph, leaves, {"N": 2})["y"][:, 0], [1, 0, 0, 0, 1])


def _scan(step_index, xs, carries=()):
    """A scan over ``xs`` that sums the rows that ``step_index(locals)`` picks."""
    total, rest = ops.local(0, f32, (2,)), [ops.local(k + 1, arg.dtype, ()) for k, arg in enumerate(carries)]
    x, table = ops.local(len(rest) + 1, i32, ()), ops.local(len(rest) + 2, f32, (5, 2))
    outputs = {"0": ops.add(total, ops.gather(table, step_index(x, rest)))}
    outputs |= {str(k + 1): ops.add(carry, x) for k, carry in enumerate(rest)}
    body = Graph((total, *rest, x, table), outputs)
    start = ops.broadcast(ops.constant(0.0, f32), (2,), ())
    return ops.item(ops.scan([start, *carries], [xs], [TABLE], body, N, False), 0)


def test_a_scan_over_an_input_asks_for_it():
    graph = Graph((TABLE, INDEX), {"y": _scan(lambda x, rest: x, INDEX)})
    result, ranges = bound_indices(graph)
    assert result.outputs["y"] is graph.outputs["y"] and ranges == (Range(INDEX, 5),)


def test_a_carry_of_a_scan_is_clamped():
    graph = Graph((TABLE, INDEX), {"y": _scan(lambda x, rest: rest[0], INDEX, [ops.constant(0, i32)])})
    result, ranges = bound_indices(graph)
    verify(result)
    assert result.outputs["y"] is not graph.outputs["y"] and not ranges
    leaves = {TABLE: np.ones((5, 2), np.float32), INDEX: np.array([3, 9, -40], np.int32)}
    np.testing.assert_array_equal(interpret(result, leaves, {"N": 3})["y"], [3, 3])


def test_labels_compared_with_classes_are_asked_for_other_inputs_are_not():
    classes = ops.broadcast(ops.iota((3,), 0, i32), (N, 3), (1,))
    graph = Graph((INDEX,), {"y": ops.eq(ops.broadcast(INDEX, (N, 3), (0,)), classes)})
    assert bound_indices(graph, [INDEX])[1] == (Range(INDEX, 3),)
    assert bound_indices(graph)[1] == ()


def test_an_index_that_a_model_computes_never_leaves_the_table():
    fn = netc.compile("net 1\nmodel Next(i: i32[N]) -> f32[N, 2]:\n    return Embedding(5, 2)(i + 3)\n")
    w = fn.init()
    got = fn(w, np.array([0, 1, 2, 10 ** 6, -10 ** 6], np.int32))
    np.testing.assert_array_equal(got, w[next(iter(w))][[3, 4, 4, 4, 0]])
