"""Convolutions and pooling over the spatial axes of [N, *spatial, C], as Keras defines sizes and padding."""

from __future__ import annotations

from .. import ops
from ..ir import Node
from ..types import Dim, Size, divide_exactly, known_nonnegative
from . import builtins
from .builtins import about, builtin, int_of, tensor_of
from .values import Fault, describe, is_int, is_size, shape_text, show

BUILTINS: dict[str, object] = {}


def per_axis(value, rank: int, argument: str, least: int = 1) -> tuple[int, ...]:
    """One integer for all spatial axes, or one for each."""
    values = value if isinstance(value, tuple) else (value,) * rank
    if len(values) != rank:
        raise about(argument, Fault("count", f"`{argument}` takes one number, or one for each of {rank} axes",
                                    found=show(value)))
    return tuple(int_of(v, argument, least) for v in values)


def _tensor_with_space(build, x, least: int = 1) -> Node:
    x = build.arithmetic.to_float(tensor_of(build, x))
    if x.type.rank < least + 2:
        raise about("x", Fault("rank", "a tensor [batch, *space, channels] is expected", found=describe(x),
                               hint="add the missing axis with `x[..., None]`"))
    return x


def output_size(size: Size, window: int, stride: int, padding, axis: int) -> tuple[Size, Size]:
    """(size of the result, padding before) along one axis; ``padding`` is a word or (before, after)."""
    if padding == "valid":
        padding = (0, 0)
    if padding == "same":
        count = (size + (stride - 1)) // stride
        total = (count - 1) * stride + window - size
        if isinstance(total, Dim):
            raise Fault("size", "with `padding = same` and strides, the size of the axis must be known",
                        found=f"axis {axis} of size {size}",
                        hint="give the padding as numbers: `padding = ((before, after), ...)`")
        return count, max(total, 0) // 2
    room = size + padding[0] + padding[1] - window
    # A symbolic axis may turn out too small: its size is then refused when the model runs.
    if known_nonnegative(-room - 1):
        raise Fault("shape", "the window is larger than the axis", expected=f"at least {window}",
                    found=f"axis {axis} of size {size}" + (f", padded by {padding}" if padding != (0, 0) else ""))
    return room // stride + 1, padding[0]


def paddings(padding, rank: int) -> list:
    """For each spatial axis `same`, `valid` or (before, after)."""
    if padding in ("same", "valid"):
        return [padding] * rank
    if is_int(padding):
        padding = ((padding, padding),) * rank
    if isinstance(padding, tuple) and len(padding) == 2 and all(map(is_int, padding)) and rank == 1:
        padding = (padding,)
    fits = isinstance(padding, tuple) and len(padding) == rank and all(
        isinstance(p, tuple) and len(p) == 2 and all(is_size(v) and known_nonnegative(v) for v in p) for p in padding)
    if not fits:
        raise about("padding",
                    Fault("value", "`padding` must be `same`, `valid`, a number, or (before, after) for each axis",
                                     found=describe(padding)))
    return list(padding)


def _windows(x: Node, windows, strides, padding) -> tuple[tuple, tuple]:
    """(sizes of the result, padding before) along the spatial axes."""
    pairs = [output_size(x.shape[i + 1], w, s, p, i + 1)
             for i, (w, s, p) in enumerate(zip(windows, strides, paddings(padding, len(windows))))]
    return tuple(p[0] for p in pairs), tuple(p[1] for p in pairs)


