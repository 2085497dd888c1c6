from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import pytest
from sqlalchemy import insert, text, update
from ulid import ULID

from feilun.accounts import tenants
from feilun.bill import credits, invoices, margin
from feilun.bill.settings import BillSettings
from feilun.bill.verify import verify
from feilun.store import ledger, seals, tables
from feilun.store.artifacts import canonical
from feilun.store.counts import Counts
from feilun.store.money import Money
from feilun.store.periods import period_of
from tests.bill.books import Books, Use, at


@pytest.fixture
def closed(books: Books, settings: BillSettings) -> tuple[Books, invoices.Invoice, list[dict[str, Any]]]:
    tenant = books.tenant()
    rows = books.use(tenant, [Use(at("2026-09-02"))] * 5, settings.terms("starter"))
    invoice = invoices.close(books.database, tenant, "2026-09", settings)
    books.use(tenant, [Use(at("2026-10-02"))], settings.terms("starter"))
    assert verify(books.database).holds
    return books, invoice, rows


def unguarded(books: Books, table: str, change: Any) -> None:
    """Change rows as somebody with the database's own password could: without the append-only triggers."""

    def write(connection: Any) -> None:
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))
        else:
            query = text("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = :t")
            for name in connection.execute(query, {"t": table}).scalars().all():
                connection.execute(text(f"DROP TRIGGER {name}"))
        connection.execute(change)

    books.database.write(write)


def names(books: Books) -> set[str]:
    found = verify(books.database)
    assert not found.holds and json.loads(json.dumps(found.as_dict()))["problems"]
    return {problem.name for problem in found.problems}


Closed = tuple[Books, invoices.Invoice, list[dict[str, Any]]]


def test_i1_a_row_whose_posting_has_another_amount_is_named(closed: Closed) -> None:
    books, _, rows = closed
    mine = tables.postings.c.entry == rows[4]["request"]
    unguarded(books, "postings", update(tables.postings).where(mine).values(amount_nano=5))
    (problem,) = [p for p in verify(books.database).problems if "row 5" in p.where]
    assert problem.what == "its postings are not its amount"


def test_i1_a_posted_request_without_a_row_is_named(closed: Closed) -> None:
    books, invoice, _ = closed
    row = {"id": str(ULID()), "tenant": invoice.tenant, "idempotency_key": "x", "body_sha256": "0" * 64}
    row |= {"state": "posted", "holder": "h", "held_inputs": 0, "held_tokens": 0, "created_at": 0, "lease_until": 0}
    books.database.write(lambda c: c.execute(insert(tables.requests).values(row)))
    assert names(books) == {"ledger"}


def test_i2_i3_a_posting_without_an_entry_is_named(closed: Closed) -> None:
    books, _, _ = closed
    row = {"entry": str(ULID()), "account": "x", "currency": "USD", "amount_nano": 1, "at": 0}
    books.database.write(lambda c: c.execute(insert(tables.postings).values(row)))
    whats = {p.what for p in verify(books.database).problems}
    assert whats >= {"a posting has no entry", "the postings in USD sum to 1, not to 0"}


def test_i5_an_amount_that_its_terms_do_not_give_is_named_even_where_its_hash_is_right(
    books: Books, settings: BillSettings
) -> None:
    tenant = books.tenant()
    rows = books.use(tenant, [Use(at("2026-09-02"))] * 4, settings.terms("starter"))
    last = dict(rows[-1]) | {"amount_nano": 1}
    last["hash"] = ledger.row_hash(last)
    values = {k: last[k] for k in ("amount_nano", "hash")}
    unguarded(books, "usage", update(tables.usage).where(tables.usage.c.request == last["request"]).values(values))
    found = {p.name: p for p in verify(books.database).problems}
    assert found["amount"].what == "charged 1, terms give 800000"
    assert found["amount"].where.startswith(f"{tenant} row 4")


