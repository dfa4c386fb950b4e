"""Large gradients that the optimiser's kernel computes itself: which do, at which sizes, and that the step is right."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

import netc
from netc.compiler.schedule import Step
from netc.runtime import pool


@pytest.fixture
def threads_as_before():
    before = pool.threads()
    yield
    netc.set_threads(before)


DENSE = """net 1

model M(a: f32[N, 300], b: f32[N, 300]) -> (y: f32[N, 4]):
    embed = Dense(120, tanh{settings})
    y = {value} |> Dense(4)

train M:
    input t: f32[N, 4]
    loss square = mean((y - t) ** 2)
    optimizer = {optimizer}
"""
TABLE = """net 1

model M(words: i32[N, T]) -> (y: f32[N, 4]):
    table = Embedding(700, 48)
    y = mean(table(words){more}, axis = 1) |> Dense(4)

train M:
    input t: f32[N, 4]
    loss square = mean((y - t) ** 2)
    optimizer = {optimizer}
"""


def dense(value: str = "embed(a)", settings: str = "", optimizer: str = "adam(lr = 1e-2)") -> str:
    return DENSE.format(value=value, settings=settings, optimizer=optimizer)


def table(more: str = "", optimizer: str = "adam(lr = 1e-2)") -> str:
    return TABLE.format(more=more, optimizer=optimizer)


def drawn(fn: netc.Function, samples: int, words=None) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(samples)
    shapes = {"a": (samples, 300), "b": (samples, 300), "t": (samples, 4)}
    wanted = {*fn.inputs, *fn.targets}
    batch = {name: rng.normal(size=shape).astype("f4") for name, shape in shapes.items() if name in wanted}
    if "words" in fn.inputs:
        batch["words"] = np.asarray(rng.integers(0, 700, (samples, 9)) if words is None else words, "i4")
    return batch


def conditions(fn: netc.Function) -> list[bool]:
    """Of the steps that are not always done: whether they are for one sample."""
    return [step.when.is_one for step in fn.program("step").executable.steps if isinstance(step, Step) and step.when]


def labels(fn: netc.Function) -> list[str]:
    return [getattr(step, "label", "scan") for step in fn.program("step").executable.steps]


def check(text: str, samples: int, words=None) -> netc.Function:
    """Some steps, against the interpreter's."""
    fn, reference = netc.compile(text), netc.compile(text, target="numpy")
    found, expected = (each.trainer(each.init(seed=1)) for each in (fn, reference))
    batch = drawn(fn, samples, words)
    for _ in range(3):
        assert found(batch)["loss"] == pytest.approx(expected(batch)["loss"], rel=1e-4)
    np.testing.assert_allclose(found.weights.flat, expected.weights.flat, rtol=2e-3, atol=2e-5)
    return fn


# --- sums over samples ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam(lr = 1e-2)", "sgd(lr = 1e-2, momentum = 0.9)",
                                       "adamw(lr = 1e-2, weight_decay = 0.1)"])
@pytest.mark.parametrize("samples", [1, 2, 5])
def test_of_one_sample_the_optimizer_computes_an_outer_product(optimizer, samples):
    fn = check(dense(optimizer=optimizer), samples)
    assert conditions(fn) == [False, False, True]


@pytest.mark.parametrize("samples", [1, 4])
def test_of_shared_weights_it_is_a_sum_of_outer_products(samples):
    fn = check(dense("embed(a) * embed(b)"), samples)
    assert conditions(fn) == [False, False, False, True]


@pytest.mark.parametrize("samples", [1, 4])
def test_a_penalty_is_added_to_it(samples):
    fn = check(dense(settings=", l2 = 1e-2"), samples)
    assert conditions(fn) == [False, False, True]


def test_what_needs_the_whole_gradient_gets_it():
    fn = check(dense(optimizer="adam(lr = 1e-2, global_clipnorm = 1.0)"), 1)
    assert conditions(fn) == []


def test_of_one_sample_no_product_makes_the_gradient():
    fn = netc.compile(dense())
    kernels = [[step.kernel for step in fn.profile("step", drawn(fn, samples)).steps] for samples in (1, 2)]
    assert not any("300x120x1" in kernel for kernel in kernels[0])
    assert any("300x120x2" in kernel for kernel in kernels[1])
    arenas = [fn.program("step").executable.bind({"N": samples}).arena_bytes for samples in (1, 2)]
    assert arenas[0] < 300 * 120 * 4 < arenas[1]


TRAIN = """
train M:
    input t: f32[N, 4]
    loss square = mean((y - t) ** 2)
    optimizer = sgd(lr = 1e-2)
"""


