"""The CUDA target on whatever device there is: run by test_cuda.py in processes of its own with numba-cuda's simulator,
and by hand on a GPU, with the examples as they are:

    pytest tests/cuda_device.py
"""

from __future__ import annotations

import itertools
import os
import sys
import time

import numpy as np
import pytest
from cuda_models import EXAMPLES, SMALLER, batch_for, weights_for, write

import netc
from netc import profiling
from netc.compiler import pipeline_cuda
from netc.runtime.cuda import contract, door, driver, tiles
from netc.runtime.cuda.arrays import DeviceArray, empty, upload
from netc.runtime.cuda.program import Launch, Program
from netc.runtime.tile import Axis

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
OUTPUTS, GRADIENTS = 1e-5, 1e-4         # relative errors that the target allows itself
SOURCE = """net 1
model Small(x: f32[N, 5]) -> (p: f32[N, 3], best: i32[N]):
    p = x |> Dense(4, relu) |> Dense(3, softmax)
    best = argmax(p, axis = -1)
train Small:
    input label: i32[N]
    loss   cross_entropy = mean(sparse_categorical_crossentropy(p, label))
    metric accuracy      = mean(sparse_categorical_accuracy(p, label))
    optimizer = adam()
"""


@pytest.fixture(scope="module", autouse=True)
def quick_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)         # the simulator waits for its threads in a loop
    yield
    sys.setswitchinterval(before)


@pytest.fixture(scope="module")
def small():
    return netc.compile(SOURCE, target="cuda")


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {"x": rng.normal(size=(6, 5)).astype(np.float32), "label": rng.integers(0, 3, 6).astype(np.int32)}


def error(expected, found, scale=None) -> float:
    """The largest difference, relative to the largest value; of gradients at least to a thousandth of the largest of
    all."""
    expected, found = np.asarray(expected), np.asarray(found)
    assert expected.shape == found.shape and expected.dtype == found.dtype, (expected.shape, found.shape)
    assert np.isfinite(found).all()
    largest = max(np.abs(expected).max(initial=0), 1e-3 * np.abs(scale).max() if scale is not None else 0)
    return float(np.abs(expected - found).max(initial=0) / (largest or 1))


def outputs(fn, weights, inputs, seed) -> list:
    result = fn(weights, inputs, **(seed if fn.program("predict").uses_seed else {}))
    return list(result) if isinstance(result, tuple) else [result]


@pytest.mark.parametrize("name", SMALLER)
def test_an_example_gives_what_the_cpu_gives(name, tmp_path):
    path = write(tmp_path, name) if SIMULATED else EXAMPLES / f"{name}.net"
    host, device = netc.compile(path), netc.compile(path, target="cuda")
    weights, seed = weights_for(host), {"seed": 3} if host.model.uses_seed else {}
    inputs = batch_for(host, "predict")
    for expected, found in zip(*(outputs(fn, weights, inputs, seed) for fn in (host, device))):
        assert error(expected, found) <= OUTPUTS and (np.ptp(expected) > 0 or expected.size == 1)
    if host.model.optimizer is None:
        return
    batch = batch_for(host, "gradient")
    used = seed if host.program("gradient").uses_seed else {}
    (losses, slope, states), (losses_there, slope_there, states_there) = (
        fn.losses_and_grad(weights, batch, **used) for fn in (host, device))
    assert error(losses["loss"], losses_there["loss"]) <= OUTPUTS and slope.flat.any()
    for key in host.parameters:
        assert error(slope[key], slope_there[key], slope.flat) <= GRADIENTS, key
    for key in states:
        assert error(states[key], states_there[key]) <= OUTPUTS, key
    start = host.init_optimizer()
    (new, moments), (new_there, moments_there) = (fn.update(weights, start, slope) for fn in (host, device))
    assert error(new.flat, new_there.flat) <= OUTPUTS
    for key in moments:
        assert error(moments[key], moments_there[key]) <= OUTPUTS, key


