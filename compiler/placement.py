"""Where every stored value of a graph lies, decided before any step is made.

A value that is an output, as it is or in another shape, lies in the output's memory.  A piece of a concatenation is
computed in its part of it, and what a convolution or a pooling reads beyond its edges is computed inside a border of
fillers: neither is copied.  Every other value has a dense buffer of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from ..runtime.records import dataclass
from .contraction import margins_of, phases_of
from .fuse import CONTIGUOUS, Fusion, is_max_pooling, is_spread, split_of, through_reshapes
from .ir import Node, topological
from .nest import View, strides
from .schedule import Buffer, identity_of
from .types import Size, known_nonnegative, product

Margins = tuple[tuple[int, int], ...]       # elements before and after each dimension
UNROLLED_WINDOW = 36        # elements of a pooling's window that a kernel reads at once


@dataclass
class Placement:
    """Views of values.  ``pieces``: those that lie in their concatenation.  ``margins``: what is read beyond the edges
    of a value, with which filler; ``bordered``: values that lie inside such a border, and its filler."""

    views: dict[Node, View]
    pieces: set[tuple[Node, int]] = field(default_factory=set)
    margins: dict[tuple[Node, float], Margins] = field(default_factory=dict)
    bordered: dict[Node, float] = field(default_factory=dict)


def place(fusion: Fusion, views: Mapping[Node, View], outputs: Mapping[str, View]) -> Placement:
    """``views``: memory of leaves; ``outputs``: that of results, dense."""
    made = Placement(dict(views), margins=_margins(fusion))
    for name, value in fusion.outputs.items():
        stored = through_reshapes(value)
        if stored in fusion and stored not in made.views and (stored is value or stored.op.name != "scan"):
            made.views[stored] = outputs[name]
    dense = _dense(fusion)
    for current in reversed(fusion.stored):
        if current.op.name == "scan":
            continue
        if current not in made.views:
            made.views[current] = _own(made, current, current in dense)
        if current.op.name == "concat":
            _place_pieces(made, fusion, current, dense)
    return made


def _own(made: Placement, current: Node, dense: bool) -> View:
    """A buffer of its own, with a border where something reads beyond the value's edges."""
    fill = next((fill for value, fill in made.margins if value is current), None)
    if dense or fill is None:
        return View(Buffer(current.type.size, current.dtype), 0, current.dtype)
    made.bordered[current] = fill
    return bordered_view(current, made.margins[current, fill])


def bordered_view(value: Node, margins: Margins) -> View:
    """New memory for a value inside a border."""
    shape = [low + size + high for (low, high), size in zip(margins, value.shape)]
    steps = strides(shape)
    first: Size = 0
    for (low, _), step in zip(margins, steps):
        first = first + step * low
    return View(Buffer(product(shape), value.dtype), first, value.dtype, steps)


def _place_pieces(made: Placement, fusion: Fusion, current: Node, dense: set[Node]) -> None:
    """Let the pieces of a concatenation be computed in place."""
    axis, view = current.attrs["axis"], made.views[current]
    steps = view.steps or strides(current.shape)
    leading = all(size == 1 for size in current.shape[:axis]) and view.steps is None
    offset = view.offset
    for position, piece in enumerate(current.args):
        base = through_reshapes(piece) if leading else piece
        free = base in fusion and base not in made.views and base.op.name != "scan"
        if free and (leading or base not in dense):
            made.views[base] = View(view.buffer, offset, view.dtype, None if leading else steps)
            made.pieces.add((current, position))
        offset = offset + piece.shape[axis] * steps[axis]


def _dense(fusion: Fusion) -> set[Node]:
    """Values that some reader, or the way they are made, needs without gaps."""
    dense = {through_reshapes(value) for value in fusion.outputs.values()}
    for current in topological(fusion.outputs.values()):
        name = current.op.name
        if name in CONTIGUOUS:
            dense.update(through_reshapes(arg) for arg in current.args)
        elif name == "gather" or (name == "window_take" and not is_max_pooling(current)):
            dense.add(through_reshapes(current.args[0]))
        elif name == "reshape" and split_of(current) is None:
            dense.add(current.args[0])
        if name == "scatter_add" or is_spread(current):
            dense.add(current)
    return dense


