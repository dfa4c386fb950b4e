"""What a picture shows, before anything has a place: blocks, groups of blocks, and links between blocks.

Every writer (SVG, DOT, Mermaid) takes a ``Figure``; only SVG asks for a layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(eq=False)
class Group:
    """A box around blocks and groups, with a title at its top and a note at the right of it."""

    title: str
    note: str = ""
    style: str = "model"
    parent: Group | None = None

    def chain(self) -> list[Group]:
        """The groups around, outermost first, this one last."""
        return [*(self.parent.chain() if self.parent is not None else ()), self]


@dataclass(eq=False)
class Block:
    """A thing that is drawn.  ``shape``: "box", "pill" (a thin box with round ends), "circle" (a sign) or "dot" (where
    a group's input is shared out)."""

    title: str
    lines: tuple[str, ...] = ()
    style: str = "layer"
    shape: str = "box"
    group: Group | None = None
    tooltip: str = ""


@dataclass(eq=False)
class Link:
    """An arrow.  ``output`` numbers the source's outputs; ``weight`` says that what goes over is a weight that is
    tied."""

    source: Block
    target: Block
    output: int = 0
    label: str = ""
    weight: bool = False


@dataclass
class Figure:
    """Blocks in the order in which a reader of the model meets them; no circle of links."""

    title: str
    caption: str = ""
    blocks: list[Block] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)

    def inside(self, group: Group) -> Iterator[Block]:
        """The blocks in a group and in the groups inside of it."""
        return (block for block in self.blocks if block.group is not None and group in block.group.chain())
