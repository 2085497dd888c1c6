"""Figures of any number of labels a text; without torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from feilun.tasks.metrics import Floats, Metric, mean, numbers

Marks = NDArray[np.bool_]


def marks(labels: Sequence[Sequence[str]], known: Sequence[str]) -> Marks:
    """Which of C known labels each of N rows has, (N, C).

    Raises:
        DataError: the model does not know one of them.
    """
    found = np.zeros((len(labels), len(known)), np.bool_)
    column = numbers([label for row in labels for label in row], known)
    found[np.repeat(np.arange(len(labels)), [len(row) for row in labels]), column] = True
    return found


def figures(truth: Marks, answered: Marks) -> list[Metric]:
    """F1, precision and recall over all labels together (micro), mean F1 of the labels (macro), exact match, and the
    share of what is in either set that is in both (Jaccard; 1 where both are empty), from marks (N, C)."""
    hits, said, true = truth & answered, answered, truth
    together = np.stack([hits.sum(1), said.sum(1), true.sum(1)], 1).astype(np.float64)
    either = (truth | answered).sum(1)
    return [
        Metric("micro_f1", together, _f1),
        Metric("macro_f1", np.concatenate([hits, said, true], 1).astype(np.float64), _macro),
        Metric("micro_precision", together[:, [0, 1]], _part),
        Metric("micro_recall", together[:, [0, 2]], _part),
        mean("exact_match", (truth == answered).all(1)),
        mean("jaccard", np.where(either > 0, hits.sum(1) / np.maximum(either, 1), 1.0)),
    ]


def best_threshold(truth: Marks, scores: NDArray[np.float32]) -> float:
    """The one threshold for all labels at which the micro-F1 of N rows is highest; of equal ones the middle.

    >>> best_threshold(np.array([[True, False]]), np.array([[0.4, 0.1]], np.float32))
    0.25
    """
    flat, right = scores.ravel(), truth.ravel()
    order = np.argsort(-flat, kind="stable")
    hits, said = np.cumsum(right[order]), np.arange(1, flat.size + 1)
    f1 = 2 * hits / (said + right.sum())
    sorted_scores = flat[order].astype(np.float64)
    f1[:-1][sorted_scores[:-1] == sorted_scores[1:]] = -1  # equal scores are answered together
    last = int(f1.argmax())
    below = sorted_scores[last + 1] if last + 1 < flat.size else 0.0
    return float(np.round((sorted_scores[last] + below) / 2, 6))


def _f1(sums: Floats) -> Floats:
    return _share(2 * sums[..., 0], sums[..., 1] + sums[..., 2])


def _part(sums: Floats) -> Floats:
    return _share(sums[..., 0], sums[..., 1])


def _macro(sums: Floats) -> Floats:
    hits, said, true = np.split(sums, 3, -1)
    occurs = (said + true > 0).sum(-1)
    return _share(_share(2 * hits, said + true).sum(-1), occurs.astype(np.float64))


def _share(part: Floats, whole: Floats) -> Floats:
    share: Floats = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return share
