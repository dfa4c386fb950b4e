"""From a figure to places: ranks from top to bottom, an order in each rank, coordinates, routes (Sugiyama's method).

Links that skip ranks run down a *bar*, a straight vertical line that stands in each of those ranks like a thin block,
so that nothing is drawn across a block.  Groups keep their blocks together in every rank: the order of a rank is the
order of the keys of its entries (blocks, bars, groups), each of which has one key for all the ranks that it stands in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from . import place, ranks
from .figure import Block, Figure, Group, Link
from .place import Distance, Pull
from .route import Routes, route

SWEEPS = 24
MOST_EXCHANGED = 120         # entries up to which each is tried in every place
MOST_ROUNDS = 6
TINY = 1e-6                  # between keys of what is to stand side by side
GAP, BAR_GAP, SIDE_GAP = 26.0, 14.0, 22.0
PAD = 14.0                   # inside of a group, at its sides
HEADER = 26.0                # at its top, for the title
FOOT = 12.0                  # at its bottom
TURNED = 150.0               # how far a link may go sideways to keep two blocks in the order in which they were written
# How much links are to be in line: those that are alone, along their bars, within a group, and from one group to
# another.
STRAIGHT, ALONG_BAR, PLAIN, ACROSS = 1000.0, 500.0, 1.0, 0.05


@dataclass(eq=False)
class Bar:
    """Where a link stands in the ranks between its ends; ``side``: it goes on to the rank of its target and enters that
    from the side."""

    link: Link
    first: int
    last: int
    group: Group | None
    side: bool = False


@dataclass(eq=False)
class Strut:
    """Keeps the place of a group in a rank where it has nothing else."""

    group: Group


@dataclass(eq=False)
class Frame:
    """A group's rectangle."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass
class Layout:
    """Centres of blocks and their sizes, rectangles of groups, a list of points for each link; ``width`` and ``height``
    of all."""

    places: dict[Block, tuple[float, float]]
    sizes: dict[Block, tuple[float, float]]
    frames: dict[Group, Frame]
    paths: dict[Link, list[tuple[float, float]]]
    width: float = 0.0
    height: float = 0.0


Entry = Block | Bar | Strut | Group


def layout(figure: Figure, size: Callable[[Block], tuple[float, float]], header: Callable[[Group], float]) -> Layout:
    """Places for everything.  ``size`` gives a block's width and height, ``header`` the least width of a group's
    title."""
    drawing = _Drawing(figure, size, header)
    drawing.rank()
    drawing.order()
    drawing.place()
    return drawing.finish()


def common_group(a: Group | None, b: Group | None) -> Group | None:
    """The innermost group around both."""
    chain = a.chain() if a is not None else []
    other = b.chain() if b is not None else []
    shared = [x for x, y in zip(chain, other) if x is y]
    return shared[-1] if shared else None


