"""The CUDA target where there is no GPU: by numba-cuda's simulator, down to PTX, and what is said where something is
missing.

The simulator is chosen when numba-cuda is imported, so its tests (cuda_device.py) run in processes of their own.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from beside import Beside
from cuda_models import EXAMPLES, SMALLER

import netc
from netc.runtime.cuda import door, tiles

TESTS = Path(__file__).parent
HAS_PACKAGE = importlib.util.find_spec("numba_cuda") is not None
needs_package = pytest.mark.skipif(not HAS_PACKAGE, reason="numba-cuda is not installed: pip install 'netc[cuda]'")
needs_compiler = pytest.mark.skipif(not door.can_compile(), reason="numba-cuda or NVIDIA's compiler is not installed: "
                                    "pip install 'netc[cuda]'")
PARTS = 2           # processes side by side
SOURCE = """net 1
model Line(x: f32[N, 6]) -> (y: f32[N, 4]):
    y = x |> Dense(4, tanh) |> softmax
train Line:
    input target: f32[N, 4]
    loss square = mean((y - target) ** 2)
    optimizer = adam()
"""


def python(*arguments, **environment) -> subprocess.CompletedProcess:
    env = {name: value for name, value in os.environ.items() if name != "NUMBA_ENABLE_CUDASIM"} | environment
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, env=env, cwd=TESTS,
                          timeout=600)


# --- the simulator ----------------------------------------------------------------------------------------------------


def simulation() -> Beside:
    test = "cuda_device.py::test_an_example_gives_what_the_cpu_gives"
    parts = [[f"{test}[{name}]" for name in sorted(SMALLER)[part::PARTS]] for part in range(PARTS)]
    rest = ["cuda_device.py", *(f"--deselect={key}" for part in parts[1:] for key in part)]
    pytest_there = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    return Beside(*(([*pytest_there, *keys], {"NUMBA_ENABLE_CUDASIM": "1"}) for keys in (rest, *parts[1:])))


SIMULATION = simulation()


@pytest.mark.slow
@pytest.mark.beside(SIMULATION)
@needs_package
def test_all_is_right_in_the_simulator():
    done = SIMULATION.results()
    for process in done:
        assert process.returncode == 0, process.stdout[-6000:] + process.stderr[-2000:]
    assert sum(int(re.search(r"(\d+) passed", process.stdout)[1]) for process in done) > len(SMALLER)


# --- what NVIDIA's compiler and assembler make of kernels -------------------------------------------------------------

# How a product reads its operands, its tile, and what becomes of its elements are parts of a source that change by
# themselves; so each is compiled, but not each with each other; the longest of the last with every tile.
COMPILE = """
import re
import sys
import netc
from cuda.bindings import nvjitlink
from netc.compiler.pipeline import compile_graph
from netc.runtime.cuda import attention, contract, door, tiles
from netc.runtime.cuda.entry import with_kernel
part, parts, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
texts, tile_of, longest = {}, {}, None
tile_text = tiles.tile_text

def apart(dtype, tile, form, finish=None):
    global longest
    if finish is not None:
        texts.setdefault(with_kernel(contract.sum_text(dtype, finish), 1), f"what follows {tile}")
        longest = max(longest or finish, finish, key=lambda finish: len(finish.text))
    return tile_text(dtype, tile_of.setdefault((dtype, form), tile), form)

contract.tile_text = apart
attention_text = attention.text

def noted(tile, depth, columns, score):
    global a_score
    a_score = score
    return attention_text(tile, depth, columns, score)

attention.text = noted
for name in sys.argv[4:]:
    fn = netc.compile(f"{folder}/{name}.net")
    for program in ("predict", "step") if fn.model.optimizer is not None else ("predict",):
        lowered, sizes = fn._sized(program, None)
        for label, text in compile_graph(lowered.graph, lowered.layout, "cuda").all_kernels(sizes):
            texts.setdefault(text, f"{name}, {program}: {label}")
