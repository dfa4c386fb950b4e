"""What a step costs: floating-point operations and bytes, counted from its loops.

FLOPs are those that the kernel executes: a fused multiply-add is two, an addition, product, quotient, root, maximum or
minimum one, an elementary function as many as its polynomial takes.  Comparisons, choices, integers and addresses are
none.  A condition counts as true: the turns of a window that fall outside of the image are counted with the others.

Bytes are those that must move between memory and the kernel: each element that it reads or writes, once.  A kernel
that reads an element again, or what it has stored itself, finds it in a cache or a register.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..runtime.records import dataclass
from .loops import Affine, Divide, Follow, For, If, Let, Load, Range, Share, Store, Units
from .parts import cells_of
from .schedule import Extent, Product, Step
from .types import evaluate, product


@dataclass(frozen=True)
class Cost:
    """Floating-point operations, and bytes read and written."""

    flops: int = 0
    loaded: int = 0
    stored: int = 0

    @property
    def bytes(self) -> int:
        return self.loaded + self.stored

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.loaded + other.loaded, self.stored + other.stored)


def cost_of(step: Step, sizes: Mapping[str, int], function_flops: Callable[[str], int]) -> Cost:
    """What one run of the step costs.  ``function_flops``: how many FLOPs an elementary function takes, by name."""
    if step.matrix is not None and step.kernel is None:
        return _product_cost(step.matrix, sizes)
    counter = _Counter(sizes, function_flops)
    counter.body(step.code.body, {}, 1)
    if step.attention is not None:
        return _attention_cost(step, counter, sizes, function_flops("exp"))
    itemsizes = [dtype.itemsize for dtype in step.code.buffers]
    own = Cost(counter.flops, _bytes(counter.loads, itemsizes), _bytes(counter.stores, itemsizes))
    return own if step.matrix is None else _with_product(step.matrix, own, evaluate(step.units, sizes), sizes)


def _with_product(matrix: Product, own: Cost, units: int, sizes: Mapping[str, int]) -> Cost:
    """A product and what is done with its elements, a part of the kernel's units, in place of storing them."""
    whole = _product_cost(matrix, sizes)
    cells = product(evaluate(e.size, sizes) for e in (*matrix.batch, *matrix.rows)) * evaluate(matrix.columns, sizes)
    share = [part * cells // max(units, 1) for part in (own.flops, own.loaded, own.stored)]
    return Cost(whole.flops, whole.loaded, 0) + Cost(*share)


def _attention_cost(step: Step, counter: _Counter, sizes: Mapping[str, int], exponential: int) -> Cost:
    """Both products, whose scores are neither stored nor loaded, and of each score what becomes of it, the largest, an
    exponential and the sum; the quotient is one a column."""
    assert step.attention is not None
    scores, values = (_product_cost(matrix, sizes) for matrix in (step.attention.scores, step.attention.values))
    matrix = step.attention.scores
    count = product(evaluate(e.size, sizes) for e in (*matrix.batch, *matrix.rows)) * evaluate(matrix.columns, sizes)
    itemsize = matrix.c.dtype.itemsize
    loaded = _bytes(counter.loads, [dtype.itemsize for dtype in step.code.buffers])
    return Cost(scores.flops + values.flops + counter.flops + count * (exponential + 3) + values.stored // itemsize,
                scores.loaded + values.loaded - count * itemsize + loaded, values.stored)


def _product_cost(matrix: Product, sizes: Mapping[str, int]) -> Cost:
    """2 m n k; each operand once, and the result, which is read too where it is added to."""
    columns = Extent(matrix.columns, 0, matrix.column_stride, 1)
    extents = (*matrix.batch, *matrix.rows, *matrix.sums, columns)
    itemsize = matrix.c.dtype.itemsize
    moved = {which: itemsize * _distinct([(evaluate(e.size, sizes), evaluate(getattr(e, which), sizes))
                                          for e in extents]) for which in "abc"}
    flops = 2 * product(evaluate(e.size, sizes) for e in extents)
    return Cost(flops, moved["a"] + moved["b"] + moved["c"] * matrix.accumulates, moved["c"])


def cost_of_total(matrix: Product, parts: int) -> Cost:
    """What it costs to add up the parts of a product."""
    cells, itemsize = cells_of(matrix), matrix.c.dtype.itemsize
    return Cost((parts - 1) * cells, parts * cells * itemsize, cells * itemsize)


def cost_of_packing(matrix: Product, sizes: Mapping[str, int]) -> Cost:
    """What it costs to copy a product's second operand."""
    cells = product(evaluate(extent.size, sizes) for extent in matrix.sums) * evaluate(matrix.columns, sizes)
    return Cost(0, cells * matrix.b.dtype.itemsize, cells * matrix.b.dtype.itemsize)


def format_product(matrix: Product, sizes: Mapping[str, int]) -> str:
    """rows x columns x sums, with the number of such products before it where there are several."""
    batch, rows, sums = (product(evaluate(e.size, sizes) for e in group)
                         for group in (matrix.batch, matrix.rows, matrix.sums))
    shape = f"{rows}x{evaluate(matrix.columns, sizes)}x{sums}"
    return shape if batch == 1 else f"{batch} of {shape}"


def _distinct(steps: list[tuple[int, int]]) -> int:
    """At most how many different positions (extent, stride) pairs reach."""
    reached = [(extent, abs(stride)) for extent, stride in steps if stride]
    return min(product(extent for extent, _ in reached), 1 + sum((extent - 1) * stride for extent, stride in reached))


# --- kernels of loops ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Access:
    """One load or store statement: how many different elements, and where they begin and end (None: computed)."""

    count: int
    span: tuple[int, int] | None


class _Counter:
    """Walks a kernel's body; ``turns`` is how often a statement runs, ``extents`` the ranges of the loops around it."""

    def __init__(self, sizes: Mapping[str, int], function_flops: Callable[[str], int]):
        self.sizes = sizes
        self.function_flops = function_flops
        self.flops = 0
        self.loads: dict[int, dict] = {}
        self.stores: dict[int, dict] = {}

    def body(self, statements: tuple, ranges: Mapping[str, tuple[int, int]], turns: int) -> None:
        """``ranges``: (smallest, largest) of every integer in sight."""
        ranges = dict(ranges)
        for statement in statements:
            match statement:
                case For():
                    self._loop([(statement.variable, statement.extent)], statement.body, ranges, turns)
                case Units() | Share():
                    self._loop(statement.split, statement.body, ranges, turns)
                case Range() | If():
                    self.body(statement.body, ranges, turns)
                case Follow():              # a chain has one link at least; how many more, the data say
                    last = evaluate(statement.extent, self.sizes) - 1
                    self.body(statement.body, {**ranges, statement.variable: (0, last)}, turns)
                case Divide():
                    low, high = self._range(statement.value, ranges)
                    ranges[statement.name] = (low // statement.divisor, high // statement.divisor)
                case Let():
                    self.flops += turns * flops_of(statement, self.function_flops)
                case Load():
                    if statement.buffer not in self.stores:
                        self._access(self.loads, statement, ranges, turns)
                case Store():
                    self._access(self.stores, statement, ranges, turns)

    def _loop(self, loops, statements: tuple, ranges: Mapping, turns: int) -> None:
        extents = [(variable, evaluate(extent, self.sizes)) for variable, extent in loops]
        turns *= product(extent for _, extent in extents)
        if turns:
            self.body(statements, {**ranges, **{variable: (0, extent - 1) for variable, extent in extents}}, turns)

    def _range(self, value: Affine, ranges: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
        low = high = evaluate(value.offset, self.sizes)
        for name, coefficient in value.terms.items():
            ends = [evaluate(coefficient, self.sizes) * end for end in ranges[name]]
            low, high = low + min(ends), high + max(ends)
        return low, high

    def _access(self, into: dict, statement: Load | Store, ranges: Mapping, turns: int) -> None:
        key = (statement.index.key, statement.dynamic)
        if statement.dynamic:
            access = _Access(turns, None)
        else:
            low, high = self._range(statement.index, ranges)
            steps = [(1 + ranges[name][1] - ranges[name][0], evaluate(coefficient, self.sizes))
                     for name, coefficient in statement.index.terms.items()]
            access = _Access(_distinct(steps), (low, high))
        into.setdefault(statement.buffer, {})[key] = access


def _bytes(accesses: Mapping[int, Mapping], itemsizes: list[int]) -> int:
    """Different elements of each buffer, in bytes: statements that touch the same stretch count it once."""
    total = 0
    for buffer, found in accesses.items():
        static = [access for access in found.values() if access.span is not None]
        count = sum(access.count for access in static)
        if static:
            stretch = 1 + max(access.span[1] for access in static) - min(access.span[0] for access in static)
            count = min(count, stretch)
        count += sum(access.count for access in found.values() if access.span is None)
        total += count * itemsizes[buffer]
    return total


ONE = {"neg", "abs", "sqrt", "floor", "ceil", "round", "add", "sub", "mul", "div", "maximum", "minimum", "is_finite",
       "add_any_order", "maximum_any_order", "minimum_any_order", "larger"}
TWO = {"fma", "fma_any_order", "rsqrt"}
NONE = {"sign", "logical_not", "floordiv", "mod", "lt", "le", "eq", "ne", "logical_and", "logical_or", "logical_xor",
        "where", "cast", "random_bits"}


def flops_of(statement: Let, function_flops: Callable[[str], int]) -> int:
    """FLOPs of one elementwise operation."""
    if statement.op in NONE or statement.arg_dtypes[-1].kind != "float":
        return 0
    if statement.op in ONE:
        return 1
    return 2 if statement.op in TWO else function_flops(statement.op)
