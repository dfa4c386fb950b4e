"""The function in machine code that Python calls for small programs: the results, checks and errors of the long way."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import types
import weakref

import numpy as np
import pytest

import netc
from netc.runtime import entry
from netc.runtime.entry import FORMS, MOST_OUTPUTS, Entry, Form
from netc.runtime.pool import epoch
from netc.shortcuts import FORMS_KEPT

SOURCE = """net 1

model M(x: f32[N, 3], size: f32[N]) -> f32[N, 2]:
    return x * mean(size) |> Dense(4, tanh) |> Dense(2)

train M:
    input y: f32[N, 2]
    loss error = mean((output - y) ** 2)
    optimizer = adam(lr = 0.1)
"""
PAIR = """net 1

model Pair(x: f32[N]) -> (twice: f32[N], half: f32[N]):
    twice = 2.0 * x
    half = 0.5 * x
"""


@pytest.fixture(scope="module")
def fn():
    return netc.compile(SOURCE)


@pytest.fixture(scope="module")
def pair():
    return netc.compile(PAIR)


def draw(seed: int, samples: int = 4) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {"x": generator.random((samples, 3), np.float32), "size": generator.random(samples, np.float32)}


def warmed(call, *arrays, **named):
    """A call whose form its entry knows."""
    for _ in range(2):
        call(*arrays, **named)
    assert is_native(call)
    return call


def is_native(call) -> bool:
    return isinstance(call._shortcuts.call, types.BuiltinFunctionType)


def test_this_interpreter_takes_it():
    assert entry.is_possible()


@pytest.mark.parametrize("change", ("interpreter", "lock", "array", "tuple"))
def test_others_take_the_long_way(fn, monkeypatch, change):
    monkeypatch.setattr(entry, "_known", [])
    if change == "interpreter":
        monkeypatch.setattr(sys.implementation, "name", "other")
    elif change == "lock":
        monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    elif change == "tuple":             # as of CPython 3.14, where a tuple has a word more
        monkeypatch.setattr(entry, "TUPLE_ITEMS", entry.TUPLE_ITEMS + 1)
    else:
        monkeypatch.setattr(entry, "ARRAY_DATA", entry.ARRAY_SHAPE)
    predict, batch = fn.bind(fn.init(1)), draw(0)
    expected = predict(**batch)
    for _ in range(3):
        assert (predict(**batch) == expected).all()
    assert not is_native(predict)


def test_every_way_to_name_arguments(fn):
    w = fn.init(1)
    predict = fn.bind(w)
    for number in range(3):
        batch = draw(number)
        x, size = batch.values()
        expected = fn.bind(w)(x, size).tobytes()
        for call in (predict, lambda *args, **named: fn(w, *args, **named)):
            for _ in range(3):
                found = [call(x, size), call(x, size=size), call(x=x, size=size), call(size=size, x=x), call(batch),
                         call(**{"size_"[:-1]: size, "x": x})]
                assert [array.tobytes() for array in found] == [expected] * len(found)
    assert is_native(predict) and is_native(fn)


def test_each_result_is_an_array_of_its_own(fn):
    batch = draw(0)
    predict = warmed(fn.bind(fn.init(1)), **batch)
    first = predict(**batch)
    kept = first.copy()
    second = predict(**draw(1))
    assert first is not second and (first == kept).all() and (first != second).any()
    first[...] = 0
    assert (predict(**batch) == kept).all()


def test_several_outputs(pair):
    predict = warmed(pair.bind(pair.init()), np.ones(3, np.float32))
    found = predict(np.arange(3, dtype=np.float32))
    assert type(found).__name__ == "PairOutputs" and found.twice.tolist() == [0, 2, 4] and found.half[1] == 0.5


WRONG = {
    "nothing": ((), {}, netc.InputError, "input `x`, `size` is missing"),
    "one missing": (("x",), {}, netc.InputError, "input `size` is missing"),
    "too many": (("x", "size", "size"), {}, netc.InputError, "3 inputs came, expected 2"),
    "twice": (("x",), {"x": "x", "size": "size"}, netc.InputError, "input `x` came twice"),
    "unknown": (("x",), {"sizes": "size"}, netc.InputError, "there is no input `sizes`"),
    "another shape": (("wide", "size"), {}, netc.InputError, "dimension 1 of `x` is 5, expected 3"),
    "another rank": (("size", "size"), {}, netc.InputError, "`x` has 1 dimensions"),
    "disagreeing": (("x", "short"), {}, netc.InputError, "`x` and `size` disagree on N"),
    "text": (("text", "size"), {}, netc.InputError, "`x`"),
    "none": ((None, "size"), {}, netc.InputError, "`x`"),
    "a small object": ((0, "size"), {}, netc.InputError, "`x` has 0 dimensions"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused_as_ever(fn, name):
    args, named, error, text = WRONG[name]
    values = draw(0) | {"wide": np.zeros((4, 5), np.float32), "short": np.zeros(3, np.float32), "text": "abc"}
    predict, batch = warmed(fn.bind(fn.init(1)), **draw(0)), draw(0)
    warmed(predict, *batch.values())
    expected = predict(**batch)

    def given(value):
        return values[value] if isinstance(value, str) else value
    for _ in range(3):
        with pytest.raises(error, match=text):
            predict(*map(given, args), **{key: given(value) for key, value in named.items()})
        assert (predict(**batch) == expected).all()


def test_other_kinds_of_arrays(fn):
    batch = draw(0)
    predict = warmed(fn.bind(fn.init(1)), **batch)
    expected, x = predict(**batch), batch["x"]
    sealed = x.copy()
    sealed.flags.writeable = False
    unaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(4, 3)
    for other in (x.astype(np.float64), np.asfortranarray(x), x.tolist(), x.astype(">f4"), x.view(np.memmap), sealed,
                  np.repeat(x, 2, axis=0)[::2], unaligned, np.array(x, np.dtype(np.float32, metadata={"a": 1}))):
        for _ in range(3):
            assert (predict(x=other, size=batch["size"]) == expected).all()


def test_more_forms_than_are_kept(fn):
    predict, other = fn.bind(fn.init(1)), fn.bind(fn.init(1))
    for _ in range(4):
        for samples in range(1, FORMS + 4):
            batch = draw(samples, samples)
            assert (predict(**batch) == other(batch)).all()
    assert is_native(predict) and not is_native(other)


def test_nothing_is_kept_of_arrays(fn, pair):
    batch = draw(0)
    predict, both = warmed(fn.bind(fn.init(1)), **batch), warmed(pair.bind(pair.init()), batch["size"])
    before = [sys.getrefcount(array) for array in batch.values()]
    names = {name: sys.getrefcount(name) for name in batch}
    for _ in range(1000):
        predict(**batch), both(batch["size"])
        with pytest.raises(netc.InputError):
            predict(batch["x"])
    assert [sys.getrefcount(array) for array in batch.values()] == before
    assert all(abs(sys.getrefcount(name) - count) < 100 for name, count in names.items())
    results = [predict(**batch), *both(batch["size"])]
    assert [sys.getrefcount(results[k]) for k in range(3)] == [2, 2, 2]
    dead = [weakref.ref(array) for array in results]
    del results
    assert all(reference() is None for reference in dead)


def test_arrays_and_weights_of_a_call_are_not_kept(fn):
    predict, found = fn.bind(fn.init(1)), []
    for seed in range(3):
        weights, batch = fn.init(seed), draw(seed)
        predict(**batch), fn(weights, **batch)
        found += [weakref.ref(array) for array in (weights.flat, *batch.values())]
        del weights, batch
    assert is_native(predict) and is_native(fn) and all(reference() is None for reference in found)


def test_an_entry_does_not_hold_its_owner():
    fn = netc.compile(SOURCE)
    batches = [draw(0), draw(1, 3)]                 # of a form that comes often, and of one that comes once
    targets = [np.zeros((4, 2), np.float32), np.zeros((3, 2), np.float32)]
    predict, trainer = fn.bind(fn.init(1)), fn.trainer(fn.init(1))
    for number in (0, 0, 0, 1):
        predict(**batches[number]), trainer(y=targets[number], **batches[number])
        fn(fn.init(1), **batches[number])
        fn.value_and_grad(fn.init(1), y=targets[number], **batches[number])
    expected, call = predict(**batches[0]), predict._shortcuts.call
    owners = [weakref.ref(owner) for owner in (predict, trainer, trainer.slots["weights"], fn)]
    gc.disable()
    try:
        del predict, trainer, fn
        assert [owner() for owner in owners] == [None] * 4
    finally:
        gc.enable()
    assert (call(**batches[0]) == expected).all()
    with pytest.raises(ReferenceError):
        call()


def test_few_forms_hold_memory(fn):
    predict = fn.bind(fn.init(1))
    for samples in range(1, 3 * FORMS_KEPT):
        predict(**draw(0, samples))
    assert 0 < len(predict._shortcuts._ways) <= FORMS_KEPT


def test_the_interpreter_ends_with_entries_alive(fn, tmp_path):
    """What they share outlives them, in whatever order all is freed; freed memory is overwritten here."""
    path = tmp_path / "script.py"
    path.write_text(f"""
