"""Emitting LLVM arithmetic as expressions, and the host's vector width.

``Value`` wraps an LLVM value, a scalar or a vector of any length: one text emits both, so a function has the same bits
in a loop that LLVM vectorised, in that loop's tail and in a hand-emitted vector kernel.  Every multiplication that is
followed by an addition is either an explicit ``fma`` or two rounded operations; LLVM contracts nothing by itself.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

from llvmlite import ir

from .host import vector_bytes

I1, I8, I32, I64 = ir.IntType(1), ir.IntType(8), ir.IntType(32), ir.IntType(64)
F32, F64 = ir.FloatType(), ir.DoubleType()


def lanes(element: ir.Type) -> int:
    """How many f32 or f64 values one vector register holds."""
    return vector_bytes() // (8 if element == F64 else 4)


def _element(type_: ir.Type) -> ir.Type:
    return type_.element if isinstance(type_, ir.VectorType) else type_


def like(type_: ir.Type, element: ir.Type) -> ir.Type:
    """The type of the same number of lanes with another element type."""
    return ir.VectorType(element, type_.count) if isinstance(type_, ir.VectorType) else element


def suffix(type_: ir.Type) -> str:
    """The type's name in an intrinsic's name: f32, v8f32, v4f64, ..."""
    element = _element(type_)
    name = "f32" if element == F32 else "f64" if element == F64 else f"i{element.width}"
    return f"v{type_.count}{name}" if isinstance(type_, ir.VectorType) else name


def constant(type_: ir.Type, number) -> ir.Constant:
    element = _element(type_)
    if element == F32:
        number = struct.unpack("f", struct.pack("f", number))[0]
    one = ir.Constant(element, number)
    return ir.Constant(type_, [one] * type_.count) if isinstance(type_, ir.VectorType) else one


def call_intrinsic(builder, name: str, result: ir.Type, arguments) -> ir.Value:
    """Call ``llvm.<name>.<type>``, overloaded on the result's type."""
    return call_library(builder, f"llvm.{name}.{suffix(result)}", result, arguments)


def call_library(builder, name: str, result: ir.Type, arguments) -> ir.Value:
    """Call a function of LLVM or of the C library, by its whole name."""
    return builder.call(declared(builder.module, name, result, [a.type for a in arguments]), arguments)


def declared(module: ir.Module, name: str, result: ir.Type, arguments) -> ir.Function:
    """The function of this name and these types, which the module declares."""
    found = module.globals.get(name)
    return found if found is not None else ir.Function(module, ir.FunctionType(result, arguments), name)


def use_whole_vectors(function: ir.Function) -> None:
    """Have loops of the function use the host's widest vectors.

    LLVM halves those of AVX-512 where they lower a processor's clock; products have it low anyway.
    """
    if vector_bytes() == 64:
        set.add(function.attributes, '"prefer-vector-width"="512"')         # llvmlite does not know this one


def use_no_library(function: ir.Function) -> None:
    """Have the function's loops stay loops: LLVM makes calls of the C library's memset and memcpy of those that fill or
    copy.  (It then takes no other function of that library for more than a function either.)"""
    set.add(function.attributes, '"no-builtins"')


def allocate(builder, type_: ir.Type, name: str = "") -> ir.Value:
    """A place in the function's frame, not set."""
    with builder.goto_entry_block():
        return builder.alloca(type_, name=name)


def as_read(builder, value):
    """The value; if it was loaded just now, so that LLVM does not look where from.  A choice between it and another,
    stored in its place, would become a store of some elements: one by one, or by masks, which takes far longer on
    processors whose masks are no registers of their own."""
    if not isinstance(value, ir.LoadInstr):
        return value
    frozen = ir.instructions.Instruction(builder.block, value.type, "freeze", [value])
    builder._insert(frozen)         # llvmlite has no method for it
    return frozen


def loop_hint(module, *option) -> ir.values.MDValue:
    """The metadata of a loop's last branch (a node that begins with itself): an option of LLVM's, a name and perhaps a
    number."""
    option = module.add_metadata([ir.Constant(I32, part) if isinstance(part, int) else part for part in option])
    node = ir.values.MDValue(module, [option], name=str(len(module.metadata)))
    node.operands = (node, option)
    return node


