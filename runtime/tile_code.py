"""The code of the contraction kernel: the register tile, emitted as LLVM, and the loops around it.

``tile`` says what they compute and chooses among them.  This module is imported only to compile.
"""

from __future__ import annotations

from llvmlite import ir

from .kinds import Kind, Pointer, Typed, float32, float64, int64, template
from .machine import Object
from .native import (
    ARGS,
    BASES,
    KERNEL,
    address,
    buffer_f32,
    buffer_f64,
    compile_native,
    frame_of,
    least,
    most,
    stack_words,
)
from .simd import F64, I1, I8, I32, I64, allocate, call_intrinsic, counting, declared, lanes, loop_hint, suffix
from .tile import (
    ACCUMULATE,
    BATCH,
    BLOCK_COLUMNS,
    BLOCK_ROWS,
    BY_ROWS,
    CHUNKS,
    COLUMN_STRIDE_B,
    COLUMNS,
    HALF,
    HEIGHTS,
    LANES,
    LAST_WIDE,
    LEVELS,
    MASKED,
    MAX_DEPTH,
    MAX_ROWS,
    MAX_TILE_ROWS,
    NEAR,
    PACK_COLUMNS,
    PACK_SUMS,
    PACKED_A,
    PACKED_BYTES,
    PACKED_DEPTH,
    PACKED_SPILL,
    PACKS,
    PACKS_A,
    PADDED,
    PANEL_COLUMNS,
    PANEL_STRIDE,
    PREFETCH_ROWS,
    PREFETCHED,
    ROWS,
    STRETCH,
    SUMS,
    TALL,
    TILES,
    TOTAL_CHUNK,
    WHOLE,
    WIDE,
)

# --- the register tile --------------------------------------------------------------------------------------------


def lanes_below(builder, element, count):
    """A mask: lane i is true where i < count."""
    width = lanes(element)
    many = ir.VectorType(I64, width)
    numbers = ir.Constant(many, [ir.Constant(I64, i) for i in range(width)])
    spread = ir.Constant(many, ir.Undefined)
    for i in range(width):
        spread = builder.insert_element(spread, count, ir.Constant(I32, i))
    return builder.icmp_signed("<", numbers, spread)


def spread(builder, scalar, vector: ir.VectorType):
    """A vector of equal values."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, vector.count), None))


def masked_function(builder, vector, kind: str):
    """LLVM's masked "load" or "store" of a vector."""
    pointer, mask = vector.as_pointer(), ir.VectorType(I1, vector.count)
    result, arguments = ((vector, [pointer, I32, mask, vector]) if kind == "load" else
                         (ir.VoidType(), [vector, pointer, I32, mask]))
    return declared(builder.module, f"llvm.masked.{kind}.{suffix(vector)}.p0", result, arguments)


def load_masked(builder, place, mask):
    """The vector at a place, zeros where the mask is false."""
    vector = place.type.pointee
    align = ir.Constant(I32, 8 if vector.element == F64 else 4)
    return builder.call(masked_function(builder, vector, "load"), [place, align, mask, ir.Constant(vector, None)])


def store_lanes(builder, vector, place, count: int):
    """Store the first ``count`` lanes of a vector: by halves, quarters ...

    Not by a masked store, which is microcode on some processors: there it takes longer than a tile's products.
    """
    element, width, align = vector.type.element, vector.type.count, 8 if vector.type.element == F64 else 4
    if count == width:
        builder.store(vector, place, align=align)
        return
    to, first = builder.bitcast(place, element.as_pointer()), 0
    while first < count:
        part = 1 << ((count - first).bit_length() - 1)
        lanes_here = ir.Constant(ir.VectorType(I32, part), [ir.Constant(I32, first + i) for i in range(part)])
        target = builder.gep(to, [ir.Constant(I64, first)])
        builder.store(builder.shuffle_vector(vector, vector, lanes_here),
                      builder.bitcast(target, ir.VectorType(element, part).as_pointer()), align=align)
        first += part


# Words of what a tile is told of k: three sizes, three strides in A, three in B, and what lies between panels of B.
PANEL_WORD, STRETCH_WORD, DEPTH_WORDS = 9, 10, 11


