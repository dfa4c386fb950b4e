"""Calls: binding arguments to parameters, and applying whatever can be applied."""

from __future__ import annotations

from functools import cache

from ...runtime.records import dataclass
from .. import ops, syntax
from ..ir import Graph, Node, topological
from .scope import Scope
from .session import Build
from .values import (
    POISON,
    Builtin,
    Fault,
    Function,
    Instance,
    ModelValue,
    Partial,
    Poisoned,
    Record,
    describe,
    is_function,
    is_tensor,
    nearest,
    shape_text,
)


@dataclass(eq=False)
class Arguments:
    """Evaluated arguments: ``positional`` of (value, span), ``named`` of (value, span, span of the name)."""

    positional: list
    named: dict


@dataclass(frozen=True, eq=False)
class Slot:
    """What binding needs to know of one parameter."""

    name: str
    required: bool
    variadic: bool


def slots_of(function) -> list[Slot]:
    """The parameters of a function, or the settings of a model."""
    if isinstance(function, Builtin):
        return _slots_of_builtin(function)
    tree = function.tree
    return declared_slots(tree.settings if isinstance(tree, syntax.Model) else tree.params)


@cache
def _slots_of_builtin(function: Builtin) -> list[Slot]:
    return [Slot(p.name, p.required, function.variadic and i == 0) for i, p in enumerate(function.parameters)]


def declared_slots(parameters) -> list[Slot]:
    """Of parameters, settings or inputs as the file has them."""
    return [Slot(p.name, p.default is None and not p.variadic, p.variadic) for p in parameters]


def bind(name: str, slots: list[Slot], arguments: Arguments, noun: str = "argument") -> dict[str, tuple]:
    """Parameter name -> (value, span) for what was given; faults for what does not fit.  Missing ones are left out."""
    bound: dict[str, tuple] = {}
    for position, (value, span) in enumerate(arguments.positional):
        if position < len(slots) and slots[position].variadic:
            rest = arguments.positional[position:]
            bound[slots[position].name] = (tuple(v for v, _ in rest), span)
            break
        if position >= len(slots):
            plural = "s" if len(slots) > 1 else ""
            takes = f"at most {len(slots)} {noun}{plural}" if slots else f"no {noun}s"
            raise Fault("arguments", f"{name} takes {takes}", span=span, found=f"{len(arguments.positional)}",
                        expected=", ".join(slot.name for slot in slots) or None)
        bound[slots[position].name] = (value, span)
    known = {slot.name: slot for slot in slots}
    for key, (value, span, name_span) in arguments.named.items():
        if key not in known:
            raise Fault("input" if noun == "input" else "setting", f"{name} has no {noun} `{key}`", span=name_span,
                        expected=", ".join(known) or f"no {noun}s", hint=_hint(key, known))
        if key in bound:
            raise Fault("given-twice", f"the {noun} `{key}` of {name} is given twice", span=name_span)
        bound[key] = (value, span)
    return bound


# What other frameworks call a setting -> what the prelude calls it.
ELSEWHERE = {
    "learning_rate": "lr", "epsilon": "eps", "kernel_initializer": "kernel_init", "bias_initializer": "bias_init",
    "recurrent_initializer": "recurrent_init", "kernel_regularizer": "l2", "dilation_rate": "dilation",
    "num_heads": "heads",
    "pool_size": "size", "input_dim": "rows", "output_dim": "units", "out_features": "units", "out_channels": "filters",
    "stride": "strides", "p": "rate", "betas": "beta_1", "dim": "axis", "keepdim": "keepdims",
    "depth_multiplier": "multiplier",
}


def _hint(key: str, known) -> str | None:
    if ELSEWHERE.get(key) in known:
        return f"it is called `{ELSEWHERE[key]}` here"
    return nearest(key, known)


def missing(slots: list[Slot], bound) -> list[str]:
    return [slot.name for slot in slots if slot.required and slot.name not in bound]


# --- applying ---------------------------------------------------------------------------------------------------


