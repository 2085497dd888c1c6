from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from feilun.accounts.terms import Counts, Terms
from feilun.bill.rating import UsageRow, rate
from feilun.bill.shares import allocate, half_even
from feilun.store.money import round_to_minor
from feilun.store.periods import bounds

BEGINS = bounds("2026-09")[0]
NOTHING = Counts()
units = st.dictionaries(st.sampled_from(["requests", "inputs", "tokens"]), st.integers(0, 500))
terms = st.builds(Terms, st.just("USD"), st.just(0), units, units)
counts = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 300), st.sampled_from("ab")), max_size=40)


def rows(chosen: Sequence[tuple[int, int, str]], plan: Terms, before: Counts = NOTHING) -> list[UsageRow]:
    made = []
    for sequence, (inputs, tokens, release) in enumerate(chosen, start=1):
        after = before.plus(Counts(1, inputs, tokens))
        due = plan.amount(before, after)
        at = BEGINS + sequence
        made.append(UsageRow(sequence, f"r{sequence}", release, inputs, tokens, plan.version, due, plan.currency, at))
        before = after
    return made


@given(chosen=counts, plan=terms, before=st.builds(Counts, *[st.integers(0, 400)] * 3))
def test_rating_again_gives_what_was_charged_row_by_row(
    chosen: list[tuple[int, int, str]], plan: Terms, before: Counts
) -> None:
    usage = rows(chosen, plan, before)
    rated = rate(usage, {plan.version: plan}, {"2026-09": before}, "acme", "2026-09")
    assert not rated.mismatches
    assert sum(line.exact_nano for line in rated.lines) == rated.stored_nano == sum(row.amount_nano for row in usage)
    assert rate(usage, {plan.version: plan}, {"2026-09": before}, "acme", "2026-09") == rated


@given(chosen=counts, plan=terms)
def test_each_priced_unit_is_on_exactly_one_line(chosen: list[tuple[int, int, str]], plan: Terms) -> None:
    rated = rate(rows(chosen, plan), {plan.version: plan}, {}, "acme", "2026-09")
    used = Counts(len(chosen), sum(c[0] for c in chosen), sum(c[1] for c in chosen))
    for meter in ("requests", "inputs", "tokens"):
        if plan.unit_nano.get(meter):
            assert sum(line.units for line in rated.lines if line.meter == meter) == used[meter]


@given(chosen=counts, plan=terms, wrong=st.integers(1, 10**9))
def test_a_row_that_was_charged_something_else_is_named(
    chosen: list[tuple[int, int, str]], plan: Terms, wrong: int
) -> None:
    usage = rows([*chosen, (1, 1, "a")], plan)
    usage[-1] = usage[-1]._replace(amount_nano=usage[-1].amount_nano + wrong)
    mismatches = rate(usage, {plan.version: plan}, {}, "acme", "2026-09").mismatches
    assert [(m.sequence, m.stored_nano - m.rated_nano) for m in mismatches] == [(len(usage), wrong)]


def test_case_21_a_million_sub_cent_events_sum_exactly_and_are_rounded_once() -> None:
    plan = Terms("USD", 0, {}, {"requests": 1_234_567})  # 0.001234567 USD
    row = UsageRow(1, "r", "a" * 64, 1, 10, plan.version, 1_234_567, "USD", BEGINS)
    rated = rate((row for _ in range(1_000_000)), {plan.version: plan}, {}, "acme", "2026-09")
    (line,) = rated.lines
    assert (line.units, line.exact_nano, line.amount_nano) == (1_000_000, 1_234_567_000_000, 1_234_570_000_000)
    assert rated.stored_nano == line.exact_nano and not rated.mismatches
    assert line.arithmetic == "1,000,000 requests × 0.001234567 USD = 1,234.567 USD, rounded 1,234.57 USD"


@given(whole=st.integers(-(10**20), 10**20), weights=st.lists(st.integers(0, 10**15), min_size=1).filter(any))
def test_shares_sum_to_the_whole_and_none_is_a_unit_off_its_own(whole: int, weights: list[int]) -> None:
    shares = allocate(whole, weights)
    assert sum(shares) == whole
    total = sum(weights)
    assert all(abs(share * total - whole * weight) < total for share, weight in zip(shares, weights, strict=True))
    assert all(isinstance(share, int) for share in shares)


@given(nano=st.integers(-(10**15), 10**15))
def test_rounding_is_the_same_wherever_it_is_done(nano: int) -> None:
    assert half_even(nano, 10_000_000) * 10_000_000 == round_to_minor(nano, "USD")
