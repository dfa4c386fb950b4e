"""Printing a kernel of the loop IR as Python source for numba-cuda.

The source defines ``work(bases, args, unit, end, stride)``, which does the units ``unit``, ``unit + stride``, ... below
``end``; who calls it is the runtime's matter.  Buffers and integers are arguments as on the CPU (see
``runtime.native``).  What is done with a product's elements has no units of its own, and becomes a function that the
product's kernel calls.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from ..runtime.records import dataclass
from .attention_cuda import SCORE
from .emit_cpu import ELEMENTWISE, Printer, Source
from .epilogue import VALUE
from .loops import Combine, Follow, For, Kernel, Let, Range, Share, Units, statements
from .types import Size


class CudaPrinter(Printer):
    """What differs from the CPU's source: the parallel loop, and what the lanes of a unit do together."""

    elementwise = ELEMENTWISE | {name: f"{name}_{{s}}({{0}})" for name in ("sqrt", "floor", "ceil", "round")} | {
        "rsqrt": "{one} / sqrt_{s}({0})", "fma": "fma_{s}({0}, {1}, {2})", "fma_any_order": "fma_{s}({0}, {1}, {2})",
        "add_any_order": "{0} + {1}", "maximum_any_order": "maximum({0}, {1})",
        "minimum_any_order": "minimum({0}, {1})", "expm1_nonpositive": "expm1_{s}({0})"}

    def size(self, size: Size, of: Hashable = None) -> str:
        return super().size(size)               # one for all equal ones: each takes a register of every thread

    def statement(self, s, indent: str) -> None:
        match s:
            case Range():
                self.ranged = s.variable
                self.units(Units(((s.variable, 0),), s.body), indent)
            case For() if s.variable == self.ranged:
                self.block(s.body, indent)          # the unit is its one turn
            case Share():
                self.share(s, indent)
            case Follow():
                self.lines.append(f"{indent}{s.variable} = {self.affine(s.start)}")
                self.lines.append(f"{indent}while {s.variable} < {self.size(s.extent)}:")
                self.block(s.body, indent + "    ")
                self.lines.append(f"{indent}    {s.variable} = int64(b{s.buffer}[{s.variable}])")
            case Combine():
                self.combine(s, indent)
            case _:
                super().statement(s, indent)

    def units(self, s: Units, indent: str) -> None:
        inner = indent + "    "
        self.lines.append(f"{indent}while unit < end:")
        self.decompose("unit", s.split, inner)
        self.block(s.body, inner)
        self.lines.append(f"{inner}unit += stride")

    def share(self, s: Share, indent: str) -> None:
        """A loop over all turns of several, of which each lane takes some."""
        inner = indent + "    "
        total = " * ".join(self.size(extent) for _, extent in s.split)
        whole = s.split[0][0] if len(s.split) == 1 else "turn"
        self.lines.append(f"{indent}for {whole} in range(lane, {total}, lanes):")
        if len(s.split) > 1:
            self.decompose(whole, s.split, inner)
        self.block(s.body, inner)

    def decompose(self, whole: str, split, indent: str) -> None:
        """Take an index apart into those that it stands for, outermost first."""
        rest = whole
        for position, (variable, extent) in reversed(list(enumerate(split))):
            if position == 0:
                self.lines.append(f"{indent}{variable} = {rest}")
            else:
                size = self.size(extent)
                outer = f"{whole}{position}"
                self.lines.append(f"{indent}{outer} = quotient({rest}, {size})")
                self.lines.append(f"{indent}{variable} = {rest} - {outer} * {size}")
                rest = outer

    def combine(self, s: Combine, indent: str) -> None:
        """A tree over the lanes in shared memory; all of them get the result."""
        shared = f"shared_{s.dtype.name}"
        meet = self.operation(Let(s.name, s.op, s.dtype, (f"{shared}[lane]", f"{shared}[lane + half]"),
                                  (s.dtype, s.dtype)))
        self.lines += [indent + line for line in (
            f"{shared}[lane] = {s.name}",
            "cuda.syncthreads()",
            "half = lanes // 2",
            "while half > 0:",
            "    if lane < half:",
            f"        {shared}[lane] = {meet}",
            "    cuda.syncthreads()",
            "    half //= 2",
            f"{s.name} = {shared}[0]",
            "cuda.syncthreads()")]


