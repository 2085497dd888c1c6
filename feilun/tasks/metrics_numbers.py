"""Figures of numbers against numbers; without torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from feilun.tasks.metrics import Floats, Metric, mean

NONE = 1e-12  # a variance below this, where that of the whole sample is 1, is rounding


def figures(truth: ArrayLike, answered: ArrayLike) -> list[Metric]:
    """Pearson's and Spearman's correlation, R2, mean absolute and root mean square error of N pairs of numbers."""
    right, said = np.asarray(truth, np.float64), np.asarray(answered, np.float64)
    return [
        correlation("pearson", right, said),
        correlation("spearman", ranks(right), ranks(said)),
        _r2(right, said),
        mean("mae", np.abs(right - said), higher_is_better=False),
        Metric("rmse", mean("", (right - said) ** 2).rows, _root, higher_is_better=False),
    ]


def correlation(name: str, first: Floats, second: Floats) -> Metric:
    """Pearson's correlation; NaN where the ``first``, the truth, never changes, 0 where only the second does not.

    Spearman's is that of ``ranks``: a resample keeps the ranks of the whole sample, so that it stays a formula of sums.
    """
    x, y = _standard(first), _standard(second)
    return Metric(name, np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], 1), _correlation)


def ranks(numbers: Floats) -> Floats:
    """The place of each number among all, from 1; equal ones share the mean of theirs.

    >>> ranks(np.array([5.0, 7.0, 5.0])).tolist()
    [1.5, 3.0, 1.5]
    """
    _, which, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    middle: Floats = np.cumsum(counts) - (counts - 1) / 2
    return middle[which]


def _standard(numbers: Floats) -> Floats:
    """Moved and stretched, which changes no correlation and keeps the sums of squares exact enough to subtract."""
    moved: Floats = numbers - numbers.mean()
    return moved / (moved.std() or 1.0)


def _r2(truth: Floats, answered: Floats) -> Metric:
    moved, unit = truth - truth.mean(), truth.std() or 1.0
    moved, wrong = moved / unit, (truth - answered) / unit
    return Metric("r2", np.stack([np.ones_like(moved), moved, moved**2, wrong**2], 1), _explained)


def _explained(sums: Floats) -> Floats:
    n, once, squares, wrong = np.moveaxis(sums, -1, 0)
    spread = squares - once**2 / np.maximum(n, 1)
    explained: Floats = 1 - np.divide(wrong, spread, out=np.full_like(wrong, np.nan), where=spread > NONE * n)
    return explained


def _root(sums: Floats) -> Floats:
    root: Floats = np.sqrt(sums[..., 0] / np.maximum(sums[..., 1], 1))
    return root


def _correlation(sums: Floats) -> Floats:
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    n = np.maximum(n, 1)
    first, second = np.maximum(xx - x * x / n, 0), np.maximum(yy - y * y / n, 0)
    found: Floats = np.where(first > NONE * n, 0.0, np.nan)
    there = (first > NONE * n) & (second > NONE * n)
    np.divide(xy - x * y / n, np.sqrt(first * second), out=found, where=there)
    return np.clip(found, -1, 1)
