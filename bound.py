"""A model with its weights given: a function of the inputs alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .compiler.programs import SEED
from .runtime.weights import Weights
from .shortcuts import Shortcuts

if TYPE_CHECKING:
    from .function import Function


class Bound:
    """``predict = fn.bind(w); y = predict(x)`` gives what ``fn(w, x)`` gives, faster: what depends on the weights alone
    is computed when they are bound, and the kernels of dense layers lie as the products read them."""

    def __init__(self, function: Function, weights: Weights):
        self.function = function
        self._slots = function._slots(weights)
        arranging, self._program = function.bound_program()
        if arranging is not None:
            self._slots |= arranging.run(self._slots, {})
        program = self._program.program
        used = {slot for slot, _ in program.layout.values()}
        self._slots = {slot: array for slot, array in self._slots.items() if slot in used and slot != SEED}
        if function.target == "cuda":
            self._slots = {slot: function.memory.place(array) for slot, array in self._slots.items()}
        self._shortcuts = Shortcuts(self._predict, list(function.outputs), function._result, fixed=self._slots,
                                    is_native=function._is_native)

    def __call__(self, *args, seed: int | None = None, **named) -> np.ndarray | tuple[np.ndarray, ...]:
        """The outputs for these inputs, as ``Function.__call__`` takes and gives them."""
        if seed is None:
            return self._shortcuts.call(*args, **named)
        return self.function._shaped(self._predict(self._slots, args, named, seed)[2])

    def _predict(self, slots: Mapping[str, np.ndarray], args: tuple, named: Mapping[str, Any],
                 seed: int | None = None) -> tuple:
        """What ran, the inputs and the outputs, both by name."""
        return self.function._evaluate(self._program, slots, args, named, seed)

    def __repr__(self) -> str:
        return f"{self.function!r}, its weights bound"