class _Drawing:
    def __init__(self, figure: Figure, size, header):
        self.figure = figure
        self.sizes = {block: size(block) for block in figure.blocks}
        self.header = header
        self.row: dict[Block, int] = {}
        self.bars: dict[Link, Bar] = {}
        self.struts: list[Strut] = []
        self.rows: list[list[Block | Bar | Strut]] = []
        self.keys: dict[Entry, float] = {}
        self.out: dict[Block, list[Link]] = {}
        self.into: dict[Block, list[Link]] = {}
        for link in figure.links:
            self.out.setdefault(link.source, []).append(link)
            self.into.setdefault(link.target, []).append(link)
        self.tie: dict[Entry, int] = {}             # what decides between equal keys
        self.number = {block: position for position, block in enumerate(figure.blocks)}

    # --- ranks

    def rank(self) -> None:
        """Rows for the blocks, bars for the links that skip some."""
        number = self.number
        edges = [(number[link.source], number[link.target], 1, 1 if link.weight else 4) for link in self.figure.links]
        found = ranks.assign(len(number), edges)
        self.row = {block: found[position] for block, position in number.items()}
        used = sorted(set(self.row.values()))
        self.row = {block: used.index(row) for block, row in self.row.items()}
        self.rows = [[] for _ in used]
        for block in self.figure.blocks:
            self.rows[self.row[block]].append(block)
        self.spans = {}
        for group in self.figure.groups:
            inside = [self.row[block] for block in self.figure.inside(group)]
            self.spans[group] = min(inside), max(inside)
        for link in self.figure.links:
            self._add_bar(link)
        for group, (first, last) in self.spans.items():
            for row in range(first, last + 1):
                if not any(entry.group is not None and group in entry.group.chain() for entry in self.rows[row]):
                    strut = Strut(group)
                    self.struts.append(strut)
                    self.rows[row].append(strut)

    def _add_bar(self, link: Link) -> None:
        first, last = self.row[link.source] + 1, self.row[link.target] - 1
        side = self._enters_aside(link)
        if side:
            last += 1
        if first <= last:
            bar = self.bars[link] = Bar(link, first, last, self._bar_group(link, first, last, side), side)
            for row in range(first, last + 1):
                self.rows[row].append(bar)

    def _bar_group(self, link: Link, first: int, last: int, side: bool) -> Group | None:
        """The group that a bar runs in: that of both ends; but where it ends with the group of its source, or begins
        with that of its target, it goes through the border below, or above, and not through the side."""
        if side:
            return link.target.group
        found = common_group(link.source.group, link.target.group)
        for chain, row, end in ((link.source.group, last, 1), (link.target.group, first, 0)):
            inner = chain.chain() if chain is not None else []
            fitting = [group for group in inner if self.spans[group][end] == row
                       and (found is None or found in group.chain())]
            if fitting:
                return fitting[-1]
        return found

    def _enters_aside(self, link: Link) -> bool:
        """Into a sign, the link that comes the shortest way goes from above, one or two others from the sides."""
        if link.target.shape != "circle":
            return False
        coming = [other for other in self.figure.links if other.target is link.target]
        if len(coming) < 2 or len(coming) > 3:
            return False
        length = {other: self.row[other.target] - self.row[other.source] for other in coming}
        nearest = [other for other in coming if length[other] == min(length.values())]
        if len(coming) == 2 and len(nearest) == 2:
            return True                                       # a fork: one from each side
        return link is not nearest[-1]

    # --- order

    def order(self) -> None:
        """Keys that give few crossings: sweeps by barycentres, then exchanges of neighbours."""
        for position, block in enumerate(self.figure.blocks):
            self.keys[block] = float(position)
        for bar in self.bars.values():
            self.keys[bar] = (self.keys[bar.link.source] + self.keys[bar.link.target]) / 2
        entries: list[Entry] = [*self.figure.blocks, *self.bars.values(), *self.figure.groups, *self.struts]
        for position, entry in enumerate(entries):
            self.tie[entry] = position
        self._key_groups()
        self._sort()
        best, kept = self._badness(), dict(self.keys)
        for sweep in range(SWEEPS):
            self._sweep(downward=sweep % 2 == 0)
            badness = self._badness()
            if badness < best:
                best, kept = badness, dict(self.keys)
        self.keys = kept
        self._sort()
        if len(self.keys) <= MOST_EXCHANGED:
            self._exchange(best)
        self._settle_sides()

    def _key_groups(self) -> None:
        """A group's key is the mean of what is in it."""
        for group in self.figure.groups:
            inside = [self.keys[block] for block in self.figure.inside(group)]
            self.keys[group] = sum(inside) / len(inside)
        for strut in self.struts:
            self.keys[strut] = self.keys[strut.group]

    def _sort(self) -> None:
        for row in range(len(self.rows)):
            self.rows[row] = [entry for entry in self._in_order(self.rows[row]) if not isinstance(entry, tuple)]

    def _in_order(self, entries: list[Block | Bar | Strut]) -> Iterator:
        """The entries of a rank from left to right, with (group, True) where a group begins, (group, False) where it
        ends."""
        def walk(members: list, depth: int) -> Iterator:
            below: dict[Entry, list] = {}
            for entry in members:
                chain = entry.group.chain() if entry.group is not None else []
                below.setdefault(chain[depth] if len(chain) > depth else entry, []).append(entry)
            for child in sorted(below, key=lambda child: (self.keys[child], self.tie[child])):
                if isinstance(child, Group):
                    yield child, True
                    yield from walk(below[child], depth + 1)
                    yield child, False
                else:
                    yield child
        return walk(entries, 0)

    def _positions(self) -> dict[Entry, float]:
        """Provisional places: each rank packed, and centred."""
        found: dict[Entry, float] = {}
        for row in self.rows:
            at = 0.0
            for entry in row:
                width = self._width(entry)
                found[entry] = at + width / 2
                at += width + GAP
            for entry in row:
                found[entry] -= at / 2
        return found

    def _width(self, entry: Entry) -> float:
        return self.sizes[entry][0] if isinstance(entry, Block) else 4.0

    def _steps(self) -> list[tuple[int, Block | Bar, Block | Bar]]:
        """Each link as steps from one rank to the next: (upper rank, above, below)."""
        found: list[tuple[int, Block | Bar, Block | Bar]] = []
        for link in self.figure.links:
            bar, row = self.bars.get(link), self.row[link.source]
            if bar is None:
                found.append((row, link.source, link.target))
                continue
            found.append((row, link.source, bar))
            found += [(upper, bar, bar) for upper in range(bar.first, bar.last)]
            if not bar.side:
                found.append((bar.last, bar, link.target))
        return found

    def _sweep(self, downward: bool) -> None:
        """Keys from the neighbours above, or below."""
        near: dict[Entry, list] = {}
        for _, above, below in self._steps():
            if above is not below:
                near.setdefault(below if downward else above, []).append(above if downward else below)
        at = self._positions()
        order = range(len(self.rows)) if downward else range(len(self.rows) - 1, -1, -1)
        for row in order:
            for entry in self.rows[row]:
                others = near.get(entry, ())
                if isinstance(entry, Strut):
                    continue
                if isinstance(entry, Bar):
                    ends = (entry.link.source, entry.link.target)
                    self.keys[entry] = sum(at[end] for end in ends) / 2
                elif others:
                    self.keys[entry] = sum(at[other] for other in others) / len(others)
                else:
                    self.keys[entry] = at[entry]
            self._key_groups()
            self.rows[row] = [entry for entry in self._in_order(self.rows[row]) if not isinstance(entry, tuple)]
            at.update(self._packed(self.rows[row], at))
        self._sort()

    def _packed(self, row: list, at: dict) -> dict:
        """A rank's entries side by side in their order, moved as one to where their keys lie."""
        found, x = {}, 0.0
        for entry in row:
            width = self._width(entry)
            found[entry] = x + width / 2
            x += width + GAP
        shift = sum(self.keys[entry] - found[entry] for entry in row) / len(row) if row else 0.0
        return {entry: place + shift for entry, place in found.items()}

    def _badness(self) -> tuple[int, float]:
        """Crossings, then how far links go sideways and how much is not in the order in which it was written."""
        index = {}
        for row, entries in enumerate(self.rows):
            index.update({(row, entry): position for position, entry in enumerate(entries)})
        steps: dict[int, list[tuple[int, int]]] = {}
        for row, above, below in self._steps():
            steps.setdefault(row, []).append((index[row, above], index[row + 1, below]))
        at = self._positions()
        sideways = sum(abs(at[above] - at[below]) for _, above, below in self._steps())
        turned = sum(a > b for numbers in self._written() for k, b in enumerate(numbers) for a in numbers[:k])
        return sum(_crossings(pairs) for pairs in steps.values()), sideways + TURNED * turned

    def _written(self) -> Iterator[list[int]]:
        """For each rank, the numbers of its blocks in the figure, from left to right."""
        for row in self.rows:
            yield [self.number[entry] for entry in row if isinstance(entry, Block)]

    def _exchange(self, best: tuple[int, float]) -> None:
        """Move entries to other places among those of one parent as long as that helps."""
        for _ in range(MOST_ROUNDS):
            before = best
            for row in range(len(self.rows)):
                for siblings in self._siblings(row):
                    best = self._best_order(siblings, best)
            if best == before:
                return

    def _siblings(self, row: int) -> list[list[Entry]]:
        """The entries of a rank that have one parent, from left to right, for each parent that has several."""
        found: dict[Group | None, list[Entry]] = {}
        for entry in self._in_order(self.rows[row]):
            if not isinstance(entry, tuple):
                found.setdefault(entry.group, []).append(entry)
            elif entry[1]:
                found.setdefault(entry[0].parent, []).append(entry[0])
        return [entries for entries in found.values() if len(entries) > 1]

    def _best_order(self, siblings: list[Entry], best: tuple[int, float]) -> tuple[int, float]:
        """Take each entry out and put it in elsewhere; keep what is better."""
        for entry in list(siblings):
            for at in range(len(siblings)):
                if at == siblings.index(entry):
                    continue
                kept = dict(self.keys)
                moved = [each for each in siblings if each is not entry]
                moved.insert(at, entry)
                keys = sorted(self.keys[each] for each in siblings)
                self.keys.update((each, key + TINY * k) for k, (each, key) in enumerate(zip(moved, keys)))
                self.keys.update((bar, self.keys[entry]) for bar in self._followers(entry))
                self._sort()
                badness = self._badness()
                if badness < best:
                    best, siblings = badness, moved
                else:
                    self.keys = kept
        self._sort()
        return best

    def _followers(self, entry: Entry) -> list[Bar]:
        """The bar below a block, or above it, that is the block's only link there: it goes where the block goes."""
        sides = (self.out.get(entry, ()), self.into.get(entry, ())) if isinstance(entry, Block) else ()
        return [self.bars[links[0]] for links in sides if len(links) == 1 and links[0] in self.bars]

    def _settle_sides(self) -> None:
        """A bar can enter its target from the side only where nothing stands between them; else it ends above."""
        for target in self.figure.blocks:
            bars = [bar for bar in self.bars.values() if bar.side and bar.link.target is target]
            if bars and all(bar.first == bar.last for bar in bars):
                self._spread(target, bars)
        for link, bar in list(self.bars.items()):
            if not bar.side:
                continue
            row = self.rows[bar.last]
            at, end = row.index(bar), row.index(link.target)
            between = row[min(at, end) + 1:max(at, end)]
            if any(not (isinstance(entry, Bar) and entry.side and entry.link.target is link.target)
                   for entry in between):
                row.remove(bar)
                bar.side, bar.last = False, bar.last - 1
                if bar.last < bar.first:
                    del self.bars[link]

    def _spread(self, target: Block, bars: list[Bar]) -> None:
        """Bars that stand in no other rank go to that side of their target on which they come down."""
        row = self.rows[self.row[target]]
        bars.sort(key=lambda bar: self.keys[bar.link.source])
        left = [bar for bar in bars if self.keys[bar.link.source] < self.keys[target]]
        if len(bars) == 2 and len(left) != 1:
            left = bars[:1]
        for bar in bars:
            row.remove(bar)
        at = row.index(target)
        row[at:at + 1] = [*left, target, *(bar for bar in bars if bar not in left)]
        for position, bar in enumerate(left):
            self.keys[bar] = self.keys[target] - (len(left) - position) * TINY
        for position, bar in enumerate(bar for bar in bars if bar not in left):
            self.keys[bar] = self.keys[target] + (position + 1) * TINY

    # --- coordinates

    def place(self) -> None:
        """Where everything stands from left to right: in line with what it is linked to, as far as there is room."""
        self.unknown: dict[object, int] = {}
        for entry in (*self.figure.blocks, *self.bars.values(), *self.struts):
            self.unknown[entry] = len(self.unknown)
        for group in self.figure.groups:
            self.unknown[group, "left"], self.unknown[group, "right"] = len(self.unknown), len(self.unknown) + 1
        distances: dict[tuple[int, int], float] = {}
        for a, b, least in self._distances():
            distances[a, b] = max(least, distances.get((a, b), least))
        costs = [(self.unknown[group, side], 0.4 if side == "right" else -0.4)
                 for group in self.figure.groups for side in ("left", "right")]
        found = place.solve(len(self.unknown), list(self._pulls()),
                            [(a, b, least) for (a, b), least in distances.items()], costs)
        self.x = {entry: float(found[which]) for entry, which in self.unknown.items()}

    def _distances(self) -> Iterator[Distance]:
        for group in self.figure.groups:
            yield self.unknown[group, "left"], self.unknown[group, "right"], self.header(group)
            for child in self.figure.groups:
                if child.parent is group:                     # where they share no rank, too
                    yield self.unknown[group, "left"], self.unknown[child, "left"], PAD
                    yield self.unknown[child, "right"], self.unknown[group, "right"], PAD
        for row in self.rows:
            before: Any = None          # unknown, reach to the right of it, what it is
            for entry in self._in_order(row):
                what, opens = entry if isinstance(entry, tuple) else (entry, None)
                if opens is None:
                    half = self._width(what) / 2
                    if before is not None:
                        yield before[0], self.unknown[what], before[1] + half + self._gap(before[2], what)
                    before = self.unknown[what], half, what
                elif opens:
                    if before is not None:
                        yield before[0], self.unknown[what, "left"], before[1] + self._gap(before[2], what)
                    before = self.unknown[what, "left"], 0.0, (what, "in")
                else:
                    yield before[0], self.unknown[what, "right"], before[1] + PAD
                    before = self.unknown[what, "right"], 0.0, what

    def _gap(self, a, b) -> float:
        if isinstance(a, tuple):
            return PAD
        sides = [entry for entry in (a, b) if isinstance(entry, Bar) and entry.side]
        if sides and any(isinstance(entry, Block) and entry is sides[0].link.target for entry in (a, b)):
            return SIDE_GAP
        if isinstance(a, Bar) or isinstance(b, Bar):
            return BAR_GAP
        return GAP

    def _pulls(self) -> Iterator[Pull]:
        out, into = self.out, self.into
        for link in self.figure.links:
            source, target = self.unknown[link.source], self.unknown[link.target]
            bar, alone = self.bars.get(link), len(out[link.source]) == 1
            plain = PLAIN if link.source.group is link.target.group else ACROSS
            if bar is None:
                near = [other for other in (*out[link.source], *into[link.target]) if other not in self.bars]
                yield (STRAIGHT if all(other is link for other in near) else plain), source, target, 0.0
                continue
            down = bar.side and bar.first == bar.last            # its source is right above: down, then aside
            yield (ALONG_BAR if down or alone and not bar.side else plain), source, self.unknown[bar], 0.0
            yield (ALONG_BAR if not alone and len(into[link.target]) == 1 else plain), self.unknown[bar], target, 0.0

    # --- all together

    def finish(self) -> Layout:
        """Routes, then the height of the gaps between the ranks, then everything in one frame of reference."""
        x = {block: self.x[block] for block in self.figure.blocks}
        bars = {link: (self.x[bar], bar) for link, bar in self.bars.items()}
        routes: Routes = route(self.figure.links, self.row, x, self.sizes, bars, len(self.rows))
        spans = self.spans
        heights = [max((self.sizes[entry][1] for entry in row if isinstance(entry, Block)), default=8.0)
                   for row in self.rows]
        tops, gaps = self._rows_down(heights, routes, spans)
        places = {block: (x[block], tops[row] + heights[row] / 2) for block, row in self.row.items()}
        frames = {}
        for group, (first, last) in spans.items():
            foot = self._deepest(group, spans, last, 1) * FOOT
            frames[group] = Frame(self.x[group, "left"], tops[first] - self._deepest(group, spans, first, 0) * HEADER,
                                  self.x[group, "right"], tops[last] + heights[last] + foot)
        paths = routes.paths(places, self.sizes, gaps)
        return _shifted(Layout(places, dict(self.sizes), frames, paths))

    def _inside_or_same(self, group: Group) -> list[Group]:
        return [other for other in self.figure.groups if group in other.chain()]

    def _deepest(self, group: Group, spans, row: int, end: int) -> int:
        """How many groups, one within another, of which this is the outermost, begin (or end) at a rank."""
        return max(sum(1 for each in other.chain() if group in each.chain() and spans[each][end] == row)
                   for other in self._inside_or_same(group) if spans[other][end] == row)

    def _rows_down(self, heights, routes: Routes, spans) -> tuple[list[float], list[tuple[float, float]]]:
        """The top of each rank, and of each gap below a rank the stretch where links may run sideways."""
        tops: list[float] = []
        gaps: list[tuple[float, float]] = []
        y = 0.0
        for row, height in enumerate(heights):
            above = max((self._deepest(group, spans, row, 0) for group, span in spans.items() if span[0] == row),
                        default=0)
            y += above * HEADER
            if row:
                gaps[-1] = (gaps[-1][0], y - above * HEADER)
            tops.append(y)
            below = max((self._deepest(group, spans, row, 1) for group, span in spans.items() if span[1] == row),
                        default=0)
            start = y + height + below * FOOT
            gaps.append((start, start))
            y = start + routes.room(row)
        return tops, gaps