def call_value(build: Build, callee, arguments: Arguments, tree, name: str | None = None, piped: bool = False):
    """``callee(arguments)``; ``tree`` is the call, for spans; ``name`` the binding that may name an instance."""
    if isinstance(callee, Instance):
        from .models import call_instance
        return call_instance(build, callee, arguments, tree.span, name)
    if isinstance(callee, Partial):
        fixed = {key: (value, tree.span, tree.span) for key, value in callee.named.items()}
        merged = Arguments(arguments.positional, {**fixed, **arguments.named})
        return call_value(build, callee.function, merged, tree, name, piped)
    if isinstance(callee, ModelValue):
        return make_instance(build, callee, arguments, tree, piped)
    if isinstance(callee, (Function, Builtin)):
        return call_function(build, callee, arguments, tree)
    hint = None
    if is_tensor(callee):
        hint = "is a `*` missing?" if not piped else "the right side of `|>` must be a layer or a function"
    elif isinstance(callee, str):
        hint = f"functions are named without quotes: `{callee}`"
    raise Fault("call", "this cannot be called", span=getattr(tree, "callee", tree).span, found=describe(callee),
                hint=hint)


def pipe_into(build: Build, value, value_span, callee, arguments: Arguments, tree):
    """``value |> callee(arguments)``.

    A model's call makes an instance, which is applied; a function takes the value as its first argument, unless its
    arguments are already complete: then it is called, and what it gives is applied.
    """
    if isinstance(callee, (Function, Builtin, Partial)) and not _is_model(callee):
        slots = slots_of(_innermost(callee))
        positional = [(value, value_span)] + arguments.positional
        room = len(positional) <= len(slots) or any(slot.variadic for slot in slots)
        if room and _accepts_first(callee, value):
            return call_value(build, callee, Arguments(positional, arguments.named), tree)
    function = call_value(build, callee, arguments, tree)
    if not is_function(function):
        raise Fault("call", "the right side of `|>` must be a layer or a function", found=describe(function))
    return call_value(build, function, Arguments([(value, value_span)], {}), tree, piped=True)


def _innermost(function):
    while isinstance(function, Partial):
        function = function.function
    return function


def _is_model(function) -> bool:
    return isinstance(_innermost(function), ModelValue)


def _accepts_first(function, value) -> bool:
    """Whether a function's first parameter may be a tensor: its annotation, if any, says so."""
    tree = getattr(_innermost(function), "tree", None)
    if tree is None or not tree.params or not is_tensor(value):
        return True
    annotation = tree.params[0].annotation
    return not (isinstance(annotation, syntax.TypeAnnotation) and annotation.name in ("int", "bool", "float")
                and not annotation.bracketed)


def make_instance(build: Build, model: ModelValue, arguments: Arguments, tree, piped: bool):
    """``Model(settings)``: an instance, or with required settings still missing a partial application."""
    from .models import settings_of
    slots = slots_of(model)
    tensor = next((pair for pair in arguments.positional if is_tensor(pair[0]) or isinstance(pair[0], Record)), None)
    if tensor is not None and not any(slot.variadic for slot in slots):
        if arguments.named:
            raise _lacks(model, [slot.name for slot in slots if slot.required and slot.name not in arguments.named] or
                         [slots[0].name])
        call = f"{model.name}({'...' if slots else ''})"
        needs = ", ".join(slot.name for slot in slots if slot.required)
        raise Fault("instance", f"{model.name} is a model: give it its settings before its inputs",
                    span=tree.span if piped else tensor[1],
                    expected=f"settings {needs}" if needs else "settings, in brackets of their own",
                    found=describe(tensor[0]), hint=f"write `|> {call}`" if piped else
                    f"`{call}` is an instance: call it on the value, `{call}(x)`")
    bound = bind(model.name, slots, arguments, "setting")
    lacking = missing(slots, bound)
    if lacking:
        if arguments.named and not arguments.positional:
            return Partial(model, {key: value for key, (value, *_) in arguments.named.items()})
        raise _lacks(model, lacking)
    return Instance(model, settings_of(build, model, bound, tree.span), None, tree.span, given=frozenset(bound))


def _lacks(model: ModelValue, lacking: list[str]) -> Fault:
    plural = "s" if len(lacking) > 1 else ""
    return Fault("missing", f"{model.name} lacks its setting{plural} {', '.join(f'`{n}`' for n in lacking)}",
                 hint=f"write `{model.name}({', '.join(f'{n} = ...' for n in lacking)})`")


def call_function(build: Build, function, arguments: Arguments, tree):
    """A ``def`` or a builtin applied; with some required arguments missing and only names given, a Partial."""
    slots = slots_of(function)
    bound = bind(function.name, slots, arguments)
    lacking = missing(slots, bound)
    if lacking:
        if arguments.named and not arguments.positional:
            return Partial(function, {key: value for key, (value, *_) in arguments.named.items()})
        plural = "s" if len(lacking) > 1 else ""
        raise Fault("missing", f"{function.name} lacks its argument{plural} {', '.join(f'`{n}`' for n in lacking)}")
    call = call_builtin if isinstance(function, Builtin) else call_def
    result = call(build, function, bound, tree)
    if is_tensor(result):
        build.called(function.name, [value for value, _ in bound.values()], result)
    return result


