"""Indexing and slicing, as NumPy reads them: ``x[:, -1]``, ``x[..., None]``, ``x[::-1]``, ``x[indices]``.

Bounds are static: numbers, or expressions of symbolic sizes whose order is known for every value of the symbols.
"""

from __future__ import annotations

from typing import Any

from ...runtime.records import dataclass
from .. import ops
from ..ir import Node
from ..types import Dim, known_nonnegative
from .shapes import checked_shape, move_axis, shape_text
from .values import Fault, describe, is_int, is_size, is_tensor, show


@dataclass(frozen=True)
class Slice:
    """``start:stop:step`` with evaluated bounds (None where left out)."""

    start: Any = None
    stop: Any = None
    step: Any = None


def index_tuple(value: tuple, item):
    """``value[item]`` of a compile-time tuple."""
    if isinstance(item, Slice):
        for bound in (item.start, item.stop, item.step):
            if bound is not None and not is_int(bound):
                raise Fault("type", "the bounds of a slice must be known integers", found=describe(bound))
        if item.step == 0:
            raise Fault("value", "the step of a slice must not be 0")
        return value[item.start:item.stop:item.step]
    if not is_int(item):
        raise Fault("type", "a tuple is indexed by a known integer", found=describe(item))
    if not -len(value) <= item < len(value):
        raise Fault("range", f"the index {item} is out of range", found=f"a tuple of {len(value)}: {show(value)}")
    return value[item]


def index_tensor(x: Node, items: list) -> Node:
    """``x[items]``; each item is a size, a Slice, None, Ellipsis, or an integer tensor (at most one)."""
    items = _fill(x, items)
    tensors = [item for item in items if is_tensor(item)]
    if len(tensors) > 1:
        raise Fault("type", "at most one index may be a tensor", found=f"{len(tensors)} of them")
    x = _cut(x, items)
    axis, dropped = 0, []
    for item in items:                       # what is left per axis of the cut tensor: drop, keep, or a new axis
        if item is None:
            continue
        if is_size(item):
            dropped.append(axis)
        axis += 1
    shape, axis = [], 0
    for item in items:
        if item is None:
            shape.append(1)
            continue
        if axis not in dropped:
            shape.append(x.shape[axis])
        axis += 1
    if tuple(shape) != tuple(x.shape):
        x = ops.reshape(x, checked_shape(shape))
    if tensors:
        position = [i for i in items if not is_size(i)].index(tensors[0])
        return take(x, tensors[0], position)
    return x


def take(x: Node, indices: Node, axis: int) -> Node:
    """Rows of ``x`` along an axis: the axes of ``indices`` stand in its place."""
    if indices.dtype.kind != "int":
        raise Fault("type", "a tensor used as an index must hold integers", found=describe(indices),
                    hint="to choose elements by a condition, use `where`" if indices.dtype.kind == "bool" else None)
    taken = ops.gather(move_axis(x, axis, 0), indices)
    count = indices.type.rank
    perm = list(range(count, count + axis)) + list(range(count)) + list(range(count + axis, taken.type.rank))
    return taken if axis == 0 else ops.transpose(taken, tuple(perm))


def _fill(x: Node, items: list) -> list:
    """The items with ``...`` spelled out and missing axes added."""
    used = sum(item is not None and item is not Ellipsis for item in items)
    if sum(item is Ellipsis for item in items) > 1:
        raise Fault("shape", "an index may have one `...`")
    if used > x.type.rank:
        raise Fault("rank", "too many indices", found=f"{used} for {shape_text(x.shape)}",
                    expected=f"at most {x.type.rank}")
    rest = [Slice()] * (x.type.rank - used)
    if not any(item is Ellipsis for item in items):
        return items + rest
    position = next(i for i, item in enumerate(items) if item is Ellipsis)
    return items[:position] + rest + items[position + 1:]


def _cut(x: Node, items: list) -> Node:
    """All slices and single positions at once; single positions leave an axis of size 1."""
    starts, stops, steps, backwards = [], [], [], []
    axis = 0
    for item in items:
        if item is None:
            continue
        size = x.shape[axis]
        if is_tensor(item):
            start, stop, step = 0, size, 1
        elif isinstance(item, Slice):
            start, stop, step = _bounds(item, size, axis)
        elif is_size(item):
            start = _position(item, size, axis)
            stop, step = start + 1, 1
        else:
            raise Fault("type", "this cannot be an index", found=describe(item),
                        expected="an integer, a slice, None, `...` or a tensor of integers")
        if step < 0:
            backwards.append(axis)
        starts.append(start)
        stops.append(stop)
        steps.append(abs(step))
        axis += 1
    if any(a != 0 for a in starts) or any(s != 1 for s in steps) or tuple(stops) != tuple(x.shape):
        x = ops.slice(x, tuple(starts), tuple(stops), tuple(steps))
    return ops.reverse(x, tuple(backwards)) if backwards else x


def _position(item, size, axis: int):
    """An index as a position that is known to lie inside the axis."""
    negative = item < 0 if is_int(item) else known_nonnegative(-item - 1)
    position = size + item if negative else item
    if not known_nonnegative(position) or not known_nonnegative(size - 1 - position):
        surely = isinstance(size, int) and is_int(item)
        raise Fault("range", f"the index {show(item)} is out of range" if surely else
                    f"the index {show(item)} is not known to be in range", found=f"axis {axis} of size {size}")
    return position


def _bounds(item: Slice, size, axis: int):
    """start, stop, step of the forward walk over the same elements (step < 0: then reversed)."""
    step = 1 if item.step is None else item.step
    if not is_int(step) or step == 0:
        raise Fault("value", "the step of a slice must be a known integer other than 0", found=describe(step))
    if step > 0:
        start = _clamp(0 if item.start is None else item.start, size, axis)
        stop = _clamp(size if item.stop is None else item.stop, size, axis)
        if not known_nonnegative(stop - start):
            if isinstance(stop - start, Dim):
                raise Fault("shape", f"the slice is not known to be in order: {start}:{stop}",
                            found=f"axis {axis} of size {size}")
            stop = start
        return start, stop, step
    start = size - 1 if item.start is None else _clamp(item.start, size, axis)
    if item.start is not None and start == size:
        start = size - 1
    if item.stop is None:
        low = -1
    else:
        low = _clamp(item.stop, size, axis)
    length = start - low
    if step != -1:
        if not isinstance(length, int):
            raise Fault("shape", "a slice with a step below -1 needs known bounds", found=f"axis {axis} of size {size}")
        low = start - (length - 1) // -step * -step - 1 if length > 0 else start
    if not known_nonnegative(start - low):
        low = start
    return low + 1, start + 1, step


def _clamp(bound, size, axis: int):
    """A slice's bound as NumPy reads it: negatives count from the end, and it is cut to the axis."""
    if not is_size(bound):
        raise Fault("type", "the bounds of a slice must be integers", found=describe(bound),
                    hint="bounds are static: for positions known only at run time, index with a tensor of integers"
                    if is_tensor(bound) else None)
    negative = bound < 0 if is_int(bound) else known_nonnegative(-bound - 1)
    position = size + bound if negative else bound
    if isinstance(position, int) and isinstance(size, int):
        return min(max(position, 0), size)
    if known_nonnegative(position) and known_nonnegative(size - position):
        return position
    raise Fault("shape", f"the bound {show(bound)} is not known to be inside the axis",
                found=f"axis {axis} of size {size}",
                hint="the axis has a symbolic size, which may be as small as 1")
