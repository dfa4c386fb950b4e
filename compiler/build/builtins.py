"""The builtin functions: what the prelude, and every model, is written with.

A builtin is a Python function ``f(build, ...)``; its signature is the language's.  Numbers stay compile-time values
where they can.  The table ``BUILTINS`` is the outermost scope.
"""

from __future__ import annotations

import inspect
from functools import partial

from .. import ops
from ..ir import Node, topological
from ..types import DTYPES, Dim, DType, boolean, divide_exactly, i32, product
from . import indexing, numbers, shapes
from .values import (
    Builtin,
    Fault,
    Parameter,
    Record,
    describe,
    is_function as is_callable,
    is_int,
    is_number,
    is_size,
    is_tensor,
    shape_text,
    show,
)

BUILTINS: dict[str, object] = {}
MOST_PARTS = 10_000                    # that `split` gives


def builtin(name: str):
    """Registers a function under its name in the language; a keyword-only tail follows a variadic first parameter."""
    def register(function):
        parameters = list(inspect.signature(function).parameters.values())[1:]
        variadic = bool(parameters) and parameters[0].kind is inspect.Parameter.VAR_POSITIONAL
        table = tuple(Parameter(p.name, None if p.default is p.empty else p.default,
                                p.default is p.empty and p.kind is not p.VAR_POSITIONAL) for p in parameters)
        BUILTINS[name] = Builtin(name, table, variadic, function)
        return function
    return register


# --- checks of arguments ----------------------------------------------------------------------------------------


def about(argument: str, fault: Fault) -> Fault:
    """Marks the argument that a fault is about, so that it is pointed at."""
    fault.argument = argument
    return fault


def tensor_of(build, value, argument: str = "x") -> Node:
    try:
        return build.arithmetic.tensor(value)
    except Fault as fault:
        raise about(argument, fault) from None


def boolean_of(value, argument: str) -> bool:
    if not isinstance(value, bool):
        raise about(argument, Fault("type", f"`{argument}` must be true or false", found=describe(value)))
    return value


def int_of(value, argument: str, least: int | None = None) -> int:
    if not is_int(value):
        raise about(argument, Fault("type", f"`{argument}` must be a known integer", found=describe(value)))
    if least is not None and value < least:
        raise about(argument, Fault("value", f"`{argument}` must be at least {least}", found=str(value)))
    return value


def dtype_of(value, argument: str = "dtype") -> DType:
    if not isinstance(value, DType):
        raise about(argument, Fault("element-type", f"`{argument}` must be an element type", expected=", ".join(DTYPES),
                                    found=describe(value)))
    return value


def shape_of(value, argument: str = "shape") -> tuple:
    """A shape given as a tuple or as one size."""
    if is_size(value):
        value = (value,)
    if not isinstance(value, tuple):
        raise about(argument, Fault("type", f"`{argument}` must be a tuple of sizes", found=describe(value)))
    return shapes.checked_shape(value, f"`{argument}`")


def sizes_of(arguments: tuple, name: str) -> tuple:
    """Sizes given one by one, or as one tuple."""
    if len(arguments) == 1 and isinstance(arguments[0], tuple):
        arguments = arguments[0]
    return shapes.checked_shape(arguments, f"the shape given to {name}")


def on_axis(function, *args):
    """Calls a function of an axis; what is wrong with it points at the argument `axis`."""
    try:
        return function(*args)
    except Fault as fault:
        raise about("axis", fault) from None


# --- elementwise ------------------------------------------------------------------------------------------------


def _unary(build, x, name):
    if isinstance(x, tuple):
        x = build.arithmetic.table(x, None)
    try:
        return build.arithmetic.unary(name, x)
    except Fault as fault:
        raise about("x", fault) from None


for _name in ("abs", "sign", "exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "tanh", "sigmoid", "erf", "sin", "cos",
              "floor", "ceil", "round", "is_finite", "logical_not"):
    BUILTINS[_name] = Builtin(_name, (Parameter("x"),), False, partial(_unary, name=_name))


