"""The section ``[bill.forecast.<name>]``: a scenario of demand, as sure or unsure as its author is.

Each assumption is one number, or a range ``{ low = 1, likely = 3, high = 8 }``, or ``"measured"``: what the project's
own usage shows, with the uncertainty that so much usage leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator, model_validator

from feilun.errors import SettingError
from feilun.pipeline.steps import Settings
from feilun.store.money import parse_money

MEASURED: Final = "measured"
AsMeasured = Literal["measured"]
_PARTS = ("low", "likely", "high")


class Range(NamedTuple):
    """The least, the likeliest and the most that an assumption can be; all three equal where it is certain."""

    low: float
    likely: float
    high: float


class MoneyRange(NamedTuple):
    """The same of an amount, in nano-units of one currency."""

    low: int
    likely: int
    high: int
    currency: str


def _three(value: Any, read: Callable[[Any], Any]) -> tuple[Any, Any, Any]:
    """The three parts of a range, or one value three times; pydantic collects a ValueError with its place."""
    if isinstance(value, Mapping):
        if set(value) != set(_PARTS):
            raise ValueError("a range is written as { low = 1, likely = 3, high = 8 }")
        low, likely, high = (read(value[part]) for part in _PARTS)
        if not low <= likely <= high:
            raise ValueError("a range goes from low over likely to high")
        return low, likely, high
    one = read(value)
    return one, one, one


def _assumption(least: float, most: float, *, measurable: bool) -> tuple[PlainValidator, PlainSerializer]:
    def number(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise ValueError(f"it is a number from {least:g} to {most:g}")
        return float(value)

    def read(value: Any) -> Range | AsMeasured:
        if isinstance(value, Range):
            return value
        if isinstance(value, str):
            if value == MEASURED and measurable:
                return MEASURED
            raise ValueError("it cannot be measured here; write a number" if value == MEASURED else "it is a number")
        return Range(*_three(value, number))

    return PlainValidator(read), PlainSerializer(_plain)


def _plain(value: Range | MoneyRange | AsMeasured) -> Any:
    return value if isinstance(value, str) else value._asdict()


def _amount(value: Any) -> MoneyRange | AsMeasured:
    if isinstance(value, MoneyRange):
        return value
    if value == MEASURED:
        return MEASURED
    currencies: set[str] = set()

    def money(text: Any) -> int:
        if not isinstance(text, str):
            raise ValueError("money is written as text, like '19.00 USD'")
        try:
            nano, currency = parse_money(text)
        except SettingError as error:
            raise ValueError(f"{error.what}; {error.hint}") from error
        if nano < 0:
            raise ValueError(f"'{text}' is below 0")
        currencies.add(currency)
        return nano

    low, likely, high = _three(value, money)
    if len(currencies) > 1:
        raise ValueError("a range has one currency")
    return MoneyRange(low, likely, high, currencies.pop())


def _plans(value: Any) -> Any:
    return {value: 1} if isinstance(value, str) else value


_MOST = 1e12
Number = Annotated[Range, *_assumption(0, _MOST, measurable=False)]
Percent = Annotated[Range, *_assumption(0, 100, measurable=False)]
Growth = Annotated[Range, *_assumption(-100, 1_000, measurable=False)]
Measurable = Annotated[Range | AsMeasured, *_assumption(0, _MOST, measurable=True)]
Amount = Annotated[MoneyRange | AsMeasured, PlainValidator(_amount), PlainSerializer(_plain)]
Plans = Annotated[dict[str, Annotated[int, Field(ge=1, strict=True)]], BeforeValidator(_plans), Field(min_length=1)]


class ForecastSettings(Settings):
    """What is assumed of the months to come. Amounts and units are of one customer, or of the whole, in a month."""

    months: int = Field(24, ge=1, le=120)
    plans: Plans  # one plan's name, or how new customers spread over several: { starter = 80, growth = 20 }
    customers_at_start: Measurable = Range(0, 0, 0)
    new_customers_per_month: Number
    growth_percent: Growth = Range(0, 0, 0)  # of new customers, each month over the month before
    churn_percent: Percent  # of the customers of a month, gone in the next
    requests_per_customer: Measurable  # in a month
    usage_growth_percent: Growth = Range(0, 0, 0)  # of requests per customer, each month over the month before
    usage_spread: tuple[Annotated[int, Field(ge=0)], ...] | AsMeasured = (1,)  # sizes of equally many customers
    inputs_per_request: Measurable = Range(1, 1, 1)
    tokens_per_request: Measurable = MEASURED
    more_per_request: dict[str, Measurable] = Field(default_factory=dict)  # of any other meter that a plan prices
    cost_per_request: Amount = MEASURED
    cost_per_token: Amount = MEASURED
    training_per_month: Amount = MEASURED
    fixed_per_month: Amount = MEASURED  # measured: what [bill.costs] sums to
    upfront_cost: Amount | None = None  # before the first month
    cores_at_least: int = Field(0, ge=0, le=100_000)  # cores that are paid for, busy or not
    most_used_percent: int = Field(100, ge=1, le=100)  # how busy the cores may be, at the most
    measured_days: int = Field(90, ge=1, le=3_660)
    target_margin_percent: Decimal = Field(Decimal(50), ge=0, lt=100)
    target_chance_percent: int = Field(50, ge=1, le=99)  # in how many of the draws the target has to be met
    shape: Literal["pert", "triangular"] = "pert"  # of the distribution over a range
    seed: int = Field(1, ge=0, lt=2**63)
    draws: int = Field(10_000, ge=1, le=200_000)

    @model_validator(mode="after")
    def _sizes(self) -> ForecastSettings:
        if isinstance(self.usage_spread, tuple) and not sum(self.usage_spread):
            raise ValueError("usage_spread needs a size above 0")
        if self.upfront_cost == MEASURED:
            raise ValueError("upfront_cost cannot be measured; write an amount")
        return self
