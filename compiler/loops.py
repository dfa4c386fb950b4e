"""The loop IR: one kernel as loops over buffers, printed by ``emit_cpu`` and ``emit_cuda``.

A kernel sees flat buffers, integers and float constants, all arguments: no shape is baked in, so models share
kernels.  Values are in single-assignment form.  Integers are affine in loop variables (``Affine``); everything that
an integer is multiplied by is a ``Size``, which printing turns into an integer argument of the kernel.  The parallel
loop is ``Units``: the runner hands each call a range of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import field

from ..runtime.records import changed, dataclass
from .types import Dim, DType, Size


@dataclass(frozen=True)
class Affine:
    """sum(coefficient * variable) + offset; coefficients and offset are sizes, variables are names."""

    terms: Mapping[str, Size] = field(default_factory=dict)
    offset: Size = 0

    @staticmethod
    def variable(name: str) -> Affine:
        return Affine({name: 1})

    def __add__(self, other: Affine | Size) -> Affine:
        if not isinstance(other, Affine):
            return Affine(self.terms, self.offset + other)
        if not self.terms:
            return Affine(other.terms, self.offset + other.offset)
        terms = dict(self.terms)
        for name, coefficient in other.terms.items():
            terms[name] = terms[name] + coefficient if name in terms else coefficient
        return Affine({n: c for n, c in terms.items() if c != 0}, self.offset + other.offset)

    def __mul__(self, factor: Size) -> Affine:
        if isinstance(factor, int) and factor in (0, 1):
            return self if factor else Affine()
        return Affine({n: c * factor for n, c in self.terms.items()}, self.offset * factor)

    def __sub__(self, other: Affine | Size) -> Affine:
        return self + (other * -1 if isinstance(other, Affine) else -other)

    def coefficient(self, name: str) -> Size:
        return self.terms.get(name, 0)

    def rename(self, mapping: Mapping[str, Affine]) -> Affine:
        """Variables replaced by other affine integers."""
        terms: dict[str, Size] = {}
        offset = self.offset
        for name, coefficient in self.terms.items():
            value = mapping.get(name)
            if value is None:
                terms[name] = terms[name] + coefficient if name in terms else coefficient
                continue
            for inner, factor in value.terms.items():
                term = factor * coefficient
                terms[inner] = terms[inner] + term if inner in terms else term
            offset = offset + value.offset * coefficient
        return Affine({name: size for name, size in terms.items() if size != 0}, offset)

    @property
    def key(self) -> tuple:
        return tuple(sorted(self.terms.items(), key=lambda item: item[0])), self.offset


# --- statements -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class For:
    """for variable in range(extent); a ``literal`` extent stays in the source, so that the loop is unrolled"""

    variable: str
    extent: Size
    body: tuple
    literal: bool = False


@dataclass(frozen=True)
class Units:
    """The parallel loop: for variable in range(begin, end); ``split`` names the variables that it decomposes into,
    outermost first, each with its extent (one entry: the unit itself)."""

    split: tuple[tuple[str, Size], ...]
    body: tuple


@dataclass(frozen=True)
class Range:
    """The parallel loop as a vector loop: every For over ``variable`` in the body runs from begin to end."""

    variable: str
    body: tuple


@dataclass(frozen=True)
class Share:
    """for each turn of the loops in ``split`` (as in Units), shared out among the lanes that work on a unit together:
    lane l takes the turns l, l + lanes, l + 2 lanes, ..."""

    split: tuple[tuple[str, Size], ...]
    body: tuple


@dataclass(frozen=True)
class Combine:
    """name = what the lanes have under this name, taken together by ``op`` in a tree that their number fixes"""

    name: str
    op: str
    dtype: DType


@dataclass(frozen=True)
class Follow:
    """variable = start; while variable < extent: body; variable = buffer[variable]"""

    variable: str
    start: Affine
    buffer: int
    extent: Size
    body: tuple


@dataclass(frozen=True)
class Divide:
    """name = value // divisor; ``exact`` names a bool: whether nothing remained"""

    name: str
    exact: str
    value: Affine
    divisor: int


@dataclass(frozen=True)
class Within:
    """name = a <= value < b for every triple (value, a, b), and every named bool"""

    name: str
    bounds: tuple[tuple[Affine, Size, Size], ...]
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Constant:
    """name = a number of a dtype; a float goes in as an argument unless it is a common one; so does an integer that is
    ``given``: kernels that differ in nothing else are one"""

    name: str
    dtype: DType
    value: float | int | bool
    given: bool = False


@dataclass(frozen=True)
class FromIndex:
    """name = an integer of the loops as a value of a dtype"""

    name: str
    dtype: DType
    value: Affine


@dataclass(frozen=True)
class Load:
    """name = buffer[index + sum(dynamic value * stride)]; where ``guard`` is false, some element of the buffer"""

    name: str
    buffer: int
    index: Affine
    dynamic: tuple[tuple[str, Size], ...] = ()
    guard: str | None = None


@dataclass(frozen=True)
class Let:
    """name = op(args): one row of the emitter's elementwise table"""

    name: str
    op: str
    dtype: DType
    args: tuple[str, ...]
    arg_dtypes: tuple[DType, ...]


@dataclass(frozen=True)
class Assign:
    """name = value, for a variable that a loop updates (an accumulator)"""

    name: str
    value: str


@dataclass(frozen=True)
class If:
    condition: str
    body: tuple


@dataclass(frozen=True)
class Store:
    """buffer[index + dynamic] = value"""

    buffer: int
    index: Affine
    value: str
    dynamic: tuple[tuple[str, Size], ...] = ()


STATEMENTS = frozenset({For, Units, Range, Share, Combine, Follow, Divide, Within, Constant, FromIndex, Load, Let,
                        Assign, If, Store})


