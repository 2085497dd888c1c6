"""A power law through measured errors: error = a + b n^-c (Hestness et al. 2017, arXiv 1712.00409)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
STEEPNESS = np.geomspace(0.05, 2.0, 24)  # of the law, c: where data of one kind is added it has been 0.05 to 1
RESAMPLES = 2000


@dataclass(frozen=True)
class Law:
    """R laws at once, (R,) each: a is what no data takes away, b n^-c what n rows leave."""

    a: Floats
    b: Floats
    c: Floats

    def at(self, rows: float) -> Floats:
        """The error with so many rows, (R,)."""
        found: Floats = self.a + self.b * rows**-self.c
        return found


def fit(rows: Floats, errors: Floats, least: float = 0.0) -> Law:
    """The laws with the least squares through N points each: of each c tried, the best a and b are known in one step.

    Args:
        rows: (N,) how many rows each model learned from.
        errors: (R, N).
        least: a is not below this: no error is negative.

    >>> n = np.array([100.0, 200, 400, 800])
    >>> law = fit(n, (0.1 + 3 * n**-0.5)[None])
    >>> [round(float(x[0]), 1) for x in (law.a, law.b, law.c)]
    [0.1, 3.0, 0.5]
    """
    scale = rows.max()
    lowest, found = np.full(len(errors), np.inf), np.zeros((3, len(errors)))

    def look(steepness: Floats) -> None:
        nonlocal lowest
        squares, law = _given(steepness, rows / scale, errors, least)
        better = squares < lowest
        found[:, better] = law[:, better]
        lowest = np.where(better, squares, lowest)

    for c in STEEPNESS:
        look(np.full(len(errors), c))
    width = STEEPNESS[1] / STEEPNESS[0]
    for _ in range(4):  # then ever closer around the best of those
        around = found[2].copy()
        for power in (-0.75, -0.5, -0.25, 0.25, 0.5, 0.75):
            look(around * width**power)
        width **= 0.25
    a, b, c = found
    return Law(a, b * scale**c, c)


def _given(c: Floats, shares: Floats, errors: Floats, least: float) -> tuple[Floats, Floats]:
    """Squares (R,), and a, b, c (3, R) of the best laws of these steepnesses (R,), by shares of the most rows (N,)."""
    x = shares ** -c[:, None]
    mean, middle = errors.mean(1), x.mean(1)
    centred = x - middle[:, None]
    b = np.maximum(0.0, (errors * centred).sum(1) / (centred * centred).sum(1))
    a = mean - b * middle
    low = a < least
    floor = least if np.isfinite(least) else 0.0
    b = np.where(low, np.maximum(0.0, ((errors - floor) * x).sum(1) / (x * x).sum(1)), b)
    a = np.where(low, floor, a)
    return ((errors - a[:, None] - b[:, None] * x) ** 2).sum(1), np.stack([a, b, c])


def draws(rows: Floats, errors: Floats, seed: int, *, least: float = 0.0) -> tuple[Law, Law]:
    """The law of N points, and those of resamples of them: how sure is it?

    The residual bootstrap: the law's own points plus what the measured ones were off, drawn anew, widened by
    sqrt(N / (N - 3)) for the three numbers that were fitted. It says how far chance in rows, seeds and held-out texts
    moves the law; not what happens where the data's law is no power law.

    Args:
        rows: (N,) with N > 3.
        errors: (N,).
    """
    law = fit(rows, errors[None], least)
    expected = law.a[0] + law.b[0] * rows ** -law.c[0]
    off = (errors - expected) * np.sqrt(len(rows) / (len(rows) - 3))
    random = np.random.default_rng(seed)
    drawn = expected + (off - off.mean())[random.integers(0, len(rows), (RESAMPLES, len(rows)))]
    return law, fit(rows, drawn, least)


def band(value: float, drawn: Floats) -> dict[str, Any]:
    """A figure with its 95 % percentile interval, which always holds it."""
    low, high = (float(end) for end in np.percentile(drawn, [2.5, 97.5]))
    return {"value": value, "low": min(low, value), "high": max(high, value)}
