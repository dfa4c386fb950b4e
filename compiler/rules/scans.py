"""Rules for loops: what a body need not do each step moves out of it, and what nothing needs goes.

Unlike the other rules these look at which of a scan's results are used, so that they are one pass over a graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from typing import Any

from .. import ops
from ..ir import Graph, Node, is_tensor, node, rebuild, rewrite, substitute, topological
from ..ops.contract import Index
from ..types import product
from .table import spread

LEAVES = frozenset(("input", "param", "state", "local"))
FREE = frozenset(("constant", "size", "iota", "broadcast"))      # as cheap to write in a body as to read there
MOVEMENT = FREE | {"reshape", "transpose", "slice", "reverse", "pad", "stop_gradient", "custom"}
WORTH_STACKING = 8      # terms of a product's sum from which one product over all steps pays for its memory


def improve_scans(roots: Iterable[Node]) -> list[Node]:
    """Improve every scan below ``roots``, knowing which of its results are used."""
    roots = _merge(roots)
    used: dict[Node, set[int]] = {}
    for current in topological(roots):
        if current.op.name == "item":
            used.setdefault(current.args[0], set()).add(current.attrs["index"])
    if not used:
        return roots
    uses = Counter(arg for current in topological(roots) for arg in current.args)
    results: dict[Node, Mapping[int, Node]] = {}

    def replace(current: Node, args: tuple[Node, ...]) -> Node:
        if current.op.name == "item":
            return results[current.args[0]][current.attrs["index"]]
        new = rebuild(current, args)
        if current in used:
            loop = Loop(new)
            loop.own_xs = {leaf for leaf, arg in zip(new.attrs["body"].inputs, current.args) if _is_own(arg, uses)}
            for step in STEPS:
                step(loop)
            results[current] = loop.finish(used[current])
        return new

    return rewrite(roots, replace)


def _merge(roots: Iterable[Node]) -> list[Node]:
    """Loops over the same values with the same carries become one, which collects what each of them does.

    A gradient leaves such a pair: the loop of the model, and one that also keeps what the way back needs.
    """
    roots = list(roots)
    groups: dict[tuple, list[Node]] = {}
    for current in topological(roots):
        if current.op.name == "scan":
            body, carries = current.attrs["body"], current.attrs["carries"]
            same = (current.args, body.inputs, body.results[:carries], carries, current.attrs["xs"],
                    current.attrs["length"], current.attrs["reverse"])
            groups.setdefault(same, []).append(current)
    merged: dict[Node, tuple[Node, list[int]]] = {}
    for (_, _, _, carries, *_), several in groups.items():
        if len(several) < 2:
            continue
        results = list(dict.fromkeys(value for scan in several for value in scan.attrs["body"].results[carries:]))
        first = several[0]
        body = first.attrs["body"]
        values = [*body.results[:carries], *results]
        body = Graph(body.inputs, {str(number): value for number, value in enumerate(values)})
        whole = node(first.op, first.args, **{**first.attrs, "body": body})
        for scan in several:
            own = scan.attrs["body"].results[carries:]
            merged[scan] = whole, [*range(carries), *(carries + results.index(value) for value in own)]
    if not merged:
        return roots

    def replace(current: Node, args: tuple[Node, ...]) -> Node:
        if current.op.name == "item" and current.args[0] in merged:
            return ops.item(args[0], merged[current.args[0]][1][current.attrs["index"]])
        if current in merged:
            whole = merged[current][0]
            return node(whole.op, args, **whole.attrs)
        return rebuild(current, args)

    return rewrite(roots, replace)


class Loop:
    """A scan taken apart.

    Results have keys: their index in the original scan, larger numbers for ys that a rule adds.

    carries      key -> (the body's leaf, the first value, the next value)
    ys           key -> the body's value
    xs           (the body's leaf, the stacked values)
    invariants   (the body's leaf, the value)
    own_xs       leaves of those xs that nothing else reads
    values       key -> what a result is outside of the scan
    afterwards   key -> a function from the final scan's results to what a result is
    """

    def __init__(self, scan: Node):
        body, count, xs = scan.attrs["body"], scan.attrs["carries"], scan.attrs["xs"]
        pairs, results = list(zip(body.inputs, scan.args)), list(body.results)
        self.carries = {key: (*pairs[key], results[key]) for key in range(count)}
        self.ys = dict(enumerate(results[count:], count))
        self.xs = pairs[count:count + xs]
        self.invariants = pairs[count + xs:]
        self.own_xs: set[Node] = set()
        self.length, self.reverse = scan.attrs["length"], scan.attrs["reverse"]
        self.values: dict[int, Node] = {}
        self.afterwards: dict[int, tuple[tuple[int, ...], Callable]] = {}
        self._leaves = len(pairs)
        self._keys = len(results)

    @property
    def roots(self) -> list[Node]:
        """The body's results: next carries, then ys."""
        return [*(following for _, _, following in self.carries.values()), *self.ys.values()]

    def leaf(self, type_) -> Node:
        """A new leaf of the body."""
        self._leaves += 1
        return ops.local(self._leaves - 1, type_.dtype, type_.shape)

    def stacked(self, value: Node) -> int:
        """The key of a y that collects a value of the body."""
        for key, known in self.ys.items():
            if known is value:
                return key
        self._keys += 1
        self.ys[self._keys - 1] = value
        return self._keys - 1

    def replace(self, values: Mapping[Node, Node]) -> None:
        """Put other values for nodes of the body."""
        if not values:
            return
        results = iter(substitute(self.roots, values))
        self.carries = {key: (leaf, first, next(results)) for key, (leaf, first, _) in self.carries.items()}
        self.ys = {key: next(results) for key in self.ys}

    def is_fixed(self, value: Node) -> bool:
        """True if a value of the body is the same in every step."""
        fixed = {leaf for leaf, _ in self.invariants}
        return all(part in fixed or part.op.name not in LEAVES for part in topological([value]))

    def outside(self, value: Node) -> Node:
        """A value that depends on invariants only, outside of the loop."""
        return substitute([value], dict(self.invariants))[0]

    def finish(self, used: Iterable[int]) -> dict[int, Node]:
        """The improved scan's value for each result that is used."""
        wanted = {key for key in used if key not in self.values and key not in self.afterwards}
        for key in used:
            wanted.update(self.afterwards.get(key, ((), None))[0])
        self._prune(wanted)
        items: dict[int, Node] = {}
        if self.carries or self.ys:
            scan = self._build()
            items = {key: ops.item(scan, position) for position, key in enumerate([*self.carries, *self.ys])}
        found = {}
        for key in used:
            if key in self.afterwards:
                _, finish = self.afterwards[key]
                found[key] = finish(items)
            else:
                found[key] = self.values.get(key) or items[key]
        return found

    def _prune(self, wanted: set[int]) -> None:
        """Keep what the wanted results need: a carry needs what its next value needs, and so on."""
        needed = set(wanted)
        while True:
            results = [self.carries[key][2] if key in self.carries else self.ys[key] for key in sorted(needed)]
            reached = set(topological(results))
            more = {key for key, (leaf, _, _) in self.carries.items() if leaf in reached} - needed
            if not more:
                break
            needed |= more
        self.carries = {key: carry for key, carry in self.carries.items() if key in needed}
        self.ys = {key: value for key, value in self.ys.items() if key in needed}
        self.xs = [pair for pair in self.xs if pair[0] in reached]
        self.invariants = [pair for pair in self.invariants if pair[0] in reached]

    def _build(self) -> Node:
        """The scan, its leaves numbered anew."""
        leaves = [leaf for leaf, *_ in (*self.carries.values(), *self.xs, *self.invariants)]
        fresh = [ops.local(number, leaf.dtype, leaf.shape) for number, leaf in enumerate(leaves)]
        results = substitute(self.roots, dict(zip(leaves, fresh)))
        body = Graph(tuple(fresh), {str(number): value for number, value in enumerate(results)})
        firsts = [first for _, first, _ in self.carries.values()]
        return ops.scan(firsts, [x for _, x in self.xs], [value for _, value in self.invariants], body,
                        self.length, self.reverse)


def unchanging_carries(loop: Loop) -> None:
    """A carry that no step changes is an invariant."""
    for key, (leaf, first, following) in list(loop.carries.items()):
        if following is leaf:
            del loop.carries[key]
            loop.invariants.append((leaf, first))
            loop.values[key] = first


def unchanging_xs(loop: Loop) -> None:
    """Values that are the same in every step are an invariant."""
    for leaf, stack in list(loop.xs):
        if stack.op.name == "broadcast" and 0 not in stack.attrs["axes"]:
            loop.xs.remove((leaf, stack))
            axes = [axis - 1 for axis in stack.attrs["axes"]]
            loop.invariants.append((leaf, spread(stack.args[0], stack.shape[1:], axes)))


def move_in(loop: Loop) -> None:
    """Constants are written in the body, broadcasts are made there, and equal arguments become one."""
    values: dict[Node, Node] = {}
    first: dict[tuple, Node] = {}
    for kind, pairs in (("x", loop.xs), ("invariant", loop.invariants)):
        for leaf, value in list(pairs):
            same = first.setdefault((kind, value), leaf)
            if same is not leaf:
                values[leaf] = same
                pairs.remove((leaf, value))
    for leaf, value in list(loop.invariants):
        if all(part.op.name in FREE for part in topological([value])):
            values[leaf] = value
            loop.invariants.remove((leaf, value))
        elif value.op.name == "broadcast":
            small = loop.leaf(value.args[0].type)
            values[leaf] = ops.broadcast(small, value.shape, value.attrs["axes"])
            loop.invariants.remove((leaf, value))
            loop.invariants.append((small, value.args[0]))
    # A leaf may stand for one that is itself replaced.
    loop.replace({leaf: values.get(value, value) for leaf, value in values.items()})


def move_out(loop: Loop) -> None:
    """What depends on invariants only is computed before the loop."""
    order = topological(loop.roots)
    fixed = {leaf for leaf, _ in loop.invariants}
    for current in order:
        if current.op.name not in LEAVES and all(arg in fixed for arg in current.args):
            fixed.add(current)
    # Going down from the results: a fixed value is read in the loop if a step's own value reads it, or through
    # movement, which costs nothing there.
    read = set(loop.roots)
    for current in reversed(order):
        if current not in fixed or current in read and current.op.name in MOVEMENT:
            read.update(current.args)
    values = {}
    for current in order:
        if current in read and current in fixed and is_tensor(current) and current.op.name not in MOVEMENT | LEAVES:
            leaf = loop.leaf(current.type)
            values[current] = leaf
            loop.invariants.append((leaf, loop.outside(current)))
    loop.replace(values)


def products_as_they_are(loop: Loop) -> None:
    """An x that is a product, its axes moved and a value added that is the same in every step: the product is computed
    with its axes in this order, and the body adds."""
    values = {}
    for position, (leaf, stack) in enumerate(loop.xs):
        moved, perm, added = _product_of(stack)
        if leaf not in loop.own_xs or moved is None or (moved is stack and added is None):
            continue
        new = loop.leaf(leaf.type)
        loop.xs[position] = new, permuted(moved, perm)
        values[leaf] = new
        if added is not None:
            axes = [perm.index(axis) - 1 for axis in added.attrs["axes"]]
            term = loop.leaf(added.args[0].type)
            loop.invariants.append((term, added.args[0]))
            values[leaf] = ops.add(new, spread(term, leaf.shape, axes))
    loop.replace(values)


def _product_of(stack: Node) -> tuple[Node | None, tuple[int, ...], Node | None]:
    """(A product, its axes in the order of the stack's, a broadcast that is added and does not run along time); the
    last two may be nothing."""
    perm = stack.attrs["perm"] if stack.op.name == "transpose" else tuple(range(len(stack.shape)))
    source = stack.args[0] if stack.op.name == "transpose" else stack
    if source.op.name == "contract":
        return source, perm, None
    if source.op.name == "add":
        for moved, added in (source.args, source.args[::-1]):
            fixed = added.op.name == "broadcast" and perm[0] not in added.attrs["axes"]
            if moved.op.name == "contract" and fixed:
                return moved, perm, added
    return None, perm, None


def _is_own(stack: Node, uses: Mapping[Node, int]) -> bool:
    """Whether nothing else reads a stack, nor the product that it is made of."""
    moved, _, _ = _product_of(stack)
    while moved is not None and stack is not moved:
        if uses[stack] > 1:
            return False
        stack = moved if moved in stack.args else stack.args[0]
    return uses[stack] == 1


def permuted(product_: Node, perm: Sequence[int]) -> Node:
    """A contraction whose axis i is axis perm[i] of the one given."""
    place = {axis: i for i, axis in enumerate(perm)}
    maps = [[ops.affine({place.get(which, which): c for which, c in index.terms}, index.offset, index.divisor)
             for index in operand] for operand in product_.attrs["maps"]]
    return ops.contract(product_.args, [product_.shape[axis] for axis in perm], product_.attrs["reduce"], maps)


def stack_products(loop: Loop) -> None:
    """A product of an x and invariants, for all steps at once before the loop."""
    stacks, fixed = dict(loop.xs), dict(loop.invariants)
    values = {}
    for current in topological(loop.roots):
        if current.op.name != "contract" or not any(arg in stacks for arg in current.args):
            continue
        if not all(arg in stacks or arg in fixed for arg in current.args) or not _long(current):
            continue
        operands = [stacks.get(arg) or fixed[arg] for arg in current.args]
        maps = [_with_time(places, 0, 0, arg in stacks) for arg, places in zip(current.args, current.attrs["maps"])]
        leaf = loop.leaf(current.type)
        whole = node(current.op, operands, shape=(loop.length, *current.shape), reduce=current.attrs["reduce"],
                     maps=tuple(maps))
        values[current] = leaf
        loop.xs.append((leaf, whole))
    loop.replace(values)


def _long(contract: Node) -> bool:
    terms = product(contract.attrs["reduce"])
    return not isinstance(terms, int) or terms >= WORTH_STACKING


def _with_time(places, start: int, time: int, stacked: bool) -> tuple[Index, ...]:
    """An operand's map once the index ``time`` exists; indices from ``start`` on move up by one."""
    moved = [Index(tuple((which + (which >= start), c) for which, c in index.terms), index.offset, index.divisor)
             for index in places]
    return (Index(((time, 1),), 0, 1), *moved) if stacked else tuple(moved)


def sum_products_afterwards(loop: Loop) -> None:
    """A carry that only gathers a sum of products a_t * b_t -> one product over all steps, after the loop.

    This is the gradient of a loop's weights: the factors are stacked, and one large product takes their sum.
    """
    for key, (leaf, first, following) in list(loop.carries.items()):
        products = _gathered(following, leaf)
        if not products or leaf in _reached(loop, products, key):
            continue
        del loop.carries[key]
        parts = [_Part(loop, product_) for product_ in products]

        def finish(items, first=first, parts=parts):
            return reduce(ops.add, (part.summed(items, loop.length) for part in parts), first)

        loop.afterwards[key] = tuple(needed for part in parts for needed in part.needs), finish


def stack_products_afterwards(loop: Loop) -> None:
    """A y that is a product a_t * b_t, which no step goes on with -> one product over all steps, after the loop."""
    for key, value in list(loop.ys.items()):
        if value.op.name != "contract" or not _long(value) or value in _reached(loop, (), key):
            continue
        del loop.ys[key]
        part = _Part(loop, value)
        loop.afterwards[key] = tuple(part.needs), lambda items, part=part: part.stacked(items, loop.length)


def _reached(loop: Loop, others: Iterable[Node], key: int) -> set[Node]:
    """What is needed by ``others`` and by all results but one."""
    results = (value for other, value in zip([*loop.carries, *loop.ys], loop.roots) if other != key)
    return set(topological([*others, *results]))


class _Part:
    """A product of a body whose factors are stacked, so that it can be taken after the loop."""

    def __init__(self, loop: Loop, current: Node):
        self.current = current
        self.factors: list[tuple[int | None, Any]] = [_factor(loop, arg) for arg in current.args]

    @property
    def needs(self) -> list[int]:
        """The keys of the results that stack factors."""
        return [key for key, _ in self.factors if key is not None]

    def summed(self, items: Mapping[int, Node], length) -> Node:
        """The sum over all steps."""
        rank = len(self.current.shape)
        return self._contract(items, rank, self.current.shape, (length, *self.current.attrs["reduce"]))

    def stacked(self, items: Mapping[int, Node], length) -> Node:
        """The product of every step."""
        return self._contract(items, 0, (length, *self.current.shape), self.current.attrs["reduce"])

    def _contract(self, items, time: int, shape, terms) -> Node:
        operands = [items[key] if key is not None else value for key, value in self.factors]
        maps = [_with_time(places, time, time, len(operand.shape) > len(arg.shape))
                for arg, places, operand in zip(self.current.args, self.current.attrs["maps"], operands)]
        return node(self.current.op, operands, shape=tuple(shape), reduce=tuple(terms), maps=tuple(maps))


def _gathered(total: Node, leaf: Node) -> list[Node]:
    """The products p, q, ... of ``leaf + p + q + ...``; none if the sum has other terms."""
    products: list[Node] = []
    stack, found = [total], 0
    while stack:
        current = stack.pop()
        if current.op.name == "add":
            stack += current.args
        elif current is leaf:
            found += 1
        elif current.op.name == "contract" and current.dtype.kind == "float":
            products.append(current)
        else:
            return []
    return products if found == 1 else []


def _factor(loop: Loop, value: Node) -> tuple[int | None, Node | None]:
    """A factor outside of the loop: (the key of the result that stacks it, None), or (None, the stack or value)."""
    for leaf, stack in loop.xs:
        if leaf is value:
            return None, stack
    if loop.is_fixed(value):
        return None, loop.outside(value)
    return loop.stacked(value), None


def known_ys(loop: Loop) -> None:
    """A y that is an x, or the same in every step, needs no loop; equal ys become one."""
    stacks = dict(loop.xs)
    keys: dict[Node, int] = {}
    for key, value in list(loop.ys.items()):
        if value in stacks:
            loop.values[key] = stacks[value]
        elif loop.is_fixed(value):
            whole = (loop.length, *value.shape)
            loop.values[key] = spread(loop.outside(value), whole, range(1, len(whole)))
        elif keys.setdefault(value, key) != key:
            same = keys[value]
            loop.afterwards[key] = (same,), lambda items, same=same: items[same]
        else:
            continue
        del loop.ys[key]


STEPS = (unchanging_carries, unchanging_xs, move_in, move_out, stack_products, products_as_they_are, known_ys,
         sum_products_afterwards, stack_products_afterwards)
