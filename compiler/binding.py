"""A program with its weights given: what depends on them alone is computed once, and laid out as the kernels like it.

The graph is cut in two: values of the weights that the rest reads, and the rest, whose leaves they are.  Before that,
two things move to the first part:

- the kernels of dense layers, in loops too, lie in panels of a cache line a row, so that a product reads memory in
  order;
- a dense layer on rows of a table becomes rows of another table, which the layer made of the first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from . import ops
from .ir import Graph, Node, node, rebuild, rewrite, substitute, topological, users
from .panels import panel_columns
from .pipeline import simplified
from .prepare import stretches_of
from .programs import Program
from .types import Dim

MOST_ZEROS = 1 / 8          # of a kernel's columns that may be added to fill its last panel
LEAST_BYTES = 4 * 1024      # a smaller kernel lies in the first-level cache whatever its form
MOST_TABLE_BYTES = 64 * 1024 * 1024
# what reads operands that stand in memory; another value of the weights is computed where it is read
READERS = ("contract", "gather", "scan")


def cut(program: Program) -> tuple[Graph, dict[Node, tuple[str, int]], Program]:
    """(the graph of what is computed once, where its leaves lie, the program of the rest)."""
    graph = simplified(program.graph)       # not prepared: both parts will be, and a sum may be cut but once
    for rule in (_by_table, _by_panels):
        given = _given(graph.results)
        graph = Graph(graph.inputs, dict(zip(graph.outputs, rewrite(graph.results, partial(rule, given)))))
    given = _given(graph.results)
    wanted = {arg: None for current in graph.nodes() if current.op.name in READERS and current not in given
              for arg in current.args if arg in given and arg.op.name not in ("param", "state", "reshape")}
    leaves = {value: ops.param(f"bound.{number}", value.dtype, value.shape) for number, value in enumerate(wanted)}
    names = {leaf.attrs["path"]: value for value, leaf in leaves.items()}
    rest = dict(zip(graph.outputs, substitute(graph.results, leaves)))
    layout = dict(program.layout) | {leaf: (leaf.attrs["path"], 0) for leaf in leaves.values()}
    inputs = tuple(leaf for leaf in topological(rest.values()) if leaf in layout)
    first = Graph(tuple(leaf for leaf in topological(names.values()) if leaf in program.layout), names)
    return first, dict(program.layout), replace(program, graph=Graph(inputs, rest), layout=layout)


def _given(roots: Iterable[Node]) -> set[Node]:
    """The values of known size that depend on weights and constants alone."""
    found: set[Node] = set()
    for current in topological(roots):
        if current.op.name in ("param", "state") or (current.args and all(arg in found for arg in current.args)):
            if isinstance(current.type, tuple) or any(isinstance(size, Dim) for size in current.shape):
                continue
            found.add(current)
    return found


# --- tables -----------------------------------------------------------------------------------------------------------


def _by_table(given: set[Node], current: Node, args: tuple[Node, ...]) -> Node:
    """table[i] W as rows of the table (table W), where table and W are given."""
    made = rebuild(current, args)
    if current.op.name != "contract" or len(args) != 2 or current in given or stretches_of(current) > 1:
        return made             # a table's rows are not cut as samples are
    for position in range(2):
        rows, kernel = current.args[1 - position], current.args[position]
        if kernel in given and rows.op.name == "gather" and rows.args[0] in given and rows.args[0].type.rank == 2:
            order = _order_of_rows(made, position)
            columns = current.shape[-1]
            if order is not None and rows.args[0].shape[0] * columns * kernel.dtype.itemsize <= MOST_TABLE_BYTES:
                table, indices = args[1 - position].args
                return ops.gather(ops.product(table, "vk", args[position], "kc", "vc"), ops.transpose(indices, order))
    return made


def _order_of_rows(product: Node, position: int) -> tuple[int, ...] | None:
    """Where each index of the result but the column stands among those of the gathered rows; None where the operand at
    ``position`` is no matrix [sum, column] or the rows are read in another way."""
    maps, rank = product.attrs["maps"], product.type.rank
    if maps[position] != (ops.plain(rank), ops.plain(rank - 1)) or maps[1 - position][-1] != ops.plain(rank):
        return None
    places = {index: place for place, index in enumerate(maps[1 - position][:-1])}
    order = tuple(places.get(ops.plain(k), -1) for k in range(rank - 1))
    return order if sorted(order) == list(range(len(maps[1 - position]) - 1)) else None


# --- panels -----------------------------------------------------------------------------------------------------------


def _by_panels(given: set[Node], current: Node, args: tuple[Node, ...]) -> Node:
    """x W as a batch of products, one for each panel of W's columns: [.., K] [K, P * p] -> [.., P, p]."""
    made = rebuild(current, args)
    if current in given:
        return made
    if current.op.name == "scan":
        return _scan_by_panels(given, current, made)
    place = _dense_kernel(made)
    if place is None or current.args[place] not in given:
        return made
    return _on_panels(made, place, _panels_of(made.args[place], _is_transposed(made, place)))


