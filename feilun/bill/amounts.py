"""How amounts, shares, dates and durations are written in the project file. Never as floats: text or whole numbers.

Each is a type for pydantic whose validator raises ValueError, so that all problems of a section are said at once.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import Field, PlainSerializer, PlainValidator

from feilun.errors import SettingError
from feilun.store.money import Money, minor_digits, parse_money, round_to_minor
from feilun.store.periods import EPOCH

_PER = re.compile(r"(?P<money>.*\S)\s+per\s+(?P<per>[1-9][\d_,]*)\s*", re.ASCII)
_DECIMAL = re.compile(r"\d{1,12}(\.\d{1,12})?", re.ASCII)
_DURATION = re.compile(r"(\d{1,6})\s*([smhd])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_MOST_PER = 10**12


class UnitPrice(NamedTuple):
    """``nano`` of ``currency`` for each ``per`` units."""

    nano: int
    currency: str
    per: int = 1

    def __str__(self) -> str:
        money = str(Money(self.nano, self.currency))
        return money if self.per == 1 else f"{money} per {self.per}"


def _price(value: Any) -> Money:
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


def _coins(value: Any) -> Money:
    money = _price(value)
    if round_to_minor(*money) != money.nano:
        digits = minor_digits(money.currency)
        raise ValueError(f"'{money}' is finer than the smallest coin: {money.currency} has {digits} decimals")
    return money


def _unit_price(value: Any) -> UnitPrice:
    if isinstance(value, UnitPrice):
        return value
    match = _PER.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return UnitPrice(*_price(value))
    per = int(match["per"].replace("_", "").replace(",", ""))
    if per > _MOST_PER:
        raise ValueError(f"a price for {per:,} units is for too many of them; the most is {_MOST_PER:,}")
    return UnitPrice(*_price(match["money"]), per)


def _decimal(value: Any) -> Decimal:
    """A decimal number that is not negative, from text or a whole number; a float has already lost digits."""
    if isinstance(value, Decimal):
        return value
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not _DECIMAL.fullmatch(text):
        raise ValueError("it is a decimal number, written as text, like '7.5'")
    return Decimal(text)


def _percent(value: Any) -> Decimal:
    percent = _decimal(value)
    if percent > 100:
        raise ValueError("a share is at most 100 percent")
    return percent


def _rate(value: Any) -> Decimal:
    rate = _decimal(value)
    if not rate:
        raise ValueError("a rate of exchange is above 0")
    return rate


def _moment(value: Any) -> datetime:
    """A day (its first moment in UTC) or a time, UTC where it says no other zone."""
    try:
        chosen = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError("it is a date, like 2027-01-01") from error
    if isinstance(chosen, date) and not isinstance(chosen, datetime):
        chosen = datetime(chosen.year, chosen.month, chosen.day, tzinfo=UTC)
    if not isinstance(chosen, datetime):
        raise ValueError("it is a date, like 2027-01-01")
    chosen = chosen.replace(tzinfo=UTC) if chosen.tzinfo is None else chosen.astimezone(UTC)
    if chosen < EPOCH:
        raise ValueError("it is a date from 1970-01-01 on")
    return chosen


def _duration(value: Any) -> timedelta:
    if isinstance(value, timedelta):
        return value
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a duration is written as text, like '24h', '90m' or '3d'")
    return timedelta(seconds=int(match[1]) * _SECONDS[match[2]])


def _duration_text(value: timedelta) -> str:
    return f"{value // timedelta(seconds=1)}s"


def _url(value: Any) -> str:
    """An https address; http only to this machine, where nobody listens in."""
    if not isinstance(value, str):
        raise ValueError("an address is written as text, like 'https://example.org/hook'")
    try:
        parts = urlsplit(value)
        host, secure = parts.hostname, parts.scheme == "https"
    except ValueError as error:
        raise ValueError("it is not an address") from error
    if not host or parts.username is not None or any(c.isspace() for c in value):
        raise ValueError("it is an address like 'https://example.org/hook', without a name or password in it")
    if not secure and not (parts.scheme == "http" and host in ("localhost", "127.0.0.1", "::1")):
        raise ValueError("what is sent is about money: use https")
    return value


Price = Annotated[Money, PlainValidator(_price), PlainSerializer(str)]
Coins = Annotated[Money, PlainValidator(_coins), PlainSerializer(str)]  # a price in whole coins
PerUnit = Annotated[UnitPrice, PlainValidator(_unit_price), PlainSerializer(str)]
Percent = Annotated[Decimal, PlainValidator(_percent), PlainSerializer(str)]
Rate = Annotated[Decimal, PlainValidator(_rate), PlainSerializer(str)]
Moment = Annotated[datetime, PlainValidator(_moment), PlainSerializer(datetime.isoformat)]
Duration = Annotated[timedelta, PlainValidator(_duration), PlainSerializer(_duration_text)]
Address = Annotated[str, PlainValidator(_url)]
Country = Annotated[str, Field(pattern=r"^[A-Z]{2}$")]  # ISO 3166-1
Variable = Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]{0,127}$")]  # of the environment: secrets are not in the file
Units = Annotated[int, Field(ge=0, lt=2**53, strict=True)]


def microseconds(moment: datetime) -> int:
    """A moment as the database keeps it: microseconds since 1970, UTC.

    >>> microseconds(datetime(1970, 1, 2, tzinfo=UTC))
    86400000000
    """
    return (moment - EPOCH) // timedelta(microseconds=1)


def percent_of(nano: int, percent: Decimal) -> Fraction:
    """The exact share of an amount, which its line rounds once.

    >>> percent_of(10, Decimal("7.5"))
    Fraction(3, 4)
    """
    return nano * Fraction(percent) / 100
