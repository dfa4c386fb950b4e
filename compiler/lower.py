"""Lowering: each stored value becomes one or more steps, a step being a kernel and the views that it works on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product as combinations

from .contraction import lower_contract
from .fuse import Fusion, fuse, is_max_pooling, is_spread, through_reshapes
from .group import groups
from .ir import Node
from .loops import (
    Affine,
    Assign,
    Constant,
    Divide,
    Follow,
    FromIndex,
    If,
    Kernel,
    Let,
    Load,
    Range,
    Store,
    Units,
)
from .nest import Loop, Nest, View, linear, place, strides
from .placement import (
    UNROLLED_WINDOW,
    Residue,
    bordered_view,
    place as place_values,
    put_residues,
    window_margins,
)
from .schedule import CPU, Buffer, Closing, ScanStep, Step, Target, identity_of
from .types import Dim, Size, boolean, i32, product

REPEATED = 64               # a vector up to so long is repeated to make longer rows

ViewOf = Callable[[Node], "View | None"]


class Lowering:
    """Lowers one graph, or the body of ``scan``; ``views`` maps leaves and stored values to memory; ``close`` makes
    loop nests kernels."""

    def __init__(self, fusion: Fusion, views: Mapping[Node, View], outputs: Mapping[str, View], depth: int = 0,
                 scan: Node | None = None, close: Closing = CPU):
        self.fusion = fusion
        self.close = close
        self.depth = depth
        self.computed: tuple[Node, ...] = ()
        self.steps: list = []
        self.pooled: set[Node] = set()
        self.halos: dict[tuple[Node, float], tuple[int, View]] = {}
        self.repeats: dict[tuple[Node, int], View] = {}
        self.placement = place_values(fusion, views, outputs)
        self.views = self.placement.views
        for group in groups(fusion, is_map):
            self.computed = (scan,) if scan is not None else tuple(group)
            for current in group:
                if current in self.placement.bordered:
                    self.border(current, self.views[current], self.placement.bordered[current])
            self.lower(group)
        for name, value in fusion.outputs.items():
            if self.views.get(through_reshapes(value)) != outputs[name]:
                self.computed = (scan,) if scan is not None else (value,)
                self.copy(value, outputs[name])

    def view_of(self, current: Node) -> View | None:
        return self.views.get(current)

    def target(self, current: Node, value: str, coordinates: Sequence[Affine]) -> Target:
        """Storing a name as ``current[coordinates]``."""
        view = self.views[current]
        return Target(value, view, view.at(coordinates, current.shape))

    def dense_view(self, current: Node) -> View:
        """The memory of a value that was required to be contiguous."""
        return self.views[through_reshapes(current)]

    def nest(self, shape: Sequence[Size]) -> tuple[Nest, tuple[Affine, ...]]:
        """A nest of one loop a dimension, and their variables as coordinates."""
        loops = [Loop(f"i{axis}", size) for axis, size in enumerate(shape)]
        return Nest(loops, self.view_of, self.repeat), tuple(Affine.variable(loop.variable) for loop in loops)

    def repeat(self, vector: Node, times: int) -> View | None:
        """A short stored vector, repeated; None if it is not one."""
        length = vector.shape[0]
        if not self.close.repeats or self.view_of(vector) is None or not 1 < length <= REPEATED or times < 2:
            return None
        if (vector, times) not in self.repeats:
            view = View(Buffer(times * length, vector.dtype), 0, vector.dtype)
            nest, coordinates = self.nest((times, length))
            value = nest.expression(vector, coordinates[1:])
            self.add(self.close.map(nest, [Target(value, view, view.at(coordinates, (times, length)))], label="repeat"))
            self.repeats[vector, times] = view
        return self.repeats[vector, times]

    # --- steps

    def lower(self, group: Sequence[Node]) -> None:
        """Emit the steps of stored values that belong together."""
        if is_map(group[0]):
            self.map(group)
        else:
            rule = Lowering.spread if is_spread(group[0]) else _RULES[group[0].op.name]
            rule(self, group[0])

    def add(self, step: Step) -> None:
        self.steps.append(replace(step, values=self.computed))

    def map(self, group: Sequence[Node]) -> None:
        """Elementwise values of one shape, in one kernel."""
        nest, coordinates = self.nest(group[0].shape)
        targets = [self.target(current, nest.define(current, coordinates), coordinates) for current in group]
        self.add(self.close.map(nest, targets))

    def copy(self, current: Node, target: View) -> None:
        """Compute or copy a value into other memory."""
        nest, coordinates = self.nest(current.shape)
        value = nest.expression(current, coordinates)
        self.add(self.close.map(nest, [Target(value, target, target.at(coordinates, current.shape))]))

    def fill(self, target: View, size: Size, value) -> None:
        nest, coordinates = self.nest((size,))
        self.add(self.close.map(nest, [Target(nest.constant(target.dtype, value), target, coordinates[0])]))

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
        index = self.views[current].at([coordinates[axis] for axis in kept], current.shape)
        self.add(finish_reduction(self.close, nest, kind, value, current, self.views[current], index))

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
        index = self.views[current].at([c for a, c in enumerate(coordinates) if a != axis], current.shape)
        self.add(self.close.rows(nest, start, update, None, self.views[current], index, where))

    def concat(self, current: Node) -> None:
        """Each piece is computed, or copied, into its part."""
        axis = current.attrs["axis"]
        shift: Size = 0
        for position, piece in enumerate(current.args):
            if (current, position) not in self.placement.pieces:
                nest, coordinates = self.nest(piece.shape)
                value = nest.expression(piece, coordinates)
                moved = tuple(c + (shift if a == axis else 0) for a, c in enumerate(coordinates))
                self.add(self.close.map(nest, [self.target(current, value, moved)]))
            shift = shift + piece.shape[axis]

    def spread(self, current: Node) -> None:
        """A pad with fillers between the elements: fill, then store with a stride."""
        view = self.views[current]
        self.fill(view, current.type.size, current.attrs["value"])
        nest, coordinates = self.nest(current.args[0].shape)
        value = nest.expression(current.args[0], coordinates)
        target = [c * (between + 1) + low for c, between, low in
                  zip(coordinates, current.attrs["interior"], current.attrs["low"])]
        self.add(self.close.map(nest, [self.target(current, value, target)]))

    def chained_scatter_add(self, current: Node) -> None:
        """As ``scatter_add`` with a thread for every element of the updates: that of an index's first occurrence adds
        those of the later ones, which it finds by a chain, in the order of the indices."""
        indices, updates = current.args
        view, columns, count = self.views[current], product(current.shape[1:]), indices.type.size
        self.fill(view, current.type.size, 0.0)
        after = self._neighbours(indices, "min", Affine({}, count))
        before = self._neighbours(indices, "max", Affine({}, -1))
        nest = Nest([Loop("i", count), Loop("c", columns)], self.view_of)
        i, c, j = Affine.variable("i"), Affine.variable("c"), Affine.variable("j")
        is_first = nest.let("lt", boolean, (nest.load(before, i), i32), (nest.constant(i32, 0), i32))
        row = nest.load(self.dense_view(indices), i)
        update = Load(nest.name(), nest.buffer(self.dense_view(updates)), j * columns + c)
        chain = nest.buffer(after)
        total = Constant(nest.name("total"), current.dtype, 0.0)
        new = Let(nest.name(), "add", current.dtype, (total.name, update.name), (current.dtype, current.dtype))
        follow = Follow("j", i, chain, count, (update, new, Assign(total.name, new.name)))
        store = Store(nest.buffer(view), c, total.name, ((row, columns),))
        body = (*nest.statements, If(is_first, (total, follow, store)))
        kernel = Kernel(tuple(v.dtype for v in nest.views), (Units((("i", count), ("c", columns)), body),))
        self.add(Step(kernel, tuple(nest.views), count * columns, 8, current.op.name))

    def _neighbours(self, indices: Node, kind: str, none: Affine) -> View:
        """For each place of a list of indices the last one before it ("max") or the first after it ("min") that holds
        the same; ``none`` where there is no such."""
        count = indices.type.size
        made = View(Buffer(count, i32), 0, i32)
        nest = Nest([Loop("i", count), Loop("j", count, reduces=True)], self.view_of)
        here, there = Affine.variable("i"), Affine.variable("j")
        listed = self.dense_view(indices)
        same = nest.let("eq", boolean, *((nest.load(listed, at), indices.dtype) for at in (here, there)))
        places = [nest.emit(FromIndex(nest.name(), i32, at)) for at in (here, there, none)]
        order = places[:2] if kind == "min" else places[1::-1]
        beyond = nest.let("lt", boolean, *((name, i32) for name in order))
        fits = nest.let("logical_and", boolean, (same, boolean), (beyond, boolean))
        value = nest.let("where", i32, (fits, boolean), (places[1], i32), (places[2], i32))
        total = nest.name("total")
        nearest = nest.let(_COMBINE[kind], i32, (total, i32), (value, i32))
        start = (FromIndex(total, i32, none),)
        self.add(self.close.rows(nest, start, (Assign(total, nearest),), None, made, here, total, label="scatter_add"))
        return made

    def scatter_add(self, current: Node) -> None:
        """Sums in the order of the indices; threads share out the columns, so the order never changes."""
        if self.close.chains:
            self.chained_scatter_add(current)
            return
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
        """The first maximum of each window, NaN being larger than all; with it the pooling that goes with it, if any.

        Among windows of nothing but the least value, which no value beyond the edges differs from, the position
        of the first maximum may lie beyond the edge.
        """
        source = current.args[0]
        poolings = [n for n in self.fusion.stored if n.op.name == "window_take" and n.args == (source, current)
                    and is_max_pooling(n)]
        self.pooled.update(poolings)
        if product(current.attrs["sizes"]) > UNROLLED_WINDOW:
            self._search_windows(current, [current, *poolings])
            return
        nest, coordinates, values = self._window_values(current)
        best, where = values[0], nest.constant(i32, 0)
        for position, value in enumerate(values[1:], 1):
            best, where = better_of(nest, "max", source.dtype, (value, nest.constant(i32, position)), (best, where))
        targets = [self.target(current, where, coordinates)] + [self.target(n, best, coordinates) for n in poolings]
        self.add(self.close.map(nest, targets, label="max_pool"))

    def max_pool(self, current: Node) -> None:
        """The maximum of each window, where nobody asks for its position."""
        if product(current.attrs["sizes"]) > UNROLLED_WINDOW:
            self._search_windows(current, [current])
            return
        nest, coordinates, values = self._window_values(current)
        self.add(self.close.map(nest, [self.target(current, largest_of(nest, values, current.dtype), coordinates)],
                                label="max_pool"))

    def _window_values(self, current: Node):
        """A nest over the windows, its coordinates, and the values of the operand in a window, all read at once: the
        windows are small, and their size stays in the kernel."""
        view = self._bordered_source(current)
        nest, coordinates = self.nest(current.shape)
        return nest, coordinates, [self._window_value(current, nest, coordinates, window, view)
                                   for window in combinations(*map(range, current.attrs["sizes"]))]

    def _bordered_source(self, current: Node) -> View | None:
        """The operand with the least value around it, if its windows leave it by a known number of elements."""
        source, margins = current.args[0], window_margins(current)
        if margins is None or not any(low or high for low, high in margins):
            return None
        return self.halo(source, identity_of("max", source.dtype))

    def _window_value(self, current: Node, nest: Nest, coordinates, window, view: View | None) -> str:
        """The operand at one place of a window; the least value where that is beyond the operand's edges."""
        source, attrs = current.args[0], current.attrs
        spatial = (c * stride + w - low
                   for c, stride, low, w in zip(coordinates[1:], attrs["strides"], attrs["low"], window))
        inner = (coordinates[0], *spatial, coordinates[-1])
        if view is not None:
            return nest.load(view, view.at(inner, source.shape))
        inside = window_margins(current) is not None
        guard = nest.within([] if inside else [(c, 0, n) for c, n in zip(inner[1:-1], source.shape[1:-1])])
        value = nest.expression(source, inner, guard)
        if guard is None:
            return value
        least = nest.constant(source.dtype, identity_of("max", source.dtype))
        return nest.let("where", source.dtype, (guard, boolean), (value, source.dtype), (least, source.dtype))

    def _search_windows(self, current: Node, wanted: Sequence[Node]) -> None:
        """The wanted ones of a pooling's positions and maxima, for windows too large to be read at once."""
        source = current.args[0]
        view = self._bordered_source(current)
        for result in wanted:
            loops, coordinates, window = self._window_loops(current)
            nest = Nest(loops, self.view_of)
            value = self._window_value(current, nest, coordinates, window, view)
            best, where = nest.name("best"), nest.name("at")
            update = best_update(nest, "max", value, source.dtype, best, where,
                                 linear(window, current.attrs["sizes"]))
            start = (Constant(best, source.dtype, identity_of("max", source.dtype)), Constant(where, i32, 0))
            target = self.target(result, where if result.op.name == "window_argmax" else best, coordinates)
            self.add(self.close.rows(nest, start, update, None, target.view, target.index, target.value,
                                     label="max_pool"))

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
            self.max_pool(current)
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
        self.add(self.close.map(nest, [self.target(current, value, coordinates)]))

    def window_put(self, current: Node) -> None:
        """Each input element gathers from the windows that chose it."""
        axes = put_residues(current)
        if axes is not None:
            self._put_at_once(current, axes)
            return
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
        view = self.views[current]
        self.add(self.close.columns(nest, "add", 0.0, (kept,), view, view.at(coordinates, current.shape), guard,
                                    label="window_put"))

    def _put_at_once(self, current: Node, axes: Sequence[Sequence[Residue]]) -> None:
        """The same with all windows of an element in one expression; around the windows' values there are zeros.

        Elements of a residue have their windows at the same places.  Residues of as many elements share a kernel, which
        reads a window once for all of them.
        """
        together: dict[tuple[Size, ...], list[tuple[Residue, ...]]] = {}
        for residues in combinations(*axes):
            together.setdefault(tuple(residue.count for residue in residues), []).append(residues)
        for counts, members in together.items():
            if 0 not in counts:
                nest, coordinates = self.nest((current.shape[0], *counts, current.shape[-1]))
                zero = nest.constant(current.dtype, 0.0)
                seen: dict = {}
                is_alone = len(members) == 1        # then what tells it from others is which window it looks for
                targets = [self._put_residues(current, residues, nest, coordinates, zero, seen, is_alone)
                           for residues in members]
                self.add(self.close.map(nest, targets, label="window_put"))

    def _put_residues(self, current: Node, residues: Sequence[Residue], nest: Nest, coordinates, zero: str,
                      seen: dict, is_alone: bool) -> Target:
        """The elements of one residue an axis, and where they go; ``seen``: windows that were read, by their places."""
        dtype, total = current.dtype, None
        for windows in combinations(*(residue.windows for residue in residues)):
            place = (coordinates[0], *(c + shift for c, (_, shift) in zip(coordinates[1:], windows)), coordinates[-1])
            key = tuple(shift for _, shift in windows)
            if key not in seen:
                seen[key] = [self._within_border(nest, operand, place) for operand in current.args]
            value, position = seen[key]
            number = linear([Affine({}, at) for at, _ in windows], current.attrs["sizes"]).offset
            hit = nest.let("eq", boolean, (position, i32), (nest.constant(i32, number, is_alone), i32))
            kept = nest.let("where", dtype, (hit, boolean), (value, dtype), (zero, dtype))
            total = kept if total is None else nest.let("add", dtype, (total, dtype), (kept, dtype))
        view = self.views[current]
        steps, strides_ = view.steps or strides(current.shape), current.attrs["strides"]
        first = sum((residue.first * step for residue, step in zip(residues, steps[1:])), view.offset)
        spread = (coordinates[0], *(c * stride for c, stride in zip(coordinates[1:], strides_)), coordinates[-1])
        # Each residue has a view of its own, and so a buffer of its own in the kernel: they do not overlap.
        return Target(zero if total is None else total, View(view.buffer, first, dtype), view.at(spread, current.shape))

    def _within_border(self, nest: Nest, operand: Node, place) -> str:
        """An element of a value, 0 beyond its edges, as far as anybody reads there."""
        if (operand, 0) not in self.placement.margins:
            return nest.expression(operand, place)
        view = self.halo(operand, 0)
        return nest.load(view, view.at(place, operand.shape))

    # --- scan

    def scan(self, current: Node) -> None:
        """The body's steps, repeated: time is a symbol in their views.  Carries alternate between two halves, but for
        those of which each turn is a result: they go from one row of the result to the next."""
        body, length = current.attrs["body"], current.attrs["length"]
        carries, count = current.attrs["carries"], current.attrs["xs"]
        time, parity = Dim.symbol(f"%t{self.depth}"), Dim.symbol(f"%p{self.depth}")
        before, after = (time + 1, time) if current.attrs["reverse"] else (time, time + 1)
        views: dict[Node, View] = {}
        results: dict[str, View] = {}
        outputs: dict[str, View] = {}
        names = list(body.outputs)
        for position, (leaf, arg) in enumerate(zip(body.inputs, current.args)):
            size = leaf.type.size
            if position >= carries:
                view = self.dense_view(arg)
                moved = time * size if position < carries + count else 0
                views[leaf] = View(view.buffer, view.offset + moved, view.dtype)
                continue
            name = names[position]
            rows = {result: row for result in names[carries:] if result not in results
                    for node, row in ((leaf, before), (body.outputs[name], after))
                    if through_reshapes(body.outputs[result]) is through_reshapes(node)}
            buffer = Buffer((length + 1 if rows else 2) * size, leaf.dtype)
            at, to = (before, after) if rows else (parity, 1 - parity)
            views[leaf], outputs[name] = (View(buffer, row * size, leaf.dtype) for row in (at, to))
            results |= {result: View(buffer, (row - time) * size, leaf.dtype) for result, row in rows.items()}
            turns = (length, 0) if current.attrs["reverse"] else (0, length)
            first, last = turns if rows else (0, length % 2)
            self.copy(arg, View(buffer, first * size, leaf.dtype))
            results[name] = View(buffer, last * size, leaf.dtype)
        for name in names[carries:]:
            if name not in results:
                value = body.outputs[name]
                buffer = Buffer(length * value.type.size, value.dtype)
                outputs[name] = View(buffer, time * value.type.size, value.dtype)
                results[name] = View(buffer, 0, value.dtype)
        stored = {name: value for name, value in body.outputs.items() if name in outputs}
        inner = Lowering(fuse(stored), views, outputs, self.depth + 1, current, self.close)
        self.steps.append(ScanStep(tuple(inner.steps), length, f"%t{self.depth}", f"%p{self.depth}",
                                   bool(current.attrs["reverse"])))
        for user in self.fusion.items.get(current, ()):
            self.views[user] = results[names[user.attrs["index"]]]

    # --- contract

    def contract(self, current: Node) -> None:
        lower_contract(self, current)

    def halo(self, operand: Node, fill: float) -> View:
        """A view of the operand that may be read beyond its edges as far as anybody does: there lies ``fill``.

        If it was not computed inside such a border, it is copied into one, once for all its readers.
        """
        if self.placement.bordered.get(operand) == fill:
            return self.views[operand]
        if (operand, fill) not in self.halos:
            wanted = self.placement.margins[operand, fill]
            view = bordered_view(operand, wanted)
            self.halos[operand, fill] = len(self.steps), view
            self.border(operand, view, fill)
            nest, coordinates = self.nest(operand.shape)
            value = nest.expression(operand, coordinates)
            self.add(self.close.map(nest, [Target(value, view, view.at(coordinates, operand.shape))], label="halo"))
        return self.halos[operand, fill][1]

    def border(self, value: Node, view: View, fill: float) -> None:
        """Fill what lies around a value: before and after it along each dimension, as far as the view goes."""
        margins = self.placement.margins[value, fill]
        for axis, (low, high) in enumerate(margins):
            for sides in ([(-low, low), (value.shape[axis], high)],) if low == high else (
                    [(-low, low)], [(value.shape[axis], high)]):
                thick = sides[0][1]
                if thick == 0:
                    continue
                shape = [size if a < axis else thick if a == axis else size + sum(margins[a])
                         for a, size in enumerate(value.shape)]
                nest, coordinates = self.nest(shape)
                filler = nest.constant(value.dtype, fill)
                targets = []
                for first, _ in sides:
                    place = [c if a < axis else c + first if a == axis else c - margins[a][0]
                             for a, c in enumerate(coordinates)]
                    targets.append(Target(filler, view, view.at(place, value.shape)))
                self.add(self.close.map(nest, targets, label="halo"))

    def forget_halos(self, position: int) -> None:
        """Drop what is known of halos made by steps from ``position`` on, which were taken back."""
        self.halos = {key: made for key, made in self.halos.items() if made[0] < position}


