"""What units cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feilun.accounts.terms import METERS, Counts, Terms, amount, parse_terms
from feilun.errors import SettingError

units = st.integers(0, 10**7)
counts = st.builds(Counts, units, units, units)
per_meter = st.dictionaries(st.sampled_from(METERS), units)
terms = st.builds(Terms, st.just("USD"), units, per_meter, per_meter)


@given(terms, st.lists(counts, max_size=8), st.randoms())
def test_the_amounts_of_the_parts_sum_to_the_amount_of_the_whole_in_any_order(
    plan: Terms, parts: list[Counts], chance: object
) -> None:
    chance.shuffle(parts)
    before, total = Counts(), 0
    for part in parts:
        total += plan.amount(before, before.plus(part))
        before = before.plus(part)
    assert total == amount(plan, Counts(), before) >= 0


@given(terms, terms)
def test_a_version_is_the_terms_and_nothing_else(one: Terms, other: Terms) -> None:
    assert Terms.from_json(one.as_json()).version == one.version
    assert (one.version == other.version) == (one.as_json() == other.as_json())


def test_terms_are_read_as_a_project_writes_them() -> None:
    plan = parse_terms(monthly="19.00 USD", included={"requests": 10_000}, overage={"requests": "0.0008 USD"})
    assert plan.amount(Counts(requests=9_999), Counts(requests=10_001)) == 800_000


@pytest.mark.parametrize(
    ("included", "overage", "what"),
    [
        ({"request": 1}, {}, "not metered"),
        ({}, {"words": "1 USD"}, "not metered"),
        ({"tokens": -1}, {}, "negative"),
        ({}, {"tokens": "-1 USD"}, "negative"),
        ({}, {"tokens": "0.00000000001 USD"}, "finer than a nano"),
        ({}, {"tokens": "1 EUR"}, "one currency"),
        ({}, {"tokens": "cheap"}, "not an amount"),
    ],
)
def test_terms_that_mean_nothing_are_refused(included: dict[str, int], overage: dict[str, str], what: str) -> None:
    with pytest.raises(SettingError, match=what):
        parse_terms(monthly="0 USD", included=included, overage=overage)