apiece, quick = [tiles.Reading(True, 1), tiles.Reading(False, 1)], [tiles.Reading(True, 2), tiles.Reading(False, 4)]
for tile in tiles.TILES:
    texts.setdefault(tile_text("f32", tile, tiles.Form(*apiece), longest), f"{tile} and what follows it")
texts.setdefault(tile_text("f32", tiles.LARGE, tiles.Form(*quick, width=4)), "the large tile")
texts.setdefault(tile_text("f64", tiles.MEDIUM, tiles.Form(*apiece, levels=3, is_far=True)), "a tile of doubles")
largest = attention_text(attention.TILE, attention.MOST_COLUMNS, attention.MOST_COLUMNS, a_score)
texts.setdefault(largest, "the largest attention")
for dtype in ("f32", "f64"):
    texts.setdefault(with_kernel(contract.dot_text(dtype), 2), f"{dtype} dot")
    texts.setdefault(with_kernel(contract.sum_text(dtype), 1), f"{dtype} sum")

def machine_code(ptx):
    \"""The assembler's report.\"""
    handle = nvjitlink.create(2, ["-arch=sm_80", "-verbose"])
    nvjitlink.add_data(handle, nvjitlink.InputType.PTX, ptx, len(ptx), "kernel")
    nvjitlink.complete(handle)
    log = bytearray(nvjitlink.get_info_log_size(handle))
    nvjitlink.get_info_log(handle, log)
    nvjitlink.destroy(handle)
    return log.decode()

in_tiles = rows = 0
for number, text in enumerate(sorted(texts)):
    if number % parts == part:
        try:
            made = door.ptx(text)
        except Exception as error:
            sys.exit(f"{texts[text]}: {type(error).__name__}: {error}\\n{text}")
        assert ".visible .entry" in made and "target sm_80" in made, texts[text]
        # No kernel adds in an order of chance.
        assert "atom." not in made and "red.global" not in made, texts[text]
        if "add_products" in text or "add_scores" in text or "for turn in range(table[0])" in text:
            in_tiles += 1
            told = machine_code(made.encode())
            assert re.findall(r"(\\d+) bytes (?:stack frame|spill)", told) == ["0", "0", "0"], (texts[text], told)
        elif "shared_f32 = " in text:
            rows += 1
            told = machine_code(made.encode())      # a stack for sines of huge arguments is none of ours
            assert re.findall(r"(\\d+) bytes spill", told) == ["0", "0"], (texts[text], told)
print(len(texts), in_tiles, rows)
"""


COMPILATION = Beside(*(([sys.executable, "-c", COMPILE, str(part), str(PARTS), str(EXAMPLES), *sorted(SMALLER)],
                        {"NUMBA_ENABLE_CUDASIM": "0"})
                       for part in range(PARTS)))


@pytest.mark.slow
@pytest.mark.beside(COMPILATION)
@needs_compiler
def test_every_kernel_of_every_example_compiles_without_a_gpu_and_none_spills():
    """Of those that keep much in registers: products, attention, recurrent layers, rows that lanes share."""
    done = COMPILATION.results()
    for process in done:
        assert process.returncode == 0, process.stderr[-4000:]
    found = [list(map(int, process.stdout.split())) for process in done]
    assert found[0][0] > 200 and sum(tiles for _, tiles, _ in found) > 30 and sum(rows for *_, rows in found) > 40


# --- the stages -------------------------------------------------------------------------------------------------------


def test_the_source_can_be_printed_anywhere(netc_command, tmp_path):
    fn = netc.compile(SOURCE)
    text = fn.emit("cuda", "step")
    for part in ("def kernel(bases, args, units):", "cuda.shared.array", "while unit < end:", "products_f32(",
                 "# contract"):
        assert part in text
    for source in re.split(r"^# .*\n", text, flags=re.MULTILINE)[1:]:
        compile(source, "kernel", "exec")
    (tmp_path / "line.net").write_text(SOURCE)
    code, out, _ = netc_command("emit", tmp_path / "line.net", "--stage", "cuda")
    assert code == 0 and out.strip() == fn.emit("cuda").strip()


