"""``scan``: a loop over time, and ``item``, which picks one of its results.

The body is a closed Graph from (carries, one slice of each x, invariants) to (new carries, one slice of each y).
"""

from __future__ import annotations

from collections.abc import Sequence

from ...runtime.deferred import np
from ..ir import Graph, Node, Primitive, node, substitute, topological
from ..types import Size, TensorType, evaluate
from .leaf import local
from .rules import certainly_negative, check_count, interned_graph, refuse, sampler

OUTSIDE = {"input", "param", "state"}


def _infer(types, attrs) -> tuple[TensorType, ...]:
    body: Graph = attrs["body"]
    carries, xs, length = attrs["carries"], attrs["xs"], attrs["length"]
    if len(types) != len(body.inputs) or carries + xs > len(types) or len(body.outputs) < carries:
        refuse(f"scan: the body takes {len(body.inputs)} values, {len(types)} came")
    if certainly_negative(length):
        refuse(f"scan: {length} steps are not a count")
    for position, (leaf, type_) in enumerate(zip(body.inputs, types)):
        sliced = carries <= position < carries + xs
        if sliced and (not type_.rank or type_.shape[0] != length):
            refuse(f"scan over {length} steps goes along the first axis, got {type_}")
        expected = type_.with_shape(type_.shape[1:]) if sliced else type_
        if leaf.type != expected:
            refuse(f"scan: value {position} of the body is {leaf.type}, {expected} came")
    results = [output.type for output in body.results]
    for position in range(carries):
        if results[position] != types[position]:
            refuse(f"what a scan carries must keep its type: {types[position]} becomes {results[position]}")
    _check_closed(body)
    return tuple(results[:carries]) + tuple(type_.with_shape((length, *type_.shape)) for type_ in results[carries:])


def _check_closed(body: Graph) -> None:
    inputs = set(body.inputs)
    for current in topological(body.results):
        if current.op.name in OUTSIDE or (current.op.name == "local" and current not in inputs):
            refuse(f"scan: the body refers to {current} {dict(current.attrs)} outside of it")


def _evaluate(arrays, current, sizes):
    from ..interpret import run
    body, carries, xs = current.attrs["body"], current.attrs["carries"], current.attrs["xs"]
    length = evaluate(current.attrs["length"], sizes)
    state, series, fixed = arrays[:carries], arrays[carries:carries + xs], arrays[carries + xs:]
    shapes = [[evaluate(size, sizes) for size in type_.shape] for type_ in current.type[carries:]]
    collected = [np.zeros(shape, type_.dtype.numpy) for shape, type_ in zip(shapes, current.type[carries:])]
    for time in reversed(range(length)) if current.attrs["reverse"] else range(length):
        values = [*state, *(each[time] for each in series), *fixed]
        results = run(body.results, dict(zip(body.inputs, values)), sizes)
        state = results[:carries]
        for target, value in zip(collected, results[carries:]):
            target[time] = value
    return (*state, *collected)


def _gradient(current, cotangents):
    from .scan_gradient import gradient
    return gradient(current, cotangents)


SCAN = Primitive("scan", _infer, _evaluate, _gradient, sampler("scan"))


def scan(carries: Sequence[Node], xs: Sequence[Node], invariants: Sequence[Node], body: Graph, length: Size,
         reverse: bool = False) -> Node:
    """Run ``body`` ``length`` times; the results are the last carries, then the ys stacked along a new axis 0.

    The body's inputs are leaves, in the order carries, slices of xs along axis 0, invariants; they are renamed to
    local(0), local(1), ...  Its outputs are the new carries, then the ys.  With ``reverse`` time runs backwards;
    what belongs to a step still stands at its place in xs and ys.
    """
    leaves = [local(position, leaf.dtype, leaf.shape) for position, leaf in enumerate(body.inputs)]
    outputs = substitute(body.results, dict(zip(body.inputs, leaves)))
    return node(SCAN, (*carries, *xs, *invariants), body=interned_graph(leaves, outputs), carries=len(carries),
                xs=len(xs), length=length, reverse=bool(reverse))


# --- item --------------------------------------------------------------------------------------------------------


def _infer_item(types, attrs) -> TensorType:
    check_count("item", types, 1)
    if not isinstance(types[0], tuple) or not 0 <= attrs["index"] < len(types[0]):
        refuse(f"item: there is no result {attrs['index']} of {types[0]}")
    return types[0][attrs["index"]]


def _evaluate_item(arrays, current, sizes):
    return arrays[0][current.attrs["index"]]


def _item_gradient(current, cotangent):
    """The cotangent of one result of several: (its position, cotangent), to be put together with the others."""
    return [(current.attrs["index"], cotangent)]


ITEM = Primitive("item", _infer_item, _evaluate_item, _item_gradient, sampler("item"))


def item(several: Node, index: int) -> Node:
    """One of the results of a node that has several."""
    return node(ITEM, (several,), index=index)


PRIMITIVES = (SCAN, ITEM)
