"""Nothing hidden: no call changes what it is given, equal calls give equal bits, results stay what they were."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import netc

hypothesis = pytest.importorskip("hypothesis")
given, settings, st = hypothesis.given, hypothesis.settings, hypothesis.strategies

MODELS = {
    "two inputs": """net 1

model M(x: f32[N, 3], item: i32[N, T]) -> (score: f32[N, 1], code: f32[N, 3]):
    code = x + mean(Embedding(5, 3)(item), axis = 1)
    score = Dense(1)(tanh(code))

train M:
    input y: f32[N, 1]
    loss error = mean((score - y) ** 2)
    metric worst = max(abs(score - y))
    optimizer = adam(lr = 0.1)
""",
    "random and stateful": """net 1

model M(x: f32[N, 3]) -> f32[N, 2]:
    state calls: i32 = 0
    calls = calls + 1
    return x |> Dropout(0.3) |> BatchNorm() |> Dense(2) |> GaussianNoise(0.1)

train M:
    input y: f32[N, 2]
    loss error = mean((output - y) ** 2)
    loss noise = mean(abs(output + random_normal(shape(output))))
    optimizer = sgd(lr = 0.1, momentum = 0.9, clipnorm = 1.0)
""",
    "over time": """net 1

model M(x: f32[N, T, 2]) -> (last: f32[N, 2], all: f32[N, T, 4]):
    all = Bidirectional(GRU, 2, return_sequences = true)(x)
    last = Dense(2)(all[:, -1])

train M:
    input y: f32[N, 2]
    loss error = mean((last - y) ** 2)
    optimizer = rmsprop()
""",
}
SYMBOLS = ("N", "T")
FUNCTIONS: dict[tuple[str, str], netc.Function] = {}


def function(name: str, target: str) -> netc.Function:
    if (name, target) not in FUNCTIONS:
        FUNCTIONS[name, target] = netc.compile(MODELS[name], target=target)
    return FUNCTIONS[name, target]


# --- what is drawn ------------------------------------------------------------------------------------------------


@st.composite
def laid_out(draw, array: np.ndarray) -> np.ndarray:
    """The same numbers in some memory: contiguous, transposed, every second of a larger array, read-only, wider."""
    kind = draw(st.sampled_from(["plain", "transposed", "strided", "read-only", "wide", "list"]))
    if kind == "transposed":
        return np.asfortranarray(array)
    if kind == "strided":
        wide = np.repeat(array, 2, axis=0)
        return wide[::2]
    if kind == "read-only":
        array.flags.writeable = False
    if kind == "wide":
        return array.astype(np.float64 if array.dtype.kind == "f" else np.int64)
    return array.tolist() if kind == "list" else array


@st.composite
def batches(draw, fn: netc.Function) -> dict:
    sizes = {"N": draw(st.integers(1, 9)), "T": draw(st.integers(1, 4))}
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    made = {}
    for name, type_ in {**fn.inputs, **fn.targets}.items():
        shape = tuple(sizes.get(str(size), size) for size in type_.shape)
        array = (
            rng.integers(0, 5, shape).astype(np.int32)
            if type_.dtype.kind == "int"
            else rng.normal(size=shape).astype(np.float32)
        )
        made[name] = draw(laid_out(array))
    return made


def inputs_of(fn, batch):
    return {name: batch[name] for name in fn.inputs}


def seeded(fn, seed, training=True):
    return {"seed": seed} if fn.model.uses_seed and (training or fn.program("predict").uses_seed) else {}


CALLS = {
    "predict": lambda fn, w, s, batch, seed: fn(w, inputs_of(fn, batch), **seeded(fn, seed, False)),
    "value_and_grad": lambda fn, w, s, batch, seed: fn.value_and_grad(w, batch, **seeded(fn, seed)),
    "losses_and_grad": lambda fn, w, s, batch, seed: fn.losses_and_grad(w, batch, **seeded(fn, seed)),
    "step": lambda fn, w, s, batch, seed: fn.step(w, s, batch, **seeded(fn, seed)),
    "update": lambda fn, w, s, batch, seed: fn.update(w, s, w),
    "evaluate": lambda fn, w, s, batch, seed: fn.evaluate(w, batch, batch_size=4, seed=seed),
    "fit": lambda fn, w, s, batch, seed: _fitted(*fn.fit(w, batch, epochs=2, batch_size=3, seed=seed, optimizer=s)),
    "trainer": lambda fn, w, s, batch, seed: _trained(fn.trainer(w, s, seed=seed), batch),
    "trace": lambda fn, w, s, batch, seed: dict(fn.trace(w, inputs_of(fn, batch), **seeded(fn, seed, False))),
    "init": lambda fn, w, s, batch, seed: (fn.init(seed), fn.init_optimizer()),
}


def _fitted(weights, history):
    return weights, history.epochs, dict(history.optimizer)


def _trained(trainer, batch):
    losses = [trainer(batch) for _ in range(2)]
    return losses, trainer.weights, trainer.optimizer


# --- bits ---------------------------------------------------------------------------------------------------------


def bits(value):
    """A value with arrays as their bytes, so that equality is that of bits."""
    if isinstance(value, netc.Weights):
        return bits(dict(value))
    if isinstance(value, dict):
        return {key: bits(inner) for key, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return [bits(inner) for inner in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return value.dtype.str, value.shape, np.asarray(value).tobytes()
    return repr(value)


def arrays_in(value):
    if isinstance(value, (netc.Weights, dict)):
        for inner in value.values():
            yield from arrays_in(inner)
    elif isinstance(value, (tuple, list)):
        for inner in value:
            yield from arrays_in(inner)
    elif isinstance(value, np.ndarray):
        yield value


def check_pure(data, name: str, target: str, call: str) -> None:
    fn = function(name, target)
    batch = data.draw(batches(fn))
    seed = data.draw(st.integers(0, 2**31))
    w, state = fn.init(seed=data.draw(st.integers(0, 3))), fn.init_optimizer()
    given_ = (w, state, batch)
    before = bits(copy.deepcopy(given_))
    first = CALLS[call](fn, w, state, batch, seed)
    assert bits(given_) == before, f"{call} changed its arguments"
    kept = bits(first)
    for array in arrays_in(first):
        assert not any(np.shares_memory(array, other) for other in arrays_in(given_)), (
            f"{call} gives its arguments' memory away"
        )
    CALLS[call](fn, fn.init(seed=7), state, data.draw(batches(fn)), seed + 1)
    assert bits(first) == kept, f"a later {call} changed an earlier result"
    assert bits(CALLS[call](fn, w, state, batch, seed)) == kept, f"{call} twice gives different bits"
    assert bits(given_) == before


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=6, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_a_call_is_pure(name, call, data):
    check_pure(data, name, "numpy", call)


@pytest.mark.parametrize("call", ["predict", "value_and_grad", "step", "evaluate", "fit"])
@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_a_compiled_call_is_pure(call, data):
    check_pure(data, "random and stateful", "cpu", call)


@pytest.mark.parametrize("name", MODELS)
def test_fit_returns_new_weights(name):
    fn = function(name, "numpy")
    w = fn.init()
    data = {
        key: np.ones([{"N": 5, "T": 2}.get(str(size), size) for size in type_.shape], type_.dtype.numpy)
        for key, type_ in {**fn.inputs, **fn.targets}.items()
    }
    new, _ = fn.fit(w, data)
    assert new is not w and new != w and w == fn.init()
    assert not np.shares_memory(new.flat, w.flat)
