"""Lowering of ``contract``: sums of products over affine index maps.

The path of every contraction: divisions in its maps are resolved into phases, each a contraction without division; an
operand that is read beyond its edge is copied once into a zero halo; what is then linear in memory goes to the
runtime's tile kernel (``tiling``), anything else to a loop nest.
"""

from __future__ import annotations

from itertools import product as combinations

from ..runtime.records import dataclass
from .ir import Node
from .loops import Affine, Assign, Constant, Divide, Load
from .nest import Loop, Nest
from .schedule import Step, Target
from .tiling import Strided, product_of, strided_operand
from .types import Size, known_nonnegative


@dataclass(frozen=True)
class Phase:
    """The contraction on a sublattice of its indices: ``values[k]`` is index k in terms of the loops' variables.

    ``empty``: nothing is summed there, the result is 0.
    """

    loops: tuple[Loop, ...]
    values: tuple[Affine, ...]
    empty: bool = False


def lower_contract(lowering, current: Node) -> None:
    """Add the steps that compute one contraction."""
    phases = phases_of(current)
    reached = [phase for phase in phases if not phase.empty]
    margins = [margins_of(current, k, reached) for k in range(len(current.args))]
    for phase in phases:
        if phase.empty:
            fill_phase(lowering, current, phase)
        elif not tile_contract(lowering, current, phase, margins):
            lowering.add(loop_contract(lowering, current, phase))


# --- phases -----------------------------------------------------------------------------------------------------


def phases_of(current: Node) -> list[Phase]:
    """Without divisions one phase; else one for each residue of the divided output indices, where that works out."""
    rank = current.type.rank
    extents = list(current.shape) + list(current.attrs["reduce"])
    plain = Phase(tuple(Loop(f"i{k}" if k < rank else f"r{k - rank}", size, reduces=k >= rank)
                        for k, size in enumerate(extents)),
                  tuple(Affine.variable(f"i{k}" if k < rank else f"r{k - rank}") for k in range(len(extents))))
    pairs = [_divided_pair(index, rank) for maps in current.attrs["maps"] for index in maps if index.divisor != 1]
    used = [index for pair in pairs if pair is not None for index in pair[:2] if index is not None]
    divided = [pair for pair in pairs if pair is not None]
    if not pairs or len(divided) != len(pairs) or len(set(used)) != len(used):
        return [plain]
    return [_phase(plain, divided, residues) for residues in combinations(*(range(p[2]) for p in divided))]


def _divided_pair(index, rank: int) -> tuple[int, int | None, int, int] | None:
    """(output index, sum index or None, divisor, offset) of a coordinate (output [- sum] + offset) / divisor."""
    terms = dict(index.terms)
    out = [k for k, c in terms.items() if k < rank and c == 1]
    summed = [k for k, c in terms.items() if k >= rank and c == -1]
    if len(out) != 1 or len(terms) != 1 + len(summed) or len(summed) > 1 or not isinstance(index.offset, int):
        return None
    return out[0], summed[0] if summed else None, index.divisor, index.offset


