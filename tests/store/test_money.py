"""Money is whole nano-units, rounded once."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feilun.errors import SettingError
from feilun.store.money import MOST, NANO, Money, format_money, parse_money, round_to_minor

nanos = st.integers(-MOST, MOST)


@given(nanos, st.sampled_from(["USD", "JPY", "KWD"]))
def test_what_is_written_is_read_back(nano: int, currency: str) -> None:
    assert parse_money(format_money(nano, currency).replace(",", "_")) == Money(nano, currency)


@given(nanos)
def test_rounding_is_half_to_even_as_decimal_does_it(nano: int) -> None:
    expected = (Decimal(nano) / NANO).quantize(Decimal("0.01"), ROUND_HALF_EVEN)
    assert Decimal(round_to_minor(nano, "USD")) == expected * NANO


@pytest.mark.parametrize(
    "text",
    [
        "19",
        "USD",
        "19 usd",
        "$19",
        "1e9 USD",
        "0.0000000001 USD",
        "٣ USD",
        "19.00 USD EUR",
        "9" * 12 + " USD",
        "",
        "- 1 USD",
    ],
)
def test_what_is_not_exact_money_is_refused(text: str) -> None:
    with pytest.raises(SettingError):
        parse_money(text)
