"""The outline of a model: how it was written, as boxes within boxes, read off the graph.

A ``Box`` is an input, an output, a call of a layer, a parameter used outside of layers, or an operation: what a model's
body computes between its layers.  A layer that calls layers has children; arrows join boxes of one parent, or the
parent's own inputs (``Port``) to them.  Nothing here changes the graph; the summary and the pictures are made of this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import field

from ..runtime.records import dataclass
from .fuse import LEAVES, MOVEMENT
from .ir import Node
from .model import Layer, Model
from .types import TensorType

QUIET = MOVEMENT | {"cast", "item", "local"}                   # what moves or marks a value, but computes nothing
MOST_WORDS = 4                                        # of the label of an operation
SOURCELESS = {"constant", "size", "iota"}
SYMBOLS = {"add": "+", "sub": "−", "mul": "×", "div": "÷", "neg": "−", "contract": "matmul", "lt": "<", "le": "≤",
           "eq": "=",
           "ne": "≠", "logical_and": "and", "logical_or": "or", "logical_not": "not", "random_bits": "random"}


@dataclass(frozen=True)
class Port:
    """An input of the box around: its number among the layer's inputs."""

    number: int


@dataclass(eq=False)
class Arrow:
    """A value that goes from one box (or port) to another: output number ``output`` of its source.

    ``weight``: the path of the value, where it is a weight that the source owns.
    """

    source: Box | Port
    target: Box
    type: TensorType
    output: int = 0
    weight: str | None = None


@dataclass(eq=False)
class Box:
    """``kind``: "input", "output", "layer", "operation" or "parameter".  ``name`` is the last part of the path; a
    second call of a layer is ``features:1``.

    ``outputs`` are its values, ``nodes`` what it computes itself.  Of an operation, ``reads`` are the values that it
    takes, in the order of its arguments.  Of a layer, ``feeds`` says what gives each of its inputs, and ``results``
    what gives each of its outputs, seen from inside; None where that is only constants.
    """

    kind: str
    name: str
    path: str
    label: str
    outputs: tuple[Node, ...]
    layer: Layer | None = None
    nodes: tuple[Node, ...] = ()
    reads: tuple[Node, ...] = ()
    children: list[Box] = field(default_factory=list)
    arrows: list[Arrow] = field(default_factory=list)
    feeds: list[Box | Port | None] = field(default_factory=list)
    results: list[Box | Port | None] = field(default_factory=list)
    named: bool = True                                # an operation without a name of the user's has one made up

    @property
    def own(self) -> Layer:
        """The layer, of a box that has one."""
        assert self.layer is not None
        return self.layer

    def walk(self) -> Iterable[Box]:
        """The boxes below, each before its children."""
        for child in self.children:
            yield child
            yield from child.walk()

    def arrows_to(self, child: Box) -> list[Arrow]:
        """What a child takes, in the order of its arguments."""
        return [arrow for arrow in self.arrows if arrow.target is child]


def outline(model: Model) -> Box:
    """The box of the whole model; its children begin with the inputs and end with the outputs."""
    owned = ownership(model)
    root, *_ = _nested(model.layers, owned)
    _Scope(model, root, None, owned).fill()
    return root


# --- who computes what ----------------------------------------------------------------------------------------------


def ownership(model: Model) -> dict[Layer, list[Node]]:
    """The nodes of each layer's own body, each counted once, for the layer that makes it first."""
    return own_nodes(model.layers, lambda value: value)


def own_nodes(layers: Iterable[Layer], image: Callable[[Node], Node | None]) -> dict[Layer, list[Node]]:
    """What each layer computes beside its children, in a graph where ``image(value)`` is what became of a value.

    Layers are looked at in the order in which they ended: what one has computed, no later one does.
    """
    taken: set[Node] = set()
    found = {}
    for layer, children in _ended(layers):
        edge, order = {image(value) for value in layer.inputs}, []
        roots = [image(value) for value in (*layer.outputs, *(value for child in children for value in child.inputs))]
        stack = [(node, False) for node in reversed(roots) if node is not None]
        while stack:
            current, done = stack.pop()
            if done:
                order.append(current)
            elif current not in edge and current not in taken and current.op.name not in LEAVES:
                taken.add(current)
                stack.append((current, True))
                stack += [(arg, False) for arg in current.args]
        found[layer] = order
    return found


