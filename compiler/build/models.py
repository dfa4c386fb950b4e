"""Models: settings, instances, calls, parameters and states."""

from __future__ import annotations

import re

from .. import ops, syntax
from ..ir import Graph, topological
from ..model import Variable
from ..prelude import prelude_part
from ..types import Dim, product, substitute
from . import shapes
from .calls import Arguments, bind, call_value, declared_slots, missing
from .scope import Scope
from .session import MOST_LAYERS, MOST_VARIABLES, Build, Frame, join
from .signatures import (
    SymbolScope,
    bind_symbols,
    check_annotation,
    concrete,
    declared_shape,
    dtype_of,
    plain,
    tensor_input,
    type_text,
)
from .statements import NOTHING, bound_names, run_block
from .values import (
    POISON,
    Fault,
    Instance,
    ModelValue,
    Poisoned,
    Record,
    describe,
    is_function,
    is_number,
    is_tensor,
    show,
)

# --- instances --------------------------------------------------------------------------------------------------


def settings_of(build: Build, model: ModelValue, bound: dict, span) -> dict:
    """Every setting's value: given or default, checked against its annotation."""
    from .expressions import evaluate
    scope = Scope(model.scope)
    for setting in model.tree.settings:
        if setting.name in bound:
            value, where = bound[setting.name]
        elif setting.variadic:
            value, where = (), span
        else:
            value, where = evaluate(build, scope, setting.default), setting.default.span
        if setting.annotation is not None:
            what = f"the setting `{setting.name}` of {model.name}"
            value = check_annotation(build, scope, value, setting.annotation, what, where, setting.variadic)
        scope.set(setting.name, value)
        build.see(setting, value)
    return scope.names


