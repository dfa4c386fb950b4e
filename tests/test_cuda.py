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
from netc.runtime.cuda import contract, door
from netc.runtime.cuda.entry import with_kernel

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


# --- PTX --------------------------------------------------------------------------------------------------------------

COMPILE = """
import sys
import netc
from netc.compiler.pipeline import compile_graph
from netc.runtime.cuda import contract, door
from netc.runtime.cuda.entry import with_kernel
part, parts, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
texts = {}
for name in sys.argv[4:]:
    fn = netc.compile(f"{folder}/{name}.net")
    for program in ("predict", "step") if fn.model.optimizer is not None else ("predict",):
        lowered, sizes = fn._sized(program, None)
        for label, text in compile_graph(lowered.graph, lowered.layout, "cuda").all_kernels(sizes):
            texts.setdefault(text, f"{name}, {program}: {label}")
for dtype in ("f32", "f64"):
    for tile in (contract.LARGE, contract.MEDIUM, contract.FEW_ROWS, contract.FEW_COLUMNS):
        texts.setdefault(with_kernel(contract.tile_text(dtype, tile), tile.threads), f"{dtype} {tile}")
    texts.setdefault(with_kernel(contract.dot_text(dtype), 2), f"{dtype} dot")
    texts.setdefault(with_kernel(contract.sum_text(dtype), 1), f"{dtype} sum")
for number, text in enumerate(sorted(texts)):
    if number % parts == part:
        try:
            made = door.ptx(text)
        except Exception as error:
            sys.exit(f"{texts[text]}: {type(error).__name__}: {error}\\n{text}")
        assert ".visible .entry" in made and "target sm_80" in made, texts[text]
        # A product's part of C lies in registers; no kernel adds in an order of chance.
        assert ".local" not in made or "slice_a" not in text, texts[text]
        assert "atom." not in made and "red.global" not in made, texts[text]
print(len(texts))
"""


COMPILATION = Beside(*(([sys.executable, "-c", COMPILE, str(part), str(PARTS), str(EXAMPLES), *sorted(SMALLER)],
                        {"NUMBA_ENABLE_CUDASIM": "0"})
                       for part in range(PARTS)))


@pytest.mark.slow
@pytest.mark.beside(COMPILATION)
@needs_compiler
def test_every_kernel_of_every_example_compiles_without_a_gpu():
    done = COMPILATION.results()
    for process in done:
        assert process.returncode == 0, process.stderr[-4000:]
    assert int(done[0].stdout) > 200


# --- the stages -------------------------------------------------------------------------------------------------------


def test_the_source_can_be_printed_anywhere(netc_command, tmp_path):
    fn = netc.compile(SOURCE)
    text = fn.emit("cuda", "step")
    for part in ("def kernel(bases, args, units):", "cuda.shared.array", "while unit < end:", "fma_f32(", "# contract"):
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
    """64 of them a turn, 16 loads from shared memory, and little else."""
    blocks = re.split(r"^\$L__BB\d+_\d+:", door.ptx(with_kernel(contract.tile_text("f32", contract.LARGE), 2)),
                      flags=re.MULTILINE)
    inner = max(blocks, key=lambda block: block.count("fma.rn.f32"))
    instructions = [line for line in inner.splitlines() if line.strip().endswith(";")]
    assert sum("fma.rn.f32" in line for line in instructions) == 64
    assert sum("ld.shared" in line for line in instructions) == 16 and len(instructions) < 64 + 16 + 24


# --- machine code -----------------------------------------------------------------------------------------------------

KEPT = """
import sys
import netc
from netc.compiler.pipeline import compile_graph
from netc.runtime.cuda import contract, door, kernels
fn = netc.compile(sys.argv[1])
lowered, sizes = fn._sized("step", None)
texts = [text for _, text in compile_graph(lowered.graph, lowered.layout, "cuda", lowered.replaced).all_kernels(sizes)]
made = [kernels.code(text) for text in texts[:3]]
assert all(code.content[:4] == b"\\x7fELF" and code.entry.encode() in code.content for code in made)
print(sum(code.seconds is not None for code in made), sum(hash(code.content) for code in made))
"""


