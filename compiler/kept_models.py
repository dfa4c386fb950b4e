"""Elaborated models in the cache: a file that was elaborated once is not elaborated again."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..runtime import cache
from . import kept
from .model import Model


def elaborate(text: str, filename: str, **options: Any) -> Model:
    """As ``build.elaborate``, but a model that is in the cache is taken from there, and a new one is put there.

    A kept model counts if the files that it imports are what they were.
    """
    key = None
    if all(_is_plain(value) for value in options.values()):
        key = kept.key_of("model", text, filename, repr(sorted(options.items())))
        found = kept.get(key)
        if found is not None and all(_digest(path) == digest for path, digest in found.imports):
            return found
    from .build import elaborate as build
    made = build(text, filename, **options)
    if key is not None:
        made = replace(made, identity=cache.key_of(key, *(part for entry in made.imports for part in entry)))
        kept.put(key, made)
    return made


def _is_plain(value: Any) -> bool:
    """Whether equal texts (by ``repr``) are equal values."""
    if type(value) is dict:
        return _is_plain(tuple(value.items()))
    return value is None or type(value) in (bool, int, float, str) \
        or type(value) in (tuple, list) and all(map(_is_plain, value))


def _digest(path: str) -> str | None:
    try:
        return cache.key_of(Path(os.fspath(path)).read_bytes())
    except OSError:
        return None