@pytest.mark.parametrize("text", [
    # The way back adds a second gradient to dy after the product has read it.
    """model M(a: f32[N, 300]) -> (y: f32[N, 4]):
    z = Dense(20, relu)(a)
    y = Dense(4)(tanh(z + Dense(20, use_bias = false)(Dense(2000)(z))))
""",
    # The updates of a table are added up in dy's memory.
    """model M(words: i32[N, 9], a: f32[N, 300]) -> (y: f32[N, 4]):
    x = Dense(2000)(a)
    z = Embedding(5000, 10)(words[:, :2]) |> Reshape(20)
    y = Dense(4)(tanh(z + Dense(20, use_bias = false)(x)))
""",
    # Two views of one kernel, of different rows and columns.
    """model M(a: f32[N, 300], b: f32[N, 300]) -> (y: f32[N, 4]):
    param w: f32[300, 200] = glorot_uniform
    y = Dense(4)(concat(tanh(a @ w), tanh(b[:, :200] @ reshape(w, (200, 300)))))
""",
    # A penalty that depends on where an element is.
    """model M(a: f32[N, 300]) -> (y: f32[N, 4]):
    param k: f32[300, 200] = glorot_uniform
    penalty 0.000001 * sum(reshape(k, (60000)) * cast(arange(60000), f32))
    y = Dense(4)(tanh(a @ k))
""",
    """model M(a: f32[N, 300]) -> (y: f32[N, 4]):
    param k: f32[300, 200] = glorot_uniform
    flat = reshape(k, (60000))
    penalty 0.01 * sum(flat[1:] * flat[:-1])
    y = Dense(4)(tanh(a @ k))
""",
    """model M(words: i32[N, 9]) -> (y: f32[N, 4]):
    param k: f32[700, 48] = glorot_uniform
    penalty 0.00001 * sum(reshape(k, (33600)) * cast(arange(33600), f32))
    y = Dense(4)(mean(gather(k, words), axis = 1))
"""], ids=["added to", "added up in", "of two shapes", "by place", "of neighbours", "table by place"])
@pytest.mark.parametrize("samples", [1, 3])
def test_what_an_outer_product_or_a_table_is_made_of_is_what_it_was(text, samples):
    check("net 1\n\n" + text + TRAIN, samples, np.full((samples, 9), 7))


@pytest.mark.parametrize("samples", [1, 3])
def test_weights_that_an_outer_product_reads_are_the_old_ones(samples):
    check("""net 1

model M(a: f32[N, 300]) -> (y: f32[N, 20]):
    x = Dense(2000)(a)
    param s: f32[20] = 0.5 * ones(20)
    param k: f32[2000, 20] = glorot_uniform
    y = (x @ k) * s

train M:
    loss total = sum(y)
    optimizer = sgd(lr = 1e-2)
""", samples)


# --- tables -----------------------------------------------------------------------------------------------------------

WORDS = {"some": None, "equal": np.full((4, 9), 3), "last": np.full((4, 9), 699),
         "repeated": np.arange(36).reshape(4, 9) % 5}


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("optimizer", ["adam(lr = 1e-2)", "sgd(lr = 1e-1)"])
def test_updates_are_added_up_where_they_lie(words, optimizer):
    fn = check(table(optimizer=optimizer), 4, WORDS[words])
    assert "first rows" in labels(fn)


def test_a_single_sample():
    check(table(), 1, [[699] * 8 + [3]])


def test_a_table_that_is_read_twice():
    check(table(" + table((words + 1) % 700)"), 4)


def test_updates_of_two_tables_stay_for_the_second():
    fn = check(table(" + other((words + 1) % 700)").replace("    y =", "    other = Embedding(700, 48)\n    y ="), 4)
    assert labels(fn).count("first rows") == 1 and labels(fn).count("scatter_add") == 2


def test_rows_that_nobody_reads_move_by_their_moments_alone():
    fn = netc.compile(table())
    trainer = fn.trainer(fn.init(seed=1))
    tables = [trainer.weights["table.embeddings"]]
    for word in (0, 1):
        trainer(drawn(fn, 2, np.full((2, 9), word)))
        tables.append(trainer.weights["table.embeddings"])
    moved = [np.flatnonzero((one != other).any(axis=1)).tolist() for one, other in pairwise(tables)]
    assert moved == [[0], [0, 1]]


@pytest.mark.parametrize("text", [dense(), table()])
def test_threads_change_no_bit(text, threads_as_before):
    fn, found = netc.compile(text), set()
    for threads in (1, 2, 3):
        netc.set_threads(threads)
        trainer = fn.trainer(fn.init(seed=1))
        for samples in (1, 3):
            trainer(drawn(fn, samples))
        found.add(trainer.weights.flat.tobytes())
    assert len(found) == 1
