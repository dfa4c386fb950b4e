"""From the text that stands for a piece of code to its object.  This module is imported only to compile."""

from __future__ import annotations

from .machine import Object


def build(text: str) -> Object:
    """The object of a kernel's source, or of one of the runtime's own pieces: "runner NAME", "roofline NAME",
    "contract DTYPE", "pack DTYPE", "total DTYPE", "tile DTYPE ROWS VECTORS LAST PANEL ASKS"."""
    if text.startswith("def "):
        from .scalar import build_kernel
        return build_kernel(text)
    kind, *settings = text.split(" ")
    if kind == "runner":
        from .walker import build as build_runner
        return build_runner(*settings)
    if kind == "roofline":
        from .roofline_code import build as build_roofline
        return build_roofline(*settings)
    if kind == "tile":
        from .tile_code import build_tile
        dtype, *numbers = settings
        return build_tile(dtype, *map(int, numbers))
    if kind == "pack":
        from .packing_code import build_pack
        return build_pack(*settings)
    from .contract_code import build_contract, build_total
    return {"contract": build_contract, "total": build_total}[kind](*settings)
