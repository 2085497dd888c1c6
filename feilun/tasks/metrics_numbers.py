"""Figures of numbers against numbers; without torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from feilun.tasks.metrics import Floats, Metric, mean


def figures(truth: ArrayLike, answered: ArrayLike) -> list[Metric]:
    """R2, mean absolute and root mean square error, Pearson's and Spearman's correlation of N pairs of numbers."""
    right, said = np.asarray(truth, np.float64), np.asarray(answered, np.float64)
    return [
        _r2(right, said),
        mean("mae", np.abs(right - said), higher_is_better=False),
        Metric("rmse", mean("", (right - said) ** 2).rows, _root, higher_is_better=False),
        correlation("pearson", right, said),
        correlation("spearman", ranks(right), ranks(said)),
    ]


def correlation(name: str, first: Floats, second: Floats) -> Metric:
    """Pearson's correlation; 0 where one of the two never changes.

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
    moved = truth - truth.mean()
    return Metric("r2", np.stack([np.ones_like(moved), moved, moved**2, (truth - answered) ** 2], 1), _explained)


def _explained(sums: Floats) -> Floats:
    n, once, squares, wrong = np.moveaxis(sums, -1, 0)
    spread = squares - once**2 / np.maximum(n, 1)
    explained: Floats = 1 - np.divide(wrong, spread, out=np.ones_like(wrong), where=spread > 1e-12 * np.maximum(n, 1))
    return explained


def _root(sums: Floats) -> Floats:
    root: Floats = np.sqrt(sums[..., 0] / np.maximum(sums[..., 1], 1))
    return root


def _correlation(sums: Floats) -> Floats:
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    n = np.maximum(n, 1)
    both = (xx - x * x / n) * (yy - y * y / n)
    root = np.sqrt(np.maximum(both, 0))
    found: Floats = np.divide(xy - x * y / n, root, out=np.zeros_like(xy), where=root > 1e-9 * n)
    return np.clip(found, -1, 1)