def snake_case(name: str) -> str:
    """``MultiHeadAttention`` -> ``multi_head_attention``, ``Conv2D`` -> ``conv2d``, as Keras names layers."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def locate(build: Build, instance: Instance, name: str | None) -> str:
    """The instance's path, given now if it has none: by its setting, by its binding, or by its model's name."""
    if instance.path is None:
        if instance.home is not None:
            owner, setting = instance.home
            instance.path = join(locate(build, owner, None), setting)
        else:
            frame = build.frame
            if frame is None:
                raise Fault("place", f"{instance.name} can be called only inside a model or its train block's losses",
                            span=instance.span)
            short = frame.unique(name, True) if name else frame.unique(snake_case(instance.name), False)
            instance.path = join(frame.path, short)
    return instance.path


def adopt(instance: Instance) -> set[str]:
    """Instances among the settings get their home here; the names they take."""
    taken = set()

    def visit(value, name):
        if isinstance(value, Instance):
            if value.path is None and value.home is None:
                value.home = (instance, name)
            taken.add(name)
        elif isinstance(value, tuple):
            for i, item in enumerate(value):
                visit(item, f"{name}_{i}")
    for name, value in instance.settings.items():
        visit(value, name)
    return taken


# --- calls ------------------------------------------------------------------------------------------------------


def call_instance(build: Build, instance: Instance, arguments: Arguments, span, name: str | None = None):
    """The outputs of an instance on its inputs: one value, a tuple, or a Record of named outputs."""
    tree = instance.model.tree
    inputs = declared_slots(tree.inputs)
    arguments = _spread_record(arguments, inputs)
    given = bind(instance.name, inputs, arguments, "input")
    lacking = missing(inputs, given)
    if lacking:
        raise Fault("input-missing", f"{instance.name} lacks its input{'s' if len(lacking) > 1 else ''} "
                    f"{', '.join(f'`{n}`' for n in lacking)}", span=span, expected=", ".join(s.name for s in inputs))
    taken = adopt(instance)
    path = locate(build, instance, name)
    frame = _new_frame(build, instance, path, tree, taken)
    row = _open_row(build, instance, frame, span)
    scope = Scope(instance.model.scope, instance.settings)
    scope.frame = frame
    build.sink.visited.add(id(tree))
    with build.inside(instance.name, span, model=True):
        bindings: dict = {}
        _bind_inputs(build, instance, scope, given, bindings, span)
        tensors = tuple(v for v in (scope.names.get(p.name) for p in tree.inputs) if is_tensor(v))
        build.frames.append(frame)
        try:
            returned = run_block(build, scope, tree.body)
            instance.names, instance.taken = scope.names, frame.taken
            result = _outputs(build, instance, scope, returned, bindings)
        except Fault as fault:
            build.place(fault, span)
            raise
        finally:
            build.frames.pop()
    _close_row(build, row, frame, result, tensors, span)
    return result


def _spread_record(arguments: Arguments, slots) -> Arguments:
    """A model with several outputs may be piped into one with several inputs."""
    positional = arguments.positional
    if len(positional) == 1 and isinstance(positional[0][0], Record) and len(slots) > 1:
        record, span = positional[0]
        return Arguments([(value, span) for value in record.fields.values()], arguments.named)
    return arguments


def _new_frame(build: Build, instance: Instance, path: str, tree, taken) -> Frame:
    outer = build.frame
    if outer is None or path == outer.path or not path.startswith(join(outer.path, "")):
        base = path
    else:
        base = join(outer.prefix, path[len(join(outer.path, "")):] if outer.path else path)
    count = build.prefix_calls.get(base, 0)
    build.prefix_calls[base] = count + 1
    prefix = f"{base}:{count}" if count else base
    depth = outer.depth + 1 if outer else 0
    return Frame(instance, path, prefix, depth, frozenset(bound_names(tree.body)), set(taken))


def _open_row(build: Build, instance: Instance, frame: Frame, span) -> dict:
    if len(build.layers) >= MOST_LAYERS:
        raise Fault("limit", f"the model has more than {MOST_LAYERS} layers")
    call = build.path_calls.get(frame.path, 0)
    build.path_calls[frame.path] = call + 1
    settings = tuple((name, show(value)) for name, value in instance.settings.items() if name in instance.given)
    row = {"path": frame.path, "kind": instance.name, "call": call, "depth": frame.depth, "outputs": (), "inputs": (),
           "prefix": frame.prefix, "settings": settings, "where": build.users_place(span),
           "library": prelude_part(instance.model.tree.span.file),
           "repeats": product(scan.length for scan in build.scans)}
    build.layers.append(row)
    return row


def _close_row(build: Build, row: dict, frame: Frame, result, inputs, span) -> None:
    fields = result.fields if isinstance(result, Record) else None
    values = fields.values() if fields is not None else result if isinstance(result, tuple) else (result,)
    row["outputs"], row["inputs"] = tuple(v for v in values if is_tensor(v)), inputs
    if fields is None and is_tensor(result) and frame.prefix:
        build.record(frame.prefix, result, span)
    elif isinstance(result, tuple):
        for i, value in enumerate(result):
            build.record(join(frame.prefix, f"output_{i}"), value, span)


def _bind_inputs(build: Build, instance: Instance, scope, given, bindings, call_span) -> None:
    """Inputs matched with their declared types; the symbols become integers of the body."""
    from .expressions import evaluate
    symbolic = SymbolScope(Scope(instance.model.scope, instance.settings))
    for param in instance.model.tree.inputs:
        if param.name in given:
            value, span = given[param.name]
        elif param.variadic:
            value, span = (), call_span
        else:
            value, span = evaluate(build, scope, param.default), param.default.span
        what = f"the input `{param.name}` of {instance.name}"
        annotation = param.annotation
        if isinstance(annotation, syntax.TypeAnnotation) and not (value is None and param.default is not None) \
                and (annotation.bracketed or is_tensor(value)):
            dtype = dtype_of(build, annotation)
            declared = declared_shape(build, symbolic, annotation)
            try:
                values = value if param.variadic else (value,)
                value = tuple(tensor_input(build, v, dtype, declared, bindings, what, span) for v in values)
                value = value if param.variadic else value[0]
            except Fault as fault:
                if fault.chain is None:
                    fault.chain = tuple(build.chain[:-1])       # the mistake is the caller's
                raise
        elif annotation is not None and value is not None:
            value = check_annotation(build, scope, value, annotation, what, span, param.variadic)
        scope.set(param.name, value)
        build.see(param, value)
    bind_symbols(scope, bindings)


def _outputs(build: Build, instance: Instance, scope, returned, bindings):
    """What the call gives, checked against the signature."""
    tree = instance.model.tree
    symbolic = SymbolScope(Scope(instance.model.scope, instance.settings))
    if tree.outputs is None:
        if returned is POISON:
            raise Poisoned
        if returned is NOTHING:
            raise Fault("return", f"the model {tree.name} ends without a `return`", span=tree.name_span,
                        hint="name the outputs in the signature and assign them, or return a value")
        if tree.result is not None:
            returned = _checked_output(build, symbolic, returned, tree.result, bindings, f"the result of {tree.name}",
                                       _return_span(tree))
        elif is_number(returned):
            returned = build.arithmetic.tensor(returned)
        return returned
    if returned is not NOTHING and returned is not POISON:
        raise Fault("outputs", f"{tree.name} names its outputs, so its body assigns them instead of returning",
                    span=_return_span(tree), expected=", ".join(o.name for o in tree.outputs))
    fields = {}
    for output in tree.outputs:
        value = scope.names.get(output.name, NOTHING)
        if value is NOTHING:
            build.report(Fault("output", f"the output `{output.name}` of {tree.name} is never assigned",
                               span=output.name_span))
            value = POISON
        elif value is not POISON and output.annotation is not None:
            try:
                what = f"the output `{output.name}` of {tree.name}"
                value = _checked_output(build, symbolic, value, output.annotation, bindings, what,
                                        _binding_span(tree.body, output.name) or output.span)
            except Fault as fault:
                build.report(fault, output.span)
                value = POISON
        if value is not POISON and build.frame is not None:
            build.record(join(build.frame.prefix, output.name), value, output.span)
        fields[output.name] = value
    if any(value is POISON for value in fields.values()):
        raise Poisoned
    return next(iter(fields.values())) if len(fields) == 1 else Record(tree.name, fields)


def _checked_output(build, symbolic, value, annotation, bindings, what: str, span):
    if isinstance(annotation, syntax.TupleAnnotation):
        if not isinstance(value, tuple) or len(value) != len(annotation.items):
            raise Fault("count", f"{what} must be {len(annotation.items)} values", span=span, found=describe(value))
        return tuple(_checked_output(build, symbolic, v, a, bindings, what, span)
                     for v, a in zip(value, annotation.items))
    dtype, declared = dtype_of(build, annotation), declared_shape(build, symbolic, annotation)
    return tensor_input(build, value, dtype, declared, bindings, what, span)


def _return_span(tree):
    """The place of the last return, to point at a result that does not fit."""
    found, stack = tree.name_span, list(tree.body)
    while stack:
        statement = stack.pop(0)
        if isinstance(statement, syntax.Return):
            found = statement.value.span
        elif isinstance(statement, syntax.If):
            stack = list(statement.then + statement.otherwise) + stack
        elif isinstance(statement, syntax.For):
            stack = list(statement.body) + stack
    return found


def _binding_span(body, name: str):
    span = None
    for statement in body:
        if isinstance(statement, syntax.Assign) and any(t.name == name for t in statement.targets):
            span = statement.span
    return span


# --- parameters and states --------------------------------------------------------------------------------------


def declare(build: Build, scope, tree, trainable: bool) -> None:
    """``param`` and ``state``: a leaf of the graph, and a Variable with its initial value."""
    noun = "param" if trainable else "state"
    frame = scope.frame
    if frame is None:
        raise Fault("place", f"`{noun}` stands only in a model", span=tree.span)
    if tree.name in frame.declared:
        raise Fault("twice", f"`{tree.name}` is declared twice in one call of {frame.instance.name}",
                    span=tree.name_span,
                    hint="in a loop, make a model of the body and call an instance of it in each turn")
    type_ = concrete(build, scope, tree.annotation, f"the shape of `{tree.name}`")
    for size in type_.shape:
        if isinstance(size, Dim):
            raise Fault("size", f"the shape of `{tree.name}` must be known at compile time", span=tree.annotation.span,
                        found=str(type_), hint=f"{plain(size)} is known only when the model runs")
        if trainable and size < 1:
            raise Fault("size", f"`{tree.name}` would have no elements: each of its sizes must be at least 1",
                        span=tree.annotation.span, found=str(type_))
    frame.declared.add(tree.name)
    frame.taken.add(tree.name)
    path = join(frame.path, tree.name)
    old = build.variables.get(path)
    if old is not None and old.type != type_:
        raise Fault("declaration", f"`{path}` is shared, but has another type in this call", span=tree.annotation.span,
                    expected=str(old.type), found=str(type_),
                    hint="an instance has one set of weights: make another instance for the other width")
    leaf = (ops.param if trainable else ops.state)(path, type_.dtype, type_.shape)
    if old is None:
        if len(build.variables) >= MOST_VARIABLES:
            raise Fault("limit", f"the model has more than {MOST_VARIABLES} parameters and states")
        build.variables[path] = Variable(path, type_, None, trainable,          # type: ignore[arg-type]  # see below
                                         tree.span.where)
    if not trainable:
        frame.states[tree.name] = (path, type_)
    scope.set(tree.name, build.updates.get(path, leaf))
    build.see(tree, leaf)
    try:
        _initialise(build, scope, tree, path, type_)
    except Fault as fault:
        build.report(fault, tree.initial.span if tree.initial else tree.span)
    except Poisoned:
        pass


def _initialise(build: Build, scope, tree, path: str, type_) -> None:
    """The graph of the variable's initial value, made once for both passes."""
    from dataclasses import replace
    key = (path, type_)
    if key not in build.sink.initials:
        outer = build.initial_path, build.initial_draws, build.scans
        build.initial_path, build.initial_draws, build.scans = path, 0, []
        try:
            value = _initial_value(build, scope, tree, type_)
        finally:
            build.initial_path, build.initial_draws, build.scans = outer
        build.sink.initials[key] = Graph((build.seed,), {"value": value})
    build.variables[path] = replace(build.variables[path], initial=build.sink.initials[key])


