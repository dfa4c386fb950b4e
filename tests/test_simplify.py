"""Each rewrite rule: what it makes of what, with the same values; then loops, marks and whole graphs."""

from __future__ import annotations

import numpy as np
import pytest

from netc.compiler import ops
from netc.compiler.gradient import grad
from netc.compiler.interpret import interpret
from netc.compiler.ir import Graph, topological
from netc.compiler.ops import Index, plain
from netc.compiler.rules import RULES
from netc.compiler.simplify import erase_gradient_marks, simplify, simplify_graph
from netc.compiler.text import format_graph
from netc.compiler.types import Dim, boolean, evaluate, f32, f64, i32, i64
from netc.compiler.verify import verify

N = Dim.symbol("N")
SIZES = {"N": 5}

x, y, z = (ops.input(name, f64, (N, 4)) for name in "xyz")
row, column, one = ops.input("row", f64, (4,)), ops.input("column", f64, (N,)), ops.input("one", f64, ())
cube = ops.input("cube", f64, (2, 3, 4))
k = ops.input("k", i32, (N, 4))
p, q = ops.input("p", boolean, (N, 4)), ops.input("q", boolean, (N, 4))
w, matrix = ops.input("w", f64, (4, 3)), ops.input("matrix", f64, (2, 10))
image, kernel = ops.input("image", f64, (2, 6, 5, 3)), ops.input("kernel", f64, (3, 3, 3, 2))
pixels, mix = ops.input("pixels", f64, (2, 6, 5, 1)), ops.input("mix", f64, (1, 1, 3, 2))
small, blend = ops.input("small", f64, (2, 3, 3, 2)), ops.input("blend", f64, (3, 2))
deep, turn = ops.input("deep", f64, (2, 6, 5, 8)), ops.input("turn", f64, (8, 2))


def full(value, like=x):
    return ops.broadcast(ops.constant(value, like.dtype), like.shape, ())


def over(value, *axes, shape=(N, 4)):
    return ops.broadcast(value, shape, axes)


def cut(value, starts, stops, steps=None):
    return ops.slice(value, starts, stops, steps)


def padded(value, low, high, axis=1, filler=0.0, interior=0):
    def at(amount):
        return tuple(amount if a == axis else 0 for a in range(len(value.shape)))
    return ops.pad(value, at(low), at(high), at(interior), filler)


def summed(value, *axes, kind="sum"):
    return ops.reduce(value, kind, axes)


def c(value, dtype=f64):
    return ops.constant(value, dtype)


def raw(name, args, **attrs):
    """A node as a rewrite may leave it, without the shortcuts of the builders."""
    from netc.compiler.ir import node
    return node(ops.PRIMITIVES[name], args, **attrs)


def chosen(down, across, *counts, of=image):
    """Where the maxima of windows of 3 x 3 are in the image; these are their strides, and how many there are."""
    return ops.window_argmax(of, (3, 3), (down, across), (1, 1), counts)


def pooled(down, across, *counts, of=image):
    return ops.window_take(of, chosen(down, across, *counts, of=of), (3, 3), (down, across), (1, 1), counts)


