"""What a tile of a contraction may call on a GPU: vectors of memory, and a slice's products in registers."""

from __future__ import annotations

import functools
from collections.abc import Callable

from llvmlite import ir
from numba.cuda import cgutils, types
from numba.cuda.extending import intrinsic
from numba.cuda.typing.templates import signature

WIDEST = 16             # bytes of a load or store


def _vectors(builder, pointer, index, count: int):
    """(pointer to a vector, elements, alignment) of ``count`` elements at an index, as few as there can be."""
    element = pointer.type.pointee
    size = 4 if element == ir.FloatType() else 8
    width = min(count, WIDEST // size)
    kind = ir.VectorType(element, width) if width > 1 else element
    for first in range(0, count, width):
        start = builder.gep(pointer, [builder.add(index, ir.Constant(index.type, first))])
        yield builder.bitcast(start, kind.as_pointer(pointer.type.addrspace)), width, width * size


def _load(builder, pointer, index, count: int) -> list:
    values = []
    for place, width, alignment in _vectors(builder, pointer, index, count):
        loaded = builder.load(place)
        loaded.align = alignment
        values += [builder.extract_element(loaded, ir.IntType(32)(i)) for i in range(width)] if width > 1 else [loaded]
    return values


@functools.cache
def starting(dtype):
    """``start(pointer, index)``: a pointer to an element, from which on indices of 32 bits are cheap."""
    @intrinsic
    def start(typingctx, pointer, index):
        def codegen(context, builder, sig, args):
            return builder.gep(args[0], [args[1]])
        return signature(pointer, pointer, types.int64), codegen
    return start


@functools.cache
def loading(dtype, count: int):
    """``load(pointer, index)``: so many neighbours as a tuple; the first is aligned for all of them."""
    @intrinsic
    def load(typingctx, pointer, index):
        result = types.UniTuple(dtype, count)

        def codegen(context, builder, sig, args):
            return context.make_tuple(builder, result, _load(builder, *args, count))
        return signature(result, pointer, types.int64), codegen
    return load


@functools.cache
def storing(dtype, count: int):
    """``store(pointer, index, value, ...)`` of so many neighbours, likewise."""
    def codegen(context, builder, sig, args):
        pointer, index, *values = args
        for place, width, alignment in _vectors(builder, pointer, index, count):
            vector = values.pop(0) if width == 1 else ir.Constant(place.type.pointee, ir.Undefined)
            for i in range(width if width > 1 else 0):
                vector = builder.insert_element(vector, values.pop(0), ir.IntType(32)(i))
            builder.store(vector, place, align=alignment)
        return context.get_dummy_value()
    if count == 2:
        @intrinsic
        def store(typingctx, pointer, index, a, b):
            return signature(types.none, pointer, types.int64, dtype, dtype), codegen
    else:
        @intrinsic
        def store(typingctx, pointer, index, a, b, c, d):
            return signature(types.none, pointer, types.int64, dtype, dtype, dtype, dtype), codegen
    return store


@functools.cache
def zeros(dtype, count: int):
    """``none()``: a tuple of so many zeros."""
    @intrinsic
    def none(typingctx):
        result = types.UniTuple(dtype, count)

        def codegen(context, builder, sig, args):
            return context.make_tuple(builder, result, [context.get_constant(dtype, 0)] * count)
        return signature(result), codegen
    return none


@intrinsic
def or_zeros(typingctx, values, condition):
    """A tuple's values where a condition holds, else zeros; without a branch."""
    def codegen(context, builder, sig, args):
        zero = context.get_constant(sig.args[0].dtype, 0)
        found = cgutils.unpack_tuple(builder, args[0], len(sig.args[0]))
        return context.make_tuple(builder, sig.return_type, [builder.select(args[1], value, zero) for value in found])
    return signature(values, values, types.boolean), codegen


def products_of(dtype) -> Callable:
    """``products(depth, rows, columns)`` for a dtype; see ``tiles``."""
    @functools.cache
    def products(depth: int, rows: tuple[int, ...], columns: tuple[int, ...]):
        def fragments(builder, pointer, first, k, count, neighbours, apart, row):
            values = []
            for group in range(count // neighbours):
                place = builder.add(first, ir.Constant(first.type, k * row + group * apart))
                values += _load(builder, pointer, place, neighbours)
            return values

        @intrinsic
        def add_products(typingctx, a, at_a, b, at_b, total):
            def codegen(context, builder, sig, args):
                a, at_a, b, at_b, total = args
                sums = cgutils.unpack_tuple(builder, total, rows[0] * columns[0])
                for k in range(depth):
                    left = fragments(builder, a, at_a, k, *rows)
                    right = fragments(builder, b, at_b, k, *columns)
                    sums = [builder.fma(x, y, sums[i * columns[0] + j])
                            for i, x in enumerate(left) for j, y in enumerate(right)]
                return context.make_tuple(builder, sig.return_type, sums)
            return signature(total, a, types.int64, b, types.int64, total), codegen
        return add_products
    return products


def namespace(dtypes) -> dict:
    """The names of these functions for the float types."""
    names: dict = {"or_zeros": or_zeros}
    for kind in ("f32", "f64"):
        names |= {f"products_{kind}": products_of(dtypes[kind]), f"from_{kind}": starting(dtypes[kind]),
                  f"zeros_{kind}": functools.partial(zeros, dtypes[kind])}
        for count in (2, 4):
            names |= {f"load{count}_{kind}": loading(dtypes[kind], count),
                      f"store{count}_{kind}": storing(dtypes[kind], count)}
    return names
