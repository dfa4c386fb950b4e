"""``dataclasses.dataclass``, but made faster.

A process that only reads and runs what earlier ones compiled defines two hundred classes of fields, most of them of few
lines, and makes instances of half of them.  The library compiles up to six functions for each class, which takes longer
than to read the program and to link it.  Here a class's own functions are compiled when one of them is first looked up,
and what can be is shared.  Making an instance of a frozen class takes half the time, too.
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
            return _made(cls, frozen, eq, repr)
        return make if cls is None else make(cls)


def changed(record, **values):
    """``dataclasses.replace``, several times as fast, for a record that is nothing but its fields: without a
    ``__post_init__``, and without properties that it keeps."""
    made = object.__new__(record.__class__)
    made.__dict__.update(record.__dict__, **values)
    return made


def _made(cls: type, frozen: bool, eq: bool, repr: bool) -> type:
    if cls.__doc__ is None:
        cls.__doc__ = cls.__name__              # or the library makes one, of a signature that takes long to find
    dataclasses.dataclass(init=False, repr=False, eq=False)(cls)
    compiled = ("__init__", *(("__eq__", "__hash__") if eq and frozen else ("__eq__",) if eq else ()))
    functions: dict = {name: _Later(cls, name, frozen) for name in compiled}
    if eq and not frozen:
        functions["__hash__"] = None
    if frozen:
        functions |= {"__setattr__": _set, "__delattr__": _delete}
    if repr:
        functions["__repr__"] = _repr
    for name, function in functions.items():
        if cls.__dict__.get(name) is None:      # `__hash__` of a class with an `__eq__` is
            setattr(cls, name, function)
    return cls


class _Later:
    """A function of a class that is compiled, with its others, when it is looked up."""

    def __init__(self, cls: type, name: str, frozen: bool):
        self._cls, self._name, self._frozen = cls, name, frozen

    def __get__(self, instance, owner=None):
        cls = self._cls
        later = [name for name in ("__init__", "__eq__", "__hash__") if isinstance(cls.__dict__.get(name), _Later)]
        if later:                               # or another thread was faster
            functions = _compile(cls, self._frozen, "__eq__" in later)
            for name in later:
                setattr(cls, name, functions[name])
        return cls.__dict__[self._name].__get__(instance, owner)


def _compile(cls: type, frozen: bool, eq: bool) -> dict:
    """What differs from class to class: `__init__`, and with ``eq`` `__eq__` and `__hash__`."""
    names: dict = {"_MISSING": MISSING}
    parameters, lines = ["self"], []
    fields = dataclasses.fields(cls)
    for field in fields:
        name, value = field.name, field.name
        if field.default_factory is not MISSING:
            names[f"_make_{name}"], value = field.default_factory, f"_make_{name}()"
        if field.init:
            default = ""
            if field.default is not MISSING:
                names[f"_default_{name}"], default = field.default, f"=_default_{name}"
            elif value != name:
                default, value = "=_MISSING", f"{value} if {name} is _MISSING else {name}"
            parameters.append(name + default)
        if field.init or value != name:
            lines.append(f" _values[{name!r}] = {value}" if frozen else f" self.{name} = {value}")
    if frozen:
        lines.insert(0, " _values = self.__dict__")
    if hasattr(cls, "__post_init__"):
        lines.append(" self.__post_init__()")
    source = f"def __init__({', '.join(parameters)}):\n" + ("\n".join(lines) or " pass") + "\n"
    if eq:
        own, theirs = (f"({''.join(f'{whose}.{field.name}, ' for field in fields if field.compare)})"
                       for whose in ("self", "other"))
        source += (f"def __eq__(self, other):\n"
                   f" return {own} == {theirs} if other.__class__ is self.__class__ else NotImplemented\n"
                   f"def __hash__(self):\n return hash({own})\n")
    exec(source, names)
    names["__init__"].__annotations__ = {field.name: field.type for field in fields if field.init}
    return {name: names[name] for name in (("__init__", "__eq__", "__hash__") if eq else ("__init__",))}


def _set(self, name: str, value: object) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _delete(self, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _repr(self) -> str:
    parts = ", ".join(f"{field.name}={getattr(self, field.name)!r}" for field in dataclasses.fields(self) if field.repr)
    return f"{type(self).__qualname__}({parts})"
