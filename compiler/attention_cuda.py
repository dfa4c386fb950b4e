"""Attention in one launch of a GPU: a product, a softmax over its rows, and a product of what that gives.

What is done with a score before the softmax, such as a mask, is a kernel's statements, as what follows a product is
(see ``epilogue``).  Steps whose scores or probabilities somebody else reads, such as a gradient, stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..runtime.records import changed, dataclass
from .epilogue import VALUE, written_by
from .loops import Affine, Assign, For, Kernel, Let, Load, Share, Store, Units, replaced, statements
from .memory import memory_of
from .nest import View, operand_names
from .schedule import Attention, Buffer, Step
from .types import Size, f32, product

SCORE = "score"                 # what the kernel of such a step calls what becomes of the score ``VALUE``


def fuse_attention(steps: Iterable, most: int) -> tuple:
    """The steps with such three, which need not follow one another, as one where the last was.  ``most``: columns of
    the products' operands that a block can hold."""
    made = list(steps)
    for step in tuple(made):
        found = _softmax_of(step) if isinstance(step, Step) else None
        if found is not None:
            made = _with_attention(made, step, found, most) or made
    return tuple(made)


@dataclass(frozen=True)
class _Softmax:
    """What a kernel that is a softmax does: where its operand and its result lie, the position of the operand's
    element, and the statements that make of it what the softmax is of, by the name ``value``."""

    source: View
    target: View
    index: Affine
    body: tuple
    value: str
    length: Size


def _softmax_of(step: Step) -> _Softmax | None:
    """Whether a step is a softmax of some function of one value's elements, and stores nothing else."""
    if step.label != "rows" or step.matrix is not None:
        return None
    *before, units = step.code.body
    loops = [s for s in units.body if isinstance(s, (For, Share))]
    stores = [s for s in statements(units.body) if isinstance(s, Store)]
    if len(loops) != 3 or len(stores) != 1 or stores[0] is not loops[2].body[-1]:
        return None
    turns = [loop.split if isinstance(loop, Share) else ((loop.variable, loop.extent),) for loop in loops]
    top, total = ([s for s in loop.body if isinstance(s, Assign)] for loop in loops[:2])
    if any(len(each) != 1 or any(isinstance(s, For) for s in loop.body) for each, loop in zip(turns, loops)) \
            or len(top) != 1 or len(total) != 1:
        return None
    made = {s.name: s for s in statements(step.code.body) if isinstance(s, Let)}
    value = _added(made.get(top[0].value), "maximum_any_order", top[0].name)
    exponential = _added(made.get(total[0].value), "add_any_order", total[0].name)
    if value is None or exponential is None or not _is(made.get(exponential), "exp") \
            or not _is(made.get(stores[0].value), "div", exponential, total[0].name) \
            or not _is(made.get(made[exponential].args[0]), "sub", value, top[0].name):
        return None
    return _of_elements(step, (*before, *units.body), loops[0].body, turns[0][0], stores[0], value)


def _is(made: Let | None, op: str, *args: str) -> bool:
    """Whether a value is an operation, if some are given of these operands."""
    return made is not None and made.op == op and args in ((), made.args)


def _added(made: Let | None, op: str, accumulator: str) -> str | None:
    """x, where the value is op(accumulator, x)."""
    return made.args[1] if made is not None and made.op == op and made.args[0] == accumulator else None


def _of_elements(step: Step, row: Sequence, body: Sequence, turn: tuple[str, Size], store: Store,
                 value: str) -> _Softmax | None:
    """The softmax of ``value``, which statements of a row and of the first loop's body define."""
    available = {s.name: s for s in (*row, *body) if not hasattr(s, "body") and not isinstance(s, (Store, Assign))}
    needed: set[str] = set()
    stack = [value]
    while stack:
        name = stack.pop()
        if name not in needed and name in available:
            needed.add(name)
            stack += operand_names(available[name])
    reads = [s for s in body if isinstance(s, Load) and s.name in needed and not s.dynamic and not s.guard
             and s.index.key == store.index.key]
    accumulators = {s.name for s in statements(row) if isinstance(s, Assign)}
    if len(reads) != 1 or needed & accumulators:
        return None
    used = tuple(s for name, s in available.items() if name in needed)
    kernel_body = (Units((*step.code.body[-1].split, turn), (*used, Assign(SCORE, value))),)
    return _Softmax(step.views[reads[0].buffer], step.views[store.buffer], store.index, kernel_body, reads[0].name,
                    turn[1])