class _Tile:
    """Emits the code of tiles one below the other, given (a, rows_a, b, c, rows_c, depth, columns, accumulate, tiles).

    a, b, c: element pointers; rows_a, rows_c: offsets of each row in A and C; depth: int64[11], three sizes of k
    outermost first, their strides in A, their strides in B, what lies between panels in B, and how many
    k of the next tile's A to ask for at a time (0: do not); tiles: how many.
    """

    def __init__(self, builder, values, element, rows: int):
        self.builder, self.element, self.rows = builder, element, rows
        self.width = lanes(element)
        self.vector = ir.VectorType(element, self.width)
        self.bytes = 8 if element == F64 else 4
        self.a, self.offsets_a, self.b, self.c, self.offsets_c, depth, self.columns, accumulate, tiles = values
        words = [self.word(depth, i) for i in range(DEPTH_WORDS)]
        self.sizes, self.strides_a, self.strides_b = words[0:3], words[3:6], words[6:9]
        self.panel_stride, self.stretch = words[PANEL_WORD], words[STRETCH_WORD]
        self.accumulate = builder.icmp_signed("!=", accumulate, ir.Constant(I64, 0))
        self.prepare()
        # Of an empty sum the innermost size is 0, and of a dot product of less than a vector; the others never are.
        self.has_terms = builder.icmp_signed("!=", self.sizes[2], ir.Constant(I64, 0))
        with counting(builder, ir.Constant(I64, 0), builder.mul(tiles, ir.Constant(I64, rows)),
                      ir.Constant(I64, rows)) as (first, _):
            self.rows_a, self.rows_c = ([builder.gep(base, [self.word(builder.gep(offsets, [first]), r)])
                                         for r in range(rows)]
                                        for base, offsets in ((self.a, self.offsets_a), (self.c, self.offsets_c)))
            here = builder.gep(self.offsets_a, [first])
            self.next_tile = builder.sub(self.word(here, rows), self.word(here, 0))
            self.emit()

    def word(self, pointer, index):
        return self.builder.load(self.builder.gep(pointer, [ir.Constant(I64, index)]))

    def fma(self, place, x, y):
        """Add x * y to the accumulator at ``place``."""
        total = call_intrinsic(self.builder, "fma", self.vector, [x, y, self.builder.load(place)])
        self.builder.store(total, place)

    def loop(self, level: int, at_a, at_b):
        """The loops over k's index ``level`` and those inside it; at_a is an offset, at_b a pointer."""
        if level == 2:
            self.innermost(at_a, at_b)
        else:
            self.each_k(level, self.sizes[level], at_a, at_b, lambda _, at_a, at_b: self.loop(level + 1, at_a, at_b))

    def innermost(self, at_a, at_b):
        self.each_k(2, self.sizes[2], at_a, at_b, lambda _, at_a, at_b: self.step(at_a, at_b))

    def each_k(self, level: int, size, start_a, start_b, body, at_once=None):
        """A loop over ``size`` values of k's index ``level``, at least one, one (or ``at_once``) at a time; ``body`` is
        told how many are left."""
        builder, at_once = self.builder, at_once or ir.Constant(I64, 1)
        before = builder.block
        inside, after = (builder.append_basic_block(f"{part}{level}") for part in ("body", "after"))
        builder.branch(inside)
        builder.position_at_end(inside)
        left, at_a, at_b = builder.phi(I64), builder.phi(I64), builder.phi(start_b.type)
        body(left, at_a, at_b)
        next_left = builder.sub(left, at_once)
        next_a = builder.add(at_a, builder.mul(at_once, self.strides_a[level]))
        next_b = builder.gep(at_b, [builder.mul(at_once, self.strides_b[level])])
        last = builder.block
        again = builder.cbranch(builder.icmp_signed(">", next_left, ir.Constant(I64, 0)), inside, after)
        again.set_metadata("llvm.loop", self.as_written())
        for phi, first, following in ((left, size, next_left), (at_a, start_a, next_a), (at_b, start_b, next_b)):
            phi.add_incoming(first, before)
            phi.add_incoming(following, last)
        builder.position_at_end(after)

    def as_written(self):
        """A loop's metadata (a node that begins with itself) that keeps LLVM from unrolling it: the unrolled loop needs
        twice the row pointers, more than there are registers."""
        return loop_hint(self.builder.module, "llvm.loop.unroll.disable")


def prefetch(builder, pointer):
    """Ask for the cache line of a place, which need not exist."""
    place = builder.bitcast(pointer, I8.as_pointer())
    function = declared(builder.module, "llvm.prefetch.p0", ir.VoidType(), [place.type, I32, I32, I32])
    builder.call(function, [place, *(ir.Constant(I32, number) for number in (0, 3, 1))])


