"""The whole path from a graph to something that runs, one readable list of passes.

``Executable`` is the compiled graph: its steps are fixed, their arguments are formulas of the symbolic sizes.  A new
batch size evaluates the formulas (``Binding``); it compiles nothing.
"""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from typing import Any

from ..runtime.deferred import np
from ..runtime.explanation import CACHED, COMPILED, LOADED, Piece
from ..runtime.locks import own_lock
from ..runtime.records import changed, dataclass
from ..runtime.runner import STEP_WORDS
from . import emit_cpu
from .accumulate import accumulate
from .ahead import asks_ahead
from .collector import paused
from .direct import take_directly
from .early import update_early
from .fuse import LEAVES, fuse
from .in_place import reuse_memory, share_memory
from .interpreted import InterpretedExecutable
from .ir import Graph, Node, topological
from .loops import Kernel, format_kernel
from .lower import Lowering
from .memory import lifetimes, live_bound, plan
from .nest import View
from .panels import copied_columns, is_copied
from .parts import cells_of, count_parts, may_have_parts
from .prepare import prepare
from .rebase import rebase
from .regions import samples_of
from .rows import join_rows
from .schedule import CPU, Buffer, External, Product, ScanStep, Step, done_at
from .siblings import merge_siblings
from .simplify import erase_gradient_marks, simplify_graph
from .types import Dim, TensorType, boolean, evaluate, product
from .upsampling import skip_repeats

ARENA, CONSTANTS = 0, 1            # slots that every program has; externals follow
GRAIN_WORK = 20_000                # scalar operations that are worth claiming by themselves
MOST_CLAIMS = 32                   # of a step's units: threads that claim often fight for the counters' cache line
PARALLEL_WORK = 200_000            # scalar operations below which a program is not worth a second thread: some 40 us
BRIEF_WORK = 50_000                 # below which it keeps the interpreter's lock: some 10 us
MEETING, PASSING = 2_500, 500      # the time, in scalar operations, of threads that share a step; that leave it to one
WORTH = 0.9                        # of the time of one thread, which several must beat
REGION_SAMPLES = 48                # of a block that a thread takes through a scan
PRODUCT_RATE = 4                   # multiply-adds of the tile kernel in the time of a scalar operation
ROW_RATE = 2                       # elements of B read in that time
BINDINGS_KEPT = 32                 # argument tables kept, one for each combination of sizes
SIZES_NOTED = 100                  # combinations of sizes that an explanation may list


def compile_graph(graph: Graph, layout: Mapping[Node, tuple[str, int]], target: str = "cpu",
                  replaced: Iterable[str] = (), trains: bool = False):
    """Compile a graph whose leaves lie at ``layout[leaf] = (slot, offset in elements)``.

    The result has ``run(arrays, sizes, out=None)``: arrays by slot, sizes by symbol; it gives arrays by output name.
    ``replaced``: outputs that may be computed in the array of the slot of the same name; its ``in_place`` says which
    are.  ``trains``: on the CPU, numbers below the smallest normal one are 0, as the moments of weights that get no
    gradient would soon be; and sums are computed in the memory of a summand, which no other program does, as a
    function gives the same bits whether its weights are bound, which changes what lies where, or not.
    """
    if target == "numpy":
        return InterpretedExecutable(graph, layout)
    if target == "cuda":
        from .pipeline_cuda import CudaExecutable
        return CudaExecutable(optimize(graph, trains), layout, replaced)
    return (NumbaExecutable if target == "numba" else Executable)(optimize(graph, trains), layout, replaced, trains)


def optimize(graph: Graph, trains: bool = False) -> Graph:
    """The passes between gradients and kernels; ``trains``: of a part of training."""
    return prepare(skip_repeats(simplified(graph), trains))


def simplified(graph: Graph) -> Graph:
    """Those passes that may be repeated: they change nothing in what they made."""
    graph = erase_gradient_marks(graph)
    graph = simplify_graph(graph)
    return merge_siblings(graph)


