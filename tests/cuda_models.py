"""The examples in sizes that a simulator of a GPU can bear: the same layers, losses and optimisers, narrower and on
smaller images."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np

EXAMPLES = Path(__file__).parents[1] / "examples"
INCEPTION = {"32, 32, 3": "6, 6, 3", "Inception(10, (10, 10), (10, 10), 10": "Inception(2, (2, 3), (1, 2), 2",
             "Inception(40, (40, 40), (40, 40), 40": "Inception(2, (2, 2), (2, 2), 3",
             "100": "4", "Dense(20": "Dense(3", "16, 16, 40": "3, 3, 9", "8, 8, 160": "2, 2, 9"}
# What is replaced in the text of an example.
SMALLER = {
    "autoencoder": {"28, 28": "19, 19", "(16, 3": "(2, 3", "(32, 3": "(3, 3", "f32[N, 16]": "f32[N, 2]",
                    "Reshape(4, 4, 1)": "Reshape(1, 1, 2)"},
    "classifier": {},
    "conv_dense": {"28, 28, 3": "6, 6, 3", "Conv2D(16": "Conv2D(3"},
    "digits": {"64": "6", "128": "7"},
    "gpt": {"longest = 128": "longest = 8", "words: int = 256": "words: int = 11", "width: int = 64": "width: int = 8",
            "depth: int = 2": "depth: int = 1", "heads: int = 4": "heads: int = 2", "4 * width": "2 * width"},
    "gradient_ascent": {"32, 32, 3": "10, 10, 3", "13, 13, 16": "2, 2, 3", "Conv2D(8": "Conv2D(2",
                        "Conv2D(16": "Conv2D(3", "2:-2, 2:-2": ":, :"},
    "gru": {"1_000": "11", "tags: int = 12": "tags: int = 3", "32": "4"},
    "inception": INCEPTION,
    "instrumented": INCEPTION,
    "pure_mlp": {},
    "resnet": {"32, 32, 3": "6, 6, 3", "depth: int = 3": "depth: int = 1", "(16, 32, 64)": "(2, 3)"},
    "sequential": {},
    "shared_dense": {"1000": "20", "100": "5"},
    "subclassed": {"32": "6", "64": "7"},
    "ticket": {"10_000": "20", "64": "4", "128": "5", "32)": "3)"},
    "transformer": {"words = 2_000": "words = 11", "width = 64": "width = 8", "longest = 32": "longest = 8",
                    "depth: int = 2": "depth: int = 1", "heads: int = 4": "heads: int = 2", "4 * width": "2 * width"},
    "two_images": INCEPTION,
    "unet": {"64, 64, 1": "4, 4, 1", "(8, 16, 32)": "(2, 3)"},
    "vae": {"28, 28": "4, 4", "7 * 7 * 64": "1 * 1 * 4", "Reshape(7, 7, 64)": "Reshape(1, 1, 4)", "(64, 3": "(3, 3",
            "(32, 3": "(2, 3"},
    "weights": {"784": "30"},
}
BATCH, OTHER_SIZES = 2, 3


def smaller(name: str) -> str:
    """The text of an example with its sizes reduced."""
    text = (EXAMPLES / f"{name}.net").read_text(encoding="utf-8")
    for old, new in SMALLER[name].items():
        assert old in text or SMALLER[name] is INCEPTION, f"{name}: {old!r}"
        text = re.sub(rf"(?<![\w.]){re.escape(old)}(?!\d)" if old[0].isdigit() else re.escape(old), new, text)
    return text


def write(folder: Path, name: str) -> Path:
    """A file of it, with what it imports beside it."""
    shutil.copy(EXAMPLES / "inception_block.net", folder)
    path = folder / f"{name}.net"
    path.write_text(smaller(name), encoding="utf-8")
    return path


def batch_for(fn, program: str) -> dict[str, np.ndarray]:
    from netc.profiling import random_inputs
    signature = fn.program(program).signature
    names = {symbol for type_ in signature.types.values() for size in type_.shape if not isinstance(size, int)
             for symbol in size.symbols}
    return random_inputs(signature, BATCH, {name: OTHER_SIZES for name in names if name != signature.batch})


def weights_for(fn):
    """Weights of which no layer is dead and none is the same as another."""
    rng = np.random.default_rng(0)
    w = fn.init(1)
    return w.replace({path: value + rng.uniform(-0.1, 0.2, value.shape).astype(value.dtype) for path, value in w.items()
                      if value.dtype.kind == "f"})
