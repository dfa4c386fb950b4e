"""In which order groups are computed: what frees memory comes as soon as it can.

Outputs are asked for one after the other, a step's new weights among them.  In that order the gradients with respect to
weights come last, one weight at a time, and all that they are made of is kept until then: every layer's input, and the
gradient with respect to every layer's output.  Computed early, they free both layer by layer; and the latter are still
in the caches.
"""

from __future__ import annotations

from bisect import insort
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from .ir import Node, is_tensor
from .types import evaluate, product

# What a symbolic size is taken for, so that memory can be compared before any size is known.
TYPICAL: Mapping[str, int] = defaultdict(lambda: 32)


def by_memory(groups: Sequence[list[Node]], reads: Mapping[Node, Collection[Node]]) -> list[list[Node]]:
    """The groups in another order, in which they can be computed too.  ``reads``: what each member needs.

    Groups move to places just before products, so that what lies between two of them, which may become one step, stays
    together.
    """
    return _Order(groups, reads).made


class _Order:
    def __init__(self, groups: Sequence[list[Node]], reads: Mapping[Node, Collection[Node]]):
        self.groups = groups
        home = {member: number for number, group in enumerate(groups) for member in group}
        # Of each group, the stored values of others that it reads; of each such value, the groups yet to read it.
        self.operands = [dict.fromkeys(operand for member in group for operand in reads[member]
                                       if home.get(operand, number) != number) for number, group in enumerate(groups)]
        self.readers: dict[Node, set[int]] = {member: set() for member in home}
        for number, operands in enumerate(self.operands):
            for operand in operands:
                self.readers[operand].add(number)
        self.missing = [len(operands) for operands in self.operands]
        self.size = {member: _size(member) for member in home}
        self.ready = [number for number, missing in enumerate(self.missing) if not missing]
        self.may_move = [all(map(_is_sum_over_places, group)) for group in groups]
        self.is_done = [False] * len(groups)
        self.made: list[list[Node]] = []
        for number, group in enumerate(groups):
            if any(member.op.name == "contract" for member in group):
                self._free()
            self._place(number)

    def _free(self) -> None:
        """Place what is ready and frees more than it takes, as long as there is any; first what takes least."""
        while found := list(filter(None, map(self._freeing, self.ready))):
            _, freeing = min(found)
            for number in freeing:
                self._place(number)

    def _freeing(self, number: int) -> tuple[int, list[int]] | None:
        """This group and all others that have yet to read one of its operands, if they are ready and together free more
        than they take; and what they take."""
        for operand in self.operands[number]:
            last = self.readers[operand]
            if any(self.missing[reader] or not self.may_move[reader] for reader in last):
                continue
            read = set().union(*(self.operands[reader] for reader in last))
            freed = sum(self.size[value] for value in read if self.readers[value] <= last)
            taken = sum(self.size[member] for reader in last for member in self.groups[reader])
            if freed > taken:
                return taken, sorted(last)
        return None

    def _place(self, number: int) -> None:
        if self.is_done[number]:
            return
        self.is_done[number] = True
        self.ready.remove(number)
        self.made.append(self.groups[number])
        for operand in self.operands[number]:
            self.readers[operand].discard(number)
        for member in self.groups[number]:
            for reader in self.readers[member]:
                self.missing[reader] -= 1
                if not self.missing[reader]:
                    insort(self.ready, reader)


def _is_sum_over_places(value: Node) -> bool:
    """Whether this is a product, or a sum over anything but the elements of a row: what gradients with respect to
    weights are.  Steps over the same rows stay where they are, since they become one."""
    return value.op.name == "contract" or (
        value.op.name == "reduce" and value.args[0].type.rank - 1 not in value.attrs["axes"])


def _size(value: Node) -> int:
    """Elements of a value, or of all results of a scan."""
    types = [value.type] if is_tensor(value) else value.type
    return sum(evaluate(product(type_.shape), TYPICAL) for type_ in types)