@needs_compiler
def test_ptx_can_be_printed_without_a_gpu():
    text = netc.compile(SOURCE.replace("softmax", "Dense(4, relu)")).emit("ptx")
    assert text.count(".visible .entry") >= 2 and "ld.global" in text and text.startswith("// ")


@needs_compiler
def test_the_inner_loop_of_a_tile_is_products():
    """A slice's 512 a thread, its loads from shared memory by vectors, two from the operands, and little else."""
    form = tiles.Form(tiles.Reading(True, 4), tiles.Reading(False, 4), width=4)
    made = door.ptx(tiles.tile_text("f32", tiles.LARGE, form))
    blocks = re.split(r"^\$L__BB\d+_\d+:", made, flags=re.MULTILINE)
    inner = max(blocks, key=lambda block: block.count("fma.rn.f32"))
    counts = {name: inner.count(name) for name in ("fma.rn.f32", "ld.shared.v4.f32", "ld.global.v4.f32", "st.shared",
                                                   "bar.sync")}
    assert counts == {"fma.rn.f32": 512, "ld.shared.v4.f32": 32, "ld.global.v4.f32": 2, "st.shared": 5, "bar.sync": 1}
    assert sum(line.strip().endswith(";") for line in inner.splitlines()) < 512 + 32 + 64
    assert ".local" not in made


@needs_compiler
def test_a_gpu_that_is_too_old_is_one_error():
    with pytest.raises(netc.DeviceError, match=r"needs another GPU.*3\.0 is not supported.*target=\"cpu\""):
        door.ptx("def kernel(bases, args, units):\n    pass\n", (3, 0))


# --- machine code -----------------------------------------------------------------------------------------------------

KEPT = """
import sys
from pathlib import Path
import netc
from netc.compiler.pipeline import compile_graph
from netc.runtime.cuda import contract, door, kernels
fn = netc.compile(sys.argv[1])
lowered, sizes = fn._sized("step", None)
texts = [text for _, text in compile_graph(lowered.graph, lowered.layout, "cuda", lowered.replaced).all_kernels(sizes)]
def compiled():
    made = [kernels.code(text) for text in sorted(texts, key=len)[:2]]
    assert all(code.content[:4] == b"\\x7fELF" and code.entry.encode() in code.content for code in made)
    return sum(code.seconds is not None for code in made), made
count, made = compiled()
print(count, sum(hash(code.content) for code in made))
if sys.argv[2] == "alter":
    entry = next(path for path in Path(sys.argv[3]).iterdir() if made[0].content in path.read_bytes())
    content = bytearray(entry.read_bytes())
    content[-1] ^= 1
    entry.write_bytes(content)
    # Not always to the same bytes: equal sources give one of two codes.
    count, again = compiled()
    print(count, not content.endswith(again[0].content) and again[1] == made[1])
"""


@needs_compiler
def test_a_second_process_compiles_no_kernel_and_believes_nothing_that_was_altered(tmp_path):
    def compiled(then: str) -> list[str]:
        done = python("-c", KEPT, SOURCE, then, tmp_path, NETC_CACHE_DIR=str(tmp_path), PYTHONHASHSEED="1")
        assert done.returncode == 0, done.stderr
        return done.stdout.split()
    (count, bits), again = compiled("end"), compiled("alter")
    assert count == "2" and again == ["0", bits, "1", "True"]


LAUNCHED = """
from cuda.bindings import driver
from netc import DeviceError
from netc.runtime.cuda import contract, door, driver as ours
calls = []
def fake(name, *results):
    def call(*arguments):
        calls.append((name, *arguments))
        return (driver.CUresult.CUDA_SUCCESS if name != "cuLaunchKernel" or len(calls) < 4 else
                driver.CUresult.CUDA_ERROR_INVALID_VALUE, *results)
    setattr(driver, name, call)
fake("cuModuleLoadData", "module"), fake("cuModuleGetFunction", "function"), fake("cuLaunchKernel")
launch = ours.load(b"code", "kernel")
launch(5, 256, 0, 4096, 8192, 1000)
print(*calls[0], *calls[1], *calls[2][:10], calls[2][10][0], calls[2][11])
try:
    launch(5, 256, 0, 4096, 8192, 1000)
except DeviceError as error:
    print(error)
"""


