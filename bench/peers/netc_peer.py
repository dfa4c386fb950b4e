"""netc itself, through its public face."""

from __future__ import annotations

import numpy as np

from ... import compile, roofline, set_threads
from ...runtime import machine
from ...runtime.roofline import speeds_now
from ..models import ALL, BETA_1


class _Task:
    """``inputs`` are those of the program: for inference without the targets."""

    program: str

    def __init__(self, model: str, weights, inputs, threads: int):
        set_threads(threads)
        self.function, self.inputs = compile(ALL[model].path), inputs
        self.weights = self.function.weights_from(weights)

    def facts(self) -> dict:
        """What the harness wants to know beside times."""
        limits, cost = roofline(), self.function.cost(self.program, self.inputs)
        parameters = self.function.layout.trainable_size
        return {"work_flops": cost.work_flops, "flops": cost.flops, "bytes": cost.bytes, "arena": cost.arena,
                "live": cost.live, "parameters": parameters, "peak_flops": limits.flops,
                "bandwidths": limits.bandwidths}

    def speeds(self) -> dict[str, float]:
        """The machine's at this moment: of multiply-adds, and of memory where weights, moments and gradients are."""
        flops, bandwidth = speeds_now(16 * self.function.layout.trainable_size)
        return {"flops": flops, "bandwidth": bandwidth}

    def counts(self) -> dict[str, int]:
        return {"compiled": machine.counts.compiled, "cached": machine.counts.cached}


class Inference(_Task):
    """Weights are bound, as the inference engines among the peers have theirs."""

    program = "predict"

    def __init__(self, model: str, weights, inputs, threads: int):
        super().__init__(model, weights, inputs, threads)
        self.predict = self.function.bind(self.weights)

    def run(self):
        return self.predict(**self.inputs)

    def outputs(self) -> dict[str, np.ndarray]:
        found = self.run()
        return dict(zip(self.function.outputs, found if isinstance(found, tuple) else (found,)))


class Training(_Task):
    program = "step"

    def __init__(self, model: str, weights, inputs, threads: int):
        super().__init__(model, weights, inputs, threads)
        self.trainer = self.function.trainer(self.weights)
        del self.weights            # the trainer has its own

    def run(self) -> float:
        return self.trainer(self.inputs)["loss"]

    def first_gradient(self) -> dict[str, np.ndarray]:
        moment = next(array for path, array in self.trainer.optimizer.items() if path.endswith(".m"))
        gradient = self.trainer.weights.with_flat(moment / (1 - BETA_1))
        return {path: gradient[path] for path in self.function.parameters}