def _margins(fusion: Fusion) -> dict[tuple[Node, float], Margins]:
    """How far contractions, poolings' gradients (filler 0) and poolings (the least value) read beyond the edges of
    values, at most."""
    found: dict[tuple[Node, float], Margins] = {}

    def add(value: Node, fill: float, margins) -> None:
        if margins is None or not any(low or high for low, high in margins):
            return
        have = found.get((value, fill), ((0, 0),) * value.type.rank)
        found[value, fill] = tuple((max(a, c), max(b, d)) for (a, b), (c, d) in zip(have, margins))

    for current in fusion.stored:
        if current.op.name == "contract":
            phases = [phase for phase in phases_of(current) if not phase.empty]
            for position, operand in enumerate(current.args):
                add(operand, 0, margins_of(current, position, phases))
        elif current.op.name == "window_argmax" or is_max_pooling(current):
            source = current.args[0]
            add(source, identity_of("max", source.dtype), window_margins(current))
        elif current.op.name == "window_put":
            for operand in current.args:
                add(operand, 0, put_margins(current))
    return found


def window_margins(current: Node) -> Margins | None:
    """How far the windows of a pooling leave its operand; None where that is not a number."""
    margins = [(0, 0)]
    attrs = current.attrs
    for axis, (size, stride, low) in enumerate(zip(attrs["sizes"], attrs["strides"], attrs["low"])):
        high = (current.shape[axis + 1] - 1) * stride + size - low - current.args[0].shape[axis + 1]
        high = 0 if known_nonnegative(-high) else high
        if not isinstance(low, int) or not isinstance(high, int):
            return None
        margins.append((low, high))
    return (*margins, (0, 0))


@dataclass(frozen=True)
class Residue:
    """Those elements of an axis that lie ``first``, ``first`` + stride, ...: how many there are, and which windows
    cover the n-th of them: the one of number n + shift has it at ``place``, for each (place, shift)."""

    first: int
    count: Size
    windows: tuple[tuple[int, int], ...]


def put_residues(current: Node) -> tuple[tuple[Residue, ...], ...] | None:
    """The elements of each axis of a pooling's gradient by the windows that cover them, where an element may read all
    of its windows at once: they are few, and stand at known places; None elsewhere."""
    attrs = current.attrs
    if max(product(attrs["sizes"]), product(attrs["strides"])) > UNROLLED_WINDOW:
        return None
    axes = []
    for axis, (size, stride, low) in enumerate(zip(attrs["sizes"], attrs["strides"], attrs["low"])):
        if not isinstance(low, int):
            return None
        axes.append(tuple(_residue(first, size, stride, low, current.shape[axis + 1]) for first in range(stride)))
    known = all(isinstance(high, int) for residues, windows in zip(axes, current.args[0].shape[1:-1])
                for _, high in _beyond(residues, windows))
    return tuple(axes) if known else None


def _residue(first: int, size: int, stride: int, low: int, length: Size) -> Residue:
    """Of an axis of so many elements; window w covers w * stride - low + (0 .. size - 1)."""
    shift, place = divmod(first + low, stride)
    count = (length - first + stride - 1) // stride
    return Residue(first, count, tuple((at, shift - turn) for turn, at in enumerate(range(place, size, stride))))


def _beyond(residues: tuple[Residue, ...], windows: Size) -> list[tuple[int, Size]]:
    """How far each residue's elements read before and after so many windows of an axis; below 0: not at all."""
    return [(-shift, residue.count + shift - windows) for residue in residues for _, shift in residue.windows]


def put_margins(current: Node) -> Margins | None:
    """How far a pooling's gradient that reads all windows of an element at once reads beyond the edges of the windows'
    values and positions; None where it does not."""
    axes = put_residues(current)
    if axes is None:
        return None
    beyond = (_beyond(residues, windows) for residues, windows in zip(axes, current.args[0].shape[1:-1]))
    return ((0, 0), *(tuple(max(0, *sides) for sides in zip(*each, (0, 0))) for each in beyond), (0, 0))
