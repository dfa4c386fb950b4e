"""``contract``: sums of products over affine index maps.

Matrix products, convolutions, transposed convolutions, average pooling and the gradients of all of these are one
primitive with different maps.  The index space has the indices of the result first, then those summed over; each
dimension of each operand has an ``Index``, an affine form of indices over a divisor.  Where the division is not exact
or the coordinate is outside the operand, the factor is 0: that is padding, stride and dilation in one rule.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from ...runtime.deferred import np
from ...runtime.records import dataclass
from ..ir import Node, Primitive, node
from ..types import Dim, Shape, Size, TensorType, evaluate
from .movement import broadcast, reshape
from .rules import NUMERIC, check_kind, check_shape, counted, numbers, refuse, sampler, show


@dataclass(frozen=True)
class Index:
    """A coordinate of an operand: (sum of coefficient * index, plus offset) / divisor.

    ``terms`` are (index, coefficient) pairs sorted by index, no coefficient 0; ``divisor`` is at least 1.
    """

    terms: tuple = ()
    offset: Size = 0
    divisor: int = 1

    @property
    def indices(self) -> tuple[int, ...]:
        return tuple(which for which, _ in self.terms)

    def __str__(self) -> str:
        pieces = [f"{coefficient}*i{which}" for which, coefficient in self.terms]
        text = " + ".join(pieces + ([str(self.offset)] if self.offset != 0 or not pieces else []))
        return f"({text})/{self.divisor}" if self.divisor != 1 else text


def affine(terms: Mapping[int, Size], offset: Size = 0, divisor: int = 1) -> Index:
    """An Index in normal form: no zero terms, no factor common to everything."""
    terms = {which: c for which, c in sorted(terms.items()) if c != 0}
    common = math.gcd(divisor, *map(_content, (*terms.values(), offset)))
    return Index(tuple((which, c // common) for which, c in terms.items()), offset // common, divisor // common)


def plain(which: int) -> Index:
    """The coordinate that is an index itself."""
    return Index(((which, 1),))


def _content(size: Size) -> int:
    return math.gcd(*size.terms.values()) if isinstance(size, Dim) else size


# --- type rule and value -----------------------------------------------------------------------------------------


def _infer(types, attrs) -> TensorType:
    shape, sums, maps = attrs["shape"], attrs["reduce"], attrs["maps"]
    if not 1 <= len(types) <= 2:
        refuse(f"contract takes one or two operands, got {len(types)}")
    for type_ in types:
        check_kind("contract", type_, NUMERIC)
        if type_.dtype != types[0].dtype:
            refuse(f"contract takes operands of the same dtype, got {types[0]} and {type_}")
    check_shape("contract", shape)
    check_shape("contract", sums)
    if len(maps) != len(types) or any(len(m) != t.rank for m, t in zip(maps, types)):
        refuse("contract needs an index for each dimension of each operand")
    for index in itertools.chain(*maps):
        _check_index(index, len(shape) + len(sums))
    return TensorType(types[0].dtype, shape)


def _check_index(index: Index, count: int) -> None:
    used = index.indices
    if list(used) != sorted(set(used)) or any(not 0 <= which < count for which in used):
        refuse(f"contract: {index} does not use the {count} indices in increasing order")
    if any(c == 0 for _, c in index.terms) or not isinstance(index.divisor, int) or index.divisor < 1:
        refuse(f"contract: {index} has a coefficient of 0 or a divisor below 1")


def _evaluate(arrays, current, sizes):
    extents = numbers((*current.shape, *current.attrs["reduce"]), sizes)
    maps = [[({which: evaluate(c, sizes) for which, c in index.terms}, evaluate(index.offset, sizes), index.divisor)
             for index in operand] for operand in current.attrs["maps"]]
    rank = current.type.rank
    result = np.zeros(extents[:rank], current.dtype.numpy)
    fixed = _indices_to_fix(maps, extents)
    with np.errstate(all="ignore"):
        for values in itertools.product(*(range(extents[which]) for which in fixed)):
            _add_part(result, arrays, maps, extents, dict(zip(fixed, values)))
    return result


def _indices_to_fix(maps, extents) -> list[int]:
    """Indices to loop over so that every dimension depends on at most one other: those of few values, a kernel's."""
    fixed: set[int] = set()
    while True:
        compound = [set(terms) - fixed for operand in maps for terms, _, _ in operand if len(set(terms) - fixed) > 1]
        if not compound:
            return sorted(fixed)
        fixed.add(min(set().union(*compound), key=lambda which: (extents[which], which)))


