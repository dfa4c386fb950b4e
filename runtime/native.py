"""Intrinsics of generated kernels: buffers that do not alias, atomics, a call through an address.

A kernel is ``kernel(bases, args, begin, end)``, no result: ``bases[slot]`` is the absolute address of a memory slot
(arena, weights, each input and output), ``args`` are its integers, [begin, end) are the work units to do.  A buffer
argument is two words of ``args``: its slot and its byte offset in the slot.

    def double(bases, args, begin, end):
        x = buffer_f32(bases, args, 0)      # words 0 and 1
        y = buffer_f32(bases, args, 2)      # words 2 and 3
        for i in range(begin, end):
            y[i] = x[i] + x[i]

Buffers made with different constants k promise never to overlap as far as one is written: LLVM is told so (alias
scopes), and so vectorises without run-time checks, of which it makes at most eight.  An in-place kernel (the output
is the input's memory) must therefore use *one* buffer for both.  Indices are never wrapped or checked.
Mind the promotions: a float constant is float64 (write ``float32(2)``), int32 sums are int64.
"""

from __future__ import annotations

import functools
import platform
import time
from collections.abc import Callable, Sequence

from llvmlite import binding as llvm, ir

from .kinds import Kind, Pointer, Typed, boolean, byte, float32, float64, int32, int64, intrinsic, template
from .machine import Object, emit_code, target_machine
from .simd import I8, I32, I64, allocate, call_library
from .translate import MAX_SCOPES, Definition, definition, translate

BASES = Pointer(Pointer(byte))
ARGS = Pointer(int64)
KERNEL = BASES, ARGS, int64, int64

# What compiled code may call by name; everything else must be in the object itself.
SYMBOLS = {"memset", "memcpy", "memmove", "sched_yield", "clock_gettime", "PyObject_Vectorcall", "PyUnicode_Compare",
           "Py_DecRef", "PyEval_SaveThread", "PyEval_RestoreThread"} | {
    name + kind for kind in ("", "f") for name in
    ("exp", "expm1", "log", "log1p", "tanh", "erf", "sin", "cos", "pow", "sqrt", "floor", "ceil", "rint", "fma")}


def compile_module(function: Callable | Definition, kinds: Sequence[Kind | Pointer], symbol: str,
                   level: int = 3, result: Kind | None = None) -> llvm.ModuleRef:
    """LLVM's module of this function of the kernels' Python as the C function ``symbol``, optimised: at level 2 without
    what takes longest, chiefly copies of loops for conditions that stay; at level 1, for loops that are in vectors
    already, with neither what makes vectors nor what comes before it.

    Nothing reassociates, no index is checked, and only what Python calls, ``walker``'s entry, touches the interpreter:
    its objects, its lock, its exceptions.
    """
    target = target_machine()
    module = ir.Module(symbol)
    module.triple, module.data_layout = llvm.get_process_triple(), str(target.target_data)
    translate(function if isinstance(function, Definition) else definition(function), kinds, module, symbol,
              result)
    compiled = llvm.parse_assembly(str(module))
    compiled.verify()
    if level > 1:
        _optimize(compiled, 0, _join_branches)
    _optimize(compiled, level)
    _expand_calls(compiled, symbol)
    return compiled


def _expand_calls(module: llvm.ModuleRef, symbol: str) -> None:
    """Functions apart, whose forms for vectors are called by now, in place."""
    apart = [function for function in module.functions if not function.is_declaration and function.name != symbol]
    for function in apart:
        function.linkage = "internal"
    if apart:
        _optimize(module, 2, inline=True)


def _optimize(module: llvm.ModuleRef, level: int, extend: Callable = lambda passes: None, inline: bool = False) -> None:
    options = llvm.create_pipeline_tuning_options(speed_level=level)
    options.inlining_threshold = 100_000 if inline else 0
    options.loop_vectorization = level > 1 and not inline
    options.loop_unrolling = level > 0 and not inline
    builder = llvm.create_pass_builder(target_machine(), options)
    passes = builder.getModulePassManager()
    extend(passes)
    passes.run(module, builder)


def _join_branches(passes) -> None:
    """Loads under one condition, each with a branch of its own, shall be under one branch: such loops are vectorised
    with masked loads, others load one by one."""
    passes.add_loop_rotate_pass()
    passes.add_instruction_combine_pass()
    passes.add_jump_threading_pass()


