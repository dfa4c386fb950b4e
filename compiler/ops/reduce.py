"""Reductions along axes, and the position of an extreme along one."""

from __future__ import annotations

from ...runtime.deferred import np
from ..ir import Node, Primitive, node
from ..types import TensorType, i32
from .elementwise import cast, div, eq, like, mul, where
from .movement import broadcast
from .rules import NUMERIC, check_axes, check_count, check_kind, counted, refuse, sampler, show

KINDS = {"sum": "add", "prod": "multiply", "max": "maximum", "min": "minimum"}      # NumPy's name of each


def _infer_reduce(types, attrs) -> TensorType:
    check_count("reduce", types, 1)
    kind, axes = attrs["kind"], attrs["axes"]
    if kind not in KINDS:
        refuse(f"there is no reduction {kind!r}; there are {', '.join(KINDS)}")
    check_kind(f"a {kind} along axes", types[0], NUMERIC)
    check_axes(f"a {kind} along axes", axes, types[0].rank)
    if kind in ("max", "min") and any(types[0].shape[axis] == 0 for axis in axes):
        refuse(f"{types[0]} has no {kind} along the axes {show(axes)}: there are no elements")
    return types[0].with_shape(size for axis, size in enumerate(types[0].shape) if axis not in axes)


def _evaluate_reduce(arrays, current, sizes):
    kind, dtype = current.attrs["kind"], current.dtype
    # Sums are accumulated in float64, so that the reference is not worse than what is held against it.
    wide = np.float64 if kind in ("sum", "prod") and dtype.kind == "float" else dtype.numpy
    with np.errstate(all="ignore"):
        return getattr(np, KINDS[kind]).reduce(arrays[0], axis=current.attrs["axes"], dtype=wide).astype(dtype.numpy)


def spread(y: Node, x: Node, axes) -> Node:
    """A reduced value repeated along the axes that were reduced out of ``x``."""
    return broadcast(y, x.shape, tuple(axis for axis in range(x.type.rank) if axis not in axes))


def _reduce_gradient(current, g):
    (x,), kind, axes = current.args, current.attrs["kind"], current.attrs["axes"]
    if kind == "sum":
        return [spread(g, x, axes)]
    if kind == "prod":
        return [mul(spread(g, x, axes), _others(x, axes))]
    chosen = cast(eq(x, spread(current, x, axes)), x.dtype)
    return [mul(spread(div(g, reduce(chosen, "sum", axes)), x, axes), chosen)]


def _others(x: Node, axes) -> Node:
    """For each element the product of all others along the axes, by division, which zeros must be kept out of.

    Exact everywhere; its own derivative is exact where at most the differentiated factor is 0.
    """
    zero, one = like(x, 0.0), like(x, 1.0)
    is_zero = eq(x, zero)
    safe = where(is_zero, one, x)
    nonzero = reduce(safe, "prod", axes)
    zeros = spread(reduce(cast(is_zero, x.dtype), "sum", axes), x, axes)
    alone = spread(nonzero, x, axes)
    without = where(is_zero, where(eq(zeros, one), alone, zero), zero)
    return where(eq(zeros, zero), div(alone, safe), without)


REDUCE = Primitive("reduce", _infer_reduce, _evaluate_reduce, _reduce_gradient, sampler("reduce"))


def reduce(x: Node, kind: str, axes) -> Node:
    """Sum, prod, max or min along axes (increasing), which are dropped; ties share a max's gradient evenly."""
    axes = counted(axes, "reduce")
    return node(REDUCE, (x,), kind=kind, axes=axes) if axes else x


def _extreme(name: str) -> Primitive:
    def infer(types, attrs) -> TensorType:
        check_count(name, types, 1)
        check_kind(name, types[0], NUMERIC)
        axis = attrs["axis"]
        check_axes(name, (axis,), types[0].rank)
        if types[0].shape[axis] == 0:
            refuse(f"{name} of {types[0]}: there are no elements along axis {axis}")
        return TensorType(i32, types[0].shape[:axis] + types[0].shape[axis + 1:])

    def evaluate(arrays, current, sizes):
        return np.asarray(getattr(np, name)(arrays[0], axis=current.attrs["axis"])).astype(np.int32)

    return Primitive(name, infer, evaluate, None, sampler(name))


ARGMAX = _extreme("argmax")
ARGMIN = _extreme("argmin")


def argmax(x: Node, axis: int) -> Node:
    """The position of the first maximum along an axis, i32; a NaN counts as the maximum."""
    return node(ARGMAX, (x,), axis=axis)


def argmin(x: Node, axis: int) -> Node:
    """The position of the first minimum along an axis, i32; a NaN counts as the minimum."""
    return node(ARGMIN, (x,), axis=axis)


PRIMITIVES = (REDUCE, ARGMAX, ARGMIN)