def _binary(build, a, b, name):
    return build.arithmetic.binary(name, a, b)


for _name in ("maximum", "minimum", "logical_and", "logical_or", "logical_xor"):
    BUILTINS[_name] = Builtin(_name, (Parameter("a"), Parameter("b")), False, partial(_binary, name=_name))


@builtin("where")
def where(build, condition, a, b):
    return build.arithmetic.where(condition, a, b)


@builtin("clip")
def clip(build, x, low, high):
    return build.arithmetic.binary("minimum", build.arithmetic.binary("maximum", x, low), high)


@builtin("cast")
def cast(build, x, dtype):
    return build.arithmetic.cast(x, dtype_of(dtype)) if is_number(x) else _cast(tensor_of(build, x), dtype_of(dtype))


def _cast(x: Node, dtype: DType) -> Node:
    return x if x.dtype is dtype else ops.cast(x, dtype)


@builtin("stop_gradient")
def stop_gradient(build, x):
    return x if is_number(x) else ops.stop_gradient(tensor_of(build, x))


# --- facts about values -----------------------------------------------------------------------------------------


@builtin("shape")
def shape(build, x, axis=None):
    x = tensor_of(build, x)
    return tuple(x.shape) if axis is None else x.shape[on_axis(shapes.axis_of, axis, x.type.rank)]


@builtin("size")
def size(build, x, axis=None):
    x = tensor_of(build, x)
    return x.type.size if axis is None else x.shape[on_axis(shapes.axis_of, axis, x.type.rank)]


@builtin("rank")
def rank(build, x):
    return tensor_of(build, x).type.rank


@builtin("dtype")
def dtype(build, x):
    return tensor_of(build, x).dtype


@builtin("len")
def length(build, x):
    if isinstance(x, (tuple, range)):
        from .expressions import length_of
        return length_of(x)
    if isinstance(x, Record):
        return len(x.fields)
    if is_tensor(x) and x.shape:
        return x.shape[0]
    raise Fault("type", "`len` takes a tuple or a tensor with axes", found=describe(x))


@builtin("is_function")
def is_function(build, x):
    return is_callable(x)


@builtin("is_tensor")
def tensor_question(build, x):
    return is_tensor(x)


@builtin("is_tuple")
def tuple_question(build, x):
    return isinstance(x, tuple)


@builtin("int")
def to_int(build, x):
    if is_tensor(x):
        raise Fault("type", "a tensor has no compile-time integer", found=describe(x),
                    hint="convert it: `cast(x, i32)`")
    if not is_number(x):
        raise Fault("type", "`int` takes a number", found=describe(x))
    return x if isinstance(x, Dim) else numbers.checked(int(x))


@builtin("float")
def to_float(build, x):
    if is_tensor(x):
        raise Fault("type", "a tensor has no compile-time number", found=describe(x), hint="convert it: `cast(x, f32)`")
    if not is_number(x):
        raise Fault("type", "`float` takes a number", found=describe(x))
    return build.arithmetic.tensor(x, build.precision) if isinstance(x, Dim) else float(x)


@builtin("tuple")
def to_tuple(build, x):
    from .expressions import spread
    return spread(x, None)


@builtin("range")
def make_range(build, *bounds):
    if not 1 <= len(bounds) <= 3:
        raise Fault("arguments", "range takes a stop, or start, stop and step", found=f"{len(bounds)} arguments")
    for bound in bounds:
        if not is_int(bound):
            hint = "a loop over a symbolic size is a `scan`" if isinstance(bound, Dim) else \
                "a loop along a tensor's axis is a `scan`" if is_tensor(bound) else None
            raise Fault("compile-time", "the bounds of a range must be known integers", found=describe(bound),
                        hint=hint)
    if len(bounds) == 3 and bounds[2] == 0:
        raise Fault("value", "the step of a range must not be 0")
    return range(*bounds)


