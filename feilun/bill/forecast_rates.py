"""What a month's units cost under terms, for whole arrays of months at once: 64-bit integers, nothing else.

``Terms.total`` is the rule; this is the same rule for a million months in a moment, and the tests hold it to that.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from feilun.accounts.tariffs import Tariff, Tier
from feilun.accounts.terms import Terms
from feilun.errors import SettingError

Whole = npt.NDArray[np.int64]
MOST = 2**60  # an eighth of what 64 bits hold, so that the sum of several amounts fits as well


def total(terms: Terms, units: Mapping[str, Whole]) -> Whole:
    """What each month's units cost in nano-units, without fee and minimum; a meter that is not named has no units.

    Raises:
        SettingError: an amount is more than a ledger holds.
    """
    shape = np.broadcast_shapes(*(n.shape for n in units.values()))
    amount = np.zeros(shape, np.int64)
    for meter in terms.priced:
        beyond = charged(terms, meter, units)
        if meter in terms.tariffs:
            amount = amount + tariff_total(terms.tariffs[meter], beyond)
        else:
            amount = amount + product(beyond, terms.unit_nano[meter])
    return amount


def charged(terms: Terms, meter: str, units: Mapping[str, Whole]) -> Whole:
    """The units of a meter beyond those that are included."""
    given = units.get(meter, np.zeros(1, np.int64))
    return np.maximum(given - terms.included.get(meter, 0), 0)


def tariff_total(tariff: Tariff, units: Whole) -> Whole:
    """What so many units of one meter cost, each element by itself (see ``Tariff.total``)."""
    first = tariff.tiers[0]
    if tariff.mode == "package":
        return product(-(-units // first.per), first.nano)
    amount = np.zeros(units.shape, np.int64)
    low = 0
    for tier in tariff.tiers:
        end = int(units.max(initial=0)) + 1 if tier.up_to is None else tier.up_to
        if tariff.mode == "volume":
            here = np.where((units > low) & (units <= end), units, 0)
        else:
            here = np.clip(units, low, max(low, end)) - low
        amount = amount + _tier(tier, here)
        low = end
    return amount


def _tier(tier: Tier, units: Whole) -> Whole:
    cost = divided(product(units, tier.nano), tier.per) if tier.per > 1 else product(units, tier.nano)
    return cost + np.where(units > 0, tier.flat_nano, 0)


def divided(numerator: Whole, denominator: int) -> Whole:
    """Each element over ``denominator`` (positive), half to even.

    >>> divided(np.array([-3, -1, 1, 3, 4]), 2).tolist()
    [-2, 0, 0, 2, 2]
    """
    whole, rest = np.divmod(numerator, denominator)
    up: Whole = whole + ((rest > denominator - rest) | ((rest == denominator - rest) & (whole % 2 == 1)))
    return up


def product(units: Whole, nano: Whole | int) -> Whole:
    """Elementwise, refused where it would not fit.

    Raises:
        SettingError: an amount is more than a ledger holds.
    """
    most = int(np.max(np.abs(units), initial=0)) * int(np.max(np.abs(nano), initial=0))
    if most >= MOST:
        raise SettingError(
            "the forecast has amounts that no ledger holds", hint="smaller numbers of customers, units or prices"
        )
    return units * nano
