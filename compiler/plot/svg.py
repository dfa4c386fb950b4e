"""A figure as SVG: one file, no script, no font but the reader's."""

from __future__ import annotations

from itertools import pairwise
from xml.sax.saxutils import escape, quoteattr

from .figure import Block, Figure, Group
from .layout import HEADER, Layout, layout
from .text import shortened, width

FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"
TITLE, LINE, NOTE = 12.0, 10.0, 10.0          # font sizes: of a block's title, of the lines below it, of notes
LEADING = 13.0
WIDEST = 250.0                                 # of a block
BORDER = 24.0                                  # around the picture
CAPTION = 40.0                                 # above it, for the title
BEND = 6.0                                     # radius of a link's corners

# style: (fill, border)
COLOURS = {
    "convolution": ("#dbe9f9", "#5b8fc9"), "layers": ("#dff0de", "#6aa96a"), "attention": ("#fde5cc", "#dd9440"),
    "normalization": ("#fdf5c9", "#c9b040"), "recurrent": ("#ece0f6", "#9a74c2"), "operation": ("#ffffff", "#8a8f98"),
    "layer": ("#eceff3", "#8a93a3"), "input": ("#ffffff", "#3d4450"), "output": ("#ffffff", "#3d4450"),
    "parameter": ("#ffffff", "#b08a2e"), "contract": ("#dbe9f9", "#5b8fc9"), "map": ("#dff0de", "#6aa96a"),
    "reduction": ("#fdf5c9", "#c9b040"), "memory": ("#eceff3", "#8a93a3"), "scan": ("#ece0f6", "#9a74c2"),
}
GROUP_FILLS = ("#f7f8fa", "#eff1f5", "#e7eaf0")
INK, FAINT, LINK, TIED = "#1d222b", "#656d7a", "#4a5260", "#b08a2e"


def size_of(block: Block) -> tuple[float, float]:
    """Width and height of a block."""
    if block.shape == "dot":
        return 5.0, 5.0
    if block.shape == "circle":
        return 20.0, 20.0
    wide = max([width(block.title, TITLE, True), *(width(line, LINE) for line in block.lines)], default=0.0)
    if block.shape == "pill":
        return min(WIDEST, max(44.0, wide + 24)), 22.0
    return min(WIDEST, max(64.0, wide + 22)), 12.0 + TITLE + LEADING * len(block.lines)


def header_of(group: Group) -> float:
    """The least width of a group: both its title and its note fit, and where it may be the title beside a line in the
    middle."""
    title = width(group.title, TITLE, True)
    return max(title + (width(group.note, NOTE) + 20 if group.note else 0) + 28, min(2 * title + 44, 320.0))


def write(figure: Figure) -> str:
    """The figure, laid out, as an SVG document."""
    return render(figure, layout(figure, size_of, header_of))


def render(figure: Figure, found: Layout) -> str:
    wide = max(found.width, width(figure.title, 15, True), width(figure.caption, NOTE))
    across, down = wide + 2 * BORDER, found.height + 2 * BORDER + CAPTION
    left = BORDER + (wide - found.width) / 2
    parts = [
        (f'<svg xmlns="http://www.w3.org/2000/svg" width="{across:.0f}" height="{down:.0f}" '
         f'viewBox="0 0 {across:.2f} {down:.2f}" font-family="{FONT}" role="img">'),
        f"<title>{escape(figure.title)}</title>",
        ('<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
         f'<path d="M0.5 1 L7.5 4 L0.5 7 z" fill="{LINK}"/></marker></defs>'),
        f'<rect width="{across:.2f}" height="{down:.2f}" fill="#ffffff"/>',
        (f'<text x="{BORDER}" y="{BORDER + 8}" font-size="15" font-weight="bold" '
         f'fill="{INK}">{escape(figure.title)}</text>'),
        f'<text x="{BORDER}" y="{BORDER + 24}" font-size="{NOTE}" fill="{FAINT}">{escape(figure.caption)}</text>',
        f'<g transform="translate({left:.2f} {BORDER + CAPTION:.2f})">']
    groups = sorted(figure.groups, key=lambda group: len(group.chain()))
    parts += [_frame(group, found) for group in groups]
    parts += [_link(link, found.paths[link]) for link in figure.links]
    parts += [_header(group, found) for group in groups]
    parts += [_block(block, *found.places[block], *found.sizes[block]) for block in figure.blocks]
    return "\n".join([*parts, "</g>", "</svg>", ""])


def _fill(group: Group) -> str:
    return GROUP_FILLS[min(len(group.chain()), len(GROUP_FILLS)) - 1]


def _frame(group: Group, found: Layout) -> str:
    frame = found.frames[group]
    return (f'<rect class="group" x="{frame.left:.2f}" y="{frame.top:.2f}" width="{frame.right - frame.left:.2f}" '
            f'height="{frame.bottom - frame.top:.2f}" rx="8" fill="{_fill(group)}" stroke="#b9c0cb"/>')


