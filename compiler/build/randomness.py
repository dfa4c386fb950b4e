"""Random numbers: counter-based bits, named by the path of the draw, made uniform or normal."""

from __future__ import annotations

import math

from .. import ops
from ..ir import Node
from .builtins import shape_of
from .values import Builtin, Parameter, is_tensor


def _bits(build, shape) -> Node:
    seed = build.seed if build.initial_path is not None else build.scan_seed()
    return ops.random_bits(seed, shape, build.stream())


def uniform_unit(build, shape) -> Node:
    """Uniform on [0, 1), 24 bits."""
    bits = ops.cast(_bits(build, shape), build.precision)
    return build.arithmetic.binary("mul", bits, 2.0 ** -24)


def normal_unit(build, shape) -> Node:
    """Standard normal, by Box and Muller: the first uniform is shifted to (0, 1], so that its logarithm is finite."""
    arithmetic = build.arithmetic
    bits = ops.cast(_bits(build, shape), build.precision)
    first = arithmetic.binary("mul", arithmetic.binary("add", bits, 1.0), 2.0 ** -24)
    radius = arithmetic.unary("sqrt", arithmetic.binary("mul", arithmetic.unary("log", first), -2.0))
    angle = arithmetic.binary("mul", uniform_unit(build, shape), 2.0 * math.pi)
    return arithmetic.binary("mul", radius, arithmetic.unary("cos", angle))


def random_uniform(build, shape, low=0.0, high=1.0):
    unit = uniform_unit(build, shape_of(shape))
    if not is_tensor(low) and not is_tensor(high) and (low, high) == (0.0, 1.0):
        return unit
    width = build.arithmetic.binary("sub", high, low)
    return build.arithmetic.binary("add", build.arithmetic.binary("mul", unit, width), low)


def random_normal(build, shape, mean=0.0, stddev=1.0):
    value = normal_unit(build, shape_of(shape))
    if is_tensor(stddev) or stddev != 1.0:
        value = build.arithmetic.binary("mul", value, stddev)
    return build.arithmetic.binary("add", value, mean) if is_tensor(mean) or mean != 0.0 else value


BUILTINS = {
    "random_uniform": Builtin("random_uniform", (Parameter("shape"), Parameter("low", 0.0, False),
                                                 Parameter("high", 1.0, False)), False, random_uniform),
    "random_normal": Builtin("random_normal", (Parameter("shape"), Parameter("mean", 0.0, False),
                                               Parameter("stddev", 1.0, False)), False, random_normal),
}
