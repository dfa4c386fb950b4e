"""Values computed in the memory of what they replace: new weights over the old ones, new moments over the old, and
inner values over those that nobody reads any more.

A training step reads and writes every element of its state once; in memory of its own the new state would take as much
cache again, and a write to memory that is not in the cache reads it first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from ..runtime.records import changed, dataclass
from .loops import Affine, Follow, For, Kernel, Load, Share, Store, Units, replaced
from .memory import buffers_of, lifetimes, memory_of
from .nest import View
from .schedule import Buffer, Extent, External, ScanStep, Step
from .types import Size

Memory = Buffer | External
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
        touched = memory_of(step)
        if written and old in touched and overlap(spans_of(step, old, Load), written):
            return None
        if new in touched:
            written += spans_of(step, new, Store)
            step = _merged(step, new, old) if isinstance(step, Step) and step.kernel is not None else None
            if step is None:
                return None
        moved.append(step)
    return moved


def _merged(step: Step, new: External, old: External) -> Step | None:
    """The step with both in one memory; None if an element of the old value may be read after it is replaced, or if the
    step goes over the output more than once."""
    if spans_of(step, new, Load) and spans_of(step, old, Load):
        return None
    shifts = _shifts(step, new, old)
    accesses = list(_accesses(step.code.body))
    writes = {access.place(shifts): position for position, access in reversed(list(enumerate(accesses)))
              if access.kind is Store and step.views[access.buffer].buffer is new}
    written = spans_of(step, new, Store)
    for position, access in enumerate(accesses):
        view = step.views[access.buffer]
        if access.kind is Load and view.buffer is old and overlap([access.span(view)], written):
            replaced = writes.get(access.place(shifts), -1)
            if replaced < position:
                return None
    return _in_one(step, new, old)


def _shifts(step: Step, new: Memory, old: Memory) -> list[Size]:
    """For each view, how far its element 0 is from that of the first of ``new``, if the two memories are one."""
    first = next(view for view in step.views if view.buffer is new)
    return [view.offset - first.offset if view.buffer in (new, old) else 0 for view in step.views]


def _in_one(step: Step, new: Memory, old: Memory) -> Step:
    """The step with one view of the memory ``old`` where it had some of either."""
    shifts = _shifts(step, new, old)
    first = next(view for view in step.views if view.buffer is new)
    moved = [changed(first, buffer=old) if view.buffer in (new, old) else view for view in step.views]
    views = tuple(dict.fromkeys(moved))
    number = [views.index(view) for view in moved]
    dtypes = tuple(view.dtype for view in views)

    def renumbered(s):
        if isinstance(s, (Load, Store)):
            return changed(s, buffer=number[s.buffer], index=s.index + shifts[s.buffer])
        return changed(s, buffer=number[s.buffer]) if isinstance(s, Follow) else s
    return replace(step, views=views, kernel=Kernel(dtypes, replaced(step.code.body, renumbered)))


# --- inner values -----------------------------------------------------------------------------------------------------


def reuse_memory(steps: Iterable) -> list:
    """The steps with inner values in the memory of those that they are made of, where each element is made of the one
    in its place, and nobody reads that later."""
    made = list(steps)
    spans = lifetimes(made)
    users: dict[Buffer, set[int]] = {buffer: set() for buffer in spans}
    for position, step in enumerate(made):
        for buffer in buffers_of(step):
            users[buffer].add(position)
    fixed = {buffer for step in made if isinstance(step, ScanStep) for buffer in buffers_of(step)}
    for position, step in enumerate(made):
        if not isinstance(step, Step) or step.kernel is None or step.matrix is not None:
            continue
        for new in dict.fromkeys(view.buffer for view in step.views):
            if new not in spans or new in fixed or spans[new][0] < position:
                continue
            step = made[position]
            old = next((old for old in dict.fromkeys(view.buffer for view in step.views)
                        if old in spans and old not in fixed and spans[old][1] == position and old is not new
                        and (old.size, old.dtype) == (new.size, new.dtype) and _may_follow(step, new, old)), None)
            if old is None:
                continue
            made[position] = _in_one(step, new, old)
            first, last = spans[old][0], spans.pop(new)[1]
            spans[old] = first, last
            moved = users.pop(new)
            users[old] |= moved
            for later in moved - {position}:
                made[later] = _moved_to(made[later], new, old)
    return made


def _may_follow(step: Step, new: Buffer, old: Buffer) -> bool:
    """Whether each element of ``new`` is written after all that the step does with that element of ``old``, by the unit
    that does it."""
    shifts = _shifts(step, new, old)
    stores: list[tuple[int, tuple]] = []
    before: list[tuple[int, tuple]] = []
    for position, access in enumerate(_accesses(step.code.body)):
        memory = step.views[access.buffer].buffer
        if access.is_anywhere and memory in (new, old):
            return False
        if memory is old or (memory is new and access.kind is Store):
            (before if memory is old else stores).append((position, access.place_in_unit(shifts)))
    places = {place for _, place in (*stores, *before)}
    return bool(stores and before) and len(places) == 1 and before[-1][0] < stores[0][0]


def _moved_to(step, new: Buffer, old: Buffer):
    """The step with ``old`` for ``new``."""
    def moved(view: View) -> View:
        return changed(view, buffer=old) if view.buffer is new else view

    matrix = step.matrix
    if matrix is not None:
        matrix = replace(matrix, a=moved(matrix.a), b=moved(matrix.b), c=moved(matrix.c))
    return replace(step, views=tuple(map(moved, step.views)), matrix=matrix)


@dataclass(frozen=True)
class _Access:
    """A load or store, and how far the loops around it run."""

    kind: type
    statement: Load | Store
    extents: Mapping[str, Size]
    inner: tuple[str, ...] = ()         # the loops around it that are not the units'

    @property
    def buffer(self) -> int:
        return self.statement.buffer

    def place(self, shifts: Sequence[Size]) -> tuple:
        """Equal for two accesses to the one memory, in the same turn of the loops, only if they are to one element."""
        return (self.statement.index + shifts[self.buffer]).key, self.statement.dynamic

    def place_in_unit(self, shifts: Sequence[Size]) -> tuple:
        """As ``place``, equal too for accesses in loops that go one after the other over the same elements."""
        names = {name: f"loop{depth}" for depth, name in enumerate(self.inner)}
        index = self.statement.index.rename({name: Affine.variable(new) for name, new in names.items()})
        return (index + shifts[self.buffer]).key, tuple((names[name], self.extents[name]) for name in self.inner)

    @property
    def is_anywhere(self) -> bool:
        """Whether a value says which element it is, or whether it is one."""
        return bool(self.statement.dynamic) or getattr(self.statement, "guard", None) is not None

    def span(self, view: View) -> Span:
        """The elements of the view's memory among which it stays."""
        index = self.statement.index
        if self.statement.dynamic or any(name not in self.extents for name in index.terms):
            return EVERYTHING
        return _span(view.offset + index.offset, [(stride, self.extents[name]) for name, stride in index.terms.items()])


