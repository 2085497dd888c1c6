"""Everything that the report says of some rows, each figure with its bootstrap interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feilun.tasks import metrics

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def of(
    truth: Ints, probabilities: NDArray[np.float32], labels: Sequence[str], *, resamples: int, seed: int
) -> dict[str, Any]:
    """Everything that the report says of N rows; ``probabilities`` are (N, C) in the order of ``labels``."""
    matrix = metrics.confusion(truth, probabilities.argmax(1), len(labels))
    drawn = resample(matrix, resamples, seed)
    precision, recall, f1 = metrics.scores(matrix)
    return {
        "n": len(truth),
        "macro_f1": with_interval(float(metrics.macro_f1(matrix)), metrics.macro_f1(drawn)),
        "accuracy": with_interval(float(metrics.accuracy(matrix)), metrics.accuracy(drawn)),
        "calibration_error": metrics.calibration_error(truth, probabilities),
        "classes": {
            label: {"precision": float(p), "recall": float(r), "f1": float(f), "n": int(n)}
            for label, p, r, f, n in zip(labels, precision, recall, f1, matrix.sum(1), strict=True)
        },
        "confusion": matrix.tolist(),
    }


def resample(matrix: Ints, times: int, seed: int) -> Ints:
    """``times`` confusion matrices of as many rows drawn with replacement.

    A bootstrap of rows changes nothing but the counts of the matrix' cells, so it is a multinomial draw of those (Efron
    1979), without touching a row.
    """
    cells = np.flatnonzero(matrix)
    counts = matrix.ravel()[cells]
    drawn = np.zeros((times, matrix.size), np.int64)
    drawn[:, cells] = np.random.default_rng(seed).multinomial(counts.sum(), counts / counts.sum(), size=times)
    return drawn.reshape(times, *matrix.shape)


def with_interval(value: float, resampled: Floats) -> dict[str, float]:
    """The value and its 95 % percentile interval."""
    low, high = np.percentile(resampled, [2.5, 97.5])
    return {"value": float(value), "low": float(low), "high": float(high)}
