"""Places along the rows: a quadratic program, least squares of what ought to be in line, under least distances.

Solved by a primal-dual interior-point method with dense matrices: a picture has some hundred unknowns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# (weight, one unknown, another, how far the second is to stand right of the first)
Pull = tuple[float, int, int, float]
# (one unknown, another, the least distance by which the second stands right of the first)
Distance = tuple[int, int, float]

STILL = 1e-7                # a weak pull of everything towards 0, so that the answer is one; the strongest pull is 1
ENOUGH = 1e-5               # what may be left of the conditions of the optimum: far less than a pixel
FIRM = 1e-12                # added to the diagonal, in parts of it, so that rounding leaves no matrix singular


def solve(count: int, pulls: Sequence[Pull], distances: Sequence[Distance],
          costs: Sequence[tuple[int, float]] = ()) -> np.ndarray:
    """The unknowns with the least sum of weight * (x[b] - x[a] - offset) ** 2 / 2, and of cost * x, that keep the
    distances.

    The distances must have no circle.
    """
    scale = max((weight for weight, *_ in pulls), default=1.0)
    hessian, slope = STILL * np.eye(count), np.zeros(count)
    for weight, a, b, offset in pulls:
        weight /= scale
        hessian[a, a] += weight
        hessian[b, b] += weight
        hessian[a, b] -= weight
        hessian[b, a] -= weight
        slope[a] += weight * offset
        slope[b] -= weight * offset
    for which, cost in costs:
        slope[which] += cost / scale
    if not distances:
        return np.linalg.solve(hessian, -slope)
    left, right, least = (np.array(column) for column in zip(*distances))
    x = _feasible(count, distances)
    slack = np.maximum(x[right] - x[left] - least, 1.0)
    price = np.ones(len(slack))
    for _ in range(100):
        residual = hessian @ x + slope
        np.add.at(residual, left, price)
        np.add.at(residual, right, -price)
        gap = x[right] - x[left] - slack - least
        mean = float(slack @ price) / len(slack)
        if max(mean, np.abs(residual).max(), np.abs(gap).max()) < ENOUGH:
            break
        step: tuple | None = None
        for _ in range(2):                                    # Mehrotra: look ahead, then correct
            target = slack * price
            if step is not None:
                reach = _longest(slack, step[1]), _longest(price, step[2])
                after = float((slack + reach[0] * step[1]) @ (price + reach[1] * step[2])) / len(slack)
                target = target + step[1] * step[2] - (after / mean) ** 3 * mean
            step = _step(hessian, left, right, residual, gap, slack, price, target)
        assert step is not None
        length = 0.99 * min(_longest(slack, step[1]), _longest(price, step[2]))
        x, slack, price = x + length * step[0], slack + length * step[1], price + length * step[2]
    return x


def _step(hessian, left, right, residual, gap, slack, price, target):
    """A Newton step for x, the slacks and the prices, towards slack * price - target = 0."""
    ratio = price / slack
    matrix = hessian.copy()
    np.add.at(matrix, (left, left), ratio)
    np.add.at(matrix, (right, right), ratio)
    np.add.at(matrix, (left, right), -ratio)
    np.add.at(matrix, (right, left), -ratio)
    matrix[np.diag_indices_from(matrix)] *= 1 + FIRM
    push = ratio * gap + target / slack
    vector = -residual.copy()
    np.add.at(vector, left, push)
    np.add.at(vector, right, -push)
    x = np.linalg.solve(matrix, vector)
    moved = x[right] - x[left] + gap
    return x, moved, -(target + price * moved) / slack


def _longest(value: np.ndarray, step: np.ndarray) -> float:
    """How far a step can go before something becomes negative, at most 1."""
    falling = step < 0
    return min(1.0, float((-value[falling] / step[falling]).min())) if falling.any() else 1.0


def _feasible(count: int, distances: Sequence[Distance]) -> np.ndarray:
    """Every unknown as far left as the distances let it."""
    out: list[list[tuple[int, float]]] = [[] for _ in range(count)]
    waiting = [0] * count
    for a, b, least in distances:
        out[a].append((b, least))
        waiting[b] += 1
    x, ready = np.zeros(count), [which for which in range(count) if not waiting[which]]
    for which in ready:
        for other, least in out[which]:
            x[other] = max(x[other], x[which] + least)
            waiting[other] -= 1
            if not waiting[other]:
                ready.append(other)
    if len(ready) != count:
        raise ValueError("distances that go in a circle")
    return x
