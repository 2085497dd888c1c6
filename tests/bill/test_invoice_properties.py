"""What must hold of invoices whatever was used, reported, batched and closed in between."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import Any

from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import text

from feilun.bill import credits, invoices
from feilun.bill.settings import BillSettings
from feilun.bill.verify import verify
from feilun.store.counts import Counts
from feilun.store.database import now_us
from feilun.store.money import Money
from feilun.store.periods import bounds, period_of
from tests.bill.books import Books, Use, at
from tests.bill.test_invoice_lines import METERS, OCTOBER, SEPTEMBER, USD, bill

shared = hypothesis_settings(
    max_examples=8,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
TIERS = {"steps": [{"up_to": 7, "price": "0.07 USD per 3"}, {"price": "0.01 USD per 7", "flat": "1 USD"}]}
VOLUME = {"mode": "volume", "steps": [{"up_to": 9, "price": "0.333333333 USD"}, {"price": "0.1 USD per 3"}]}
PLANS: dict[str, Any] = {
    "tiers": {"tiers": {"pages": TIERS, "calls": VOLUME, "seats": TIERS, "requests": TIERS, "tokens": VOLUME}},
    "volume": {"tiers": {"pages": VOLUME, "disk": VOLUME, "requests": VOLUME}, "package": {"tokens": "0.05 USD per 9"}},
}
PLANS["volume"]["included"] = {"pages": 2, "requests": 1}
moments = st.integers(bounds(SEPTEMBER)[0], bounds(OCTOBER)[1] - 1)
reported = st.lists(
    st.tuples(st.sampled_from(list(METERS)), st.integers(0, 12), moments),
    min_size=1,
    max_size=14,
    unique_by=lambda event: event[2],  # of two levels in one instant the one that came later holds
)


def plans(*, grace: str = "24h") -> BillSettings:
    return BillSettings.model_validate({"plans": PLANS, "meters": METERS, "grace": grace})


def exact(books: Books, tenant: str) -> dict[tuple[str, str | None], int]:
    """What all of a tenant's invoices charge of each month and meter, before rounding."""
    sums: dict[tuple[str, str | None], int] = defaultdict(int)
    with books.database.read() as connection:
        for invoice in invoices.of_tenant(connection, tenant):
            for line in invoice.lines:
                sums[line.period, line.meter] += line.exact_nano
    return {place: nano for place, nano in sums.items() if nano}


def try_close(books: Books, tenant: str, period: str, settings: BillSettings) -> None:
    """An interim invoice, if there is anything to put on one."""
    if invoices.draft(books.database, tenant, period, settings).lines:
        invoices.close(books.database, tenant, period, settings, interim=True)


@shared
@given(events=reported, order=st.randoms(use_true_random=False), cuts=st.lists(st.integers(0, 14), max_size=3))
def test_amounts_do_not_depend_on_the_order_batches_or_invoices_in_which_events_came(
    books: Books, events: list[tuple[str, int, int]], order: Any, cuts: list[int]
) -> None:
    one, other = books.tenant("tiers"), books.tenant("tiers")
    for tenant in (one, other):
        books.assign(tenant, "volume", "2026-09-17")  # another price within the month
        books.assign(tenant, "tiers", "2026-10-12")
    books.events(one, events)
    for period in (SEPTEMBER, OCTOBER):
        try_close(books, one, period, plans())
    shuffled = list(events)
    order.shuffle(shuffled)
    places = [0, *sorted(min(cut, len(events)) for cut in cuts), len(events)]
    for begin, end, period in zip(places, places[1:], (SEPTEMBER, SEPTEMBER, OCTOBER, OCTOBER), strict=False):
        books.events(other, shuffled[begin:end])
        try_close(books, other, period, plans(grace="3650d"))
    for period in (SEPTEMBER, OCTOBER):
        try_close(books, other, period, plans())
    assert exact(books, one) == exact(books, other)
    assert verify(books.database).problems == ()


uses = st.lists(
    st.builds(
        Use,
        at=moments,
        release=st.sampled_from(["a" * 64, "b" * 64]),
        inputs=st.integers(1, 3),
        tokens=st.integers(0, 30),
        compute_ns=st.just(1_000),
        more=st.sampled_from([(), (("tokens_out", 3),)]),
    ),
    min_size=1,
    max_size=14,
)


@shared
@given(chosen=uses, cuts=st.lists(st.integers(0, 14), max_size=3), plan=st.sampled_from(list(PLANS)))
def test_amounts_do_not_depend_on_the_interim_invoices_that_usage_is_split_into(
    books: Books, chosen: list[Use], cuts: list[int], plan: str
) -> None:
    ordered = sorted(chosen, key=lambda use: use.at)
    terms = plans().terms(plan)
    one, other = books.tenant(plan), books.tenant(plan)
    books.use(one, ordered, terms, plan)
    for period in (SEPTEMBER, OCTOBER):
        try_close(books, one, period, plans())
    places = [0, *sorted(min(cut, len(ordered)) for cut in cuts), len(ordered)]
    for begin, end in itertools.pairwise(places):
        books.use(other, ordered[begin:end], terms, plan)
        for period in (SEPTEMBER, OCTOBER):
            try_close(books, other, period, plans(grace="3650d"))
    assert exact(books, one) == exact(books, other)
    assert sum(exact(books, one).values()) == sum(terms.amount(*pair) for pair in _months(ordered))
    assert verify(books.database).problems == ()


