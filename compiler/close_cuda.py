"""How loop nests become kernels for a GPU, which wants many small units where a CPU wants few large ones.

An element of a map is a thread's; so is a row of a reduction that is short, or where there are many side by side.  A
long row is shared by the lanes of a block, whose partial results meet in a fixed tree.  What a sum's order depends
on is its own length and how the kernel was compiled, never the number of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .loops import Affine, Assign, Combine, Constant, If, Let, Load, Share, Store
from .nest import Loop, Nest, View, levels, simplify_loops
from .schedule import Closing, Step, Target, dependents, finish_rows, parallel, step_of
from .types import product

SHORT_SUM = 32              # turns that one thread takes in less time than a tree costs
FEW_UNITS = 8192            # fewer threads than this leave a GPU idle: lanes share columns of so few results too
LANES, MANY_LANES = 32, 256         # of a row, and of one that is long or one of few
LONG_SUM = 2048             # turns, of few rows
LONG_ROW = 512              # turns that are neighbours in memory, of however many rows

# How partial results of an accumulator's operation meet.
_MEET = {"fma": "add", "fma_any_order": "add", "add_any_order": "add", "add": "add", "mul": "mul", "maximum": "maximum",
         "minimum": "minimum", "maximum_any_order": "maximum", "minimum_any_order": "minimum",
         "logical_and": "logical_and", "logical_or": "logical_or"}


def close_map(nest: Nest, targets: Sequence[Target], label: str = "map") -> Step:
    """Store the targets for every turn of the loops, each a unit."""
    stores = [Store(nest.buffer(target.view), target.index, target.value) for target in targets]
    loops, (statements, stores) = simplify_loops(nest.loops, [nest.statements, stores])
    inside = tuple(s for level, s in zip(levels(loops, statements), statements) if level > 0) + tuple(stores)
    body, units = parallel(loops, loops, statements, inside)
    return step_of(nest, body, units, len(statements) + len(stores), label)


def close_rows(nest: Nest, start: tuple, update: tuple, guard: str | None, view: View, index: Affine, result: str,
               label: str = "rows") -> Step:
    """As ``schedule.finish_rows``: accumulators through the reducing loops, then one store."""
    lanes = _lanes(nest) if _is_one_operation(nest, start, update) else 1
    if lanes == 1:
        return finish_rows(nest, start, update, guard, view, index, result, label)
    return _shared_rows(nest, start[0], guard, view, index, lanes, label)


def close_columns(nest: Nest, combine: str, start, operands: tuple[str, ...], view: View, index: Affine,
                  guard: str | None = None, label: str = "columns") -> Step:
    """As ``schedule.finish_columns``, with the sums in registers: neighbouring threads read along the result anyway."""
    total = nest.name("total")
    dtype = view.dtype
    names = operands + (total,) if combine == "fma" else (total,) + operands
    new = nest.let(combine, dtype, *((name, dtype) for name in names))
    return close_rows(nest, (Constant(total, dtype, start),), (Assign(total, new),), guard, view, index, total, label)


def _is_one_operation(nest: Nest, start: tuple, update: tuple) -> bool:
    """Whether a single accumulator is changed by one operation whose partial results can meet."""
    if len(start) != 1 or len(update) != 1:
        return False
    changing = dependents(nest.statements, {start[0].name})
    return len(changing) == 1 and isinstance(changing[0], Let) and changing[0].op in _MEET \
        and update[0].value == changing[0].name


def _lanes(nest: Nest) -> int:
    """How many threads share a row."""
    turns = product(loop.extent for loop in nest.loops if loop.reduces)
    rows = product(loop.extent for loop in nest.loops if not loop.reduces)
    is_long = not isinstance(turns, int) or turns >= LONG_SUM
    are_few = isinstance(rows, int) and rows < FEW_UNITS
    if isinstance(turns, int) and turns <= SHORT_SUM:
        return 1
    runs_along = _runs_along_sum(nest)
    if is_long and are_few or runs_along and isinstance(turns, int) and turns >= LONG_ROW:
        return MANY_LANES
    return LANES if runs_along or are_few else 1


def _runs_along_sum(nest: Nest) -> bool:
    """Whether neighbours in the innermost reducing loop are neighbours in memory, so that lanes read together."""
    inner = next((loop.variable for loop in reversed(nest.loops) if loop.reduces and loop.extent != 1), None)
    kept = next((loop.variable for loop in reversed(nest.loops) if not loop.reduces and loop.extent != 1), None)
    loads = [s for s in nest.statements if isinstance(s, Load)]
    along = inner is not None and any(load.index.coefficient(inner) == 1 for load in loads)
    across = kept is not None and any(load.index.coefficient(kept) == 1 for load in loads)
    return along or not across


def _shared_rows(nest: Nest, start: Constant, guard: str | None, view: View, index: Affine, lanes: int,
                 label: str) -> Step:
    store = Store(nest.buffer(view), index, start.name)
    loops, (statements, (store,)) = simplify_loops(nest.loops, [nest.statements, [store]])
    outer = [loop for loop in loops if not loop.reduces]
    inner = [loop for loop in loops if loop.reduces] or [Loop("turn", 1)]
    change, = dependents(statements, {start.name})
    free = [s for s in statements if s is not change]
    found = levels(outer + inner, free)
    each = tuple(s for level, s in zip(found, free) if level > len(outer))
    before = tuple(s for level, s in zip(found, free) if 0 < level <= len(outer))
    innermost: tuple = (change, Assign(start.name, change.name))
    if guard is not None:
        innermost = (If(guard, innermost),)
    shared = Share(tuple((loop.variable, loop.extent) for loop in inner), each + innermost)
    inside = (*before, start, shared, Combine(start.name, _MEET[change.op], start.dtype), store)
    body, units = parallel(outer, outer + inner, free, inside)
    work = product(loop.extent for loop in inner) * (len(statements) + 1)
    return replace(step_of(nest, body, units, work, label), lanes=lanes)


class CudaClosing(Closing):
    """The GPU's ways to close a nest."""

    repeats = False
    chains = True
    map = staticmethod(close_map)
    rows = staticmethod(close_rows)
    columns = staticmethod(close_columns)
