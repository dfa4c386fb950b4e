"""The native side: kernels' buffers, the runner and its pool, vector math, random bits, tiles."""

import ctypes
import itertools
import os
import platform
import re
import threading

import numpy as np
import pytest

from netc.compiler.ops import input, random as oracle
from netc.compiler.types import i64
from netc.runtime import machine, math as vector_math, pool, random, runner
from netc.runtime.kinds import float32
from netc.runtime.native import (
    KERNEL,
    buffer_bool,
    buffer_f32,
    buffer_f64,
    buffer_i32,
    buffer_i64,
    compile_module,
    compile_native,
    fetch_add,
    load_acquire,
    nanoseconds,
    pause,
)
from netc.runtime.tile import Axis, Panel, plan, tile_rows


def bases_of(*arrays) -> np.ndarray:
    return np.array([array.ctypes.data for array in arrays], np.intp)


def call(compiled, arrays, begin, end, extra=()):
    """Call a kernel on arrays: buffer k is slot k, at offset 0."""
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)(compiled.address)
    bases = bases_of(*arrays)
    args = np.array([word for slot in range(len(arrays)) for word in (slot, 0)] + list(extra), np.int64)
    function(bases.ctypes.data, args.ctypes.data, begin, end)


def kernel(function) -> machine.Code:
    return machine.link(compile_native(function, KERNEL))


def assembly(function) -> str:
    return machine.target_machine().emit_assembly(compile_module(function, KERNEL, "netc_kernel"))


def run_plan(step, *arrays, serial=True):
    args = np.array([word for slot in range(len(arrays)) for word in (slot, 0)] + list(step.words), np.int64)
    program = runner.Runner(np.array([[step.address, 0, step.units, step.grain]]), args)
    bases = bases_of(*arrays)
    (program.serial if serial else program)(bases.ctypes.data)


# --- buffers ------------------------------------------------------------------------------------------------------


def test_buffers_of_every_type():
    @kernel
    def compute(bases, args, begin, end):
        x, d = buffer_f32(bases, args, 0), buffer_f64(bases, args, 2)
        i, j, b = buffer_i32(bases, args, 4), buffer_i64(bases, args, 6), buffer_bool(bases, args, 8)
        for k in range(begin, end):
            d[k] = x[k]
            i[k] = x[k]
            j[k] = i[k] + 1 if b[k] else 0
            b[k] = x[k] > np.float32(3)
    x = np.arange(10, dtype=np.float32)
    d, i, j = np.zeros(10), np.zeros(10, np.int32), np.zeros(10, np.int64)
    b = np.arange(10) % 2 == 0
    call(compute, (x, d, i, j, b), 2, 9)
    inside = slice(2, 9)
    np.testing.assert_array_equal(d[inside], x[inside])
    np.testing.assert_array_equal(i[inside], x[inside])
    np.testing.assert_array_equal(j[inside], [3, 0, 5, 0, 7, 0, 9])
    np.testing.assert_array_equal(b[inside], x[inside] > 3)
    assert d[1] == d[9] == 0


def test_a_loop_over_many_buffers_vectorises():
    """Without alias scopes LLVM gives up at more than eight overlap checks."""
    def adam(bases, args, begin, end):
        w, m, v = buffer_f32(bases, args, 0), buffer_f32(bases, args, 2), buffer_f32(bases, args, 4)
        g, w1, m1 = buffer_f32(bases, args, 6), buffer_f32(bases, args, 8), buffer_f32(bases, args, 10)
        v1 = buffer_f32(bases, args, 12)
        for i in range(begin, end):
            m1[i] = m[i] * np.float32(0.9) + g[i] * np.float32(0.1)
            v1[i] = v[i] * np.float32(0.99) + g[i] * g[i] * np.float32(0.01)
            w1[i] = w[i] - m[i] / (vector_math.sqrt_f32(v[i]) + np.float32(1e-7))
    text = assembly(adam)
    assert "sqrtps" in text or "fsqrt\tv" in text
    arrays = [np.full(33, 1 + k, np.float32) for k in range(7)]
    call(kernel(adam), arrays, 0, 33)
    np.testing.assert_allclose(arrays[4], 1 - 2 / np.sqrt(3), rtol=1e-6)


# --- runner and pool ----------------------------------------------------------------------------------------------


@pytest.fixture
def add_one():
    return _add_one().address


_compiled = {}


