"""How much disk an installed library takes, with everything that it needs."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
OWN_SUFFIXES = {".py", ".net", ".lark", ".md", ".typed"}
NOT_SHIPPED = {"tests", "examples", "docs"}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def version(name: str) -> str:
    """Of an installed library; netc's own where it runs from a checkout that was never installed."""
    from .. import __version__
    return __version__ if name == "netc" else metadata.version(name)


def installed_bytes(name: str) -> int:
    """Bytes of a library's files and of those of all that it requires, extras not among them."""
    if name == "netc":
        return _own_bytes() + sum(_files(found) for found in requirements(_own_requirements()))
    return sum(_files(found) for found in requirements([name]))


def requirements(names: Iterable[str]) -> list[metadata.Distribution]:
    """The distributions and all that they need here, each once; what is not installed is left out."""
    found: dict[str, metadata.Distribution] = {}
    pending = list(names)
    while pending:
        key = re.sub(r"[-_.]+", "-", pending.pop()).lower()
        if key in found:
            continue
        try:
            found[key] = metadata.distribution(key)
        except metadata.PackageNotFoundError:
            continue
        pending += _required(found[key].requires or ())
    return list(found.values())


def _required(texts: Iterable[str]) -> list[str]:
    """The names in lines such as "numpy>=2; extra == 'test'".  Markers but for extras select by platform: what they
    leave out is not installed."""
    found = [NAME.match(name.strip()) for name, _, marker in (text.partition(";") for text in texts)
             if "extra" not in marker]
    return [match.group() for match in found if match is not None]


def _own_requirements() -> list[str]:
    settings = ROOT / "pyproject.toml"
    if settings.is_file():              # a checkout
        return _required(tomllib.loads(settings.read_text(encoding="utf-8"))["project"]["dependencies"])
    return _required(metadata.distribution("netc").requires or ())


def _own_bytes() -> int:
    """Of what a wheel holds, wherever the package lies."""
    return sum(path.stat().st_size for path in ROOT.rglob("*")
               if path.suffix in OWN_SUFFIXES and path.relative_to(ROOT).parts[0] not in NOT_SHIPPED and path.is_file())


def _files(distribution: metadata.Distribution) -> int:
    total = 0
    for path in distribution.files or ():
        place = Path(path.locate())
        if place.is_file():
            total += place.stat().st_size
    return total
