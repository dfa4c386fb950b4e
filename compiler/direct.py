"""Large gradients that go straight into the optimiser's kernel, which computes them where it needs them.

Stored, a gradient is written and read once more, as much memory as a weight and a moment take.  Two kinds need not be:

- The gradient with respect to a dense layer's kernel is a sum over samples.  Of one sample it is an outer product,
  x[i] dy[j].  Sizes are known only when a program is bound, so both ways are among the steps, each under its condition.
- The gradient with respect to a table of embeddings is zero but for the rows that were looked up.  What belongs to one
  row is added up where its first part lies, and the optimiser's kernel reads it there, or takes zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import count

from ..runtime.records import changed, dataclass
from .loops import (
    UNIT,
    Affine,
    Constant,
    For,
    FromIndex,
    If,
    Kernel,
    Let,
    Load,
    Range,
    Store,
    Units,
    compacted,
    numbered,
    replaced,
    statements,
)
from .memory import buffers_of
from .nest import View
from .schedule import Buffer, Product, Step, When
from .types import DType, Size, boolean, i32, is_symbol, product

LEAST_ELEMENTS = 1 << 15        # of a gradient: less of it stays in a cache

Users = dict[Buffer, list[int]]         # the positions of the steps that touch each buffer, in order


def take_directly(steps: Iterable) -> tuple:
    """The steps with these gradients computed by the kernels that read them."""
    made: list[tuple] = [(step,) for step in steps]
    before = [step for step, in made]
    users: Users = {}
    for position, step in enumerate(before):
        for buffer in buffers_of(step):
            users.setdefault(buffer, []).append(position)
    for position, step in enumerate(before):
        load = _gradient_of(step) if _is_large_map(step) else None
        if load is None:
            continue
        *writers, last = users[step.views[load.buffer].buffer]
        if last != position or sum(view.buffer is step.views[load.buffer].buffer for view in step.views) > 1:
            continue
        written_by = [before[at] for at in writers]
        if (samples := _samples(written_by, step, load)) is not None:
            for at in (*writers, position):
                made[at] = (replace(before[at], when=When(samples, is_one=False)),)
            made[position] += (replace(_with_products(step, load, _matrices(written_by)),
                                       when=When(samples, is_one=True)),)
        elif (table := _table(written_by, step, load)) is not None and _is_last(users, table.updates, writers[-1]):
            made[writers[0]], made[writers[-1]] = (table.find_first(),), (table.add_up(),)
            made[position] = (_with_rows(step, load, table),)
    return tuple(step for group in made for step in group)


def _is_last(users: Users, view: View, position: int) -> bool:
    """Whether nobody needs what is in a view's memory, which is the arena's, after this step."""
    return isinstance(view.buffer, Buffer) and users[view.buffer][-1] == position


def _is_large_map(step) -> bool:
    """Whether a step is a map over a vector of many elements, one after the other."""
    if not isinstance(step, Step) or step.matrix is not None or not step.vector or not isinstance(step.units, int):
        return False
    whole = step.code.body[-1]
    return (step.units >= LEAST_ELEMENTS and isinstance(whole, Range) and len(whole.body) == 1
            and isinstance(whole.body[0], For) and whole.body[0].extent == step.units)


def _gradient_of(step: Step) -> Load | None:
    """What a map loads of memory of its own size that is the arena's, element by element; None if that is not one."""
    place = Affine.variable(step.code.body[-1].variable).key
    found = [s for s in statements(step.code.body) if isinstance(s, Load) and s.index.key == place
             and not s.dynamic and s.guard is None and isinstance(step.views[s.buffer].buffer, Buffer)
             and step.views[s.buffer].buffer.size == step.units]
    return found[0] if len(found) == 1 else None


# A map's new source of its gradient: given the number of its first buffer, fresh names, the row and the column, the
# statements of a row, and those of a column, which end with one of the name that is asked for.
Element = Callable[[int, Iterator[str], Affine, Affine], tuple[list, list]]


def _by_rows(step: Step, load: Load, rows: Size, columns: Size, operands: Sequence[View], element: Element) -> Step:
    """The map over rows and columns, with other statements in the place of the load."""
    *before, whole = step.code.body
    vector = whole.body[0]
    views = tuple(view for place, view in enumerate(step.views) if place != load.buffer)
    row, column = Affine.variable(UNIT), Affine.variable(vector.variable)

    def moved(s):
        if hasattr(s, "buffer"):
            s = changed(s, buffer=s.buffer - (s.buffer > load.buffer))
        return changed(s, index=s.index.rename({vector.variable: row * columns + column})) if hasattr(s, "index") else s
    names = (f"v{number}" for number in count(len(list(statements(step.code.body))) + 1))
    of_row, of_column = element(len(views), names, row, column)
    inner = tuple(part for s in vector.body for part in (of_column if s is load else replaced((s,), moved)))
    units = Units(((UNIT, rows),), (*of_row, For(vector.variable, columns, inner)))
    body = compacted(numbered((*replaced(before, moved), units)))
    views += tuple(operands)
    return replace(step, kernel=Kernel(tuple(view.dtype for view in views), body), views=views, units=rows,
                   work=step.work * columns)


# --- outer products ---------------------------------------------------------------------------------------------------


def _samples(writers: Sequence, step: Step, load: Load) -> Size | None:
    """The number of samples, if these steps are products of matrices that sum over samples alone and together write
    what the map loads."""
    matrices = _matrices(writers)
    if not matrices or len(matrices) < len(writers) or not all(
            _is_outer(matrix, step.views[load.buffer], step.units) for matrix in matrices):
        return None
    samples = {matrix.sums[0].size for matrix in matrices}
    begins = [not matrix.accumulates for matrix in matrices]
    return samples.pop() if len(samples) == 1 and begins == [True] + [False] * (len(begins) - 1) else None