@pytest.mark.parametrize("name", ["classifier", "vae"])
def test_steps_of_training_stay_on_the_device(name, tmp_path):
    path = write(tmp_path, name)
    found = []
    for target in ("cpu", "cuda", "cuda"):
        fn = netc.compile(path, target=target)
        step = fn.trainer(weights_for(fn), seed=5, metrics=name == "classifier")
        batch = batch_for(fn, "step")
        losses = [step(batch) for _ in range(2)]
        found.append((losses, step.weights.flat, np.concatenate([np.ravel(v) for v in step.optimizer.values()])))
        assert target == "cpu" or all(isinstance(array, DeviceArray) for array in step.slots.values())
    for expected, value in zip(found[0][0], found[1][0]):
        assert expected.keys() == value.keys()
        assert all(abs(expected[k] - value[k]) <= 1e-5 * abs(expected[k]) for k in expected)
    assert error(found[0][1], found[1][1]) <= GRADIENTS and error(found[0][2], found[1][2]) <= GRADIENTS
    # The same bits whenever it runs.
    assert found[1][0] == found[2][0] and found[1][1].tobytes() == found[2][1].tobytes()


def test_training_ends_where_the_cpu_ends(small, batch):
    host = netc.compile(SOURCE)
    data = {"x": batch["x"], "label": batch["label"]}
    ends = [fn.fit(host.init(0), data, epochs=2, batch_size=4, validation=data) for fn in (host, small)]
    assert error(ends[0][0].flat, ends[1][0].flat) <= GRADIENTS
    for name in ends[0][1].epochs[-1]:
        assert abs(ends[0][1].epochs[-1][name] - ends[1][1].epochs[-1][name]) < 1e-4


def test_another_batch_size_gives_the_same_rows(small, batch):
    w = small.init(0)
    whole = small(w, batch["x"]).p
    for samples in (1, 2, 5):
        assert small(w, batch["x"][:samples]).p.tobytes() == whole[:samples].tobytes()
    assert small.bind(w)(batch["x"]).p.tobytes() == whole.tobytes()


ADJUSTABLE = """net 1
model Line(x: f32[N, 3]) -> (y: f32[N, 2]):
    y = x |> Dense(4, tanh) |> Dense(2)
train Line:
    input target: f32[N, 2]
    loss square = mean((y - target) ** 2)
    optimizer = sgd(lr = adjustable(0.125), momentum = 0.9)
"""


def test_new_weights_and_moments_replace_the_old():
    rng = np.random.default_rng(0)
    host, device = netc.compile(ADJUSTABLE), netc.compile(ADJUSTABLE, target="cuda")
    w = device.init(0)
    before = w.flat.copy()
    batch = {"x": rng.normal(size=(5, 3)).astype("f4"), "target": rng.normal(size=(5, 2)).astype("f4")}
    step, there = host.trainer(w), device.trainer(w)
    assert device.program("step").executable.in_place == host.program("step").executable.in_place
    addresses = {slot: array.address for slot, array in there.slots.items()}
    device(w, batch["x"])               # the host's weights have a copy on the device, which must stay as it is
    for _ in range(2):
        assert abs(step(batch)["loss"] - there(batch)["loss"]) < 1e-6
    kept = device.program("step").executable.in_place
    assert "weights" in kept and len(kept) > 1
    assert all(there.slots[slot].address == addresses[slot] for slot in kept)
    assert error(step.weights.flat, there.weights.flat) <= GRADIENTS and w.flat.tobytes() == before.tobytes()
    # A step from the outside, whose arrays stay as they are, comes to the same bits.
    new, moments = w, device.init_optimizer()
    for _ in range(2):
        new, moments, _ = device.step(new, moments, batch)
    assert new.flat.tobytes() == there.weights.flat.tobytes()
    for trainer in (step, there):
        trainer.adjust({"optimizer.lr.scale": 0.5})
        trainer(batch)
    assert error(step.weights.flat, there.weights.flat) <= GRADIENTS