@dataclass(frozen=True)
class Kernel:
    """A kernel: its buffers' dtypes in the order of arguments, and its body (one Units or Range)."""

    buffers: tuple[DType, ...]
    body: tuple


def statements(body: Iterable) -> Iterator:
    """Every statement, those inside of others too."""
    for statement in body:
        yield statement
        yield from statements(getattr(statement, "body", ()))


def replaced(body: Iterable, new: Callable) -> tuple:
    """The statements with ``new(statement)`` in the place of each, and what is inside of that likewise."""
    made = map(new, body)
    return tuple(changed(s, body=replaced(s.body, new)) if hasattr(s, "body") else s for s in made)


def without(body: Iterable, names: Container[str]) -> tuple:
    """The statements but those that make these values."""
    kept = (s for s in body if getattr(s, "name", None) not in names)
    return tuple(changed(s, body=without(s.body, names)) if hasattr(s, "body") else s for s in kept)


UNIT = "unit"           # the variable of a parallel loop that stands for no axis


_NUMBERED = re.compile(r"([a-z]+)([0-9]+)")


def compacted(body: tuple) -> tuple:
    """The body with its values numbered without gaps, as they would be if what was removed had never been: loops that
    do the same have the same text."""
    found = {name for s in statements(body) for name in (getattr(s, "name", None), getattr(s, "exact", None)) if name}
    parts = sorted((int(match[2]), match[1], match[0]) for match in map(_NUMBERED.fullmatch, found) if match)
    names = {name: f"{prefix}{number}" for number, (_, prefix, name) in enumerate(parts, 1)}

    def renamed(value):
        match value:
            case str():
                return names.get(value, value)
            case tuple():
                return tuple(map(renamed, value))
            case Affine():
                return Affine({names.get(v, v): size for v, size in value.terms.items()}, value.offset)
        return changed(value, **{k: renamed(v) for k, v in vars(value).items()}) if type(value) in STATEMENTS else value
    return renamed(body)


def numbered(body: tuple) -> tuple:
    """The body with its loops' variables numbered as they come in it: loops that do the same have the same text,
    whichever axes they go along."""
    names = {UNIT: UNIT}

    def name(variable: str) -> str:
        return names.setdefault(variable, f"{variable[0]}{len(names) - 1}")

    def renamed(value):
        match value:
            case tuple():
                return tuple(map(renamed, value))
            case Affine():
                return Affine({names.get(v, v): size for v, size in value.terms.items()}, value.offset)
            case For() | Range():
                return changed(value, variable=name(value.variable), body=renamed(value.body))
            case Units() | Share():
                split = tuple((name(variable), extent) for variable, extent in value.split)
                return changed(value, split=split, body=renamed(value.body))
            case If():
                return changed(value, body=renamed(value.body))
            case Within():
                return changed(value, bounds=renamed(value.bounds))
            case Divide() | FromIndex():
                return changed(value, value=renamed(value.value))
            case Load() | Store():
                return changed(value, index=renamed(value.index))
        return value
    return renamed(body)


# --- printing ---------------------------------------------------------------------------------------------------


def format_affine(value: Affine) -> str:
    parts = [name if c == 1 else f"{_factor(c)}*{name}" for name, c in sorted(value.terms.items())]
    if not (isinstance(value.offset, int) and value.offset == 0) or not parts:
        parts.append(_factor(value.offset))
    return " + ".join(parts)


def _factor(size: Size) -> str:
    return f"({size})" if isinstance(size, Dim) and len(size.terms) > 1 else str(size)


def format_kernel(kernel: Kernel, name: str = "kernel") -> str:
    """The kernel as indented text, for ``netc emit --stage loops``."""
    lines = [f"{name}({', '.join(f'b{i}: {d}' for i, d in enumerate(kernel.buffers))})"]
    _format(kernel.body, "  ", lines)
    return "\n".join(lines)


def _format(body: tuple, indent: str, lines: list[str]) -> None:
    for statement in body:
        lines.append(indent + _describe(statement))
        if hasattr(statement, "body"):
            _format(statement.body, indent + "  ", lines)


def _describe(s) -> str:
    match s:
        case For():
            return f"for {s.variable} < {s.extent}:"
        case Units():
            return "parallel " + ", ".join(f"{v} < {e}" for v, e in s.split) + ":"
        case Range():
            return f"parallel range of {s.variable}:"
        case Share():
            return "lanes share " + ", ".join(f"{v} < {e}" for v, e in s.split) + ":"
        case Follow():
            return f"follow {s.variable} from {format_affine(s.start)} through b{s.buffer} below {s.extent}:"
        case Combine():
            return f"{s.name} = {s.op} of the lanes' {s.name}"
        case Divide():
            return f"{s.name}, {s.exact} = divide({format_affine(s.value)}, {s.divisor})"
        case Within():
            parts = [f"{a} <= {format_affine(v)} < {b}" for v, a, b in s.bounds] + list(s.flags)
            return f"{s.name} = " + " and ".join(parts)
        case Constant():
            return f"{s.name} = {s.dtype}({s.value})"
        case FromIndex():
            return f"{s.name} = {s.dtype}({format_affine(s.value)})"
        case Load():
            return f"{s.name} = b{s.buffer}[{_position(s)}]" + (f" if {s.guard}" if s.guard else "")
        case Let():
            return f"{s.name} = {s.op}({', '.join(s.args)})"
        case Assign():
            return f"{s.name} := {s.value}"
        case If():
            return f"if {s.condition}:"
        case Store():
            return f"b{s.buffer}[{_position(s)}] = {s.value}"
    raise TypeError(type(s).__name__)


def _position(s) -> str:
    return " + ".join([format_affine(s.index)] + [f"{v}*{_factor(c)}" for v, c in s.dynamic])