def _add_part(result, arrays, maps, extents, fixed: Mapping[int, int]) -> None:
    """Add the products at the fixed values of some indices, over all values of the others."""
    kept = {which: np.array([fixed[which]]) if which in fixed else np.arange(n) for which, n in enumerate(extents)}
    places = [[_single(dimension, fixed) for dimension in operand] for operand in maps]
    for array, operand in zip(arrays, places):
        for size, (which, c, offset, divisor) in zip(array.shape, operand):
            at = offset + c * (kept[which] if which is not None else np.zeros(1, int))
            inside = (at % divisor == 0) & (0 <= at) & (at < size * divisor)
            if which is None:
                if not inside[0]:
                    return
            else:
                kept[which] = kept[which][inside]
    parts = []
    for array, operand in zip(arrays, places):
        labels = []
        for axis, (which, c, offset, divisor) in enumerate(operand):
            at = (offset + c * (kept[which] if which is not None else np.zeros(1, int))) // divisor
            array = _pick(array, axis, at)
            labels.append(which)
        parts.append((array, labels))
    rank = result.ndim
    counts = [len(kept[which]) for which in range(len(extents))]
    part = _sum_of_products(parts, counts, rank)
    result[_box([kept[which] for which in range(rank)])] += part


def _single(dimension, fixed: Mapping[int, int]) -> tuple:
    """A dimension's map as (the one free index or None, coefficient, offset, divisor)."""
    terms, offset, divisor = dimension
    offset += sum(c * fixed[which] for which, c in terms.items() if which in fixed)
    free = [which for which in terms if which not in fixed]
    return (free[0], terms[free[0]], offset, divisor) if free else (None, 0, offset, divisor)


def _progression(at: np.ndarray) -> slice | None:
    """Positions as a slice if they are evenly spaced and rising."""
    if len(at) == 0:
        return slice(0, 0)
    if len(at) == 1:
        return slice(int(at[0]), int(at[0]) + 1)
    step = int(at[1] - at[0])
    even = step > 0 and (len(at) == 2 or bool(np.all(np.diff(at) == step)))
    return slice(int(at[0]), int(at[-1]) + 1, step) if even else None


def _pick(array: np.ndarray, axis: int, at: np.ndarray) -> np.ndarray:
    """The elements of one axis at some positions: a view where that can be."""
    cut = _progression(at)
    return np.take(array, at, axis) if cut is None else array[(slice(None),) * axis + (cut,)]


def _box(positions: Sequence[np.ndarray]):
    cuts = tuple(_progression(each) for each in positions)
    return np.ix_(*positions) if any(cut is None for cut in cuts) else cuts


def _sum_of_products(parts, counts: Sequence[int], rank: int) -> np.ndarray:
    """One or two operands labelled by index; indices from ``rank`` on are summed over."""
    parts = [_one_axis_an_index(array, labels) for array, labels in parts]
    factor = 1
    for which in range(rank, len(counts)):      # a sum over an index that nothing depends on
        if not any(which in labels for _, labels in parts):
            factor *= counts[which]
    if len(parts) == 1:
        parts.append((np.ones((), parts[0][0].dtype), []))
    (a, left), (b, right) = (_sum_private(parts[k], parts[1 - k][1], rank) for k in (0, 1))
    batch = [w for w in left if w in right and w < rank]
    inner = [w for w in left if w in right and w >= rank]
    rows, columns = [w for w in left if w not in right], [w for w in right if w not in left]

    def count(group) -> int:
        return math.prod(counts[w] for w in group)

    a = a.transpose([left.index(w) for w in batch + rows + inner])
    b = b.transpose([right.index(w) for w in batch + inner + columns])
    if inner:
        product = np.matmul(a.reshape([counts[w] for w in batch] + [count(rows), count(inner)]),
                            b.reshape([counts[w] for w in batch] + [count(inner), count(columns)]))
    else:
        product = (a.reshape([counts[w] for w in batch + rows] + [1] * len(columns))
                   * b.reshape([counts[w] for w in batch] + [1] * len(rows) + [counts[w] for w in columns]))
    order = batch + rows + columns
    product = product.reshape([counts[w] for w in order])
    product = product.transpose(sorted(range(len(order)), key=lambda k: order[k]))
    product = product.reshape([counts[w] if w in order else 1 for w in range(rank)])
    return product if factor == 1 else product * product.dtype.type(factor)


