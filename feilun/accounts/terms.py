"""A plan's terms and what units cost under them: pure functions over integers.

A calendar month (UTC) includes some units of each meter; each unit beyond costs its price. What one request costs is
therefore the difference that it makes to the month's total, so the amounts of a month's requests always sum to the
amount of the month, in whatever order and grouping they came.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from feilun.errors import SettingError, did_you_mean
from feilun.store.artifacts import canonical
from feilun.store.counts import METERS, Counts
from feilun.store.money import Money, parse_money

__all__ = ["METERS", "Counts", "Terms", "amount", "parse_terms"]


@dataclass(frozen=True)
class Terms:
    """What a plan costs. Amounts are nano-units of ``currency``; a meter that is not named includes and costs 0."""

    currency: str
    monthly_nano: int = 0
    included: Mapping[str, int] = field(default_factory=dict)
    unit_nano: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, units in (*self.included.items(), *self.unit_nano.items(), ("monthly", self.monthly_nano)):
            if name not in METERS and name != "monthly":
                raise SettingError(
                    f"'{name}' is not metered",
                    hint=did_you_mean(name, METERS) or f"meters are {', '.join(METERS)}",
                )
            if units < 0:
                raise SettingError(f"{name} cannot be negative")

    @property
    def version(self) -> str:
        """Digest of everything that decides an amount; each usage row carries it."""
        return hashlib.sha256(self.as_json().encode()).hexdigest()

    def as_json(self) -> str:
        """Canonical JSON, from which ``from_json`` makes the same terms."""
        body = {
            "currency": self.currency,
            "monthly_nano": self.monthly_nano,
            "included": {m: self.included.get(m, 0) for m in METERS},
            "unit_nano": {m: self.unit_nano.get(m, 0) for m in METERS},
        }
        return canonical(body).decode()

    @classmethod
    def from_json(cls, text: str) -> Terms:
        """Terms as ``as_json`` wrote them."""
        return cls(**json.loads(text))

    def amount(self, before: Counts, after: Counts) -> int:
        """See the function ``amount``."""
        return amount(self, before, after)


def amount(terms: Terms, before: Counts, after: Counts) -> int:
    """What it costs, in nano-units, to go from the month's counts ``before`` to ``after``.

    >>> plan = Terms("USD", included={"requests": 10}, unit_nano={"requests": 800_000})
    >>> amount(plan, Counts(requests=9), Counts(requests=12))
    1600000
    """
    return sum(
        terms.unit_nano.get(meter, 0)
        * (max(0, now - terms.included.get(meter, 0)) - max(0, earlier - terms.included.get(meter, 0)))
        for meter, earlier, now in zip(METERS, before, after, strict=True)
    )


def parse_terms(*, monthly: str, included: Mapping[str, int], overage: Mapping[str, str]) -> Terms:
    """Terms as a project file writes them: ``monthly = "19.00 USD"``, ``overage = { requests = "0.0008 USD" }``.

    Raises:
        SettingError: not money, a price finer than a nano-unit, two currencies, an unknown meter, a negative number.
    """
    fee = parse_money(monthly)
    prices = {meter: _price(price, fee) for meter, price in overage.items()}
    return Terms(fee.currency, fee.nano, dict(included), prices)


def _price(text: str, fee: Money) -> int:
    price = parse_money(text)
    if price.currency != fee.currency:
        raise SettingError(
            f"a plan has one currency, this one has {fee.currency} and {price.currency}",
            hint="make a second plan for the other currency",
        )
    return price.nano