class _OuterTile(_Tile):
    """A tile that adds outer products: A is broadcast, B and C are read by vectors along the columns.

    ``columns`` is how many columns there are.  A WHOLE tile has that many; a MASKED one lacks some of its last
    vector's, which are not touched in B and C; a PADDED one may lack any, and reads B as if it had them.
    """

    def __init__(self, builder, values, element, rows: int, vectors: int, last: int, panel: int):
        self.vectors, self.last, self.panel = vectors, last, panel
        super().__init__(builder, values, element, rows)

    def prepare(self):
        """What all tiles share: places for the sums, and how many columns the masked vectors have."""
        self.sums = [[allocate(self.builder, self.vector) for _ in range(self.vectors)] for _ in range(self.rows)]
        masked = range({WHOLE: self.vectors, MASKED: self.vectors - 1, PADDED: 0}[self.last], self.vectors)
        self.lengths = {v: self.lanes_of(v) for v in masked}
        self.masks = {v: lanes_below(self.builder, self.element, length) for v, length in self.lengths.items()}
        self.masks_b = self.masks if self.last == MASKED else {}

    def lanes_of(self, v):
        """How many columns vector v has."""
        builder, none, most = self.builder, ir.Constant(I64, 0), ir.Constant(I64, self.width)
        left = builder.sub(self.columns, ir.Constant(I64, v * self.width))
        left = builder.select(builder.icmp_signed(">", left, none), left, none)
        return builder.select(builder.icmp_signed("<", left, most), left, most)

    def emit(self):
        builder = self.builder
        self.places = [[self.place(row, v) for v in range(self.vectors)] for row in self.rows_c]
        self.each(lambda r, v: builder.store(ir.Constant(self.vector, None), self.sums[r][v]))
        with builder.if_then(self.accumulate):
            self.each(lambda r, v: builder.store(self.load_c(r, v), self.sums[r][v]))
        with builder.if_then(self.has_terms):
            self.loop(0, ir.Constant(I64, 0), self.b)
        for v in range(self.vectors):
            self.store_c(v)

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
        """Store the rows' vectors v: one branch tells for all of them how many lanes they have."""
        builder = self.builder
        if v not in self.lengths:
            self.store_rows(v, self.width)
            return
        after = builder.append_basic_block("stored")
        whole = builder.append_basic_block("whole")
        branch = builder.switch(self.lengths[v], whole)
        branch.add_case(ir.Constant(I64, 0), after)
        for count in range(1, self.width + 1):
            block = whole if count == self.width else builder.append_basic_block(f"lanes{count}")
            if count < self.width:
                branch.add_case(ir.Constant(I64, count), block)
            builder.position_at_end(block)
            self.store_rows(v, count)
            builder.branch(after)
        builder.position_at_end(after)

    def store_rows(self, v, count: int):
        for row, sums in zip(self.places, self.sums):
            store_lanes(self.builder, self.builder.load(sums[v]), row[v], count)

    def innermost(self, at_a, at_b):
        """The hardware does not foresee the short rows of A: this tile asks for the next one's, a line at a time."""
        builder = self.builder
        asks = builder.icmp_signed("!=", self.stretch, ir.Constant(I64, 0))
        at_once = builder.select(asks, self.stretch, self.sizes[2])

        def stretch(left, at_a, at_b):
            with builder.if_then(asks):
                ahead = builder.add(at_a, self.next_tile)
                for row in self.rows_a:
                    prefetch(builder, builder.gep(row, [ahead]))
            here = builder.select(builder.icmp_signed("<", left, at_once), left, at_once)
            self.each_k(2, here, at_a, at_b, lambda _, at_a, at_b: self.step(at_a, at_b))
        self.each_k(2, self.sizes[2], at_a, at_b, stretch, at_once)

    def step(self, at_a, at_b):
        """One k: every accumulator += A broadcast * B."""
        builder = self.builder
        vectors = [self.load(self.place_b(at_b, v), self.masks_b.get(v)) for v in range(self.vectors)]
        for r in range(self.rows):
            broadcast = spread(builder, builder.load(builder.gep(self.rows_a[r], [at_a])), self.vector)
            for v in range(self.vectors):
                self.fma(self.sums[r][v], broadcast, vectors[v])


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
        self.whole = builder.sub(depth, rest)
        self.mask = lanes_below(builder, self.element, rest)
        self.sizes[2] = builder.sdiv(depth, width)
        self.strides_a[2] = self.strides_b[2] = width

    def emit(self):
        builder = self.builder
        for place in self.sums:
            builder.store(ir.Constant(self.vector, None), place)
        self.loop(0, ir.Constant(I64, 0), self.b)
        for target, place in zip(self.rows_c, self.sums):
            total = self.add_lanes(builder.load(place))
            with builder.if_else(self.accumulate) as (then, otherwise):
                with then:
                    builder.store(builder.fadd(builder.load(target), total), target)
                with otherwise:
                    builder.store(total, target)

    def innermost(self, at_a, at_b):
        with self.builder.if_then(self.has_terms):
            super().innermost(at_a, at_b)
        # and what is left, less than a vector
        self.step(self.builder.add(at_a, self.whole), self.builder.gep(at_b, [self.whole]), self.mask)

    def step(self, at_a, at_b, mask=None):
        def load(pointer):
            place = self.builder.bitcast(pointer, self.vector.as_pointer())
            if mask is not None:
                return load_masked(self.builder, place, mask)
            return self.builder.load(place, align=self.bytes)
        b = load(at_b)
        for row, place in zip(self.rows_a, self.sums):
            self.fma(place, load(self.builder.gep(row, [at_a])), b)

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


# --- intrinsics ---------------------------------------------------------------------------------------------------


def _kind(is_double) -> Kind:
    return float64 if is_double else float32


def _tile(rows: int, vectors: int, last: int, panel: int):
    """The tiles as an intrinsic; ``vectors`` is 0 for a tile of one column."""
    def tile(a: Typed, *rest: Typed):
        def emit(builder, *values):
            if vectors:
                _OuterTile(builder, values, a.kind.dtype.llvm, rows, vectors, last, panel)
            else:
                _DotTile(builder, values, a.kind.dtype.llvm, rows)
        return emit, None, a.kind, ARGS, a.kind, a.kind, ARGS, ARGS, int64, int64, int64
    return template(tile)


