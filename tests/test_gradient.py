"""The reverse-mode driver: what it sums, what it skips, and its answers against finite differences and others."""

from __future__ import annotations

import numpy as np
import pytest

from netc.compiler import ops
from netc.compiler.gradient import grad, gradient, zeros
from netc.compiler.interpret import interpret
from netc.compiler.ir import Graph, topological
from netc.compiler.simplify import erase_gradient_marks, simplify_graph
from netc.compiler.types import Dim, TypeRuleError, evaluate, f64, i32
from netc.compiler.verify import verify

N, T = Dim.symbol("N"), Dim.symbol("T")


def leaves_of(roots):
    return [each for each in topological(roots) if each.op.name in ("input", "param")]


def values(roots, arrays, sizes=None):
    """The values of nodes, computed as they are and simplified: both must agree."""
    roots = list(roots)
    leaves = dict.fromkeys([*arrays, *leaves_of(roots)])
    graph = Graph(tuple(leaves), {str(k): root for k, root in enumerate(roots)})
    verify(graph)
    plain = interpret(graph, arrays, sizes)
    simpler = simplify_graph(erase_gradient_marks(graph))
    verify(simpler)
    for name, value in interpret(simpler, arrays, sizes).items():
        np.testing.assert_allclose(value, plain[name], rtol=1e-9, atol=1e-11)
    return list(plain.values())


def draw(leaves, sizes=None, seed=0):
    rng = np.random.default_rng(seed)
    return {leaf: rng.uniform(0.3, 1.2, [evaluate(size, sizes or {}) for size in leaf.shape]) for leaf in leaves}


def check(y, wrt, sizes=None, seed=0, step=1e-6):
    """Gradients of the scalar ``y`` against central differences; the gradients' values."""
    arrays = draw(leaves_of([y]), sizes, seed)
    got = values(grad(y, wrt), arrays, sizes)
    graph = Graph(tuple(arrays), {"y": y})
    for leaf, value in zip(wrt, got):
        want = np.zeros_like(arrays[leaf])
        for place in np.ndindex(want.shape):
            sides = []
            for sign in (1, -1):
                moved = arrays[leaf].copy()
                moved[place] += sign * step
                sides.append(interpret(graph, {**arrays, leaf: moved}, sizes)["y"])
            want[place] = (sides[0] - sides[1]) / (2 * step)
        np.testing.assert_allclose(value, want, rtol=1e-5, atol=1e-7)
    return got


def total(x):
    return ops.reduce(x, "sum", tuple(range(len(x.shape))))


def x_of(*shape, name="x"):
    return ops.input(name, f64, shape)


def test_paths_add_up():
    x = x_of(3)
    check(total(ops.mul(ops.add(ops.exp(x), ops.sin(x)), x)), [x])


def test_a_value_that_is_not_used_gets_zeros():
    x, other = x_of(2), x_of(N, 2, name="other")
    dx, dother = grad(total(ops.exp(x)), [x, other])
    assert dother is zeros(other.type) and dx is not zeros(x.type)
    assert zeros(x_of().type) is ops.constant(0.0, f64)


def test_inner_values_get_their_total_derivative():
    x = x_of(3)
    h = ops.exp(x)
    y = total(ops.mul(h, x))
    dh, dx = grad(y, [h, x])
    arrays = draw([x])
    got_h, got_x = values([dh, dx], arrays)
    np.testing.assert_allclose(got_h, arrays[x])
    np.testing.assert_allclose(got_x, np.exp(arrays[x]) * (1 + arrays[x]))


def test_the_gradient_of_a_value_by_itself_is_its_cotangent():
    x, g = x_of(3), x_of(3, name="g")
    assert gradient([(x, g)], [x]) == [g]
    assert gradient([(x, g), (ops.neg(x), g)], [x]) == [ops.add(g, ops.neg(g))]


def test_only_what_depends_on_the_values_is_differentiated():
    x, w = x_of(3), x_of(3, name="w")
    (dw,) = grad(total(ops.mul(ops.exp(ops.exp(x)), w)), [w])
    assert sum(each.op.name == "exp" for each in topological([dw])) == 2


