"""Elaboration: from the syntax tree of a `.net` file to the graphs of one model.

A model is elaborated with ``training`` false, and again with it true over the same leaves where its value was asked
for.  Elaboration runs the file's compile-time language (settings, ``if``, ``for``, functions, instances) and leaves a
graph of primitives:

    values       what an expression can be at compile time, and the mistakes it can be
    numbers      compile-time arithmetic
    shapes, indexing   NumPy's broadcasting, promotion and indexing over the strict primitives
    scope        names, files, the prelude
    session      the state of one pass
    expressions, statements, calls, signatures, models, scans, train
    builtins, spatial, randomness
    lint         unused and unknown names
    override     another optimiser than the file's
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import field, replace
from typing import Any

from ...runtime.records import dataclass
from .. import syntax
from ..diagnostics import Diagnostic, Diagnostics, Span
from ..ir import topological
from ..model import Layer, Mode, Model, Structure, Variable
from ..types import Dim, TypeRuleError, f32, f64
from . import lint
from .builtins import scope_names
from .calls import Arguments
from .expressions import evaluate
from .models import call_instance, root_inputs, settings_of
from .override import expression, override
from .scope import FileScope
from .session import Build, Sink
from .shapes import LARGEST_SHAPE
from .train import Training, make_optimizer, run_train, sizes_of
from .values import POISON, Fault, Instance, ModelValue, Poisoned, Record, is_tensor, nearest

__all__ = ["Inspection", "declared_settings", "elaborate", "inspect"]

RECURSION_LIMIT = 30_000           # Python frames; expressions and calls are bounded long before (see session)


def elaborate(text: str | bytes, filename: str = "<text>", model: str | None = None, precision: str = "f32",
              loader=None, settings: dict | None = None, optimizer: str | None = None,
              lr: str | float | None = None) -> Model:
    """The model of a source text as graphs.

    ``model`` names it; by default the one that has a ``train`` block, else the last of the file.  ``precision``
    "f64" computes every f32 in f64.  ``loader`` reads an imported file, given its path; where it gives None, and by
    default, that is from the disk, below the folder of ``filename``.  ``settings`` are values for the model's own
    settings, texts among them expressions; ``optimizer`` and ``lr`` are expressions that replace those of the
    ``train`` block.
    Raises Diagnostics with every mistake found.
    """
    with _deep_recursion():
        tree = override(syntax.parse(text, filename), model, optimizer, lr)
        return _elaborate(tree, filename, model, precision, loader, settings or {}, Sink())


@contextmanager
def _deep_recursion():
    """Room for the recursion over a file's trees and calls, whose depth is bounded long before (see session)."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, RECURSION_LIMIT))
    try:
        yield
    except RecursionError:
        raise Diagnostics(Diagnostic(code="E0801", message="the file is nested too deep")) from None
    finally:
        sys.setrecursionlimit(limit)


def declared_settings(text: str | bytes, filename: str = "<text>", model: str | None = None) -> tuple[str, ...]:
    """The names of the settings of the model that ``elaborate`` would take.  Raises Diagnostics where the text is no
    file."""
    try:
        chosen, _ = _choose(syntax.parse(text, filename), model)
    except Fault:
        return ()                       # there is no such model: elaboration says it, with its place
    return tuple(setting.name for setting in chosen.settings)


def _elaborate(tree: syntax.File, filename, name, precision, loader, settings, sink: Sink, observer=None) -> Model:
    passes = []
    for training in (False, True):
        build = Build(sink, {"f32": f32, "f64": f64}[precision], training, scope_names(), loader, observer)
        passes.append(_run(build, tree, filename, name, settings))
        if sink.items:
            break                       # the other mode would repeat what is wrong
        if not build.has_read_mode:
            passes *= 2                 # the other mode would repeat everything
            break
    build, last = passes[0]
    _check_unreached(sink, tree, filename, loader, observer)
    if last.scope is not None:
        lint.check_names(build, last.scope, tree)
    sink.raise_errors()
    lint.warn_unused(build, tree)
    return _assemble(sink, passes, precision, loader)


@dataclass(frozen=True)
class Inspection:
    """What there is to say about a whole file."""

    file: syntax.File | None                # its tree; None where it is no text at all
    diagnostics: tuple[Diagnostic, ...]     # errors, warnings and notes, in the order of the text
    model: Model | None                     # the one that is compiled by default, where the file has it and it is right
    read: frozenset[str]                    # the paths of the files that it imports, there or not
    # those that could be read, with digests of their content
    imports: Mapping[str, str] = field(default_factory=dict)

    @property
    def errors(self) -> list[Diagnostic]:
        return [item for item in self.diagnostics if item.severity == "error"]


