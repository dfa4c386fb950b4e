"""A figure in Mermaid's language, which GitHub and many editors draw within Markdown."""

from __future__ import annotations

from .figure import Block, Figure, Group
from .svg import COLOURS

SHAPES = {"box": ("[", "]"), "pill": ("([", "])"), "circle": ("((", "))"), "dot": ("((", "))")}


def write(figure: Figure) -> str:
    """The figure as a flowchart."""
    numbers = {block: f"b{number}" for number, block in enumerate(figure.blocks)}
    lines = ["---", f"title: {_quoted(figure.title)}", "---", "flowchart TD", *_body(figure, None, numbers, "  ")]
    for link in figure.links:
        arrow = "-.->" if link.weight else "---" if link.target.shape == "dot" else "-->"
        lines.append(f"  {numbers[link.source]} {arrow} {numbers[link.target]}")
    for style in dict.fromkeys(block.style for block in figure.blocks if block.shape != "dot"):
        fill, border = COLOURS.get(style, COLOURS["layer"])
        names = ",".join(numbers[block] for block in figure.blocks if block.style == style and block.shape != "dot")
        lines += [f"  classDef {style} fill:{fill},stroke:{border},color:#1d222b", f"  class {names} {style}"]
    return "\n".join([*lines, ""])


def _body(figure: Figure, group: Group | None, numbers, indent: str) -> list[str]:
    lines = []
    for block in figure.blocks:
        if block.group is group:
            left, right = SHAPES[block.shape]
            lines.append(f"{indent}{numbers[block]}{left}{_quoted(_label(block))}{right}")
    for number, inner in enumerate(figure.groups):
        if inner.parent is group:
            title = inner.title + (f" · {inner.note}" if inner.note else "")
            lines += [f"{indent}subgraph g{number}[{_quoted(title)}]", *_body(figure, inner, numbers, indent + "  "),
                      f"{indent}end"]
    return lines


def _label(block: Block) -> str:
    return " " if block.shape == "dot" else "<br/>".join((block.title, *block.lines))


def _quoted(text: str) -> str:
    """Mermaid's entities begin with #; what would be read as markup is written as one."""
    escaped = text.replace("#", "#35;").replace('"', "#quot;").replace("<br/>", "\n")
    escaped = escaped.replace("<", "#lt;").replace(">", "#gt;")
    return '"' + escaped.replace("\n", "<br/>") + '"'
