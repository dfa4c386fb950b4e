"""The target "numpy": a graph run by the interpreter behind the compiled graph's interface.  Slow, obvious, the
oracle."""

from __future__ import annotations

from collections.abc import Mapping

from ..runtime.deferred import np
from .interpret import interpret
from .ir import Graph, Node
from .types import evaluate


class InterpretedExecutable:
    """A graph with its leaves at ``layout[leaf] = (slot, offset in elements)``; ``run`` as in
    ``pipeline.Executable``."""

    def __init__(self, graph: Graph, layout: Mapping[Node, tuple[str, int]]):
        self.graph = graph
        self.in_place: frozenset[str] = frozenset()     # every result is a new array
        self._layout = {leaf: layout[leaf] for leaf in graph.inputs}

    def bind(self, sizes: Mapping[str, int]) -> None:
        """Nothing is prepared for sizes here."""

    def run(self, arrays: Mapping[str, np.ndarray], sizes: Mapping[str, int],
            out: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """Evaluate every output; those that ``out`` names are copied to it."""
        leaves = {leaf: self._leaf(leaf, arrays, sizes) for leaf in self._layout}
        # Overflow to infinity is an answer here as it is in a compiled kernel, nothing to warn of.
        with np.errstate(all="ignore"):
            results = interpret(self.graph, leaves, sizes)
        for name, value in results.items():
            results[name] = np.array(value, self.graph.outputs[name].dtype.numpy)
            if out and name in out:
                out[name][...] = results[name]
                results[name] = out[name]
        return results

    def _leaf(self, leaf: Node, arrays: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> np.ndarray:
        slot, offset = self._layout[leaf]
        shape = tuple(evaluate(size, sizes) for size in leaf.shape)
        count = int(np.prod(shape, dtype=np.int64))
        return arrays[slot].reshape(-1)[offset:offset + count].reshape(shape)
