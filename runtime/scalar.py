"""What generated source may call, and compiling it.  This module is imported only to compile."""

from __future__ import annotations

import ast
import functools
import re

import numpy as np

from . import cache, math as vector_math, native
from .elementary import floordiv, maximum, minimum, mod, sign_integer
from .kinds import Typed, boolean, float32, float64, int32, int64, template
from .machine import Object
from .random import random_bits
from .simd import declared, suffix
from .translate import Definition


@template
def add_any_order(total: Typed, value: Typed):
    """``total + value`` where LLVM may change the order of a loop's additions, and so use vectors.

    The order it takes depends on the loop's length alone, never on threads or on the rows beside.
    """
    def emit(builder, a, b):
        return builder.fadd(a, b, flags=("reassoc",))
    return emit, total.kind, total.kind, total.kind


def _extremum(name: str):
    """``llvm.maximum`` or ``llvm.minimum`` of two floats: NaN if either is, and either zero of two."""
    def rule(total: Typed, value: Typed):
        def emit(builder, a, b):
            function = declared(builder.module, f"llvm.{name}.{suffix(a.type)}", a.type, (a.type, a.type))
            return builder.call(function, (a, b), fastmath=("nsz",))
        return emit, total.kind, total.kind, total.kind
    rule.__name__ = f"{name}_any_order"
    rule.__doc__ = f"``{name}(total, value)`` of floats where LLVM may change the order, and so use vectors."
    return template(rule)


maximum_any_order, minimum_any_order = _extremum("maximum"), _extremum("minimum")


@template
def fma(a: Typed, b: Typed, c: Typed):
    """a * b + c, rounded once."""
    def emit(builder, *values):
        return builder.fma(*values)
    return emit, a.kind, a.kind, a.kind, a.kind


def sign_f32(x):
    return float32(1) if x > float32(0) else (float32(-1) if x < float32(0) else x)


def sign_f64(x):
    return 1.0 if x > 0.0 else (-1.0 if x < 0.0 else x)


_GUARDED_OR_UNROLLED = re.compile(r" if g\d|range\(\d")


@functools.cache
def namespace() -> dict:
    """The names that generated source may use."""
    names = {name: value for name, value in vars(vector_math).items() if name.endswith(("_f32", "_f64"))}
    names |= {name: value for name, value in vars(native).items() if name.startswith("buffer_")}
    return names | {
        "float32": float32, "float64": float64, "int32": int32, "int64": int64, "boolean": boolean, "fma": fma,
        "add_any_order": add_any_order, "maximum_any_order": maximum_any_order, "minimum_any_order": minimum_any_order,
        "maximum": maximum, "minimum": minimum, "floordiv": floordiv, "mod": mod, "sign_f32": sign_f32,
        "sign_f64": sign_f64, "sign_i32": sign_integer, "sign_i64": sign_integer, "sqrt": np.sqrt, "floor": np.floor,
        "ceil": np.ceil, "rint": np.rint, "random_bits": random_bits,
    }


def build_kernel(text: str) -> Object:
    """The object of one kernel's source, which defines ``kernel(bases, args, begin, end)``."""
    defined = Definition(ast.parse(text).body[0], namespace())
    return native.compile_native(defined, native.KERNEL, f"kernel_{cache.key_of(text)}", level_of(text))


def level_of(text: str) -> int:
    """How far LLVM goes with a kernel.  What it does at level 3 alone is for loops that are unrolled, and for
    conditions that stay the same throughout a loop: where elements are guarded.  Of other kernels it would copy every
    loop, for where the one inside has no turns: that takes a fifth of the time and changes no loop that runs."""
    return 3 if _GUARDED_OR_UNROLLED.search(text) else 2