# --- arrays of the device ---------------------------------------------------------------------------------------------


class Foreign:
    """An array of another library on the device, as far as netc can tell."""

    def __init__(self, array: DeviceArray, **changed):
        self.array = array
        self.__cuda_array_interface__ = array.__cuda_array_interface__ | changed


def test_arrays_of_the_device_go_in_and_come_out_without_the_host(small, batch, monkeypatch):
    w = small.init(0)
    expected = small(w, batch["x"])
    x = Foreign(upload(batch["x"]))
    small(w, x)                         # the weights are there now
    monkeypatch.setattr(DeviceArray, "copy_to_host", lambda self: pytest.fail("a copy to the host"))
    # The table of addresses is all that may come from the host.
    fill = DeviceArray.fill_from
    monkeypatch.setattr(DeviceArray, "fill_from", lambda self, host: fill(self, host) if host.dtype == np.int64
                        else pytest.fail("a copy from the host"))
    found = small(w, x)
    monkeypatch.undo()
    for name in ("p", "best"):
        array = getattr(found, name)
        assert isinstance(array, DeviceArray) and array.shape == getattr(expected, name).shape
        assert np.asarray(array).tobytes() == getattr(expected, name).tobytes()
    assert small.bind(w)(x).p.copy_to_host().tobytes() == expected.p.tobytes()
    _, slope = small.value_and_grad(w, x=x, label=Foreign(upload(batch["label"])))
    assert slope.flat.tobytes() == small.value_and_grad(w, **batch)[1].flat.tobytes()


def test_arrays_of_the_device_are_checked(small, batch):
    w, x = small.init(0), upload(batch["x"])
    with pytest.raises(netc.InputError, match="`x` has dtype float64 on the device, expected f32"):
        small(w, Foreign(upload(batch["x"].astype(np.float64))))
    with pytest.raises(netc.InputError, match="`x` is not contiguous on the device"):
        small(w, Foreign(x, strides=(4, 24)))
    with pytest.raises(netc.InputError, match=r"`x` has 1 dimensions \(\[30\]\)"):
        small(w, Foreign(x, shape=(30,)))
    with pytest.raises(netc.InputError, match="dimension 1 of `x` is 6, expected 5"):
        small(w, Foreign(x, shape=(5, 6)))
    with pytest.raises(netc.InputError, match="`x` lies on the device and is not given away: Can't get"):
        small(w, Unwilling())
    with pytest.raises(netc.InputError, match="`label` holds 3 at"):
        small.value_and_grad(w, x=x, label=upload(np.full(6, 3, np.int32)))


class Unwilling:
    """A tensor that PyTorch wants a gradient through."""

    def __dlpack_device__(self):
        return 2, 0

    @property
    def __cuda_array_interface__(self):
        raise RuntimeError("Can't get __cuda_array_interface__ on Variable that requires grad.")


class Lent:
    """An array that offers itself by DLPack alone, as if it lay on the device."""

    def __init__(self, array):
        self.array = array

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, stream=None):
        assert stream == 1          # the default one, on which kernels run
        return self.array.__dlpack__()


