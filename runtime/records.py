"""``dataclasses.dataclass``, but made faster where it is frozen.

A process that only reads and runs what earlier ones compiled defines a hundred frozen classes, most of them of few
lines.  The library compiles six functions for each, which takes longer than to read the program and to link it; here
it is one, and what is left is shared.  Making an instance takes half the time, too.
"""

from __future__ import annotations

import dataclasses
from dataclasses import MISSING, FrozenInstanceError
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    def dataclass(cls=None, *, frozen=False, eq=True, repr=True):
        """A class of fields, as the library's of the same name makes it."""
        def make(cls):
            return _frozen(cls, eq, repr) if frozen else dataclasses.dataclass(eq=eq, repr=repr)(cls)
        return make if cls is None else make(cls)


def _frozen(cls: type, eq: bool, repr: bool) -> type:
    if cls.__doc__ is None:
        cls.__doc__ = cls.__name__              # or the library makes one, of a signature that takes long to find
    dataclasses.dataclass(init=False, repr=False, eq=False)(cls)
    fields = dataclasses.fields(cls)
    functions = _compile(fields, eq, hasattr(cls, "__post_init__"))
    functions["__init__"].__annotations__ = {field.name: field.type for field in fields if field.init}
    functions |= {"__setattr__": _set, "__delattr__": _delete} | ({"__repr__": _repr} if repr else {})
    for name, function in functions.items():
        if name not in cls.__dict__ or cls.__dict__[name] is None:      # `__hash__` of a class with an `__eq__`
            setattr(cls, name, function)
    return cls


def _compile(fields: tuple[dataclasses.Field, ...], eq: bool, has_more: bool) -> dict:
    """What differs from class to class: `__init__`, and with ``eq`` `__eq__` and `__hash__`."""
    names: dict = {"_MISSING": MISSING}
    parameters, lines = ["self"], []
    for field in (field for field in fields if field.init):
        name, default = field.name, ""
        if field.default is not MISSING:
            names[f"_default_{name}"], default = field.default, f"=_default_{name}"
        elif field.default_factory is not MISSING:
            names[f"_make_{name}"], default = field.default_factory, "=_MISSING"
            lines.append(f" if {name} is _MISSING: {name} = _make_{name}()")
        parameters.append(name + default)
        lines.append(f" _values[{name!r}] = {name}")
    if has_more:
        lines.append(" self.__post_init__()")
    source = f"def __init__({', '.join(parameters)}):\n _values = self.__dict__\n" + "\n".join(lines) + "\n"
    if eq:
        own, theirs = (f"({''.join(f'{whose}.{field.name}, ' for field in fields if field.compare)})"
                       for whose in ("self", "other"))
        source += (f"def __eq__(self, other):\n"
                   f" return {own} == {theirs} if other.__class__ is self.__class__ else NotImplemented\n"
                   f"def __hash__(self):\n return hash({own})\n")
    exec(source, names)
    return {name: names[name] for name in (("__init__", "__eq__", "__hash__") if eq else ("__init__",))}


def _set(self, name: str, value: object) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _delete(self, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _repr(self) -> str:
    parts = ", ".join(f"{field.name}={getattr(self, field.name)!r}" for field in dataclasses.fields(self) if field.repr)
    return f"{type(self).__qualname__}({parts})"
