"""Routes: each link goes down, sideways in a gap between two ranks, and down again; sideways on a track of its own.

What comes from one output of one block is one net: its links may share a track, and then look like one line that
branches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .figure import Block, Link

TRACK = 9.0                  # between two tracks
MARGIN = 15.0                # above the first and below the last track, for the bends and the arrow heads
PORT = 16.0                  # between two arrows that enter a block from above
ALIKE = 5.0                  # what stands less apart than this is drawn as one line
CLEAR = 10.0                 # between two lines on one track


@dataclass
class Jog:
    """A stretch sideways in the gap below a rank."""

    gap: int
    net: tuple[Block, int]
    start: float
    end: float
    track: int = 0


@dataclass
class Routes:
    """What is known of the links before the height of the gaps is."""

    ends: dict[Link, tuple[float, float]]                 # x at the source, x at the target
    jogs: dict[Link, list[Jog]]
    sides: dict[Link, float]                              # links that enter from the side -> x of their bar
    tracks: list[int]                                     # tracks of each gap
    rows: Mapping[Block, int]

    def room(self, gap: int) -> float:
        """The height that the gap below a rank needs."""
        return 2 * MARGIN + max(0, self.tracks[gap] - 1) * TRACK

    def paths(self, places, sizes, gaps: Sequence[tuple[float, float]]) -> dict[Link, list[tuple[float, float]]]:
        """The corners of each link, from its source to its target."""
        found = {}
        for link, (start, _end) in self.ends.items():
            y = places[link.source][1] + sizes[link.source][1] / 2
            points = [(start, y)]
            x = start
            for jog in self.jogs[link]:
                low, high = gaps[jog.gap]
                middle = (low + high) / 2 + (jog.track - (self.tracks[jog.gap] - 1) / 2) * TRACK
                if abs(jog.end - x) > 1e-6:
                    points += [(x, middle), (jog.end, middle)]
                x = jog.end
            target_x, target_y = places[link.target]
            width, height = sizes[link.target]
            if link in self.sides:
                edge = target_x + (width / 2 if x > target_x else -width / 2)
                points += [(x, target_y), (edge, target_y)]
            else:
                points.append((x, target_y - height / 2))
            found[link] = _without_repeats(points)
        return found


def route(links: Sequence[Link], rows: Mapping[Block, int], x: Mapping[Block, float], sizes, bars,
          count: int) -> Routes:
    """Ports, jogs and tracks.  ``bars``: link -> (x, Bar)."""
    starts = {link: x[link.source] + _offset_below(link, links, sizes) for link in links}
    ends = _ends(links, rows, x, sizes, bars, starts)
    for link in links:                                        # a line that is nearly straight is straight
        nearly = min(ALIKE, sizes[link.target][0] / 2)
        if link not in bars and abs(starts[link] - ends[link]) < nearly and _alone(link, links, bars):
            ends[link] = starts[link]
    jogs: dict[Link, list[Jog]] = {}
    sides: dict[Link, float] = {}
    for link in links:
        net = (link.source, link.output)
        if link not in bars:
            jogs[link] = [Jog(rows[link.source], net, starts[link], ends[link])]
            continue
        at, bar = bars[link]
        at = starts[link] if abs(at - starts[link]) < ALIKE else at
        at = ends[link] if not bar.side and abs(at - ends[link]) < ALIKE else at
        jogs[link] = [Jog(rows[link.source], net, starts[link], at)]
        if bar.side:
            sides[link] = at
        else:
            jogs[link].append(Jog(bar.last, net, at, ends[link]))
    tracks = [_assign_tracks([jog for each in jogs.values() for jog in each if jog.gap == gap]) for gap in range(count)]
    return Routes({link: (starts[link], ends[link]) for link in links}, jogs, sides, tracks, rows)


def _alone(link: Link, links: Sequence[Link], bars) -> bool:
    """Whether no other enters the target from above."""
    return not any(other.target is link.target and other is not link and not (other in bars and bars[other][1].side)
                   for other in links)


def _offset_below(link: Link, links: Sequence[Link], sizes) -> float:
    """Outputs side by side below a block."""
    outputs = sorted({other.output for other in links if other.source is link.source})
    if len(outputs) < 2 or link.source.shape in ("dot", "circle"):
        return 0.0
    step = min(PORT * 1.5, (sizes[link.source][0] - 24) / (len(outputs) - 1))
    return (outputs.index(link.output) - (len(outputs) - 1) / 2) * step


def _ends(links, rows, x, sizes, bars, starts) -> dict[Link, float]:
    """Where each link meets its target from above: side by side in the order in which they come."""
    ends: dict[Link, float] = {}
    by_target: dict[Block, list[Link]] = {}
    for link in links:
        if not (link in bars and bars[link][1].side):
            by_target.setdefault(link.target, []).append(link)
        ends[link] = x[link.target]
    for target, coming in by_target.items():
        if len(coming) < 2 or target.shape == "dot":
            continue
        origin = {link: bars[link][0] if link in bars else starts[link] for link in coming}
        coming.sort(key=lambda link: origin[link])
        step = min(PORT, max(4.0, (sizes[target][0] - 20) / (len(coming) - 1)))
        straight = [k for k, link in enumerate(coming) if abs(origin[link] - x[target]) < ALIKE]
        middle = straight[0] if len(straight) == 1 else (len(coming) - 1) / 2
        reach = sizes[target][0] / 2 - 8
        for k, link in enumerate(coming):
            ends[link] = x[target] + max(-reach, min(reach, (k - middle) * step))
    return ends


def _assign_tracks(jogs: list[Jog]) -> int:
    """A track for each net of a gap, so that few lines cross; how many there are."""
    nets: dict[tuple, list[Jog]] = {}
    for jog in jogs:
        if abs(jog.end - jog.start) > 1e-6:
            nets.setdefault(jog.net, []).append(jog)
    order: list[tuple] = []
    for net in sorted(nets, key=lambda net: _reach(nets[net])[0] - _reach(nets[net])[1]):          # the longest first
        at = min(range(len(order) + 1), key=lambda at: (
            sum(_crossed(nets[above], nets[net]) for above in order[:at])
            + sum(_crossed(nets[net], nets[below]) for below in order[at:]), at))
        order.insert(at, net)
    tracks: dict[tuple, int] = {}
    for net in order:
        low, high = _reach(nets[net])
        tracks[net] = max((track + 1 for other, track in tracks.items() if _reach(nets[other])[0] < high + CLEAR
                           and low < _reach(nets[other])[1] + CLEAR), default=0)
        for jog in nets[net]:
            jog.track = tracks[net]
    return max(tracks.values(), default=-1) + 1


def _reach(own: list[Jog]) -> tuple[float, float]:
    return min(min(jog.start, jog.end) for jog in own), max(max(jog.start, jog.end) for jog in own)


def _crossed(above: list[Jog], below: list[Jog]) -> int:
    """How badly two nets meet where the first has the upper track: what comes down to the lower one crosses the upper,
    what goes down from the upper one crosses the lower; and lines that run on one another are worst."""
    (left, right), (low, high) = _reach(above), _reach(below)
    starts = {jog.start for jog in below}
    ends = {jog.end for jog in above}
    crossings = sum(left < x < right for x in starts) + sum(low < x < high for x in ends)
    return crossings + 100 * sum(abs(x - y) < ALIKE for x in starts for y in ends)


def _without_repeats(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Corners only: no point twice, none in the middle of a straight line."""
    kept: list[tuple[float, float]] = []
    for point in points:
        if kept and abs(kept[-1][0] - point[0]) < 1e-6 and abs(kept[-1][1] - point[1]) < 1e-6:
            continue
        while len(kept) > 1 and (_same(kept[-2][0], kept[-1][0], point[0])
                                 or _same(kept[-2][1], kept[-1][1], point[1])):
            kept.pop()
        kept.append(point)
    return kept


def _same(a: float, b: float, c: float) -> bool:
    return abs(a - b) < 1e-6 and abs(b - c) < 1e-6
