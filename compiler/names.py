"""Names for what a compiled program computes, in the words of the model: ``encoder.conv2d_1``, ``grad dense.kernel``.

Passes rebuild the graph, so that names given before them are lost.  They are found again by sending every named value
(and, in training, its gradient) through the same passes beside the program: nodes are interned, so what the
program computes of them is then the very same node.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from . import ops
from .bounds import bound_indices
from .fuse import LEAVES, TRIVIAL, through_reshapes
from .gradient import gradient
from .ir import Graph, Node, is_tensor, users
from .model import Model
from .pipeline import optimize
from .programs import LOSS, Program, losses_of
from .rules.windows import windows_of
from .siblings import ELEMENTWISE


class Names:
    """Names of the values of one compiled program."""

    def __init__(self, model: Model, program: Program, compiled: Graph, training: bool):
        self._own = _named(model, program, compiled, training)
        self._users = users(compiled.results)

    def of(self, values: Iterable[Node]) -> tuple[str, ...]:
        """Of each value, those that have one."""
        return tuple(dict.fromkeys(name for value in values if (name := self.name(value))))

    def name(self, value: Node) -> str:
        """The value's own name; else that of the nearest value that is made of it; else "from ..." what it is made of.

        Of equally near names the first in the order of the graph counts; "" where nothing around has a name.
        """
        if value in self._own:
            return self._own[value]
        for node in _nearest(value, lambda node: self._users.get(node, ())):
            if node in self._own:
                return self._own[node]
        for node in _nearest(value, lambda node: node.args):
            if node in self._own:
                return f"from {self._own[node]}"
        return ""


def _nearest(start: Node, direction) -> Iterator[Node]:
    """Every node that can be reached in one direction, nearest first."""
    level, seen = [start], {start}
    while level:
        level = [other for other in dict.fromkeys(o for node in level for o in direction(node)) if other not in seen]
        seen.update(level)
        yield from level


def _named(model: Model, program: Program, compiled: Graph, training: bool) -> dict[Node, str]:
    mode = model.training if training else model.inference
    named = {**mode.values, **mode.outputs}
    if training:
        named |= _gradients(model, named)
    named = {name: value for name, value in named.items() if is_tensor(value)}
    bound, _ = bound_indices(Graph((), named), model.targets)
    # What the program does not need would change how its scans are compiled; but that a program computes a gradient as
    # a vector, say, does not make it another.
    needed = set(program.graph.nodes())
    outputs = {name: value for name, value in bound.outputs.items() if needed.issuperset(_operands(value, needed))}
    graph = Graph(program.graph.inputs, outputs)
    found: dict[Node, str] = {}
    computed = set(compiled.nodes())
    for name, value in (*optimize(graph, program.trains).outputs.items(), *compiled.outputs.items()):
        base = through_reshapes(value)          # a reshape has no kernel: its name is that of the memory
        for node in (value, base, *_products(value, computed), *_windows(value, computed)):
            if node.op.name not in LEAVES | TRIVIAL and _better(name, found.get(node)):
                found[node] = name
    return found


def _operands(value: Node, computed: set[Node]) -> set[Node]:
    """What a value is made of element by element, as far as that is not ``computed``."""
    waiting, found = [value], set()
    while waiting:
        current = waiting.pop()
        if current in computed or current.op.name not in ELEMENTWISE:
            found.add(current)
        else:
            waiting += current.args
    return {current for current in found if current.op.name not in TRIVIAL | {"broadcast"}}


def _products(value: Node, computed: set[Node]) -> list[Node]:
    """Of a value that the program only computes as a part of another, the products that it is made of element by
    element."""
    if value in computed:
        return []
    reached = {value: None}
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if current.op.name in ELEMENTWISE:
            waiting += [arg for arg in current.args if arg not in reached]
            reached |= dict.fromkeys(current.args)
    return [current for current in reached if current.op.name == "contract"]


def _windows(value: Node, computed: set[Node]) -> list[Node]:
    """Of a pooling that the program does not compute whole, the windows that it computes."""
    return [] if value in computed else windows_of(value, computed)


def _gradients(model: Model, named: dict[str, Node]) -> dict[str, Node]:
    """The gradient of the loss by every named value and every parameter."""
    leaves = {variable.path: ops.param(variable.path, variable.type.dtype, variable.type.shape)
              for variable in model.parameters if variable.trainable}
    values = {name: value for name, value in {**named, **leaves}.items()
              if is_tensor(value) and value.dtype.kind == "float"}
    loss = losses_of(model, model.training)[LOSS]
    found = gradient([(loss, ops.constant(1.0, loss.dtype))], list(values.values()))
    return {f"grad {name}": value for name, value in zip(values, found)}


def _better(name: str, known: str | None) -> bool:
    """Of two names of a value the one of the outer model, and of those the later, which is the writer's own."""
    return known is None or name.count(".") <= known.count(".")