def _header(group: Group, found: Layout) -> str:
    """Title and note, where no link comes through; else over the link, which fades around them."""
    frame, halo = found.frames[group], (f'stroke="{_fill(group)}" stroke-width="5" stroke-linejoin="round" '
                                        f'paint-order="stroke"')
    y = frame.top + HEADER - 9
    x = _free_place(group, found, frame.left + 10,
                    frame.right - 12 - (width(group.note, NOTE) + 8 if group.note else 0))
    parts = [(f'<text x="{x:.2f}" y="{y:.2f}" font-size="{TITLE - 0.5}" font-weight="bold" fill="{INK}" {halo}>'
              f'{escape(group.title)}</text>')]
    if group.note:
        parts.append(f'<text x="{frame.right - 10:.2f}" y="{y:.2f}" font-size="{NOTE}" fill="{FAINT}" '
                     f'text-anchor="end" {halo}>'
                     f'{escape(group.note)}</text>')
    return "".join(parts)


def _free_place(group: Group, found: Layout, left: float, right: float) -> float:
    """The leftmost place for a group's title between the lines that go down through its head."""
    frame, wide = found.frames[group], width(group.title, TITLE - 0.5, True)
    lines = sorted({x for points in found.paths.values() for (x, y), (x2, y2) in pairwise(points)
                    if x == x2 and min(y, y2) < frame.top + HEADER - 4 and max(y, y2) > frame.top + 8
                    and left <= x <= right})
    for start in (left, *(x + 8 for x in lines)):
        if start + wide <= right and not any(start - 6 < x < start + wide + 6 for x in lines):
            return start
    return left


def _link(link, points) -> str:
    head = "" if link.target.shape == "dot" else ' marker-end="url(#head)"'
    dash = f' stroke-dasharray="4 3" stroke="{TIED}"' if link.weight else f' stroke="{LINK}"'
    label = f"<title>{escape(link.label)}</title>" if link.label else ""
    return f'<path class="link" d="{_path(points)}" fill="none" stroke-width="1.2"{dash}{head}>{label}</path>'


def _path(points) -> str:
    """Straight lines with round corners."""
    parts = [f"M{points[0][0]:.2f} {points[0][1]:.2f}"]
    for before, corner, after in zip(points, points[1:], points[2:]):
        radius = min(BEND, _distance(before, corner) / 2, _distance(corner, after) / 2)
        parts.append("L{:.2f} {:.2f}".format(*_towards(corner, before, radius)))
        parts.append("Q{:.2f} {:.2f} {:.2f} {:.2f}".format(*corner, *_towards(corner, after, radius)))
    parts.append(f"L{points[-1][0]:.2f} {points[-1][1]:.2f}")
    return " ".join(parts)


def _distance(a, b) -> float:
    return abs(a[0] - b[0]) + abs(a[1] - b[1])


def _towards(a, b, distance: float) -> tuple[float, float]:
    whole = _distance(a, b) or 1.0
    return a[0] + (b[0] - a[0]) * distance / whole, a[1] + (b[1] - a[1]) * distance / whole


def _block(block: Block, x: float, y: float, wide: float, high: float) -> str:
    fill, border = COLOURS.get(block.style, COLOURS["layer"])
    tooltip = f"<title>{escape(block.tooltip)}</title>" if block.tooltip else ""
    if block.shape == "dot":
        return f'<circle class="dot" cx="{x:.2f}" cy="{y:.2f}" r="2.5" fill="{LINK}"/>'
    if block.shape == "circle":
        return (f'<g class="block">{tooltip}<circle cx="{x:.2f}" cy="{y:.2f}" r="{wide / 2:.2f}" fill="{fill}" '
                f'stroke="{border}" '
                f'stroke-width="1.2"/><text x="{x:.2f}" y="{y + 5:.2f}" font-size="15" text-anchor="middle" '
                f'fill="{INK}">{escape(block.title)}</text></g>')
    radius = high / 2 if block.shape == "pill" else 5
    shape = (f'<rect x="{x - wide / 2:.2f}" y="{y - high / 2:.2f}" width="{wide:.2f}" height="{high:.2f}" '
             f'rx="{radius:.2f}" '
             f'fill="{fill}" stroke="{border}" stroke-width="1.2"/>')
    weight = "normal" if block.shape == "pill" else "bold"
    size = TITLE - 1 if block.shape == "pill" else TITLE
    top = y + size * 0.36 if not block.lines else y - high / 2 + 6 + TITLE * 0.86
    title = escape(shortened(block.title, size, wide - 12, weight == "bold"))
    texts = [(f'<text x="{x:.2f}" y="{top:.2f}" font-size="{size}" font-weight="{weight}" text-anchor="middle" '
              f'fill="{INK}">'
              f'{title}</text>')]
    for number, line in enumerate(block.lines, 1):
        texts.append(f'<text x="{x:.2f}" y="{top + number * LEADING:.2f}" font-size="{LINE}" text-anchor="middle" '
                     f'fill="{FAINT}">'
                     f'{escape(shortened(line, LINE, wide - 12))}</text>')
    return f'<g class="block" data-name={quoteattr(block.title)}>{tooltip}{shape}{"".join(texts)}</g>'
