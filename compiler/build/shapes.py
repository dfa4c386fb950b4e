"""Tensor rules of the language over the strict primitives: promotion, broadcasting, reductions, matrix products.

The primitives neither broadcast nor promote; here is where NumPy's rules are spelled out.  All functions take and
return graph nodes (or numbers where stated) and raise Fault.
"""

from __future__ import annotations

from string import ascii_lowercase

from .. import ops
from ..ir import Node
from ..types import DTYPES, Dim, DType, Size, boolean, f32, f64, i32, i64, known_nonnegative, product
from . import numbers
from .values import Fault, describe, is_int, is_number, is_size, is_tensor, shape_text, show

LARGEST_SHAPE = 2 ** 36            # elements that may be known while compiling: as many as an array may have
LARGEST_RANK = 12
WIDTHS = {boolean: 0, i32: 1, i64: 2, f32: 3, f64: 4}      # the order in which dtypes give way, and kinds of them
KINDS = {"bool": 0, "int": 1, "float": 2}


def checked_shape(shape, what: str = "the shape") -> tuple:
    """A shape as a tuple of sizes: refused where a size is negative or the whole is absurd."""
    shape = tuple(shape)
    if len(shape) > LARGEST_RANK:
        raise Fault("limit", f"{what} has {len(shape)} dimensions; at most {LARGEST_RANK} are allowed")
    known = 1
    for size in shape:
        if not is_size(size):
            raise Fault("type", f"{what} must be made of integers", found=describe(size))
        if isinstance(size, int):
            if size < 0:
                raise Fault("shape", f"{what} has a negative size", found=shape_text(shape))
            known *= size
    if known >= LARGEST_SHAPE:
        raise Fault("limit", f"{what} is too large", found=f"{shape_text(shape)}, {known} elements",
                    expected="fewer than 2**36 elements")
    return shape


def same(a: Size, b: Size) -> bool:
    """Whether two sizes are known to be equal."""
    return type(a) is type(b) and a == b


def same_shape(a, b) -> bool:
    return a is b or len(a) == len(b) and all(map(same, a, b))


