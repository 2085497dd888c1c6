"""Cross-validation: each part of the training rows is held out once, and a model is trained on the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from feilun.errors import SettingError
from feilun.evaluate.settings import SHARES
from feilun.trials.settings import By, FoldSettings
from feilun.trials.subject import Subject


@dataclass(frozen=True)
class Fold:
    """One part: the model that did not learn from it, and that model's figures on it."""

    number: int
    learned: int
    held_out: int
    model: str
    figures: Mapping[str, float]
    core_ns: int  # of training and measuring, all attempts
    reused: bool


@dataclass(frozen=True)
class Validation:
    """What all parts together say. A figure's ``low`` and ``high`` are a 95 % interval of its mean."""

    section: str
    by: By
    folds: tuple[Fold, ...]
    metrics: Mapping[str, Mapping[str, Any]]  # in the task's order: mean, deviation, low, high, higher_is_better
    seed: int
    core_ns: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return asdict(self)


def validate(
    subject: Subject,
    *,
    folds: int = 5,
    by: By = "text",
    seed: int = 0,
    told: Callable[[Fold], None] | None = None,
) -> Validation:
    """Train and measure once for each part; the rows of the split "test" are not touched.

    Args:
        by: what is never on both sides: the same text, a contributor, a domain; or ``time``: each block of time is
            answered by a model of all blocks before it.
        told: is told of each part as it ends. An interrupted call goes on where it stopped: what is known is reused.

    Raises:
        SettingError: more parts than groups.
        DataError: the rows do not say what they are to be divided by.
    """
    if not 2 <= folds <= 100:
        raise SettingError(f"{folds} folds are not from 2 to 100", where="--folds")
    done: list[Fold] = []
    reports: list[dict[str, Any]] = []
    cut = [
        subject.divide(
            f"validate {subject.section} fold {k + 1}", "fold", FoldSettings(folds=folds, fold=k, by=by, seed=seed)
        )
        for k in range(folds)
    ]  # all before the first training: what cannot be divided is found out at once
    for number, examples in enumerate(cut):
        name = f"validate {subject.section} fold {number + 1} of {folds}"
        before = len(subject.outcomes)
        model = subject.train(name, subject.settings, examples=examples).artifact
        reports.append(subject.judge(f"{name} evaluate", model, examples))
        runs = subject.outcomes[before:]
        splits: Mapping[str, int] = examples.facts["splits"]
        figures = {m["name"]: reports[-1]["all"][m["name"]]["value"] for m in reports[-1]["metrics"]}
        cost, reused = sum(o.core_ns for o in runs), all(o.reused for o in runs)
        done.append(Fold(number + 1, splits["train"], splits["test"], model.digest, figures, cost, reused))
        if told is not None:
            told(done[-1])
    metrics = _together(done, reports)
    return Validation(subject.section, by, tuple(done), metrics, seed, sum(f.core_ns for f in done))


def _together(folds: Sequence[Fold], reports: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mean, deviation and interval of each figure that every part has."""
    found: dict[str, dict[str, Any]] = {}
    ratio = float(np.mean([f.held_out / f.learned for f in folds]))
    for metric in reports[0]["metrics"]:
        name = metric["name"]
        if all(name in f.figures for f in folds):
            told = interval([f.figures[name] for f in folds], ratio)
            if name in SHARES:  # Student's t knows of no end
                told |= {"low": max(0.0, told["low"]), "high": min(1.0, told["high"])}
            found[name] = {**told, "higher_is_better": metric["higher_is_better"]}
    return found


def interval(values: Sequence[float], ratio: float) -> dict[str, float]:
    """Mean, standard deviation and 95 % interval of k figures whose models share most of what they learned from.

    The variance of the mean is s^2 (1/k + held out/learned), not s^2/k: trainings on overlapping rows are no k
    independent ones (Nadeau and Bengio 2003). Student's t with k - 1 degrees of freedom.

    Args:
        ratio: rows held out over rows learned from, in one part.

    >>> {k: round(v, 3) for k, v in interval([0.8, 0.9, 0.85], 0.5).items()}
    {'mean': 0.85, 'deviation': 0.05, 'low': 0.654, 'high': 1.046}
    """
    from scipy.stats import t

    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(t.ppf(0.975, len(values) - 1)) * deviation * math.sqrt(1 / len(values) + ratio)
    return {"mean": mean, "deviation": deviation, "low": mean - half, "high": mean + half}
