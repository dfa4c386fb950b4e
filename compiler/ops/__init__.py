"""The primitives: one record each in ``PRIMITIVES``, and a builder for each, named like it."""

from __future__ import annotations

from ..ir import Primitive
from . import (
    contract as _contract,
    elementwise as _elementwise,
    index as _index,
    leaf as _leaf,
    movement as _movement,
    random as _random,
    reduce as _reduce,
    scan as _scan,
    special as _special,
    window as _window,
)

PRIMITIVES: dict[str, Primitive] = {
    record.name: record
    for module in (_leaf, _elementwise, _reduce, _movement, _contract, _window, _index, _scan, _random, _special)
    for record in module.PRIMITIVES
}

from .contract import Index, affine, contract, convolution, convolution_transpose, matmul, plain, product
from .elementwise import (
    abs,
    add,
    cast,
    ceil,
    cos,
    div,
    eq,
    erf,
    exp,
    expm1,
    floor,
    floordiv,
    ge,
    gt,
    is_finite,
    le,
    like,
    log,
    log1p,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    lt,
    maximum,
    minimum,
    mod,
    mul,
    ne,
    neg,
    pow,
    round,
    rsqrt,
    scaled,
    sigmoid,
    sign,
    sin,
    sqrt,
    sub,
    tanh,
    where,
)
from .index import gather, scatter_add
from .leaf import constant, input, iota, local, param, size, state
from .movement import broadcast, concat, filled, pad, reshape, reverse, slice, transpose
from .random import random_bits
from .reduce import argmax, argmin, reduce
from .scan import item, scan
from .special import custom, orthogonal, stop_gradient
from .window import window_argmax, window_put, window_take
