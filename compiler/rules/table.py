"""The table of rewrite rules, and what rules share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...runtime.records import dataclass
from .. import ops
from ..ir import Node
from ..types import TensorType


@dataclass(frozen=True)
class Rule:
    """``apply(node)`` gives an equal, simpler node of the same type, or None where the rule does not fit."""

    name: str
    apply: Callable[[Node], Node | None]

    @property
    def text(self) -> str:
        """What the rule does, in one line."""
        return (self.apply.__doc__ or "").strip().splitlines()[0]


RULES: dict[str, list[Rule]] = {}      # by the name of the primitive at the root of the pattern, tried in order


def rule(*names: str):
    """Register a function as a rule for nodes of these primitives."""
    def register(apply):
        for name in names:
            RULES.setdefault(name, []).append(Rule(apply.__name__, apply))
        return apply
    return register


def scalar(current: Node):
    """The number that every element of a constant has, None where elements are not one known number."""
    if current.op.name == "broadcast":
        current = current.args[0]
    return current.attrs["value"] if current.op.name == "constant" and current.shape == () else None


def fill(value, type_: TensorType) -> Node:
    """A tensor of one constant."""
    return spread(ops.constant(value, type_.dtype), type_.shape, ())


def spread(x: Node, shape: Sequence, axes: Sequence[int]) -> Node:
    """``broadcast``, or the operand itself where that changes nothing."""
    shape, axes = tuple(shape), tuple(axes)
    return x if x.shape == shape else ops.broadcast(x, shape, axes)