@needs_package
def test_a_kernel_is_loaded_and_launched_by_the_driver():
    told = python("-c", LAUNCHED).stdout.splitlines()
    calls = ("cuModuleLoadData b'code'", "cuModuleGetFunction module b'kernel'",
             "cuLaunchKernel function 5 1 1 256 1 1 0 0 (4096, 8192, 1000) 0")
    assert told == [" ".join(calls), "the driver's cuLaunchKernel failed: CUDA_ERROR_INVALID_VALUE"]


# --- what is missing --------------------------------------------------------------------------------------------------

HOW = 'To run on the CPU: target="cpu", or `--target cpu`'


def test_without_the_package_one_error_says_so():
    code = ("import sys; sys.modules['numba_cuda'] = None; import netc\n"
            "try: netc.compile('net 1\\nmodel M(x: f32[N]) -> f32[N]:\\n    return x\\n', target='cuda')\n"
            "except netc.DeviceError as error: print(error)")
    done = python("-c", code)
    assert "numba-cuda, which is not installed: pip install 'netc[cuda]'" in done.stdout, done.stderr
    assert HOW in done.stdout


def has_gpu() -> bool:
    code = "from numba import cuda; raise SystemExit(not cuda.is_available())"
    return HAS_PACKAGE and python("-c", code).returncode == 0


@needs_package
def test_without_a_gpu_one_error_says_so(tmp_path):
    if has_gpu():
        pytest.skip("there is a GPU")
    (tmp_path / "line.net").write_text(SOURCE)
    np.savez(tmp_path / "x.npz", x=np.ones((2, 6), np.float32))
    began = time.perf_counter()
    done = python("-m", "netc", "run", tmp_path / "line.net", "--data", tmp_path / "x.npz", "--target", "cuda",
                  PYTHONPATH=str(Path(netc.__file__).parent.parent) + os.pathsep + os.environ.get("PYTHONPATH", ""))
    assert done.returncode == 1 and time.perf_counter() - began < 60
    assert done.stderr.startswith('error: the target "cuda" needs') and HOW in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@needs_package
def test_a_profile_without_a_gpu_is_one_error(tmp_path):
    if has_gpu():
        pytest.skip("there is a GPU")
    (tmp_path / "line.net").write_text(SOURCE)
    done = python("-m", "netc", "profile", tmp_path / "line.net", "--target", "cuda",
                  PYTHONPATH=str(Path(netc.__file__).parent.parent) + os.pathsep + os.environ.get("PYTHONPATH", ""))
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith('error: the target "cuda" needs') and HOW in done.stderr


CLOCKED = """
from cuda.bindings import driver
from netc.runtime.cuda import contract, door, driver as ours
rates = {"MULTIPROCESSOR_COUNT": 10, "CLOCK_RATE": 1_000_000, "MEMORY_CLOCK_RATE": 2_000_000,
         "GLOBAL_MEMORY_BUS_WIDTH": 256, "COMPUTE_CAPABILITY_MAJOR": 9, "COMPUTE_CAPABILITY_MINOR": 0}
calls, events = [], iter("abc")
def fake(name, result):
    def call(*arguments):
        calls.append((name, *arguments))
        return driver.CUresult.CUDA_SUCCESS, *result(*arguments)
    setattr(driver, name, call)
fake("cuDeviceGetAttribute", lambda which, device: [rates[which.name.removeprefix("CU_DEVICE_ATTRIBUTE_")]])
fake("cuDeviceGetName", lambda size, device: [b"A GPU" + bytes(size - 5)])
fake("cuEventCreate", lambda flags: [next(events)])
fake("cuEventElapsedTime", lambda a, b: [{"ab": 2.0, "bc": 3.0}[a + b]])
for name in ("cuEventRecord", "cuEventSynchronize", "cuEventDestroy"):
    fake(name, lambda *arguments: [])
print(*ours.limits(0), sep="; ")
del calls[:]
print(ours.between([ours.mark() for _ in range(3)]))
print(*(call[0][7:] + str(call[1]) for call in calls if call[0] not in ("cuEventCreate", "cuEventElapsedTime")))
"""


