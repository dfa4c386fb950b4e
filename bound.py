"""A model with its weights given: a function of the inputs alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .compiler.programs import SEED
from .inputs import Shortcuts, form_of
from .runtime.entry import Entry, weakly
from .runtime.weights import Weights

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
        self._shortcuts = Shortcuts()
        self._entry = Entry(weakly(self._long_way))

    def __call__(self, *args, seed: int | None = None, **named) -> np.ndarray | tuple[np.ndarray, ...]:
        """The outputs for these inputs, as ``Function.__call__`` takes and gives them."""
        return self._entry.call(*args, **named) if seed is None else self._long_way(*args, seed=seed, **named)

    def _long_way(self, *args, seed: int | None = None, **named):
        arrays = (*args, *named.values()) if named else args
        form = form_of(named, arrays)
        call = self._shortcuts.get(form)
        if call is not None and seed is None:
            outputs = call(*arrays)
            if outputs is not None:
                return self.function._shaped(outputs)
        program = self._program
        values = program.signature.collect(args, named)
        results = program.evaluate(self._slots, values, self.function._seed(program, seed))
        if self.function._is_native:
            self._shortcuts.add(form, program, values, arrays, self._slots, [], list(self.function.outputs),
                                self._entry, self.function._result)
        return self.function._shaped([results[name] for name in self.function.outputs])

    def __repr__(self) -> str:
        return f"{self.function!r}, its weights bound"
