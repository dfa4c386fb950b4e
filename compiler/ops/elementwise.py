"""Elementwise primitives: one table.

Operands have the same shape, and but for ``where`` and ``cast`` the same dtype; nothing broadcasts, nothing promotes.
Each line gives the kinds of dtype, the name of NumPy's function, and the gradient as an expression of operands, result
``y`` and cotangent ``g`` (None where the derivative is zero wherever it exists).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ...runtime.deferred import np
from ..ir import Node, Primitive, node
from ..types import DType, TensorType, boolean
from .leaf import constant
from .movement import broadcast
from .rules import NUMERIC, check_count, check_kind, refuse, sampler

FLOAT = ("float",)
ANY = ("float", "int", "bool")
BOOL = ("bool",)
PRIMITIVES: list[Primitive] = []


def _register(name: str, count: int, kinds, compute: Callable | str, gradient: Callable | None, result: DType | None):
    def infer(types, attrs) -> TensorType:
        check_count(name, types, count)
        for type_ in types:
            check_kind(name, type_, kinds)
            if type_ != types[0]:
                refuse(f"{name} takes operands of the same type, got {types[0]} and {type_}")
        return types[0].with_dtype(result) if result else types[0]

    def evaluate(arrays, current, sizes):
        function = getattr(np, compute) if isinstance(compute, str) else compute
        with np.errstate(all="ignore"):
            return np.asarray(function(*arrays)).astype(current.dtype.numpy, copy=False)

    def rule(current, g):
        shares = gradient(*current.args, current, g)
        return shares if isinstance(shares, tuple) else (shares,)

    record = Primitive(name, infer, evaluate, rule if gradient else None, sampler(name))
    PRIMITIVES.append(record)
    return record


Build = Callable[..., Node]


def _unary(name, kinds, compute, gradient=None, result=None) -> Callable[[Node], Node]:
    record = _register(name, 1, kinds, compute, gradient, result)

    def build(x: Node) -> Node:
        return node(record, (x,))

    build.__name__ = name
    return build


def _binary(name, kinds, compute, gradient=None, result=None) -> Callable[[Node, Node], Node]:
    record = _register(name, 2, kinds, compute, gradient, result)

    def build(a: Node, b: Node) -> Node:
        return node(record, (a, b))

    build.__name__ = name
    return build


def like(x: Node, value) -> Node:
    """A tensor of one value, of the type of ``x``."""
    return broadcast(constant(value, x.dtype), x.shape, ())


def scaled(x: Node, factor: float) -> Node:
    """``x`` times a number."""
    return mul(x, like(x, factor))


# --- NumPy's answers that are more than one call ------------------------------------------------------------------


def _sigmoid(x):
    small = np.exp(-np.abs(x))                                # at most 1: nothing overflows
    return np.where(x >= 0, np.ones_like(small), small) / (1 + small)


def _erf(x):
    return np.asarray(np.frompyfunc(math.erf, 1, 1)(x), np.float64)




# --- the table ---------------------------------------------------------------------------------------------------

neg: Build = _unary("neg", NUMERIC, "negative", lambda x, y, g: neg(g))
abs = _unary("abs", NUMERIC, "abs", lambda x, y, g: mul(g, sign(x)))
sign: Build = _unary("sign", NUMERIC, "sign")
exp = _unary("exp", FLOAT, "exp", lambda x, y, g: mul(g, y))
expm1 = _unary("expm1", FLOAT, "expm1", lambda x, y, g: mul(g, add(y, like(y, 1.0))))
log = _unary("log", FLOAT, "log", lambda x, y, g: div(g, x))
log1p = _unary("log1p", FLOAT, "log1p", lambda x, y, g: div(g, add(x, like(x, 1.0))))
sqrt = _unary("sqrt", FLOAT, "sqrt", lambda x, y, g: div(scaled(g, 0.5), y))
rsqrt = _unary("rsqrt", FLOAT, lambda x: 1 / np.sqrt(x), lambda x, y, g: mul(scaled(g, -0.5), mul(y, mul(y, y))))
tanh = _unary("tanh", FLOAT, "tanh", lambda x, y, g: mul(g, sub(like(y, 1.0), mul(y, y))))
sigmoid = _unary("sigmoid", FLOAT, _sigmoid, lambda x, y, g: mul(g, mul(y, sub(like(y, 1.0), y))))
erf = _unary("erf", FLOAT, _erf, lambda x, y, g: mul(scaled(g, 2 / math.sqrt(math.pi)), exp(neg(mul(x, x)))))
sin = _unary("sin", FLOAT, "sin", lambda x, y, g: mul(g, cos(x)))
cos: Build = _unary("cos", FLOAT, "cos", lambda x, y, g: neg(mul(g, sin(x))))
floor = _unary("floor", FLOAT, "floor")
ceil = _unary("ceil", FLOAT, "ceil")
round = _unary("round", FLOAT, "rint")
logical_not = _unary("logical_not", BOOL, "logical_not")
is_finite = _unary("is_finite", FLOAT, "isfinite", result=boolean)

add: Build = _binary("add", NUMERIC, "add", lambda a, b, y, g: (g, g))
sub: Build = _binary("sub", NUMERIC, "subtract", lambda a, b, y, g: (g, neg(g)))
mul: Build = _binary("mul", NUMERIC, "multiply", lambda a, b, y, g: (mul(g, b), mul(g, a)))
div: Build = _binary("div", FLOAT, "divide", lambda a, b, y, g: (div(g, b), neg(mul(div(g, b), y))))
pow = _binary("pow", FLOAT, "power", lambda a, b, y, g: (mul(g, _power_slope(a, b)), mul(mul(g, y), _safe_log(a))))
maximum = _binary("maximum", NUMERIC, "maximum", lambda a, b, y, g: (_winner(b, a, g), _winner(a, b, g)))
minimum = _binary("minimum", NUMERIC, "minimum", lambda a, b, y, g: (_winner(a, b, g), _winner(b, a, g)))
floordiv = _binary("floordiv", NUMERIC, "floor_divide")
mod = _binary("mod", NUMERIC, "mod", lambda a, b, y, g: (g, neg(mul(g, floordiv(a, b)))))
lt = _binary("lt", ANY, "less", result=boolean)
le = _binary("le", ANY, "less_equal", result=boolean)
eq = _binary("eq", ANY, "equal", result=boolean)
ne = _binary("ne", ANY, "not_equal", result=boolean)
logical_and = _binary("logical_and", BOOL, "logical_and")
logical_or = _binary("logical_or", BOOL, "logical_or")
logical_xor = _binary("logical_xor", BOOL, "logical_xor")


def gt(a: Node, b: Node) -> Node:
    """a > b"""
    return lt(b, a)


def ge(a: Node, b: Node) -> Node:
    """a >= b"""
    return le(b, a)


def _power_slope(a: Node, b: Node) -> Node:
    """b * a ** (b - 1), and 0 where b is 0: there a ** -1 may be infinite."""
    zero = like(b, 0.0)
    safe = where(eq(b, zero), like(b, 1.0), b)
    return mul(b, pow(a, sub(safe, like(b, 1.0))))


def _safe_log(a: Node) -> Node:
    """log a, and 0 where a is not positive: 0 ** b does not depend on b, a negative base has no such derivative."""
    return log(where(lt(like(a, 0.0), a), a, like(a, 1.0)))


def _winner(low: Node, high: Node, g: Node) -> Node:
    """The share of ``high`` in g: all where low < high, half at a tie."""
    return where(lt(low, high), g, where(eq(low, high), scaled(g, 0.5), like(g, 0.0)))


# --- where and cast: operands of several dtypes -------------------------------------------------------------------


def _infer_where(types, attrs) -> TensorType:
    check_count("where", types, 3)
    condition, a, b = types
    check_kind("the condition of where", condition, BOOL)
    if a != b:
        refuse(f"where takes two values of the same type, got {a} and {b}")
    if condition.shape != a.shape:
        refuse(f"where takes a condition of the shape of its values, got {condition} and {a}")
    return a


def _evaluate_where(arrays, current, sizes):
    return np.where(*arrays)


def _where_gradient(current, g):
    condition, zero = current.args[0], like(g, 0.0)
    return None, where(condition, g, zero), where(condition, zero, g)


WHERE = Primitive("where", _infer_where, _evaluate_where, _where_gradient, sampler("where"))


def where(condition: Node, a: Node, b: Node) -> Node:
    """a where the condition holds, else b."""
    return node(WHERE, (condition, a, b))


def _infer_cast(types, attrs) -> TensorType:
    check_count("cast", types, 1)
    return types[0].with_dtype(attrs["dtype"])


def _evaluate_cast(arrays, current, sizes):
    with np.errstate(all="ignore"):
        return np.asarray(arrays[0]).astype(current.dtype.numpy)


def _cast_gradient(current, g):
    source = current.args[0].dtype
    return [cast(g, source) if source.kind == "float" else None]


CAST = Primitive("cast", _infer_cast, _evaluate_cast, _cast_gradient, sampler("cast"))


def cast(x: Node, dtype: DType) -> Node:
    """The values in another dtype: floats are cut towards 0 for integers, anything but 0 is true."""
    return x if x.dtype == dtype else node(CAST, (x,), dtype=dtype)


PRIMITIVES += [WHERE, CAST]