def _matrices(steps: Iterable) -> list[Product]:
    """Of those steps that are products and no more."""
    return [step.matrix for step in steps if isinstance(step, Step) and step.kernel is None and step.matrix is not None]


def _is_outer(matrix: Product, view: View, units: Size) -> bool:
    """Whether of one sample a product is an outer product that fills a view."""
    if matrix.c.memory != view.memory or matrix.batch or len(matrix.rows) != 1 or len(matrix.sums) != 1:
        return False
    row = matrix.rows[0]
    return (is_symbol(matrix.sums[0].size) and row.b == 0 and row.c == matrix.columns
            and row.size * matrix.columns == units)


def _with_products(step: Step, load: Load, matrices: Sequence[Product]) -> Step:
    """The map with the sum of outer products in the place of what they made."""
    dtype = matrices[0].c.dtype

    def element(first: int, names: Iterator[str], row: Affine, column: Affine) -> tuple[list, list]:
        factors: list = []
        products: list = []
        total = ""
        for k, matrix in enumerate(matrices):
            is_last = k == len(matrices) - 1
            factor, other = next(names), next(names)
            factors.append(Load(factor, first + 2 * k, row * matrix.rows[0].a))
            products.append(Load(other, first + 2 * k + 1, column * matrix.column_stride))
            made = load.name if is_last and not total else next(names)
            products.append(Let(made, "mul", dtype, (factor, other), (dtype, dtype)))
            if total:
                summed = load.name if is_last else next(names)
                products.append(Let(summed, "add", dtype, (total, made), (dtype, dtype)))
                made = summed
            total = made
        return factors, products
    operands = [view for matrix in matrices for view in (matrix.a, matrix.b)]
    return _by_rows(step, load, matrices[0].rows[0].size, matrices[0].columns, operands, element)


# --- rows of a table --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Table:
    """The gradient of a table [rows, columns]: to each row, the updates [length, columns] whose index is the row's are
    added.  ``places``, int32 [rows], is where each row's first update is, -1 where it has none."""

    indices: View
    updates: View
    places: View
    length: Size
    rows: int
    columns: int

    def find_first(self) -> Step:
        """Note each row's first update: the last one that is noted, from the end on."""
        row, k = Affine.variable("i"), Affine.variable("k")
        at = k * -1 + self.length + -1
        body = (Constant("v1", i32, -1),
                For("i", self.rows, (Store(1, row, "v1"),)),
                For("k", self.length, (Load("v2", 0, at), FromIndex("v3", i32, at),
                                       Store(1, Affine(), "v3", (("v2", 1),)))))
        kernel = Kernel((self.indices.dtype, i32), numbered((Units(((UNIT, 1),), body),)))
        return Step(kernel, (self.indices, self.places), 1, self.rows + 4 * self.length, "first rows")

    def add_up(self) -> Step:
        """Add every later update of a row to the first, in order; threads share the columns."""
        dtype, i, c = self.updates.dtype, Affine.variable("i"), Affine.variable("c")
        inner = (Load("v5", 2, c, (("v2", self.columns),)),
                 Load("v6", 2, i * self.columns + c),
                 Let("v7", "add", dtype, ("v5", "v6"), (dtype, dtype)),
                 Store(2, c, "v7", (("v2", self.columns),)))
        body = (Load("v1", 0, i), Load("v2", 1, Affine(), (("v1", 1),)), FromIndex("v3", i32, i),
                Let("v4", "ne", boolean, ("v2", "v3"), (i32, i32)), If("v4", (For("c", self.columns, inner),)))
        kernel = Kernel((self.indices.dtype, i32, dtype), numbered((Range("c", (For("i", self.length, body),)),)))
        return Step(kernel, (self.indices, self.places, self.updates), self.columns, self.length * 4, "scatter_add")


def _table(writers: Sequence, step: Step, load: Load) -> _Table | None:
    """What the map loads as a table, if a step sets it to zeros and one adds rows to it."""
    if len(writers) != 2 or not all(isinstance(writer, Step) for writer in writers):
        return None
    zeros, added = writers
    gradient_memory = step.views[load.buffer].memory
    if added.label != "scatter_add" or len(zeros.views) != 1 or added.views[-1].memory != gradient_memory:
        return None
    gradient, (indices, updates, _) = added.values[0], added.views
    rows, columns = gradient.shape[0], product(gradient.shape[1:])
    if not isinstance(rows, int) or not isinstance(columns, int) or rows * columns != step.units:
        return None
    places = View(Buffer(rows, i32), 0, i32)
    return _Table(indices, updates, places, gradient.args[0].type.size, rows, columns)


def _with_rows(step: Step, load: Load, table: _Table) -> Step:
    """The map with the sums of a table's updates, or zeros, in the place of its gradient."""
    dtype: DType = table.updates.dtype

    def element(first: int, names: Iterator[str], row: Affine, column: Affine) -> tuple[list, list]:
        place, none, has_one, inside, zero, update = (next(names) for _ in range(6))
        of_row = [Load(place, first, row), Constant(none, i32, 0),
                  Let(has_one, "le", boolean, (none, place), (i32, i32)),
                  Let(inside, "maximum", i32, (place, none), (i32, i32)), Constant(zero, dtype, 0.0)]
        of_column = [Load(update, first + 1, column, ((inside, table.columns),)),
                     Let(load.name, "where", dtype, (has_one, update, zero), (boolean, dtype, dtype))]
        return of_row, of_column
    return _by_rows(step, load, table.rows, table.columns, (table.places, table.updates), element)