class Arithmetic:
    """Promotion and elementwise operations, under the default float of the compilation (f32, or f64)."""

    def __init__(self, default_float: DType):
        self.float = default_float

    # --- making tensors -----------------------------------------------------------------------------------------

    def dtype_of_number(self, value) -> DType:
        """The dtype of a number that meets no tensor."""
        if isinstance(value, bool):
            return boolean
        return self.float if isinstance(value, float) else i32

    def tensor(self, value, dtype: DType | None = None) -> Node:
        """A value as a tensor; numbers become scalars of ``dtype`` (or of their own default)."""
        if is_tensor(value):
            return value
        if isinstance(value, Dim):
            return ops.size(value, dtype or i32)
        if is_number(value):
            dtype = dtype or self.dtype_of_number(value)
            if dtype.kind == "int" and isinstance(value, int):
                bits = 31 if dtype is i32 else 63
                if not -2 ** bits <= value < 2 ** bits:
                    raise Fault("type", f"{value} does not fit in {dtype}", hint="write it as a float, or cast to i64")
            kind = {"float": float, "int": int, "bool": bool}[dtype.kind]
            return ops.constant(kind(value), dtype)
        if isinstance(value, tuple):
            return self.table(value, dtype)
        raise Fault("type", "a tensor is expected here", found=describe(value), hint=tensor_hint(value))

    def table(self, value: tuple, dtype: DType | None) -> Node:
        """A tuple as a tensor along a new first axis."""
        if not value:
            raise Fault("type", "an empty tuple is no tensor")
        if dtype is None:
            dtype = self.promote(list(value))
        items = self.broadcast_all([self.cast(self.tensor(v, dtype), dtype) for v in value])
        return stack(items, 0)

    # --- promotion ----------------------------------------------------------------------------------------------

    def promote(self, values) -> DType:
        """The dtype in which values meet: tensors by kind (bool < int < float) and width, then numbers by kind."""
        tensors = [v.dtype for v in values if is_tensor(v)]
        strong = max(tensors, key=WIDTHS.__getitem__, default=None)
        numbers_ = [v for v in values if not is_tensor(v)]
        if any(isinstance(v, tuple) for v in numbers_):
            numbers_ = [self.table(v, None) if isinstance(v, tuple) else v for v in numbers_]
            return self.promote([v for v in values if is_tensor(v)] + numbers_)
        for value in numbers_:
            if not is_number(value):
                raise Fault("type", "a tensor or a number is expected here", found=describe(value),
                            hint=tensor_hint(value))
        weak = max((self.dtype_of_number(v) for v in numbers_), key=WIDTHS.__getitem__, default=None)
        if strong is None or weak is None:
            found = strong or weak
            assert found is not None            # there is at least one value
            return found
        return strong if KINDS[strong.kind] >= KINDS[weak.kind] else weak

    def cast(self, value, dtype: DType) -> Node:
        value = self.tensor(value, dtype) if is_number(value) else self.tensor(value)
        return value if value.dtype is dtype else ops.cast(value, dtype)

    def to_float(self, value) -> Node:
        """The value as a tensor of a float dtype."""
        value = self.tensor(value)
        return value if value.dtype.kind == "float" else ops.cast(value, self.float)

    def broadcast_all(self, nodes) -> list[Node]:
        shape = nodes[0].shape
        for other in nodes[1:]:
            shape = broadcast_shapes(shape, other.shape)
        return [expand(n, shape) for n in nodes]

    def meet(self, values, dtype: DType | None = None) -> list[Node]:
        """Values promoted to one dtype and broadcast to one shape."""
        dtype = dtype or self.promote(values)
        return self.broadcast_all([self.cast(v, dtype) for v in values])

    # --- elementwise --------------------------------------------------------------------------------------------

    def unary(self, name: str, value):
        """An elementwise function of one tensor, or of one number at compile time."""
        if is_number(value):
            answer = numbers.unary(name, value)
            if answer is not NotImplemented:
                return answer
        node = self.tensor(value)
        if name == "logical_not":
            if node.dtype is not boolean:
                raise Fault("type", "`not` takes booleans", found=describe(value))
            return ops.logical_not(node)
        if name in ("neg", "abs", "sign"):
            node = self.cast(node, i32) if node.dtype is boolean else node
        elif name in ("floor", "ceil", "round") and node.dtype.kind != "float":
            return node
        else:
            node = self.to_float(node)
        return getattr(ops, name)(node)

    def binary(self, name: str, a, b):
        """An elementwise operation of two values, with broadcasting and promotion."""
        if is_number(a) and is_number(b):
            answer = numbers.binary(name, a, b)
            if answer is not NotImplemented:
                return answer
        if name in ("gt", "ge"):
            return self.binary({"gt": "lt", "ge": "le"}[name], b, a)
        dtype = self.promote([a, b])
        if name.startswith("logical_"):
            if dtype is not boolean:
                wrong = a if not is_tensor(a) or a.dtype is not boolean else b
                raise Fault("type", "a logical operation takes booleans", found=describe(wrong),
                            hint="compare first, e.g. `x > 0`")
        elif name == "div" and dtype.kind != "float":
            dtype = self.float
        elif dtype is boolean and name not in ("eq", "ne"):
            dtype = i32
        if name == "pow":
            return self.power(a, b, dtype)
        left, right = self.meet([a, b], dtype)
        return getattr(ops, name)(left, right)

    def power(self, a, b, dtype: DType) -> Node:
        """``a ** b``: small whole exponents become products, which are exact and differentiable at 0."""
        if is_int(b) or isinstance(b, float) and b.is_integer():
            base, exponent = self.cast(a, dtype), int(b)
            if exponent < 0 and dtype.kind == "int":
                raise Fault("value", "an integer cannot be raised to a negative power", hint="cast it to f32 first")
            if 0 <= exponent <= 4:
                return _products(base, exponent)
        if b == 0.5 and not is_tensor(b) and dtype.kind == "float":
            return ops.sqrt(self.cast(a, dtype))
        left, right = self.meet([a, b], dtype)
        return ops.pow(left, right)

    def where(self, condition, a, b):
        """Elementwise choice."""
        if isinstance(condition, bool) and not is_tensor(a) and not is_tensor(b):
            return a if condition else b
        condition = self.tensor(condition)
        if condition.dtype is not boolean:
            raise Fault("type", "the condition of `where` must be a boolean", found=describe(condition),
                        hint="compare first, e.g. `where(x > 0, x, 0)`")
        dtype = self.promote([a, b])
        nodes = self.broadcast_all([condition, self.cast(a, dtype), self.cast(b, dtype)])
        return ops.where(*nodes)


