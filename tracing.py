"""What a model computes on the way: ``fn.trace()`` gives every named value, and finds where NaN and infinity begin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Any

import numpy as np

from .compiler import ops, programs
from .compiler.interpret import run
from .compiler.ir import Node, substitute, topological
from .compiler.types import TensorType
from .runtime.errors import NotFiniteError
from .runtime.records import dataclass
from .runtime.weights import Weights

if TYPE_CHECKING:
    from .function import Function

MOST_READ = 12          # values that a report lists
Named = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class NotFinite:
    """Where a run stops being finite.  ``str()`` is the report.

    ``name`` is the first such value in the order of computing: an input, a weight, or an inner value; ``place`` the
    ``file:line:column`` that makes it, ``operation`` the primitive that gave it and ``operands`` what that was applied
    to, ``reads`` the values, weights and inputs that it was computed from.
    """

    name: str
    array: np.ndarray
    place: str
    operation: str | None = None
    operands: tuple[np.ndarray, ...] = ()
    reads: Named = field(default_factory=dict)

    @property
    def position(self) -> tuple[int, ...]:
        """Of the first element that is not finite."""
        wrong = ~np.isfinite(self.array)
        return tuple(int(k) for k in np.unravel_index(int(np.argmax(wrong)), wrong.shape))

    def __str__(self) -> str:
        array, position = self.array, self.position
        count, where = int((~np.isfinite(array)).sum()), f" at {list(position)}" if position else ""
        made = f", made at {self.place}" if self.place else ""
        lines = [f"the first value that is not finite is `{self.name}`{made}",
                 (f"  {array.dtype}{list(array.shape)}: {count:,} of {array.size:,} elements; the first{where} is "
                  f"{array[position]}")]
        if self.operation is not None:
            of = " and ".join(" .. ".join(_range(operand)) for operand in self.operands)
            lines.append(f"  first given by `{self.operation}`" + (f" of {of}" if of else ""))
        if self.reads:
            lines += ["  computed from:", *_ranges(self.reads)]
        return "\n".join(lines)


class Trace(Mapping[str, np.ndarray]):
    """The named values of one run: a mapping of path to array, in the order of computing.

    ``places`` says where each is made, ``types`` gives the types, ``inputs`` and ``weights`` are what the run was
    given.
    """

    def __init__(self, values: Named, types: Mapping[str, TensorType], places: Mapping[str, str], inputs: Named,
                 weights: Weights, program: programs.Program, sizes: Mapping[str, int],
                 known: Mapping[Node, np.ndarray]):
        self._values, self.types, self.places, self.inputs, self.weights = values, types, places, inputs, weights
        self._program, self._sizes, self._known = program, sizes, known

    def __getitem__(self, path: str) -> np.ndarray:
        found = self._values.get(path)
        if found is None:
            from .runtime.errors import nearest
            raise KeyError(f"there is no value `{path}`{nearest(path, self._values)}")
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return "\n".join([f"Trace of {len(self)} values", *_ranges(self, len(self))])

    def _repr_html_(self) -> str:
        from .runtime import html
        rows = [(path, f"{value.dtype}{list(value.shape)}", *_range(value), self.places.get(path, ""))
                for path, value in self.items()]
        return html.block(f"{len(self)} values", html.table(("path", "type", "least", "most", "made at"), rows, (2, 3)))

    # --- hunting

    def first_not_finite(self) -> NotFinite | None:
        """Where NaN or infinity begins, None where every value is finite."""
        for name, array in (*self.inputs.items(), *self.weights.items()):
            if _is_faulty(array):
                return NotFinite(name, array, "")
        for name, node in self._program.graph.outputs.items():
            if _is_faulty(self._values[name]):
                return self._find(name, node)
        return None

    def check_finite(self) -> None:
        """Raises NotFiniteError with the report where some value is not finite."""
        found = self.first_not_finite()
        if found is not None:
            raise NotFiniteError(str(found))

    def _find(self, name: str, node: Node) -> NotFinite:
        """The primitive below a named value that gave the first fault: from known values on, one by one."""
        leaves = {value: ops.local(number, value.dtype, value.shape) for number, value in enumerate(self._known)
                  if value is not node}
        (root,) = substitute([node], leaves)
        arrays = {leaf: self._known[value] for value, leaf in leaves.items()}
        order = topological([root])
        reads = {self._name_of(value): self._known[value] for value, leaf in leaves.items() if leaf in order}
        tensors = [current for current in order if isinstance(current.type, TensorType)]
        values = dict(zip(tensors, run(tensors, {leaf: arrays[leaf] for leaf in order if leaf in arrays}, self._sizes)))
        first = next((current for current in tensors if _is_faulty(values[current])), root)
        first = first.args[0] if first.op.name == "item" else first
        operands = tuple(values[arg] for arg in first.args if arg in values)
        return NotFinite(name, self._values[name], self.places.get(name, ""), first.op.name, operands, reads)

    def _name_of(self, node: Node) -> str:
        if node.op.name in ("input", "param", "state"):
            return node.attrs.get("path", node.attrs.get("name"))
        return next(name for name, value in self._program.graph.outputs.items() if value is node)


def trace(function: Function, weights: Weights, args: tuple, named: Mapping[str, Any], training: bool,
          seed: int | None) -> Trace:
    """See ``Function.trace``."""
    compiled = function.program("trace_training" if training else "trace")
    program = compiled.program
    given = compiled.signature.collect(args, named)
    arrays, sizes = compiled.signature.bind(given)
    key = function._seed(compiled, seed)
    results = compiled.run(function._slots(weights), arrays, key)
    leaves = {leaf: _leaf(leaf, arrays, weights, key) for leaf in program.graph.inputs}
    wanted = programs.traced_values(function.model, training)
    canonical = {value: name for name, value in reversed(wanted.items()) if name in results}
    # A value that is an input or a weight itself is copied: a trace keeps what was, and gives nobody's memory away.
    values = {name: results[canonical[value]] if value in canonical else _leaf(value, arrays, weights, key).copy()
              for name, value in wanted.items()}
    mode = function.model.training if training else function.model.inference
    known = leaves | {node: results[name] for name, node in program.graph.outputs.items()}
    used = {name: array for name, array in arrays.items() if any(leaf.attrs.get("name") == name for leaf in leaves)}
    return Trace(values, {name: value.type for name, value in wanted.items()}, mode.places, used, weights, program,
                 sizes, known)


def _leaf(leaf: Node, arrays: Named, weights: Weights, seed: np.ndarray | None) -> np.ndarray:
    if leaf is programs.seed_leaf():
        assert seed is not None             # a random program was asked for one
        return seed
    return arrays[leaf.attrs["name"]] if leaf.op.name == "input" else weights[leaf.attrs["path"]]


# --- ranges -----------------------------------------------------------------------------------------------------------


def _is_faulty(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" and not np.isfinite(array).all()


def _ranges(values: Named, most: int = MOST_READ) -> list[str]:
    """A line a value: its name, its type, its smallest and largest number."""
    rows = [(name, f"{array.dtype}{list(array.shape)}", *_range(array)) for name, array in list(values.items())[:most]]
    widths = [max(map(len, column)) for column in zip(*rows)] if rows else []
    lines = [f"    {name:<{widths[0]}}  {kind:<{widths[1]}}  {low:>{widths[2]}} .. {high}" for name, kind, low,
             high in rows]
    return lines + [f"    and {len(values) - most} more"] * (len(values) > most)


def _range(array: np.ndarray) -> tuple[str, str]:
    if not array.size:
        return "", ""
    if array.dtype.kind != "f":
        return str(array.min()), str(array.max())
    # fmin and fmax pass over NaN, of which the report speaks already.
    fmin: Any = np.fmin
    fmax: Any = np.fmax
    return f"{fmin.reduce(array, axis=None):.5g}", f"{fmax.reduce(array, axis=None):.5g}"

