"""Calls of a form that came before take a shorter way to the same result: nothing has to be converted or looked up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from .compiler.programs import SEED
from .runtime.entry import Entry, Form, weakly
from .runtime.pool import epoch

FORMS_KEPT = 32             # each holds the memory of a run


class Shortcuts(Entry):
    """``call`` takes arrays, some of them by name, and gives what ``make`` makes of a program's outputs.

    The first call of a form takes the long way.  The second one checks nothing but the ranges of indices and labels,
    and where one of these is out of range goes the long way, which says so.  Later ones are machine code throughout.
    """

    def __init__(self, run: Callable, outputs: Sequence[str], make: Callable | None, *, first: Sequence[str] = (),
                 fixed: Mapping[str, np.ndarray] | None = None, is_native: bool = True):
        """``run``: the long way, a method, which does not keep its object: given arrays by slot, the inputs by position
        and those by name, it gives the Compiled that ran, the values of its inputs, and the results, both by name.
        ``outputs``: the names of those that ``make`` takes, in order; without ``make`` the only output is the result.
        ``first``: slots of the arrays that come before the inputs.  ``fixed``: arrays by slot that all calls have.
        ``is_native``: whether the program is machine code of this process; no other has a shorter way."""
        super().__init__(weakly(self._call))
        self._run, self._outputs, self._make, self._first = weakly(run), outputs, make, first
        self._fixed = fixed or {}
        self._is_native = is_native
        self._ways: dict[tuple | None, _Way] = {}
        self._epoch = epoch()

    def _call(self, /, *given: Any, **named: Any) -> Any:
        if self._epoch != epoch():              # what is known was planned for other threads
            self._ways, self._epoch = {}, epoch()
            self.forget()
        arrays = (*given, *named.values()) if named else given
        form = form_of(named, arrays)
        way = self._ways.get(form)
        outputs = way.call(*arrays) if way is not None else None
        if way is None or outputs is None:
            outputs = self._take_long_way(form, arrays, given, named)
        elif not way.is_told:
            way.is_told = True
            self.add(way.form(arrays, self._epoch))
        return outputs[0] if self._make is None else self._make(*outputs)

    def _take_long_way(self, form: tuple | None, arrays: tuple, given: tuple, named: Mapping[str, Any]) -> list:
        count = len(self._first)
        program, values, results = self._run({**self._fixed, **dict(zip(self._first, given))}, given[count:], named)
        if form is not None and self._is_native:
            slots = self._slots(program, values, arrays[count:])
            if slots is not None:
                if len(self._ways) >= FORMS_KEPT:
                    self._ways.clear()
                names = (*(None for _ in range(len(arrays) - len(named))), *named)
                self._ways[form] = self._way(program, values, slots, names)
        return [results[name] for name in self._outputs]

    def _slots(self, program, values: Mapping[str, Any], inputs: tuple) -> dict[str, str] | None:
        """The slot of each input by its name, in the order of a call that was found to be right; None where its like
        may not skip the checks."""
        if len(inputs) != len(values) or program.uses_seed and SEED not in self._fixed \
                or not program.signature.takes_as_is(values):
            return None
        order = [next((name for name, value in values.items() if value is array), None) for array in inputs]
        slots = {name: program.slot(name) for name in order if name is not None}
        return slots if len(slots) == len(order) else None

    def _way(self, program, values: Mapping[str, Any], slots: Mapping[str, str], names: Sequence[str | None]) -> _Way:
        sizes = program.signature.bind(values, check_ranges=False)[1]
        limits = [*(None for _ in self._first), *(program.signature.limit(name, sizes) for name in slots)]
        return _Way(program.executable.bind(sizes), self._fixed, [*self._first, *slots.values()], names, limits,
                    self._outputs, self._make)


class _Way:
    """How calls of one form are taken."""

    def __init__(self, binding, fixed: Mapping[str, np.ndarray], slots: Sequence[str], names: Sequence[str | None],
                 limits: Sequence[int | None], outputs: Sequence[str], make: Callable | None):
        """``slots``, ``names`` (None: by position), ``limits`` (of elements; None: any): of each array, in order."""
        self._binding, self._fixed, self._slots, self._names = binding, fixed, slots, names
        self._limits, self._outputs, self._make = limits, outputs, make
        plain, self._take = binding.caller(fixed, slots, outputs)
        self.call = _checked(plain, [(place, limit) for place, limit in enumerate(limits) if limit is not None])
        self.is_told = False            # to machine code

    def form(self, arrays: Sequence[np.ndarray], epoch: int) -> Form:
        """The form of calls like this one."""
        # It takes the frame that was used just now: no other call needs one but in another thread.
        return self._binding.form(self._take(), self._slots, self._names, arrays, self._limits, self._outputs,
                                  self._make, epoch, self._fixed)


def _checked(call: Callable, limits: list[tuple[int, int]]) -> Callable:
    """The call, None without it where an element of the argument at a place is below 0 or not below its limit."""
    if not limits:
        return call

    def checked(*arrays: np.ndarray):
        for place, limit in limits:
            array = arrays[place]
            # A negative number is a very large one without sign.
            if np.maximum.reduce(array.view(_UNSIGNED[array.dtype.itemsize]), axis=None) >= limit:
                return None
        return call(*arrays)
    return checked


_UNSIGNED: Mapping[int, type[np.unsignedinteger]] = {4: np.uint32, 8: np.uint64}


_form = attrgetter("__class__", "shape", "dtype", "flags.num")


def form_of(names: Iterable[str], arrays: Iterable) -> tuple | None:
    """All that decides how a call is taken but the elements of its arrays; None where one of them is no array."""
    try:
        return (*names, *map(_form, arrays))
    except AttributeError:
        return None