def _ended(layers: Iterable[Layer]) -> Iterator[tuple[Layer, list[Layer]]]:
    """From the order of opening to that of ending, each with the layers that it calls itself: a layer ends before the
    next one of its depth or less opens."""
    open_: list[tuple[Layer, list[Layer]]] = []
    for layer in layers:
        while open_ and open_[-1][0].depth >= layer.depth:
            yield open_.pop()
        if open_:
            open_[-1][1].append(layer)
        open_.append((layer, []))
    yield from reversed(open_)


def _nested(layers: Iterable[Layer], owned: Mapping[Layer, list[Node]]) -> list[Box]:
    """A box for each layer, in order of opening, below that of its caller."""
    boxes: list[Box] = []
    open_: list[Box] = []
    for layer in layers:
        name = layer.prefix.rsplit(".", 1)[-1] or layer.kind
        box = Box("layer", name, layer.prefix, layer.kind, layer.outputs, layer, tuple(owned[layer]))
        while open_ and open_[-1].own.depth >= layer.depth:
            open_.pop()
        if open_:
            open_[-1].children.append(box)
        open_.append(box)
        boxes.append(box)
    return boxes


# --- one body -------------------------------------------------------------------------------------------------------


class _Scope:
    """The body of one layer that calls layers: the operations between them, and the arrows."""

    def __init__(self, model: Model, box: Box, parent: _Scope | None, owned: Mapping[Layer, list[Node]]):
        self.model, self.box, self.parent, self.owned = model, box, parent, owned
        self.layers = list(box.children)
        self.made: dict[Node, list[int]] = {}                     # node -> the layers that give it
        for number, child in enumerate(self.layers):
            for node in child.outputs:
                self.made.setdefault(node, []).append(number)
        self.loops = any(child.own.repeats != 1 for child in self.layers)
        self.ports = {node: number for number, node in reversed(list(enumerate(box.own.inputs)))}
        self.prefix = prefix = box.own.prefix + "." if box.own.prefix else ""
        called = {layer.prefix for layer in model.layers}
        self.names = {node: path[len(prefix):] for path, node in model.inference.values.items()
                      if path.startswith(prefix) and "." not in path[len(prefix):] and path not in called}
        self.unnamed: dict[str, int] = {child.name: 0 for child in self.layers}
        self.boxes: dict[Node, Box] = {}                          # operations by the value that they give
        self.sequence: list[tuple[int, Box]] = []                 # (number of layers before it, operation)

    def fill(self) -> None:
        """Children, arrows and results of the box, and of those below."""
        root = self.parent is None
        self.inputs = [_end("input", leaf.attrs["name"], leaf) for leaf in self.box.own.inputs] if root else []
        uses = [(child, node, number) for number, child in enumerate(self.layers) for node in child.own.inputs]
        results = list(self.model.inference.outputs.items()) if root else [("", node) for node in self.box.outputs]
        ends = [_end("output", name, node) for name, node in results] if root else []
        last = len(self.layers)
        self._regions([(node, number) for _, node, number in uses] + [(node, last) for _, node in results])
        arrows = self.box.arrows
        for number, child in enumerate(self.layers):
            for node in child.own.inputs:
                child.feeds.append(self._arrow(arrows, node, number, child))
        for before, box in self.sequence:
            for node in box.reads:
                self._arrow(arrows, node, before, box)
        for position, (_, node) in enumerate(results):
            if root:
                self._arrow(arrows, node, last, ends[position])
            else:
                self.box.results.append(self._source(node, last)[0])
        self.box.children = self.inputs + self._ordered() + ends
        for child in self.layers:
            if child.children:
                _Scope(self.model, child, self, self.owned).fill()

    def _ordered(self) -> list[Box]:
        """Layers in order of calling, each operation before the layers that it feeds."""
        result, rest = [], sorted(self.sequence, key=lambda pair: pair[0])
        for number, child in enumerate(self.layers):
            while rest and rest[0][0] <= number:
                result.append(rest.pop(0)[1])
            result.append(child)
        return result + [box for _, box in rest]

    # --- operations

    def _through(self, node: Node) -> tuple[Node, ...]:
        """The arguments of a value; those of what a scan with layers in it carries are found inside it."""
        inside = self.model.structure.through.get(node)
        return (inside,) if inside is not None and self.loops else node.args

    def _stops(self, node: Node, before: int) -> bool:
        """Whether a value comes from a layer that was called before, or from outside."""
        return any(number < before for number in self.made.get(node, ())) or node in self.ports \
            or node.op.name in ("input", "param", "state")

    def _regions(self, sinks: list[tuple[Node, int]]) -> None:
        """Group what lies between the layers: one operation for each value that leaves it, has a name, or is used
        by several operations."""
        before: dict[Node, int] = {}                              # node -> number of layers called when it is needed
        users: dict[Node, set] = {}
        roots: dict[Node, None] = {}
        for node, number in sinks:
            if not self._stops(node, number) and node not in before:
                self._collect(node, number, before, users)
            if node in before:
                roots[node] = None
        region: dict[Node, Node] = {}
        order = _order(before, self._through)
        for node in reversed(order):
            groups = {region[user] for user in users.get(node, ()) if user in region}
            if node in roots or node in self.names and node.op.name not in SOURCELESS or len(groups) != 1:
                region[node] = node
            else:
                region[node] = groups.pop()
        for node in order:                                        # a scan of several users, with all that it gives
            if node.op.name == "item" and region.get(node.args[0]) is node.args[0]:
                region[node] = node.args[0]
        members: dict[Node, list[Node]] = {}
        for node in order:
            members.setdefault(region[node], []).append(node)
        for root in order:
            if region[root] is root:
                self._operation(root, members[root], before[root])

    def _collect(self, node: Node, number: int, before: dict, users: dict) -> None:
        stack = [node]
        before[node] = number
        while stack:
            current = stack.pop()
            for arg in self._through(current):
                users.setdefault(arg, set()).add(current)
                if arg not in before and not self._stops(arg, number):
                    before[arg] = number
                    stack.append(arg)

    def _operation(self, root: Node, nodes: list[Node], before: int) -> None:
        """A box for a group, unless it only moves one value, or is made of constants alone."""
        inside = set(nodes)
        taken = [arg for node in nodes for arg in self._through(node) if arg not in inside]
        loud = [node for node in nodes if node.op.name not in QUIET | SOURCELESS]
        if not loud and len(set(taken)) <= 1:
            return
        if not taken and all(node.op.name in QUIET | SOURCELESS | {"contract"} for node in nodes):
            return
        name = self.names.get(root) or self._free_name(root)
        outputs = (root,) if isinstance(root.type, TensorType) else tuple(
            sorted((node for node in nodes if root in node.args), key=lambda item: item.attrs["index"]))
        box = Box("operation", name, self.prefix + name, self._label(root, nodes), outputs, nodes=tuple(nodes),
                  reads=tuple(self._taken(outputs, inside)), named=root in self.names)
        self.boxes.update(dict.fromkeys(outputs, box))
        self.sequence.append((before, box))

    def _free_name(self, root: Node) -> str:
        """As Keras would call it: ``add``, ``add_1``."""
        named = self.model.structure.functions.get(root)
        base = named[0] if named is not None else root.op.name
        number = self.unnamed[base] = self.unnamed.get(base, -1) + 1
        return f"{base}_{number}" if number else base

    def _label(self, root: Node, nodes: list[Node]) -> str:
        """Functions by their names, other primitives by theirs, in the order of computing; only a few."""
        functions, inside, words = self.model.structure.functions, set(nodes), []
        hidden: set[Node] = set()
        for node in reversed(nodes):
            if node in hidden:
                continue
            named = functions.get(node)
            if named is not None:
                below = self._below(node, inside - set(named[1]))
                hidden |= below
                if any(each.op.name not in QUIET | SOURCELESS for each in below):
                    words.append(named[0].replace("_", " "))
            elif node.op.name not in QUIET | SOURCELESS:
                words.append(_word(node))
        words = list(dict.fromkeys(reversed(words))) or [_word(root)]
        return ", ".join(words if len(words) <= MOST_WORDS else [*words[:MOST_WORDS - 2], "…", words[-1]])

    def _below(self, node: Node, among: set[Node]) -> set[Node]:
        """The node and what it is made of, as far as that is among these."""
        found, stack = {node}, [node]
        while stack:
            for arg in self._through(stack.pop()):
                if arg in among and arg not in found:
                    found.add(arg)
                    stack.append(arg)
        return found

    def _taken(self, outputs: Iterable[Node], inside: set[Node]) -> list[Node]:
        """What an operation reads, in the order of its arguments."""
        seen, found = set(), []
        stack = list(outputs)[::-1]
        while stack:
            current = stack.pop()
            if current not in seen:
                seen.add(current)
                if current in inside:
                    stack += reversed(self._through(current))
                else:
                    found.append(current)
        return found

    # --- arrows

    def _arrow(self, arrows: list[Arrow], node: Node, before: int, target: Box) -> Box | Port | None:
        """Add an arrow for a value that the target takes, and say where it comes from."""
        source, value = self._source(node, before, target)
        if source is None or source is target:
            return None
        given = source.outputs if isinstance(source, Box) else ()
        output = given.index(value) if value in given else 0
        if not any(a.source == source and a.target is target and a.output == output and a.weight is None
                   for a in arrows):
            owned = isinstance(source, Box) and source.kind == "layer" and value.op.name in ("param", "state")
            weight = value.attrs["path"] if owned else None
            arrows.append(Arrow(source, target, node.type, output, weight))
        return source

    def _source(self, node: Node, before: int, target: Box | None = None) -> tuple[Box | Port | None, Node]:
        """What gives a value here, and what it gives: the last layer called before, an operation, an input; looked for
        through mere movement."""
        seen = set()
        while node not in seen:
            seen.add(node)
            earlier = [number for number in self.made.get(node, ()) if number < before]
            if earlier:
                return self.layers[earlier[-1]], node
            if node in self.boxes and self.boxes[node] is not target:
                return self.boxes[node], node
            if node in self.ports:
                number = self.ports[node]
                return (self.inputs[number] if self.parent is None else Port(number)), node
            if node.op.name in ("param", "state"):
                return self._variable(node), node
            if node.op.name == "input":
                return next((box for box in self.inputs if box.outputs[0] is node), None), node
            moved = [arg for arg in self._through(node) if arg.op.name not in SOURCELESS]
            if not moved:
                break
            node = moved[0]
        return None, node

    def _variable(self, node: Node) -> Box:
        """A layer whose weight is used here, or a box for the body's own parameter."""
        path = node.attrs["path"]
        for child in self.layers:
            if child.own.path and path.startswith(child.own.path + "."):
                return child
        if node not in self.boxes:
            box = Box("parameter", path.rsplit(".", 1)[-1], path, str(node.type), (node,))
            self.boxes[node] = box
            self.sequence.append((0, box))
        return self.boxes[node]


def _end(kind: str, name: str, node: Node) -> Box:
    return Box(kind, name, name, str(node.type), (node,))


def _order(nodes: Iterable[Node], through) -> list[Node]:
    """Arguments before users, among the nodes given."""
    nodes = list(nodes)
    among, order, seen = set(nodes), [], set()
    for root in nodes:
        stack = [(root, False)]
        while stack:
            current, done = stack.pop()
            if done:
                order.append(current)
            elif current not in seen:
                seen.add(current)
                stack.append((current, True))
                stack += [(arg, False) for arg in reversed(through(current)) if arg in among and arg not in seen]
    return order


def _word(node: Node) -> str:
    name = node.op.name
    if name == "reduce":
        return node.attrs["kind"]
    return SYMBOLS.get(name, name.replace("window_take", "max pool"))