def call_builtin(build: Build, function: Builtin, bound, tree):
    values = {key: value for key, (value, _) in bound.items()}
    build.call_tree = tree
    if function.variadic:
        items = values.pop(function.parameters[0].name, ())
        return function.call(build, *items, **values)
    try:
        return function.call(build, **values)
    except Fault as fault:
        # A fault that is about one argument points at it.
        about = getattr(fault, "argument", None)
        if about in bound:
            build.place(fault, bound[about][1])
        raise


def call_def(build: Build, function: Function, bound, tree):
    """A function of the language: its parameters in a fresh scope over the one where it was written."""
    from .expressions import evaluate
    from .signatures import check_annotation
    from .statements import NOTHING, run_block
    definition = function.tree
    scope = Scope(function.scope)
    with build.inside(function.name, tree.span):
        for param in definition.params:
            if param.name in bound:
                value, span = bound[param.name]
            elif param.variadic:
                value, span = (), param.span
            else:
                value, span = evaluate(build, scope, param.default), param.default.span
            if param.annotation is not None:
                what = f"the argument `{param.name}` of {function.name}"
                value = check_annotation(build, scope, value, param.annotation, what, span, param.variadic)
            scope.set(param.name, value)
            build.see(param, value)
        plain = Scope(scope, scope.names)
        if not isinstance(definition.body, tuple):
            result = evaluate(build, scope, definition.body)
        else:
            result = run_block(build, scope, definition.body)
            if result is POISON:
                raise Poisoned
            if result is NOTHING:
                raise Fault("return", f"the function {function.name} ends without a `return`",
                            span=definition.name_span)
        if definition.gradient is not None:
            result = _with_gradient(build, function, plain, result)
    return result


def _with_gradient(build: Build, function: Function, scope: Scope, result):
    """The result with the definition's own gradient in place of the derived one."""
    from .expressions import evaluate
    rule = function.tree.gradient
    if not is_tensor(result):
        return result
    given = {p.name: scope.names.get(p.name) for p in function.tree.params}
    args = {name: value for name, value in given.items() if isinstance(value, Node) and value.dtype.kind == "float"}
    names = list(args)
    if not args:
        return result
    holders = [build.placeholder(a.dtype, a.shape) for a in args.values()]
    cotangent = build.placeholder(result.dtype, result.shape)
    inner = Scope(scope, {**dict(zip(names, holders)), rule.parameter: cotangent})
    answer = evaluate(build, inner, rule.value)
    answers = list(answer) if isinstance(answer, tuple) else [answer]
    if len(answers) != len(args):
        raise Fault("gradient", f"the gradient of {function.name} must give one value for each tensor argument",
                    span=rule.value.span, expected=f"{len(args)}: {', '.join(names)}", found=str(len(answers)))
    outputs = []
    for name, holder, value in zip(names, holders, answers):
        value = build.arithmetic.cast(value, holder.dtype)
        if value.shape != holder.shape:
            if value.shape != ():
                raise Fault("gradient", f"the gradient for `{name}` has another shape", span=rule.value.span,
                            expected=shape_text(holder.shape), found=shape_text(value.shape))
            value = ops.broadcast(value, holder.shape, ())
        outputs.append(value)
    return ops.custom(result, tuple(args.values()), close(holders + [cotangent], outputs, function, rule))


def close(holders: list[Node], outputs: list[Node], function: Function, rule) -> Graph:
    """A closed graph over ``local`` leaves, from nodes over placeholders."""
    from ..ir import substitute
    locals_ = [ops.local(i, h.dtype, h.shape) for i, h in enumerate(holders)]
    replaced = substitute(outputs, dict(zip(holders, locals_)))
    for leaf in topological(replaced):
        if leaf.op.name in ("input", "param", "state") or leaf.op.name == "local" and leaf not in locals_:
            raise Fault("gradient", f"the gradient of {function.name} may use only its arguments", span=rule.value.span,
                        found=describe(leaf))
    return Graph(tuple(locals_), {str(i): value for i, value in enumerate(replaced)})
