"""Machine code that only has to be put somewhere: an object's sections, laid out, and the places that hold addresses.

LLVM's linker takes any object, but its library is 50 MB of memory and 50 ms of loading, most of what a process costs
whose kernels are all in the cache.  What netc's objects need of a linker on Linux on x86-64 is next to nothing: their
relocations are all absolute addresses of 64 bits (R_X86_64_64 of the System V ABI), of places in themselves or of a
few functions of the C library, and nothing in them is written to.  Those become images; any other object is LLVM's.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import struct
from collections.abc import Sequence

from .records import dataclass

ALIGNMENT = 64                  # of sections: no two share a cache line
MAGIC = b"\x7fELF\x02\x01\x01"  # of 64 bits, little-endian
RELOCATABLE, X86_64 = 1, 62     # an object's type and machine
PROGBITS, SYMTAB, RELA, REL = 1, 2, 4, 9            # types of sections
WRITE, ALLOC = 1, 2                                 # flags of sections
ABSOLUTE_64 = 1                                     # the type of a relocation
_HEADER, _SECTION = struct.Struct("<16x2H20xQ10x3H"), struct.Struct("<IIQQQQIIQQ")
_SYMBOL, _RELOCATION = struct.Struct("<IBBHQQ"), struct.Struct("<QQq")
_ADDRESS = struct.Struct("<Q")


@dataclass(frozen=True)
class Image:
    """``content``, with a function that begins at ``entry``.  At each of ``places`` belongs the address of what is at
    the same position of ``targets``, both counted from the content's beginning; at those of ``calls``, the address of
    the C library's function of that name."""

    content: bytes
    entry: int
    places: list[int]
    targets: list[int]
    calls: dict[str, list[int]]


def image_of(content: bytes, symbol: str) -> Image | None:
    """An object file as an image whose entry is ``symbol``; None if it needs anything that images do not have."""
    if not content.startswith(MAGIC) or _HEADER.unpack_from(content)[:2] != (RELOCATABLE, X86_64):
        return None
    try:
        return _Reader(content).image(symbol)
    except _NotSimple:
        return None


class _NotSimple(Exception):
    """An object needs what images do not have."""


class _Reader:
    """The parts of an object file."""

    def __init__(self, content: bytes):
        self.content = content
        _, _, first, size, count, _ = _HEADER.unpack_from(content)
        self.sections = [_SECTION.unpack_from(content, first + size * i) for i in range(count)]
        self.symbols: list[tuple[str, int, int]] = []           # name, section, value
        for _, kind, _, _, offset, size, strings, *_ in self.sections:
            if kind == SYMTAB:
                names = self.sections[strings][4]
                self.symbols = [(self._text(names + name), section, value) for name, _, _, section, value, _
                                in _SYMBOL.iter_unpack(content[offset:offset + size])]

    def _text(self, offset: int) -> str:
        return self.content[offset:self.content.index(b"\0", offset)].decode()

    def image(self, symbol: str) -> Image:
        content, starts = self._lay_out()
        places, targets = [], []
        calls: dict[str, list[int]] = {}
        for place, (name, section, value), addend in self._relocations(starts):
            if section in starts:
                places.append(place)
                targets.append(starts[section] + value + addend)
            elif section == 0 and not addend:
                calls.setdefault(name, []).append(place)
            else:
                raise _NotSimple
        entries = [starts[section] + value for name, section, value in self.symbols
                   if name == symbol and section in starts]
        if len(entries) != 1 or not all(map(_function, calls)):
            raise _NotSimple
        return Image(content, entries[0], places, targets, calls)

    def _lay_out(self) -> tuple[bytes, dict[int, int]]:
        """What belongs in memory, and where in it each section begins."""
        content, starts = bytearray(), {}
        for number, (_, kind, flags, _, offset, size, *_, alignment, _) in enumerate(self.sections):
            if flags & ALLOC and size:
                if kind != PROGBITS or flags & WRITE or alignment > ALIGNMENT:
                    raise _NotSimple
                content += bytes(-len(content) % ALIGNMENT)
                starts[number] = len(content)
                content += self.content[offset:offset + size]
        return bytes(content), starts

    def _relocations(self, starts: dict[int, int]):
        """(place, symbol, addend) of each in a section that belongs in memory."""
        for _, kind, _, _, offset, size, _, section, *_ in self.sections:
            if kind not in (RELA, REL) or section not in starts:
                continue
            if kind == REL:
                raise _NotSimple
            for place, info, addend in _RELOCATION.iter_unpack(self.content[offset:offset + size]):
                if info & 0xFFFFFFFF != ABSOLUTE_64:
                    raise _NotSimple
                yield starts[section] + place, self.symbols[info >> 32], addend


@functools.cache
def _library() -> ctypes.CDLL:
    """What this process has loaded, the C library among it."""
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long
    library.mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    return library


@functools.cache
def _function(name: str) -> int:
    """The address of a function of the C library; 0 if this process has none of that name."""
    function = getattr(_library(), name, None)
    return ctypes.cast(function, ctypes.c_void_p).value or 0 if function else 0


def place(images: Sequence[Image]) -> list[int]:
    """Put images in memory, where they can be run but no longer written: the addresses of their functions.

    Raises OSError where the system has no memory, or does not let a process run code that it wrote.
    """
    starts, size = [], 0
    for image in images:
        starts.append(size)
        size += len(image.content) + -len(image.content) % ALIGNMENT
    base = _map(size)
    memory = (ctypes.c_char * size).from_address(base)
    for image, start in zip(images, starts):
        ctypes.memmove(base + start, image.content, len(image.content))
        for at, target in zip(image.places, image.targets):
            _ADDRESS.pack_into(memory, start + at, base + start + target)
        for name, places in image.calls.items():
            for at in places:
                _ADDRESS.pack_into(memory, start + at, _function(name))
    _protect(base, size)
    return [base + start + image.entry for image, start in zip(images, starts)]


def _map(size: int) -> int:
    """The address of new memory.  It is nobody's to free: threads may run in it until the process is gone, longer than
    any object of Python's lives."""
    base = _library().mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    if base in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "no memory for machine code")
    return base


def _protect(base: int, size: int) -> None:
    """Let a mapping be read and run, no longer written."""
    if _library().mprotect(base, size, mmap.PROT_READ | mmap.PROT_EXEC):
        raise OSError(ctypes.get_errno(), "the system does not let this process run code that it has made")
