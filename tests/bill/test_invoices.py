from __future__ import annotations

import itertools
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import DBAPIError

from feilun.accounts.terms import Terms
from feilun.bill import invoices
from feilun.bill.settings import BillSettings
from feilun.bill.verify import verify
from feilun.errors import AccessError, ConflictError, DataError, SettingError
from feilun.store import tables
from feilun.store.database import Database, now_us
from feilun.store.periods import bounds, period_of
from tests.bill.books import Books, Use, at

SEPTEMBER, OCTOBER = "2026-09", "2026-10"
shared = hypothesis_settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # shrinking takes minutes where each example writes a database
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
uses = st.lists(
    st.builds(
        Use,
        at=st.integers(*(b + d for b, d in zip(bounds(SEPTEMBER), (0, -1), strict=True))),
        release=st.sampled_from(["a" * 64, "b" * 64]),
        inputs=st.integers(1, 5),
        tokens=st.integers(0, 300),
        compute_ns=st.integers(0, 10**9),
        more=st.sampled_from([(), (("tokens_out", 3),), (("pages", 2), ("tokens_out", 5))]),
    ),
    min_size=1,
    max_size=15,
)


def by_time(chosen: list[Use]) -> list[Use]:
    return sorted(chosen, key=lambda use: use.at)


@shared
@given(chosen=uses, plan=st.sampled_from(["starter", "tokens", "free"]))
def test_an_invoice_is_the_sum_of_its_rounded_lines_and_they_of_its_usage(
    books: Books, settings: BillSettings, chosen: list[Use], plan: str
) -> None:
    tenant = books.tenant(plan)
    rows = books.use(tenant, by_time(chosen), settings.terms(plan), plan)
    invoice = invoices.close(books.database, tenant, SEPTEMBER, settings)
    exact = sum(line.exact_nano for line in invoice.lines if line.kind != "fee")
    assert exact == sum(row["amount_nano"] for row in rows)
    assert invoice.total_nano == sum(line.amount_nano for line in invoice.lines)
    assert abs(invoice.total_nano - sum(line.exact_nano for line in invoice.lines)) <= 5_000_000 * len(invoice.lines)
    assert all(isinstance(line.amount_nano, int) and line.amount_nano % 10_000_000 == 0 for line in invoice.lines)
    assert verify(books.database).problems == ()


@shared
@given(chosen=uses, cuts=st.lists(st.integers(0, 15), max_size=3), between=st.booleans())
def test_an_invoice_does_not_depend_on_how_its_usage_was_batched_or_who_came_in_between(
    books: Books, settings: BillSettings, chosen: list[Use], cuts: list[int], between: bool
) -> None:
    terms = settings.terms("tokens")
    one, many, other = (books.tenant("tokens") for _ in range(3))
    ordered = by_time(chosen)
    books.use(one, ordered, terms, "tokens")
    places = [0, *sorted(min(c, len(ordered)) for c in cuts), len(ordered)]
    for begin, end in itertools.pairwise(places):
        books.use(many, ordered[begin:end], terms, "tokens")
        if between:
            books.use(other, [Use(at("2026-09-01"))], terms, "tokens")
    told = [invoices.draft(books.database, tenant, SEPTEMBER, settings) for tenant in (one, many)]
    assert [line.arithmetic for line in told[0].lines] == [line.arithmetic for line in told[1].lines]
    assert told[0].total_nano == told[1].total_nano


@shared
@given(chosen=uses, plan=st.sampled_from(["starter", "tokens"]))
def test_the_query_of_each_line_counts_its_units_again(
    books: Books, settings: BillSettings, chosen: list[Use], plan: str
) -> None:
    tenant = books.tenant(plan)
    books.use(tenant, by_time(chosen), settings.terms(plan), plan)
    invoice = invoices.close(books.database, tenant, SEPTEMBER, settings)
    with books.database.read() as connection:
        for line in invoice.lines:
            if line.query is not None:
                assert int(connection.execute(text(line.query)).scalar_one()) == line.units
    assert any(line.query for line in invoice.lines)


def test_included_units_are_shown_apart_from_those_that_are_charged(books: Books, settings: BillSettings) -> None:
    tenant = books.tenant()
    books.use(tenant, [Use(at("2026-09-02"))] * 10, settings.terms("starter"))
    lines = invoices.close(books.database, tenant, SEPTEMBER, settings).lines
    assert [(line.kind, line.units, line.amount_nano) for line in lines] == [
        ("fee", 1, 19 * 10**9),
        ("included", 3, 0),
        ("usage", 7, 10_000_000),
    ]
    assert lines[2].arithmetic == "7 requests × 0.0008 USD = 0.0056 USD, rounded 0.01 USD"
    assert lines[2].id == f"{lines[0].id[:-2]}/3"
    assert lines[2].price_version == settings.terms("starter").version