def test_what_is_not_differentiable_cuts_the_flow():
    x = x_of(3)
    kept = ops.cast(ops.cast(x, i32), f64)
    check_zero = grad(total(ops.mul(kept, ops.cast(ops.lt(x, kept), f64))), [x])
    assert check_zero == [zeros(x.type)]
    (dx,) = grad(total(ops.mul(ops.stop_gradient(x), x)), [x])
    arrays = draw([x])
    np.testing.assert_allclose(values([dx], arrays)[0], arrays[x])


def test_errors():
    x, k = x_of(3), ops.input("k", i32, (3,))
    with pytest.raises(TypeRuleError, match="with respect to a value of type i32"):
        grad(total(x), [k])
    with pytest.raises(TypeRuleError, match="scalar"):
        grad(x, [x])
    with pytest.raises(TypeRuleError, match="the cotangent of"):
        gradient([(x, ops.constant(1.0, f64))], [x])


def test_second_derivatives():
    x = x_of(3)
    (dx,) = grad(total(ops.mul(ops.tanh(x), ops.mul(x, x))), [x])
    check(total(ops.mul(dx, ops.exp(x))), [x])


def test_a_chain_may_be_long():
    x = x_of()
    y = x
    for _ in range(3000):
        y = ops.sin(y)
    assert np.isfinite(values(grad(y, [x]), draw([x]))[0])


def test_a_small_network():
    x, w, b = x_of(N, 4), x_of(4, 3, name="w"), x_of(3, name="b")
    h = ops.add(ops.matmul(x, w), ops.broadcast(b, (N, 3), (1,)))
    top = ops.broadcast(ops.reduce(h, "max", (1,)), (N, 3), (0,))
    e = ops.exp(ops.sub(h, ops.stop_gradient(top)))
    p = ops.div(e, ops.broadcast(ops.reduce(e, "sum", (1,)), (N, 3), (0,)))
    loss = ops.div(total(ops.mul(p, ops.log(p))), ops.size(N, f64))
    check(loss, [x, w, b], {"N": 5})


def test_a_rule_of_its_own():
    x = x_of(3)
    leaf, g = ops.local(0, f64, (3,)), ops.local(1, f64, (3,))
    rule = Graph((leaf, g), {"0": ops.mul(g, ops.add(leaf, leaf))})
    arrays = draw([x])
    (dx,) = grad(total(ops.custom(ops.exp(ops.neg(x)), [x], rule)), [x])
    np.testing.assert_allclose(values([dx], arrays)[0], 2 * arrays[x])


# --- loops -------------------------------------------------------------------------------------------------------


def recurrence(reverse=False, both=True):
    """h <- tanh(x_t w + h u), with a result from the last h and one from all."""
    x, w, u, start = (x_of(T, N, 2), x_of(2, 3, name="w"), x_of(3, 3, name="u"), x_of(N, 3, name="start"))
    h, row, kernel, again = (ops.local(k, f64, shape) for k, shape in enumerate([(N, 3), (N, 2), (2, 3), (3, 3)]))
    new = ops.tanh(ops.add(ops.matmul(row, kernel), ops.matmul(h, again)))
    body = Graph((h, row, kernel, again), {"0": new, "1": ops.mul(h, new)})
    loop = ops.scan([start], [x], [w, u], body, T, reverse)
    y = total(ops.exp(ops.item(loop, 0)))
    return (ops.add(y, total(ops.item(loop, 1))) if both else y), (x, w, u, start)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("both", [False, True])
def test_a_loop(reverse, both):
    y, leaves = recurrence(reverse, both)
    check(y, leaves, {"T": 4, "N": 2})


def test_a_loop_whose_collected_values_alone_are_used():
    x = x_of(3, 2)
    carry, row = ops.local(0, f64, (2,)), ops.local(1, f64, (2,))
    body = Graph((carry, row), {"0": ops.mul(carry, row), "1": ops.sin(carry)})
    loop = ops.scan([ops.broadcast(ops.constant(1.0, f64), (2,), ())], [x], [], body, 3)
    check(total(ops.item(loop, 1)), [x])


