"""Simplification: the rules of ``rules`` applied from the leaves up, in bodies too, until none fits.

A rule is local and keeps a node's type; the passes over loops know which results are used.  Rules only ever shrink a
graph or move cheap things outwards, so that repeating them ends.
"""

from __future__ import annotations

from collections.abc import Iterable

from .ir import Graph, Node, node, rebuild, rewrite
from .rules import RULES
from .rules.scans import improve_scans

MOST_PASSES = 100       # far more than any graph needs: a guard against rules that undo each other


class SimplifyError(Exception):
    """A rule gave a value of another type, or the rules do not end; the message names the rules."""


def simplify(roots: Iterable[Node]) -> list[Node]:
    """Equal, simpler values for ``roots``, in order."""
    roots = list(roots)
    settled: set[Node] = set()      # no rule fits these nodes
    bodies: dict[Graph, Graph] = {}
    for _ in range(MOST_PASSES):
        before = roots
        roots = rewrite(roots, lambda current, args: _settle(rebuild(current, args), settled, bodies))
        roots = improve_scans(roots)
        if roots == before:
            return roots
    raise SimplifyError(f"the rules do not settle after {MOST_PASSES} passes")


def simplify_graph(graph: Graph) -> Graph:
    """A graph with the same inputs and names whose results are simplified."""
    return Graph(graph.inputs, dict(zip(graph.outputs, simplify(graph.results))))


def erase_gradient_marks(graph: Graph) -> Graph:
    """The graph without ``custom`` and ``stop_gradient``, which only matter until gradients have been taken."""
    bodies: dict[Graph, Graph] = {}

    def erase(current: Node, args: tuple[Node, ...]) -> Node:
        if current.op.name in ("custom", "stop_gradient"):
            return args[0]
        return _with_bodies(rebuild(current, args), bodies, erase_gradient_marks)

    return Graph(graph.inputs, dict(zip(graph.outputs, rewrite(graph.results, erase))))


def _settle(current: Node, settled: set[Node], bodies: dict[Graph, Graph]) -> Node:
    """Apply the rules for the node, and for what comes of it, until none fits; inner new nodes wait for a pass."""
    tried: list[str] = []
    while current not in settled:
        simpler = _with_bodies(current, bodies, simplify_graph)
        if simpler is current:
            for rule in RULES.get(current.op.name, ()):
                found = rule.apply(current)
                if found is not None:
                    simpler = found
                    tried.append(rule.name)
                    break
            else:
                settled.add(current)
                return current
        if simpler.type != current.type:
            raise SimplifyError(f"{tried[-1]} turned {current} into {simpler}")
        if len(tried) > MOST_PASSES:
            raise SimplifyError(f"these rules undo each other: {', '.join(sorted(set(tried)))}")
        current = simpler
    return current


def _with_bodies(current: Node, bodies: dict[Graph, Graph], change) -> Node:
    """The node with its bodies changed, each different one once; a custom rule is a body too."""
    attrs = {}
    for name, body in current.attrs.items():
        if isinstance(body, Graph):
            if body not in bodies:
                bodies[body] = change(body)
                bodies[bodies[body]] = bodies[body]
            attrs[name] = bodies[body]
    return node(current.op, current.args, **{**current.attrs, **attrs}) if attrs else current
