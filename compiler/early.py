"""Updates of large weights as soon as they can be, so that their gradients live shortly.

A step's new weights are asked for last, when the way back is done: all gradients with respect to weights would be kept
until then.  An update may come as soon as its gradient is known and nobody will read the old weights any more.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from .direct import is_large_map
from .in_place import overlap, spans_of
from .loops import Load, Store
from .memory import memory_of


def update_early(steps: Iterable) -> list:
    """The steps in another order: maps over long vectors follow at once on the last step that they must."""
    made, spans = list(steps), cache(spans_of)

    def must_follow(step, other) -> bool:
        """Whether one of the two writes what the other reads or writes."""
        return any(overlap(spans(step, memory, mine), spans(other, memory, theirs))
                   for memory in memory_of(step) & memory_of(other)
                   for mine, theirs in ((Load, Store), (Store, Load), (Store, Store)))
    for step in list(made):
        if is_large_map(step):
            position = first = made.index(step)
            while first > 0 and not must_follow(step, made[first - 1]):
                first -= 1
            made.insert(first, made.pop(position))
    return made
