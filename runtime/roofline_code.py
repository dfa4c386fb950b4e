"""The code of the kernels that measure the machine.  This module is imported only to compile."""

from __future__ import annotations

from llvmlite import ir

from .kinds import float32, intrinsic
from .machine import Object
from .native import KERNEL, buffer_f32, compile_native
from .roofline import FMA_CHAINS, FMA_TURNS
from .simd import F32, I64, Value, lanes


@intrinsic(float32, float32, float32)
def _fma_turns(builder, factor, addend):
    """FMA_TURNS times acc = acc * factor + addend in FMA_CHAINS vector registers; the first lane of one of them."""
    vector = ir.VectorType(F32, lanes(F32))
    factor, addend = _spread(builder, factor, vector), _spread(builder, addend, vector)
    before = builder.block
    body, after = builder.append_basic_block("turn"), builder.append_basic_block("after")
    builder.branch(body)
    builder.position_at_end(body)
    count = builder.phi(I64)
    sums = [builder.phi(vector) for _ in range(FMA_CHAINS)]
    following = [Value(builder, total).fma(Value(builder, factor), Value(builder, addend)).value for total in sums]
    left = builder.sub(count, ir.Constant(I64, 1))
    count.add_incoming(ir.Constant(I64, FMA_TURNS), before)
    count.add_incoming(left, body)
    for number, (total, new) in enumerate(zip(sums, following)):
        total.add_incoming(ir.Constant(vector, [ir.Constant(F32, number)] * vector.count), before)
        total.add_incoming(new, body)
    builder.cbranch(builder.icmp_signed(">", left, ir.Constant(I64, 0)), body, after)
    builder.position_at_end(after)
    total = following[0]
    for other in following[1:]:
        total = builder.fadd(total, other)
    return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))


def _spread(builder, scalar, vector):
    result = ir.Constant(vector, ir.Undefined)
    for lane in range(vector.count):
        result = builder.insert_element(result, scalar, ir.Constant(ir.IntType(32), lane))
    return result


def _fma(bases, args, begin, end):
    """args: the buffer, turns.  Each unit has a cache line of the buffer."""
    memory = buffer_f32(bases, args, 0)
    for unit in range(begin, end):
        total = memory[16 * unit]
        for _ in range(args[2]):
            total += _fma_turns(memory[16 * unit + 1], memory[16 * unit + 2])
        memory[16 * unit] = total


def _stream(bases, args, begin, end):
    """args: four buffers, elements of a unit, turns."""
    weight, slope = buffer_f32(bases, args, 0), buffer_f32(bases, args, 2)
    first, second = buffer_f32(bases, args, 4), buffer_f32(bases, args, 6)
    chunk = args[8]
    for unit in range(begin, end):
        for _ in range(args[9]):
            for i in range(unit * chunk, (unit + 1) * chunk):
                g = slope[i]
                m = first[i] + g
                v = second[i] + g * g
                first[i] = m
                second[i] = v
                weight[i] = weight[i] - m * v


_KERNELS = {"fma": _fma, "stream": _stream}


def build(name: str) -> Object:
    """The object of the kernel "fma" or "stream"."""
    return compile_native(_KERNELS[name], KERNEL, f"roofline_{name}")
