"""Ranks: which row each node stands in, such that all edges go down and together are as short as can be.

The network simplex method (Gansner et al. 1993): a spanning tree of tight edges is improved by exchanging an edge whose
cut value is negative until there is none.
"""

from __future__ import annotations

from collections.abc import Sequence

Edge = tuple[int, int, int, int]          # from, to, least length, weight


def assign(count: int, edges: Sequence[Edge]) -> list[int]:
    """The rank of each of ``count`` nodes, the least being 0.  The edges must have no circle."""
    ranks = _longest_path(count, edges)
    for component in _components(count, edges):
        own = [edge for edge in edges if edge[0] in component]
        if own:
            _improve(sorted(component), own, ranks)
        least = min(ranks[node] for node in component)
        for node in component:
            ranks[node] -= least
    return ranks


def _longest_path(count: int, edges: Sequence[Edge]) -> list[int]:
    ranks, waiting = [0] * count, [0] * count
    out: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    for source, target, length, _ in edges:
        waiting[target] += 1
        out[source].append((target, length))
    ready = [node for node in range(count) if not waiting[node]]
    for node in ready:                                        # grows as it goes
        for target, length in out[node]:
            ranks[target] = max(ranks[target], ranks[node] + length)
            waiting[target] -= 1
            if not waiting[target]:
                ready.append(target)
    if len(ready) != count:
        raise ValueError("the links of a figure must not go in a circle")
    return ranks


def _components(count: int, edges: Sequence[Edge]) -> list[set[int]]:
    near: list[list[int]] = [[] for _ in range(count)]
    for source, target, *_ in edges:
        near[source].append(target)
        near[target].append(source)
    found, seen = [], set()
    for start in range(count):
        if start in seen:
            continue
        component, stack = {start}, [start]
        while stack:
            for node in near[stack.pop()]:
                if node not in component:
                    component.add(node)
                    stack.append(node)
        seen |= component
        found.append(component)
    return found


def _improve(nodes: list[int], edges: list[Edge], ranks: list[int]) -> None:
    """Exchange edges of a tight tree until every cut value is at least 0."""
    tree = _tight_tree(nodes, edges, ranks)
    for _ in range(50 * len(nodes)):                          # it ends long before; a bound against endless exchanges
        leaving, side = _negative_cut(nodes, edges, tree)
        if leaving is None:
            return
        entering = min((number for number, edge in enumerate(edges) if edge[0] in side and edge[1] not in side),
                       key=lambda number: _slack(edges[number], ranks))
        shift = _slack(edges[entering], ranks)
        for node in side:                                     # the edge that leaves becomes longer, which pays
            ranks[node] += shift
        tree.remove(leaving)
        tree.add(entering)


def _slack(edge: Edge, ranks: list[int]) -> int:
    return ranks[edge[1]] - ranks[edge[0]] - edge[2]


def _tight_tree(nodes: list[int], edges: list[Edge], ranks: list[int]) -> set[int]:
    """A spanning tree of edges without slack: grown from a node, moved by the least slack where it cannot grow."""
    reached, tree = {nodes[0]}, set()
    while len(reached) < len(nodes):
        grown = True
        while grown:
            grown = False
            for number, edge in enumerate(edges):
                if (edge[0] in reached) != (edge[1] in reached) and not _slack(edge, ranks):
                    reached |= {edge[0], edge[1]}
                    tree.add(number)
                    grown = True
        border = [edge for edge in edges if (edge[0] in reached) != (edge[1] in reached)]
        if not border:
            break
        nearest = min(border, key=lambda edge: _slack(edge, ranks))
        shift = _slack(nearest, ranks) * (1 if nearest[0] in reached else -1)
        for node in reached:
            ranks[node] += shift
    return tree


def _negative_cut(nodes: list[int], edges: list[Edge], tree: set[int]) -> tuple[int | None, set[int]]:
    """A tree edge with a negative cut value, and the side of the tree that its head is on."""
    near: dict[int, list[tuple[int, int]]] = {node: [] for node in nodes}
    for number in tree:
        source, target, *_ = edges[number]
        near[source].append((target, number))
        near[target].append((source, number))
    order: list[int] = [nodes[0]]
    parent: dict[int, tuple[int, int]] = {}            # but for the root
    for node in order:
        for other, number in near[node]:
            if other != nodes[0] and other not in parent:
                parent[other] = (node, number)
                order.append(other)
    # Flow out of each subtree, over all edges; edges inside of it cancel.
    flow = dict.fromkeys(nodes, 0)
    for source, target, _, weight in edges:
        flow[source] += weight
        flow[target] -= weight
    for node in reversed(order[1:]):
        above, number = parent[node]
        downward = edges[number][1] == node                   # the head is on the subtree's side
        if (-flow[node] if downward else flow[node]) < 0:
            below, stack = {node}, [node]
            while stack:
                here = stack.pop()
                for other, _ in near[here]:
                    if other not in below and not (here == node and other == above):
                        below.add(other)
                        stack.append(other)
            return number, below if downward else set(nodes) - below
        flow[above] += flow[node]
    return None, set()