def test_i5_an_invoice_whose_lines_or_total_were_changed_is_named(closed: Closed) -> None:
    books, invoice, _ = closed
    body = invoice.as_dict()
    body["lines"][2]["units"] = 1
    body["total_nano"] += 10_000_000
    mine = tables.invoices.c.number == invoice.number
    unguarded(books, "invoices", update(tables.invoices).where(mine).values(body=canonical(body).decode()))
    assert names(books) == {"invoice-columns", "invoice-lines", "invoice-total", "seal"}


def test_i5_a_fee_that_is_not_that_of_its_terms_is_named(closed: Closed) -> None:
    books, invoice, _ = closed
    body = invoice.as_dict()
    body["lines"][0]["exact_nano"] -= 10_000_000
    mine = tables.invoices.c.number == invoice.number
    unguarded(books, "invoices", update(tables.invoices).where(mine).values(body=canonical(body).decode()))
    assert names(books) == {"invoice-lines", "invoice-rounding", "invoice-postings", "seal"}


def test_gaps_in_numbers_and_ranges_are_named(closed: Closed) -> None:
    books, invoice, _ = closed
    mine = tables.invoices.c.number == invoice.number
    unguarded(books, "invoices", update(tables.invoices).where(mine).values(number="INV-000009", first_sequence=2))
    assert names(books) >= {"invoice-number", "invoice-range", "invoice-columns"}


def test_terms_that_were_changed_are_named(closed: Closed) -> None:
    books, _, _ = closed
    dearer = canonical({"currency": "USD", "monthly_nano": 1, "included": {}, "unit_nano": {}}).decode()
    unguarded(books, "prices", update(tables.prices).values(terms=dearer))
    assert "ledger-broken" in names(books)


def test_what_the_real_ledger_wrote_is_invoiced_and_holds(books: Books, settings: BillSettings) -> None:
    seed = books.tenant()
    books.use(seed, [Use(at("2026-09-02"))], settings.terms("starter"))  # registers a release
    name = f"{seed}-real"
    tenants.create(books.database, name, plan="starter")

    def ask(connection: Any, number: int) -> ledger.Charge:
        units = Counts(1, 2, 30)
        wanted = ledger.Ask(str(ULID()), name, f"k{number}", "0" * 64, units, 30.0)
        held = ledger.hold(connection, wanted, settings.terms, "worker")
        assert isinstance(held, ledger.Hold)
        done = ledger.Done("key", "a" * 64, "/v1/classify", units, 1_000)
        return ledger.capture(connection, held, done, settings.terms, lambda charge: b"{}")[0]

    charges = [books.database.write(lambda c, i=i: ask(c, i)) for i in range(5)]
    month = period_of(charges[0].at)
    invoice = invoices.close(books.database, name, month, settings, interim=True)
    assert [(line.kind, line.units) for line in invoice.lines] == [("fee", 1), ("included", 3), ("usage", 2)]
    assert sum(line.exact_nano for line in invoice.lines[1:]) == sum(charge.amount_nano for charge in charges)
    assert verify(books.database).problems == ()


def test_verification_and_margins_agree_with_themselves_while_rows_come_in(
    books: Books, settings: BillSettings
) -> None:
    tenant = books.tenant()
    terms = settings.terms("starter")
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(lambda: [books.use(tenant, [Use(at("2026-09-02"))], terms) for _ in range(40)])
        while not writing.done():
            assert verify(books.database).problems == ()
            report = margin.report(books.database, settings)
            assert report.total == report.everybody
    assert len(writing.result()) == 40


