"""The implementations that are compared.  Each module is imported in a process of its own and defines ``Inference`` and
``Training`` (or None): made with (model, weights, inputs, threads), then ``run()`` is one call or one step.
``outputs()`` gives the results by netc's names, ``first_gradient()``, after one step, its gradient.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace

JOBS = ("inference", "training")


@dataclass(frozen=True)
class Peer:
    """``library`` must be installed; ``fresh`` are the variables that name folders in which it keeps compiled code;
    ``threads`` overrides those of the run."""

    name: str
    module: str
    library: str
    needs: tuple[str, ...] = ()
    jobs: tuple[str, ...] = JOBS
    fresh: tuple[str, ...] = ()
    threads: int | None = None

    @property
    def installed(self) -> bool:
        return all(importlib.util.find_spec(name) is not None for name in (self.library, *self.needs))


NETC = Peer("netc", f"{__name__}.netc_peer", "netc", fresh=("NETC_CACHE_DIR",))
ALONE = replace(NETC, name="netc, 1 thread", threads=1)
PEERS = {peer.name: peer for peer in (
    Peer("torch", f"{__name__}.torch_eager", "torch"),
    Peer("torch.compile", f"{__name__}.torch_compile", "torch", fresh=("TORCHINDUCTOR_CACHE_DIR",)),
    Peer("jax", f"{__name__}.jax_jit", "jax", fresh=("JAX_COMPILATION_CACHE_DIR",)),
    Peer("onnxruntime", f"{__name__}.onnx_runtime", "onnxruntime", ("onnx",), ("inference",)),
    Peer("openvino", f"{__name__}.openvino_runtime", "openvino", ("onnx",), ("inference",)),
)}