def compile_native(function: Callable | Definition, kinds: Sequence[Kind | Pointer],
                   symbol: str = "netc_kernel", level: int = 3, result: Kind | None = None) -> Object:
    """An object with this function as the C function ``symbol``, and no other visible symbol."""
    module = compile_module(function, kinds, symbol, level, result)
    foreign = {f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")} - SYMBOLS
    if foreign:
        raise RuntimeError(f"a kernel would call {', '.join(sorted(foreign))}")
    bitcode = module.as_bitcode()       # before the module is altered
    return Object(symbol, emit_code(module), bitcode)


# --- buffers ------------------------------------------------------------------------------------------------------


def address(builder, bases, args, word, llvm_type):
    """bases[args[word]] + args[word + 1] bytes, as a pointer.

    A pointer load and a GEP: LLVM follows these, and has miscompiled integer arithmetic on addresses.
    """
    slot = builder.load(builder.gep(args, [word], inbounds=True))
    after = ir.Constant(word.type, word.constant + 1) if isinstance(word, ir.Constant) else \
        builder.add(word, ir.Constant(word.type, 1))
    offset = builder.load(builder.gep(args, [after], inbounds=True))
    base = builder.load(builder.gep(bases, [slot], inbounds=True))
    return builder.bitcast(builder.gep(base, [offset], inbounds=True), llvm_type)


def _buffer_intrinsic(dtype: Kind, name: str):
    def buffer(bases: Typed, args: Typed, k: Typed):
        # A buffer takes two words, so halving the word keeps buffers apart.
        scope = -1 if k.constant is None or k.constant // 2 >= MAX_SCOPES else k.constant // 2
        result = Pointer(dtype, scope)
        emit = functools.partial(address, llvm_type=result.llvm)
        return emit, result, BASES, ARGS, int64
    buffer.__name__ = name
    buffer.__doc__ = f"``{name}(bases, args, k)``: the {dtype.name} buffer at slot args[k], byte offset args[k + 1]."
    return template(buffer)


buffer_f32 = _buffer_intrinsic(float32, "buffer_f32")
buffer_f64 = _buffer_intrinsic(float64, "buffer_f64")
buffer_i32 = _buffer_intrinsic(int32, "buffer_i32")
buffer_i64 = _buffer_intrinsic(int64, "buffer_i64")
buffer_bool = _buffer_intrinsic(boolean, "buffer_bool")       # a byte each, 0 or 1


@intrinsic(int64, int64, int64)
def least(builder, a, b):
    """The smaller of two numbers."""
    return builder.select(builder.icmp_signed("<", a, b), a, b)


@intrinsic(int64, int64, int64)
def most(builder, a, b):
    """The larger of two numbers."""
    return builder.select(builder.icmp_signed(">", a, b), a, b)


# --- atomics ------------------------------------------------------------------------------------------------------


@intrinsic(int64, ARGS, int64, int64)
def fetch_add(builder, pointer, index, value):
    """``fetch_add(p, i, v)``: add v to the int64 p[i], give what it was; sequentially consistent."""
    return builder.atomic_rmw("add", builder.gep(pointer, [index]), value, "seq_cst")


@intrinsic(int64, ARGS, int64, int64)
def exchange(builder, pointer, index, value):
    """``exchange(p, i, v)``: store v in the int64 p[i], give what it was; sequentially consistent."""
    return builder.atomic_rmw("xchg", builder.gep(pointer, [index]), value, "seq_cst")


@intrinsic(int64, ARGS, int64)
def load_acquire(builder, pointer, index):
    """``load_acquire(p, i)``: the int64 p[i]; sequentially consistent (on x86 the same instruction as acquire)."""
    return builder.load_atomic(builder.gep(pointer, [index]), "seq_cst", 8)


@intrinsic(None, ARGS, int64, int64)
def store_release(builder, pointer, index, value):
    """``store_release(p, i, v)``: p[i] = v, after everything written before."""
    builder.store_atomic(value, builder.gep(pointer, [index]), "release", 8)


@intrinsic(None)
def pause(builder):
    """``pause()``: tell the core that it spins."""
    processor = platform.machine()
    if processor in ("x86_64", "AMD64"):
        call_library(builder, "llvm.x86.sse2.pause", ir.VoidType(), [])
    elif processor in ("aarch64", "arm64"):
        call_library(builder, "llvm.aarch64.hint", ir.VoidType(), [ir.Constant(I32, 1)])


# x86's control word: results below the smallest normal number are 0, and so are such operands
_FLUSHES = 0x8040


@intrinsic(int64, int64)
def set_flushing(builder, on):
    """``set_flushing(on)``: where ``on`` is not 0, let this thread take numbers below the smallest normal one for 0;
    gives what ``restore_flushing`` takes.  Processors other than x86 go on as they were."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return ir.Constant(I64, 0)
    place = allocate(builder, I32)
    before = _control_word(builder, place)
    with builder.if_then(builder.icmp_signed("!=", on, ir.Constant(I64, 0))):
        _set_control_word(builder, place, builder.or_(before, ir.Constant(I32, _FLUSHES)))
    return builder.zext(before, I64)


@intrinsic(None, int64)
def restore_flushing(builder, before):
    """``restore_flushing(before)``: undo ``set_flushing``."""
    if platform.machine() in ("x86_64", "AMD64"):
        place = allocate(builder, I32)
        now, before = _control_word(builder, place), builder.trunc(before, I32)
        with builder.if_then(builder.icmp_unsigned("!=", now, before)):
            _set_control_word(builder, place, before)


def _control_word(builder, place):
    call_library(builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), [builder.bitcast(place, I8.as_pointer())])
    return builder.load(place)


def _set_control_word(builder, place, word):
    builder.store(word, place)
    call_library(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), [builder.bitcast(place, I8.as_pointer())])


@intrinsic(int32)
def sched_yield(builder):
    """``sched_yield()``: give up the time slice."""
    return call_library(builder, "sched_yield", I32, [])


@intrinsic(int64)
def nanoseconds(builder):
    """``nanoseconds()``: a monotonic clock."""
    moment = builder.bitcast(allocate(builder, ir.ArrayType(I64, 2)), I64.as_pointer())
    call_library(builder, "clock_gettime", I32, [ir.Constant(I32, time.CLOCK_MONOTONIC), moment])
    seconds = builder.load(builder.gep(moment, [ir.Constant(I64, 0)]))
    rest = builder.load(builder.gep(moment, [ir.Constant(I64, 1)]))
    return builder.add(builder.mul(seconds, ir.Constant(I64, 1_000_000_000)), rest)


@intrinsic(None, ARGS, int64, BASES, ARGS, int64, int64, int64)
def call_kernel(builder, steps, index, bases, args, offset, begin, end):
    """``call_kernel(steps, index, bases, args, offset, begin, end)``: call the kernel whose address is steps[index]
    with bases, args + offset words, begin and end."""
    function = ir.FunctionType(ir.VoidType(), [bases.type, args.type, I64, I64])
    place = builder.bitcast(builder.gep(steps, [index]), function.as_pointer().as_pointer())
    builder.call(builder.load(place), [bases, builder.gep(args, [offset]), begin, end])


@intrinsic(ARGS, ARGS, int64)
def words_at(builder, pointer, index):
    """``words_at(p, i)``: the address in p[i], as a pointer to int64."""
    return builder.load(builder.bitcast(builder.gep(pointer, [index]), pointer.type.as_pointer()))


@intrinsic(Pointer(int32), ARGS, int64)
def ints_at(builder, pointer, index):
    """``ints_at(p, i)``: the address in p[i], as a pointer to int32."""
    return builder.load(builder.bitcast(builder.gep(pointer, [index]), Pointer(int32).llvm.as_pointer()))


@intrinsic(BASES, ARGS, int64)
def bases_at(builder, pointer, index):
    """``bases_at(p, i)``: the address in p[i], as ``bases``."""
    return builder.load(builder.bitcast(builder.gep(pointer, [index]), BASES.llvm.as_pointer()))


@intrinsic(None, BASES, int64, int64)
def set_base(builder, bases, index, value):
    """``set_base(bases, i, v)``: let bases[i] be the address v."""
    builder.store(value, builder.bitcast(builder.gep(bases, [index]), I64.as_pointer()))


@template
def stack_words(count: Typed):
    """``stack_words(n)``: n int64 in the function's frame, not set; n is a constant."""
    return *frame_of(int64, count.constant), count.kind


def frame_of(kind: Kind, count: int):
    """A signature of what gives ``count`` values in the function's frame, aligned, not set."""
    def emit(builder, *constants):
        place = allocate(builder, ir.ArrayType(kind.llvm, count))
        place.align = 64
        return builder.bitcast(place, kind.llvm.as_pointer())
    return emit, Pointer(kind)


# --- Python's objects -------------------------------------------------------------------------------------------------


@intrinsic(int64, ARGS, ARGS, int64, ARGS)
def call_object(builder, called, args, count, names):
    """``call_object(f, args, n, names)``: call the object f with n arguments by position, and after them as many as
    ``names``, a tuple or nothing, says; the address of what it gives, the caller's own, or 0 where it raises."""
    result = call_library(builder, "PyObject_Vectorcall", ARGS.llvm, [called, args, count, names])
    return builder.ptrtoint(result, I64)


@intrinsic(None, ARGS)
def release(builder, item):
    """``release(x)``: this function needs the object x no more."""
    call_library(builder, "Py_DecRef", ir.VoidType(), [item])


@intrinsic(ARGS)
def nothing(builder):
    """``nothing()``: no object."""
    return ir.Constant(ARGS.llvm, None)


@intrinsic(boolean, ARGS)
def is_something(builder, item):
    """``is_something(x)``: whether x is an object."""
    return builder.icmp_unsigned("!=", item, ir.Constant(ARGS.llvm, None))


@intrinsic(int64, ARGS, ARGS)
def order_of_texts(builder, a, b):
    """``order_of_texts(a, b)``: 0 where two objects, both of them strings, are equal."""
    return builder.sext(call_library(builder, "PyUnicode_Compare", I32, [a, b]), I64)


@intrinsic(ARGS)
def leave_interpreter(builder):
    """``leave_interpreter()``: let other threads run Python; what ``enter_interpreter`` takes."""
    return call_library(builder, "PyEval_SaveThread", ARGS.llvm, [])


@intrinsic(None, ARGS)
def enter_interpreter(builder, state):
    """``enter_interpreter(s)``: wait until this thread may run Python again."""
    call_library(builder, "PyEval_RestoreThread", ir.VoidType(), [state])
