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
Mind Numba's promotions: a Python float constant is float64 (write ``np.float32(2)``), int32 sums are int64.
"""

from __future__ import annotations

import operator
import platform
import time

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, Flags, compile_extra
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.extending import intrinsic, lower_builtin, models, register_model
from numba.core.registry import cpu_target
from numba.core.runtime import rtsys
from numba.core.typed_passes import (
    InlineOverloads,
    IRLegalization,
    NativeLowering,
    NoPythonBackend,
    NopythonTypeInference,
    PreLowerStripPhis,
)
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.core.untyped_passes import FixupArgs, InlineInlinables, IRProcessing, ReconstructSSA, TranslateByteCode

from .machine import Object

BASES = types.CPointer(types.voidptr)
ARGS = types.CPointer(types.int64)
KERNEL = types.void(BASES, ARGS, types.int64, types.int64)

# Alias scopes are lists of "all the others": a bound keeps them short.  Buffers beyond it may alias, as far as LLVM
# knows, which costs only speed.
MAX_SCOPES = 48


# What compiled code may call by name; everything else must be in the object itself.
SYMBOLS = {"memset", "memcpy", "memmove", "sched_yield", "clock_gettime"} | {
    name + kind for kind in ("", "f") for name in
    ("exp", "expm1", "log", "log1p", "tanh", "erf", "sin", "cos", "pow", "sqrt", "floor", "ceil", "rint", "fma")}


@register_pass(mutates_CFG=True, analysis_only=False)
class _Lowering(NativeLowering):
    """Numba's, but what a function becomes is only linked into its callers, not into this process."""

    _name = "netc_lowering"

    def run_pass(self, state):
        state.flags.no_compile = True
        super().run_pass(state)
        # Numba knows a compiled function by a builtin that calls it; nobody does.
        placeholder = [].append
        state.targetctx.insert_user_function(placeholder, state.cr.fndesc, [state.library])
        state.cr = state.cr._replace(cfunc=placeholder)
        return True


class _Compiler(CompilerBase):
    """Numba's passes without those that look for what kernels do not hold: closures, `with`, parallel loops, lists of
    literals, array expressions, exceptions."""

    PASSES = (TranslateByteCode, FixupArgs, IRProcessing, InlineInlinables, ReconstructSSA,         # untyped
              NopythonTypeInference, PreLowerStripPhis, InlineOverloads,                            # typed
              IRLegalization, _Lowering, NoPythonBackend)                                           # to LLVM

    def define_pipelines(self):
        if self.state.library is None:
            self.state.library = _Library(self.state.targetctx.codegen(), self.state.func_id.func_qualname)
        passes = PassManager("netc")
        for step in self.PASSES:
            passes.add_pass(step, step.__name__)
        passes.finalize()
        return [passes]


def helper(function):
    """A function for kernels to call; LLVM inlines it where that pays."""
    return njit(function, nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True,
                pipeline_class=_Compiler)


class _Library(JITCodeLibrary):
    """Code that is optimised once, with the kernel that it is for, and made machine code once, in an object.

    A library of Numba's own is optimised and linked into the process as it is; so would each helper's be first, and
    then the kernel's with copies of them.  ``entry`` is a kernel's only visible symbol; a helper's library has none.
    """

    entry: str | None = None

    def add_linking_library(self, library):
        if library is not rtsys.library:        # Python's reference counts: kernels hold no objects
            super().add_linking_library(library)

    def _optimize_final_module(self):
        if self.entry is None:
            return
        # What only the entry uses may be inlined and dropped; and objects that share an engine share no names.
        for value in (*self._final_module.functions, *self._final_module.global_variables):
            if not value.is_declaration and value.name != self.entry:
                value.linkage = "internal"
        super()._optimize_final_module()

    def _finalize_final_module(self):
        self._verify_declare_only_symbols()
        self._finalized = True


