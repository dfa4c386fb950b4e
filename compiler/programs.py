"""The programs of a model: closed graphs over the model's leaves, and where those leaves lie at run time.

predict    inputs -> outputs, in inference mode
evaluate   inputs, targets -> losses and metrics, in inference mode
trace      inputs -> every named inner value; in training mode with targets, losses and gradients too
gradient   inputs, targets -> losses, one flat gradient of the trainable variables and the new states, in training mode
update     a flat gradient -> the new flat weights, the new optimiser state
step       both: inputs, targets -> losses, the new flat weights and states, the new optimiser state

Slots: ``weights`` is the flat vector; a variable of another dtype has ``state/PATH``, an optimiser state
``optimizer/PATH``, an input its own name (``input/weights`` for one called so), the random seed ``seed``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..runtime.errors import ModelError, listing, nearest
from ..runtime.records import dataclass
from ..runtime.weights import Layout
from . import ops
from .bounds import Range, bound_indices
from .fuse import through_reshapes
from .gradient import gradient
from .ir import Graph, Node, is_tensor, node, rewrite, topological
from .model import Mode, Model, Optimizer, Variable
from .siblings import ELEMENTWISE
from .types import Dim, DType, Shape, Size, i64, is_symbol, product, substitute

WEIGHTS, SEED, LOSS, GRADIENT = "weights", "seed", "loss", "gradient"
LEAVES = ("input", "param", "state")
LARGE_GRADIENT = 1 << 15        # elements of a variable's gradient for which a kernel more is worth a pass less
LARGE_PRODUCT = 1 << 16         # of one that is stored in any case, for which it is worth to let it go early


@dataclass(frozen=True)
class Program:
    """One closed graph.  ``ranges`` must hold for the inputs, ``reports`` maps outputs to the names that a user sees;
    ``replaced`` are the outputs that take the place of what is in the slots of the same names; ``trains``: it is a part
    of training (see ``pipeline``)."""

    graph: Graph
    layout: Mapping[Node, tuple[str, int]]
    ranges: tuple[Range, ...]
    inputs: tuple[Node, ...]
    reports: Mapping[str, str]
    replaced: tuple[str, ...] = ()
    trains: bool = False

    @property
    def uses_seed(self) -> bool:
        return any(slot == SEED for slot, _ in self.layout.values())


# --- storage ------------------------------------------------------------------------------------------------------


def weights_layout(model: Model) -> Layout:
    """Where the model's variables lie."""
    variables = model.variables
    kinds = [variable.type.dtype for variable in variables if variable.type.dtype.kind == "float"]
    return Layout.of((kinds[0] if kinds else _default_dtype(model)).numpy_name, [
        (variable.path, variable.type.dtype.numpy_name, variable.type.shape, variable.trainable)
        for variable in variables])


def _default_dtype(model: Model) -> DType:
    """The float type of a model without variables."""
    from .types import f32
    return next((leaf.dtype for leaf in model.inputs if leaf.dtype.kind == "float"), f32)


def input_slot(leaf: Node) -> str:
    """The slot of an input; it differs from the name only where the name is taken."""
    name = leaf.attrs["name"]
    return f"input/{name}" if name == WEIGHTS else name


def new_state(path: str) -> str:
    """The output of the gradient program that holds a state's new value."""
    return f"states/{path}"


def optimizer_slot(variable: Variable) -> str:
    return f"optimizer/{variable.path}"


def _place(model: Model, graph: Graph, own: Mapping[Node, tuple[str, int]]) -> dict[Node, tuple[str, int]]:
    """Slot and offset of each leaf of the graph; ``own`` places the leaves that the model does not have."""
    entries = weights_layout(model).by_path
    placed = {}
    for leaf in graph.inputs:
        if leaf in own:
            placed[leaf] = own[leaf]
        elif leaf.op.name == "input":
            placed[leaf] = (SEED if leaf is seed_leaf() else input_slot(leaf), 0)
        else:
            entry = entries[leaf.attrs["path"]]
            placed[leaf] = (WEIGHTS, entry.offset) if entry.offset is not None else (f"state/{entry.path}", 0)
    return placed


def seed_leaf() -> Node:
    return ops.input(SEED, i64, ())


# --- the programs ---------------------------------------------------------------------------------------------------


def predict(model: Model, outputs: Iterable[str] | None = None) -> Program:
    """The outputs of the signature, or the values of these paths."""
    return values_program(model, named_outputs(model, outputs))


def values_program(model: Model, values: Mapping[str, Node]) -> Program:
    """Any values of inference mode that need no target, under these names."""
    return _program(model, model.inputs, values)


