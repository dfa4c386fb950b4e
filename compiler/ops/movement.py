"""Primitives that move elements and compute nothing; each one's gradient is another of them, or a sum."""

from __future__ import annotations

import builtins
from collections.abc import Sequence

from ...runtime.deferred import np
from ..ir import Node, Primitive, node
from ..types import Size, TensorType, product
from .leaf import constant
from .rules import (
    certainly_negative,
    check_axes,
    check_count,
    check_shape,
    counted,
    number,
    numbers,
    refuse,
    sampler,
    show,
)


def filled(type_: TensorType, value) -> Node:
    """A tensor of one value."""
    return broadcast(constant(value, type_.dtype), type_.shape, ())


# --- reshape -----------------------------------------------------------------------------------------------------


def _infer_reshape(types, attrs) -> TensorType:
    check_count("reshape", types, 1)
    shape = attrs["shape"]
    check_shape("reshape", shape)
    if product(shape) != types[0].size:
        refuse(f"cannot reshape {types[0]} of {types[0].size} elements into {show(shape)} of {product(shape)}")
    return types[0].with_shape(shape)


def _evaluate_reshape(arrays, current, sizes):
    return np.reshape(arrays[0], numbers(current.shape, sizes))


def _reshape_gradient(current, cotangent):
    return [reshape(cotangent, current.args[0].shape)]


RESHAPE = Primitive("reshape", _infer_reshape, _evaluate_reshape, _reshape_gradient, sampler("reshape"))


def reshape(x: Node, shape) -> Node:
    """The same elements in the same row-major order, in another shape."""
    shape = counted(shape, "reshape")
    return x if shape == x.shape else node(RESHAPE, (x,), shape=shape)


# --- transpose ---------------------------------------------------------------------------------------------------


def _infer_transpose(types, attrs) -> TensorType:
    check_count("transpose", types, 1)
    perm = attrs["perm"]
    if sorted(perm) != list(range(types[0].rank)):
        refuse(f"transpose: {show(perm)} is not an order of the {types[0].rank} axes of {types[0]}")
    return types[0].with_shape(types[0].shape[axis] for axis in perm)


def _evaluate_transpose(arrays, current, sizes):
    return np.transpose(arrays[0], current.attrs["perm"])


def _transpose_gradient(current, cotangent):
    perm = current.attrs["perm"]
    return [transpose(cotangent, tuple(perm.index(axis) for axis in range(len(perm))))]


TRANSPOSE = Primitive("transpose", _infer_transpose, _evaluate_transpose, _transpose_gradient, sampler("transpose"))


def transpose(x: Node, perm) -> Node:
    """Axis i of the result is axis perm[i] of the operand."""
    perm = counted(perm, "transpose")
    return x if perm == tuple(range(x.type.rank)) else node(TRANSPOSE, (x,), perm=perm)


# --- broadcast ---------------------------------------------------------------------------------------------------


def _infer_broadcast(types, attrs) -> TensorType:
    check_count("broadcast", types, 1)
    shape, axes = attrs["shape"], attrs["axes"]
    check_shape("broadcast", shape)
    check_axes("broadcast", axes, len(shape))
    if len(axes) != types[0].rank or tuple(shape[axis] for axis in axes) != types[0].shape:
        refuse(f"cannot broadcast {types[0]} to {show(shape)} along the axes {show(axes)}")
    return types[0].with_shape(shape)


def _evaluate_broadcast(arrays, current, sizes):
    shape, axes = numbers(current.shape, sizes), current.attrs["axes"]
    return np.broadcast_to(arrays[0].reshape([n if axis in axes else 1 for axis, n in enumerate(shape)]), shape)


def _broadcast_gradient(current, cotangent):
    from .reduce import reduce
    axes = current.attrs["axes"]
    return [reduce(cotangent, "sum", tuple(axis for axis in range(current.type.rank) if axis not in axes))]


BROADCAST = Primitive("broadcast", _infer_broadcast, _evaluate_broadcast, _broadcast_gradient, sampler("broadcast"))


def broadcast(x: Node, shape, axes) -> Node:
    """Repeat along new axes: axis i of the operand becomes axis axes[i] of the result, of the same size."""
    shape, axes = counted(shape, "broadcast"), counted(axes, "broadcast")
    return x if shape == x.shape and len(axes) == len(shape) else node(BROADCAST, (x,), shape=shape, axes=axes)


# --- slice and pad -----------------------------------------------------------------------------------------------