@builtin("product")
def tuple_product(build, values):
    """The product of a tuple of sizes, 1 for none."""
    if isinstance(values, range):
        values = to_tuple(build, values)
    if not isinstance(values, tuple) or not all(map(is_number, values)):
        raise Fault("type", "`product` takes a tuple of numbers", found=describe(values), hint="of a tensor: `prod(x)`")
    result = 1
    for value in values:
        result = numbers.binary("mul", result, value)
    return result


@builtin("parameter_sizes")
def parameter_sizes(build):
    """The number of elements of each parameter, in the order of the flat vectors that an optimiser sees."""
    if build.parameter_sizes is None:
        raise Fault("place", "`parameter_sizes` is known in an optimiser only")
    return build.parameter_sizes


@builtin("fan_in")
def fan_in(build, shape):
    return _fans(shape_of(shape))[0]


@builtin("fan_out")
def fan_out(build, shape):
    return _fans(shape_of(shape))[1]


def _fans(shape: tuple) -> tuple:
    """As Keras counts them: a kernel's field times its input or output channels."""
    if len(shape) < 2:
        return (shape[0],) * 2 if shape else (1, 1)
    field = product(shape[:-2])
    return field * shape[-2], field * shape[-1]


# --- reductions -------------------------------------------------------------------------------------------------


def _reduce(build, x, axis=None, keepdims=False, kind="sum"):
    if isinstance(x, range):
        x = to_tuple(build, x)
    if isinstance(x, tuple) and x and all(map(is_number, x)) and axis is None:
        return _reduce_numbers(build, kind, x)
    if is_number(x) and is_number(axis) and kind in ("max", "min"):
        raise Fault("type", f"`{kind}` reduces one tensor", found="two numbers", hint=f"write `{kind}imum(a, b)`")
    x = tensor_of(build, x)
    if x.dtype is boolean:
        x = ops.cast(x, i32)
    return on_axis(shapes.reduce, x, kind, axis, boolean_of(keepdims, "keepdims"))


def _reduce_numbers(build, kind: str, values: tuple):
    operation = {"sum": "add", "prod": "mul", "max": "maximum", "min": "minimum"}[kind]
    result = values[0]
    for value in values[1:]:
        result = build.arithmetic.binary(operation, result, value)
    return result


_REDUCTION = (Parameter("x"), Parameter("axis", None, False), Parameter("keepdims", False, False))
for _name in ("sum", "max", "min", "prod"):
    BUILTINS[_name] = Builtin(_name, _REDUCTION, False, partial(_reduce, kind=_name))


@builtin("mean")
def mean(build, x, axis=None, keepdims=False):
    x = build.arithmetic.to_float(tensor_of(build, x))
    axes = on_axis(shapes.axes_of, axis, x.type.rank)
    total = shapes.reduce(x, "sum", axes, boolean_of(keepdims, "keepdims"))
    return build.arithmetic.binary("div", total, shapes.count(x, axes))


def _any_all(build, x, axis=None, keepdims=False, kind="max"):
    x = tensor_of(build, x)
    if x.dtype is not boolean:
        raise about("x", Fault("type", f"`{'any' if kind == 'max' else 'all'}` takes booleans", found=describe(x)))
    found = on_axis(shapes.reduce, ops.cast(x, i32), kind, axis, boolean_of(keepdims, "keepdims"))
    return build.arithmetic.binary("ne", found, 0)


BUILTINS["any"] = Builtin("any", _REDUCTION, False, partial(_any_all, kind="max"))
BUILTINS["all"] = Builtin("all", _REDUCTION, False, partial(_any_all, kind="min"))


