"""Compile-time values: what an expression of the language can be while a model is elaborated.

A value is one of: a number (``bool``, ``int``, ``float``, or a symbolic ``Dim``), ``None``, a ``str`` (a name-like
constant such as ``same``), a ``tuple`` of values, a ``range``, a ``DType``, a tensor (a graph ``Node``), or one of the
classes below.  Numbers are *weak* as in NumPy 2: they take the dtype of the tensor that they meet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from typing import Any

from ...runtime.records import dataclass
from ..diagnostics import did_you_mean as nearest  # noqa: F401  (this package asks for hints here)
from ..ir import Node
from ..types import Dim, DType, Size

# Kinds of mistakes, as this package names them -> the codes of the error index (diagnostics.TITLES).
CODES = {
    "name": "E0201", "twice": "E0202", "unassigned": "E0203", "output": "E0204", "unused": "E0205", "member": "E0206",
    "reserved": "E0207", "const": "E0208", "shape": "E0301", "dtype": "E0302", "type": "E0303", "rank": "E0304",
    "range": "E0305", "size": "E0306", "count": "E0307", "axis": "E0308", "compile-time": "E0309",
    "element-type": "E0310", "scalar": "E0311", "zero-gradient": "E0312", "pairs": "E0313", "setting": "E0401",
    "missing": "E0402", "given-twice": "E0403", "arguments": "E0404", "setting-type": "E0405", "value": "E0406",
    "input-missing": "E0407",
    "call": "E0408", "instance": "E0409", "input": "E0410", "assert": "E0411", "place": "E0501", "return": "E0502",
    "outputs": "E0503", "signature": "E0504", "scan": "E0505", "gradient": "E0506", "loop": "E0507",
    "condition": "E0508", "no-model": "E0509", "declaration": "E0510", "train": "E0601", "no-loss": "E0602",
    "train-model": "E0603", "loss-scalar": "E0604", "optimizer": "E0605", "loss-twice": "E0607",
    "optimizer-twice": "E0608", "import": "E0701", "import-cycle": "E0702", "import-outside": "E0703",
    "nested": "E0801", "number": "E0802", "limit": "E0805", "recursion": "E0806",
}


class Fault(Exception):
    """A mistake of the model's writer, on its way to becoming a Diagnostic; the span may be filled in later."""

    def __init__(self, code: str, message: str, *, span=None, expected=None, found=None, hint=None):
        super().__init__(message)
        self.code, self.message, self.span = CODES[code], message, span
        self.expected, self.found, self.hint = expected, found, hint
        self.chain: tuple | None = None      # the calls through which it came, once known
        self.argument: str | None = None     # of a builtin: the argument that it is about


class Poisoned(Exception):
    """An expression used a value whose computation failed earlier: the failure is already reported, so be silent."""


class Poison:
    """The value of a name whose computation failed."""

    def __repr__(self) -> str:
        return "<poison>"


POISON = Poison()


@dataclass(frozen=True, eq=False)
class Record:
    """The named outputs of a model: fields by name, unpackable in order."""

    kind: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Function:
    """A ``def``: its tree and the scope that it was written in."""

    name: str
    tree: Any
    scope: Any


@dataclass(frozen=True, eq=False)
class Parameter:
    """One parameter of a builtin; ``required`` ones have no default."""

    name: str
    default: Any = None
    required: bool = True


@dataclass(frozen=True, eq=False)
class Builtin:
    """A function of the compiler: ``call(call_context, **arguments)``."""

    name: str
    parameters: tuple[Parameter, ...]
    variadic: bool
    call: Callable


@dataclass(frozen=True, eq=False)
class Partial:
    """A function with some arguments fixed by name, e.g. ``leaky_relu(alpha = 0.1)``."""

    function: Any
    named: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.function.name


@dataclass(frozen=True, eq=False)
class ModelValue:
    """A ``model`` that has not been given its settings."""

    name: str
    tree: Any
    scope: Any


@dataclass(eq=False)
class Instance:
    """A model with its settings: it owns the weights below ``path``; each call is counted."""

    model: ModelValue
    settings: dict[str, Any]
    path: str | None = None                  # given when it is first bound or called
    span: Any = None
    home: tuple | None = None                # (the instance that has it as a setting, the setting's name)
    names: dict | None = None                # the names of its body after its last call
    taken: set = field(default_factory=set)  # the names of the instances in its body, after its last call
    given: frozenset = frozenset()           # the settings that were not left at their defaults

    @property
    def name(self) -> str:
        return self.model.name


@dataclass(frozen=True, eq=False)
class Module:
    """An imported file: its names, elaborated on demand."""

    name: str
    scope: Any


NUMBERS = (int, float, Dim)             # a bool is an int
NUMERIC = (*NUMBERS, Node)


def is_number(value) -> bool:
    """True for a compile-time scalar, symbolic sizes included."""
    return isinstance(value, NUMBERS)


def is_int(value) -> bool:
    """True for a known integer that is no boolean."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_size(value) -> bool:
    """True for what can stand in a shape."""
    return isinstance(value, (int, Dim)) and not isinstance(value, bool)


def is_tensor(value) -> bool:
    return isinstance(value, Node)


def is_function(value) -> bool:
    """True for whatever can be called with values."""
    return isinstance(value, (Function, Builtin, Partial, ModelValue, Instance))


def show(value) -> str:
    """A value as a message shows it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Node):
        return str(value.type)
    if isinstance(value, tuple):
        inner = ", ".join(show(item) for item in value[:8]) + (", ..." if len(value) > 8 else "")
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, range):
        return f"range({value.start}, {value.stop}, {value.step})"
    if isinstance(value, (Function, Builtin, Partial, ModelValue, Instance)):
        return value.name
    return str(value)


def describe(value) -> str:
    """What kind of value it is, for "found" lines."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"the boolean {show(value)}"
    if isinstance(value, int):
        return f"the integer {value}"
    if isinstance(value, float):
        return f"the number {value}"
    if isinstance(value, Dim):
        return f"the symbolic size {value}"
    if isinstance(value, str):
        return f"the word `{value}`"
    if isinstance(value, tuple):
        return f"the tuple {show(value)}"
    if isinstance(value, range):
        return "a range"
    if isinstance(value, Node):
        return f"a tensor {value.type}"
    if isinstance(value, DType):
        return f"the dtype {value}"
    if isinstance(value, Record):
        return f"the outputs ({', '.join(value.fields)}) of {value.kind}"
    if isinstance(value, ModelValue):
        return f"the model {value.name} without settings"
    if isinstance(value, Instance):
        return f"an instance of {value.name}"
    if isinstance(value, Module):
        return f"the file {value.name}"
    return f"the function {value.name}" if hasattr(value, "name") else str(value)


def shape_text(shape: Iterable[Size]) -> str:
    return f"[{', '.join(map(str, shape))}]"