EVERY = plain(0), plain(1), plain(2), plain(4)
EVERY_SECOND = plain(0), ops.affine({1: 2}), ops.affine({2: 2}), plain(4)
PRODUCT = ((plain(0), plain(2)), (plain(2), plain(1)))
SAME = ops.contract([x], (N, 4), (), [(plain(0), plain(1))])
CASES = {
    # elementwise
    "fold_constants": [(ops.add(c(2.0), ops.exp(c(0.0))), c(3.0)), (ops.lt(c(1, i32), c(2, i32)), c(True, boolean)),
                       (ops.cast(c(2.7), i32), c(2, i32))],
    "fold_sizes": [(ops.add(ops.size(N, i64), c(3, i64)), ops.size(N + 3, i64)),
                   (ops.sub(ops.size(N + 2, i64), ops.size(N, i64)), c(2, i64)),
                   (ops.cast(ops.size(N, i32), f64), ops.size(N, f64))],
    "pull_broadcast": [(ops.add(full(2.0), full(3.0)), full(5.0)),
                       (ops.exp(over(row, 1)), over(ops.exp(row), 1)),
                       (ops.mul(over(row, 1), over(one)), over(ops.mul(row, over(one, shape=(4,))), 1))],
    "add_zero": [(ops.add(x, full(0.0)), x), (ops.add(full(0.0), x), x)],
    "add_negative": [(ops.add(x, ops.neg(y)), ops.sub(x, y)), (ops.add(ops.neg(x), y), ops.sub(y, x))],
    "subtract": [(ops.sub(x, full(0.0)), x), (ops.sub(full(0.0), x), ops.neg(x)),
                 (ops.sub(x, ops.neg(y)), ops.add(x, y)), (ops.sub(k, k), full(0, k))],
    "multiply": [(ops.mul(x, full(1.0)), x), (ops.mul(full(-1.0), x), ops.neg(x)), (ops.mul(k, full(0, k)), full(0, k)),
                 (ops.mul(ops.neg(x), ops.neg(y)), ops.mul(x, y))],
    "divide_by_power_of_two": [(ops.div(x, full(4.0)), ops.mul(x, full(0.25))), (ops.div(x, full(1.0)), x),
                               (ops.div(x, full(-1.0)), ops.neg(x))],
    "divide_by_one": [(ops.floordiv(k, full(1, k)), k), (ops.mod(k, full(1, k)), full(0, k))],
    "small_powers": [(ops.pow(x, full(2.0)), ops.mul(x, x)), (ops.pow(x, full(1.0)), x),
                     (ops.pow(x, full(0.0)), full(1.0))],
    "twice": [(ops.neg(ops.neg(x)), x), (ops.logical_not(ops.logical_not(p)), p)],
    "absolute": [(ops.abs(ops.neg(x)), ops.abs(x)), (ops.abs(ops.abs(x)), ops.abs(x))],
    "idempotent": [(ops.floor(ops.floor(x)), ops.floor(x)), (ops.sign(ops.sign(x)), ops.sign(x))],
    "same_operands": [(ops.maximum(x, x), x), (ops.logical_or(p, p), p)],
    "known_operand": [(ops.logical_and(p, full(True, p)), p), (ops.logical_and(full(False, p), p), full(False, p)),
                      (ops.logical_or(p, full(True, p)), full(True, p)), (ops.logical_xor(p, full(False, p)), p),
                      (ops.logical_xor(p, full(True, p)), ops.logical_not(p))],
    "known_condition": [(ops.where(full(True, p), x, y), x), (ops.where(full(False, p), x, y), y),
                        (ops.where(p, x, x), x), (ops.where(ops.logical_not(p), x, y), ops.where(p, y, x)),
                        (ops.where(p, full(True, p), full(False, p)), p)],
    "nested_condition": [(ops.where(p, ops.where(p, x, y), z), ops.where(p, x, z)),
                         (ops.where(p, x, ops.where(p, y, z)), ops.where(p, x, z))],
    "casts": [(ops.cast(ops.cast(k, i64), i32), k), (ops.cast(ops.cast(k, f64), boolean), ops.cast(k, boolean)),
              (raw("cast", [x], dtype=f64), x)],
    # movement
    "nothing_moves": [(raw("reshape", [x], shape=(N, 4)), x), (raw("transpose", [x], perm=(0, 1)), x),
                      (raw("pad", [x], low=(0, 0), high=(0, 0), interior=(0, 0), value=0.0), x),
                      (ops.reverse(pixels, (3,)), pixels)],
    "reshape_reshape": [(ops.reshape(ops.reshape(cube, (6, 4)), (24,)), ops.reshape(cube, (24,)))],
    "reshape_constant": [(ops.reshape(over(one), (4 * N,)), over(one, shape=(4 * N,)))],
    "reshape_drops_broadcast": [(ops.reshape(over(row, 2, shape=(N, 1, 4)), (N, 4)), over(row, 1)),
                                (ops.reshape(over(row, 1), (N, 1, 4)), over(row, 2, shape=(N, 1, 4)))],
    "transpose_transpose": [(ops.transpose(ops.transpose(cube, (1, 2, 0)), (1, 0, 2)),
                             ops.transpose(cube, (2, 1, 0)))],
    "transpose_broadcast": [(ops.transpose(over(row, 1), (1, 0)), over(row, 0, shape=(4, N))),
                            (ops.transpose(over(x, 0, 2, shape=(N, 3, 4)), (2, 1, 0)),
                             over(ops.transpose(x, (1, 0)), 0, 2, shape=(4, 3, N)))],
    "broadcast_broadcast": [(over(over(one, shape=(4,)), 1), over(one)),
                            (over(over(row, 1), 0, 2, shape=(N, 2, 4)), over(row, 2, shape=(N, 2, 4)))],
    "broadcast_reshape": [(over(ops.reshape(row, (1, 4)), 0, 2, shape=(1, N, 4)), over(row, 2, shape=(1, N, 4)))],
    "iota_is_one_axis": [(ops.iota((N, 4), 1), over(ops.iota((4,), 0), 1))],
    "slice_slice": [(cut(cut(cube, (0, 1, 0), (2, 3, 4)), (1, 0, 0), (2, 2, 4), (1, 1, 2)),
                     cut(cube, (1, 1, 0), (2, 3, 3), (1, 1, 2)))],
    "slice_broadcast": [(cut(over(row, 1), (0, 1), (N, 3)), over(cut(row, (1,), (3,)), 1, shape=(N, 2)))],
    "slice_concat": [(cut(ops.concat([x, y], 1), (0, 4), (N, 8)), y),
                     (cut(ops.concat([x, y], 0), (0, 0), (N, 4)), x),
                     (cut(ops.concat([x, y], 1), (0, 5), (N, 7)), cut(y, (0, 1), (N, 3)))],
    "slice_pad": [(cut(padded(x, 2, 1), (0, 2), (N, 6)), x), (cut(padded(x, 2, 1, filler=7.0), (0, 0), (N, 2)),
                                                              ops.broadcast(c(7.0), (N, 2), ())),
                  (cut(padded(x, 2, 1), (0, 3), (N, 5)), cut(x, (0, 1), (N, 3)))],
    "pad_pad": [(padded(padded(x, 1, 2), 3, 4), padded(x, 4, 6))],
    "pad_constant": [(padded(full(3.0), 1, 1, filler=3.0), over(c(3.0), shape=(N, 6)))],
    "reverse_reverse": [(ops.reverse(ops.reverse(x, (1,)), (1,)), x),
                        (ops.reverse(ops.reverse(x, (0, 1)), (1,)), ops.reverse(x, (0,)))],
    "reverse_broadcast": [(ops.reverse(over(row, 1), (0, 1)), over(ops.reverse(row, (0,)), 1)),
                          (ops.reverse(over(row, 1), (0,)), over(row, 1))],
    "concat_flat": [(raw("concat", [x], axis=0), x),
                    (ops.concat([ops.concat([x, y], 1), z], 1), ops.concat([x, y, z], 1)),
                    (ops.concat([ops.slice(y, (0, 0), (0, 4)), x], 0), x)],
    "concat_slices": [(ops.concat([cut(x, (0, 0), (N, 1)), cut(x, (0, 1), (N, 4))], 1), x)],
    "add_pads": [(ops.add(padded(x, 0, 4), padded(y, 4, 0)), ops.concat([x, y], 1)),
                 (ops.add(padded(x, 4, 0), padded(y, 0, 4)), ops.concat([y, x], 1)),
                 (ops.add(padded(x, 1, 6), padded(y, 5, 2)), padded(ops.concat([x, y], 1), 1, 2)),
                 (ops.add(ops.add(ops.add(padded(x, 0, 8), padded(z, 8, 0)), padded(y, 4, 4)), ops.neg(
                     ops.concat([x, y, z], 1))), ops.sub(ops.concat([x, y, z], 1), ops.concat([x, y, z], 1)))],
    # reductions
    "reduce_nothing": [(summed(pixels, 3), ops.reshape(pixels, (2, 6, 5))),
                       (summed(pixels, 0, 3), ops.reshape(summed(pixels, 0), (6, 5)))],
    "reduce_broadcast": [(summed(over(row, 1), 0), ops.mul(row, over(ops.size(N, f64), shape=(4,)))),
                         (summed(full(1.0), 0, 1), ops.size(4 * N, f64)),
                         (summed(over(row, 1), 0, 1, kind="max"), summed(row, 0, kind="max")),
                         (summed(over(column, 0), 1), ops.mul(column, over(c(4.0), shape=(N,))))],
    "reduce_reduce": [(summed(summed(cube, 1, kind="max"), 1, kind="max"), summed(cube, 1, 2, kind="max"))],
    "reduce_transpose": [(summed(ops.transpose(cube, (2, 0, 1)), 0), summed(cube, 2)),
                         (summed(ops.transpose(cube, (2, 1, 0)), 1), ops.transpose(summed(cube, 1), (1, 0)))],
    "reduce_all_of_reshape": [(summed(ops.reshape(cube, (6, 4)), 0, 1), summed(cube, 0, 1, 2))],
    "sum_pad": [(summed(padded(x, 1, 2), 1), summed(x, 1))],
    "only_position": [(ops.argmax(pixels, 3), over(c(0, i32), shape=(2, 6, 5))),
                      (ops.argmin(over(row, 1), 0), over(c(0, i32), shape=(4,)))],
    "gather_constant": [(ops.gather(full(2.0), k), over(c(2.0), shape=(N, 4, 4)))],
    # contractions
    "absorb_movement": [
        (ops.matmul(x, ops.transpose(ops.transpose(w, (1, 0)), (1, 0))), ops.matmul(x, w)),
        (ops.matmul(ops.transpose(w, (1, 0)), ops.transpose(x, (1, 0))),
         ops.contract([w, x], (3, N), (4,), [(plain(2), plain(0)), (plain(1), plain(2))])),
        (ops.matmul(x, ops.reverse(w, (0,))),
         ops.contract([x, w], (N, 3), (4,), [PRODUCT[0], (Index(((2, -1),), 3), plain(1))])),
        (ops.matmul(x, cut(ops.concat([w, w], 0), (0, 0), (7, 3), (2, 1))),
         ops.contract([x, ops.concat([w, w], 0)], (N, 3), (4,), [PRODUCT[0], (Index(((2, 2),)), plain(1))])),
        (ops.convolution(ops.pad(image, (0, 1, 1, 0), (0, 1, 1, 0)), kernel, (1, 1), (1, 1), (0, 0), (6, 5)),
         ops.convolution(image, kernel, (1, 1), (1, 1), (1, 1), (6, 5))),
        (ops.product(padded(row, 1, 2, axis=0, interior=1), "j", matrix, "ij", "i"),
         ops.contract([row, matrix], (2,), (10,), [(Index(((1, 1),), -1, 2),), (plain(0), plain(1))])),
        (ops.product(over(ops.exp(row), 1, shape=(3, 4)), "jk", cube, "ijk", "i"),
         ops.contract([ops.exp(row), cube], (2,), (4, 3), [(plain(1),), (plain(0), plain(2), plain(1))])),
    ],
    "order_sums": [
        (ops.contract([cube, row], (), (4, 3, 2), [(plain(2), plain(1), plain(0)), (plain(0),)]),
         ops.contract([cube, row], (), (2, 3, 4), [(plain(0), plain(1), plain(2)), (plain(2),)]))],
    "drop_single_reduction": [
        (ops.convolution(image, mix, (1, 1), (1, 1), (0, 0), (6, 5)),
         ops.contract([image, ops.reshape(mix, (3, 2))], (2, 6, 5, 2), (3,),
                      [(plain(0), plain(1), plain(2), plain(4)), (plain(4), plain(3))])),
        (ops.contract([row], (4,), (N,), [(plain(0),)]), ops.mul(row, over(ops.size(N, f64), shape=(4,))))],
    "drop_unit_dimensions": [
        (ops.contract([pixels], (6,), (2, 5), [(plain(1), plain(0), plain(2), Index())]),
         summed(ops.reshape(pixels, (2, 6, 5)), 0, 2))],
    "scalar_operand": [
        (ops.contract([x, one], (N,), (4,), [(plain(0), plain(1)), ()]), ops.mul(summed(x, 1), over(one, shape=(N,)))),
        (ops.contract([full(1.0), x], (N,), (4,), [(plain(0), plain(1))] * 2), summed(x, 1))],
    "no_contraction": [(SAME, x), (ops.product(column, "i", row, "j", "ij"), ops.mul(over(column, 0), over(row, 1))),
                       (ops.contract([x], (4, N), (), [(plain(1), plain(0))]), ops.transpose(x, (1, 0)))],
    "plain_sum": [(ops.contract([cube], (4, 2), (3,), [(plain(1), plain(2), plain(0))]),
                   ops.transpose(summed(cube, 1), (1, 0)))],
    # windows
    "only_windows_read": [
        (ops.contract([pooled(1, 1, 6, 5, of=deep), turn], (2, 3, 3, 2), (8,), [EVERY_SECOND, (plain(4), plain(3))]),
         ops.contract([pooled(2, 2, 3, 3, of=deep), turn], (2, 3, 3, 2), (8,), [EVERY, (plain(4), plain(3))])),
        # of few channels whole rows
        (ops.contract([pooled(1, 1, 6, 5), blend], (2, 3, 3, 2), (3,), [EVERY_SECOND, (plain(4), plain(3))]),
         ops.contract([pooled(2, 1, 3, 5), blend], (2, 3, 3, 2), (3,), [
             (plain(0), plain(1), ops.affine({2: 2}), plain(4)), (plain(4), plain(3))])),
        # an index of one value adds nothing, an axis that is read whole stays
        (ops.contract([pooled(1, 2, 6, 3), blend], (1, 3, 2), (2, 2, 3), [
            (plain(3), ops.affine({0: 1, 4: 3}), plain(5), plain(1)), (plain(1), plain(2))]),
         ops.contract([pooled(3, 2, 2, 3), blend], (1, 3, 2), (2, 2, 3), [
             (plain(3), plain(4), plain(5), plain(1)), (plain(1), plain(2))]))],
    "only_windows_written": [
        (ops.window_put(ops.contract([small, blend], (2, 6, 5, 3), (2,), [
            (plain(0), ops.affine({1: 1}, 0, 2), ops.affine({2: 1}, 0, 2), plain(4)), (plain(3), plain(4))]),
            chosen(1, 1, 6, 5), (3, 3), (1, 1), (1, 1), (6, 5)),
         ops.window_put(ops.contract([small, blend], (2, 3, 3, 3), (2,), [EVERY, (plain(3), plain(4))]),
                        chosen(2, 2, 3, 3), (3, 3), (2, 2), (1, 1), (6, 5)))],
}


