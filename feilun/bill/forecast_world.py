"""The months of many futures at once: customers, what they owe by their terms, and what serving them costs.

Each draw is one future: one value of each assumption, and from them, month by month, whole customers and whole units.
Revenue is what these customers owe by the plans' terms, in integers of nano-units; cost is a rate (float64, a
statistic) times units, rounded to whole nano-units for each customer and month, and summed in integers from there.
With certain assumptions nothing is left to chance and the result is exact.

What is not in it: taxes, coupons, credits, part months, and customers who leave because of a price.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from feilun.accounts.terms import Schedule, Terms
from feilun.bill import forecast_rates as rates
from feilun.bill.forecast_draws import MONTH_DAYS, Draws, Measured, draw, spread
from feilun.bill.forecast_rates import Whole
from feilun.bill.forecast_settings import ForecastSettings
from feilun.errors import SettingError, did_you_mean
from feilun.store.periods import bounds, period_of

MONTH_HOURS = 730  # that a core is paid for in a month
_COST = ("cost_per_request", "cost_per_token")


class Cell(NamedTuple):
    """Customers of one plan and one size; the cells divide the customers in proportion to their weights."""

    plan: str
    size: int  # of the sizes' sum
    weight: int


@dataclass(frozen=True)
class Bill:
    """What customers of one cell pay in each draw and month: ``paying`` of them, each what the terms make of units."""

    cell: Cell
    paying: Whole
    units: Mapping[str, Whole]
    usage: Whole  # nano-units of one customer, without fee and minimum


@dataclass(frozen=True)
class Flows:
    """Draws x months, in nano-units, and what is spent before the first month."""

    customers: Whole
    revenue: Whole
    serving: Whole
    other: Whole  # training and fixed costs
    upfront: Whole  # draws
    bills: tuple[Bill, ...]

    @property
    def cost(self) -> Whole:
        """Of each month."""
        return self.serving + self.other

    @property
    def margin(self) -> Whole:
        """Of each month; what was spent before the first is not in it."""
        return self.revenue - self.cost

    @property
    def cumulative(self) -> Whole:
        """Margin of all months so far, less what was spent before the first."""
        total: Whole = np.cumsum(self.margin, axis=1) - self.upfront[:, None]
        return total


class World:
    """What every draw has in common: plans, their terms month by month, and how customers divide.

    Args:
        settings: the scenario.
        plans: the schedule of every plan that the project has, by name.
        measured: what the project's own usage shows.
        first: the first month, ``"2026-11"``.

    Raises:
        SettingError: a plan that there is not, several currencies, or a priced meter without units.
        DataError: something is to be measured, and there is nothing to measure.
    """

    def __init__(
        self, settings: ForecastSettings, plans: Mapping[str, Schedule], measured: Measured, first: str
    ) -> None:
        self.settings = settings
        self.periods = _months(first, settings.months)
        self.terms = {name: self._terms(name, plans) for name in settings.plans}
        currencies = sorted({terms.currency for months in self.terms.values() for terms in months})
        if len(currencies) > 1:
            raise SettingError(
                f"the plans are in {' and '.join(currencies)}", where="[bill.forecast]", hint="forecast each by itself"
            )
        self.currency = currencies[0]
        sizes = spread(settings, measured)
        self.sizes = sum(sizes), len(sizes)
        self.cells = [Cell(plan, size, share) for plan, share in settings.plans.items() for size in sizes]
        self.assumptions = draw(settings, measured, self.currency)
        self.floor = settings.cores_at_least * MONTH_HOURS * measured.core_hour_nano
        self._check_meters()

    def _terms(self, name: str, plans: Mapping[str, Schedule]) -> tuple[Terms, ...]:
        if name not in plans:
            hint = did_you_mean(name, plans) or f"known: {', '.join(sorted(plans)) or 'none'}"
            raise SettingError(f"there is no plan '{name}'", where="[bill.forecast]", hint=hint, code="unknown-plan")
        return tuple(plans[name].at(bounds(period)[0]) for period in self.periods)

    def _check_meters(self) -> None:
        """A meter that costs customers something and is not forecast would be money forgotten."""
        known = {"requests"} | {name.removesuffix("_per_request") for name in self.assumptions if name not in _COST}
        for plan, months in self.terms.items():
            for meter in sorted({meter for terms in months for meter in terms.priced} - known):
                raise SettingError(
                    f"plan '{plan}' prices '{meter}', and the forecast does not say how many there are",
                    where="[bill.forecast]",
                    hint=f'more_per_request = {{ {meter} = 1 }}, or "measured"',
                )

    def draws(self) -> dict[str, Draws]:
        """The draws of each assumption."""
        return {name: assumption.draws for name, assumption in self.assumptions.items()}

    def simulate(self, inputs: Mapping[str, Draws]) -> Flows:
        """The months of every draw; ``inputs`` has one value of each assumption for each draw."""
        months = np.arange(self.settings.months)
        grown = inputs["requests_per_customer"][:, None] * _compound(inputs["usage_growth_percent"], months)
        joining = inputs["new_customers_per_month"][:, None] * _compound(inputs["growth_percent"], months)
        expected = _expected(inputs["customers_at_start"], joining, inputs["churn_percent"])
        customers = _whole(expected)
        revenue, busy, bills = np.zeros_like(customers), np.zeros_like(customers), []
        for cell, number in zip(self.cells, self._divided(customers), strict=True):
            units = self._units(cell, grown, inputs)
            work = units["requests"] * inputs["cost_per_request"][:, None]
            work = work + units["tokens"] * inputs["cost_per_token"][:, None]
            busy = busy + rates.product(number, _whole(work))
            paying = number - self._trying(cell, joining, inputs["churn_percent"], number)
            bill = Bill(cell, paying, units, self._usage(cell.plan, units))
            revenue = revenue + rates.product(paying, self.of_customer(cell.plan, bill.usage))
            bills.append(bill)
        serving = np.maximum(self._paid(busy), self.floor)
        other = _whole(inputs["training_per_month"]) + _whole(inputs["fixed_per_month"])
        upfront = _whole(inputs["upfront_cost"])
        _refuse_too_much(revenue, serving, self.settings.months)
        return Flows(customers, revenue, serving, np.broadcast_to(other[:, None], serving.shape), upfront, tuple(bills))

    def of_customer(self, plan: str, usage: Whole) -> Whole:
        """What one customer owes for each month: fee and usage, or the minimum."""
        fee = np.array([terms.monthly_nano for terms in self.terms[plan]])
        least = np.array([terms.minimum_nano for terms in self.terms[plan]])
        owed: Whole = np.maximum(usage + fee, least)
        return owed

    def _units(self, cell: Cell, requests: Draws, inputs: Mapping[str, Draws]) -> dict[str, Whole]:
        whole, count = self.sizes
        units = {"requests": _whole(requests * (cell.size * count / whole))}
        for name, each in inputs.items():
            if name.endswith("_per_request") and name not in _COST:
                units[name.removesuffix("_per_request")] = _whole(units["requests"] * each[:, None])
        return units

    def _usage(self, plan: str, units: Mapping[str, Whole]) -> Whole:
        """Price months by the terms that hold in them; most plans have the same terms in all."""
        usage = np.zeros_like(units["requests"])
        terms = self.terms[plan]
        for chosen in {held.version: held for held in terms}.values():
            months = [month for month, held in enumerate(terms) if held.version == chosen.version]
            usage[:, months] = rates.total(chosen, {meter: n[:, months] for meter, n in units.items()})
        return usage

    def _divided(self, customers: Whole) -> Iterator[Whole]:
        """Whole customers of each cell, which sum to the whole: differences of rounded running shares."""
        total, so_far, before = sum(cell.weight for cell in self.cells), 0, np.zeros_like(customers)
        for cell in self.cells:
            so_far += cell.weight
            now = rates.divided(customers * so_far, total)
            yield now - before
            before = now

    def _trying(self, cell: Cell, joining: Draws, churn: Draws, number: Whole) -> Whole:
        """How many of a cell's customers pay nothing: a trial of 15 days is half a customer's first month."""
        days = [terms.trial_days for terms in self.terms[cell.plan]]
        if not any(days):
            return np.zeros_like(number)
        free = np.zeros_like(joining)
        share = cell.weight / sum(other.weight for other in self.cells)
        for joined, trial in enumerate(days):
            for age in range(min(-(-trial // MONTH_DAYS), joining.shape[1] - joined)):
                part = min(trial - age * MONTH_DAYS, MONTH_DAYS) / MONTH_DAYS
                free[:, joined + age] += joining[:, joined] * (1 - churn / 100) ** age * part * share
        return np.minimum(_whole(free), number)

    def _paid(self, busy: Whole) -> Whole:
        """Cores are paid for whether they are busy or not: what is used is at most a part of them."""
        whole, rest = np.divmod(busy, self.settings.most_used_percent)
        return whole * 100 + rates.divided(rest * 100, self.settings.most_used_percent)


def _compound(percent: Draws, months: npt.NDArray[np.int64]) -> Draws:
    return np.asarray((1 + percent[:, None] / 100) ** months)


def _expected(start: Draws, joining: Draws, churn: Draws) -> Draws:
    """Customers of each month: those of the month before who stayed, and those who join."""
    stay = 1 - churn / 100
    expected = np.empty_like(joining)
    expected[:, 0] = start + joining[:, 0]
    for month in range(1, joining.shape[1]):
        expected[:, month] = expected[:, month - 1] * stay + joining[:, month]
    return expected


def _whole(numbers: Draws) -> Whole:
    """The nearest whole numbers, half to even.

    Raises:
        SettingError: one is more than a ledger holds.
    """
    if float(np.max(numbers, initial=0)) >= rates.MOST:
        rates.product(np.array([rates.MOST]), 1)
    return np.rint(numbers).astype(np.int64)


def _refuse_too_much(revenue: Whole, serving: Whole, months: int) -> None:
    rates.product(np.maximum(revenue, serving), months)


def _months(first: str, count: int) -> list[str]:
    found = [first]
    while len(found) < count:
        found.append(period_of(bounds(found[-1])[1]))
    return found
