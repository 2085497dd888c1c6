"""Assumptions as draws: what was stated by its distribution, what was measured by resampling what was seen.

Numbers here are float64: these are statistics of money, not money. Each assumption has random numbers of its own, made
from the seed and its name, so that changing one assumption leaves the draws of every other as they were.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from feilun.bill.forecast_settings import ForecastSettings, MoneyRange, Range
from feilun.errors import DataError, SettingError

Draws = npt.NDArray[np.float64]
HOUR_NS = 3_600 * 10**9
MONTH_DAYS = 30


class Part(NamedTuple):
    """A piece of the past that is drawn again: a day, or a run of requests one after the other."""

    requests: int
    units: Mapping[str, int]  # by meter, requests apart
    answering_ns: int  # processor time of the engine for them
    handling_ns: int  # the rest of the gateway's that is not loading: reading, checking, writing


@dataclass(frozen=True)
class Measured:
    """What the project's own usage shows. ``customers`` has each tenant's requests in 30 days, for those that ask."""

    parts: tuple[Part, ...] = ()
    parts_are: str = "days"
    customers: tuple[float, ...] = ()
    training_ns: int = 0  # processor time of 30 days of finished runs
    fixed_nano: int = 0  # of a month
    core_hour_nano: int = 0

    @property
    def requests(self) -> int:
        """How many requests stand behind it."""
        return sum(part.requests for part in self.parts)


class Assumption(NamedTuple):
    """One input of the forecast: its draws, and the low and high at which its effect is shown."""

    draws: Draws
    low: float
    high: float
    basis: str  # stated, or what it was measured from

    @property
    def is_certain(self) -> bool:
        """Whether every draw is the same."""
        return bool(self.draws.min() == self.draws.max())


def draw(settings: ForecastSettings, measured: Measured, currency: str) -> dict[str, Assumption]:
    """Every assumption by name.

    Raises:
        SettingError: an amount is in another currency than the plans.
        DataError: something is to be measured, and there is nothing to measure.
    """
    past = _Past(settings, measured)
    found: dict[str, Assumption] = {}
    numbers = {
        name: getattr(settings, name)
        for name in (
            *("customers_at_start", "new_customers_per_month", "growth_percent", "churn_percent"),
            *("requests_per_customer", "usage_growth_percent", "inputs_per_request", "tokens_per_request"),
        )
    }
    numbers |= {f"{meter}_per_request": given for meter, given in settings.more_per_request.items()}
    for name, given in numbers.items():
        found[name] = _stated(given, name, settings) if isinstance(given, Range) else past.measure(name)
    for name in ("cost_per_request", "cost_per_token", "training_per_month", "fixed_per_month", "upfront_cost"):
        given = getattr(settings, name) or MoneyRange(0, 0, 0, currency)
        if isinstance(given, MoneyRange) and given.currency != currency:
            raise SettingError(
                f"{name} is in {given.currency}, the plans are in {currency}",
                where="[bill.forecast]",
                hint=f"give it in {currency}",
            )
        is_stated = isinstance(given, MoneyRange)
        found[name] = _stated(Range(*given[:3]), name, settings) if is_stated else past.measure(name)
    return found


def spread(settings: ForecastSettings, measured: Measured) -> tuple[int, ...]:
    """Relative sizes of equally many customers.

    Raises:
        DataError: it is to be measured, and nobody has asked anything.
    """
    if isinstance(settings.usage_spread, tuple):
        return settings.usage_spread
    if not measured.customers:
        raise _nothing("usage_spread")
    ordered = np.sort(np.array(measured.customers))
    tenths = [float(part.mean()) for part in np.array_split(ordered, min(10, len(ordered)))]
    return tuple(max(1, round(size / max(tenths) * 10_000)) for size in tenths)


def generator(seed: int, name: str) -> np.random.Generator:
    """Random numbers of one assumption's own."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def _stated(given: Range, name: str, settings: ForecastSettings) -> Assumption:
    low, likely, high = given
    random = generator(settings.seed, name)
    if low == high:
        draws = np.full(settings.draws, low)
    elif settings.shape == "triangular":
        draws = random.triangular(low, likely, high, settings.draws)
    else:  # PERT: a beta distribution whose mean weighs the likeliest four times (Malcolm et al., 1959)
        width = high - low
        shape = 1 + 4 * (likely - low) / width, 1 + 4 * (high - likely) / width
        draws = low + width * random.beta(*shape, settings.draws)
    return Assumption(draws, low, high, "stated")


class _Past:
    """Bootstrap (Efron 1979): as many parts as there were, drawn with replacement, once for each draw."""

    def __init__(self, settings: ForecastSettings, measured: Measured) -> None:
        self._settings = settings
        self._measured = measured
        self._again: npt.NDArray[np.int64] | None = None

    def measure(self, name: str) -> Assumption:
        """The draws of one assumption; those of one resample belong together, so that what went together still does."""
        measured, draws = self._measured, self._settings.draws
        nano_per_ns = measured.core_hour_nano / HOUR_NS
        certain = {
            "fixed_per_month": (measured.fixed_nano, "[bill.costs], storage"),
            "training_per_month": (measured.training_ns * nano_per_ns, "finished runs"),
            "customers_at_start": (len(measured.customers), "customers that ask"),
        }
        if name in certain:
            value, basis = certain[name]
            return Assumption(np.full(draws, float(value)), float(value), float(value), basis)
        if name == "requests_per_customer":
            return self._of_customers()
        tokens = self._sum("tokens")
        if name == "cost_per_token":  # the engine's work goes with tokens, where there are any
            return self._ratio(self._sum("answering_ns") * nano_per_ns * (tokens > 0), np.maximum(tokens, 1))
        requests = self._sum("requests")
        if name == "cost_per_request":
            work = self._sum("handling_ns") + self._sum("answering_ns") * (tokens == 0)
            return self._ratio(work * nano_per_ns, requests)
        return self._ratio(self._sum(name.removesuffix("_per_request")), requests)

    def _sum(self, what: str) -> Draws:
        """Of each resample."""
        if not self._measured.requests:
            raise _nothing("usage")
        if self._again is None:
            count = len(self._measured.parts)
            random = generator(self._settings.seed, "measured")
            self._again = random.multinomial(count, np.full(count, 1 / count), self._settings.draws)
        own = ("requests", "answering_ns", "handling_ns")
        values = [getattr(p, what) if what in own else p.units.get(what, 0) for p in self._measured.parts]
        return np.asarray(self._again @ np.array(values, np.float64))

    def _ratio(self, over: Draws, under: Draws) -> Assumption:
        draws = over / np.maximum(under, 1)
        low, high = np.percentile(draws, [5, 95])
        basis = f"{self._measured.requests:,} requests in {len(self._measured.parts):,} {self._measured.parts_are}"
        return Assumption(draws, float(low), float(high), basis)

    def _of_customers(self) -> Assumption:
        rates = np.array(self._measured.customers)
        if not len(rates):
            raise _nothing("requests_per_customer")
        random = generator(self._settings.seed, "customers")
        again = random.multinomial(len(rates), np.full(len(rates), 1 / len(rates)), self._settings.draws)
        draws = np.asarray(again @ rates / len(rates))
        low, high = np.percentile(draws, [5, 95])
        return Assumption(draws, float(low), float(high), f"{len(rates):,} customers")


def _nothing(what: str) -> DataError:
    return DataError(
        f"{what} cannot be measured: no requests were answered yet",
        where="[bill.forecast]",
        hint="state it as a number, or as { low = 1, likely = 3, high = 8 }",
    )
