"""Expressions: a tree and a scope in, a value out."""

from __future__ import annotations

from .. import syntax
from ..prelude import is_prelude
from ..types import TypeRuleError
from . import indexing, numbers, shapes
from .calls import Arguments, call_value, pipe_into
from .session import MOST_NESTED_EXPRESSIONS, Build
from .values import (
    NUMERIC,
    POISON,
    Fault,
    Instance,
    ModelValue,
    Module,
    Poisoned,
    Record,
    describe,
    is_number,
    is_tensor,
    nearest,
)

LONGEST_TUPLE = 10_000
OPERANDS = (*NUMERIC, tuple)            # what stands beside an operator


def evaluate(build: Build, scope, tree):
    """The value of an expression; raises Fault with a span, or Poisoned where an earlier failure is used."""
    build.tick(tree)
    build.depth += 1
    try:
        if build.depth > MOST_NESTED_EXPRESSIONS:
            raise Fault("nested", "expressions and calls are nested too deep", span=tree.span)
        value = _EVALUATE[type(tree)](build, scope, tree)
        if build.observer is not None:
            build.see(tree, value)
        return value
    except Fault as fault:
        build.place(fault, tree.span)
        raise
    except TypeRuleError as error:
        refused = Fault("shape", str(error))
        build.place(refused, tree.span)
        raise refused from None
    finally:
        build.depth -= 1


# What Keras and PyTorch call a layer or a function -> what it is called here, where the names are not alike.
ELSEWHERE = {
    "BatchNormalization": "BatchNorm", "LayerNormalization": "LayerNorm", "GroupNormalization": "GroupNorm",
    "RMSNormalization": "RMSNorm", "Linear": "Dense", "Concatenate": "concat", "cat": "concat",
    "SpatialDropout1D": "SpatialDropout", "SpatialDropout2D": "SpatialDropout", "SpatialDropout3D": "SpatialDropout",
    **{f"{kind}Pooling{d}D": f"{short}Pool{d}D" for kind, short in (("Max", "Max"), ("Average", "Avg"),
       ("GlobalMax", "GlobalMax"), ("GlobalAverage", "GlobalAvg")) for d in (1, 2, 3)},
    **{f"{kind}{d}D": f"{short}{d}D" for kind, short in (("UpSampling", "UpSample"), ("ZeroPadding", "ZeroPad"),
                                                         ("Cropping", "Crop")) for d in (1, 2, 3)},
    **{f"BatchNorm{d}d": "BatchNorm" for d in (1, 2, 3)},
}
FOREIGN = ("keras", "tf", "torch", "nn", "np", "numpy", "jnp", "jax")
MODULES = "there are no modules: layers, functions and losses have names alone, such as `Dense` and `relu`"


def lookup(build: Build, scope, name: str):
    """The value of a name."""
    if name == "training":
        build.has_read_mode = True
        return build.training
    try:
        value = scope.find(name)
    except KeyError:
        if build.frame is not None and name in build.frame.reserved:
            raise Fault("unassigned", f"`{name}` is used before it is assigned") from None
        hint = f"it is called `{ELSEWHERE[name]}` here" if name in ELSEWHERE else MODULES if name in FOREIGN else None
        if hint is None and not build.sink.full:
            hint = nearest(name, {*scope.known(), "true", "false", "none"})
        raise Fault("name", f"`{name}` is not defined", hint=hint) from None
    if value is POISON:
        raise Poisoned
    return value


# --- leaves and containers --------------------------------------------------------------------------------------


def _number(build, scope, tree):
    return numbers.checked(tree.value)


def _tuple(build, scope, tree):
    items = []
    for item in tree.items:
        if isinstance(item, syntax.Starred):
            items.extend(spread(evaluate(build, scope, item.value), item.value.span))
        else:
            items.append(evaluate(build, scope, item))
    check_length(len(items), tree.span)
    _check_nested(items, tree.span)
    return tuple(items)


