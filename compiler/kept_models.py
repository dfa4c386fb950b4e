"""Elaborated models, and what there is to say about files, in the cache: a file that was elaborated once is not
elaborated again.

What is kept about a file counts only if the files that it imports are what they were.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import astuple, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime import cache
from ..runtime.records import dataclass
from . import kept
from .collector import paused

if TYPE_CHECKING:
    from .model import Model  # with all of the graph, which a kept report does not need
    from .summary import Summary


def elaborate(text: str, filename: str, is_new: Callable[[], object] = lambda: None, keeps: bool = True,
              **options: Any) -> Model:
    """As ``build.elaborate``, but a model that is in the cache is taken from there, and a new one is put there if
    ``keeps``.  ``is_new`` is called before work on a new one begins."""
    key = None
    if all(_is_plain(value) for value in options.values()):
        key = kept.key_of("model", text, filename, repr(sorted(options.items())))
        found = kept.get(key)
        if found is not None and _unchanged(found.imports):
            return replace(found, is_kept=True)
    is_new()
    from .build import elaborate as build
    made = build(text, filename, **options)
    if key is not None and keeps:
        made = replace(made, identity=cache.key_of(key, *(part for entry in made.imports for part in entry)))
        kept.put(key, made)
    return made


@dataclass(frozen=True)
class Report:
    """What ``netc check`` says of a file: its messages and what to do about them, or else what is in it.  ``read``
    lists the files that it imports, there or not."""

    fine: bool
    messages: list[str]
    advice: str
    contents: str
    read: list[str]


@paused()
def report(data: bytes, filename: str, model: str | None, precision: str) -> Report:
    """The report on a file, of the cache if it is there."""
    key = kept.key_of("report", data, filename, repr(model), precision)
    content = cache.get(key)
    if content is not None:
        imports, values = json.loads(content)
        if _unchanged(imports):
            return Report(*values)
    from .build import inspect
    found = inspect(data, filename, model, precision)
    made = _report(found)
    if set(found.imports) == found.read:        # nothing that is missing
        cache.put(key, json.dumps((sorted(found.imports.items()), astuple(made))).encode())
    return made


def _report(found) -> Report:
    from .diagnostics import Diagnostics
    return Report(not found.errors, [item.render() for item in found.diagnostics], Diagnostics(found.errors).advice,
                  "" if found.errors else _contents(found), sorted(found.read))


def _contents(found) -> str:
    """What is in a file: the model that is compiled, or how many models and functions others may use."""
    if found.model is not None:
        parameters = sum(variable.type.size for variable in found.model.parameters)
        return f"{found.model.name}, {parameters:,} parameters"
    counts = [(len(found.file.models), "model"), (len(found.file.defs), "function"),
              (len(found.file.consts), "constant")]
    said = [f"{count} {noun}{'s' if count > 1 else ''}" for count, noun in counts if count]
    return ", ".join(said) or "nothing but its version"


@dataclass(frozen=True)
class Shown:
    """A summary in the forms in which ``netc summary`` shows it: as plain text, as plain data, and in parts for a
    terminal (each row's kind, depth and cells; the lines below)."""

    model: str
    text: str
    data: dict
    rows: list[list]
    totals: list[str]


def shown(data: bytes, filename: str, options: tuple, make: Callable[[], tuple[Model, Summary]]) -> Shown:
    """The summary of a file with these options, of the cache if it is there; ``make`` elaborates the file and gives the
    model and its Summary."""
    key = kept.key_of("shown summary", data, filename, repr(options))
    content = cache.get(key)
    if content is not None:
        imports, values = json.loads(content)
        if _unchanged(imports):
            return Shown(*values)
    model, found = make()
    made = Shown(found.model, str(found), found.to_dict(),
                 [[row.kind, row.depth, *cells] for row, cells in zip(found.rows, found.table())], found.totals())
    cache.put(key, json.dumps((sorted(model.imports), astuple(made))).encode())
    return made


@paused()
def formatted(text: str, filename: str) -> str:
    """As ``format.format_text``, but what is in the cache is taken from there."""
    key = kept.key_of("formatted", text)
    content = cache.get(key)
    if content is not None:
        return content.decode()
    from .format import format_text
    made = format_text(text, filename)
    cache.put(key, made.encode())
    return made


def _is_plain(value: Any) -> bool:
    """Whether equal texts (by ``repr``) are equal values."""
    if type(value) is dict:
        return _is_plain(tuple(value.items()))
    return value is None or type(value) in (bool, int, float, str) \
        or type(value) in (tuple, list) and all(map(_is_plain, value))


def _unchanged(imports: Iterable[tuple[str, str]]) -> bool:
    return all(_digest(path) == digest for path, digest in imports)


def _digest(path: str) -> str | None:
    try:
        return cache.key_of(Path(path).read_bytes())
    except OSError:
        return None
