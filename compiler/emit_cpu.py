"""Printing a kernel of the loop IR as Python source, which ``runtime.translate`` compiles, and Numba can.

Nothing of a model's text reaches the source: names are the compiler's own, and every number is an argument, but for
a few common constants.  The source of a kernel is its identity: two models that need the same loops share it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import field
from typing import ClassVar

from ..runtime.records import dataclass
from .loops import Affine, Assign, Constant, Divide, For, FromIndex, If, Kernel, Let, Load, Range, Store, Units, Within
from .types import DType, Size

CAST = {"f32": "float32", "f64": "float64", "i32": "int32", "i64": "int64", "bool": "boolean"}

# One row a primitive: the source of its value, with {0}, {1}, ... for the operands and {s} for f32 or f64.
ELEMENTWISE = {
    "neg": "-{0}", "abs": "abs({0})", "sign": "sign_{s}({0})", "exp": "exp_{s}({0})", "expm1": "expm1_{s}({0})",
    "expm1_nonpositive": "expm1_nonpositive_{s}({0})",
    "log": "log_{s}({0})", "log1p": "log1p_{s}({0})", "sqrt": "sqrt({0})", "rsqrt": "{one} / sqrt({0})",
    "tanh": "tanh_{s}({0})", "sigmoid": "sigmoid_{s}({0})", "erf": "erf_{s}({0})", "sin": "sin_{s}({0})",
    "cos": "cos_{s}({0})", "floor": "floor({0})", "ceil": "ceil({0})", "round": "rint({0})",
    "logical_not": "not {0}", "is_finite": "{0} - {0} == {zero}",
    "add": "{0} + {1}", "sub": "{0} - {1}", "mul": "{0} * {1}", "div": "{0} / {1}", "pow": "pow_{s}({0}, {1})",
    "maximum": "maximum({0}, {1})", "minimum": "minimum({0}, {1})", "floordiv": "floordiv({0}, {1})",
    "mod": "mod({0}, {1})", "lt": "{0} < {1}", "le": "{0} <= {1}", "eq": "{0} == {1}", "ne": "{0} != {1}",
    "logical_and": "{0} & {1}", "logical_or": "{0} | {1}", "logical_xor": "{0} ^ {1}",
    "where": "{1} if {0} else {2}", "cast": "{0}", "random_bits": "random_bits({0}, {1}, {2})",
    "fma": "fma({0}, {1}, {2})", "fma_any_order": "add_any_order({0} * {1}, {2})",
    "add_any_order": "add_any_order({0}, {1})", "maximum_any_order": "maximum_any_order({0}, {1})",
    "minimum_any_order": "minimum_any_order({0}, {1})", "larger": "{1} if {0} < {1} else {0}",
}
_INTEGER = {"fma": "{0} * {1} + {2}"}
_COMMON = (0.0, 1.0, -1.0, 2.0, 0.5)


@dataclass
class Source:
    """The text of a kernel and the integers and float constants that it takes after its buffers, in order."""

    text: str
    integers: tuple[Size, ...]
    constants: tuple[float, ...]


@dataclass
class Printer:
    """A kernel's source in the making."""

    buffers: tuple[DType, ...]
    integers: list = field(default_factory=list)
    places: dict = field(default_factory=dict)          # (a size, what it is of) -> its place among the integers
    constants: list = field(default_factory=list)
    lines: list = field(default_factory=list)
    ranged: str | None = None
    elementwise: ClassVar[Mapping[str, str]] = ELEMENTWISE

    def size(self, size: Size, of: Hashable = None) -> str:
        """The text of a size: small numbers as they are, any other as an argument.  One argument stands for equal
        sizes ``of`` the same, such as a buffer's offset: that a loop is as long as another, or a stride of one buffer
        is one of another, is no reason for a kernel of its own."""
        return str(size) if isinstance(size, int) and -1 <= size <= 1 else self.argument(size, of)

    def argument(self, size: Size, of: Hashable = None) -> str:
        place = self.places.setdefault((size, of), len(self.integers))
        if place == len(self.integers):
            self.integers.append(size)
        return f"n{place}"

    def affine(self, value: Affine, of: Hashable = None) -> str:
        parts = []
        for name, coefficient in sorted(value.terms.items()):
            parts.append(name if coefficient == 1 else f"{self.size(coefficient, (of, name))} * {name}")
        if not (isinstance(value.offset, int) and value.offset == 0):
            parts.append(self.size(value.offset, of))
        return " + ".join(parts) or "0"

    def position(self, buffer: int, index: Affine, dynamic) -> str:
        parts = [f"{name} * {self.size(stride, (buffer, name))}" for name, stride in dynamic]
        if index.terms or index.offset != 0 or not parts:
            parts.insert(0, self.affine(index, buffer))
        return " + ".join(parts)

    def number(self, dtype: DType, value, given: bool = False) -> str:
        if dtype.kind == "bool":
            return str(bool(value))
        if dtype.kind == "int":
            # Small ones help LLVM (windows, strides); others, such as a random stream, would only tell kernels apart.
            return f"{CAST[dtype.name]}({int(value) if abs(value) <= 64 and not given else self.argument(int(value))})"
        value = float(value)
        if value in _COMMON and not (value == 0.0 and str(value) == "-0.0"):
            return f"{CAST[dtype.name]}({value})"
        self.constants.append(value)
        return f"{CAST[dtype.name]}(constants[{len(self.constants) - 1}])"

    # --- statements

    def block(self, body: tuple, indent: str) -> None:
        for statement in body:
            self.statement(statement, indent)

    def statement(self, s, indent: str) -> None:
        def emit(text: str) -> None:
            self.lines.append(indent + text)

        match s:
            case Range():
                self.ranged = s.variable
                self.block(s.body, indent)
            case Units():
                self.units(s, indent)
            case For():
                extent = "begin, end" if s.variable == self.ranged else (
                    str(s.extent) if s.literal and isinstance(s.extent, int) else self.size(s.extent, s.variable))
                emit(f"for {s.variable} in range({extent}):")
                self.block(s.body, indent + "    ")
            case If():
                emit(f"if {s.condition}:")
                self.block(s.body, indent + "    ")
            case Divide():
                whole = self.affine(s.value, s.name)
                emit(f"{s.name} = ({whole}) // {s.divisor}")
                emit(f"{s.exact} = {s.name} * {s.divisor} == {whole}")
            case Within():
                parts = []
                for number, (value, low, high) in enumerate(s.bounds):
                    text = self.affine(value, (s.name, number))
                    limits = [self.size(limit, (s.name, number, end)) for end, limit in enumerate((low, high))]
                    parts.append(f"({limits[0]} <= {text}) & ({text} < {limits[1]})")
                emit(f"{s.name} = " + " & ".join(parts + list(s.flags)))
            case Constant():
                emit(f"{s.name} = {self.number(s.dtype, s.value, s.given)}")
            case FromIndex():
                emit(f"{s.name} = {CAST[s.dtype.name]}({self.affine(s.value, s.name)})")
            case Load():
                position = self.position(s.buffer, s.index, s.dynamic)
                if s.guard:
                    position = f"{position} if {s.guard} else 0"
                emit(f"{s.name} = b{s.buffer}[{position}]")
            case Store():
                emit(f"b{s.buffer}[{self.position(s.buffer, s.index, s.dynamic)}] = {s.value}")
            case Assign():
                emit(f"{s.name} = {s.value}")
            case Let():
                emit(f"{s.name} = {self.operation(s)}")
            case _:
                raise TypeError(type(s).__name__)

    def units(self, s: Units, indent: str) -> None:
        """The parallel loop; a unit is taken apart into the loops that it stands for."""
        if len(s.split) == 1:
            self.lines.append(f"{indent}for {s.split[0][0]} in range(begin, end):")
            self.block(s.body, indent + "    ")
            return
        self.lines.append(f"{indent}for unit in range(begin, end):")
        inner = indent + "    "
        rest = "unit"
        for position, (variable, extent) in reversed(list(enumerate(s.split))):
            if position == 0:
                self.lines.append(f"{inner}{variable} = {rest}")
            else:
                size = self.size(extent, variable)
                self.lines.append(f"{inner}{variable} = {rest} % {size}")
                self.lines.append(f"{inner}rest{position} = {rest} // {size}")
                rest = f"rest{position}"
        self.block(s.body, inner)

    def operation(self, s: Let) -> str:
        operand = s.arg_dtypes[-1] if s.op != "where" else s.dtype
        template = self.elementwise[s.op]
        if operand.kind != "float":
            template = _INTEGER.get(s.op, template)
        cast = CAST[s.dtype.name]
        text = template.format(*s.args, s=operand.name, one=f"{CAST[operand.name]}(1)", zero=f"{CAST[operand.name]}(0)")
        if s.op == "cast" and s.dtype.kind == "bool":
            return f"{s.args[0]} != {CAST[s.arg_dtypes[0].name]}(0)"
        # Kernels' Python widens int32 arithmetic to int64; the graph's dtype decides.
        return f"{cast}({text})" if s.op == "cast" or s.dtype.kind == "int" else text


def emit(kernel: Kernel, name: str = "kernel") -> Source:
    """The Python source of a kernel, which is Numba's too."""
    printer = Printer(kernel.buffers)
    printer.block(kernel.body, "    ")
    words = 2 * (len(kernel.buffers) + bool(printer.constants))
    head = [f"def {name}(bases, args, begin, end):"]
    head += [f"    b{k} = buffer_{dtype.name}(bases, args, {2 * k})" for k, dtype in enumerate(kernel.buffers)]
    if printer.constants:
        head.append(f"    constants = buffer_f64(bases, args, {2 * len(kernel.buffers)})")
    head += [f"    n{k} = args[{words + k}]" for k in range(len(printer.integers))]
    return Source("\n".join(head + printer.lines) + "\n", tuple(printer.integers), tuple(printer.constants))
