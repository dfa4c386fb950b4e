"""Where a program's time goes: ``fn.profile()`` runs it with a clock between its steps.

Each step is set against what the machine could do: its FLOPs and bytes are counted from its loops (``compiler.cost``), the
limits are measured (``runtime.roofline``).
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Mapping

import numpy as np

from .compiler.types import TensorType, evaluate
from .inputs import Signature, convert_seed
from .runtime.errors import InputError, ModelError, listing
from .runtime.roofline import Roofline, roofline

if TYPE_CHECKING:
    from .function import Compiled, Function

PROGRAMS = ("predict", "evaluate", "gradient", "step")
BATCH = 32              # size of the batch's symbol where none is given
OTHER_SIZE = 16         # size of any other symbol
ENOUGH_SECONDS = 0.5    # of runs, once there are a few
FEWEST_RUNS, MOST_RUNS = 5, 200


@dataclass(frozen=True)
class StepProfile:
    """One row of the program's table: the median of its runs.  ``value`` is what it computes, "" where it has no name."""

    kernel: str
    value: str
    seconds: float
    flops: int
    bytes: int
    least_seconds: float


@dataclass(frozen=True)
class KernelProfile:
    """The steps of one kernel together; ``least_seconds`` is the time that the machine needs for their FLOPs and bytes."""

    kernel: str
    values: tuple[str, ...]
    calls: int
    seconds: float
    share: float
    flops: int
    bytes: int
    least_seconds: float

    @property
    def gflops(self) -> float:
        """GFLOP/s."""
        return self.flops / self.seconds / 1e9 if self.seconds else 0.0

    @property
    def gbytes(self) -> float:
        """GB/s."""
        return self.bytes / self.seconds / 1e9 if self.seconds else 0.0

    @property
    def roof(self) -> float:
        """The share of the roofline that is reached: 1 is the machine's limit."""
        return self.least_seconds / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Profile:
    """``kernels``, slowest first, and ``steps``, in order.  ``seconds`` is a whole call without the clocks (median);
    ``work_flops`` counts the products of the graph alone, whatever the kernels compute beside; ``memory`` is what the program
    keeps in use, in bytes: arena, weights, inputs and outputs.  ``str(profile)`` is a table."""

    model: str
    program: str
    sizes: Mapping[str, int]
    seconds: float
    steps: tuple[StepProfile, ...]
    roofline: Roofline
    work_flops: int
    memory: int

    @property
    def kernels(self) -> tuple[KernelProfile, ...]:
        groups: dict[str, list[StepProfile]] = {}
        for step in self.steps:
            groups.setdefault(step.kernel, []).append(step)
        rows = [self._row(kernel, steps) for kernel, steps in groups.items()]
        return tuple(sorted(rows, key=lambda row: -row.seconds))

    @property
    def flops(self) -> int:
        return sum(step.flops for step in self.steps)

    @property
    def bytes(self) -> int:
        return sum(step.bytes for step in self.steps)

    @property
    def total(self) -> KernelProfile:
        """All steps as one row."""
        return self._row("total", self.steps)

    def _row(self, kernel: str, steps) -> KernelProfile:
        everything = sum(step.seconds for step in self.steps) or 1.0
        seconds = sum(step.seconds for step in steps)
        values = tuple(dict.fromkeys(step.value for step in steps if step.value))
        return KernelProfile(kernel, values, len(steps), seconds, seconds / everything, sum(s.flops for s in steps),
                             sum(s.bytes for s in steps), sum(s.least_seconds for s in steps))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON: times in seconds."""
        kernels = [asdict(row) | {"gflops": row.gflops, "gbytes": row.gbytes, "roof": row.roof} for row in self.kernels]
        return {"model": self.model, "program": self.program, "sizes": dict(self.sizes), "seconds": self.seconds,
                "flops": self.flops, "bytes": self.bytes, "work_flops": self.work_flops, "memory": self.memory,
                "roofline": asdict(self.roofline), "kernels": kernels, "steps": [asdict(step) for step in self.steps]}

    @property
    def floor_seconds(self) -> float:
        """The least time of the products alone."""
        return self.work_flops / self.roofline.flops

    def table(self, steps: bool = False, most: int | None = None):
        """A table for rich's console: a row a kernel, slowest first, or a row a step, in order."""
        from rich.table import Table
        rows = [self._row(step.kernel, [step]) for step in self.steps] if steps else list(self.kernels)
        table = Table(box=None, pad_edge=False, header_style="bold", show_footer=True)
        total = self.total
        for title, footer in zip(COLUMNS, _cells(total)):
            plain = title in ("kernel", "computes")
            table.add_column(title, "" if title == "computes" else footer, justify="left" if plain else "right",
                             no_wrap=title != "computes", overflow="fold")
        for row in rows[:most]:
            table.add_row(*_cells(row))
        if most is not None and len(rows) > most:
            table.add_row(f"... and {len(rows) - most} more")
        return table

    def describe(self) -> str:
        """The program, its sizes, the machine and the whole, in a few lines."""
        sizes = ", ".join(f"{name} = {size}" for name, size in sorted(self.sizes.items()))
        limits, cores = self.roofline, f"{self.roofline.threads} thread{'s' * (self.roofline.threads > 1)}"
        return "\n".join([
            f"{self.model}, program {self.program}{', ' if sizes else ''}{sizes}, {cores}",
            f"machine: {limits.flops / 1e9:.0f} GFLOP/s, {limits.bandwidth(self.memory) / 1e9:.0f} GB/s with the "
            f"{self.memory / 2 ** 20:.1f} MiB that the program uses (measured now)",
            f"a call: {_time(self.seconds)}; its {_count(self.work_flops)}FLOP of products alone would take "
            f"{_time(self.floor_seconds)} at the machine's peak: {_percent(self.floor_seconds, self.seconds)} reached"])

    def __str__(self) -> str:
        from io import StringIO

        from rich.console import Console
        console = Console(file=StringIO(), width=170, color_system=None)
        console.print(self.describe(), self.table(), sep="\n\n", highlight=False, markup=False)
        return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


