"""Transposed copies of matrices: y[b, j, i] = x[b, i, j], by blocks of 8 x 8 in registers.

Elements of four and eight bytes, moved as integers.
"""

from __future__ import annotations

import functools

from llvmlite import ir
from numba import njit, types
from numba.core.extending import intrinsic
from numba.core.typing.templates import signature

from .native import KERNEL, buffer_i32, buffer_i64, compile_native, element_type, scope_of, annotate, source_digest
from .simd import I32, I64
from .tile import Plan

BLOCK = 8


@intrinsic
def _transpose_block(typingctx, x, x_first, x_stride, y, y_first, y_stride):
    """Block of y from block of x: 8 rows of 8 each, first elements at x_first and y_first, rows a stride apart."""
    dtype = element_type(x)
    if dtype not in (types.int32, types.int64) or element_type(y) != dtype:
        return None
    element = I32 if dtype == types.int32 else I64
    vector = ir.VectorType(element, BLOCK)

    def codegen(context, builder, sig, values):
        source, x_at, x_step, target, y_at, y_step = values

        def place(pointer, at):
            return builder.bitcast(builder.gep(pointer, [at], inbounds=True), vector.as_pointer())
        rows = []
        for _ in range(BLOCK):
            rows.append(builder.load(place(source, x_at), align=element.width // 8))
            annotate(rows[-1], builder.module, scope_of(sig.args[0]))
            x_at = builder.add(x_at, x_step)
        half = 1
        while half < BLOCK:         # exchange the off-diagonal halves of blocks of 2, 4, 8
            for i in range(BLOCK):
                if i & half == 0:
                    rows[i], rows[i + half] = _exchange(builder, rows[i], rows[i + half], half)
            half *= 2
        for row in rows:
            annotate(builder.store(row, place(target, y_at), align=element.width // 8), builder.module,
                     scope_of(sig.args[3]))
            y_at = builder.add(y_at, y_step)
        return context.get_dummy_value()
    i64 = types.int64
    return signature(types.none, x, i64, i64, y, i64, i64), codegen


def _exchange(builder, a, b, half: int):
    upper = [lane if lane & half == 0 else BLOCK + lane - half for lane in range(BLOCK)]
    lower = [lane + half if lane & half == 0 else BLOCK + lane for lane in range(BLOCK)]
    masks = [ir.Constant(ir.VectorType(I32, BLOCK), [ir.Constant(I32, lane) for lane in lanes])
             for lanes in (upper, lower)]
    return builder.shuffle_vector(a, b, masks[0]), builder.shuffle_vector(a, b, masks[1])


@njit(nogil=True, error_model="numpy")
def _transpose(x, y, args, begin, end):
    rows, columns = args[4], args[5]
    x_batch, x_row, y_batch, y_row = args[6], args[7], args[8], args[9]
    blocks = (rows + BLOCK - 1) // BLOCK
    whole = columns // BLOCK * BLOCK
    for unit in range(begin, end):
        first = unit % blocks * BLOCK
        x_first = unit // blocks * x_batch + first * x_row
        y_first = unit // blocks * y_batch + first
        done = 0
        if rows - first >= BLOCK:
            for j in range(0, whole, BLOCK):
                _transpose_block(x, x_first + j, x_row, y, y_first + j * y_row, y_row)
            done = whole
        for j in range(done, columns):
            for i in range(min(BLOCK, rows - first)):
                y[y_first + j * y_row + i] = x[x_first + i * x_row + j]


def _define_four_bytes(digest):
    def transpose(bases, args, begin, end):
        digest
        _transpose(buffer_i32(bases, args, 0), buffer_i32(bases, args, 2), args, begin, end)
    return transpose


def _define_eight_bytes(digest):
    def transpose(bases, args, begin, end):
        digest
        _transpose(buffer_i64(bases, args, 0), buffer_i64(bases, args, 2), args, begin, end)
    return transpose


@functools.cache
def transpose_kernel(itemsize: int):
    """The compiled kernel for elements of 4 or 8 bytes; has ``.address``."""
    define = {4: _define_four_bytes, 8: _define_eight_bytes}[itemsize]
    return compile_native(define(source_digest("native", "simd", "transpose")), KERNEL, cache=True)


def plan_transpose(itemsize: int, batch: int, rows: int, columns: int, x_strides: tuple[int, int],
                   y_strides: tuple[int, int]) -> Plan:
    """The step for y[b, j, i] = x[b, i, j], x of shape [batch, rows, columns], where they do not overlap.

    Strides are (batch, row) in elements, the last index of each is contiguous.  The kernel's arguments are the buffers
    x, y (two words each), then ``words``.
    """
    units = batch * -(-rows // BLOCK) if columns else 0
    words = (rows, columns, *x_strides, *y_strides)
    return Plan(transpose_kernel(itemsize).address, words, units, max(1, 8192 // max(1, BLOCK * columns)))
