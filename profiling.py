"""Where a program's time goes: ``fn.profile()`` runs it with a clock between its steps.

Each step is set against what the machine could do: its FLOPs and bytes are counted from its loops (``compiler.cost``),
the limits are measured (``runtime.roofline``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from .compiler.types import TensorType, evaluate
from .inputs import Signature, convert_seed
from .runtime.errors import InputError, ModelError, listing
from .runtime.records import dataclass
from .runtime.roofline import Roofline, roofline

if TYPE_CHECKING:
    from .function import Function

PROGRAMS = ("predict", "evaluate", "gradient", "step")
BATCH = 32              # size of the batch's symbol where none is given
OTHER_SIZE = 16         # size of any other symbol
ENOUGH_SECONDS = 0.5    # of runs, once there are a few
FEWEST_RUNS, MOST_RUNS = 5, 200


@dataclass(frozen=True)
class StepProfile:
    """One row of the program's table: the median of its runs.  ``values`` are the names of what it computes."""

    kernel: str
    values: tuple[str, ...]
    seconds: float
    flops: int
    bytes: int
    least_seconds: float


@dataclass(frozen=True)
class KernelProfile:
    """The steps of one kernel together; ``least_seconds`` is what the machine needs for their FLOPs and bytes."""

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
    ``work_flops`` counts the products of the graph alone, whatever the kernels compute beside; ``memory`` is what the
    program keeps in use, in bytes: arena, weights, inputs and outputs.  ``str(profile)`` is a table."""

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
        values = tuple(dict.fromkeys(value for step in steps for value in step.values))
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
        limits = self.roofline
        cores = limits.name or f"{limits.threads} thread{'s' * (limits.threads > 1)}"
        return "\n".join([
            f"{self.model}, program {self.program}{', ' if sizes else ''}{sizes}, {cores}",
            (f"machine: {limits.flops / 1e9:.0f} GFLOP/s, {limits.bandwidth(self.memory) / 1e9:.0f} GB/s with the "
             f"{self.memory / 2 ** 20:.1f} MiB that the program uses "
             f"({'by its clocks' if limits.name else 'measured now'})"),
            (f"a call: {_time(self.seconds)}; its {_count(self.work_flops)}FLOP of products alone would take "
             f"{_time(self.floor_seconds)} at the machine's peak: "
             f"{_percent(self.floor_seconds, self.seconds)} reached")])

    def __str__(self) -> str:
        from io import StringIO

        from rich.console import Console
        out = StringIO()
        console = Console(file=out, width=170, color_system=None)
        console.print(self.describe(), self.table(), sep="\n\n", highlight=False, markup=False)
        return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


COLUMNS = ("kernel", "calls", "time", "share", "FLOP", "byte", "GFLOP/s", "GB/s", "of roofline", "computes")
SHOWN_VALUES = 3


def _cells(row: KernelProfile) -> tuple[str, ...]:
    values = ", ".join(row.values[:SHOWN_VALUES]) + (f" and {len(row.values) - SHOWN_VALUES} more"
                                                     if len(row.values) > SHOWN_VALUES else "")
    return (row.kernel, f"{row.calls}", _time(row.seconds), f"{100 * row.share:.1f} %", _count(row.flops).rstrip(),
            _count(row.bytes).rstrip(), f"{row.gflops:.1f}", f"{row.gbytes:.1f}",
            _percent(row.least_seconds, row.seconds), values)


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


@dataclass(frozen=True)
class ProgramCost:
    """What one run of a program takes, counted, not measured.

    ``work_flops`` are those of the graph's products, ``flops`` and ``bytes`` those of all kernels; ``arena`` and
    ``memory`` are bytes of intermediate values, and of these with weights, inputs and outputs; no arena can be smaller
    than ``live``.
    """

    sizes: Mapping[str, int]
    work_flops: int
    flops: int
    bytes: int
    arena: int
    live: int
    memory: int


def cost(function: Function, program: str, data: Mapping[str, Any] | None, batch: int | None,
         sizes: Mapping[str, int] | None) -> ProgramCost:
    """See ``Function.cost``."""
    return _Ready(function, program, data, batch, sizes).cost()


def profile(function: Function, program: str, data: Mapping[str, Any] | None, batch: int | None,
            sizes: Mapping[str, int] | None, weights, seed: int) -> Profile:
    """See ``Function.profile``."""
    limits = _device_roofline() if function.target == "cuda" else None      # first: there may be no GPU
    ready = _Ready(function, program, data, batch, sizes, weights, seed)
    seconds, steps = ready.run()
    limits, found = limits or roofline(), ready.cost()
    rows = []
    for kernel, values, taken, one in zip(ready.kernels(), ready.names(), steps, ready.costs):
        least = limits.seconds(one.flops, one.bytes, found.memory)
        rows.append(StepProfile(kernel, values, taken, one.flops, one.bytes, least))
    return Profile(function.model.name, program, dict(found.sizes), seconds, tuple(rows), limits, found.work_flops,
                   found.memory)


def _device_roofline() -> Roofline:
    """The limits of the GPU.  Raises DeviceError."""
    from .runtime.cuda.door import limits
    name, flops, bandwidth = limits()
    return Roofline(0, flops, ((1, bandwidth),), name)


class _Ready:
    """A program with all that it needs to run."""

    def __init__(self, function: Function, program: str, data, batch: int | None, sizes, weights=None, seed: int = 0):
        if program not in PROGRAMS:
            raise ModelError(f"there is no program {program!r} to profile: there are {listing(PROGRAMS)}")
        if function.target == "numpy":
            raise ModelError(f"the target {function.target!r} has no kernels to profile")
        self.function, self.program = function, program
        compiled = function.program(program)
        self.executable, signature = compiled.executable, compiled.signature
        if data is None:
            data = random_inputs(signature, batch, sizes or {}, seed)
        elif sizes or batch is not None:
            raise InputError("the data have sizes of their own: give `batch` and `sizes`, or data, not both")
        key = convert_seed(seed) if compiled.uses_seed else None
        self.slots, self.sizes = compiled.slots_of(signature.collect((data,), {}), key)
        weights = function.init(seed) if weights is None else weights
        self.slots |= function._slots(weights)
        if program == "step":
            self.slots |= function._optimizer_slots(function.init_optimizer())
        self.binding = self.executable.bind(self.sizes)
        self.flat = self.executable.bind(self.sizes, flat=True)         # a row for every kernel of every turn of a scan

    @cached_property
    def costs(self):
        """Of each row of the table."""
        from .compiler.cost import cost_of, cost_of_packing, cost_of_total
        from .runtime.math import flops
        return [cost_of_total(row.step.matrix, row.parts) if row.parts else
                cost_of_packing(row.step.matrix, row.sizes) if row.packs else cost_of(row.step, row.sizes, flops)
                for row in self.flat.rows]

    def cost(self) -> ProgramCost:
        from .compiler.graph_cost import contraction_flops
        outside = sum(array.nbytes for array in self.slots.values())
        outside += sum(math.prod(shape) * dtype.itemsize for shape, dtype in self.binding.shapes.values())
        work = evaluate(contraction_flops(self.executable.graph.nodes()), self.sizes)
        return ProgramCost(self.sizes, work, sum(one.flops for one in self.costs), sum(one.bytes for one in self.costs),
                           self.binding.arena_bytes, self.binding.live_bytes, self.binding.arena_bytes + outside)

    def kernels(self) -> list[str]:
        """The name of each row's kernel."""
        names = self.executable.kernel_names()
        return [self._kernel_name(row, names) for row in self.flat.rows]

    @staticmethod
    def _kernel_name(row, names: Mapping) -> str:
        from .compiler.cost import format_product
        matrix = row.step.matrix
        if matrix is None:
            return names[row.step]
        if row.parts:
            return f"sum of {row.parts} parts"
        if row.packs:
            return f"copy for product {format_product(matrix, row.sizes)}"
        return f"product {format_product(matrix, row.sizes)}{' and map' if row.step.kernel is not None else ''}"

    def names(self) -> list[tuple[str, ...]]:
        """What each row computes, in the words of the model."""
        from .compiler.names import Names
        training = self.program in ("gradient", "step")
        names = Names(self.function.model, self.function.lower(self.program), self.executable.graph, training)
        return [names.of(row.step.values) for row in self.flat.rows]

    def run(self) -> tuple[float, list[float]]:
        """Seconds of a run, and of each row: medians of runs without and with clocks, in turns."""
        # In memory of its own: a step replaces what it updates.
        self.slots = {slot: self.function.memory.place(array) for slot, array in self.slots.items()}
        on_device = self.function.target == "cuda"
        # Once untimed, into memory that later runs take too.
        out = self.binding.run(self.slots, {}, **{"device": True} if on_device else {})
        wait = _device_wait if on_device else lambda: None
        plain: list[float] = []
        clocked = []
        started = time.perf_counter()
        while len(plain) < FEWEST_RUNS or len(plain) < MOST_RUNS and time.perf_counter() - started < ENOUGH_SECONDS:
            wait()
            before = time.perf_counter()
            self.binding.run(self.slots, out)
            wait()
            plain.append(time.perf_counter() - before)
            clocked.append(self.flat.profile(self.slots, out))
        return float(np.median(plain)), [float(taken) / 1e9 for taken in np.median(clocked, axis=0)]


def _device_wait() -> None:
    from .runtime.cuda.door import synchronize
    synchronize()


def random_inputs(signature: Signature, batch: int | None, sizes: Mapping[str, int],
                  seed: int = 0) -> dict[str, np.ndarray]:
    """Arrays of the right types: floats in [0, 1), indices in their range.  Symbols without a size get a usual one.

    Raises InputError for a size that the program does not have.
    """
    given = usual_sizes(signature, batch, sizes)
    rng = np.random.default_rng(seed)
    return {name: _random(rng, type_, signature.limit(name, given), given) for name, type_ in signature.types.items()}


def usual_sizes(signature: Signature, batch: int | None, sizes: Mapping[str, int]) -> dict[str, int]:
    """A size for every symbol: the given one, or a usual one.  Raises InputError for one that the program does not
    have."""
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