def named_outputs(model: Model, paths: Iterable[str] | None) -> dict[str, Node]:
    """The values of these paths in inference mode.  Raises ModelError naming the nearest path."""
    mode = model.inference
    if paths is None:
        return dict(mode.outputs)
    known = {**mode.values, **mode.outputs}
    chosen = {}
    for path in paths:
        if path not in known:
            raise ModelError(f"`{model.name}` has no value `{path}`{nearest(path, known)}")
        chosen[path] = known[path]
    if not chosen:
        raise ModelError("no output is asked for")
    return chosen


def trace(model: Model, training: bool = False) -> Program:
    """Every named value of one mode that is computed, once, under the first of its names."""
    names: dict[Node, str] = {}
    for name, value in traced_values(model, training).items():
        if value.op.name not in LEAVES:
            names.setdefault(value, name)
    return _program(model, _all_inputs(model) if training else model.inputs,
                    {name: value for value, name in names.items()})


def traced_values(model: Model, training: bool = False) -> dict[str, Node]:
    """Every named value of one mode in the order of making; in training mode then each ``loss NAME``, what is
    minimised, and its gradient by each parameter, ``grad PATH``.  No path has a space in it."""
    mode = model.training if training else model.inference
    values = {name: value for name, value in mode.values.items() if is_tensor(value)}
    if training:
        losses = losses_of(model, mode)
        leaves = [ops.param(variable.path, variable.type.dtype, variable.type.shape) for variable in model.parameters]
        slopes = gradient([(losses[LOSS], ops.constant(1.0, losses[LOSS].dtype))], leaves)
        values |= {f"loss {name}": value for name, value in mode.losses.items()} | {"total loss": losses[LOSS]}
        values |= {f"grad {leaf.attrs['path']}": slope for leaf, slope in zip(leaves, slopes)}
    return values


def evaluate(model: Model) -> Program:
    """Losses and metrics in inference mode."""
    values = losses_of(model, model.inference)
    return _program(model, _all_inputs(model), values | _metrics(model.inference), reports=_reports(model))


def loss_and_gradient(model: Model) -> Program:
    """Losses in training mode, the flat gradient of their sum, and the new values of the states."""
    values = losses_of(model, model.training)
    values[GRADIENT] = _joined(_gradients(model, values[LOSS]))
    values |= {new_state(path): value for path, value in model.training.updates.items()}
    return _program(model, _all_inputs(model), values, reports=_reports(model), trains=True)


def step(model: Model, metrics: bool = False, launches: bool = False) -> Program:
    """One step of training.  With ``metrics``, those of the training batch too, as of before the update; ``launches``:
    for a machine on which every kernel is a launch."""
    optimizer_of(model)
    values = losses_of(model, model.training)
    own: dict[Node, tuple[str, int]] = {}
    updated, states = _optimize(model, _stretches(model, _gradients(model, values[LOSS]), launches), own)
    new = _new_variables(model, updated, model.training.updates) | states
    if metrics:
        values |= _metrics(model.training)
    # Last, so that nothing comes after that reads what they may replace in place.
    values |= new
    return _program(model, _all_inputs(model), values, own, _reports(model), tuple(new), trains=True)


def update(model: Model) -> Program:
    """The optimiser's step alone, from a gradient that is given in the slot GRADIENT; the model's states stay."""
    optimizer_of(model)
    slope = ops.input(GRADIENT, _vector_dtype(model), (weights_layout(model).trainable_size,))
    own: dict[Node, tuple[str, int]] = {slope: (GRADIENT, 0)}
    updated, states = _optimize(model, [slope], own)
    new = _new_variables(model, updated, {}) | states
    return _program(model, (), new, own, replaced=tuple(new), trains=True)


def optimizer_of(model: Model) -> Optimizer:
    """The model's optimiser.  Raises ModelError where it has none."""
    if model.optimizer is None:
        raise ModelError(f"`{model.name}` has no optimiser: its train block needs `optimizer = ...`")
    return model.optimizer


def _program(model: Model, inputs: tuple[Node, ...], values: Mapping[str, Node],
             own: Mapping[Node, tuple[str, int]] | None = None, reports: Mapping[str, str] | None = None,
             replaced: tuple[str, ...] = (), trains: bool = False) -> Program:
    graph = Graph((), values)
    graph, ranges = bound_indices(graph, model.targets)
    leaves = tuple(current for current in topological(graph.results) if current.op.name in LEAVES)
    graph = Graph(leaves, graph.outputs)
    ranges = tuple(found for found in ranges if found.leaf in inputs)
    return Program(graph, _place(model, graph, own or {}), ranges, inputs, reports or {}, replaced, trains)


def _all_inputs(model: Model) -> tuple[Node, ...]:
    return (*model.inputs, *model.targets)


# --- losses and metrics -----------------------------------------------------------------------------------------------