def _one_axis_an_index(array: np.ndarray, labels: list) -> tuple[np.ndarray, list[int]]:
    """Drop the axes without an index, take the diagonal of those that share one."""
    array = array.reshape([n for n, which in zip(array.shape, labels) if which is not None])
    labels = [which for which in labels if which is not None]
    unique = sorted(set(labels))
    if len(unique) < len(labels):
        array = np.einsum(array, [unique.index(which) for which in labels], list(range(len(unique))))
        return array, unique
    return array, labels


def _sum_private(part, others, rank: int) -> tuple[np.ndarray, list[int]]:
    """Sum over the indices that only this operand has."""
    array, labels = part
    private = tuple(axis for axis, which in enumerate(labels) if which >= rank and which not in others)
    if not private:
        return array, labels
    return array.sum(axis=private, dtype=array.dtype), [w for a, w in enumerate(labels) if a not in private]


# --- gradient ----------------------------------------------------------------------------------------------------


class _Solution:
    """Old indices expressed by the new ones: the coordinates of the operand that a gradient is taken for.

    New index d is the coordinate of dimension d; while equations are solved, old index k is known as rank + k.  An
    equation says: the Index of dimension d, in old indices, equals new index d.
    """

    def __init__(self, rank: int):
        self.rank = rank
        self.solved: dict[int, Index] = {}

    def substituted(self, index: Index) -> Index:
        """An Index with solved indices replaced (its indices are counted in the new numbering)."""
        terms: dict[int, Size] = {}
        offset, divisor = index.offset, index.divisor
        common = math.lcm(*(self.solved[which].divisor for which in index.indices if which in self.solved))
        offset = offset * common
        for which, c in index.terms:
            inner = self.solved.get(which)
            if inner is None:
                terms[which] = terms.get(which, 0) + c * common
                continue
            factor = c * (common // inner.divisor)
            offset = offset + factor * inner.offset
            for deeper, weight in inner.terms:
                terms[deeper] = terms.get(deeper, 0) + factor * weight
        return affine(terms, offset, divisor * common)

    def solve(self, dimension: int, equation: Index, pivot: int) -> None:
        """Express ``pivot`` by means of the dimension's equation, there and in all that was solved before."""
        c = dict(equation.terms)[pivot]
        turn = -1 if c < 0 else 1
        terms = {which: -turn * weight for which, weight in equation.terms if which != pivot}
        terms[dimension] = terms.get(dimension, 0) + turn * equation.divisor
        self.solved[pivot] = affine(terms, -turn * equation.offset, turn * c)
        self.solved = {which: self.substituted(index) for which, index in self.solved.items()}


def _shifted(index: Index, by: int) -> Index:
    return Index(tuple((which + by, c) for which, c in index.terms), index.offset, index.divisor)


def _gradient(current: Node, g: Node) -> list[Node]:
    return [_operand_gradient(current, g, position) for position in range(len(current.args))]


def _operand_gradient(current: Node, g: Node, position: int) -> Node:
    """The cotangent of one operand: the same sum of products, with the operand's coordinates as free indices.

    Each dimension's equation ``map = coordinate`` is solved for one index where it can be; the others stay sums.  A
    solved index is in range and whole because the cotangent (or the other operand) has a dimension that is this very
    index, and is 0 outside; where there is none, or an equation could not be solved, the cotangent gets a dimension
    for the purpose.
    """
    x, maps = current.args[position], current.attrs["maps"]
    rank, out_rank = x.type.rank, current.type.rank
    extents = (*current.shape, *current.attrs["reduce"])
    others = [(arg, [_shifted(index, rank) for index in maps[k]])
              for k, arg in enumerate(current.args) if k != position]
    guarded = {rank + which for which in range(out_rank)} | {
        index.terms[0][0] for arg, other in others for size, index in zip(arg.shape, other)
        if len(index.terms) == 1 and index == plain(index.terms[0][0]) and size == extents[index.terms[0][0] - rank]}
    equations = [_shifted(index, rank) for index in maps[position]]
    solution = _Solution(rank)
    unsolved = []
    for dimension in sorted(range(rank), key=lambda d: len(equations[d].terms)):
        equation = solution.substituted(equations[dimension])
        pivot = _choose_pivot(equation, equations, guarded, rank, out_rank)
        if pivot is None:
            unsolved.append((dimension, equation))
        else:
            solution.solve(dimension, equation, pivot)
    g_map = [plain(rank + which) for which in range(out_rank)]
    for which in sorted(set(solution.solved) - guarded):
        if not _covers(solution.solved[which], extents[which - rank], x.shape):
            g, g_map = _extended(g, extents[which - rank]), g_map + [plain(which)]
    for dimension, equation in unsolved:
        residue = solution.substituted(equation)
        terms = {which: -c for which, c in residue.terms}
        terms[dimension] = terms.get(dimension, 0) + residue.divisor
        if terms == {dimension: 1} and residue.offset == 0 and x.shape[dimension] == 1:
            continue
        g, g_map = _extended(g, 1), g_map + [affine(terms, -residue.offset)]
    operands = [(g, g_map), *others] if position == 0 else [*others, (g, g_map)]
    return _renumbered(x.shape, extents, operands, solution)


def _choose_pivot(equation: Index, equations, guarded, rank: int, out_rank: int) -> int | None:
    """The index that an equation is best solved for; None if there is none with a whole coefficient.

    An index of the result before a sum: what stays a sum is then the kernel's small window, not the image.
    """
    def cost(which: int) -> tuple:
        elsewhere = sum(which in other.indices for other in equations)
        return (elsewhere > 1, which not in guarded, which >= rank + out_rank, abs(dict(equation.terms)[which]) != 1,
                which)

    candidates = [which for which, c in equation.terms if which >= rank and isinstance(c, int)]
    return min(candidates, key=cost, default=None)


def _covers(solved: Index, extent: Size, shape: Shape) -> bool:
    """Whether a solved index is in range for every coordinate: it is one, of a dimension of its own extent."""
    return len(solved.terms) == 1 and solved == plain(solved.terms[0][0]) and solved.terms[0][0] < len(shape) \
        and shape[solved.terms[0][0]] == extent


def _extended(g: Node, extent: Size) -> Node:
    """The cotangent with one more dimension, along which it is the same."""
    if extent == 1:
        return reshape(g, (*g.shape, 1))
    return broadcast(g, (*g.shape, extent), tuple(range(g.type.rank)))


def _renumbered(shape: Shape, extents, operands, solution: _Solution) -> Node:
    """The contraction over what is left: unsolved old indices are sums, numbered after the new ones."""
    rank = len(shape)
    left = [rank + which for which in range(len(extents)) if rank + which not in solution.solved]
    numbering = {which: rank + position for position, which in enumerate(left)}
    maps = []
    for _, operand in operands:
        final = [solution.substituted(index) for index in operand]
        maps.append(tuple(affine({numbering.get(which, which): c for which, c in index.terms}, index.offset,
                                 index.divisor) for index in final))
    return contract([arg for arg, _ in operands], shape, [extents[which - rank] for which in left], maps)


CONTRACT = Primitive("contract", _infer, _evaluate, _gradient, sampler("contract"))


# --- builders ----------------------------------------------------------------------------------------------------


def contract(operands: Sequence[Node], shape, reduce, maps) -> Node:
    """result[i] = sum over r of the product of operand[maps(i, r)]; see the module's head."""
    return node(CONTRACT, tuple(operands), shape=counted(shape, "contract"), reduce=counted(reduce, "contract"),
                maps=tuple(tuple(operand) for operand in maps))


def product(a: Node, a_indices: str, b: Node, b_indices: str, out: str) -> Node:
    """Einstein's notation with letters: ``product(a, "ij", b, "jk", "ik")`` is the matrix product."""
    sizes: dict[str, Size] = {}
    for operand, letters in ((a, a_indices), (b, b_indices)):
        if len(letters) != operand.type.rank:
            refuse(f"the indices {letters!r} do not fit {operand.type}")
        for letter, size in zip(letters, operand.shape):
            if sizes.setdefault(letter, size) != size:
                refuse(f"the sizes of {letter!r} differ in {a_indices},{b_indices} of {a.type} and {b.type}")
    if len(set(out)) < len(out) or not set(out) <= set(sizes):
        refuse(f"the indices {out!r} of the result are not indices of the operands, each once")
    letters = out + "".join(letter for letter in sizes if letter not in out)
    maps = [[plain(letters.index(letter)) for letter in indices] for indices in (a_indices, b_indices)]
    return contract((a, b), [sizes[c] for c in out], [sizes[c] for c in letters[len(out):]], maps)


def matmul(a: Node, b: Node) -> Node:
    """[*batch, m, k] @ [*batch, k, n] -> [*batch, m, n], the batch's sizes being the same."""
    if a.type.rank != b.type.rank or a.type.rank < 2 or a.shape[:-2] != b.shape[:-2] or a.shape[-1] != b.shape[-2]:
        refuse(f"the shapes of the matrix product {a.type} @ {b.type} clash")
    batch = "".join(chr(ord("a") + axis) for axis in range(a.type.rank - 2))
    return product(a, batch + "xz", b, batch + "zy", batch + "xy")


def _check_convolution(name: str, x: Node, kernel: Node, settings: Sequence[Sequence]) -> int:
    rank = x.type.rank - 2
    if rank < 1 or kernel.type.rank != x.type.rank or any(len(each) != rank for each in settings):
        refuse(f"{name} of {x.type} with the kernel {kernel.type}: they, and the strides, dilations, paddings and "
               "result sizes, do not agree on the number of spatial axes")
    for value in (*settings[0], *settings[1]):
        if not isinstance(value, int) or value < 1:
            refuse(f"{name}: the strides {show(settings[0])} and dilations {show(settings[1])} must be positive")
    return rank


def convolution(x: Node, kernel: Node, strides, dilations, low, out_sizes, groups: int = 1) -> Node:
    """x [N, *spatial, C] with kernel [*k, C / groups, O] -> [N, *out_sizes, O].

    y[n, i, o] = sum over k, c of x[n, i * stride + k * dilation - low, c] * kernel[k, c, o], x being 0 outside.
    """
    rank = _check_convolution("convolution", x, kernel, (strides, dilations, low, out_sizes))
    if groups != 1:
        return _grouped(x, kernel, strides, dilations, low, out_sizes, groups)
    if kernel.shape[-2] != x.shape[-1]:
        refuse(f"a kernel {kernel.type} does not fit the {x.shape[-1]} channels of {x.type}")
    spatial = range(1, rank + 1)
    channel, taps = rank + 1, range(rank + 2, 2 * rank + 2)
    reach = [affine({i: stride, k: dilation}, -before)
             for i, k, stride, dilation, before in zip(spatial, taps, strides, dilations, low)]
    depth = 2 * rank + 2
    return contract((x, kernel), (x.shape[0], *out_sizes, kernel.shape[-1]), kernel.shape[:-1],
                    ((plain(0), *reach, plain(depth)), (*map(plain, taps), plain(depth), plain(channel))))


def _grouped(x: Node, kernel: Node, strides, dilations, low, out_sizes, groups: int) -> Node:
    """Channels in groups that do not mix: one more index that the operands share."""
    rank, channels, filters = x.type.rank - 2, x.shape[-1], kernel.shape[-1]
    depth = kernel.shape[-2]
    if groups * depth != channels or filters % groups != 0:
        refuse(f"a kernel {kernel.type} in {groups} groups does not fit the {channels} channels of {x.type}")
    # Result: n, spatial, group, filter of the group; sums: taps, channel of the group.
    x = reshape(x, (*x.shape[:-1], groups, depth))
    kernel = reshape(kernel, (*kernel.shape[:-1], groups, filters // groups))
    group, member = rank + 1, rank + 2
    taps, inner = range(rank + 3, 2 * rank + 3), 2 * rank + 3
    reach = [affine({i: stride, k: dilation}, -before)
             for i, k, stride, dilation, before in zip(range(1, rank + 1), taps, strides, dilations, low)]
    y = contract((x, kernel), (x.shape[0], *out_sizes, groups, filters // groups), (*kernel.shape[:rank], depth),
                 ((plain(0), *reach, plain(group), plain(inner)),
                  (*map(plain, taps), plain(inner), plain(group), plain(member))))
    return reshape(y, (*y.shape[:-2], filters))


def convolution_transpose(x: Node, kernel: Node, strides, dilations, low, out_sizes) -> Node:
    """x [N, *spatial, C] with kernel [*k, O, C] -> [N, *out_sizes, O]: the transpose of a convolution with ``low``.

    y[n, i, o] = sum over k, c of x[n, (i + low - k * dilation) / stride, c] * kernel[k, o, c].
    """
    rank = _check_convolution("convolution_transpose", x, kernel, (strides, dilations, low, out_sizes))
    if kernel.shape[-1] != x.shape[-1]:
        refuse(f"a kernel {kernel.type} does not fit the {x.shape[-1]} channels of {x.type}")
    taps, depth = range(rank + 2, 2 * rank + 2), 2 * rank + 2
    reach = [affine({i: 1, k: -dilation}, before, stride)
             for i, k, stride, dilation, before in zip(range(1, rank + 1), taps, strides, dilations, low)]
    return contract((x, kernel), (x.shape[0], *out_sizes, kernel.shape[-2]), (*kernel.shape[:rank], x.shape[-1]),
                    ((plain(0), *reach, plain(depth)), (*map(plain, taps), plain(rank + 1), plain(depth))))


PRIMITIVES = (CONTRACT,)
