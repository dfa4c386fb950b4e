"""The register tile of contractions, emitted as LLVM; see ``tile``.  This module is imported only to compile."""

from __future__ import annotations

import functools

from llvmlite import ir

from .host import has_mask_registers
from .kinds import Pointer, Typed, int64, template
from .machine import Object
from .native import ARGS, compile_native
from .simd import F64, I32, I64, allocate, call_intrinsic, counting, lanes, loop_hint
from .tile import CACHE_LINE, MASKED, PADDED, WHOLE, counts_loads
from .vectors import kind_of, lanes_below, load_masked, prefetch, spread, store_masked

UNROLLED = 4            # terms that a tile adds at a time where they lie side by side in A
UNROLLED_VECTORS = 2    # of a dot product's terms
PANEL_WORD, STRETCH_WORD, AHEAD_A, AHEAD_B, DEPTH_WORDS = range(9, 14)


class _Tile:
    """Emits the code of tiles one below the other, given (a, rows_a, b, c, rows_c, depth, columns, accumulate, tiles).

    a, b, c: element pointers; rows_a, rows_c: offsets of each row in A and C; depth: int64[13], three sizes of k
    outermost first, their strides in A, their strides in B, what lies between panels in B, how many k of the next
    tile's A to ask for at a time (0: do not), and how much further in A and in B that is what will be needed when these
    tiles are done; tiles: how many.
    """

    def __init__(self, builder, values, element, rows: int):
        self.builder, self.element, self.rows = builder, element, rows
        self.width = lanes(element)
        self.vector = ir.VectorType(element, self.width)
        self.bytes = 8 if element == F64 else 4
        self.a, self.offsets_a, self.b, self.c, self.offsets_c, depth, self.columns, accumulate, tiles = values
        words = [self.word(depth, i) for i in range(DEPTH_WORDS)]
        self.sizes, *self.strides = words[0:3], words[3:6], words[6:9]
        self.panel_stride, self.stretch = words[PANEL_WORD], words[STRETCH_WORD]
        self.ahead_a, self.ahead_b = words[AHEAD_A], words[AHEAD_B]
        self.accumulate = builder.icmp_signed("!=", accumulate, ir.Constant(I64, 0))
        self.prepare()
        with counting(builder, ir.Constant(I64, 0), builder.mul(tiles, ir.Constant(I64, rows)),
                      ir.Constant(I64, rows)) as (first, _):
            self.rows_a, self.rows_c = ([builder.gep(base, [self.word(builder.gep(offsets, [first]), r)])
                                         for r in range(rows)]
                                        for base, offsets in ((self.a, self.offsets_a), (self.c, self.offsets_c)))
            here = builder.gep(self.offsets_a, [first])
            self.next_tile = builder.sub(self.word(here, rows), self.word(here, 0))
            self.emit(first)

    def word(self, pointer, index):
        return self.builder.load(self.builder.gep(pointer, [ir.Constant(I64, index)]))

    def fma(self, place, x, y):
        """Add x * y to the accumulator at ``place``."""
        total = call_intrinsic(self.builder, "fma", self.vector, [x, y, self.builder.load(place)])
        self.builder.store(total, place)

    def loop(self, level: int, places):
        """The loops over k's index ``level`` and those inside it, from ``places`` in the operands on."""
        if level == 2:
            self.innermost(places)
        else:
            self.each_k(level, self.sizes[level], places, lambda _, places: self.loop(level + 1, places))

    def each_k(self, level: int, size, starts, body, at_once=None, strides=None):
        """A loop over ``size`` values of k's index ``level``, at least one, one (or ``at_once``) at a time; ``body`` is
        told how many are left, and the places in the operands, which begin at ``starts`` and are ``strides`` apart, if
        those are not the level's."""
        builder, at_once = self.builder, at_once or ir.Constant(I64, 1)
        strides = strides or [own[level] for own in self.strides]
        before = builder.block
        inside, after = (builder.append_basic_block(f"{part}{level}") for part in ("body", "after"))
        builder.branch(inside)
        builder.position_at_end(inside)
        left, *places = (builder.phi(first.type) for first in (size, *starts))
        body(left, places)
        next_left = builder.sub(left, at_once)
        next_places = [self.moved(place, builder.mul(at_once, stride)) for place, stride in zip(places, strides)]
        last = builder.block
        again = builder.cbranch(builder.icmp_signed(">", next_left, ir.Constant(I64, 0)), inside, after)
        again.set_metadata("llvm.loop", self.as_written())
        for phi, first, following in zip((left, *places), (size, *starts), (next_left, *next_places)):
            phi.add_incoming(first, before)
            phi.add_incoming(following, last)
        builder.position_at_end(after)

    def unrolled_terms(self, times: int, count, apart: int, places):
        """Take ``count`` steps, a multiple of ``times``, which are as many elements ``apart`` in A: so many at a time,
        with a pointer for each row."""
        at_a, *others = places
        strides = [own[2] for own in self.strides[1:]]

        def steps(_, places):
            rows, others = places[:self.rows], places[self.rows:]
            for k in range(times):
                self.step([self.builder.gep(row, [ir.Constant(I64, k * apart)]) for row in rows], *others)
                others = [self.moved(place, stride) for place, stride in zip(others, strides)]
        rows = [self.builder.gep(row, [at_a]) for row in self.rows_a]
        self.each_k(2, count, [*rows, *others], steps, ir.Constant(I64, times),
                    [ir.Constant(I64, apart)] * self.rows + strides)

    def moved(self, place, distance):
        """A place, a pointer or an offset, so much further."""
        return self.builder.gep(place, [distance]) if place.type.is_pointer else self.builder.add(place, distance)

    def as_written(self):
        """A loop's metadata (a node that begins with itself) that keeps LLVM from unrolling it: the unrolled loop needs
        twice the row pointers, more than there are registers."""
        return loop_hint(self.builder.module, "llvm.loop.unroll.disable")


