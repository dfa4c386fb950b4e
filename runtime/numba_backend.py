"""The reference back end: generated kernels compiled by Numba, from the text that ``netc emit --stage numba`` prints.

What a kernel may call is what ``scalar`` gives ours, made known to Numba: intrinsics emit the same LLVM code, functions
are compiled by Numba too.  The runtime's own pieces are those of the target "cpu".  Numba is imported here alone, and
this module only for the target "numba".
"""

from __future__ import annotations

import functools
import inspect
import operator
import threading
import time
from collections.abc import Iterable, Mapping
from types import FunctionType
from typing import Any

import numba
from numba import types
from numba.core.errors import NumbaError
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from . import machine, scalar
from .errors import ModelError
from .kinds import Intrinsic, Kind, Pointer, Typed, boolean, byte, float32, float64, int32, int64
from .machine import Code
from .native import ARGS, BASES
from .simd import use_whole_vectors
from .translate import MAX_SCOPES

KINDS = {types.boolean: boolean, types.int32: int32, types.int64: int64, types.float32: float32,
         types.float64: float64}
TYPES = {kind: type_ for type_, kind in KINDS.items()}

_lock = threading.RLock()
_loaded: dict[str, Code] = {}


def codes(texts: Iterable[str]) -> dict[str, Code]:
    """As ``machine.codes``; what Numba compiled is kept for this process only.  Raises ModelError where Numba fails."""
    texts = list(texts)
    kernels = [text for text in texts if text.startswith("def ")]
    found = machine.codes([text for text in texts if not text.startswith("def ")])
    with _lock:
        for text in kernels:
            if text not in _loaded:
                _loaded[text] = _compile(text)
        return found | {text: _loaded[text] for text in kernels}


def loaded() -> Mapping[str, Code]:
    """Everything that this process has, by text."""
    own = {text: code for text, code in machine.loaded().items() if not text.startswith("def ")}
    return own | _loaded


def _compile(text: str) -> Code:
    """The code of one kernel's source, which defines ``kernel(bases, args, begin, end)``.  Raises ModelError."""
    started = time.perf_counter()
    scope = dict(namespace())
    exec(compile(text, "<netc kernel>", "exec"), scope)
    kernel = types.void(_type_of(BASES), _type_of(ARGS), types.int64, types.int64)
    try:
        # Division by zero gives inf or nan, and no code raises; nothing reassociates.
        compiled = numba.cfunc(kernel, error_model="numpy")(scope["kernel"])
    except NumbaError as error:
        why = " ".join(str(error).split())[:300]
        raise ModelError(f"Numba {numba.__version__} cannot compile a kernel: {why}. The target \"cpu\" needs no "
                         "Numba") from error
    return Code(compiled.address, time.perf_counter() - started, compiled)


# --- what kernels may call --------------------------------------------------------------------------------------------


@functools.cache
def namespace() -> dict[str, Any]:
    """The names that generated source may use, as Numba knows them."""
    return {name: _known(value) for name, value in scalar.namespace().items()}


def _known(value: Any) -> Any:
    """What stands for a value of the kernels' Python in Numba's."""
    if isinstance(value, Intrinsic):
        return _intrinsic(value)
    if isinstance(value, Kind):
        return TYPES[value]
    return _function(value) if isinstance(value, FunctionType) else value


def _function(function: FunctionType):
    """A function of the kernels' Python, compiled by Numba."""
    names = {name: _known(function.__globals__[name]) for name in function.__code__.co_names
             if name in function.__globals__}
    return numba.njit(FunctionType(function.__code__, names, function.__name__), error_model="numpy")


def _intrinsic(ours: Intrinsic):
    """An intrinsic: the same LLVM code, by Numba's rules of conversion."""
    def typed(typingctx, *given):
        arguments = [Typed(KINDS.get(types.unliteral(type_)), constant=getattr(type_, "literal_value", None))
                     for type_ in given]
        emit, result, *kinds = ours.signature(arguments)

        def lower(context, builder, sig, values):
            use_whole_vectors(builder.function)         # of the order of a sum by vectors their width is a part
            return emit(builder, *values)
        return signature(_type_of(result), *map(_type_of, kinds)), lower
    typed.__name__, typed.__signature__ = ours.__name__, _signature_of(ours)
    return intrinsic(prefer_literal=True)(typed)


def _signature_of(ours: Intrinsic) -> inspect.Signature:
    """Of a function that Numba can ask for an intrinsic's types: its arguments by name."""
    own = inspect.signature(ours.rule).parameters.values()
    is_fixed = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in own)         # ``kinds.intrinsic``'s
    count = len(ours.rule()) - 2 if is_fixed else len(own)
    names = ("typingctx", *(f"argument{k}" for k in range(count)))
    return inspect.Signature([inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names])


def _type_of(kind: Kind | Pointer) -> types.Type:
    if isinstance(kind, Kind):
        return TYPES[kind]
    if kind.dtype is byte:
        return types.voidptr
    dtype = _type_of(kind.dtype)
    return Buffer(dtype, kind.scope) if kind.scope >= 0 else types.CPointer(dtype)


# --- buffers: pointers that promise not to overlap --------------------------------------------------------------------


class Buffer(types.Type):
    """A pointer to values; ``scope`` is ``kinds.Pointer``'s, never negative."""

    def __init__(self, dtype: types.Type, scope: int):
        self.dtype, self.scope = dtype, scope
        super().__init__(name=f"Buffer({dtype}, {scope})")


@register_model(Buffer)
class BufferModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, dmm.lookup(fe_type.dtype).get_data_type().as_pointer())


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
    _note_scope(value, builder.module, sig.args[0].scope)
    return context.data_model_manager[sig.return_type].from_data(builder, value)


@lower_builtin(operator.setitem, Buffer, types.Integer, types.Any)
def _store_item(context, builder, sig, args):
    buffer, index, value = args
    data = context.data_model_manager[sig.args[2]].as_data(builder, value)
    store = builder.store(data, builder.gep(buffer, [index], inbounds=True))
    _note_scope(store, builder.module, sig.args[0].scope)


def _note_scope(access, module, scope: int) -> None:
    """Tell LLVM that a load or store belongs to its scope and to no other."""
    domain = module.add_metadata(["netc buffers"])
    scopes = [module.add_metadata([f"netc buffer {i}", domain]) for i in range(MAX_SCOPES)]
    access.set_metadata("alias.scope", module.add_metadata([scopes[scope]]))
    access.set_metadata("noalias", module.add_metadata(scopes[:scope] + scopes[scope + 1:]))
