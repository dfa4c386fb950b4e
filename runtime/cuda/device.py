"""What generated source may call on a GPU: buffers in global memory, and elementary functions.

The functions are libdevice's, within a few units in the last place; they are not those of the CPU, so results agree to
rounding, not to the bit.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

from numba import cuda
from numba.cuda import libdevice, types
from numba.cuda.extending import intrinsic, lower_builtin, models, register_model
from numba.cuda.typing.templates import AbstractTemplate, infer_global, signature

from ..elementary import floordiv, maximum, minimum, mod, sign_integer
from . import philox, vectors

DTYPES = {"f32": types.float32, "f64": types.float64, "i32": types.int32, "i64": types.int64, "bool": types.boolean}
GLOBAL_MEMORY = 1           # NVVM's address space


class Buffer(types.Type):
    """A pointer to values in global memory; indices are never wrapped or checked."""

    def __init__(self, dtype):
        self.dtype = dtype
        super().__init__(name=f"GlobalBuffer({dtype})")


@register_model(Buffer)
class BufferModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, dmm.lookup(fe_type.dtype).get_data_type().as_pointer(GLOBAL_MEMORY))


@infer_global(operator.getitem)
class GetItemBuffer(AbstractTemplate):
    def generic(self, args, kws):
        buffer, index = args
        if isinstance(buffer, Buffer) and isinstance(index, types.Integer):
            return signature(buffer.dtype, buffer, types.int64)


@infer_global(operator.setitem)
class SetItemBuffer(AbstractTemplate):
    def generic(self, args, kws):
        buffer, index, _ = args
        if isinstance(buffer, Buffer) and isinstance(index, types.Integer):
            return signature(types.none, buffer, types.int64, buffer.dtype)


@lower_builtin(operator.getitem, Buffer, types.int64)
def _load(context, builder, sig, args):
    return context.unpack_value(builder, sig.args[0].dtype, builder.gep(args[0], [args[1]]))


@lower_builtin(operator.setitem, Buffer, types.int64, types.Any)
def _store(context, builder, sig, args):
    context.pack_value(builder, sig.args[0].dtype, args[2], builder.gep(args[0], [args[1]]))


@intrinsic
def quotient(typingctx, a, b):
    """a // b of integers that are not negative: a few instructions where both fit in 32 bits, as NVVM finds out."""
    def codegen(context, builder, sig, args):
        return builder.udiv(*args)
    return signature(types.int64, types.int64, types.int64), codegen


def _pointer_to(dtype):
    """The buffer at an address."""
    @intrinsic
    def pointer(typingctx, address):
        result = Buffer(dtype)

        def codegen(context, builder, sig, args):
            return builder.inttoptr(args[0], context.get_value_type(result))
        return signature(result, types.int64), codegen
    return pointer


def _pointer_into(dtype):
    """An array's first element, to be indexed without the wrapping of negative indices, which costs more than a product
    where an address is a constant away from the last."""
    result = types.CPointer(dtype)

    @intrinsic
    def pointer(typingctx, array):
        def codegen(context, builder, sig, args):
            return context.make_array(sig.args[0])(context, builder, args[0]).data
        return signature(result, array), codegen
    return pointer


def _buffer_of(dtype):
    """The buffer that two argument words stand for, a slot and a byte offset in it."""
    pointer = _pointer_to(dtype)

    def buffer(bases, args, k):
        return pointer(bases[args[k]] + args[k + 1])
    return cuda.jit(buffer, device=True)


FUNCTIONS_F32 = {
    "exp": libdevice.expf, "expm1": libdevice.expm1f, "log": libdevice.logf, "log1p": libdevice.log1pf,
    "tanh": libdevice.tanhf, "erf": libdevice.erff, "sin": libdevice.sinf, "cos": libdevice.cosf,
    "sqrt": libdevice.sqrtf, "floor": libdevice.floorf, "ceil": libdevice.ceilf, "round": libdevice.rintf,
    "pow": libdevice.powf, "fma": libdevice.fmaf}
FUNCTIONS_F64 = {
    "exp": libdevice.exp, "expm1": libdevice.expm1, "log": libdevice.log, "log1p": libdevice.log1p,
    "tanh": libdevice.tanh, "erf": libdevice.erf, "sin": libdevice.sin, "cos": libdevice.cos,
    "sqrt": libdevice.sqrt, "floor": libdevice.floor, "ceil": libdevice.ceil, "round": libdevice.rint,
    "pow": libdevice.pow, "fma": libdevice.fma}


def _functions_of(exp, fabs, zero, one) -> dict:
    """Those that libdevice has not, of one float type."""
    def sigmoid(x):
        z = exp(-fabs(x))
        return (one if x >= zero else z) / (one + z)

    def sign(x):
        return one if x > zero else (-one if x < zero else x)
    return {"sigmoid": sigmoid, "sign": sign}


_devices: dict[tuple, Callable] = {}


def device(function):
    """A function for kernels to call.  The same text over the same globals gives the same one, whose types are inferred
    once: that is most of what compiling takes."""
    code = function.__code__
    used = tuple(id(function.__globals__.get(name)) for name in code.co_names)
    key = (code.co_code, repr(code.co_consts), code.co_names, code.co_varnames, code.co_freevars, used)
    if key not in _devices or code.co_freevars:
        _devices[key] = cuda.jit(function, device=True)     # lives on, so that an id stands for one object
    return _devices[key]


def bounded(threads: int, blocks: int) -> Callable:
    """A kernel that is launched with so many threads a block, of which a multiprocessor is to hold so many at once."""
    def mark(kernel):
        kernel.launch_bounds = threads, blocks
        return kernel
    return mark


def namespace() -> dict:
    """The names that generated source may use, but for ``cuda`` itself."""
    names = {"device": device, "quotient": quotient, "words": _pointer_to(types.int64),
             "float32": types.float32, "float64": types.float64,
             "int32": types.int32, "int64": types.int64, "boolean": types.boolean}
    names |= {f"buffer_{name}": _buffer_of(dtype) for name, dtype in DTYPES.items()}
    names |= {f"pointer_{name}": _pointer_into(dtype) for name, dtype in DTYPES.items()}
    names |= {f"type_{name}": dtype for name, dtype in DTYPES.items()}
    names |= {f"{name}_f32": function for name, function in FUNCTIONS_F32.items()}
    names |= {f"{name}_f64": function for name, function in FUNCTIONS_F64.items()}
    for kind, exp, fabs in (("f32", libdevice.expf, libdevice.fabsf), ("f64", libdevice.exp, libdevice.fabs)):
        made = _functions_of(exp, fabs, DTYPES[kind](0), DTYPES[kind](1))
        names |= {f"{name}_{kind}": device(function) for name, function in made.items()}
    of_any = {"maximum": maximum, "minimum": minimum, "floordiv": floordiv, "mod": mod, "sign_i32": sign_integer,
              "sign_i64": sign_integer, "random_bits": philox.define(types.uint64, types.int32)}
    names |= vectors.namespace(DTYPES) | {"small": types.int32, "bounded": bounded}
    return names | {name: device(function) for name, function in of_any.items()}