def leaves_of(roots):
    return [each for each in topological(roots) if each.op.name == "input"]


def draw(leaves):
    rng = np.random.default_rng(7)
    arrays = {}
    for leaf in leaves:
        shape = [evaluate(size, SIZES) for size in leaf.shape]
        kinds = {"float": lambda: rng.normal(size=shape), "int": lambda: rng.integers(0, 3, shape),
                 "bool": lambda: rng.integers(0, 2, shape)}
        arrays[leaf] = np.asarray(kinds[leaf.dtype.kind]()).astype(leaf.dtype.numpy)
    return arrays


def same_values(before, after, tolerance=1e-12):
    """Interpret two lists of nodes on the same arrays."""
    leaves = dict.fromkeys(leaves_of([*before, *after]))
    arrays = draw(leaves)
    results = []
    for roots in (before, after):
        graph = Graph(tuple(leaves), {str(number): root for number, root in enumerate(roots)})
        verify(graph)
        results.append(interpret(graph, arrays, SIZES))
    for name, value in results[0].items():
        np.testing.assert_allclose(results[1][name], value, rtol=tolerance, atol=tolerance)


def text(*roots):
    return format_graph(Graph(tuple(leaves_of(roots)), {str(number): root for number, root in enumerate(roots)}))


@pytest.mark.parametrize("name, before, after", [(name, *case) for name, cases in CASES.items() for case in cases])
def test_a_rule(name, before, after):
    (got,) = simplify([before])
    assert text(got) == text(after)
    assert got is after
    same_values([before], [after])