class Executable:
    """A compiled graph."""

    CLOSING = CPU           # how loop nests become kernels

    def __init__(self, graph: Graph, layout: Mapping[Node, tuple[str, int]], replaced: Iterable[str] = (),
                 trains: bool = False):
        self.graph, self.trains = graph, trains
        self.fusion = fuse(graph.outputs)
        externals: dict[str, External] = {}
        views: dict[Node, View] = {}
        for leaf in topological(graph.results):
            if leaf.op.name in LEAVES:
                slot, offset = layout[leaf]
                memory = externals.setdefault(slot, External(slot, leaf.dtype))
                views[leaf] = View(memory, offset, leaf.dtype)
        outputs = {name: View(External(f"out:{name}", value.dtype), 0, value.dtype)
                   for name, value in graph.outputs.items()}
        pairs = {outputs[name].buffer: externals[name] for name in replaced if name in externals}
        steps, shared = share_memory(Lowering(self.fusion, views, outputs, close=self.CLOSING).steps, pairs)
        self.sources: dict[Step, emit_cpu.Source] = {}
        self.steps = self._emit_all(self._arrange(steps))
        self.in_place = frozenset(name for name, view in outputs.items() if view.buffer in shared)
        self.slots = {slot: CONSTANTS + 1 + k for k, slot in enumerate(externals)}
        self.slots |= {f"out:{name}": CONSTANTS + 1 + len(externals) + k for k, name in enumerate(outputs)}
        self.output_types: dict[str, TensorType] = {name: value.type for name, value in graph.outputs.items()}
        self._start()

    def _arrange(self, steps: tuple) -> tuple:
        """What is left to do to the steps when it is known where everything lies."""
        made = update_early(join_rows(take_directly(accumulate(steps)))) if self.trains else join_rows(steps)
        return tuple(rebase(reuse_memory(made)))

    def _emit_all(self, steps: Iterable) -> tuple:
        """The steps whose ``sources`` are known.  Those with equal ones share a kernel: a program is kept and read back
        with each once."""
        known: dict[tuple, tuple[emit_cpu.Source, Kernel]] = {}

        def emitted(step):
            if isinstance(step, ScanStep):
                return changed(step, body=tuple(map(emitted, step.body)))
            if step.kernel is None:
                return step
            found = self._emit(step)
            # The extent of the units is no word of the text, but what the kernel costs follows from it.
            same = found.text, found.integers, found.constants, step.units
            source, kernel = known.setdefault(same, (found, step.kernel))
            step = changed(step, kernel=kernel)
            self.sources[step] = source
            return step
        return tuple(map(emitted, steps))

    def _emit(self, step: Step) -> emit_cpu.Source:
        return emit_cpu.emit(step.code)

    def _binding(self, sizes: Mapping[str, int], flat: bool) -> Binding:
        assert self._addresses is not None          # `bind` has loaded them
        return Binding(self, sizes, self._addresses, flat)

    OF_THIS_PROCESS = ("_addresses", "pieces", "sizes", "_bindings", "_lock")

    def _start(self) -> None:
        self._addresses: dict[str, int] | None = None
        self.pieces: tuple[Piece, ...] | None = None        # once it is loaded
        self.sizes: list[dict[str, int]] = []       # that were bound, without repetition
        self._bindings: OrderedDict[tuple, Binding] = OrderedDict()
        self._lock: Any                             # own_lock gives it
        own_lock(self)

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name not in self.OF_THIS_PROCESS}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._start()

    def kernel_names(self) -> dict[Step, str]:
        """A name for the generated kernel of each step, as profiles show it: what it does and a number in order of
        first use."""
        numbers: dict[str, str] = {}
        return {step: numbers.setdefault(source.text, f"{step.label} {len(numbers)}")
                for step, source in self.sources.items()}

    def kernels(self) -> list[tuple[str, str]]:
        """(name, source) of every distinct generated kernel, in order of first use."""
        sources = {name: self.sources[step].text for step, name in self.kernel_names().items()}
        return list(sources.items())

    def format_loops(self) -> str:
        """Every distinct kernel's loops."""
        texts = (format_kernel(step.kernel) for step in _flat(self.steps) if step.kernel is not None)
        return "\n\n".join(dict.fromkeys(texts))

    def _load(self) -> dict[str, int]:
        """The address of each source's machine code.  With them comes what products need at any sizes, and what runs
        programs, so that all is compiled side by side."""
        from ..runtime import runner, tile
        machine = self._machine()
        names = {self.sources[step].text: name for step, name in self.kernel_names().items()}
        for matrix in (step.matrix for step in _flat(self.steps) if step.matrix is not None):
            dtype, rows = matrix.c.dtype.name, None if isinstance(matrix.row_count, Dim) else matrix.row_count
            columns = None if isinstance(matrix.columns, Dim) else 0 if matrix.is_dot else matrix.all_columns
            asks = asks_ahead(matrix)
            texts = tile.texts(dtype, rows, columns, matrix.columns if matrix.panels else 0, asks)
            if (together := copied_columns(matrix)):
                texts.append(tile.pack_text(dtype))
                texts += tile.texts(dtype, rows, columns, 0 if together == columns else together, asks)
            names |= {text: text for text in texts + [tile.total_text(dtype)] * may_have_parts(matrix)}
        before = machine.loaded()
        has_scans = any(isinstance(step, ScanStep) for step in self.steps)
        found = machine.codes([*names, *runner.texts(with_regions=has_scans)])
        self.pieces = tuple(
            Piece(name, text, LOADED if text in before else CACHED if found[text].seconds is None else COMPILED,
                  None if text in before else found[text].seconds) for text, name in names.items())
        return {source.text: found[source.text].address for source in self.sources.values()}

    @staticmethod
    def _machine():
        """What makes machine code of texts."""
        from ..runtime import machine
        return machine

    def bind(self, sizes: Mapping[str, int], flat: bool = False) -> Binding:
        """The program for these sizes and the threads that there are; the last few are kept.  ``flat``: with every
        kernel's run a row of the table, as profiles want it."""
        from ..runtime.pool import threads
        key = (flat, threads(), *sorted(sizes.items()))
        with self._lock:
            if self._addresses is None:
                with paused():
                    self._addresses = self._load()
            if key not in self._bindings:
                self._bindings[key] = self._binding(sizes, flat)
                if dict(sizes) not in self.sizes and len(self.sizes) < SIZES_NOTED:
                    self.sizes.append(dict(sizes))
                if len(self._bindings) > BINDINGS_KEPT:
                    self._bindings.popitem(last=False)
            self._bindings.move_to_end(key)
            return self._bindings[key]

    def run(self, arrays: Mapping[str, np.ndarray], sizes: Mapping[str, int],
            out: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """Run on C-contiguous arrays by slot; ``out`` gives memory for some outputs, which must not overlap inputs.
        Outputs of ``in_place`` replace what is in the arrays of their slots, and are these arrays."""
        return self.bind(sizes).run(arrays, out or {})


class NumbaExecutable(Executable):
    """A graph whose kernels Numba compiles."""

    @staticmethod
    def _machine():
        from ..runtime import numba_backend
        return numba_backend


@dataclass(frozen=True)
class Row:
    """A row of a table: a step, at the sizes of its turn; or where ``parts`` is not 0, what adds up its parts; or where
    ``packs``, what copies its B."""

    step: Step
    sizes: Mapping[str, int]
    parts: int = 0
    packs: bool = False


class Binding:
    """A program whose sizes are numbers: a table of steps and an arena."""

    def __init__(self, executable: Executable, sizes: Mapping[str, int], addresses: Mapping[str, int], flat: bool):
        from ..runtime.addresses import address_of, aligned
        self.slots, self._in_place = executable.slots, executable.in_place
        self._address_of, self._aligned = address_of, aligned
        self._sources, self._addresses, self._flushes = executable.sources, addresses, executable.trains
        self.shapes = {name: (tuple(evaluate(size, sizes) for size in type_.shape), type_.dtype.numpy)
                       for name, type_ in executable.output_types.items()}
        steps = done_at(executable.steps, sizes)
        spans = lifetimes(steps)
        nbytes = {buffer: evaluate(buffer.size, sizes) * buffer.dtype.itemsize for buffer in spans}
        self._scratch: dict[Step, Buffer] = {}
        for position, step in enumerate(steps):
            if needed := self._scratch_bytes(step, sizes):
                memory = Buffer(needed, boolean)
                spans[memory], nbytes[memory] = (position, position), needed
                self._scratch |= dict.fromkeys(_flat([step]), memory)
        self.offsets, self.arena_bytes = plan(spans, nbytes)
        self.live_bytes = live_bound(spans, nbytes)
        self.rows: list[Row] = []           # of a flat table
        self._constants: dict[tuple[float, ...], int] = {}
        self._frames: list[Frame] = []
        self._arguments = [(slot, position) for slot, position in self.slots.items() if not slot.startswith("out:")]
        self._results = [(name, self.slots[f"out:{name}"]) for name in self.shapes]
        self._table: list[Any] = []
        self._work = self._shared_work = 0
        self._is_flat = flat
        self._words: list[int] = []
        self._expand(steps, dict(sizes))
        self.constants = np.array([value for row in self._constants for value in row] or [0.0], np.float64)
        self._finish()
        del self._table, self._words, self._sources, self._addresses

    def _finish(self) -> None:
        """Make what runs of the table."""
        from ..runtime.runner import Runner
        self.runner = Runner(np.array(self._table, np.int64).reshape(-1, 4), np.array(self._words or [0], np.int64),
                             self._is_worth_threads(), self._flushes, self._work < BRIEF_WORK, self._is_flat)

    def _is_worth_threads(self) -> bool:
        """Whether several threads are faster than one: what they share must be worth their meetings."""
        from ..runtime.pool import threads
        meetings = sum(units > grain for _, _, units, grain in self._table)
        alone = self._work - self._shared_work
        together = (alone + self._shared_work / threads() + meetings * MEETING
                    + (len(self._table) - meetings) * PASSING)
        return self._work >= PARALLEL_WORK and together < WORTH * self._work

    # --- the table

    def _expand(self, steps, sizes: Mapping[str, int]) -> None:
        for step in steps:
            if isinstance(step, ScanStep):
                self._expand_scan(step, sizes)
            else:
                self._append(step, sizes)

    def _expand_scan(self, scan: ScanStep, sizes: Mapping[str, int]) -> None:
        """A scan's steps, turn by turn; or one step whose units take blocks of samples through all turns."""
        length = evaluate(scan.length, sizes)
        turns: list[Mapping[str, int]] = [
            {**sizes, scan.time: length - 1 - turn if scan.reverse else turn, scan.parity: turn % 2}
            for turn in range(length)]
        samples = self._samples(scan, turns)
        if samples is None:
            for inner in turns:
                self._expand(scan.body, inner)
        else:
            self._append_region([(step, inner) for inner in turns for step in scan.body], samples)

    def _samples(self, scan: ScanStep, turns: list[Mapping[str, int]]) -> int | None:
        """How many samples a scan takes through its turns each by itself; None where it goes turn by turn."""
        return None if self._is_flat else samples_of(scan, turns)

    def _append_region(self, rows: list[tuple[Step, Mapping[str, int]]], samples: int) -> None:
        """One step for many, each of whose units does a block of samples' part of all of them."""
        from ..runtime.pool import threads
        from ..runtime.runner import region_address
        block = min(-(-samples // threads()), REGION_SAMPLES)
        start, words, work = len(self._words), [len(rows)], self._work
        inner: list[int] = []
        first = 1 + STEP_WORDS * len(rows)
        for step, sizes in rows:
            if step.matrix is None:
                address, units, _, arguments = self._kernel(step, sizes)
            else:
                address, units, _, arguments = self._product(step, sizes, block)
            each = units // samples * block if step.matrix is None else 1
            words += [address, first + len(inner), units, each]
            inner += arguments
        self._words += words + inner
        self._add_row(region_address(), start, -(-samples // block), 1, work)

    def _append(self, step: Step, sizes: Mapping[str, int]) -> None:
        parts = 1 if step.matrix is None else count_parts(step.matrix, sizes)
        packed = None
        if parts == 1 and step.matrix is not None and is_copied(step.matrix, sizes):
            packed = self._append_packing(step, sizes)
        work = self._work
        address, units, grain, arguments = (self._kernel(step, sizes) if step.matrix is None else
                                            self._product(step, sizes, parts=parts, packed=packed))
        self._add_row(address, len(self._words), units, grain, work)
        self._words += arguments
        self.rows.append(Row(step, sizes))
        if parts > 1:
            self._append_total(step, sizes, parts)

    def _append_packing(self, step: Step, sizes: Mapping[str, int]) -> tuple:
        """Copy the B of a product to scratch memory; what the product of the copy has in place of its own sums, and the
        panels, if it lies in such."""
        from ..runtime.tile import packing
        matrix = step.matrix
        assert matrix is not None
        _, _, sums = _axes(matrix, sizes)
        columns, work = evaluate(matrix.columns, sizes), self._work
        made, packed, panel = packing(matrix.c.dtype.name, sums, columns, evaluate(matrix.column_stride, sizes),
                                      copied_columns(matrix))
        self._work += prod(axis.size for axis in packed) * columns
        self._add_row(made.address, len(self._words), made.units, made.grain, work)
        self._words += [*self._locate(matrix.b, sizes), ARENA, self._scratch_of(step), *made.words]
        self.rows.append(Row(step, sizes, packs=True))
        return packed, panel

    def _append_total(self, step: Step, sizes: Mapping[str, int], parts: int) -> None:
        """Add up the parts of a product."""
        from ..runtime.tile import TOTAL_CHUNK, total_kernel
        matrix = step.matrix
        assert matrix is not None
        cells, work = cells_of(matrix), self._work
        self._work += parts * cells
        self._add_row(total_kernel(matrix.c.dtype.name).address, len(self._words), -(-cells // TOTAL_CHUNK),
                      GRAIN_WORK // TOTAL_CHUNK // parts, work)
        self._words += [ARENA, self._scratch_of(step), *self._locate(matrix.c, sizes), parts, cells]
        self.rows.append(Row(step, sizes, parts))

    def _add_row(self, address: int, first_word: int, units: int, grain: int, work_before: int) -> None:
        self._table.append((address, first_word, units, grain))
        if units > grain:
            self._shared_work += self._work - work_before

    def _kernel(self, step: Step, sizes: Mapping[str, int]) -> tuple[int, int, int, list[int]]:
        """Address, units, grain and argument words of a step of a generated kernel."""
        from ..runtime.pool import threads
        source = self._sources[step]
        units = evaluate(step.units, sizes)
        work = max(1, evaluate(step.work, sizes))
        grain = max(1, GRAIN_WORK // work, units // MOST_CLAIMS)
        if step.vector:
            grain = -(-grain // 64) * 64       # whole vectors, and no cache line in two threads
        if step.label == "columns":            # which adds up in memory: neighbours may share a cache line
            grain = max(grain, units // (2 * threads()))
        self._work += units * work
        return self._addresses[source.text], units, grain, self._arguments_of(step, source, sizes)

    def _arguments_of(self, step: Step, source: emit_cpu.Source, sizes: Mapping[str, int]) -> list[int]:
        """The words of a generated kernel: its buffers, its constants, its integers."""
        arguments = [word for view in step.views for word in self._locate(view, sizes)]
        if source.constants:
            arguments += [CONSTANTS, 8 * self._constant_row(source.constants)]
        return arguments + [evaluate(size, sizes) for size in source.integers]

    def _product(self, step: Step, sizes: Mapping[str, int], block_rows: int | None = None,
                 parts: int = 1, packed: tuple | None = None) -> tuple[int, int, int, list[int]]:
        """The same of a step of the runtime's tile kernel, which plans tiles and units for these sizes.  Several
        ``parts`` of its sum go to scratch memory; with ``packed``, B lies there."""
        from ..runtime.tile import Axis, Panel, plan as plan_product
        matrix = step.matrix
        assert matrix is not None
        batch, rows, sums = _axes(matrix, sizes)
        columns, stride, panel = evaluate(matrix.all_columns, sizes), evaluate(matrix.column_stride, sizes), None
        if matrix.panels is not None:
            batch, panel = batch[:-1], Panel(evaluate(matrix.columns, sizes), evaluate(matrix.panels.b, sizes))
        places = [self._locate(view, sizes) for view in (matrix.a, matrix.b, matrix.c)]
        if parts > 1:
            outer = sums[0]
            sums[0] = Axis(outer.size // parts, outer.a, outer.b)
            batch = [Axis(parts, sums[0].size * outer.a, sums[0].size * outer.b, cells_of(matrix))]
            places[2] = [ARENA, self._scratch_of(step)]
        if packed is not None:
            sums, panel = packed
            places[1], stride = [ARENA, self._scratch_of(step)], 1
        made = plan_product(matrix.c.dtype.name, batch, rows, sums, columns, stride, matrix.accumulates,
                            any_columns=isinstance(matrix.columns, Dim),
                            any_rows=isinstance(matrix.row_count, Dim), block_rows=block_rows, panel=panel,
                            asks=asks_ahead(matrix))
        # Of few rows the products take less time than to read B for them.
        rate = min(PRODUCT_RATE, ROW_RATE * prod(axis.size for axis in rows))
        self._work += prod(axis.size for axis in (*batch, *rows, *sums)) * columns // max(rate, 1)
        return made.address, made.units, made.grain, [word for place in places for word in place] + list(made.words)

    def _constant_row(self, constants: tuple[float, ...]) -> int:
        """Where a kernel's constants stand in the table of constants."""
        if constants not in self._constants:
            self._constants[constants] = sum(len(row) for row in self._constants)
        return self._constants[constants]

    def _scratch_bytes(self, step: Step | ScanStep, sizes: Mapping[str, int]) -> int:
        """The memory that a step needs while it is done: for the parts of a sum, or a copy of B."""
        if isinstance(step, ScanStep):
            turn = {**sizes, step.time: 0, step.parity: 0}
            return max((self._scratch_bytes(inner, turn) for inner in step.body), default=0)
        matrix = step.matrix
        if matrix is None:
            return 0
        cells, parts = 0, count_parts(matrix, sizes)
        if parts > 1:
            cells = parts * cells_of(matrix)
        elif is_copied(matrix, sizes):
            cells = evaluate(product(extent.size for extent in matrix.sums) * matrix.columns, sizes)
        return cells * matrix.c.dtype.itemsize

    def _scratch_of(self, step: Step) -> int:
        """Where in the arena the memory begins that a step needs for itself."""
        return self.offsets[self._scratch[step]]

    def _locate(self, view: View, sizes: Mapping[str, int]) -> list[int]:
        shift = evaluate(view.offset, sizes) * view.dtype.itemsize
        if isinstance(view.buffer, Buffer):
            return [ARENA, self.offsets[view.buffer] + shift]
        return [self.slots[view.buffer.slot], shift]

    # --- running

    def run(self, arrays: Mapping[str, np.ndarray], out: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One native call."""
        return self._call(self.runner, arrays, out)[0]

    def profile(self, arrays: Mapping[str, np.ndarray], out: Mapping[str, np.ndarray]) -> np.ndarray:
        """One run with a clock between the steps: the nanoseconds of each row, int64."""
        return self._call(self.runner.profile, arrays, out)[1]

    def _call(self, runner, arrays: Mapping[str, np.ndarray], out: Mapping[str, np.ndarray]):
        """The outputs by name, and what the runner gives."""
        given = {**out, **{name: arrays[name] for name in self._in_place}}
        results = {name: given[name] if name in given else self._aligned(shape, dtype)
                   for name, (shape, dtype) in self.shapes.items()}
        frame = self._frame()
        bases, address_of = frame.bases, self._address_of
        for slot, position in self._arguments:
            bases[position] = address_of(arrays[slot])
        for name, position in self._results:
            bases[position] = address_of(results[name])
        returned = runner(frame.address)
        self._frames.append(frame)
        return results, returned

    def caller(self, fixed: Mapping[str, np.ndarray], slots: Sequence[str],
               outputs: Sequence[str]) -> tuple[Callable[..., list[np.ndarray]], Callable[[], Frame]]:
        """``run`` as a function of arrays in the order of these slots, which gives the outputs in order: what a call
        costs beside the kernels is microseconds, and matters to small models.  ``fixed``: the arrays of other slots.
        And what gives a frame of such calls that is free."""
        places = [(place, self.slots[slot]) for place, slot in enumerate(slots) if slot in self.slots]
        made = [(*self.shapes[name], self.slots[f"out:{name}"]) for name in outputs]
        # Where arrays are fixed, frames that know them are kept apart.
        run, frames, address_of = self.runner.direct(), [] if fixed else self._frames, self._address_of

        def take() -> Frame:
            return frames.pop() if frames else self._fixed_frame(fixed)

        def call(*arrays: np.ndarray) -> list[np.ndarray]:
            frame = take()
            bases = frame.bases
            for place, position in places:
                bases[position] = address_of(arrays[place])
            results = []
            for shape, dtype, position in made:
                array = np.empty(shape, dtype)
                bases[position] = address_of(array)
                results.append(array)
            run(frame.address)
            frames.append(frame)
            return results
        return call, take

    def form(self, frame: Frame, slots: Sequence[str], names: Sequence[str | None], arrays: Sequence[np.ndarray],
             limits: Sequence[int | None], outputs: Sequence[str], make: Callable | None, epoch: int, kept: Any):
        """Such calls as an Entry takes them, which has the frame for itself; ``kept``: the fixed arrays."""
        from ..runtime.entry import Form
        from ..runtime.pool import pool
        workers = pool() if self.runner.is_parallel else None
        inputs = [(name, self.slots.get(slot, -1), array.shape, array.dtype, limit)
                  for slot, name, array, limit in zip(slots, names, arrays, limits, strict=True)]
        made = [(*self.shapes[name], self.slots[f"out:{name}"]) for name in outputs]
        return Form(self.runner.address, frame.address, not self.runner.is_brief, workers, epoch, inputs, made, make,
                    (frame, self, kept))

    def _fixed_frame(self, fixed: Mapping[str, np.ndarray]) -> Frame:
        """A frame that knows the arrays of these slots."""
        frame = self._frame()
        for slot, array in fixed.items():
            if slot in self.slots:
                frame.bases[self.slots[slot]] = self._address_of(array)
        return frame

    def _frame(self) -> Frame:
        """An arena and a table of addresses; several threads may be in the same program, each with its own."""
        try:
            return self._frames.pop()
        except IndexError:
            return Frame(self.arena_bytes, CONSTANTS + 1 + len(self.slots), self._address_of(self.constants))


class Frame:
    """The memory that one run of a program needs beside its inputs and outputs."""

    def __init__(self, arena_bytes: int, slots: int, constants: int):
        from ..runtime.addresses import address_of
        self.arena = np.empty(arena_bytes + 64, np.uint8)
        self.bases = (ctypes.c_ssize_t * slots)()
        self.address = ctypes.addressof(self.bases)
        start = address_of(self.arena)
        self.bases[ARENA] = start + -start % 64
        self.bases[CONSTANTS] = constants


def _axes(matrix: Product, sizes: Mapping[str, int]) -> tuple[list, list, list]:
    """The batch, rows and sums of a product, in numbers."""
    from ..runtime.tile import Axis
    batch, rows, sums = ([Axis(*(evaluate(x, sizes) for x in (e.size, e.a, e.b, e.c))) for e in group]
                         for group in (matrix.batch, matrix.rows, matrix.sums))
    return batch, rows, sums


def _flat(steps):
    for step in steps:
        if isinstance(step, ScanStep):
            yield from _flat(step.body)
        else:
            yield step
