"""Training as a stateful object that owns the weights and the optimiser's state: a step replaces them in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .compiler.programs import LOSS, SEED, WEIGHTS
from .function import Compiled, Function
from .inputs import convert_seed, step_seed
from .runtime.errors import NotFiniteError, WeightsError, listing, nearest
from .runtime.weights import Weights
from .shortcuts import Shortcuts


class Trainer:
    """``losses = trainer(**batch)`` does one step; ``trainer.weights`` is a copy of the weights as of now.

    Where the model is random, step number k (from 0) draws from ``netc.step_seed(seed, k)``, so a run repeats.  With
    ``metrics``, a step reports those of its batch too.  With ``check_finite``, a step whose loss is NaN or infinite
    raises NotFiniteError, which says where that comes from.
    """

    def __init__(self, function: Function, weights: Weights, optimizer: Mapping[str, np.ndarray] | None = None, *,
                 seed: int = 0, metrics: bool = False, check_finite: bool = False):
        self._function = function
        self._program = function.program("step_metrics" if metrics else "step")
        self._seed = int(convert_seed(seed))
        self._check_finite = check_finite
        self._paths = {path: slot for path, (slot, _, _) in function._optimizer_states.items()}
        self.restore(weights, function.init_optimizer() if optimizer is None else optimizer)

    def restore(self, weights: Weights, optimizer: Mapping[str, np.ndarray], steps: int = 0) -> None:
        """Go on from these weights and this state of the optimiser, as after so many steps.  Raises WeightsError."""
        function = self._function
        slots = function._slots(weights) | function._optimizer_slots(optimizer)
        self._memory = function.memory
        self._current = {slot: self._memory.place(array) for slot, array in slots.items()}
        # What a step cannot compute in place has two arrays, which take turns.
        self._spare = {slot: self._memory.like(array) for slot, array in self._current.items()
                       if slot not in self._program.executable.in_place}
        self._previous: dict[str, Any] = {}
        self._names = self._program.signature.types.keys()
        self._drawn = convert_seed(0)           # the seed of the next step
        self._count = _Count(self._program, steps)
        kept = {f"out:{name}": array for name, array in {**self._current, **self._count.results}.items()}
        self._shortcuts = Shortcuts(
            self._step, [], self._count.finish, fixed={**self._current, **kept, SEED: self._drawn},
            is_native=function._is_native and not self._spare and not self._check_finite)

    def adjust(self, states: Mapping[str, Any]) -> None:
        """Replace some of the optimiser's state, by path, before the next step.  Raises WeightsError for what it has
        not."""
        for path, value in states.items():
            if path not in self._paths:
                raise WeightsError(f"the optimiser has no state `{path}`{nearest(path, self._paths)}; "
                                   f"there are {listing(self._paths)}")
            self._memory.assign(self._current[self._paths[path]], value)

    def __call__(self, batch: Mapping[str, Any] | None = None, /, *, seed: int | None = None,
                 **named) -> dict[str, float]:
        """One step on a batch, by name or as a mapping: "loss", what is minimised, and each loss under its name."""
        given = named if batch is None else batch
        if not (type(given) is dict and given.keys() == self._names and (batch is None or not named)):
            given = self._program.signature.collect((batch,) if batch is not None else (), named)
        if self._program.uses_seed:
            self._drawn[()] = convert_seed(step_seed(self._seed, self.steps) if seed is None else seed)
        return self._shortcuts.call(**given)

    def _step(self, _: Mapping[str, np.ndarray], args: tuple, values: Mapping[str, Any]) -> tuple:
        """A step on the values of all inputs: what ran, these, and no results, which the count keeps."""
        program = self._program
        if self._check_finite:
            self._previous = {slot: self._memory.place(array) for slot, array in self._current.items()}
        results = program.run(self._current, values, self._drawn if program.uses_seed else None,
                              {**self._spare, **self._count.results})
        for slot, spare in self._spare.items():
            self._current[slot], self._spare[slot] = spare, self._current[slot]
        if self._check_finite and not np.isfinite(results[LOSS]):
            self._count.steps += 1
            self._hunt(values)
        return program, values, {}

    def _hunt(self, batch: Mapping[str, Any]) -> None:
        """Raise the report of where the last step stopped being finite."""
        random = self._function.program("trace_training").uses_seed
        self._function.trace(self._weights(self._previous), batch, training=True,
                             seed=int(self._drawn) if random else None).check_finite()
        raise NotFiniteError(f"the loss of step {self.steps} is not finite, but every value is when it is computed by "
                             f"itself")

    @property
    def steps(self) -> int:
        """How many steps were done."""
        return self._count.steps

    @property
    def slots(self) -> Mapping[str, np.ndarray]:
        """The live arrays by slot, valid until the next step: to evaluate without a copy."""
        return self._current

    @property
    def weights(self) -> Weights:
        """A copy of the weights as of now."""
        return self._weights(self._current)

    def _weights(self, slots: Mapping[str, np.ndarray]) -> Weights:
        layout = self._function.layout
        apart = {entry.path: self._memory.fetch(slots[f"state/{entry.path}"]) for entry in layout.apart}
        return Weights(layout, self._memory.fetch(slots[WEIGHTS]), apart, copy=False)

    @property
    def optimizer(self) -> dict[str, np.ndarray]:
        """A copy of the optimiser's state, by path."""
        return {path: self._memory.fetch(self._current[slot]) for path, slot in self._paths.items()}


class _Count:
    """How many steps a Trainer did, and where they leave their ``results``, the losses and metrics.  Shortcuts hold it,
    and so not the Trainer itself, whose arrays go as soon as nobody has it any more."""

    def __init__(self, program: Compiled, steps: int):
        self.program, self.steps = program, steps
        outputs = program.program.graph.outputs
        self.results = {name: np.zeros((), outputs[name].dtype.numpy) for name in program.reports if name in outputs}

    def finish(self) -> dict[str, float]:
        """What a step gives."""
        self.steps += 1
        return self.program.report(self.results)
