"""The compiler's view of a program: its kernels in the order of running, what was fused into each, the memory between
them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

from ..attribution import attribute, reads_and_writes
from ..graph_cost import short
from ..loops import Let, statements
from ..memory import lifetimes, plan
from ..model import Layer, Model
from ..names import Names
from ..nest import View
from ..pipeline import Executable, optimize
from ..programs import Program, weights_layout
from ..schedule import External, ScanStep, Step
from ..types import evaluate
from .figure import Block, Figure, Group, Link
from .fold import fold
from .layout import common_group

STYLES = {"contract": "contract", "map": "map", "scan": "scan", "halo": "memory", "copy": "memory"}
MOST_FUSED = 5               # operations of a kernel that are named
SYMBOLS = {"add": "+", "sub": "−", "mul": "×", "div": "÷", "neg": "−", "fma": "×+", "fma_any_order": "×+",
           "add_any_order": "+", "lt": "<", "le": "≤", "eq": "=", "ne": "≠"}


def compiler_view(model: Model, program: Program, kind: str, sizes: Mapping[str, int],
                  depth: int | None = None) -> Figure:
    """A figure of the kernels of a program.  ``kind``: its name; ``sizes``: of its symbols, for the bytes; ``depth``:
    levels of nested models to open, without it as many as stay readable."""
    drawing = _Drawing(model, program, kind, sizes)
    figure = drawing.draw()
    fold(figure, drawing.places, depth)
    return figure


class _Drawing:
    def __init__(self, model: Model, program: Program, kind: str, sizes: Mapping[str, int]):
        self.model, self.program, self.kind, self.sizes = model, program, kind, dict(sizes)
        self.executable = Executable(optimize(program.graph, program.trains), program.layout, trains=program.trains)
        self.kernels = self.executable.kernel_names()
        self.names = Names(model, program, self.executable.graph, kind in ("gradient", "step"))
        self.owner = attribute(model).owners if kind == "predict" else {}
        self.layers = {layer.prefix: layer for layer in model.layers}
        self.weights = sorted((entry.offset, entry.size, entry.path) for entry in weights_layout(model).entries
                              if entry.offset is not None)
        self.spans = lifetimes(self.executable.steps)
        self.nbytes = {buffer: evaluate(buffer.size, self.sizes) * buffer.dtype.itemsize for buffer in self.spans}
        self.offsets, self.arena = plan(self.spans, self.nbytes)
        self.groups: dict[str, Group] = {}
        self.folds: dict[str, Group] = {}
        self.places: dict[Block, tuple[Group, ...]] = {}      # the groups that a block may be folded into
        self.inputs: dict[str, Block] = {}
        self.wrote: dict[object, list[tuple]] = {}            # memory -> (offset, writer) of what is there now
        # a block -> memory that it reads -> its writers
        self.read: dict[Block, dict[object, list[Block]]] = {}

    def draw(self) -> Figure:
        values = sum(self.nbytes.values())
        at = ", ".join(f"{name} = {size}" for name, size in sorted(self.sizes.items()))
        self.figure = Figure(f"{self.model.name}: {self.kind}", "")
        count = self._steps(self.executable.steps, None)
        self.figure.caption = (f"{count} kernels, {len(set(self.kernels.values()))} of them different; "
                               f"{short(values, 'B')} of values in "
                               f"{short(self.arena, 'B')} of memory" + (f" at {at}" if at else ""))
        for name, type_ in self.executable.output_types.items():
            block = Block(name, (str(type_),), "output")
            self.figure.blocks.append(block)
            self.read[block] = {f"out:{name}": self._writers(f"out:{name}", 0)}
        self._link()
        return self.figure

    def _link(self) -> None:
        """Links from those that wrote to those that read.  Memory that several wrote and several read is a block of its
        own, so that not each of these is linked with each of those."""
        shared: dict[tuple, list[Block]] = {}
        for reader, found in self.read.items():
            for key, writers in found.items():
                shared.setdefault((key, tuple(writers)), []).append(reader)
        for (key, writers), readers in shared.items():
            label = short(self.nbytes[key], "B") if key in self.nbytes else ""
            if len(writers) > 1 and len(readers) > 1 and key in self.nbytes:
                groups = [writers[0].group, *(block.group for block in (*writers, *readers))]
                memory = Block(label, (f"at {self.offsets[key]:,}",), "memory", "box", reduce(common_group, groups))
                self.figure.blocks.insert(self.figure.blocks.index(readers[0]), memory)
                self.figure.links += [Link(writer, memory) for writer in writers]
                self.figure.links += [Link(memory, reader) for reader in readers]
            else:
                self.figure.links += [Link(writer, reader, 0, label) for writer in writers for reader in readers]

    def _steps(self, steps, around: Group | None) -> int:
        count = 0
        for step in steps:
            if isinstance(step, ScanStep):
                group = Group(f"scan, {evaluate(step.length, self.sizes)} turns", "", "scan", around)
                self.figure.groups.append(group)
                count += self._steps(step.body, group)
            else:
                count += 1
                self._step(step, around)
        return count

    def _step(self, step: Step, around: Group | None) -> None:
        """A block for a kernel, linked to those that wrote what it reads."""
        read, written = reads_and_writes(step)
        name = ", ".join(self.names.of(step.values)[:2])
        weights = sorted({path for view in read for path in [self._weight(view)] if path})
        label, memory = self.kernels.get(step, "product"), self._memory(written)
        if not read and self._joins(written, step.label):
            return
        taken = ", ".join(path.rsplit(".", 1)[-1] for path in weights)
        lines = [name, ", ".join(fused(step)), f"weights {taken}" if weights else "", memory]
        block = Block(label, tuple(filter(None, lines)), STYLES.get(step.label, "reduction"), "box",
                      around if around is not None else self._group(step), ", ".join(weights))
        self.figure.blocks.append(block)
        self.places[block] = self._layers_around(step) if around is None else ()
        self.read[block] = {}
        for view in read:
            key = _memory_of(view)
            if isinstance(view.buffer, External) and not key.startswith("out:"):
                if self._weight(view) is None:
                    self.read[block][key] = [self._input(key)]
            elif self.wrote.get(key):
                own = any(_memory_of(other) is key and other.offset == view.offset for other in written)
                found = [writer for at, writer in self.wrote[key] if at == view.offset] if own \
                    else self._writers(key, view.offset)
                self.read[block].setdefault(key, []).extend(writer for writer in found
                                                            if writer not in self.read[block][key])
        for view in written:
            key = _memory_of(view)
            # Who reads and writes the same place has taken over what was there.
            over = any(_memory_of(other) is key and other.offset == view.offset for other in read)
            kept = [(at, writer) for at, writer in self.wrote.get(key, ()) if not (over and at == view.offset)]
            self.wrote[key] = [*kept, (view.offset, block)]

    def _writers(self, key, offset) -> list[Block]:
        """Who wrote what is read from here on: at this place, or where the memory begins all of it."""
        found = self.wrote.get(key, ())
        exact = [writer for at, writer in found if at == offset] if offset != 0 else []
        return list(dict.fromkeys(exact or [writer for _, writer in found]))

    def _joins(self, written: list[View], label: str) -> bool:
        """Whether the last writer of the same memory is a kernel of this kind that reads nothing either: one block for
        both."""
        found = [self.wrote.get(_memory_of(view)) for view in written]
        if not found or not found[0]:
            return False
        last = found[0][-1][1]
        if self.read.get(last) or not last.title.startswith(label):
            return False
        count = int(last.title.rpartition("×")[2]) if "×" in last.title else 1
        last.title = f"{label} ×{count + 1}"
        return True

    def _input(self, slot: str) -> Block:
        if slot not in self.inputs:
            leaf = next(leaf for leaf, (where, _) in self.program.layout.items() if where == slot)
            self.inputs[slot] = Block(slot, (str(leaf.type),), "input")
            self.figure.blocks.insert(0, self.inputs[slot])
        return self.inputs[slot]

    def _weight(self, view: View) -> str | None:
        """The path of the variable that a view is of."""
        if not isinstance(view.buffer, External) or view.buffer.slot != "weights":
            return None
        offset = evaluate(view.offset, self.sizes)
        return next((path for start, size, path in self.weights if start <= offset < start + max(size, 1)), "weights")

    def _memory(self, written: list[View]) -> str:
        """How much a kernel writes, and where in the arena: equal places are used again."""
        parts = []
        for buffer in dict.fromkeys(view.buffer for view in written):
            if isinstance(buffer, External):
                parts.append(f"→ {buffer.slot.removeprefix('out:')}")
            else:
                parts.append(f"→ {short(self.nbytes[buffer], 'B')} at {self.offsets[buffer]:,}")
        return ", ".join(parts)

    # --- whose kernel it is

    def _group(self, step: Step) -> Group | None:
        """The nested model that the kernel's value belongs to: of layers only the user's own that have layers in
        them."""
        layer = next((self.owner[value] for value in step.values if value in self.owner), None)
        if layer is None:
            return None
        prefix = layer.prefix
        while prefix:
            found = self.layers.get(prefix)
            if found is not None and self._is_drawn(found):
                return self._group_of(found)
            prefix = prefix.rpartition(".")[0]
        return None

    def _layers_around(self, step: Step) -> tuple[Group, ...]:
        """A group for each layer that the kernel's value is in, outermost first."""
        layer = next((self.owner[value] for value in step.values if value in self.owner), None)
        around: list[Group] = []
        parts = layer.prefix.split(".") if layer is not None and layer.prefix else []
        for count in range(1, len(parts) + 1):
            found = self.layers.get(".".join(parts[:count]))
            if found is not None:
                if found.prefix not in self.folds:
                    drawn = self.groups.get(found.prefix) or Group(f"{found.prefix.rsplit('.', 1)[-1]}: {found.kind}",
                                                                   "",
                                                                   "model", around[-1] if around else None)
                    self.folds[found.prefix] = drawn
                around.append(self.folds[found.prefix])
        return tuple(around)

    def _is_drawn(self, layer: Layer) -> bool:
        return any(other.prefix.startswith(layer.prefix + ".") for other in self.model.layers) and (
            not layer.library or "." not in layer.prefix)

    def _group_of(self, layer: Layer) -> Group:
        if layer.prefix not in self.groups:
            above, parent = layer.prefix.rpartition(".")[0], None
            while above and parent is None:
                found = self.layers.get(above)
                parent = self._group_of(found) if found is not None and self._is_drawn(found) else None
                above = above.rpartition(".")[0]
            self.groups[layer.prefix] = Group(f"{layer.prefix.rsplit('.', 1)[-1]}: {layer.kind}", "", "model", parent)
            self.figure.groups.append(self.groups[layer.prefix])
        return self.groups[layer.prefix]


# --- what a step does -------------------------------------------------------------------------------------------------


def fused(step: Step) -> list[str]:
    """The operations of a generated kernel, each once, in the order of computing; of many the first."""
    if step.kernel is None:
        return []
    words = dict.fromkeys(SYMBOLS.get(s.op, s.op) for s in statements(step.kernel.body)
                          if isinstance(s, Let) and s.op != "cast")
    found = list(words)
    return found if len(found) <= MOST_FUSED else [*found[:MOST_FUSED - 1], f"{len(found) - MOST_FUSED + 1} more"]


def _memory_of(view: View):
    return view.buffer.slot if isinstance(view.buffer, External) else view.buffer