def test_every_rule_is_tested_and_documented():
    rules = {each.name: each for several in RULES.values() for each in several}
    assert set(rules) == set(CASES)
    assert all(each.text for each in rules.values())


@pytest.mark.parametrize("root", [
    ops.mul(x, full(0.0)),                                  # x may be a NaN
    ops.sub(x, x),                                          # and infinity less itself is not 0
    ops.add(ops.add(x, full(0.1)), full(0.2)),              # rounding depends on the order
    summed(summed(cube, 0), 0),
    ops.cast(ops.cast(x, f32), f64),                        # loses digits
    ops.floordiv(k, full(0, k)),
    ops.add(padded(x, 0, 2), padded(y, 2, 0)),              # they overlap
    ops.product(padded(row, 1, 0, axis=0, filler=1.0), "j", ops.input("five", f64, (2, 5)), "ij", "i"),
    ops.contract([cut(row, (0,), (2,))], (4,), (), [(plain(0),)]),     # outside of the slice is 0
    ops.contract([over(one, shape=(2,))], (4,), (), [(plain(0),)]),
    ops.slice(ops.concat([x, y], 1), (0, 3), (N, 5)),
    ops.reshape(cube, (3, 2, 4)),
    # windows: read beyond the edge, from another than the first on, side by side; written side by side
    ops.contract([pooled(1, 1, 6, 5), blend], (2, 4, 4, 2), (3,), [EVERY_SECOND, (plain(4), plain(3))]),
    ops.contract([pooled(1, 1, 6, 5), blend], (2, 2, 3, 2), (3,), [
        (plain(0), ops.affine({1: 2}, 1), plain(2), plain(4)), (plain(4), plain(3))]),
    ops.contract([pooled(1, 1, 6, 5), blend], (2, 2, 3, 2), (2, 3), [
        (plain(0), ops.affine({1: 2, 4: 1}), plain(2), plain(5)), (plain(5), plain(3))]),
    ops.window_put(ops.contract([small, blend], (2, 3, 3, 3), (2,), [EVERY, (plain(3), plain(4))]),
                   chosen(2, 2, 3, 3), (3, 3), (2, 2), (1, 1), (6, 5)),
])
def test_what_must_stay(root):
    assert simplify([root]) == [root]