def inspect(text: str | bytes, filename: str = "<text>", model: str | None = None, precision: str = "f32", loader=None,
            observer=None) -> Inspection:
    """Checks a whole file: each model that is trained, the one that is compiled by default, and all others as far as
    they are settled by themselves.  A file of layers and functions alone is fine.

    The arguments are those of ``elaborate``; with ``model`` only that one.  ``observer.see(tree, value)`` is told of
    every value that an expression or a binding of any file has on the way, in every call; with an observer every model
    is elaborated, and the text, which is one of many that are seen once, is not kept.
    """
    try:
        with _deep_recursion():
            tree, errors = _tree(text, filename, keep=observer is None)
            if errors:
                return Inspection(tree, tuple(errors), None, frozenset())
            names = [model] if model else _roots(tree)
            return _inspect(tree, filename, names, bool(model), precision, loader, observer)
    except Diagnostics as error:
        return Inspection(None, tuple(error), None, frozenset())


def _tree(text: str | bytes, filename: str, keep: bool) -> tuple[syntax.File, list[Diagnostic]]:
    """The tree of a text, and what is wrong with it: then the tree is what was understood."""
    if keep:
        try:
            return syntax.parse(text, filename), []
        except Diagnostics:
            pass                        # parsed again, for the tree
    from ..parser import parse_stages
    parsed = parse_stages(text, filename)
    return parsed.file, parsed.errors


def _inspect(tree: syntax.File, filename, names, strict: bool, precision, loader, observer) -> Inspection:
    found: dict[tuple, Diagnostic] = {}
    models: list[Model | None] = []
    visited, read, imports = set(), set(), dict[str, str]()
    for name in names or [None]:
        sink = Sink()
        try:
            if name is None:
                _check_library(sink, tree, filename, loader, observer)
            else:
                models.append(_elaborate(tree, filename, name, precision, loader, {}, sink, observer))
        except Diagnostics as error:
            models.append(None)
            lenient = name is not None and not strict and _may_be_a_layer(tree, name)
            for item in error:
                note = lenient and (item.code in UNDECIDED or item.code.startswith("E03"))
                found[item.span, item.code, item.message] = replace(item, severity="note") if note else item
        found |= {(item.span, item.code, item.message): item for item in sink.warnings}
        visited |= sink.visited
        read |= sink.read
        imports |= sink.imports
    if observer is not None:
        for model in tree.models:
            if id(model) not in visited and not _open_settings(model):
                _run(Build(Sink(), f32, False, scope_names(), loader, observer), tree, filename, model.name, {})
    ordered = sorted(found.values(), key=lambda item: (item.span.file, item.span.line, item.span.column)
                     if item.span else ("", 0, 0))
    return Inspection(tree, tuple(ordered), models[0] if models else None, frozenset(read), imports)


def _may_be_a_layer(tree: syntax.File, name: str) -> bool:
    """Whether a model may be meant for callers that settle what is open: it is not trained, has settings, and sizes
    besides the batch that are symbols.  What is wrong with it by itself is then worth a note, and no error.
    """
    model = next(model for model in tree.models if model.name == name)
    if any(train.model == name for train in tree.trains) or not model.settings:
        return False
    sizes = [parameter.annotation.dims[1:] for parameter in model.inputs
             if isinstance(parameter.annotation, syntax.TypeAnnotation)]
    return any(not dims or any(not isinstance(dim, syntax.Number) for dim in dims) for dims in sizes)


def _check_library(sink: Sink, tree: syntax.File, filename, loader, observer) -> None:
    """A file without a model that could be compiled by itself."""
    build = Build(sink, f32, False, scope_names(), loader, observer)
    build.files.opened(filename)
    scope = FileScope(build, tree, build.prelude, filename)
    _check_top_level(build, tree)
    scope.check()
    _check_unreached(sink, tree, filename, loader, observer)
    lint.check_names(build, scope, tree)
    sink.raise_errors()
    lint.warn_unused(build, tree)


def _roots(tree: syntax.File) -> list[str]:
    """The models to compile for a check: the trained ones, or the last one that could be compiled."""
    models = {model.name: model for model in tree.models}
    trained = list(dict.fromkeys(train.model for train in tree.trains if train.model in models))
    if trained:
        return trained
    complete = [name for name, model in models.items() if not _open_settings(model)
                and not any(map(_open_input, model.inputs))]
    return complete[-1:]


def _open_settings(model: syntax.Model) -> bool:
    """Whether the model needs a setting from its caller."""
    return any(setting.default is None and not setting.variadic for setting in model.settings)


