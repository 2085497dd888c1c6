"""How sure a figure is: the same rows drawn again and again, with replacement (Efron 1979); without torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feilun.tasks.metrics import Floats, Metric

AT_ONCE = 4_000_000  # numbers in one block of draws, whatever the rows and the resamples are


def draws(metrics: Sequence[Metric], resamples: int, seed: int) -> list[Floats]:
    """Each metric's figures on ``resamples`` resamples, (R, ...).

    Metrics of equally many rows are counted on the very same draws, so that two models on the same rows can be
    compared pair by pair. Rows that several metrics share are summed once. Memory does not grow with R x N.

    >>> from feilun.tasks.metrics import mean
    >>> drawn = draws([mean("accuracy", [1, 1, 1, 0])], resamples=1000, seed=0)[0]
    >>> drawn.shape, bool(0.7 < drawn.mean() < 0.8)
    ((1000,), True)
    """
    found: list[list[Floats]] = [[] for _ in metrics]
    for n in dict.fromkeys(m.rows.shape[0] for m in metrics):
        chosen = [i for i, m in enumerate(metrics) if m.rows.shape[0] == n]
        rows = {id(metrics[i].rows): metrics[i].rows for i in chosen}
        widest = max(r.shape[1] for r in rows.values())
        for weights in _weights(n, resamples, max(1, AT_ONCE // max(n, widest)), seed):
            sums = {key: np.asarray(weights @ r) for key, r in rows.items()}
            for i in chosen:
                found[i].append(np.asarray(metrics[i].value(sums[id(metrics[i].rows)]), np.float64))
    return [np.concatenate(parts) for parts in found]


def interval(drawn: NDArray[Any]) -> tuple[float, float] | None:
    """The 95 % percentile interval of figures (R,); resamples that say nothing (NaN) are left out.

    None where none of them says anything.
    """
    told = drawn[np.isfinite(drawn)]
    if not told.size:
        return None
    low, high = np.percentile(told, [2.5, 97.5])
    return float(low), float(high)


def p_value(differences: NDArray[Any]) -> float | None:
    """Two-sided: how often resampled differences (R,) reach 0 or beyond; at least 2 / (R + 1).

    Resamples that say nothing (NaN) are evidence of nothing: they are left out. None where no other is left.

    >>> p_value(np.array([0.1] * 99 + [np.nan] * 400))
    0.02
    """
    told = differences[np.isfinite(differences)]
    if not told.size:
        return None
    side = min((told <= 0).sum(), (told >= 0).sum())
    return float(min(1.0, 2 * (side + 1) / (told.size + 1)))


def _weights(n: int, resamples: int, most: int, seed: int) -> Iterator[Floats]:
    """How often each of n rows is drawn, (at most ``most``, n) at a time."""
    random = np.random.default_rng(seed)
    for start in range(0, resamples, most):
        size = min(most, resamples - start)
        picks = random.integers(0, n, (size, n)) + np.arange(size)[:, None] * n
        yield np.bincount(picks.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