@contextmanager
def counting(builder, start, stop, step) -> Iterator[tuple[ir.Value, ir.Block]]:
    """A loop over the int64 start, start + step, ... below stop, for a positive step; gives the number and the block
    that comes after the loop."""
    before = builder.block
    head, body, after = (builder.append_basic_block(part) for part in ("for", "do", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(I64)
    builder.cbranch(builder.icmp_signed("<", index, stop), body, after)
    builder.position_at_end(body)
    yield index, after
    index.add_incoming(start, before)
    if not builder.block.is_terminated:
        index.add_incoming(builder.add(index, step, flags=("nsw",)), builder.block)
        builder.branch(head)
    builder.position_at_end(after)


class Value:
    """An LLVM value with operators; numbers beside it become constants of its type.  Comparisons yield i1 lanes;
    those of floats are false where an operand is NaN, except ``ne``."""

    __slots__ = ("builder", "value")

    def __init__(self, builder, value):
        self.builder, self.value = builder, value

    @property
    def type(self):
        return self.value.type

    @property
    def is_float(self) -> bool:
        return _element(self.type) in (F32, F64)

    def _of(self, other):
        return other.value if isinstance(other, Value) else constant(self.type, other)

    def _binary(self, other, float_name: str, int_name: str, swap: bool = False):
        a, b = self.value, self._of(other)
        a, b = (b, a) if swap else (a, b)
        return Value(self.builder, getattr(self.builder, float_name if self.is_float else int_name)(a, b))

    def __add__(self, other): return self._binary(other, "fadd", "add")
    def __radd__(self, other): return self._binary(other, "fadd", "add", True)
    def __sub__(self, other): return self._binary(other, "fsub", "sub")
    def __rsub__(self, other): return self._binary(other, "fsub", "sub", True)
    def __mul__(self, other): return self._binary(other, "fmul", "mul")
    def __rmul__(self, other): return self._binary(other, "fmul", "mul", True)
    def __truediv__(self, other): return self._binary(other, "fdiv", "sdiv")
    def __rtruediv__(self, other): return self._binary(other, "fdiv", "sdiv", True)
    def __and__(self, other): return self._binary(other, "", "and_")
    def __or__(self, other): return self._binary(other, "", "or_")
    def __xor__(self, other): return self._binary(other, "", "xor")
    def __lshift__(self, other): return self._binary(other, "", "shl")
    def __rshift__(self, other): return self._binary(other, "", "ashr")
    def shift_right_logical(self, other): return self._binary(other, "", "lshr")

    def __neg__(self):
        return Value(self.builder, (self.builder.fneg if self.is_float else self.builder.neg)(self.value))

    def _compare(self, operator: str, other):
        b = self._of(other)
        if not self.is_float:
            return Value(self.builder, self.builder.icmp_signed(operator, self.value, b))
        compare = self.builder.fcmp_unordered if operator == "!=" else self.builder.fcmp_ordered
        return Value(self.builder, compare(operator, self.value, b))

    def lt(self, other): return self._compare("<", other)
    def le(self, other): return self._compare("<=", other)
    def gt(self, other): return self._compare(">", other)
    def ge(self, other): return self._compare(">=", other)
    def eq(self, other): return self._compare("==", other)
    def ne(self, other): return self._compare("!=", other)

    def is_nan(self):
        return Value(self.builder, self.builder.fcmp_unordered("uno", self.value, self.value))

    def where(self, a, b):
        """This i1 value picks a where true, b where false (one of them may be a number)."""
        model = a if isinstance(a, Value) else b
        return Value(self.builder, self.builder.select(self.value, model._of(a), model._of(b)))

    def fma(self, factor, addend):
        """self * factor + addend, rounded once."""
        arguments = [self.value, self._of(factor), self._of(addend)]
        return Value(self.builder, call_intrinsic(self.builder, "fma", self.type, arguments))

    def call(self, name: str):
        """The unary float intrinsic ``llvm.<name>``: fabs, sqrt, floor, ceil, rint, trunc."""
        return Value(self.builder, call_intrinsic(self.builder, name, self.type, [self.value]))

    def sign_of(self, other):
        """This magnitude with the other's sign."""
        return Value(self.builder, call_intrinsic(self.builder, "copysign", self.type, [self.value, other.value]))

    def bits(self):
        """A float's bits as an integer of the same width."""
        width = I32 if _element(self.type) == F32 else I64
        return Value(self.builder, self.builder.bitcast(self.value, like(self.type, width)))

    def as_float(self):
        """An integer's bits as a float of the same width."""
        element = F32 if _element(self.type) == I32 else F64
        return Value(self.builder, self.builder.bitcast(self.value, like(self.type, element)))

    def to(self, element: ir.Type):
        """Converted to this element type: int to float, float to float, int to int."""
        source, target = _element(self.type), like(self.type, element)
        if source == element:
            return self
        if source in (F32, F64):
            name = "fpext" if element == F64 else "fptrunc"
        elif element in (F32, F64):
            name = "sitofp"
        else:
            name = "sext" if element.width > source.width else "trunc"
        return Value(self.builder, getattr(self.builder, name)(self.value, target))

    def estrin(self, *coefficients):
        """As ``horner`` by pairs, pairs of pairs, ...: half as long a chain of operations that wait for each other."""
        terms = [Value(self.builder, self._of(coefficient)) for coefficient in coefficients]
        power = self
        while len(terms) > 1:
            pairs = zip(terms[::2], terms[1::2])
            terms = [power.fma(high, low) for low, high in pairs] + terms[len(terms) & ~1:]
            if len(terms) > 1:
                power = power * power
        return terms[0]

    def horner(self, *coefficients: float):
        """The polynomial coefficients[0] + coefficients[1] * self + ..., by fma."""
        result = Value(self.builder, constant(self.type, coefficients[-1]))
        for coefficient in reversed(coefficients[:-1]):
            result = result.fma(self, coefficient)
        return result
