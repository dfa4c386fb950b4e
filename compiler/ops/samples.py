"""Sample applications of every primitive, from which the tests check types, values and gradients.

``SAMPLES[name](rng)`` gives at least 20 (node, leaves) pairs: the node applies the primitive, directly or under a few
others that keep its operands in the domain (a positive number for ``log``, a row that exists for ``gather``), so any
values may be given to the leaves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from .. import ops
from ..ir import Graph, Node, topological
from ..types import DType, boolean, f32, f64, i32, i64

SHAPES = ((), (1,), (3,), (7,), (1, 1), (2, 3), (5, 1), (1, 4), (3, 5), (1, 1, 1), (2, 1, 3), (3, 2, 2), (4, 1, 1),
          (1, 3, 1), (2, 3, 4), (1, 2, 3, 4), (2, 2, 1, 3), (3, 1, 2, 1), (16,), (17,), (33,))
TENSORS = SHAPES[1:]                                         # those with axes

SAMPLES: dict[str, Callable] = {}


def _sample(*names: str):
    """Register a function (name, rng) -> nodes for some primitives."""
    def register(make: Callable) -> Callable:
        for name in names:
            # A builder may find that there is nothing to do (a reshape to the same shape): then there is no sample.
            SAMPLES[name] = lambda rng, name=name: [(node, leaves_of(node)) for node in make(name, rng)
                                                    if any(inner.op.name == name for inner in topological([node]))]
        return make
    return register


def leaves_of(node: Node) -> list[Node]:
    """The inputs that a node depends on."""
    return [leaf for leaf in topological([node]) if leaf.op.name == "input"]


def x(shape, dtype: DType = f64) -> Node:
    return ops.input("x", dtype, shape)


def y(shape, dtype: DType = f64) -> Node:
    return ops.input("y", dtype, shape)


def positive(value: Node) -> Node:
    """At least a half."""
    return ops.add(ops.mul(value, value), ops.like(value, 0.5))


def row_numbers(shape, rows: int) -> Node:
    """Integers in 0 .. rows - 1."""
    numbers = ops.input("rows", i32, shape)
    return ops.mod(numbers, ops.like(numbers, rows))


def _axes(rng, rank: int) -> tuple[int, ...]:
    """At least one axis."""
    return tuple(sorted(rng.choice(rank, size=rng.integers(1, rank + 1), replace=False).tolist()))


# --- elementwise -------------------------------------------------------------------------------------------------


@_sample("neg", "abs", "sign", "exp", "expm1", "tanh", "sigmoid", "erf", "sin", "cos", "floor", "ceil", "round",
         "is_finite", "stop_gradient")
def _any_number(name, rng) -> Iterable[Node]:
    return [getattr(ops, name)(x(shape)) for shape in SHAPES]


@_sample("log", "log1p", "sqrt", "rsqrt")
def _positive_number(name, rng) -> Iterable[Node]:
    return [getattr(ops, name)(positive(x(shape))) for shape in SHAPES]


@_sample("add", "sub", "mul", "maximum", "minimum", "lt", "le", "eq", "ne")
def _two_numbers(name, rng) -> Iterable[Node]:
    return [getattr(ops, name)(x(shape), y(shape)) for shape in SHAPES]


@_sample("div", "floordiv", "mod")
def _quotient(name, rng) -> Iterable[Node]:
    return [getattr(ops, name)(x(shape), positive(y(shape))) for shape in SHAPES]


@_sample("pow")
def _power(name, rng) -> Iterable[Node]:
    return [ops.pow(positive(x(shape)), y(shape)) for shape in SHAPES]


@_sample("logical_not", "logical_and", "logical_or", "logical_xor")
def _truth(name, rng) -> Iterable[Node]:
    for shape in SHAPES:
        values = [x(shape, boolean), y(shape, boolean)]
        yield getattr(ops, name)(*values[:1 if name == "logical_not" else 2])


@_sample("where")
def _choice(name, rng) -> Iterable[Node]:
    return [ops.where(ops.input("condition", boolean, shape), x(shape), y(shape)) for shape in SHAPES]


@_sample("cast")
def _casts(name, rng) -> Iterable[Node]:
    made = [ops.cast(x(shape), f32) for shape in SHAPES]
    return made + [ops.cast(x((2, 3), source), target) for source in (f64, i32, i64, boolean)
                   for target in (f64, i32, i64, boolean) if source != target]


# --- reductions and movement -------------------------------------------------------------------------------------


@_sample("reduce")
def _reductions(name, rng) -> Iterable[Node]:
    return [ops.reduce(x(shape), kind, _axes(rng, len(shape))) for shape in TENSORS
            for kind in ("sum", "max", "min", "prod")]


@_sample("argmax", "argmin")
def _positions(name, rng) -> Iterable[Node]:
    return [getattr(ops, name)(x(shape), int(rng.integers(len(shape)))) for shape in TENSORS]


@_sample("reshape")
def _reshapes(name, rng) -> Iterable[Node]:
    for shape in SHAPES:
        yield ops.reshape(x(shape), (1, *shape))
        if shape:
            yield ops.reshape(x(shape), (shape[0], math.prod(shape[1:]), 1))


@_sample("transpose")
def _transposes(name, rng) -> Iterable[Node]:
    for shape in TENSORS * 2:
        if len(shape) > 1:
            perm = tuple(rng.permutation(len(shape)).tolist())
            yield ops.transpose(x(shape), perm if perm != tuple(range(len(shape))) else perm[::-1])


@_sample("broadcast")
def _broadcasts(name, rng) -> Iterable[Node]:
    for shape in SHAPES:
        axes = tuple(sorted(rng.choice(len(shape) + 2, size=len(shape), replace=False).tolist()))
        sizes = iter(shape)
        yield ops.broadcast(x(shape), [next(sizes) if axis in axes else int(rng.integers(1, 4))
                                       for axis in range(len(shape) + 2)], axes)


@_sample("slice")
def _slices(name, rng) -> Iterable[Node]:
    for shape in TENSORS * 2:
        starts = [int(rng.integers(0, size)) for size in shape]
        stops = [int(rng.integers(start + 1, size + 1)) for start, size in zip(starts, shape)]
        yield ops.slice(x(shape), starts, stops, [int(rng.integers(1, 4)) for _ in shape])
    yield ops.slice(x((3, 2)), (1, 0), (1, 2))                # nothing at all


@_sample("pad")
def _pads(name, rng) -> Iterable[Node]:
    for shape in TENSORS * 2:
        low, high, interior = (rng.integers(0, 3, size=len(shape)).tolist() for _ in range(3))
        yield ops.pad(x(shape), low, high, interior, float(rng.integers(-1, 2)))
    yield ops.pad(x((0, 2)), (1, 0), (2, 1), (3, 1), 4.0)


@_sample("concat")
def _concats(name, rng) -> Iterable[Node]:
    for shape in TENSORS:
        axis = int(rng.integers(len(shape)))
        other = tuple(int(rng.integers(1, 4)) if a == axis else size for a, size in enumerate(shape))
        yield ops.concat([x(shape), y(other), x(shape)], axis)


@_sample("reverse")
def _reverses(name, rng) -> Iterable[Node]:
    return [ops.reverse(x(shape), _axes(rng, len(shape))) for shape in TENSORS]


# --- contractions ------------------------------------------------------------------------------------------------


@_sample("contract")
def _contractions(name, rng) -> Iterable[Node]:
    yield from _products()
    yield from _convolutions()
    yield from _unusual_maps()


def _products() -> Iterable[Node]:
    sizes = {"a": 2, "b": 1, "i": 3, "j": 4, "k": 5, "l": 1}
    for left, right, out in (
            ("ij", "jk", "ik"), ("ji", "kj", "ki"), ("ik", "ik", ""), ("i", "j", "ij"), ("i", "j", "ji"),
            ("aij", "ajk", "aik"), ("abij", "abkj", "abik"), ("ij", "j", "i"), ("il", "lk", "ki"), ("ijk", "jl", "ki"),
            ("", "ij", "ji"), ("aj", "ijk", "ak"), ("ii", "i", "i"), ("ii", "ij", "j")):
        yield ops.product(x([sizes[c] for c in left]), left, y([sizes[c] for c in right]), right, out)
    yield ops.matmul(x((1, 1)), y((1, 1)))
    yield ops.matmul(x((2, 3, 7)), y((2, 7, 1)))


def _convolutions() -> Iterable[Node]:
    for size, taps, stride, dilation, low, out, groups in (
            (5, 3, 1, 1, 0, 3, 1), (5, 3, 1, 1, 1, 5, 1), (7, 3, 2, 1, 1, 4, 1), (6, 2, 3, 1, 0, 2, 2),
            (9, 3, 1, 2, 2, 9, 1), (8, 3, 2, 2, 1, 3, 4), (1, 1, 1, 1, 0, 1, 1), (4, 5, 1, 1, 2, 4, 2),
            (5, 1, 2, 1, 0, 3, 1)):
        one = [stride], [dilation], [low], [out]
        yield ops.convolution(x((2, size, 4)), y((taps, 4 // groups, 4)), *one, groups)
        if groups == 1:
            two = [stride, 1], [dilation, 1], [low, 0], [out, 2]
            yield ops.convolution(x((1, size, 3, 2)), y((taps, 2, 2, 3)), *two)
            back = [stride, 2], [dilation, 1], [low, 1], [size, 3]
            yield ops.convolution_transpose(x((1, out, 2, 2)), y((taps, 3, 3, 2)), *back)
            yield ops.convolution_transpose(x((2, out, 3)), y((taps, 1, 3)), [stride], [dilation], [low], [size])


def _unusual_maps() -> Iterable[Node]:
    at, form = ops.plain, ops.affine
    # Sums of windows; a plain sum; a sum of part of an axis, and of more than there is.
    yield ops.contract([x((2, 7, 3))], (2, 3, 3), (3,), [(at(0), form({1: 2, 3: 1}, -1), at(2))])
    yield ops.contract([x((3, 4))], (3,), (4,), [(at(0), at(1))])
    yield ops.contract([x((3, 4))], (3,), (2,), [(at(0), form({1: 1}, 1))])
    yield ops.contract([x((3, 4))], (5,), (6,), [(form({0: 1}, -1), form({1: -1}, 4))])
    # Every other element, the same element always, an element that is not there, a repeated result.
    yield ops.contract([x((3, 7))], (2, 3), (2,), [(form({0: 2}), form({2: 3}, 1))])
    yield ops.contract([x((3, 4))], (2,), (), [(form({}, 1), at(0))])
    yield ops.contract([x((3, 4))], (2, 4), (3,), [(form({}, 5), at(1))])
    yield ops.contract([x((3,)), y((2,))], (3, 2, 2), (5,), [(at(0),), (at(2),)])
    # Diagonals, with and without shifts, and fractions.
    yield ops.contract([x((4, 4))], (4,), (), [(at(0), form({0: 1}, 1))])
    yield ops.contract([x((4, 3, 2)), y((3,))], (3,), (2,), [(form({0: 1}, 1), at(0), at(1)), (form({0: -1}, 2),)])
    yield ops.contract([x((3,))], (7,), (), [(form({0: 1}, -1, 2),)])
    yield ops.contract([x((3, 2)), y((3,))], (7,), (2,), [(form({0: 1, 1: -1}, 1, 2), at(1)), (form({0: 2}, -2, 4),)])
    yield ops.contract([x((12,)), y((12,))], (3, 4), (), [(form({0: 4, 1: 1}),), (form({0: 1, 1: 3}),)])
    yield ops.contract([x((5, 5)), y((4,))], (3,), (4,), [(form({0: 1, 1: 1}), form({0: 2, 1: -1}, 1)), (at(1),)])
    yield ops.contract([x((5,)), y((4,))], (4,), (2, 2), [(form({0: 1, 1: 2, 2: 1}),), (form({1: 2, 2: 1}),)])


# --- windows, rows -----------------------------------------------------------------------------------------------

WINDOWS = (((5,), (2,), (2,), (0,), (2,)), ((5,), (3,), (1,), (1,), (5,)), ((6,), (3,), (2,), (1,), (3,)),
           ((1,), (1,), (1,), (0,), (1,)), ((4, 4), (2, 2), (2, 2), (0, 0), (2, 2)),
           ((5, 3), (3, 2), (2, 1), (1, 0), (3, 2)),
           ((7, 1), (3, 1), (3, 1), (0, 0), (2, 1)), ((3, 3), (3, 3), (1, 1), (1, 1), (3, 3)),
           ((5, 5), (2, 3), (3, 2), (0, 1), (2, 3)), ((2, 3, 2), (2, 2, 1), (1, 1, 1), (0, 1, 0), (1, 4, 2)),
           ((9,), (4,), (4,), (2,), (3,)))


@_sample("window_argmax", "window_take", "window_put")
def _windows(name, rng) -> Iterable[Node]:
    for batch, channels in ((1, 1), (2, 3)):
        for inside, sizes, strides, low, outside in WINDOWS:
            window = sizes, strides, low
            where = ops.window_argmax(x((batch, *inside, channels)), *window, outside)
            if name == "window_argmax":
                yield where
            elif name == "window_take":
                # Positions found in another tensor: those of its own maximum are as good, but never differ.
                yield ops.window_take(y((batch, *inside, channels)), where, *window, outside)
                yield ops.window_take(x((batch, *inside, channels)), where, *window, outside)
            else:
                yield ops.window_put(y((batch, *outside, channels)), where, *window, inside)


@_sample("gather", "scatter_add")
def _rows(name, rng) -> Iterable[Node]:
    for indices in SHAPES:
        rest = SHAPES[int(rng.integers(9))]
        rows = int(rng.integers(1, 6))
        if name == "gather":
            yield ops.gather(x((rows, *rest)), row_numbers(indices, rows))
        else:
            yield ops.scatter_add(row_numbers(indices, rows), x((*indices, *rest)), rows)


# --- random numbers and special values ---------------------------------------------------------------------------


@_sample("random_bits")
def _bits(name, rng) -> Iterable[Node]:
    return [ops.random_bits(ops.input("seed", i64, ()), shape, int(rng.integers(2 ** 32))) for shape in SHAPES]


@_sample("custom")
def _customs(name, rng) -> Iterable[Node]:
    for shape in SHAPES:
        a, b, g = (ops.local(k, f64, shape) for k in range(3))
        rule = Graph((a, b, g), {"0": ops.mul(g, ops.mul(b, ops.cos(a))), "1": ops.mul(g, ops.sin(a))})
        yield ops.custom(ops.mul(ops.sin(x(shape)), y(shape)), (x(shape), y(shape)), rule)


@_sample("orthogonal")
def _matrices(name, rng) -> Iterable[Node]:
    return [ops.orthogonal(x((rows, columns))) for rows in (1, 2, 3, 7, 8) for columns in (1, 3, 4, 9)]


# --- loops -------------------------------------------------------------------------------------------------------


@_sample("scan", "item")
def _loops(name, rng) -> Iterable[Node]:
    for length in (1, 2, 5):
        for reverse in (False, True):
            for make in (_recurrence, _counter, _running_sum, _two_carries, _nested_loop):
                result = make(length, reverse)
                yield from (ops.item(result, k) for k in range(len(result.type)))


class _Arguments:
    """Arguments of a loop, with leaves for its body."""

    def __init__(self):
        self.leaves: list[Node] = []

    def leaf(self, value: Node, sliced: bool = False) -> Node:
        type_ = value.type if not sliced else value.type.with_shape(value.shape[1:])
        self.leaves.append(ops.local(100 + len(self.leaves), type_.dtype, type_.shape))
        return self.leaves[-1]

    def close(self, *outputs: Node) -> Graph:
        return Graph(tuple(self.leaves), {str(k): output for k, output in enumerate(outputs)})


def _recurrence(length: int, reverse: bool) -> Node:
    """h = tanh(x[t] @ w + h @ u + b); y[t] = 2 h."""
    args = (ops.input("h", f64, (2, 3)), x((length, 2, 4)), ops.input("w", f64, (4, 3)), ops.input("u", f64, (3, 3)),
            ops.input("b", f64, (3,)))
    body = _Arguments()
    h, step, w, u, b = (body.leaf(value, k == 1) for k, value in enumerate(args))
    z = ops.add(ops.add(ops.matmul(step, w), ops.matmul(h, u)), ops.broadcast(b, (2, 3), (1,)))
    h = ops.tanh(z)
    return ops.scan(args[:1], args[1:2], args[2:], body.close(h, ops.scaled(h, 2.0)), length, reverse)


def _counter(length: int, reverse: bool) -> Node:
    """A carried integer picks rows of a table; a value that never changes is carried along."""
    args = (ops.constant(1, i32), ops.input("h", f64, (3,)), ops.input("same", f64, ()), x((4, 3)))
    body = _Arguments()
    count, h, same, table = (body.leaf(value) for value in args)
    row = ops.gather(table, ops.mod(count, ops.constant(4, i32)))
    h = ops.add(ops.mul(h, row), ops.broadcast(same, (3,), ()))
    count = ops.add(count, ops.constant(1, i32))
    return ops.scan(args[:3], (), args[3:], body.close(count, h, same, row), length, reverse)


def _running_sum(length: int, reverse: bool) -> Node:
    """Sums with a constant factor and a transposed weight; one input is not differentiated."""
    args = (ops.input("total", f64, (1,)), x((length, 1)), ops.input("mask", boolean, (length, 1)),
            ops.input("w", f64, (1, 2)))
    body = _Arguments()
    total, step, mask, w = (body.leaf(value, k in (1, 2)) for k, value in enumerate(args))
    wide = ops.product(step, "i", ops.transpose(w, (1, 0)), "ji", "j")
    total = ops.where(mask, ops.add(total, ops.reshape(ops.reduce(ops.mul(wide, wide), "sum", (0,)), (1,))), total)
    return ops.scan(args[:1], args[1:3], args[3:], body.close(total, wide), length, reverse)


def _two_carries(length: int, reverse: bool) -> Node:
    """c = sigmoid(f) c + i; h = tanh(c), with gates cut from one product."""
    args = (ops.input("h", f64, (1, 2)), ops.input("c", f64, (1, 2)), x((length, 1, 4)), ops.input("u", f64, (2, 4)))
    body = _Arguments()
    h, c, step, u = (body.leaf(value, k == 2) for k, value in enumerate(args))
    z = ops.add(step, ops.matmul(h, u))
    f, i = ops.slice(z, (0, 0), (1, 2)), ops.slice(z, (0, 2), (1, 4))
    c = ops.add(ops.mul(ops.sigmoid(f), c), i)
    return ops.scan(args[:2], args[2:3], args[3:], body.close(ops.tanh(c), c), length, reverse)


def _nested_loop(length: int, reverse: bool) -> Node:
    """A loop in each step of a loop, without anything collected by the outer one."""
    args = (ops.input("h", f64, (2,)), x((length, 3, 2)), ops.input("w", f64, (2,)))
    inner, outer = _Arguments(), _Arguments()
    h, rows, w = (outer.leaf(value, k == 1) for k, value in enumerate(args))
    state, row, weight = inner.leaf(h), inner.leaf(rows, True), inner.leaf(w)
    state = ops.sin(ops.add(ops.mul(state, weight), row))
    last = ops.item(ops.scan((h,), (rows,), (w,), inner.close(state), 3, not reverse), 0)
    return ops.scan(args[:1], args[1:2], args[2:], outer.close(last), length, reverse)