def _open_input(parameter: syntax.Parameter) -> bool:
    """Whether the type of an input is left to the caller."""
    annotation = parameter.annotation
    return not isinstance(annotation, syntax.TypeAnnotation) or any(isinstance(dim, syntax.Ellipsis)
                                                                    for dim in annotation.dims)


UNDECIDED = {"E0306", "E0309", "E0402", "E0504", "E0509"}     # what a caller might have settled


def _check_unreached(sink: Sink, tree: syntax.File, filename: str, loader, observer) -> None:
    """Elaborates the models that the compiled one does not use, so that their mistakes are reported too.

    Only those that are complete by themselves: no settings without a default, every size but the batch known.
    """
    for model in tree.models:
        if id(model) in sink.visited or _open_settings(model):
            continue
        aside = Sink()
        aside.visited = sink.visited
        _, found = _run(Build(aside, f32, False, scope_names(), loader, observer), tree, filename, model.name, {})
        if found.inputs and all(isinstance(size, int) for leaf in found.inputs for size in leaf.shape[1:]):
            for item in aside.items:
                if item.code not in UNDECIDED:
                    sink.add(item)


class _Pass:
    """What one pass over the model gives."""

    def __init__(self):
        self.scope = self.model = self.instance = self.result = self.train = None
        self.inputs: list = []
        self.training = Training()


def _run(build: Build, tree: syntax.File, filename: str, name, settings) -> tuple[Build, _Pass]:
    """One pass: the model's body, then its train block."""
    found = _Pass()
    build.files.opened(filename)
    scope = found.scope = FileScope(build, tree, build.prelude, filename)
    _check_top_level(build, tree)
    scope.check()
    try:
        model_tree, found.train = _choose(tree, name)
        found.model = model = ModelValue(model_tree.name, model_tree, scope)
        _run_model(build, found, model, settings)
    except Fault as fault:
        build.report(fault)
    except TypeRuleError as error:
        build.report(Fault("shape", str(error)), model_tree.name_span)
    except Poisoned:
        pass
    return build, found


def _given(build: Build, model: ModelValue, name: str, value) -> tuple[Any, Span]:
    """A setting's value from the caller, and where it stands: a text is an expression."""
    if isinstance(value, str):
        tree = expression(value, name)
        return evaluate(build, model.scope, tree), tree.span
    if isinstance(value, tuple):
        return tuple(_given(build, model, name, each)[0] for each in value), model.tree.name_span
    return value, model.tree.name_span


def _run_model(build: Build, found: _Pass, model: ModelValue, settings) -> None:
    for setting in model.tree.settings:
        if setting.default is None and not setting.variadic and setting.name not in settings:
            raise Fault("missing", f"the compiled model {model.name} needs a value for its setting `{setting.name}`",
                        span=setting.span, hint="give the setting a default, or compile a model that uses it")
    for key in settings:
        if key not in {s.name for s in model.tree.settings}:
            raise Fault("setting", f"{model.name} has no setting `{key}`", span=model.tree.name_span,
                        hint=nearest(key, {s.name for s in model.tree.settings}))
    bound = {key: _given(build, model, key, value) for key, value in settings.items()}
    instance = found.instance = Instance(model, settings_of(build, model, bound, model.tree.name_span), "")
    leaves = root_inputs(build, model, instance.settings)
    found.inputs = [leaf for _, leaf, _ in leaves]
    build.batch = next((leaf.shape[0] for leaf in found.inputs if leaf.shape and isinstance(leaf.shape[0], Dim)), None)
    given = {key: (leaf, span, span) for key, leaf, span in leaves}
    try:
        found.result = call_instance(build, instance, Arguments([], given), model.tree.name_span)
    except Poisoned:
        pass
    if found.train is not None and instance.names is not None:
        from .scope import Scope
        scope = Scope(model.scope, instance.names)
        for missing in {o.name for o in model.tree.outputs or ()} - set(instance.names):
            scope.set(missing, POISON)
        if model.tree.outputs is None and "output" not in scope.names:
            scope.set("output", found.result if found.result is not None else POISON)
        from .session import Frame
        from .statements import bound_names
        # What the block makes by itself has weights of its own, and so other names than what the model has.
        build.frames.append(Frame(instance, "", "train", 0, frozenset(bound_names(found.train.body)), instance.taken))
        try:
            found.training = run_train(build, scope, found.train, found.inputs)
        finally:
            build.frames.pop()


