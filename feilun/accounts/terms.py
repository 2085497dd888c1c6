"""A plan's terms and what units cost under them: pure functions over integers.

A calendar month (UTC) includes some units of each meter; units beyond cost their price, or what the meter's tariff
says. What one request costs is therefore the difference that it makes to the month's total, so the amounts of a month's
requests always sum to the amount of the month, in whatever order and grouping they came.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

from feilun.accounts.tariffs import Kind, Mode, Part, Tariff, Tier
from feilun.errors import SettingError
from feilun.store.artifacts import canonical
from feilun.store.counts import METERS, MORE_METERS, NAME, OF_WAYS, Counts

__all__ = [
    "METERS",
    "MORE_METERS",
    "Counts",
    "Kind",
    "Mode",
    "Part",
    "Prorate",
    "Rates",
    "Schedule",
    "Tariff",
    "Terms",
    "Tier",
    "amount",
]

Prorate = Literal["changes", "all", "none"]
WARN_PERCENT = (80, 100)


class Rates(NamedTuple):
    """The prices of a plan's meters: one for each unit, or a tariff; ``meters`` are all that have either.

    ``apart`` are meters of ``OF_WAYS`` whose units are not charged as plain ones.
    """

    unit_nano: Mapping[str, int]
    tariffs: Mapping[str, Tariff]
    apart: frozenset[str]
    meters: tuple[str, ...]


@dataclass(frozen=True)
class Terms:
    """What one version of a plan costs. Amounts are nano-units of ``currency``; a meter that is not named costs 0.

    ``unit_nano`` is the price of each unit of a meter beyond ``included``; ``tariffs`` stands in its place where a
    meter has tiers or packages, and counts from the first unit beyond ``included``. ``monthly_nano`` is the fee of a
    month, ``minimum_nano`` what a month costs at least; ``prorate`` says which parts of a month are charged a part of
    the fee: those between changes of plan or price ("changes"), these and the first and last month of a tenant
    ("all"), or no part at all ("none"). ``quota``, ``warn_percent``, ``prepaid``, ``requests_per_minute``, ``share``
    (of the engine, against others who ask at the same time), ``priority`` and ``cache_s`` are limits and no prices:
    they do not count for ``version``. ``batch_percent`` and ``cached_percent`` are what answers of a batch and answers
    that were kept cost of the plain price, where the plan states no price of theirs (``rates``).

    Raises:
        SettingError: a meter cannot have that name, has two prices, or a number is negative.
    """

    currency: str
    monthly_nano: int = 0
    included: Mapping[str, int] = field(default_factory=dict)
    unit_nano: Mapping[str, int] = field(default_factory=dict)
    tariffs: Mapping[str, Tariff] = field(default_factory=dict)
    minimum_nano: int = 0
    trial_days: int = 0
    prorate: Prorate = "changes"
    quota: Mapping[str, int] = field(default_factory=dict)
    warn_percent: tuple[int, ...] = WARN_PERCENT
    prepaid: bool = False
    requests_per_minute: int | None = None
    share: int = 1
    priority: int = 0
    cache_s: int = 0  # how old an answer may be that is given again; 0: only to those who ask for it
    batch_percent: int = 50
    cached_percent: int = 100

    def __post_init__(self) -> None:
        for name in {*self.included, *self.unit_nano, *self.tariffs, *self.quota}:
            if not NAME.fullmatch(name):
                raise SettingError(f"'{name[:80]}' cannot be a meter", hint="use a-z, 0-9 and _, at most 32 of them")
            if name in self.tariffs and self.unit_nano.get(name):
                raise SettingError(f"'{name}' has two prices", hint="leave out its price or its tiers")
        amounts = {"monthly": self.monthly_nano, "minimum": self.minimum_nano, "trial_days": self.trial_days}
        amounts |= {"batch_percent": self.batch_percent, "cached_percent": self.cached_percent}
        for name, units in (
            *amounts.items(),
            *(n for m in (self.included, self.unit_nano, self.quota) for n in m.items()),
        ):
            if units < 0:
                raise SettingError(f"{name} cannot be negative")
        if self.prorate not in get_args(Prorate):
            raise SettingError(f"prorate cannot be '{self.prorate}'", hint=f"one of {', '.join(get_args(Prorate))}")
        for name in ("included", "unit_nano"):  # 0 is what a meter has that is not named: equal terms are equal
            object.__setattr__(self, name, {meter: n for meter, n in getattr(self, name).items() if n})

    @cached_property
    def version(self) -> str:
        """Digest of everything that decides an amount; each usage row carries it."""
        return hashlib.sha256(self.as_json().encode()).hexdigest()

    def as_json(self) -> str:
        """Canonical JSON, from which ``from_json`` makes the same prices.

        What has its default is left out, so that terms from before there was more keep their version.
        """
        body: dict[str, Any] = {
            "currency": self.currency,
            "monthly_nano": self.monthly_nano,
            "included": dict.fromkeys(METERS, 0) | dict(self.included),
            "unit_nano": dict.fromkeys(METERS, 0) | dict(self.unit_nano),
        }
        if self.tariffs:
            body["tariffs"] = {meter: tariff.as_dict() for meter, tariff in self.tariffs.items()}
        more = {"minimum_nano": (self.minimum_nano, 0), "trial_days": (self.trial_days, 0)}
        body |= {name: value for name, (value, usual) in more.items() if value != usual}
        more = {"batch_percent": (self.batch_percent, 50), "cached_percent": (self.cached_percent, 100)}
        body |= {name: value for name, (value, usual) in more.items() if value != usual}
        if self.prorate != "changes":
            body["prorate"] = self.prorate
        return canonical(body).decode()

    @classmethod
    def from_json(cls, text: str) -> Terms:
        """Terms as ``as_json`` wrote them."""
        values = json.loads(text)
        tariffs = {meter: Tariff.from_dict(tariff) for meter, tariff in values.pop("tariffs", {}).items()}
        return cls(**values, tariffs=tariffs)

    @property
    def priced(self) -> tuple[str, ...]:
        """The meters that have a price of their own, by name."""
        return tuple(sorted({*self.unit_nano, *self.tariffs}))

    @cached_property
    def rates(self) -> Rates:
        """Every price there is: those that are stated, and those of batches and kept answers that follow from them."""
        unit, tariffs, apart = dict(self.unit_nano), dict(self.tariffs), []
        for name, (way, meter) in OF_WAYS.items():
            percent = self.batch_percent if way == "batch" else self.cached_percent
            if name in self.priced:
                apart.append(name)
            elif percent != 100 and meter in self.priced:
                apart.append(name)
                if meter in self.tariffs:
                    tariffs[name] = self.tariffs[meter].at_percent(percent)
                elif self.unit_nano[meter] * percent % 100 == 0:
                    unit[name] = self.unit_nano[meter] * percent // 100
                else:
                    tariffs[name] = Tariff("graduated", (Tier(None, self.unit_nano[meter] * percent, 100),))
        return Rates(unit, tariffs, frozenset(apart), tuple(sorted({*unit, *tariffs})))

    def charged(self, units: Mapping[str, int]) -> Mapping[str, int]:
        """A month's units, each under the one meter whose price it has: those of a batch are no plain ones any more.

        >>> plan = Terms("USD", unit_nano={"requests": 10})
        >>> dict(plan.charged(Counts(3).plus(Counts(2).by_way("batch"))))
        {'requests': 3, 'batch_requests': 2}
        """
        found = [name for name in self.rates.apart if units.get(name)]
        if not found:
            return units
        left = dict(units)
        for name in found:
            plain = OF_WAYS[name][1]
            left[plain] = left.get(plain, 0) - units[name]
        return left

    def total(self, units: Mapping[str, int]) -> int:
        """What a month's units cost, in nano-units, without fee and minimum."""
        total, rates, left = 0, self.rates, self.charged(units)
        for meter, nano in rates.unit_nano.items():
            total += nano * max(0, left.get(meter, 0) - self.included.get(meter, 0))
        for meter, tariff in rates.tariffs.items():
            total += tariff.total(left.get(meter, 0) - self.included.get(meter, 0))
        return total

    def amount(self, before: Counts, after: Counts) -> int:
        """What it costs, in nano-units, to go from the month's counts ``before`` to ``after``.

        It is below 0 where ``after`` reaches a volume tier that makes all units cheaper.

        >>> plan = Terms("USD", included={"requests": 10}, unit_nano={"requests": 800_000})
        >>> plan.amount(Counts(requests=9), Counts(requests=12))
        1600000
        """
        return self.total(after) - self.total(before)

    def parts(self, meter: str, before: int, after: int) -> list[Part]:
        """The same for one meter, counted as ``charged`` does, by price: what is included, then what is charged.

        The ``exact_nano`` of a meter's parts sum to its share of ``amount``.

        >>> plan = Terms("USD", included={"requests": 10}, unit_nano={"requests": 800_000})
        >>> [(part.kind, part.units, part.exact_nano) for part in plan.parts("requests", 9, 12)]
        [('included', 1, 0), ('unit', 2, 1600000)]
        """
        free = self.included.get(meter, 0)
        within = min(after, free) - min(before, free)
        parts = [Part(0, within, 0, 1, 0, "included")] if within else []
        earlier, now = max(0, before - free), max(0, after - free)
        if meter in self.rates.tariffs:
            parts += self.rates.tariffs[meter].parts(earlier, now)
        elif now != earlier:
            nano = self.rates.unit_nano.get(meter, 0)
            parts.append(Part(0, now - earlier, nano, 1, (now - earlier) * nano, "unit"))
        return parts

    def ceiling(self, units: Counts) -> int:
        """The most that requests of these units can cost, whatever other requests come before, between and after.

        ``units.requests`` is into how many requests the units are divided; where it is 0, each unit may come alone.

        >>> Terms("USD", included={"requests": 10}, unit_nano={"requests": 800_000}).ceiling(Counts(requests=2))
        1600000
        """
        rates, left = self.rates, self.charged(units)
        simple = sum(nano * left.get(meter, 0) for meter, nano in rates.unit_nano.items())
        return simple + sum(t.ceiling(left.get(meter, 0), units.requests) for meter, t in rates.tariffs.items())

    def most(self, used: Counts, held: Counts) -> int:
        """The most that open holds can cost after a month's ``used``, whichever of them are captured and which are not.

        Mostly that is all of them together. Under volume tiers more units can cost less, so there it is the ceiling.
        """
        if any(tariff.mode == "volume" for tariff in self.tariffs.values()):
            return self.ceiling(held)
        return self.amount(used, used.plus(held))


