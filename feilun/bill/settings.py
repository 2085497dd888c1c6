"""The section ``[bill]`` of the project file: plans, and what a core-hour costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, PlainSerializer, PlainValidator, model_validator

from feilun.accounts.terms import METERS, Terms
from feilun.bill.outgoing_settings import StripeSettings, WebhookSettings
from feilun.errors import SettingError, did_you_mean
from feilun.pipeline.steps import Settings
from feilun.store.money import Money, parse_money, round_to_minor


def _price(value: Any) -> Money:
    """Read an amount that is not negative; pydantic collects a ValueError with its place."""
    if isinstance(value, Money):
        return value
    if not isinstance(value, str):
        raise ValueError("money is written as text, like '19.00 USD'")
    try:
        money = parse_money(value)
    except SettingError as error:
        raise ValueError(f"{error.what}; {error.hint}") from error
    if money.nano < 0:
        raise ValueError(f"'{value}' is below 0")
    return money


Price = Annotated[Money, PlainValidator(_price), PlainSerializer(str)]
Units = Annotated[int, Field(ge=0, lt=2**53, strict=True)]


class Included(Settings):
    """Units of a calendar month that the monthly fee covers."""

    requests: Units = 0
    inputs: Units = 0
    tokens: Units = 0


class Overage(Settings):
    """Price of each unit beyond those; a meter without a price costs nothing."""

    requests: Price | None = None
    inputs: Price | None = None
    tokens: Price | None = None


class PlanSettings(Settings):
    """What a tenant pays in a calendar month (UTC)."""

    monthly: Price | None = None  # charged once for each month with an invoice; none means no fee
    included: Included = Included()
    overage: Overage = Overage()
    budget: Price | None = None  # hard limit for usage in a month; requests beyond it are refused

    @property
    def prices(self) -> dict[str, Money]:
        """The price of each meter that has one."""
        prices = {meter: getattr(self.overage, meter) for meter in METERS}
        return {meter: price for meter, price in prices.items() if price is not None}

    @model_validator(mode="after")
    def _agree(self) -> PlanSettings:
        for meter in METERS:
            if getattr(self.included, meter) and meter not in self.prices:
                raise ValueError(
                    f"included names '{meter}', which has no price; add overage = {{ {meter} = \"0.001 USD\" }}"
                )
        if self.monthly and round_to_minor(*self.monthly) != self.monthly.nano:
            raise ValueError(f"monthly = '{self.monthly}' is finer than the smallest coin")
        return self


class BillSettings(Settings):
    """Plans by name, and the price of one core for an hour, by which measured processor time becomes a cost.

    Every amount is in one currency, that of ``core_hour``.
    """

    core_hour: Price = Money(50_000_000, "USD")
    plans: dict[str, PlanSettings] = Field(default_factory=dict)
    webhook: WebhookSettings | None = None
    stripe: StripeSettings | None = None

    @model_validator(mode="after")
    def _one_currency(self) -> BillSettings:
        for name, plan in self.plans.items():
            for money in (plan.monthly, plan.budget, *plan.prices.values()):
                if money and money.currency != self.core_hour.currency:
                    one = self.core_hour.currency
                    raise ValueError(f"plan '{name}' is in {money.currency}, core_hour in {one}; use one currency")
        return self

    def terms(self, plan: str) -> Terms:
        """What rating needs of the plan ``plan``.

        Raises:
            SettingError: there is no such plan.
        """
        if plan not in self.plans:
            known = ", ".join(sorted(self.plans)) or "none"
            hint = did_you_mean(plan, self.plans) or f"known: {known}"
            raise SettingError(f"there is no plan '{plan}'", where="[bill.plans]", hint=hint, code="unknown-plan")
        chosen = self.plans[plan]
        return Terms(
            currency=self.core_hour.currency,
            monthly_nano=chosen.monthly.nano if chosen.monthly else 0,
            included=chosen.included.model_dump(),
            unit_nano={meter: price.nano for meter, price in chosen.prices.items()},
        )

    def all_terms(self) -> Mapping[str, Terms]:
        """The terms of every plan, by its name."""
        return {name: self.terms(name) for name in self.plans}
