"""Steps: kernels with the memory they work on, and the three ways to close a loop nest into a kernel.

``finish_map`` stores one value an element; ``finish_rows`` carries accumulators through the innermost loops;
``finish_columns`` accumulates in the result's own memory, so that the vector loop runs along the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..runtime.records import dataclass
from .ir import Node
from .loops import UNIT, Affine, Constant, For, If, Kernel, Let, Load, Range, Store, Units, numbered
from .nest import Loop, Nest, View, levels, operand_names, simplify_loops
from .types import DType, Size, evaluate, product

SHORT_ROW = 128         # a row of so few elements is not a unit of work by itself


@dataclass(frozen=True, eq=False)
class Buffer:
    """Memory of ``size`` elements in the arena; distinct objects are distinct memory."""

    size: Size
    dtype: DType


@dataclass(frozen=True, eq=False)
class External:
    """Memory that the caller gives: a slot by name."""

    slot: str
    dtype: DType


@dataclass(frozen=True)
class Extent:
    """One index of a product: how far it runs, and its stride in each operand and the result (0: does not occur)."""

    size: Size
    a: Size
    b: Size
    c: Size


@dataclass(frozen=True)
class Product:
    """c[batch, rows, columns] = sum over sums of a * b; each group is outermost first.

    The column is contiguous in c, has ``column_stride`` in b and does not occur in a.  A dot product has one column of
    stride 0, and its last sum index is contiguous in a and b.  One that ``accumulates`` adds the sum to what is in c.
    """

    a: View
    b: View
    c: View
    batch: tuple[Extent, ...]
    rows: tuple[Extent, ...]
    sums: tuple[Extent, ...]
    columns: Size
    column_stride: Size
    accumulates: bool = False

    @property
    def is_dot(self) -> bool:
        return self.columns == 1 and self.column_stride == 0

    @property
    def panels(self) -> Extent | None:
        """The last batch index, where it counts panels of columns that lie side by side in the result."""
        if not self.batch or self.column_stride != 1:
            return None
        last = self.batch[-1]
        if not (isinstance(last.size, int) and isinstance(last.b, int) and isinstance(self.columns, int)):
            return None
        fits = self.columns * self.c.dtype.itemsize in (64, 128)    # whole vectors, whatever their length, of one tile
        return last if fits and last.a == 0 and last.c == self.columns else None

    @property
    def all_columns(self) -> Size:
        """How many columns there are, those of all panels together."""
        return self.columns if self.panels is None else self.columns * self.panels.size

    @property
    def row_count(self) -> Size:
        return product(extent.size for extent in self.rows)


@dataclass(frozen=True)
class Attention:
    """The products of an attention in one step: its scores, which have no memory, and what their softmax weighs."""

    scores: Product
    values: Product


@dataclass(frozen=True)
class When:
    """A condition on the sizes: that this one is 1, or that it is not."""

    size: Size
    is_one: bool

    def holds(self, sizes: Mapping[str, int]) -> bool:
        return (evaluate(self.size, sizes) == 1) == self.is_one


@dataclass(frozen=True, eq=False)
class Step:
    """One kernel on these views.  ``units`` is the extent of its parallel loop, ``work`` the rough number of scalar
    operations a unit; ``label`` names the primitive for profiles, ``values`` are what the step computes, or a part of
    it.  A step with a ``matrix`` runs the runtime's tile kernel, which plans units by itself.  On a GPU, ``lanes``
    threads work on a unit together; and a step with both does with the product's elements what its kernel says (see
    ``epilogue``), the product itself has no memory then.  With an ``attention`` the kernel says what
    is done with a score.  A step with a condition is left out at sizes for which ``when`` does not hold."""

    kernel: Kernel | None
    views: tuple[View, ...]
    units: Size
    work: Size
    label: str
    matrix: Product | None = None
    values: tuple[Node, ...] = ()
    lanes: int = 1
    attention: Attention | None = None
    when: When | None = None

    @property
    def code(self) -> Kernel:
        """The kernel, of a step that has one."""
        assert self.kernel is not None
        return self.kernel

    @property
    def vector(self) -> bool:
        """Whether the units are the turns of a vector loop."""
        return self.kernel is not None and any(isinstance(s, Range) for s in self.kernel.body)


@dataclass(frozen=True, eq=False)
class ScanStep:
    """``body`` repeated ``length`` times; the symbols ``time`` and ``parity`` take each turn's values."""

    body: tuple
    length: Size
    time: str
    parity: str
    reverse: bool