@builtin("conv")
def conv(build, x, kernel, strides=1, padding="valid", dilations=1, groups=1):
    """Cross-correlation: kernel [*window, channels / groups, units]."""
    x = _tensor_with_space(build, x)
    kernel = build.arithmetic.cast(tensor_of(build, kernel, "kernel"), x.dtype)
    rank = x.type.rank - 2
    groups = int_of(groups, "groups", 1)
    if kernel.type.rank != x.type.rank:
        raise about("kernel", Fault("rank", f"the kernel must have {rank} window axes, channels and units",
                                    expected=f"{x.type.rank} axes", found=shape_text(kernel.shape)))
    if divide_exactly(x.shape[-1], groups) != kernel.shape[-2]:
        raise about("kernel", Fault("shape", "the kernel's channels differ from the input's",
                                    expected=f"{x.shape[-1]}" + (f" / {groups} groups" if groups > 1 else ""),
                                    found=f"{kernel.shape[-2]} in {shape_text(kernel.shape)}"))
    if kernel.shape[-1] % groups != 0:
        raise about("groups", Fault("value", "the units must be a multiple of the groups",
                                    found=f"{kernel.shape[-1]} units, {groups} groups"))
    strides, dilations = per_axis(strides, rank, "strides"), per_axis(dilations, rank, "dilations")
    for size in kernel.shape[:-2]:
        int_of(size, "kernel", 1)
    windows = tuple((k - 1) * d + 1 for k, d in zip(kernel.shape[:-2], dilations))
    out, low = _windows(x, windows, strides, padding)
    return ops.convolution(x, kernel, strides, dilations, low, out, groups)


@builtin("conv_transpose")
def conv_transpose(build, x, kernel, strides=1, padding="valid", dilations=1):
    """The transpose of `conv`, kernel [*window, units, channels]; sizes as Keras Conv2DTranspose gives them."""
    x = _tensor_with_space(build, x)
    kernel = build.arithmetic.cast(tensor_of(build, kernel, "kernel"), x.dtype)
    rank = x.type.rank - 2
    if kernel.type.rank != x.type.rank or kernel.shape[-1] != x.shape[-1]:
        raise about("kernel", Fault("shape", "the kernel must be [*window, units, channels]",
                                    expected=f"{x.type.rank} axes, {x.shape[-1]} channels at the end",
                                    found=shape_text(kernel.shape)))
    strides, dilations = per_axis(strides, rank, "strides"), per_axis(dilations, rank, "dilations")
    out, low = [], []
    for i, (k, s, d, p) in enumerate(zip(kernel.shape[:-2], strides, dilations, paddings(padding, rank))):
        size, window = x.shape[i + 1], (k - 1) * d + 1
        if p == "same":
            out.append(size * s)
            low.append(max(window - s, 0) // 2)
        elif p == "valid":
            out.append(size * s + max(window - s, 0))
            low.append(0)
        else:
            out.append((size - 1) * s + window - p[0] - p[1])
            low.append(p[0])
    return ops.convolution_transpose(x, kernel, strides, dilations, tuple(low), tuple(out))


@builtin("max_pool")
def max_pool(build, x, window, strides=None, padding="valid"):
    """The largest value of each window."""
    x = _tensor_with_space(build, x)
    window, strides, out, low = _pool(x, window, strides, padding)
    position = ops.window_argmax(x, window, strides, low, out)
    return ops.window_take(x, position, window, strides, low, out)


@builtin("sum_pool")
def sum_pool(build, x, window, strides=None, padding="valid"):
    """The sum of each window; what lies outside counts as 0."""
    x = _tensor_with_space(build, x)
    window, strides, out, low = _pool(x, window, strides, padding)
    spatial, depth = range(1, len(window) + 1), len(window) + 1
    reach = [ops.affine({i: stride, depth + i: 1}, -before) for i, stride, before in zip(spatial, strides, low)]
    return ops.contract((x,), (x.shape[0], *out, x.shape[-1]), window, ((ops.plain(0), *reach, ops.plain(depth)),))


def _pool(x: Node, window, strides, padding):
    rank = x.type.rank - 2
    window = per_axis(window, rank, "window")
    strides = window if strides is None else per_axis(strides, rank, "strides")
    out, low = _windows(x, window, strides, padding)
    return window, strides, out, low


for _name in ("conv", "conv_transpose", "max_pool", "sum_pool"):
    BUILTINS[_name] = builtins.BUILTINS[_name]
