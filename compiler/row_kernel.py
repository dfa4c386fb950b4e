"""One kernel for steps of a GPU that go over the same rows.

Their statements become values: those of a row, which every lane has, and those of an element, which the lane has whose
turn it is.  What takes all elements of a row together, a fold, ends a phase.  A phase is one loop over the row; what it
needs of an earlier one is computed again, where that is cheap, or read back from memory by the lane that wrote it.  So
no lane waits for another but where a fold ends, and what nobody else reads is not stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from string import digits

from ..runtime.records import changed, dataclass
from .fuse import EXPENSIVE
from .loops import (
    UNIT,
    Affine,
    Assign,
    Constant,
    For,
    FromIndex,
    If,
    Kernel,
    Let,
    Load,
    Share,
    Store,
    Units,
    Within,
    numbered,
    replaced,
    statements,
)
from .memory import buffers_of
from .nest import View, affines, operand_names
from .schedule import Buffer, Step
from .types import Size, product

RECOMPUTED = 32         # operations an element up to which a value is computed again in another loop over its row
OUTSIDE, ROW, ELEMENT = range(3)        # where a value belongs: before all rows, to a row, to an element


@dataclass(frozen=True)
class Fold:
    """Accumulators: set before the turns of a row, changed at each, and what the lanes have taken together at the end.
    """

    start: tuple
    update: tuple
    ends: tuple


@dataclass(frozen=True)
class Part:
    """What a step does for a unit: pure statements, perhaps a fold, and stores.  ``rows`` and ``turns`` are the loops
    (variable, extent) of its units and those inside of them; the units of a map may be elements."""

    views: tuple[View, ...]
    lanes: int
    rows: tuple
    turns: tuple
    pure: tuple
    fold: Fold | None
    stores: tuple


@dataclass(frozen=True)
class _Write:
    """A store, its phase, and whether it is one of a row or of an element."""

    store: Store
    phase: int
    level: int


class RowKernel:
    """The values of a kernel under construction, each under one name, in an order in which they can be computed."""

    def __init__(self, rows: Sequence[Size], turns: Sequence[Size]):
        self.rows = [(f"i{k}", extent) for k, extent in enumerate(rows)]
        self.turns = [(f"r{len(rows) + k}", extent) for k, extent in enumerate(turns)]
        self.lanes = 1
        self.views: list[View] = []
        self.made: dict[str, Constant | FromIndex | Let | Load | Within] = {}
        self.folds: list[tuple[int, Fold]] = []     # with their phases
        self.writes: list[_Write] = []
        self._names: dict[tuple, str] = {}
        self._phase: dict[str, int] = {}            # the first loop in which a value can be computed
        self._level: dict[str, int] = {}
        self._stored: dict[tuple, str] = {}         # a place in memory -> the value that lies there
        self._loaded: set = set()                   # memory that is read
        self._count = 0

    # --- taking parts in

    def add(self, part: Part) -> bool:
        """Whether the part fits; if so, with it."""
        loops = self.rows if self.has_row_units(part) else [*self.rows, *self.turns]
        mapping, inner = _in_terms_of(loops, part.rows), _in_terms_of(self.turns, part.turns) if part.turns else {}
        if mapping is None or inner is None:
            return False
        self.lanes = max(self.lanes, part.lanes)
        taken = _Renamed(self, part.views, {**mapping, **inner})
        return all(map(taken.pure, part.pure)) and (part.fold is None or taken.fold(part.fold)) \
            and all(map(taken.store, part.stores))

    def has_row_units(self, part: Part) -> bool:
        """Whether the part's units are rows, and not elements."""
        return part.fold is not None or product(extents_of(part.rows)) == self.row_count

    @property
    def row_count(self) -> Size:
        return product(extent for _, extent in self.rows)

    def buffer(self, view: View) -> int:
        if view.memory not in self.views:
            self.views.append(view.memory)
        return self.views.index(view.memory)

    def place(self, access: Load | Store) -> tuple:
        """Where in memory an access goes."""
        view = self.views[access.buffer]
        return view.buffer, (access.index + view.offset).key

    def name(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}{self._count}"

    def phase(self, names: Iterable[str]) -> int:
        return max((self._phase[name] for name in names), default=0)

    def level(self, names: Iterable[str], indices: Iterable[Affine] = ()) -> int:
        found = max((self._level[name] for name in names), default=OUTSIDE)
        turns, rows = ({name for name, _ in loops} for loops in (self.turns, self.rows))
        for index in indices:
            found = max(found, ELEMENT if turns & index.terms.keys() else ROW if rows & index.terms.keys() else OUTSIDE)
        return found

    def define(self, key: tuple, made) -> str:
        """The name of a pure statement's value, the same for the same."""
        if key not in self._names:
            name = self._names[key] = self.name("v")
            self.made[name] = changed(made, name=name)
            read = operand_names(made)
            self._phase[name], self._level[name] = self.phase(read), self.level(read, affines(made))
        return self._names[key]

    def load(self, key: tuple, made: Load) -> str | None:
        """As ``define``, or the value that was stored there; None where it may be another lane's."""
        memory = self.views[made.buffer].buffer
        if any(memory is other for other, _ in self._stored):
            return None if made.dynamic else self._stored.get(self.place(made))
        self._loaded.add(memory)
        return self.define(key, made)

    def store(self, store: Store) -> bool:
        place, level = self.place(store), self.level((store.value,), (store.index,))
        if place[0] in self._loaded or place in self._stored or level > max(ROW, self.level((), (store.index,))):
            return False
        self._stored[place] = store.value
        self.writes.append(_Write(store, self.phase((store.value,)), max(ROW, level)))
        return True

    def fold(self, fold: Fold) -> None:
        phase = self.phase(name for name in _read(fold) if name in self._phase)
        for start in fold.start:
            self._phase[start.name], self._level[start.name] = phase + 1, ROW
        self.folds.append((phase, fold))

    # --- the kernel

    def step(self, steps: Sequence[Step], users: Mapping[Buffer, int]) -> Step:
        """The one step for these; ``users``: how many steps of the program touch each buffer."""
        own = Counter(buffer for step in steps for buffer in buffers_of(step))
        inner = {buffer for buffer, count in own.items() if users[buffer] == count}
        body = self._body(self._kept(inner))
        found = statements(body)
        used = sorted({s.buffer for s in found if isinstance(s, (Load, Store))})
        body = replaced(body, lambda s: changed(s, buffer=used.index(s.buffer)) if isinstance(s, (Load, Store)) else s)
        views = tuple(self.views[k] for k in used)
        kernel = Kernel(tuple(view.dtype for view in views), numbered(body))
        return Step(kernel, views, self.row_count, product(extent for _, extent in self.turns) * len(self.made), "rows",
                    values=tuple(dict.fromkeys(value for step in steps for value in step.values)), lanes=self.lanes)

    def _kept(self, inner: set) -> list[_Write]:
        """The writes but for those to ``inner`` memory, which nobody else reads; of these only values that cost too
        much to compute again in a later loop."""
        kept = [write for write in self.writes if self.place(write.store)[0] not in inner]
        there = {write.store.value for write in kept}
        inside = {write.store.value: write for write in self.writes if write.store.value not in there}
        last = self._last_phases()
        cost: dict[str, int] = {}
        for name, made in self.made.items():
            if self._level[name] < ELEMENT or name in there:
                continue
            cost[name] = sum(cost.get(operand, 0) for operand in operand_names(made))
            cost[name] += EXPENSIVE.get(made.op, 1) if isinstance(made, Let) else 0
            if name in inside and cost[name] > RECOMPUTED and last[name] > self._phase[name]:
                kept.append(inside[name])
                cost[name] = 0
        return kept

    def _last_phases(self) -> dict[str, int]:
        """The last loop in which each value is needed."""
        last: dict[str, int] = {}
        for phase, names in (*((phase, _read(fold)) for phase, fold in self.folds),
                             *((write.phase, {write.store.value}) for write in self.writes)):
            last |= {name: max(last.get(name, 0), phase) for name in names}
        for name, made in reversed(self.made.items()):
            last |= {operand: max(last.get(operand, 0), last.get(name, 0)) for operand in operand_names(made)}
        return last

    def _body(self, writes: Sequence[_Write]) -> tuple:
        """Phase by phase: what it needs of a row, the loop over the row, and the ends of its folds."""
        levels: tuple[list, list] = [], []      # what stands outside of the rows, and in a row
        done: set[str] = set()
        for phase in range(1 + max([write.phase for write in writes] + [phase for phase, _ in self.folds])):
            here = [write for write in writes if write.phase == phase]
            folds = [fold for at, fold in self.folds if at == phase]
            back = {write.store.value: write.store for write in writes
                    if write.phase < phase and write.level == ELEMENT}
            needed = {write.store.value for write in here}.union(*map(_read, folds))
            for name, made in reversed(self.made.items()):
                if name in needed and name not in done and name not in back:
                    needed.update(operand_names(made))
            loop: list = []
            for name, made in self.made.items():
                if name in needed and name not in done:
                    if name in back:
                        made = Load(name, back[name].buffer, back[name].index)
                    (*levels, loop)[self._level[name]].append(made)
                    done.update({name} if self._level[name] < ELEMENT else ())
            levels[ROW].extend(self._loop(loop, here, folds))
        return (*levels[OUTSIDE], Units(tuple(self.rows) or ((UNIT, 1),), tuple(levels[ROW])))

    def _loop(self, loop: Sequence, writes: Sequence[_Write], folds: Sequence[Fold]) -> list:
        """The statements of a row's phase, with the loop over its elements."""
        body = (*loop, *(write.store for write in writes if write.level == ELEMENT),
                *(s for fold in folds for s in fold.update))
        around: list = [write.store for write in writes if write.level == ROW]
        around += (s for fold in folds for s in fold.start)
        if body and self.lanes > 1:
            around.append(Share(tuple(self.turns), body))
        elif body:
            for variable, extent in reversed(self.turns):
                body = (For(variable, extent, body),)
            around += body
        return around + [s for fold in folds for s in fold.ends]


