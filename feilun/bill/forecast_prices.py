"""The price that meets a target margin: one price of one plan is moved, everything else stays as it is.

Revenue never falls when a price rises (nobody is assumed to leave because of it), so the least price that is enough is
found by bisection over whole nano-units, and one nano-unit less is not enough.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from feilun.bill import forecast_rates as rates
from feilun.bill.forecast_rates import Whole

if TYPE_CHECKING:
    from feilun.bill.forecast_world import Bill, Flows, World

FEE = "monthly"


@dataclass(frozen=True)
class NeededPrice:
    """What a plan's fee, or its price of a unit, would have to be; nano-units.

    ``needed_nano`` is None where no price is enough, and 0 where the target is met without it; ``why`` then says so.
    """

    plan: str
    what: str  # monthly, or a meter
    now_nano: int  # in the first month
    needed_nano: int | None
    target_margin_percent: str
    target_chance_percent: int
    why: str | None


def needed_prices(world: World, flows: Flows) -> tuple[NeededPrice, ...]:
    """For the fee of each plan and each of its prices for a unit: the least that meets the target.

    The target is met where, in ``target_chance_percent`` of the draws or more, the margin of all months is at least
    ``target_margin_percent`` of their revenue. Meters with tiers have no one price and are left out.
    """
    found = []
    for plan, terms in world.terms.items():
        meters = sorted({meter for held in terms for meter in held.unit_nano})
        for what in (FEE, *meters):
            now = terms[0].monthly_nano if what == FEE else terms[0].unit_nano.get(what, 0)
            found.append(_needed(world, flows, plan, what, now))
    return tuple(found)


def _needed(world: World, flows: Flows, plan: str, what: str, now: int) -> NeededPrice:
    settings = world.settings
    revenue = revenue_at(world, flows, plan, what)
    spent = flows.cost.sum(axis=1) + flows.upfront
    left = 1 - Fraction(settings.target_margin_percent) / 100  # of revenue, what may be spent
    enough = np.array([-(-int(cost) * left.denominator // left.numerator) for cost in spent], dtype=object)

    def is_met(nano: int) -> bool:
        met = int(np.count_nonzero(revenue(nano) >= enough))
        return met * 100 >= settings.target_chance_percent * settings.draws

    needed = least(is_met, _highest(world, flows, plan, what))
    why = "met already" if needed == 0 else None
    if needed is None:
        why = "no price is enough: too few units are charged, or costs grow too fast"
    target = f"{settings.target_margin_percent.normalize():f}"
    return NeededPrice(plan, what, now, needed, target, settings.target_chance_percent, why)


def revenue_at(world: World, flows: Flows, plan: str, what: str) -> Callable[[int], Whole]:
    """Revenue of all months, of each draw, as a function of one price of one plan."""
    mine = [bill for bill in flows.bills if bill.cell.plan == plan]
    theirs = [bill for bill in flows.bills if bill.cell.plan != plan]
    fixed = np.zeros(len(flows.revenue), np.int64)
    for bill in theirs:
        fixed = fixed + (bill.paying * world.of_customer(bill.cell.plan, bill.usage)).sum(axis=1)
    terms = world.terms[plan]
    fees = np.array([held.monthly_nano for held in terms])
    least_of = np.array([held.minimum_nano for held in terms])
    parts = [(bill.paying, *_split(world, bill, what, fees)) for bill in mine]
    if not least_of.any():  # revenue is a straight line of the price
        base = fixed + sum((paying * rest).sum(axis=1) for paying, rest, _ in parts)
        slope = sum((paying * units).sum(axis=1) for paying, _, units in parts)
        return lambda nano: base + slope * nano

    def at(nano: int) -> Whole:
        total = fixed
        for paying, rest, units in parts:
            total = total + (paying * np.maximum(rest + units * nano, least_of)).sum(axis=1)
        return total

    return at


def least(is_met: Callable[[int], bool], highest: int) -> int | None:
    """The least whole number from 0 to ``highest`` that is enough, where more is enough too; None where none is.

    >>> least(lambda n: n * n >= 50, 100), least(lambda n: False, 100)
    (8, None)
    """
    if not is_met(highest):
        return None
    low, high = -1, highest  # low is not enough, high is
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_met(middle) else (middle, high)
    return high


def _split(world: World, bill: Bill, what: str, fees: Whole) -> tuple[Whole, Whole]:
    """One customer's bill without the price in question, and how often that price is charged."""
    if what == FEE:
        return bill.usage, np.ones_like(bill.usage)
    units, nano = np.zeros_like(bill.usage), np.zeros(bill.usage.shape[1], np.int64)
    for month, terms in enumerate(world.terms[bill.cell.plan]):
        at_month = {meter: n[:, month] for meter, n in bill.units.items()}
        if what not in terms.tariffs:
            units[:, month] = rates.charged(terms, what, at_month)
            nano[month] = terms.unit_nano.get(what, 0)
    return bill.usage - units * nano + fees, units


def _highest(world: World, flows: Flows, plan: str, what: str) -> int:
    """A price so high that revenue just fits into 64 bits."""
    fees = np.zeros(world.settings.months, np.int64)
    mine = (bill for bill in flows.bills if bill.cell.plan == plan)
    charged = sum((bill.paying * _split(world, bill, what, fees)[1]).sum(axis=1) for bill in mine)
    return rates.MOST // max(1, int(np.max(charged)))
