"""Lowering: each stored value becomes one or more steps, a step being a kernel and the views that it works on."""

from __future__ import annotations

from dataclasses import replace
from typing import Callable, Mapping, Sequence

from .contraction import lower_contract
from .fuse import Fusion, fuse, is_max_pooling, is_spread, through_reshapes
from .ir import Node
from .loops import (Affine, Assign, Constant, Divide, FromIndex, Kernel, Let, Load, Range, Store)
from .nest import Loop, Nest, View, linear, place, strides
from .schedule import Buffer, ScanStep, Step, finish_columns, finish_map, finish_rows, identity_of
from .types import Dim, Size, boolean, i32, known_nonnegative, product

ViewOf = Callable[[Node], "View | None"]


class Lowering:
    """Lowers one graph, or the body of ``scan``; ``views`` maps leaves and stored values to memory."""

    def __init__(self, fusion: Fusion, views: Mapping[Node, View], outputs: Mapping[str, View], depth: int = 0,
                 scan: Node | None = None):
        self.fusion = fusion
        self.views = dict(views)
        self.depth = depth
        self.computed = self.within = scan
        self.steps: list = []
        self.placed: set[Node] = set()
        self.pooled: set[Node] = set()
        self.halos: dict[tuple, tuple[int, View]] = {}
        self._assign(outputs)
        for current in fusion.stored:
            self.lower(current)
        for name, value in fusion.outputs.items():
            if self.views.get(value) != outputs[name]:
                self.copy(value, outputs[name])

    # --- memory

    def _assign(self, outputs: Mapping[str, View]) -> None:
        """A view for every stored value: an output's own memory, a part of a concat's, or a buffer of its own."""
        for name, value in self.fusion.outputs.items():
            if value in self.fusion and value not in self.views:
                self.views[value] = outputs[name]
        for current in reversed(self.fusion.stored):
            if current.op.name == "scan":
                continue
            if current not in self.views:
                self.views[current] = View(Buffer(current.type.size, current.dtype), 0, current.dtype)
            if current.op.name == "concat":
                self._place_pieces(current)

    def _place_pieces(self, current: Node) -> None:
        """Let the pieces of a concat that are contiguous in it be computed in place."""
        axis, view = current.attrs["axis"], self.views[current]
        if any(size != 1 for size in current.shape[:axis]):
            return
        offset = view.offset
        for piece in current.args:
            base = through_reshapes(piece)
            if base in self.fusion and base not in self.views and base.op.name != "scan":
                self.views[base] = View(view.buffer, offset, view.dtype)
                self.placed.add(base)
            offset = offset + piece.type.size

    def view_of(self, current: Node) -> View | None:
        return self.views.get(current)

    def dense_view(self, current: Node) -> View:
        """The memory of a value that was required to be contiguous."""
        return self.views[through_reshapes(current)]

    def nest(self, shape: Sequence[Size]) -> tuple[Nest, tuple[Affine, ...]]:
        """A nest of one loop a dimension, and their variables as coordinates."""
        loops = [Loop(f"i{axis}", size) for axis, size in enumerate(shape)]
        return Nest(loops, self.view_of), tuple(Affine.variable(loop.variable) for loop in loops)

    # --- steps

    def lower(self, current: Node) -> None:
        """Emit the steps of one stored value."""
        rule = _RULES.get(current.op.name, Lowering.map) if not is_spread(current) else Lowering.spread
        self.computed = self.within or current
        rule(self, current)

    def add(self, step: Step) -> None:
        self.steps.append(replace(step, value=self.computed))

    def map(self, current: Node) -> None:
        nest, coordinates = self.nest(current.shape)
        value = nest.compute(current, coordinates)
        self.add(finish_map(nest, value, self.views[current], linear(coordinates, current.shape)))

    def copy(self, current: Node, target: View) -> None:
        """Compute or copy a value into other memory."""
        nest, coordinates = self.nest(current.shape)
        value = nest.expression(current, coordinates)
        self.add(finish_map(nest, value, target, linear(coordinates, current.shape)))

    def fill(self, target: View, size: Size, value) -> None:
        nest, coordinates = self.nest((size,))
        self.add(finish_map(nest, nest.constant(target.dtype, value), target, coordinates[0]))

    def reduce(self, current: Node) -> None:
        kind, axes = current.attrs["kind"], current.attrs["axes"]
        source = current.args[0]
        kept = [axis for axis in range(source.type.rank) if axis not in axes]
        loops = [Loop(f"i{axis}", source.shape[axis]) for axis in kept]
        loops += [Loop(f"r{axis}", source.shape[axis], reduces=True) for axis in axes]
        coordinates = [Affine.variable(("r" if axis in axes else "i") + str(axis))
                       for axis in range(source.type.rank)]
        nest = Nest(loops, self.view_of)
        value = nest.expression(source, tuple(coordinates))
        index = linear([coordinates[axis] for axis in kept], current.shape)
        self.add(finish_reduction(nest, kind, value, current, self.views[current], index))

    def argument(self, current: Node) -> None:
        """argmax and argmin: the first best position along an axis, a NaN being best of all."""
        source, axis = current.args[0], current.attrs["axis"]
        loops = [Loop(f"i{a}", size) for a, size in enumerate(source.shape) if a != axis]
        loops.append(Loop("r", source.shape[axis], reduces=True))
        coordinates = tuple(Affine.variable("r" if a == axis else f"i{a}") for a in range(source.type.rank))
        nest = Nest(loops, self.view_of)
        value = nest.expression(source, coordinates)
        kind = "max" if current.op.name == "argmax" else "min"
        best, where = nest.name("best"), nest.name("at")
        update = best_update(nest, kind, value, source.dtype, best, where, Affine.variable("r"))
        start = (Constant(best, source.dtype, identity_of(kind, source.dtype)), Constant(where, i32, 0))
        index = linear([c for a, c in enumerate(coordinates) if a != axis], current.shape)
        self.add(finish_rows(nest, start, update, None, self.views[current], index, where))

    def concat(self, current: Node) -> None:
        """Each piece is computed, or copied, into its part."""
        axis, view = current.attrs["axis"], self.views[current]
        shift: Size = 0
        for piece in current.args:
            base = through_reshapes(piece)
            if self.views.get(base) == View(view.buffer, view.offset + shift, view.dtype) and base in self.placed:
                shift = shift + piece.type.size
                continue
            nest, coordinates = self.nest(piece.shape)
            value = nest.expression(piece, coordinates)
            moved = tuple(c + (shift if a == axis else 0) for a, c in enumerate(coordinates))
            if any(size != 1 for size in current.shape[:axis]):
                index = linear(moved, current.shape)
                shift = shift + piece.shape[axis]
            else:
                index = linear(coordinates, piece.shape) + shift
                shift = shift + piece.type.size
            self.add(finish_map(nest, value, view, index))

    def spread(self, current: Node) -> None:
        """A pad with fillers between the elements: fill, then store with a stride."""
        view = self.views[current]
        self.fill(view, current.type.size, current.attrs["value"])
        nest, coordinates = self.nest(current.args[0].shape)
        value = nest.expression(current.args[0], coordinates)
        target = [c * (between + 1) + low for c, between, low in
                  zip(coordinates, current.attrs["interior"], current.attrs["low"])]
        self.add(finish_map(nest, value, view, linear(target, current.shape)))

    def scatter_add(self, current: Node) -> None:
        """Sums in the order of the indices; threads share out the columns, so the order never changes."""
        indices, updates = current.args
        view, columns = self.views[current], product(current.shape[1:])
        self.fill(view, current.type.size, 0.0)
        nest = Nest([Loop("i", indices.type.size), Loop("c", columns)], self.view_of)
        i, c = Affine.variable("i"), Affine.variable("c")
        row = nest.load(self.dense_view(indices), i)
        update = nest.load(self.dense_view(updates), i * columns + c)
        target = nest.buffer(view)
        before = Load(nest.name(), target, c, ((row, columns),))
        total = Let(nest.name(), "add", current.dtype, (before.name, update), (current.dtype, current.dtype))
        store = Store(target, c, total.name, ((row, columns),))
        nest.statements += [before, total]
        body = place(nest.loops, nest.statements, 0, (store,))
        kernel = Kernel(tuple(v.dtype for v in nest.views), (Range("c", body),))
        self.add(Step(kernel, tuple(nest.views), columns, indices.type.size * 4, current.op.name))

    # --- windows

    def window_argmax(self, current: Node) -> None:
        """The maxima first, into the memory of the pooling that goes with them if there is one; then, for each, the
        first position that has it (NaN being larger than all)."""
        source = current.args[0]
        pooling = next((n for n in self.fusion.stored if n.op.name == "window_take" and n.args == (source, current)
                        and is_max_pooling(n)), None)
        if pooling is None:
            maxima = View(Buffer(current.type.size, source.dtype), 0, source.dtype)
        else:
            maxima = self.views[pooling]
            self.pooled.add(pooling)
        self._max_pool(current, maxima)
        nest, coordinates, window, inner, guard = self._window_nest(current)
        value = nest.expression(source, inner, guard)
        largest = nest.load(maxima, linear(coordinates, current.shape))
        hit = nest.let("eq", boolean, (value, source.dtype), (largest, source.dtype))
        if source.dtype.kind == "float":
            missing = nest.let("ne", boolean, (value, source.dtype), (value, source.dtype))
            hit = nest.let("logical_or", boolean, (hit, boolean), (missing, boolean))
        here = nest.emit(FromIndex(nest.name(), i32, linear(window, current.attrs["sizes"])))
        beyond = product(current.attrs["sizes"])
        position = nest.let("where", i32, (hit, boolean), (here, i32), (nest.constant(i32, beyond), i32))
        self.add(finish_columns(nest, "minimum", beyond, (position,), self.views[current],
                                linear(coordinates, current.shape), guard, label="window_argmax"))

    def _max_pool(self, current: Node, view: View) -> None:
        """The maximum of each window of the first argument of a window_argmax or window_take."""
        source = current.args[0]
        nest, coordinates, _, inner, guard = self._window_nest(current)
        value = nest.expression(source, inner, guard)
        self.add(finish_columns(nest, "maximum", identity_of("max", source.dtype), (value,), view,
                                linear(coordinates, current.shape), guard, label="max_pool"))

    def _window_nest(self, current: Node):
        """Loops over the windows and in them; coordinates outside and in the window, of the operand, and their guard."""
        source = current.args[0]
        loops, coordinates, window = self._window_loops(current)
        nest = Nest(loops, self.view_of)
        bounds, inner = [], [coordinates[0]]
        for position, (stride, low) in enumerate(zip(current.attrs["strides"], current.attrs["low"])):
            at = coordinates[position + 1] * stride + window[position] - low
            inner.append(at)
            inside = low == 0 and known_nonnegative(
                source.shape[position + 1] - (current.shape[position + 1] - 1) * stride - current.attrs["sizes"][position])
            if not inside:
                bounds.append((at, 0, source.shape[position + 1]))
        inner.append(coordinates[-1])
        return nest, coordinates, window, tuple(inner), nest.within(bounds)

    def _window_loops(self, current: Node):
        loops = [Loop(f"i{axis}", size) for axis, size in enumerate(current.shape)]
        sizes = current.attrs["sizes"]
        loops += [Loop(f"w{axis}", size, reduces=True, literal=True) for axis, size in enumerate(sizes)]
        coordinates = tuple(Affine.variable(f"i{axis}") for axis in range(current.type.rank))
        return loops, coordinates, tuple(Affine.variable(f"w{a}") for a in range(len(sizes)))

    def _window_offsets(self, nest: Nest, position: str, sizes) -> list[str]:
        """The position in a window taken apart into one coordinate a dimension."""
        rest, parts = position, []
        for size in reversed(sizes):
            divisor = nest.constant(i32, size)
            parts.append(nest.let("mod", i32, (rest, i32), (divisor, i32)))
            rest = nest.let("floordiv", i32, (rest, i32), (divisor, i32))
        return parts[::-1]

    def window_take(self, current: Node) -> None:
        if current in self.pooled:
            return
        if is_max_pooling(current):
            self._max_pool(current, self.views[current])
            return
        source, positions = current.args
        nest, coordinates = self.nest(current.shape)
        offsets = self._window_offsets(nest, nest.expression(positions, coordinates), current.attrs["sizes"])
        steps = strides(source.shape)
        base = [coordinates[0]]
        for axis, (stride, low) in enumerate(zip(current.attrs["strides"], current.attrs["low"])):
            base.append(coordinates[axis + 1] * stride - low)
        index = linear(base + [coordinates[-1]], source.shape)
        view = self.views[through_reshapes(source)]
        value = nest.load(view, index, None, tuple(zip(offsets, steps[1:])))
        self.add(finish_map(nest, value, self.views[current], linear(coordinates, current.shape)))

    def window_put(self, current: Node) -> None:
        """Each input element gathers from the windows that chose it."""
        source, positions = current.args
        loops, coordinates, window = self._window_loops(current)
        nest = Nest(loops, self.view_of)
        bounds, flags, outer = [], [], [coordinates[0]]
        for axis, (stride, low) in enumerate(zip(current.attrs["strides"], current.attrs["low"])):
            moved = coordinates[axis + 1] + low - window[axis]
            if stride == 1:
                at = moved
            else:
                divide = Divide(nest.name("q"), nest.name("g"), moved, stride)
                nest.statements.append(divide)
                at = Affine.variable(divide.name)
                flags.append(divide.exact)
            outer.append(at)
            bounds.append((at, 0, source.shape[axis + 1]))
        outer.append(coordinates[-1])
        guard = nest.within(bounds, flags)
        chosen = nest.expression(positions, tuple(outer), guard)
        here = nest.emit(FromIndex(nest.name(), i32, linear(window, current.attrs["sizes"])))
        hit = nest.let("eq", boolean, (chosen, i32), (here, i32))
        value = nest.expression(source, tuple(outer), guard)
        zero = nest.constant(current.dtype, 0.0)
        kept = nest.let("where", current.dtype, (hit, boolean), (value, current.dtype), (zero, current.dtype))
        self.add(finish_columns(nest, "add", 0.0, (kept,), self.views[current],
                                linear(coordinates, current.shape), guard, label="window_put"))

    # --- scan

    def scan(self, current: Node) -> None:
        """The body's steps, repeated: time is a symbol in their views, carries alternate between two halves."""
        body, length = current.attrs["body"], current.attrs["length"]
        carries = current.attrs["carries"]
        count = current.attrs["xs"]
        time, parity = Dim.symbol(f"%t{self.depth}"), Dim.symbol(f"%p{self.depth}")
        views: dict[Node, View] = {}
        results: list[View] = []
        outputs: dict[str, View] = {}
        names = list(body.outputs)
        for position, (leaf, arg) in enumerate(zip(body.inputs, current.args)):
            if position < carries:
                size = leaf.type.size
                buffer = Buffer(2 * size, leaf.dtype)
                self.copy(arg, View(buffer, 0, leaf.dtype))
                views[leaf] = View(buffer, parity * size, leaf.dtype)
                outputs[names[position]] = View(buffer, (1 - parity) * size, leaf.dtype)
                results.append(View(buffer, length % 2 * size, leaf.dtype))
            else:
                view = self.dense_view(arg)
                moved = time * leaf.type.size if position < carries + count else 0
                views[leaf] = View(view.buffer, view.offset + moved, view.dtype)
        for position in range(carries, len(names)):
            value = body.outputs[names[position]]
            buffer = Buffer(length * value.type.size, value.dtype)
            outputs[names[position]] = View(buffer, time * value.type.size, value.dtype)
            results.append(View(buffer, 0, value.dtype))
        inner = Lowering(fuse(body.outputs), views, outputs, self.depth + 1, self.computed)
        self.steps.append(ScanStep(tuple(inner.steps), length, f"%t{self.depth}", f"%p{self.depth}",
                                   bool(current.attrs["reverse"])))
        for user in self.fusion.items.get(current, ()):
            self.views[user] = results[user.attrs["index"]]

    # --- contract

    def contract(self, current: Node) -> None:
        lower_contract(self, current)

    def halo(self, operand: Node, low: tuple[int, ...], shape: tuple[Size, ...]) -> View:
        """The operand copied into zeros of ``shape``, ``low`` elements from the edges; made once."""
        key = (operand, low, shape)
        if key not in self.halos:
            nest, coordinates = self.nest(shape)
            inner = tuple(c - before for c, before in zip(coordinates, low))
            bounds = [(c, 0, size) for c, size, padded in zip(inner, operand.shape, shape) if size != padded]
            guard = nest.within(bounds)
            value = nest.expression(operand, inner, guard)
            zero = nest.constant(operand.dtype, 0)
            kept = nest.let("where", operand.dtype, (guard, boolean), (value, operand.dtype), (zero, operand.dtype))
            view = View(Buffer(product(shape), operand.dtype), 0, operand.dtype)
            self.halos[key] = len(self.steps), view
            self.add(finish_map(nest, kept, view, linear(coordinates, shape), label="halo"))
        return self.halos[key][1]

    def forget_halos(self, position: int) -> None:
        """Drop what is known of halos made by steps from ``position`` on, which were taken back."""
        self.halos = {key: made for key, made in self.halos.items() if made[0] < position}


