"""The models of the benchmark: a file each, and what goes in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

# Adam's settings, as the files have them.  Epsilon is next to nothing: Keras and PyTorch add it at different places.
RATE, BETA_1, BETA_2, EPSILON = 1e-4, 0.9, 0.999, 1e-12


@dataclass(frozen=True)
class Input:
    """An array of ``shape`` a sample: floats in [0, 1), integers below ``limit``, or 0.0 and 1.0 (``binary``)."""

    name: str
    shape: tuple[int, ...] = ()
    limit: int | None = None
    binary: bool = False
    target: bool = False        # only training takes it

    def draw(self, rng: np.random.Generator, batch: int) -> np.ndarray:
        shape = (batch, *self.shape)
        if self.limit is not None:
            return rng.integers(0, self.limit, shape).astype(np.int32)
        values = rng.random(shape, np.float32)
        return np.round(values) if self.binary else values


@dataclass(frozen=True)
class Model:
    name: str
    inputs: tuple[Input, ...]

    @property
    def path(self) -> Path:
        return Path(__file__).with_name(f"{self.name}.net")

    def draw(self, job: str, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
        """Random inputs for a job, equal for equal seeds."""
        rng = np.random.default_rng(seed)
        drawn = {given.name: given.draw(rng, batch) for given in self.inputs}
        return {given.name: drawn[given.name] for given in self.inputs if job == "training" or not given.target}


_IMAGE = (32, 32, 3)
_DIGIT = (28, 28, 1)

MODELS = {model.name: model for model in (
    Model("tiny", (Input("x", (3,)), Input("target", (1,), target=True))),
    Model("mlp", (Input("x", (784,)), Input("label", limit=10, target=True))),
    Model("inception", (Input("image", _IMAGE), Input("label", (1,), binary=True, target=True))),
    Model("two_images", (Input("first", _IMAGE), Input("second", _IMAGE),
                         Input("label", (1,), binary=True, target=True))),
    Model("autoencoder", (Input("image", _DIGIT),)),
    Model("ticket", (Input("title", (10,), 10_000), Input("body", (100,), 10_000), Input("tags", (12,), binary=True),
                     Input("urgent", (1,), binary=True, target=True), Input("share", (4,), target=True))),
    Model("transformer", (Input("source", (64, 256)), Input("target", (64, 256)),
                          Input("label", (64,), 64, target=True))),
    Model("vae", (Input("image", _DIGIT), Input("noise", (2,)))),
    Model("gpt", (Input("tokens", (64,), 256), Input("following", (64,), 256, target=True))),
)}
# Of netc alone, and only for what a first result takes: a first model, and so no other's kernels; and after all others
# new ones, of the kinds of layers that were in these.
FIRST = Model("digits", (Input("x", (64,)), Input("label", limit=10, target=True)))
NEW = {model.name: model for model in (
    Model("classifier", (Input("x", (100,)), Input("label", limit=10, target=True))),
    Model("convnet", (Input("image", _DIGIT), Input("label", limit=10, target=True))),
    Model("sentiment", (Input("words", (40,), 5000), Input("positive", (1,), binary=True, target=True))),
    Model("topics", (Input("words", (20,), 1000), Input("topic", limit=4, target=True))),
    Model("characters", (Input("text", (32,), 128), Input("following", (32,), 128, target=True))),
    Model("dense_vae", (Input("x", (784,)), Input("noise", (8,)))),
)}
ALL = {FIRST.name: FIRST, **MODELS, **NEW}