@global_compiler_lock
def compile_library(function, sig, symbol: str):
    """Numba's library with the C function ``symbol`` of this signature (its ``get_asm_str()`` is text).

    Division by zero yields inf or nan (NumPy's error model), nothing reassociates, no index is checked.  The entry
    knows nothing of Python, so neither the interpreter's lock nor its exceptions are touched: kernels raise none.
    """
    flags = Flags()
    flags.error_model = "numpy"
    flags.no_cpython_wrapper = flags.no_cfunc_wrapper = flags.no_compile = True
    context = cpu_target.target_context
    library = _Library(context.codegen(), symbol)
    library.entry = symbol
    compiled = compile_extra(cpu_target.typing_context, context, function, sig.args, sig.return_type, flags, {},
                             library, _Compiler)
    module = library.create_ir_module(symbol)
    c_type = ir.FunctionType(ir.VoidType(), [context.get_value_type(argument) for argument in sig.args])
    entry = ir.Function(module, c_type, symbol)
    builder = ir.IRBuilder(entry.append_basic_block())
    callee = context.declare_function(module, compiled.fndesc)
    context.call_conv.call_function(builder, callee, sig.return_type, sig.args, entry.args)
    builder.ret_void()
    library.add_ir_module(module)
    library.finalize()
    return library


def compile_native(function, sig, symbol: str = "netc_kernel") -> Object:
    """An object with this function as the C function ``symbol`` of the Numba signature, and no other visible symbol."""
    library = compile_library(function, sig, symbol)
    module = library._final_module
    foreign = {f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")} - SYMBOLS
    if foreign:
        raise RuntimeError(f"a kernel would call {', '.join(sorted(foreign))}")
    return Object(symbol, library.codegen._tm.emit_object(module), library)


class Buffer(types.Type):
    """A pointer to ``dtype`` values; ``scope`` >= 0 names its alias scope, -1 is none."""

    def __init__(self, dtype, scope: int):
        self.dtype = dtype
        self.scope = scope
        super().__init__(name=f"Buffer({dtype}, {scope})")


@register_model(Buffer)
class BufferModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, dmm.lookup(fe_type.dtype).get_data_type().as_pointer())


def annotate(instruction, module, scope: int) -> None:
    """Tell LLVM that a load or store belongs to the buffer ``scope`` and to no other."""
    if not 0 <= scope < MAX_SCOPES:
        return
    domain = module.add_metadata(["netc buffers"])
    scopes = [module.add_metadata([f"netc buffer {i}", domain]) for i in range(MAX_SCOPES)]
    instruction.set_metadata("alias.scope", module.add_metadata([scopes[scope]]))
    instruction.set_metadata("noalias", module.add_metadata(scopes[:scope] + scopes[scope + 1:]))


@infer_global(operator.getitem)
class GetItemBuffer(AbstractTemplate):
    def generic(self, args, kws):
        buffer, index = args
        if isinstance(buffer, Buffer) and isinstance(index, types.Integer):
            return signature(buffer.dtype, buffer, types.intp)


@infer_global(operator.setitem)
class SetItemBuffer(AbstractTemplate):
    def generic(self, args, kws):
        buffer, index, _ = args
        if isinstance(buffer, Buffer) and isinstance(index, types.Integer):
            return signature(types.none, buffer, types.intp, buffer.dtype)


@lower_builtin(operator.getitem, Buffer, types.Integer)
def _load_item(context, builder, sig, args):
    buffer, index = args
    value = builder.load(builder.gep(buffer, [index], inbounds=True))
    annotate(value, builder.module, sig.args[0].scope)
    return context.data_model_manager[sig.return_type].from_data(builder, value)


@lower_builtin(operator.setitem, Buffer, types.Integer, types.Any)
def _store_item(context, builder, sig, args):
    buffer, index, value = args
    data = context.data_model_manager[sig.args[2]].as_data(builder, value)
    store = builder.store(data, builder.gep(buffer, [index], inbounds=True))
    annotate(store, builder.module, sig.args[0].scope)


