"""Updates of large weights as soon as they can be, so that their gradients live shortly.

A step's new weights are asked for last, when the way back is done: all gradients with respect to weights would be kept
until then.  An update may come as soon as its gradient is known and nobody will read the old weights any more.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from .in_place import overlap, spans_of
from .loops import Load, Store, statements
from .memory import memory_of
from .schedule import External, Step

LEAST_WORK = 1 << 18        # scalar operations of a large update: some ten of each element of a large gradient


def update_early(steps: Iterable) -> list:
    """The steps in another order: large updates follow at once on the last step that they must."""
    made, spans = list(steps), cache(spans_of)

    def must_follow(step, other) -> bool:
        """Whether one of the two writes what the other reads or writes."""
        return any(overlap(spans(step, memory, mine), spans(other, memory, theirs))
                   for memory in memory_of(step) & memory_of(other)
                   for mine, theirs in ((Load, Store), (Store, Load), (Store, Store)))
    for step in list(made):
        if _is_large_update(step):
            position = first = made.index(step)
            while first > 0 and not must_follow(step, made[first - 1]):
                first -= 1
            made.insert(first, made.pop(position))
    return made


def _is_large_update(step) -> bool:
    """Whether a step computes nothing but what the caller keeps, and much of it."""
    if not isinstance(step, Step) or step.matrix is not None or step.label != "map":
        return False
    is_large = isinstance(step.units, int) and isinstance(step.work, int) and step.units * step.work >= LEAST_WORK
    return is_large and all(isinstance(step.views[s.buffer].buffer, External)
                            for s in statements(step.code.body) if isinstance(s, Store))
