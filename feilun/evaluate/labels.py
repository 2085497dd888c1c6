"""What the report says beside metrics where the answer is one label: each class, the confusion, and the calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feilun.evaluate.figures import Bootstrap
from feilun.tasks import bootstrap, metrics, metrics_labels

Ints = NDArray[np.int64]
Scores = NDArray[np.float32]
FIGURES = ("precision", "recall", "f1")


def details(truth: Ints, probabilities: Scores, labels: Sequence[str], how: Bootstrap) -> dict[str, Any]:
    """Of N rows with their true classes and (N, C) probabilities."""
    matrix = metrics.confusion(truth, probabilities.argmax(1), len(labels))
    return {
        "calibration_error": metrics.calibration_error(truth, probabilities),
        "classes": _classes(truth, probabilities.argmax(1), labels, how),
        "confusion": matrix.tolist(),
        "reliability": reliability(truth, probabilities),
    }


def _classes(truth: Ints, answered: Ints, labels: Sequence[str], how: Bootstrap) -> dict[str, Any]:
    rows = metrics_labels.class_rows(truth, answered, len(labels))
    each = metrics.Metric("classes", rows, metrics_labels.of_classes)
    values = each.value(np.asarray(rows.sum(0), np.float64))  # (3, C)
    low, high = np.percentile(bootstrap.draws([each], how.resamples, how.seed)[0], [2.5, 97.5], axis=0)
    count = np.bincount(truth, minlength=len(labels))
    return {
        label: {
            **{name: float(values[i, c]) for i, name in enumerate(FIGURES)},
            "intervals": {name: [float(low[i, c]), float(high[i, c])] for i, name in enumerate(FIGURES)},
            "n": int(count[c]),
        }
        for c, label in enumerate(labels)
    }


def reliability(truth: Ints, probabilities: Scores) -> list[dict[str, float]]:
    """For each bin of the best score that holds rows: how many, their mean score, and the share that is right."""
    best, right = probabilities.max(1), probabilities.argmax(1) == truth
    number = np.minimum((best * metrics.BINS).astype(np.int64), metrics.BINS - 1)
    return [
        {
            "from": b / metrics.BINS,
            "to": (b + 1) / metrics.BINS,
            "n": int((number == b).sum()),
            "score": float(best[number == b].mean()),
            "right": float(right[number == b].mean()),
        }
        for b in np.unique(number).tolist()
    ]


def temperature(truth: Ints, probabilities: Scores, seed: int) -> dict[str, Any] | None:
    """What dividing the logits by one number would do for the calibration (Guo et al. 2017, arXiv 1706.04599).

    ``before`` and ``after`` are of the same rows; each half is scaled by the number that suits the other half best, so
    that no row judges a number which was fitted on it. None of fewer than 20 rows.
    """
    if len(truth) < 20:
        return None
    half = np.random.default_rng(seed).permutation(len(truth)) % 2 == 0
    scaled = np.empty(probabilities.shape)
    for part in (half, ~half):
        scaled[part] = scale(probabilities[part], fit_temperature(truth[~part], probabilities[~part]))
    return {
        "temperature": fit_temperature(truth, probabilities),
        "before": _calibration(truth, probabilities.astype(np.float64)),
        "after": _calibration(truth, scaled),
    }


def scale(probabilities: NDArray[Any], temperature: float) -> NDArray[np.float64]:
    """Probabilities (N, C) after dividing their logits by the temperature; the best class stays the best."""
    logits = np.log(np.maximum(probabilities.astype(np.float64), metrics_labels.TINY)) / temperature
    powers = np.exp(logits - logits.max(1, keepdims=True))
    softened: NDArray[np.float64] = powers / powers.sum(1, keepdims=True)
    return softened


def fit_temperature(truth: Ints, probabilities: Scores) -> float:
    """The temperature with the least log loss, between 1/20 and 20.

    The loss is convex in the inverse of the temperature, so halving the interval by the slope's sign finds it.
    """
    logits = np.log(np.maximum(probabilities.astype(np.float64), metrics_labels.TINY))
    own = logits[np.arange(len(truth)), truth]
    low, high = np.log(1 / 20), np.log(20)
    for _ in range(40):
        middle = (low + high) / 2
        expected = (scale(probabilities, float(np.exp(-middle))) * logits).sum(1)
        low, high = (low, middle) if (expected - own).mean() > 0 else (middle, high)
    return float(np.exp(-(low + high) / 2))


def _calibration(truth: Ints, probabilities: NDArray[np.float64]) -> dict[str, float]:
    found = {m.name: m.figure for m in metrics_labels.of(truth, probabilities, probabilities.shape[1])}
    return {name: found[name] for name in ("ece", "log_loss", "brier")}