def check_length(count: int, span) -> None:
    """Refuses a tuple that is too long."""
    if count > LONGEST_TUPLE:
        raise Fault("limit", "the tuple is too long", span=span, expected=f"at most {LONGEST_TUPLE} items",
                    found=str(count))


def _check_nested(items: list, span) -> None:
    """Refuses a tuple of tuples that holds too much in all: `a = (a, a)` doubles in every turn of a loop."""
    stack: list = [items]
    seen = 0
    while stack:
        inner = [item for item in stack.pop() if isinstance(item, tuple)]
        seen += sum(map(len, inner))
        if seen > 10 * LONGEST_TUPLE:
            check_length(seen, span)
        stack += inner


def length_of(value) -> int:
    """The number of items, of a range that is too long for ``len`` too."""
    if isinstance(value, range):
        return max(0, (value.stop - value.start + value.step - (1 if value.step > 0 else -1)) // value.step)
    return len(value)


def spread(value, span) -> tuple:
    """The items of a tuple, a range or a record."""
    if isinstance(value, (tuple, range)):
        check_length(length_of(value), span)
        return tuple(value)
    if isinstance(value, Record):
        return tuple(value.fields.values())
    raise Fault("type", "a tuple is expected here", span=span, found=describe(value),
                hint="a tensor is taken apart by `split` or by indexing" if is_tensor(value) else None)


def _starred(build, scope, tree):
    raise Fault("type", "`*` stands only among arguments or in a tuple")


# --- operators --------------------------------------------------------------------------------------------------

_BINARY = {"+": "add", "-": "sub", "*": "mul", "/": "div", "//": "floordiv", "%": "mod", "**": "pow"}
_COMPARE = {"==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}


def _unary(build, scope, tree):
    value = evaluate(build, scope, tree.operand)
    if tree.op == "not":
        return build.arithmetic.unary("logical_not", value)
    if not is_number(value) and not is_tensor(value):
        raise Fault("type", f"`{tree.op}` takes a number or a tensor", found=describe(value))
    return value if tree.op == "+" else build.arithmetic.unary("neg", value)


def _operand(build, scope, tree, op: str):
    """The value of one side of an operator; what can stand on none is pointed at."""
    value = evaluate(build, scope, tree)
    if not isinstance(value, OPERANDS):
        raise Fault("type", f"`{op}` takes numbers and tensors", span=tree.span, found=describe(value),
                    hint=shapes.tensor_hint(value))
    return value


def _binary(build, scope, tree):
    left, right = _operand(build, scope, tree.left, tree.op), _operand(build, scope, tree.right, tree.op)
    if tree.op == "@":
        dtype = build.arithmetic.promote([left, right])
        for value in (left, right):
            if is_number(value):
                raise Fault("shape", "`@` takes no scalars", found=describe(value), hint="use `*`")
        return shapes.matmul(build.arithmetic.cast(left, dtype), build.arithmetic.cast(right, dtype))
    if isinstance(left, tuple) and isinstance(right, tuple) and tree.op == "+":
        check_length(len(left) + len(right), tree.span)
        return left + right
    _check_pairs(build, tree, left, right)
    return build.arithmetic.binary(_BINARY[tree.op], left, right)


def _compare(build, scope, tree):
    left, right = evaluate(build, scope, tree.left), evaluate(build, scope, tree.right)
    if isinstance(left, NUMERIC) and isinstance(right, NUMERIC):
        _check_pairs(build, tree, left, right)
        return build.arithmetic.binary(_COMPARE[tree.op], left, right)
    if tree.op in ("==", "!="):
        if any(isinstance(v, tuple) for v in (left, right)) and any(is_tensor(v) for v in (left, right)):
            return build.arithmetic.binary(_COMPARE[tree.op], left, right)
        return numbers.equal(left, right) == (tree.op == "==")
    wrong = right if is_number(left) or is_tensor(left) else left
    raise Fault("type", f"`{tree.op}` compares numbers and tensors", found=describe(wrong))


def _check_pairs(build: Build, tree, left, right) -> None:
    """Warns where a batch of columns meets a batch without them: [N, 1] and [N] broadcast to all pairs, [N, N].
    Whoever means that writes the new axis in place, `x[:, None] - y` or `x - y[None]`."""
    if not is_tensor(left) or not is_tensor(right) or len(left.shape) == len(right.shape) or build.batch is None \
            or is_prelude(tree.span.file):
        return
    sides = (tree.left, tree.right)
    long, short = (left, right) if len(left.shape) > len(right.shape) else (right, left)
    counts = [shape.count(build.batch) for shape in (shapes.broadcast_shapes(long.shape, short.shape), long.shape,
                                                     short.shape)]
    written = any(isinstance(side, syntax.Index) and any(isinstance(item, syntax.NoneValue) for item in side.items)
                  for side in sides)
    if counts[0] > max(counts[1:]) and counts[2] and not written:
        names = [side.name if isinstance(side, syntax.Name) else "value" for side in sides]
        column, row = names if long is left else names[::-1]
        build.warn("pairs", tree.span, f"`{tree.op}` of {left.type} and {right.type} takes every sample with every "
                   "other one", hint=f"one number a sample is `{column}[..., 0]`; where all pairs are meant, write "
                                     f"`{row}[None]`")


def _boolean(build, scope, tree):
    decides = tree.op == "or"
    result = evaluate(build, scope, tree.operands[0])
    for operand in tree.operands[1:]:
        if isinstance(result, bool) and result == decides:
            return result                     # as in Python, the rest is not looked at
        value = evaluate(build, scope, operand)
        result = build.arithmetic.binary("logical_or" if decides else "logical_and", result, value)
    if not isinstance(result, bool) and not is_tensor(result):
        raise Fault("type", f"`{tree.op}` takes booleans", found=describe(result))
    return result


def truth(build, scope, tree) -> bool:
    """The value of a condition, which must be known while compiling."""
    value = evaluate(build, scope, tree)
    if isinstance(value, bool):
        return value
    if is_tensor(value):
        raise Fault("condition", "a condition must be known at compile time", span=tree.span, found=describe(value),
                    hint="to choose by the values of a tensor, use `where(condition, a, b)`")
    raise Fault("condition", "a condition must be true or false", span=tree.span, found=describe(value),
                hint="compare it, e.g. `n > 0`" if is_number(value) else
                "compare it, e.g. `value != none`")


def _conditional(build, scope, tree):
    return evaluate(build, scope, tree.then if truth(build, scope, tree.condition) else tree.otherwise)


# --- indexing and attributes ------------------------------------------------------------------------------------


def _index(build, scope, tree):
    value = evaluate(build, scope, tree.value)
    items = [_item(build, scope, item) for item in tree.items]
    if isinstance(value, Record):
        value = tuple(value.fields.values())
    if isinstance(value, range):
        value = spread(value, tree.value.span)
    if isinstance(value, tuple):
        if len(items) != 1:
            raise Fault("type", "a tuple takes one index", found=f"{len(items)}")
        if is_tensor(items[0]):
            value = build.arithmetic.table(value, None)
        else:
            return indexing.index_tuple(value, items[0])
    if not is_tensor(value):
        hint = None
        if isinstance(value, (ModelValue, Instance)):
            hint = f"call it first: `{value.name}(...)(x)`"
        raise Fault("type", "only tensors and tuples are indexed", span=tree.value.span, found=describe(value),
                    hint=hint)
    return indexing.index_tensor(value, items)


def _item(build, scope, item):
    if isinstance(item, syntax.Ellipsis):
        return Ellipsis
    if isinstance(item, syntax.NoneValue):
        return None
    if isinstance(item, syntax.Slice):
        return indexing.Slice(*(None if part is None else evaluate(build, scope, part)
                                for part in (item.start, item.stop, item.step)))
    value = evaluate(build, scope, item)
    return build.arithmetic.table(value, None) if isinstance(value, tuple) and value else value


def _attribute(build, scope, tree):
    value = evaluate(build, scope, tree.value)
    if isinstance(value, Module):
        found = value.scope.own(tree.name)
        if found is POISON:
            raise Poisoned
        if tree.name not in value.scope.items:
            raise Fault("member", f"the file `{value.name}` has no `{tree.name}`", span=tree.name_span,
                        hint=nearest(tree.name, value.scope.items))
        return found
    if isinstance(value, Record):
        if tree.name not in value.fields:
            raise Fault("member", f"{value.kind} has no output `{tree.name}`", span=tree.name_span,
                        expected=", ".join(value.fields), hint=nearest(tree.name, value.fields))
        return value.fields[tree.name]
    if isinstance(value, Instance):
        return _inner(value, tree)
    hint = f"write `{tree.name}(x)`" if is_tensor(value) and tree.name in set(scope.known()) else None
    if tree.name == "shape" and is_tensor(value):
        hint = "write `shape(x)`"
    elif tree.name in ("T", "mT"):
        hint = "write `transpose(x)`"
    raise Fault("member", f"there is no `.{tree.name}` here", span=tree.name_span, found=describe(value), hint=hint)


def _inner(instance: Instance, tree):
    """A weight or an inner value of an instance, as its last call left it: ``embedding.embeddings`` ties weights."""
    if instance.names is None:
        raise Fault("call", f"`{instance.name}` has no values before its first call", span=tree.span,
                    hint="call the instance first")
    if tree.name not in instance.names:
        raise Fault("member", f"{instance.name} has no value `{tree.name}`", span=tree.name_span,
                    hint=nearest(tree.name, instance.names))
    value = instance.names[tree.name]
    if value is POISON:
        raise Poisoned
    return value


# --- calls ------------------------------------------------------------------------------------------------------


def arguments(build, scope, tree: syntax.Call) -> Arguments:
    """The evaluated arguments of a call, each with its span."""
    positional: list[tuple] = []
    for arg in tree.args:
        if isinstance(arg, syntax.Starred):
            positional.extend((item, arg.span) for item in spread(evaluate(build, scope, arg.value), arg.value.span))
        else:
            positional.append((evaluate(build, scope, arg), arg.span))
    named = {kw.name: (evaluate(build, scope, kw.value), kw.value.span, kw.name_span) for kw in tree.kwargs}
    return Arguments(positional, named)


def _call(build, scope, tree):
    naming, build.naming = build.naming, None
    direct = naming is not None and naming[0] is tree and isinstance(tree.callee, syntax.Call)
    name = naming[1] if direct else None                # `logits = Dense(10)(h)` names its instance
    callee = evaluate(build, scope, tree.callee)
    return call_value(build, callee, arguments(build, scope, tree), tree, name)


def _pipe(build, scope, tree):
    value = evaluate(build, scope, tree.value)
    start = tree.value.span
    for stage in tree.stages:
        try:
            if isinstance(stage, syntax.Call):
                callee = evaluate(build, scope, stage.callee)
                value = pipe_into(build, value, start, callee, arguments(build, scope, stage), stage)
            else:
                function = evaluate(build, scope, stage)
                value = call_value(build, function, Arguments([(value, start)], {}), stage, None, piped=True)
            build.see(stage, value)
        except Fault as fault:
            build.place(fault, stage.span)
            raise
        start = start.to(stage.span)
    return value


_EVALUATE = {
    syntax.Number: _number,
    syntax.Boolean: lambda build, scope, tree: tree.value,
    syntax.NoneValue: lambda build, scope, tree: None,
    syntax.String: lambda build, scope, tree: tree.value,
    syntax.Name: lambda build, scope, tree: lookup(build, scope, tree.name),
    syntax.Tuple: _tuple, syntax.Starred: _starred, syntax.Unary: _unary, syntax.Binary: _binary,
    syntax.Compare: _compare, syntax.BoolOp: _boolean, syntax.Conditional: _conditional, syntax.Index: _index,
    syntax.Attribute: _attribute, syntax.Call: _call, syntax.Pipe: _pipe,
}
