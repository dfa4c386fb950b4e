"""Rules for the primitives that only move elements."""

from __future__ import annotations

from functools import reduce

from .. import ops
from ..ir import Node
from ..types import known_nonnegative
from .table import fill, rule, scalar, spread

LONGEST_SUM = 16      # pads of one sum that are looked at together


@rule("reshape", "broadcast", "transpose", "slice", "pad", "reverse")
def nothing_moves(x: Node) -> Node | None:
    """A movement that leaves every element where it is -> its operand"""
    inner, attrs = x.args[0], x.attrs
    stays = {
        "reshape": lambda: x.shape == inner.shape,
        "broadcast": lambda: x.shape == inner.shape,
        "transpose": lambda: attrs["perm"] == tuple(range(len(x.shape))),
        "slice": lambda: x.shape == inner.shape and not any(attrs["starts"]),
        "pad": lambda: not any((*attrs["low"], *attrs["high"], *attrs["interior"])),
        "reverse": lambda: all(x.shape[axis] == 1 for axis in attrs["axes"]),
    }[x.op.name]
    return inner if stays() else None


@rule("reshape")
def reshape_reshape(x: Node) -> Node | None:
    """reshape(reshape(x)) -> reshape(x)"""
    inner = x.args[0]
    return ops.reshape(inner.args[0], x.shape) if inner.op.name == "reshape" else None


@rule("reshape")
def reshape_constant(x: Node) -> Node | None:
    """reshape(broadcast(scalar)) -> broadcast(scalar)"""
    inner = x.args[0]
    if inner.op.name == "broadcast" and inner.args[0].shape == ():
        return spread(inner.args[0], x.shape, ())
    return None


@rule("reshape")
def reshape_drops_broadcast(x: Node) -> Node | None:
    """reshape(broadcast(x)) -> broadcast(x), where only axes of size 1 come or go"""
    inner = x.args[0]
    if inner.op.name != "broadcast":
        return None
    places = unit_reshape(inner.shape, x.shape)
    if places is None or any(places[axis] is None and inner.shape[axis] == 1 for axis in inner.attrs["axes"]):
        return None
    return spread(inner.args[0], x.shape, [places[axis] for axis in inner.attrs["axes"]])


def unit_reshape(source, target) -> list | None:
    """Where a reshape that only adds and drops axes of size 1 puts each axis (None: dropped); None for any other."""
    wanted = [axis for axis, size in enumerate(target) if size != 1]
    if [size for size in source if size != 1] != [target[axis] for axis in wanted]:
        return None
    rest = iter(wanted)
    return [next(rest) if size != 1 else None for size in source]


@rule("transpose")
def transpose_transpose(x: Node) -> Node | None:
    """transpose(transpose(x)) -> transpose(x)"""
    inner = x.args[0]
    if inner.op.name != "transpose":
        return None
    return ops.transpose(inner.args[0], tuple(inner.attrs["perm"][axis] for axis in x.attrs["perm"]))


@rule("transpose")
def transpose_broadcast(x: Node) -> Node | None:
    """transpose(broadcast(x)) -> broadcast(transpose(x))"""
    inner = x.args[0]
    if inner.op.name != "broadcast":
        return None
    axes = [x.attrs["perm"].index(axis) for axis in inner.attrs["axes"]]
    order = sorted(range(len(axes)), key=axes.__getitem__)
    return ops.broadcast(ops.transpose(inner.args[0], tuple(order)), x.shape, tuple(sorted(axes)))


@rule("broadcast")
def broadcast_broadcast(x: Node) -> Node | None:
    """broadcast(broadcast(x)) -> broadcast(x)"""
    inner = x.args[0]
    if inner.op.name != "broadcast":
        return None
    return ops.broadcast(inner.args[0], x.shape, tuple(x.attrs["axes"][axis] for axis in inner.attrs["axes"]))


@rule("broadcast")
def broadcast_reshape(x: Node) -> Node | None:
    """broadcast(reshape(x)) -> broadcast(x), where the reshape only adds axes of size 1"""
    inner = x.args[0]
    if inner.op.name != "reshape":
        return None
    places = unit_reshape(inner.args[0].shape, inner.shape)
    if places is None or None in places:
        return None
    return ops.broadcast(inner.args[0], x.shape, tuple(x.attrs["axes"][axis] for axis in places))


@rule("iota")
def iota_is_one_axis(x: Node) -> Node | None:
    """iota over several axes -> broadcast of the iota over one"""
    if len(x.shape) < 2:
        return None
    axis = x.attrs["axis"]
    return ops.broadcast(ops.iota((x.shape[axis],), 0, x.dtype), x.shape, (axis,))


