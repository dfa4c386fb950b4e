"""Syntax trees in the cache, by the text that they stand for: a file that was parsed once is not parsed again, and a
process that only meets such files never imports the parser.

A tree is kept as rows, one a node, children before parents: the node's class, then its fields in order.  A span is four
numbers, a child is the number of its row, everything else stands for itself; so nothing is executed to read it back,
and there is no recursion.
"""

from __future__ import annotations

import marshal
from collections.abc import Iterable, Sequence
from dataclasses import fields
from functools import cache as once
from typing import Any

from ..runtime import cache
from . import kept, syntax
from .diagnostics import Source, Span
from .source import read

PLAIN = {"str", "int", "float", "bool", "None"}


def parse(text: str | bytes, filename: str) -> syntax.File:
    """As ``parser.parse``, but a tree that is in the cache is taken from there, and a new one is put there."""
    source = read(text, filename)
    key = kept.key_of("syntax tree", source.text)
    content = cache.get(key)
    if content is not None:
        return decode(content, source)
    from .parser import parse as parse_text
    tree = parse_text(text, filename)
    cache.put(key, encode(tree))
    return tree


@once
def _classes() -> tuple[tuple[type, tuple[str, ...], tuple[str, ...]], ...]:
    """The classes of nodes, each with its fields and what kind of value each of these has."""
    found = [value for value in vars(syntax).values() if isinstance(value, type) and issubclass(value, syntax.Node)]
    return tuple((kind, tuple(field.name for field in fields(kind)),
                  tuple(_kind(str(field.type)) for field in fields(kind)))
                 for kind in sorted(found, key=lambda kind: kind.__name__))


def _kind(annotation: str) -> str:
    if annotation == "Span":
        return "span"
    return "plain" if {part.strip() for part in annotation.split("|")} <= PLAIN else "nodes"


def form() -> str:
    """What rows are made of: the classes of nodes and their fields."""
    return repr([(kind.__name__, *zip(names, kinds)) for kind, names, kinds in _classes()])


def encode(root: syntax.File) -> bytes:
    """The tree without its text."""
    return marshal.dumps(rows_of(root))


def rows_of(root: syntax.File) -> list[tuple]:
    """The tree without its text, as rows of plain values."""
    places = {kind: (place, names, kinds) for place, (kind, names, kinds) in enumerate(_classes())}
    rows: list[tuple] = []
    numbers: dict[int, int] = {}            # of nodes, by id

    def value(kind: str, given):
        if kind == "span":
            return given.line, given.column, given.end_line, given.end_column
        if kind == "plain" or given is None:
            return given
        return tuple(numbers[id(node)] for node in given) if isinstance(given, tuple) else numbers[id(given)]

    pending: list[tuple[syntax.Node, bool]] = [(root, False)]
    while pending:
        node, is_ready = pending.pop()
        if id(node) in numbers:
            continue
        place, names, kinds = places[type(node)]
        values = [getattr(node, name) for name in names]
        if is_ready:
            numbers[id(node)] = len(rows)
            rows.append((place, *map(value, kinds, values)))
            continue
        pending.append((node, True))
        for kind, given in zip(kinds, values):
            if kind == "nodes" and given is not None:
                pending += [(child, False) for child in (given if isinstance(given, tuple) else (given,))]
    return rows


def decode(content: bytes, source: Source) -> syntax.File:
    """The tree of ``encode``, which comes from the cache and so is believed, over its text."""
    return tree_of(marshal.loads(content), source)


def tree_of(rows: Iterable[Sequence], source: Source) -> syntax.File:
    """The tree of ``rows_of``, over its text."""
    classes = [(kind, [at for at, what in enumerate(kinds, 1) if what == "span"],
                [at for at, what in enumerate(kinds, 1) if what == "nodes"]) for kind, _, kinds in _classes()]
    nodes: list[Any] = []
    for row in rows:
        kind, spans, children = classes[row[0]]
        values = list(row)
        for at in spans:
            values[at] = Span(source, *values[at])
        for at in children:
            given = values[at]
            if given is not None:
                values[at] = nodes[given] if type(given) is int else tuple([nodes[number] for number in given])
        nodes.append(kind(*values[1:]))
    return nodes[-1]
