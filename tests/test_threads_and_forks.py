"""Many threads on one function, and processes forked and spawned beside its pool: right results, and no hang."""

from __future__ import annotations

import linecache
import os
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest

import netc
from netc.runtime import pool, runner

FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
SOURCE = """net 1
model Net(x: f32[N, 32]) -> (y: f32[N, 8]):
    y = x |> Dense(64, tanh) |> Dense(8)
train Net:
    input target: f32[N, 8]
    loss square = mean((y - target) ** 2)
    optimizer = adam(lr = 0.01)
"""
TIMEOUT = 120


@pytest.fixture(autouse=True)
def two_threads():
    before = pool.threads()
    pool.set_threads(2)
    yield
    pool.set_threads(before)


def inputs(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 32)).astype(np.float32)


def in_threads(count: int, work) -> None:
    """``work(number)`` in so many threads at once; their first error is raised here."""
    errors, start = [], threading.Barrier(count)

    def run(number):
        try:
            start.wait(TIMEOUT)
            work(number)
        except BaseException as error:
            errors.append(error)
    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    if errors:
        raise errors[0]


# --- threads ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 600], ids=["serial", "parallel"])
def test_eight_threads_call_a_thousand_times_each(rows):
    fn = netc.compile(SOURCE)
    weights = fn.init(seed=1)
    wanted = [fn(weights, inputs(rows, number)) for number in range(8)]
    assert next(iter(fn.program("predict").executable._bindings.values())).runner.is_parallel == (rows > 1)

    def work(number):
        x = inputs(rows, number)
        for _ in range(1000):
            assert np.array_equal(fn(weights, x), wanted[number])
    in_threads(8, work)


def test_calls_go_on_whatever_the_threads_are_set_to():
    fn = netc.compile(SOURCE)
    weights, x = fn.init(seed=1), inputs(600)
    predict, wanted = fn.bind(weights), fn(weights, x)
    for count in (2, 1, 3, 2):
        pool.set_threads(count)
        for _ in range(4):
            assert np.array_equal(predict(x), wanted) and np.array_equal(fn(weights, x), wanted)


def test_calls_known_with_one_thread_use_those_that_are_set_later():
    pool.set_threads(1)
    fn = netc.compile(SOURCE)
    weights, batch = fn.init(seed=1), {"x": inputs(600), "target": inputs(600)[:, :8].copy()}
    predict, trainer, wanted = fn.bind(weights), fn.trainer(weights), fn(weights, batch["x"])

    def is_known(shortcuts) -> bool:
        return isinstance(shortcuts.call, types.BuiltinFunctionType)
    for count in (1, 2, 1, 2):
        pool.set_threads(count)
        for number in range(4):
            before = pool.pool()._get(runner.NUMBER) if count > 1 else 0
            assert np.array_equal(predict(batch["x"]), wanted) and np.array_equal(fn(weights, batch["x"]), wanted)
            trainer(batch)
            assert (pool.pool()._get(runner.NUMBER) == before + 3) if count > 1 else pool.pool() is None
            assert [is_known(each._shortcuts) for each in (predict, fn, trainer)] == 3 * [number > 0]


def test_the_threads_are_set_while_others_call():
    fn = netc.compile(SOURCE)
    weights, x, done = fn.init(seed=1), inputs(6000), threading.Event()
    wanted = fn(weights, x)

    def work(number):
        if number == 0:
            for count in range(150):
                pool.set_threads(2 + count % 2)
                time.sleep(0.002)
            done.set()
        while not done.is_set():
            assert np.array_equal(fn(weights, x), wanted)
    in_threads(4, work)


def test_a_worker_that_sleeps_is_woken_by_a_known_call():
    fn = netc.compile(SOURCE)
    predict, x = fn.bind(fn.init(seed=1)), inputs(600)
    wanted, workers = predict(x), pool.pool()
    for _ in range(3):
        assert np.array_equal(predict(x), wanted)
        for _ in range(1000):
            if workers._asleep:
                break
            time.sleep(0.01)
        assert workers._asleep
        predict(x)
        assert not workers._asleep


