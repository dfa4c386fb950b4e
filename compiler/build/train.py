"""``train`` blocks: targets, losses, metrics, and the optimiser as a pure function of the flat vectors."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from ...runtime.records import dataclass
from .. import ops, syntax
from ..ir import Graph, Node
from ..model import Optimizer
from ..types import Dim, product
from .calls import Arguments
from .models import call_instance
from .scope import Scope
from .session import Build
from .shapes import checked_shape
from .signatures import SymbolScope, declared_shape, dtype_of
from .statements import register, run_block
from .values import Fault, Instance, ModelValue, Partial, Poisoned, describe, is_number, is_tensor


@dataclass(eq=False)
class Training:
    """What one pass over a train block finds."""

    targets: list[Node] = field(default_factory=list)
    losses: dict[str, Node] = field(default_factory=dict)
    metrics: dict[str, Node] = field(default_factory=dict)
    optimizer: Instance | None = None
    optimizer_span: object = None


def run_train(build: Build, scope: Scope, tree: syntax.Train, inputs: list[Node]) -> Training:
    """Runs a train block in the scope of the model's body, so that inputs, outputs and bindings are visible."""
    found = Training()
    inner: Any = Scope(scope)
    inner.training, inner.inputs = found, inputs
    run_block(build, inner, tree.body)
    if not found.losses and not any(isinstance(s, (syntax.Loss, syntax.If, syntax.For)) for s in tree.body):
        build.report(Fault("no-loss", f"the train block of {tree.model} has no loss", span=tree.name_span,
                           hint="e.g. `loss error = mean(mean_squared_error(output, target))`"))
    return found


def _training(scope, tree) -> Training:
    while scope is not None:
        if getattr(scope, "training", None) is not None:
            return scope.training
        scope = scope.parent
    raise Fault("place", "this stands only in a `train` block", span=tree.span)


def _input(build: Build, scope, tree):
    """A target: its shape's symbols are the model's, or new ones."""
    from .statements import NOTHING
    training = _training(scope, tree)
    if any(leaf.attrs["name"] == tree.name for leaf in scope.inputs + training.targets):
        raise Fault("loss-twice", f"there is already an input `{tree.name}`", span=tree.name_span)
    symbolic = SymbolScope(scope)
    declared = declared_shape(build, symbolic, tree.annotation)
    if Ellipsis in declared:
        raise Fault("signature", f"the input `{tree.name}` must name every dimension", span=tree.annotation.span)
    shape = []
    for size in declared:
        symbols = size.symbols if isinstance(size, Dim) else ()
        renamed = {s: Dim.symbol(s[1:]) for s in symbols if s.startswith("'")}
        shape.append(size.substitute(renamed) if renamed else size)
    leaf = ops.input(tree.name, dtype_of(build, tree.annotation), checked_shape(shape))
    training.targets.append(leaf)
    scope.set(tree.name, leaf)
    build.see(tree, leaf)
    return NOTHING


def _scalar(build: Build, tree, noun: str):
    """The value of a loss or a metric, which must be one number."""
    def check(value):
        if is_number(value):
            value = build.arithmetic.tensor(value, build.precision)
        hint = "take its mean: `mean(...)`" if is_tensor(value) else None
        if not is_tensor(value) or value.shape != ():
            raise Fault("loss-scalar", f"the {noun} `{tree.name}` must be one number", span=tree.value.span,
                        expected=f"{build.precision}[]", found=describe(value), hint=hint)
        return value
    return check


def _loss(build: Build, scope, tree):
    return _reported(build, scope, tree, "loss", _training(scope, tree).losses)


def _metric(build: Build, scope, tree):
    return _reported(build, scope, tree, "metric", _training(scope, tree).metrics)


def _reported(build: Build, scope, tree, noun: str, table: dict):
    from .expressions import evaluate
    from .statements import NOTHING
    training = _training(scope, tree)
    if tree.name in training.losses or tree.name in training.metrics:
        raise Fault("loss-twice", f"there is already a loss or a metric `{tree.name}`", span=tree.name_span)
    value = _scalar(build, tree, noun)(evaluate(build, scope, tree.value))
    if noun == "loss" and value.dtype.kind != "float":
        raise Fault("loss-scalar", f"the loss `{tree.name}` must be a float", span=tree.value.span,
                    expected=f"{build.precision}[]", found=str(value.type))
    build.see(tree, value)
    table[tree.name] = build.arithmetic.to_float(value) if value.dtype.kind == "bool" else value
    try:
        scope.find(tree.name)                  # a loss may carry an output's name: that name keeps its meaning
    except KeyError:
        scope.set(tree.name, value)
    return NOTHING


def _optimizer(build: Build, scope, tree):
    from .expressions import evaluate
    from .statements import NOTHING
    training = _training(scope, tree)
    if training.optimizer_span is not None:
        raise Fault("optimizer-twice", "the optimiser is given twice", span=tree.span)
    training.optimizer_span = tree.value.span
    frames, build.frames = build.frames, []
    try:
        value = evaluate(build, scope, tree.value)
    finally:
        build.frames = frames
    if not isinstance(value, Instance) or len(value.model.tree.inputs) != 2:
        hint = None
        if isinstance(value, ModelValue):
            hint = f"make an instance: `{value.name}()`"
        elif isinstance(value, Partial):
            hint = "it lacks a setting"
        raise Fault("optimizer", "the optimiser must be an instance of a model of (weight, gradient)",
                    span=tree.value.span, expected="e.g. `adam(lr = 1e-3)`", found=describe(value), hint=hint)
    training.optimizer = value
    return NOTHING


for _kind, _run in ((syntax.Input, _input), (syntax.Loss, _loss), (syntax.Metric, _metric),
                    (syntax.Optimizer, _optimizer)):
    register(_kind, _run)


def make_optimizer(build: Build, training: Training, sizes: tuple[int, ...]) -> Optimizer | None:
    """The optimiser's update over vectors of parameters of these sizes, elaborated by a pass of its own."""
    instance, span = training.optimizer, training.optimizer_span
    if instance is None or sum(sizes) == 0:
        return None
    build.parameter_sizes = sizes
    shape = checked_shape((sum(sizes),))
    weight = ops.input("weight", build.precision, shape)
    gradient = ops.input("gradient", build.precision, shape)
    instance.path = "optimizer"
    try:
        result = call_instance(build, instance, Arguments([(weight, span), (gradient, span)], {}), span)
        if not is_tensor(result) or result.type != weight.type:
            raise Fault("optimizer", f"the optimiser {instance.name} must give the new weights", span=span,
                        expected=str(weight.type), found=describe(result))
        for path, variable in build.variables.items():
            if variable.trainable:
                raise Fault("optimizer", "an optimiser keeps what it remembers as `state`, not as `param`", span=span,
                            found=f"the parameter {path}")
    except Fault as fault:
        build.report(fault, span)
        return None
    except Poisoned:
        return None
    states = tuple(v for v in build.variables.values() if v.initial is not None)
    leaves = [ops.state(v.path, v.type.dtype, v.type.shape) for v in states]
    outputs = {"weight": result}
    outputs.update({v.path: build.updates.get(v.path, leaf) for v, leaf in zip(states, leaves)})
    return Optimizer(instance.name, Graph((weight, gradient, *leaves), outputs), states)


def sizes_of(variables) -> tuple[int, ...]:
    return tuple(product(v.type.shape) for v in variables)
