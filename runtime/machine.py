"""Machine code: objects in, addresses out; each compiled once, here or by an earlier process.

What runs is always an object file, fresh or from the cache, put in this process's memory as it is (``images``), or by
LLVM's linker where that takes more.  What makes objects is only imported where something has to be compiled.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from . import cache
from .deferred import np
from .host import host
from .images import image_of, place
from .records import dataclass

# The modules beside this one that shape machine code; their texts are part of every key.
EMITTERS = ("builders", "contract_code", "elementary", "entry", "host", "kinds", "machine", "math", "native",
            "packing_code", "random", "records", "roofline", "roofline_code", "runner", "scalar", "simd", "tile",
            "tile_code", "translate", "vectors", "walker")


@dataclass(frozen=True)
class Object:
    """An object file and its only visible symbol; ``bitcode`` is LLVM's module that it was made of, where it was made
    here."""

    symbol: str
    content: bytes
    bitcode: bytes | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Code:
    """Machine code in this process, where it stays.

    ``seconds`` is what compiling it took here, None where it came from the cache; ``engine`` is what owns the memory,
    where LLVM or Numba linked it.
    """

    address: int
    seconds: float | None = None
    engine: object = None


@dataclass
class Counts:
    """How many pieces of code this process compiled, and how many it took from the cache."""

    compiled: int = 0
    cached: int = 0

    @property
    def total(self) -> int:
        return self.compiled + self.cached


counts = Counts()
lock = threading.RLock()
_loaded: dict[str, Code] = {}

# A child forked while another thread compiles would find LLVM half way, and this lock held forever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)


def code(text: str) -> Code:
    """The code that ``text`` stands for (see ``builders``): compiled if neither this process nor the cache has it."""
    return codes([text])[text]


def codes(texts: Iterable[str]) -> dict[str, Code]:
    """``code`` for several texts: linked together, and compiled side by side, they take far less time than one by
    one."""
    texts = list(texts)
    found = {text: _loaded[text] for text in texts if text in _loaded}
    if len(found) == len(texts):
        return found
    with lock:
        missing = {text: _key(text) for text in dict.fromkeys(texts) if text not in _loaded}
        stored = _link_stored(missing)
        _loaded.update(stored)
        counts.cached += len(stored)
        _compile([text for text in missing if text not in stored], missing)
        return {text: _loaded[text] for text in texts}


def _compile(texts: list[str], keys: Mapping[str, str]) -> None:
    """Compile what the cache does not have, and keep it there."""
    if not texts:
        return
    from .workers import build_all
    made = {}
    for text, built, seconds in build_all(texts):
        cache.put(keys[text], built.symbol.encode() + b"\0" + built.content)
        made[text] = built, seconds
        counts.compiled += 1
    linked = link_all(built for built, _ in made.values())
    for (text, (_, seconds)), code in zip(made.items(), linked):
        _loaded[text] = Code(code.address, seconds, code.engine)


def loaded() -> Mapping[str, Code]:
    """Everything that this process has, by text."""
    return dict(_loaded)


def is_kept(text: str) -> bool:
    """Whether the cache has the code of a text."""
    return cache.get(_key(text)) is not None


def _link_stored(keys: Mapping[str, str]) -> dict[str, Code]:
    """The code of those texts, given with their keys, that the cache has and that links."""
    stored = {}
    for text, key in keys.items():
        content = cache.get(key)
        if content is not None:
            symbol, _, rest = content.partition(b"\0")
            stored[text] = Object(symbol.decode(), rest)
    try:
        linked = link_all(stored.values())
    except (LinkError, RuntimeError):       # the latter is LLVM's
        return {}
    return dict(zip(stored, linked))


def _key(text: str) -> str:
    return cache.key_of(*_environment(), text)


@functools.cache
def _environment() -> tuple[str, ...]:
    """All that shapes the code beside its text: our own emitters, the compilers, the processor, the C library."""
    own = [(Path(__file__).with_name(f"{name}.py")).read_bytes() for name in EMITTERS]
    import llvmlite
    return (cache.key_of(*own), llvmlite.__version__, np.__version__, sys.version, c_library(),
            host().triple, host().cpu, host().features)


def llvm():
    """LLVM's binding, which takes long to import, and as much memory as all else: imported to compile."""
    import llvmlite.binding
    return llvmlite.binding


def c_library() -> str:
    """The C library whose functions compiled code calls."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):
        return ""


@functools.cache
def _target():
    llvm().initialize_native_target()
    llvm().initialize_native_asmprinter()
    return llvm().Target.from_triple(host().triple)


@functools.cache
def target_machine():
    """What code is made for: this host, within this process."""
    is_x86 = _target().name.startswith("x86")
    return _target().create_target_machine(cpu=host().cpu, features=host().features, opt=3, jit=True,
                                           reloc="static" if is_x86 else "default", codemodel="jitdefault")


def emit_code(module: Any, as_text: bool = False) -> Any:
    """An optimised module's machine code: an object file, or assembly.  It alters the module.

    LLVM leaves the indices in loops as they are written.  To look for better ones takes it longer than all else where a
    loop has many arrays and strides, and what it finds is slower: it needs more registers.
    """
    with lock:                         # the switch is the whole process's
        llvm().set_option("netc", "-disable-lsr=true")
        try:
            return target_machine().emit_assembly(module) if as_text else target_machine().emit_object(module)
        finally:
            llvm().set_option("netc", "-disable-lsr=false")


class LinkError(Exception):
    """An object does not hold what it should."""


def link(made: Object) -> Code:
    """The object's code."""
    return link_all([made])[0]


def link_all(objects: Iterable[Object]) -> list[Code]:
    """The objects' code.  Their symbols must differ.  Raises LinkError."""
    objects = list(objects)
    if not objects:
        return []
    images = [image for made in objects if (image := image_of(made.content, made.symbol)) is not None]
    if len(images) < len(objects):
        return _link_by_llvm(objects)
    return [Code(address) for address in place(images)]


def _link_by_llvm(objects: list[Object]) -> list[Code]:
    engine = llvm().create_mcjit_compiler(llvm().parse_assembly(""), _target().create_target_machine(jit=True))
    for made in objects:
        engine.add_object_file(llvm().ObjectFileRef.from_data(made.content))
    engine.finalize_object()
    linked = [Code(engine.get_function_address(made.symbol), engine=engine) for made in objects]
    if not all(code.address for code in linked):
        raise LinkError("an object lacks its symbol")
    return linked