def test_an_interrupt_loses_no_worker():
    """Ctrl-C before any line of what wakes the workers."""
    fn = netc.compile(SOURCE)
    predict, x = fn.bind(fn.init(seed=1)), inputs(600)
    wanted, workers, code = predict(x), pool.pool(), pool.Pool.wake.__code__
    lines = [line for _, _, line in code.co_lines() if line is not None and line > code.co_firstlineno]
    for at in dict.fromkeys(lines):
        def trace(frame, event, _, at=at):
            if frame.f_code is code and event == "line" and frame.f_lineno == at:
                sys.settrace(None)
                raise KeyboardInterrupt
            return trace
        if "with " in linecache.getline(code.co_filename, at):      # no signal is looked at as a lock is given back
            continue
        assert wait_until(lambda: workers._asleep), "a worker is lost"
        sys.settrace(trace)
        try:
            with pytest.raises(KeyboardInterrupt):
                predict(x)
        finally:
            sys.settrace(None)
        assert np.array_equal(predict(x), wanted)
    assert wait_until(lambda: workers._asleep), "a worker is lost"


def wait_until(found) -> bool:
    """Whether it is so within ten seconds."""
    for _ in range(1000):
        if found():
            return True
        time.sleep(0.01)
    return False


def test_threads_with_more_sizes_than_are_kept():
    fn = netc.compile(SOURCE)
    weights = fn.init(seed=1)
    x = inputs(100)
    wanted = fn(weights, x)

    def work(number):
        for turn in range(60):
            rows = 1 + (7 * number + 13 * turn) % 100
            assert np.array_equal(fn(weights, x[:rows]), wanted[:rows])
    in_threads(8, work)


def test_the_first_call_of_a_function_in_eight_threads():
    wanted = netc.compile(SOURCE)(netc.compile(SOURCE).init(seed=1), inputs(5))
    fn = netc.compile(SOURCE)
    weights = fn.init(seed=1)
    programs = []

    def work(number):
        assert np.array_equal(fn(weights, inputs(5)), wanted)
        programs.append(fn.program("predict"))
    in_threads(8, work)
    assert len(set(map(id, programs))) == 1


def test_training_in_eight_threads():
    fn = netc.compile(SOURCE)
    x, target = inputs(64), np.zeros((64, 8), np.float32)

    def train(number):
        trainer = fn.trainer(fn.init(seed=number))
        for _ in range(50):
            trainer(x=x, target=target)
        return trainer.weights.flat
    wanted = [train(number) for number in range(8)]
    results = {}
    in_threads(8, lambda number: results.update({number: train(number)}))
    assert all(np.array_equal(results[number], wanted[number]) for number in range(8))


# --- forks --------------------------------------------------------------------------------------------------------

SCRIPT = """
import os, signal, sys, threading, time
import numpy as np
import netc
SOURCE = '''%s'''

def inputs(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 32)).astype(np.float32)

def check(number=0):
    '''Small, large and new sizes, another program, and a function of its own.'''
    for rows in (1, 600, 7 + number):
        assert np.array_equal(fn(weights, inputs(600)[:rows]), wanted[:rows])
    loss, gradient = fn.value_and_grad(weights, x=inputs(64), target=np.zeros((64, 8), np.float32))
    assert np.isfinite(gradient.flat).all()
    other = netc.compile(SOURCE.replace('64', str(20 + number)))
    assert other(other.init(), inputs(600)).shape == (600, 8)
    return True

def fork(count):
    '''Children that check, with the parent still at work; their exit codes.'''
    children = []
    for number in range(count):
        child = os.fork()
        if child == 0:
            signal.alarm(60)                # a hang ends with a signal
            try:
                check(number)
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]

netc.set_threads(2)
fn = netc.compile(SOURCE)
weights = fn.init(seed=1)
wanted = fn(weights, inputs(600))
assert next(iter(fn.program('predict').executable._bindings.values())).runner.is_parallel
""" % SOURCE


