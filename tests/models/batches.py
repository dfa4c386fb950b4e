"""Every model of the examples that is compared with Keras, with a small batch of data for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

import netc

EXAMPLES = Path(__file__).parents[2] / "examples"
SEED = 3                    # of what a random model draws


@dataclass(frozen=True, eq=False)
class Case:
    """One model of an example.  ``makers``: by the name of an input or target, a function of a generator.

    ``drawn`` names inner values that the model draws at random: a batch holds them too, as drawn under ``SEED``.
    """

    example: str
    makers: dict[str, Callable]
    model: str | None = None
    settings: dict = field(default_factory=dict)
    drawn: tuple[str, ...] = ()

    @cache
    def function(self) -> netc.Function:
        return self.compile()

    def compile(self, **options) -> netc.Function:
        return netc.compile(EXAMPLES / f"{self.example}.net", **{"model": self.model, "settings": self.settings}
                            | options)

    @cache
    def weights(self) -> netc.Weights:
        """Weights of which none is 0 or 1 and hides another; running variances stay positive."""
        w = self.function().init(0)
        rng = np.random.default_rng(0)
        return w.replace({path: value + rng.uniform(-0.2, 0.2, value.shape) for path, value in w.items()
                          if np.isin(value, (0, 1)).all()})

    @cache
    def batch(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(1)
        batch = {name: make(rng) for name, make in self.makers.items()}
        if self.drawn:
            drawing = self.compile(outputs=[*self.drawn, *self.function().outputs])
            values = drawing(drawing.init(), self.of(drawing.inputs, batch), seed=SEED)
            batch |= dict(zip(self.drawn, values))
        return batch

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        return self.of(self.function().inputs, self.batch())

    @property
    def data(self) -> dict[str, np.ndarray]:
        """Inputs and targets: what a step of training takes."""
        return self.of([*self.function().inputs, *self.function().targets], self.batch())

    @property
    def seed(self) -> dict:
        """The seed as an argument, where the model takes one."""
        return {"seed": SEED} if self.function().model.uses_seed else {}

    @staticmethod
    def of(names, batch):
        return {name: batch[name] for name in names}

    def outputs(self, weights: netc.Weights | None = None) -> list[np.ndarray]:
        result = self.function()(weights or self.weights(), self.inputs, **self.seed)
        return list(result) if isinstance(result, tuple) else [result]


def normal(*shape):
    return lambda rng: rng.normal(size=shape).astype(np.float32)


def uniform(*shape):
    return lambda rng: rng.random(shape).astype(np.float32)


def integers(high, *shape):
    return lambda rng: rng.integers(0, high, shape).astype(np.int32)


def binary(*shape):
    return lambda rng: rng.integers(0, 2, shape).astype(np.float32)


def padded(high, *shape):
    """Word numbers, 0 (padding) from the middle of the second row on."""
    def make(rng):
        words = rng.integers(1, high, shape).astype(np.int32)
        words[1, shape[1] // 2:] = 0
        return words
    return make


IMAGE, LABEL = uniform(3, 32, 32, 3), binary(3, 1)
CASES = {
    "pure_mlp": Case("pure_mlp", {"x": normal(5, 3), "target": normal(5, 1)}),
    "conv_dense": Case("conv_dense", {"image": normal(3, 28, 28, 3), "label": integers(10, 3)}),
    "sequential": Case("sequential", {"x": normal(4, 10), "label": binary(4, 1)}),
    "functional": Case("sequential", {"input": normal(4, 10)}, "Functional"),
    "weights_large": Case("weights", {"x": normal(4, 784)}, "Large"),
    "weights_linear": Case("weights", {"x": normal(4, 2)}, "Linear"),
    "weights_binary": Case("weights", {"x": uniform(4, 2), "label": binary(4, 1)}),
    "classifier": Case("classifier", {"x": normal(6, 3), "label": integers(5, 6)}),
    "ticket": Case("ticket", {"title": integers(10_000, 4, 5), "body": integers(10_000, 4, 7), "tags": binary(4, 12),
                              "priority_target": uniform(4, 1), "department_target": binary(4, 4)}),
    "autoencoder": Case("autoencoder", {"img": uniform(3, 28, 28, 1)}),
    "transformer": Case("transformer", {"source": padded(2_000, 3, 7), "target": padded(2_000, 3, 5),
                                        "next": padded(2_000, 3, 5)},
                        settings={"rate": 0.0}),
    "vae": Case("vae", {"image": uniform(3, 28, 28, 1)}, drawn=("noise",)),
    "gradient_ascent": Case("gradient_ascent", {"image": IMAGE, "label": LABEL}),
    "subclassed": Case("subclassed", {"first": normal(4, 32), "second": normal(4, 32), "target": normal(4, 10)}),
    "subclassed_mlp": Case("subclassed", {"x": normal(4, 32)}, "MLP"),
    "subclassed_mistake": Case("subclassed", {"first": normal(4, 32), "second": normal(4, 32)}, "Mistake"),
    "inception": Case("inception", {"image": IMAGE, "label": LABEL}),
    "inception_pooled": Case("inception", {"image": IMAGE, "label": LABEL}, settings={"global_pool": True}),
    "two_images": Case("two_images", {"first": IMAGE, "second": IMAGE, "same_object": LABEL}),
    "shared_dense": Case("shared_dense", {"first": normal(4, 1000), "second": normal(4, 1000), "same": binary(4, 1)}),
    "instrumented": Case("instrumented", {"image": IMAGE, "label": LABEL}),
    "resnet": Case("resnet", {"image": IMAGE, "label": integers(10, 3)}),
    "gpt": Case("gpt", {"text": integers(256, 3, 9)}, settings={"rate": 0.0}),
    "gru": Case("gru", {"text": padded(1_000, 3, 6), "tag": integers(12, 3, 6)}),
    "unet": Case("unet", {"image": uniform(2, 64, 64, 1), "target": binary(2, 64, 64, 1)}),
}
