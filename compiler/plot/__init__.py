"""Pictures of models: the layers as they were written, or the kernels that they became; as SVG, DOT or Mermaid.

    figure                      what is drawn, without places
    model_view, compiler_view   figures of a model, of a program
    fold                        nested models of a figure as one block each
    ranks, layout, place, route from a figure to places: no tool of the system is needed
    svg, dot, mermaid           the writers
"""

from __future__ import annotations

import os
from pathlib import Path

from ...runtime.errors import ModelError, listing
from ...runtime.records import dataclass
from ...runtime.weights import write_atomically
from .figure import Figure

# ending -> format
FORMATS = {".svg": "svg", ".dot": "dot", ".gv": "dot", ".mmd": "mermaid", ".mermaid": "mermaid", ".md": "mermaid"}


@dataclass(frozen=True)
class Picture:
    """A figure that can be written; a notebook shows it."""

    figure: Figure

    def write(self, format: str = "svg") -> str:
        """The picture as text: "svg", "dot" or "mermaid".  Raises ModelError for another format."""
        if format not in FORMATS.values():
            raise ModelError(f"there is no format {format!r} for pictures: there are "
                             f"{listing(dict.fromkeys(FORMATS.values()))}")
        from importlib import import_module
        return import_module(f".{format}", __name__).write(self.figure)

    def save(self, path: str | os.PathLike) -> None:
        """Write a file, atomically, in the format of its ending; into Markdown as a code block that is drawn there."""
        path = Path(path)
        text = self.write(format_of(path))
        if path.suffix == ".md":
            text = f"```mermaid\n{text}```\n"
        write_atomically(path, text.encode())

    def _repr_svg_(self) -> str:
        return self.write("svg")


def format_of(path: str | os.PathLike) -> str:
    """The format that an ending stands for.  Raises ModelError for another."""
    found = FORMATS.get(Path(path).suffix.lower())
    if found is None:
        raise ModelError(f"{os.fspath(path)}: pictures are written as {', '.join(FORMATS)}")
    return found
