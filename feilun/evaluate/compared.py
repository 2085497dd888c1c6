"""Models on the same rows: is one better than another, and how much does the seed of the training matter?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feilun.evaluate.asking import Asked, same
from feilun.evaluate.figures import Bootstrap, with_interval
from feilun.tasks import bootstrap


def against(ours: Asked, other: Asked, how: Bootstrap) -> dict[str, Any]:
    """Each metric's difference, ours less the other's, with interval and p-value of the paired bootstrap.

    Both models meet the same resamples, so what is hard for both does not blur the difference (Efron and Tibshirani
    1993). Where the answer is one label, McNemar's exact test asks of the rows that only one of them got right whether
    that could be a fair coin (McNemar 1947).
    """
    theirs = {m.name: m for m in other.metrics}
    shared = [(m, theirs[m.name]) for m in ours.metrics if m.name in theirs]
    pairs = [p for p in shared if all(math.isfinite(m.figure) for m in p) and p[0].rows.shape[0] == p[1].rows.shape[0]]
    drawn = bootstrap.draws([m for pair in pairs for m in pair], how.resamples, how.seed)
    found: dict[str, Any] = {"model": other.model.digest, "metrics": {}}
    for (one, two), mine, its in zip(pairs, drawn[::2], drawn[1::2], strict=True):
        difference = with_interval(one.figure - two.figure, bootstrap.interval(mine - its))
        found["metrics"][one.name] = difference | {"other": two.figure, "p": bootstrap.p_value(mine - its)}
    if (first := _right(ours)) is not None and (second := _right(other)) is not None:
        found["mcnemar"] = mcnemar(first, second)
    if (agree := same(ours.answered, other.answered)) is not None:
        found["agreement"] = float(agree.mean())
    return found


def mcnemar(ours: NDArray[np.bool_], others: NDArray[np.bool_]) -> dict[str, float]:
    """Rows that only one model got right, and the two-sided exact p-value that this is chance.

    >>> mcnemar(np.array([True] * 9 + [False]), np.array([False] * 9 + [True]))
    {'only_this': 9, 'only_other': 1, 'p': 0.021484375}
    """
    from scipy.stats import binomtest

    only, other = int((ours & ~others).sum()), int((others & ~ours).sum())
    p = float(binomtest(only, only + other).pvalue) if only + other else 1.0
    return {"only_this": only, "only_other": other, "p": p}


def stability(asked: Sequence[Asked]) -> dict[str, Any]:
    """How far models of other seeds are from each other: mean, standard deviation, least and greatest of each metric.

    ``agreement`` is the share of rows for which two of them say the same, averaged over all pairs.
    """
    figures = [{m.name: m.figure for m in one.metrics} for one in asked]
    names = [name for name in figures[0] if all(math.isfinite(f.get(name, math.nan)) for f in figures)]
    found: dict[str, Any] = {"models": [one.model.digest for one in asked], "metrics": {}}
    for name in names:
        values = [f[name] for f in figures]
        spread = float(np.std(values, ddof=1))
        told = {"mean": float(np.mean(values)), "deviation": spread, "least": min(values), "greatest": max(values)}
        found["metrics"][name] = told | {"values": values}
    pairs = [same(a.answered, b.answered) for i, a in enumerate(asked) for b in asked[:i]]
    shares = [float(agree.mean()) for agree in pairs if agree is not None]
    return found | ({"agreement": float(np.mean(shares))} if shares else {})


def _right(asked: Asked) -> NDArray[np.bool_] | None:
    scores = asked.probabilities
    if scores is None:
        return None
    right: NDArray[np.bool_] = scores.argmax(1) == asked.truth
    return right
