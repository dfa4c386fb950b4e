"""Machine code of generated kernels: source texts in, addresses out."""

from __future__ import annotations

from functools import partial
from typing import Iterable

from . import machine


def kernel_addresses(texts: Iterable[str]) -> dict[str, int]:
    """The address of the machine code of each kernel's source."""
    return {text: code.address for text, code in machine.codes({text: partial(_build, text) for text in texts}).items()}


def _build(text: str) -> machine.Object:
    from .scalar import build_kernel
    return build_kernel(text)