def _phase(plain: Phase, pairs, residues) -> Phase:
    """out = divisor * out' + residue, and the sum index k = divisor * k' + first, so that the division is exact."""
    loops, values, empty = list(plain.loops), list(plain.values), False
    for (out, summed, divisor, offset), residue in zip(pairs, residues):
        first = (residue + offset) % divisor
        empty = empty or (summed is None and first != 0)
        for position, start in ((out, residue), (summed, first)):
            if position is None:
                continue
            loop = loops[position]
            loops[position] = Loop(loop.variable, (loop.extent - start + divisor - 1) // divisor, loop.reduces)
            values[position] = Affine.variable(loop.variable) * divisor + start
    empty = empty or any(isinstance(loop.extent, int) and loop.extent <= 0 for loop in loops)
    return Phase(tuple(loops), tuple(values), empty)


def fill_phase(lowering, current: Node, phase: Phase) -> None:
    """A phase that no kernel element reaches is zero."""
    kept = [loop for loop in phase.loops if not loop.reduces]
    if any(isinstance(loop.extent, int) and loop.extent <= 0 for loop in kept):
        return
    nest = Nest(kept, lowering.view_of)
    zero = nest.constant(current.dtype, 0)
    view = lowering.views[current]
    target = Target(zero, view, view.at(phase.values[:current.type.rank], current.shape))
    lowering.add(lowering.close.map(nest, [target], label="contract"))


# --- coordinates ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Coordinate:
    """One coordinate of an operand: its value, whether a division remains, and how far it leaves the operand."""

    value: Affine
    divisor: int
    low: Size          # elements before the first
    high: Size         # elements after the last


def coordinate_of(index, size: Size, phase: Phase) -> Coordinate:
    """An operand's coordinate in terms of the phase's variables."""
    value = Affine({}, index.offset)
    for which, coefficient in index.terms:
        value = value + phase.values[which] * coefficient
    divisor = index.divisor
    if divisor != 1 and all(isinstance(c, int) and c % divisor == 0 for c in [*value.terms.values(), value.offset]):
        value = Affine({n: c // divisor for n, c in value.terms.items()}, value.offset // divisor)
        divisor = 1
    extent = {loop.variable: loop.extent for loop in phase.loops}
    least: Size = value.offset
    most: Size = value.offset
    for name, coefficient in value.terms.items():
        reach = coefficient * (extent[name] - 1)
        least, most = (least, most + reach) if known_nonnegative(coefficient) else (least + reach, most)
    low, high = -least, most - (size - 1)
    return Coordinate(value, divisor, 0 if known_nonnegative(-low) else low, 0 if known_nonnegative(-high) else high)


def coordinates_of(current: Node, operand: int, phase: Phase) -> list[Coordinate]:
    return [coordinate_of(index, size, phase)
            for size, index in zip(current.args[operand].shape, current.attrs["maps"][operand])]


def margins_of(current: Node, operand: int, phases: list[Phase]) -> list[tuple[Size, Size]] | None:
    """How far all phases together leave each dimension of an operand; None where that is not a number."""
    low, high = [0] * current.args[operand].type.rank, [0] * current.args[operand].type.rank
    for phase in phases:
        for dimension, c in enumerate(coordinates_of(current, operand, phase)):
            if c.divisor != 1 or not isinstance(c.low, int) or not isinstance(c.high, int):
                return None
            low[dimension], high[dimension] = max(low[dimension], c.low), max(high[dimension], c.high)
    return list(zip(low, high))


# --- the tile kernel --------------------------------------------------------------------------------------------


def tile_contract(lowering, current: Node, phase: Phase, margins) -> bool:
    """Add steps that use the runtime's tile kernel; False, and nothing added, where the contraction does not fit."""
    if current.dtype.kind != "float" or len(current.args) != 2 or None in margins:
        return False
    steps_before = len(lowering.steps)
    operands = [_strided_or_halo(lowering, current, k, phase, margins[k]) for k in range(2)]
    matrix = None
    first, second = operands
    if first is not None and second is not None:
        view = lowering.views[current]
        target = view.at(phase.values[:current.type.rank], current.shape)
        matrix = product_of(current, view, target, first, second, phase.loops)
    if matrix is None:
        del lowering.steps[steps_before:]
        lowering.forget_halos(steps_before)
        return False
    lowering.add(Step(None, (matrix.a, matrix.b, matrix.c), 1, 1, "contract", matrix))
    return True


def _strided_or_halo(lowering, current: Node, which: int, phase: Phase, margin) -> Strided | None:
    operand = current.args[which]
    values = tuple(c.value for c in coordinates_of(current, which, phase))
    if not any(low or high for low, high in margin):
        return strided_operand(lowering, operand, values, phase.loops)
    view = lowering.halo(operand, 0)
    return Strided(view, view.at(values, operand.shape))


# --- loops ------------------------------------------------------------------------------------------------------


def loop_contract(lowering, current: Node, phase: Phase) -> Step:
    """Any contraction as a loop nest: along the result's last dimension where an operand runs along it too."""
    nest = Nest(phase.loops, lowering.view_of)
    bounds: list = []
    flags: list = []
    operands = []
    for k, operand in enumerate(current.args):
        place = [_checked(nest, c, size, bounds, flags)
                 for c, size in zip(coordinates_of(current, k, phase), operand.shape)]
        operands.append((operand, tuple(place)))
    guard = nest.within(bounds, flags)
    values = tuple(nest.expression(operand, place, guard) for operand, place in operands)
    view, dtype = lowering.views[current], current.dtype
    target = view.at(phase.values[:current.type.rank], current.shape)
    if len(values) == 1:
        values += (nest.constant(dtype, 1),)
    if _runs_along_result(nest):
        return lowering.close.columns(nest, "fma", 0, values, view, target, guard, label="contract")
    total = nest.name("total")
    update = nest.let("fma_any_order" if dtype.kind == "float" else "fma", dtype,
                      (values[0], dtype), (values[1], dtype), (total, dtype))
    start = (Constant(total, dtype, 0),)
    return lowering.close.rows(nest, start, (Assign(total, update),), guard, view, target, total, label="contract")


def _checked(nest: Nest, coordinate: Coordinate, size: Size, bounds: list, flags: list) -> Affine:
    """The coordinate, with what must be checked before it is used added to ``bounds`` and ``flags``."""
    value = coordinate.value
    if coordinate.divisor != 1:
        divide = Divide(nest.name("q"), nest.name("g"), value, coordinate.divisor)
        nest.statements.append(divide)
        flags.append(divide.exact)
        value = Affine.variable(divide.name)
    if coordinate.divisor != 1 or coordinate.low != 0 or coordinate.high != 0:
        bounds.append((value, 0, size))
    return value


def _runs_along_result(nest: Nest) -> bool:
    """Whether some operand is contiguous along the last dimension of the result, and not both along a sum."""
    kept = [loop for loop in nest.loops if not loop.reduces and loop.extent != 1]
    summed = [loop for loop in nest.loops if loop.reduces and loop.extent != 1]
    loads = [s for s in nest.statements if isinstance(s, Load)]
    if not kept:
        return False
    along = any(load.index.coefficient(kept[-1].variable) == 1 for load in loads)
    both_along_sum = summed and all(load.index.coefficient(summed[-1].variable) == 1 for load in loads)
    return along and not both_along_sum