def best_update(nest: Nest, kind: str, value: str, dtype, best: str, where: str, position: Affine) -> tuple:
    """Statements that keep the best value and where it stood."""
    here = nest.emit(FromIndex(nest.name(), i32, position))
    new_best, new_where = better_of(nest, kind, dtype, (value, here), (best, where))
    return Assign(where, new_where), Assign(best, new_best)


def better_of(nest: Nest, kind: str, dtype, new: tuple[str, str], old: tuple[str, str]) -> tuple[str, str]:
    """Of two (value, i32 position) the one with the better value; NaN beats all, the old one of equals stays."""
    order = (new[0], old[0]) if kind == "max" else (old[0], new[0])
    stays = nest.let("le", boolean, *((n, dtype) for n in order))
    better = nest.let("logical_not", boolean, (stays, boolean))     # also where one is NaN
    if dtype.kind == "float":
        number = nest.let("eq", boolean, (old[0], dtype), (old[0], dtype))
        better = nest.let("logical_and", boolean, (better, boolean), (number, boolean))
    where = nest.let("where", i32, (better, boolean), (new[1], i32), (old[1], i32))
    best = nest.let("where", dtype, (better, boolean), (new[0], dtype), (old[0], dtype))
    return best, where


def largest_of(nest: Nest, values: Sequence[str], dtype) -> str:
    """The largest of some values; NaN if one is, which is found out for all at once: for each it would take as long as
    several comparisons."""
    best = values[0]
    for value in values[1:]:
        best = nest.let("larger", dtype, (best, dtype), (value, dtype))
    if dtype.kind != "float":
        return best
    is_nan, *others = (nest.let("ne", boolean, (value, dtype), (value, dtype)) for value in values)
    for other in others:
        is_nan = nest.let("logical_or", boolean, (is_nan, boolean), (other, boolean))
    nan = nest.constant(dtype, math.nan)
    return nest.let("where", dtype, (is_nan, boolean), (nan, dtype), (best, dtype))


