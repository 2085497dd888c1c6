"""Prices for whole arrays are those of ``Terms``, one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from feilun.accounts.tariffs import Tariff, Tier
from feilun.accounts.terms import Counts, Terms
from feilun.bill import forecast_rates
from feilun.errors import SettingError

PRICES = some.integers(0, 10**7)


@some.composite
def tariffs(draw: some.DrawFn) -> Tariff:
    mode = draw(some.sampled_from(["graduated", "volume", "package"]))
    if mode == "package":
        return Tariff(mode, (Tier(None, draw(PRICES), draw(some.integers(1, 50))),))
    ends = sorted(draw(some.sets(some.integers(1, 300), max_size=3)))
    tiers = [Tier(e, draw(PRICES), draw(some.integers(1, 7)), draw(PRICES)) for e in (*ends, None)]
    return Tariff(mode, tuple(tiers))


@given(
    tariffs(),
    some.integers(0, 100),
    some.lists(some.tuples(some.integers(0, 400), some.integers(0, 400)), min_size=1, max_size=20),
)
def test_an_array_of_months_costs_what_each_month_costs_by_its_terms(
    tariff: Tariff, included: int, months: list[tuple[int, int]]
) -> None:
    terms = Terms("USD", 5, {"requests": included, "pages": 7}, {"requests": 800_000}, {"pages": tariff})
    units = {m: np.array([month[i] for month in months]) for i, m in enumerate(("requests", "pages"))}
    found = forecast_rates.total(terms, units)
    assert found.dtype == np.int64
    assert found.tolist() == [terms.total(Counts(requests=r, pages=p)) for r, p in months]


def test_an_amount_that_does_not_fit_is_refused_and_never_wraps() -> None:
    with pytest.raises(SettingError, match="no ledger holds"):
        forecast_rates.product(np.array([2**40]), 2**30)
