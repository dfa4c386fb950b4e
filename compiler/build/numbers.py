"""Compile-time arithmetic on numbers and symbolic sizes.

Every function returns a value, ``NotImplemented`` where only a tensor can hold the answer (``0.5 * N`` with a symbolic
``N``), or raises Fault.  Integers are bounded to 64 bits, so that no expression can make the compiler work forever.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable

from ..types import Dim, TypeRuleError, known_nonnegative, substitute
from .values import Fault, describe, is_number, show

LARGEST = 2 ** 63 - 1
LARGEST_TERMS = 64                     # of a symbolic size
LARGEST_DEGREE = 8


def checked(value):
    """The value, refused where it is out of bounds."""
    if isinstance(value, int) and not -LARGEST - 1 <= value <= LARGEST:
        raise Fault("number", "the integer does not fit in 64 bits")
    if isinstance(value, complex):
        raise Fault("value", "the result is not a real number")
    if isinstance(value, float) and not math.isfinite(value):
        raise OverflowError
    if isinstance(value, Dim) and (len(value.terms) > LARGEST_TERMS
                                   or any(len(m) > LARGEST_DEGREE for m in value.terms)):
        raise Fault("limit", "the symbolic size is too complicated", found=f"{len(value.terms)} terms")
    return value


def _power(a, b):
    if isinstance(a, Dim) or isinstance(b, Dim):
        if not isinstance(b, int) or not 0 <= b <= LARGEST_DEGREE:
            return NotImplemented
        result = 1
        for _ in range(b):
            result = checked(result * a)
        return result
    if isinstance(a, int) and isinstance(b, int):
        if abs(a) > 1 and b > 64:
            raise Fault("number", f"{a} ** {b} does not fit in 64 bits")
        if b < 0:
            return float(a) ** b
    return a ** b


def _divide(a, b):
    if isinstance(a, Dim) or isinstance(b, Dim):
        return NotImplemented
    return a / b


def _floor_divide(a, b):
    if isinstance(a, float) or isinstance(b, float):
        return NotImplemented if isinstance(a, Dim) or isinstance(b, Dim) else a // b
    if isinstance(b, Dim) and isinstance(a, int):
        raise Fault("compile-time", f"{a} // {b} is not known at compile time")
    return a // b


def _modulo(a, b):
    if isinstance(b, Dim):
        if isinstance(a, Dim):
            return a - (a // b) * b
        raise Fault("compile-time", f"{show(a)} % {b} is not known at compile time")
    if isinstance(a, Dim):
        return NotImplemented if isinstance(b, float) else a % b
    return a % b


def _size_or_tensor(function):
    """Sizes stay exact: a symbolic size with a float is left to a tensor."""
    def apply(a, b):
        if isinstance(a, Dim) and isinstance(b, float) or isinstance(b, Dim) and isinstance(a, float):
            return NotImplemented
        return function(a, b)
    return apply


def _extreme(choose):
    def apply(a, b):
        if isinstance(a, Dim) or isinstance(b, Dim):
            if isinstance(a, float) or isinstance(b, float):
                return NotImplemented
            try:
                return a if compare("ge", a, b) == (choose is max) else b
            except Fault:
                raise Fault("compile-time", f"the {choose.__name__}imum of {show(a)} and {show(b)} "
                                            "is not known at compile time") from None
        return choose(a, b)
    return apply


ARITHMETIC = {
    "add": _size_or_tensor(operator.add), "sub": _size_or_tensor(operator.sub), "mul": _size_or_tensor(operator.mul),
    "div": _divide, "floordiv": _floor_divide, "mod": _modulo, "pow": _power,
    "maximum": _extreme(max), "minimum": _extreme(min),
}
COMPARISONS = {"lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
               "eq": operator.eq, "ne": operator.ne}
LOGICAL = {"logical_and": lambda a, b: a and b, "logical_or": lambda a, b: a or b, "logical_xor": lambda a, b: a != b}


def compare(name: str, a, b) -> bool:
    """A comparison of two numbers; sizes are compared as polynomials, each symbol standing for at least 1."""
    if not isinstance(a, Dim) and not isinstance(b, Dim):
        return COMPARISONS[name](a, b)
    difference = (a if not isinstance(a, bool) else int(a)) - b if not isinstance(b, float) else None
    answer = None
    if isinstance(difference, int):
        answer = COMPARISONS[name](difference, 0)
    elif isinstance(difference, Dim):
        answer = _by_sign(name, difference)
    if answer is None:
        raise Fault("compile-time", f"whether {show(a)} {_SIGNS[name]} {show(b)} is not known at compile time",
                    hint="a symbolic size is known only when the model runs: compare tensors, with `where`")
    return answer


_SIGNS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}


def _by_sign(name: str, difference: Dim) -> bool | None:
    if known_nonnegative(difference - 1):
        sign = 1
    elif known_nonnegative(-difference - 1):
        sign = -1
    elif known_nonnegative(difference):
        return {"ge": True, "lt": False}.get(name)
    elif known_nonnegative(-difference):
        return {"le": True, "gt": False}.get(name)
    else:
        return None
    return COMPARISONS[name](sign, 0)


def binary(name: str, a, b):
    """``a name b`` for two numbers; NotImplemented where it takes a tensor."""
    try:
        if name in COMPARISONS:
            if (isinstance(a, float) or isinstance(b, float)) and (isinstance(a, Dim) or isinstance(b, Dim)):
                return NotImplemented
            return compare(name, a, b)
        if name in LOGICAL:
            if isinstance(a, bool) and isinstance(b, bool):
                return LOGICAL[name](a, b)
            wrong = b if isinstance(a, bool) else a
            raise Fault("type", "a logical operation takes booleans", found=describe(wrong))
        a, b = (int(v) if isinstance(v, bool) else v for v in (a, b))
        return checked(ARITHMETIC[name](a, b))
    except ZeroDivisionError:
        raise Fault("value", "division by zero", found=f"{show(a)} and {show(b)}") from None
    except OverflowError:
        raise Fault("number", "the number is too large", found=f"{show(a)} and {show(b)}") from None
    except TypeRuleError as error:
        raise Fault("compile-time", str(error)) from None


def _round(value):
    return float(round(value)) if isinstance(value, float) else value


UNARY: dict[str, Callable] = {
    "neg": operator.neg, "abs": abs, "sign": lambda v: type(v)((v > 0) - (v < 0)),
    "exp": math.exp, "expm1": math.expm1, "log": math.log, "log1p": math.log1p, "sqrt": math.sqrt,
    "rsqrt": lambda v: 1.0 / math.sqrt(v), "tanh": math.tanh, "erf": math.erf, "sin": math.sin, "cos": math.cos,
    "sigmoid": lambda v: 1.0 / (1.0 + math.exp(-v)) if v >= 0 else math.exp(v) / (1.0 + math.exp(v)),
    "floor": lambda v: float(math.floor(v)) if isinstance(v, float) else v,
    "ceil": lambda v: float(math.ceil(v)) if isinstance(v, float) else v,
    "round": _round, "is_finite": math.isfinite,
}


def unary(name: str, value):
    """A function of one number; NotImplemented where it takes a tensor."""
    if name == "logical_not":
        if isinstance(value, bool):
            return not value
        raise Fault("type", "`not` takes a boolean", found=describe(value))
    if isinstance(value, Dim):
        return checked(-value) if name == "neg" else NotImplemented
    if isinstance(value, bool):
        value = int(value)
    try:
        return checked(UNARY[name](value))
    except ValueError:
        raise Fault("value", f"{name} is not defined at {show(value)}") from None
    except OverflowError:
        raise Fault("number", f"{name}({show(value)}) is too large") from None


def equal(a, b) -> bool:
    """Equality of two compile-time values of any kind."""
    if is_number(a) and is_number(b):
        return compare("eq", a, b)
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b))
    return a is b or (type(a) is type(b) and isinstance(a, str) and a == b)


def resolve(size, bindings):
    """A size with symbols replaced."""
    return substitute(size, bindings)
