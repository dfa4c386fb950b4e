"""The kinds of values that kernels compute with, and the functions that are emitted in place where one calls them.

Kernels are written in a part of Python (see ``translate``).  This module is imported only to compile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field

from llvmlite import ir

from .records import dataclass
from .simd import F32, F64, I1, I8, I32, I64


@dataclass(frozen=True)
class Kind:
    """A kind of values; ``llvm`` is how a register holds one, ``stored`` how memory does.  In a kernel it converts:
    ``float32(x)``."""

    name: str
    llvm: ir.Type = field(compare=False, repr=False)
    stored: ir.Type = field(compare=False, repr=False)

    @property
    def is_float(self) -> bool:
        return self.llvm in (F32, F64)


boolean = Kind("boolean", I1, I8)
byte = Kind("byte", I8, I8)
int32 = Kind("int32", I32, I32)
int64 = Kind("int64", I64, I64)
float32 = Kind("float32", F32, F32)
float64 = Kind("float64", F64, F64)


@dataclass(frozen=True)
class Pointer:
    """A pointer to values; what one of ``scope`` >= 0 reaches is promised to be out of reach of those of other
    scopes."""

    dtype: Kind | Pointer
    scope: int = -1

    @property
    def llvm(self) -> ir.Type:
        return self.dtype.stored.as_pointer()

    stored = llvm


@dataclass(frozen=True)
class Typed:
    """A value, its kind, and the number that it is, if the source says so.  A function without a result gives None as
    kind."""

    kind: Kind | Pointer | None
    value: ir.Value | None = None
    constant: int | float | None = None


def constant(number: int | float, kind: Kind) -> Typed:
    return Typed(kind, ir.Constant(kind.llvm, number), number)


Signature = tuple           # what emits, given a builder and values; the kind of the result; the kinds of the arguments


class Intrinsic:
    """A function that is emitted in place: ``rule`` maps its arguments, each Typed, to a Signature."""

    is_long = False         # whether it is so long a chain of operations that a loop should do two turns side by side

    def __init__(self, rule: Callable[..., Signature], described):
        self.rule = rule
        self.__name__, self.__doc__ = described.__name__, described.__doc__

    def signature(self, arguments: Sequence[Typed]) -> Signature:
        return self.rule(*arguments)


def intrinsic(result: Kind | Pointer | None, *arguments: Kind | Pointer):
    """Decorate ``emit(builder, *values)``, whose values are of these kinds."""
    def decorate(emit) -> Intrinsic:
        return Intrinsic(lambda *given: (emit, result, *arguments), emit)
    return decorate


def template(rule) -> Intrinsic:
    """Decorate a rule from arguments to a Signature: for what depends on their kinds or constants."""
    return Intrinsic(rule, rule)
