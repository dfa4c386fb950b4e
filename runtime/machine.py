"""Machine code: objects in, addresses out; each compiled once, here or by an earlier process.

What runs is always an object file, fresh or from the cache, linked by LLVM's own linker in this process.  Numba is only
imported where something has to be compiled.
"""

from __future__ import annotations

import functools
import hashlib
import platform
import threading
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Callable

import llvmlite.binding as llvm

from . import cache


@dataclass(frozen=True)
class Object:
    """An object file and the symbol in it that is wanted."""

    symbol: str
    content: bytes


@dataclass(frozen=True)
class Code:
    """Machine code in this process; it lives as long as ``engine``, which never ends."""

    address: int
    engine: object


@dataclass
class Counts:
    """How many pieces of code this process compiled, and how many it took from the cache."""

    compiled: int = 0
    cached: int = 0

    @property
    def total(self) -> int:
        return self.compiled + self.cached


counts = Counts()
_lock = threading.RLock()
_loaded: dict[str, Code] = {}


def code(text: str, build: Callable[[], Object]) -> Code:
    """The code that ``text`` stands for: compiled by ``build`` if neither this process nor the cache has it."""
    with _lock:
        if text not in _loaded:
            key = _key(text)
            stored = cache.get(key)
            if stored is not None:
                symbol, _, content = stored.partition(b"\0")
                made = Object(symbol.decode(), content)
                counts.cached += 1
            else:
                made = build()
                counts.compiled += 1
                cache.put(key, made.symbol.encode() + b"\0" + made.content)
            _loaded[text] = link(made)
        return _loaded[text]


def _key(text: str) -> str:
    digest = hashlib.blake2b(digest_size=24)
    for part in (*_environment(), text):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()


@functools.cache
def _environment() -> tuple[str, ...]:
    """All that shapes the code beside its text: our own emitters, the compilers, and the processor."""
    own = hashlib.blake2b(digest_size=16)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        own.update(path.name.encode() + b"\0" + path.read_bytes())
    return (own.hexdigest(), metadata.version("numba"), metadata.version("llvmlite"), platform.python_version(),
            llvm.get_process_triple(), llvm.get_host_cpu_name(), _features())


def _features() -> str:
    try:
        return llvm.get_host_cpu_features().flatten()
    except RuntimeError:            # LLVM does not know this host's features
        return ""


@functools.cache
def _target():
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_triple(llvm.get_process_triple())


def link(made: Object) -> Code:
    """Each object has an engine of its own: names inside objects of different processes may be the same."""
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target().create_target_machine(jit=True))
    engine.add_object_file(llvm.ObjectFileRef.from_data(made.content))
    engine.finalize_object()
    return Code(engine.get_function_address(made.symbol), engine)


# --- the host ---------------------------------------------------------------------------------------------------------


@functools.cache
def vector_bytes() -> int:
    """Bytes of a vector register that Numba's code on this host uses: 64 AVX-512, 32 AVX, 16 SSE and NEON."""
    features = _features()
    if "+avx512f" in features and "+avx512vl" in features:
        return 64
    return 32 if "+avx," in features + "," else 16


@functools.cache
def vector_registers() -> int:
    """Vector registers of the host: 32 with AVX-512 and NEON, else 16."""
    return 32 if vector_bytes() == 64 or "+neon" in _features() else 16
