"""What follows a product, such as a bias and an activation, done with its elements where they would be stored.

A map that alone reads a product, and of it only the element that it computes, needs no kernel of its own, and the
product no memory.  Whatever else the map reads or writes stays as it is, so this is no matter of biases or activations.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..runtime.records import changed
from .loops import Assign, Constant, Divide, FromIndex, Kernel, Let, Load, Store, Units, Within, replaced, statements
from .memory import memory_of
from .nest import View
from .schedule import Buffer, ScanStep, Step
from .types import Size, product

VALUE = "value"                 # what the kernel of such a step calls the product's element
_PLAIN = (Assign, Constant, Divide, FromIndex, Let, Load, Store, Within)


def fuse_epilogues(steps: Iterable) -> tuple:
    """The steps with maps taken into the products that they alone read.  A product then runs where the map ran, by
    which time everything that the map reads is there.  Steps of a scan stay as they are."""
    made = list(steps)
    for step in tuple(made):
        if isinstance(step, Step) and _is_map(step):
            made = _with_epilogue(made, step) or made
    return tuple(made)


def _with_epilogue(steps: Sequence, step: Step) -> list | None:
    """The steps with this map in the last product that it can be taken into; None if there is none."""
    here = next(position for position, other in enumerate(steps) if other is step)
    for position in reversed(range(here)):
        if _is_product(steps[position]):
            buffer = steps[position].matrix.c.buffer
            writers = _writers(steps, here, buffer) if any(view.buffer is buffer for view in step.views) else []
            if writers and _reads_own_element(step, buffer):
                return [*(s for s in steps[:here] if s not in writers), *(_fused(s, step) for s in writers),
                        *steps[here + 1:]]
    return None


def _writers(steps: Sequence, here: int, buffer) -> list[Step]:
    """The products that make up a buffer which only the map at ``here`` reads, if they may run just before it."""
    writers = [s for s in steps[:here] if buffer in memory_of(s)]
    if not isinstance(buffer, Buffer) or not all(map(_is_product, writers)) \
            or any(buffer in memory_of(s) for s in steps[here + 1:]):
        return []
    read = {view.buffer for s in writers for view in (s.matrix.a, s.matrix.b)}
    if buffer in read:
        return []
    first = min(position for position, s in enumerate(steps) if s in writers)
    later = [s for s in steps[first:here + 1] if s not in writers]
    return [] if any(read & written_by(s) for s in later) else writers


def _is_product(step) -> bool:
    return isinstance(step, Step) and step.matrix is not None and step.kernel is None


def _is_map(step: Step) -> bool:
    """Whether a step's units are nothing but statements one after the other."""
    if step.matrix is not None or step.lanes > 1 or not isinstance(step.code.body[-1], Units):
        return False
    *before, units = step.code.body
    return all(isinstance(s, _PLAIN) for s in (*before, *units.body))


def _reads_own_element(step: Step, buffer: Buffer) -> bool:
    """Whether all that a map's unit reads of a dense buffer is the element of its own number."""
    units = step.code.body[-1]
    extents: list[Size] = [extent for _, extent in units.split]
    if product(extents) != buffer.size:
        return False
    wanted = {name: product(extents[position + 1:]) for position, (name, extent) in enumerate(units.split)
              if extent != 1}
    for access in (*step.code.body[:-1], *units.body):
        if isinstance(access, (Load, Store)) and step.views[access.buffer].buffer is buffer:
            place = access.index + step.views[access.buffer].offset
            if isinstance(access, Store) or access.dynamic or access.guard or place.offset != 0 \
                    or {name: c for name, c in place.terms.items() if c != 0} != wanted:
                return False
    return True


def _fused(made: Step, step: Step) -> Step:
    """A product whose elements go through the map."""
    matrix = made.matrix
    assert matrix is not None
    buffer = matrix.c.buffer
    kept = [k for k, view in enumerate(step.views) if view.buffer is not buffer]
    number = {k: new for new, k in enumerate(kept)}

    def renumbered(s):
        if isinstance(s, Load) and s.buffer not in number:
            return Assign(s.name, VALUE)
        return changed(s, buffer=number[s.buffer]) if isinstance(s, (Load, Store)) else s
    kernel = Kernel(tuple(step.code.buffers[k] for k in kept), replaced(step.code.body, renumbered))
    views: tuple[View, ...] = (matrix.a, matrix.b, *(step.views[k] for k in kept))
    return replace(made, kernel=kernel, views=views, units=step.units, label=f"{made.label} and {step.label}",
                   values=tuple(dict.fromkeys((*made.values, *step.values))))


def written_by(step) -> set:
    """The memory that a step may write."""
    if isinstance(step, ScanStep):
        return memory_of(step)
    if step.attention is not None:
        return {step.attention.values.c.buffer}
    if step.kernel is None:
        return {step.matrix.c.buffer}
    shift = len(step.views) - len(step.code.buffers)        # the product's operands come before the kernel's
    return {step.views[shift + s.buffer].buffer for s in statements(step.code.body) if isinstance(s, Store)}
