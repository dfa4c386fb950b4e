"""``scan``: a loop along an axis of tensors, as one node with a closed body.

The body is elaborated over placeholders.  What it uses from outside, and does not change from step to step, is an
invariant: computed once before the loop and handed in.  Constants stay inside.
"""

from __future__ import annotations

from typing import Any

from .. import ops, syntax
from ..ir import Graph, Node, rebuild
from . import shapes
from .scope import Scope
from .session import Build, ScanFrame, join
from .statements import run_block
from .values import POISON, Fault, Poisoned, describe, is_int, is_number, is_tensor, shape_text


def run_scan(build: Build, scope, tree: syntax.Scan) -> None:
    """Runs a scan statement: afterwards the carries hold their last values, the collected names the stacked ones."""
    sources, length, axis = _sources(build, scope, tree)
    carries = _carries(build, scope, tree)
    frame = ScanFrame(length)
    body = Scope(scope)
    body.frame, body.closed = scope.frame, True
    slices = []
    for source, value in zip(tree.sources, sources):
        holder = build.placeholder(value.dtype, value.shape[1:])
        slices.append(holder)
        body.set(source.name, holder)
        build.see(source, holder)
    holders = []
    for carry, value in zip(tree.carries, carries):
        holder = build.placeholder(value.dtype, value.shape)
        holders.append(holder)
        body.set(carry.name, holder)
        build.see(carry, holder)
    frame.placeholders |= {*slices, *holders}
    build.scans.append(frame)
    try:
        run_block(build, body, tree.body)
    finally:
        build.scans.pop()
    news = [_new_carry(build, body, carry, holder) for carry, holder in zip(tree.carries, holders)]
    collected = [_collected(build, body, tree, collect) for collect in tree.collects]
    if frame.step is not None:
        slices.append(frame.step)
        sources.append(ops.iota((length,), 0))
    node = close_scan(build, carries, sources, holders, slices, news, collected, length, tree.reversed)
    build.through.update(zip([*holders, *slices], [*carries, *sources]))
    build.through.update((ops.item(node, i), root) for i, root in enumerate([*news, *collected]))
    _bind_results(build, scope, tree, node, len(carries), axis)


def _sources(build: Build, scope, tree) -> tuple[list[Node], object, int]:
    """The scanned tensors with the scan's axis first, their common length, and the axis as written."""
    from .expressions import evaluate
    if not tree.sources:
        raise Fault("scan", "a scan needs something to run along", span=tree.span,
                    hint="for a number of steps, `scan i in iota(n) along 0 ...`")
    axis = evaluate(build, scope, tree.axis)
    values, length = [], None
    for source in tree.sources:
        value = evaluate(build, scope, source.value)
        if isinstance(value, (range, tuple)) and value:
            value = build.arithmetic.table(tuple(value), None)
        if not is_tensor(value) or value.type.rank == 0:
            raise Fault("scan", "a scan runs along an axis of a tensor", span=source.value.span, found=describe(value))
        try:
            position = shapes.axis_of(axis, value.type.rank, "the scan's axis")
        except Fault as fault:
            if is_int(axis):
                fault.found = f"{describe(value)}, along which `{source.name}` walks"
            build.place(fault, tree.axis.span)
            raise
        value = shapes.move_axis(value, position, 0)
        if length is not None and not shapes.same(length, value.shape[0]):
            raise Fault("shape", "the scanned tensors differ in length", span=source.value.span,
                        expected=str(length), found=str(value.shape[0]))
        length = value.shape[0]
        values.append(value)
    return values, length, axis


def _carries(build: Build, scope, tree) -> list[Node]:
    from .expressions import evaluate
    values = []
    for carry in tree.carries:
        value = evaluate(build, scope, carry.initial)
        if is_number(value):
            value = build.arithmetic.tensor(value)
        if isinstance(value, tuple):
            value = build.arithmetic.table(value, None)
        if not is_tensor(value):
            raise Fault("scan", f"the carried `{carry.name}` must be a tensor", span=carry.initial.span,
                        found=describe(value))
        values.append(value)
    return values


