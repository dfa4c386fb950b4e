"""Vectors in LLVM: what a mask, a part of a vector, a copy of many are made of; and places in buffers.

This module is imported only to compile.
"""

from __future__ import annotations

from llvmlite import ir

from .kinds import Kind, Pointer, Typed, float32, float64, int64, template
from .native import ARGS, BASES, address, frame_of
from .simd import F64, I1, I8, I32, I64, counting, declared, lanes, suffix


def lanes_below(builder, element, count):
    """A mask: lane i is true where i < count."""
    width = lanes(element)
    many = ir.VectorType(I64, width)
    numbers = ir.Constant(many, [ir.Constant(I64, i) for i in range(width)])
    spread = ir.Constant(many, ir.Undefined)
    for i in range(width):
        spread = builder.insert_element(spread, count, ir.Constant(I32, i))
    return builder.icmp_signed("<", numbers, spread)


def spread(builder, scalar, vector: ir.VectorType):
    """A vector of equal values."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, vector.count), None))


def masked_function(builder, vector, kind: str):
    """LLVM's masked "load" or "store" of a vector."""
    pointer, mask = vector.as_pointer(), ir.VectorType(I1, vector.count)
    result, arguments = ((vector, [pointer, I32, mask, vector]) if kind == "load" else
                         (ir.VoidType(), [vector, pointer, I32, mask]))
    return declared(builder.module, f"llvm.masked.{kind}.{suffix(vector)}.p0", result, arguments)


def _alignment(vector) -> ir.Constant:
    """Bytes that a vector's place is a multiple of: those of an element."""
    return ir.Constant(I32, 8 if vector.element == F64 else 4)


def load_masked(builder, place, mask):
    """The vector at a place, zeros where the mask is false."""
    vector = place.type.pointee
    none = ir.Constant(vector, None)
    return builder.call(masked_function(builder, vector, "load"), [place, _alignment(vector), mask, none])


def store_masked(builder, vector, place, mask):
    """Store those lanes of the vector for which the mask is true."""
    builder.call(masked_function(builder, vector.type, "store"), [vector, place, _alignment(vector.type), mask])


def prefetch(builder, pointer, write: bool = False, level: int = 1):
    """Ask for the cache line of a place, which need not exist, to read it or to write it, into the cache of this
    level."""
    place = builder.bitcast(pointer, I8.as_pointer())
    function = declared(builder.module, "llvm.prefetch.p0", ir.VoidType(), [place.type, I32, I32, I32])
    builder.call(function, [place, *(ir.Constant(I32, number) for number in (int(write), 4 - level, 1))])


class Vectors:
    """Loads and stores of whole vectors of an element type."""

    def __init__(self, builder, element):
        self.builder, self.element = builder, element
        self.width, self.align = lanes(element), 8 if element == F64 else 4
        self.type = ir.VectorType(element, self.width)

    def place(self, pointer, at):
        return self.builder.bitcast(self.builder.gep(pointer, [at]), self.type.as_pointer())

    def load(self, pointer, at):
        return self.builder.load(self.place(pointer, at), align=self.align)

    def store(self, value, pointer, at):
        self.builder.store(value, self.place(pointer, at), align=self.align)

    def split(self, count):
        """How many of ``count`` values lie in whole vectors, and how many are left."""
        rest = self.builder.srem(count, ir.Constant(I64, self.width))
        return self.builder.sub(count, rest), rest

    def copy_whole(self, target, source, count):
        """Copy ``count`` values, a multiple of the width."""
        with counting(self.builder, ir.Constant(I64, 0), count, ir.Constant(I64, self.width)) as (at, _):
            self.store(self.load(source, at), target, at)


# --- intrinsics ---------------------------------------------------------------------------------------------------


def kind_of(is_double) -> Kind:
    return float64 if is_double else float32


@template
def stack_floats(count: Typed, is_double: Typed):
    """``stack_floats(n, is_double)``: n floats in the function's frame, aligned, not set; both are constants."""
    return *frame_of(kind_of(is_double.constant), count.constant), count.kind, is_double.kind


@template
def pointer(bases: Typed, args: Typed, k: Typed, is_double: Typed):
    """``pointer(bases, args, k, is_double)``: as buffer_f32 or buffer_f64, but a pointer that may alias others."""
    result = Pointer(kind_of(is_double.constant))

    def emit(builder, bases, args, k, is_double):
        return address(builder, bases, args, k, result.llvm)
    return emit, result, BASES, ARGS, int64, is_double.kind


@template
def offset(pointer: Typed, count: Typed):
    """``offset(p, n)``: the pointer n elements further."""
    def emit(builder, pointer, count):
        return builder.gep(pointer, [count], inbounds=True)
    return emit, pointer.kind, pointer.kind, int64


@template
def ask_for(pointer: Typed, count: Typed):
    """Ask for the cache line of the value ``count`` further; it need not exist."""
    def emit(builder, pointer, count):
        prefetch(builder, builder.gep(pointer, [count]))
    return emit, None, pointer.kind, int64
