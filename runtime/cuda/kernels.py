"""Kernels of a GPU: sources in, launches out; each compiled once, here or by an earlier process.

What is kept on disk is machine code (a cubin) and the name of its kernel, in the cache that keeps the CPU's objects
(``runtime.cache``), under its signature and its rules.  The simulator compiles nothing.
"""

from __future__ import annotations

import functools
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .. import cache
from ..records import dataclass
from . import door, driver

# The modules, as seen from this one, that shape machine code; their texts are part of every key.
EMITTERS = ("device", "door", "driver", "kernels", "philox", "vectors", "../elementary")
PACKAGES = ("numba-cuda", "numba", "llvmlite", "cuda-bindings")
_ENTRY = re.compile(r"\.visible \.entry (\w+)\(")
_lock = threading.RLock()


@dataclass(frozen=True)
class Code:
    """Machine code and its kernel's name.  ``seconds`` is what compiling it took here, None where the cache had it."""

    entry: str
    content: bytes
    seconds: float | None


@dataclass(frozen=True)
class Kernel:
    """``launch(blocks, threads, stream, bases, args, units)``; ``seconds`` as in Code."""

    launch: Callable[..., None]
    seconds: float | None


_loaded: dict[str, Kernel] = {}


def load(texts: Iterable[str]) -> dict[str, Kernel]:
    """The kernels of these sources, on the current GPU or in the simulator.  Raises DeviceError."""
    with _lock:
        made = {}
        for text in texts:
            if text not in _loaded:
                _loaded[text] = _simulated(text) if door.is_simulated() else _native(text)
            made[text] = _loaded[text]
        return made


def loaded() -> Mapping[str, Kernel]:
    """Everything that this process has, by source."""
    return dict(_loaded)


def code(text: str, capability: tuple[int, int] = door.LEAST_CAPABILITY) -> Code:
    """The machine code of a source for a compute capability, of the cache or made anew; no GPU is needed.  Raises
    DeviceError where NVIDIA's compiler is missing."""
    key = cache.key_of(*_environment(), repr(capability), text)
    entry, separator, content = (cache.get(key) or b"").partition(b"\0")
    if separator:
        return Code(entry.decode(), content, None)
    began = time.perf_counter()
    ptx = door.ptx(text, capability)
    name = _ENTRY.findall(ptx)[0]
    made = Code(name, driver.link(ptx, capability), time.perf_counter() - began)
    cache.put(key, name.encode() + b"\0" + made.content)
    return made


def _native(text: str) -> Kernel:
    made = code(text, door.capability())
    return Kernel(driver.load(made.content, made.entry), made.seconds)


def _simulated(text: str) -> Kernel:
    began = time.perf_counter()
    function = door.simulate(text)

    def launch(blocks: int, threads: int, stream, *words: int) -> None:
        function[blocks, threads, stream](*words)
    return Kernel(launch, time.perf_counter() - began)


@functools.cache
def _environment() -> tuple[str, ...]:
    """All that shapes machine code beside its source: our own modules, the packages, NVIDIA's compiler and linker."""
    own = cache.key_of(*((Path(__file__).parent / f"{name}.py").read_bytes() for name in EMITTERS))
    return (own, *(f"{name} {_version(name)}" for name in PACKAGES), *door.compilers(), sys.version)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