def _address(builder, bases, args, word, llvm_type):
    """bases[args[word]] + args[word + 1] bytes, as a pointer.

    A pointer load and a GEP: LLVM follows these, and has miscompiled integer arithmetic on addresses.
    """
    slot = builder.load(builder.gep(args, [word], inbounds=True))
    offset = builder.load(builder.gep(args, [builder.add(word, ir.Constant(word.type, 1))], inbounds=True))
    base = builder.load(builder.gep(bases, [slot], inbounds=True))
    start = builder.gep(builder.bitcast(base, cgutils.voidptr_t), [offset], inbounds=True)
    return builder.bitcast(start, llvm_type)


def _buffer_intrinsic(dtype, name: str):
    @intrinsic(prefer_literal=True)
    def buffer(typingctx, bases, args, k):
        scope = k.literal_value if isinstance(k, types.IntegerLiteral) else -1
        # A buffer takes two words, so halving the word keeps buffers apart.
        result = Buffer(dtype, scope // 2 if scope // 2 < MAX_SCOPES else -1)

        def codegen(context, builder, sig, values):
            bases_value, args_value, word = values
            if isinstance(sig.args[2], types.IntegerLiteral):
                word = ir.Constant(ir.IntType(64), sig.args[2].literal_value)
            return _address(builder, bases_value, args_value, word, context.get_value_type(result))
        return signature(result, BASES, ARGS, k if scope >= 0 else types.int64), codegen
    buffer.__doc__ = f"``{name}(bases, args, k)``: the {dtype} buffer at slot args[k], byte offset args[k + 1]."
    return buffer


buffer_f32 = _buffer_intrinsic(types.float32, "buffer_f32")
buffer_f64 = _buffer_intrinsic(types.float64, "buffer_f64")
buffer_i32 = _buffer_intrinsic(types.int32, "buffer_i32")
buffer_i64 = _buffer_intrinsic(types.int64, "buffer_i64")
buffer_bool = _buffer_intrinsic(types.boolean, "buffer_bool")       # a byte each, 0 or 1


def element_type(pointer):
    """The element type of a pointer-like Numba type (Buffer or CPointer), else None."""
    return pointer.dtype if isinstance(pointer, (Buffer, types.CPointer)) else None


def scope_of(pointer) -> int:
    return pointer.scope if isinstance(pointer, Buffer) else -1


def _choice(predicate: str):
    @intrinsic
    def choose(typingctx, a, b):
        def codegen(context, builder, sig, values):
            return builder.select(builder.icmp_signed(predicate, *values), *values)
        return signature(types.int64, types.int64, types.int64), codegen
    return choose


# As ``min`` and ``max`` of two int64, which Numba would compile as functions, over its usual way.
least, most = _choice("<"), _choice(">")


# --- atomics ------------------------------------------------------------------------------------------------------


@intrinsic
def fetch_add(typingctx, pointer, index, value):
    """``fetch_add(p, i, v)``: add v to the int64 p[i], give what it was; sequentially consistent."""
    def codegen(context, builder, sig, values):
        return builder.atomic_rmw("add", builder.gep(values[0], [values[1]]), values[2], "seq_cst")
    return signature(types.int64, ARGS, types.int64, types.int64), codegen


@intrinsic
def exchange(typingctx, pointer, index, value):
    """``exchange(p, i, v)``: store v in the int64 p[i], give what it was; sequentially consistent."""
    def codegen(context, builder, sig, values):
        return builder.atomic_rmw("xchg", builder.gep(values[0], [values[1]]), values[2], "seq_cst")
    return signature(types.int64, ARGS, types.int64, types.int64), codegen


@intrinsic
def load_acquire(typingctx, pointer, index):
    """``load_acquire(p, i)``: the int64 p[i]; sequentially consistent (on x86 the same instruction as acquire)."""
    def codegen(context, builder, sig, values):
        return builder.load_atomic(builder.gep(values[0], [values[1]]), "seq_cst", 8)
    return signature(types.int64, ARGS, types.int64), codegen


@intrinsic
def store_release(typingctx, pointer, index, value):
    """``store_release(p, i, v)``: p[i] = v, after everything written before."""
    def codegen(context, builder, sig, values):
        builder.store_atomic(values[2], builder.gep(values[0], [values[1]]), "release", 8)
        return context.get_dummy_value()
    return signature(types.none, ARGS, types.int64, types.int64), codegen


@intrinsic
def pause(typingctx):
    """``pause()``: tell the core that it spins."""
    def codegen(context, builder, sig, values):
        i32, machine = ir.IntType(32), platform.machine()
        if machine in ("x86_64", "AMD64"):
            function = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, function, "llvm.x86.sse2.pause"), [])
        elif machine in ("aarch64", "arm64"):
            function = ir.FunctionType(ir.VoidType(), [i32])
            hint = cgutils.get_or_insert_function(builder.module, function, "llvm.aarch64.hint")
            builder.call(hint, [ir.Constant(i32, 1)])
        return context.get_dummy_value()
    return signature(types.none), codegen


