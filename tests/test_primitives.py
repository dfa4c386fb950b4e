"""Every primitive's record: complete, its types those of its values, its gradient that of finite differences."""

import warnings

import numpy as np
import pytest

from netc.compiler import ops
from netc.compiler.gradient import gradient
from netc.compiler.interpret import run
from netc.compiler.ir import Graph, is_tensor, topological
from netc.compiler.ops.samples import SAMPLES
from netc.compiler.simplify import simplify
from netc.compiler.types import Dim, TensorType, TypeRuleError, boolean, evaluate, f32, f64, i32, i64

SIZES = {"N": 3}
NAMES = sorted(ops.PRIMITIVES)
DIFFERENTIABLE = [name for name in NAMES if ops.PRIMITIVES[name].gradient is not None]
WITHOUT_GRADIENT = {"sign", "floor", "ceil", "round", "floordiv", "logical_not", "is_finite", "lt", "le", "eq", "ne",
                    "logical_and", "logical_or", "logical_xor", "argmax", "argmin", "window_argmax", "random_bits",
                    "stop_gradient", "orthogonal"}


def values_for(leaves, rng):
    """Random arrays by leaf."""
    def draw(leaf):
        if leaf.dtype.kind == "float":
            return rng.standard_normal(leaf.shape).astype(leaf.dtype.numpy)
        return rng.integers(0, 2 if leaf.dtype is boolean else 100, leaf.shape).astype(leaf.dtype.numpy)
    return {leaf: np.asarray(draw(leaf)) for leaf in leaves}


def application(record, node):
    """Where a sample applies the primitive: at the root, or right below it."""
    return next(inner for inner in reversed(topological([node])) if inner.op is record)


def directional_check(node, wrt, values, rng, rtol):
    """Compare the gradient of a random weighting of ``node`` along random directions with central differences."""
    weight = ops.input("weight", node.dtype, node.shape)
    values = {**values, weight: np.asarray(rng.standard_normal(node.shape)).astype(node.dtype.numpy)}
    analytic = run(gradient([(node, weight)], wrt), values, SIZES)
    step = 1e-5 if node.dtype is f64 else 0.25          # what is f32 here is linear
    for leaf, slope in zip(wrt, analytic):
        direction = rng.standard_normal(leaf.shape)
        ends = []
        for sign in (1, -1):
            moved = {**values, leaf: np.asarray(values[leaf] + sign * step * direction)}
            ends.append(run([node], moved, SIZES)[0].astype(np.float64))
        numeric = np.sum((ends[0] - ends[1]) * values[weight]) / (2 * step)
        scale = np.sum(np.abs(ends[0] - ends[1]) * np.abs(values[weight])) / (2 * step) + 1
        assert np.sum(slope * direction) == pytest.approx(numeric, abs=rtol * scale), (node, leaf.attrs)


# --- records -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_record_is_complete(name):
    record = ops.PRIMITIVES[name]
    assert record.name == name
    assert callable(record.infer) and callable(record.evaluate) and callable(record.sample)
    assert (record.gradient is None) == (name in WITHOUT_GRADIENT)
    assert hasattr(ops, name), "each primitive has a builder of its name"


def test_samples_belong_to_primitives():
    assert set(SAMPLES) <= set(ops.PRIMITIVES)


@pytest.mark.parametrize("name", NAMES)
def test_types_are_those_of_values(name):
    rng = np.random.default_rng(1)
    record = ops.PRIMITIVES[name]
    samples = record.sample(rng)
    assert len(samples) >= 20
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for node, leaves in samples:
            applied = application(record, node)
            assert record.infer(tuple(arg.type for arg in applied.args), applied.attrs) == applied.type
            values = values_for(leaves, rng)
            if applied in values:
                continue
            arguments = run(applied.args, values, SIZES) if all(map(is_tensor, applied.args)) else None
            result = run([applied], values, SIZES)[0]
            if arguments is not None:                  # not under the interpreter's guard against warnings
                result = record.evaluate(arguments, applied, SIZES)
            types, results = ((applied.type,), (result,)) if is_tensor(applied) else (applied.type, result)
            for type_, array in zip(types, results, strict=True):
                assert np.shape(array) == tuple(evaluate(size, SIZES) for size in type_.shape)
                assert np.asarray(array).dtype == type_.dtype.numpy