@needs_compiler
def test_a_second_process_compiles_no_kernel_and_believes_nothing_that_was_altered(tmp_path):
    def compiled() -> list[str]:
        done = python("-c", KEPT, SOURCE, NETC_CACHE_DIR=str(tmp_path), PYTHONHASHSEED="1")
        assert done.returncode == 0, done.stderr
        return done.stdout.split()
    first, second = compiled(), compiled()
    assert first[0] == "3" and second == ["0", first[1]]
    entry = next(path for path in tmp_path.iterdir() if b"\x7fELF" in path.read_bytes())
    content = bytearray(entry.read_bytes())
    content[-1] ^= 1
    entry.write_bytes(content)
    assert compiled()[0] == "1"


REGISTERS = """
import re
from cuda.bindings import nvjitlink
import netc
from netc.compiler.pipeline import compile_graph
from netc.runtime.cuda import contract, door
fn = netc.compile("net 1\\nmodel M(x: f32[N, 64]) -> f32[N, 1024]:\\n    return x |> Dense(1024, gelu)\\n")
program = fn.lower("predict")
launch, = compile_graph(program.graph, program.layout, "cuda").bind({"N": 4096}).launches
assert launch.lanes == contract.LARGE.threads and "finish(" in launch.text
ptx = door.ptx(launch.text).encode()
handle = nvjitlink.create(2, ["-arch=sm_80", "-verbose"])
nvjitlink.add_data(handle, nvjitlink.InputType.PTX, ptx, len(ptx), "kernel")
nvjitlink.complete(handle)
log = bytearray(nvjitlink.get_info_log_size(handle))
nvjitlink.get_info_log(handle, log)
print(*re.findall(r"(\\d+) bytes spill", log.decode()), re.search(r"Used (\\d+) registers", log.decode())[1])
"""


@needs_compiler
def test_a_tile_and_what_follows_it_lie_in_registers():
    """Of 65,536 that a multiprocessor has for a block's 256 threads, as NVIDIA's assembler counts them."""
    *spilled, registers = map(int, python("-c", REGISTERS).stdout.split())
    assert spilled == [0, 0] and registers * contract.LARGE.threads <= 65536


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
import sys, types
from cuda.bindings import driver
from netc import DeviceError
from netc.runtime.cuda import contract, door
calls, refused = [], sys.argv[1:]
def fake(name, *results):
    def call(*arguments):
        calls.append(name)
        return (driver.CUresult.CUDA_ERROR_UNKNOWN if name in refused else driver.CUresult.CUDA_SUCCESS, *results)
    setattr(driver, name, call)
fake("cuStreamBeginCapture"), fake("cuStreamEndCapture", "graph"), fake("cuGraphInstantiate", "made")
fake("cuGraphDestroy"), fake("cuGraphLaunch")
door.package = lambda: types.SimpleNamespace(stream=lambda: types.SimpleNamespace(handle=7))
try:
    replay = door.capture(lambda stream: calls.append("launch"))
    replay(), replay()
except DeviceError as error:
    calls.append(str(error))
print(*calls, sep="; ")
"""


@needs_package
def test_launches_are_recorded_once_and_a_refusal_is_told():
    assert python("-c", CAPTURE).stdout.strip() == ("cuStreamBeginCapture; launch; cuStreamEndCapture; "
                                                    "cuGraphInstantiate; cuGraphDestroy; cuGraphLaunch; cuGraphLaunch")
    told = python("-c", CAPTURE, "cuGraphInstantiate").stdout.strip()
    assert told.endswith("cuGraphInstantiate; the driver's cuGraphInstantiate failed: CUDA_ERROR_UNKNOWN")
