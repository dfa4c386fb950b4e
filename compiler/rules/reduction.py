"""Rules for ``reduce``."""

from __future__ import annotations

from .. import ops
from ..ir import Node
from ..types import Size, known_nonnegative, product
from .table import rule, scalar, spread


@rule("reduce")
def reduce_nothing(x: Node) -> Node | None:
    """reduce over axes of size 1, or over no axis -> reshape(x)"""
    kept = tuple(axis for axis in x.attrs["axes"] if x.args[0].shape[axis] != 1)
    if len(kept) == len(x.attrs["axes"]):
        return x.args[0] if not kept else None
    if not kept:
        return ops.reshape(x.args[0], x.shape)
    return ops.reshape(ops.reduce(x.args[0], x.attrs["kind"], kept), x.shape)


@rule("reduce")
def reduce_broadcast(x: Node) -> Node | None:
    """sum over an axis along which x is the same -> sum * size; max and min over such an axis -> x"""
    inner, kind = x.args[0], x.attrs["kind"]
    if inner.op.name != "broadcast" or kind == "prod":
        return None
    axes = inner.attrs["axes"]
    same = [axis for axis in x.attrs["axes"] if axis not in axes]
    count = product(inner.shape[axis] for axis in same)
    if not same or kind != "sum" and not known_nonnegative(count - 1):
        return None
    varying = tuple(k for k, axis in enumerate(axes) if axis in x.attrs["axes"])
    kept = [axis for axis in range(len(inner.shape)) if axis not in x.attrs["axes"]]
    rest = ops.reduce(inner.args[0], kind, varying) if varying else inner.args[0]
    rest = spread(rest, x.shape, [kept.index(axis) for axis in axes if axis in kept])
    return rest if kind != "sum" else ops.mul(rest, spread(count_of(count, x.dtype), x.shape, ()))


def count_of(count: Size, dtype) -> Node:
    """A size as a scalar value."""
    if isinstance(count, int):
        return ops.constant(float(count) if dtype.kind == "float" else count, dtype)
    return ops.size(count, dtype)


@rule("reduce")
def reduce_reduce(x: Node) -> Node | None:
    """max(max(x)) -> max(x) over both sets of axes; not for sums, whose rounding depends on the order"""
    inner, kind = x.args[0], x.attrs["kind"]
    if inner.op.name != "reduce" or inner.attrs["kind"] != kind or kind not in ("max", "min"):
        return None
    kept = [axis for axis in range(len(inner.args[0].shape)) if axis not in inner.attrs["axes"]]
    axes = sorted((*inner.attrs["axes"], *(kept[axis] for axis in x.attrs["axes"])))
    return ops.reduce(inner.args[0], kind, tuple(axes))


@rule("reduce")
def reduce_transpose(x: Node) -> Node | None:
    """reduce(transpose(x)) -> transpose(reduce(x))"""
    inner = x.args[0]
    if inner.op.name != "transpose":
        return None
    perm = inner.attrs["perm"]
    axes = tuple(sorted(perm[axis] for axis in x.attrs["axes"]))
    kept = [axis for axis in range(len(perm)) if axis not in axes]
    order = tuple(kept.index(perm[axis]) for axis in range(len(perm)) if axis not in x.attrs["axes"])
    return ops.transpose(ops.reduce(inner.args[0], x.attrs["kind"], axes), order)


@rule("reduce")
def reduce_all_of_reshape(x: Node) -> Node | None:
    """reduce(reshape(x)) over every axis -> reduce(x) over every axis"""
    inner = x.args[0]
    if inner.op.name != "reshape" or x.shape != ():
        return None
    return ops.reduce(inner.args[0], x.attrs["kind"], tuple(range(len(inner.args[0].shape))))


@rule("reduce")
def sum_pad(x: Node) -> Node | None:
    """sum over the axes to which zeros were added -> sum without them"""
    inner = x.args[0]
    if inner.op.name != "pad" or inner.attrs["value"] != 0 or x.attrs["kind"] != "sum":
        return None
    amounts = zip(inner.attrs["low"], inner.attrs["high"], inner.attrs["interior"])
    if any(any(amount) and axis not in x.attrs["axes"] for axis, amount in enumerate(amounts)):
        return None
    return ops.reduce(inner.args[0], "sum", x.attrs["axes"])


@rule("argmax", "argmin")
def only_position(x: Node) -> Node | None:
    """argmax over an axis of size 1, or of equal elements -> 0"""
    inner, axis = x.args[0], x.attrs["axis"]
    same = inner.shape[axis] == 1 or inner.op.name == "broadcast" and axis not in inner.attrs["axes"]
    return spread(ops.constant(0, x.dtype), x.shape, ()) if same else None


@rule("gather")
def gather_constant(x: Node) -> Node | None:
    """gather from a table of one constant -> that constant"""
    return spread(x.args[0].args[0], x.shape, ()) if scalar(x.args[0]) is not None and x.shape != () else None
