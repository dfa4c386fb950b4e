"""What a caller passes in, checked and converted before a kernel sees it.

Every message names the input, what came and what was expected.  Floats accept any real numbers; integers accept
integers that fit; booleans accept booleans.  Arrays are made contiguous by copying where they are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

import numpy as np

from .compiler.bounds import Range
from .compiler.ir import Node
from .compiler.types import Dim, Size, TensorType, evaluate, substitute
from .runtime.arrays import as_array, uneven
from .runtime.errors import InputError, ModelError, listing, nearest
from .runtime.weights import LARGEST


class Signature:
    """The inputs of one program: ``bind`` turns a caller's values into arrays and the sizes of the symbols."""

    def __init__(self, leaves: Iterable[Node], ranges: Iterable[Range] = (), on_device: bool = False):
        self._on_device = on_device         # whether arrays in a GPU's memory are taken as they are
        self.types: dict[str, TensorType] = {leaf.attrs["name"]: leaf.type for leaf in leaves}
        self._wanted = {name: (type_.dtype.numpy, type_.rank) for name, type_ in self.types.items()}
        self._lone = {name: [_lone_symbol(size) for size in type_.shape] for name, type_ in self.types.items()}
        self._known: dict[tuple, dict[str, int]] = {}          # shapes that passed -> sizes
        self._ranges = [(found.leaf.attrs["name"], found.limit) for found in ranges]

    @property
    def batch(self) -> str | None:
        """The symbol that leads the first input that has dimensions; None where that is no lone symbol."""
        first = next((type_.shape[0] for type_ in self.types.values() if type_.shape), None)
        return _lone_symbol(first) if first is not None else None

    def batched(self) -> list[str]:
        """The inputs that are led by the batch's symbol: one row a sample."""
        symbol = self.batch
        return [name for name, type_ in self.types.items()
                if symbol is not None and type_.shape and _lone_symbol(type_.shape[0]) == symbol]

    def limit(self, name: str, sizes: Mapping[str, int]) -> int | None:
        """What an input's elements must stay below, where they are indices or labels."""
        return min((evaluate(limit, sizes) for ranged, limit in self._ranges if ranged == name), default=None)

    def takes_as_is(self, values: Mapping[str, Any]) -> bool:
        """Whether values are arrays that are used as they are, if their elements are within their limits."""
        return all(type(value) is np.ndarray and value.dtype == self._wanted[name][0] and value.flags.c_contiguous
                   and value.flags.aligned for name, value in values.items())

    def collect(self, args: tuple, named: Mapping[str, Any]) -> Mapping[str, Any]:
        """Positional values, named ones or one mapping, as one mapping."""
        if not args and named.keys() == self.types.keys():
            return named
        if len(args) == 1 and isinstance(args[0], Mapping):
            twice = [name for name in args[0] if name in named]
            values = {**args[0], **named}
        else:
            if len(args) > len(self.types):
                raise InputError(f"{len(args)} inputs came, expected {len(self.types)}: {self}")
            values = dict(zip(self.types, args))
            twice = [name for name in values if name in named]
            values |= named
        if twice:
            raise InputError(f"input {listing(twice)} came twice")
        unknown = [name for name in values if name not in self.types]
        if unknown:
            raise InputError(f"there is no input {listing(map(str, unknown))}{nearest(str(unknown[0]), self.types)}; "
                             f"the inputs are {self}")
        missing = [name for name in self.types if name not in values]
        if missing:
            raise InputError(f"input {listing(missing)} is missing; the inputs are {self}")
        return {name: values[name] for name in self.types}

    def bind(self, values: Mapping[str, Any],
             check_ranges: bool = True) -> tuple[dict[str, np.ndarray], Mapping[str, int]]:
        """Arrays by name and the sizes of the symbols.  Raises InputError."""
        arrays = {}
        for name, (dtype, rank) in self._wanted.items():
            value = values[name]
            ready = type(value) is np.ndarray and value.dtype == dtype and value.ndim == rank \
                and value.flags.c_contiguous and value.flags.aligned
            if ready and value.size < LARGEST:
                arrays[name] = value
            else:
                take = convert_on_device if self._on_device and is_on_device(value) else convert
                arrays[name] = take(name, value, self.types[name])
        sizes = self.sizes({name: array.shape for name, array in arrays.items()})
        if check_ranges:
            for name, limit in self._ranges:
                _check_range(name, np.asarray(arrays[name]), evaluate(limit, sizes), limit)
        return arrays, sizes

    def sizes(self, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, int]:
        """The value of every symbol, given shapes in the signature's order.  Raises InputError where the shapes
        disagree, naming both places."""
        key = tuple(shapes.values())
        sizes = self._known.get(key)
        if sizes is None:
            if len(self._known) > 1000:
                self._known.clear()
            self._known[key] = sizes = self._unify(shapes)
        return sizes

    def _unify(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
        sizes: dict[str, int] = {}
        origin: dict[str, str] = {}
        pending = []
        for name, type_ in self.types.items():
            for axis, (want, have) in enumerate(zip(type_.shape, shapes[name])):
                symbol = self._lone[name][axis]
                if symbol is None:
                    pending.append((name, axis, want, have))
                elif symbol in sizes and sizes[symbol] != have:
                    raise InputError(f"`{origin[symbol]}` and `{name}` disagree on {symbol}: {symbol} is "
                                     f"{sizes[symbol]} in `{origin[symbol]}`, {have} in `{name}` "
                                     f"({_shown(shapes[name])}, expected {type_})")
                elif have < 1:
                    raise InputError(f"`{name}` is empty: its shape is {_shown(shapes[name])}, expected {type_} with "
                                     f"{symbol} at least 1")
                else:
                    sizes[symbol] = have
                    origin.setdefault(symbol, name)
        for name, axis, want, have in pending:
            self._match(name, axis, want, have, sizes, shapes)
        return sizes

    def _match(self, name: str, axis: int, want: Size, have: int, sizes: dict[str, int], shapes) -> None:
        """A dimension that is no lone symbol: a number, or an expression that may fix one more symbol."""
        expected = substitute(want, sizes)
        if isinstance(expected, Dim):
            solved = _solve(expected, have)
            if solved is None:
                raise InputError(f"dimension {axis} of `{name}` is {have}, which {want} cannot be "
                                 f"({_shown(shapes[name])}, expected {self.types[name]})")
            sizes |= solved
        elif expected != have:
            shown = f"{want} = {expected}" if isinstance(want, Dim) else f"{want}"
            raise InputError(f"dimension {axis} of `{name}` is {have}, expected {shown} "
                             f"({_shown(shapes[name])}, expected {self.types[name]})")

    def __str__(self) -> str:
        return ", ".join(f"{name}: {type_}" for name, type_ in self.types.items()) or "none"


def _lone_symbol(size: Size) -> str | None:
    """The name, where a size is one symbol and nothing else."""
    if isinstance(size, Dim) and len(size.terms) == 1:
        (monomial, coefficient), = size.terms.items()
        if coefficient == 1 and len(monomial) == 1 and isinstance(monomial[0], str):
            return monomial[0]
    return None


def _solve(size: Dim, value: int) -> dict[str, int] | None:
    """The one symbol of ``a*N + b`` such that the size is ``value``; None where there is none of at least 1."""
    if len(size.symbols) != 1:
        return None
    name, = size.symbols
    if not set(size.terms) <= {(name,), ()}:
        return None
    quotient, rest = divmod(value - size.terms.get((), 0), size.terms[(name,)])
    return {name: quotient} if rest == 0 and quotient >= 1 else None


# --- one value ----------------------------------------------------------------------------------------------------


def convert(name: str, value: Any, type_: TensorType) -> np.ndarray:
    """The value as a C-contiguous array of the input's dtype and rank: the caller's own memory where it is that
    already.

    Anything with NumPy's protocols or DLPack will do.  Raises InputError.
    """
    array = as_array(name, value, str(type_))
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        rows = uneven(value)
        told = f": {rows}" if rows else _cast_hint(name, type_) if _holds_numbers(array) else ""
        raise InputError(f"`{name}` has dtype {array.dtype}, expected {type_}{told}")
    if array.ndim != type_.rank:
        raise InputError(f"`{name}` has {array.ndim} dimensions ({_shown(array.shape)}), expected "
                         f"{type_.rank}: {type_}{_rank_hint(array, type_)}")
    if array.size >= LARGEST:
        raise InputError(f"`{name}` has {array.size:,} elements ({_shown(array.shape)}); "
                         f"at most {LARGEST - 1:,} are allowed")
    wanted = type_.dtype.numpy
    if array.dtype == wanted and array.flags.c_contiguous and array.flags.aligned and array.dtype.isnative:
        return array
    _check_kind(name, array, type_)
    with np.errstate(over="ignore"):
        # np.array and not ascontiguousarray: that turns a scalar into a vector.
        return np.array(array, wanted, order="C")


def is_on_device(value: Any) -> bool:
    """Whether a value is an array in a GPU's memory."""
    from .runtime.cuda import arrays
    return arrays.is_on_device(value)


def convert_on_device(name: str, value: Any, type_: TensorType):
    """The value, an array in a GPU's memory, as a DeviceArray over the same memory.  Raises InputError: nothing is
    converted there."""
    from .runtime.cuda.arrays import adopt
    array = adopt(name, value)
    if array.dtype != type_.dtype.numpy:
        raise InputError(f"`{name}` has dtype {array.dtype} on the device, expected {type_}: convert it there first")
    if array.ndim != type_.rank:
        raise InputError(f"`{name}` has {array.ndim} dimensions ({_shown(array.shape)}), expected "
                         f"{type_.rank}: {type_}")
    if array.size >= LARGEST:
        raise InputError(f"`{name}` has {array.size:,} elements ({_shown(array.shape)}); "
                         f"at most {LARGEST - 1:,} are allowed")
    return array


def _rank_hint(array: np.ndarray, type_: TensorType) -> str:
    """What would give the value its rank, where that is plain: a sample without its batch, or one number a sample as a
    column, or not as one."""
    if array.ndim == type_.rank - 1:
        if type_.shape[-1] == 1 and _may_be(array.shape, type_.shape[:-1]):
            return " (it lacks the last axis, of size 1: value[..., None])"
        if _may_be(array.shape, type_.shape[1:]):
            return " (a batch is needed, even of one: value[None])"
    if array.ndim == type_.rank + 1 and array.shape[-1] == 1 and _may_be(array.shape[:-1], type_.shape):
        return " (it has one axis too many: value[..., 0])"
    return ""


def _may_be(shape: tuple[int, ...], sizes: tuple[Size, ...]) -> bool:
    return all(size == known for size, known in zip(shape, sizes) if isinstance(known, int))


def _cast_hint(name: str, type_: TensorType) -> str:
    return f"; convert it first: {name}.astype(np.{type_.dtype.numpy.name})"


def _holds_numbers(array: np.ndarray) -> bool:
    """Whether an array of Python's objects, as tables of several kinds of columns give them, holds numbers alone."""
    return array.ndim > 0 and array.dtype == object and all(isinstance(each, (Real, np.generic)) for each in array.flat)


def _check_kind(name: str, array: np.ndarray, type_: TensorType) -> None:
    """Floats take any number, integers whole ones that fit, booleans only booleans."""
    wanted, kind = type_.dtype, array.dtype.kind
    allowed = {"float": "fiub", "int": "iub", "bool": "b"}[wanted.kind]
    if kind not in allowed:
        hint = _cast_hint(name, type_) if kind == "f" and wanted.kind == "int" else ""
        raise InputError(f"`{name}` has dtype {array.dtype}, expected {type_}{hint}")
    if wanted.kind == "int" and kind in "iu" and array.size and not np.can_cast(array.dtype, wanted.numpy):
        low, high = int(array.min()), int(array.max())
        limits = np.iinfo(wanted.numpy)
        if low < limits.min or high > limits.max:
            raise InputError(f"`{name}` holds {low if low < limits.min else high}, which does not fit in {wanted}")


def _check_range(name: str, array: np.ndarray, limit: int, shown: Size) -> None:
    if array.size == 0 or array.min() >= 0 and array.max() < limit:
        return
    wrong = (array < 0) | (array >= limit)
    position = tuple(int(axis) for axis in np.unravel_index(int(np.argmax(wrong)), array.shape))
    allowed = f"0 to {limit - 1}" + (f" ({shown} - 1)" if isinstance(shown, Dim) else "")
    place = f" at {list(position)}" if position else ""
    raise InputError(f"`{name}` holds {int(array[position])}{place}, allowed are {allowed}")


def require_finite(arrays: Mapping[str, np.ndarray]) -> None:
    """Raise InputError where data hold NaN or an infinity, naming the first row."""
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            continue
        finite = np.isfinite(array)
        if finite.all():
            continue
        position = [int(axis) for axis in np.unravel_index(int(np.argmin(finite)), array.shape)]
        value = array[tuple(position)]
        what = "NaN" if np.isnan(value) else f"{value} (or a number too large for {array.dtype})"
        rows = int(np.count_nonzero(~finite.reshape(len(array), -1).all(axis=1))) if array.ndim else 1
        place = f" in row {position[0]}, at {position}; rows with such values: {rows} of {len(array):,}" \
            if position else ""
        raise InputError(f"`{name}` holds {what}{place}. Clean the data, or allow it for a model that expects this: "
                         f"allow_nan=True, --allow-nan")


def convert_seed(seed: Any) -> np.ndarray:
    """A seed as the i64 scalar that programs take.  Raises InputError unless it is an integer of 64 bits."""
    return np.array(_checked_seed(seed), np.int64)


def _checked_seed(seed: Any) -> int:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise InputError(f"`seed` is {seed!r}, expected an integer")
    if not -2 ** 63 <= seed < 2 ** 63:
        raise InputError(f"`seed` is {seed}, which does not fit in 64 bits")
    return int(seed)


def step_seed(seed: int, step: int) -> int:
    """The seed of one step of training: ``fit`` and ``Trainer`` draw with it where the model is random, so that a loop
    of your own can draw the same.  Seed and step stand side by side in 64 bits, as a signed number.
    """
    mixed = (_checked_seed(seed) & 0xFFFFFFFF) << 32 | (step & 0xFFFFFFFF)
    return mixed - 2 ** 64 if mixed >= 2 ** 63 else mixed


def convert_settings(settings: Any) -> dict[str, Any]:
    """A model's settings as the compiler takes them: numbers and arrays of NumPy's as Python's own, lists as tuples.
    Raises ModelError for what is no compile-time value."""
    if not isinstance(settings, Mapping):
        raise ModelError(f"`settings` is {settings!r}, expected a mapping of names to values")
    return {str(name): _setting(str(name), value) for name, value in settings.items()}


def _setting(name: str, value: Any) -> Any:
    if isinstance(value, (list, tuple, range)) or isinstance(value, np.ndarray) and value.ndim:
        return tuple(_setting(name, each) for each in value)
    plain = value.item() if isinstance(value, (np.generic, np.ndarray)) else value
    if plain is not None and not isinstance(plain, (bool, int, float, str)):
        raise ModelError(f"the setting `{name}` is {value!r}, expected a number, a boolean, None, a tuple of such, or "
                         f"a text that is an expression of the language, such as \"relu\"")
    if isinstance(plain, int) and not -2 ** 63 <= plain < 2 ** 63:
        raise ModelError(f"the setting `{name}` is {plain}, which does not fit in 64 bits")
    return plain


def _shown(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
