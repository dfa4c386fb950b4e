"""Where buffers lie in the arena."""

from __future__ import annotations

import random

import pytest

import netc
from netc.bench.models import ALL
from netc.compiler.memory import ALIGNMENT, live_bound, plan
from netc.compiler.schedule import Buffer
from netc.compiler.types import f32


def overlapping(spans, nbytes, offsets) -> list:
    """Pairs of buffers that live at one step and share memory."""
    found = []
    for one, (first, last) in spans.items():
        for other, (other_first, other_last) in spans.items():
            if one is not other and first <= other_last and other_first <= last \
                    and offsets[one] < offsets[other] + nbytes[other] and offsets[other] < offsets[one] + nbytes[one]:
                found.append((one, other))
    return found


@pytest.mark.parametrize("seed", range(40))
def test_what_lives_together_lies_apart(seed):
    rng = random.Random(seed)
    spans, nbytes = {}, {}
    for _ in range(rng.randint(1, 40)):
        buffer, first = Buffer(1, f32), rng.randint(0, 30)
        spans[buffer] = (first, first + rng.choice([0, 1, 2, 20]))
        nbytes[buffer] = rng.choice([4, 64, 100, 4096, 70_000])
    offsets, total = plan(spans, nbytes)
    assert not overlapping(spans, nbytes, offsets)
    assert all(offset % ALIGNMENT == 0 for offset in offsets.values())
    assert live_bound(spans, nbytes) <= max(offsets[buffer] + nbytes[buffer] for buffer in spans) <= total


def test_where_a_plan_by_size_leaves_a_hole_another_is_better():
    """The largest buffer would come first; when it is gone, two smaller ones leave a hole in its place."""
    spans_and_sizes = [((0, 1), 256), ((1, 3), 192), ((2, 3), 192), ((3, 5), 128)]
    buffers = [Buffer(size, f32) for _, size in spans_and_sizes]
    spans, nbytes = ({buffer: pair[which] for buffer, pair in zip(buffers, spans_and_sizes)} for which in range(2))
    offsets, total = plan(spans, nbytes)
    assert not overlapping(spans, nbytes, offsets) and total == live_bound(spans, nbytes) == 512


def test_nothing_needs_no_memory():
    assert plan({}, {}) == ({}, 0) and live_bound({}, {}) == 0


@pytest.mark.parametrize("name", ["inception", "two_images", "autoencoder", "ticket", "transformer", "vae", "gpt"])
def test_arenas_are_hardly_larger_than_they_must_be(name):
    """Copies and parts, which a step needs for itself, are among what lives at it."""
    model = ALL[name]
    compiled = netc.compile(model.path).program("step")
    seed = 0 if compiled.uses_seed else None
    _, sizes = compiled.slots_of(model.draw("training", 32), seed)
    binding = compiled.executable.bind(sizes)
    assert binding.arena_bytes <= 1.02 * binding.live_bytes