def _initial_value(build: Build, scope, tree, type_):
    from .expressions import evaluate
    span = tree.initial.span if tree.initial is not None else tree.span
    if tree.initial is not None:
        value = evaluate(build, scope, tree.initial)
    elif tree.__class__ is syntax.Param and len(type_.shape) > 1:
        value = build.prelude.find("glorot_uniform")       # as Keras does where nothing is said
    else:
        value = 0
    if isinstance(value, (ModelValue, Instance)):
        raise Fault("type", "an initial value is a number, a tensor, or a function of the shape", span=span,
                    found=describe(value))
    if is_function(value):
        value = call_value(build, value, Arguments([(type_.shape, span)], {}), tree, None)
    if is_tensor(value):
        value = build.arithmetic.cast(value, type_.dtype)
        if value.shape == () and type_.shape:
            value = shapes.full(type_.shape, value, type_.dtype)
    elif is_number(value):
        if isinstance(value, float) and type_.dtype.kind != "float":
            raise Fault("dtype", f"the initial value of `{tree.name}` is no {type_.dtype}", span=span,
                        found=show(value))
        value = shapes.full(type_.shape, build.arithmetic.tensor(value, type_.dtype), type_.dtype)
    else:
        value = build.arithmetic.cast(build.arithmetic.tensor(value), type_.dtype)
    for leaf in topological([value]):
        if leaf.op.name in ("param", "state", "local") or leaf.op.name == "input" and leaf is not build.seed:
            raise Fault("declaration", f"the initial value of `{tree.name}` must not depend on inputs or weights",
                        span=span,
                        found=describe(leaf))
    if value.shape != type_.shape:
        raise Fault("shape", f"the initial value of `{tree.name}` has another shape", span=span, expected=str(type_),
                    found=str(value.type))
    return value


