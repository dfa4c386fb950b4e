"""The arena: where each buffer lies, from the steps between which it is needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .schedule import Buffer, External, ScanStep

ALIGNMENT = 64


def buffers_of(step) -> set[Buffer]:
    """The arena buffers that a step touches."""
    return {memory for memory in memory_of(step) if isinstance(memory, Buffer)}


def memory_of(step) -> set[Buffer | External]:
    """All memory that a step touches, the caller's too; a scan touches all of its body's."""
    if isinstance(step, ScanStep):
        return set().union(*map(memory_of, step.body))
    return {view.buffer for view in step.views}


def lifetimes(steps: Iterable) -> dict[Buffer, tuple[int, int]]:
    """First and last step that need each buffer."""
    spans: dict[Buffer, tuple[int, int]] = {}
    for position, step in enumerate(steps):
        for buffer in buffers_of(step):
            first, _ = spans.get(buffer, (position, position))
            spans[buffer] = (first, position)
    return spans


def plan(spans: Mapping[Buffer, tuple[int, int]], nbytes: Mapping[Buffer, int]) -> tuple[dict[Buffer, int], int]:
    """Byte offsets and the arena's size: largest buffers first, each at the lowest place that is free while it lives.
    """
    placed: list[tuple[int, int, int, int]] = []       # offset, end, first step, last step
    offsets: dict[Buffer, int] = {}
    total = 0
    order = sorted(spans, key=lambda buffer: (-nbytes[buffer], spans[buffer]))
    for buffer in order:
        first, last = spans[buffer]
        size = -(-nbytes[buffer] // ALIGNMENT) * ALIGNMENT
        offset = 0
        for start, end, other_first, other_last in sorted(placed):
            if other_last < first or last < other_first or end <= offset:
                continue
            if start >= offset + size:
                break
            offset = end
        offsets[buffer] = offset
        placed.append((offset, offset + size, first, last))
        total = max(total, offset + size)
    return offsets, total


def live_bound(spans: Mapping[Buffer, tuple[int, int]], nbytes: Mapping[Buffer, int]) -> int:
    """The largest total size of buffers that live at one step: no arena can be smaller."""
    change: dict[int, int] = {}
    for buffer, (first, last) in spans.items():
        change[first] = change.get(first, 0) + nbytes[buffer]
        change[last + 1] = change.get(last + 1, 0) - nbytes[buffer]
    total = bound = 0
    for position in sorted(change):
        total += change[position]
        bound = max(bound, total)
    return bound
