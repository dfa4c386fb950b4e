"""Types of the graph: a dtype and a shape whose sizes may be symbolic.

A *size* is a plain ``int``, or a ``Dim``: a polynomial with integer coefficients over named symbols (``N``) and
floor divisions of such polynomials.  Arithmetic on sizes collapses to ``int`` as soon as the result is constant, so
``isinstance(size, int)`` asks "is it known?".  Every symbol stands for an integer of at least 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from math import prod
from typing import Any, Union, overload

from ..runtime.deferred import np
from ..runtime.records import dataclass

Size = Union[int, "Dim"]
Shape = tuple  # of Size


class TypeRuleError(Exception):
    """A primitive was applied to types that it does not accept; the message is fit for a model's writer."""


# --- dtypes -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class DType:
    """An element type, one object each: ``name`` as the language writes it, ``kind`` one of "float", "int",
    "bool"."""

    name: str
    kind: str
    itemsize: int

    @property
    def numpy(self) -> np.dtype:
        return np.dtype(self.numpy_name)

    @property
    def numpy_name(self) -> str:
        return {"f32": "float32", "f64": "float64", "i32": "int32", "i64": "int64", "bool": "bool"}[self.name]

    def __reduce__(self):
        return _dtype, (self.name,)

    def __str__(self) -> str:
        return self.name

    __repr__ = __str__


def _dtype(name: str) -> DType:
    return DTYPES[name]


f32 = DType("f32", "float", 4)
f64 = DType("f64", "float", 8)
i32 = DType("i32", "int", 4)
i64 = DType("i64", "int", 8)
boolean = DType("bool", "bool", 1)
DTYPES: dict[str, DType] = {dtype.name: dtype for dtype in (f32, f64, i32, i64, boolean)}


# --- sizes ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FloorDiv:
    """The atom ``numerator // divisor`` that no polynomial can express."""

    numerator: Dim
    divisor: int

    def __str__(self) -> str:
        return f"({self.numerator})//{self.divisor}"


