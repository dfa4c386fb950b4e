"""Training as a stateful object: the weights and the optimiser's state live in two sets of buffers that take turns."""

from __future__ import annotations

from typing import Any, Mapping

import numpy as np

from .compiler.programs import WEIGHTS, optimizer_slot
from .function import Function
from .inputs import convert_seed
from .runtime.errors import WeightsError, listing
from .runtime.weights import Weights


class Trainer:
    """``losses = trainer(**batch)`` does one step; ``trainer.weights`` is a copy of the weights as of now.

    Where the model is random, step number k (from 0) of ``seed`` has a stream of its own, so a run repeats.  With
    ``metrics``, a step reports those of its batch too.
    """

    def __init__(self, function: Function, weights: Weights, optimizer: Mapping[str, np.ndarray] | None = None, *,
                 seed: int = 0, metrics: bool = False):
        self._function = function
        self._program = function.program("step_metrics" if metrics else "step")
        self._seed = int(convert_seed(seed))
        self.steps = 0
        self._paths = {variable.path: optimizer_slot(variable) for variable in function.model.optimizer.states}
        state = self._optimizer_state(function, optimizer)
        self._current = {slot: array.copy() for slot, array in function._slots(weights).items()}
        self._current |= {self._paths[path]: array for path, array in state.items()}
        # A step reads one set and writes the other: the input of a step is intact until the step is done.
        self._spare = {slot: np.empty_like(array) for slot, array in self._current.items()}

    def _optimizer_state(self, function: Function, given: Mapping[str, np.ndarray] | None) -> dict[str, np.ndarray]:
        fresh = function.init_optimizer()
        if given is None:
            return {path: np.array(value) for path, value in fresh.items()}
        if set(given) != set(fresh):
            raise WeightsError(f"the optimiser's state holds {listing(given)}, expected {listing(fresh)}")
        for path, value in fresh.items():
            if np.shape(given[path]) != value.shape:
                raise WeightsError(f"`{path}` of the optimiser has shape {list(np.shape(given[path]))}, "
                                   f"expected {list(value.shape)}")
        return {path: np.array(given[path], value.dtype) for path, value in fresh.items()}

    def __call__(self, batch: Mapping[str, Any] | None = None, /, *, seed: int | None = None, **named) -> dict[str, float]:
        """One step on a batch, by name or as a mapping: "loss", what is minimised, and each loss under its name."""
        program = self._program
        values = program.signature.collect((batch,) if batch is not None else (), named)
        key = None
        if program.uses_seed:
            key = convert_seed(self._step_seed() if seed is None else seed)
        results = program.run(self._current, values, key, self._spare)
        self._current, self._spare = self._spare, self._current
        self.steps += 1
        return program.report(results)

    def _step_seed(self) -> int:
        """Seed and step side by side in 64 bits, as a signed number."""
        mixed = (self._seed & 0xFFFFFFFF) << 32 | (self.steps & 0xFFFFFFFF)
        return mixed - 2 ** 64 if mixed >= 2 ** 63 else mixed

    @property
    def slots(self) -> Mapping[str, np.ndarray]:
        """The live arrays by slot, valid until the next step: to evaluate without a copy."""
        return self._current

    @property
    def weights(self) -> Weights:
        """A copy of the weights as of now."""
        apart = {entry.path: self._current[f"state/{entry.path}"]
                 for entry in self._function.layout.entries if entry.offset is None}
        return Weights(self._function.layout, self._current[WEIGHTS], apart)

    @property
    def optimizer(self) -> dict[str, np.ndarray]:
        """A copy of the optimiser's state, by path."""
        return {path: self._current[slot].copy() for path, slot in self._paths.items()}