def _products(base: Node, exponent: int) -> Node:
    if exponent == 0:
        return full(base.shape, 1, base.dtype)
    if exponent == 1:
        return base
    square = ops.mul(base, base)
    return {2: lambda: square, 3: lambda: ops.mul(square, base), 4: lambda: ops.mul(square, square)}[exponent]()


def tensor_hint(value) -> str | None:
    from .values import Builtin, Function, Instance, ModelValue, Partial, Record
    if isinstance(value, Instance):
        return f"`{value.name}(...)` is an instance: call it on a value, `{value.name}(...)(x)`"
    if isinstance(value, ModelValue):
        return f"give {value.name} its settings, then call it on a value: `{value.name}(...)(x)`"
    if isinstance(value, (Builtin, Function, Partial)):
        return f"call the function: `{value.name}(...)`"
    if isinstance(value, Record):
        return f"choose one output: `.{next(iter(value.fields), '')}`"
    return None


# --- broadcasting -----------------------------------------------------------------------------------------------


def broadcast_shapes(a, b) -> tuple:
    """NumPy's rule for two shapes; a symbolic size matches only itself and 1."""
    long, short = (a, b) if len(a) >= len(b) else (b, a)
    lead = len(long) - len(short)
    result = list(long[:lead])
    for left, right in zip(long[lead:], short):
        if same(left, right) or right == 1:
            result.append(left)
        elif left == 1:
            result.append(right)
        else:
            raise Fault("shape", "the shapes do not broadcast", found=f"{shape_text(a)} and {shape_text(b)}",
                        expected=f"sizes that are equal or 1, counted from the last axis: {left} and {right} are not",
                        hint=_clash_hint(a, b))
    return checked_shape(result)


def _clash_hint(a, b) -> str | None:
    if len(a) == len(b) and len(a) >= 2 and same_shape(a[:-2] + (a[-1], a[-2]), b):
        return "the last two axes of one are exchanged: `transpose` it"
    long, short = (a, b) if len(a) >= len(b) else (b, a)
    if len(short) < len(long) and same_shape(long[:len(short)], short):
        return f"add axes at the end of the smaller one: `x[..., {', '.join(['None'] * (len(long) - len(short)))}]`"
    return None


def expand(x: Node, shape) -> Node:
    """``x`` broadcast to ``shape`` by NumPy's rule (which must hold)."""
    if same_shape(x.shape, shape):
        return x
    lead = len(shape) - len(x.shape)
    kept = [i for i, size in enumerate(x.shape) if same(size, shape[lead + i])]
    if len(kept) < len(x.shape):
        x = ops.reshape(x, tuple(x.shape[i] for i in kept))
    return ops.broadcast(x, tuple(shape), tuple(lead + i for i in kept))


def broadcast_to(x: Node, shape) -> Node:
    """``x`` broadcast to ``shape``, checked."""
    if not same_shape(broadcast_shapes(x.shape, shape), shape):
        raise Fault("shape", "the tensor does not broadcast to this shape", found=shape_text(x.shape),
                    expected=shape_text(shape))
    return expand(x, shape)


