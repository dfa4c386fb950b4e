"""The error index: a page for each code of a diagnostic, with a mistake that provokes it, the mend, and why.

The pages are Markdown, `grammar/errors/E0201.md`, for the terminal and for the documents alike;
tests/test_error_index.py compiles what they show.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..runtime.errors import NetcError
from .diagnostics import TITLES

PAGES = Path(__file__).resolve().parent.parent / "grammar" / "errors"
FAMILIES = {"E01": "the text", "E02": "names", "E03": "types and shapes", "E04": "settings and calls",
            "E05": "structure", "E06": "train blocks", "E07": "imports", "E08": "limits"}


def page(code: str) -> str:
    """The page of a code as Markdown; `E0201` may be written `e0201` or `201`. Raises NetcError for an unknown one."""
    known = code.strip().upper()
    if re.fullmatch(r"E?\d{1,4}", known):
        known = f"E{int(known.lstrip('E')):04d}"
    if known not in TITLES:
        raise NetcError(f"there is no error {code!r}: `netc explain` lists them all")
    return (PAGES / f"{known}.md").read_text(encoding="utf-8")


def contents() -> str:
    """Every code with its title, by family, as text."""
    lines = []
    for family, name in FAMILIES.items():
        lines += [name, *(f"  {code}  {title}" for code, title in TITLES.items() if code.startswith(family)), ""]
    return "\n".join(lines)
