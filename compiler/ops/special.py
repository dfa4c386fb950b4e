"""Marks for differentiation, and a matrix for initialisers."""

from __future__ import annotations

from collections.abc import Sequence

from ...runtime.deferred import np
from ..ir import Graph, Node, Primitive, node, substitute
from ..types import TensorType
from .leaf import local
from .rules import check_count, check_kind, interned_graph, refuse, sampler


def _infer_stop(types, attrs) -> TensorType:
    check_count("stop_gradient", types, 1)
    return types[0]


def _first(arrays, current, sizes):
    return arrays[0]


STOP_GRADIENT = Primitive("stop_gradient", _infer_stop, _first, None, sampler("stop_gradient"))


def stop_gradient(x: Node) -> Node:
    """The same value, a constant to differentiation."""
    return node(STOP_GRADIENT, (x,))


# --- custom ------------------------------------------------------------------------------------------------------


def _infer_custom(types, attrs) -> TensorType:
    if not types:
        refuse("custom takes a value")
    value, args = types[0], types[1:]
    rule: Graph = attrs["rule"]
    if [leaf.type for leaf in rule.inputs] != [*args, value]:
        expected = ", ".join(str(type_) for type_ in (*args, value))
        refuse(f"a gradient rule takes the arguments and the cotangent, of types {expected}")
    for position, arg in enumerate(args):
        if arg.dtype.kind == "float" and str(position) not in rule.outputs:
            refuse(f"the gradient rule gives nothing for argument {position}, of type {arg}")
        given = rule.outputs.get(str(position))
        if arg.dtype.kind == "float" and given is not None and given.type != arg:
            refuse(f"the gradient rule gives {given.type} for argument {position}, of type {arg}")
    return value


def _custom_gradient(current, g):
    args, rule = current.args[1:], current.attrs["rule"]
    wanted = [position for position, arg in enumerate(args) if arg.dtype.kind == "float"]
    values = dict(zip(rule.inputs, (*args, g)))
    given = dict(zip(wanted, substitute([rule.outputs[str(position)] for position in wanted], values)))
    return [None, *(given.get(position) for position in range(len(args)))]


CUSTOM = Primitive("custom", _infer_custom, _first, _custom_gradient, sampler("custom"))


def custom(y: Node, args: Sequence[Node], rule: Graph) -> Node:
    """The value y, whose gradient flows to ``args`` by ``rule`` and not through y.

    ``rule`` is closed: its inputs are leaves for each of ``args`` and for the cotangent; output "i" is the cotangent of
    args[i], for each floating-point one.  The leaves are renamed to local(0), local(1), ...
    """
    args = tuple(args)
    leaves = [local(position, leaf.dtype, leaf.shape) for position, leaf in enumerate(rule.inputs)]
    outputs = substitute(rule.results, dict(zip(rule.inputs, leaves)))
    named = dict(zip(rule.outputs, outputs))
    # An integer argument has no cotangent; a zero of the result's place keeps the numbers of the outputs in order.
    ordered = [named.get(str(position), leaf) for position, leaf in enumerate(leaves[:-1])]
    return node(CUSTOM, (y, *args), rule=interned_graph(leaves, ordered))


# --- orthogonal --------------------------------------------------------------------------------------------------


def _infer_orthogonal(types, attrs) -> TensorType:
    check_count("orthogonal", types, 1)
    check_kind("orthogonal", types[0], ("float",))
    if types[0].rank != 2:
        refuse(f"orthogonal takes a matrix, got {types[0]}")
    return types[0]


def _evaluate_orthogonal(arrays, current, sizes):
    x = arrays[0]
    wide = x.shape[0] < x.shape[1]
    q, r = np.linalg.qr(x.T if wide else x)
    q = q * np.where(np.diagonal(r) < 0, -1, 1).astype(x.dtype)
    return np.ascontiguousarray(q.T if wide else q)


ORTHOGONAL = Primitive("orthogonal", _infer_orthogonal, _evaluate_orthogonal, None, sampler("orthogonal"))


def orthogonal(x: Node) -> Node:
    """Normal numbers [r, c] -> a matrix of orthonormal rows or columns, for initialisers."""
    return node(ORTHOGONAL, (x,))


PRIMITIVES = (STOP_GRADIENT, CUSTOM, ORTHOGONAL)
