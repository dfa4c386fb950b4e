"""The order of what is computed: any that is right, and one that keeps little memory."""

from __future__ import annotations

from pathlib import Path

import pytest

import netc
from netc.compiler.fuse import fuse
from netc.compiler.group import groups
from netc.compiler.lower import is_map
from netc.compiler.pipeline import optimize

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
WIDTH, LAYERS = 32, 9
DENSE = f"""net 1
model Deep(x: f32[N, {WIDTH}]) -> f32[N, {WIDTH}]:
    return x{LAYERS * f" |> Dense({WIDTH}, tanh)"}

train Deep:
    input y: f32[N, {WIDTH}]
    loss error = mean(mean_squared_error(output, y))
    optimizer = sgd()
"""


def test_gradients_with_respect_to_weights_come_as_soon_as_they_can():
    """The layers' outputs are kept until the way back, where each is let go of with its gradient."""
    samples = 1000
    step = netc.compile(DENSE).program("step").executable
    values, weights = (LAYERS + 2) * WIDTH * samples, LAYERS * WIDTH * (WIDTH + 1)
    assert step.bind({"N": samples}).live_bytes <= 4 * (values + 2 * weights)


def test_large_weights_are_renewed_as_soon_as_their_gradients_are_known():
    """So that of nine gradients two are kept at a time, where all would be until the way back is done."""
    width, layers = 256, 9
    fn = netc.compile(f"net 1\nmodel Deep(x: f32[N, T, {width}]) -> f32[N, T, {width}]:\n"
                      f"    return x{layers * f' |> Dense({width}, tanh)'}\n\ntrain Deep:\n"
                      f"    input y: f32[N, T, {width}]\n    loss error = mean(mean_squared_error(output, y))\n"
                      "    optimizer = adam()\n")
    executable = fn.program("step").executable
    assert executable.bind({"N": 1, "T": 2}).live_bytes <= 2.5 * 4 * width * width
    assert {"weights", "optimizer/optimizer.m", "optimizer/optimizer.v"} <= executable.in_place


@pytest.mark.parametrize("activation, kept", [("gelu", 2), ("silu", 2), ("tanh", 1)])
def test_what_an_activation_and_its_gradient_share_is_computed_again(activation, kept):
    """Of each layer its product and its output are kept until the way back, or the output alone; beside them lie two
    gradients at a time."""
    samples = 1000
    step = netc.compile(DENSE.replace("tanh", activation)).program("step").executable
    values, weights = (kept * LAYERS + 3) * WIDTH * samples, LAYERS * WIDTH * (WIDTH + 1)
    assert step.bind({"N": samples}).live_bytes <= 4 * (values + 2 * weights)


@pytest.mark.parametrize("name", ["autoencoder", "inception", "ticket", "transformer", "two_images"])
def test_what_is_read_was_computed_before(name):
    graph = optimize(netc.compile(EXAMPLES / f"{name}.net").program("step").program.graph)
    fusion = fuse(graph.outputs)
    done = set()
    for group in groups(fusion, is_map):
        for member in group:
            waiting, seen = list(member.args), set()
            while waiting:
                operand = waiting.pop()
                if operand in fusion:
                    assert operand in done or operand in group
                elif operand not in seen:
                    seen.add(operand)
                    waiting += operand.args
        done.update(group)
    assert done == set(fusion.stored)


def test_gradients_of_branches_are_one_kernel():
    """Each is needed by another product, but all are made of the same values: parts of rows of a concatenation."""
    graph = optimize(netc.compile(EXAMPLES / "inception.net").program("step").program.graph)
    sizes = [len(group) for group in groups(fuse(graph.outputs), is_map) if group[0].shape[1:] == (16, 16, 10)]
    assert max(sizes) == 4
