"""Weights: one flat vector with named views, immutable; and their files.

A ``Layout`` lists the variables in the order in which the model makes them, layer by layer, which is the order of
Keras' ``get_weights()``.  Those of the model's float type are stretches of the flat vector, the parameters first, then
the states; the few others (an integer counter) are held apart.  A file is safetensors, one tensor a variable, named by
its path.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

from .arrays import as_array
from .deferred import np
from .errors import WeightsError, listing, nearest
from .records import dataclass

LARGEST = 2 ** 36                  # elements of one array: 256 GiB in f32; anything above is a mistake in a shape
LARGEST_HEADER = 100_000_000       # bytes; the bound of the safetensors format itself
FILE_TYPES = {"F32": "float32", "F64": "float64", "I32": "int32", "I64": "int64", "BOOL": "bool"}


@dataclass(frozen=True)
class Entry:
    """One variable: ``dtype`` as NumPy names it; ``offset`` in elements of the flat vector, None if held apart."""

    path: str
    dtype: str
    shape: tuple[int, ...]
    trainable: bool
    offset: int | None

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.path}: {self.dtype}{list(self.shape)}"


@dataclass(frozen=True)
class Layout:
    """Where every variable lies.  Made by ``Layout.of``, which assigns the offsets and refuses absurd sizes."""

    dtype: str
    entries: tuple[Entry, ...]

    @staticmethod
    def of(dtype: str, variables) -> Layout:
        """From (path, dtype, shape, trainable) rows in order.  Raises WeightsError beyond ``LARGEST`` elements."""
        rows, entries, offset = list(variables), {}, 0
        # The trainable ones lie first: they are the one stretch that an optimiser sees.
        for path, kind, shape, trainable in sorted(rows, key=lambda row: not row[3]):
            count = math.prod(shape)
            entries[path] = Entry(path, kind, tuple(shape), trainable, offset if kind == dtype else None)
            offset += count if kind == dtype else 0
            if count >= LARGEST or offset >= LARGEST:
                raise WeightsError(f"`{path}` of shape {list(shape)} brings the weights to {max(count, offset):,} "
                                   f"elements; at most {LARGEST - 1:,} are allowed")
        return Layout(dtype, tuple(entries[row[0]] for row in rows))

    @cached_property
    def by_path(self) -> dict[str, Entry]:
        return {entry.path: entry for entry in self.entries}

    @cached_property
    def apart(self) -> tuple[Entry, ...]:
        """The variables outside the flat vector."""
        return tuple(entry for entry in self.entries if entry.offset is None)

    @cached_property
    def size(self) -> int:
        """Elements of the flat vector."""
        return sum(entry.size for entry in self.entries if entry.offset is not None)

    @cached_property
    def trainable_size(self) -> int:
        """Elements of the trainable variables: the first part of the flat vector."""
        return sum(entry.size for entry in self.entries if entry.trainable)

    def entry(self, path: str) -> Entry:
        """The variable of this path; KeyError names the nearest one."""
        found = self.by_path.get(path)
        if found is None:
            raise KeyError(f"there is no variable `{path}`{nearest(path, self.by_path)}")
        return found

    def ordered(self, order: Iterable[str] | None = None) -> list[Entry]:
        """Every variable once, in this order: paths of variables, or of layers, which stand for all that is below them.

        Raises WeightsError for a path that is nothing's, and for variables that come twice or not at all.
        """
        if order is None:
            return list(self.entries)
        if isinstance(order, str):
            raise WeightsError(f"`order` is a list of paths: [{order!r}]")
        found: dict[str, Entry] = {}
        for path in order:
            below = [entry for entry in self.entries if entry.path == path or entry.path.startswith(f"{path}.")]
            if not below:
                raise WeightsError(f"`order`: there is no variable or layer "
                                   f"`{path}`{nearest(str(path), self._places())}")
            twice = [entry.path for entry in below if entry.path in found]
            if twice:
                raise WeightsError(f"`order` names {listing(twice)} twice")
            found |= {entry.path: entry for entry in below}
        missing = [path for path in self.by_path if path not in found]
        if missing:
            raise WeightsError(f"`order` leaves out {listing(missing)}")
        return list(found.values())

    def _places(self) -> set[str]:
        """The paths of all variables and of all that hold any."""
        return {".".join(parts[:count]) for parts in (path.split(".") for path in self.by_path)
                for count in range(1, len(parts) + 1)}


class Weights(Mapping[str, "np.ndarray"]):
    """The value of every variable of a model: a read-only mapping from path to array.

    ``w.flat`` is one read-only vector and every ``w[path]`` a view of it, so an optimiser or an all-reduce takes one
    array.  Weights never change: ``w.replace({path: array})`` and ``w.with_flat(vector)`` give new ones.  For an
    array to write in, copy: ``np.array(w.flat)``.
    """

    __slots__ = ("layout", "flat", "_views")
    __hash__ = None     # type: ignore[assignment]  # equality compares values

    def __init__(self, layout: Layout, flat: np.ndarray, apart: Mapping[str, np.ndarray] | None = None, *,
                 copy: bool = True):
        """``flat`` has ``layout.size`` elements; ``apart`` gives the variables outside of it (zeros if left out).

        ``copy=False`` hands the arrays over: the caller must not write to them afterwards.
        """
        self.layout = layout
        if copy:
            from .addresses import aligned_copy
            vector = aligned_copy(np.asarray(flat), layout.dtype)
        else:
            vector = np.asarray(flat, layout.dtype, order="C")
        if vector.shape != (layout.size,):
            raise WeightsError(f"the flat vector has shape {list(vector.shape)}, expected [{layout.size}]")
        self.flat = _frozen(vector)
        # Those of the flat vector are made when they are asked for: a training step needs none.
        self._views: dict[str, np.ndarray] = {}
        for entry in layout.apart:
            given = (apart or {}).get(entry.path)
            value = np.zeros(entry.shape, entry.dtype) if given is None else np.array(given, entry.dtype, order="C")
            self._views[entry.path] = _frozen(value.reshape(entry.shape))

    @staticmethod
    def of(layout: Layout, values: Mapping[str, np.ndarray]) -> Weights:
        """From every variable's array.  Raises WeightsError naming what is missing, unknown or misshapen."""
        missing = [path for path in layout.by_path if path not in values]
        unknown = [path for path in values if path not in layout.by_path]
        if missing or unknown:
            hint = nearest(unknown[0], missing) if unknown and missing else ""
            raise WeightsError("; ".join([f"missing: {listing(missing)}"] * bool(missing)
                                         + [f"unknown: {listing(unknown)}{hint}"] * bool(unknown)))
        from .addresses import aligned
        flat, apart = aligned((layout.size,), layout.dtype), {}
        for entry in layout.entries:
            value = _fitting(entry, values[entry.path])
            if entry.offset is None:
                apart[entry.path] = value
            else:
                flat[entry.offset:entry.offset + entry.size] = value.reshape(-1)
        return Weights(layout, flat, apart, copy=False)

    @staticmethod
    def from_arrays(layout: Layout, arrays: Iterable, order: Iterable[str] | None = None) -> Weights:
        """From one array a variable, as Keras' ``get_weights()`` gives them.

        They come in the layout's order, or in that of ``order`` (see ``Layout.ordered``).  Raises WeightsError where
        their number or a shape does not fit, with both lists side by side.
        """
        entries = layout.ordered(order)
        given = [_as_array(value, place) for place, value in enumerate(arrays)]
        shapes = [array.shape for array in given]
        if shapes != [entry.shape for entry in entries]:
            raise WeightsError(_misfit(entries, shapes))
        return Weights.of(layout, {entry.path: array for entry, array in zip(entries, given)})

    @staticmethod
    def from_vector(layout: Layout, vector: np.ndarray, order: Iterable[str] | None = None) -> Weights:
        """From the arrays of ``from_arrays`` end to end, each in C order.  Raises WeightsError for another length."""
        entries = layout.ordered(order)
        ends = np.cumsum([entry.size for entry in entries])
        wanted = int(ends[-1]) if entries else 0
        if vector.shape != (wanted,):
            raise WeightsError(f"the flat vector has shape {list(vector.shape)}, expected [{wanted}]")
        parts = np.split(vector, ends[:-1]) if entries else []
        return Weights.of(layout, {entry.path: part.reshape(entry.shape) for entry, part in zip(entries, parts)})

    def to_arrays(self, order: Iterable[str] | None = None) -> list[np.ndarray]:
        """The arrays as a list in the order of ``from_arrays``, as Keras' ``set_weights`` takes them."""
        return [self[entry.path] for entry in self.layout.ordered(order)]

    # --- a mapping

    def __getitem__(self, path: str) -> np.ndarray:
        found = self._views.get(path)
        if found is None:
            entry = self.layout.entry(path)
            assert entry.offset is not None             # what lies apart has its view
            found = self._views[path] = self.flat[entry.offset:entry.offset + entry.size].reshape(entry.shape)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.layout.by_path)

    def __len__(self) -> int:
        return len(self.layout.entries)

    def __eq__(self, other) -> bool:
        if not isinstance(other, Weights):
            return NotImplemented
        return self.layout == other.layout and all(np.array_equal(self[path], other[path]) for path in self)

    # --- new weights from these

    @property
    def apart(self) -> dict[str, np.ndarray]:
        """The variables outside the flat vector."""
        return {entry.path: self._views[entry.path] for entry in self.layout.apart}

    def replace(self, values: Mapping[str, np.ndarray]) -> Weights:
        """These weights with some variables replaced.  Raises WeightsError for an unknown path or another shape."""
        for path in values:
            if path not in self.layout.by_path:
                raise WeightsError(f"there is no variable `{path}`{nearest(path, self.layout.by_path)}")
        return Weights.of(self.layout, {**self, **values})

    def with_flat(self, flat: np.ndarray) -> Weights:
        """These weights with another flat vector (copied, converted to the vector's dtype)."""
        return Weights(self.layout, flat, self.apart)

    def copy(self) -> Weights:
        """Equal weights in memory of their own."""
        return self.with_flat(self.flat)

    __copy__ = copy

    def __deepcopy__(self, memo) -> Weights:
        return self.copy()

    def __reduce__(self):
        return Weights, (self.layout, self.flat, self.apart)

    # --- for a reader

    @property
    def trainable_count(self) -> int:
        """Number of trainable elements."""
        return self.layout.trainable_size

    def __repr__(self) -> str:
        states = sum(entry.size for entry in self.layout.entries if not entry.trainable)
        total = f"{self.trainable_count:,} parameters" + (f", {states:,} of state" if states else "")
        width = max((len(path) for path in self), default=0)
        shown = self.layout.entries if len(self) <= 40 else self.layout.entries[:30]
        rows = [f"  {entry.path:<{width}}  {entry.dtype}{list(entry.shape)}"
                + ("" if entry.trainable else "  state") for entry in shown]
        if len(shown) < len(self):
            rows.append(f"  and {len(self) - len(shown)} more")
        return "\n".join([f"Weights({total})", *rows])

    def _repr_html_(self) -> str:
        """A row a variable with the range of its values, for a notebook."""
        from . import html
        states = sum(entry.size for entry in self.layout.entries if not entry.trainable)
        rows = [(entry.path + ("" if entry.trainable else " (state)"), f"{entry.dtype}{list(entry.shape)}",
                 f"{entry.size:,}",
                 *_range(self[entry.path])) for entry in self.layout.entries]
        return html.block(f"{self.trainable_count:,} parameters" + (f", {states:,} of state" if states else ""),
                          html.table(("path", "type", "elements", "mean", "least", "most"), rows, range(2, 6)))


