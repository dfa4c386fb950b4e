"""What a caller of the Python API can do wrong.  Faults of a ``.net`` text are ``compiler.diagnostics.Diagnostics``."""

from __future__ import annotations

from collections.abc import Iterable


class NetcError(Exception):
    """The base of every error that netc raises on purpose."""


class InputError(NetcError, ValueError):
    """An input is missing, unknown, or of the wrong type, shape or range."""


class WeightsError(NetcError, ValueError):
    """Weights do not fit the model, or a file does not hold weights."""


class ModelError(NetcError, ValueError):
    """The model cannot do what is asked of it: it has no loss, no such output, it is too large."""


class DeviceError(NetcError, RuntimeError):
    """The GPU, or what it takes to use one, is missing, or has too little memory."""


class NotFiniteError(NetcError, FloatingPointError):
    """A value of the model is NaN or infinite; the message says where that begins."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`` (did you mean `x`?)`` for the nearest known name; empty where none is near."""
    from difflib import get_close_matches
    near = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean `{near[0]}`?)" if near else ""


def listing(names: Iterable[str], limit: int = 8) -> str:
    """Names for a message: all of a few, the first of many."""
    names = list(names)
    text = ", ".join(f"`{name}`" for name in names[:limit])
    return text + (f" and {len(names) - limit} more" if len(names) > limit else "") if names else "none"
