"""The figure of a run, as SVG: each row a line, each implementation a mark at its time over the floor.  The axis is
logarithmic."""

from __future__ import annotations

import math
from html import escape

from .measure import Row
from .peers import NETC, PEERS
from .report import LEAST_FLOOR

WIDTH, LEFT, RIGHT, LINE, HEAD = 900, 170, 30, 22, 70
GRID = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
COLOURS = {"netc": "#d62728", "torch": "#1f77b4", "torch.compile": "#17becf", "jax": "#2ca02c",
           "onnxruntime": "#9467bd", "openvino": "#8c564b"}
OTHER = "#7f7f7f"
FONT = 'font-family="sans-serif" font-size="12"'


def svg(rows: list[Row]) -> str:
    """A panel a job; rows without a floor worth the name (tiny models) are left out."""
    jobs = list(dict.fromkeys(row.job for row in rows))
    drawn = [row for row in rows if row.netc.median and row.floor and row.floor > LEAST_FLOOR]
    panels = [(job, found) for job in jobs if (found := [row for row in drawn if row.job == job])]
    parts, top = [], 0
    for job, found in panels:
        parts += _panel(job, found, top)
        top += HEAD + LINE * len(found) + 40
    parts += _legend({name for _, found in panels for row in found for name in row.timings}, top)
    height = top + 30
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{height}" fill="white"/>', *parts, "</svg>\n"])


def _panel(job: str, rows: list[Row], top: int) -> list[str]:
    largest = max(timing.median / row.floor for row in rows for timing in row.timings.values()
                  if timing.median and row.floor)
    last = next((mark for mark in GRID if mark >= largest), GRID[-1])

    def x(ratio: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(max(ratio, 1)) / math.log(max(last, 2))
    bottom = top + HEAD + LINE * len(rows)
    title = f"{job}: time over the machine's floor (1 = the limit, less is better)"
    parts = [_text(10, top + 24, title, 'font-weight="bold"')]
    for mark in GRID:
        if mark <= last:
            parts.append(f'<line x1="{x(mark):.1f}" y1="{top + HEAD - 14}" x2="{x(mark):.1f}" y2="{bottom}" '
                         'stroke="#ddd"/>')
            parts.append(_text(x(mark), top + HEAD - 20, f"{mark}x", 'text-anchor="middle" fill="#666"'))
    for number, row in enumerate(rows):
        y = top + HEAD + LINE * number + LINE // 2 - 4
        parts.append(_text(LEFT - 12, y + 4, f"{row.model}, batch {row.batch}", 'text-anchor="end"'))
        parts.append(f'<line x1="{LEFT}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}" stroke="#f0f0f0"/>')
        for name, timing in reversed(row.timings.items()):          # netc last, on top
            if timing.median and row.floor and timing.agrees:
                ratio = timing.median / row.floor
                tip = f"{name}: {timing.median * 1e3:.4g} ms, {ratio:.3g}x the floor"
                parts.append(_mark(x(ratio), y, name, 6 if name == NETC.name else 4.5, tip))
    return parts


def _legend(names: set[str], top: int) -> list[str]:
    parts, left = [], LEFT
    for name in (NETC.name, *PEERS):
        if name in names:
            parts += [_mark(left, top, name, 5), _text(left + 10, top + 4, name)]
            left += 30 + 8 * len(name)
    return parts


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y}" {FONT} {more}>{escape(text)}</text>'


def _mark(x: float, y: float, name: str, radius: float, tip: str = "") -> str:
    inside = f"<title>{escape(tip)}</title>" if tip else ""
    return f'<circle cx="{x:.1f}" cy="{y}" r="{radius}" fill="{COLOURS.get(name, OTHER)}">{inside}</circle>'