def _range(array: np.ndarray) -> tuple[str, str, str]:
    """Mean, least and largest value, as text."""
    if not array.size:
        return "", "", ""
    return f"{array.mean(dtype=np.float64):.4g}", f"{array.min():.4g}", f"{array.max():.4g}"


def _as_array(value, place: int) -> np.ndarray:
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:     # RuntimeError: a tensor of torch that carries a gradient
        raise WeightsError(f"number {place} of the list is no array of numbers: {error}") from None


def _misfit(entries: list[Entry], shapes: list[tuple[int, ...]]) -> str:
    """Why a list of arrays does not fit: the variables and the arrays side by side, from just before the first that
    differ."""
    wanted = [entry.shape for entry in entries]
    rows = max(len(wanted), len(shapes))
    differ = [k for k in range(rows) if shapes[k:k + 1] != wanted[k:k + 1]]
    width = max((len(str(entry)) for entry in entries), default=0)
    lines = [f"{len(shapes)} arrays came, the model has {len(entries)} variables"
             + ("" if len(shapes) != len(entries) else f"; {len(differ)} differ in shape")]
    for k in range(max(0, differ[0] - 2), min(rows, differ[0] + 6)):
        here = str(entries[k]) if k < len(entries) else "(no more variables)"
        came = str(list(shapes[k])) if k < len(shapes) else "nothing"
        lines.append(f"  {k:>3}  {here:<{width}}  {'got' if k in differ else 'fits'} {came}".rstrip())
    if sorted(shapes) == sorted(wanted):
        lines.append("these are the model's shapes in another order: give `order`, the paths of the layers as the list "
                     "has them")
    return "\n".join(lines)


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def _fitting(entry: Entry, value) -> np.ndarray:
    """The value as the variable's dtype; only its shape and the kind of its numbers must fit."""
    array = as_array(entry.path, value, f"{entry.dtype}{list(entry.shape)}", WeightsError)
    if array.shape != entry.shape:
        turned = entry.shape[::-1] == array.shape and len(array.shape) > 1
        raise WeightsError(f"`{entry.path}` has shape {list(array.shape)}, expected {list(entry.shape)}"
                           + (" (transposed?)" if turned else ""))
    if not np.can_cast(array.dtype, entry.dtype, "same_kind"):
        raise WeightsError(f"`{entry.path}` has dtype {array.dtype}, expected {entry.dtype}")
    return array.astype(entry.dtype, copy=False)


