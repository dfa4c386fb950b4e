"""PyTorch, eager and compiled by Inductor: channels-last images, oneDNN, the fused Adam."""

from __future__ import annotations

import numpy as np
import torch

from ..models import BETA_1, BETA_2, EPSILON, RATE
from .torch_models import MODELS, Module, tensor


def _module(model: str, weights: dict[str, np.ndarray], threads: int) -> Module:
    torch.set_num_threads(threads)
    module = MODELS[model]()
    module.load(weights)
    return module.to(memory_format=torch.channels_last)


class Inference:
    def __init__(self, model: str, weights, inputs, threads: int, compiled: bool = False):
        self.inputs = {name: tensor(array) for name, array in inputs.items()}
        self.module = _module(model, weights, threads).eval()
        self.call, self.mode = self.module.outputs, torch.inference_mode
        if compiled:
            import torch._inductor.config as inductor
            inductor.freezing = True            # weights are constants: they are packed for oneDNN once
            torch._dynamo.reset()
            self.call, self.mode = torch.compile(self.module.outputs, dynamic=False), torch.no_grad

    def run(self):
        with self.mode():
            return self.call(**self.inputs)

    def outputs(self) -> dict[str, np.ndarray]:
        return {name: value.numpy() for name, value in self.run().items()}


class Training:
    def __init__(self, model: str, weights, inputs, threads: int, compiled: bool = False):
        self.inputs = {name: tensor(array) for name, array in inputs.items()}
        self.like = weights
        self.module = _module(model, weights, threads).train()
        self.loss = self.module.loss
        if compiled:
            torch._dynamo.reset()
            self.loss = torch.compile(self.module.loss, dynamic=False)
        trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(trained, RATE, (BETA_1, BETA_2), EPSILON, fused=True)

    def run(self):
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(**self.inputs)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def first_gradient(self) -> dict[str, np.ndarray]:
        """After one step: what Adam's first moment, which started at zero, was made of."""
        moments = {tie.path: tie.read(self.optimizer.state[tie.parameter]["exp_avg"], self.like[tie.path])
                   for tie in self.module.ties()}
        return {path: moment / (1 - BETA_1) for path, moment in moments.items()}
