"""Margin and break-even of the months to come: a Monte Carlo over stated demand and measured cost, with a seed.

Amounts that are reported are whole nano-units; every percentile is one of the draws, never between two of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from feilun.accounts.terms import Schedule
from feilun.bill.forecast_draws import Assumption, Draws, Measured
from feilun.bill.forecast_prices import NeededPrice, needed_prices
from feilun.bill.forecast_rates import Whole
from feilun.bill.forecast_settings import ForecastSettings
from feilun.bill.forecast_world import Flows, World
from feilun.store.money import format_about

PERCENTS = (5, 50, 95)
_WITHOUT_RANGE = frozenset(("plans", "usage_spread", "cores_at_least", "most_used_percent"))


class Band(NamedTuple):
    """A whole number with its uncertainty: 5, 50 and 95 of 100 draws are not above these."""

    p5: int
    p50: int
    p95: int


@dataclass(frozen=True)
class Month:
    """One month to come. Amounts are nano-units; ``cumulative_nano`` also holds what was spent before the first."""

    period: str
    customers: Band
    revenue_nano: Band
    cost_nano: Band
    margin_nano: Band
    cumulative_nano: Band


@dataclass(frozen=True)
class BreakEven:
    """The first month at whose end nothing is owed to the past any more, counted from 1.

    A percentile is None where that many draws do not get there; ``chance`` has, for each month, the part of the draws
    that are even by its end; ``never`` the part that are not by the last.
    """

    p5: int | None
    p50: int | None
    p95: int | None
    never: float
    chance: tuple[float, ...]
    deepest_nano: Band  # the least that the cumulative margin ever is, before the first month too; at most 0


@dataclass(frozen=True)
class Effect:
    """What one assumption does to the margin of all months.

    ``at_low_nano`` and ``at_high_nano`` are that margin with this assumption at ``low`` and ``high`` and every other at
    its median; ``rank_correlation`` is Spearman's over the draws, 0 where the assumption is certain.
    """

    name: str
    unit: str  # of the three that follow: nano-units, percent or number
    basis: str  # stated, or what it was measured from
    low: float
    median: float
    high: float
    at_low_nano: int
    at_high_nano: int
    rank_correlation: float

    @property
    def has_range(self) -> bool:
        """Whether it can be more than one value."""
        return self.low != self.high

    @property
    def swing_nano(self) -> int:
        """How much there is between the two."""
        return abs(self.at_high_nano - self.at_low_nano)


@dataclass(frozen=True)
class Forecast:
    """A scenario's months to come. Totals are of all its months, what was spent before the first included."""

    name: str
    currency: str
    seed: int
    draws: int
    begins_nano: Band  # the cumulative margin before the first month: less than 0 by what was spent until then
    months: tuple[Month, ...]
    revenue_nano: Band
    cost_nano: Band
    margin_nano: Band
    margin_percent: tuple[float | None, ...]  # of revenue, 5, 50 and 95 %; None where there is no revenue
    break_even: BreakEven
    at_medians_nano: int  # margin of all months with every assumption at its median
    prices: tuple[NeededPrice, ...]
    effects: tuple[Effect, ...]  # the widest first
    fixed: tuple[str, ...]  # what was assumed without a range, so that nothing can be said of what it does
    settings: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``; money in nano-units, and what people read first as text."""
        told = {"margin": format_about(self.margin_nano.p50, self.currency)}
        values = asdict(self) | {"settings": dict(self.settings), "told": told}
        return dict(_named(values))


def forecast(
    name: str, settings: ForecastSettings, plans: Mapping[str, Schedule], measured: Measured, first: str
) -> Forecast:
    """Forecast a scenario; the same arguments give the same figures to the last digit.

    Args:
        name: of the scenario.
        settings: its assumptions.
        plans: the schedule of each plan: a price change that is declared holds from its month on.
        measured: what the project's own usage shows, for assumptions that are ``"measured"``.
        first: the first month, ``"2026-11"``.

    Raises:
        SettingError: a plan that there is not, several currencies, a priced meter without units, absurd amounts.
        DataError: something is to be measured, and there is nothing to measure.
    """
    world = World(settings, plans, measured, first)
    flows = world.simulate(world.draws())
    spent = flows.cost.sum(axis=1) + flows.upfront
    earned = flows.revenue.sum(axis=1)
    at_medians, effects = _effects(world, earned - spent)
    return Forecast(
        name=name,
        currency=world.currency,
        seed=settings.seed,
        draws=settings.draws,
        begins_nano=band(-flows.upfront),
        months=_monthly(world, flows),
        revenue_nano=band(earned),
        cost_nano=band(spent),
        margin_nano=band(earned - spent),
        margin_percent=_percents(earned, spent),
        break_even=_break_even(flows, settings.months),
        at_medians_nano=at_medians,
        prices=needed_prices(world, flows),
        effects=effects,
        fixed=_fixed(settings, effects),
        settings=settings.model_dump(mode="json"),
    )


def band(draws: Whole) -> Band:
    """Percentiles that are draws themselves (the inverse of the empirical distribution), so whole numbers stay so."""
    return Band(*(int(n) for n in np.percentile(draws, PERCENTS, method="inverted_cdf")))


def _monthly(world: World, flows: Flows) -> tuple[Month, ...]:
    amounts = (flows.customers, flows.revenue, flows.cost, flows.margin, flows.cumulative)
    return tuple(Month(period, *(band(n[:, m]) for n in amounts)) for m, period in enumerate(world.periods))


def _percents(earned: Whole, spent: Whole) -> tuple[float | None, ...]:
    """Draws without revenue have no margin in percent; they are below all that have one."""
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(earned > 0, (earned - spent) / earned * 100, -np.inf)
    found = np.percentile(shares, PERCENTS, method="inverted_cdf")
    return tuple(round(float(p), 3) if np.isfinite(p) else None for p in found)


def _break_even(flows: Flows, months: int) -> BreakEven:
    cumulative = flows.cumulative
    even = cumulative >= 0
    first = np.where(even.any(axis=1), even.argmax(axis=1) + 1, months + 1)
    p5, p50, p95 = (month if month <= months else None for month in band(first))
    chance = tuple(float(np.mean(first <= month)) for month in range(1, months + 1))
    deepest = np.minimum(cumulative.min(axis=1), -flows.upfront)
    return BreakEven(p5, p50, p95, float(np.mean(first > months)), chance, band(deepest))


def _effects(world: World, margin: Whole) -> tuple[int, tuple[Effect, ...]]:
    """Every assumption at its low and its high with the others at their medians, in one small simulation."""
    known = world.assumptions
    medians = {name: float(np.median(a.draws)) for name, a in known.items()}
    inputs = {name: np.full(1 + 2 * len(known), median) for name, median in medians.items()}
    for place, name in enumerate(known):
        inputs[name][1 + 2 * place : 3 + 2 * place] = known[name].low, known[name].high
    totals = [int(n) for n in world.simulate(inputs).cumulative[:, -1]]
    effects = [
        Effect(
            name=name,
            unit=_unit(name),
            basis=known[name].basis,
            low=known[name].low,
            median=medians[name],
            high=known[name].high,
            at_low_nano=totals[1 + 2 * place],
            at_high_nano=totals[2 + 2 * place],
            rank_correlation=_spearman(known[name], margin),
        )
        for place, name in enumerate(known)
    ]
    return totals[0], tuple(sorted(effects, key=lambda e: (-e.swing_nano, e.name)))


def _fixed(settings: ForecastSettings, effects: tuple[Effect, ...]) -> tuple[str, ...]:
    """Assumptions of one value, those apart that nobody wrote and that are 0; and what cannot have a range."""
    certain = {e.name for e in effects if not e.has_range and (e.median or e.name in settings.model_fields_set)}
    return tuple(sorted(certain | (settings.model_fields_set & _WITHOUT_RANGE)))


def _unit(name: str) -> str:
    if name.startswith("cost_per") or name in ("training_per_month", "fixed_per_month", "upfront_cost"):
        return "nano-units"
    return "percent" if name.endswith("_percent") else "number"


def _spearman(assumption: Assumption, margin: Whole) -> float:
    if assumption.is_certain or margin.min() == margin.max():
        return 0.0
    return round(float(np.corrcoef(_ranks(assumption.draws), _ranks(margin))[0, 1]), 6)


def _ranks(values: Draws | Whole) -> Draws:
    """Places in order; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[inverse])


def _named(value: Any) -> Any:
    """Bands by the names of their percentiles."""
    if isinstance(value, Band):
        return value._asdict()
    if isinstance(value, Mapping):
        return {key: _named(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_named(inner) for inner in value]
    return value
