"""A line chart as SVG, for a notebook: no library is needed to look at a curve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")
WIDTH, PLOT, LEFT, RIGHT, TOP, BOTTOM = 360, 168, 52, 10, 30, 26     # PLOT: the height of what the curves fill
VALIDATION = "val_"


def lines(title: str, curves: Mapping[str, Sequence[float]]) -> str:
    """Curves over 1, 2, 3 ...; those of validation are dashed in the colour of their training curve.  What is no finite
    number is left out, and a curve that is the same as one before, as a model's only loss is."""
    drawn: dict[str, Sequence[float]] = {}
    for name, curve in curves.items():
        if not any(list(curve) == list(other) for other in drawn.values()):
            drawn[name] = curve
    values = [value for curve in drawn.values() for value in curve if math.isfinite(value)]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    count = max((len(curve) for curve in drawn.values()), default=0)
    plain = [name for name in drawn if not name.startswith(VALIDATION)]
    colours = {name: COLOURS[(plain.index(base) if (base := name.removeprefix(VALIDATION)) in plain else position)
                             % len(COLOURS)] for position, name in enumerate(drawn)}
    legend, top = _legend(colours)
    bottom = top + PLOT

    def x(number: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * ((number - 1) / (count - 1) if count > 1 else 0.5)

    def y(value: float) -> float:
        return bottom - PLOT * (value - low) / (high - low)
    parts = [f'<text x="{LEFT}" y="14" font-weight="600">{escape(title)}</text>', *legend]
    parts.extend(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="currentColor" '
                 f'stroke-opacity="0.15"/><text x="{LEFT - 5}" y="{y(tick) + 4:.1f}" '
                 f'text-anchor="end">{tick:.3g}</text>'
                 for tick in ticks(low, high))
    parts.extend(f'<text x="{x(number):.1f}" y="{bottom + 18}" text-anchor="middle">{number}</text>'
                 for number in dict.fromkeys((1, count)))
    parts.extend(_curve([(x(k), y(value)) for k, value in enumerate(curve, 1) if math.isfinite(value)], colours[name],
                        name.startswith(VALIDATION)) for name, curve in drawn.items())
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{bottom + BOTTOM}" font-size="11" '
            f'font-family="sans-serif" fill="currentColor">{"".join(parts)}</svg>')


def _legend(colours: Mapping[str, str]) -> tuple[list[str], int]:
    """A piece of line and a name for each curve, in rows below the title, and where the picture begins below them."""
    parts, at, y = [], LEFT, TOP
    for name, colour in colours.items():
        wide = 30 + round(6.2 * len(name))              # of letters, about
        if at > LEFT and at + wide > WIDTH - RIGHT:
            at, y = LEFT, y + 14
        parts.append(_curve([(at, y), (at + 18, y)], colour, name.startswith(VALIDATION))
                     + f'<text x="{at + 22}" y="{y + 4}">{escape(name)}</text>')
        at += wide + 8
    return parts, y + 16


def _curve(points: list[tuple[float, float]], colour: str, dashed: bool) -> str:
    dash = ' stroke-dasharray="5 3"' if dashed else ""
    if len(points) == 1:
        (x, y), = points
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>'
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"{dash}/>'


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round numbers between two ends: multiples of 1, 2 or 5 times a power of ten."""
    step = 10 ** math.floor(math.log10((high - low) / wanted))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= wanted)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]
