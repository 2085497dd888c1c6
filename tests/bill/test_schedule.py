"""Which part of a month's fee is due: proration, trials, and what earlier invoices charged already."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feilun.accounts.terms import Terms
from feilun.bill.rating import Line
from feilun.bill.schedule import FeeShare, Segment, Window, charged, due, minimum_nano, outstanding, share
from feilun.store.money import NANO, round_to_minor
from feilun.store.periods import bounds

DAY = 86_400 * 10**6
NOVEMBER = bounds("2026-11")
MONTHS = ("2026-11", "2026-12", "2027-02", "2028-02", "1970-01", "2999-12")
months = st.sampled_from(MONTHS).map(bounds)
coins = st.integers(0, 10**6)
plans = {
    name: Terms("USD", monthly * NANO, prorate=prorate, minimum_nano=2 * monthly * NANO)
    for name, monthly, prorate in (("small", 30, "changes"), ("big", 90, "changes"), ("exact", 60, "all"))
} | {"fixed": Terms("USD", 45 * NANO, prorate="none"), "free": Terms("USD")}


def on(plan: str, begins: int, ends: int, month: Window = NOVEMBER) -> Segment:
    """From the beginning of one day of the month to that of another, counted from 0."""
    return Segment(month[0] + begins * DAY, min(month[0] + ends * DAY, month[1]), plan, plans[plan])


def told(shares: list[FeeShare]) -> list[tuple[str, str, int, int, int]]:
    """Kind, plan, first and last day, amount in thousandths."""
    days = [((s.begins - NOVEMBER[0]) // DAY, (s.ends - NOVEMBER[0]) // DAY) for s in shares]
    return [(s.kind, s.plan, *d, s.exact_nano // 10**6) for s, d in zip(shares, days, strict=True)]


@st.composite
def histories(draw: st.DrawFn) -> tuple[Window, list[Segment]]:
    """A month, cut anywhere, on any plans; the first may begin late."""
    month = draw(months)
    cuts = sorted(draw(st.sets(st.integers(month[0], month[1] - 1), min_size=1, max_size=5)))
    edges = [*cuts, month[1]]
    if draw(st.booleans()):
        edges[0] = month[0]
    names = draw(st.lists(st.sampled_from(sorted(plans)), min_size=len(edges), max_size=len(edges)))
    return month, [Segment(b, e, n, plans[n]) for (b, e), n in zip(pairwise(sorted(set(edges))), names, strict=False)]


windows = st.dictionaries(
    st.sampled_from(sorted(plans)),
    st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda w: (w[0] * DAY, (w[0] + w[1]) * DAY)),
)


@given(months, coins, st.sampled_from(["USD", "JPY", "KWD"]), st.lists(st.integers(0, 31 * DAY), max_size=6))
def test_the_parts_of_a_fee_sum_to_the_fee_however_the_month_is_cut(
    month: Window, fee: int, currency: str, cuts: list[int]
) -> None:
    nano = fee * {"USD": 10**7, "JPY": 10**9, "KWD": 10**6}[currency]
    edges = sorted({*month, *(month[0] + cut for cut in cuts if month[0] + cut < month[1])})
    parts = [share(nano, currency, part, month) for part in pairwise(edges)]
    assert sum(parts) == nano
    assert all(part >= 0 and round_to_minor(part, currency) == part for part in parts)


@given(months, st.integers(0, 10**12), st.integers(0, 31 * DAY))
def test_a_fee_finer_than_a_coin_is_divided_exactly_too(month: Window, nano: int, cut: int) -> None:
    middle = min(month[0] + cut, month[1])
    assert share(nano, "USD", (month[0], middle), month) + share(nano, "USD", (middle, month[1]), month) == nano


@given(months, coins, st.integers(0, 31 * DAY), st.integers(0, 31 * DAY))
def test_a_part_is_within_a_coin_of_its_exact_share(month: Window, fee: int, begins: int, length: int) -> None:
    whole = month[1] - month[0]
    part = (month[0] + min(begins, whole), month[0] + min(begins + length, whole))
    exact = fee * 10**7 * (part[1] - part[0])
    assert abs(share(fee * 10**7, "USD", part, month) * whole - exact) <= 10**7 * whole


@pytest.mark.parametrize(("period", "days"), [("2027-02", 28), ("2028-02", 29), ("2026-11", 30), ("2026-12", 31)])
def test_each_day_of_a_month_has_the_same_share_in_leap_years_too(period: str, days: int) -> None:
    month = bounds(period)
    fee = days * 100 * 10**7
    parts = [share(fee, "USD", (month[0] + d * DAY, month[0] + (d + 1) * DAY), month) for d in range(days)]
    assert parts == [100 * 10**7] * days


def test_an_upgrade_charges_each_plan_for_its_days() -> None:
    shares = due([on("small", 0, 10), on("big", 10, 30)], NOVEMBER, {})
    assert told(shares) == [("fee", "small", 0, 10, 10_000), ("fee", "big", 10, 30, 60_000)]


def test_a_first_month_is_whole_unless_the_plan_prorates_all() -> None:
    assert told(due([on("small", 20, 30)], NOVEMBER, {})) == [("fee", "small", 0, 30, 30_000)]
    assert told(due([on("exact", 20, 30)], NOVEMBER, {})) == [("fee", "exact", 20, 30, 20_000)]
    assert told(due([on("small", 5, 20)], NOVEMBER, {})) == [("fee", "small", 0, 30, 30_000)], "a last month too"
    assert told(due([on("exact", 5, 20)], NOVEMBER, {})) == [("fee", "exact", 5, 20, 30_000)]


def test_a_change_of_a_plan_without_proration_counts_from_the_next_month_on() -> None:
    assert told(due([on("fixed", 0, 10), on("big", 10, 30)], NOVEMBER, {})) == [("fee", "fixed", 0, 30, 45_000)]
    assert told(due([on("big", 0, 10), on("fixed", 10, 30)], NOVEMBER, {})) == [("fee", "big", 0, 30, 90_000)]


def test_a_trial_makes_good_the_fee_of_its_days() -> None:
    trials = {"small": (NOVEMBER[0] - 9 * DAY, NOVEMBER[0] + 5 * DAY)}
    shares = due([on("small", 0, 30)], NOVEMBER, trials)
    assert told(shares) == [("fee", "small", 0, 30, 30_000), ("trial", "small", 0, 5, -5_000)]


def test_a_trial_that_begins_with_the_tenant_makes_the_whole_first_month_free() -> None:
    trials = {"small": (NOVEMBER[0] + 20 * DAY, NOVEMBER[0] + 34 * DAY)}
    shares = due([on("small", 20, 30)], NOVEMBER, trials)
    assert told(shares) == [("fee", "small", 0, 30, 30_000), ("trial", "small", 0, 30, -30_000)]


def test_what_was_charged_in_advance_is_credited_for_its_unused_days() -> None:
    first = due([on("small", 0, 30)], NOVEMBER, {})
    then = due([on("small", 0, 20), on("big", 20, 30)], NOVEMBER, {})
    assert told(outstanding(then, first)) == [("unused", "small", 20, 30, -10_000), ("fee", "big", 20, 30, 30_000)]
    assert outstanding(first, first) == []


def test_a_trial_that_was_given_and_is_left_is_taken_back_with_its_fee() -> None:
    trials = {"small": (NOVEMBER[0], NOVEMBER[0] + 30 * DAY)}
    first = due([on("small", 0, 30)], NOVEMBER, trials)
    then = due([on("small", 0, 20), on("big", 20, 30)], NOVEMBER, trials)
    assert told(outstanding(then, first)) == [
        ("unused", "small", 20, 30, -10_000),
        ("fee", "big", 20, 30, 30_000),
        ("trial", "small", 20, 30, 10_000),
    ]


@given(histories(), windows, st.data())
def test_what_is_charged_invoice_by_invoice_is_what_is_due_at_the_end(
    history: tuple[Window, list[Segment]], trials: dict[str, Window], data: st.DataObject
) -> None:
    """Several interim invoices, each made when less of the history was known, and then the last one."""
    month, segments = history
    trials = {plan: (month[0] + b, month[0] + e) for plan, (b, e) in trials.items()}
    earlier: list[FeeShare] = []
    for known in sorted(data.draw(st.lists(st.integers(1, len(segments)), max_size=3))):
        then = [*segments[: known - 1], segments[known - 1]]
        then[-1] = Segment(then[-1].begins, month[1], then[-1].plan, then[-1].terms)  # as far as was known then
        earlier += outstanding(due(then, month, trials), earlier)
        assert outstanding(due(then, month, trials), earlier) == []
    final = due(segments, month, trials)
    earlier += outstanding(final, earlier)
    assert sum(s.exact_nano for s in earlier) == sum(s.exact_nano for s in final)
    assert all(s.exact_nano >= 0 for s in earlier if s.kind == "fee")
    assert all(s.exact_nano <= 0 for s in earlier if s.kind == "unused")
    assert sum(s.exact_nano for s in final) >= 0


@given(histories(), windows)
def test_lines_tell_again_what_was_charged(history: tuple[Window, list[Segment]], trials: dict[str, Window]) -> None:
    month, segments = history
    shares = due(segments, month, {plan: (month[0] + b, month[0] + e) for plan, (b, e) in trials.items()})
    lines = [
        Line(
            kind=s.kind,
            units=s.units,
            unit_nano=s.monthly_nano,
            exact_nano=s.exact_nano,
            amount_nano=s.exact_nano,
            price_version=s.version,
            words=s.words,
        )
        for s in shares
    ]
    assert charged([*lines, Line(kind="usage"), Line(kind="trial", words={"base_nano": 5})], "USD", month) == shares
    assert outstanding(shares, charged(lines, "USD", month)) == []


def test_a_fee_of_an_invoice_without_words_was_for_the_whole_month() -> None:
    line = Line(kind="fee", unit_nano=30 * NANO, exact_nano=30 * NANO, price_version=plans["small"].version)
    then = due([on("small", 0, 20), on("big", 20, 30)], NOVEMBER, {})
    left = outstanding(then, charged([line], "USD", NOVEMBER))
    assert told(left) == [("unused", "", 20, 30, -10_000), ("fee", "big", 20, 30, 30_000)]


def test_a_minimum_is_divided_as_its_fee_is() -> None:
    halves = [on("small", 0, 15), on("big", 15, 30)]
    assert minimum_nano(halves, NOVEMBER, {}) == 30 * NANO + 90 * NANO
    trials = {"small": (NOVEMBER[0], NOVEMBER[0] + 10 * DAY)}
    assert minimum_nano(halves, NOVEMBER, trials) == 10 * NANO + 90 * NANO
    assert minimum_nano([], NOVEMBER, {}) == 0