def losses_of(model: Model, mode: Mode) -> dict[str, Node]:
    """Every loss, and what is minimised: their sum with the penalties."""
    if not mode.losses:
        raise ModelError(f"`{model.name}` has no loss: it needs a train block")
    total, *more = (*mode.losses.values(), *mode.penalties)
    for part in more:
        total = ops.add(total, part)
    return {LOSS: total} | {f"losses/{name}": part for name, part in mode.losses.items()}


def _metrics(mode: Mode) -> dict[str, Node]:
    return {f"metrics/{name}": value for name, value in mode.metrics.items()}


def _reports(model: Model) -> dict[str, str]:
    """The names of losses and metrics for a user: their own, which differ; only "loss" is the total's."""
    keys = [*(f"losses/{name}" for name in model.training.losses),
            *(f"metrics/{name}" for name in model.training.metrics)]
    names = {key: key.split("/", 1)[1] for key in keys}
    return {LOSS: LOSS} | {key: key.replace("/", ".") if name == LOSS else name for key, name in names.items()}


# --- gradient and optimiser -------------------------------------------------------------------------------------------


def _vector_dtype(model: Model) -> DType:
    if not model.parameters:
        raise ModelError(f"`{model.name}` has no parameters to train")
    kinds = {variable.type.dtype for variable in model.parameters}
    if len(kinds) > 1:
        raise ModelError(f"the parameters of `{model.name}` mix {listing(sorted(map(str, kinds)))}: "
                         "a model is trained in one type")
    return kinds.pop()


def _gradients(model: Model, loss: Node) -> list[Node]:
    """The gradient of each trainable variable, in order, as a vector."""
    dtype = _vector_dtype(model)
    leaves = [ops.param(variable.path, variable.type.dtype, variable.type.shape) for variable in model.parameters]
    parts = gradient([(loss, ops.constant(1.0, loss.dtype))], leaves)
    assert all(part.dtype == dtype for part in parts)
    return [ops.reshape(part, (product(part.shape),)) for part in parts]


def _joined(vectors: Sequence[Node]) -> Node:
    return vectors[0] if len(vectors) == 1 else ops.concat(vectors, 0)


def _stretches(model: Model, gradients: Sequence[Node], launches: bool) -> list[Node]:
    """The flat gradient in stretches, each of which the optimiser's kernel can take by itself.

    A large gradient that is computed element by element, as one with a penalty's is, stands alone: its kernel and the
    optimiser's become one, where in one vector with the others it would be written and read again.  So do those that
    the optimiser's kernel may compute from what they are made of, and the largest of the others, which are let go of
    as soon as they are used (see ``direct``, ``early``); but not where each kernel is a launch.
    """
    if not _is_elementwise(optimizer_of(model)):
        return [_joined(gradients)]
    stretches: list[list[Node]] = [[]]
    for slope in gradients:
        base = through_reshapes(slope)
        if slope.shape[0] >= LARGE_GRADIENT and base.op.name in ELEMENTWISE:
            stretches += [[_flat(base, slope.shape)], []]
        elif not launches and slope.shape[0] >= (LARGE_GRADIENT if _may_be_taken_apart(base) else LARGE_PRODUCT):
            stretches += [[slope], []]
        else:
            stretches[-1].append(slope)
    return [_joined(stretch) for stretch in stretches if stretch]


def _may_be_taken_apart(value: Node) -> bool:
    """Whether the optimiser's kernel may compute a gradient (see ``direct``): of a table, or a sum over samples."""
    if value.op.name != "contract":
        return value.op.name == "scatter_add"
    return len(value.attrs["reduce"]) == 1 and is_symbol(value.attrs["reduce"][0])


def _flat(value: Node, shape: Shape) -> Node:
    """A value as a vector; what is computed element by element is computed so of vectors, and need not be stored."""
    if value.op.name in ELEMENTWISE:
        return node(value.op, tuple(_flat(arg, shape) for arg in value.args), **value.attrs)
    if value.op.name == "broadcast" and not value.args[0].shape:
        return ops.broadcast(value.args[0], shape, ())
    return ops.reshape(value, shape)


def _is_elementwise(optimizer: Optimizer) -> bool:
    """Whether each element of what the update gives depends on that element of its vectors alone."""
    for current in topological(optimizer.update.results):
        spread = current.op.name in ("broadcast", "constant") and not any(arg.shape for arg in current.args)
        if (current.op.name == "size" or any(is_tensor(part) and part.shape for part in (current, *current.args))
                and not spread and current.op.name not in ELEMENTWISE | {*LEAVES}):
            return False
    return True