def test_invoices_from_before_there_were_words_events_and_credits_still_hold(
    books: Books, settings: BillSettings
) -> None:
    tenant = books.tenant()
    books.use(tenant, [Use(at("2026-09-02"))] * 5, settings.terms("starter"))
    drawn = invoices.draft(books.database, tenant, "2026-09", settings)
    fields = ("tenant", "period", "interim", "currency", "total_nano", "first_sequence", "last_sequence", "at")
    old: dict[str, Any] = {name: getattr(drawn, name) for name in fields} | {"number": "INV-000001"}
    lines = [{k: v for k, v in asdict(line).items() if k != "words"} for line in drawn.lines]
    old["lines"] = [line | {"id": f"INV-000001/{i}"} for i, line in enumerate(lines, start=1)]
    body = canonical(old | {"total": drawn.total}).decode()
    invoice, identity = invoices.parse(body), str(ULID())
    stored = sum(line.exact_nano for line in drawn.lines if line.kind == "usage")
    sides = {f"tenant:{tenant}:invoiced": invoice.total_nano, ledger.receivable(tenant): -stored}
    sides |= {"revenue:fees": -19 * 10**9, "revenue:rounding": stored + 19 * 10**9 - invoice.total_nano}

    def write(connection: Any) -> None:
        row = {name: old[name] for name in (*fields, "number") if name != "interim"}
        row |= {"id": identity, "body": body}
        connection.execute(insert(tables.invoices).values(row))
        seals.seal(connection, "invoices", row)  # as the migration does
        connection.execute(text("UPDATE migrations SET at = :now"), {"now": row["at"] + 1})
        shared = {"entry": identity, "currency": "USD", "at": invoice.at}
        rows = [shared | {"account": account, "amount_nano": nano} for account, nano in sides.items()]
        connection.execute(insert(tables.postings), rows)
        mine = tables.chains.c.tenant == tenant
        connection.execute(update(tables.chains).where(mine).values(due_nano=tables.chains.c.due_nano - stored))

    books.database.write(write)
    assert verify(books.database).problems == ()
    assert (invoice.due_nano, invoice.state, invoice.first_event) == (invoice.total_nano, "final", None)
    assert invoices.close(books.database, tenant, "2026-09", settings) == invoice
    books.use(tenant, [Use(at("2026-10-02"))] * 4, settings.terms("starter"))
    following = invoices.close(books.database, tenant, "2026-10", settings)
    assert (following.first_sequence, [line.kind for line in following.lines]) == (6, ["fee", "included", "usage"])
    assert verify(books.database).problems == ()


def test_case_18_an_event_that_was_changed_is_named_and_so_is_the_line_that_it_is_on(books: Books) -> None:
    settings = BillSettings.model_validate({"plans": {"p": {"overage": {"pages": "1 USD"}}}, "meters": PAGES})
    tenant = books.tenant("p")
    books.events(tenant, [("pages", 2, at("2026-09-02")), ("pages", 3, at("2026-09-03"))])
    invoices.close(books.database, tenant, "2026-09", settings)
    assert verify(books.database).problems == ()
    second = (tables.events.c.tenant == tenant) & (tables.events.c.sequence == 2)
    unguarded(books, "events", update(tables.events).where(second).values(units=30))
    assert names(books) == {"events", "invoice-lines"}


PAGES = {"pages": {"unit": "page"}}


def test_credit_that_was_used_twice_or_never_granted_is_named(books: Books, settings: BillSettings) -> None:
    tenant = books.tenant()
    given = credits.grant(books.database, tenant, Money(5 * 10**9, "USD"), reason="")
    invoice = invoices.close(books.database, tenant, "2026-09", settings)
    assert invoice.credits_nano == -5 * 10**9 and verify(books.database).problems == ()
    row = books.invoice_row(invoice.number)
    again = {"id": str(ULID()), "credit": given.id, "invoice": row["id"], "amount_nano": 10**9, "at": 0}
    books.database.write(lambda c: c.execute(insert(tables.grant_uses).values(again)))
    assert names(books) == {"credit", "invoice-credits", "seal"}


def test_what_a_payment_service_says_is_a_part_of_the_verification(closed: Closed) -> None:
    books, invoice, _ = closed

    class Said:
        problems = (f"{invoice.number} is not there",)

        def as_dict(self) -> dict[str, Any]:
            return {"compared": 1}

    found = verify(books.database, Said)
    assert [problem.name for problem in found.problems] == ["payments"] and found.compared == {"compared": 1}