def test_closing_again_returns_the_same_bytes_and_writes_nothing(books: Books, settings: BillSettings) -> None:
    tenant = books.tenant()
    books.use(tenant, [Use(at("2026-09-02"))] * 5, settings.terms("starter"))
    first = invoices.close(books.database, tenant, SEPTEMBER, settings)
    assert invoices.close(books.database, tenant, SEPTEMBER, settings) == first
    assert invoices.get(books.database, first.number) == first
    with books.database.read() as connection:
        count = select(func.count()).where(tables.invoices.c.tenant == tenant)
        assert connection.execute(count).scalar_one() == 1
        entry = select(tables.invoices.c.id).where(tables.invoices.c.number == first.number).scalar_subquery()
        sums = select(func.sum(tables.postings.c.amount_nano)).where(tables.postings.c.entry == entry)
        assert connection.execute(sums).scalar_one() == 0


def test_case_10_a_late_row_is_in_exactly_one_invoice_and_the_closed_one_keeps_its_bytes(
    books: Books, settings: BillSettings
) -> None:
    terms = settings.terms("starter")
    tenant = books.tenant()
    books.use(tenant, [Use(at("2026-09-30T23:59:59.999999"))] * 5, terms)
    closed = invoices.close(books.database, tenant, SEPTEMBER, settings)
    kept = books.invoice_row(closed.number)
    books.use(tenant, [Use(at("2026-09-30T23:59:59.999999")), Use(at("2026-10-01"))], terms)  # the first is late
    assert invoices.close(books.database, tenant, SEPTEMBER, settings) == closed
    following = invoices.close(books.database, tenant, OCTOBER, settings)
    assert [(line.kind, line.period, line.units) for line in following.lines] == [
        ("fee", OCTOBER, 1),
        ("usage", SEPTEMBER, 1),  # September's included units were used up
        ("included", OCTOBER, 1),
    ]
    assert "not invoiced before" in following.lines[1].description
    assert (following.first_sequence, following.last_sequence) == (6, 7)
    assert books.invoice_row(closed.number) == kept
    assert verify(books.database).problems == ()


def test_case_10_rows_on_either_side_of_midnight_are_each_in_their_own_month(
    books: Books, settings: BillSettings
) -> None:
    tenant = books.tenant("tokens")
    midnight = bounds(OCTOBER)[0]
    books.use(tenant, [Use(midnight - 1), Use(midnight)], settings.terms("tokens"), "tokens")
    spans = []
    for month in (SEPTEMBER, OCTOBER):
        invoice = invoices.close(books.database, tenant, month, settings)
        spans.append((invoice.first_sequence, invoice.last_sequence, {line.period for line in invoice.lines}))
    assert spans == [(1, 1, {SEPTEMBER}), (2, 2, {OCTOBER})]


def test_case_10_the_database_refuses_to_change_a_closed_invoice(books: Books, settings: BillSettings) -> None:
    tenant = books.tenant()
    closed = invoices.close(books.database, tenant, SEPTEMBER, settings)
    with pytest.raises(DBAPIError):
        books.database.write(
            lambda c: c.execute(
                update(tables.invoices).where(tables.invoices.c.number == closed.number).values(total_nano=0)
            )
        )
    assert invoices.get(books.database, closed.number) == closed


def test_a_month_that_runs_is_invoiced_up_to_now_and_its_fee_is_charged_once(
    books: Books, settings: BillSettings
) -> None:
    terms = settings.terms("starter")
    tenant = books.tenant()
    with books.database.read() as connection:
        now = now_us(connection)
    month = period_of(now)
    books.use(tenant, [Use(now - 2)] * 5, terms)
    with pytest.raises(ConflictError, match="still runs"):
        invoices.close(books.database, tenant, month, settings)
    first = invoices.close(books.database, tenant, month, settings, interim=True)
    assert invoices.close(books.database, tenant, month, settings, interim=True) == first
    books.use(tenant, [Use(now - 1)] * 2, terms)
    second = invoices.close(books.database, tenant, month, settings, interim=True)
    assert [line.kind for line in first.lines] == ["fee", "included", "usage"]
    assert [(line.kind, line.units) for line in second.lines] == [("usage", 2)]
    assert (second.first_sequence, second.last_sequence) == (6, 7)
    assert first.interim and second.interim and verify(books.database).holds


def test_numbers_have_no_gaps_even_where_closing_was_refused(books: Books, settings: BillSettings) -> None:
    idle = books.tenant("free")
    closed = []
    for _ in range(3):
        tenant = books.tenant()
        closed.append(invoices.close(books.database, tenant, SEPTEMBER, settings).number)
        with pytest.raises(DataError, match="nothing to invoice"):
            invoices.close(books.database, idle, SEPTEMBER, settings)
    first = int(closed[0].removeprefix("INV-"))
    assert closed == [f"INV-{first + i:06d}" for i in range(3)]


def test_closing_from_many_sides_at_once_gives_each_tenant_one_invoice_and_no_gap(
    books: Books, settings: BillSettings, database_url: str
) -> None:
    names = [books.tenant() for _ in range(4)]
    for name in names:
        books.use(name, [Use(at("2026-09-02"))] * 5, settings.terms("starter"))
    with Database(database_url) as second, ThreadPoolExecutor(8) as pool:
        sides = itertools.product((books.database, second), names, range(2))
        told = list(pool.map(lambda side: invoices.close(side[0], side[1], SEPTEMBER, settings), sides))
    assert {invoice.number for invoice in told} == {f"INV-{i:06d}" for i in range(1, 5)}
    assert len({invoice.body for invoice in told}) == 4
    assert verify(books.database).problems == ()


