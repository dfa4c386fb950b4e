"""The only door to numba-cuda: what of it netc uses, and one clear error where it, the driver, a GPU or memory is
missing.

With NUMBA_ENABLE_CUDASIM=1 in the environment before the first import, numba-cuda's simulator takes the GPU's place:
Python threads on the CPU, very slow, to test with.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import threading
import types
import warnings
import weakref
from collections.abc import Callable
from contextlib import contextmanager

import numpy as np

from ..errors import DeviceError
from .driver import checked, linker

LEAST_CAPABILITY = (8, 0)           # what kernels are compiled for where there is no GPU to ask
_NO_COMPILER = ("needs NVIDIA's compiler libraries (NVVM, NVRTC, nvJitLink), which were not found: "
                "pip install 'netc[cuda]'")
_lock = threading.RLock()


def missing(what: str) -> DeviceError:
    """The error that says what is missing, and what to do without."""
    return DeviceError(f"the target \"cuda\" {what.rstrip('.')}. To run on the CPU: target=\"cpu\", or `--target cpu`")


@functools.cache
def package():
    """numba-cuda's module ``cuda``, whether or not there is a GPU.  Raises DeviceError where it is not installed."""
    if importlib.util.find_spec("numba_cuda") is None:
        raise missing("needs the package numba-cuda, which is not installed: pip install 'netc[cuda]'")
    try:
        from numba import cuda
    except ImportError as error:
        raise missing(f"needs numba-cuda, which cannot be imported: {error}") from None
    return cuda


@functools.cache
def is_simulated() -> bool:
    """Whether the simulator takes the GPU's place."""
    return os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")


_process: list[int] = []            # that found a GPU


def require() -> None:
    """Raise DeviceError unless kernels can run."""
    if is_simulated():
        package()
    elif not _process:
        _find()
        _process.append(os.getpid())
    elif _process[0] != os.getpid():
        raise missing("does not run in a forked process, where the driver's state of its parent is of no use: start it "
                      'by multiprocessing\'s "spawn"')


def _find() -> None:
    """Raise DeviceError unless there are a driver, a GPU and a compiler."""
    cuda = package()
    error = cuda.cuda_error()
    if error is not None:
        raise missing(f"needs NVIDIA's driver, which was not found or does not start: {_first_line(error)}")
    if not cuda.is_available() or not len(cuda.gpus):
        raise missing("needs an NVIDIA GPU, and the driver sees none")
    if not _has_compiler():
        raise missing(_NO_COMPILER)


def _has_compiler() -> bool:
    """Whether the libraries that make PTX and machine code are there."""
    from numba.cuda.cuda_paths import get_cuda_paths
    from numba.cuda.cudadrv import nvvm
    try:
        get_cuda_paths()
        nvvm.NVVM()
        linker()
    except (ImportError, RuntimeError, OSError):        # whichever of NVIDIA's packages is missing
        return False
    return True


def can_compile() -> bool:
    """Whether ``ptx`` works: numba-cuda and NVIDIA's compiler are installed, and the simulator is not in their
    place."""
    if importlib.util.find_spec("numba_cuda") is None or is_simulated():
        return False
    return _has_compiler()


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip(": \n")]
    return " ".join(lines[:2]) or type(error).__name__


# --- kernels ----------------------------------------------------------------------------------------------------------


@functools.cache
def namespace() -> dict:
    """The names that generated source may use."""
    if is_simulated():
        from .simulated import namespace as names
    else:
        from .device import namespace as names
    return names() | {"cuda": package()}


def _kernel_of(text: str) -> Callable:
    """The Python function ``kernel`` of a source."""
    scope = dict(namespace())
    # The simulator tells shared arrays apart by file and line.
    exec(compile(text, f"<netc kernel {hash(text):x}>", "exec"), scope)
    return scope["kernel"]


def simulate(text: str) -> Callable:
    """What runs a source in the simulator: ``simulate(text)[blocks, threads, stream](bases, args, units)``."""
    return package().jit(_kernel_of(text))


def capability() -> tuple[int, int]:
    """The compute capability of the current GPU, whose context is this thread's from here on."""
    return tuple(package().current_context().device.compute_capability)


def limits() -> tuple[str, float, float]:
    """Name, FLOP/s and bytes/s of the current GPU.  Raises DeviceError, in the simulator too: it has no times that say
    anything."""
    require()
    if is_simulated():
        raise missing("is simulated, whose times say nothing of a GPU's: unset NUMBA_ENABLE_CUDASIM")
    from .driver import limits as limits_of
    return limits_of(package().current_context().device.id)


def compilers() -> tuple[str, ...]:
    """What tells NVIDIA's compiler and linker from others."""
    from numba.cuda.cuda_paths import get_cuda_paths
    found = [linker()]
    for part in ("nvvm", "libdevice"):
        path = get_cuda_paths()[part].info
        status = os.stat(path)
        found.append(f"{path} {status.st_size} {status.st_mtime_ns}")
    return tuple(found)