COLUMNS = ("kernel", "calls", "time", "share", "FLOP", "byte", "GFLOP/s", "GB/s", "of roofline", "computes")
SHOWN_VALUES = 3


def _cells(row: KernelProfile) -> tuple[str, ...]:
    values = ", ".join(row.values[:SHOWN_VALUES]) + (f" and {len(row.values) - SHOWN_VALUES} more"
                                                     if len(row.values) > SHOWN_VALUES else "")
    return (row.kernel, f"{row.calls}", _time(row.seconds), f"{100 * row.share:.1f} %", _count(row.flops).rstrip(),
            _count(row.bytes).rstrip(), f"{row.gflops:.1f}", f"{row.gbytes:.1f}", _percent(row.least_seconds, row.seconds), values)


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3f} ms" if seconds >= 1e-4 else f"{seconds * 1e6:.2f} us"


def _count(number: int) -> str:
    """A number with three digits and the unit's prefix: "475 M"."""
    for power, prefix in ((9, "G"), (6, "M"), (3, "k")):
        if number >= 10 ** power:
            return f"{number / 10 ** power:.3g} {prefix}"
    return f"{number} "


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "-"


def profile(function: "Function", program: str, data: Mapping[str, Any] | None, batch: int | None,
            sizes: Mapping[str, int] | None, weights, seed: int) -> Profile:
    """See ``Function.profile``."""
    if program not in PROGRAMS:
        raise ModelError(f"there is no program {program!r} to profile: there are {listing(PROGRAMS)}")
    if function.target != "cpu":
        raise ModelError(f"the target {function.target!r} has no kernels to profile")
    compiled = function.program(program)
    signature = compiled.signature
    if data is None:
        data = random_inputs(signature, batch, sizes or {}, seed)
    elif sizes or batch is not None:
        raise InputError("the data have sizes of their own: give `batch` and `sizes`, or data, not both")
    slots, bound = compiled.slots_of(signature.collect((data,), {}), convert_seed(seed) if compiled.uses_seed else None)
    weights = function.init(seed) if weights is None else weights
    slots |= function.trainer(weights).slots if program == "step" else function._slots(weights)
    return _measure(function, program, compiled, slots, bound)


