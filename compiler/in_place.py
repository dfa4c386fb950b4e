"""Outputs computed in the memory of what they replace: new weights over the old ones, new moments over the old.

A training step reads and writes every element of its state once; in memory of its own the new state would take as much
cache again, and a write to memory that is not in the cache reads it first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from .loops import Affine, Follow, For, Kernel, Load, Share, Store, Units
from .nest import View
from .schedule import External, ScanStep, Step
from .types import Size

Span = tuple[int, int]          # elements of a memory, from and to
EVERYTHING: Span = (0, 2 ** 63)


def share_memory(steps: Sequence, pairs: Mapping[External, External]) -> tuple[tuple, set[External]]:
    """The steps with outputs in the memory of what they replace (``pairs``: output -> old value), and which outputs
    are.

    An output stays where it was if an element of the old value may be read after its new value is written.
    """
    shared = set()
    for new, old in pairs.items():
        moved = _moved(steps, new, old)
        if moved is not None:
            steps = moved
            shared.add(new)
    return tuple(steps), shared


def _moved(steps: Sequence, new: External, old: External) -> list | None:
    moved: list = []
    written: list = []
    for step in steps:
        touched = _memory(step)
        if old in touched and _overlap(_spans(step, old, Load), written):
            return None
        if new in touched:
            written += _spans(step, new, Store)
            step = _merged(step, new, old) if isinstance(step, Step) and step.kernel is not None else None
            if step is None:
                return None
        moved.append(step)
    return moved


def _memory(step) -> set:
    if isinstance(step, ScanStep):
        return set().union(*map(_memory, step.body)) if step.body else set()
    return {view.buffer for view in step.views}


def _merged(step: Step, new: External, old: External) -> Step | None:
    """The step with both in one memory; None if an element of the old value may be read after it is replaced, or if the
    step goes over the output more than once."""
    if _spans(step, new, Load) and _spans(step, old, Load):
        return None
    first = next(view for view in step.views if view.buffer is new)
    shifts = [view.offset - first.offset if view.buffer in (new, old) else 0 for view in step.views]
    moved = [replace(first, buffer=old) if view.buffer in (new, old) else view for view in step.views]
    views = tuple(dict.fromkeys(moved))
    number = [views.index(view) for view in moved]
    accesses = list(_accesses(step.code.body))
    writes = {access.place(shifts): position for position, access in reversed(list(enumerate(accesses)))
              if access.kind is Store and step.views[access.buffer].buffer is new}
    written = _spans(step, new, Store)
    for position, access in enumerate(accesses):
        view = step.views[access.buffer]
        if access.kind is Load and view.buffer is old and _overlap([access.span(view)], written):
            replaced = writes.get(access.place(shifts), -1)
            if replaced < position:
                return None
    dtypes = tuple(view.dtype for view in views)
    return replace(step, views=views, kernel=Kernel(dtypes, _renumbered(step.code.body, number, shifts)))


@dataclass(frozen=True)
class _Access:
    """A load or store, and how far the loops around it run."""

    kind: type
    statement: Load | Store
    extents: Mapping[str, Size]

    @property
    def buffer(self) -> int:
        return self.statement.buffer

    def place(self, shifts: Sequence[Size]) -> tuple:
        """Equal for two accesses to the one memory, in the same turn of the loops, only if they are to one element."""
        return (self.statement.index + shifts[self.buffer]).key, self.statement.dynamic

    def span(self, view: View) -> Span:
        """The elements of the view's memory among which it stays."""
        index = self.statement.index
        low = high = view.offset + index.offset
        for name, stride in index.terms.items():
            if name not in self.extents:
                return EVERYTHING
            reach = stride * (self.extents[name] - 1)
            if not isinstance(reach, int):
                return EVERYTHING
            low, high = low + min(reach, 0), high + max(reach, 0)
        if self.statement.dynamic or not isinstance(low, int) or not isinstance(high, int):
            return EVERYTHING
        return low, high + 1


def _spans(step, memory: External, kind: type) -> list[Span]:
    """The elements of a memory that a step reads (``kind`` Load) or writes (Store); a bound."""
    if not isinstance(step, Step) or step.kernel is None:
        return [EVERYTHING] if memory in _memory(step) else []
    return [access.span(step.views[access.buffer]) for access in _accesses(step.code.body)
            if access.kind is kind and step.views[access.buffer].buffer is memory]


def _overlap(some: Iterable[Span], others: Sequence[Span]) -> bool:
    return any(a < d and c < b for a, b in some for c, d in others)


def _accesses(body: Iterable, extents: Mapping[str, Size] | None = None) -> Iterator[_Access]:
    """Loads and stores in order."""
    extents = extents or {}
    for statement in body:
        if isinstance(statement, (Load, Store)):
            yield _Access(type(statement), statement, extents)
        elif isinstance(statement, For):
            yield from _accesses(statement.body, {**extents, statement.variable: statement.extent})
        elif isinstance(statement, (Share, Units)):
            yield from _accesses(statement.body, {**extents, **dict(statement.split)})
        elif isinstance(statement, Follow):
            link = Load(statement.variable, statement.buffer, Affine.variable(statement.variable))
            yield _Access(Load, link, extents)
            yield from _accesses(statement.body, extents)
        else:
            yield from _accesses(getattr(statement, "body", ()), extents)


def _renumbered(body: tuple, number: Sequence[int], shifts: Sequence[Size]) -> tuple:
    made: list = []
    for s in body:
        if isinstance(s, Follow):
            s = replace(s, buffer=number[s.buffer])
        if isinstance(s, (Load, Store)):
            made.append(replace(s, buffer=number[s.buffer], index=s.index + shifts[s.buffer]))
        else:
            made.append(replace(s, body=_renumbered(s.body, number, shifts)) if hasattr(s, "body") else s)
    return tuple(made)
