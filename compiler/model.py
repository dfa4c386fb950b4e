"""What elaboration hands to the rest of the compiler: one model as graphs, with its variables and its names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from ..runtime.records import dataclass
from .diagnostics import Diagnostic
from .ir import Graph, Node
from .types import Size, TensorType


@dataclass(frozen=True)
class Variable:
    """A parameter or a state: ``path`` as in ``encoder.conv2d_1.kernel``.

    ``initial`` is a graph from the leaf ``input("seed", i64[])`` to the one output "value".
    """

    path: str
    type: TensorType
    initial: Graph
    trainable: bool
    where: str = ""              # file:line:column of the declaration


@dataclass(frozen=True)
class Mode:
    """The model in one mode (inference or training), as nodes over the same leaves.

    ``losses`` and ``penalties`` are scalars; what is minimised is their sum.  ``updates`` gives the new value of
    each state, by path.  ``values`` holds every named inner value by path, outputs included; ``places`` says where
    the user's files make each of them, ``file:line:column``.
    """

    outputs: Mapping[str, Node]
    values: Mapping[str, Node]
    losses: Mapping[str, Node]
    metrics: Mapping[str, Node]
    penalties: tuple[Node, ...]
    updates: Mapping[str, Node]
    places: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Layer:
    """One call of one instance: a row of the summary."""

    path: str                     # "encoder.conv2d_1"; "" for the model itself
    kind: str                     # "Conv2D"
    call: int                     # 0 for the first call of the instance, 1 for the second ...
    depth: int                    # nesting below the model
    outputs: tuple[Node, ...]     # inference mode
    inputs: tuple[Node, ...]
    parameters: tuple[str, ...]   # paths of the variables below the instance, trainable or not
    prefix: str = ""              # of this call: names inner values, "features:1.conv2d"
    settings: tuple[tuple[str, str], ...] = ()     # the settings that were given, as text
    where: str = ""               # file:line:column of the call, in the user's files
    library: str = ""             # the file of the prelude that the kind is from, "attention"; "" of the user's own
    repeats: Size = 1             # turns of the scans around the call


@dataclass(frozen=True)
class Structure:
    """What the graph alone does not tell of how a model was written, for those who draw it.

    ``functions``: the result of a call of a function -> the function's name and the tensors among its arguments.
    ``through``: the values that stand for each other on the two sides of a scan: what a placeholder of its body
    (``layers`` in a scan are made of these) stands for outside, and what each of its results is inside.
    """

    functions: Mapping[Node, tuple[str, tuple[Node, ...]]] = field(default_factory=dict)
    through: Mapping[Node, Node] = field(default_factory=dict)


@dataclass(frozen=True)
class Optimizer:
    """The optimiser as a pure elementwise function of the flat vectors.

    ``update`` maps inputs "weight", "gradient" (both f32[P]) and state leaves to the output "weight" and one output
    a state, named by the state's path.
    """

    name: str
    update: Graph
    states: tuple[Variable, ...]


@dataclass(frozen=True)
class Model:
    """An elaborated model.  ``variables`` stand in the order in which the layers make them, as in Keras."""

    name: str
    inputs: tuple[Node, ...]                # leaf nodes, in the signature's order
    targets: tuple[Node, ...]               # the inputs that ``train`` adds
    variables: tuple[Variable, ...]
    inference: Mode
    training: Mode
    optimizer: Optimizer | None
    layers: tuple[Layer, ...]
    uses_seed: bool                         # an input "seed" must be given, in training mode at least
    warnings: tuple[Diagnostic, ...] = field(default=())
    structure: Structure = field(default_factory=Structure)
    imports: tuple[tuple[str, str], ...] = ()       # the files that were read: path and digest of the content
    identity: str = ""                      # equal ones belong to equal models; "" for a model of its own
    is_kept: bool = field(default=False, compare=False)        # it came from the cache

    @property
    def parameters(self) -> tuple[Variable, ...]:
        """The variables that training changes by their gradients."""
        return tuple(variable for variable in self.variables if variable.trainable)

    @property
    def states(self) -> tuple[Variable, ...]:
        """The variables that the model itself updates."""
        return tuple(variable for variable in self.variables if not variable.trainable)
