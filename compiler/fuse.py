"""Fusion: which values are stored, and which are computed inside the kernels that use them.

A stored value gets a kernel of its own (one region); everything between stored values is inlined into the kernels
that need it, movement included: a transpose or a slice costs an index, not a copy.  The decision is made here, by
cost: a value that several kernels need is stored unless it is cheaper to compute again.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from itertools import accumulate

from ..runtime.records import dataclass
from .ir import Node, is_tensor, topological, users
from .types import Size, product

LEAVES = {"input", "param", "state", "local"}
TRIVIAL = {"constant", "size", "iota"}
MOVEMENT = {"reshape", "transpose", "broadcast", "slice", "reverse", "pad", "stop_gradient", "custom"}
OPAQUE = {"contract", "reduce", "argmax", "argmin", "scan", "concat", "scatter_add",
          "window_argmax", "window_take", "window_put"}
# Arguments that a kernel reads many times or out of order, so that computing them anew would cost more than storing.
READ_MANY_TIMES = {"contract", "window_argmax", "window_take", "window_put"}
# Values that are made of what is at other coordinates than their own.
ELSEWHERE = MOVEMENT - {"stop_gradient", "custom"} | TRIVIAL | {"gather", "random_bits"}
CONTIGUOUS = {"scan", "scatter_add"}

EXPENSIVE = {"exp": 10, "expm1": 14, "log": 10, "log1p": 14, "tanh": 14, "sigmoid": 12, "erf": 20, "sin": 14, "cos": 14,
             "pow": 24, "random_bits": 40, "div": 3, "sqrt": 3, "rsqrt": 4, "gather": 2}
RECOMPUTE_LIMIT = 4      # a shared value that costs more operations an element than this is stored
LATE_LIMIT = 24          # one that would be kept long: so many take as long as to write it to memory and read it again
LATE_PRODUCTS = 2        # which it is where so many products come between
REGION_LIMIT = 48        # an expression with more operations than this is cut in two


@dataclass(frozen=True)
class Fusion:
    """``stored``: the values that get memory, arguments first; every other value lives inside a kernel."""

    stored: tuple[Node, ...]
    outputs: Mapping[str, Node]

    def __contains__(self, current: object) -> bool:
        return current in self._set

    @property
    def items(self) -> Mapping[Node, list[Node]]:
        """The projections of each scan's results."""
        cached = self.__dict__.get("_items")
        if cached is None:
            cached = {}
            for current in topological(self.outputs.values()):
                if current.op.name == "item":
                    cached.setdefault(current.args[0], []).append(current)
            object.__setattr__(self, "_items", cached)
        return cached

    @property
    def _set(self) -> frozenset:
        cached = self.__dict__.get("_stored_set")
        if cached is None:
            cached = frozenset(self.stored)
            object.__setattr__(self, "_stored_set", cached)
        return cached


def fuse(outputs: Mapping[str, Node]) -> Fusion:
    """Choose the stored values of a graph given by its named outputs."""
    roots = list(outputs.values())
    stored = _required(roots)
    use = users(roots)
    nodes = topological(roots)
    products = dict(zip(nodes, accumulate(current.op.name == "contract" for current in nodes)))     # up to each
    weight: dict[Node, int] = {}
    for current in nodes:
        weight[current] = _weight(current, weight, stored)
        if current in stored or not is_tensor(current) or current.op.name in LEAVES | TRIVIAL:
            continue
        readers = set(use[current])
        shared = len(readers) > 1 and weight[current] > RECOMPUTE_LIMIT
        if shared and weight[current] <= LATE_LIMIT and _is_of_one(current, readers, stored):
            # What an activation and its gradient have in common, each with readers of its own, is computed twice.
            early, *late = sorted({products[reader] for reader in readers})
            shared = len(late) != 1 or late[0] - early < LATE_PRODUCTS
        repeated = weight[current] > RECOMPUTE_LIMIT and current.shape and any(
            user.op.name == "broadcast" and user.attrs["axes"] != tuple(range(current.type.rank))
            for user in use[current])
        if shared or repeated or weight[current] > REGION_LIMIT:
            stored.add(current)
            weight[current] = 0
    # The positions of maxima that nobody wants but the pooling itself, which finds the maxima without them.
    stored -= {current for current in stored if current.op.name == "window_argmax" and current not in roots
               and all(is_max_pooling(user) for user in use[current])}
    order = tuple(current for current in nodes if current in stored)
    return Fusion(order, dict(outputs))


def _is_of_one(current: Node, readers: Iterable[Node], stored: set[Node]) -> bool:
    """Whether it takes one stored value to compute this one, as large as it, which so can be kept in its place; and it
    is read element by element."""
    kept = [arg for arg in operands(current, stored) if arg.op.name not in LEAVES]
    return [product(arg.shape) for arg in kept] == [product(current.shape)] \
        and not any(reader.op.name in MOVEMENT | OPAQUE for reader in readers)


def _required(roots: Iterable[Node]) -> set[Node]:
    """Values that must be stored whatever they cost."""
    roots = list(roots)
    stored = {_kept_for(root) for root in roots if root.op.name not in LEAVES and is_tensor(root)}
    for current in topological(roots):
        name = current.op.name
        if name in OPAQUE or is_spread(current):
            stored.add(current)
        if name in READ_MANY_TIMES:
            stored.update(_base(arg) for arg in current.args)
            if name == "window_take" and not is_max_pooling(current):
                stored.add(through_reshapes(current.args[0]))
        elif name in CONTIGUOUS:
            stored.update(through_reshapes(arg) for arg in current.args)
        elif name == "concat" and current.type.rank == 1:
            # Computed in its place in any case; stored, a piece of a vector may share a kernel with those of others.
            stored.update(base for base in map(through_reshapes, current.args)
                          if base.op.name not in OPAQUE | TRIVIAL | MOVEMENT)
        elif name == "gather":
            stored.add(through_reshapes(current.args[0]))
        elif name == "reshape" and split_of(current) is None:
            stored.add(current.args[0])
    return {current for current in stored if current.op.name not in LEAVES | {"item"}}