# --- the compiled model itself ----------------------------------------------------------------------------------


def root_inputs(build: Build, model: ModelValue, settings: dict) -> list[tuple]:
    """(name, leaf) for each input of the model that is compiled; its symbols stay symbolic."""
    result = []
    symbolic = SymbolScope(Scope(model.scope, settings))
    for param in model.tree.inputs:
        if param.default is not None and (param.annotation is None or is_none(param.default)):
            continue
        if param.variadic:
            raise Fault("signature", "the compiled model cannot take any number of inputs", span=param.span)
        if not isinstance(param.annotation, syntax.TypeAnnotation):
            raise Fault("signature", f"the input `{param.name}` of the compiled model needs a type", span=param.span,
                        hint=f"e.g. `{param.name}: f32[N, 64]`")
        declared = declared_shape(build, symbolic, param.annotation)
        if Ellipsis in declared:
            raise Fault("signature", f"the input `{param.name}` of the compiled model must name every dimension",
                        span=param.annotation.span, found=type_text(param.annotation.name, declared))
        shape = tuple(substitute(size, {s: Dim.symbol(s[1:]) for s in _symbols(size)}) for size in declared)
        dtype = dtype_of(build, param.annotation)
        result.append((param.name, ops.input(param.name, dtype, shapes.checked_shape(shape)), param.span))
    return result


def is_none(tree) -> bool:
    return isinstance(tree, syntax.NoneValue)


def _symbols(size):
    return size.symbols if isinstance(size, Dim) else ()
