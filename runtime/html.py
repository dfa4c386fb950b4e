"""Tables for a notebook.  Everything that comes from a model or a file is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_STYLE = ("border-collapse:collapse;font-size:12px;font-variant-numeric:tabular-nums",
          "padding:1px 10px 1px 0;text-align:{};white-space:pre;border:0",
          "border-bottom:1px solid currentColor;font-weight:600;")


def table(heading: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """A table; the columns in ``numbers`` are aligned right."""
    numbers = set(numbers)
    cell = [_STYLE[1].format("right" if column in numbers else "left") for column in range(len(heading))]
    head = "".join(f'<th style="{_STYLE[2]}{cell[k]}">{escape(text)}</th>' for k, text in enumerate(heading))
    body = "".join("<tr>" + "".join(f'<td style="{cell[k]}">{escape(text)}</td>' for k, text in enumerate(row))
                   + "</tr>"
                   for row in rows)
    return f'<table style="{_STYLE[0]}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def block(title: str, content: str, lines: Iterable[str] = ()) -> str:
    """A titled piece of a page: ``content`` is HTML, the title and the lines below it are text."""
    below = "".join(f"<div>{escape(line)}</div>" for line in lines)
    return f'<div><div style="font-weight:600;padding:4px 0">{escape(title)}</div>{content}{below}</div>'
