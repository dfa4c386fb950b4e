"""What the compiler made, kept in the cache: models and compiled programs, by all that determines them."""

from __future__ import annotations

import functools
import os
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ..runtime import cache

ROOT = Path(__file__).resolve().parent.parent
T = TypeVar("T")


def kept(key: str | None, make: Callable[[], T]) -> T:
    """What the cache has under a key, else what ``make`` gives, which is kept.  Without a key nothing is kept."""
    found = get(key) if key is not None else None
    if found is None:
        found = make()
        if key is not None:
            put(key, found)
    return found


def get(key: str) -> Any:
    """What was put under a key; None if there is nothing."""
    content = cache.get(key)
    if content is None:
        return None
    from .pickles import loads
    return loads(zlib.decompress(content))


def put(key: str, value: Any) -> None:
    from .pickles import dumps
    cache.put(key, zlib.compress(dumps(value), 1))


def key_of(*parts: str | bytes) -> str:
    """The key of these texts for this version of the compiler."""
    return cache.key_of("kept", _version(), *parts)


@functools.cache
def _version() -> str:
    """The key of everything beside its input that determines what the compiler makes."""
    files = [os.path.join(ROOT, "runtime", name) for name in ("records.py", "weights.py", "cuda/words.py")]
    for folder in ("compiler", "grammar"):
        for place, _, names in os.walk(os.path.join(ROOT, folder)):
            if os.path.basename(place) != "cli":
                files += [os.path.join(place, name) for name in names
                          if name.endswith((".py", ".net", ".lark", ".json"))]
    return cache.key_of(sys.version, *map(_content, sorted(files)))


def _content(file: str) -> bytes:
    with open(file, "rb", buffering=0) as opened:       # there are many, each read at once
        return opened.readall()
