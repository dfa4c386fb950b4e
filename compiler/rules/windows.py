"""Rules for poolings of which only some windows are used, as a convolution with strides does behind one without.

A rule sees one reader alone: a pooling that another reads whole is then computed, for a part, twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .. import ops
from ..ir import Node
from ..ops.contract import Index, affine, plain
from ..types import Size
from .contraction import contract_like, stays_inside
from .table import rule

# Fewer channels than a vector has elements: the windows of a row, which lie side by side in memory, are then faster
# computed all than one by one.
FEW_CHANNELS = 8


@rule("contract")
def only_windows_read(x: Node) -> Node | None:
    """contract that reads every s-th window of a pooling -> contract of a pooling with strides s times as long"""
    for position, (operand, places) in enumerate(zip(x.args, x.attrs["maps"])):
        if operand.op.name != "window_take":
            continue
        spatial = operand.shape[1:-1]
        runs = [_run(x, index, size) for index, size in zip(places[1:-1], spatial)]
        if _goes_by_rows(operand):
            runs[-1] = 0, 1
        steps = [step for _, step in runs]
        if all(step == 1 for step in steps) or 0 in _extents(x):
            continue
        operands, maps = list(x.args), list(x.attrs["maps"])
        counts = [_extents(x)[which] if step != 1 else size for (which, step), size in zip(runs, spatial)]
        operands[position] = _every(operand, steps, counts)
        inner = (plain(which) if step != 1 else index for (which, step), index in zip(runs, places[1:-1]))
        maps[position] = (places[0], *inner, places[-1])
        return contract_like(x, operands, maps)
    return None


def _goes_by_rows(windows: Node) -> bool:
    """Whether all windows of a row are to be computed: of an image that comes in; nobody asks for the gradient of that,
    which would need those alone that are read."""
    source, channels = windows.args[0], windows.shape[-1]
    return source.op.name == "input" and isinstance(channels, int) and channels < FEW_CHANNELS


def _extents(x: Node) -> tuple[Size, ...]:
    return *x.shape, *x.attrs["reduce"]


def _run(x: Node, index: Index, size: Size) -> tuple[int, int]:
    """(i, s) of a coordinate that is s times the index i, and never beyond the edge; of any other (0, 1)."""
    terms = [(which, step) for which, step in index.terms if _extents(x)[which] != 1]
    if len(terms) != 1 or index.offset != 0 or not stays_inside(x, index, size):
        return 0, 1
    (which, step), = terms
    return (which, step) if isinstance(step, int) and step > 1 else (0, 1)


@rule("window_put")
def only_windows_written(x: Node) -> Node | None:
    """window_put of a contract that is 0 but for every s-th window -> window_put of those, with longer strides"""
    values, chosen = x.args
    if values.op.name != "contract":
        return None
    steps = [max((index.divisor for places in values.attrs["maps"] for index in places if _is_multiple(index, axis)),
                 default=1) for axis in range(values.type.rank)]
    steps[0] = steps[-1] = 1
    if all(step == 1 for step in steps) or 0 in values.shape:
        return None
    counts = [(size + step - 1) // step if step != 1 else size for size, step in zip(values.shape, steps)]
    maps = [[affine({which: factor * (steps[which] if which < len(steps) else 1) for which, factor in index.terms},
                    index.offset, index.divisor) for index in places] for places in values.attrs["maps"]]
    fewer = ops.contract(values.args, counts, values.attrs["reduce"], maps)
    return ops.window_put(fewer, _every(chosen, steps[1:-1], counts[1:-1]), x.attrs["sizes"],
                          _longer(x, steps[1:-1]), x.attrs["low"], x.attrs["in_sizes"])


def _is_multiple(index: Index, axis: int) -> bool:
    """Whether a coordinate is a whole number only where the index of this axis is a multiple of its divisor."""
    return index.terms == ((axis, 1),) and index.offset == 0


def _longer(windows: Node, steps: Sequence[int]) -> list[int]:
    return [stride * step for stride, step in zip(windows.attrs["strides"], steps)]


def _every(windows: Node, steps: Sequence[int], counts: Sequence[Size]) -> Node:
    """Every s-th of the values, or positions, of windows: so many of them."""
    if windows.op.name not in ("window_take", "window_argmax"):
        stops = [(count - 1) * step + 1 for step, count in zip(steps, counts)]
        ends = windows.shape[0], windows.shape[-1]
        return ops.slice(windows, (0,) * windows.type.rank, (ends[0], *stops, ends[1]), (1, *steps, 1))
    settings = windows.attrs["sizes"], _longer(windows, steps), windows.attrs["low"], counts
    if windows.op.name == "window_argmax":
        return ops.window_argmax(windows.args[0], *settings)
    return ops.window_take(windows.args[0], _every(windows.args[1], steps, counts), *settings)


def windows_of(whole: Node, values: Iterable[Node]) -> list[Node]:
    """Those of the values that are some windows of this pooling."""
    if whole.op.name not in ("window_take", "window_argmax"):
        return []

    def is_part(value: Node) -> bool:
        same = value.op is whole.op and value.args[0] is whole.args[0] and all(
            value.attrs[name] == whole.attrs[name] for name in ("sizes", "low"))
        return same and all(longer % stride == 0 for longer, stride in zip(value.attrs["strides"],
                                                                           whole.attrs["strides"]))
    return [value for value in values if is_part(value)]
