"""NVIDIA's linker, and the driver's modules and launches, by the package cuda.bindings that numba-cuda brings."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

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


def checked(name: str, answer: tuple):
    """What a call of the driver gave beside its status.  Raises DeviceError."""
    status, *results = answer
    if int(status) != 0:
        raise DeviceError(f"the driver's {name} failed: {status.name if hasattr(status, 'name') else status}")
    return results[0] if results else None