sched_yield = types.ExternalFunction("sched_yield", types.int32())


@intrinsic
def nanoseconds(typingctx):
    """``nanoseconds()``: a monotonic clock."""
    def codegen(context, builder, sig, values):
        i32, i64 = ir.IntType(32), ir.IntType(64)
        moment = cgutils.alloca_once(builder, ir.ArrayType(i64, 2))
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(i32, [i32, i64.as_pointer()]), "clock_gettime")
        pointer = builder.bitcast(moment, i64.as_pointer())
        builder.call(function, [ir.Constant(i32, time.CLOCK_MONOTONIC), pointer])
        seconds = builder.load(builder.gep(pointer, [ir.Constant(i64, 0)]))
        rest = builder.load(builder.gep(pointer, [ir.Constant(i64, 1)]))
        return builder.add(builder.mul(seconds, ir.Constant(i64, 1_000_000_000)), rest)
    return signature(types.int64), codegen


@intrinsic
def call_kernel(typingctx, steps, index, bases, args, offset, begin, end):
    """``call_kernel(steps, index, bases, args, offset, begin, end)``: call the kernel whose address is steps[index]
    with bases, args + offset words, begin and end."""
    def codegen(context, builder, sig, values):
        steps_value, index_value, bases_value, args_value, offset_value, begin_value, end_value = values
        i64 = ir.IntType(64)
        function = ir.FunctionType(ir.VoidType(), [bases_value.type, args_value.type, i64, i64])
        place = builder.gep(steps_value, [index_value])
        target = builder.load(builder.bitcast(place, function.as_pointer().as_pointer()))
        builder.call(target, [bases_value, builder.gep(args_value, [offset_value]), begin_value, end_value])
        return context.get_dummy_value()
    return signature(types.none, ARGS, types.int64, BASES, ARGS, types.int64, types.int64, types.int64), codegen


@intrinsic
def words_at(typingctx, pointer, index):
    """``words_at(p, i)``: the address in p[i], as a pointer to int64."""
    def codegen(context, builder, sig, values):
        place = builder.gep(values[0], [values[1]])
        return builder.load(builder.bitcast(place, values[0].type.as_pointer()))
    return signature(ARGS, ARGS, types.int64), codegen


@intrinsic
def bases_at(typingctx, pointer, index):
    """``bases_at(p, i)``: the address in p[i], as ``bases``."""
    def codegen(context, builder, sig, values):
        place = builder.gep(values[0], [values[1]])
        return builder.load(builder.bitcast(place, context.get_value_type(BASES).as_pointer()))
    return signature(BASES, ARGS, types.int64), codegen
