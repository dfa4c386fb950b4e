"""Attention becomes one step of a GPU where nobody else reads its probabilities.  No GPU is needed to see that;
cuda_device.py runs some."""

from __future__ import annotations

import pytest

import netc
from netc.compiler.attribution import reads_and_writes
from netc.compiler.cost import cost_of
from netc.compiler.emit_cuda import emit_score
from netc.compiler.pipeline import compile_graph

HEAD = "net 1\nmodel M(q: f32[N, T, {d}], k: f32[N, S, {d}], v: f32[N, S, {c}]):\n"


def steps_of(body: str, d: int = 16, c: int = 8) -> tuple:
    lowered = netc.compile(HEAD.format(d=d, c=c) + body).lower("predict")
    return compile_graph(lowered.graph, lowered.layout, "cuda").steps


def labels(*arguments, **sizes) -> list[str]:
    return [step.label for step in steps_of(*arguments, **sizes)]


PLAIN = "    return softmax(q @ transpose(k, (0, 2, 1))) @ v\n"
SCALED = "    return softmax(where(q[:, :, :1] > 0, 2.0 * (q @ transpose(k, (0, 2, 1))), -3.0)) @ v\n"


@pytest.mark.parametrize("body", [PLAIN, SCALED])
def test_a_softmax_between_products_is_one_step(body):
    assert labels(body) == ["attention"]


@pytest.mark.parametrize("body, d, c", [
    ("    p = softmax(q @ transpose(k, (0, 2, 1)))\n    return p @ v, p\n", 16, 8),           # others read p
    ("    s = q @ transpose(k, (0, 2, 1))\n    return softmax(s) @ v, s\n", 16, 8),           # others read the scores
    ("    return exp(softmax(q @ transpose(k, (0, 2, 1)))) @ v\n", 16, 8),                    # no softmax any more
    (PLAIN, 65, 8), (PLAIN, 16, 65)])                                                         # too much for a block
def test_what_is_no_attention_stays_apart(body, d, c):
    found = labels(body, d, c)
    assert "attention" not in found and found.count("contract") + found.count("contract and map") == 2


def test_what_becomes_of_a_score_is_a_function_of_its_row_and_key():
    step, = steps_of(SCALED)
    source = emit_score(step.code, 10).text
    assert "score(" in source and source.splitlines()[-1] == "    return score" and "float32(2.0)" in source
    assert len(step.views) == 5         # q and k, v, the result, and q again for the condition


def test_an_attention_costs_its_products_and_no_scores():
    step, = steps_of(PLAIN)
    loaded, stored = reads_and_writes(step)
    assert (len(loaded), len(stored)) == (3, 1)
    found = cost_of(step, {"N": 2, "T": 3, "S": 5}, lambda name: 10)
    assert found.flops == 2 * 3 * 5 * (2 * 16 + 2 * 8 + 13) + 2 * 3 * 8
    assert found.loaded == 4 * 2 * (3 * 16 + 5 * 16 + 5 * 8) and found.stored == 4 * 2 * 3 * 8
