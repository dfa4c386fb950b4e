"""The same bits: whatever the number of threads, whatever the samples beside, however often."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import netc
from netc.profiling import random_inputs

EXAMPLES = Path(__file__).parents[1] / "examples"
# Every example that is a whole model: those that others import give a model no data.
PROGRAMS = [path.stem for path in sorted(EXAMPLES.glob("*.net"))
            if not re.search(r"f32\[N, H, W, C\]", path.read_text(encoding="utf-8")) and path.stem != "inception_block"]
THREADS = (1, 2, 4)
BATCHES = (1, 7, 32)
SIZES = 6           # of every symbol but the batch's


@pytest.fixture(autouse=True)
def threads_as_before():
    from netc.runtime import pool
    before = pool.threads()
    yield
    netc.set_threads(before)


def compiled(name: str) -> netc.Function:
    return netc.compile(EXAMPLES / f"{name}.net")


def inputs_of(fn, program: str, batch: int) -> dict[str, np.ndarray]:
    return random_inputs(fn.program(program).signature, batch,
                         {name: SIZES for name in symbols(fn) if name != batch_of(fn)})


def symbols(fn) -> set[str]:
    types = [*fn.inputs.values(), *fn.targets.values()]
    return {symbol for type_ in types for size in type_.shape if not isinstance(size, int) for symbol in size.symbols}


def batch_of(fn) -> str | None:
    return fn.program("predict").signature.batch


def seed_of(fn, program: str) -> dict[str, int]:
    return {"seed": 3} if fn.program(program).uses_seed else {}


def outputs(fn, weights, inputs) -> list[np.ndarray]:
    result = fn(weights, inputs, **seed_of(fn, "predict"))
    return list(result) if isinstance(result, tuple) else [result]


@pytest.mark.parametrize("name", PROGRAMS)
def test_outputs_do_not_depend_on_threads_or_repetition(name):
    fn = compiled(name)
    weights, inputs = fn.init(seed=1), inputs_of(fn, "predict", 32)
    found = set()
    for threads in THREADS:
        netc.set_threads(threads)
        fn = compiled(name)
        for _ in range(8):
            found.add(tuple(array.tobytes() for array in outputs(fn, weights, inputs)))
    assert len(found) == 1


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_sample_does_not_depend_on_those_beside_it(name):
    fn = compiled(name)
    batch = batch_of(fn)
    if batch is None or not all(type_.shape and batch in getattr(type_.shape[0], "symbols", ())
                                for type_ in fn.outputs.values()):
        pytest.skip("the outputs are not one row a sample")
    weights, inputs = fn.init(seed=1), inputs_of(fn, "predict", max(BATCHES))
    batched = fn.program("predict").signature.batched()
    whole = outputs(fn, weights, inputs)
    for samples in BATCHES:
        part = {key: value[:samples] if key in batched else value for key, value in inputs.items()}
        for array, some in zip(whole, outputs(fn, weights, part)):
            assert array[:samples].tobytes() == some.tobytes(), f"{samples} of {max(BATCHES)} samples"


@pytest.mark.parametrize("name", [name for name in PROGRAMS if compiled(name).model.optimizer is not None])
def test_trained_weights_do_not_depend_on_threads(name):
    fn = compiled(name)
    start, batch = fn.init(seed=1), inputs_of(fn, "step", 8)
    found = set()
    for threads in THREADS:
        netc.set_threads(threads)
        step = compiled(name).trainer(start, seed=5)
        losses = [step(batch) for _ in range(2)]
        found.add((step.weights.flat.tobytes(), str(losses)))
    assert len(found) == 1


@pytest.mark.parametrize("name", PROGRAMS)
def test_bound_weights_give_the_same_bits(name):
    fn = compiled(name)
    weights, predict = fn.init(seed=1), fn.bind(fn.init(seed=1))
    for batch in (1, 5):
        inputs = inputs_of(fn, "predict", batch)
        for _ in range(2):          # the second call takes the shorter way
            result = predict(**inputs, **seed_of(fn, "predict"))
            result = result if isinstance(result, tuple) else [result]
            for one, other in zip(outputs(fn, weights, inputs), result, strict=True):
                assert one.tobytes() == other.tobytes()


def test_a_sum_over_three_axes_is_cut_alike_where_weights_are_bound():
    fn = netc.compile("net 1\nmodel M(x: f32[N, 5, 4, 6, 2]):\n    param gain: f32[2] = normal\n"
                      "    return sum(x * gain, axis = (1, 2, 3))\n")
    weights, x = fn.init(seed=1), np.random.default_rng(0).normal(size=(12, 5, 4, 6, 2)).astype(np.float32)
    assert fn.bind(weights)(x).tobytes() == fn(weights, x).tobytes()


def test_a_sum_of_products_of_which_one_is_bound_in_panels():
    """Its columns are padded, those of the other are not: where the two would be added up must not depend on it."""
    fn = netc.compile("""net 1

model M(x: f32[N, 32], z: f32[N, 8]) -> (y: f32[N, 60]):
    param a: f32[32, 60] = normal
    param b: f32[8, 60] = normal
    y = tanh(x @ a + z @ b)
""")
    weights, rng = fn.init(seed=1), np.random.default_rng(0)
    x, z = (rng.normal(size=(50, size)).astype(np.float32) for size in (32, 8))
    assert fn.bind(weights)(x, z).tobytes() == fn(weights, x, z).tobytes()


def test_large_dense_kernels_are_bound_in_panels():
    text = "net 1\nmodel M(x: f32[N, T, 160]):\n    return x |> Dense(256, relu) |> Dense(40)\n"
    for precision in ("f32", "f64"):
        fn = netc.compile(text, precision=precision)
        weights = fn.init(seed=1)
        predict = fn.bind(weights)
        assert any(name.startswith("bound") for name in predict._slots)
        for shape in ((1, 1, 160), (2, 3, 160), (30, 4, 160)):
            x = np.random.default_rng(0).normal(size=shape).astype(fn.inputs["x"].dtype.numpy)
            for result in (predict(x), predict(x), predict(x=x), predict({"x": x.tolist()})):
                assert result.tobytes() == fn(weights, x).tobytes()
        with pytest.raises(netc.InputError, match="dimension 2 of `x` is 3, expected 160"):
            predict(np.zeros((1, 1, 3)))
    with pytest.raises(netc.WeightsError):
        fn.bind(weights.flat)
    assert repr(predict).endswith("its weights bound")
