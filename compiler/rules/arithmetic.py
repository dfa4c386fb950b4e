"""Rules for elementwise primitives.

Sums and products of floats keep their order: a rule may drop an operation that is exact (x + 0, x * 1), never
regroup rounded ones.  ``x * 0`` stays for floats, where x may be a NaN.
"""

from __future__ import annotations

import math

from ...runtime.deferred import np
from .. import ops
from ..ir import Node, node
from ..types import boolean, f32, f64, i32, i64
from .table import fill, rule, scalar, spread

UNARY = ("neg", "abs", "sign", "exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "tanh", "sigmoid", "erf", "sin", "cos",
         "floor", "ceil", "round", "logical_not", "is_finite", "cast")
BINARY = ("add", "sub", "mul", "div", "pow", "maximum", "minimum", "floordiv", "mod", "lt", "le", "eq", "ne",
          "logical_and", "logical_or", "logical_xor")
ELEMENTWISE = (*UNARY, *BINARY, "where")

# The conversions that lose nothing.
EXACT_CASTS = {(i32, i64), (i32, f64), (f32, f64), *((boolean, dtype) for dtype in (i32, i64, f32, f64))}


@rule(*ELEMENTWISE)
def fold_constants(x: Node) -> Node | None:
    """op(constants) -> constant"""
    if not x.args or any(arg.op.name != "constant" for arg in x.args):
        return None
    arrays = [np.array(arg.attrs["value"], arg.dtype.numpy) for arg in x.args]
    if x.op.name in ("floordiv", "mod") and x.dtype.kind == "int" and arrays[1] == 0:
        return None
    with np.errstate(all="ignore"):
        value = np.asarray(x.op.evaluate(arrays, x, {}))
    return ops.constant(value.item(), x.dtype)


@rule("add", "sub", "mul", "cast")
def fold_sizes(x: Node) -> Node | None:
    """size(a) op size(b) -> size(a op b), for integers; cast(size) -> size"""
    sizes = [_size(arg) for arg in x.args]
    if None in sizes or x.args[0].dtype.kind != "int" or all(arg.op.name == "constant" for arg in x.args):
        return None
    if x.op.name == "cast":
        return ops.size(sizes[0], x.dtype) if x.dtype != boolean else None
    a, b = sizes
    total = {"add": a + b, "sub": a - b, "mul": a * b}[x.op.name]
    return ops.constant(total, x.dtype) if isinstance(total, int) else ops.size(total, x.dtype)


def _size(x: Node):
    return {"size": x.attrs.get("dim"), "constant": x.attrs.get("value")}.get(x.op.name)


@rule(*ELEMENTWISE)
def pull_broadcast(x: Node) -> Node | None:
    """op(broadcast(a), broadcast(b)) -> broadcast(op(a, b)), over the axes that some operand has"""
    if not x.shape or any(arg.op.name != "broadcast" for arg in x.args):
        return None
    kept = sorted(set().union(*(arg.attrs["axes"] for arg in x.args)))
    if len(kept) == len(x.shape):
        return None
    inner = [x.shape[axis] for axis in kept]
    args = [spread(arg.args[0], inner, [kept.index(axis) for axis in arg.attrs["axes"]]) for arg in x.args]
    return ops.broadcast(node(x.op, args, **x.attrs), x.shape, tuple(kept))


@rule("add")
def add_zero(x: Node) -> Node | None:
    """x + 0 -> x"""
    a, b = x.args
    return a if scalar(b) == 0 else b if scalar(a) == 0 else None


@rule("add")
def add_negative(x: Node) -> Node | None:
    """a + -b -> a - b"""
    a, b = x.args
    if b.op.name == "neg":
        return ops.sub(a, b.args[0])
    return ops.sub(b, a.args[0]) if a.op.name == "neg" else None


@rule("sub")
def subtract(x: Node) -> Node | None:
    """x - 0 -> x, 0 - x -> -x, a - -b -> a + b, and x - x -> 0 for integers"""
    a, b = x.args
    if scalar(b) == 0:
        return a
    if scalar(a) == 0:
        return ops.neg(b)
    if b.op.name == "neg":
        return ops.add(a, b.args[0])
    return fill(0, x.type) if a is b and x.dtype.kind == "int" else None


