"""Figures of what is found for a query, and of the order in which candidates are put; without torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from feilun.tasks.metrics import Floats, Ints, Metric

DEPTH = 10  # places that count
CELLS = 4_000_000  # similarities in memory at a time


def nearest(queries: NDArray[np.float32], documents: NDArray[np.float32], itself: Ints | None = None) -> list[Ints]:
    """The numbers of the ``DEPTH`` nearest of D documents for each of N queries, nearest first, by scalar product.

    Never more than ``CELLS`` similarities are held. Of equally near ones that with the lower number is first.

    Args:
        itself: for each query the number of the document that it is itself, which is no answer to it.
    """
    found: list[Ints] = []
    most = min(DEPTH, len(documents))
    rows = max(1, CELLS // max(1, len(documents)))
    for start in range(0, len(queries), rows):
        near = queries[start : start + rows] @ documents.T
        if itself is not None:
            near[np.arange(len(near)), itself[start : start + rows]] = -np.inf
        least = np.partition(near, -most, axis=1)[:, -most]
        for one, bound in zip(near, least, strict=True):
            close = np.flatnonzero((one >= bound) & (one > -np.inf))
            found.append(close[np.argsort(-one[close], kind="stable")][:most])
    return found


def gains(found: Sequence[Ints], right: Sequence[Collection[int]]) -> list[Floats]:
    """1 for each document found that is right, else 0."""
    return [
        np.array([number in good for number in row.tolist()], np.float64)
        for row, good in zip(found, right, strict=True)
    ]


def figures(gains: Sequence[Floats], ideal: Sequence[Floats], counted: Floats) -> list[Metric]:
    """nDCG (Jarvelin and Kekalainen 2002) and mean reciprocal rank of the first ten places, and the share of queries
    whose first place is right.

    Args:
        gains: for each of N queries the gain (0: wrong) of what was found, best first.
        ideal: the highest gains that could have been found, in any order; a query that has none counts nowhere.
        counted: the weight of each query, (N,): 0 for one that stands there a second time.
    """
    got, best = _table(gains), _table([-np.sort(-one) for one in ideal])
    weight = counted * (best[:, 0] > 0)
    discount = 1 / np.log2(np.arange(DEPTH) + 2)
    right = got > 0
    first = np.where(right.any(1), 1 / (right.argmax(1) + 1), 0.0)
    return [
        _weighted(f"ndcg_at_{DEPTH}", _over(got @ discount, best @ discount), weight),
        _weighted(f"mrr_at_{DEPTH}", first, weight),
        _weighted("hit_at_1", right[:, 0].astype(np.float64), weight),
    ]


def recall(gains: Sequence[Floats], total: Ints, counted: Floats) -> Metric:
    """The share of a query's ``total`` right documents that is among the first ten."""
    found = (_table(gains) > 0).sum(1).astype(np.float64)
    return _weighted(f"recall_at_{DEPTH}", _over(found, total.astype(np.float64)), counted * (total > 0))


def _table(rows: Sequence[Floats]) -> Floats:
    """(N, DEPTH), filled with 0."""
    table = np.zeros((len(rows), DEPTH))
    for i, row in enumerate(rows):
        table[i, : min(DEPTH, len(row))] = row[:DEPTH]
    return table


def _weighted(name: str, values: Floats, weight: Floats) -> Metric:
    return Metric(name, np.stack([values * weight, weight], 1), _mean)


def _mean(sums: Floats) -> Floats:
    mean: Floats = np.divide(sums[..., 0], sums[..., 1], out=np.full_like(sums[..., 0], np.nan), where=sums[..., 1] > 0)
    return mean


def _over(part: Floats, whole: Floats) -> Floats:
    share: Floats = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return share
