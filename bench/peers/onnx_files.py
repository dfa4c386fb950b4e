"""Getting an ONNX file for a model: what ONNX Runtime and OpenVINO share."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np


def planar(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Images as NCHW, contiguous; everything else as it is."""
    return {name: np.ascontiguousarray(array.transpose(0, 3, 1, 2)) if array.ndim == 4 else array
            for name, array in inputs.items()}


def interleaved(outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Images as NHWC again."""
    return {name: array.transpose(0, 2, 3, 1) if array.ndim == 4 else array for name, array in outputs.items()}


def onnx_file(model: str, weights: dict[str, np.ndarray], inputs: dict[str, np.ndarray]) -> bytes:
    """The serialised graph for inputs of these shapes, built by another process."""
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder, name) for name in ("weights.npz", "inputs.npz", "model.onnx")]
        np.savez(places[0], **weights)
        np.savez(places[1], **inputs)
        subprocess.run([sys.executable, "-m", f"{__package__}.onnx_graphs", model, *map(str, places)], check=True,
                       stdout=sys.stderr)
        return places[2].read_bytes()