def build_tile(dtype: str, rows: int, vectors: int, last: int, panel: int) -> Object:
    """The tiles as a C function."""
    body = _tile(rows, vectors, last, panel)

    def tile(a, rows_a, b, c, rows_c, depth, columns, accumulate, tiles):
        body(a, rows_a, b, c, rows_c, depth, columns, accumulate, tiles)
    values = Pointer(_kind(dtype == "f64"))
    kinds = values, ARGS, values, values, ARGS, ARGS, int64, int64, int64
    return compile_native(tile, kinds, f"tile_{dtype}_{rows}_{vectors}_{last}_{panel}", level=2)


@template
def _call_tiles(args: Typed, word: Typed, a: Typed, *rest: Typed):
    """Call the tiles whose address is args[word]."""
    def emit(builder, args, word, *values):
        function = ir.FunctionType(ir.VoidType(), [value.type for value in values])
        place = builder.bitcast(builder.gep(args, [word]), function.as_pointer().as_pointer())
        builder.call(builder.load(place), values)
    return emit, None, ARGS, int64, a.kind, ARGS, a.kind, a.kind, ARGS, ARGS, int64, int64, int64


@template
def stack_floats(count: Typed, is_double: Typed):
    """``stack_floats(n, is_double)``: n floats in the function's frame, aligned, not set; both are constants."""
    return *frame_of(_kind(is_double.constant), count.constant), count.kind, is_double.kind


@template
def pointer(bases: Typed, args: Typed, k: Typed, is_double: Typed):
    """``pointer(bases, args, k, is_double)``: as buffer_f32 or buffer_f64, but a pointer that may alias others."""
    result = Pointer(_kind(is_double.constant))

    def emit(builder, bases, args, k, is_double):
        return address(builder, bases, args, k, result.llvm)
    return emit, result, BASES, ARGS, int64, is_double.kind


@template
def offset(pointer: Typed, count: Typed):
    """``offset(p, n)``: the pointer n elements further."""
    def emit(builder, pointer, count):
        return builder.gep(pointer, [count], inbounds=True)
    return emit, pointer.kind, pointer.kind, int64


class _Vectors:
    """Loads and stores of whole vectors of an element type."""

    def __init__(self, builder, element):
        self.builder, self.element = builder, element
        self.width, self.align = lanes(element), 8 if element == F64 else 4
        self.type = ir.VectorType(element, self.width)

    def place(self, pointer, at):
        return self.builder.bitcast(self.builder.gep(pointer, [at]), self.type.as_pointer())

    def load(self, pointer, at):
        return self.builder.load(self.place(pointer, at), align=self.align)

    def store(self, value, pointer, at):
        self.builder.store(value, self.place(pointer, at), align=self.align)

    def split(self, count):
        """How many of ``count`` values lie in whole vectors, and how many are left."""
        rest = self.builder.srem(count, ir.Constant(I64, self.width))
        return self.builder.sub(count, rest), rest

    def copy_whole(self, target, source, count):
        """Copy ``count`` values, a multiple of the width."""
        with counting(self.builder, ir.Constant(I64, 0), count, ir.Constant(I64, self.width)) as (at, _):
            self.store(self.load(source, at), target, at)


@template
def _copy_rows(target: Typed, source: Typed, count: Typed):
    """Copy at most MAX_TILE_ROWS values; as many after them as fill a vector may be overwritten."""
    def emit(builder, target, source, count):
        vectors = _Vectors(builder, target.type.pointee)
        for first in range(0, MAX_TILE_ROWS, vectors.width):
            at = ir.Constant(I64, first)
            left = builder.sub(count, at)
            with builder.if_then(builder.icmp_signed(">", left, ir.Constant(I64, 0))):
                mask = lanes_below(builder, vectors.element, left)
                vectors.store(load_masked(builder, vectors.place(source, at), mask), target, at)
    return emit, None, target.kind, target.kind, int64


@template
def _copy_padded(target: Typed, source: Typed, count: Typed):
    """Copy ``count`` values and, up to a whole vector, zeros after them."""
    def emit(builder, target, source, count):
        vectors = _Vectors(builder, target.type.pointee)
        whole, rest = vectors.split(count)
        vectors.copy_whole(target, source, whole)
        with builder.if_then(builder.icmp_signed(">", rest, ir.Constant(I64, 0))):
            values = load_masked(builder, vectors.place(source, whole), lanes_below(builder, vectors.element, rest))
            vectors.store(values, target, whole)
    return emit, None, target.kind, target.kind, int64