def test_arrays_go_in_and_out_by_dlpack(small, batch):
    if not SIMULATED:
        pytest.skip("NumPy takes nothing from a GPU")
    import gc

    from netc.runtime.cuda import dlpack
    w, x = small.init(0), batch["x"]
    expected = small(w, x)
    found = small(w, Lent(x))
    assert isinstance(found.p, DeviceArray) and np.asarray(found.p).tobytes() == expected.p.tobytes()
    shared = [np.from_dlpack(array) for array in (found.p, found.best)]
    assert [array.dtype for array in shared] == [np.float32, np.int32] and shared[0].ctypes.data == found.p.address
    assert shared[0].tobytes() == expected.p.tobytes() and shared[1].tobytes() == expected.best.tobytes()
    lent = upload(x)
    for _ in range(2):              # it is still there when it was given back
        assert np.asarray(small(w, Lent(lent)).p).tobytes() == expected.p.tobytes()
        gc.collect()
    with pytest.raises(netc.InputError, match="`x` is not contiguous on the device"):
        small(w, Lent(np.ones((5, 6), np.float32).T))
    copied = np.from_dlpack(found.p, copy=True)
    assert copied.tobytes() == expected.p.tobytes() and copied.ctypes.data != found.p.address
    with pytest.raises(BufferError, match="copy_to_host"):
        found.p.__dlpack__(dl_device=(10, 0))
    odd = upload(np.concatenate([x.ravel()[:1], x.ravel()]))        # it begins between two vectors
    shifted = Foreign(odd, shape=x.shape, data=(odd.address + 4, False))
    assert np.asarray(small(w, shifted).p).tobytes() == expected.p.tobytes()
    found.p.__dlpack__()            # and nobody takes it
    del found, shared, copied, lent
    gc.collect()
    assert not dlpack._out


# --- contractions -----------------------------------------------------------------------------------------------------


def product(dtype: str, batch, rows, sums, columns: int, stride: int, operands, tile=None) -> np.ndarray:
    """A contraction by the kernel of this tile."""
    made = contract.plan(dtype, batch, rows, sums, columns, stride, SIMULATED, tile)
    a, b, c = (upload(operand) for operand in operands)
    scratch = empty((made.scratch,), operands[0].dtype)
    bases = upload(np.array([array.address for array in (a, b, c, scratch)], np.int64))
    launches, words = [], []
    for part in made.parts:
        launches.append(Launch(part.text, len(words), part.units, part.threads))
        slots = [("a", "b", "c", "scratch").index(name) for name in part.buffers]
        words += [word for slot in slots for word in (slot, 0)] + list(part.words)
    Program(launches, words).run(bases)
    return c.copy_to_host()


def by_numpy(batch, rows, sums, columns, stride, operands) -> np.ndarray:
    """The same in float64, index by index."""
    a, b, c = operands
    result = c.astype(np.float64)
    for outer in itertools.product(*(range(axis.size) for axis in (*batch, *rows))):
        at = {k: sum(i * getattr(axis, k) for i, axis in zip(outer, (*batch, *rows))) for k in "abc"}
        for column in range(columns):
            total = 0.0
            for inner in itertools.product(*(range(axis.size) for axis in sums)):
                total += float(a[at["a"] + sum(i * axis.a for i, axis in zip(inner, sums))]) * float(
                    b[at["b"] + column * stride + sum(i * axis.b for i, axis in zip(inner, sums))])
            result[at["c"] + column] = total
    return result


def random(size: int, dtype: str) -> np.ndarray:
    return np.random.default_rng(size).normal(size=size).astype("f8" if dtype == "f64" else "f4")


