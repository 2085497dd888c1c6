"""How far the compressed model is from the one that it was made from, whatever their task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feilun.tasks import decisions
from feilun.tasks.metrics import Metric
from feilun.tasks.task import Answered

Floats = NDArray[np.float64]


def compare(
    ids: Sequence[str], before: Answered, after: Answered, figures: tuple[Sequence[Metric], Sequence[Metric]]
) -> dict[str, Any]:
    """Agreement of two models on N rows.

    Args:
        ids: the rows' ids; the one whose scores moved most is named.
        before: what the model said as it was trained.
        after: what the compressed model said.
        figures: the task's figures of both.

    Returns:
        n, disagreement (see ``disagreement``), the figures before and after, the mean and largest change of a score,
        and the worst row.
    """
    moved = _moved(before, after)
    worst = int(moved.argmax())
    return {
        "n": len(ids),
        "disagreement": disagreement(before, after),
        "before": _values(figures[0]),
        "after": _values(figures[1]),
        "score_change": {"mean": float(moved.mean()), "largest": float(moved.max())},
        "worst": {"id": ids[worst], "before": before.said[worst], "after": after.said[worst]},
    }


def disagreement(before: Answered, after: Answered) -> float:
    """The share of what was decided that is no longer so, 0 to 1.

    It is 1 - 2 * same / (all before + all after): for one label a row, the share of rows whose label changed. Where
    nothing but numbers is said, it is their squared change as a share of their variance before.
    """
    first, second = ([decisions.of(said) for said in answers.said] for answers in (before, after))
    every = sum(map(len, first)) + sum(map(len, second))
    if every:
        return (every - 2 * sum(len(a & b) for a, b in zip(first, second, strict=True))) / every
    old, new = (np.array([[*decisions.scores(said).values()] for said in answers.said]) for answers in (before, after))
    spread, change = ((old - old.mean(0)) ** 2).sum(), ((new - old) ** 2).sum()
    return min(1.0, float(change / spread)) if spread else float(change > 0)


def _moved(before: Answered, after: Answered) -> Floats:
    """The largest change of any of a row's scores, (N,); a score that is no longer said counts as 0."""
    moved = []
    for one, other in zip(before.said, after.said, strict=True):
        old, new = decisions.scores(one), decisions.scores(other)
        moved.append(max((abs(old.get(k, 0.0) - new.get(k, 0.0)) for k in old.keys() | new.keys()), default=0.0))
    return np.array(moved)


def _values(figures: Sequence[Metric]) -> dict[str, float | None]:
    """By name; None for a figure that these rows say nothing of."""
    return {m.name: m.figure if math.isfinite(m.figure) else None for m in figures}