def test_a_loop_in_a_loop():
    x, w = x_of(2, 3, 2), x_of(2, name="w")
    c, row, by = (ops.local(k, f64, (2,)) for k in range(3))
    inner = Graph((c, row, by), {"0": ops.tanh(ops.add(ops.mul(c, by), row))})
    start, rows, outer_by = ops.local(0, f64, (2,)), ops.local(1, f64, (3, 2)), ops.local(2, f64, (2,))
    nested = ops.item(ops.scan([start], [rows], [outer_by], inner, 3), 0)
    outer = Graph((start, rows, outer_by), {"0": nested, "1": ops.mul(nested, outer_by)})
    loop = ops.scan([ops.broadcast(ops.constant(0.5, f64), (2,), ())], [x], [w], outer, 2)
    check(ops.add(total(ops.item(loop, 0)), total(ops.item(loop, 1))), [x, w])


def test_the_second_derivative_of_a_loop():
    x, w = x_of(3, 2), x_of(2, name="w")
    c, row, by = (ops.local(k, f64, (2,)) for k in range(3))
    body = Graph((c, row, by), {"0": ops.tanh(ops.add(ops.mul(c, by), row))})
    y = total(ops.item(ops.scan([ops.broadcast(ops.constant(0.5, f64), (2,), ())], [x], [w], body, 3), 0))
    dx, dw = grad(y, [x, w])
    check(ops.add(total(ops.mul(dx, dx)), total(ops.exp(dw))), [x, w])


# --- against torch -----------------------------------------------------------------------------------------------


def test_a_strided_convolution_against_torch():
    torch = pytest.importorskip("torch")
    x, kernel = x_of(2, 7, 6, 3), x_of(3, 2, 3, 4, name="k")
    y = ops.convolution(x, kernel, (2, 1), (1, 2), (1, 0), (4, 4))
    loss = total(ops.mul(y, ops.sin(y)))
    arrays = draw([x, kernel])
    got = values([loss, *grad(loss, [x, kernel])], arrays)
    tx, tk = (torch.tensor(arrays[leaf], requires_grad=True) for leaf in (x, kernel))
    ty = torch.conv2d(tx.permute(0, 3, 1, 2), tk.permute(3, 2, 0, 1), stride=(2, 1), padding=(1, 0), dilation=(1, 2))
    tloss = (ty * ty.sin()).sum()
    tloss.backward()
    for value, want in zip(got, (tloss, tx.grad, tk.grad)):
        np.testing.assert_allclose(value, want.detach().numpy(), rtol=1e-9)


def test_a_gated_loop_against_torch():
    torch = pytest.importorskip("torch")
    steps, size = 5, 3
    x, w, u = x_of(steps, 2, 4), x_of(4, 4 * size, name="w"), x_of(size, 4 * size, name="u")
    shapes = [(2, size), (2, size), (2, 4), (4, 4 * size), (size, 4 * size)]
    h, c, row, lw, lu = (ops.local(k, f64, shape) for k, shape in enumerate(shapes))
    gates = ops.add(ops.matmul(row, lw), ops.matmul(h, lu))
    i, f, g, o = (ops.slice(gates, (0, k * size), (2, (k + 1) * size)) for k in range(4))
    new_c = ops.add(ops.mul(ops.sigmoid(f), c), ops.mul(ops.sigmoid(i), ops.tanh(g)))
    new_h = ops.mul(ops.sigmoid(o), ops.tanh(new_c))
    nothing = ops.broadcast(ops.constant(0.0, f64), (2, size), ())
    loop = ops.scan([nothing, nothing], [x], [w, u], Graph((h, c, row, lw, lu), {"0": new_h, "1": new_c, "2": new_h}),
                    steps)
    loss = total(ops.mul(ops.item(loop, 2), ops.exp(ops.item(loop, 2))))
    arrays = draw([x, w, u])
    got = values([loss, *grad(loss, [x, w, u])], arrays)
    lstm = torch.nn.LSTM(4, size, bias=False).double()
    with torch.no_grad():
        lstm.weight_ih_l0.copy_(torch.tensor(arrays[w].T))
        lstm.weight_hh_l0.copy_(torch.tensor(arrays[u].T))
    tx = torch.tensor(arrays[x], requires_grad=True)
    every, _ = lstm(tx)
    tloss = (every * every.exp()).sum()
    tloss.backward()
    wants = (tloss, tx.grad, lstm.weight_ih_l0.grad.T, lstm.weight_hh_l0.grad.T)
    for value, want in zip(got, wants):
        np.testing.assert_allclose(value, want.detach().numpy(), rtol=1e-8)
