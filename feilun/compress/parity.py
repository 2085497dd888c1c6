"""How far the compressed model is from the one that it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feilun.tasks import metrics

Scores = NDArray[np.float32]


def compare(
    ids: Sequence[str], truth: NDArray[np.int64], before: Scores, after: Scores, labels: Sequence[str]
) -> dict[str, Any]:
    """Agreement of two models on N rows.

    Args:
        ids: the rows' ids; the one whose scores moved most is named.
        truth: number of each row's true label.
        before: scores of the model as it was trained, (N, C).
        after: scores of the compressed model, (N, C).

    Returns:
        n, disagreement (share of answers that changed), accuracy and macro-F1 before and after, the mean and largest
        change of a score, and the worst row.
    """
    first, second = before.argmax(1), after.argmax(1)
    moved = np.abs(before - after).max(1)
    worst = int(moved.argmax())
    return {
        "n": len(ids),
        "disagreement": float((first != second).mean()),
        "before": _figures(truth, first, len(labels)),
        "after": _figures(truth, second, len(labels)),
        "score_change": {"mean": float(moved.mean()), "largest": float(moved.max())},
        "worst": {
            "id": ids[worst],
            "before": dict(zip(labels, before[worst].tolist(), strict=True)),
            "after": dict(zip(labels, after[worst].tolist(), strict=True)),
        },
    }


def _figures(truth: NDArray[np.int64], answered: NDArray[np.int64], classes: int) -> dict[str, float]:
    matrix = metrics.confusion(truth, answered, classes)
    return {"macro_f1": float(metrics.macro_f1(matrix)), "accuracy": float(metrics.accuracy(matrix))}