def full(shape, value, dtype: DType) -> Node:
    """A tensor filled with one number or with a scalar tensor."""
    shape = checked_shape(shape)
    if not is_tensor(value):
        value = ops.constant({"float": float, "int": int, "bool": bool}[dtype.kind](value), dtype)
    return ops.broadcast(value, shape, ()) if shape else value


# --- axes and movement ------------------------------------------------------------------------------------------


def axis_of(axis, rank: int, what: str = "the axis") -> int:
    """A possibly negative axis as its position."""
    if not is_int(axis):
        raise Fault("type", f"{what} must be an integer", found=describe(axis))
    if not -rank <= axis < rank:
        raise Fault("axis", f"{what} {axis} is out of range", expected=f"-{rank} to {rank - 1}" if rank else "no axis",
                    found=f"a tensor of {rank} dimensions")
    return axis % rank


def axes_of(axis, rank: int) -> tuple[int, ...]:
    """``None``, one axis or a tuple of axes as sorted positions."""
    if axis is None:
        return tuple(range(rank))
    axes = [axis_of(a, rank) for a in (axis if isinstance(axis, tuple) else (axis,))]
    if len(set(axes)) < len(axes):
        raise Fault("shape", "an axis is named twice", found=show(axis))
    return tuple(sorted(axes))


def transpose(x: Node, axes=None) -> Node:
    """Axes permuted; reversed when none are given."""
    if axes is None:
        axes = tuple(reversed(range(x.type.rank)))
    if not isinstance(axes, tuple) or len(axes) != x.type.rank:
        raise Fault("shape", "transpose needs every axis once", found=show(axes), expected=f"{x.type.rank} axes")
    perm = tuple(axis_of(a, x.type.rank) for a in axes)
    if len(set(perm)) < len(perm):
        raise Fault("shape", "transpose needs every axis once", found=show(axes))
    return x if perm == tuple(range(len(perm))) else ops.transpose(x, perm)


def move_axis(x: Node, source: int, target: int) -> Node:
    perm = [i for i in range(x.type.rank) if i != source]
    perm.insert(target, source)
    return transpose(x, tuple(perm))


def reshape(x: Node, shape) -> Node:
    """A reshape; one size may be -1."""
    shape = list(shape)
    unknown = [i for i, size in enumerate(shape) if is_int(size) and size == -1]
    if len(unknown) > 1:
        raise Fault("shape", "only one size may be -1", found=shape_text(shape))
    total = x.type.size
    if unknown:
        rest = product(size for i, size in enumerate(shape) if i != unknown[0])
        shape[unknown[0]] = _quotient(total, rest, x, shape)
    shape = checked_shape(shape)
    if not same(product(shape), total):
        raise Fault("shape", "a reshape must keep the number of elements",
                    found=f"{shape_text(x.shape)}, {total} elements",
                    expected=f"{shape_text(shape)}, {product(shape)} elements")
    return x if same_shape(x.shape, shape) else ops.reshape(x, shape)


def _quotient(total, rest, x, shape):
    from ..types import divide_exactly
    quotient = divide_exactly(total, rest) if rest != 0 else None
    if quotient is None:
        raise Fault("shape", "the size -1 cannot be found", found=f"{shape_text(x.shape)} into {shape_text(shape)}",
                    expected=f"{total} to be a multiple of {rest}")
    return quotient


def add_axis(x: Node, axis: int) -> Node:
    return ops.reshape(x, checked_shape(x.shape[:axis] + (1,) + x.shape[axis:]))


def stack(nodes, axis: int) -> Node:
    """Equal shapes along a new axis."""
    return concat([add_axis(n, axis) for n in nodes], axis)


def concat(nodes, axis: int) -> Node:
    """Tensors of one dtype along an axis; the other sizes must agree."""
    first = nodes[0]
    for position, other in enumerate(nodes[1:], 2):
        if other.type.rank != first.type.rank or any(
                i != axis and not same(a, b) for i, (a, b) in enumerate(zip(first.shape, other.shape))):
            raise Fault("shape", f"concat along axis {axis}: the other axes must agree",
                        expected=f"like the first, {shape_text(first.shape)}",
                        found=f"{shape_text(other.shape)} as number {position}")
    return first if len(nodes) == 1 else ops.concat(nodes, axis)


