"""Which products ask for their operands before they need them, and that it changes no bit."""

from __future__ import annotations

import numpy as np
import pytest

import netc
from netc.compiler import pipeline
from netc.compiler.ahead import asks_ahead
from netc.compiler.schedule import Product
from netc.compiler.types import evaluate, product

SOURCE = """net 1

model M(image: f32[N, 16, 16, 3]) -> (y: f32[N, 4]):
    y = image |> Conv2D(12, 3, padding = same, activation = elu) |> Flatten() |> Dense(64, tanh) |> Dense(4)

train M:
    input t: f32[N, 4]
    loss square = mean((y - t) ** 2)
    optimizer = adam(lr = 1e-2)
"""


@pytest.fixture
def asked(monkeypatch) -> dict[Product, bool]:
    """What each product was told."""
    told: dict[Product, bool] = {}

    def ask(matrix: Product) -> bool:
        told[matrix] = asks_ahead(matrix)
        return told[matrix]
    monkeypatch.setattr(pipeline, "asks_ahead", ask)
    return told


def one_step(fn: netc.Function):
    rng = np.random.default_rng(0)
    batch = {"image": rng.normal(size=(9, 16, 16, 3)).astype("f4"), "t": rng.normal(size=(9, 4)).astype("f4")}
    return fn.step(fn.init(seed=1), fn.init_optimizer(), batch)


def test_far_and_long_operands_are_asked_for(asked):
    one_step(netc.compile(SOURCE))
    def sizes_of(matrix: Product) -> tuple:
        """Rows, terms and columns for a single sample."""
        return tuple(evaluate(product(sizes), {"N": 1}) for sizes in (
            [matrix.row_count], [extent.size for extent in matrix.sums], [matrix.columns]))
    asks = {sizes_of(matrix): is_asking for matrix, is_asking in asked.items()}
    assert asks[27, 256, 12], "the kernel's gradient sums over pixels"
    assert asks[1, 3072 // 4, 64], "the large kernel of a dense layer is used by few rows; its sum is cut in four"
    assert not asks[256, 27, 12], "pixels are many and lie side by side"
    assert not asks[3072, 1, 64], "few samples are summed"
    assert not asks[1, 64, 4], "the last kernel stays in the cache"


def test_asking_changes_no_bit(monkeypatch):
    weights, _, losses = one_step(netc.compile(SOURCE))
    monkeypatch.setattr(pipeline, "asks_ahead", lambda matrix: False)
    others, _, other_losses = one_step(netc.compile(SOURCE))
    np.testing.assert_array_equal(weights.flat, others.flat)
    assert losses == other_losses