def test_moving_a_pad_past_another_must_not_reorder_a_sum():
    a, b, overlap = padded(x, 0, 4), padded(y, 4, 0), padded(z, 2, 2)
    root = ops.add(ops.add(a, overlap), b)
    assert simplify([root]) == [root]


def test_rules_work_together():
    a = ops.transpose(ops.exp(ops.transpose(x, (1, 0))), (1, 0))
    (got,) = simplify([ops.add(ops.mul(a, ops.div(full(6.0), full(2.0))), ops.sub(full(1.0), full(1.0)))])
    same_values([got], [ops.mul(ops.exp(x), full(3.0))])
    assert simplify([got]) == [got]


def test_gradients_of_a_split_become_a_concat():
    parts = [cut(x, (0, n), (N, n + 1)) for n in range(4)]
    root = ops.mul(ops.mul(ops.exp(parts[0]), ops.sin(parts[3])), ops.add(ops.tanh(parts[1]), parts[2]))
    before = grad(summed(root, 0, 1), [x])
    after = simplify(before)
    assert after[0].op.name == "concat" and not any(each.op.name == "pad" for each in topological(after))
    same_values(before, after)


def test_a_thousand_terms():
    root = x
    for number in range(1000):
        root = ops.add(ops.mul(root, full(1.0)), full(float(number % 2)))
    (got,) = simplify([root])
    assert sum(each.op.name == "add" for each in topological([got])) == 500


