"""Steps of a GPU that go over the same rows become one launch: a softmax, a normalisation, their gradients.

The largest of a row, the exponentials, their sum and the quotients are four steps as they are lowered.  Where each
needs of the others only what they made of its own row, and there of no element but its own, they are one kernel (see
``row_kernel``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from .loops import (
    Assign,
    Combine,
    Constant,
    For,
    FromIndex,
    If,
    Let,
    Load,
    Share,
    Store,
    Units,
    Within,
    statements,
)
from .memory import buffers_of
from .nest import operand_names
from .row_kernel import Fold, Part, RowKernel, extents_of, grouped
from .rows import JOINED, MOST_BUFFERS
from .schedule import Step
from .types import Size, product

FEW_ROWS = 1024         # of a known number: blocks that leave a GPU idle where elements would not
_PURE = (Constant, FromIndex, Let, Load, Within)


def share_rows(steps: Iterable) -> tuple:
    """The steps with neighbours joined where they go over the same rows, at least one of them with a fold."""
    groups: list[list[Part | None]] = []
    given = list(steps)
    for step in given:
        part = _taken_apart(step)
        if part is not None and groups and _joined([*groups[-1], part]) is not None:
            groups[-1].append(part)
            continue
        groups.append([part])
        while part is not None and len(groups) > 1 and len(groups[-2]) == 1 \
                and _joined([*groups[-2], *groups[-1]]) is not None:
            groups[-2:] = [groups[-2] + groups[-1]]
    users = Counter(buffer for step in given for buffer in buffers_of(step))
    made, rest = [], iter(given)
    for group in groups:
        here = [next(rest) for _ in group]
        joined = _joined(group) if len(group) > 1 else None
        made.append(here[0] if joined is None else joined.step(here, users))
    return tuple(made)


# --- a step taken apart -----------------------------------------------------------------------------------------------


def _taken_apart(step) -> Part | None:
    if not isinstance(step, Step) or step.label not in JOINED or step.matrix is not None \
            or not isinstance(step.code.body[-1], Units):
        return None
    *before, units = step.code.body
    turns, inside = _unnested(units.body)
    accumulators = {s.name for s in statements(units.body) if isinstance(s, Assign)}
    if bool(turns) != bool(accumulators) or any(isinstance(s, (For, Share)) for s in inside):
        return None
    start: list = []
    pure, update, ends, stores = list(before), [], [], []
    changing: set[Any] = set(accumulators)
    for s in inside:
        if isinstance(s, Store):
            stores.append(s)
        elif isinstance(s, Combine):
            ends.append(s)
        elif isinstance(s, (Assign, If)) or changing & set(operand_names(s)):
            update.append(s)
            changing |= {getattr(s, "name", None)}
        else:
            (start if s.name in accumulators else pure).append(s)
    if not all(isinstance(s, _PURE) for s in (*start, *pure)) or any(s.dynamic for s in stores):
        return None
    fold = Fold(tuple(start), tuple(update), tuple(ends)) if accumulators else None
    return Part(step.views, step.lanes, units.split, tuple(turns), tuple(pure), fold, tuple(stores))


def _unnested(body: tuple) -> tuple[list, list]:
    """The loops (variable, extent) of a nest, and its statements one after the other."""
    turns: list = []
    flat: list = []
    for s in body:
        if isinstance(s, (For, Share)) and not turns:
            inner, within = _unnested(s.body)
            turns = [*(s.split if isinstance(s, Share) else ((s.variable, s.extent),)), *inner]
            flat += within
        else:
            flat.append(s)
    return turns, flat


# --- which rows they go over ------------------------------------------------------------------------------------------


def _finer(first: Sequence[Size], second: Sequence[Size]) -> list[Size] | None:
    groups = grouped(first, second)
    return None if groups is None else [extent for pair in groups for extent in max(pair, key=len)]


def _common(parts: Sequence[Part]) -> tuple[list[Size], list[Size]] | None:
    """The extents of the rows and of a row's turns, so fine that all parts' loops are some of them together."""
    first = next((part for part in parts if part.fold is not None), None)
    if first is None:
        return None
    rows, turns = extents_of(first.rows), extents_of(first.turns)
    for part in parts:
        found = _split(rows, turns, part) if part.lanes == first.lanes or part.fold is None else None
        if found is None:
            return None
        rows, turns = found
    return (rows, turns) if turns else None


def _split(rows: Sequence[Size], turns: Sequence[Size], part: Part) -> tuple[list[Size], list[Size]] | None:
    """The extents of rows and of their turns, split where a part has more loops."""
    own = extents_of(part.rows)
    if part.fold is not None or product(own) == product(rows):
        outer, inner = _finer(rows, own), list(turns) if part.fold is None else _finer(turns, extents_of(part.turns))
        return None if outer is None or inner is None else (outer, inner)
    whole = _finer([*rows, *turns], own)
    ends = [k for k in range(len(whole) + 1) if product(whole[:k]) == product(rows)] if whole is not None else []
    return (whole[:ends[0]], whole[ends[0]:]) if whole is not None and ends else None


# --- which steps are one kernel ---------------------------------------------------------------------------------------


def _joined(parts: Sequence[Part | None]) -> RowKernel | None:
    """The values of a kernel that does all parts; None where they must stay apart."""
    known = [part for part in parts if part is not None]
    common = _common(known) if len(known) == len(parts) else None
    if common is None:
        return None
    values, rows = RowKernel(*common), product(common[0])
    is_wide = not isinstance(rows, int) or rows >= FEW_ROWS
    is_worth = all(values.has_row_units(part) or is_wide and _shares_memory(part, known) for part in known)
    return values if is_worth and all(map(values.add, known)) and len(values.views) <= MOST_BUFFERS else None


def _shares_memory(part: Part, parts: Iterable[Part]) -> bool:
    """Whether another part works on a value that this one works on."""
    return any(other is not part and not set(part.views).isdisjoint(other.views) for other in parts)