# --- files ------------------------------------------------------------------------------------------------------


def write_atomically(path: str | os.PathLike, data: bytes) -> None:
    """Write a file so that the path holds the old content or the new, whatever happens meanwhile.

    A temporary file beside it is written, flushed to the disk, and renamed.  A link is followed, not replaced.
    """
    target = os.path.realpath(os.fspath(path))
    temporary = f"{target}.{os.urandom(6).hex()}.tmp"
    # Not tempfile: its files are private to the user, whatever the umask says.
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:        # the name that the user knows
        raise type(error)(error.errno, error.strerror, os.fspath(path)) from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    _sync_folder(os.path.dirname(target))


def _sync_folder(folder: str) -> None:
    if not hasattr(os, "O_DIRECTORY"):                         # a folder cannot be opened on Windows
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save(weights: Weights, path: str | os.PathLike, model: str = "") -> None:
    """Write the weights as safetensors, atomically.  ``model`` is kept as a remark in the header."""
    from safetensors.numpy import save as encode
    # Not np.ascontiguousarray: that turns a scalar into a vector.
    tensors = {name: np.array(value, order="C") for name, value in weights.items()}
    # One entry: several would be written in an order that changes from run to run, and equal weights are to give equal
    # files.
    write_atomically(path, encode(tensors, metadata={"netc": json.dumps({"format": "netc weights 1", "model": model})}))


