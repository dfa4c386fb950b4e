"""Kernels that go over the same rows, one after the other, become one: a softmax, a normalisation.

The largest of a row, the exponentials, their sum and the quotients are four kernels as they are lowered, each with
reductions or elements of its own.  Where each needs of the others only what they made of its own row, one kernel does
all four for a row while the row is in the cache; its loops stay as they are, and with them every bit of the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from string import digits
from typing import Any

from ..runtime.records import changed, dataclass
from .loops import STATEMENTS, Affine, For, If, Kernel, Load, Store, Units, numbered, statements
from .nest import View
from .schedule import Step
from .types import Size, known_nonnegative, product

JOINED = {"rows", "map"}        # labels of the kernels that are joined, one of which at least is of the first kind
MOST_BUFFERS = 24               # of a joined kernel


def join_rows(steps: Iterable) -> list:
    """The steps with neighbours joined where they go over the same rows."""
    made: list = []
    joined: set[int] = set()
    for step in steps:
        both = _joined(made[-1], step) if made else None
        if both is None:
            made.append(step)
        else:
            made[-1] = both
            joined.add(len(made) - 1)
    for position in joined:
        kernel = made[position].kernel
        made[position] = replace(made[position], kernel=changed(kernel, body=numbered(kernel.body)))
    return made


def _joined(first: Any, second: Any) -> Step | None:
    first, second = _by_units(first), _by_units(second)
    if not (isinstance(first, Step) and isinstance(second, Step)) or not all(map(_is_joinable, (first, second))):
        return None
    if "rows" not in (first.label, second.label):
        return None
    split = _common_split(_units(first).split, _units(second).split)
    views = tuple(dict.fromkeys((*first.views, *second.views)))
    if split is None or len(views) > MOST_BUFFERS:
        return None
    # What was joined before is in these terms already.
    is_ready = _units(first).split == split and first.views == views[:len(first.views)]
    bodies = [first.code.body if is_ready else _in_terms_of(first, split, views, -1)]
    bodies.append(_in_terms_of(second, split, views, max(map(_number, _names(bodies[0])), default=0)))
    if not _keep_to_their_rows(bodies, split, views):
        return None
    before = tuple(statement for body in bodies for statement in body[:-1])
    inside = tuple(statement for body in bodies for statement in body[-1].body)
    kernel = Kernel(tuple(view.dtype for view in views), (*before, Units(split, inside)))
    return replace(first, kernel=kernel, views=views, work=first.work + second.work, label="rows",
                   values=tuple(dict.fromkeys((*first.values, *second.values))))


def _by_units(step: Any) -> Any:
    """A step over a vector with an element a unit: there may be one for each row."""
    if not isinstance(step, Step) or not step.vector or step.label not in JOINED:
        return step
    *before, whole = step.code.body
    *first, loop = whole.body
    if not isinstance(loop, For) or loop.variable != whole.variable or any(hasattr(s, "body") for s in first):
        return step
    units = Units(((loop.variable, loop.extent),), loop.body)
    return replace(step, kernel=changed(step.code, body=(*before, *first, units)))


def _is_joinable(step: Step) -> bool:
    return (step.label in JOINED and step.matrix is None and step.when is None and isinstance(step.code.body[-1], Units)
            and not any(isinstance(statement, (For, If, Units)) for statement in step.code.body[:-1]))


def _units(step: Step) -> Units:
    return step.code.body[-1]


def _common_split(first: Sequence, second: Sequence) -> tuple | None:
    """The finer of two ways to count the same units; None where they are others."""
    extents = [tuple(extent for _, extent in split) for split in (first, second)]
    if extents[0] == extents[1] or (len(second) == 1 and product(extents[0]) == extents[1][0]):
        return tuple((f"u{k}", extent) for k, extent in enumerate(extents[0]))
    if len(first) == 1 and product(extents[1]) == extents[0][0]:
        return tuple((f"u{k}", extent) for k, extent in enumerate(extents[1]))
    return None


def _in_terms_of(step: Step, split: Sequence, views: Sequence[View], last: int) -> tuple:
    """The body of a step with its units counted by ``split``, its buffers numbered by ``views``, and names with numbers
    after ``last``."""
    own = _units(step).split
    if len(own) == len(split):
        mapping = {name: Affine.variable(new) for (name, _), (new, _) in zip(own, split)}
    else:
        whole = Affine()
        for position, (name, _) in enumerate(split):
            whole = whole + Affine.variable(name) * product(extent for _, extent in split[position + 1:])
        mapping = {own[0][0]: whole}
    names = {name: f"{name.rstrip(digits)}{_number(name) + last + 1}" for name in _names(step.code.body)}
    mapping |= {name: Affine.variable(new) for name, new in names.items()}
    return _rewritten(step.code.body, mapping, names, [views.index(view) for view in step.views])


def _names(body: tuple) -> set[str]:
    """The names of values and of inner loops."""
    return {getattr(statement, key) for statement in statements(body) for key in ("name", "exact", "variable")
            if getattr(statement, key, None) is not None}


def _number(name: str) -> int:
    """The digits at the end of a name, 0 where there are none."""
    return int(name[len(name.rstrip(digits)):] or 0)


def _rewritten(value: Any, mapping: Mapping[str, Affine], names: Mapping[str, str], buffers: Sequence[int]) -> Any:
    """Statements with other variables, names and buffers."""
    if isinstance(value, tuple):
        return tuple(_rewritten(part, mapping, names, buffers) for part in value)
    if isinstance(value, Affine):
        return value.rename(mapping)
    if isinstance(value, str):
        return names.get(value, value)
    if type(value) not in STATEMENTS:
        return value
    new: dict[str, Any] = {}
    for part, old in value.__dict__.items():
        if part == "buffer":
            new[part] = buffers[old]
        elif part not in ("op", "dtype", "arg_dtypes", "extent", "divisor"):
            new[part] = _rewritten(old, mapping, names, buffers)
    return changed(value, **new)


# --- what may be joined -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Access:
    """A load or store, and the extents of the loops inside the units around it."""

    statement: Load | Store
    extents: Mapping[str, Size]


def _accesses(body: tuple, extents: Mapping[str, Size]) -> Iterator[_Access]:
    for statement in body:
        if isinstance(statement, (Load, Store)):
            yield _Access(statement, extents)
        elif isinstance(statement, For):
            yield from _accesses(statement.body, {**extents, statement.variable: statement.extent})
        else:
            yield from _accesses(getattr(statement, "body", ()), extents)


def _keep_to_their_rows(bodies: Sequence[tuple], split: Sequence, views: Sequence[View]) -> bool:
    """Whether of the memory that one of the bodies writes and the other reads or writes, each unit touches only a part
    of its own."""
    accesses = [list(_accesses(body, {})) for body in bodies]
    touched = [{views[access.statement.buffer].buffer for access in each} for each in accesses]
    written = [{views[access.statement.buffer].buffer for access in each if isinstance(access.statement, Store)}
               for each in accesses]
    for memory in touched[0] & touched[1] & (written[0] | written[1]):
        here = [access for each in accesses for access in each if views[access.statement.buffer].buffer is memory]
        row = _row_length(here[0], split)
        if len({access.statement.buffer for access in here}) > 1 or not all(
                _row_length(access, split) == row and _stays(access, split, row) for access in here):
            return False
    return True


def _row_length(access: _Access, split: Sequence) -> Size:
    return access.statement.index.coefficient(split[-1][0])


def _stays(access: _Access, split: Sequence, row: Size) -> bool:
    """Whether an access is to row number (unit) of rows of this length."""
    index, inner = access.statement.index, access.extents
    if access.statement.dynamic:
        return False
    low: Size = index.offset
    high: Size = index.offset
    for name, coefficient in index.terms.items():
        if name in inner:
            if not known_nonnegative(coefficient):
                return False
            high = high + coefficient * (inner[name] - 1)
        elif name not in dict(split):
            return False
    strides = [product(extent for _, extent in split[position + 1:]) * row for position in range(len(split))]
    in_step = all(index.coefficient(name) == stride for (name, _), stride in zip(split, strides))
    return in_step and known_nonnegative(low) and known_nonnegative(row - 1 - high)
