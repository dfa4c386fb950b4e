"""Objects put in memory without LLVM: the same code as where LLVM links them, and only what is understood."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import subprocess
import sys

import numpy as np
import pytest
from llvmlite import binding as llvm

from netc.runtime import cache, host, machine
from netc.runtime.builders import build
from netc.runtime.images import image_of, place

pytestmark = pytest.mark.skipif(not (sys.platform.startswith("linux") and platform.machine() == "x86_64"),
                                reason="elsewhere LLVM links")

# Constants in vectors and alone, and a function of the C library.
TEXT = """def kernel(bases, args, begin, end):
    x = buffer_f32(bases, args, 0)
    y = buffer_f32(bases, args, 2)
    for i in range(begin, end):
        y[i] = exp_f32(x[i]) + erf_f32(x[i]) + float32(sin_f64(float64(x[i])))
"""
TABLE = """
@numbers = private constant [4 x i64] [i64 3, i64 5, i64 7, i64 11]
define i64 @answer(i64 %n) nounwind {
  %p = getelementptr [4 x i64], [4 x i64]* @numbers, i64 0, i64 %n
  %v = load i64, i64* %p
  switch i64 %n, label %other [ i64 0, label %zero i64 1, label %one i64 2, label %two i64 3, label %three ]
zero:
  ret i64 %v
one:
  %twice = add i64 %v, %v
  ret i64 %twice
two:
  %square = mul i64 %v, %v
  ret i64 %square
three:
  %less = sub i64 %v, 1
  ret i64 %less
other:
  ret i64 -1
}"""
WRITTEN = """
@count = internal global i64 0
define i64 @answer(i64 %n) nounwind {
  %v = load i64, i64* @count
  %s = add i64 %v, %n
  store i64 %s, i64* @count
  ret i64 %s
}"""
FOREIGN = """
declare i64 @nobody_has_this(i64)
define i64 @answer(i64 %n) nounwind {
  %v = call i64 @nobody_has_this(i64 %n)
  ret i64 %v
}"""


def compiled(text: str, **target) -> machine.Object:
    """The object of a module with the function ``answer``, made as netc's are unless ``target`` says otherwise."""
    module = llvm.parse_assembly(text)
    if not target:
        return machine.Object("answer", machine.emit_code(module))
    maker = llvm.Target.from_triple(host.host().triple).create_target_machine(**target)
    return machine.Object("answer", maker.emit_object(module))


def answer(code: machine.Code, number: int) -> int:
    return ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(code.address)(number)


def test_the_same_results_as_where_llvm_links():
    made = build(TEXT)
    image = image_of(made.content, made.symbol)
    assert image is not None and image.places and set(image.calls) == {"sin"}
    results = []
    for code in (machine.link(made), *machine._link_by_llvm([made])):
        x, y = np.linspace(-90, 90, 64, dtype=np.float32), np.full(64, np.nan, np.float32)
        bases, args = np.array([x.ctypes.data, y.ctypes.data], np.intp), np.array([0, 0, 1, 0], np.int64)
        ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)(code.address)(bases.ctypes.data, args.ctypes.data, 0, 61)
        results.append(y.tobytes())
    assert results[0] == results[1]


def test_several_objects_lie_in_one_piece():
    texts = [TEXT.replace("erf_f32", name) for name in ("tanh_f32", "log_f32", "expm1_f32")]
    codes = machine.link_all([build(text) for text in texts])
    first, *_, last = sorted(code.address for code in codes)
    assert last - first < sum(len(build(text).content) for text in texts)
    assert len({code.address for code in codes}) == 3 and all(code.address % 16 == 0 for code in codes)


def test_constants_that_hold_addresses():
    """Those to which a table of jumps leads."""
    made = compiled(TABLE)
    image = image_of(made.content, "answer")
    assert image is not None and len(image.places) >= 5
    assert [answer(machine.link(made), n) for n in range(4)] == [3, 10, 49, 10]