def ptx(text: str, capability: tuple[int, int] = LEAST_CAPABILITY) -> str:
    """The PTX of a source for a compute capability; no GPU is needed.  Raises DeviceError where NVIDIA's compiler is
    missing, or knows no such GPU."""
    cuda = package()
    if is_simulated():
        raise missing("makes no PTX in the simulator: unset NUMBA_ENABLE_CUDASIM")
    if not _has_compiler():
        raise missing(_NO_COMPILER)
    from numba.cuda import types as kinds
    from numba.cuda.cudadrv.error import CCSupportError
    with _lock, _compiling_for(capability):
        kernel = _kernel_of(text)
        try:
            made, _ = cuda.compile_ptx(kernel, (kinds.int64,) * 3, cc=capability,
                                       launch_bounds=getattr(kernel, "launch_bounds", None))
        except CCSupportError as error:
            raise missing(f"needs another GPU, or another version of numba-cuda: {error}") from None
    return made


@contextmanager
def _compiling_for(capability: tuple[int, int]):
    """numba-cuda asks the current device what device functions are to be compiled for; here none need be there."""
    from numba.cuda import dispatcher
    before = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: types.SimpleNamespace(compute_capability=capability)
    try:
        yield
    finally:
        dispatcher.get_current_device = before


@contextmanager
def launching():
    """A context for launches.  The simulator's arithmetic is NumPy's, which warns of what a GPU takes in its stride."""
    if not is_simulated():
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


# --- memory -----------------------------------------------------------------------------------------------------------


def allocate(nbytes: int):
    """(address, owner) of memory on the device, freed with its owner.  Raises DeviceError where there is not enough."""
    if is_simulated():
        from .simulated import allocate as simulate
        return simulate(nbytes)
    from numba.cuda.cudadrv.driver import CudaAPIError
    try:
        owner = package().device_array(max(nbytes, 1), np.uint8)
    except CudaAPIError as error:
        if "OUT_OF_MEMORY" not in str(error):
            raise
        free, total = package().current_context().get_memory_info()
        raise missing(f"needs {nbytes / 2**20:,.0f} MiB more on the GPU, of whose {total / 2**20:,.0f} MiB "
                      f"{free / 2**20:,.0f} are free: smaller batches need less") from None
    return owner.__cuda_array_interface__["data"][0], owner


class _Bytes:
    """Memory on the device, for numba-cuda to read and write: as bytes, whatever lies in it."""

    def __init__(self, address: int, nbytes: int):
        self.__cuda_array_interface__ = {"shape": (nbytes,), "typestr": "|u1", "data": (address, False),
                                         "strides": None, "version": 3}


def memory(address: int, nbytes: int):
    """numba-cuda's array over bytes on the device, which copies to and from the host; there must be some."""
    if is_simulated():
        from .simulated import memory_of
        return memory_of(address, nbytes)
    return package().as_cuda_array(_Bytes(address, nbytes))


# --- graphs -----------------------------------------------------------------------------------------------------------


def can_capture() -> bool:
    """Whether a program's launches may be recorded as a CUDA graph: not in the simulator, nor with
    NETC_CUDA_GRAPHS=0."""
    return not is_simulated() and os.environ.get("NETC_CUDA_GRAPHS", "1") != "0"


def capture(launch: Callable) -> Callable[[], None]:
    """What repeats ``launch(stream)``, a stream by its number, as one launch of a CUDA graph on the default stream; it
    must only launch kernels that ran before.  Raises DeviceError where the driver refuses."""
    from cuda.bindings import driver
    # Apart from the default stream, on which other threads may launch meanwhile: that would end the capture.
    made_stream = checked("cuStreamCreate", driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING.value))
    stream = int(made_stream)
    try:
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        checked("cuStreamBeginCapture", driver.cuStreamBeginCapture(stream, mode))
        try:
            launch(stream)
        finally:
            ended = driver.cuStreamEndCapture(stream)       # a stream that went on capturing would be lost
        graph = checked("cuStreamEndCapture", ended)
    finally:
        checked("cuStreamDestroy", driver.cuStreamDestroy(stream))
    try:
        made = checked("cuGraphInstantiate", driver.cuGraphInstantiate(graph, 0))
    finally:
        checked("cuGraphDestroy", driver.cuGraphDestroy(graph))

    def replay() -> None:
        checked("cuGraphLaunch", driver.cuGraphLaunch(made, 0))
    weakref.finalize(replay, driver.cuGraphExecDestroy, made).atexit = False        # the driver may be gone by then
    return replay


def device_number() -> int:
    """The number of the current GPU."""
    return 0 if is_simulated() else package().current_context().device.id


def synchronize() -> None:
    """Wait for the device."""
    package().synchronize()


def share(address: int, nbytes: int, stream: int | None):
    """What must live as long as kernels touch memory that another library allocated; its ``stream``, if it names one,
    is waited for: kernels run on the default one."""
    if is_simulated():
        from .simulated import register
        return register(address, nbytes)
    if stream is not None:
        package().external_stream(stream).synchronize()
    return None
