"""How close is equal: the one table of tolerances for comparisons with Keras, and how errors are measured."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

# (what, precision of the arithmetic): (largest error, why not smaller)
TOLERANCES = {
    ("forward", "f64"): (
        1e-12,
        "sums of at most some hundred products in another order: about sqrt(n) * 2^-53, with room",
    ),
    ("gradient", "f64"): (1e-11, "as forward, through every operation twice; a variance of few numbers loses a digit"),
    ("forward", "f32"): (
        1e-5,
        "2^-24 = 6e-8 a rounding; a sum of n products in another order is off by about sqrt(n) of them",
    ),
    ("gradient", "f32"): (
        1e-4,
        "as forward, with sums over the batch and all places, and differences of near-equal numbers",
    ),
    ("state", "f32"): (1e-5, "running means: as forward"),
    ("state", "f64"): (1e-12, "running means: as forward"),
    ("losses", "f64"): (1e-12, "50 steps feed each error into the next, and the losses fall from what they began with"),
    ("losses", "f32"): (1e-4, "the same in f32, where adam divides by roots of moments that start at rounding error"),
}
# (row of the tables, what, precision): where the oracle itself is off
EXCEPTIONS = {
    ("softplus", "forward", "f64"): (1e-10, "PyTorch's softplus is x above 20, which leaves out e^-20 = 2e-9"),
    ("softplus", "gradient", "f64"): (1e-8, "the same: its slope is 1 there"),
    ("log_cosh", "forward", "f64"): (1e-10, "it is made of that softplus"),
    ("log_cosh", "gradient", "f64"): (1e-8, "it is made of that softplus"),
    ("hard_sigmoid", "gradient", "f64"): (1e-7, "PyTorch multiplies by 1/6 in float32"),
}


def tolerance(what: str, precision: str, row: str = "") -> float:
    return EXCEPTIONS.get((row, what, precision), TOLERANCES[what, precision])[0]


def relative_error(found: np.ndarray, expected: np.ndarray, scale: float = 0.0) -> float:
    """The largest difference over the largest expected number.

    Element by element it would say nothing: where terms cancel, a result near 0 has no correct digits in any library.
    ``scale`` is a floor for the divisor: where the exact answer is 0, both are rounding errors of what cancelled.
    """
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape, f"shape {found.shape}, expected {expected.shape}"
    assert np.isfinite(found).all() == np.isfinite(expected).all(), "one is finite and the other is not"
    if not found.size:
        return 0.0
    largest = max(float(np.abs(expected).max()), scale)
    return float(np.abs(found - expected).max()) / largest if largest else float(np.abs(found).max())


class Errors:
    """The worst error of every row, for the table that ``pytest --errors`` prints at its end."""

    def __init__(self):
        self.rows: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
        self.counts: dict[tuple[str, str], int] = defaultdict(int)

    def add(self, table: str, row: str, column: str, error: float) -> None:
        errors = self.rows[table, row]
        errors[column] = max(errors.get(column, 0.0), error)

    def count(self, table: str, row: str, number: int = 1) -> None:
        self.counts[table, row] += number

    def format(self) -> str:
        """The tables as Markdown: a row's worst errors, and over how many settings."""
        lines = []
        for table in dict.fromkeys(table for table, _ in self.rows):
            rows = {row: errors for (name, row), errors in self.rows.items() if name == table}
            columns = list(dict.fromkeys(column for errors in rows.values() for column in errors))
            lines += ["", f"| {table} | settings | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
            lines += [
                f"| {row} | {self.counts[table, row]} | "
                + " | ".join(f"{errors[column]:.1e}" if column in errors else "" for column in columns)
                + " |"
                for row, errors in rows.items()
            ]
        return "\n".join(lines)


ERRORS = Errors()
