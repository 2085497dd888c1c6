"""Money as integers: 1 unit of a currency is 10**9 nano-units, so no sum ever rounds.

A price finer than a nano-unit is refused rather than rounded. Rounding happens once for each invoice line, to the
currency's minor unit, half to even (the rule of IEEE 754 and of most accounting software: it has no bias).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from feilun.errors import SettingError, did_you_mean
from feilun.store.currencies import DECIMALS

NANO = 10**9
_FORM = re.compile(r"\s*(-?)(\d[\d_]*)(?:\.(\d+))?\s+([A-Z]{3})\s*", re.ASCII)
MOST = 2**63 - 1  # what a BIGINT column holds: more than nine thousand million units


class Money(NamedTuple):
    """An amount in nano-units and its ISO 4217 currency."""

    nano: int
    currency: str

    def __str__(self) -> str:
        return format_money(self.nano, self.currency)


def parse_money(text: str) -> Money:
    """Read ``"19.00 USD"``.

    Raises:
        SettingError: not of that form, no currency in use, finer than a nano-unit, or more than a BIGINT column holds.

    >>> parse_money("0.0008 USD")
    Money(nano=800000, currency='USD')
    """
    match = _FORM.fullmatch(text)
    if not match and (meant := _FORM.fullmatch(text.upper())) and meant[4] in DECIMALS:
        decimals = (meant[3] or "").ljust(minor_digits(meant[4]), "0")
        amount = f"{meant[1]}{meant[2]}{'.' if decimals else ''}{decimals} {meant[4]}"
        raise SettingError(f"'{text}' is not an amount of money", hint=f"write it as '{amount}'")
    if not match:
        raise SettingError(f"'{text}' is not an amount of money", hint="write it as '19.00 USD'")
    sign, whole, decimals, currency = match[1], match[2], (match[3] or "").rstrip("0"), match[4]
    if currency not in DECIMALS:
        hint = did_you_mean(currency, DECIMALS) or "codes of three letters, as in ISO 4217"
        raise SettingError(f"'{currency}' is not a currency", hint=hint)
    if len(decimals) > 9:
        raise SettingError(f"'{text}' is finer than a nano-unit (9 decimals)", hint="price a larger unit, say 1,000")
    nano = int(whole.replace("_", "")[:40]) * NANO + int(decimals.ljust(9, "0"))
    if nano > MOST:
        raise SettingError(f"'{text[:40]}' is too much", hint=f"the most is {format_money(MOST, currency)}")
    return Money(-nano if sign else nano, currency)


def minor_digits(currency: str) -> int:
    """Decimals of the currency's smallest coin (ISO 4217); 2 for what old ledgers may hold and the list does not."""
    return DECIMALS.get(currency, 2)


def half_even(numerator: int, denominator: int) -> int:
    """The integer nearest to ``numerator / denominator``, a tie going to the even one; ``denominator`` is positive.

    >>> [half_even(n, 2) for n in (-3, -1, 1, 3, 4)]
    [-2, 0, 0, 2, 2]
    """
    whole, rest = divmod(numerator, denominator)
    return whole + (rest * 2 > denominator or (rest * 2 == denominator and whole % 2 == 1))


def round_to_minor(nano: int, currency: str) -> int:
    """Nano-units rounded half to even to the currency's smallest coin, still in nano-units.

    >>> [round_to_minor(n * 5_000_000, "USD") // 10_000_000 for n in (1, 3, 5)]
    [0, 2, 2]
    """
    step: int = 10 ** (9 - minor_digits(currency))
    return half_even(nano, step) * step


def format_money(nano: int, currency: str) -> str:
    """All digits that matter, at least the currency's own.

    >>> format_money(19 * NANO, "USD"), format_money(-800_000, "USD")
    ('19.00 USD', '-0.0008 USD')
    """
    sign = "-" if nano < 0 else ""
    whole, rest = divmod(abs(nano), NANO)
    digits = f"{rest:09d}"
    least = minor_digits(currency)
    decimals = digits[:least] + digits[least:].rstrip("0")
    return f"{sign}{whole:,}{'.' + decimals if decimals else ''} {currency}"


def format_about(nano: int, currency: str) -> str:
    """For sentences and overviews: to the smallest coin from 1 unit on, below that to three digits that matter.

    >>> format_about(49_408_857_435, "USD"), format_about(-1_142_565, "USD"), format_about(0, "USD")
    ('49.41 USD', '-0.00114 USD', '0.00 USD')
    """
    if abs(nano) >= NANO:
        return format_money(round_to_minor(nano, currency), currency)
    step = 10 ** max(len(str(abs(nano))) - 3, 0)
    whole, rest = divmod(abs(nano), step)
    rounded = (whole + (rest * 2 >= step > 1)) * step
    return format_money(-rounded if nano < 0 else rounded, currency)