def best_update(nest: Nest, kind: str, value: str, dtype, best: str, where: str, position: Affine) -> tuple:
    """Statements that keep the best value and where it stood; NaN beats all, the first of equals stays."""
    order = (best, value) if kind == "max" else (value, best)
    better = nest.let("lt", boolean, *((n, dtype) for n in order))
    if dtype.kind == "float":
        fresh = nest.let("ne", boolean, (value, dtype), (value, dtype))
        seen = nest.let("eq", boolean, (best, dtype), (best, dtype))
        first = nest.let("logical_and", boolean, (fresh, boolean), (seen, boolean))
        better = nest.let("logical_or", boolean, (better, boolean), (first, boolean))
    here = nest.emit(FromIndex(nest.name(), i32, position))
    new_where = nest.let("where", i32, (better, boolean), (here, i32), (where, i32))
    new_best = nest.let("where", dtype, (better, boolean), (value, dtype), (best, dtype))
    return Assign(where, new_where), Assign(best, new_best)


_COMBINE = {"sum": "add", "prod": "mul", "max": "maximum", "min": "minimum"}


def finish_reduction(nest: Nest, kind: str, value: str, current: Node, view: View, index: Affine) -> Step:
    """Close a sum, product, maximum or minimum: by rows, or by columns where memory runs along the result."""
    dtype = current.dtype
    unit_reduce = any(isinstance(s, Load) and s.index.coefficient(loop.variable) == 1
                      for loop in nest.loops if loop.reduces for s in nest.statements)
    kept = [loop for loop in nest.loops if not loop.reduces and loop.extent != 1]
    unit_kept = kept and any(isinstance(s, Load) and s.index.coefficient(kept[-1].variable) == 1
                             for s in nest.statements)
    start = identity_of(kind, dtype)
    if unit_kept and not unit_reduce:
        return finish_columns(nest, _COMBINE[kind], start, (value,), view, index)
    total = nest.name("total")
    combine = "add_any_order" if kind == "sum" and dtype.kind == "float" else _COMBINE[kind]
    step = nest.let(combine, dtype, (total, dtype), (value, dtype))
    return finish_rows(nest, (Constant(total, dtype, start),), (Assign(total, step),), None, view, index, total)


_RULES = {
    "reduce": Lowering.reduce, "argmax": Lowering.argument, "argmin": Lowering.argument, "concat": Lowering.concat,
    "scatter_add": Lowering.scatter_add, "window_argmax": Lowering.window_argmax,
    "window_take": Lowering.window_take, "window_put": Lowering.window_put, "scan": Lowering.scan, "contract": Lowering.contract,
}