class _OuterTile(_Tile):
    """A tile that adds outer products: A is broadcast, B and C are read by vectors along the columns.

    ``columns`` is how many columns there are.  A WHOLE tile has that many; a MASKED one lacks some of its last
    vector's, which are not touched in B and C; a PADDED one may lack any, and reads B as if it had them.  One that
    ``asks`` does so for what will be needed after it.
    """

    def __init__(self, builder, values, element, rows: int, vectors: int, last: int, panel: int, asks: int):
        self.vectors, self.last, self.panel, self.asks = vectors, last, panel, asks
        super().__init__(builder, values, element, rows)

    def prepare(self):
        """What all tiles share: places for the sums, and how many columns the masked vectors have."""
        self.sums = [[allocate(self.builder, self.vector) for _ in range(self.vectors)] for _ in range(self.rows)]
        masked = range({WHOLE: self.vectors, MASKED: self.vectors - 1, PADDED: 0}[self.last], self.vectors)
        self.lengths = {v: self.lanes_of(v) for v in masked}
        self.masks = {v: lanes_below(self.builder, self.element, length) for v, length in self.lengths.items()}
        self.masks_b = self.masks if self.last == MASKED else {}
        # Of an empty sum the innermost size is 0; the others never are.
        self.has_terms = self.builder.icmp_signed("!=", self.sizes[2], ir.Constant(I64, 0))

    def lanes_of(self, v):
        """How many columns vector v has."""
        builder, none, most = self.builder, ir.Constant(I64, 0), ir.Constant(I64, self.width)
        left = builder.sub(self.columns, ir.Constant(I64, v * self.width))
        left = builder.select(builder.icmp_signed(">", left, none), left, none)
        return builder.select(builder.icmp_signed("<", left, most), left, most)

    def emit(self, first_row):
        builder = self.builder
        self.places = [[self.place(row, v) for v in range(self.vectors)] for row in self.rows_c]
        if counts_loads(self.rows, self.vectors):
            self.rows_are_near = self.are_near(self.rows_a)
        with builder.if_else(self.accumulate) as (then, otherwise):
            with then:
                self.each(lambda r, v: builder.store(self.load_c(r, v), self.sums[r][v]))
            with otherwise:
                self.ask_for_c()
                self.each(lambda r, v: builder.store(ir.Constant(self.vector, None), self.sums[r][v]))
        with builder.if_then(self.has_terms):
            self.loop(0, (ir.Constant(I64, 0), self.b, *([self.asked(first_row)] if self.asks else [])))
        for v in range(self.vectors):
            self.store_c(v)

    def asked(self, first_row):
        """What this tile asks for, a line at every k, of what is needed after these tiles, and its strides: the
        hardware foresees neither the next columns of B nor an A whose k are far apart.

        Each of the first tiles asks for another of the lines side by side in B; every second one asks for its first row
        in A instead: of float32, two tiles' rows are no more than a line.  What has no need to ask asks for what it
        has.
        """
        builder, none, one = self.builder, ir.Constant(I64, 0), ir.Constant(I64, 1)
        number = builder.udiv(first_row, ir.Constant(I64, self.rows))
        has_a = builder.icmp_signed("!=", self.ahead_a, none)
        is_even = builder.icmp_signed("==", builder.and_(number, one), none)
        line = builder.lshr(number, builder.zext(has_a, I64))
        lines = -(-self.vectors * self.width * self.bytes // CACHE_LINE)
        asks_b = builder.and_(builder.icmp_signed("!=", self.ahead_b, none),
                              builder.icmp_signed("<", line, ir.Constant(I64, lines)))
        of_b = builder.gep(self.b, [builder.select(asks_b, builder.add(self.ahead_b, self.line_of_b(line)), none)])
        of_a = builder.gep(self.rows_a[0], [self.ahead_a])
        asks_a = builder.and_(has_a, is_even)
        self.strides[2:] = [[builder.select(asks_a, a, b) for a, b in zip(*self.strides[:2])]]
        return builder.select(asks_a, of_a, of_b)

    def line_of_b(self, line):
        """How far this cache line of a row of B is from the first."""
        builder = self.builder
        in_panel = max(1, self.panel * self.width * self.bytes // CACHE_LINE)
        number = builder.udiv(line, ir.Constant(I64, in_panel)) if self.panel else ir.Constant(I64, 0)
        inside = builder.sub(line, builder.mul(number, ir.Constant(I64, in_panel)))
        return builder.add(builder.mul(number, self.panel_stride),
                           builder.mul(inside, ir.Constant(I64, CACHE_LINE // self.bytes)))

    def ask_for_c(self):
        """Ask for the lines of C that will be written and have not been read."""
        for row in self.places:
            for place in row[::max(1, CACHE_LINE // (self.width * self.bytes))]:
                prefetch(self.builder, place, write=True)

    def each(self, action):
        for r in range(self.rows):
            for v in range(self.vectors):
                action(r, v)

    def place(self, row, v):
        shifted = self.builder.gep(row, [ir.Constant(I64, v * self.width)])
        return self.builder.bitcast(shifted, self.vector.as_pointer())

    def place_b(self, row, v):
        """The place of vector v in a row of B."""
        if not self.panel:
            return self.place(row, v)
        number, inside = divmod(v, self.panel)
        distance = self.builder.mul(self.panel_stride, ir.Constant(I64, number))
        return self.place(self.builder.gep(row, [distance]), inside)

    def load(self, place, mask):
        if mask is None:
            return self.builder.load(place, align=self.bytes)
        return load_masked(self.builder, place, mask)

    def load_c(self, r, v):
        return self.load(self.places[r][v], self.masks.get(v))

    def store_c(self, v):
        """Store the rows' vectors v: one branch tells for all of them whether they are whole; what is not goes by
        halves, quarters ..., as the number of lanes has bits.

        By a masked store only where masks are registers of their own: AVX's is microcode on some processors, and takes
        longer than a tile's products.
        """
        builder = self.builder
        if v not in self.lengths:
            self.store_rows(v)
            return
        if has_mask_registers():
            for row, sums in zip(self.places, self.sums):
                store_masked(builder, builder.load(sums[v]), row[v], self.masks[v])
            return
        length = self.lengths[v]
        with builder.if_else(builder.icmp_signed("==", length, ir.Constant(I64, self.width))) as (whole, other):
            with whole:
                self.store_rows(v)
            with other:
                part = self.width // 2
                while part:
                    has_part = builder.and_(length, ir.Constant(I64, part))
                    with builder.if_then(builder.icmp_signed("!=", has_part, ir.Constant(I64, 0))):
                        self.store_part(v, part, builder.and_(length, ir.Constant(I64, -2 * part)))
                    part //= 2

    def store_rows(self, v):
        for row, sums in zip(self.places, self.sums):
            self.builder.store(self.builder.load(sums[v]), row[v], align=self.bytes)

    def store_part(self, v, part: int, first):
        """Store the first ``part`` lanes of the rows' vectors v from their column ``first`` on, and shift the others
        down."""
        builder = self.builder
        low, rest = (ir.Constant(ir.VectorType(I32, len(lanes)), [ir.Constant(I32, lane) for lane in lanes])
                     for lanes in (range(part), [(lane + part) % self.width for lane in range(self.width)]))
        target = ir.VectorType(self.element, part).as_pointer()
        for row, sums in zip(self.places, self.sums):
            vector = builder.load(sums[v])
            place = builder.gep(builder.bitcast(row[v], self.element.as_pointer()), [first])
            builder.store(builder.shuffle_vector(vector, vector, low), builder.bitcast(place, target), align=self.bytes)
            if part > 1:
                builder.store(builder.shuffle_vector(vector, vector, rest), sums[v])

    def innermost(self, places):
        """The hardware does not foresee the short rows of A: this tile asks for the next one's, a line at a time."""
        builder = self.builder
        asks = builder.icmp_signed("!=", self.stretch, ir.Constant(I64, 0))
        at_once = builder.select(asks, self.stretch, self.sizes[2])

        def stretch(left, places):
            with builder.if_then(asks):
                ahead = builder.add(places[0], self.next_tile)
                for row in self.rows_a:
                    prefetch(builder, builder.gep(row, [ahead]))
            here = builder.select(builder.icmp_signed("<", left, at_once), left, at_once)
            (self.near_terms if counts_loads(self.rows, self.vectors) else self.terms)(here, places)
        self.each_k(2, self.sizes[2], places, stretch, at_once)

    def terms(self, count, places):
        """Add ``count`` terms, at least one, wherever they are."""
        def step(_, places):
            at_a, *others = places
            self.step([self.builder.gep(row, [at_a]) for row in self.rows_a], *others)
        self.each_k(2, count, places, step)

    def near_terms(self, count, places):
        """Add ``count`` terms: some at a time where they lie side by side in A, by one pointer where the rows do."""
        builder, none = self.builder, ir.Constant(I64, 0)
        whole = builder.select(builder.icmp_signed("==", self.strides[0][2], ir.Constant(I64, 1)),
                               builder.and_(count, ir.Constant(I64, -UNROLLED)), none)
        rest = builder.sub(count, whole)
        with builder.if_then(builder.icmp_signed(">", whole, none)):
            self.unrolled_terms(UNROLLED, whole, 1, places)
        with builder.if_then(builder.icmp_signed(">", rest, none)):
            places = [self.moved(place, builder.mul(whole, own[2])) for place, own in zip(places, self.strides)]
            with builder.if_else(self.rows_are_near) as (then, otherwise):
                with then:
                    self.terms_of_near_rows(rest, *places)
                with otherwise:
                    self.terms(rest, places)

    def terms_of_near_rows(self, count, at_a, *others):
        """Add ``count`` terms of rows that lie side by side in A."""
        def step(_, places):
            first, *others = places
            self.step([self.builder.gep(first, [ir.Constant(I64, r)]) for r in range(self.rows)], *others)
        self.each_k(2, count, [self.builder.gep(self.rows_a[0], [at_a]), *others], step)

    def are_near(self, rows):
        """Whether each of these places is an element after the one before."""
        builder, before = self.builder, self.builder.block
        expected = [builder.gep(rows[0], [ir.Constant(I64, r)]) for r in range(len(rows))]
        with builder.if_then(builder.icmp_unsigned("==", rows[-1], expected[-1])):     # seldom, and soon known
            same = functools.reduce(builder.and_, map(functools.partial(builder.icmp_unsigned, "=="), rows, expected))
            inside = builder.block
        result = builder.phi(same.type)
        result.add_incoming(ir.Constant(same.type, 0), before)
        result.add_incoming(same, inside)
        return result

    def step(self, rows, at_b, asked=None):
        """One k, which is at ``rows`` in A: every accumulator += A broadcast * B."""
        builder = self.builder
        if asked is not None:
            prefetch(builder, asked, level=2)
        vectors = [self.load(self.place_b(at_b, v), self.masks_b.get(v)) for v in range(self.vectors)]
        for row, sums in zip(rows, self.sums):
            broadcast = spread(builder, builder.load(row), self.vector)
            for place, vector in zip(sums, vectors):
                self.fma(place, broadcast, vector)


class _DotTile(_Tile):
    """A tile of one column whose k are contiguous in A and B: vectors along k, added up at the end.

    A row's terms go to the lanes in turn, k % lanes, and the lanes are added in a fixed tree, whatever the tile.
    """

    def prepare(self):
        """What all tiles share: places for the sums, and how k falls into vectors."""
        builder = self.builder
        self.sums = [allocate(builder, self.vector) for _ in range(self.rows)]
        width, depth = ir.Constant(I64, self.width), self.sizes[2]
        rest = builder.srem(depth, width)
        self.depth, self.whole = depth, builder.sub(depth, rest)
        self.mask = lanes_below(builder, self.element, rest)
        self.sizes[2] = builder.sdiv(depth, width)
        self.strides[0][2] = self.strides[1][2] = width

    def emit(self, first_row):
        builder = self.builder
        for place in self.sums:
            builder.store(ir.Constant(self.vector, None), place)
        self.loop(0, (ir.Constant(I64, 0), self.b))
        totals = [self.add_lanes(builder.load(place)) for place in self.sums]
        with builder.if_else(self.accumulate) as (then, otherwise):
            with then:
                # All are read before any is stored: rows too many repeat the last one.
                before = [builder.load(target) for target in self.rows_c]
                self.store([builder.fadd(old, total) for old, total in zip(before, totals)])
            with otherwise:
                self.store(totals)

    def store(self, totals):
        for target, total in zip(self.rows_c, totals):
            self.builder.store(total, target)

    def innermost(self, places):
        builder, (at_a, at_b) = self.builder, places
        whole = builder.and_(self.sizes[2], ir.Constant(I64, -UNROLLED_VECTORS))
        with builder.if_then(builder.icmp_signed(">", whole, ir.Constant(I64, 0))):
            self.unrolled_terms(UNROLLED_VECTORS, whole, self.width, places)
        at = builder.mul(whole, ir.Constant(I64, self.width))
        with builder.if_then(builder.icmp_signed("<", at, self.whole)):
            self.step_at(builder.add(at_a, at), builder.gep(at_b, [at]))
        with builder.if_then(builder.icmp_signed("<", self.whole, self.depth)):        # less than a vector is left
            self.step_at(builder.add(at_a, self.whole), builder.gep(at_b, [self.whole]), self.mask)

    def step_at(self, at_a, at_b, mask=None):
        self.step([self.builder.gep(row, [at_a]) for row in self.rows_a], at_b, mask)

    def step(self, rows, at_b, mask=None):
        """A vector of k, which is at ``rows`` in A."""
        def load(pointer):
            place = self.builder.bitcast(pointer, self.vector.as_pointer())
            if mask is not None:
                return load_masked(self.builder, place, mask)
            return self.builder.load(place, align=self.bytes)
        b = load(at_b)
        for row, place in zip(rows, self.sums):
            self.fma(place, load(row), b)

    def add_lanes(self, total):
        """The sum of a vector's lanes: the upper half onto the lower, until one is left."""
        lanes_left = self.width
        while lanes_left > 1:
            lanes_left //= 2
            number = ir.VectorType(I32, lanes_left)
            halves = [ir.Constant(number, [ir.Constant(I32, first + i) for i in range(lanes_left)])
                      for first in (0, lanes_left)]
            low, high = (self.builder.shuffle_vector(total, total, half) for half in halves)
            total = self.builder.fadd(low, high)
        return self.builder.extract_element(total, ir.Constant(I32, 0))


def _tile(rows: int, vectors: int, last: int, panel: int, asks: int):
    """The tiles as an intrinsic; ``vectors`` is 0 for a tile of one column."""
    def tile(a: Typed, *rest: Typed):
        def emit(builder, *values):
            if vectors:
                _OuterTile(builder, values, a.kind.dtype.llvm, rows, vectors, last, panel, asks)
            else:
                _DotTile(builder, values, a.kind.dtype.llvm, rows)
        return emit, None, a.kind, ARGS, a.kind, a.kind, ARGS, ARGS, int64, int64, int64
    return template(tile)


def build_tile(dtype: str, rows: int, vectors: int, last: int, panel: int, asks: int) -> Object:
    """The tiles as a C function."""
    body = _tile(rows, vectors, last, panel, asks)

    def tile(a, rows_a, b, c, rows_c, depth, columns, accumulate, tiles):
        body(a, rows_a, b, c, rows_c, depth, columns, accumulate, tiles)
    values = Pointer(kind_of(dtype == "f64"))
    kinds = values, ARGS, values, values, ARGS, ARGS, int64, int64, int64
    symbol = f"tile_{dtype}_{rows}_{vectors}_{last}_{panel}_{asks}"
    return compile_native(tile, kinds, symbol, level=1 if vectors else 2)
