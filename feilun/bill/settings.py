"""The section ``[bill]`` of the project file: plans, prices, taxes and terms of payment, and what serving costs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails

from feilun.accounts.terms import METERS, MORE_METERS, Schedule, Terms
from feilun.bill.amounts import Country, Duration, Moment, Percent, Price, Rate, microseconds
from feilun.bill.forecast_settings import ForecastSettings
from feilun.bill.outgoing_settings import StripeSettings, WebhookSettings
from feilun.bill.plan_settings import PlanSettings, Problem, refuse, unknown_meters
from feilun.bill.products_settings import ProductSettings
from feilun.errors import SettingError, did_you_mean
from feilun.pipeline.steps import Settings
from feilun.store.counts import NAME
from feilun.store.money import Money, half_even

ANSWERS = (*METERS, *MORE_METERS)  # counted of every answer
STORED_EXAMPLES = "stored_examples"  # the tenant's corrections that are kept at the month's end
PRODUCT_METERS = ("rows", "downloads")  # of data products
BUILT_IN = (*ANSWERS, STORED_EXAMPLES, *PRODUCT_METERS)


class MeterSettings(Settings):
    """A meter of the project's own.

    Its units are events that services report, or a number that a task reports of each answer. A month's units are the
    sum of what was reported, how often something was, or the largest or the latest value (of a level, like storage).
    """

    unit: Annotated[str, Field(min_length=1, max_length=32)]  # what one of them is called on an invoice
    aggregate: Literal["sum", "count", "max", "latest"] = "sum"
    reported: Literal["events", "answers"] = "events"

    @model_validator(mode="after")
    def _agree(self) -> MeterSettings:
        if self.reported == "answers" and self.aggregate != "sum":
            raise ValueError("what answers report is summed; leave aggregate out")
        return self


class CouponSettings(Settings):
    """Takes a share or an amount off a tenant's invoices, for so many months from when it is redeemed."""

    percent_off: Percent | None = None
    amount_off: Price | None = None  # of a month, at most what it costs
    months: int = Field(default=1, ge=1, le=1_200, strict=True)
    plans: tuple[str, ...] = ()  # on which it can be redeemed; none means on all
    redeem_by: Moment | None = None
    most: Annotated[int, Field(ge=1, strict=True)] | None = None  # tenants that can redeem it

    @model_validator(mode="after")
    def _one(self) -> CouponSettings:
        if (self.percent_off is None) == (self.amount_off is None):
            raise ValueError("a coupon has either percent_off or amount_off")
        if not (self.percent_off or (self.amount_off and self.amount_off.nano)):
            raise ValueError("a coupon takes something off")
        return self


class TaxRate(Settings):
    """A tax that customers in ``country`` pay, from ``begins`` on, until a later rate of the same name begins."""

    country: Country
    name: Annotated[str, Field(min_length=1, max_length=32)]
    percent: Percent
    begins: Moment = Field(default="1970-01-01", validate_default=True)


class TaxSettings(Settings):
    """Rates by country, and between which countries a customer with a tax id accounts for the tax."""

    rates: tuple[TaxRate, ...] = ()
    reverse_charge: tuple[Country, ...] = ()

    @model_validator(mode="after")
    def _once(self) -> TaxSettings:
        seen: set[tuple[str, str, int]] = set()
        for rate in self.rates:
            key = (rate.country, rate.name, microseconds(rate.begins))
            if key in seen:
                raise ValueError(f"{rate.name} of {rate.country} begins twice on {rate.begins:%Y-%m-%d}")
            seen.add(key)
        return self

    def in_force(self, country: str, at_us: int) -> tuple[TaxRate, ...]:
        """The rates that a customer in ``country`` pays at a moment, by name."""
        found: dict[str, TaxRate] = {}
        for rate in sorted(self.rates, key=lambda rate: rate.begins):
            if rate.country == country and microseconds(rate.begins) <= at_us:
                found[rate.name] = rate
        return tuple(found[name] for name in sorted(found))


class SellerSettings(Settings):
    """Who sends the invoices, as it stands on them."""

    name: str = Field(default="", max_length=200)
    address: str = Field(default="", max_length=1_000)
    country: Country | None = None
    tax_id: str = Field(default="", max_length=64)


