"""The primitives: one record each in ``PRIMITIVES``, and a builder for each, named like it."""

from __future__ import annotations

from . import contract as _contract
from . import elementwise as _elementwise
from . import index as _index
from . import leaf as _leaf
from . import movement as _movement
from . import random as _random
from . import reduce as _reduce
from . import scan as _scan
from . import special as _special
from . import window as _window
from ..ir import Primitive

PRIMITIVES: dict[str, Primitive] = {
    record.name: record
    for module in (_leaf, _elementwise, _reduce, _movement, _contract, _window, _index, _scan, _random, _special)
    for record in module.PRIMITIVES
}

from .contract import Index, affine, contract, convolution, convolution_transpose, matmul, plain, product  # noqa: E402
from .elementwise import (abs, add, cast, ceil, cos, div, eq, erf, exp, expm1, floor, floordiv, ge, gt,  # noqa: E402
                          is_finite, le, like, log, log1p, logical_and, logical_not, logical_or, logical_xor, lt,
                          maximum, minimum, mod, mul, ne, neg, pow, round, rsqrt, scaled, sigmoid, sign, sin, sqrt,
                          sub, tanh, where)
from .index import gather, scatter_add  # noqa: E402
from .leaf import constant, input, iota, local, param, size, state  # noqa: E402
from .movement import broadcast, concat, filled, pad, reshape, reverse, slice, transpose  # noqa: E402
from .random import random_bits  # noqa: E402
from .reduce import argmax, argmin, reduce  # noqa: E402
from .scan import item, scan  # noqa: E402
from .special import custom, orthogonal, stop_gradient  # noqa: E402
from .window import window_argmax, window_put, window_take  # noqa: E402
