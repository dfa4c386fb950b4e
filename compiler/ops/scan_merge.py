"""One loop where several do the same: a scan, and the one that its gradient made of it to collect more."""

from __future__ import annotations

from typing import Iterable

from ..ir import Graph, Node, rebuild, rewrite, topological
from .scan import item, scan


def merge_scans(roots: Iterable[Node]) -> list[Node]:
    """Let scans over the same arguments that carry the same values be one, which collects what any of them does.

    To be run when all gradients of a graph have been taken, on all of its results together.
    """
    roots = list(roots)
    groups: dict[tuple, list[Node]] = {}
    for current in topological(roots):
        if current.op.name == "scan":
            groups.setdefault(_work(current), []).append(current)
    group_of = {member: group for group in groups.values() if len(group) > 1 for member in group}
    if not group_of:
        return roots

    def replace(current: Node, args: tuple[Node, ...]) -> Node:
        source = current.args[0] if current.op.name == "item" else None
        if source not in group_of:
            return rebuild(current, args)
        group = group_of[source]
        results = _results(group)
        position = list(results).index(_key(source, current.attrs["index"]))
        return item(_merged(args[0], source, list(results.values())), position)

    return rewrite(roots, replace)


def _work(current: Node) -> tuple:
    """What scans must have in common to be one."""
    body, carries = current.attrs["body"], current.attrs["carries"]
    return (current.args, carries, current.attrs["xs"], current.attrs["length"], current.attrs["reverse"],
            body.inputs, body.results[:carries])


def _key(current: Node, index: int) -> tuple:
    """A result of a scan within its group: a carry by its position, a y by what it is in the body."""
    carried = index < current.attrs["carries"]
    return ("carry", index) if carried else ("y", current.attrs["body"].results[index])


def _results(group: list[Node]) -> dict[tuple, Node]:
    """All results of a group's scans: the carries, then every different y."""
    return {_key(member, index): result for member in group
            for index, result in enumerate(member.attrs["body"].results)}


def _merged(rebuilt: Node, source: Node, results: list[Node]) -> Node:
    """The scan that has all these results, on the arguments of ``rebuilt``."""
    carries, xs = source.attrs["carries"], source.attrs["xs"]
    args = rebuilt.args
    body = Graph(source.attrs["body"].inputs, {str(k): result for k, result in enumerate(results)})
    return scan(args[:carries], args[carries:carries + xs], args[carries + xs:], body, source.attrs["length"],
                source.attrs["reverse"])
