"""From bytes to text: what every file goes through before it is parsed."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..runtime.errors import InputError, NetcError
from .diagnostics import Diagnostic, Diagnostics, Source, Span

MAX_CHARACTERS = 4_000_000
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f]")


def read_source(source: str | os.PathLike) -> tuple[str, str]:
    """(text, the name it is shown under).  Raises OSError, or NetcError where a file is not UTF-8 text."""
    if isinstance(source, str) and "\n" in source:
        return source, "<text>"
    if not isinstance(source, (str, os.PathLike)):
        raise InputError(f"a path or source text is expected, not {type(source).__name__}")
    if not os.fspath(source):
        raise InputError("the path is empty: a path or source text is expected")
    try:
        return Path(source).read_text(encoding="utf-8"), os.fspath(source)
    except UnicodeDecodeError as error:
        raise NetcError(f"{os.fspath(source)} is not UTF-8 text: byte {error.start}: {error.reason}") from None


def read(text: str | bytes, filename: str) -> Source:
    """The source with its line ends made plain; refuses what is not text."""
    if isinstance(text, bytes):
        content = text
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            good = Source(filename, plain(content[: error.start].decode("utf-8")))
            line = len(good.lines)
            column = len(good.lines[-1]) + 1
            raise Diagnostics(Diagnostic(
                "E0116", "the file is not UTF-8 text", Span(good, line, column, line, column + 1),
                found=f"the byte 0x{text[error.start]:02x}", hint="save the file with the encoding UTF-8")) from None
    source = Source(filename, plain(text))
    if len(source.text) > MAX_CHARACTERS:
        raise Diagnostics(Diagnostic("E0803",
                                     f"the file has {len(source.text)} characters; {MAX_CHARACTERS} are the limit",
                                     Span(source, 1, 1, 1, 2)))
    control = CONTROL.search(source.text)
    if control is not None:
        line = source.text.count("\n", 0, control.start()) + 1
        column = control.start() - source.text.rfind("\n", 0, control.start())
        raise Diagnostics(Diagnostic("E0116", f"the file holds the control character U+{ord(control[0]):04X}",
                                     Span(source, line, column, line, column + 1), hint="a model file is plain text"))
    return source


def plain(text: str) -> str:
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
