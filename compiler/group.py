"""Which stored values one kernel computes together: elementwise values of one shape that read the same memory.

A group is one pass over its operands where its members would be one each: an optimiser's moments and weights, a cell's
gates and states.  A member that reads another reads a register.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .fuse import LEAVES, Fusion, operands, through_reshapes
from .ir import Node, is_tensor
from .order import by_memory

LARGEST_GROUP = 8           # members: each is a stream of stores
MOST_READS = 16             # distinct operands of a group


def groups(fusion: Fusion, is_map: Callable[[Node], bool]) -> list[list[Node]]:
    """The stored values in an order in which they can be computed, those together that one kernel computes.

    ``is_map``: whether a value is computed element by element, in loops over its own shape.
    """
    reads = {current: _reads(current, fusion) for current in fusion.stored}
    readers: dict[Node, set[Node]] = {current: set() for current in fusion.stored}
    for current, found in reads.items():
        for operand in found:
            readers.setdefault(operand, set()).add(current)
    outputs = set(map(through_reshapes, fusion.outputs.values()))
    turn = {current: position for position, current in enumerate(fusion.stored)}
    open_groups: dict[tuple, list[list[Node]]] = {}
    made: list[list[Node]] = []
    for position, current in enumerate(fusion.stored):
        chosen = None
        if is_map(current) and current.shape:
            candidates = open_groups.setdefault(current.shape, [])
            near = [group for group in reversed(candidates) if _gains(current, group, reads)]
            chosen = next((group for group in near if _may_wait(current, group, position, readers, turn)), None)
            # An output, or a piece of one, waits: it may replace in memory what others have yet to read.
            is_piece = any(reader.op.name == "concat" for reader in readers[current])
            if chosen is None and current not in outputs and not is_piece:
                chosen = next((group for group in near if _may_come(current, group, reads, turn)), None)
                if chosen is not None:
                    chosen.append(current)
                    turn[current] = turn[chosen[0]]
                    continue
        if chosen is None:
            chosen = []
            made.append(chosen)
            if is_map(current) and current.shape:
                open_groups[current.shape].append(chosen)
        chosen.append(current)
        for member in chosen:
            turn[member] = position
    return by_memory(sorted(made, key=lambda group: turn[group[0]]), reads)


def _gains(current: Node, group: list[Node], reads: Mapping[Node, Mapping[Node, bool]]) -> bool:
    """Whether a value and a group have a reason to be computed together, and can be in one kernel."""
    members = set(group)
    own = reads[current]
    together = set().union(*(reads[member] for member in group)) - members
    gains = any(operand in members or (operand in together and not _is_in_pieces(operand, aligned))
                for operand, aligned in own.items() if is_tensor(operand) and operand.shape)
    aligned = all(own[member] for member in group if member in own)
    return gains and aligned and len(group) < LARGEST_GROUP and len(together | set(own)) <= MOST_READS


def _is_in_pieces(operand: Node, is_aligned: bool) -> bool:
    """Whether this is a vector such as an optimiser's state, of which a value reads a piece: those of others lie apart.
    """
    return operand.op.name in LEAVES and operand.type.rank == 1 and not is_aligned


def _may_wait(current: Node, group: list[Node], position: int, readers: Mapping[Node, set[Node]],
              turn: Mapping[Node, int]) -> bool:
    """Whether nobody needs the group before ``current`` can be computed."""
    return all(reader in group or reader is current or turn[reader] > position
               for member in group for reader in readers[member])


def _may_come(current: Node, group: list[Node], reads: Mapping[Node, Mapping[Node, bool]],
              turn: Mapping[Node, int]) -> bool:
    """Whether ``current`` can be computed when the group is."""
    return all(operand in group or turn.get(operand, -1) < turn[group[0]] for operand in reads[current])


def _reads(current: Node, fusion: Fusion) -> dict[Node, bool]:
    """The stored values and leaves that the kernel of a value reads, and whether each only at the element it computes;
    a scan's results stand for the scan."""
    found = operands(current, fusion)
    return {operand: aligned for operand, aligned in found.items() if operand.op.name != "item"} \
        | {operand.args[0]: False for operand in found if operand.op.name == "item"}
