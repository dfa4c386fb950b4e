"""The arena: where each buffer lies, from the steps between which it is needed."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate

from .schedule import Buffer, External, ScanStep

ALIGNMENT = 64
NEAR = 1.01             # of the least size, at which no other plan is looked for


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
    """Byte offsets and the arena's size: of a few plans the first that is hardly larger than it must be, or the
    smallest.

    The first one places large buffers first, each at the lowest place that is free while it lives; it mostly needs no
    byte more than it must.  In the others what lives when most memory is needed comes first: the largest of it, each
    buffer where it leaves least; or what lives longest.  From these follow more, in which what came to lie beyond the
    least size goes first.
    """
    sizes = {buffer: -(-nbytes[buffer] // ALIGNMENT) * ALIGNMENT for buffer in spans}
    live = _live(spans, sizes)
    least = max(live, default=0)
    peaks = {buffer: max(live[first:last + 1]) for buffer, (first, last) in spans.items()}
    best: tuple[dict[Buffer, int], int] | None = None
    for key, choose, turns in (
            (lambda buffer: (-sizes[buffer], spans[buffer]), min, 1),
            (lambda buffer: (-peaks[buffer], -sizes[buffer], spans[buffer]), _tightest, 3),
            (lambda buffer: (-peaks[buffer], spans[buffer][0] - spans[buffer][1], -sizes[buffer]), min, 4)):
        order = sorted(spans, key=key)
        for _ in range(turns):
            made = _placed(order, spans, sizes, choose)
            best = made if best is None or made[1] < best[1] else best
            if best[1] <= NEAR * least:
                return best
            beyond = {buffer for buffer, offset in made[0].items() if offset + sizes[buffer] > least}
            order = [*(b for b in order if b in beyond), *(b for b in order if b not in beyond)]
    assert best is not None
    return best


def _tightest(gaps: list[tuple[int, int]]) -> tuple[int, int]:
    return min(gaps, key=lambda gap: (gap[1] - gap[0], gap))


def _placed(order: Iterable[Buffer], spans: Mapping[Buffer, tuple[int, int]], sizes: Mapping[Buffer, int],
            choose: Callable[[list[tuple[int, int]]], tuple[int, int]]) -> tuple[dict[Buffer, int], int]:
    """A plan of buffers in this order, each at the beginning of one of the gaps, from and to, that are wide enough."""
    placed: list[tuple[int, int, int, int]] = []       # offset, end, first step, last step
    offsets: dict[Buffer, int] = {}
    total = 0
    for buffer in order:
        first, last = spans[buffer]
        gaps, free = [], 0
        for start, end, other_first, other_last in placed:
            if other_last < first or last < other_first:
                continue
            if start >= free + sizes[buffer]:
                gaps.append((free, start))
            free = max(free, end)
        offset = choose(gaps)[0] if gaps else free
        offsets[buffer] = offset
        insort(placed, (offset, offset + sizes[buffer], first, last))
        total = max(total, offset + sizes[buffer])
    return offsets, total


def live_bound(spans: Mapping[Buffer, tuple[int, int]], nbytes: Mapping[Buffer, int]) -> int:
    """The largest total size of buffers that live at one step: no arena can be smaller."""
    return max(_live(spans, nbytes), default=0)


def _live(spans: Mapping[Buffer, tuple[int, int]], nbytes: Mapping[Buffer, int]) -> list[int]:
    """The total size of the buffers that live at each step."""
    change = [0] * (max((last for _, last in spans.values()), default=-1) + 2)
    for buffer, (first, last) in spans.items():
        change[first] += nbytes[buffer]
        change[last + 1] -= nbytes[buffer]
    return list(accumulate(change))