def _add_one():
    if not _compiled:
        @kernel
        def add(bases, args, begin, end):
            x, y = buffer_f32(bases, args, 0), buffer_f32(bases, args, 2)
            for i in range(begin, end):
                y[i] = x[i] + np.float32(1)
        _compiled["add"] = add
    return _compiled["add"]


@pytest.fixture
def two_threads():
    before = pool.threads()
    pool.set_threads(2)
    yield
    pool.set_threads(before)


STEPS, SIZE = 50, 1000


def chain(address: int, grain: int) -> runner.Runner:
    """A program whose step s adds one to row s and stores row s + 1."""
    args = np.array([[0, 4 * SIZE * s, 0, 4 * SIZE * (s + 1)] for s in range(STEPS)], np.int64)
    return runner.Runner(np.array([[address, 4 * s, SIZE, grain] for s in range(STEPS)]), args.ravel())


def run_chain(program: runner.Runner, start: float) -> bool:
    arena = np.zeros((STEPS + 1, SIZE), np.float32)
    arena[0] = start
    bases = bases_of(arena)
    program(bases.ctypes.data)
    return bool((arena[STEPS] == start + STEPS).all())


def test_serial_and_parallel_agree(add_one, two_threads):
    for grain in (SIZE, 64, 1):
        program = chain(add_one, grain)
        assert program.is_parallel == (grain < SIZE)
        assert all(run_chain(program, start) for start in range(20))


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="only x86's control word is set")
def test_a_program_may_take_the_smallest_numbers_for_zero(two_threads):
    @kernel
    def halve(bases, args, begin, end):
        x, y = buffer_f32(bases, args, 0), buffer_f32(bases, args, 2)
        for k in range(begin, end):
            y[k] = x[k] * np.float32(0.5)
    x, smallest = np.full(10_000, 1.5e-38, np.float32), np.float32(1.5e-38) / 2
    for flushes in (True, False, True):
        program = runner.Runner(np.array([[halve.address, 0, 10_000, 100]]), np.array([0, 0, 1, 0]), flushes=flushes)
        for run in (program, program.serial, program.profile):
            y = np.ones_like(x)
            bases = bases_of(x, y)
            run(bases.ctypes.data)
            np.testing.assert_array_equal(y, 0 if flushes else smallest)
            assert np.float32(1.5e-38) / 2 == smallest > 0          # on this thread all is as before


def test_steps_without_units_are_skipped(add_one, two_threads):
    arena = np.zeros((2, SIZE), np.float32)
    steps = np.array([[add_one, 0, 0, 1], [add_one, 0, SIZE, 10], [add_one, 0, 0, 1]])
    program = runner.Runner(steps, np.array([0, 0, 0, 4 * SIZE]))
    program(bases_of(arena).ctypes.data)
    assert (arena[1] == 1).all()


def test_steps_of_one_piece_in_a_row_are_done_by_one_thread(add_one, two_threads):
    """Without a meeting after each; the time of all is that of the first, but where each shall have its own."""
    grains = [SIZE, SIZE, 64, SIZE, SIZE, SIZE, 64, 64, SIZE]
    args = np.array([[0, 4 * SIZE * s, 0, 4 * SIZE * (s + 1)] for s in range(len(grains))], np.int64).ravel()
    steps = np.array([[add_one, 4 * s, SIZE, grain] for s, grain in enumerate(grains)])
    for is_flat, timed in ((False, [1, 0, 1, 1, 0, 0, 1, 1, 1]), (True, [1] * 9)):
        program = runner.Runner(steps, args, is_flat=is_flat)
        for start in range(20):
            arena = np.zeros((len(grains) + 1, SIZE), np.float32)
            arena[0] = start
            times = program.profile(bases_of(arena).ctypes.data)
            assert (arena == start + np.arange(len(arena))[:, None]).all()
            assert (times > 0).tolist() == [bool(part) for part in timed]