@template
def _add_scaled(target: Typed, source: Typed, factor: Typed, count: Typed, keep: Typed):
    """target[j] = (target[j] if ``keep`` != 0 else 0) + factor[0] * source[j] for ``count`` values."""
    def emit(builder, target, source, factor, count, keep):
        vectors = _Vectors(builder, target.type.pointee)
        factor, none = builder.load(factor), ir.Constant(I64, 0)
        keeps = builder.icmp_signed("!=", keep, none)
        whole, _ = vectors.split(count)
        factors = spread(builder, factor, vectors.type)
        with counting(builder, none, whole, ir.Constant(I64, vectors.width)) as (at, _):
            old = builder.select(keeps, vectors.load(target, at), ir.Constant(vectors.type, None))
            new = call_intrinsic(builder, "fma", vectors.type, [factors, vectors.load(source, at), old])
            vectors.store(new, target, at)
        with counting(builder, whole, count, ir.Constant(I64, 1)) as (at, _):
            place, other = builder.gep(target, [at]), builder.load(builder.gep(source, [at]))
            old = builder.select(keeps, builder.load(place), ir.Constant(vectors.element, 0.0))
            builder.store(call_intrinsic(builder, "fma", vectors.element, [factor, other, old]), place)
    return emit, None, target.kind, target.kind, target.kind, int64, int64


@template
def _prefetch(pointer: Typed, count: Typed):
    """Ask for the cache line of the value ``count`` further; it need not exist."""
    def emit(builder, pointer, count):
        prefetch(builder, builder.gep(pointer, [count]))
    return emit, None, pointer.kind, int64


# --- the loops around the tile ------------------------------------------------------------------------------------


def _product(words, first):
    total = 1
    for level in range(LEVELS):
        total *= words[first + level]
    return total


def _batch_offsets(args, batch, offsets):
    """Offsets of batch element ``batch`` in A, B and C."""
    rest = batch
    offsets[0] = offsets[1] = offsets[2] = 0
    for i in range(LEVELS):
        level = BATCH + LEVELS - 1 - i
        size = args[level]
        if size > 1:        # a division costs more than all the rest
            place = rest % size
            rest //= size
            for operand in range(3):
                offsets[operand] += place * args[level + (1 + operand) * LEVELS]


def _row_offsets(args, first, count, rows_a, rows_c, position):
    """Offsets of rows first .. first + count - 1 in A and C."""
    rest, at_a, at_c = first, 0, 0
    for i in range(LEVELS):
        level = LEVELS - 1 - i
        size = args[ROWS + level]
        position[level] = 0
        if size > 1:
            position[level] = rest % size
            rest //= size
        at_a += position[level] * args[ROWS + LEVELS + level]
        at_c += position[level] * args[ROWS + 2 * LEVELS + level]
    inner = LEVELS - 1
    size, step_a, step_c = args[ROWS + inner], args[ROWS + LEVELS + inner], args[ROWS + 2 * LEVELS + inner]
    row = 0
    while row < count:
        here = least(size - position[inner], count - row)
        for i in range(here):
            rows_a[row + i], rows_c[row + i] = at_a + i * step_a, at_c + i * step_c
        row += here
        # The row after the last of the innermost index: back to its first, and the next one outside goes on.
        at_a -= position[inner] * step_a
        at_c -= position[inner] * step_c
        position[inner] = 0
        level = inner - 1
        while level >= 0:
            position[level] += 1
            at_a += args[ROWS + LEVELS + level]
            at_c += args[ROWS + 2 * LEVELS + level]
            if position[level] < args[ROWS + level]:
                break
            at_a -= position[level] * args[ROWS + LEVELS + level]
            at_c -= position[level] * args[ROWS + 2 * LEVELS + level]
            position[level] = 0
            level -= 1


@template
def _transpose(target: Typed, target_step: Typed, source: Typed, source_step: Typed):
    """target[i * target_step + j] = source[j * source_step + i] for i and j below a vector's width."""
    def emit(builder, target, target_step, source, source_step):
        vectors = _Vectors(builder, target.type.pointee)
        width = vectors.width
        rows = [vectors.load(source, builder.mul(source_step, ir.Constant(I64, j))) for j in range(width)]
        distance = 1
        while distance < width:     # exchange what lies off the diagonal of ever larger blocks
            for i in range(width):
                if not i & distance:
                    rows[i], rows[i + distance] = _exchange(builder, rows[i], rows[i + distance], distance, width)
            distance *= 2
        for i, row in enumerate(rows):
            vectors.store(row, target, builder.mul(target_step, ir.Constant(I64, i)))
    return emit, None, target.kind, int64, target.kind, int64


def _exchange(builder, upper, lower, distance: int, width: int):
    """Swap the right parts of one row's blocks of 2 * distance with the left parts of the other's."""
    number = ir.VectorType(I32, width)
    first = [width + c - distance if c & distance else c for c in range(width)]
    second = [width + c if c & distance else c + distance for c in range(width)]
    return tuple(builder.shuffle_vector(upper, lower, ir.Constant(number, [ir.Constant(I32, c) for c in mask]))
                 for mask in (first, second))