def _optimize(model: Model, slopes: Sequence[Node], own: dict) -> tuple[Node, dict[str, Node]]:
    """The new vector of parameters and the new optimiser states, from the flat gradient in stretches; their leaves are
    placed in ``own``."""
    optimizer, sizes, count = optimizer_of(model), optimizer_sizes(model), weights_layout(model).trainable_size
    # The whole vector of trainable variables is one leaf more, over the same memory as the variables themselves.
    weight, whole = ops.param("*", slopes[0].dtype, (count,)), ops.input(GRADIENT, slopes[0].dtype, (count,))
    own[weight] = (WEIGHTS, 0)
    replacement = {}
    for leaf in optimizer.update.inputs:
        if leaf.op.name == "input":
            replacement[leaf] = {"weight": weight, "gradient": whole}[leaf.attrs["name"]]
    for variable in optimizer.states:
        # Renamed: the model may have a state of the same path.
        shape = tuple(substitute(size, sizes) for size in variable.type.shape)
        leaf = ops.state(optimizer_slot(variable), variable.type.dtype, shape)
        replacement[ops.state(variable.path, variable.type.dtype, variable.type.shape)] = leaf
        own[leaf] = (optimizer_slot(variable), 0)
    update = optimizer.update.outputs
    paths = [variable.path for variable in optimizer.states]
    new = _by_stretches(specialise([update["weight"], *(update[path] for path in paths)], replacement, sizes),
                        [leaf for leaf in replacement.values() if leaf is not whole], whole, slopes)
    return new[0], dict(zip(map(optimizer_slot, optimizer.states), new[1:]))


def _by_stretches(update: Sequence[Node], leaves: Sequence[Node], whole: Node, slopes: Sequence[Node]) -> list[Node]:
    """The values of an update of vectors like ``whole``, the flat gradient, which is given in stretches."""
    made, start = [], 0
    for slope in slopes:
        stop = start + slope.shape[0]
        cut = {leaf: ops.slice(leaf, (start,), (stop,)) for leaf in leaves if leaf.shape == whole.shape}
        made.append(_resized(update, {whole: slope, **cut}, whole.shape, slope.shape))
        start = stop
    return [_joined(parts) if value.shape == whole.shape else parts[0]
            for value, *parts in zip(update, *made)]


def _resized(roots: Sequence[Node], leaves: Mapping[Node, Node], old: Shape, new: Shape) -> list[Node]:
    """The roots with leaves replaced, and what was spread to the old shape spread to the new one."""
    def rule(current: Node, args: tuple[Node, ...]) -> Node:
        if current in leaves:
            return leaves[current]
        return node(current.op, args, **{name: new if name == "shape" and value == old else value
                                         for name, value in current.attrs.items()})
    return rewrite(roots, rule)


def optimizer_sizes(model: Model) -> dict[str, int]:
    """The optimiser's one symbol, the number of trainable elements, as a number."""
    leaf = next(leaf for leaf in optimizer_of(model).update.inputs
                if leaf.op.name == "input" and leaf.attrs["name"] == "weight")
    count = weights_layout(model).trainable_size
    return {name: count for size in leaf.shape if isinstance(size, Dim) for name in size.symbols}


def _new_variables(model: Model, updated: Node, updates: Mapping[str, Node]) -> dict[str, Node]:
    """The flat vector after the step, and the variables outside it; states without an update stay."""
    pieces, apart = [updated], {}
    by_path = {variable.path: variable for variable in model.states}
    for entry in weights_layout(model).entries:
        if entry.trainable:
            continue
        variable = by_path[entry.path]
        new = updates.get(entry.path, ops.state(entry.path, variable.type.dtype, variable.type.shape))
        if entry.offset is None:
            apart[f"state/{entry.path}"] = new
        else:
            pieces.append(ops.reshape(new, (entry.size,)))
    return {WEIGHTS: pieces[0] if len(pieces) == 1 else ops.concat(pieces, 0)} | apart


def specialise(roots: Iterable[Node], leaves: Mapping[Node, Node], sizes: Mapping[str, Size]) -> list[Node]:
    """The roots with leaves replaced and symbols bound, in types, attributes and bodies alike."""
    def rule(current: Node, args: tuple[Node, ...]) -> Node:
        if current in leaves:
            return leaves[current]
        return node(current.op, args, **{name: _bound(value, sizes) for name, value in current.attrs.items()})
    return rewrite(roots, rule)


def _bound(value: Any, sizes: Mapping[str, Size]) -> Any:
    """An attribute with its symbols bound."""
    if isinstance(value, Dim):
        return substitute(value, sizes)
    if isinstance(value, tuple):
        return tuple(_bound(part, sizes) for part in value)
    if isinstance(value, Graph):
        new = specialise((*value.inputs, *value.results), {}, sizes)
        return Graph(tuple(new[:len(value.inputs)]), dict(zip(value.outputs, new[len(value.inputs):])))
    if dataclasses.is_dataclass(value) and not isinstance(value, (type, DType)):
        return dataclasses.replace(value, **{field.name: _bound(getattr(value, field.name), sizes)
                                             for field in dataclasses.fields(value) if field.init})
    return value