# --- marks -------------------------------------------------------------------------------------------------------


def test_gradient_marks_are_erased_in_bodies_too():
    leaf, g = ops.local(0, f64, (4,)), ops.local(1, f64, (4,))
    rule = Graph((leaf, g), {"0": g})
    body = Graph((leaf,), {"0": ops.stop_gradient(ops.custom(ops.exp(leaf), [leaf], rule))})
    loop = ops.item(ops.scan([row], [], [], body, 3), 0)
    graph = Graph((row,), {"a": ops.stop_gradient(loop), "b": ops.custom(ops.sin(row), [row], rule)})
    erased = erase_gradient_marks(graph)
    assert "custom" not in format_graph(erased) and "stop_gradient" not in format_graph(erased)
    assert erased.outputs["b"] is ops.sin(row)
    same_values(graph.results, erased.results)


# --- loops -------------------------------------------------------------------------------------------------------

series, weights, start = (ops.input("series", f64, (N, 2, 16)), ops.input("weights", f64, (16, 4)),
                          ops.input("start", f64, (2, 4)))
steps = ops.input("steps", f64, (N, 2, 4))


def loop_of(make, carries, xs=(), invariants=(), length=N, reverse=False):
    """A scan whose body is ``make(leaves)``, giving the list of its results."""
    types = [each.type for each in carries]
    types += [each.type.with_shape(each.shape[1:]) for each in xs] + [each.type for each in invariants]
    leaves = [ops.local(number, type_.dtype, type_.shape) for number, type_ in enumerate(types)]
    body = Graph(tuple(leaves), {str(number): value for number, value in enumerate(make(*leaves))})
    return ops.scan(list(carries), list(xs), list(invariants), body, length, reverse)


