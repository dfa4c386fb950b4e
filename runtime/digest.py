"""Digests, without the modules that they are documented in: those load OpenSSL, whose digests nobody here needs, which
takes longer than to read a program and to link it."""

from __future__ import annotations

try:
    from _blake2 import blake2b
    from _operator import _compare_digest as compare_digest
except ImportError:                 # another Python
    from hashlib import blake2b
    from hmac import compare_digest  # type: ignore[no-redef]

__all__ = ["blake2b", "compare_digest"]
