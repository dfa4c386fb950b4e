"""Windows over the spatial axes of [N, *spatial, C]: where the maximum stands, and what stands there.

Max pooling is ``window_take(x, window_argmax(x))``.  Window w of an axis covers w * stride - low + (0 .. size - 1);
positions outside the operand take no part.
"""

from __future__ import annotations

import itertools

from ...runtime.deferred import np
from ..ir import Node, Primitive, node
from ..types import TensorType, i32
from .rules import NUMERIC, certainly_negative, check_count, check_kind, counted, numbers, refuse, sampler, show


def _check_windows(name: str, x: TensorType, attrs) -> None:
    check_kind(name, x, NUMERIC)
    rank = x.rank - 2
    settings = (attrs["sizes"], attrs["strides"], attrs["low"])
    if rank < 1 or any(len(each) != rank for each in settings):
        refuse(f"{name} of {x} needs a window size, a stride and a padding for each spatial axis")
    for size, stride, low in zip(*settings):
        if not isinstance(size, int) or not isinstance(stride, int) or size < 1 or stride < 1:
            refuse(f"{name}: the window sizes {show(settings[0])} and strides {show(settings[1])} must be positive")
        if certainly_negative(low) or certainly_negative(size - 1 - low):
            refuse(f"{name}: the padding {show(settings[2])} is not smaller than the window {show(settings[0])}")


def _spatial(name: str, x: TensorType, sizes) -> tuple:
    if len(sizes) != x.rank - 2 or any(map(certainly_negative, sizes)):
        refuse(f"{name} of {x}: {show(sizes)} are not sizes of its spatial axes")
    return x.shape[:1] + tuple(sizes) + x.shape[-1:]


def _positions(current, sizes, inner, outer):
    """For each position in a window: its flat number, where it lies in [N, *inner, C], and for which windows.

    Both are tuples of slices, empty where no window has that position inside the operand.
    """
    attrs = current.attrs
    low = numbers(attrs["low"], sizes)
    for flat, offsets in enumerate(itertools.product(*(range(size) for size in attrs["sizes"]))):
        elements, windows = [slice(None)], [slice(None)]
        for offset, stride, before, size, count in zip(offsets, attrs["strides"], low, inner, outer):
            first = max(0, -(-(before - offset) // stride))
            last = min(count - 1, (size - 1 + before - offset) // stride)
            start = first * stride - before + offset
            length = max(0, last - first + 1)
            windows.append(slice(first, first + length))
            elements.append(slice(start, start + (length - 1) * stride + 1, stride) if length else slice(0, 0))
        yield flat, tuple(elements), tuple(windows)


# --- window_argmax -----------------------------------------------------------------------------------------------


def _infer_argmax(types, attrs) -> TensorType:
    check_count("window_argmax", types, 1)
    _check_windows("window_argmax", types[0], attrs)
    return TensorType(i32, _spatial("window_argmax", types[0], attrs["out_sizes"]))


def _evaluate_argmax(arrays, current, sizes):
    x = arrays[0]
    where = np.full(numbers(current.shape, sizes), -1, np.int32)
    best = np.zeros(where.shape, x.dtype)
    for flat, elements, windows in _positions(current, sizes, x.shape[1:-1], where.shape[1:-1]):
        value, old = x[elements], best[windows]
        # A NaN is larger than everything, the first of equals stays.
        better = (where[windows] < 0) | (value > old) | (np.isnan(value) & ~np.isnan(old))
        where[windows] = np.where(better, np.int32(flat), where[windows])
        best[windows] = np.where(better, value, old)
    return np.maximum(where, 0)


WINDOW_ARGMAX = Primitive("window_argmax", _infer_argmax, _evaluate_argmax, None, sampler("window_argmax"))


def window_argmax(x: Node, sizes, strides, low, out_sizes) -> Node:
    """x [N, *spatial, C] -> i32 [N, *out_sizes, C]: the row-major position in the window of its first maximum."""
    return node(WINDOW_ARGMAX, (x,), **_settings(sizes, strides, low), out_sizes=counted(out_sizes, "window_argmax"))


def _settings(sizes, strides, low) -> dict:
    settings = {"sizes": sizes, "strides": strides, "low": low}
    return {name: counted(values, "a window") for name, values in settings.items()}


# --- window_take -------------------------------------------------------------------------------------------------


def _infer_take(types, attrs) -> TensorType:
    check_count("window_take", types, 2)
    x, position = types
    _check_windows("window_take", x, attrs)
    result = x.with_shape(_spatial("window_take", x, attrs["out_sizes"]))
    if position != result.with_dtype(i32):
        refuse(f"window_take needs positions of type {result.with_dtype(i32)}, got {position}")
    return result


def _evaluate_take(arrays, current, sizes):
    x, position = arrays
    result = np.zeros(position.shape, x.dtype)
    for flat, elements, windows in _positions(current, sizes, x.shape[1:-1], position.shape[1:-1]):
        result[windows] = np.where(position[windows] == flat, x[elements], result[windows])
    return result


def _take_gradient(current, g):
    x, position = current.args
    attrs = current.attrs
    return window_put(g, position, attrs["sizes"], attrs["strides"], attrs["low"], x.shape[1:-1]), None


WINDOW_TAKE = Primitive("window_take", _infer_take, _evaluate_take, _take_gradient, sampler("window_take"))


def window_take(x: Node, position: Node, sizes, strides, low, out_sizes) -> Node:
    """The element of x [N, *spatial, C] at a position of each window: [N, *out_sizes, C]; 0 outside of x."""
    return node(WINDOW_TAKE, (x, position), **_settings(sizes, strides, low),
                out_sizes=counted(out_sizes, "window_take"))


# --- window_put --------------------------------------------------------------------------------------------------


def _infer_put(types, attrs) -> TensorType:
    check_count("window_put", types, 2)
    y, position = types
    _check_windows("window_put", y, attrs)
    if position != y.with_dtype(i32):
        refuse(f"window_put needs positions of type {y.with_dtype(i32)}, got {position}")
    return y.with_shape(_spatial("window_put", y, attrs["in_sizes"]))


def _evaluate_put(arrays, current, sizes):
    y, position = arrays
    result = np.zeros(numbers(current.shape, sizes), y.dtype)
    for flat, elements, windows in _positions(current, sizes, result.shape[1:-1], y.shape[1:-1]):
        result[elements] += np.where(position[windows] == flat, y[windows], y.dtype.type(0))
    return result


def _put_gradient(current, g):
    y, position = current.args
    attrs = current.attrs
    return window_take(g, position, attrs["sizes"], attrs["strides"], attrs["low"], y.shape[1:-1]), None


WINDOW_PUT = Primitive("window_put", _infer_put, _evaluate_put, _put_gradient, sampler("window_put"))


def window_put(y: Node, position: Node, sizes, strides, low, in_sizes) -> Node:
    """The transpose of window_take: y [N, *windows, C] summed into zeros [N, *in_sizes, C] at the positions."""
    return node(WINDOW_PUT, (y, position), **_settings(sizes, strides, low), in_sizes=counted(in_sizes, "window_put"))


PRIMITIVES = (WINDOW_ARGMAX, WINDOW_TAKE, WINDOW_PUT)
