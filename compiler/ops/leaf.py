"""Leaves: values that come from outside, and values made of nothing."""

from __future__ import annotations

from ...runtime.deferred import np
from ..ir import Node, Primitive, node
from ..types import DType, Size, TensorType, evaluate, f64, i32
from .rules import check_axes, check_count, check_shape, counted, number, numbers, refuse


def _infer_leaf(types, attrs) -> TensorType:
    check_count("a leaf", types, 0)
    check_shape("a leaf", attrs["shape"])
    return TensorType(attrs["dtype"], attrs["shape"])


def _evaluate_leaf(arrays, current, sizes):
    raise ValueError(f"no array was given for {current} {dict(current.attrs)}")


def _nothing(current, cotangent):
    """A leaf has no arguments to pass a cotangent to."""
    return ()


def _leaf(name: str, make) -> Primitive:
    def sample(rng):
        leaves = [make(position, f64, shape) for position, shape in enumerate(((), (1,), (3,), (2, 5), (1, 4, 3)))]
        return [(leaf, [leaf]) for leaf in leaves] * 4
    return Primitive(name, _infer_leaf, _evaluate_leaf, _nothing, sample)


INPUT = _leaf("input", lambda position, dtype, shape: input(f"x{position}", dtype, shape))
PARAM = _leaf("param", lambda position, dtype, shape: param(f"layer.w{position}", dtype, shape))
STATE = _leaf("state", lambda position, dtype, shape: state(f"layer.s{position}", dtype, shape))
LOCAL = _leaf("local", lambda position, dtype, shape: local(position, dtype, shape))         # noqa: PLW0108 - defined below


def input(name: str, dtype: DType, shape) -> Node:
    """A value that the caller gives by name."""
    return node(INPUT, name=name, dtype=dtype, shape=counted(shape, "input"))


def param(path: str, dtype: DType, shape) -> Node:
    """A trained weight."""
    return node(PARAM, path=path, dtype=dtype, shape=counted(shape, "param"))


def state(path: str, dtype: DType, shape) -> Node:
    """A value that goes in and comes out changed, such as a running mean."""
    return node(STATE, path=path, dtype=dtype, shape=counted(shape, "state"))


def local(index: int, dtype: DType, shape) -> Node:
    """An argument of the body of a scan, or of a custom gradient's rule."""
    return node(LOCAL, index=index, dtype=dtype, shape=counted(shape, "local"))


# --- constants ---------------------------------------------------------------------------------------------------


def _infer_constant(types, attrs) -> TensorType:
    check_count("constant", types, 0)
    if number(attrs["value"], attrs["dtype"]) != attrs["value"] and attrs["value"] == attrs["value"]:
        refuse(f"{attrs['value']} is not a value of {attrs['dtype']}")
    return TensorType(attrs["dtype"])


def _evaluate_constant(arrays, current, sizes):
    with np.errstate(all="ignore"):
        return np.asarray(current.attrs["value"], current.dtype.numpy)


def _sample_constant(rng):
    return [(constant(float(rng.standard_normal()), f64), []) for _ in range(20)]


CONSTANT = Primitive("constant", _infer_constant, _evaluate_constant, _nothing, _sample_constant)


def constant(value, dtype: DType) -> Node:
    """A scalar; a larger constant is a broadcast of it."""
    return node(CONSTANT, value=number(value, dtype), dtype=dtype)


def _infer_size(types, attrs) -> TensorType:
    check_count("size", types, 0)
    return TensorType(attrs["dtype"])


def _evaluate_size(arrays, current, sizes):
    return np.asarray(evaluate(current.attrs["dim"], sizes), current.dtype.numpy)


def _sample_size(rng):
    from ..types import Dim
    count = Dim.symbol("N")
    made = [a * count * count + b * count + c for a in (0, 1) for b in (1, 2) for c in range(5)]
    return [(size(dim, f64), []) for dim in made]


SIZE = Primitive("size", _infer_size, _evaluate_size, _nothing, _sample_size)


def size(dim: Size, dtype: DType) -> Node:
    """The value of a size as a scalar; a plain constant where the size is known."""
    if isinstance(dim, int):
        return constant(dim, dtype)
    return node(SIZE, dim=dim, dtype=dtype)


def _infer_iota(types, attrs) -> TensorType:
    check_count("iota", types, 0)
    check_shape("iota", attrs["shape"])
    check_axes("iota", (attrs["axis"],), len(attrs["shape"]))
    if attrs["dtype"].kind == "bool":
        refuse("iota counts, and cannot do so in booleans")
    return TensorType(attrs["dtype"], attrs["shape"])


def _evaluate_iota(arrays, current, sizes):
    shape = numbers(current.shape, sizes)
    axis = current.attrs["axis"]
    line = np.arange(shape[axis], dtype=current.dtype.numpy)
    return np.broadcast_to(line.reshape([-1 if a == axis else 1 for a in range(len(shape))]), shape)


def _sample_iota(rng):
    shapes = ((1,), (4,), (2, 3), (3, 1, 2), (1, 1, 5), (1, 2, 1, 3), (2, 2), (7, 1), (3, 3, 3))
    made = [iota(shape, axis, dtype) for shape in shapes for axis in range(len(shape)) for dtype in (f64, i32)]
    return [(each, []) for each in made]


IOTA = Primitive("iota", _infer_iota, _evaluate_iota, _nothing, _sample_iota)


def iota(shape, axis: int, dtype: DType = i32) -> Node:
    """A tensor whose elements are their positions along an axis."""
    return node(IOTA, shape=counted(shape, "iota"), axis=axis, dtype=dtype)


PRIMITIVES = (INPUT, PARAM, STATE, LOCAL, CONSTANT, SIZE, IOTA)