def _check_top_level(build: Build, tree: syntax.File) -> None:
    """Names defined twice, train blocks for unknown models."""
    seen: dict[str, Any] = {}
    for item in tree.items:
        if isinstance(item, syntax.Train):
            continue
        if item.name in seen:
            build.report(Fault("twice", f"`{item.name}` is defined twice", span=item.name_span,
                               hint=f"the first is at line {seen[item.name].line}"))
        if item.name == "training":
            build.report(Fault("reserved", "`training` is reserved", span=item.name_span))
        seen.setdefault(item.name, item.name_span)
    models = [m.name for m in tree.models]
    trained = set()
    for block in tree.trains:
        if block.model not in models:
            build.report(Fault("train-model", f"there is no model `{block.model}` in this file", span=block.name_span,
                               hint=nearest(block.model, models)))
        elif block.model in trained:
            build.report(Fault("twice", f"{block.model} has two train blocks", span=block.name_span))
        trained.add(block.model)


def _choose(tree: syntax.File, name):
    """The model to compile, and its train block."""
    models = {m.name: m for m in tree.models}
    trains = {t.model: t for t in tree.trains if t.model in models}
    if not models:
        raise Fault("no-model", "the file has no model to compile", span=tree.version.span)
    if name is None:
        name = next(iter(trains)) if trains else tree.models[-1].name
    if name not in models:
        raise Fault("no-model", f"there is no model `{name}` in this file", span=tree.version.span,
                    expected=", ".join(models), hint=nearest(name, models))
    return models[name], trains.get(name)


# --- putting the passes together --------------------------------------------------------------------------------


def _assemble(sink: Sink, passes, precision: str, loader) -> Model:
    inference, training = passes
    variables = _variables(inference[0], training[0])
    states = [v for v in variables if not v.trainable]
    sizes = sizes_of(v for v in variables if v.trainable)
    span = inference[1].model.tree.name_span
    weights = sum(variable.type.size for variable in variables)
    if weights >= LARGEST_SHAPE:
        inference[0].report(Fault("limit", f"the weights of {inference[1].model.name} have {weights:,} elements; at "
                                           f"most {LARGEST_SHAPE - 1:,} are allowed", span=span))
        sink.raise_errors()
    optimizer = None
    if training[1].training.optimizer is not None:
        build = Build(sink, {"f32": f32, "f64": f64}[precision], True, scope_names(), loader)
        optimizer = make_optimizer(build, training[1].training, sizes)
        sink.raise_errors()
    modes = [_mode(build, found, states) for build, found in passes]
    return Model(
        name=inference[1].model.name, inputs=tuple(inference[1].inputs), targets=tuple(inference[1].training.targets),
        variables=tuple(variables), inference=modes[0], training=modes[1], optimizer=optimizer,
        layers=_layers(inference[0], variables), uses_seed=_uses_seed(inference[0], modes),
        warnings=tuple(sink.warnings), structure=Structure(inference[0].functions, inference[0].through),
        imports=tuple(sorted(sink.imports.items())))


def _variables(inference: Build, training: Build) -> list[Variable]:
    """The variables of both modes, in order of making; those of training first where the modes differ."""
    variables = dict(training.variables)
    for path, variable in inference.variables.items():
        variables.setdefault(path, variable)
    return list(variables.values())


def _mode(build: Build, found: _Pass, states) -> Mode:
    from .. import ops
    outputs = _outputs(found.result, found.model.tree)
    values = {**build.values, **outputs}
    updates = {v.path: build.updates.get(v.path, ops.state(v.path, v.type.dtype, v.type.shape)) for v in states}
    places = {name: build.users_place(found.model.tree.name_span) for name in values} | build.places
    return Mode(outputs, values, found.training.losses, found.training.metrics, tuple(build.penalties), updates, places)


def _outputs(result, tree: syntax.Model) -> dict:
    """The model's outputs by name: as the signature names them, else `output`, or `output_0`, `output_1` ..."""
    if isinstance(result, Record):
        return dict(result.fields)
    if isinstance(result, tuple):
        return {f"output_{i}": value for i, value in enumerate(result) if is_tensor(value)}
    return {tree.outputs[0].name if tree.outputs else "output": result}


def _layers(build: Build, variables) -> tuple[Layer, ...]:
    rows = []
    for row in build.layers:
        below = row["path"] + "." if row["path"] else ""
        rows.append(Layer(parameters=tuple(v.path for v in variables if v.path.startswith(below)), **row))
    return tuple(rows)


def _uses_seed(build: Build, modes) -> bool:
    roots = []
    for mode in modes:
        roots += [*mode.outputs.values(), *mode.losses.values(), *mode.metrics.values(), *mode.penalties,
                  *mode.updates.values()]
    return any(node is build.seed for node in topological(roots))