import netc, numpy as np
fn = netc.compile({PAIR!r})
x = np.ones(3, np.float32)
predict = fn.bind(fn.init())
for _ in range(3):
    predict(x), fn(fn.init(), x)
kept = [predict._shortcuts.call, predict, type(predict._shortcuts.call).__name__]
print(kept[-1])
""")
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=100,
                          env={**os.environ, "PYTHONMALLOC": "malloc", "MALLOC_PERTURB_": "2"})
    assert (done.returncode, done.stdout) == (0, "builtin_function_or_method\n"), done.stderr


def test_eight_threads(fn):
    w, wrong = fn.init(1), []
    predict = fn.bind(w)
    batches = [draw(number) for number in range(8)]
    expected = [fn.bind(w)(**batch).tobytes() for batch in batches]

    def work(number):
        for _ in range(2000):
            if predict(**batches[number]).tobytes() != expected[number]:
                wrong.append(number)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and is_native(predict)


def test_threads_that_add_forms_at_once(pair):
    wrong, interval = [], sys.getswitchinterval()

    def work(entry, form, start):
        start.wait(60)
        try:
            entry.add(form)
            assert entry.call(x).tolist() == [2, 2, 2] and entry.call(x, x) == "long"
        except Exception as error:
            wrong.append(error)
    x = np.ones(3, np.float32)
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(400):
            shared, start = Entry(lambda *args: "long"), threading.Barrier(4)
            threads = [threading.Thread(target=work, args=(shared, form_of(pair, [], lambda twice, half: twice), start))
                       for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong


def test_training_by_the_entry_is_the_pure_function(fn):
    weights, state = fn.init(1), fn.init_optimizer()
    trainer = fn.trainer(weights)
    for number in range(6):
        batch = draw(number) | {"y": draw(number + 9)["x"][:, :2].copy()}
        losses = trainer(batch) if number % 2 else trainer(**batch)
        weights, state, expected = fn.step(weights, state, batch)
        assert losses == expected and trainer.steps == number + 1
        assert trainer.weights.flat.tobytes() == weights.flat.tobytes()
    assert is_native(trainer)
    for wrong in ({"x": batch["x"]}, batch | {"z": 1}, batch | {1: 2}, [1, 2], 3, "abc"):
        with pytest.raises(netc.InputError):
            trainer(wrong)
    assert trainer.steps == 6


def test_gradients_by_the_entry_are_those_of_the_long_way(fn):
    w = fn.init(1)
    for number in range(4):
        batch = draw(number) | {"y": draw(number + 9)["x"][:, :2].copy()}
        loss, gradient = fn.value_and_grad(w, **batch)
        losses, again, states = fn.losses_and_grad(w, batch)
        expected = fn._run_gradient({"weights": w.flat}, (batch["x"], batch["size"], batch["y"]), {})[2]
        assert loss == expected["loss"] == losses["loss"] and loss.shape == () and not states
        assert gradient.flat.tobytes() == again.flat.tobytes() == expected["gradient"].tobytes()
        assert gradient.layout is fn.layout and not gradient.flat.flags.writeable
        new, state = fn.update(w, fn.init_optimizer(), gradient)
        stepped, same, _ = fn.step(w, fn.init_optimizer(), batch)
        assert new == stepped and all((state[path] == same[path]).all() for path in state)
        w = new
    assert isinstance(fn._gradient_shortcuts.call, types.BuiltinFunctionType)
    with pytest.raises(netc.InputError, match="`y` is missing"):
        fn.value_and_grad(w, batch["x"], batch["size"])


# --- by itself --------------------------------------------------------------------------------------------------------


def form_of(fn, outputs, make=None, releases=False):
    """A form whose outputs the program does not have: it computes those of ``fn`` of a vector of 3."""
    executable = fn.program("predict").executable
    binding = executable.bind({"N": 3})
    found = binding.form(binding._frame(), ["x"], [None], (np.zeros(3, np.float32),), [None], ["twice", "half"], make,
                         epoch(), ())
    return Form(found.program, found.frame, releases, None, found.epoch, found.inputs, [*found.outputs, *outputs], make,
                found.kept)


def test_an_output_that_cannot_be_made(pair):
    short = Entry(lambda *args: "long")
    short.add(form_of(pair, [((2 ** 50,), np.dtype(np.float64), 0)], tuple))
    x = np.ones(3, np.float32)
    for _ in range(100):
        with pytest.raises(MemoryError):
            short.call(x)
    assert short.call(x, x) == "long" and sys.getrefcount(x) == 2


def test_what_makes_the_result_may_call_again_and_fail(pair):
    called = []

    def make(twice, half):
        called.append(own := twice[0])
        if 0 < len(called) < 5:
            number = len(called) + 1
            assert again.call(np.full(3, number, np.float32)).tolist() == [2 * number] * 3
        if own == 0:
            raise KeyError("zero")
        assert twice.tolist() == [own] * 3 and half.tolist() == [own / 4] * 3
        return twice
    again = Entry(lambda *args: "long")
    again.add(form_of(pair, [], make))
    assert again.call(np.ones(3, np.float32)).tolist() == [2, 2, 2] and called == [2, 4, 6, 8, 10]
    with pytest.raises(KeyError, match="zero"):
        again.call(np.zeros(3, np.float32))


def test_many_outputs_take_the_long_way(pair):
    many = Entry(lambda *args: "long")
    many.add(form_of(pair, [((1,), np.dtype(np.float32), 0)] * MOST_OUTPUTS, tuple))
    assert many.call(np.ones(3, np.float32)) == "long"