def load(layout: Layout, path: str | os.PathLike) -> Weights:
    """Read weights that ``save`` (or anything that writes safetensors) wrote, or those of a checkpoint.

    Names, dtypes and shapes are compared with the layout before anything is allocated.  Raises WeightsError, or
    OSError where the file cannot be read.
    """
    header = _read_header(os.fspath(path))
    prefix = IN_CHECKPOINT if any(name.startswith(IN_CHECKPOINT) for name in header) else ""
    _check_header(layout, path, {name.removeprefix(prefix): value for name, value in header.items()
                                 if name.startswith(prefix)})
    return Weights.of(layout, read_tensors(path, prefix)[0])


IN_CHECKPOINT = "weights/"         # before the paths of the weights in a checkpoint, which holds other tensors too


def read_tensors(path: str | os.PathLike, prefix: str = "") -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors whose names begin with ``prefix``, without it, and the metadata of a safetensors file.

    Raises WeightsError, or OSError where the file cannot be read.
    """
    from safetensors import SafetensorError, safe_open
    _read_header(os.fspath(path))                              # which says clearly what is no such file at all
    try:
        with safe_open(os.fspath(path), framework="numpy") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]      # noqa: SIM118 - no mapping
            return {name.removeprefix(prefix): file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except SafetensorError as error:
        raise WeightsError(f"{os.fspath(path)} is damaged: {error}") from None


def _check_header(layout: Layout, path, tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Refuse a file whose variables, given as its header says, are not the layout's."""
    name = os.fspath(path)
    missing = [path for path in layout.by_path if path not in tensors]
    unknown = [path for path in tensors if path not in layout.by_path]
    problems = [f"missing from the file: {listing(missing)}"] * bool(missing)
    problems += [f"unknown to the model: {listing(unknown)}"] * bool(unknown)
    for entry in layout.entries:
        if entry.path in tensors:
            dtype, shape = tensors[entry.path]
            if (FILE_TYPES.get(dtype), shape) != (entry.dtype, entry.shape):
                problems.append(f"`{entry.path}` is {FILE_TYPES.get(dtype, dtype)}{list(shape)} in the file, "
                                f"the model has {entry.dtype}{list(entry.shape)}")
    if problems:
        shown = problems[:6] + [f"and {len(problems) - 6} more"] * (len(problems) > 6)
        shapes = {path: shape for path, (_, shape) in tensors.items()}
        if shapes == {entry.path: entry.shape for entry in layout.entries}:
            shown.append("only the precision differs: `fn.weights_from(safetensors.numpy.load_file(path))` converts it")
        raise WeightsError(f"{name} does not fit the model:\n  " + "\n  ".join(shown))


def _read_header(name: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """(dtype, shape) by tensor name.  Raises WeightsError where the file is not safetensors."""
    with open(name, "rb") as file:
        length = file.read(8)
        count = struct.unpack("<Q", length)[0] if len(length) == 8 else 0
        available = os.fstat(file.fileno()).st_size - 8
        if not 2 <= count <= min(available, LARGEST_HEADER):
            raise WeightsError(f"{name} is not a safetensors file")
        text = file.read(count)
    try:
        header = json.loads(text)
        return {key: (str(value["dtype"]), tuple(int(size) for size in value["shape"]))
                for key, value in header.items() if key != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise WeightsError(f"{name} is not a safetensors file: its header cannot be read") from None
