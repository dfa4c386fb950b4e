"""The processor that code is made for, as LLVM names it, and what follows from that."""

from __future__ import annotations

import functools
import json

from . import cache
from .records import dataclass

CPU_FILE = "/proc/cpuinfo"
# The lines of that file, for one processor, that its name and its features follow from.
CPU_LINES = {"vendor_id", "cpu family", "model", "stepping", "flags"}


@dataclass(frozen=True)
class Host:
    """LLVM's words: the triple of this process, the processor's name, and its features, "+avx,-avx512f,..."."""

    triple: str
    cpu: str
    features: str


@functools.cache
def host() -> Host:
    """This host.  LLVM's binding takes long to import: what it said of such a processor is kept in the cache."""
    import llvmlite
    cpu = _cpu()
    key = cache.key_of("host", llvmlite.__version__, cpu)
    kept = cache.get(key) if cpu else None
    if kept is not None:
        return Host(*json.loads(kept))
    asked = _ask()
    if cpu:
        cache.put(key, json.dumps([asked.triple, asked.cpu, asked.features]).encode())
    return asked


def _cpu() -> str:
    """What the system says of the first processor, if it says enough to tell it from others, else ""."""
    found = {}
    try:
        with open(CPU_FILE, encoding="utf-8") as file:
            for line in file:
                name, _, value = line.partition(":")
                found[name.strip()] = value.strip()
                if not line.strip():
                    break
    except (OSError, UnicodeDecodeError):
        return ""
    return repr(sorted(item for item in found.items() if item[0] in CPU_LINES)) if found.keys() >= CPU_LINES else ""


def _ask() -> Host:
    import llvmlite.binding as llvm
    try:
        features = llvm.get_host_cpu_features().flatten()
    except RuntimeError:            # LLVM does not know this host's features
        features = ""
    return Host(llvm.get_process_triple(), llvm.get_host_cpu_name(), features)


@functools.cache
def _features() -> frozenset[str]:
    return frozenset(host().features.split(","))


@functools.cache
def vector_bytes() -> int:
    """Bytes of a vector register that code on this host uses: 64 AVX-512, 32 AVX, 16 SSE and NEON."""
    if _features() >= {"+avx512f", "+avx512vl"}:
        return 64
    return 32 if is_avx() else 16


@functools.cache
def vector_registers() -> int:
    """Vector registers of the host: 32 with AVX-512 and NEON, else 16."""
    return 32 if vector_bytes() == 64 or "+neon" in _features() else 16


def has_mask_registers() -> bool:
    """Whether loads and stores of some lanes alone cost no more than whole ones."""
    return vector_bytes() == 64


def is_avx() -> bool:
    """Whether the host has AVX: vectors of 8 floats, and x86's own instructions for them."""
    return "+avx" in _features()
