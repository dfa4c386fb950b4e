"""Kernels that differ only in where their operands begin become one kernel: what is the same in every access to a
buffer is where its view begins, not a part of the index.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..runtime.records import changed
from .loops import Follow, Load, Store, replaced, statements
from .schedule import ScanStep, Step
from .types import Size


def rebase(steps: Iterable) -> list:
    """The steps with views that begin where their kernels' accesses do."""
    return [changed(step, body=tuple(rebase(step.body))) if isinstance(step, ScanStep) else _rebased(step)
            for step in steps]


def _rebased(step: Step) -> Step:
    if step.kernel is None:
        return step
    shifts: dict[int, Size] = {}
    mixed: set[int] = set()
    for buffer, offset in _offsets(step.code.body):
        if offset is None or shifts.setdefault(buffer, offset) != offset:
            mixed.add(buffer)
    shifts = {buffer: offset for buffer, offset in shifts.items() if offset != 0 and buffer not in mixed}
    if not shifts:
        return step

    def moved(s):
        is_moved = isinstance(s, (Load, Store)) and s.buffer in shifts
        return changed(s, index=s.index - shifts[s.buffer]) if is_moved else s
    views = tuple(changed(view, offset=view.offset + shifts.get(buffer, 0)) for buffer, view in enumerate(step.views))
    return changed(step, views=views, kernel=changed(step.code, body=replaced(step.code.body, moved)))


def _offsets(body: Iterable) -> Iterator[tuple[int, Size | None]]:
    """The buffer of each access and the part of its index that does not change; None where that says nothing: a guarded
    load takes the buffer's first element where the guard fails."""
    for statement in statements(body):
        if isinstance(statement, (Load, Store)):
            is_guarded = isinstance(statement, Load) and statement.guard is not None
            yield statement.buffer, None if is_guarded else statement.index.offset
        elif isinstance(statement, Follow):
            yield statement.buffer, None