def is_map(current: Node) -> bool:
    """Whether a stored value is computed element by element, in loops over its own shape."""
    return current.op.name not in _RULES and not is_spread(current)


_COMBINE = {"sum": "add", "prod": "mul", "max": "maximum", "min": "minimum"}
# Of floats, where vectors may take part: products keep their order.
_ANY_ORDER = {"sum": "add_any_order", "max": "maximum_any_order", "min": "minimum_any_order"}


def finish_reduction(close: Closing, nest: Nest, kind: str, value: str, current: Node, view: View,
                     index: Affine) -> Step:
    """Close a sum, product, maximum or minimum: by rows, or by columns where memory runs along the result."""
    dtype = current.dtype
    kept = [loop for loop in nest.loops if not loop.reduces and loop.extent != 1]
    # What does not run along the result is one number for all of it, and no reason to go another way.
    unit_reduce = any(isinstance(s, Load) and s.index.coefficient(loop.variable) == 1
                      and (not kept or s.index.coefficient(kept[-1].variable) != 0)
                      for loop in nest.loops if loop.reduces for s in nest.statements)
    unit_kept = kept and any(isinstance(s, Load) and s.index.coefficient(kept[-1].variable) == 1
                             for s in nest.statements)
    start = identity_of(kind, dtype)
    if unit_kept and not unit_reduce:
        return close.columns(nest, _COMBINE[kind], start, (value,), view, index)
    total = nest.name("total")
    combine = _ANY_ORDER.get(kind, _COMBINE[kind]) if dtype.kind == "float" else _COMBINE[kind]
    step = nest.let(combine, dtype, (total, dtype), (value, dtype))
    return close.rows(nest, (Constant(total, dtype, start),), (Assign(total, step),), None, view, index, total)


_RULES = {
    "reduce": Lowering.reduce, "argmax": Lowering.argument, "argmin": Lowering.argument, "concat": Lowering.concat,
    "scatter_add": Lowering.scatter_add, "window_argmax": Lowering.window_argmax,
    "window_take": Lowering.window_take, "window_put": Lowering.window_put, "scan": Lowering.scan,
    "contract": Lowering.contract,
}
