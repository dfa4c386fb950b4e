"""A program with its weights given: what depends on them alone is computed once, and laid out as the kernels like it.

The graph is cut in two: values of the weights that the rest reads, among them the kernels of dense layers in panels of
``PANEL_BYTES`` a row, so that a product reads memory in order; and the rest, whose leaves they are.
"""

from __future__ import annotations

from dataclasses import replace

from . import ops
from .ir import Graph, Node, rebuild, rewrite, substitute, topological
from .pipeline import optimize
from .programs import Program
from .types import Dim

PANEL_BYTES = 64            # a cache line: two vectors of AVX2
LEAST_BYTES = 64 * 1024     # a smaller kernel lies in the cache whatever its form


def cut(program: Program) -> tuple[Graph, dict[Node, tuple[str, int]], Program]:
    """(the graph of what is computed once, where its leaves lie, the program of the rest)."""
    graph = optimize(program.graph)
    graph = Graph(graph.inputs, dict(zip(graph.outputs, rewrite(graph.results, _by_panels))))
    given = _given(graph)
    wanted = {arg: None for current in graph.nodes() if current.op.name == "contract" and current not in given
              for arg in current.args if arg in given and arg.op.name not in ("param", "state", "reshape")}
    leaves = {value: ops.param(f"bound.{number}", value.dtype, value.shape) for number, value in enumerate(wanted)}
    names = {leaf.attrs["path"]: value for value, leaf in leaves.items()}
    rest = dict(zip(graph.outputs, substitute(graph.results, leaves)))
    layout = dict(program.layout) | {leaf: (leaf.attrs["path"], 0) for leaf in leaves.values()}
    inputs = tuple(leaf for leaf in topological(rest.values()) if leaf in layout)
    first = Graph(tuple(leaf for leaf in topological(names.values()) if leaf in program.layout), names)
    return first, dict(program.layout), replace(program, graph=Graph(inputs, rest), layout=layout)


def _given(graph: Graph) -> set[Node]:
    """The values of known size that depend on weights and constants alone."""
    found: set[Node] = set()
    for current in graph.nodes():
        if current.op.name in ("param", "state") or (current.args and all(arg in found for arg in current.args)):
            if isinstance(current.type, tuple) or any(isinstance(size, Dim) for size in current.shape):
                continue
            found.add(current)
    return found


def _by_panels(current: Node, args: tuple[Node, ...]) -> Node:
    """x W as a batch of products, one for each panel of W's columns: [.., K] [K, P * p] -> [.., P, p]."""
    current = rebuild(current, args)
    if current.op.name != "contract" or len(args) != 2:
        return current
    for position, kernel in enumerate(args):
        width = PANEL_BYTES // kernel.dtype.itemsize
        if kernel.op.name == "param" and _is_dense_kernel(current, position, width):
            return _with_panels(current, position, width)
    return current


def _is_dense_kernel(current: Node, position: int, width: int) -> bool:
    """Whether an operand is a matrix [K, columns] of which only the result's last index reads the columns."""
    kernel, maps = current.args[position], current.attrs["maps"]
    column = current.type.rank - 1
    if kernel.type.rank != 2 or any(isinstance(size, Dim) for size in kernel.shape):
        return False
    rows, columns = kernel.shape
    return (columns % width == 0 and columns > width and rows * columns * kernel.dtype.itemsize >= LEAST_BYTES
            and maps[position] == (ops.plain(current.type.rank), ops.plain(column))
            and len(current.attrs["reduce"]) == 1
            and all(column not in index.indices for index in maps[1 - position]))


def _with_panels(current: Node, position: int, width: int) -> Node:
    rank = current.type.rank            # of the result; with panels, one more index comes before the sum
    kernel = current.args[position]
    rows, columns = kernel.shape
    panels = ops.transpose(ops.reshape(kernel, (rows, columns // width, width)), (1, 0, 2))
    other = tuple(replace(index, terms=tuple((k + 1 if k >= rank else k, c) for k, c in index.terms))
                  for index in current.attrs["maps"][1 - position])
    own = ops.plain(rank - 1), ops.plain(rank + 1), ops.plain(rank)
    args, maps = [current.args[1 - position], panels], [other, own]
    product = ops.contract(args, (*current.shape[:-1], columns // width, width), current.attrs["reduce"], maps)
    return ops.reshape(product, current.shape)