def _pack_rows(panels, b, depth, columns, wide, last_wide, panel_size):
    """Copy ``columns`` contiguous columns of a chunk of B to panels, each of ``wide`` columns (the last of
    ``last_wide``) whose rows lie together, ``panel_size`` apart.

    Row by row, not panel by panel: B's rows may be far apart, and neighbouring cache lines come at once.
    """
    size2, size1, size0 = depth[0], depth[1], depth[2]
    whole = columns // wide
    row = 0
    for k2 in range(size2):
        for k1 in range(size1):
            source = offset(b, k2 * depth[6] + k1 * depth[7])
            for k0 in range(size0):
                from_row = offset(source, k0 * depth[8])
                for p in range(whole + 1):
                    width = wide if p < whole else last_wide
                    here = least(wide, columns - p * wide)
                    # The hardware does not foresee rows that are far apart.
                    _prefetch(from_row, p * wide + PREFETCH_ROWS * depth[8])
                    _copy_padded(offset(panels, p * panel_size + row * width), offset(from_row, p * wide), here)
                row += 1


def _pack_columns(panels, b, depth, column_stride, columns, wide, last_wide, panel_size, lane_count):
    """As ``_pack_rows`` where B's columns are ``column_stride`` apart: by square blocks if k is contiguous."""
    size2, size1, size0 = depth[0], depth[1], depth[2]
    blocks = size0 // lane_count if depth[8] == 1 else 0
    for k2 in range(size2):
        for k1 in range(size1):
            source = offset(b, k2 * depth[6] + k1 * depth[7])
            row = (k2 * size1 + k1) * size0
            column = 0
            while column < columns:
                panel, at = column // wide, column % wide
                width = wide if (panel + 1) * wide <= columns else last_wide
                to = offset(panels, panel * panel_size + row * width + at)
                origin = offset(source, column * column_stride)
                whole = blocks if columns - column >= lane_count else 0
                here = lane_count if whole != 0 else 1
                for block in range(whole):
                    _transpose(offset(to, block * lane_count * width), width,
                               offset(origin, block * lane_count), column_stride)
                for k0 in range(whole * lane_count, size0):
                    for j in range(here):
                        to[k0 * width + j] = origin[k0 * depth[8] + j * column_stride]
                column += here
            if columns % wide != 0:
                to = offset(panels, columns // wide * panel_size + row * last_wide)
                for k0 in range(size0):
                    for j in range(columns % wide, last_wide):
                        to[k0 * last_wide + j] = 0


def _rows_of(args, height):
    """Rows of a tile of the height of this number; the last one has one row."""
    return args[TALL + height] if height < HEIGHTS - 1 else 1


def _lay_out_a(args, counts, starts, packed_rows):
    """Where a copy of A has the rows of each tile: write the first row of every tile, after them how many there are in
    all, and the rows' offsets; the number of tiles is returned."""
    distance = args[TALL] * PACKED_DEPTH + PACKED_SPILL
    tile, row = 0, 0
    for height in range(HEIGHTS):
        rows = _rows_of(args, height)
        for _ in range(counts[height]):
            starts[tile] = row
            for r in range(rows):
                packed_rows[row + r] = tile * distance + r
            tile += 1
            row += rows
    starts[tile] = row
    return tile


def _pack_a(packed, a, rows_a, starts, tiles, tall, depth):
    """Copy a block of rows of a chunk of A: tile by tile, in which each k is ``tall`` further."""
    distance, last = tall * PACKED_DEPTH + PACKED_SPILL, tiles - 1
    rows = starts[tiles]
    is_whole = rows_a[rows - 1] - rows_a[0] == rows - 1
    for k2 in range(depth[0]):
        for k1 in range(depth[1]):
            source = offset(a, k2 * depth[3] + k1 * depth[4])
            for k0 in range(depth[2]):
                origin = offset(source, k0 * depth[5])
                if is_whole:
                    first = offset(origin, rows_a[0])
                    for value in range(0, rows, PREFETCHED):
                        _prefetch(first, value + PREFETCH_ROWS * depth[5])
                    # With a tile that is not tall a row of the next one is copied; the last one has no next.
                    for tile in range(last):
                        _copy_rows(offset(packed, tile * distance), offset(first, starts[tile]), tall)
                else:
                    for tile in range(last):
                        _pack_tile(offset(packed, tile * distance), origin, rows_a, starts[tile], starts[tile + 1])
                for row in range(starts[last], rows):
                    packed[last * distance + row - starts[last]] = origin[rows_a[row]]
                packed = offset(packed, tall)


def _pack_tile(to, origin, rows_a, first, end):
    """Copy the rows of a tile at one k."""
    if rows_a[end - 1] - rows_a[first] == end - 1 - first:
        _copy_rows(to, offset(origin, rows_a[first]), end - first)
    else:
        for row in range(first, end):
            to[row - first] = origin[rows_a[row]]


def _cover(args, count, counts):
    """How many tiles of each height cover ``count`` rows: tall ones and ones of a row less if they do so exactly; else
    tall ones, and the last rows get the smallest tile that covers them, in which rows too many repeat the last one."""
    tall, near = args[TALL], args[NEAR]
    counts[0], counts[1], counts[2], counts[3] = count // tall, 0, 0, 0
    rest = count - counts[0] * tall
    if rest != 0:
        tiles = counts[0] + 1
        if count >= tiles * near:
            counts[1] = tiles * tall - count
            counts[0] = tiles - counts[1]
        else:
            counts[0 if rest > args[HALF] else (2 if rest > 1 else 3)] += 1


def _block(args, a, rows_a, starts, tiles, b, c, rows_c, depth, tile_depth, panels, packed_a, packed_rows, counts,
           first_column, last_column, accumulate):
    """A block of rows and columns over one chunk of k."""
    wide, last_wide, packs = args[WIDE], args[LAST_WIDE], args[PACKS]
    size1, size0 = depth[1], depth[2]
    for i in range(DEPTH_WORDS):
        tile_depth[i] = depth[i]
    if args[PACKS_A] != 0:
        tall = args[TALL]
        _pack_a(packed_a, a, rows_a, starts, tiles, tall, depth)
        a, rows_a = packed_a, packed_rows
        tile_depth[3], tile_depth[4], tile_depth[5] = size1 * size0 * tall, size0 * tall, tall
    group = packs if packs != 0 else last_column - first_column
    for group_column in range(first_column, last_column, group):
        group_end = least(group_column + group, last_column)
        if packs != 0:
            stride = args[COLUMN_STRIDE_B]
            source, size = offset(b, group_column * stride), depth[0] * size1 * size0 * wide
            if stride == 1:
                _pack_rows(panels, source, depth, group_end - group_column, wide, last_wide, size)
            else:
                _pack_columns(panels, source, depth, stride, group_end - group_column, wide, last_wide, size,
                              args[LANES])
        for column in range(group_column, group_end, wide):
            here = least(wide, group_end - column)
            tile_b = offset(b, column)
            if args[PANEL_COLUMNS] != 0:
                tile_b = offset(b, column // args[PANEL_COLUMNS] * args[PANEL_STRIDE])
            if packs != 0:
                tile_b = offset(panels, (column - group_column) * depth[0] * size1 * size0)
                width = wide if here == wide else last_wide
                tile_depth[6], tile_depth[7], tile_depth[8] = size1 * size0 * width, size0 * width, width
            tile = TILES if here == wide else TILES + HEIGHTS
            row = 0
            for height in range(HEIGHTS):
                high = counts[height]
                if high != 0:
                    _call_tiles(args, tile + height, a, offset(rows_a, row), tile_b, offset(c, column),
                                offset(rows_c, row), tile_depth, here, accumulate, high)
                    row += high * _rows_of(args, height)


def _add_rows(args, a, rows_a, b, c, rows_c, count):
    """A block of rows of a sum of one term, each row of C by itself: a tile's beginning and end would take longer."""
    for row in range(count):
        _add_scaled(offset(c, rows_c[row]), b, offset(a, rows_a[row]), args[COLUMNS], args[ACCUMULATE])


def _define_contract(is_double):
    panel_size = MAX_DEPTH * PACKED_BYTES // (8 if is_double else 4)

    def contract(bases, args, begin, end):
        a, b = pointer(bases, args, 0, is_double), pointer(bases, args, 2, is_double)
        c = pointer(bases, args, 4, is_double)
        rows_a, rows_c, position = stack_words(MAX_ROWS + 1), stack_words(MAX_ROWS), stack_words(LEVELS)
        packed_rows, starts = stack_words(MAX_ROWS + 1), stack_words(MAX_ROWS + 1)
        depth, tile_depth, counts = stack_words(DEPTH_WORDS), stack_words(DEPTH_WORDS), stack_words(HEIGHTS)
        depth[PANEL_WORD], depth[STRETCH_WORD] = args[PANEL_STRIDE], args[STRETCH]
        panel, packed_a = stack_floats(panel_size, is_double), stack_floats(PACKED_A, is_double)
        rows, columns = _product(args, ROWS), args[COLUMNS]
        column_blocks = (columns + args[BLOCK_COLUMNS] - 1) // args[BLOCK_COLUMNS]
        row_blocks = (rows + args[BLOCK_ROWS] - 1) // args[BLOCK_ROWS]
        chunk3, chunk2, chunk1, chunk0 = args[CHUNKS], args[CHUNKS + 1], args[CHUNKS + 2], args[CHUNKS + 3]
        # Where rows go one by one nothing is left to the chunks.
        size3 = args[SUMS] if args[BY_ROWS] == 0 else 0
        size2, size1, size0 = args[SUMS + 1], args[SUMS + 2], args[SUMS + 3]
        stride3_a, stride3_b = args[SUMS + LEVELS], args[SUMS + 2 * LEVELS]
        for level in range(3):
            depth[3 + level] = args[SUMS + LEVELS + 1 + level]
            depth[6 + level] = args[SUMS + 2 * LEVELS + 1 + level]
        for unit in range(begin, end):
            column_block, rest = unit % column_blocks, unit // column_blocks
            first_row, batch = rest % row_blocks * args[BLOCK_ROWS], rest // row_blocks
            count = least(args[BLOCK_ROWS], rows - first_row)
            _row_offsets(args, first_row, count, rows_a, rows_c, position)
            whole = (count + args[TALL] - 1) // args[TALL] * args[TALL]
            rows_a[whole] = rows_a[0]
            for row in range(count, whole):
                rows_a[row], rows_c[row] = rows_a[count - 1], rows_c[count - 1]
            _cover(args, count, counts)
            tiles = _lay_out_a(args, counts, starts, packed_rows) if args[PACKS_A] != 0 else 0
            first_column = column_block * args[BLOCK_COLUMNS]
            last_column = least(first_column + args[BLOCK_COLUMNS], columns)
            _batch_offsets(args, batch, position)
            unit_a, unit_b, unit_c = offset(a, position[0]), offset(b, position[1]), offset(c, position[2])
            if args[BY_ROWS] != 0:
                _add_rows(args, unit_a, rows_a, unit_b, unit_c, rows_c, count)
            accumulate = args[ACCUMULATE]
            # Chunks of k; even an empty sum has one, which stores the zeros.
            for k3 in range(0, size3, chunk3):
                for k2 in range(0, size2, chunk2):
                    for k1 in range(0, size1, chunk1):
                        for k0 in range(0, most(size0, 1), chunk0):
                            depth[0] = least(chunk2, size2 - k2)
                            depth[1] = least(chunk1, size1 - k1)
                            depth[2] = least(chunk0, size0 - k0)
                            chunk_a = offset(unit_a, k3 * stride3_a + k2 * depth[3] + k1 * depth[4] + k0 * depth[5])
                            chunk_b = offset(unit_b, k3 * stride3_b + k2 * depth[6] + k1 * depth[7] + k0 * depth[8])
                            _block(args, chunk_a, rows_a, starts, tiles, chunk_b, unit_c, rows_c, depth, tile_depth,
                                   panel, packed_a, packed_rows, counts, first_column, last_column, accumulate)
                            accumulate = 1
    return contract


def build_contract(dtype: str) -> Object:
    """The contraction kernel for "f32" or "f64"."""
    return compile_native(_define_contract(dtype == "f64"), KERNEL, f"contract_{dtype}", level=2)


# --- panels for all units -----------------------------------------------------------------------------------------


def _define_pack(is_double):
    def pack(bases, args, begin, end):
        b, panels = pointer(bases, args, 0, is_double), pointer(bases, args, 2, is_double)
        depth = stack_words(DEPTH_WORDS)
        columns, column_stride, wide, panel_size = (args[PACK_COLUMNS], args[PACK_COLUMNS + 1], args[PACK_COLUMNS + 2],
                                                    args[PACK_COLUMNS + 3])
        lane_count, most_rows = args[PACK_COLUMNS + 4], args[PACK_COLUMNS + 5]
        size0, stride0 = args[PACK_SUMS + LEVELS - 1], args[PACK_SUMS + 2 * LEVELS - 1]
        pieces = (size0 + most_rows - 1) // most_rows
        depth[0], depth[1], depth[6], depth[7], depth[8] = 1, 1, 0, 0, stride0
        for unit in range(begin, end):
            outer, first = unit // pieces, unit % pieces * most_rows
            row, at = outer * size0 + first, first * stride0
            for i in range(1, LEVELS):
                level = PACK_SUMS + LEVELS - 1 - i
                at += outer % args[level] * args[level + LEVELS]
                outer //= args[level]
            depth[2] = least(most_rows, size0 - first)
            if column_stride == 1:
                _pack_rows(offset(panels, row * wide), offset(b, at), depth, columns, wide, wide, panel_size)
            else:
                _pack_columns(offset(panels, row * wide), offset(b, at), depth, column_stride, columns, wide, wide,
                              panel_size, lane_count)
    return pack


def build_pack(dtype: str) -> Object:
    """The kernel that copies a B to panels, for "f32" or "f64"."""
    return compile_native(_define_pack(dtype == "f64"), KERNEL, f"pack_{dtype}", level=2)


# --- sums in parts ------------------------------------------------------------------------------------------------


def _define_total(is_double):
    buffer = buffer_f64 if is_double else buffer_f32

    def total(bases, args, begin, end):
        parts, c = buffer(bases, args, 0), buffer(bases, args, 2)
        count, cells = args[4], args[5]
        first, last = begin * TOTAL_CHUNK, least(end * TOTAL_CHUNK, cells)
        for i in range(first, last):
            c[i] = parts[i] + parts[cells + i]
        for part in range(2, count):
            for i in range(first, last):
                c[i] = c[i] + parts[part * cells + i]
    return total


def build_total(dtype: str) -> Object:
    """The kernel that adds up parts, for "f32" or "f64"."""
    return compile_native(_define_total(dtype == "f64"), KERNEL, f"total_{dtype}")
