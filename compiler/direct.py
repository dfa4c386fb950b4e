"""Large gradients that go straight into the optimiser's kernel, which computes them where it needs them.

Stored, a gradient is written and read once more, as much memory as a weight and a moment take.  Two kinds need not be:

- The gradient with respect to a dense layer's kernel is a sum over samples.  Of one sample it is an outer product,
  x[i] dy[j], or the sum of some, where layers share a kernel.  Sizes are known only when a program is bound, so both
  ways are among the steps, each under its condition.
- The gradient with respect to a table of embeddings is zero but for the rows that were looked up.  What belongs to one
  row is added up where its first part lies, and the optimiser's kernel reads it there, or takes zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import count

from ..runtime.records import changed, dataclass
from .in_place import overlap, spans_of
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
from .memory import buffers_of, memory_of
from .nest import View, rename
from .schedule import Buffer, Product, Step, When
from .types import DType, Size, boolean, i32, is_symbol, product

LEAST_ELEMENTS = 1 << 15        # of a gradient: less of it stays in a cache

Users = dict[Buffer, list[int]]         # the positions of the steps that touch each buffer, in order


def take_directly(steps: Iterable) -> tuple:
    """The steps with these gradients computed by the kernels that read them."""
    taken = _Taken(list(steps))
    for position, step in enumerate(taken.before):
        load = _gradient_of(step) if _is_large_map(step) else None
        if load is None:
            continue
        *writers, last = taken.users[step.views[load.buffer].buffer]
        if last == position and not taken.take_products(step, load, writers, position):
            taken.take_table(step, load, writers, position)
    return tuple(step for group in taken.after for step in group)


class _Taken:
    """The steps as they were and as they are, each place with what stands there now."""

    def __init__(self, steps: list):
        self.before = steps
        self.after: list[tuple] = [(step,) for step in steps]
        self.users: Users = {}
        for position, step in enumerate(steps):
            for buffer in buffers_of(step):
                self.users.setdefault(buffer, []).append(position)

    def take_products(self, step: Step, load: Load, writers: Sequence[int], position: int) -> bool:
        """Put a kernel for one sample beside a map, if products write its gradient; whether they do."""
        matrices = _matrices(self.before[at] for at in writers)
        samples = _samples(matrices, step, load) if len(matrices) == len(writers) else None
        if samples is None or not all(self._stay(at, position) for at in writers):
            return False
        for at in (*writers, position):
            self.after[at] = (replace(self.before[at], when=When(samples, is_one=False)),)
        new = replace(_with_products(step, load, matrices), when=When(samples, is_one=True))
        self.after[position] += (new,)
        for buffer in buffers_of(new):
            self.users[buffer] = sorted({*self.users[buffer], position})
        return True

    def take_table(self, step: Step, load: Load, writers: Sequence[int], position: int) -> None:
        """Let a map read the updates of its table, if they are what makes its gradient and nobody else needs them."""
        table = _table([self.before[at] for at in writers], step, load)
        if table is None or not isinstance(table.updates.buffer, Buffer):
            return
        if self.users[table.updates.buffer][-1] == writers[-1]:
            self.after[writers[0]], self.after[writers[-1]] = (table.find_first(),), (table.add_up(),)
            self.after[position] = (_with_rows(step, load, table),)
            self.users[table.updates.buffer].append(position)

    def _stay(self, first: int, last: int) -> bool:
        """Whether what a product reads is the same after it, up to the end of a later step."""
        product = self.before[first]
        return not any(overlap(spans_of(product, memory, Load), spans_of(step, memory, Store))
                       for group in self.after[first + 1:last + 1] for step in group
                       for memory in memory_of(product) & memory_of(step))


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
    accesses = [s for s in statements(step.code.body) if isinstance(s, (Load, Store))]
    found = [s for s in accesses if isinstance(s, Load) and s.index.key == place
             and not s.dynamic and s.guard is None and isinstance(step.views[s.buffer].buffer, Buffer)
             and step.views[s.buffer].buffer.size == step.units]
    if len(found) != 1:
        return None
    memory = step.views[found[0].buffer].buffer
    return found[0] if sum(step.views[s.buffer].buffer is memory for s in accesses) == 1 else None


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
        return rename(s, {vector.variable: row * columns + column})
    names = (f"v{number}" for number in count(len(list(statements(step.code.body))) + 1))
    of_row, of_column = element(len(views), names, row, column)
    inner = tuple(part for s in vector.body for part in (of_column if s is load else replaced((s,), moved)))
    units = Units(((UNIT, rows),), (*of_row, For(vector.variable, columns, inner)))
    body = compacted(numbered((*replaced(before, moved), units)))
    views += tuple(operands)
    return replace(step, kernel=Kernel(tuple(view.dtype for view in views), body), views=views, units=rows,
                   work=step.work * columns)


# --- outer products ---------------------------------------------------------------------------------------------------


def _samples(matrices: Sequence[Product], step: Step, load: Load) -> Size | None:
    """The number of samples, if these products of matrices sum over samples alone and together write what the map
    loads."""
    if not matrices or not all(_is_outer(matrix, step.views[load.buffer], step.units) for matrix in matrices):
        return None
    forms = {(matrix.sums[0].size, matrix.rows[0].size, matrix.columns) for matrix in matrices}
    begins = [not matrix.accumulates for matrix in matrices]
    return matrices[0].sums[0].size if len(forms) == 1 and begins == [True] + [False] * (len(begins) - 1) else None


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
