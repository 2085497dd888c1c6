"""What more data would bring: the same training on ever larger parts of the data, and a law through their errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from feilun import datasets
from feilun.errors import DataError, SettingError, did_you_mean
from feilun.pipeline.kinds import Dataset
from feilun.trials import law as laws
from feilun.trials.settings import FoldSettings, SubsetSettings
from feilun.trials.subject import Subject

MORE = (2, 4)  # times the data that there is, for which the law is asked
LEAST_SIZES = 4  # a law of three numbers needs more points than that


@dataclass(frozen=True)
class Point:
    """One training: so many rows, which draw of them, and its figures on the held-out rows."""

    rows: int
    draw: int
    model: str
    figures: Mapping[str, float]
    widths: Mapping[str, float | None]  # of the figures' 95 % intervals, from the held-out rows
    core_ns: int
    reused: bool


@dataclass(frozen=True)
class Curve:
    """What was measured and what follows; values with ``low`` and ``high`` have 95 % intervals.

    ``law``: error = a + b rows^-c, where the error is "1 - figure" of a share, the figure itself where lower is better,
    else "-figure", as ``error`` says. ``expected``: by how many times the data, the figure that the law expects and its
    gain over the law at the data that there is; it is never negative, for no law that rises is fitted. Intervals of
    figures hold the chance in which rows were held out as well; all models met the same, so gains do without.
    """

    section: str
    metric: str
    error: str
    higher_is_better: bool
    rows: int
    held_out: int
    points: tuple[Point, ...]
    law: Mapping[str, Mapping[str, float]]
    expected: tuple[Mapping[str, Any], ...]
    fitted: tuple[Mapping[str, float], ...]  # the law along the way, for a plot: rows, value, low, high
    seed: int
    core_ns: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return asdict(self)


def learning_curve(
    subject: Subject,
    *,
    sizes: int = 5,
    draws: int = 3,
    metric: str | None = None,
    seed: int = 0,
    told: Callable[[Point], None] | None = None,
) -> Curve:
    """Train on 1/2^(sizes-1), ..., 1/2 and all of the training rows, ``draws`` times each, and extrapolate.

    Rows of a smaller part are among those of a larger one of the same draw; each draw has its own rows and its own seed
    of the training. Every model is asked for the same held-out rows: the split "test", or a fifth of the training rows
    where there is none.

    Args:
        metric: of the report; the task's first one by default.
        told: is told of each training as it ends. An interrupted call goes on: what is known is reused.

    Raises:
        SettingError: too few sizes or draws, fewer rows than labels in the smallest part, or no such metric.
        DataError: there are too few rows for so many sizes.
    """
    if sizes < LEAST_SIZES or not 1 <= draws <= 100:
        raise SettingError(f"a law needs at least {LEAST_SIZES} sizes and 1 draw", where="--sizes, --draws")
    whole = _with_held_out(subject, seed)
    all_rows = datasets.read(whole, "train").height
    counts = sorted({round(all_rows / 2**k) for k in range(sizes)})
    if len(counts) < sizes or counts[0] < 2:
        raise DataError(f"{all_rows} training rows are too few for {sizes} sizes", where="--sizes")
    points: list[Point] = []
    shown: list[Mapping[str, Any]] = []
    for draw in range(draws):
        settings = subject.settings.model_copy(update={"seed": subject.settings.seed + draw})
        for rows in counts:
            name = f"learning-curve {subject.section} {rows} rows, draw {draw + 1}"
            before = len(subject.outcomes)
            part = subject.divide(f"{name} subset", "subset", SubsetSettings(rows=rows, seed=seed + draw), whole)
            model = subject.train(name, settings, examples=part).artifact
            report = subject.judge(f"{name} evaluate", model, part)
            shown = [m for m in report["metrics"] if not shown or m in shown]
            known = [m["name"] for m in report["metrics"]]
            if metric is not None and metric not in known:
                hint = did_you_mean(metric, known) or f"there is {', '.join(known)}"
                raise SettingError(f"the task has no metric '{metric}'", where="--metric", hint=hint)
            runs = subject.outcomes[before:]
            figures = {m["name"]: report["all"][m["name"]]["value"] for m in report["metrics"]}
            cost, reused = sum(o.core_ns for o in runs), all(o.reused for o in runs)
            widths = {n: _width(report["all"][n]) for n in figures}
            points.append(Point(rows, draw + 1, model.digest, figures, widths, cost, reused))
            if told is not None:
                told(points[-1])
    chosen = next(m for m in shown if m["name"] == (metric or shown[0]["name"]))
    return _extrapolated(subject.section, chosen, points, held_out=report["all"]["n"], seed=seed)


def _with_held_out(subject: Subject, seed: int) -> Dataset:
    if datasets.read(subject.examples, "test").height:
        return subject.examples
    return subject.divide(f"learning-curve {subject.section} held out", "fold", FoldSettings(folds=5, seed=seed))


def _width(figure: Mapping[str, Any]) -> float | None:
    """How wide a figure's interval is; None where the report knows of none."""
    low, high = figure["low"], figure["high"]
    return None if low is None or high is None else float(high - low)


def _extrapolated(
    section: str, chosen: Mapping[str, Any], points: Sequence[Point], *, held_out: int, seed: int
) -> Curve:
    """The law through the points, and what it expects of more rows."""
    name, higher = chosen["name"], bool(chosen["higher_is_better"])
    rows = np.array([p.rows for p in points], np.float64)
    figures = np.array([p.figures[name] for p in points], np.float64)
    share = higher and bool((figures >= 0).all() and (figures <= 1).all())
    offset, sign = (1.0, -1.0) if share else (0.0, -1.0 if higher else 1.0)
    found, drawn = laws.draws(rows, offset + sign * figures, seed, least=-np.inf if higher and not share else 0.0)

    def figure(rows: float) -> tuple[float, Any]:
        return sign * (float(found.at(rows)[0]) - offset), sign * (drawn.at(rows) - offset)

    most = float(rows.max())
    known = [w for p in points if p.rows == most and (w := p.widths[name]) is not None]
    width = float(np.mean(known)) if known else 0.0
    shift = np.random.default_rng(seed).normal(0.0, width / 3.92, len(drawn.a))  # 3.92 deviations are 95 %

    def expect(rows: float) -> dict[str, Any]:
        value, spread = figure(rows)
        return laws.band(value, np.clip(spread + shift, 0, 1) if share else spread + shift)

    now, now_drawn = figure(most)
    expected = []
    for times in (1, *MORE):
        value, spread = figure(times * most)
        gain = laws.band(value - now, spread - now_drawn)
        expected.append({"times": times, "rows": int(times * most), **expect(times * most), "gain": gain})
    along = [{"rows": float(n), **expect(float(n))} for n in np.geomspace(rows.min(), MORE[-1] * most, 60)]
    return Curve(
        section,
        name,
        "1 - figure" if share else "-figure" if higher else "figure",
        higher,
        int(most),
        held_out,
        tuple(points),
        {k: laws.band(float(getattr(found, k)[0]), getattr(drawn, k)) for k in ("a", "b", "c")},
        tuple(expected),
        tuple(along),
        seed,
        sum(p.core_ns for p in points),
    )
