"""Figures of answers that are one label with a score for each; without torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feilun.tasks import metrics
from feilun.tasks.metrics import BINS, Floats, Ints, Metric

TINY = 1e-7  # a probability below this counts as this: one row must not decide the log loss
Curve = Callable[[NDArray[np.bool_], Floats], tuple[float, Floats]]


def of(truth: Ints, probabilities: NDArray[Any], classes: int) -> list[Metric]:
    """Figures of N answers, (N, C) probabilities; ``truth`` is each row's class.

    Averages are over the classes that occur, among the true or the answered ones where a figure counts both. ``brier``
    is the sum over the classes (0 to 2). ``roc_auc`` and ``pr_auc`` are one class against the rest, averaged.
    """
    scores = np.asarray(probabilities, np.float64)
    rows = class_rows(truth, scores.argmax(1), classes)
    right = scores.argmax(1) == truth
    positive = np.zeros((len(truth), classes), np.bool_)
    positive[np.arange(len(truth)), truth] = True
    said = scores[positive]
    return [
        Metric("macro_f1", rows, lambda sums: _average(sums, 2)),
        metrics.mean("accuracy", right),
        Metric("micro_f1", rows, _micro_f1),
        Metric("macro_precision", rows, lambda sums: _average(sums, 0)),
        Metric("macro_recall", rows, lambda sums: _average(sums, 1)),
        Metric("mcc", rows, _mcc),
        ranked("roc_auc", positive, scores, roc),
        ranked("pr_auc", positive, scores, precision_recall),
        metrics.mean("log_loss", -np.log(np.maximum(said, TINY)), higher_is_better=False),
        metrics.mean("brier", ((scores - positive) ** 2).sum(1), higher_is_better=False),
        Metric("ece", _gaps(scores.max(1), right), _ece, higher_is_better=False),
    ]


def class_rows(truth: Ints, answered: Ints, classes: int) -> Any:
    """What each row adds to each class: (N, 3 C) of true, answered and right; sparse, for a row adds at most three."""
    from scipy.sparse import csr_array

    right = np.flatnonzero(truth == answered)
    n = np.arange(len(truth))
    at = np.concatenate([n, n, right]), np.concatenate([truth, classes + answered, 2 * classes + truth[right]])
    return csr_array((np.ones(len(at[0])), at), shape=(len(truth), 3 * classes))


def of_classes(sums: Floats) -> Floats:
    """Precision, recall and F1 of each class, (..., 3, C), from sums of ``class_rows``; 0 where nothing was there."""
    true, answered, right = np.split(sums, 3, -1)
    pairs = ((right, answered), (right, true), (2 * right, true + answered))
    return np.stack([np.divide(a, b, out=np.zeros_like(a), where=b > 0) for a, b in pairs], -2)


@dataclass(frozen=True)
class Ranked(Metric):
    """A figure of an order, which is not a sum over rows: its first-order change with each row's weight is one.

    ``rows`` hold that change (the influence function: DeLong et al. 1988 for the ROC; Efron 1982, the infinitesimal
    jackknife). The figure of all rows is exact, that of a resample is right to first order.
    """

    again: Callable[[NDArray[Any]], Metric] = field(kw_only=True)

    def of(self, chosen: NDArray[Any]) -> Metric:
        """Ranked anew among the chosen rows."""
        return self.again(chosen)


def ranked(name: str, positive: NDArray[np.bool_], scores: Floats, curve: Curve) -> Metric:
    """The mean over columns of a curve's area: which rows are positive and how they score, both (N, C).

    Columns without a positive or without a negative row are left out; where none is left the figure is NaN.
    """
    n = len(positive)
    found = [curve(positive[:, c], scores[:, c]) for c in range(positive.shape[1]) if 0 < positive[:, c].sum() < n]
    area = sum(a for a, _ in found) / len(found) if found else float("nan")
    moves = sum((m for _, m in found), np.zeros(n)) / max(1, len(found))
    return Ranked(
        name,
        moves[:, None],
        lambda sums: np.clip(area + sums[..., 0], 0, 1),
        again=lambda chosen: ranked(name, positive[chosen], scores[chosen], curve),
    )


def roc(positive: NDArray[np.bool_], scores: Floats) -> tuple[float, Floats]:
    """Area under the ROC curve, and how it moves with each row's weight, (N,); ties count half."""
    own, others = np.sort(scores[positive]), np.sort(scores[~positive])
    moves = np.empty(len(scores))
    below = np.searchsorted(others, scores[positive]) + np.searchsorted(others, scores[positive], "right")
    above = 2 * len(own) - np.searchsorted(own, scores[~positive]) - np.searchsorted(own, scores[~positive], "right")
    area = float(below.mean() / 2 / len(others))
    moves[positive] = (below / 2 / len(others) - area) / len(own)
    moves[~positive] = (above / 2 / len(own) - area) / len(others)
    return area, moves


def precision_recall(positive: NDArray[np.bool_], scores: Floats) -> tuple[float, Floats]:
    """Average precision, and how it moves with each row's weight, (N,); tied rows share a threshold."""
    _, group = np.unique(-scores, return_inverse=True)  # 0 is the highest score
    count = np.bincount(group)
    hits = np.bincount(group, positive, minlength=len(count))
    asked, found = np.cumsum(count), np.cumsum(hits)  # rows, positives at this threshold or above
    precision = found / asked
    total = found[-1]
    area = float((hits * precision).sum() / total)
    # a row counts in the precision of its own threshold and of all lower ones
    gained = np.cumsum((hits / asked)[::-1])[::-1]
    lost = np.cumsum((hits * found / asked**2)[::-1])[::-1]
    moves = np.where(positive, precision[group] - area + gained[group], 0.0) - lost[group]
    return area, moves / total


def _average(sums: Floats, which: int) -> Floats:
    """Mean over the classes that occur among the true or the answered ones."""
    true, answered, _ = np.split(sums, 3, -1)
    occurs = (true + answered > 0).sum(-1)
    mean: Floats = of_classes(sums)[..., which, :].sum(-1) / np.maximum(occurs, 1)
    return mean


def _micro_f1(sums: Floats) -> Floats:
    true, answered, right = (part.sum(-1) for part in np.split(sums, 3, -1))
    micro: Floats = 2 * right / (true + answered)
    return micro


def _mcc(sums: Floats) -> Floats:
    """Matthews' correlation for C classes (Gorodkin 2004); 0 where one side is a single class."""
    true, answered, right = np.split(sums, 3, -1)
    n = true.sum(-1)
    top = right.sum(-1) * n - (true * answered).sum(-1)
    below = np.sqrt((n**2 - (answered**2).sum(-1)) * (n**2 - (true**2).sum(-1)))
    correlation: Floats = np.divide(top, below, out=np.zeros_like(top), where=below > 0)
    return correlation


def _gaps(best: Floats, right: NDArray[np.bool_]) -> Floats:
    """How far each score is from being right, in the column of its bin, (N, BINS + 1); the last column counts rows."""
    rows = np.zeros((len(best), BINS + 1))
    rows[np.arange(len(best)), np.minimum((best * BINS).astype(np.int64), BINS - 1)] = best - right
    rows[:, -1] = 1
    return rows


def _ece(sums: Floats) -> Floats:
    error: Floats = np.abs(sums[..., :-1]).sum(-1) / sums[..., -1]
    return error