def _scan_by_panels(given: set[Node], current: Node, made: Node) -> Node:
    """A loop whose body takes kernels in panels, those that only serve as kernels there."""
    body, fixed = made.attrs["body"], made.attrs["carries"] + made.attrs["xs"]
    uses = users(body.results)
    args, leaves, in_panels = list(made.args), list(body.inputs), {}
    for position in range(fixed, len(args)):
        leaf = body.inputs[position]
        products = uses.get(leaf, [])
        ways = {_is_transposed(product, place) if place is not None and product.args[place] is leaf else None
                for product in products for place in [_dense_kernel(product)]}
        if current.args[position] in given and ways in ({True}, {False}) and leaf not in body.results:
            args[position] = _panels_of(args[position], True in ways)
            leaves[position] = in_panels[leaf] = ops.local(position, leaf.dtype, args[position].shape)
    if not in_panels:
        return made

    def replace_products(inner: Node, values: tuple[Node, ...]) -> Node:
        place = _dense_kernel(inner)
        if place is not None and inner.args[place] in in_panels:
            other = values[1 - place]
            return _on_panels(rebuild(inner, tuple(inner.args[place] if k == place else other for k in range(2))),
                              place, in_panels[inner.args[place]])
        return rebuild(inner, values)
    results = rewrite(body.results, replace_products)
    return node(made.op, args, **{**made.attrs, "body": Graph(tuple(leaves), dict(zip(body.outputs, results)))})


def _dense_kernel(current: Node) -> int | None:
    """Which operand of a product is a matrix whose columns only the result's last index reads, and that panels serve
    better; None if neither is."""
    if current.op.name != "contract" or len(current.args) != 2 or len(current.attrs["reduce"]) != 1:
        return None
    column = current.type.rank - 1
    for position, kernel in enumerate(current.args):
        if kernel.type.rank != 2 or any(isinstance(size, Dim) for size in kernel.shape):
            continue
        maps, columns = current.attrs["maps"], current.shape[-1]
        width = panel_columns(kernel.dtype)
        if (columns > width and -columns % width <= MOST_ZEROS * columns
                and kernel.shape[0] * kernel.shape[1] * kernel.dtype.itemsize >= LEAST_BYTES
                and set(maps[position]) == {ops.plain(column), ops.plain(column + 1)}
                and all(column not in index.indices for index in maps[1 - position])):
            return position
    return None


def _is_transposed(product: Node, place: int) -> bool:
    """Whether the kernel at ``place`` is [columns, sum]."""
    return product.attrs["maps"][place][0] == ops.plain(product.type.rank - 1)


def _panels_of(kernel: Node, is_transposed: bool) -> Node:
    """[K, columns], or its transpose, as [P, K, p], with zeros where the last panel has no columns."""
    width = panel_columns(kernel.dtype)
    matrix = kernel if is_transposed else ops.transpose(kernel, (1, 0))
    columns, depth = matrix.shape
    matrix = ops.pad(matrix, (0, 0), (-columns % width, 0))
    return ops.transpose(ops.reshape(matrix, (matrix.shape[0] // width, width, depth)), (0, 2, 1))


def _on_panels(current: Node, place: int, panels: Node) -> Node:
    """The product with the kernel at ``place`` given in panels."""
    rank = current.type.rank            # of the result; with panels, one more index comes before the sum
    other = tuple(replace(index, terms=tuple((k + 1 if k >= rank else k, c) for k, c in index.terms))
                  for index in current.attrs["maps"][1 - place])
    own = ops.plain(rank - 1), ops.plain(rank + 1), ops.plain(rank)
    count, _, width = panels.shape
    product = ops.contract([current.args[1 - place], panels], (*current.shape[:-1], count, width),
                           current.attrs["reduce"], [other, own])
    outer = current.shape[:-1]
    whole = ops.reshape(product, (*outer, count * width))
    return ops.slice(whole, (0,) * rank, current.shape)
