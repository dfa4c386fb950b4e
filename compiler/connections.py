"""The rows of the summary: each call of a layer, and the rows and inputs that it is connected to.

The graph has no edges between layers, only nodes.  From a layer's inputs the walk goes back through plain operations
(a sum, a concat) until it meets the output of a layer that was called before, an input of the model, or a weight that
is used outside of its layer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Iterable

from .ir import Node
from .model import Layer, Model


@dataclass(frozen=True)
class Row:
    """One call of a layer; or (``layer`` None) the operations at the end of a nested model, or an output of the model.

    ``sources`` are names of rows of the same parent and of inputs of the model; a row that lies outside of the parent
    has its whole path, after a "/" where that could be taken for a row of the parent.
    """

    name: str                     # unique among the rows of its parent
    depth: int                    # nesting below the model, from 0
    layer: Layer | None
    outputs: tuple[Node, ...]
    sources: tuple[str, ...]


def rows(model: Model) -> list[Row]:
    """A row for each call, in the order of the calls, then one for each output of the model.

    What is inside of a layer is told at its first call only; its other calls are named ``name:1``, ``name:2``, ...
    """
    walk = _Walk(model)
    walk.visit(walk.root)
    return walk.rows + [Row(name, 0, None, (value,), walk.sources((value,), walk.root))
                        for name, value in model.inference.outputs.items()]


@dataclass(eq=False)
class _Call:
    """A call of a layer, with the calls inside of it."""

    layer: Layer
    parent: "_Call | None"
    inner: list["_Call"] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self._with_number(self.layer.path.rsplit(".", 1)[-1])

    @property
    def path(self) -> str:
        return self._with_number(self.layer.path)

    def _with_number(self, name: str) -> str:
        return f"{name}:{self.layer.call}" if self.layer.call else name


def _tree(layers: Iterable[Layer]) -> _Call:
    """The calls as a tree: a call's parent is the last one before it that is less deep by one."""
    first, *others = layers
    line = [_Call(first, None)]
    for layer in others:
        parent = line[layer.depth - 1]
        line[layer.depth:] = [_Call(layer, parent)]
        parent.inner.append(line[-1])
    return line[0]


class _Walk:
    """``made`` maps a node to the outermost finished call that gave it."""

    def __init__(self, model: Model):
        self.inputs = {leaf: leaf.attrs["name"] for leaf in model.inputs}
        self.made: dict[Node, _Call] = {}
        self.rows: list[Row] = []
        self.root = _tree(model.layers)

    def visit(self, parent: _Call) -> None:
        for call in parent.inner:
            layer = call.layer
            self.rows.append(Row(call.name, layer.depth - 1, layer, layer.outputs, self.sources(layer.inputs, parent)))
            if not layer.call:
                self.visit(call)
                self._end(call)
            self.made |= dict.fromkeys(layer.outputs, call)

    def _end(self, call: _Call) -> None:
        """A row for what a nested model does after its last layers, such as adding them up."""
        own = tuple(value for value in call.layer.outputs if value not in self.made and value not in self.inputs)
        if call.inner and own:
            self.rows.append(Row("output", call.layer.depth, None, own, self.sources(own, call)))

    def sources(self, values: Iterable[Node], parent: _Call) -> tuple[str, ...]:
        """What the values come from, as a row inside of ``parent`` calls it, in the order of the operations' arguments."""
        siblings = {call.name for call in parent.inner}
        found: dict[str, None] = {}
        seen: set[Node] = set()
        pending = [*values][::-1]
        while pending:
            value = pending.pop()
            if value in seen:
                continue
            seen.add(value)
            if value in self.made:
                call = self.made[value]
                path = f"/{call.path}" if call.path in siblings else call.path
                found[call.name if call.parent is parent else path] = None
            elif value in self.inputs:
                name = self.inputs[value]
                found[f"/{name}" if name in siblings else name] = None
            elif value.op.name in ("param", "state"):
                found[value.attrs["path"]] = None
            else:
                pending.extend(value.args[::-1])
        return tuple(found)
