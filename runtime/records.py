"""``dataclasses.dataclass``, but made faster.

A process that only reads and runs what earlier ones compiled defines two hundred classes of fields, most of them of few
lines, and makes instances of half of them.  The library compiles up to six functions for each class, which takes longer
than to read the program and to link it.  Here a class's fields are found, and its own functions compiled, when they are
first looked up, and what can be is shared.  Making an instance of a frozen class takes half the time, too.
"""

from __future__ import annotations

import dataclasses
import os
import threading
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
    for name in OF_FIELDS:
        setattr(cls, name, _Found(cls, name))
    functions: dict = {"__init__": _Compiled(cls, "__init__", frozen)}
    if eq:
        functions["__eq__"] = _Compiled(cls, "__eq__", frozen)
        functions["__hash__"] = _Compiled(cls, "__hash__", frozen) if frozen else None
    if frozen:
        functions |= {"__setattr__": _set, "__delattr__": _delete}
    if repr:
        functions["__repr__"] = _repr
    for name, function in functions.items():
        if cls.__dict__.get(name) is None:      # `__hash__` of a class with an `__eq__` is
            setattr(cls, name, function)
    return cls


OF_FIELDS = ("__dataclass_fields__", "__dataclass_params__", "__match_args__")
_lock = threading.RLock()       # held while a class changes
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


class _Later:
    """What a class has in place of something that is made when it is looked up."""

    def __init__(self, cls: type, name: str):
        self._cls, self._name = cls, name

    def __get__(self, instance, owner=None):
        with _lock:
            if self._cls.__dict__[self._name] is self:          # else another thread was faster
                self._make()
        made = self._cls.__dict__[self._name]
        return made.__get__(instance, owner) if hasattr(made, "__get__") else made

    def _make(self) -> None:
        raise NotImplementedError


class _Found(_Later):
    """What the library finds out about a class's fields."""

    def _make(self) -> None:
        made: type = dataclasses.dataclass(init=False, repr=False, eq=False, match_args=False)(self._cls)
        parts = tuple(field.name for field in dataclasses.fields(made) if field.init)
        type.__setattr__(made, "__match_args__", parts)


class _Compiled(_Later):
    """A function of a class's fields."""

    def __init__(self, cls: type, name: str, frozen: bool):
        super().__init__(cls, name)
        self._frozen = frozen

    def _make(self) -> None:
        fields = dataclasses.fields(self._cls)
        made = _initialiser(self._cls, fields, self._frozen) if self._name == "__init__" else _comparison(fields)
        for name, function in made.items():
            if isinstance(self._cls.__dict__.get(name), _Compiled):
                setattr(self._cls, name, function)


def _initialiser(cls: type, fields, frozen: bool) -> dict:
    names: dict = {"_MISSING": MISSING}
    parameters, lines = ["self"], []
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
    exec(f"def __init__({', '.join(parameters)}):\n" + ("\n".join(lines) or " pass"), names)
    names["__init__"].__annotations__ = {field.name: field.type for field in fields if field.init}
    return {"__init__": names["__init__"]}


def _comparison(fields) -> dict:
    names: dict = {}
    own, theirs = (f"({''.join(f'{whose}.{field.name}, ' for field in fields if field.compare)})"
                   for whose in ("self", "other"))
    exec(f"def __eq__(self, other):\n"
         f" return {own} == {theirs} if other.__class__ is self.__class__ else NotImplemented\n"
         f"def __hash__(self):\n return hash({own})\n", names)
    return {name: names[name] for name in ("__eq__", "__hash__")}


def _set(self, name: str, value: object) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _delete(self, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _repr(self) -> str:
    parts = ", ".join(f"{field.name}={getattr(self, field.name)!r}" for field in dataclasses.fields(self) if field.repr)
    return f"{type(self).__qualname__}({parts})"
