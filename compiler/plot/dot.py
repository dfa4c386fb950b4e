"""A figure in Graphviz' language, for those who have it: ``dot -Tpdf``."""

from __future__ import annotations

from .figure import Block, Figure, Group
from .svg import COLOURS, GROUP_FILLS

SHAPES = {"box": 'shape=box style="rounded,filled"',
          "pill": 'shape=box style="rounded,filled" height=0.25 margin="0.15,0.02"',
          "circle": "shape=circle style=filled width=0.28 fixedsize=true", "dot": "shape=point width=0.05"}


def write(figure: Figure) -> str:
    """The figure as a DOT digraph."""
    numbers = {block: f"b{number}" for number, block in enumerate(figure.blocks)}
    lines = [f"digraph {_quoted(figure.title)} {{",
             f"  label={_quoted(figure.title + chr(10) + figure.caption)} labelloc=t labeljust=l",
             '  node [fontname="Helvetica" fontsize=11 margin="0.14,0.06"]', '  edge [arrowsize=0.7 color="#4a5260"]',
             '  graph [fontname="Helvetica" fontsize=12 splines=ortho nodesep=0.35 ranksep=0.35]']
    lines += _body(figure, None, numbers, "  ")
    for link in figure.links:
        settings = []
        if link.weight:
            settings.append('style=dashed color="#b08a2e"')
        if link.target.shape == "dot":
            settings.append("arrowhead=none")
        if link.label:
            settings.append(f"tooltip={_quoted(link.label)}")
        tail = f" [{' '.join(settings)}]" if settings else ""
        lines.append(f"  {numbers[link.source]} -> {numbers[link.target]}{tail}")
    return "\n".join([*lines, "}", ""])


def _body(figure: Figure, group: Group | None, numbers, indent: str) -> list[str]:
    lines = [f"{indent}{numbers[block]} [{_node(block)}]" for block in figure.blocks if block.group is group]
    for number, inner in enumerate(figure.groups):
        if inner.parent is group:
            fill = GROUP_FILLS[min(len(inner.chain()), len(GROUP_FILLS)) - 1]
            title = inner.title + (f"   {inner.note}" if inner.note else "")
            style = f'style="rounded,filled" fillcolor="{fill}" color="#b9c0cb"'
            lines += [f"{indent}subgraph cluster_{number} {{", f"{indent}  label={_quoted(title)} labeljust=l {style}",
                      *_body(figure, inner, numbers, indent + "  "), f"{indent}}}"]
    return lines


def _node(block: Block) -> str:
    fill, border = COLOURS.get(block.style, COLOURS["layer"])
    label = "" if block.shape == "dot" else "\n".join((block.title, *block.lines))
    return f'label={_quoted(label)} {SHAPES[block.shape]} fillcolor="{fill}" color="{border}"'


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
