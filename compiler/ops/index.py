"""Rows of a table by number, and its transpose."""

from __future__ import annotations

from ...runtime.deferred import np
from ..ir import Node, Primitive, node
from ..types import Size, TensorType
from .rules import NUMERIC, certainly_negative, check_count, check_kind, numbers, refuse, sampler


def _infer_gather(types, attrs) -> TensorType:
    check_count("gather", types, 2)
    table, indices = types
    check_kind("the indices of gather", indices, ("int",))
    if not table.rank:
        refuse(f"gather takes rows of a table, got the scalar {table}")
    return table.with_shape(indices.shape + table.shape[1:])


def _evaluate_gather(arrays, current, sizes):
    return np.take(arrays[0], arrays[1], axis=0)


def _gather_gradient(current, g):
    table, indices = current.args
    return scatter_add(indices, g, table.shape[0]), None


GATHER = Primitive("gather", _infer_gather, _evaluate_gather, _gather_gradient, sampler("gather"))


def gather(table: Node, indices: Node) -> Node:
    """table [V, *rest], indices [*i] in 0 .. V - 1 -> [*i, *rest]."""
    return node(GATHER, (table, indices))


def _infer_scatter(types, attrs) -> TensorType:
    check_count("scatter_add", types, 2)
    indices, updates = types
    check_kind("the indices of scatter_add", indices, ("int",))
    check_kind("scatter_add", updates, NUMERIC)
    if updates.shape[:indices.rank] != indices.shape:
        refuse(f"scatter_add takes an update for each index, got indices {indices} and updates {updates}")
    if certainly_negative(attrs["rows"]):
        refuse(f"scatter_add: {attrs['rows']} rows are not a count")
    return updates.with_shape((attrs["rows"],) + updates.shape[indices.rank:])


def _evaluate_scatter(arrays, current, sizes):
    result = np.zeros(numbers(current.shape, sizes), current.dtype.numpy)
    with np.errstate(all="ignore"):
        np.add.at(result, arrays[0], arrays[1])
    return result


def _scatter_gradient(current, g):
    return None, gather(g, current.args[0])


SCATTER_ADD = Primitive("scatter_add", _infer_scatter, _evaluate_scatter, _scatter_gradient, sampler("scatter_add"))


def scatter_add(indices: Node, updates: Node, rows: Size) -> Node:
    """updates [*i, *rest] summed into zeros [rows, *rest] at indices [*i], in 0 .. rows - 1."""
    return node(SCATTER_ADD, (indices, updates), rows=rows)


PRIMITIVES = (GATHER, SCATTER_ADD)
