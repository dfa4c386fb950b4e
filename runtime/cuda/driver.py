"""NVIDIA's linker, and the driver's modules and launches, by the package cuda.bindings that numba-cuda brings."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from itertools import pairwise

from ..errors import DeviceError

_ARGUMENTS = (ctypes.c_int64,) * 3          # of a kernel: addresses of bases and argument words, units


def linker() -> str:
    """NVIDIA's linker and its version.  Raises RuntimeError where it is not found."""
    from cuda.bindings import nvjitlink
    return f"nvJitLink {nvjitlink.version()}"


def link(ptx: str, capability: tuple[int, int]) -> bytes:
    """The machine code (a cubin) of PTX for a compute capability; no GPU is needed.  Raises DeviceError."""
    from cuda.bindings import nvjitlink
    text = ptx.encode()
    try:
        handle = nvjitlink.create(1, ["-arch=sm_{}{}".format(*capability)])
        try:
            nvjitlink.add_data(handle, nvjitlink.InputType.PTX, text, len(text), "kernel")
            nvjitlink.complete(handle)
            made = bytearray(nvjitlink.get_linked_cubin_size(handle))
            nvjitlink.get_linked_cubin(handle, made)
        finally:
            nvjitlink.destroy(handle)
    except nvjitlink.nvJitLinkError as error:
        raise DeviceError(f"NVIDIA's linker makes no machine code for compute capability "
                          f"{capability[0]}.{capability[1]}: {error}") from None
    return bytes(made)


def load(code: bytes, entry: str) -> Callable[..., None]:
    """What launches a kernel of machine code, in the current context: ``launch(blocks, threads, stream, bases, args,
    units)``; the stream is a number.  Raises DeviceError."""
    from cuda.bindings import driver
    module = checked("cuModuleLoadData", driver.cuModuleLoadData(code))
    function = checked("cuModuleGetFunction", driver.cuModuleGetFunction(module, entry.encode()))

    def launch(blocks: int, threads: int, stream: int, bases: int, args: int, units: int) -> None:
        checked("cuLaunchKernel", driver.cuLaunchKernel(function, blocks, 1, 1, threads, 1, 1, 0, stream,
                                                        ((bases, args, units), _ARGUMENTS), 0))
    return launch


# --- what a GPU can do, and how long it takes -------------------------------------------------------------------------

_LANES = {(8, 0): 64}           # f32 multiply-adds of a multiprocessor in a cycle, by compute capability
_OTHER_LANES = 128              # of all others from 8.0 on


def limits(device: int) -> tuple[str, float, float]:
    """The name of a GPU by its number, its nominal f32 FLOP/s, and the bytes/s of its memory.  Raises DeviceError."""
    from cuda.bindings import driver

    def attribute(name: str) -> int:
        which = getattr(driver.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return checked("cuDeviceGetAttribute", driver.cuDeviceGetAttribute(which, device))
    capability = attribute("COMPUTE_CAPABILITY_MAJOR"), attribute("COMPUTE_CAPABILITY_MINOR")
    lanes = attribute("MULTIPROCESSOR_COUNT") * _LANES.get(capability, _OTHER_LANES)
    name = checked("cuDeviceGetName", driver.cuDeviceGetName(80, device)).split(b"\0")[0].decode()
    # Rates are in kHz; memory moves data at both edges of its clock.
    return (name, 2e3 * lanes * attribute("CLOCK_RATE"),
            2e3 * attribute("MEMORY_CLOCK_RATE") * attribute("GLOBAL_MEMORY_BUS_WIDTH") / 8)


def mark():
    """An event of the default stream, now."""
    from cuda.bindings import driver
    event = checked("cuEventCreate", driver.cuEventCreate(0))
    checked("cuEventRecord", driver.cuEventRecord(event, 0))
    return event


def between(marks: Sequence) -> list[float]:
    """The seconds from each event to the next, which are waited for and given back."""
    from cuda.bindings import driver
    checked("cuEventSynchronize", driver.cuEventSynchronize(marks[-1]))
    seconds = [checked("cuEventElapsedTime", driver.cuEventElapsedTime(*pair)) / 1e3 for pair in pairwise(marks)]
    for event in marks:
        checked("cuEventDestroy", driver.cuEventDestroy(event))
    return seconds


def checked(name: str, answer: tuple):
    """What a call of the driver gave beside its status.  Raises DeviceError."""
    status, *results = answer
    if int(status) != 0:
        raise DeviceError(f"the driver's {name} failed: {status.name if hasattr(status, 'name') else status}")
    return results[0] if results else None