def scans(*roots):
    return [each for each in topological(roots) if each.op.name == "scan"]


def simplified(*roots):
    got = simplify(roots)
    same_values(roots, got)
    assert simplify(got) == got
    return got


def test_bodies_are_simplified():
    loop = loop_of(lambda h: [ops.add(ops.exp(h), full(0.0, h))], [start])
    (got,) = simplified(ops.item(loop, 0))
    assert [each.op.name for each in scans(got)[0].attrs["body"].nodes()] == ["local", "exp"]


def test_results_that_nothing_uses_are_dropped_with_what_they_need():
    loop = loop_of(lambda a, b, s: [ops.exp(a), ops.add(ops.add(b, a), s), ops.sin(b), ops.cos(a)],
                   [start, start], [steps])
    (got,) = simplified(ops.item(loop, 3))
    (scan,) = scans(got)
    assert (scan.attrs["carries"], scan.attrs["xs"], len(scan.type)) == (1, 0, 2)
    (last,) = simplified(ops.item(loop, 1))
    assert (scans(last)[0].attrs["carries"], len(scans(last)[0].type)) == (2, 2)


def test_a_carry_that_never_changes_is_an_invariant():
    loop = loop_of(lambda a, b: [ops.mul(a, b), b], [start, ops.neg(start)])
    a, b = simplified(ops.item(loop, 0), ops.item(loop, 1))
    assert b is ops.neg(start) and scans(a)[0].attrs["carries"] == 1


def test_constants_move_in():
    twice = ops.broadcast(c(2.0), (N, 2, 4), ())
    loop = loop_of(lambda a, s, v: [ops.add(ops.mul(a, s), v)], [start], [twice], [full(1.0, start)])
    (got,) = simplified(ops.item(loop, 0))
    assert scans(got)[0].args == (start,)


def test_equal_arguments_become_one():
    loop = loop_of(lambda a, s, t, v: [ops.add(ops.mul(a, ops.sub(s, t)), v)], [start],
                   [steps, steps], [start])
    (got,) = simplified(ops.item(loop, 0))
    assert scans(got)[0].args == (start, steps, start)


def test_what_depends_on_invariants_only_moves_out():
    loop = loop_of(lambda a, v: [ops.add(a, ops.exp(ops.transpose(ops.sin(v), (1, 0))))], [start], [],
                   [ops.transpose(start, (1, 0))])
    (got,) = simplified(ops.item(loop, 0))
    assert {each.op.name for each in scans(got)[0].attrs["body"].nodes()} <= {"local", "add", "transpose"}


