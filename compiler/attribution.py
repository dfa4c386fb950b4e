"""Which kernels compute which layer.

The compiler rewrites the graph and then cuts it into kernels, so a layer is no longer a thing of its own: its parts may
have become one kernel, several, or a piece of its neighbour's.  Here the layers' values are followed through the
rewriting (they ride along as outputs more, which changes nothing, rules being local), and then looked for in the kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterable, Mapping

from . import programs
from .fuse import LEAVES, MOVEMENT, TRIVIAL, Fusion, fuse
from .ir import Node, topological
from .model import Layer, Model
from .outline import own_nodes
from .pipeline import optimize

WATCHED = "watched/"                # before the names of the outputs that only ride along; no output has a "/"


@dataclass(frozen=True, eq=False)
class Region:
    """One kernel of the plan: the value that it stores, and what is computed on the way to it.

    ``name`` is as in ``netc emit --stage fused``; ``layer`` owns the stored value, None where no layer does.
    """

    name: str
    root: Node
    fused: tuple[Node, ...]
    reads: tuple[Node, ...]
    layer: Layer | None

    @property
    def label(self) -> str:
        return kind_of(self.root)


@dataclass(frozen=True)
class Attribution:
    """``regions`` in the order of running; ``own``: those whose value a layer makes."""

    fusion: Fusion
    regions: tuple[Region, ...]
    own: Mapping[Layer, tuple[Region, ...]]
    images: Mapping[Node, Node]                     # the model's values -> what they are after the rewriting
    holders: Mapping[Node, tuple[Region, ...]]      # those -> the regions that store or compute them

    def end(self, values: Iterable[Node]) -> tuple[Region, ...]:
        """The regions in which values of the model come to be: each one's own, or those that compute it on the way."""
        found: dict[Region, None] = {}
        for value in values:
            image = self.images.get(value)
            regions = self.holders.get(image, ())
            found.update(dict.fromkeys(region for region in regions if region.root is image or image not in self.fusion))
        return tuple(found)


def kind_of(root: Node) -> str:
    """The kind of the kernel that stores a value: its primitive, or ``map`` where that is elementwise."""
    name = root.op.name
    if name == "reduce":
        return root.attrs["kind"]
    if name.startswith("window_"):
        return {"window_argmax": "argmax", "window_take": "max_pool"}.get(name, name)
    if name in ("contract", "scan", "argmax", "argmin", "scatter_add", "concat", "orthogonal", "gather"):
        return name
    return "copy" if name in MOVEMENT else "map"


def attribute(model: Model, values: Iterable[Node] = ()) -> Attribution:
    """The kernels of the prediction program; ``values`` are more values of inference mode to be followed."""
    outputs = model.inference.outputs
    layers = model.layers
    reached = set(topological(outputs.values()))
    ends = (value for layer in layers for value in (*layer.outputs, *layer.inputs))
    watched = dict.fromkeys(value for value in (*ends, *values) if value in reached)
    named = {f"{WATCHED}{number}": value for number, value in enumerate(watched)}
    new = optimize(programs.values_program(model, {**outputs, **named}).graph).outputs
    fusion = fuse({name: new[name] for name in outputs})
    at = {value: new[name] for name, value in named.items()}
    owner = {node: layer for layer, nodes in own_nodes(layers, at.get).items() for node in nodes}
    regions = tuple(_region(f"k{number}", root, fusion, owner) for number, root in enumerate(fusion.stored))
    own: dict[Layer, list[Region]] = {layer: [] for layer in layers}
    holders: dict[Node, list[Region]] = {}
    for region in regions:
        if region.layer is not None:
            own[region.layer].append(region)
        for node in (region.root, *region.fused):
            holders.setdefault(node, []).append(region)
    return Attribution(fusion, regions, {layer: tuple(found) for layer, found in own.items()}, at,
                       {node: tuple(found) for node, found in holders.items()})


def _region(name: str, root: Node, fusion: Fusion, owner: Mapping[Node, Layer]) -> Region:
    fused, reads, seen = [], [], set()
    stack = list(reversed(root.args))
    while stack:
        current = stack.pop()
        if current in seen:
            continue
        seen.add(current)
        if current in fusion or current.op.name in LEAVES:
            reads.append(current)
        else:
            if current.op.name not in TRIVIAL:
                fused.append(current)
            stack += reversed(current.args)
    return Region(name, root, tuple(fused), tuple(reads), owner.get(root))