@needs_package
def test_the_driver_tells_limits_and_times():
    assert python("-c", CLOCKED).stdout.splitlines() == [
        "A GPU; 2560000000000.0; 128000000000.0", "[0.002, 0.003]",
        "Recorda Recordb Recordc Synchronizec Destroya Destroyb Destroyc"]


MEMORY = """
from numba.cuda.cudadrv.driver import CudaAPIError
from netc import DeviceError
from netc.runtime.cuda import contract, door
import types
def device_array(size, dtype):
    raise CudaAPIError(2, "Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY")
context = types.SimpleNamespace(get_memory_info=lambda: (3 << 20, 100 << 20))
door.package = lambda: types.SimpleNamespace(device_array=device_array, current_context=lambda: context)
try:
    door.allocate(5 << 20)
except DeviceError as error:
    print(error)
"""


@needs_package
def test_without_enough_memory_one_error_says_so():
    done = python("-c", MEMORY)
    assert "needs 5 MiB more on the GPU, of whose 100 MiB 3 are free: smaller batches need less" in done.stdout
    assert HOW in done.stdout


# --- graphs -----------------------------------------------------------------------------------------------------------

CAPTURE = """
import gc, sys
from cuda.bindings import driver
from netc import DeviceError
from netc.runtime.cuda import contract, door
calls, refused = [], sys.argv[1:]
def fake(name, *results):
    def call(*arguments):
        calls.append(f"{name[2:]}({', '.join(str(int(a)) if isinstance(a, int) else a for a in arguments)})")
        return (driver.CUresult.CUDA_ERROR_UNKNOWN if name in refused else driver.CUresult.CUDA_SUCCESS, *results)
    setattr(driver, name, call)
fake("cuStreamCreate", 7), fake("cuStreamBeginCapture"), fake("cuStreamEndCapture", "graph"), fake("cuStreamDestroy")
fake("cuGraphInstantiate", "made"), fake("cuGraphDestroy"), fake("cuGraphLaunch"), fake("cuGraphExecDestroy")
try:
    replay = door.capture(lambda stream: calls.append(f"launch({stream})"))
    replay(), replay()
    del replay
    gc.collect()
except DeviceError as error:
    calls.append(str(error))
print(*calls, sep="; ")
"""


@needs_package
def test_launches_are_recorded_once_and_a_refusal_is_told():
    """On a stream of their own, which does not wait for the default one nor lets it wait; nothing is left of it."""
    recorded = "StreamCreate(1); StreamBeginCapture(7, 2); launch(7); StreamEndCapture(7); StreamDestroy(7); "
    assert python("-c", CAPTURE).stdout.strip() == recorded + (
        "GraphInstantiate(graph, 0); GraphDestroy(graph); GraphLaunch(made, 0); GraphLaunch(made, 0); "
        "GraphExecDestroy(made)")
    told = python("-c", CAPTURE, "cuGraphInstantiate").stdout.strip()
    assert told == recorded + ("GraphInstantiate(graph, 0); GraphDestroy(graph); "
                               "the driver's cuGraphInstantiate failed: CUDA_ERROR_UNKNOWN")


FORKED = """
import os
from netc import DeviceError
from netc.runtime.cuda import door
door._find = lambda: None
door.require()
if os.fork() == 0:
    try:
        door.require()
    except DeviceError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
door.require()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
def test_a_forked_process_is_told_that_it_cannot_use_the_gpu():
    done = python("-c", FORKED)
    assert done.returncode == 0, done.stderr
    assert "does not run in a forked process" in done.stdout and HOW in done.stdout
