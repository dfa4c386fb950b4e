"""JAX: everything under jax.jit, Adam by hand, weights and moments donated to the step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ..models import BETA_1, BETA_2, EPSILON, RATE
from .jax_models import MODELS


def _device(arrays):
    return {name: jnp.asarray(array) for name, array in arrays.items()}


class Inference:
    def __init__(self, model: str, weights, inputs, threads: int):
        self.weights, self.inputs = _device(weights), _device(inputs)
        self.call = jax.jit(lambda w, x: MODELS[model][0](w, **x))

    def run(self):
        return jax.block_until_ready(self.call(self.weights, self.inputs))

    def outputs(self) -> dict[str, np.ndarray]:
        return {name: np.asarray(value) for name, value in self.run().items()}


class Training:
    def __init__(self, model: str, weights, inputs, threads: int):
        self.inputs = _device(inputs)
        w = _device(weights)
        self.state = w, jax.tree.map(jnp.zeros_like, w), jax.tree.map(jnp.zeros_like, w), jnp.zeros((), jnp.int32)

        def step(state, x):
            w, m, v, count = state
            loss, slope = jax.value_and_grad(lambda w: MODELS[model][1](w, **x))(w)
            count = count + 1
            t = count.astype(jnp.float32)
            alpha = RATE * jnp.sqrt(1 - BETA_2 ** t) / (1 - BETA_1 ** t)
            m = jax.tree.map(lambda m, g: m + (1 - BETA_1) * (g - m), m, slope)
            v = jax.tree.map(lambda v, g: v + (1 - BETA_2) * (g * g - v), v, slope)
            w = jax.tree.map(lambda w, m, v: w - alpha * m / (jnp.sqrt(v) + EPSILON), w, m, v)
            return loss, (w, m, v, count)
        self.step = jax.jit(step, donate_argnums=0)

    def run(self):
        loss, self.state = self.step(self.state, self.inputs)
        return jax.block_until_ready(loss)

    def first_gradient(self) -> dict[str, np.ndarray]:
        return {path: np.asarray(moment) / (1 - BETA_1) for path, moment in self.state[1].items()}