class Dim:
    """A non-constant polynomial: {monomial: coefficient}, a monomial being a sorted tuple of atoms."""

    __slots__ = ("terms", "_hash")

    def __init__(self, terms: Mapping[tuple, int]):
        self.terms = dict(sorted(terms.items(), key=lambda item: (-len(item[0]), [str(atom) for atom in item[0]])))
        self._hash = hash(tuple(self.terms.items()))

    @staticmethod
    def symbol(name: str) -> Dim:
        return Dim({(name,): 1})

    @property
    def symbols(self) -> frozenset:
        """Names of the symbols that the size depends on."""
        names: set[str] = set()
        for monomial in self.terms:
            for atom in monomial:
                names |= {atom} if isinstance(atom, str) else atom.numerator.symbols
        return frozenset(names)

    def evaluate(self, sizes: Mapping[str, int]) -> int:
        """The value under an assignment of every symbol."""
        total = 0
        for monomial, coefficient in self.terms.items():
            for atom in monomial:
                coefficient *= sizes[atom] if isinstance(atom, str) else atom.numerator.evaluate(sizes) // atom.divisor
            total += coefficient
        return total

    def substitute(self, values: Mapping[str, Size]) -> Size:
        """The size with symbols replaced by other sizes; symbols that are not named stay."""
        total: Size = 0
        for monomial, coefficient in self.terms.items():
            term: Size = coefficient
            for atom in monomial:
                if isinstance(atom, str):
                    factor = values.get(atom, Dim.symbol(atom))
                else:
                    factor = substitute(atom.numerator, values) // atom.divisor
                term = term * factor
            total = total + term
        return total

    def __eq__(self, other) -> bool:
        return self is other or (isinstance(other, Dim) and self._hash == other._hash and self.terms == other.terms)

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self):
        return Dim, (self.terms,)       # hashes of texts differ between processes

    def __add__(self, other: Size) -> Size:
        return _sum(self, other) if other != 0 else self

    __radd__ = __add__

    def __neg__(self) -> Size:
        return self * -1

    def __sub__(self, other: Size) -> Size:
        return self + (-other)

    def __rsub__(self, other: Size) -> Size:
        return -self + other

    def __mul__(self, other: Size) -> Size:
        return _product(self, other) if other != 1 else self

    __rmul__ = __mul__

    def __floordiv__(self, divisor: Size) -> Size:
        if isinstance(divisor, Dim):
            quotient = divide_exactly(self, divisor)
            if quotient is None:
                raise TypeRuleError(f"{self} is not known to be a multiple of {divisor}")
            return quotient
        if divisor <= 0:
            raise TypeRuleError(f"cannot divide {self} by {divisor}")
        whole = {m: c // divisor for m, c in self.terms.items() if c % divisor == 0}
        rest = _collapse({m: c for m, c in self.terms.items() if c % divisor})
        if isinstance(rest, int):
            return _collapse(whole) + rest // divisor
        constant = rest.terms.get((), 0)
        carried, kept = divmod(constant, divisor)
        whole_part = rest - constant + kept
        assert isinstance(whole_part, Dim)          # `rest` has more terms than its constant
        atom = FloorDiv(whole_part, divisor)
        return _collapse(whole) + Dim({(atom,): 1}) + carried

    def __mod__(self, divisor: int) -> Size:
        return self - (self // divisor) * divisor

    def __str__(self) -> str:
        pieces = []
        for monomial, coefficient in self.terms.items():
            factors = [str(atom) for atom in monomial]
            if abs(coefficient) != 1 or not factors:
                factors.insert(0, str(abs(coefficient)))
            sign = "-" if coefficient < 0 else "+"
            pieces.append((sign, "*".join(factors)))
        head = ("-" if pieces[0][0] == "-" else "") + pieces[0][1]
        return head + "".join(f" {sign} {text}" for sign, text in pieces[1:])

    __repr__ = __str__


# A program's shapes are few, and the same sums and products of sizes are asked for thousands of times.
@lru_cache(maxsize=1 << 16)
def _sum(left: Dim, right: Size) -> Size:
    terms = dict(left.terms)
    for monomial, coefficient in _terms(right).items():
        terms[monomial] = terms.get(monomial, 0) + coefficient
    return _collapse(terms)


@lru_cache(maxsize=1 << 16)
def _product(left: Dim, right: Size) -> Size:
    terms: dict[tuple, int] = {}
    for one, a in left.terms.items():
        for other, b in _terms(right).items():
            monomial = tuple(sorted(one + other, key=str))
            terms[monomial] = terms.get(monomial, 0) + a * b
    return _collapse(terms)


def _terms(size: Size) -> Mapping[tuple, int]:
    return size.terms if isinstance(size, Dim) else {(): size}


def _collapse(terms: Mapping[tuple, int]) -> Size:
    terms = {monomial: coefficient for monomial, coefficient in terms.items() if coefficient}
    if not terms:
        return 0
    if list(terms) == [()]:
        return terms[()]
    return Dim(terms)


def divide_exactly(numerator: Size, divisor: Size) -> Size | None:
    """The quotient if ``divisor`` (an int or a single monomial) divides every term, else None."""
    if isinstance(divisor, int):
        if divisor == 0 or any(c % divisor for c in _terms(numerator).values()):
            return None
        return _collapse({m: c // divisor for m, c in _terms(numerator).items()})
    if numerator == divisor:
        return 1
    if len(divisor.terms) != 1:
        return None
    (monomial, coefficient), = divisor.terms.items()
    quotient = {}
    for atoms, c in _terms(numerator).items():
        rest = list(atoms)
        for atom in monomial:
            if atom not in rest:
                return None
            rest.remove(atom)
        if c % coefficient:
            return None
        quotient[tuple(rest)] = c // coefficient
    return _collapse(quotient)


def evaluate(size: Size, sizes: Mapping[str, int]) -> int:
    """The number that a size stands for under an assignment of its symbols."""
    return size.evaluate(sizes) if isinstance(size, Dim) else size


def substitute(size: Size, values: Mapping[str, Size]) -> Size:
    """A size with symbols replaced."""
    return size.substitute(values) if isinstance(size, Dim) else size


def symbols(size: Size) -> frozenset:
    """Names of the symbols in a size."""
    return size.symbols if isinstance(size, Dim) else frozenset()


@overload
def product(sizes: Iterable[int]) -> int: ...


@overload
def product(sizes: Iterable[Size]) -> Size: ...


def product(sizes):
    """The product of sizes; 1 for none."""
    return prod(sizes)


def is_symbol(size: Size) -> bool:
    """Whether a size is one unknown number, and no multiple of one."""
    return isinstance(size, Dim) and size == Dim.symbol(next(iter(size.symbols), ""))


def known_nonnegative(size: Size) -> bool:
    """True if the size is at least 0 for every assignment of its symbols to integers of at least 1."""
    if isinstance(size, int):
        return size >= 0
    if all(c >= 0 for c in size.terms.values()):
        return True
    # Each symbol is at least 1: a monomial is at least 1, so negative constants may be paid by positive terms.
    negative = [m for m, c in size.terms.items() if c < 0]
    plain = all(isinstance(atom, str) for m in size.terms for atom in m)
    return plain and negative == [()] and sum(size.terms.values()) >= 0


# --- tensor types -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TensorType:
    """A dtype and a shape, written ``f32[N, 64]``."""

    dtype: DType
    shape: Shape = ()

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> Any:
        """The number of elements, a Size: an int where the shape has no symbol."""
        return product(self.shape)

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(dtype, self.shape)

    def with_shape(self, shape) -> TensorType:
        return TensorType(self.dtype, tuple(shape))

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"

    __repr__ = __str__


def unify(declared: Shape, actual: Shape, bindings: dict[str, Size]) -> str | None:
    """Bind the symbols of ``declared`` so that it equals ``actual``; the first clash as text, or None.

    ``bindings`` is extended in place.  A declared size that is one free symbol binds; any other declared size must
    equal the actual one once its bound symbols are replaced.
    """
    if len(declared) != len(actual):
        return f"{len(declared)} dimensions are declared, {len(actual)} came"
    for position, (want, have) in enumerate(zip(declared, actual)):
        name = next(iter(want.terms))[0] if isinstance(want, Dim) and len(want.terms) == 1 else None
        if isinstance(name, str) and want == Dim.symbol(name) and name not in bindings:
            bindings[name] = have
            continue
        expected = substitute(want, bindings)
        if expected != have:
            shown = f"{want} = {expected}" if want != expected else f"{want}"
            return f"dimension {position} is {have}, expected {shown}"
    return None