def _infer_slice(types, attrs) -> TensorType:
    check_count("slice", types, 1)
    starts, stops, steps = attrs["starts"], attrs["stops"], attrs["steps"]
    if not len(starts) == len(stops) == len(steps) == types[0].rank:
        refuse(f"slice of {types[0]} needs a start, a stop and a step for each axis")
    shape = []
    for axis, (size, start, stop, step) in enumerate(zip(types[0].shape, starts, stops, steps)):
        if not isinstance(step, int) or step < 1:
            refuse(f"slice: the step {step} of axis {axis} is not a positive number")
        if any(map(certainly_negative, (start, stop - start, size - stop))):
            refuse(f"slice: {start}:{stop} is not within axis {axis} of {types[0]}")
        shape.append((stop - start + step - 1) // step)
    return types[0].with_shape(shape)


def _evaluate_slice(arrays, current, sizes):
    bounds = zip(*(numbers(current.attrs[name], sizes) for name in ("starts", "stops", "steps")))
    return arrays[0][tuple(builtins.slice(*bound) for bound in bounds)]


def _slice_gradient(current, cotangent):
    x, starts, steps = current.args[0], current.attrs["starts"], current.attrs["steps"]
    if any(size == 0 for size in current.shape):
        return [filled(x.type, 0)]
    high = [size - start - (count - 1) * step - 1
            for size, start, count, step in zip(x.shape, starts, current.shape, steps)]
    return [pad(cotangent, starts, high, [step - 1 for step in steps], 0)]


SLICE = Primitive("slice", _infer_slice, _evaluate_slice, _slice_gradient, sampler("slice"))


def slice(x: Node, starts, stops, steps=None) -> Node:
    """The elements start, start + step, ... below stop of each axis; 0 <= start <= stop <= size, step >= 1."""
    starts, stops = counted(starts, "slice"), counted(stops, "slice")
    steps = (1,) * len(starts) if steps is None else counted(steps, "slice")
    if stops == x.shape and all(start == 0 for start in starts) and all(step == 1 for step in steps):
        return x
    return node(SLICE, (x,), starts=starts, stops=stops, steps=steps)


def _infer_pad(types, attrs) -> TensorType:
    check_count("pad", types, 1)
    low, high, interior = attrs["low"], attrs["high"], attrs["interior"]
    if not len(low) == len(high) == len(interior) == types[0].rank:
        refuse(f"pad of {types[0]} needs a low, a high and an interior count for each axis")
    shape = []
    for axis, (size, before, after, between) in enumerate(zip(types[0].shape, low, high, interior)):
        if certainly_negative(before) or certainly_negative(after):
            refuse(f"pad: the counts ({before}, {after}) of axis {axis} are not all at least 0")
        if not isinstance(between, int) or between < 0:
            refuse(f"pad: the count {between} between elements of axis {axis} is not a number of at least 0")
        shape.append(before + after + (size + (size - 1) * between if size != 0 else 0))
    return types[0].with_shape(shape)


def _evaluate_pad(arrays, current, sizes):
    result = np.full(numbers(current.shape, sizes), current.attrs["value"], current.dtype.numpy)
    low = numbers(current.attrs["low"], sizes)
    within = tuple(builtins.slice(start, start + (count - 1) * (between + 1) + 1 if count else start, between + 1)
                   for start, count, between in zip(low, arrays[0].shape, current.attrs["interior"]))
    result[within] = arrays[0]
    return result


def _pad_gradient(current, cotangent):
    x, low = current.args[0], current.attrs["low"]
    steps = [between + 1 for between in current.attrs["interior"]]
    if any(size == 0 for size in x.shape):
        return [filled(x.type, 0)]
    stops = [start + (size - 1) * step + 1 for start, size, step in zip(low, x.shape, steps)]
    return [slice(cotangent, low, stops, steps)]


PAD = Primitive("pad", _infer_pad, _evaluate_pad, _pad_gradient, sampler("pad"))


def pad(x: Node, low, high, interior=None, value=0.0) -> Node:
    """``low`` and ``high`` fillers around each axis, ``interior`` fillers between neighbours."""
    low, high = counted(low, "pad"), counted(high, "pad")
    interior = (0,) * len(low) if interior is None else counted(interior, "pad")
    if all(count == 0 for count in low + high + interior) and len(low) == len(high) == len(interior) == x.type.rank:
        return x
    return node(PAD, (x,), low=low, high=high, interior=interior, value=number(value, x.dtype))


# --- concat and reverse ------------------------------------------------------------------------------------------


def _infer_concat(types, attrs) -> TensorType:
    if not types:
        refuse("concat takes at least one operand")
    first, axis = types[0], attrs["axis"]
    check_axes("concat", (axis,), first.rank)
    total: Size = 0
    for type_ in types:
        alike = type_.rank == first.rank and type_.dtype == first.dtype
        if not alike or any(a != axis and n != first.shape[a] for a, n in enumerate(type_.shape)):
            refuse(f"cannot concatenate {first} and {type_} along axis {axis}")
        total = total + type_.shape[axis]
    return first.with_shape(first.shape[:axis] + (total,) + first.shape[axis + 1:])


def _evaluate_concat(arrays, current, sizes):
    return np.concatenate(arrays, current.attrs["axis"])


def _concat_gradient(current, cotangent):
    axis, start, shares = current.attrs["axis"], 0, []
    for x in current.args:
        stop = start + x.shape[axis]
        starts = [start if a == axis else 0 for a in range(x.type.rank)]
        stops = [stop if a == axis else size for a, size in enumerate(x.shape)]
        shares.append(slice(cotangent, starts, stops))
        start = stop
    return shares


CONCAT = Primitive("concat", _infer_concat, _evaluate_concat, _concat_gradient, sampler("concat"))


def concat(xs: Sequence[Node], axis: int) -> Node:
    """The operands one after the other along an axis."""
    xs = tuple(xs)
    return xs[0] if len(xs) == 1 and 0 <= axis < xs[0].type.rank else node(CONCAT, xs, axis=axis)


def _infer_reverse(types, attrs) -> TensorType:
    check_count("reverse", types, 1)
    check_axes("reverse", attrs["axes"], types[0].rank)
    return types[0]


def _evaluate_reverse(arrays, current, sizes):
    return np.flip(arrays[0], current.attrs["axes"])


def _reverse_gradient(current, cotangent):
    return [reverse(cotangent, current.attrs["axes"])]


REVERSE = Primitive("reverse", _infer_reverse, _evaluate_reverse, _reverse_gradient, sampler("reverse"))


def reverse(x: Node, axes) -> Node:
    """The elements of some axes in the opposite order."""
    axes = counted(axes, "reverse")
    return node(REVERSE, (x,), axes=axes) if axes else x


PRIMITIVES = (RESHAPE, TRANSPOSE, BROADCAST, SLICE, PAD, CONCAT, REVERSE)
