"""What the type rules and gradient rules of all primitives share."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, NoReturn

from ..ir import Graph, Node
from ..types import Dim, DType, Shape, Size, TensorType, TypeRuleError, evaluate, known_nonnegative

NUMERIC = ("float", "int")


def refuse(message: str) -> NoReturn:
    """Raise a type error, worded for a model's writer."""
    raise TypeRuleError(message)


def check_count(name: str, args: Sequence, count: int) -> None:
    """Refuse a wrong number of operands."""
    if len(args) != count:
        refuse(f"{name} takes {count} operand{'s' if count != 1 else ''}, got {len(args)}")


def check_kind(name: str, type_: TensorType, kinds: Sequence[str]) -> None:
    """Refuse an operand whose dtype is of another kind."""
    if type_.dtype.kind not in kinds:
        words = {"float": "floating-point numbers", "int": "integers", "bool": "booleans"}
        refuse(f"{name} takes {' or '.join(words[kind] for kind in kinds)}, got {type_}")


def check_shape(name: str, shape: Shape) -> None:
    """Refuse sizes that cannot be sizes."""
    for size in shape:
        if isinstance(size, bool) or (isinstance(size, int) and size < 0):
            refuse(f"{name}: the size {size} of the shape {show(shape)} is not a count")


def check_axes(name: str, axes: Sequence[int], rank: int) -> None:
    """Refuse axes that are not increasing positions of dimensions."""
    if any(not isinstance(axis, int) or not 0 <= axis < rank for axis in axes):
        refuse(f"{name}: the axes {show(axes)} are not all axes of a tensor of {rank} dimensions")
    if list(axes) != sorted(set(axes)):
        refuse(f"{name}: the axes {show(axes)} are not in increasing order, each once")


def certainly_negative(size: Size) -> bool:
    """True if the size is below 0 for every assignment of its symbols."""
    return known_nonnegative(-size - 1)


def show(values: Sequence) -> str:
    """Sizes or axes as the language writes them."""
    return "[" + ", ".join(map(str, values)) + "]"


def counted(values: Any, name: str) -> tuple:
    """A tuple of sizes out of any sequence of them."""
    result = tuple(values)
    if all(type(v) is int or type(v) is Dim for v in result):       # nearly always; to ask for an Integral takes long
        return result
    result = tuple(int(v) if isinstance(v, Integral) and not isinstance(v, bool) else v for v in result)
    if any(isinstance(v, (bool, float)) for v in result):
        refuse(f"{name}: {show(result)} are not whole numbers")
    return result


def number(value: Any, dtype: DType) -> float | int | bool:
    """A Python number of the dtype's kind: the normal form of numbers in attributes."""
    kind = {"float": float, "int": int, "bool": bool}[dtype.kind]
    if dtype.kind == "int" and int(value) != value:
        refuse(f"{value} is not a value of {dtype}")
    return kind(value)


def numbers(shape: Shape, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """A shape under an assignment of its symbols."""
    return tuple(evaluate(size, sizes) for size in shape)


def sampler(name: str):
    """The ``sample`` of a record: kept in ``samples``, which needs every builder and is loaded when tests ask."""
    def sample(rng):
        from .samples import SAMPLES
        return SAMPLES[name](rng)
    return sample


_graphs: weakref.WeakValueDictionary[tuple, Graph] = weakref.WeakValueDictionary()


def interned_graph(inputs: Sequence[Node], outputs: Sequence[Node]) -> Graph:
    """The closed function with these inputs and outputs "0", "1", ...; equal ones are the same object.

    Equal graphs are equal attributes anyway; one object for them makes comparing scans cheap.
    """
    key = (tuple(inputs), tuple(outputs))
    found = _graphs.get(key)
    if found is None:
        found = Graph(tuple(inputs), {str(position): output for position, output in enumerate(outputs)})
        _graphs[key] = found
    return found