def _months(ordered: list[Use]) -> list[Any]:
    months: dict[str, Counts] = defaultdict(Counts)
    for use in ordered:
        months[period_of(use.at)] = months[period_of(use.at)].plus(use.units)
    return [(Counts(), counts) for counts in months.values()]


@shared
@given(chosen=uses, plan=st.sampled_from(list(PLANS)), events=reported)
def test_each_line_is_counted_again_by_its_query_and_a_draft_is_the_same_twice(
    books: Books, chosen: list[Use], plan: str, events: list[tuple[str, int, int]]
) -> None:
    tenant = books.tenant(plan)
    books.use(tenant, sorted(chosen, key=lambda use: use.at), plans().terms(plan), plan)
    books.events(tenant, events)
    for period in (SEPTEMBER, OCTOBER):
        first, second = (invoices.draft(books.database, tenant, period, plans()) for _ in range(2))
        assert first.lines == second.lines
        try_close(books, tenant, period, plans())
    with books.database.read() as connection:
        for invoice in invoices.of_tenant(connection, tenant):
            for line in invoice.lines:
                if line.query is not None:
                    assert int(connection.execute(text(line.query)).scalar() or 0) == line.units


@shared
@given(grants=st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=4), count=st.integers(0, 60))
def test_credit_is_never_used_below_0_nor_beyond_what_is_due(
    books: Books, grants: list[tuple[int, bool]], count: int
) -> None:
    tenant = books.tenant("plain")
    with books.database.read() as connection:
        now = now_us(connection)
    for amount, expires in grants:
        until = now + 10**12 if expires else None
        credits.grant(books.database, tenant, Money(amount * USD, "USD"), reason="", expires_at=until)
    books.use(tenant, [Use(at("2026-09-02"))] * count, bill().terms("plain"), "plain")
    try_close(books, tenant, SEPTEMBER, bill())
    books.use(tenant, [Use(at("2026-10-02"))] * count, bill().terms("plain"), "plain")
    try_close(books, tenant, OCTOBER, bill())
    granted = sum(amount for amount, _ in grants)
    with books.database.read() as connection:
        left = [credit.left_nano // USD for credit in credits.of_tenant(connection, tenant)]
        made = invoices.of_tenant(connection, tenant)
    assert all(nano >= 0 for nano in left) and sum(left) == granted - min(granted, 2 * count)
    assert sum(invoice.due_nano for invoice in made) == max(0, 2 * count - granted) * USD
    assert all(invoice.due_nano >= 0 for invoice in made) and verify(books.database).problems == ()


def test_case_10_events_on_either_side_of_midnight_are_in_exactly_one_invoice(books: Books) -> None:
    tenant = books.tenant("tiers")
    midnight = bounds(OCTOBER)[0]
    books.events(tenant, [("pages", 3, midnight), ("pages", 6, midnight - 1), ("pages", 9, midnight - 1_000)])
    for period in (SEPTEMBER, OCTOBER):
        try_close(books, tenant, period, plans())
    with books.database.read() as connection:
        one, two = invoices.of_tenant(connection, tenant)
    assert sum(line.units for line in one.lines if line.unit_nano and line.words.get("rate") != "flat") == 15
    assert [(line.period, line.units) for line in two.lines] == [(OCTOBER, 3)]
    assert (one.first_event, one.last_event, two.first_event, two.last_event) == (1, 3, 1, 3)


def test_case_21_a_million_sub_cent_events_sum_exactly_and_are_rounded_once(books: Books) -> None:
    tenant = books.tenant("cents")
    settings = BillSettings.model_validate(
        {"plans": {"cents": {"overage": {"calls": "0.001234567 USD"}}}, "meters": METERS}
    )
    books.events(tenant, [("calls", 7, at("2026-09-02"))])
    numbers = "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000) "
    if not books.database.is_sqlite:
        numbers = "WITH n(i) AS (SELECT generate_series(2, 1000000)) "
    columns = "tenant, sequence, batch, source, event, meter, units, at"
    copied = "tenant, n.i, batch, source, 'e' || n.i, meter, 3, at"
    more = f"INSERT INTO events ({columns}) {numbers}SELECT {copied} FROM events, n WHERE tenant = '{tenant}'"
    if not books.database.is_sqlite:
        more = f"{numbers}INSERT INTO events ({columns}) SELECT {copied} FROM events, n WHERE tenant = '{tenant}'"
    books.database.write(lambda c: c.execute(text(more)))
    (line,) = invoices.close(books.database, tenant, SEPTEMBER, settings).lines
    assert (line.units, line.exact_nano, line.amount_nano) == (1_000_000, 1_234_567_000_000, 1_234_570_000_000)
    assert line.arithmetic == "1,000,000 calls × 0.001234567 USD = 1,234.567 USD, rounded 1,234.57 USD"
