"""Building one loop nest: expressions over loop variables, then statements placed at the outermost loop they allow.

``Nest`` collects pure statements in order; ``schedule`` closes it into a kernel: loops that walk memory in step are
merged, and each statement is hoisted to the loop where its last variable is bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..runtime.records import changed, dataclass
from .fuse import split_of
from .ir import Node
from .loops import Affine, Assign, Constant, Divide, For, FromIndex, Let, Load, Store, Within
from .rules.table import scalar
from .types import DType, Size, boolean, i32, i64, product


@dataclass(frozen=True)
class View:
    """A tensor in a buffer, ``offset`` elements from its start: dense and row-major, or with ``steps``, the distance of
    neighbours along each dimension."""

    buffer: Any             # a Buffer or an External (schedule.py)
    offset: Size
    dtype: DType
    steps: tuple[Size, ...] | None = None

    def at(self, coordinates: Sequence[Affine], shape: Sequence[Size]) -> Affine:
        """Where an element of a tensor of this shape lies, from ``offset``."""
        total = Affine()
        for coordinate, step in zip(coordinates, self.steps or strides(shape)):
            total = total + coordinate * step
        return total

    @property
    def memory(self) -> View:
        """The same place without its form."""
        return self if self.steps is None else View(self.buffer, self.offset, self.dtype)


@dataclass(frozen=True)
class Loop:
    variable: str
    extent: Size
    reduces: bool = False
    literal: bool = False        # a small constant that stays in the source, to be unrolled


def strides(shape: Sequence[Size]) -> tuple[Size, ...]:
    """Row-major strides, in elements."""
    return tuple(product(shape[axis + 1:]) for axis in range(len(shape)))


def linear(coordinates: Sequence[Affine], shape: Sequence[Size]) -> Affine:
    """The row-major position of coordinates in a dense tensor."""
    total = Affine()
    for coordinate, stride in zip(coordinates, strides(shape)):
        total = total + coordinate * stride
    return total


class Nest:
    """One kernel under construction.

    ``view_of(node)`` gives a stored value's View, or None if it is inlined; ``repeat(node, times)`` the View of a
    vector repeated, or None if that does not pay.
    """

    def __init__(self, loops: Sequence[Loop], view_of: Callable[[Node], View | None], repeat=None):
        self.loops = list(loops)
        self.view_of = view_of
        self.repeat = repeat
        self.views: list[View] = []
        self.statements: list = []
        self._memo: dict = {}
        self._count = 0

    # --- names and buffers

    def name(self, prefix: str = "v") -> str:
        self._count += 1
        return f"{prefix}{self._count}"

    def buffer(self, view: View) -> int:
        """The kernel's number for a view's buffer."""
        view = view.memory
        if view not in self.views:
            self.views.append(view)
        return self.views.index(view)

    def emit(self, statement) -> str:
        self.statements.append(statement)
        return statement.name

    def let(self, op: str, dtype: DType, *operands: tuple[str, DType]) -> str:
        return self.emit(Let(self.name(), op, dtype, tuple(n for n, _ in operands), tuple(d for _, d in operands)))

    def constant(self, dtype: DType, value, given: bool = False) -> str:
        return self.emit(Constant(self.name(), dtype, value, given))

    # --- expressions

    def expression(self, current: Node, coordinates: tuple[Affine, ...], guard: str | None = None) -> str:
        """The name of ``current[coordinates]``; loads happen only where ``guard`` holds."""
        key = (current, tuple(c.key for c in coordinates), guard)
        if key not in self._memo:
            view = self.view_of(current)
            self._memo[key] = (self.compute(current, coordinates, guard) if view is None
                               else self.load(view, view.at(coordinates, current.shape), guard))
        return self._memo[key]

    def compute(self, current: Node, coordinates: tuple[Affine, ...], guard: str | None = None) -> str:
        """As ``expression``, of a value that has no memory yet: the kernel that fills it."""
        rule = _RULES.get(current.op.name)
        if rule is not None:
            return rule(self, current, coordinates, guard)
        operands = [(self.expression(arg, coordinates, guard), arg.dtype) for arg in current.args]
        return self.let(current.op.name, current.dtype, *operands)

    def define(self, current: Node, coordinates: tuple[Affine, ...]) -> str:
        """As ``compute``; from here on, the kernel reads the value from this name."""
        name = self.compute(current, coordinates)
        self._memo[current, tuple(c.key for c in coordinates), None] = name
        return name

    def load(self, view: View, index: Affine, guard: str | None = None, dynamic=()) -> str:
        return self.emit(Load(self.name(), self.buffer(view), index, tuple(dynamic), guard))

    def within(self, bounds, flags=()) -> str | None:
        """A name for "all bounds and flags hold"; None if there is nothing to check."""
        flags = tuple(flag for flag in flags if flag)
        if not bounds and len(flags) <= 1:
            return flags[0] if flags else None
        return self.emit(Within(self.name("g"), tuple(bounds), flags))


# --- primitives that are not the operation of their name ---------------------------------------------------------


def _constant(nest, current, coordinates, guard):
    return nest.constant(current.dtype, current.attrs["value"])


def _size(nest, current, coordinates, guard):
    return nest.emit(FromIndex(nest.name(), current.dtype, Affine({}, current.attrs["dim"])))


def _iota(nest, current, coordinates, guard):
    return nest.emit(FromIndex(nest.name(), current.dtype, coordinates[current.attrs["axis"]]))


def _same(nest, current, coordinates, guard):
    return nest.expression(current.args[0], coordinates, guard)


def _broadcast(nest, current, coordinates, guard):
    repeated = _repeated(nest, current, coordinates)
    if repeated is not None:
        return nest.load(repeated, coordinates[-2] * current.shape[-1] + coordinates[-1], guard)
    return nest.expression(current.args[0], tuple(coordinates[axis] for axis in current.attrs["axes"]), guard)


def _repeated(nest, current, coordinates) -> View | None:
    """For a short vector along the last dimension: itself, repeated along the one before, so that the two are one
    loop."""
    source, shape = current.args[0], current.shape
    if nest.repeat is None or current.attrs["axes"] != (len(shape) - 1,) or len(shape) < 3:
        return None
    extents = {loop.variable: loop.extent for loop in nest.loops}
    for coordinate, size in zip(coordinates[-2:], shape[-2:]):
        if not isinstance(size, int) or not any(coordinate == Affine.variable(v) for v, e in extents.items()
                                                if e == size):
            return None
    return nest.repeat(source, shape[-2])


def _transpose(nest, current, coordinates, guard):
    source = [Affine()] * len(coordinates)
    for position, axis in enumerate(current.attrs["perm"]):
        source[axis] = coordinates[position]
    return nest.expression(current.args[0], tuple(source), guard)


def _slice(nest, current, coordinates, guard):
    source = tuple(c * step + start for c, start, step in
                   zip(coordinates, current.attrs["starts"], current.attrs["steps"]))
    return nest.expression(current.args[0], source, guard)


def _reverse(nest, current, coordinates, guard):
    source = tuple(Affine({}, size - 1) - c if axis in current.attrs["axes"] else c
                   for axis, (c, size) in enumerate(zip(coordinates, current.shape)))
    return nest.expression(current.args[0], source, guard)


def _reshape(nest, current, coordinates, guard):
    source = current.args[0]
    view = nest.view_of(source)
    if view is not None and view.steps is None:
        return nest.load(view, linear(coordinates, current.shape), guard)
    groups = split_of(current)
    inner = tuple(linear([coordinates[axis] for axis in group], [current.shape[axis] for axis in group])
                  for group in groups)
    return nest.expression(source, inner, guard)


def _pad(nest, current, coordinates, guard):
    source = current.args[0]
    inner, bounds = [], []
    for axis, (c, low, high) in enumerate(zip(coordinates, current.attrs["low"], current.attrs["high"])):
        inner.append(c - low)
        if not (low == 0 and high == 0):
            bounds.append((c - low, 0, source.shape[axis]))
    inside = nest.within(bounds, (guard,))
    value = nest.expression(source, tuple(inner), inside)
    if not bounds:
        return value
    filler = nest.constant(current.dtype, current.attrs["value"])
    return nest.let("where", current.dtype, (inside, boolean), (value, current.dtype), (filler, current.dtype))


def _gather(nest, current, coordinates, guard):
    table, indices = current.args
    position = nest.expression(indices, coordinates[:indices.type.rank], guard)
    row = product(table.shape[1:])
    rest = linear(coordinates[indices.type.rank:], table.shape[1:])
    base, shift = _peel(nest, table)
    return nest.load(base, rest + shift, guard, ((position, row),))


def _peel(nest, table: Node) -> tuple[View, Size]:
    """The view of a gathered table, through reshapes."""
    while nest.view_of(table) is None:
        assert table.op.name in ("reshape", "stop_gradient", "custom"), table
        table = table.args[0]
    return nest.view_of(table), 0


def _random_bits(nest, current, coordinates, guard):
    seed = nest.expression(current.args[0], (), guard)
    element = nest.emit(FromIndex(nest.name(), i64, linear(coordinates, current.shape)))
    stream = nest.constant(i64, current.attrs["stream"])
    return nest.let("random_bits", i32, (seed, i64), (element, i64), (stream, i64))


def _expm1(nest, current, coordinates, guard):
    x = current.args[0]
    name = "expm1_nonpositive" if _is_nonpositive(x) else "expm1"
    return nest.let(name, current.dtype, (nest.expression(x, coordinates, guard), x.dtype))


def _is_nonpositive(x: Node) -> bool:
    """Whether this is ``where(y > 0, 0, y)`` or ``min(y, 0)``, as in ELU."""
    if x.op.name == "minimum":
        return any(scalar(arg) == 0 for arg in x.args)
    if x.op.name != "where":
        return False
    is_above, zero, value = x.args
    return is_above.op.name == "lt" and is_above.args[1] is value and scalar(zero) == scalar(is_above.args[0]) == 0


_RULES = {
    "constant": _constant, "size": _size, "iota": _iota, "stop_gradient": _same, "custom": _same,
    "broadcast": _broadcast, "transpose": _transpose, "slice": _slice, "reverse": _reverse, "reshape": _reshape,
    "pad": _pad, "gather": _gather, "random_bits": _random_bits, "expm1": _expm1,
}


# --- from statements to loops ------------------------------------------------------------------------------------


def affines(statement) -> list[Affine]:
    """Every affine integer that a statement uses."""
    match statement:
        case Divide() | FromIndex():
            return [statement.value]
        case Within():
            return [value for value, _, _ in statement.bounds]
        case Load() | Store():
            return [statement.index]
    return []


def rename(statement, mapping):
    """The statement with loop variables replaced by affine integers."""
    match statement:
        case Divide() | FromIndex():
            return changed(statement, value=statement.value.rename(mapping))
        case Within():
            return changed(statement, bounds=tuple((v.rename(mapping), a, b) for v, a, b in statement.bounds))
        case Load() | Store():
            return changed(statement, index=statement.index.rename(mapping))
    return statement


def simplify_loops(loops: list[Loop], groups: list[list]) -> tuple[list[Loop], list[list]]:
    """Drop loops of one iteration and merge neighbours that walk all memory in step; the groups renamed alike."""
    mapping: dict[str, Affine] = {loop.variable: Affine() for loop in loops if loop.extent == 1}
    loops = [loop for loop in loops if loop.extent != 1]
    groups = [[rename(s, mapping) for s in group] for group in groups]
    position = len(loops) - 2
    while position >= 0:
        outer, inner = loops[position], loops[position + 1]
        used = [a for group in groups for s in group for a in affines(s)]
        together = outer.reduces == inner.reduces and not outer.literal and not inner.literal and all(
            a.coefficient(outer.variable) == a.coefficient(inner.variable) * inner.extent for a in used)
        if together:
            loops[position:position + 2] = [changed(inner, extent=outer.extent * inner.extent)]
            mapping = {outer.variable: Affine()}
            groups = [[rename(s, mapping) for s in group] for group in groups]
        position -= 1
        position = min(position, len(loops) - 2)
    return loops, groups


def operand_names(statement) -> tuple[str, ...]:
    """Names of values that a statement reads."""
    match statement:
        case Let():
            return statement.args
        case Load():
            return tuple(n for n, _ in statement.dynamic) + ((statement.guard,) if statement.guard else ())
        case Store():
            return (statement.value,) + tuple(n for n, _ in statement.dynamic)
        case Within():
            return statement.flags
        case Assign():
            return (statement.value,)
    return ()


def levels(loops: list[Loop], statements: list) -> list[int]:
    """For each statement the number of loops that must be open before it."""
    depth = {loop.variable: position + 1 for position, loop in enumerate(loops)}
    result = []
    for statement in statements:
        level = 0
        for value in affines(statement):
            level = max([level] + [depth[v] for v in value.terms])
        level = max([level] + [depth.get(name, 0) for name in operand_names(statement)])
        for name in (getattr(statement, "name", None), getattr(statement, "exact", None)):
            if name is not None:
                depth[name] = max(level, depth.get(name, 0))
        result.append(level)
    return result


def place(loops: list[Loop], statements: list, first: int, innermost: tuple = ()) -> tuple:
    """Statements in a nest of loops[first:]; those of a level up to ``first`` come before the loops open."""
    levelled = list(zip(levels(loops, statements), statements))

    def build(level: int) -> tuple:
        own = tuple(s for at, s in levelled if at == level or (level == first and at < first))
        if level == len(loops):
            return own + innermost
        return own + (For(loops[level].variable, loops[level].extent, build(level + 1)),)

    return build(first)