# --- gradients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradient_is_that_of_finite_differences(name):
    rng = np.random.default_rng(2)
    checked = 0
    for node, leaves in ops.PRIMITIVES[name].sample(rng):
        wrt = [leaf for leaf in leaves if leaf.dtype is f64]
        if node.dtype.kind == "float":
            directional_check(node, wrt, values_for(leaves, rng), rng, 1e-6 if node.dtype is f64 else 1e-5)
            checked += 1
    assert checked >= 20


@pytest.mark.parametrize("name", sorted(set(DIFFERENTIABLE) - {"cast", "input", "param", "state", "local"}))
def test_gradient_of_gradient_is_that_of_finite_differences(name):
    rng = np.random.default_rng(3)
    samples = [(node, leaves) for node, leaves in ops.PRIMITIVES[name].sample(rng) if node.dtype is f64 and leaves]
    for node, leaves in samples[3::6] if name in ("scan", "contract", "reduce") else samples[3:16:4]:
        wrt = [leaf for leaf in leaves if leaf.dtype is f64]
        # The square makes the second derivative of linear primitives more than 0.
        first = gradient([(ops.mul(node, node), ops.input("first", f64, node.shape))], wrt)
        values = values_for([*leaves, ops.input("first", f64, node.shape)], rng)
        for slope in first:
            directional_check(slope, wrt, values, rng, 1e-5)


def test_gradient_of_ties_is_shared():
    x = ops.input("x", f64, (2, 3))
    values = {x: np.array([[1.0, 1.0, 0.0], [2.0, 2.0, 2.0]])}
    one = ops.filled(TensorType(f64, (2,)), 1.0)
    shares, = run(gradient([(ops.reduce(x, "max", (1,)), one)], [x]), values, {})
    np.testing.assert_array_equal(shares, [[0.5, 0.5, 0], [1 / 3, 1 / 3, 1 / 3]])
    halves, = run(gradient([(ops.maximum(x, ops.like(x, 1.0)), ops.like(x, 1.0))], [x]), values, {})
    np.testing.assert_array_equal(halves, [[0.5, 0.5, 0], [1, 1, 1]])


def test_gradient_of_prod_at_zeros():
    x = ops.input("x", f64, (3, 3))
    values = {x: np.array([[2.0, 3.0, 4.0], [2.0, 0.0, 4.0], [0.0, 0.0, 4.0]])}
    shares, = run(gradient([(ops.reduce(x, "prod", (1,)), ops.filled(TensorType(f64, (3,)), 1.0))], [x]), values, {})
    np.testing.assert_array_equal(shares, [[12, 8, 6], [0, 8, 0], [0, 0, 0]])


def test_custom_rule_replaces_the_gradient():
    x = ops.input("x", f64, (2,))
    a, n, g = ops.local(0, f64, (2,)), ops.local(1, i32, ()), ops.local(2, f64, (2,))
    y = ops.custom(ops.exp(x), (x, ops.input("n", i32, ())), Graph((a, n, g), {"0": ops.scaled(ops.mul(g, a), 10.0)}))
    shares, = run(gradient([(y, ops.like(x, 1.0))], [x]), {x: np.array([1.0, 2.0])}, {})
    np.testing.assert_array_equal(shares, [10, 20])


def test_weights_of_a_loop_get_one_product_after_it():
    for result, _ in SAMPLES["scan"](np.random.default_rng(0)):
        loop = result.args[0]
        weights = [arg for arg in loop.args if arg.op.name == "input" and arg.attrs["name"] == "u"]
        if weights and is_tensor(result) and result.attrs["index"] == 0 and loop.attrs["length"] == 5:
            share, = gradient([(result, ops.filled(result.type, 1.0))], weights)
            assert share.op.name == "contract" and 5 in share.attrs["reduce"]


def test_a_loop_and_its_gradient_share_the_way_forward():
    for result, leaves in SAMPLES["scan"](np.random.default_rng(0)):
        weight = ops.input("weight", result.dtype, result.shape)
        wrt = [leaf for leaf in leaves if leaf.dtype is f64]
        if result.dtype is not f64 or result.args[0].attrs["length"] != 5:
            continue
        separate = [result, *gradient([(result, weight)], wrt)]
        merged = simplify(separate)
        assert sum(node.op.name == "scan" for node in topological(merged)) <= 2
        values = values_for([*leaves, weight], np.random.default_rng(5))
        for a, b in zip(run(separate, values, {}), run(merged, values, {})):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