def spans_of(step, memory: Memory, kind: type) -> list[Span]:
    """The elements of a memory that a step reads (``kind`` Load) or writes (Store); a bound."""
    if isinstance(step, ScanStep):
        return [span for inner in step.body for span in spans_of(inner, memory, kind)]
    if step.matrix is not None:
        return _spans_of_product(step, memory, kind)
    return [access.span(step.views[access.buffer]) for access in _accesses(step.code.body)
            if access.kind is kind and step.views[access.buffer].buffer is memory]


def _spans_of_product(step: Step, memory: Memory, kind: type) -> list[Span]:
    """The same of a product."""
    matrix = step.matrix
    if matrix is None or step.kernel is not None:
        return [EVERYTHING]
    extents = (*matrix.batch, *matrix.rows, *matrix.sums, Extent(matrix.columns, 0, matrix.column_stride, 1))
    touched = [matrix.c] if kind is Store else [matrix.a, matrix.b] + [matrix.c] * matrix.accumulates
    return [_span(view.offset, [(getattr(extent, which), extent.size) for extent in extents])
            for which, view in zip("c" if kind is Store else "abc", touched) if view.buffer is memory]


def _span(first: Size, steps: Iterable[tuple[Size, Size]]) -> Span:
    """The elements from the first that steps of such a size, each so often but one, lead to."""
    low = high = first
    for stride, extent in steps:
        if isinstance(stride, int) and stride == 0:
            continue
        reach = stride * (extent - 1)
        if not isinstance(reach, int):
            return EVERYTHING
        low, high = low + min(reach, 0), high + max(reach, 0)
    return (low, high + 1) if isinstance(low, int) and isinstance(high, int) else EVERYTHING


def overlap(some: Iterable[Span], others: Sequence[Span]) -> bool:
    return any(a < d and c < b for a, b in some for c, d in others)


def _accesses(body: Iterable, extents: Mapping[str, Size] | None = None,
              inner: tuple[str, ...] = ()) -> Iterator[_Access]:
    """Loads and stores in order."""
    extents = extents or {}
    for statement in body:
        if isinstance(statement, (Load, Store)):
            yield _Access(type(statement), statement, extents, inner)
        elif isinstance(statement, For):
            yield from _accesses(statement.body, {**extents, statement.variable: statement.extent},
                                 (*inner, statement.variable))
        elif isinstance(statement, (Share, Units)):
            yield from _accesses(statement.body, {**extents, **dict(statement.split)}, inner)
        elif isinstance(statement, Follow):
            link = Load(statement.variable, statement.buffer, Affine.variable(statement.variable))
            yield _Access(Load, link, extents, inner)
            yield from _accesses(statement.body, extents, inner)
        elif hasattr(statement, "body"):
            yield from _accesses(statement.body, extents, inner)
