"""Figures of classification, from confusion matrices; without torch, for answers come from any engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feilun.errors import DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
BINS = 15


@dataclass(frozen=True)
class Metric:
    """A figure of N rows that can be counted again on any resample of them.

    ``rows``: what each row adds, (N, K), an array or a ``scipy.sparse`` one. ``value``: from sums (..., K) to figures
    (...). The figure is ``value(rows.sum(0))``, and a bootstrap is ``value(weights @ rows)`` with weights (R, N); see
    ``feilun.tasks.bootstrap``. A figure that these rows say nothing of is NaN.
    """

    name: str
    rows: Any
    value: Callable[[Floats], Floats]
    higher_is_better: bool = True

    @property
    def figure(self) -> float:
        """What all rows together say."""
        return float(self.value(np.asarray(self.rows.sum(0), np.float64)))

    def of(self, chosen: NDArray[Any]) -> Metric:
        """The same figure of some of the rows: ``chosen`` are their numbers, or a mask (N,)."""
        return replace(self, rows=self.rows[chosen])


def mean(
    name: str,
    rows: Sequence[float] | NDArray[Any],
    *,
    higher_is_better: bool = True,
    of: NDArray[np.bool_] | None = None,
) -> Metric:
    """The mean of one number a row, of all rows or of those in the mask ``of``; NaN where that holds none.

    >>> float((m := mean("accuracy", [1, 0, 1, 1])).value(m.rows.sum(0)))
    0.75
    """
    numbers = np.asarray(rows, np.float64)
    weights = np.ones_like(numbers) if of is None else np.asarray(of, np.float64)
    return Metric(name, np.stack([numbers * weights, weights], 1), _mean, higher_is_better)


def _mean(sums: Floats) -> Floats:
    nothing = np.full_like(sums[..., 0], np.nan)
    found: Floats = np.divide(sums[..., 0], sums[..., 1], out=nothing, where=sums[..., 1] > 0)
    return found


def numbers(labels: Sequence[str], known: Sequence[str]) -> Ints:
    """The number of each label among ``known``, (N,).

    Raises:
        DataError: the model does not know one of them.
    """
    number = {label: i for i, label in enumerate(known)}
    unknown = next((label for label in labels if label not in number), None)
    if unknown is not None:
        raise DataError(
            f"the model does not know the label '{unknown}'", where="column label", hint=f"it knows {', '.join(known)}"
        )
    return np.array([number[label] for label in labels], np.int64)


def confusion(truth: Ints, answered: Ints, classes: int) -> Ints:
    """(C, C) counts: row = true class, column = answered class."""
    return np.bincount(truth * classes + answered, minlength=classes * classes).reshape(classes, classes)


def accuracy(matrices: NDArray[Any]) -> Floats:
    """Share of right answers of each matrix (..., C, C)."""
    right: Floats = np.trace(matrices, axis1=-2, axis2=-1) / matrices.sum((-2, -1))
    return right


def scores(matrices: NDArray[Any]) -> tuple[Floats, Floats, Floats]:
    """Precision, recall and F1 of each class, (..., C); 0 where nothing was there to count."""
    right = np.diagonal(matrices, axis1=-2, axis2=-1).astype(np.float64)
    answered, true = matrices.sum(-2), matrices.sum(-1)
    return _share(right, answered), _share(right, true), _share(2 * right, answered + true)


def macro_f1(matrices: NDArray[Any]) -> Floats:
    """Mean F1 of the classes that occur among the true or the answered ones, as scikit-learn counts it.

    Which occur is asked of each matrix (..., C, C): a resample that happens to miss a class says nothing of it.
    """
    occurs = (matrices.sum(-2) + matrices.sum(-1)) > 0
    mean: Floats = scores(matrices)[2].sum(-1) / occurs.sum(-1)
    return mean


def calibration_error(truth: Ints, probabilities: NDArray[np.float32]) -> float:
    """Expected calibration error (Guo et al. 2017): how far the best score is from the share that is right."""
    best = probabilities.max(1)
    right = probabilities.argmax(1) == truth
    number = np.minimum((best * BINS).astype(np.int64), BINS - 1)
    gap = np.bincount(number, best - right, minlength=BINS)
    return float(np.abs(gap).sum() / len(truth))


def _share(part: Floats, whole: NDArray[Any]) -> Floats:
    share: Floats = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return share
