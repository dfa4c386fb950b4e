"""Arrays that begin with a cache line."""

from __future__ import annotations

import numpy as np
import pytest

import netc
from netc.runtime.addresses import LEAST_BYTES, LINE, address_of, aligned, aligned_copy


@pytest.mark.parametrize("shape", [(0,), (), (3,), (1024,), (1025,), (77, 31), (4, 0, 9), (5, 6, 7, 8)])
@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "?"])
def test_an_aligned_array_is_as_any_other(shape, dtype):
    array = aligned(shape, dtype)
    assert array.shape == shape and array.dtype == dtype and array.flags.c_contiguous and array.flags.writeable
    assert array.nbytes < LEAST_BYTES or address_of(array) % LINE == 0
    array[...] = 1
    assert (array == 1).all()


def test_a_copy_has_its_own_memory_in_row_major_order():
    for array in (np.arange(6000.0), np.arange(6000.0).reshape(60, 100).T, np.arange(12000)[::2], np.array(3.5)):
        copy = aligned_copy(array)
        assert copy.flags.c_contiguous and not np.shares_memory(copy, array) and (copy == array).all()
    assert aligned_copy(np.arange(6000.0), "f4").dtype == "f4"


def test_weights_and_what_is_trained_of_them_begin_with_a_line():
    fn = netc.compile("net 1\nmodel M(x: f32[N, 60]) -> (y: f32[N, 40]):\n    y = Dense(40)(x)\ntrain M:\n"
                      "    input t: f32[N, 40]\n    loss error = mean((y - t) ** 2)\n    optimizer = adam(0.1)\n")
    weights = fn.init(seed=0)
    trainer = fn.trainer(weights)
    trainer(x=np.zeros((2, 60), "f4"), t=np.zeros((2, 40), "f4"))
    new, state, _ = fn.step(weights, fn.init_optimizer(), {"x": np.zeros((2, 60), "f4"), "t": np.zeros((2, 40), "f4")})
    for array in (weights.flat, new.flat, state["optimizer.m"], *trainer._current.values(),
                  *fn.bind(weights)._slots.values()):
        assert array.nbytes < LEAST_BYTES or address_of(array) % LINE == 0