def _arg(build, x, axis=None, keepdims=False, name="argmax"):
    x = tensor_of(build, x)
    if x.dtype is boolean:
        x = ops.cast(x, i32)
    if axis is None:
        x, axis = shapes.reshape(x, (-1,) if x.shape else (1,)), 0
    position = on_axis(shapes.axis_of, axis, x.type.rank)
    result = getattr(ops, name)(x, position)
    return shapes.restore_axes(result, x, (position,)) if boolean_of(keepdims, "keepdims") else result


for _name in ("argmax", "argmin"):
    BUILTINS[_name] = Builtin(_name, _REDUCTION, False, partial(_arg, name=_name))


# --- making tensors ---------------------------------------------------------------------------------------------


def _filled(build, *sizes, dtype=None, value=0.0, name="zeros"):
    wanted = dtype_of(dtype) if dtype is not None else build.precision
    return shapes.full(sizes_of(sizes, name), value, wanted)


for _name, _value in (("zeros", 0.0), ("ones", 1.0)):
    BUILTINS[_name] = Builtin(_name, (Parameter("shape", None, False), Parameter("dtype", None, False)), True,
                              partial(_filled, value=_value, name=_name))


@builtin("full")
def full(build, shape, value, dtype=None):
    wanted = dtype_of(dtype) if dtype is not None else value.dtype if is_tensor(value) else \
        build.arithmetic.dtype_of_number(value) if isinstance(value, bool) else build.precision
    scalar = build.arithmetic.cast(value, wanted)
    if scalar.shape:
        raise about("value", Fault("scalar", "`full` takes one number", found=describe(value)))
    return shapes.full(shape_of(shape), scalar, wanted)


@builtin("iota")
def iota(build, shape, axis=0, dtype=i32):
    """0, 1, 2 ... along an axis of a shape."""
    wanted = shape_of(shape)
    if not wanted:
        raise about("shape", Fault("rank", "`iota` needs an axis", found="[]"))
    return ops.iota(wanted, on_axis(shapes.axis_of, axis, len(wanted)), dtype_of(dtype))