def _crossings(pairs: list[tuple[int, int]]) -> int:
    """How many of the lines between two ranks cross."""
    pairs = sorted(pairs)
    return sum(1 for k, (_, below) in enumerate(pairs) for _, other in pairs[:k] if other > below) \
        - sum(1 for k, (above, below) in enumerate(pairs) for first, other in pairs[:k] if first == above
              and other > below)


def _shifted(found: Layout) -> Layout:
    """Moved so that everything begins at (0, 0), and the size of all."""
    xs, ys = [], []
    for block, (x, y) in found.places.items():
        width, height = found.sizes[block]
        xs += [x - width / 2, x + width / 2]
        ys += [y - height / 2, y + height / 2]
    for frame in found.frames.values():
        xs += [frame.left, frame.right]
        ys += [frame.top, frame.bottom]
    for points in found.paths.values():
        xs += [x for x, _ in points]
        ys += [y for _, y in points]
    left, top = min(xs, default=0.0), min(ys, default=0.0)
    return Layout({block: (x - left, y - top) for block, (x, y) in found.places.items()}, found.sizes,
                  {group: Frame(f.left - left, f.top - top, f.right - left, f.bottom - top)
                   for group, f in found.frames.items()},
                  {link: [(x - left, y - top) for x, y in points] for link, points in found.paths.items()},
                  max(xs, default=0.0) - left, max(ys, default=0.0) - top)
