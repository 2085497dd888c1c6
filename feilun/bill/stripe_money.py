"""Amounts between our nano-units and Stripe's minor units: whole numbers both ways, never rounded."""

from __future__ import annotations

from feilun.bill.delivery import NotDelivered
from feilun.store.money import minor_digits

_DIGITS = {"ISK": 2, "UGX": 2, "MGA": 0}  # where Stripe counts otherwise than ISO 4217 (docs.stripe.com/currencies)
_FINEST = 3  # Stripe has no currency with four decimals


def step(currency: str) -> int:
    """Nano-units in one of Stripe's minor units (https://docs.stripe.com/currencies).

    >>> [step(currency) for currency in ("USD", "JPY", "ISK", "XAF", "OMR")]
    [10000000, 1000000000, 10000000, 1000000000, 1000000]
    """
    return int(10 ** (9 - min(_FINEST, _DIGITS.get(currency, minor_digits(currency)))))


def minor(nano: int, currency: str) -> int:
    """Nano-units in Stripe's minor units.

    Raises:
        NotDelivered: it is not a whole number of them; of a currency with three decimals Stripe takes tens only.

    >>> minor(19_990_000_000, "USD"), minor(500 * 10**9, "JPY"), minor(-1_250_000_000, "KWD")
    (1999, 500, -1250)
    """
    whole, rest = divmod(nano, step(currency))
    if rest or (minor_digits(currency) == 3 and whole % 10):
        raise NotDelivered(f"Stripe cannot take an amount this fine in {currency}", final=True)
    return whole


def nano(amount: int, currency: str) -> int:
    """Stripe's minor units in nano-units.

    >>> nano(1999, "usd")
    19990000000
    """
    return amount * step(currency.upper())
