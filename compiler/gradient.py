"""Reverse-mode differentiation: a pass over the graph that asks each primitive's record for its rule.

The result is made of ordinary nodes, so a gradient can be differentiated again, simplified and compiled like any
other value.  Nodes are interned: what forward and backward have in common is shared without a search.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from . import ops
from .ir import Node, is_tensor, topological
from .types import TensorType, TypeRuleError


def gradient(outputs: Iterable[tuple[Node, Node]], wrt: Sequence[Node]) -> list[Node]:
    """The cotangents of ``wrt``, given (output, its cotangent) pairs: one node of the same type for each.

    Values may be leaves or inner nodes, and one may depend on another: each gets its total derivative.  A value that
    no output depends on gets zeros.  Raises TypeRuleError where a value is not floating point.
    """
    outputs, wrt = list(outputs), list(wrt)
    for value in wrt:
        if not _differentiable(value):
            raise TypeRuleError(f"cannot differentiate with respect to a value of type {value.type}")
    order = topological(output for output, _ in outputs)
    active = _dependents(order, wrt)
    received: dict[Node, list[Node]] = {}
    for output, cotangent in outputs:
        _give(received, output, cotangent)
    for current in reversed(order):
        if current not in active:
            continue
        cotangent = _total(current, received)
        if cotangent is None or current.op.gradient is None:
            continue
        for arg, share in zip(current.args, current.op.gradient(current, cotangent), strict=True):
            if share is not None and arg in active and (_differentiable(arg) or not is_tensor(arg)):
                _give(received, arg, share)
    return [_total(value, received) or zeros(value.type) for value in wrt]


def grad(y: Node, xs: Sequence[Node]) -> list[Node]:
    """The derivatives of the scalar ``y`` with respect to each of ``xs``."""
    if not is_tensor(y) or y.shape != () or not _differentiable(y):
        raise TypeRuleError(f"a gradient is taken of a floating-point scalar, not of {y.type}")
    return gradient([(y, ops.constant(1.0, y.dtype))], xs)


def zeros(type_: TensorType) -> Node:
    """A tensor of zeros."""
    zero = ops.constant(0.0, type_.dtype)
    return ops.broadcast(zero, type_.shape, ()) if type_.shape else zero


def _differentiable(current: Node) -> bool:
    return is_tensor(current) and current.dtype.kind == "float"


def _dependents(order: Iterable[Node], wrt: Iterable[Node]) -> set[Node]:
    """The nodes that a change of ``wrt`` can reach: only they need cotangents."""
    active = set(wrt)
    for current in order:
        if any(arg in active for arg in current.args):
            active.add(current)
    return active


def _give(received: dict, current: Node, cotangent) -> None:
    """Add to what a node has received; the shape is checked here, since a wrong rule would surface far away."""
    if is_tensor(current) and cotangent.type != current.type:
        raise TypeRuleError(f"the cotangent of {current} has the type {cotangent.type}")
    received.setdefault(current, []).append(cotangent)


def _total(current: Node, received: dict):
    """The sum of what a node received, None for nothing; for a node with several results a tuple of such sums.

    ``item`` passes on (its index, cotangent) pairs, which are put together here.
    """
    parts = received.get(current)
    if parts is None:
        return None
    if is_tensor(current):
        return _sum(parts)
    return tuple(_sum([part for index, part in parts if index == position]) for position in range(len(current.type)))


def _sum(parts: Sequence[Node]) -> Node | None:
    total = None
    for part in parts:
        total = part if total is None else ops.add(total, part)
    return total