@rule("mul")
def multiply(x: Node) -> Node | None:
    """x * 1 -> x, x * -1 -> -x, -a * -b -> a * b, and x * 0 -> 0 for integers"""
    a, b = x.args
    for one, other in ((a, b), (b, a)):
        if scalar(other) == 1:
            return one
        if scalar(other) == -1:
            return ops.neg(one)
        if scalar(other) == 0 and x.dtype.kind == "int":
            return fill(0, x.type)
    if a.op.name == b.op.name == "neg":
        return ops.mul(a.args[0], b.args[0])
    return None


@rule("div")
def divide_by_power_of_two(x: Node) -> Node | None:
    """x / 2^n -> x * 2^-n, which is exact"""
    divisor = scalar(x.args[1])
    if divisor is None or not math.isfinite(divisor) or divisor == 0:
        return None
    mantissa, exponent = math.frexp(divisor)
    if abs(mantissa) != 0.5 or abs(exponent) > 100:
        return None
    return ops.mul(x.args[0], fill(1.0 / divisor, x.type))


@rule("floordiv", "mod")
def divide_by_one(x: Node) -> Node | None:
    """x // 1 -> x and x % 1 -> 0, for integers"""
    if scalar(x.args[1]) != 1 or x.dtype.kind != "int":
        return None
    return x.args[0] if x.op.name == "floordiv" else fill(0, x.type)


@rule("pow")
def small_powers(x: Node) -> Node | None:
    """x ^ 0 -> 1, x ^ 1 -> x, x ^ 2 -> x * x"""
    base, power = x.args[0], scalar(x.args[1])
    if power == 0:
        return fill(1.0 if x.dtype.kind == "float" else 1, x.type)
    return base if power == 1 else ops.mul(base, base) if power == 2 else None


@rule("neg", "logical_not")
def twice(x: Node) -> Node | None:
    """- -x -> x, not not x -> x"""
    return x.args[0].args[0] if x.args[0].op is x.op else None


@rule("abs")
def absolute(x: Node) -> Node | None:
    """|-x| -> |x|, ||x|| -> |x|"""
    inner = x.args[0]
    return ops.abs(inner.args[0]) if inner.op.name in ("neg", "abs") else None


@rule("floor", "ceil", "round", "sign")
def idempotent(x: Node) -> Node | None:
    """floor(floor(x)) -> floor(x), and so on"""
    return x.args[0] if x.args[0].op is x.op else None


@rule("maximum", "minimum", "logical_and", "logical_or")
def same_operands(x: Node) -> Node | None:
    """max(x, x) -> x, x and x -> x"""
    return x.args[0] if x.args[0] is x.args[1] else None


@rule("logical_and", "logical_or", "logical_xor")
def known_operand(x: Node) -> Node | None:
    """x and true -> x, x and false -> false, x or true -> true, x xor true -> not x, and so on"""
    a, b = x.args
    for one, other in ((a, b), (b, a)):
        value = scalar(other)
        if value is None:
            continue
        if x.op.name == "logical_xor":
            return ops.logical_not(one) if value else one
        return one if bool(value) == (x.op.name == "logical_and") else fill(bool(value), x.type)
    return None


@rule("where")
def known_condition(x: Node) -> Node | None:
    """where(true, a, b) -> a, where(c, a, a) -> a, where(not c, a, b) -> where(c, b, a)"""
    condition, a, b = x.args
    value = scalar(condition)
    if value is not None:
        return a if value else b
    if a is b:
        return a
    if condition.op.name == "logical_not":
        return ops.where(condition.args[0], b, a)
    return condition if scalar(a) is True and scalar(b) is False else None


@rule("where")
def nested_condition(x: Node) -> Node | None:
    """where(c, where(c, a, b), d) -> where(c, a, d), and the same below"""
    condition, a, b = x.args
    if a.op.name == "where" and a.args[0] is condition:
        return ops.where(condition, a.args[1], b)
    if b.op.name == "where" and b.args[0] is condition:
        return ops.where(condition, a, b.args[2])
    return None


@rule("cast")
def casts(x: Node) -> Node | None:
    """cast(x) to x's own dtype -> x, and cast(cast(x)) -> cast(x) where the inner one loses nothing"""
    inner = x.args[0]
    if inner.dtype == x.dtype:
        return inner
    if inner.op.name == "cast" and (inner.args[0].dtype, inner.dtype) in EXACT_CASTS:
        return ops.cast(inner.args[0], x.dtype)
    return None