@rule("slice")
def slice_slice(x: Node) -> Node | None:
    """slice(slice(x)) -> slice(x)"""
    inner = x.args[0]
    if inner.op.name != "slice":
        return None
    a, b = inner.attrs, x.attrs
    starts = [s + step * t for s, step, t in zip(a["starts"], a["steps"], b["starts"])]
    steps = [p * q for p, q in zip(a["steps"], b["steps"])]
    # The last element kept decides where the slice ends; one past it is always inside the operand.
    stops = [start + (size - 1) * step + 1 if size != 0 else start
             for start, size, step in zip(starts, x.shape, steps)]
    return _typed(ops.slice(inner.args[0], tuple(starts), tuple(stops), tuple(steps)), x)


def _typed(new: Node, old: Node) -> Node | None:
    """The new node if its type is the old one's: sizes with floor divisions may not be recognised as equal."""
    return new if new.type == old.type else None


@rule("slice")
def slice_broadcast(x: Node) -> Node | None:
    """slice(broadcast(x)) -> broadcast(slice(x))"""
    inner = x.args[0]
    if inner.op.name != "broadcast":
        return None
    axes = inner.attrs["axes"]
    parts = (tuple(x.attrs[key][axis] for axis in axes) for key in ("starts", "stops", "steps"))
    return spread(ops.slice(inner.args[0], *parts), x.shape, axes)


@rule("slice")
def slice_concat(x: Node) -> Node | None:
    """slice(concat(a, b, ...)) -> a slice of the operand that it lies in"""
    inner = x.args[0]
    if inner.op.name != "concat":
        return None
    axis = inner.attrs["axis"]
    start, stop = x.attrs["starts"][axis], x.attrs["stops"][axis]
    low = 0
    for piece in inner.args:
        high = low + piece.shape[axis]
        if known_nonnegative(start - low) and known_nonnegative(high - stop):
            starts = _replaced(x.attrs["starts"], axis, start - low)
            return _typed(ops.slice(piece, starts, _replaced(x.attrs["stops"], axis, stop - low), x.attrs["steps"]), x)
        low = high
    return None


@rule("slice")
def slice_pad(x: Node) -> Node | None:
    """slice(pad(x)) -> the part of x, or the padding, where it lies in one of them"""
    inner = x.args[0]
    if inner.op.name != "pad" or any(inner.attrs["interior"]):
        return None
    source = inner.args[0]
    starts, stops = [], []
    for axis, low in enumerate(inner.attrs["low"]):
        start, stop = x.attrs["starts"][axis] - low, x.attrs["stops"][axis] - low
        if known_nonnegative(-stop) or known_nonnegative(start - source.shape[axis]):
            return fill(inner.attrs["value"], x.type)
        starts.append(start)
        stops.append(stop)
    inside = all(known_nonnegative(start) and known_nonnegative(size - stop)
                 for start, stop, size in zip(starts, stops, source.shape))
    return _typed(ops.slice(source, tuple(starts), tuple(stops), x.attrs["steps"]), x) if inside else None


@rule("pad")
def pad_pad(x: Node) -> Node | None:
    """pad(pad(x)) -> pad(x), both with the same value and none between the elements"""
    inner = x.args[0]
    if inner.op.name != "pad" or any(x.attrs["interior"]) or any(inner.attrs["interior"]):
        return None
    if repr(inner.attrs["value"]) != repr(x.attrs["value"]):
        return None
    low = tuple(a + b for a, b in zip(x.attrs["low"], inner.attrs["low"]))
    high = tuple(a + b for a, b in zip(x.attrs["high"], inner.attrs["high"]))
    return ops.pad(inner.args[0], low, high, x.attrs["interior"], x.attrs["value"])


@rule("pad")
def pad_constant(x: Node) -> Node | None:
    """pad(broadcast(value), value) -> broadcast(value)"""
    value = scalar(x.args[0])
    same = value is not None and value == x.attrs["value"] and str(float(value)) == str(float(x.attrs["value"]))
    return fill(value, x.type) if same else None


@rule("reverse")
def reverse_reverse(x: Node) -> Node | None:
    """reverse(reverse(x)) -> reverse(x) along the axes that are in one of them"""
    inner = x.args[0]
    if inner.op.name != "reverse":
        return None
    axes = tuple(sorted(set(x.attrs["axes"]) ^ set(inner.attrs["axes"])))
    return ops.reverse(inner.args[0], axes) if axes else inner.args[0]