def test_what_is_placed_can_no_longer_be_written():
    made = compiled(TABLE)
    image = image_of(made.content, "answer")
    address, = place([image])
    with open("/proc/self/maps") as file:
        ranges = [re.match(r"(\w+)-(\w+) (\S+)", line).groups() for line in file]
    assert [rights for first, last, rights in ranges if int(first, 16) <= address < int(last, 16)] == ["r-xp"]


@pytest.mark.parametrize("text", [WRITTEN, FOREIGN], ids=["writes", "calls what is not there"])
def test_what_images_do_not_have(text):
    assert image_of(compiled(text).content, "answer") is None


def test_other_objects_are_linked_by_llvm():
    written, near = compiled(WRITTEN), compiled(TABLE, jit=True, reloc="pic", codemodel="small")
    assert image_of(near.content, "answer") is None         # its addresses are distances
    code = machine.link(written)
    assert [answer(code, 2), answer(code, 3)] == [2, 5]
    assert answer(machine.link(near), 1) == 10


def test_an_object_without_its_symbol():
    made = compiled(TABLE)
    assert image_of(made.content, "question") is None and image_of(b"no object", "answer") is None
    with pytest.raises(machine.LinkError):
        machine.link(machine.Object("question", made.content))


PROCESS = """
import sys
import numpy as np
import netc
fn = netc.compile("net 1\\nmodel M(x: f32[N, 3]) -> f32[N, 4]:\\n    return x |> Dense(4, gelu) |> softmax\\n")
w = fn.init(0)
print(float(np.sum(fn(w, np.ones((5, 3), np.float32))[:, 1])), float(fn.bind(w)(np.ones((1, 3), np.float32))[0, 1]))
print(netc.runtime.machine.counts.compiled > 0, "llvmlite.binding" in sys.modules)
"""


def test_a_process_that_compiles_nothing_does_not_load_llvm(tmp_path):
    """Not to link, and not to ask what the host is."""
    def run() -> tuple[str, str]:
        done = subprocess.run([sys.executable, "-c", PROCESS], capture_output=True, text=True, timeout=120,
                              env=os.environ | {"NETC_CACHE_DIR": str(tmp_path / "cache")})
        assert (done.returncode, done.stderr) == (0, "")
        results, used = done.stdout.splitlines()
        return results, used
    first, second = run(), run()
    assert first[0] == second[0]
    assert (first[1], second[1]) == ("True True", "False False")


# --- the host ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """Asks for the host as a new process would; gives how often LLVM was asked since."""
    monkeypatch.setenv("NETC_CACHE_DIR", str(tmp_path / "cache"))
    times = []
    ask = host._ask
    monkeypatch.setattr(host, "_ask", lambda: times.append(1) or ask())

    def again() -> int:
        times.clear()
        assert host.host.__wrapped__() == ask()
        return len(times)
    return again


def test_the_host_is_asked_about_once(asked, tmp_path, monkeypatch):
    assert asked() == 1 and asked() == 0
    other = tmp_path / "cpuinfo"
    with open(host.CPU_FILE) as file:
        other.write_text(re.sub(r"(?m)^stepping\s*:.*", "stepping : 77", file.read()))
    monkeypatch.setattr(host, "CPU_FILE", str(other))
    assert asked() == 1 and asked() == 0
    other.write_text(other.read_text().replace(" avx ", " "))        # a hypervisor that hides a feature
    assert asked() == 1 and asked() == 0


@pytest.mark.parametrize("content", ["", "processor : 0\nmodel : 1\n", None, b"\xff\xfe flags"])
def test_a_system_that_does_not_say_what_its_processor_is(asked, tmp_path, monkeypatch, content):
    other = tmp_path / "cpuinfo"
    if content is not None:
        other.write_bytes(content if isinstance(content, bytes) else content.encode())
    monkeypatch.setattr(host, "CPU_FILE", str(other))
    assert asked() == 1 and asked() == 1
    assert cache.info().entries == 0
