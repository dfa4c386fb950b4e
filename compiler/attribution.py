"""Which kernels compute which layer.

The compiler rewrites the graph and then cuts it into kernels, so a layer is no longer a thing of its own: its parts may
have become one kernel, several, or a piece of its neighbour's.  Here the layers' values are followed through the
rewriting (they ride along as outputs more, which changes nothing, rules being local), and then looked for in the
kernels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ..runtime.records import dataclass
from . import programs
from .fuse import LEAVES, TRIVIAL, Fusion
from .ir import Node, topological
from .loops import Load, Store, statements
from .model import Layer, Model
from .nest import View
from .outline import own_nodes
from .pipeline import Executable, optimize
from .rules.windows import windows_of
from .schedule import ScanStep, Step

WATCHED = "watched/"                # before the names of the outputs that only ride along; no output has a "/"


@dataclass(frozen=True, eq=False)
class Kernel:
    """One step of the program: ``name`` as profiles show it, the stored values that it computes, whose they are, and
    the memory that it reads and writes."""

    name: str
    values: tuple[Node, ...]
    layers: tuple[Layer, ...]
    reads: frozenset
    writes: frozenset


@dataclass(frozen=True)
class Attribution:
    """``kernels`` in the order of running."""

    fusion: Fusion
    kernels: tuple[Kernel, ...]
    images: Mapping[Node, Node]                     # the model's values -> what they are after the rewriting
    holders: Mapping[Node, tuple[Kernel, ...]]      # those -> the kernels that store them, or compute them on the way
    # every value of the optimised graph -> the layer whose body computes it
    owners: Mapping[Node, Layer]

    def own(self, layers: Iterable[Layer]) -> tuple[Kernel, ...]:
        """The kernels with a value of one of these layers."""
        wanted = set(layers)
        return tuple(kernel for kernel in self.kernels if wanted.intersection(kernel.layers))

    def storing(self, value: Node) -> tuple[Kernel, ...]:
        """The kernels that store a value of the model."""
        image = self._held(value)
        return tuple(kernel for kernel in self.holders.get(image, ()) if image in kernel.values) if image is not None \
            else ()

    def _held(self, value: Node) -> Node | None:
        """What a value of the model is after the rewriting; of one that is only computed as a part, the whole; of a
        pooling that is not computed whole, the windows that are."""
        image = self.images.get(value)
        while image is not None and image not in self.holders and image.op.name == "slice":
            image = image.args[0]
        if image is not None and image not in self.holders:
            image = next(iter(windows_of(image, self.holders)), image)
        return image

    def end(self, values: Iterable[Node], own: Iterable[Kernel] = ()) -> tuple[Kernel, ...]:
        """The kernels in which values of the model come to be: those that store them, else those that compute them on
        the way to something else; of these, where some do, those that read what the kernels ``own`` write."""
        found: dict[Kernel, None] = {}
        for value in values:
            image = self._held(value)
            computing = self.holders.get(image, ()) if image is not None else ()
            found.update(dict.fromkeys(self.storing(value) or computing))
        written = frozenset().union(*(kernel.writes for kernel in own))
        return tuple(kernel for kernel in found if kernel.reads & written) or tuple(found)


def attribute(model: Model, values: Iterable[Node] = ()) -> Attribution:
    """The kernels of the prediction program; ``values`` are more values of inference mode to be followed."""
    outputs, layers = model.inference.outputs, model.layers
    reached = set(topological(outputs.values()))
    ends = (value for layer in layers for value in (*layer.outputs, *layer.inputs))
    watched = dict.fromkeys(value for value in (*ends, *values) if value in reached)
    named = {f"{WATCHED}{number}": value for number, value in enumerate(watched)}
    new = optimize(programs.values_program(model, {**outputs, **named}).graph).outputs
    images = {value: new[name] for name, value in named.items()}
    owners = {node: layer for layer, nodes in own_nodes(layers, images.get).items() for node in nodes}
    program = programs.predict(model)
    graph = optimize(program.graph)
    computed = set(graph.nodes())
    owners |= {part: layer for node, layer in owners.items() if node not in computed
               for part in windows_of(node, computed)}
    executable = Executable(graph, program.layout)
    kernels = tuple(_kernels(executable, owners))
    return Attribution(executable.fusion, kernels, images, _holders(executable.fusion, kernels), owners)


def _kernels(executable: Executable, owners: Mapping[Node, Layer]) -> Iterator[Kernel]:
    """The steps in order; those of a scan's body compute the scan, as far as the graph around it knows."""
    names = executable.kernel_names()
    scans = (node for node in executable.fusion.stored if node.op.name == "scan")

    def walk(steps, around: Node | None) -> Iterator[Kernel]:
        for step in steps:
            if isinstance(step, ScanStep):
                yield from walk(step.body, around if around is not None else next(scans))
            else:
                values = step.values if around is None else (around,)
                found = dict.fromkeys(owners[value] for value in values if value in owners)
                memory = [frozenset(view.buffer for view in views) for views in reads_and_writes(step)]
                yield Kernel(names.get(step, "product"), values, tuple(found), *memory)
    return walk(executable.steps, None)


def reads_and_writes(step: Step) -> tuple[list[View], list[View]]:
    """The views that a kernel loads from, and those that it stores to."""
    if step.attention is not None:
        return [step.attention.scores.a, step.attention.scores.b, step.attention.values.b], [step.attention.values.c]
    if step.matrix is not None:
        before = [step.matrix.c] if step.matrix.accumulates else []
        return [step.matrix.a, step.matrix.b, *before], [step.matrix.c]
    stored = {statement.buffer for statement in statements(step.code.body) if isinstance(statement, Store)}
    loaded = {statement.buffer for statement in statements(step.code.body) if isinstance(statement, Load)}
    return [step.views[k] for k in sorted(loaded)], [step.views[k] for k in sorted(stored)]


def _holders(fusion: Fusion, kernels: Iterable[Kernel]) -> dict[Node, tuple[Kernel, ...]]:
    """For each value the kernels that store it, or that compute it between stored ones."""
    storing: dict[Node, list[Kernel]] = {}
    for kernel in kernels:
        for value in kernel.values:
            storing.setdefault(value, []).append(kernel)
    found: dict[Node, dict[Kernel, None]] = {}
    for root in fusion.stored:
        for node in _inlined(root, fusion):
            found.setdefault(node, {}).update(dict.fromkeys(storing.get(root, ())))
    return {node: tuple(each) for node, each in found.items()}


def _inlined(root: Node, fusion: Fusion) -> Iterator[Node]:
    """A stored value, and what is computed on the way to it from others."""
    seen, stack = {root}, [root]
    while stack:
        current = stack.pop()
        if current.op.name not in TRIVIAL:
            yield current
        for arg in current.args:
            if arg not in seen and arg not in fusion and arg.op.name not in LEAVES:
                seen.add(arg)
                stack.append(arg)
