"""The graph's invariants, checked anew: tests do so after every pass, and of every graph that they make code of.

Nothing that a user writes can break them, and to check them takes a tenth of the time from a graph to its kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .ir import Graph, Node, topological
from .ops import PRIMITIVES
from .types import Dim, DType, TensorType, TypeRuleError, known_nonnegative

NAMED_LEAVES = {"input": "name", "param": "path", "state": "path"}


class VerifyError(Exception):
    """A graph breaks an invariant; the message names the node by its number in the graph's text, and the rule."""


def verify(graph: Graph) -> None:
    """Raise VerifyError unless the graph, its scans' bodies and its custom rules are well formed.

    Checked: every node's primitive is registered and infers exactly the type that the node carries; types are made
    of known dtypes and sizes that are not negative; leaves of one kind have different names; every leaf that an
    output needs is among the graph's inputs; bodies are closed (their only leaves are their own ``local``s).
    """
    _verify(graph, "the graph", inner=False)


def _verify(graph: Graph, where: str, inner: bool) -> None:
    order = topological((*graph.inputs, *graph.results))
    number = {current: position for position, current in enumerate(order)}
    declared = set(graph.inputs)
    if len(declared) != len(graph.inputs):
        raise VerifyError(f"{where} lists an input twice")
    names: dict[tuple, Node] = {}
    for current in order:
        here = f"%{number[current]} = {current.op.name} in {where}"
        _check_type(current, here)
        if _is_leaf(current):
            _check_leaf(current, here, declared, names, inner)
        elif current in declared:
            raise VerifyError(f"{here} is an input of the graph but no leaf")
        for attribute, body in bodies(current):
            _verify(body, f"the {attribute} of {here}", inner=True)
    for name, value in graph.outputs.items():
        if not isinstance(name, str) or not isinstance(value.type, TensorType):
            raise VerifyError(f"output {name!r} of {where} is not one named tensor but {value.type}")


def _is_leaf(current: Node) -> bool:
    return current.op.name == "local" or current.op.name in NAMED_LEAVES


def bodies(current: Node) -> Iterator[tuple[str, Graph]]:
    """The graphs among a node's attributes."""
    return ((name, value) for name, value in current.attrs.items() if isinstance(value, Graph))


def _check_type(current: Node, here: str) -> None:
    if PRIMITIVES.get(current.op.name) is not current.op:
        raise VerifyError(f"{here}: the primitive is not registered")
    try:
        inferred = current.op.infer(tuple(arg.type for arg in current.args), current.attrs)
    except TypeRuleError as error:
        raise VerifyError(f"{here}: {error}") from error
    if inferred != current.type:
        raise VerifyError(f"{here} carries the type {current.type}, its rule gives {inferred}")
    for type_ in current.type if isinstance(current.type, tuple) else (current.type,):
        if not isinstance(type_, TensorType) or not isinstance(type_.dtype, DType):
            raise VerifyError(f"{here}: {type_!r} is no tensor type")
        for size in type_.shape:
            _check_size(size, here)


def _check_size(size: Any, here: str) -> None:
    if isinstance(size, bool) or not isinstance(size, (int, Dim)):
        raise VerifyError(f"{here}: {size!r} is no size")
    if isinstance(size, int) and size < 0 or isinstance(size, Dim) and known_nonnegative(-size - 1):
        raise VerifyError(f"{here} has the negative size {size}")


def _check_leaf(current: Node, here: str, declared: set[Node], names: dict[tuple, Node], inner: bool) -> None:
    kind = current.op.name
    if (kind == "local") != inner:
        rule = "may only refer to its own arguments" if inner else "has a local, which belongs to bodies"
        raise VerifyError(f"{here}: the graph {rule}")
    if current not in declared:
        raise VerifyError(f"{here} is not among the graph's inputs")
    key = (kind, current.attrs["index"] if kind == "local" else current.attrs[NAMED_LEAVES[kind]])
    if names.setdefault(key, current) is not current:
        raise VerifyError(f"{here}: another {kind} is called {key[1]!r} too")
