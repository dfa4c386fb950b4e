"""The prelude: the files of layers, losses and optimisers that every model may use, and the trees of their
definitions, which are data beside them.

A model needs few of the definitions, and to parse those takes longer than most models' own text.
``python -m netc.compiler.tables`` writes the trees anew after an edit of the prelude or of the grammar; until then they
do not fit, and what is used is parsed.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

from ..runtime.cache import key_of
from . import kept_trees, syntax
from .source import read

GRAMMAR = Path(__file__).resolve().parent.parent / "grammar"
PRELUDE = GRAMMAR / "prelude"
TREES = GRAMMAR / "prelude.trees"

_TOP_LEVEL = re.compile(r"^(?:model|def|const)[ \t]+([A-Za-z_]\w*)", re.MULTILINE)


@cache
def prelude_index() -> dict[str, str]:
    """Name -> file, read off the lines that start a definition (parsing all files would take longer)."""
    return {name: path for path, text in _texts().items() for name in _TOP_LEVEL.findall(text)}


@cache
def _texts() -> dict[str, str]:
    """The text of each file."""
    return {str(path): path.read_text(encoding="utf-8") for path in sorted(PRELUDE.glob("*.net"))}


@cache
def prelude_tree(path: str) -> syntax.File:
    """A file of the prelude."""
    return syntax.parse(_texts()[path], f"prelude/{Path(path).name}")


@cache
def prelude_definition(name: str) -> syntax.File:
    """The file of the prelude that defines a name, without its other definitions."""
    text, shown = _definition(name)
    rows = _trees().get(name)
    if rows is None:
        return syntax.parse(text, shown)
    return kept_trees.tree_of(json.loads(rows), read(text, shown))


def _definition(name: str) -> tuple[str, str]:
    """The text of a definition, all else in its file left blank so that its places are those in the file; and the name
    that the file is shown under."""
    path = prelude_index()[name]
    text = _texts()[path]
    starts = {found[1]: found.start() for found in _TOP_LEVEL.finditer(text)}
    first, start = min(starts.values()), starts[name]
    end = min((other for other in starts.values() if other > start), default=len(text))
    lines = "\n" * text.count("\n", first, start)
    return text[:first] + lines + text[start:end], f"prelude/{Path(path).name}"


@cache
def _trees() -> dict[str, str]:
    """Name -> the rows of its definition's tree, as JSON; nothing where they are not of these files."""
    identity, *lines = TREES.read_text(encoding="utf-8").splitlines()
    return dict(line.split(" ", 1) for line in lines) if identity == _identity() else {}


def write_trees() -> None:
    """Write the trees of the prelude as it is now, a definition a line."""
    from .parser import parse
    rows = {name: kept_trees.rows_of(parse(*_definition(name))) for name in sorted(prelude_index())}
    lines = [_identity(), *(f"{name} {json.dumps(found, separators=(',', ':'))}" for name, found in rows.items())]
    TREES.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def _identity() -> str:
    """The key of all that shapes the trees, whatever ends its lines."""
    return key_of((GRAMMAR / "net.lark").read_text(encoding="utf-8"), kept_trees.form(), *_texts().values())


def prelude_part(file: str) -> str:
    """The name of the prelude's file, "attention"; "" of any other file."""
    return Path(file).stem if is_prelude(file) else ""


def is_prelude(file: str) -> bool:
    """Whether a span's file is one of the prelude's."""
    return file.startswith("prelude/")