def _kept_for(root: Node) -> Node:
    """The value that is stored for an output: the one that it is in another shape, if that has memory of its own."""
    base = through_reshapes(root)
    return root if base.op.name in LEAVES | TRIVIAL | {"item"} else base


def _base(current: Node) -> Node:
    """The value that a chain of movements reads."""
    while current.op.name in MOVEMENT and not is_spread(current):
        inner = current.args[0]
        if current.op.name == "reshape" and split_of(current) is None:
            return inner            # which must be stored, and then is the same memory
        current = inner
    return current


def through_reshapes(current: Node) -> Node:
    """The value whose memory this one is, when it is contiguous."""
    while current.op.name in ("reshape", "stop_gradient", "custom"):
        current = current.args[0]
    return current


def is_max_pooling(current: Node) -> bool:
    """Whether a value takes its own windows' maxima; any other reads its operand at computed places."""
    if current.op.name != "window_take":
        return False
    chosen = current.args[1]
    return chosen.op.name == "window_argmax" and chosen.args[0] is current.args[0] and chosen.attrs == current.attrs


def is_spread(current: Node) -> bool:
    """A pad with fillers between the elements: stored, since reading it would need a division."""
    return current.op.name == "pad" and any(current.attrs["interior"])


def _weight(current: Node, weight: Mapping[Node, int], stored: set[Node]) -> int:
    """Operations an element to compute the value from stored ones."""
    name = current.op.name
    if current in stored or name in LEAVES | TRIVIAL or not is_tensor(current) or name == "item":
        return 0
    own = 0 if name in MOVEMENT else EXPENSIVE.get(name, 1)
    return min(own + sum(weight[arg] for arg in current.args), 10 * REGION_LIMIT)


def is_elementwise(current: Node) -> bool:
    """Whether an inlined value reads its arguments at its own coordinates only."""
    return current.op.name not in ELSEWHERE


def operands(current: Node, stored: Container[Node]) -> dict[Node, bool]:
    """The stored values, results of scans and leaves that the kernel of a value reads, and whether each is read only at
    the element that is computed."""
    found: dict[Node, bool] = {}
    for operand, aligned in _reached(current, stored):
        if operand in stored or operand.op.name in LEAVES | {"item"}:
            found[operand] = found.get(operand, True) and aligned
    return found


def _reached(current: Node, stored: Container[Node]) -> Iterator[tuple[Node, bool]]:
    """What the kernel of a value computes on the way to it and what it reads, and whether at the element itself: what
    is wanted there and elsewhere comes twice."""
    waiting = [(arg, is_elementwise(current)) for arg in current.args]
    seen = set()
    while waiting:
        operand, aligned = place = waiting.pop()
        if place in seen:
            continue
        seen.add(place)
        yield place
        if operand not in stored and operand.op.name not in LEAVES | {"item"}:
            aligned = aligned and is_tensor(operand) and is_elementwise(operand)
            waiting.extend((arg, aligned) for arg in operand.args)


def split_of(current: Node) -> list[list[int]] | None:
    """For a reshape that only splits dimensions (or adds and drops ones): the result's axes that make up each
    operand axis, outermost first; None if some dimensions merge, which no affine index can express."""
    source, target = current.args[0].shape, current.shape
    groups: list[list[int]] = []
    axis = 0
    for size in source:
        group: list[int] = []
        have: Size = 1
        while have != size:
            if axis == len(target) or not _divides(have * target[axis], size):
                return None
            have = have * target[axis]
            group.append(axis)
            axis += 1
        groups.append(group)
    return groups if all(target[rest] == 1 for rest in range(axis, len(target))) else None


def _divides(part: Size, whole: Size) -> bool:
    if part == whole:
        return True
    if isinstance(whole, int):
        return isinstance(part, int) and part > 0 and whole % part == 0
    if isinstance(part, int):
        return all(c % part == 0 for c in whole.terms.values())
    return len(part.terms) == 1 and set(next(iter(part.terms))) <= {a for m in whole.terms for a in m}


def format_fusion(fusion: Fusion) -> str:
    """One line a stored value, with what was inlined into its kernel, for ``netc emit --stage fused``."""
    names = {current: f"k{number}" for number, current in enumerate(fusion.stored)}
    lines = []
    for current in fusion.stored:
        read = operands(current, names)
        inlined = [arg.op.name for arg in {arg: None for arg, _ in _reached(current, names)}
                   if arg not in read and arg.op.name not in TRIVIAL]
        read_names = {_name(arg, names) for arg in read}
        text = f"{names[current]} = {current.op.name}: {current.type}"
        text += f"  reads {', '.join(sorted(read_names)) or '-'}"
        if inlined:
            text += f"  fuses {', '.join(sorted(inlined))}"
        lines.append(text)
    lines += [f"output {name} = {names.get(value, value.op.name)}" for name, value in fusion.outputs.items()]
    return "\n".join(lines)


def _name(operand: Node, names: Mapping[Node, str]) -> str:
    """Of a stored value its number, of a leaf its own name."""
    if operand.op.name == "item":
        operand = operand.args[0]
    own = operand.attrs
    return names.get(operand) or str(own.get("path", own.get("name", own.get("index"))))