def test_products_keep_their_memory_and_biases_move_in():
    batch = ops.input("batch", f64, (2, N, 16))
    bias = ops.input("bias", f64, (4,))
    whole = ops.product(batch, "bti", weights, "ij", "btj")
    moved = ops.transpose(ops.add(whole, ops.broadcast(bias, (2, N, 4), (2,))), (1, 0, 2))
    loop = loop_of(lambda a, s: [ops.tanh(ops.add(a, s))], [start], [moved])
    (got,) = simplified(ops.item(loop, 0))
    (scan,) = scans(got)
    assert scan.args[1].op.name == "contract" and scan.args[1].shape == (N, 2, 4) and scan.args[2] is bias
    assert not [each for each in topological([got]) if each.op.name == "transpose"]
    # What others read too stays as it is.
    both = simplified(ops.item(loop, 0), ops.exp(moved))
    assert scans(*both)[0].args[1].op.name == "transpose"
    # A bias that has a value of its own for each step is no invariant.
    steps_own = ops.input("steps_own", f64, (N,))
    moved = ops.transpose(ops.add(whole, ops.broadcast(steps_own, (2, N, 4), (1,))), (1, 0, 2))
    (got,) = simplified(ops.item(loop_of(lambda a, s: [ops.add(a, s)], [start], [moved]), 0))
    assert len(scans(got)[0].args) == 2


def test_ys_that_need_no_loop():
    loop = loop_of(lambda a, s, v: [ops.exp(a), s, ops.sin(v), ops.neg(a), ops.neg(a)], [start],
                   [steps], [start])
    got = simplified(*(ops.item(loop, position) for position in (1, 2, 3, 4)))
    assert got[0] is steps and got[2] is got[3]
    assert got[1].op.name == "broadcast" and len(scans(*got)[0].type) == 2


@pytest.mark.parametrize("reverse", [False, True])
def test_products_of_all_steps_are_taken_at_once(reverse):
    loop = loop_of(lambda h, s, v: [ops.tanh(ops.add(h, ops.matmul(s, v)))], [start], [series], [weights],
                   reverse=reverse)
    (got,) = simplified(ops.item(loop, 0))
    assert "contract" not in {each.op.name for each in scans(got)[0].attrs["body"].nodes()}
    dw = grad(summed(ops.item(loop, 0), 0, 1), [weights])
    (after,) = simplified(*dw)
    assert after.op.name == "contract" and after.attrs["reduce"][0] == N
    for scan in scans(after):
        assert "contract" not in {each.op.name for each in scan.attrs["body"].nodes()}


@pytest.mark.parametrize("reverse", [False, True])
def test_sums_and_stacks_of_products_are_taken_after_the_loop(reverse):
    loop = loop_of(lambda h, dw, s, v: [ops.tanh(ops.add(h, ops.matmul(s, v))),
                                        ops.add(ops.product(s, "ij", h, "ik", "jk"), dw),
                                        ops.matmul(ops.sin(s), v)],
                   [start, weights], [series], [weights], reverse=reverse)
    got = simplified(ops.item(loop, 1), ops.item(loop, 2))
    (scan,) = scans(*got)
    assert "contract" not in {each.op.name for each in scan.attrs["body"].nodes()}
    assert len(scan.type) == 3 and scan.attrs["carries"] == 1


def test_loops_over_the_same_values_become_one():
    def make(*which):
        def body(a, s):
            after = ops.tanh(ops.add(a, s))
            ys = [ops.exp(after), a, ops.sin(s)]
            return [after, *(ys[number] for number in which)]
        return loop_of(body, [start], [steps])
    one, other = make(0, 2), make(1, 0)
    got = simplified(ops.item(one, 1), ops.item(other, 1), ops.item(other, 2), ops.item(one, 2))
    assert len(scans(*got)) == 1 and got[0] is got[2]


def test_a_loop_and_its_gradient_run_forward_once():
    loop = loop_of(lambda h, s, v: [ops.tanh(ops.add(ops.matmul(h, v), s))], [start], [steps],
                   [ops.input("square", f64, (4, 4))])
    last = ops.item(loop, 0)
    got = simplified(last, *grad(summed(ops.mul(last, last), 0, 1), [steps]))
    assert len(scans(*got)) == 2


def test_a_loop_that_nothing_needs_goes():
    loop = loop_of(lambda a, s: [a, s], [start], [steps])
    got = simplified(ops.item(loop, 0), ops.item(loop, 1))
    assert not scans(*got)


def test_a_graph_keeps_its_inputs_and_names():
    graph = simplify_graph(Graph((x, y), {"result": ops.add(x, full(0.0))}))
    assert graph.inputs == (x, y) and graph.outputs == {"result": x}