@rule("reverse")
def reverse_broadcast(x: Node) -> Node | None:
    """reverse(broadcast(x)) -> broadcast(reverse(x))"""
    inner = x.args[0]
    if inner.op.name != "broadcast":
        return None
    axes = tuple(k for k, axis in enumerate(inner.attrs["axes"]) if axis in x.attrs["axes"])
    moved = ops.reverse(inner.args[0], axes) if axes else inner.args[0]
    return ops.broadcast(moved, x.shape, inner.attrs["axes"])


@rule("concat")
def concat_flat(x: Node) -> Node | None:
    """concat(a) -> a, concat(concat(a, b), c) -> concat(a, b, c), and empty pieces go"""
    axis = x.attrs["axis"]
    pieces: list[Node] = []
    for arg in x.args:
        nested = arg.op.name == "concat" and arg.attrs["axis"] == axis
        pieces += [piece for piece in (arg.args if nested else (arg,)) if piece.shape[axis] != 0]
    if len(pieces) == 1:
        return pieces[0]
    return ops.concat(tuple(pieces), axis) if pieces and tuple(pieces) != x.args else None


@rule("concat")
def concat_slices(x: Node) -> Node | None:
    """concat(x[a:b], x[b:c]) -> x[a:c]"""
    axis = x.attrs["axis"]
    for position, (a, b) in enumerate(zip(x.args, x.args[1:])):
        if a.op.name != "slice" or b.op.name != "slice" or a.args[0] is not b.args[0]:
            continue
        if a.attrs["stops"][axis] != b.attrs["starts"][axis] or a.attrs["steps"][axis] != 1:
            continue
        joined = _replaced(a.attrs["stops"], axis, b.attrs["stops"][axis])
        if a.attrs["steps"] != b.attrs["steps"] or joined != b.attrs["stops"]:
            continue
        if a.attrs["starts"] != _replaced(b.attrs["starts"], axis, a.attrs["starts"][axis]):
            continue
        piece = ops.slice(a.args[0], a.attrs["starts"], joined, a.attrs["steps"])
        return ops.concat((*x.args[:position], piece, *x.args[position + 2:]), axis)
    return None


@rule("add")
def add_pads(x: Node) -> Node | None:
    """pad(a) + pad(b) of ranges side by side -> pad(concat(a, b)); also z + pad(a) + pad(b)

    This is what gradients of slices leave.  Elsewhere the pads are zero, so that a term that moves past others which
    it does not overlap rounds nothing differently.
    """
    terms: list[Node] = []
    while x.op.name == "add" and _zero_pad(x.args[1]) is not None and len(terms) < LONGEST_SUM:
        terms.insert(0, x.args[1])
        x = x.args[0]
    terms.insert(0, x)
    for i, a in enumerate(terms):
        for j, b in enumerate(terms):
            joined = _join(a, b) if i != j else None
            if joined is None or not all(_apart(b, term) for term in terms[min(i, j) + 1:max(i, j)]):
                continue
            first, *rest = (joined if k == i else term for k, term in enumerate(terms) if k != j)
            return reduce(ops.add, rest, first)
    return None


def _zero_pad(x: Node) -> int | None:
    """The one axis that a pad with zeros adds to, None for anything else."""
    if x.op.name != "pad" or x.attrs["value"] != 0 or any(x.attrs["interior"]):
        return None
    axes = [axis for axis, amounts in enumerate(zip(x.attrs["low"], x.attrs["high"])) if any(amounts)]
    return axes[0] if len(axes) == 1 else None


def _join(a: Node, b: Node) -> Node | None:
    """pad(a) + pad(b) as one pad, if a's elements end where b's begin."""
    axis = _zero_pad(a)
    if axis is None or axis != _zero_pad(b):
        return None
    if a.attrs["low"][axis] + a.args[0].shape[axis] != b.attrs["low"][axis]:
        return None
    both = ops.concat((a.args[0], b.args[0]), axis)
    high = _replaced(a.attrs["high"], axis, b.attrs["high"][axis])
    if not any(a.attrs["low"]) and not any(high):
        return both
    return ops.pad(both, a.attrs["low"], high, a.attrs["interior"], a.attrs["value"])


def _apart(a: Node, b: Node) -> bool:
    """True if two pads with zeros are known not to overlap."""
    axis = _zero_pad(a)
    if axis is None or axis != _zero_pad(b):
        return False
    (low_a, high_a), (low_b, high_b) = ((x.attrs["low"][axis], x.attrs["low"][axis] + x.args[0].shape[axis])
                                        for x in (a, b))
    return known_nonnegative(low_b - high_a) or known_nonnegative(low_a - high_b)


def _replaced(values: tuple, position: int, value) -> tuple:
    return (*values[:position], value, *values[position + 1:])