PlanName = Annotated[
    str, Field(pattern=r"^\w[\w.+ -]{0,63}$")
]  # letters of any language; it stands in reports and files


class BillSettings(Settings):
    """Everything about money. A plan has one currency, and what serving costs has one, that of ``core_hour``.

    Amounts of several currencies are only ever added up by the rates in ``exchange``, never by guessing.
    """

    core_hour: Price = Money(50_000_000, "USD")  # of one core; by it measured processor time becomes a cost
    gpu_hour: Price | None = None
    storage_gb_month: Price | None = None
    costs: dict[str, Price] = Field(default_factory=dict)  # fixed, of each month, by name
    exchange: dict[str, Rate] = Field(default_factory=dict)  # "EUR/USD" = "1.08": 1 EUR is 1.08 USD
    grace: Duration = timedelta(hours=24)  # after a month's end, in which late usage still counts for it
    due_days: int = Field(default=14, ge=0, le=365, strict=True)  # after an invoice is closed
    seller: SellerSettings = SellerSettings()
    meters: dict[str, MeterSettings] = Field(default_factory=dict)
    plans: dict[PlanName, PlanSettings] = Field(default_factory=dict)
    coupons: dict[str, CouponSettings] = Field(default_factory=dict)
    tax: TaxSettings = TaxSettings()
    webhook: WebhookSettings | None = None
    stripe: StripeSettings | None = None
    products: dict[str, ProductSettings] = Field(default_factory=dict)
    forecast: dict[str, ForecastSettings] = Field(default_factory=dict)

    @field_validator("meters")
    @classmethod
    def _names(cls, meters: dict[str, MeterSettings]) -> dict[str, MeterSettings]:
        refuse("meters", _bad_names(meters))
        return meters

    @field_validator("exchange")
    @classmethod
    def _pairs(cls, exchange: dict[str, Decimal]) -> dict[str, Decimal]:
        refuse("exchange", _bad_pairs(exchange))
        return exchange

    @field_validator("plans", mode="wrap")
    @classmethod
    def _metered(
        cls, plans: Any, validate: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> dict[str, PlanSettings]:
        """What is wrong within the plans and which of their meters nobody counts, told together."""
        own: Mapping[str, MeterSettings] = info.data.get("meters", {})
        answers = (*ANSWERS, *(name for name, meter in own.items() if meter.reported == "answers"))
        unknown = list(unknown_meters(plans, (*BUILT_IN, *own), answers)) if "meters" in info.data else []
        try:
            read: dict[str, PlanSettings] = validate(plans)
        except ValidationError as error:
            told = {problem.place for problem in unknown}
            details = [_again(problem) for problem in error.errors() if problem["loc"] not in told]
            raise ValidationError.from_exception_data(
                "plans", [*(problem.details for problem in unknown), *details]
            ) from error
        refuse("plans", unknown)
        return read

    @model_validator(mode="after")
    def _agree(self) -> BillSettings:
        refuse("bill", [*self._coupons(), *self._forecasts()])
        return self

    @property
    def grace_us(self) -> int:
        """``grace`` in microseconds."""
        return self.grace // timedelta(microseconds=1)

    def currency(self, plan: str) -> str:
        """The one currency of a plan; one without any amounts counts in that of ``core_hour``.

        Raises:
            SettingError: there is no such plan.
        """
        return self._plan(plan).currency or self.core_hour.currency

    def terms(self, plan: str, at_us: int | None = None) -> Terms:
        """What rating needs of the plan ``plan`` as the file states it.

        Args:
            plan: its name.
            at_us: the moment, in microseconds since 1970, UTC; now, by this machine's clock, where it is left out.

        Raises:
            SettingError: there is no such plan.
        """
        return self.schedule(plan).at(time.time_ns() // 1_000 if at_us is None else at_us)

    def schedule(self, plan: str) -> Schedule:
        """What the plan ``plan`` costs from when on; the first terms are for all time before the first change.

        Raises:
            SettingError: there is no such plan.
        """
        self._plan(plan)
        return self._schedules[plan]

    def all_terms(self) -> Mapping[str, Schedule]:
        """What every plan costs from when on, by its name."""
        return self._schedules

    @cached_property
    def _schedules(self) -> Mapping[str, Schedule]:
        """Made once: each version's digest is asked for again and again."""
        return {name: plan.schedule(self.core_hour.currency) for name, plan in self.plans.items()}

    def meters_reported_by(self, source: Literal["events", "answers"]) -> Mapping[str, MeterSettings]:
        """The project's own meters whose units come as events, or with answers."""
        return {name: meter for name, meter in self.meters.items() if meter.reported == source}

    def convert(self, money: Money, currency: str) -> Money:
        """An amount in another currency, by the stated rate, rounded half to even to a nano-unit.

        Raises:
            SettingError: no rate between the two is stated.
        """
        if money.currency == currency:
            return money
        ahead = self.exchange.get(f"{money.currency}/{currency}")
        back = self.exchange.get(f"{currency}/{money.currency}")
        if ahead is None and back is None:
            raise SettingError(
                f"there is no rate of exchange from {money.currency} to {currency}",
                where="[bill]",
                hint=f'state it: exchange = {{ "{money.currency}/{currency}" = "1.08" }}',
                code="no-exchange-rate",
            )
        rate = Fraction(ahead) if ahead is not None else 1 / Fraction(back or 1)
        return Money(half_even(money.nano * rate.numerator, rate.denominator), currency)

    def _plan(self, plan: str) -> PlanSettings:
        if plan not in self.plans:
            known = ", ".join(sorted(self.plans)) or "none"
            hint = did_you_mean(plan, self.plans) or f"known: {known}"
            raise SettingError(f"there is no plan '{plan}'", where="[bill.plans]", hint=hint, code="unknown-plan")
        return self.plans[plan]

    def _coupons(self) -> Iterator[Problem]:
        for name, coupon in self.coupons.items():
            for plan in coupon.plans:
                if plan not in self.plans:
                    hint = did_you_mean(plan, self.plans) or f"plans are {', '.join(self.plans) or 'none'}"
                    yield Problem(("coupons", name, "plans"), f"there is no plan '{plan}'; {hint}", plan)
                elif coupon.amount_off and coupon.amount_off.currency != self.currency(plan):
                    what = f"plan '{plan}' is in {self.currency(plan)}; make a coupon for each currency"
                    yield Problem(("coupons", name, "amount_off"), what, str(coupon.amount_off))

    def _forecasts(self) -> Iterator[Problem]:
        for name, forecast in self.forecast.items():
            for plan in forecast.plans:
                if plan not in self.plans:
                    hint = did_you_mean(plan, self.plans) or f"plans are {', '.join(self.plans) or 'none'}"
                    yield Problem(("forecast", name, "plans"), f"there is no plan '{plan}'; {hint}", plan)


def _bad_names(meters: Mapping[str, MeterSettings]) -> Iterator[Problem]:
    for name in meters:
        if name in BUILT_IN:
            yield Problem((name,), f"'{name}' is counted already; give yours another name", name)
        elif not NAME.fullmatch(name) or name == "self":
            yield Problem((name,), "a meter's name is a-z, 0-9 and _, at most 32 of them, a letter first", name)


def _bad_pairs(exchange: Mapping[str, Decimal]) -> Iterator[Problem]:
    for pair, rate in exchange.items():
        one, _, other = pair.partition("/")
        if not all(len(c) == 3 and c.isascii() and c.isalpha() and c.isupper() for c in (one, other)) or one == other:
            yield Problem((pair,), 'two currencies, like "EUR/USD": 1 EUR is so many USD', str(rate))
        elif f"{other}/{one}" in exchange and one < other:
            yield Problem((pair,), f"{other}/{one} is stated too; one of them is enough", str(rate))


def _again(problem: Any) -> InitErrorDetails:
    context = problem.get("ctx", {})
    if problem["type"] == "value_error" and "error" not in context:  # it was raised by ``refuse``
        return Problem(problem["loc"], problem["msg"], problem["input"]).details
    return InitErrorDetails(type=problem["type"], loc=problem["loc"], input=problem["input"], ctx=context)