def _measure(function: "Function", program: str, compiled: "Compiled", slots, sizes: Mapping[str, int]) -> Profile:
    binding = compiled.executable.bind(sizes, flat=True)
    out = binding.run(slots, {})            # once untimed, into memory that later runs take too
    plain, clocked = [], []
    started = time.perf_counter()
    while len(plain) < FEWEST_RUNS or len(plain) < MOST_RUNS and time.perf_counter() - started < ENOUGH_SECONDS:
        before = time.perf_counter()
        binding.run(slots, out)
        plain.append(time.perf_counter() - before)
        clocked.append(binding.profile(slots, out))
    seconds = np.median(clocked, axis=0) / 1e9 if clocked[0].size else clocked[0]
    from .compiler.cost import work_of
    limits = roofline()
    memory = binding.arena_bytes + sum(array.nbytes for array in (*slots.values(), *out.values()))
    steps = _steps(function, program, compiled, binding, seconds, limits, memory)
    return Profile(function.model.name, program, dict(sizes), float(np.median(plain)), steps, limits,
                   work_of(compiled.executable.graph, sizes), memory)


def _steps(function, program: str, compiled, binding, seconds, limits: Roofline, memory: int) -> tuple[StepProfile, ...]:
    from .compiler.cost import cost_of, format_product
    from .compiler.names import Names
    from .runtime.math import flops as function_flops
    names = Names(function.model, function.lower(program), compiled.executable.graph, program in ("gradient", "step"))
    kernels = compiled.executable.kernel_names()
    found = []
    for (step, sizes), taken in zip(binding.rows, seconds):
        cost = cost_of(step, sizes, function_flops)
        kernel = kernels[step] if step.matrix is None else f"product {format_product(step.matrix, sizes)}"
        found.append(StepProfile(kernel, names.of(step.value), float(taken), cost.flops, cost.bytes,
                                 limits.seconds(cost.flops, cost.bytes, memory)))
    return tuple(found)


def random_inputs(signature: Signature, batch: int | None, sizes: Mapping[str, int], seed: int = 0) -> dict[str, np.ndarray]:
    """Arrays of the right types: floats in [0, 1), indices in their range.  Symbols without a size get a usual one.

    Raises InputError for a size that the program does not have.
    """
    given = usual_sizes(signature, batch, sizes)
    rng = np.random.default_rng(seed)
    return {name: _random(rng, type_, signature.limit(name, given), given) for name, type_ in signature.types.items()}


def usual_sizes(signature: Signature, batch: int | None, sizes: Mapping[str, int]) -> dict[str, int]:
    """A size for every symbol: the given one, or a usual one.  Raises InputError for one that the program does not have."""
    known = {name for type_ in signature.types.values() for size in type_.shape if not isinstance(size, int)
             for name in size.symbols}
    unknown = [name for name in sizes if name not in known]
    if unknown:
        raise InputError(f"there is no size {listing(unknown)}; the sizes are {listing(sorted(known))}")
    if batch is not None and signature.batch is None:
        raise InputError(f"the program takes no batch; its sizes are {listing(sorted(known)) or 'fixed'}")
    return {name: (batch or BATCH) if name == signature.batch else OTHER_SIZE for name in sorted(known)} | dict(sizes)


def _random(rng: np.random.Generator, type_: TensorType, limit: int | None, sizes: Mapping[str, int]) -> np.ndarray:
    shape = tuple(evaluate(size, sizes) for size in type_.shape)
    if type_.dtype.kind == "float":
        return rng.random(shape).astype(type_.dtype.numpy)
    return rng.integers(0, limit or 2, shape).astype(type_.dtype.numpy)