# --- the products around it -------------------------------------------------------------------------------------------


def _with_attention(steps: Sequence, softmax: Step, found: _Softmax, most: int) -> list | None:
    """The steps with the softmax and the products before and after it as one; None where that cannot be."""
    here = next(position for position, other in enumerate(steps) if other is softmax)
    source, target = found.source.buffer, found.target.buffer
    before = [position for position, step in enumerate(steps) if step is not softmax and source in memory_of(step)]
    after = [position for position, step in enumerate(steps) if step is not softmax and target in memory_of(step)]
    if len(before) != 1 or len(after) != 1 or not before[0] < here < after[0] \
            or not all(isinstance(memory, Buffer) for memory in (source, target)):
        return None
    scores, values = steps[before[0]], steps[after[0]]
    moved = set().union(*(memory_of(step) for step in (scores, softmax))) - {source, target}
    between = [step for step in steps[before[0]:after[0]] if step is not scores and step is not softmax]
    if any(moved & written_by(step) for step in between) or not _fit(scores, softmax, values, found, most):
        return None
    return [*(step for step in steps[:after[0]] if step is not scores and step is not softmax),
            _attention(scores, softmax, values, found), *steps[after[0] + 1:]]


def _fit(scores: Step, softmax: Step, values: Step, found: _Softmax, most: int) -> bool:
    """Whether two products are those before and after the softmax, of sizes that a block can hold."""
    if not all(isinstance(step, Step) and step.kernel is None for step in (scores, values)):
        return False
    first, second = scores.matrix, values.matrix
    assert first is not None and second is not None
    sizes = [[extent.size for extent in matrix.batch] for matrix in (first, second)]
    is_one_each = all(len(matrix.rows) == len(matrix.sums) == 1 for matrix in (first, second))
    if first.c.dtype != f32 or sizes[0] != sizes[1] or not is_one_each or first.is_dot or second.is_dot:
        return False
    rows, keys = first.rows[0].size, first.columns
    strides = [product(sizes[0][k + 1:]) * rows * keys for k in range(len(sizes[0]))]
    split = softmax.code.body[-1].split
    units = {name: product(extent for _, extent in split[k + 1:]) * keys for k, (name, _) in enumerate(split)
             if name in found.index.terms}
    turn = {name: 1 for name in found.index.terms if name not in units}
    return (first.c == found.source and second.a == found.target and first.c.offset == second.a.offset == 0
            and found.index.offset == 0 and found.index.terms == {**units, **turn} and found.length == keys
            and softmax.units == product(sizes[0]) * rows
            and [e.c for e in (*first.batch, first.rows[0])] == [*strides, keys]
            and [e.a for e in (*second.batch, second.rows[0])] == [*strides, keys]
            and second.rows[0].size == rows and second.sums[0].size == keys and second.sums[0].a == 1
            and all(isinstance(size, int) and 0 < size <= most
                    for size in (first.sums[0].size, second.columns)))


def _attention(scores: Step, softmax: Step, values: Step, found: _Softmax) -> Step:
    first, second = scores.matrix, values.matrix
    assert first is not None and second is not None
    loads = [s for s in statements(found.body) if isinstance(s, Load) and s.name != found.value]
    kept = sorted({s.buffer for s in loads})

    def renumbered(s):
        if isinstance(s, Load):
            return Assign(s.name, VALUE) if s.name == found.value else changed(s, buffer=kept.index(s.buffer))
        return s
    views = tuple(softmax.views[k] for k in kept)
    kernel = Kernel(tuple(view.dtype for view in views), replaced(found.body, renumbered))
    nodes = (*scores.values, *softmax.values, *values.values)
    return replace(softmax, kernel=kernel, views=(first.a, first.b, second.b, second.c, *views), label="attention",
                   values=tuple(dict.fromkeys(nodes)), lanes=1, attention=Attention(first, second))