def done_at(steps: Iterable, sizes: Mapping[str, int]) -> list:
    """The steps whose conditions hold."""
    return [step for step in steps if isinstance(step, ScanStep) or step.when is None or step.when.holds(sizes)]


def identity_of(kind: str, dtype: DType):
    """The neutral element of a reduction."""
    if kind in ("sum", "prod"):
        return {"float": float, "int": int, "bool": bool}[dtype.kind](kind == "prod")
    if dtype.kind == "bool":
        return kind == "min"
    if dtype.kind == "float":
        return float("-inf") if kind == "max" else float("inf")
    limit = 2 ** (8 * dtype.itemsize - 1)
    return -limit if kind == "max" else limit - 1


def step_of(nest: Nest, body: tuple, units: Size, work: Size, label: str) -> Step:
    """The step of a closed nest."""
    return Step(Kernel(tuple(view.dtype for view in nest.views), numbered(body)), tuple(nest.views), units, work, label)


def parallel(outer: Sequence[Loop], loops: Sequence[Loop], statements: list, inside) -> tuple[tuple, Size]:
    """Units over the ``outer`` ones of ``loops``: invariant statements before them, ``inside`` (a body) within."""
    found = levels(list(loops), statements)
    invariant = tuple(s for level, s in zip(found, statements) if level == 0)
    split = tuple((loop.variable, loop.extent) for loop in outer) or ((UNIT, 1),)
    return invariant + (Units(split, inside),), product(extent for _, extent in split)


@dataclass(frozen=True)
class Target:
    """What a kernel stores for every turn of its loops: a value by name, and where."""

    value: str
    view: View
    index: Affine


def finish_map(nest: Nest, targets: Sequence[Target], label: str = "map") -> Step:
    """Store the targets for every turn of the loops."""
    stores = [Store(nest.buffer(target.view), target.index, target.value) for target in targets]
    loops, (statements, stores) = simplify_loops(nest.loops, [nest.statements, stores])
    weight = len(statements) + len(stores)
    if len(loops) <= 1:
        loops = loops or [Loop(UNIT, 1)]
        found = levels(loops, statements)
        invariant = tuple(s for level, s in zip(found, statements) if level == 0)
        inner = tuple(s for level, s in zip(found, statements) if level == 1) + tuple(stores)
        body = invariant + (Range(loops[0].variable, (For(loops[0].variable, loops[0].extent, inner),)),)
        return step_of(nest, body, loops[0].extent, weight, label)
    outer = loops[:-1]
    if len(loops) > 2 and isinstance(loops[-1].extent, int) and loops[-1].extent <= SHORT_ROW:
        outer = loops[:-2]      # to take a unit apart costs as much as a short row
    inside = _nested(loops, statements, len(outer), tuple(stores))
    body, units = parallel(outer, loops, statements, inside)
    return step_of(nest, body, units, product(loop.extent for loop in loops[len(outer):]) * weight, label)


def _nested(loops: list[Loop], statements: list, first: int, innermost: tuple) -> tuple:
    """loops[first:] with every statement that depends on a loop at its level; invariant ones are left out."""
    levelled = [(level, s) for level, s in zip(levels(loops, statements), statements) if level > 0]

    def build(level: int) -> tuple:
        own = tuple(s for at, s in levelled if at == level or (level == first and at < first))
        if level == len(loops):
            return own + innermost
        loop = loops[level]
        return own + (For(loop.variable, loop.extent, build(level + 1), loop.literal),)

    return build(first)


def finish_rows(nest: Nest, start: tuple, update: tuple, guard: str | None, view: View, index: Affine,
                result: str, label: str = "rows") -> Step:
    """Accumulators set by ``start``, changed by ``update`` in every turn (where ``guard`` holds), then one store.

    ``update`` reads names that the nest's statements define, the last of which may read the accumulators: those
    stand in the innermost loop.
    """
    store = Store(nest.buffer(view), index, result)
    loops, (statements, (store,)) = simplify_loops(nest.loops, [nest.statements, [store]])
    outer = [loop for loop in loops if not loop.reduces]
    inner = [loop for loop in loops if loop.reduces]
    loops = outer + inner
    accumulators = {s.name for s in start}
    dependent = dependents(statements, accumulators)
    free = [s for s in statements if s not in dependent]
    innermost = tuple(s for s in statements if s in dependent) + update
    if guard is not None:
        innermost = (If(guard, innermost),)
    inside = _nested_rows(loops, free, len(outer), start, innermost, store)
    body, units = parallel(outer, loops, free, inside)
    work = product(loop.extent for loop in inner) * (len(statements) + 1)
    return step_of(nest, body, units, work, label)


