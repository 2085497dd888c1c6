"""What units of one meter cost when not every unit costs the same: tiers and packages, over integers.

Every tariff gives the cost of a month's units, counted from 0; what some of them cost is the difference of two such
costs, so the amounts of a month's requests telescope: they sum to the month's amount however they were grouped. Where
a price is for several units, each tier's cost is divided once, half to even, to a whole nano-unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

from feilun.errors import SettingError
from feilun.store.money import half_even

Mode = Literal["graduated", "volume", "package"]
Kind = Literal["included", "unit", "package", "volume", "flat"]


@dataclass(frozen=True)
class Tier:
    """``nano`` for each ``per`` units up to the month's unit ``up_to`` (None: no end).

    ``flat_nano`` is charged once in the month, when the first unit of the tier is used.
    """

    up_to: int | None
    nano: int
    per: int = 1
    flat_nano: int = 0

    def cost(self, units: int) -> int:
        """Nano-units of so many units at this tier's price, without its flat amount."""
        return half_even(units * self.nano, self.per)

    @property
    def exact(self) -> bool:
        """Whether no number of units has to be rounded."""
        return self.nano % self.per == 0


class Part(NamedTuple):
    """Some units that have one price: ``units`` at ``nano`` for each ``per``, which is ``exact_nano``.

    ``tier`` is a place in the tariff's tiers, from 0. Units are negative where a volume tier was left for another. With
    the kind "package" each begun ``per`` units cost ``nano``; with "flat", ``units`` is how often it was charged.
    """

    tier: int
    units: int
    nano: int
    per: int
    exact_nano: int
    kind: Kind


@dataclass(frozen=True)
class Tariff:
    """How a meter's units of a month are priced.

    graduated: each unit has the price of the tier that it falls in. volume: all units have the price of the tier that
    the month's last unit falls in. package: one tier; each begun ``per`` units cost its price.

    Raises:
        SettingError: tiers that do not ascend, that end, or that no mode can read.
    """

    mode: Mode
    tiers: tuple[Tier, ...]

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise SettingError(f"a tariff cannot be '{self.mode}'", hint=f"modes are {', '.join(get_args(Mode))}")
        if not self.tiers or self.tiers[-1].up_to is not None:
            raise SettingError("the last tier has no end", hint="leave its up_to out")
        low = 0
        for tier in self.tiers[:-1]:
            if tier.up_to is None or tier.up_to <= low:
                raise SettingError("tiers ascend", hint="each up_to but the last is above the one before")
            low = tier.up_to
        if any(tier.nano < 0 or tier.flat_nano < 0 or tier.per < 1 for tier in self.tiers):
            raise SettingError("a price is not negative, and it is for at least 1 unit")
        if self.mode == "package" and (len(self.tiers) > 1 or self.tiers[0].flat_nano):
            raise SettingError("a package has one price and nothing else")

    def total(self, units: int) -> int:
        """What ``units`` of a month cost, in nano-units."""
        if units <= 0:
            return 0
        if self.mode == "package":
            return -(-units // self.tiers[0].per) * self.tiers[0].nano
        if self.mode == "volume":
            tier = self.tiers[self._tier_of(units)]
            return tier.cost(units) + tier.flat_nano
        total, low = 0, 0
        for tier in self.tiers:
            if units <= low:
                break
            end = units if tier.up_to is None else min(units, tier.up_to)
            total += tier.cost(end - low) + tier.flat_nano
            low = end
        return total

    def parts(self, before: int, after: int) -> list[Part]:
        """What the month's units beyond ``before``, up to ``after``, cost; it sums to the difference of the totals."""
        if self.mode == "package":
            tier, cost = self.tiers[0], self.total(after) - self.total(before)
            return [Part(0, after - before, tier.nano, tier.per, cost, "package")] if after != before else []
        return self._moved(before, after) if self.mode == "volume" else self._climbed(before, after)

    def ceiling(self, units: int, pieces: int) -> int:
        """What ``units`` that come in ``pieces`` cost at the most, wherever in a month each piece falls."""
        if units <= 0:
            return 0
        pieces = min(pieces, units) if pieces > 0 else units
        if self.mode == "package":
            return ((units - pieces) // self.tiers[0].per + pieces) * self.tiers[0].nano
        rate = max(Fraction(tier.nano, tier.per) for tier in self.tiers)
        jumps = Fraction(self.tiers[0].flat_nano)
        for lower, upper in pairwise(self.tiers):
            jump = Fraction(upper.flat_nano)
            if self.mode == "volume":  # the new tier reprices all units up to here
                jump -= lower.flat_nano
                jump += (Fraction(upper.nano, upper.per) - Fraction(lower.nano, lower.per)) * (lower.up_to or 0)
            jumps += max(Fraction(0), jump)
        rounding = 0 if all(tier.exact for tier in self.tiers) else pieces + len(self.tiers) - 1
        highest = units * rate + jumps
        return highest.numerator // highest.denominator + rounding

    def at_percent(self, percent: int) -> Tariff:
        """The same tiers at ``percent`` of their prices; a package's and a flat price are rounded, half to even."""
        if self.mode == "package":
            return Tariff("package", (replace(self.tiers[0], nano=half_even(self.tiers[0].nano * percent, 100)),))
        tiers = (
            replace(t, nano=t.nano * percent, per=t.per * 100, flat_nano=half_even(t.flat_nano * percent, 100))
            for t in self.tiers
        )
        return Tariff(self.mode, tuple(tiers))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, from which ``from_dict`` makes the same tariff."""
        return {"mode": self.mode, "tiers": [asdict(tier) for tier in self.tiers]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Tariff:
        """A tariff as ``as_dict`` wrote it."""
        return cls(values["mode"], tuple(Tier(**tier) for tier in values["tiers"]))

    def _tier_of(self, units: int) -> int:
        return next(i for i, tier in enumerate(self.tiers) if tier.up_to is None or units <= tier.up_to)

    def _climbed(self, before: int, after: int) -> list[Part]:
        parts, low = [], 0
        for i, tier in enumerate(self.tiers):
            most = max(before, after) if tier.up_to is None else tier.up_to
            earlier, now = (max(0, min(units, most) - low) for units in (before, after))
            if now != earlier:
                cost = tier.cost(now) - tier.cost(earlier)
                parts.append(Part(i, now - earlier, tier.nano, tier.per, cost, "unit"))
            if tier.flat_nano and (times := (now > 0) - (earlier > 0)):
                parts.append(Part(i, times, tier.flat_nano, 1, times * tier.flat_nano, "flat"))
            low = most
        return parts

    def _moved(self, before: int, after: int) -> list[Part]:
        if before > 0 and after > 0 and self._tier_of(before) == self._tier_of(after):
            i = self._tier_of(after)
            tier = self.tiers[i]
            cost = tier.cost(after) - tier.cost(before)
            return [Part(i, after - before, tier.nano, tier.per, cost, "volume")] if after != before else []
        parts = []
        for units, sign in ((before, -1), (after, 1)):
            if units <= 0:
                continue
            i = self._tier_of(units)
            tier = self.tiers[i]
            parts.append(Part(i, sign * units, tier.nano, tier.per, sign * tier.cost(units), "volume"))
            if tier.flat_nano:
                parts.append(Part(i, sign, tier.flat_nano, 1, sign * tier.flat_nano, "flat"))
        return parts
