"""The formatter of `.net` files: tokens and comments in (`trivia`), documents (`style`), lines out (`doc`).

    trivia    the tokens of a text with the comments between them
    doc       text that may break, and the printer
    style     the canonical form, a method a rule of the grammar
"""

from __future__ import annotations

import sys
from dataclasses import fields
from typing import Any

from ...runtime.errors import NetcError
from ..diagnostics import Diagnostics
from ..parser import Parsed, parse_stages
from ..syntax import Node
from .style import Style, lines_of
from .trivia import Tokens

__all__ = ["FormatError", "comments_of", "format_text", "same_program"]

RECURSION_LIMIT = 10_000        # frames; the depth of a text's nesting is bounded by the parser


class FormatError(NetcError):
    """The formatter's own mistake: its result would have been another program."""


def format_text(text: str | bytes, filename: str = "<text>") -> str:
    """The text in its canonical form: the same program with the same comments; formatting it again changes nothing.

    Raises Diagnostics where the text does not parse.
    """
    parsed = parse_stages(text, filename)
    if parsed.errors:
        raise Diagnostics(parsed.errors)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, RECURSION_LIMIT))
    try:
        result = "\n".join(lines_of(Style(parsed).file(parsed.concrete))) + "\n"
    finally:
        sys.setrecursionlimit(limit)
    check(parsed, parse_stages(result, filename))
    return result


def check(before: Parsed, after: Parsed) -> None:
    """Holds the result against the text: a formatter overwrites its input, and so must never change what it means."""
    if after.errors or not same_program(before.file, after.file) or comments_of(before) != comments_of(after):
        raise FormatError(f"{before.source.file}: left as it is: the formatted text would be another program, which is "
                          "a bug of netc fmt; please report it with the file")


def comments_of(parsed: Parsed) -> list[str]:
    """The comments of a text, in order."""
    return [comment.text for gap in Tokens(parsed).gaps for comment in gap]


def same_program(a: Node, b: Node) -> bool:
    """Whether two trees differ in nothing but the places of their nodes; no recursion."""
    pairs: list[tuple[Any, Any]] = [(a, b)]
    while pairs:
        x, y = pairs.pop()
        if type(x) is not type(y):
            return False
        if isinstance(x, tuple):
            if len(x) != len(y):
                return False
            pairs += zip(x, y)
        elif isinstance(x, Node):
            pairs += [(getattr(x, name), getattr(y, name)) for name in (field.name for field in fields(x))
                      if not name.endswith("span") and name != "header"]
        elif x != y:
            return False
    return True