def dependents(statements: list, names: set[str]) -> list:
    """Statements that read the names, directly or through one another."""
    known, found = set(names), []
    for statement in statements:
        if any(name in known for name in operand_names(statement)):
            known.add(statement.name)
            found.append(statement)
    return found


def _nested_rows(loops, statements, first, start, innermost, store) -> tuple:
    body = _nested(loops, statements, first, innermost)
    # The accumulators start right before the first reducing loop, the result is stored after it.
    opening = next((i for i, s in enumerate(body) if isinstance(s, For)), None)
    if opening is None:
        cut = len(body) - len(innermost)
        return body[:cut] + start + body[cut:] + (store,)
    return body[:opening] + start + body[opening:] + (store,)


def finish_columns(nest: Nest, combine: str, start, operands: tuple[str, ...], view: View, index: Affine,
                   guard: str | None = None, label: str = "columns") -> Step:
    """result = combine(result, *operands) for every turn of the reducing loops, along the last kept loop.

    ``combine`` "fma" takes two operands (a * b is added), the others one.
    """
    target = nest.buffer(view)
    probe = Store(target, index, "result")
    loops, (statements, (probe,)) = simplify_loops(nest.loops, [nest.statements, [probe]])
    kept = [loop for loop in loops if not loop.reduces] or [Loop(UNIT, 1)]
    outer, column = kept[:-1], kept[-1]
    inner = [loop for loop in loops if loop.reduces]
    order = outer + inner + [column]
    before = Load(nest.name("old"), target, probe.index)
    dtype = view.dtype
    args = (before.name,) + operands if combine != "fma" else operands + (before.name,)
    after = Let(nest.name("new"), combine, dtype, args, (dtype,) * len(args))
    store = Store(target, probe.index, after.name)
    zero = Constant(nest.name("zero"), dtype, start)
    clear = (zero, For(column.variable, column.extent, (Store(target, probe.index, zero.name),)))
    sums = _guarded_nest(order, statements, len(outer), (before, after, store), guard)
    weight = len(statements) + 2
    if not outer:
        found = levels(order, statements)
        invariant = tuple(s for level, s in zip(found, statements) if level == 0)
        body = invariant + (Range(column.variable, clear + sums),)
        return step_of(nest, body, column.extent, product(loop.extent for loop in inner) * weight, label)
    body, units = parallel(outer, order, statements, clear + sums)
    return step_of(nest, body, units, product(loop.extent for loop in inner + [column]) * weight, label)


def _guarded_nest(order: list[Loop], statements: list, first: int, innermost: tuple, guard: str | None) -> tuple:
    """The nest of order[first:] with all that lies below the guard's level under an If."""
    found = levels(order, statements)
    level_of = {getattr(s, "name", None): level for level, s in zip(found, statements)}
    cut = level_of.get(guard, -1)
    levelled = [(level, s) for level, s in zip(found, statements) if level > 0]

    def build(level: int) -> tuple:
        own = tuple(s for at, s in levelled if at == level or (level == first and at < first))
        if level == len(order):
            rest = innermost
        else:
            rest = (For(order[level].variable, order[level].extent, build(level + 1), order[level].literal),)
        if guard is not None and (level == cut or (level == first and cut < first)):
            rest = (If(guard, rest),)
        return own + rest

    return build(first)


class Closing:
    """How loop nests become kernels on a CPU; ``close_cuda`` has the GPU's.

    ``repeats``: whether a short vector is repeated in memory where that makes longer rows.  ``chains``: whether threads
    share the rows of a ``scatter_add``, at the price of a search for equal indices.
    """

    repeats = True
    chains = False
    map = staticmethod(finish_map)
    rows = staticmethod(finish_rows)
    columns = staticmethod(finish_columns)


CPU = Closing()