class EpiloguePrinter(CudaPrinter):
    """The body of a kernel for one unit, which the caller names."""

    def units(self, s: Units, indent: str) -> None:
        self.decompose("unit", s.split, indent)
        self.block(s.body, indent)


class ScorePrinter(CudaPrinter):
    """The body of an attention's kernel, for a row and a key that the caller names."""

    def units(self, s: Units, indent: str) -> None:
        *rows, (key, _) = s.split
        self.decompose("row", rows, indent)
        self.lines.append(f"{indent}{key} = key")
        self.block(s.body, indent)


@dataclass
class EpilogueSource(Source):
    """A function ``finish`` or ``score`` (see ``runtime.cuda.words.Epilogue``, ``runtime.cuda.attention``)."""

    opening: tuple[str, ...]
    operands: tuple[str, ...]


def emit(kernel: Kernel, lanes: int = 1) -> Source:
    """The numba-cuda source of a kernel on whose units so many threads work together."""
    printer = CudaPrinter(kernel.buffers)
    printer.block(kernel.body, "    ")
    head = ["@device", "def work(bases, args, unit, end, stride):"]
    head += [f"    {name} = {value}" for name, value in _operands(printer, 0)]
    if lanes > 1:
        combined = dict.fromkeys(s.dtype.name for s in statements(kernel.body) if isinstance(s, Combine))
        head += [f"    shared_{dtype} = cuda.shared.array({lanes}, type_{dtype})" for dtype in combined]
        head += ["    lane = cuda.threadIdx.x", "    lanes = cuda.blockDim.x"]
    return Source("\n".join(head + printer.lines) + "\n", tuple(printer.integers), tuple(printer.constants))


def emit_epilogue(kernel: Kernel, first_word: int) -> EpilogueSource:
    """The source of what is done with a product's element ``VALUE``; its operands' words begin at ``first_word``."""
    return _function("finish", EpiloguePrinter(kernel.buffers), kernel, first_word, ["unit", VALUE])


def emit_score(kernel: Kernel, first_word: int) -> EpilogueSource:
    """The source of what an attention makes of the score ``VALUE`` of a row and a key; likewise."""
    return _function("score", ScorePrinter(kernel.buffers), kernel, first_word, ["row", "key", VALUE], [SCORE])


def _function(name: str, printer: Printer, kernel: Kernel, first_word: int, parameters: list[str],
              results: Sequence[str] = ()) -> EpilogueSource:
    printer.block(kernel.body, "    ")
    found = _operands(printer, first_word)
    head = ["@device", f"def {name}({', '.join([*(operand for operand, _ in found), *parameters])}):"]
    lines = [*head, *printer.lines, *(f"    return {result}" for result in results)]
    return EpilogueSource("\n".join(lines) + "\n", tuple(printer.integers), tuple(printer.constants),
                          tuple(f"with_{operand} = {value}" for operand, value in found),
                          tuple(f"with_{operand}" for operand, _ in found))


def _operands(printer: Printer, first: int) -> list[tuple[str, str]]:
    """The names that the statements of a kernel use, and what they are, from the words ``first``, ... on."""
    found = [(f"b{k}", f"buffer_{dtype.name}(bases, args, {first + 2 * k})")
             for k, dtype in enumerate(printer.buffers)]
    words = first + 2 * len(found)
    if printer.constants:
        found.append(("constants", f"buffer_f64(bases, args, {words})"))
        words += 2
    return found + [(f"n{k}", f"args[{words + k}]") for k in range(len(printer.integers))]
