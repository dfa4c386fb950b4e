"""Make digits.npz from the images that scikit-learn bundles; run it only to make that file anew.

    pip install scikit-learn
    python examples/make_digits.py

The file holds `x`, f32[1797, 64]: 8x8 grey images, row by row, scaled to 0..1; and `label`, i32[1797].
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits


def main() -> None:
    digits = load_digits()
    x = (digits.data / 16.0).astype(np.float32)
    label = digits.target.astype(np.int32)
    path = Path(__file__).with_name("digits.npz")
    np.savez_compressed(path, x=x, label=label)
    print(f"{path.name}: x {x.dtype}{list(x.shape)}, label {label.dtype}{list(label.shape)}, "
          f"{path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
