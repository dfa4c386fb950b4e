"""The gradient of ``scan``: a scan that keeps what the way back needs, and a scan in the opposite direction.

What a weight inside of the loop receives is, in most loops, a contraction in every step (x.T @ dz).  Rather than adding
these up in a carry, the factors of all steps are collected and contracted once after the loop, with time as one more
index summed over: one large product in place of many small ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..ir import Graph, Node, is_tensor, rebuild, substitute, topological
from .contract import contract, plain
from .elementwise import add
from .leaf import local
from .movement import broadcast, filled
from .reduce import reduce
from .scan import item, scan

# Values of the forward body that are kept for the way back rather than computed again.
KEPT = {"contract", "item", "reduce", "window_argmax", "window_take", "random_bits",
        "exp", "expm1", "log", "log1p", "tanh", "sigmoid", "erf", "sin", "cos", "pow"}
# Linear in their first operand, so that the sum over time may be taken before them.
LINEAR = {"reshape", "transpose", "reverse", "slice", "neg"}


def gradient(current: Node, cotangents: Sequence[Node | None]) -> list[Node | None]:
    """The cotangents of a scan's arguments, given those of its results (None where there is none)."""
    return _Backward(current, cotangents).shares()


class _Backward:
    """The reverse scan of one scan, while it is put together."""

    def __init__(self, current: Node, cotangents: Sequence[Node | None]):
        self.scan = current
        self.body: Graph = current.attrs["body"]
        self.length = current.attrs["length"]
        carries, xs = current.attrs["carries"], current.attrs["xs"]
        self.carries = self.body.inputs[:carries]
        self.xs = self.body.inputs[carries:carries + xs]
        self.fixed = self.body.inputs[carries + xs:]
        self.given = dict(zip(self.body.inputs, current.args))
        self.count = len(self.body.inputs)
        self.series: dict[Node, Node] = {}           # leaf of the reverse body -> its values over time
        self.collected: dict[Node, int] = {}         # value of the reverse body -> its number among the ys
        self.sums: dict[Node, Node] = {}             # value of the reverse body -> the leaf that its sum is carried in
        self.finals = {leaf: cotangent if cotangent is not None else filled(leaf.type, 0)
                       for leaf, cotangent in zip(self.carries, cotangents) if _is_float(leaf)}
        self.seeds = {leaf: self.leaf(leaf.type) for leaf in self.finals}
        self._differentiate(cotangents)
        self._keep()

    def leaf(self, type_) -> Node:
        """A fresh argument of the reverse body."""
        self.count += 1
        return local(self.count - 1, type_.dtype, type_.shape)

    def _differentiate(self, cotangents) -> None:
        """One step back: ``self.share`` maps each leaf of the body to its cotangent within the step."""
        from ..gradient import gradient as differentiate
        results = self.body.results
        pairs = [(result, self.seeds[leaf]) for leaf, result in zip(self.carries, results) if leaf in self.seeds]
        for result, cotangent in zip(results[len(self.carries):], cotangents[len(self.carries):]):
            if cotangent is not None:
                slice_of = self.leaf(result.type)
                self.series[slice_of] = cotangent
                pairs.append((result, slice_of))
        wanted = [leaf for leaf in self.body.inputs if _is_float(leaf)]
        self.share = dict(zip(wanted, differentiate(pairs, wanted)))

    def _keep(self) -> None:
        """Collect in a forward scan what the step back uses of the step: carries on entry, and what was costly."""
        forward = set(topological(self.body.results))
        varying = _dependent(forward, self.carries + self.xs)
        kept = _frontier(self.share.values(), lambda n: n in varying and n in forward and n.op.name in KEPT
                         and is_tensor(n))
        leaves = {value: self.leaf(value.type) for value in kept}
        self.share = dict(zip(self.share, substitute(self.share.values(), leaves)))
        used = set(topological(self.share.values()))
        entering = [leaf for leaf in self.carries if leaf in used]
        extra = entering + kept
        if extra:
            extended = Graph(self.body.inputs, dict(enumerate([*self.body.results, *extra])))
            split = len(self.carries), len(self.carries) + len(self.xs)
            args = self.scan.args
            longer = scan(args[:split[0]], args[split[0]:split[1]], args[split[1]:], extended, self.length,
                          self.scan.attrs["reverse"])
            first = len(self.body.results)
            for position, value in enumerate(extra):
                self.series[leaves.get(value, value)] = item(longer, first + position)
        self.series.update((leaf, self.given[leaf]) for leaf in self.xs if leaf in used)

    # --- the reverse scan

    def shares(self) -> list[Node | None]:
        """Build the reverse scan and read the cotangents off it."""
        varying = set(self.seeds.values()) | set(self.series)
        self.varying = _dependent(topological(self.share.values()), varying)
        for leaf in self.xs:
            if self._matters(leaf):
                self._collect(self.share[leaf])
        wanted = [leaf for leaf in self.fixed if self._matters(leaf)]
        for products in (True, False):
            for leaf in wanted:
                self._plan(self.share[leaf], products)
        carried = [self.share[leaf] for leaf in self.seeds]
        sums = [add(leaf, value) for value, leaf in self.sums.items()]
        invariants = [leaf for leaf in self.fixed
                      if leaf in set(topological([*carried, *sums, *self.collected]))]
        outputs = [*carried, *sums, *self.collected]
        inputs = [*self.seeds.values(), *self.sums.values(), *self.series, *invariants]
        starts = [*self.finals.values(), *(filled(leaf.type, 0) for leaf in self.sums.values())]
        self.back = scan(starts, list(self.series.values()), [self.given[leaf] for leaf in invariants],
                         Graph(tuple(inputs), dict(enumerate(outputs))), self.length, not self.scan.attrs["reverse"])
        shares: dict[Node, Node] = {leaf: item(self.back, k) for k, leaf in enumerate(self.seeds)}
        for leaf in self.xs:
            if self._matters(leaf):
                shares[leaf] = self._over_time(self.share[leaf])
        for leaf in wanted:
            shares[leaf] = self._total(self.share[leaf])
        return [shares.get(leaf) for leaf in self.body.inputs]

    def _matters(self, leaf: Node) -> bool:
        return leaf in self.share and not is_zero(self.share[leaf])

    def _collect(self, value: Node) -> None:
        """See to it that a value of every step is at hand after the loop."""
        if value in self.varying and value not in self.series:
            self.collected.setdefault(value, len(self.collected))

    def _over_time(self, value: Node) -> Node:
        """A collected value, stacked along time."""
        if value in self.series:
            return self.series[value]
        if value in self.collected:
            return item(self.back, len(self.seeds) + len(self.sums) + self.collected[value])
        steady = self._steady(value)
        return _repeated(steady, self.length)

    def _steady(self, value: Node) -> Node:
        """A value that is the same in every step, outside of the loop."""
        return substitute([value], self.given)[0]

    def _plan(self, value: Node, products: bool) -> None:
        """Decide how the sum of a value over all steps is made; ``_total`` then makes it.

        Products go first: what is collected for them may serve other sums as well.
        """
        if value not in self.varying:
            return
        if value.op.name in LINEAR or value.op.name == "add":
            for arg in value.args:
                self._plan(arg, products)
        elif value.op.name == "contract":
            for arg in value.args:
                self._collect(arg)
        elif not products and not self._is_sum_of_kept(value) and value not in self.sums:
            self.sums[value] = self.leaf(value.type)

    def _is_sum_of_kept(self, value: Node) -> bool:
        """A sum over axes of something that is collected anyway: time is one more axis."""
        return value.op.name == "reduce" and value.attrs["kind"] == "sum" and (
            value.args[0] in self.series or value.args[0] in self.collected)

    def _total(self, value: Node) -> Node:
        """The sum of a value of the reverse body over all steps, outside of the loop."""
        name = value.op.name
        if value in self.sums:
            return item(self.back, len(self.seeds) + list(self.sums).index(value))
        if value not in self.varying:
            return reduce(_repeated(self._steady(value), self.length), "sum", (0,))
        if name in LINEAR or name == "add":
            return rebuild(value, tuple(self._total(arg) for arg in value.args))
        if name == "reduce":
            return reduce(self._over_time(value.args[0]), "sum", (0, *(axis + 1 for axis in value.attrs["axes"])))
        operands, maps = [], []
        time = plain(value.type.rank + len(value.attrs["reduce"]))
        for arg, operand_map in zip(value.args, value.attrs["maps"]):
            steady = arg not in self.varying
            operands.append(self._steady(arg) if steady else self._over_time(arg))
            maps.append(operand_map if steady else (time, *operand_map))
        return contract(operands, value.shape, (*value.attrs["reduce"], self.length), maps)


def is_zero(value: Node) -> bool:
    """Whether a value is written as a tensor of zeros."""
    while value.op.name == "broadcast":
        value = value.args[0]
    return value.op.name == "constant" and value.attrs["value"] == 0


def _is_float(leaf: Node) -> bool:
    return leaf.dtype.kind == "float"


def _repeated(value: Node, length) -> Node:
    """The value at every step of time."""
    return broadcast(value, (length, *value.shape), tuple(range(1, value.type.rank + 1)))


def _dependent(nodes: Iterable[Node], sources: Iterable[Node]) -> set[Node]:
    """Those of the nodes that depend on any of the sources, and the sources."""
    found = set(sources)
    for current in topological(nodes):
        if any(arg in found for arg in current.args):
            found.add(current)
    return found


def _frontier(roots: Iterable[Node], accept) -> list[Node]:
    """The accepted nodes that are reached from the roots without passing through another accepted one."""
    found: dict[Node, None] = {}
    seen: set[Node] = set()
    stack = list(roots)[::-1]
    while stack:
        current = stack.pop()
        if current in seen:
            continue
        seen.add(current)
        if accept(current):
            found[current] = None
        else:
            stack.extend(reversed(current.args))
    return list(found)
