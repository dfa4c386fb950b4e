"""Folding: a figure whose nested models are opened only so far, each of the others one block that says what is in it.

A group is folded where that makes no circle of links: where something outside of it stands between two of its blocks
it stays open.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from .figure import Block, Figure, Group, Link

MOST_BLOCKS = 64             # that a picture shows of its own accord


def fold(figure: Figure, places: Mapping[Block, tuple[Group, ...]], depth: int | None) -> None:
    """Fold the groups below ``depth``; without it, as many levels as it takes to keep the picture readable, but one.

    ``places``: the groups around each block, outermost first, more than are drawn where all is open.
    """
    deepest = max((len(groups) for groups in places.values()), default=0)
    if depth is None and len(figure.blocks) <= MOST_BLOCKS:
        return
    for levels in range(deepest - 1, -1, -1) if depth is None else [depth]:
        folded = _folded(figure, places, levels)
        if depth is not None or levels <= 1 \
                or len({folded.get(block, block) for block in figure.blocks}) <= MOST_BLOCKS:
            _apply(figure, places, folded, levels)
            return


def _folded(figure: Figure, places: Mapping[Block, tuple[Group, ...]], levels: int) -> dict[Block, Group]:
    """The group that takes the place of each block that is folded."""
    inside: dict[Group, list[Block]] = {}
    for block in figure.blocks:
        groups = places.get(block, ())
        if len(groups) > levels:
            inside.setdefault(groups[levels], []).append(block)
    found: dict[Block, Group] = {}
    for group, blocks in inside.items():
        if len(blocks) > 1 and not _makes_a_circle(figure.links, found | dict.fromkeys(blocks, group), group):
            found |= dict.fromkeys(blocks, group)
    return found


def _makes_a_circle(links: Iterable[Link], folded: Mapping[Block, Group], group: Group) -> bool:
    """Whether what leaves the group comes back to it."""
    out: dict[Block | Group, set[Block | Group]] = {}
    for link in links:
        source, target = folded.get(link.source, link.source), folded.get(link.target, link.target)
        if source is not target:
            out.setdefault(source, set()).add(target)
    waiting, seen = list(out.get(group, ())), set()
    while waiting:
        here = waiting.pop()
        if here is group:
            return True
        if here not in seen:
            seen.add(here)
            waiting.extend(out.get(here, ()))
    return False


def _apply(figure: Figure, places: Mapping[Block, tuple[Group, ...]], folded: Mapping[Block, Group],
           levels: int) -> None:
    made = {group: Block(group.title, _lines([block for block in folded if folded[block] is group]), "layer", "box")
            for group in dict.fromkeys(folded.values())}
    stands = {block: made[folded[block]] if block in folded else block for block in figure.blocks}
    for block, new in stands.items():
        groups = places.get(block, ())
        if new is not block:
            new.group = groups[levels - 1] if levels else None
        elif groups:
            new.group = groups[min(levels, len(groups)) - 1] if levels else None
    figure.blocks = list(dict.fromkeys(stands.values()))
    used = dict.fromkeys(around for block in figure.blocks if block.group is not None for around in block.group.chain())
    scans = [group for group in figure.groups if group.style == "scan" and group in used]
    figure.groups = [*scans, *(group for group in used if group not in scans)]
    links: dict[tuple, Link] = {}
    for link in figure.links:
        source, target = stands[link.source], stands[link.target]
        if source is not target:
            links.setdefault((source, target), Link(source, target, 0, link.label if source is link.source else ""))
    figure.links = list(links.values())


def _lines(blocks: list[Block]) -> tuple[str, ...]:
    """How many kernels of which kind a group has become."""
    kinds: Counter[str] = Counter()
    for block in blocks:
        if block.style != "memory" or block.title.split()[0] in ("halo", "copy"):
            name, _, times = block.title.partition(" ×")
            kinds[name.split()[0]] += int(times or 1)
    words = [f"{kind} ×{count}" if count > 1 else kind for kind, count in kinds.most_common()]
    count = sum(kinds.values())
    return f"{count} kernel{'s' * (count > 1)}", *(", ".join(words[at:at + 3]) for at in range(0, len(words), 3))