def test_rows_that_come_in_while_an_interim_invoice_is_closed_are_in_exactly_one(
    books: Books, settings: BillSettings
) -> None:
    terms = settings.terms("starter")
    tenant = books.tenant()
    with books.database.read() as connection:
        now = now_us(connection)
    month = period_of(now)
    closed = []
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(lambda: [books.use(tenant, [Use(now)], terms) for _ in range(30)])
        while not writing.done():
            closed.append(invoices.close(books.database, tenant, month, settings, interim=True))
    writing.result()
    closed.append(invoices.close(books.database, tenant, month, settings, interim=True))
    distinct = {invoice.number: invoice for invoice in closed}
    billed = [line.units for i in distinct.values() for line in i.lines if line.kind != "fee"]
    fees = [line for i in distinct.values() for line in i.lines if line.kind == "fee"]
    assert sum(billed) == 30 and len(fees) == 1
    assert verify(books.database).problems == ()


def test_close_all_passes_over_tenants_with_nothing_to_invoice(books: Books, settings: BillSettings) -> None:
    paying, idle = books.tenant(), books.tenant("free")
    told = {invoice.tenant for invoice in invoices.close_all(books.database, SEPTEMBER, settings)}
    assert paying in told and idle not in told


def test_a_plan_that_changed_in_mid_month_is_rated_by_each_row_s_own_terms(
    books: Books, settings: BillSettings
) -> None:
    tenant = books.tenant()
    books.use(tenant, [Use(at("2026-09-02"))] * 5, settings.terms("starter"))
    dearer = Terms("USD", 0, {"requests": 6}, {"requests": 10_000_000})
    books.use(tenant, [Use(at("2026-09-03"))] * 3, dearer)
    lines = invoices.close(books.database, tenant, SEPTEMBER, settings).lines
    assert [(line.kind, line.units, line.unit_nano) for line in lines[1:]] == [
        ("included", 3, 0),
        ("usage", 2, 800_000),
        ("included", 1, 0),  # the sixth request of the month
        ("usage", 2, 10_000_000),
    ]
    assert verify(books.database).problems == ()


def test_case_18_an_invoice_is_refused_where_a_row_was_changed(books: Books, settings: BillSettings) -> None:
    tenant = books.tenant()
    rows = books.use(tenant, [Use(at("2026-09-02"))] * 5, settings.terms("starter"))
    tamper(books, rows[2]["request"], tokens=11)
    with pytest.raises(ConflictError) as caught:
        invoices.close(books.database, tenant, SEPTEMBER, settings)
    assert caught.value.name == "ledger-broken"
    assert caught.value.where == f"usage of tenant '{tenant}', sequence 3"
    problems = verify(books.database).problems
    assert {(p.name, p.where.split(" (")[0]) for p in problems} >= {("ledger", f"{tenant} row 3")}


def test_what_cannot_be_invoiced_is_said_with_a_hint(books: Books, settings: BillSettings) -> None:
    tenant = books.tenant("starer")
    with pytest.raises(SettingError, match="there is no plan 'starer'") as unknown:
        invoices.close(books.database, tenant, SEPTEMBER, settings)
    assert unknown.value.hint == "did you mean 'starter'?"
    with pytest.raises(SettingError, match="not a month"):
        invoices.draft(books.database, tenant, "2026-13", settings)
    with pytest.raises(SettingError, match="has not begun"):
        invoices.draft(books.database, tenant, "2999-01", settings)
    with pytest.raises(AccessError, match="no tenant") as missing:
        invoices.close(books.database, tenant + "x", SEPTEMBER, settings)
    assert missing.value.hint is not None and missing.value.http_status == 404
    with pytest.raises(AccessError, match="no invoice"):
        invoices.get(books.database, "INV-999999")


def test_a_body_is_canonical_json_that_reads_back_as_the_same_invoice(books: Books, settings: BillSettings) -> None:
    tenant = books.tenant()
    books.use(tenant, [Use(at("2026-09-02"))], settings.terms("starter"))
    invoice = invoices.draft(books.database, tenant, SEPTEMBER, settings)
    assert invoices.parse(invoice.body) == invoice
    values = json.loads(invoice.body, parse_float=pytest.fail)  # no float anywhere near money
    assert values["total"] == "19.00 USD" and values["number"] == "DRAFT"


def tamper(books: Books, request: str, **values: int) -> None:
    """Change a row as somebody with the database's file could: the append-only triggers are taken off first."""

    def write(connection) -> None:
        if connection.dialect.name == "postgresql":
            connection.execute(text("ALTER TABLE usage DISABLE TRIGGER USER"))
        else:
            names = connection.execute(
                text("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'usage'")
            )
            for name in names.scalars().all():
                connection.execute(text(f"DROP TRIGGER {name}"))
        connection.execute(update(tables.usage).where(tables.usage.c.request == request).values(**values))

    books.database.write(write)