# --- a part in a kernel's terms ---------------------------------------------------------------------------------------


class _Renamed:
    """A part's statements in a kernel's names, loops and buffers."""

    def __init__(self, values: RowKernel, views: Sequence[View], mapping: Mapping[str, Affine]):
        self.values, self.mapping = values, mapping
        self.buffers = [values.buffer(view) for view in views]
        self.names: dict[str, str] = {}

    def pure(self, s) -> bool:
        """Whether a statement's value can be had; if so, under a name of the kernel's."""
        made = self._statement(s)
        if isinstance(made, Load):
            name = self.values.load(_key(made), made)
        else:
            name = self.values.define(_key(made), made)
        if name is not None:
            self.names[s.name] = name
        return name is not None

    def store(self, s: Store) -> bool:
        return self.values.store(self._statement(s))

    def fold(self, fold: Fold) -> bool:
        for s in (*fold.start, *statements(fold.update)):
            if hasattr(s, "name") and s.name not in self.names:
                self.names[s.name] = self.values.name(s.name.rstrip(digits))
        self.values.fold(Fold(*(tuple(map(self._statement, part)) for part in (fold.start, fold.update, fold.ends))))
        return True

    def _statement(self, s):
        def names(given: Iterable[str]) -> tuple[str, ...]:
            return tuple(self.names.get(name, name) for name in given)
        new = {"name": self.names.get(s.name, s.name)} if hasattr(s, "name") else {}
        match s:
            case FromIndex():
                new["value"] = s.value.rename(self.mapping)
            case Load() | Store():
                new |= {"buffer": self.buffers[s.buffer], "index": s.index.rename(self.mapping),
                        "dynamic": tuple(zip(names(n for n, _ in s.dynamic), (stride for _, stride in s.dynamic)))}
                if isinstance(s, Store):
                    new["value"], = names((s.value,))
                elif s.guard is not None:
                    new["guard"], = names((s.guard,))
            case Let():
                new["args"] = names(s.args)
            case Within():
                new |= {"bounds": tuple((value.rename(self.mapping), a, b) for value, a, b in s.bounds),
                        "flags": names(s.flags)}
            case Assign():
                new["value"], = names((s.value,))
            case If():
                new["condition"], = names((s.condition,))
                new["body"] = tuple(map(self._statement, s.body))
        return changed(s, **new)


