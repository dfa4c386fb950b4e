"""The CUDA target: the same graph, steps and tables as on the CPU, with kernels for a GPU, each step a launch.

Nothing here needs a GPU before the first run: what a program would launch can be printed anywhere.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import gcd
from typing import TYPE_CHECKING, Any

import numpy as np

from ..runtime.cuda import attention, contract, region, words
from ..runtime.cuda.door import is_simulated
from ..runtime.cuda.entry import with_kernel
from ..runtime.cuda.program import Launch, lanes
from ..runtime.explanation import CACHED, COMPILED, LOADED, Piece
from ..runtime.tile import Axis
from . import emit_cuda
from .attention_cuda import fuse_attention
from .close_cuda import CudaClosing
from .emit_cpu import Source
from .epilogue import fuse_epilogues
from .pipeline import ARENA, CONSTANTS, Binding, Executable, Row
from .programs import WEIGHTS
from .rows_cuda import share_rows
from .schedule import ScanStep, Step
from .types import evaluate

if TYPE_CHECKING:
    from ..runtime.cuda.arrays import DeviceArray


class CudaExecutable(Executable):
    """A compiled graph whose kernels run on a GPU.  Arrays may lie on the host or on the device."""

    CLOSING = CudaClosing()
    on_device = True                # takes arrays of the device

    def _arrange(self, steps: tuple) -> tuple:
        return fuse_attention(share_rows(fuse_epilogues(steps)), attention.MOST_COLUMNS)

    def _emit(self, step: Step) -> Source:
        if step.attention is not None:
            return emit_cuda.emit_score(step.code, attention.WORDS)
        if step.matrix is not None:
            return emit_cuda.emit_epilogue(step.code, words.WORDS)
        return emit_cuda.emit(step.code, step.lanes)

    def _load(self) -> dict[str, int]:
        """Kernels are compiled when a program is first run: there may be no GPU to compile for before."""
        return {}

    def _binding(self, sizes: Mapping[str, int], flat: bool) -> CudaBinding:
        return CudaBinding(self, sizes, {}, flat)

    def all_kernels(self, sizes: Mapping[str, int]) -> list[tuple[str, str]]:
        """(name, source) of every distinct kernel, those of products too, whose tiles are chosen for these sizes."""
        labels = {launch.text: launch.label for launch in self.bind(sizes).launches}
        return [(f"{label} {number}", text) for number, (text, label) in enumerate(labels.items())]

    def run(self, arrays: Mapping[str, Any], sizes: Mapping[str, int], out: Mapping[str, Any] | None = None,
            device: bool = False) -> dict[str, Any]:
        """As ``Executable.run``; results that nobody gave memory for lie on the host, or with ``device`` on the
        device."""
        binding = self.bind(sizes)
        results = binding.run(arrays, out or {}, device)
        if binding.pieces:
            known = {piece.text for piece in self.pieces or ()}
            self.pieces = (*(self.pieces or ()), *(piece for piece in binding.pieces if piece.text not in known))
            binding.pieces = ()
        return results


class CudaBinding(Binding):
    """A program whose sizes are numbers, as launches."""

    # --- the table

    _behind = 0         # bytes behind the arena's plan, for one step at a time: how many is known when it is planned

    def _scratch_bytes(self, step: Step | ScanStep, sizes: Mapping[str, int]) -> int:
        return 0

    def _samples(self, scan: ScanStep, turns: list[Mapping[str, int]]) -> int | None:
        return super()._samples(scan, turns) if all(map(_fits_region, scan.body)) else None

    def _append_region(self, rows: list[tuple[Step, Mapping[str, int]]], samples: int) -> None:
        """One launch whose blocks each take some samples through all turns."""
        block = region.samples_of_block(samples)
        per_turn = len({step for step, _ in rows})
        made, texts = [], []
        for step, sizes in rows:
            if step.matrix is None:
                text, units, _, arguments = self._kernel(step, sizes)
            else:
                text = region.product_text(step.matrix.c.dtype.name)
                (_, _, _, arguments), = self._products(step, sizes, whole=True)
                units = samples * evaluate(step.matrix.columns, sizes)
            texts.append(text)
            made.append((units, units // samples * block, arguments))
        arguments = region.words(made, len(rows) // per_turn)
        self._launch(region.text(texts[:per_turn]), -(-samples // block), lanes(region.THREADS), "scan", arguments)

    def _launch(self, text: str, units: int, threads: int, label: str, words: list[int]) -> None:
        self._table.append(Launch(text, len(self._words), units, threads, label, len(self.rows) - 1))
        self._words += words

    def _kernel(self, step: Step, sizes: Mapping[str, int]) -> tuple[str, int, int, list[int]]:
        """Source, units, lanes and argument words of a step of a generated kernel."""
        source = self._sources[step]
        return source.text, evaluate(step.units, sizes), lanes(step.lanes), self._arguments_of(step, source, sizes)

    def _append(self, step: Step, sizes: Mapping[str, int]) -> None:
        self.rows.append(Row(step, sizes))
        if step.attention is not None:
            self._launch(*self._attention(step, sizes))
        elif step.matrix is None:
            work, units, threads, arguments = self._kernel(step, sizes)
            self._launch(with_kernel(work, threads), units, threads, step.label, arguments)
        else:
            for text, units, threads, arguments in self._products(step, sizes):
                self._launch(text, units, threads, step.label, arguments)

    def _products(self, step: Step, sizes: Mapping[str, int],
                  whole: bool = False) -> Iterator[tuple[str, int, int, list[int]]]:
        """Source, units, threads of a unit and argument words of the launches of a contraction; ``whole``: of a single
        one, however long its sums are."""
        matrix = step.matrix
        batch, rows, sums = ([Axis(*(evaluate(x, sizes) for x in (e.size, e.a, e.b, e.c))) for e in group]
                             for group in (matrix.batch, matrix.rows, matrix.sums))
        # Steps run one after the other, so that they can share scratch memory, which lies where the arena's plan ends.
        places = {name: self._locate(view, sizes) for name, view in zip("abc", step.views)}
        places["scratch"] = [ARENA, self.arena_bytes]
        epilogue, more = None, []
        if step.kernel is not None:
            source = self._sources[step]
            epilogue = words.Epilogue(source.text, source.opening, source.operands)
            more = self._arguments_of(replace(step, views=step.views[2:]), source, sizes)
            places["c"] = [0, evaluate(matrix.c.offset, sizes)]
        # Whatever a slot stands for begins at a multiple of any vector (see ``_on_device``).
        alignments = [gcd(places[name][1] // matrix.c.dtype.itemsize, contract.GROUP) for name in "abc"]
        made = contract.plan(matrix.c.dtype.name, batch, rows, sums, evaluate(matrix.columns, sizes),
                             evaluate(matrix.column_stride, sizes), is_simulated(), epilogue=epilogue,
                             alignments=alignments)
        if not whole:
            self._behind = max(self._behind, made.scratch * matrix.c.dtype.itemsize)
        for part in made.parts[-1:] if whole else made.parts:
            buffers = [word for name in ("abc" if whole else part.buffers) for word in places[name]]
            yield part.text, part.units, part.threads, [*buffers, *part.words, *more]

    def _attention(self, step: Step, sizes: Mapping[str, int]) -> tuple[str, int, int, str, list[int]]:
        """The launch of an attention."""
        assert step.attention is not None
        first, second = step.attention.scores, step.attention.values
        rows, depth = first.rows[0], first.sums[0]
        batch = [(a.size, a.a, a.b, b.b, b.c) for a, b in zip(first.batch, second.batch)]
        steps = (rows.a, depth.a, first.column_stride, depth.b, second.sums[0].b, second.column_stride,
                 second.rows[0].c)
        source = self._sources[step]
        made = attention.plan([tuple(evaluate(size, sizes) for size in each) for each in batch],
                              [evaluate(size, sizes) for size in steps], evaluate(rows.size, sizes),
                              evaluate(first.columns, sizes), depth.size, second.columns, is_simulated(),
                              words.Epilogue(source.text, source.opening, source.operands))
        places = [word for view in step.views[:4] for word in self._locate(view, sizes)]
        more = self._arguments_of(replace(step, views=step.views[4:]), source, sizes)
        return made.text, made.units, made.threads, step.label, [*places, *made.words, *more]

    def _finish(self) -> None:
        self.launches = self._table
        self._argument_words = self._words
        self.arena_bytes += self._behind
        self._program = None
        self._lock = threading.Lock()

    # --- running

    def run(self, arrays: Mapping[str, Any], out: Mapping[str, Any], device: bool = False) -> dict[str, Any]:
        """Launch every step; results as ``CudaExecutable.run`` says."""
        return self._run(arrays, out, device, lambda program, bases: program.run(bases))[0]

    def profile(self, arrays: Mapping[str, Any], out: Mapping[str, Any]) -> np.ndarray:
        """One run with an event between the launches: the nanoseconds of each row, int64."""
        _, seconds = self._run(arrays, out, True, lambda program, bases: program.profile(bases))
        taken = np.zeros(len(self.rows))
        np.add.at(taken, [launch.row for launch in self.launches if launch.units > 0], seconds)
        return np.rint(1e9 * taken).astype(np.int64)

    def _run(self, arrays: Mapping[str, Any], out: Mapping[str, Any], device: bool, launch: Callable):
        """The results, and what ``launch(program, bases)`` gives."""
        from ..runtime.cuda import door
        from ..runtime.cuda.arrays import DeviceArray, empty
        with self._lock:
            door.require()
            self._prepare()
            used = {slot: _on_device(slot, arrays[slot], slot not in self._in_place) for slot, _ in self._arguments}
            given = {**out, **{name: arrays[name] for name in self._in_place}}
            made = {name: used[name] if name in self._in_place else
                    out[name] if isinstance(out.get(name), DeviceArray) else empty(shape, dtype)
                    for name, (shape, dtype) in self.shapes.items()}
            table = self._frame.table
            for slot, position in self._arguments:
                table[position] = used[slot].address
            for name, position in self._results:
                table[position] = made[name].address
            self._frame.bases.fill_from(table)
            given_back = launch(self._program, self._frame.bases)
            results = {name: array if device or given.get(name) is array else _on_host(array, given.get(name))
                       for name, array in made.items()}
            if any(used[slot] is not arrays[slot] or used[slot].is_lent for slot in used):
                door.synchronize()          # what was copied for this run alone is freed now, and what was lent may be
        return results, given_back

    def _prepare(self) -> None:
        """Compile, and allocate what every run needs, at the first one.  Raises DeviceError."""
        if self._program is None:
            from ..runtime.cuda import kernels
            from ..runtime.cuda.program import Frame, Program
            before = kernels.loaded()
            self._frame = Frame(self.arena_bytes, CONSTANTS + 1 + len(self.slots), self.constants, ARENA, CONSTANTS)
            self._program = Program(self.launches, self._argument_words)
            found = kernels.load(launch.text for launch in self.launches if launch.units > 0)
            labels = {launch.text: launch.label for launch in self.launches}
            self.pieces = tuple(Piece(labels[text], text, *(
                (LOADED, None) if text in before else (CACHED if kernel.seconds is None else COMPILED, kernel.seconds)))
                for text, kernel in found.items())


def _fits_region(step) -> bool:
    """Whether a step of a scan can be one function of a block's threads, with the bits that it has by itself."""
    if isinstance(step, ScanStep):
        return False
    matrix = step.matrix
    if matrix is None:
        return step.lanes == 1
    return not matrix.is_dot and not matrix.batch and len(matrix.rows) == 1 and len(matrix.sums) <= 1


def _on_host(array: DeviceArray, out: np.ndarray | None) -> np.ndarray:
    host = array.copy_to_host()
    if out is None:
        return host
    out[...] = host
    return out


# Weights on the device, by the identity of the array on the host, while that lives.
_resident: dict[int, tuple[weakref.ref, DeviceArray]] = {}


def _on_device(slot: str, array, is_kept: bool) -> DeviceArray:
    """The array on the device.  Weights that are kept as they are never change, and are copied there once."""
    from ..runtime.cuda.arrays import DeviceArray, upload
    if isinstance(array, DeviceArray):
        return array
    if not is_kept or array.flags.writeable or not (slot == WEIGHTS or slot.startswith("state/")):
        return upload(array)
    found = _resident.get(id(array))
    if found is None or found[0]() is not array:
        key = id(array)
        found = weakref.ref(array, lambda _: _resident.pop(key, None)), upload(array)
        _resident[key] = found
    return found[1]
