"""What values cost: floating-point operations and bytes, as sizes that may be symbolic.

An operation on floats counts 1, whatever it is, a multiply-add 2; movement, choices, conversions, integers and random
bits count nothing.  A contraction counts its whole index space, padding included, as is usual.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .ir import Node, is_tensor
from .types import Size, TensorType, product, substitute

FREE = {"input", "param", "state", "local", "constant", "size", "iota", "reshape", "transpose", "broadcast", "slice",
        "reverse", "pad", "concat", "cast", "gather", "stop_gradient", "custom", "item", "random_bits", "window_take",
        "window_put", "where"}


def flops(current: Node) -> Size:
    """Operations to compute the value from its arguments."""
    name = current.op.name
    if name in FREE:
        return 0
    if name == "scan":
        return current.attrs["length"] * total_flops(current.attrs["body"].nodes())
    kinds = {value.dtype.kind for value in (current, *current.args) if is_tensor(value)}
    if "float" not in kinds:
        return 0
    if name == "contract":
        return _contraction(current)
    if name in ("reduce", "argmax", "argmin"):
        return current.args[0].type.size
    if name == "scatter_add":
        return current.args[1].type.size
    if name == "window_argmax":
        return current.type.size * product(current.attrs["sizes"])
    if name == "orthogonal":
        rows, columns = current.shape
        return 2 * rows * columns * columns
    return current.type.size


def _contraction(current: Node) -> Size:
    """Terms whose coordinate a division does not hit exactly are zeros that nobody computes."""
    terms = current.type.size * product(current.attrs["reduce"])
    divisors = [index.divisor for maps in current.attrs["maps"] for index in maps]
    return (2 if len(current.args) == 2 else 1) * (terms // product(divisors))


def total_flops(nodes: Iterable[Node]) -> Size:
    return sum((flops(current) for current in nodes), 0)


def contraction_flops(nodes: Iterable[Node]) -> Size:
    """Of the contractions alone, in the bodies of scans too: what any implementation has to compute."""
    total: Size = 0
    for current in nodes:
        if current.op.name == "contract":
            total = total + _contraction(current)
        elif current.op.name == "scan":
            total = total + current.attrs["length"] * contraction_flops(current.attrs["body"].nodes())
    return total


def nbytes(type_: TensorType) -> Any:
    """Bytes of a dense tensor, a Size."""
    return type_.size * type_.dtype.itemsize


def total_bytes(values: Iterable[Node]) -> Size:
    """Bytes of several values, each counted once."""
    return sum((nbytes(value.type) for value in dict.fromkeys(values)), 0)


# --- for a reader -----------------------------------------------------------------------------------------------------

_PREFIXES = ("", " k", " M", " G", " T", " P", " E")


def short(number: int, unit: str = "") -> str:
    """``1234567`` -> ``1.23 M``; below a thousand as it is."""
    sign, power = "-" if number < 0 else "", 0
    value: float = abs(number)
    while value >= 999.5 and power < len(_PREFIXES) - 1:
        value, power = value / 1000, power + 1
    places = 0 if power == 0 or value >= 99.95 else 1 if value >= 9.995 else 2
    digits = f"{value:.{places}f}"
    return f"{sign}{digits}{_PREFIXES[power] or (' ' if unit else '')}{unit}"


def format_cost(cost: Size, known: Mapping[str, int], unit: str = "") -> str:
    """A cost with the known symbols put in: ``2.62 M``, ``16.4 k*S + 300``; nothing where it is zero."""
    cost = substitute(cost, known)
    if isinstance(cost, int):
        return short(cost, unit) if cost else ""
    pieces = []
    for monomial, coefficient in cost.terms.items():
        factors = [] if coefficient == 1 and monomial else [short(coefficient, "" if monomial else unit)]
        pieces.append("*".join(factors + [str(atom) for atom in monomial]))
    return " + ".join(pieces).replace("+ -", "- ") + (f" {unit}" if unit and () not in cost.terms else "")