def script(code: str, tmp_path) -> str:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT + code)
    done = subprocess.run([sys.executable, "-W", "ignore::DeprecationWarning", str(path)], capture_output=True,
                          text=True,
                          timeout=TIMEOUT)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


@FORKS
def test_children_forked_after_a_parallel_call(tmp_path):
    assert script("print(fork(3)); check(); print(fork(1))", tmp_path) == "[0, 0, 0]\n[0]\n"


@FORKS
def test_a_child_of_a_child(tmp_path):
    code = """
child = os.fork()
if child == 0:
    signal.alarm(60)
    check()
    os._exit(0 if fork(1) == [0] else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert script(code, tmp_path) == "0\n"


@FORKS
def test_children_forked_while_threads_run(tmp_path):
    """The pool is busy, and bindings come and go."""
    code = """
done = threading.Event()
def work(number):
    while not done.is_set():
        rows = np.random.default_rng().integers(1, 600)
        fn(weights, inputs(600)[:rows])
        fn(weights, inputs(600))
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
for thread in threads: thread.start()
print([fork(1) for _ in range(6)])
done.set()
for thread in threads: thread.join()
"""
    assert script(code, tmp_path) == f"{[[0]] * 6}\n"


@FORKS
def test_children_forked_while_a_thread_compiles(tmp_path):
    """LLVM and our own locks are in the middle of something: the fork waits, or the child has its own."""
    code = """
os.environ['NETC_CACHE_DIR'] = sys.argv[0] + '.cache'
started = threading.Event()
def work():
    for name in ('sigmoid', 'sin', 'softplus'):
        other = netc.compile(f'net 1\\nmodel M(x: f32[N, 3]) -> f32[N, 3]:\\n    return {name}(x)\\n')
        started.set()
        other(other.init(), np.ones((4, 3), np.float32))
thread = threading.Thread(target=work)
check()
thread.start()
started.wait()
codes = []
while thread.is_alive() or not codes:
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        small = netc.compile('net 1\\nmodel M(x: f32[N, 3]) -> f32[N, 3]:\\n    return x + 1\\n')
        os._exit(0 if (small(small.init(), np.ones((4, 3), np.float32)) == 2).all() else 1)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
thread.join()
print(set(codes))
"""
    assert script(code, tmp_path) == "{0}\n"


@FORKS
def test_a_child_forked_while_a_thread_holds_the_functions_lock(tmp_path):
    code = """
lower, inside = fn.lower, threading.Event()
def slow(kind):
    inside.set()
    time.sleep(1)
    return lower(kind)
fn.lower, fn._key = slow, lambda *parts: None           # not from the cache
thread = threading.Thread(target=lambda: fn.program('evaluate'))
thread.start()
inside.wait()
print(fork(1))
thread.join()
"""
    assert script(code, tmp_path) == "[0]\n"


@FORKS
def test_a_child_forked_while_a_thread_wakes_workers(tmp_path):
    """The child does not wait for their lock: it has no workers, and makes its own."""
    code = """
from netc.runtime import pool, runner
predict, x, workers = fn.bind(weights), inputs(600), pool.pool()
for _ in range(3): predict(x)
while not workers._asleep: time.sleep(0.01)
with workers._sleeping:
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        same = all(np.array_equal(predict(x), wanted) for _ in range(4))
        os._exit(0 if same and pool.pool()._get(runner.NUMBER) == 4 else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert script(code, tmp_path) == "0\n"


POOLS = """
import multiprocessing
if __name__ == '__main__':
    check()
    with multiprocessing.get_context(%r).Pool(2) as workers:
        print(workers.map_async(check, range(4)).get(timeout=100))
"""


@pytest.mark.parametrize("method",
                         [pytest.param("fork", marks=FORKS), "spawn", pytest.param("forkserver", marks=FORKS)])
def test_multiprocessing_after_a_parallel_call(tmp_path, method):
    assert script(POOLS % method, tmp_path) == "[True, True, True, True]\n"