def amount(terms: Terms, before: Counts, after: Counts) -> int:
    """See ``Terms.amount``."""
    return terms.amount(before, after)


@dataclass(frozen=True)
class Schedule:
    """The terms of a plan by the time from which they hold, ascending; in microseconds since 1970, UTC.

    Raises:
        ValueError: no terms, or times that do not ascend.

    >>> plan = Schedule(((0, Terms("USD", 1)), (100, Terms("USD", 2))))
    >>> [plan.at(us).monthly_nano for us in (-5, 99, 100)]
    [1, 1, 2]
    """

    entries: tuple[tuple[int, Terms], ...]

    def __post_init__(self) -> None:
        begins = [us for us, _ in self.entries]
        if not begins or any(later <= earlier for earlier, later in pairwise(begins)):
            raise ValueError("a schedule has terms, and each begins after the one before")

    @classmethod
    def always(cls, terms: Terms) -> Schedule:
        """One version for all time."""
        return cls(((0, terms),))

    def at(self, us: int) -> Terms:
        """The terms in force at a moment; before all of them, the first."""
        return self.entries[max(0, bisect_right(self.entries, us, key=lambda entry: entry[0]) - 1)][1]

    @property
    def newest(self) -> Terms:
        """The terms that begin last, be it in the future."""
        return self.entries[-1][1]
