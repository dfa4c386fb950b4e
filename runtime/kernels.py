"""Machine code of generated kernels: source text in, address out."""

from __future__ import annotations

from . import machine


def kernel_address(text: str) -> int:
    """The address of the machine code of one kernel's source."""
    def build():
        from .scalar import build_kernel
        return build_kernel(text)
    return machine.code(text, build).address