def _new_carry(build: Build, body: Scope, carry, holder: Node) -> Node:
    """The carry's value after a step, which must have the type it started with."""
    value: Any = body.names[carry.name]
    if value is POISON:
        raise Poisoned
    if is_number(value):
        value = build.arithmetic.tensor(value, holder.dtype)
    if is_tensor(value) and value.shape == () and holder.shape:
        value = shapes.expand(value, holder.shape)
    if not is_tensor(value) or value.type != holder.type:
        raise Fault("scan", f"the carried `{carry.name}` must keep its type from step to step", span=carry.span,
                    expected=f"{holder.type}, as it starts", found=describe(value),
                    hint=_carry_hint(holder, value))
    return value


def _carry_hint(holder: Node, value) -> str | None:
    if not is_tensor(value):
        return None
    if value.dtype is not holder.dtype:
        return f"start it as {value.dtype}, or convert it: `cast(..., {holder.dtype})`"
    return f"start it with the shape {shape_text(value.shape)}, e.g. `zeros({', '.join(map(str, value.shape))})`"


def _collected(build: Build, body: Scope, tree, collect) -> Node:
    value: Any = body.names.get(collect.value)
    if value is POISON:
        raise Poisoned
    if value is None:
        raise Fault("scan", f"the body of the scan does not bind `{collect.value}`", span=collect.value_span,
                    expected=", ".join(sorted(body.names)))
    if not is_tensor(value):
        value = build.arithmetic.tensor(value)
    return value


def close_scan(build: Build, carries, xs, holders, slices, news, collected, length, backwards: bool) -> Node:
    """The scan node: the body's placeholders become locals, what comes from outside becomes invariants."""
    roots = news + collected
    mine = {*holders, *slices}
    depends: set[Node] = set()
    free = set(build.constants)                # of constants only: may stay inside
    order = build.unsettled(roots)
    for node in order:
        if node in build.settled:
            continue
        if node in mine or any(arg in depends for arg in node.args):
            depends.add(node)
        elif node.op.name in ("constant", "size", "iota") or node.args and all(a in free for a in node.args) \
                and node.op.name not in ("random_bits", "scan"):
            free.add(node)
    used = dict.fromkeys(arg for node in order if node in depends for arg in node.args
                         if arg not in depends and arg not in free)
    used.update(dict.fromkeys(root for root in roots if root not in depends and root not in free))
    invariants = list(used)
    leaves = {h: ops.local(i, h.dtype, h.shape) for i, h in enumerate([*holders, *slices])}
    count = len(leaves)
    for i, node in enumerate(invariants):
        leaves[node] = ops.local(count + i, node.dtype, node.shape)
    new: dict[Node, Node] = {}
    for node in order:
        if node in leaves:
            new[node] = leaves[node]
        elif node in depends:
            new[node] = rebuild(node, tuple(new[arg] for arg in node.args))
        elif node in free:
            new[node] = node
    if not build.scans:                        # an inner scan's nodes may still depend on the outer one's steps
        build.settled.update(node for node in order if node not in depends)
        build.constants.update(node for node in order if node in free)
    outputs = {str(i): new[root] for i, root in enumerate(roots)}
    body = Graph(tuple(leaves.values()), outputs)
    return ops.scan(tuple(carries), tuple(xs), tuple(invariants), body, length, backwards)


def _bind_results(build: Build, scope, tree, node: Node, carries: int, axis: int) -> None:
    frame = scope.frame
    results = []
    for i, carry in enumerate(tree.carries):
        results.append((carry, ops.item(node, i)))
    for i, collect in enumerate(tree.collects):
        value = ops.item(node, carries + i)
        position = axis if axis >= 0 else max(value.type.rank + axis, 0)
        results.append((collect, shapes.move_axis(value, 0, min(position, value.type.rank - 1))))
    for part, value in results:
        scope.set(part.name, value)
        build.see(part, value)
        if frame is not None and not scope.closed:
            build.record(join(frame.prefix, part.name), value, tree.span)