def test_threads_claim_from_the_two_ends_of_a_step(two_threads):
    """So each meets the same part of what it has in its caches, whichever of them is faster."""
    pieces, most_nanoseconds = 12, 10 ** 10

    @kernel
    def note(bases, args, begin, end):
        # The caller begins with the first piece and waits in it until the worker has some; the worker waits for it.
        args[2 + fetch_add(args, 0, 1)] = begin
        fetch_add(args, 1, 1 if begin == 0 else 0)
        until = nanoseconds() + most_nanoseconds
        while (load_acquire(args, 1) == 0 or (begin == 0 and load_acquire(args, 0) < 6)) and nanoseconds() < until:
            pause()
    program = runner.Runner(np.array([[note.address, 0, 3 * pieces - 1, 3]]), np.zeros(2 + pieces, np.int64))
    program(bases_of().ctypes.data)
    count, first, *begins = program.args.tolist()
    assert (count, first) == (pieces, 1) and sorted(begins) == list(range(0, 3 * pieces, 3))
    assert [begin for begin in begins[:6] if begin] == [33, 30, 27, 24, 21]


def test_eight_threads_at_once(add_one, two_threads):
    results = []

    def client(number):
        program = chain(add_one, 16 + number)
        results.append(all(run_chain(program, number + turn) for turn in range(100)))
    threads = [threading.Thread(target=client, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [True] * 8


def test_a_worker_that_falls_asleep_as_a_job_begins_takes_part():
    """The job looks for sleepers after the worker's last look for jobs and before it says that it sleeps."""
    prepared, looked_again = threading.Event(), threading.Event()

    class Watched(pool.Pool):
        def _serve(self, *arguments):
            prepared.wait()
            super()._serve(*arguments)
    workers = Watched(1)

    class Asleep(list):
        def append(self, wake):
            if not looked_again.is_set():
                workers._set(runner.BUSY, 1)            # the job begins, and sees nobody
            super().append(wake)

    def work(*arguments):
        if workers._get(runner.BUSY):
            looked_again.set()
    workers._asleep, workers._work = Asleep(), work
    prepared.set()
    try:
        assert looked_again.wait(10)
    finally:
        workers._set(runner.BUSY, 0)
        workers.stop()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_its_own_pool(add_one, two_threads):
    program = chain(add_one, 32)
    assert run_chain(program, 0)
    child = os.fork()
    if child == 0:
        os._exit(0 if run_chain(program, 3) and pool._pool is not None else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert run_chain(program, 5)


def test_set_threads_while_running(add_one):
    before = pool.threads()
    program, done, results = chain(add_one, 32), threading.Event(), []

    def client():
        while not done.is_set():
            results.append(run_chain(program, 1))
    thread = threading.Thread(target=client)
    thread.start()
    for count in (1, 3, 2, 4, 1, 2):
        pool.set_threads(count)
    done.set()
    thread.join(60)
    pool.set_threads(before)
    assert results and all(results)
    with pytest.raises(ValueError):
        pool.set_threads(0)


def test_profile(add_one, two_threads):
    program = chain(add_one, 32)
    arena = np.zeros((STEPS + 1, SIZE), np.float32)
    for threads in (False, True):
        times = program.profile(bases_of(arena).ctypes.data, threads)
        assert times.shape == (STEPS,) and (times > 0).all()


# --- math ---------------------------------------------------------------------------------------------------------


def sample() -> np.ndarray:
    everywhere = np.arange(0, 2 ** 32, 997, dtype=np.uint64).astype(np.uint32).view(np.float32)
    special = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 1e-45, -1e-45, 88.72, 88.73, -103.9, -104.1],
                       np.float32)
    return np.concatenate([everywhere, special, np.linspace(-20, 20, 200_001).astype(np.float32)])


def check_units_in_last_place(result: np.ndarray, exact: np.ndarray, bound: float) -> None:
    """exact is float64; where it or the result is no finite float32, they must be the same."""
    with np.errstate(over="ignore"):
        rounded = exact.astype(np.float32)
    finite = np.isfinite(rounded) & np.isfinite(result)
    np.testing.assert_array_equal(result[~finite], rounded[~finite])
    error = np.abs(result[finite] - exact[finite]) / np.spacing(np.abs(rounded[finite])).astype(np.float64)
    assert error.max() <= bound


def reference(name: str, x: np.ndarray) -> np.ndarray:
    if name == "erf":
        special = pytest.importorskip("scipy.special")
        return special.erf(x)
    if name == "sigmoid":
        return np.where(x < 0, np.exp(np.minimum(x, 0)) / (1 + np.exp(np.minimum(x, 0))), 1 / (1 + np.exp(-x)))
    return getattr(np, name)(x)


@pytest.mark.parametrize("name", ["exp", "expm1", "expm1_nonpositive", "log", "log1p", "tanh", "sigmoid", "erf", "sin",
                                  "cos"])
def test_float32_function(name):
    function = getattr(vector_math, f"{name}_f32")

    def apply(bases, args, begin, end):
        x, y = buffer_f32(bases, args, 0), buffer_f32(bases, args, 2)
        for i in range(begin, end):
            y[i] = function(x[i])
    compute = kernel(apply)
    fused = re.findall(r"vfmadd\d+(..)", assembly(apply))
    assert not fused or {"ps", "pd"} & set(fused)           # packed: the loop was vectorised
    x = sample()
    if name == "expm1_nonpositive":
        name, x = "expm1", x[~(x > 0)]
    y = np.empty_like(x)
    call(compute, (x, y), 0, len(x))
    with np.errstate(all="ignore"):
        check_units_in_last_place(y, reference(name, x.astype(np.float64)), 2.0)
    alone = np.empty(1, np.float32)
    for i in range(0, len(x), len(x) // 500):               # one value at a time: the loop's tail
        call(compute, (x[i:i + 1], alone), 0, 1)
        assert alone.view(np.int32)[0] == y[i:i + 1].view(np.int32)[0]


def test_erf_where_a_table_takes_long():
    function = vector_math._inline("erf", vector_math._erf_of_exp, float32)

    @kernel
    def compute(bases, args, begin, end):
        x, y = buffer_f32(bases, args, 0), buffer_f32(bases, args, 2)
        for i in range(begin, end):
            y[i] = function(x[i])
    x = sample()[::7].copy()
    y = np.empty_like(x)
    call(compute, (x, y), 0, len(x))
    with np.errstate(all="ignore"):
        check_units_in_last_place(y, reference("erf", x.astype(np.float64)), 2.0)


def test_float32_power():
    power = vector_math.pow_f32

    @kernel
    def compute(bases, args, begin, end):
        x, y, z = buffer_f32(bases, args, 0), buffer_f32(bases, args, 2), buffer_f32(bases, args, 4)
        for i in range(begin, end):
            z[i] = power(x[i], y[i])
    special = np.array([0, -0.0, 1, -1, 2, -2, 0.5, -0.5, 3, -3, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3e38, 16777217,
                        16777215, -16777215, 0.999999, 1.000001], np.float32)
    pairs = np.array(list(itertools.product(special, special)), np.float32)
    numbers = np.random.default_rng(0)
    any_float = numbers.integers(0, 2 ** 32, 300_000, dtype=np.uint32).view(np.float32)
    near_one = np.exp(numbers.normal(size=300_000) * 0.01).astype(np.float32)
    x = np.concatenate([pairs[:, 0], any_float, near_one])
    y = np.concatenate([pairs[:, 1], numbers.normal(size=300_000) * 10 ** numbers.uniform(-3, 2, 300_000),
                        numbers.normal(size=300_000) * 3000]).astype(np.float32)
    z = np.empty_like(x)
    call(compute, (x, y, z), 0, len(x))
    with np.errstate(all="ignore"):
        exact = np.power(x.astype(np.float64), y.astype(np.float64))
        check_units_in_last_place(z, exact, 0.51)
        number = ~np.isnan(exact)
        np.testing.assert_array_equal(np.signbit(z[number]), np.signbit(exact[number].astype(np.float32)))


def test_float64_functions_and_exact_ones():
    m = vector_math

    @kernel
    def compute(bases, args, begin, end):
        x, y = buffer_f64(bases, args, 0), buffer_f64(bases, args, 2)
        for i in range(begin, end):
            y[i] = m.exp_f64(x[i])
            y[i + 10] = m.sigmoid_f64(x[i])
            y[i + 20] = m.round_f64(x[i])
            y[i + 30] = m.sign_f64(x[i])
            y[i + 40] = m.maximum_f64(x[i], 0.5)
            y[i + 50] = m.minimum_f64(0.5, x[i])
            y[i + 60] = m.rsqrt_f64(x[i])
    x = np.array([-np.inf, -2.5, -0.5, 0.0, 0.5, 1.5, 2.5, 300, np.inf, np.nan])
    y = np.empty(70)
    call(compute, (x, y), 0, 10)
    with np.errstate(all="ignore"):
        expected = [np.exp(x), 1 / (1 + np.exp(-x)), np.round(x), np.sign(x), np.maximum(x, 0.5), np.minimum(0.5, x),
                    1 / np.sqrt(x)]
    np.testing.assert_allclose(y.reshape(7, 10), expected, rtol=1e-14)


# --- random bits --------------------------------------------------------------------------------------------------


def test_random_bits():
    bits = random.random_bits

    @kernel
    def compute(bases, args, begin, end):
        y = buffer_i32(bases, args, 0)
        for i in range(begin, end):
            y[i] = bits(args[2], i, args[3])
    for seed, stream in ((0, 0), (-123456789012345, 7), (2 ** 40 + 3, 2 ** 32 - 1)):
        y = np.empty(1003, np.int32)
        call(compute, (y,), 0, 1003, (seed, stream))
        node = oracle.random_bits(input("seed", i64, ()), (1003,), stream)
        np.testing.assert_array_equal(y, oracle.RANDOM_BITS.evaluate([np.int64(seed)], node, {}))
        if seed == stream == 0:         # the known answer of Random123 for a zero key and counter
            assert y[0] == 0x6627E8D5 >> 8


# --- contractions -------------------------------------------------------------------------------------------------


def product_plan(m, n, k, dtype, transposed=False, accumulate=False):
    if transposed:
        return plan(dtype, [], [Axis(m, a=k, c=n)], [Axis(k, a=1, b=1)], n, column_stride_b=k, accumulate=accumulate)
    return plan(dtype, [], [Axis(m, a=k, c=n)], [Axis(k, a=1, b=n)], n, accumulate=accumulate)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_matrix_products(dtype):
    numpy_dtype, tolerance = ("f4", 1e-4) if dtype == "f32" else ("f8", 1e-11)
    numbers = np.random.default_rng(1)
    for m, n, k in [(1, 1, 1), (7, 10, 5), (1, 70, 64), (2, 40, 30), (3, 17, 40), (64, 48, 33), (200, 100, 800),
                    (30, 600, 500), (5, 8, 0), (13, 3, 400), (200, 101, 1), (9, 512, 1)]:
        a, b = (numbers.normal(size=shape).astype(numpy_dtype) for shape in ((m, k), (k, n)))
        exact = a.astype(np.float64) @ b
        for transposed, accumulate in ((False, False), (True, False), (False, True)):
            guarded = np.full(m * n + 16, 2.0, numpy_dtype)
            c = guarded[:m * n].reshape(m, n)
            run_plan(product_plan(m, n, k, dtype, transposed, accumulate),
                     a, np.ascontiguousarray(b.T) if transposed else b, c)
            np.testing.assert_allclose(c, exact + (2 if accumulate else 0), atol=tolerance, rtol=tolerance)
            assert (guarded[m * n:] == 2).all()


def test_a_row_has_the_same_bits_in_every_tile():
    """Each element is one chain of fma over ascending k: rows, columns and blocks around it do not matter."""
    numbers = np.random.default_rng(2)
    m, n, k = 37, 83, 450
    a, b = (numbers.normal(size=shape).astype(np.float32) for shape in ((m, k), (k, n)))
    c = np.empty((m, n), np.float32)
    run_plan(product_plan(m, n, k, "f32"), a, b, c)
    for rows in range(1, 14):
        part = np.empty((rows, n), np.float32)
        run_plan(product_plan(rows, n, k, "f32"), a, b, part)
        np.testing.assert_array_equal(part, c[:rows])
    for columns in (1, 5, 8, 24, 40, 64, 77):
        part = np.empty((m, columns), np.float32)
        run_plan(product_plan(m, columns, k, "f32"), a, np.ascontiguousarray(b[:, :columns]), part)
        np.testing.assert_array_equal(part, c[:, :columns])
    chain = np.zeros((m, n), np.float64)            # the same chain in NumPy: a product of floats is exact in float64
    for i in range(k):
        chain = (a[:, i:i + 1].astype(np.float64) * b[i] + chain).astype(np.float32).astype(np.float64)
    assert (chain == c).mean() > 0.99               # but its sum is rounded twice, now and then differently


@pytest.mark.parametrize("outputs", [64, 100, 512])
def test_a_sum_of_one_term_is_rounded_once(outputs):
    """The gradient of a dense kernel at one sample: rows that go one by one, and tiles, give the same bits."""
    numbers = np.random.default_rng(10)
    x, dy = numbers.normal(size=300).astype(np.float32), numbers.normal(size=outputs).astype(np.float32)
    dw = np.empty((300, outputs), np.float32)
    run_plan(plan("f32", [], [Axis(300, a=1, c=outputs)], [Axis(1, a=300, b=outputs)], outputs), x, dy, dw)
    np.testing.assert_array_equal(dw, np.outer(x, dy))


def test_threads_do_not_change_a_product(two_threads):
    numbers = np.random.default_rng(3)
    a, b = (numbers.normal(size=shape).astype(np.float32) for shape in ((300, 200), (200, 300)))
    one, two = np.empty((300, 300), np.float32), np.empty((300, 300), np.float32)
    run_plan(product_plan(300, 300, 200, "f32"), a, b, one)
    run_plan(product_plan(300, 300, 200, "f32"), a, b, two, serial=False)
    np.testing.assert_array_equal(one, two)


def test_batches_with_strides():
    numbers = np.random.default_rng(4)
    a, b = (numbers.normal(size=shape).astype(np.float32) for shape in ((2, 10, 3, 7), (2, 9, 3, 7)))
    c = np.empty((2, 3, 10, 9), np.float32)         # c[g, h, i, j] = sum over k of a[g, i, h, k] b[g, j, h, k]
    step = plan("f32", [Axis(2, 210, 189, 270), Axis(3, 7, 7, 90)], [Axis(10, a=21, c=9)], [Axis(7, a=1, b=1)], 9,
                column_stride_b=21)
    run_plan(step, a, b, c)
    np.testing.assert_allclose(c, np.einsum("gihk,gjhk->ghij", a, b), atol=1e-5)


@pytest.mark.parametrize("size, channels, outputs, width, stride", [(10, 3, 20, 3, 1), (13, 8, 16, 5, 2),
                                                                     (6, 16, 40, 1, 1)])
def test_convolution_and_its_weight_gradient(size, channels, outputs, width, stride):
    numbers, batch = np.random.default_rng(5), 3
    out = (size - width) // stride + 1
    x = numbers.normal(size=(batch, size, size, channels)).astype(np.float32)
    w = numbers.normal(size=(width, width, channels, outputs)).astype(np.float32)
    y, dw = np.empty((batch, out, out, outputs), np.float32), np.empty_like(w)
    windows = np.lib.stride_tricks.sliding_window_view(x, (width, width), axis=(1, 2))[:, ::stride, ::stride]
    row, line, image = stride * channels, stride * size * channels, size * size * channels
    step = plan("f32", [], [Axis(batch, a=image, c=out * out * outputs), Axis(out, a=line, c=out * outputs),
                            Axis(out, a=row, c=outputs)],
                [Axis(width, a=size * channels, b=width * channels * outputs),
                 Axis(width * channels, a=1, b=outputs)], outputs)
    run_plan(step, x, w, y)
    np.testing.assert_allclose(y, np.einsum("nyxcij,ijco->nyxo", windows, w), atol=1e-4)
    step = plan("f32", [], [Axis(width, a=size * channels, c=width * channels * outputs),
                            Axis(width * channels, a=1, c=outputs)],
                [Axis(batch, a=image, b=out * out * outputs), Axis(out, a=line, b=out * outputs),
                 Axis(out, a=row, b=outputs)], outputs)
    run_plan(step, x, y, dw)
    np.testing.assert_allclose(dw, np.einsum("nyxcij,nyxo->ijco", windows, y), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_weight_gradients_whose_lines_collide_in_the_cache(dtype):
    """A is read along its columns, far apart by a power of two: it is packed, in runs where it is not contiguous."""
    numpy_dtype = "f4" if dtype == "f32" else "f8"
    numbers = np.random.default_rng(6)
    for batch, inputs, outputs, group in [(300, 1024, 48, 1024), (130, 2048, 100, 2048), (260, 1024, 64, 100)]:
        x = numbers.normal(size=(batch, inputs)).astype(numpy_dtype)
        dy = numbers.normal(size=(batch, outputs)).astype(numpy_dtype)
        kept = inputs // group * (group - 3) if group < inputs else inputs      # rows in groups with gaps between them
        rows = [Axis(kept, a=1, c=outputs)] if kept == inputs else \
            [Axis(inputs // group, a=group, c=(group - 3) * outputs), Axis(group - 3, a=1, c=outputs)]
        dw = np.empty((kept, outputs), numpy_dtype)
        run_plan(plan(dtype, [], rows, [Axis(batch, a=inputs, b=outputs)], outputs), x, dy, dw)
        taken = x if kept == inputs else x[:, :inputs // group * group].reshape(batch, -1, group)[:, :, :group - 3]
        np.testing.assert_allclose(dw, taken.reshape(batch, kept).T.astype("f8") @ dy, atol=1e-3)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_rows_and_terms_that_lie_side_by_side(dtype):
    """The same bits whether A's terms lie together, its rows, some of them, or neither; rows may even overlap."""
    numbers = np.random.default_rng(12)
    for m, n, k in [(8, 10, 3), (40, 16, 130), (23, 7, 21), (30, 1, 50)]:
        a, b = (numbers.normal(size=(k, size)).astype("f4" if dtype == "f32" else "f8") for size in (m, n))
        groups = np.zeros((k, 2 * m), a.dtype)          # five rows, and five that are none, in turn
        for row in range(m):
            groups[:, row // 5 * 10 + row % 5] = a[:, row]
        ways = [(a, [Axis(m, 1, 0, n)], m), (np.ascontiguousarray(a.T), [Axis(m, k, 0, n)], 1),
                (np.repeat(a, 3, axis=1), [Axis(m, 3, 0, n)], 3 * m)]
        if m % 5 == 0:
            ways.append((groups, [Axis(m // 5, 10, 0, 5 * n), Axis(5, 1, 0, n)], 2 * m))
        results = []
        for stored, rows, term in ways:
            results.append(np.empty((m, n), a.dtype))
            run_plan(plan(dtype, [], rows, [Axis(k, term, n)], n), stored, b, results[-1])
            np.testing.assert_array_equal(results[-1], results[0])
        np.testing.assert_allclose(results[0], a.T @ b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("columns", [10, 48])
def test_rows_that_overlap(columns):
    """The last row is as far from the first as if all were neighbours."""
    numbers = np.random.default_rng(13)
    a, b = numbers.normal(size=(64, 4096)).astype("f4"), numbers.normal(size=(64, columns)).astype("f4")
    c = np.empty((8, columns), np.float32)
    run_plan(plan("f32", [], [Axis(2, 5, 0, 4 * columns), Axis(2, 1, 0, 2 * columns), Axis(2, 1, 0, columns)],
                  [Axis(64, 4096, columns)], columns), a, b, c)
    np.testing.assert_allclose(c, a[:, [0, 1, 1, 2, 5, 6, 6, 7]].T @ b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_products_of_one_column(dtype):
    """Dot products: the rest of a vector along k, chunks of k, tiles with rows too many, which repeat the last one, and
    values beside that must not be touched."""
    numpy_dtype = "f4" if dtype == "f32" else "f8"
    numbers = np.random.default_rng(7)
    for m, k in [(1, 1), (1, 7), (13, 8), (9, 33), (40, 1000), (30, 1000), (3, 400), (8, 0)]:
        a, b = numbers.normal(size=(m, k + 2)).astype(numpy_dtype), numbers.normal(size=k).astype(numpy_dtype)
        a[:, k:] = np.nan
        guarded = np.full(m + 8, 2.0, numpy_dtype)
        run_plan(plan(dtype, [], [Axis(m, a=k + 2, c=1)], [Axis(k, a=1, b=1)], 1, 0), a, b, guarded)
        np.testing.assert_allclose(guarded[:m], a[:, :k].astype("f8") @ b, rtol=1e-4, atol=1e-4)
        assert (guarded[m:] == 2).all()
        alone = np.empty(1, numpy_dtype)
        run_plan(plan(dtype, [], [Axis(1, a=k + 2, c=1)], [Axis(k, a=1, b=1)], 1, 0), a[m - 1:].copy(), b, alone)
        assert alone[0] == guarded[m - 1]


def test_any_number_of_columns_and_units_of_so_many_rows():
    numbers = np.random.default_rng(8)
    for m, n, k in [(1, 5, 9), (7, 1, 40), (13, 16, 3), (20, 31, 64), (50, 100, 20), (3, 10, 70), (4, 3, 3)]:
        a, b = numbers.normal(size=(m, k)).astype(np.float32), numbers.normal(size=(k, n)).astype(np.float32)
        exact = None
        for settings in ({}, {"any_columns": True}, {"any_rows": False}, {"any_columns": True, "any_rows": False},
                         {"block_rows": 4}, {"any_columns": True, "block_rows": 16}):
            guarded = np.full(m * n + 16, 2.0, np.float32)
            made = plan("f32", [], [Axis(m, a=k, c=n)], [Axis(k, a=1, b=n)], n, **settings)
            assert "block_rows" not in settings or made.units == -(-m // settings["block_rows"])
            run_plan(made, a, b, guarded)
            exact = guarded[:m * n].copy() if exact is None else exact
            np.testing.assert_array_equal(guarded[:m * n], exact)
            assert (guarded[m * n:] == 2).all()
        np.testing.assert_allclose(exact.reshape(m, n), a @ b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_tiles_that_ask_ahead_give_the_same_bits(dtype):
    """Sums in several chunks, of contiguous and far terms, over one index and two; B by rows and in panels."""
    numbers, wide = np.random.default_rng(11), 64 // (4 if dtype == "f32" else 8)
    for m, n, outer, inner, far in [(31, 70, 1, 900, False), (7, 5, 1, 300, True), (90, 40, 9, 64, True),
                                    (13, 6 * wide, 3, 500, False), (13, 6 * wide, 1, 1500, True)]:
        k = outer * inner
        a, b = (numbers.normal(size=(k, size)).astype("f4" if dtype == "f32" else "f8") for size in (m, n))
        stored, row, term = (a, 1, m) if far else (np.ascontiguousarray(a.T), k, 1)
        ways = [(b, [Axis(outer, inner * term, inner * n), Axis(inner, term, n)], None)]
        if n % wide == 0:
            panels = np.ascontiguousarray(b.reshape(k, -1, wide).swapaxes(0, 1))
            ways.append((panels, [Axis(outer, inner * term, inner * wide), Axis(inner, term, wide)],
                         Panel(wide, k * wide)))
        for operand, sums, panel in ways:
            plain, asking = np.full((m, n), 2, a.dtype), np.full((m, n), 3, a.dtype)
            for asks, c in ((False, plain), (True, asking)):
                run_plan(plan(dtype, [], [Axis(m, row, 0, n)], sums, n, panel=panel, asks=asks), stored, operand, c)
            np.testing.assert_array_equal(asking, plain)
            np.testing.assert_allclose(asking, a.T @ b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 8])
def test_panels_side_by_side(count):
    numbers = np.random.default_rng(9)
    for m in (1, 5):
        a, b = numbers.normal(size=(m, 40)).astype(np.float32), numbers.normal(size=(count, 40, 16)).astype(np.float32)
        results = []
        for batch, columns, panel in (([], 16 * count, Panel(16, 640)), ([Axis(count, b=640, c=16)], 16, None)):
            guarded = np.full(m * count * 16 + 16, 2.0, np.float32)
            run_plan(plan("f32", batch, [Axis(m, a=40, c=count * 16)], [Axis(40, a=1, b=16)], columns,
                          panel=panel), a, b, guarded)
            assert (guarded[m * count * 16:] == 2).all()
            results.append(guarded[:m * count * 16].reshape(m, count * 16))
        np.testing.assert_array_equal(*results)
        np.testing.assert_allclose(results[0], a @ b.transpose(1, 0, 2).reshape(40, -1), rtol=1e-4, atol=1e-4)


def test_products_of_one_row_are_shared_among_threads(two_threads):
    made = plan("f32", [], [Axis(1, a=784, c=512)], [Axis(784, a=1, b=512)], 512)
    assert made.units >= 2 * made.grain


def test_tiles_fit_the_registers():
    for vectors in (1, 2, 3, 5):
        assert tile_rows(vectors) * vectors + vectors + 1 <= 32
    with pytest.raises(ValueError):
        plan("f32", [], [Axis(1)] * 5, [Axis(1)], 8)


# --- machine code -------------------------------------------------------------------------------------------------


def test_what_is_set_while_a_kernel_is_made_is_put_back():
    """Numba, for one, has its own code made by the same LLVM."""
    def strided(bases, args, begin, end):
        x, y = buffer_f32(bases, args, 0), buffer_f32(bases, args, 2)
        n0, n1 = args[4], args[5]
        for i in range(begin, end):
            for j in range(n0):
                y[n1 * i + n0 * j] = x[n0 * i + n1 * j]
    before = assembly(strided)
    made = machine.emit_code(compile_module(strided, KERNEL, "netc_kernel"), as_text=True)
    assert made != before == assembly(strided)