def _read(fold: Fold) -> set[str]:
    """The names that a fold reads, its own too."""
    return {name for s in statements(fold.update) for name in
            ((s.condition,) if isinstance(s, If) else operand_names(s))}


def _key(s) -> tuple:
    """What a pure statement computes, whatever its name."""
    match s:
        case Constant():
            return Constant, s.dtype, repr(s.value), s.given
        case FromIndex():
            return FromIndex, s.dtype, s.value.key
        case Load():
            return Load, s.buffer, s.index.key, s.dynamic, s.guard
        case Let():
            return Let, s.op, s.dtype, s.args, s.arg_dtypes
    return Within, tuple((value.key, a, b) for value, a, b in s.bounds), s.flags


# --- loops over the same elements -------------------------------------------------------------------------------------


def extents_of(loops: Iterable) -> list[Size]:
    return [extent for _, extent in loops if extent != 1]


def grouped(first: Sequence[Size], second: Sequence[Size]) -> list[tuple[list, list]] | None:
    """The extents of two nests over the same elements side by side, one against one or more; None where that cannot
    be."""
    groups: list[tuple[list, list]] = []
    i = j = 0
    while i < len(first) and j < len(second):
        for k in range(1, max(len(first) - i, len(second) - j) + 1):
            if product(first[i:i + k]) == second[j]:
                groups.append((list(first[i:i + k]), [second[j]]))
                break
            if product(second[j:j + k]) == first[i]:
                groups.append(([first[i]], list(second[j:j + k])))
                break
        else:
            return None
        i, j = i + len(groups[-1][0]), j + len(groups[-1][1])
    return groups if i == len(first) and j == len(second) else None


def _in_terms_of(loops: Sequence, own: Sequence[tuple[str, Size]]) -> dict[str, Affine] | None:
    """Each variable of ``own`` by those of finer loops over the same elements; None where they are not finer."""
    real = [(name, extent) for name, extent in own if extent != 1]
    groups = grouped([extent for _, extent in real], [extent for _, extent in loops])
    if groups is None or any(len(group) > 1 for group, _ in groups):
        return None
    found = {name: Affine() for name, _ in own}
    rest = list(loops)
    for (name, _), (_, finer) in zip(real, groups):
        for k in range(len(finer)):
            found[name] = found[name] + Affine.variable(rest.pop(0)[0]) * product(finer[k + 1:])
    return found
