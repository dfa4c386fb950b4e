"""What kernels became, for a reader: LLVM's language or assembly of exactly the code that is linked.

A kernel that came from the cache is compiled again for this: the cache keeps machine code alone, and equal texts give
equal code.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import machine
from .tile import HEIGHTS, TILES

FORMS = ("llvm", "asm")


def texts_of(table: Sequence[Sequence[int]], words: Sequence[int]) -> list[str]:
    """The texts of the kernels that a table of steps (address, offset of its words, ...) calls, in order of first use;
    those of the tiles that a product calls come after it."""
    by_address = {code.address: text for text, code in machine.loaded().items()}
    found: dict[str, None] = {}
    for address, offset, *_ in table:
        text = by_address[int(address)]
        found[text] = None
        if text.startswith("contract "):
            tiles = words[offset + TILES:offset + TILES + 2 * HEIGHTS]
            found.update(dict.fromkeys(by_address[int(tile)] for tile in tiles if tile))
    return list(found)


def listing(text: str, form: str) -> str:
    """The code of a kernel in one of ``FORMS``."""
    from .builders import build
    module = machine.llvm().parse_bitcode(build(text).bitcode)
    return str(module) if form == "llvm" else machine.emit_code(module, as_text=True)