# --- values ------------------------------------------------------------------------------------------------------


def contract_by_definition(node, arrays):
    """The sum of products, element by element."""
    shape, sums, maps = node.attrs["shape"], node.attrs["reduce"], node.attrs["maps"]
    result = np.zeros(shape)
    for at in np.ndindex(*shape, *sums):
        product = 1.0
        for array, operand in zip(arrays, maps):
            place = []
            for size, index in zip(array.shape, operand):
                whole, rest = divmod(sum(c * at[k] for k, c in index.terms) + index.offset, index.divisor)
                place.append(whole if rest == 0 and 0 <= whole < size else None)
            product *= 0.0 if None in place else array[tuple(place)]
        result[at[:len(shape)]] += product
    return result


def test_contract_is_its_definition():
    rng = np.random.default_rng(4)
    for sample, leaves in ops.PRIMITIVES["contract"].sample(rng):
        node = application(ops.PRIMITIVES["contract"], sample)
        if node.type.size > 200:
            continue
        values = values_for(leaves, rng)
        arrays = run(node.args, values, {})
        np.testing.assert_allclose(run([node], values, {})[0], contract_by_definition(node, arrays), atol=1e-12)


def test_window_argmax_sees_nan_and_infinity():
    x = ops.input("x", f64, (1, 4, 1))
    where = ops.window_argmax(x, (2,), (2,), (1,), (3,))
    found, = run([where], {x: np.array([-np.inf, 1.0, np.nan, 2.0]).reshape(1, 4, 1)}, {})
    assert found.ravel().tolist() == [1, 1, 0]


def test_random_bits_are_philox():
    # Random123's known answer: counter and key of all ones.
    from netc.compiler.ops.random import _philox
    ones = np.full(1, 0xFFFFFFFF, np.uint64)
    words = _philox([ones] * 4, [0xFFFFFFFF, 0xFFFFFFFF])
    assert [int(word[0]) for word in words] == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


def test_sizes_may_be_symbols():
    count = Dim.symbol("N")
    x = ops.input("x", f32, (count, 4))
    assert ops.concat([x, x], 0).shape == (2 * count, 4)
    assert ops.reshape(x, (2 * count, 2)).shape == (2 * count, 2)
    assert ops.matmul(x, ops.input("w", f32, (4, 5))).shape == (count, 5)
    share, = gradient([(ops.slice(x, (1, 0), (count, 4), (1, 2)), ops.input("g", f32, (count - 1, 2)))], [x])
    assert share.shape == x.shape


@pytest.mark.parametrize("build, text", [
    (lambda: ops.add(ops.input("a", f32, (2,)), ops.input("b", f32, (3,))), "f32[2] and f32[3]"),
    (lambda: ops.add(ops.input("a", f32, (2,)), ops.input("b", f64, (2,))), "f32[2] and f64[2]"),
    (lambda: ops.exp(ops.input("a", i32, (2,))), "floating-point"),
    (lambda: ops.reshape(ops.input("a", f32, (2, 3)), (4,)), "6 elements into [4]"),
    (lambda: ops.broadcast(ops.input("a", f32, (2,)), (3, 3), (0,)), "cannot broadcast"),
    (lambda: ops.slice(ops.input("a", f32, (2,)), (0,), (3,)), "not within axis 0"),
    (lambda: ops.concat([ops.input("a", f32, (2,)), ops.input("b", f32, (2, 2))], 0), "cannot concatenate"),
    (lambda: ops.transpose(ops.input("a", f32, (2, 2)), (0, 0)), "not an order"),
    (lambda: ops.reduce(ops.input("a", f32, (2,)), "sum", (1,)), "not all axes"),
    (lambda: ops.reduce(ops.input("a", f32, (0,)), "max", (0,)), "no elements"),
    (lambda: ops.matmul(ops.input("a", f32, (2, 3)), ops.input("b", f32, (2, 3))), "clash"),
    (lambda: ops.gather(ops.input("a", f32, (2,)), ops.input("b", f32, (2,))), "integers"),
    (lambda: ops.random_bits(ops.input("a", i32, ()), (2,), 0), "seed"),
    (lambda: ops.constant(0.5, i64), "not a value of i64"),
])
def test_refusals_name_the_types(build, text):
    with pytest.raises(TypeRuleError) as caught:
        build()
    assert text in str(caught.value)