@builtin("arange")
def arange(build, *bounds):
    for bound in bounds:
        if not is_size(bound):
            raise Fault("type", "the bounds of arange must be integers", found=describe(bound))
    if len(bounds) == 1:
        return ops.iota(shapes.checked_shape(bounds), 0, i32)
    if len(bounds) == 2 or len(bounds) == 3 and all(map(is_int, bounds)) and bounds[2] != 0:
        start, stop, step = (*bounds, 1)[:3]
        count = stop - start if step == 1 else max(0, (stop - start + step - (1 if step > 0 else -1)) // step)
        counted = ops.iota(shapes.checked_shape((count,)), 0, i32)
        return build.arithmetic.binary("add", build.arithmetic.binary("mul", counted, step), start)
    raise Fault("arguments", "arange takes a stop, or start, stop and step", found=shape_text(bounds))


@builtin("one_hot")
def one_hot(build, x, depth, dtype=None):
    x = tensor_of(build, x)
    if x.dtype.kind != "int":
        raise about("x", Fault("dtype", "`one_hot` takes integers", found=describe(x)))
    if not is_size(depth):
        raise about("depth", Fault("type", "`depth` must be an integer", found=describe(depth)))
    places = ops.iota(shapes.checked_shape((depth,)), 0, x.dtype)
    hot = build.arithmetic.binary("eq", shapes.add_axis(x, x.type.rank), places)
    return ops.cast(hot, dtype_of(dtype) if dtype is not None else build.precision)


# --- movement ---------------------------------------------------------------------------------------------------


@builtin("concat")
def concat(build, *values, axis=-1):
    nodes, axis = _together(build, values, axis, "concat", 0)
    return shapes.concat(nodes, axis)


@builtin("stack")
def stack(build, *values, axis=0):
    nodes, axis = _together(build, values, axis, "stack", 1)
    for other in nodes[1:]:
        if not shapes.same_shape(other.shape, nodes[0].shape):
            raise Fault("shape", "stack takes equal shapes", expected=shape_text(nodes[0].shape),
                        found=shape_text(other.shape))
    return shapes.stack(nodes, axis)


def _together(build, values, axis, name: str, extra: int):
    if len(values) == 1 and isinstance(values[0], (tuple, Record)):
        values = values[0] if isinstance(values[0], tuple) else tuple(values[0].fields.values())
    if not values:
        raise Fault("arguments", f"{name} takes at least one tensor")
    wanted = build.arithmetic.promote(values)
    nodes = [build.arithmetic.cast(v, wanted) for v in values]
    if nodes[0].type.rank + extra == 0:
        raise Fault("rank", f"{name} takes tensors with axes", found=describe(nodes[0]), hint="use `stack`")
    return nodes, on_axis(shapes.axis_of, axis, nodes[0].type.rank + extra)


@builtin("split")
def split(build, x, n, axis=-1):
    """A tuple of ``n`` equal parts, or of parts with the given sizes."""
    x = tensor_of(build, x)
    axis = on_axis(shapes.axis_of, axis, x.type.rank)
    whole = x.shape[axis]
    if isinstance(n, tuple):
        sizes = tuple(shapes.checked_shape((size,), "`n`")[0] for size in n)
        if sum(sizes) != whole:
            raise about("n", Fault("shape", "the parts do not add up to the axis", expected=str(whole),
                                   found=str(sum(sizes))))
    else:
        if int_of(n, "n", 1) > MOST_PARTS:
            raise about("n", Fault("limit", "`split` makes too many parts", found=str(n),
                                   expected=f"at most {MOST_PARTS}"))
        part = divide_exactly(whole, n)
        if part is None:
            raise about("n", Fault("shape", f"axis {axis} cannot be split into {n} equal parts",
                                   found=shape_text(x.shape)))
        sizes = (part,) * n
    parts, start = [], 0
    for part in sizes:
        items = [indexing.Slice()] * axis + [indexing.Slice(start, start + part)]
        parts.append(indexing.index_tensor(x, items))
        start = start + part
    return tuple(parts)


@builtin("reshape")
def reshape(build, x, shape):
    x = tensor_of(build, x)
    sizes = shape if isinstance(shape, tuple) else (shape,)
    for size_ in sizes:
        if not is_size(size_):
            raise about("shape", Fault("type", "`shape` must be made of integers", found=describe(size_)))
    return shapes.reshape(x, sizes)


@builtin("transpose")
def transpose(build, x, axes=None):
    return shapes.transpose(tensor_of(build, x), axes)


@builtin("broadcast_to")
def broadcast_to(build, x, shape):
    return shapes.broadcast_to(tensor_of(build, x), shape_of(shape))


@builtin("repeat")
def repeat(build, x, n, axis):
    """Each slice along the axis ``n`` times in a row."""
    x = tensor_of(build, x)
    axis, n = on_axis(shapes.axis_of, axis, x.type.rank), int_of(n, "n", 1)
    wide = x.shape[:axis + 1] + (n,) + x.shape[axis + 1:]
    repeated = shapes.expand(shapes.add_axis(x, axis + 1), shapes.checked_shape(wide))
    return shapes.reshape(repeated, x.shape[:axis] + (x.shape[axis] * n,) + x.shape[axis + 1:])


@builtin("reverse")
def reverse(build, x, axis):
    x = tensor_of(build, x)
    return ops.reverse(x, on_axis(shapes.axes_of, axis, x.type.rank))


@builtin("pad")
def pad(build, x, widths, value=0.0):
    """``widths``: for each axis (before, after), or one number for both."""
    x = tensor_of(build, x)
    if is_size(widths):
        widths = (widths,) * x.type.rank
    if not isinstance(widths, tuple) or len(widths) != x.type.rank:
        raise about("widths", Fault("shape", "`widths` takes one (before, after) for each axis",
                                    expected=f"{x.type.rank} of them", found=show(widths)))
    pairs = [w if isinstance(w, tuple) else (w, w) for w in widths]
    for pair in pairs:
        if len(pair) != 2 or not all(map(is_size, pair)) or any(is_int(v) and v < 0 for v in pair):
            raise about("widths", Fault("value", "a width is two numbers that are not negative", found=show(pair)))
    if not is_number(value) or isinstance(value, Dim):
        raise about("value", Fault("type", "`value` must be a known number", found=describe(value)))
    return ops.pad(x, tuple(p[0] for p in pairs), tuple(p[1] for p in pairs), (0,) * x.type.rank, float(value))


@builtin("matmul")
def matmul(build, a, b):
    wanted = build.arithmetic.promote([a, b])
    return shapes.matmul(build.arithmetic.cast(a, wanted), build.arithmetic.cast(b, wanted))


@builtin("gather")
def gather(build, table, indices, axis=0):
    table = tensor_of(build, table, "table")
    indices = tensor_of(build, indices, "indices")
    if not table.shape:
        raise about("table", Fault("rank", "`gather` needs a table with axes", found=describe(table)))
    return indexing.take(table, indices, on_axis(shapes.axis_of, axis, table.type.rank))


@builtin("scatter_add")
def scatter_add(build, indices, updates, rows):
    """Rows of ``updates`` added up at the places that ``indices`` say, in a table of ``rows`` rows."""
    indices, updates = tensor_of(build, indices, "indices"), tensor_of(build, updates, "updates")
    if indices.dtype.kind != "int":
        raise about("indices", Fault("dtype", "`indices` must be integers", found=describe(indices)))
    if not is_size(rows):
        raise about("rows", Fault("type", "`rows` must be an integer", found=describe(rows)))
    if not shapes.same_shape(updates.shape[:indices.type.rank], indices.shape):
        raise about("updates", Fault("shape", "`updates` must start with the axes of `indices`",
                                     expected=f"{shape_text(indices.shape)} and more", found=shape_text(updates.shape)))
    return ops.scatter_add(indices, updates, rows)


# --- gradients --------------------------------------------------------------------------------------------------


@builtin("grad")
def grad(build, y, x):
    """The gradient of the scalar ``y`` with respect to a value, or to each of a tuple of values."""
    from ..gradient import gradient
    if not is_tensor(y) or y.shape != () or y.dtype.kind != "float":
        hint = "reduce it first: `grad(sum(y), x)`" if is_tensor(y) and y.dtype.kind == "float" else None
        raise about("y", Fault("scalar", "`grad` takes the gradient of one number", expected=f"{build.precision}[]",
                               found=describe(y), hint=hint))
    values = x if isinstance(x, tuple) else (x,)
    reached = set(topological([y]))
    for value in values:
        if not is_tensor(value) or value.dtype.kind != "float":
            raise about("x", Fault("type", "`grad` differentiates with respect to float tensors",
                                   found=describe(value)))
        if value not in reached:
            build.warn("zero-gradient", build.call_tree.span,
                       f"the gradient is zero: `y` does not depend on this {value.type}")
    answers = gradient([(y, ops.constant(1.0, y.dtype))], list(values))
    return tuple(answers) if isinstance(x, tuple) else answers[0]


@builtin("orthonormal")
def orthonormal(build, x):
    """A matrix with orthonormal rows or columns out of a matrix of normal numbers; for initial values."""
    x = tensor_of(build, x)
    if x.type.rank != 2 or x.dtype.kind != "float":
        raise about("x", Fault("rank", "`orthonormal` takes a matrix", found=describe(x)))
    return ops.orthogonal(x)


def scope_names() -> dict:
    """The outermost scope: builtins, element types, and words."""
    from . import randomness, spatial
    return {**DTYPES, "same": "same", "valid": "valid", **BUILTINS, **spatial.BUILTINS, **randomness.BUILTINS}
