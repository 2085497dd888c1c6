"""Figures of some rows, each with its bootstrap interval."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feilun.tasks import bootstrap
from feilun.tasks.metrics import Metric

Figure = dict[str, Any]  # value, low and high: numbers, or None where an end is not known


@dataclass(frozen=True)
class Bootstrap:
    """How often rows are drawn anew, and from which seed."""

    resamples: int
    seed: int


def of(metrics: Sequence[Metric], how: Bootstrap) -> dict[str, Figure]:
    """Value and 95 % interval of each metric, by name; one that these rows say nothing of is left out.

    An interval always holds its value: where a resample cannot reach it, as beside a small calibration error, which
    resampling only makes larger, the end is the value.
    """
    told = [m for m in metrics if m.rows.shape[0] and math.isfinite(m.figure)]
    if not told:
        return {}
    found = {}
    for metric, drawn in zip(told, bootstrap.draws(told, how.resamples, how.seed), strict=True):
        found[metric.name] = with_interval(metric.figure, bootstrap.interval(drawn))
    return found


def with_interval(value: float, ends: tuple[float, float] | None) -> Figure:
    """A figure as the report has it; without ends of the interval where no resample said anything."""
    low, high = (min(ends[0], value), max(ends[1], value)) if ends else (None, None)
    return {"value": float(value), "low": low, "high": high}


def part(metrics: Sequence[Metric], mask: NDArray[np.bool_]) -> list[Metric]:
    """The metrics of some of the rows; without those that do not count one entry for each row."""
    return [m.of(np.flatnonzero(mask)) for m in metrics if m.rows.shape[0] == len(mask)]


def by_length(texts: Sequence[str], metrics: Sequence[Metric], how: Bootstrap) -> list[dict[str, Any]]:
    """The first metric for the shortest third of the texts, the middle and the longest; characters are counted."""
    lengths = np.array([len(text) for text in texts])
    edges = np.unique(np.quantile(lengths, [0, 1 / 3, 2 / 3, 1], method="nearest"))
    found = []
    for i, (least, most) in enumerate(itertools.pairwise(edges)):
        mask = (lengths >= least) & ((lengths < most) | ((i == len(edges) - 2) & (lengths == most)))
        figures = of(part(metrics[:1], mask), how)
        if figures:
            found.append({"from": int(least), "to": int(most), "n": int(mask.sum()), **figures})
    return found


def describe(metrics: Sequence[Metric], figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The names of the metrics in their order, the first being what models are chosen by, and which way is better."""
    return [{"name": m.name, "higher_is_better": m.higher_is_better} for m in metrics if m.name in figures]