def reduce(x: Node, kind: str, axis, keepdims: bool) -> Node:
    """sum, max, min, prod over axes."""
    axes = axes_of(axis, x.type.rank)
    result = ops.reduce(x, kind, axes) if axes else x
    return restore_axes(result, x, axes) if keepdims else result


def restore_axes(result: Node, x: Node, axes) -> Node:
    """A reduction's result with the reduced axes as size 1."""
    shape = tuple(1 if i in axes else size for i, size in enumerate(x.shape))
    return result if same_shape(result.shape, shape) else ops.reshape(result, shape)


def count(x: Node, axes) -> Size:
    """The number of elements that a reduction over ``axes`` takes in."""
    return product(x.shape[a] for a in axes)


def known_at_most(a: Size, b: Size) -> bool:
    """Whether a <= b whatever the symbols stand for."""
    return known_nonnegative(b - a)


# --- products ---------------------------------------------------------------------------------------------------


def matmul(a: Node, b: Node) -> Node:
    """NumPy's ``@`` as one contraction: leading axes of either side are kept apart, size-1 ones broadcast."""
    if not a.shape or not b.shape:
        raise Fault("shape", "`@` takes no scalars", found=f"{shape_text(a.shape)} @ {shape_text(b.shape)}",
                    hint="use `*`")
    inner = b.shape[-2] if b.type.rank > 1 else b.shape[0]
    if not same(a.shape[-1], inner):
        raise Fault("shape", "the shapes of the matrix product clash",
                    found=f"{shape_text(a.shape)} @ {shape_text(b.shape)}",
                    expected=f"the last axis of the left, {a.shape[-1]}, to equal {inner}", hint=_matmul_hint(a, b))
    rows = "r" if a.type.rank > 1 else ""
    columns = "c" if b.type.rank > 1 else ""
    lead = broadcast_shapes(a.shape[:-2], b.shape[:-2])
    letters = [c for c in ascii_lowercase if c not in "rck"][:len(lead)]
    a, a_lead = _drop_ones(a, len(a.shape) - 2, lead, letters)
    b, b_lead = _drop_ones(b, len(b.shape) - 2, lead, letters)
    left, right = a_lead + rows + "k", b_lead + "k" + columns
    present = set(a_lead + b_lead)
    out = "".join(c for c in letters if c in present) + rows + columns
    result = ops.product(a, left, b, right, out)
    shape = tuple(lead) + (result.shape[len(out) - len(rows) - len(columns):] if rows or columns else ())
    return result if same_shape(result.shape, shape) else ops.reshape(result, shape)


def _drop_ones(x: Node, lead_rank: int, lead, letters) -> tuple[Node, str]:
    """``x`` without the leading axes along which it is broadcast, and the letters of those that stay."""
    lead_rank = max(lead_rank, 0)
    offset = len(lead) - lead_rank
    kept = [i for i in range(lead_rank) if same(x.shape[i], lead[offset + i])]
    if len(kept) < lead_rank:
        x = ops.reshape(x, tuple(x.shape[i] for i in kept) + tuple(x.shape[lead_rank:]))
    return x, "".join(letters[offset + i] for i in kept)


def _matmul_hint(a: Node, b: Node) -> str | None:
    if b.type.rank > 1 and same(a.shape[-1], b.shape[-1]):
        return "the right operand is transposed: `a @ transpose(b)`"
    if a.type.rank > 1 and same(a.shape[-2], b.shape[-2] if b.type.rank > 1 else b.shape[0]):
        return "the left operand is transposed: `transpose(a) @ b`"
    return None


def dtype_by_name(name: str, precision: DType) -> DType:
    """The dtype that a file's ``f32`` means under the compilation's precision."""
    dtype = DTYPES[name]
    return precision if dtype is f32 else dtype