# Batch, rows, sums, columns, the column's stride in B, and the operands' sizes.
SHAPES = {
    "matrices": ([], [Axis(5, 7, 0, 6)], [Axis(7, 1, 6)], 6, 1, (35, 42, 30)),
    "transposed": ([], [Axis(5, 1, 0, 6)], [Axis(7, 5, 1)], 6, 7, (35, 42, 30)),
    "a batch": ([Axis(2, 35, 42, 30)], [Axis(5, 7, 0, 6)], [Axis(7, 1, 6)], 6, 1, (70, 84, 60)),
    "a convolution": ([], [Axis(3, 10, 0, 8), Axis(4, 2, 0, 2)], [Axis(3, 10, 12), Axis(6, 1, 2)], 2, 1, (56, 36, 24)),
    "a sum in chunks": ([Axis(2, 60, 120, 6)], [Axis(3, 1, 0, 2)], [Axis(4, 15, 30), Axis(15, 0, 2)], 2, 1,
                        (60 + 50, 240, 12)),
    "no terms": ([], [Axis(3, 1, 0, 2)], [Axis(0, 1, 1)], 2, 1, (4, 4, 6)),
    "dots": ([Axis(2, 9, 9, 3)], [Axis(3, 0, 0, 1)], [Axis(9, 1, 1)], 1, 0, (18, 18, 6)),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_a_contraction_is_the_sum_of_products(shape, dtype):
    *indices, sizes = SHAPES[shape]
    operands = [random(size, dtype) for size in sizes]
    expected = by_numpy(*indices, operands)
    found = product(dtype, *indices, operands)
    assert np.abs(found - expected).max() <= (1e-12 if dtype == "f64" else 1e-5)


EPILOGUES = """net 1
model Each(x: f32[N, 30], image: f32[N, 4, 4, 2]) -> (y: f32[N, 5], z: f32[N, 5, 5, 2], s: f32[N, 1]):
    h = x |> Dense(30, gelu)
    y = tanh(Dense(5)(h) + Dense(5)(x)) * 0.3
    z = image |> Conv2D(3, 3, activation = relu) |> Conv2DTranspose(2, 3, strides = 2, activation = sigmoid)
    s = x |> Dense(1, exp)
train Each:
    input target: f32[N, 5]
    loss square = mean((y - target) ** 2) + mean(z ** 2) + mean(s)
    optimizer = sgd(lr = 0.1)
"""


def test_what_follows_a_product_gives_the_same_bits_in_its_kernel(monkeypatch):
    """Tiles, sums in chunks, phases of a transposed convolution, dot products, and a sum of two products."""
    rng = np.random.default_rng(0)
    batch = {"x": rng.normal(size=(3, 30)).astype("f4"), "image": rng.normal(size=(3, 4, 4, 2)).astype("f4"),
             "target": rng.normal(size=(3, 5)).astype("f4")}
    found, launches = [], []
    for is_fused in (True, False):
        if not is_fused:
            monkeypatch.setattr(pipeline_cuda, "fuse_epilogues", lambda steps: steps)
        # Another text, since what was lowered is kept.
        fn = netc.compile(EPILOGUES if is_fused else EPILOGUES + "# apart\n", target="cuda")
        w = weights_for(fn)
        outputs = fn(w, x=batch["x"], image=batch["image"])
        loss, slope = fn.value_and_grad(w, batch)
        found.append([array.tobytes() for array in (*outputs, loss, slope.flat)])
        launches.append(fn.program("predict").executable.bind({"N": 3}).launches)
    assert found[0] == found[1]
    fused = [launch for launch in launches[0] if "finish(" in launch.text]
    assert len(fused) >= 7 and len(launches[0]) < len(launches[1])      # four phases are four launches
    for part in ("slice_a[", "scratch[unit]", "shared[lane]"):           # a tile, chunks, dot products
        assert any(part in launch.text for launch in fused), part
    assert not any("finish(" in launch.text for launch in launches[1])


ROWS = """net 1
model Rows(x: f32[N, T, 36]) -> (p: f32[N, T, 36], n: f32[N, T, 36], s: f32[N, T, 5], best: i32[N, T]):
    p = softmax(x)
    n = x |> LayerNorm()
    s = softmax(n[:, :, :5])
    best = argmax(s, axis = -1)
train Rows:
    input target: f32[N, T, 36]
    input label: i32[N, T]
    loss square = mean((n - target) ** 2) + mean(p * target)
    loss cross_entropy = mean(sparse_categorical_crossentropy(s, label))
    optimizer = sgd(lr = 0.1)
"""


def test_steps_over_the_same_rows_are_one_launch_with_the_same_results(monkeypatch):
    """Rows that lanes share and short ones that are a thread's, forward and back."""
    rng = np.random.default_rng(0)
    batch = {"x": rng.normal(size=(2, 3, 36)).astype("f4"), "target": rng.normal(size=(2, 3, 36)).astype("f4"),
             "label": rng.integers(0, 5, (2, 3)).astype("i4")}
    host = netc.compile(ROWS)
    w = weights_for(host)
    found, launches = [], []
    for is_joined in (True, False):
        if not is_joined:
            monkeypatch.setattr(pipeline_cuda, "share_rows", tuple)
        # Another text, since what was lowered is kept.
        fn = netc.compile(ROWS if is_joined else ROWS + "# apart\n", target="cuda")
        loss, slope = fn.value_and_grad(w, batch)
        found.append([*fn(w, x=batch["x"]), loss, slope.flat])
        launches.append([len(fn.program(program).executable.bind({"N": 2, "T": 3}).launches)
                         for program in ("predict", "gradient")])
    loss, slope = host.value_and_grad(w, batch)
    for expected, joined, apart in zip([*host(w, x=batch["x"]), loss, slope.flat], *found):
        assert error(expected, joined) <= (GRADIENTS if expected is slope.flat else OUTPUTS)
        # A GPU's compiler may round a product and a sum once where it sees both.
        assert np.asarray(joined).tobytes() == np.asarray(apart).tobytes() or not SIMULATED
    assert launches == [[2, 12], [12, 25]]


ATTENTION = """net 1
model Attention(x: f32[N, T, 12], y: f32[N, S, 12], seen: bool[N, S], hidden: f32[N])
             -> (own: f32[N, T, 12], other: f32[N, T, 5]):
    own = MultiHeadAttention(2, 5, causal = true)(x, x)
    other = softmax(where(seen[:, None], x @ transpose(y, (0, 2, 1)), hidden[:, None, None])) @ y[:, :, :5]
"""


def test_attention_is_one_launch():
    """Of fewer and of more rows and keys than a block takes at a time, with keys of no weight at all."""
    host, device = netc.compile(ATTENTION), netc.compile(ATTENTION, target="cuda")
    w = weights_for(host)
    for samples, queries, keys in ((2, 3, 11), (1, 9, 8), (1, 1, 1)):
        rng = np.random.default_rng(queries)
        inputs = {"x": rng.normal(size=(samples, queries, 12)), "y": rng.normal(size=(samples, keys, 12)),
                  "hidden": np.full(samples, -np.inf)}
        inputs = {name: value.astype(np.float32) for name, value in inputs.items()}
        # In the simulator, 8 keys are taken at a time: all of the first have no weight.
        inputs["seen"] = np.arange(samples * keys).reshape(samples, keys) % keys >= keys - 2
        found = device(w, **inputs)
        for expected, there in zip(host(w, **inputs), found):
            assert error(expected, there) <= OUTPUTS
        # A sample by itself has the same bits.
        for whole, alone in zip(found, device(w, **{name: value[:1] for name, value in inputs.items()})):
            assert whole[:1].tobytes() == alone.tobytes()
    labels = [launch.label for launch in device.program("predict").executable.bind({"N": 2, "T": 3, "S": 11}).launches]
    assert labels.count("attention") == 2 and "rows" not in labels


RECURRENT = """net 1
model Reader(x: f32[N, T, 3]) -> f32[N, 4]:
    return x |> LSTM(4, return_sequences = true) |> GRU(4)
train Reader:
    input target: f32[N, 4]
    loss square = sum((output - target) ** 2)
    optimizer = sgd(lr = 0.1)
"""


def test_a_recurrent_layer_is_one_launch_each_way():
    rng = np.random.default_rng(0)
    host, device = netc.compile(RECURRENT), netc.compile(RECURRENT, target="cuda")
    w = weights_for(host)
    batch = {"x": rng.normal(size=(5, 4, 3)).astype(np.float32), "target": rng.normal(size=(5, 4)).astype(np.float32)}
    (loss, slope), (loss_there, slope_there) = (fn.value_and_grad(w, batch) for fn in (host, device))
    assert error(loss, loss_there) <= OUTPUTS
    assert all(error(slope[key], slope_there[key], slope.flat) <= GRADIENTS for key in host.parameters)
    counts = []
    for turns in (4, 9):
        binding = device.program("gradient").executable.bind({"N": 5, "T": turns})
        regions = [launch for launch in binding.launches if "for turn in range(table[0])" in launch.text]
        assert len(regions) == 4        # two layers, forward and back
        counts.append(sum("scratch" not in launch.text for launch in binding.launches))     # chunks' sums left out
    assert counts[0] == counts[1]
    # A sample by itself goes turn by turn, to the same bits.
    rows = device(w, batch["x"])
    assert len({device(w, batch["x"][:k])[:1].tobytes() for k in (1, 2, 5)}) == 1
    assert error(host(w, batch["x"]), rows) <= OUTPUTS


SCATTERED = """net 1
model Table(words: int = 7)(places: i32[N, T], x: f32[N, T, 3]) -> f32[N, T, 3]:
    return Embedding(words, 3)(places) * x
train Table:
    input target: f32[N, T, 3]
    loss square = sum((output - target) ** 2)
    optimizer = sgd(lr = 0.1)
"""


def test_gradients_of_a_table_are_added_in_the_order_of_the_indices():
    rng = np.random.default_rng(0)
    host, device = netc.compile(SCATTERED), netc.compile(SCATTERED, target="cuda")
    w = host.init(0)
    for places in (rng.integers(0, 7, (4, 9)), np.full((4, 9), 5), np.arange(7).reshape(1, 7)):
        batch = {"places": places.astype(np.int32), "x": rng.normal(size=(*places.shape, 3)).astype(np.float32),
                 "target": rng.normal(size=(*places.shape, 3)).astype(np.float32)}
        slope, found = (fn.value_and_grad(w, batch)[1].flat for fn in (host, device))
        assert slope.tobytes() == found.tobytes()       # the CPU's order


@pytest.mark.parametrize("tile", tiles.TILES, ids=lambda tile: f"{tile.rows}x{tile.columns}")
def test_every_tile_gives_the_same_bits(tile, monkeypatch):
    monkeypatch.setattr(tiles, "FAR", 4 if tile is tiles.TALL else tiles.FAR)
    rows, columns, depth = 18, 20, 36       # more than one block of some, a part of one of others; two chunks
    a, b = random(rows * depth, "f32").reshape(rows, depth), random(depth * columns, "f32").reshape(depth, columns)
    expected = product("f32", [], [Axis(rows, depth, 0, columns)], [Axis(depth, 1, columns)], columns, 1,
                       (a, b, np.zeros((rows, columns), "f4")), tiles.SIMULATED)
    assert np.abs(expected - a @ b).max() < 1e-5
    turned = [], [Axis(rows, 1, 0, columns)], [Axis(3, 12 * rows, 12), Axis(12, rows, 1)], columns, depth
    found = product("f32", *turned, (a.T.copy(), b.T.copy(), np.zeros((rows, columns), "f4")), tile)
    assert found.tobytes() == expected.tobytes()


def test_a_program_is_recorded_when_it_runs_again(small, batch, monkeypatch):
    if not SIMULATED:
        pytest.skip("a GPU records by itself")
    fn, w = netc.compile(SOURCE, target="cuda"), small.init(0)
    told = []

    def capture(launch):
        told.append("capture")
        return lambda: (told.append("replay"), launch(0))
    monkeypatch.setattr(door, "can_capture", lambda: True)
    monkeypatch.setattr(door, "capture", capture)
    found = [fn(w, batch["x"]).p.tobytes() for _ in range(3)]
    assert told == ["capture", "replay", "replay"] and len(set(found)) == 1
    other = netc.compile(SOURCE, target="cuda")

    def refuse(launch):
        raise netc.DeviceError("the driver's cuStreamBeginCapture failed: CUDA_ERROR_UNKNOWN")
    monkeypatch.setattr(door, "capture", refuse)
    assert other(w, batch["x"]).p.tobytes() == found[0]
    with pytest.warns(RuntimeWarning, match="launched one by one.*cuStreamBeginCapture failed"):
        assert other(w, batch["x"]).p.tobytes() == found[0]
    assert other(w, batch["x"]).p.tobytes() == found[0]


def test_a_profile_has_the_times_of_launches(small, batch, monkeypatch):
    if SIMULATED:
        with pytest.raises(netc.DeviceError, match=r"simulated, whose times say nothing.*`--target cpu`"):
            small.profile()
        # The same with a clock of Python's and a GPU of any speed.
        monkeypatch.setattr(door, "limits", lambda: ("A GPU", 1e12, 1e11))
        monkeypatch.setattr(driver, "mark", time.perf_counter)
        monkeypatch.setattr(driver, "between", lambda marks: [b - a for a, b in itertools.pairwise(marks)])
        monkeypatch.setattr(profiling, "ENOUGH_SECONDS", 0)
        monkeypatch.setattr(profiling, "FEWEST_RUNS", 2)
    found = small.profile("step", batch)
    binding = small.program("step").executable.bind({"N": 6}, flat=True)
    assert len(found.steps) == len(binding.rows) and found.seconds > 0 and found.roofline.name
    assert all(step.seconds > 0 for step in found.steps)
    assert sum("and map" in step.kernel and step.flops > 0 for step in found.steps) >= 2
    assert found.roofline.name in str(found) and "by its clocks" in str(found)
    # As many FLOPs as on the CPU, or a few more: what is shared out is added in other trees.
    host = netc.compile(SOURCE).cost("step", batch)
    assert found.work_flops == host.work_flops and 0.8 < found.flops / host.flops < 1.25


def test_what_was_lowered_is_kept(batch):
    source = SOURCE.replace("relu", "tanh")
    first, second = (netc.compile(source, target="cuda") for _ in range(2))
    w = first.init(0)
    expected = first.value_and_grad(w, **batch)
    found = second.value_and_grad(w, **batch)
    assert second.explain()["gradient"].is_kept
    assert found[0] == expected[0] and found[1].flat.tobytes() == expected[1].flat.tobytes()
    before = second.program("gradient").executable
    assert before is not first.program("gradient").executable and any(
        step.matrix is not None and step.kernel is not None for step in before.steps)


def test_what_was_compiled_is_told(batch):
    fn = netc.compile(SOURCE.replace("relu", "softplus"), target="cuda")
    assert fn.explain().compiled == 0
    w = fn.init(0)
    fn(w, batch["x"])
    predict = fn.explain()["predict"]
    assert predict.count("compiled") + predict.count("cached") + predict.count("loaded") == len(predict.pieces) == 3
    assert predict.count("compiled") >= 1 or not SIMULATED      # the simulator keeps nothing on disk
    assert any(piece.name == "contract and map" and "finish(" in piece.text for piece in predict.pieces)
    fn(w, batch["x"][:2])
    fn.value_and_grad(w, **batch)
    found = fn.explain()
    assert found["gradient"].count("loaded") >= 1 and len(found["predict"].sizes) == 2
    assert "2 sizes, whose products may take other tiles: N = 6; N = 2" in str(found)


def test_a_kernel_that_leaves_its_memory_is_found_out():
    if not SIMULATED:
        pytest.skip("a GPU does not check")
    text = """@device
def work(bases, args, unit, end, stride):
    b0 = buffer_f32(bases, args, 0)
    b0[args[2]] = float32(1)

def kernel(bases, args, units):
    work(words(bases), words(args), 0, 0, 0)
"""
    memory = empty((4,), np.float32)
    bases = upload(np.array([memory.address], np.int64))
    Program([Launch(text, 0, 1, 1)], [0, 0, 3]).run(bases)
    assert memory.copy_to_host()[3] == 1
    for place in (-1, 4):
        with pytest.raises(IndexError):
            Program([Launch(text, 0, 1, 1)], [0, 0, place]).run(bases)
    assert door.is_simulated()
