from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import DBAPIError

from feilun.bill import credit_notes, credits, invoices, profiles, render
from feilun.bill.credit_notes import issue
from feilun.bill.verify import verify
from feilun.errors import AccessError, ConflictError
from feilun.store import seals, tables
from feilun.store.artifacts import canonical
from feilun.store.database import now_us
from feilun.store.money import Money
from tests.bill.books import Books, at
from tests.bill.test_bill_verify import unguarded
from tests.bill.test_invoice_lines import SELLER, SEPTEMBER, TAX, USD, bill, use

SETTINGS = bill(tax=TAX, seller=SELLER)


@pytest.fixture
def closed(books: Books) -> tuple[Books, invoices.Invoice]:
    """60.00 fee, 7 requests for 1.75, 19 % tax of 11.73: 73.48 in all."""
    tenant = books.tenant("scale")
    profiles.save(books.database, tenant, name="Acme", country="DE")
    use(books, tenant, 7, "scale")
    invoice = invoices.close(books.database, tenant, SEPTEMBER, SETTINGS)
    assert invoice.total_nano == 7348 * USD // 100
    return books, invoice


Closed = tuple[Books, invoices.Invoice]


def write(books: Books, table: str, row: dict[str, Any]) -> None:
    """A row as it is written, at a time of our own choosing."""

    def job(connection: Connection) -> None:
        connection.execute(insert(tables.metadata.tables[table]).values(row))
        seals.seal(connection, table, row)

    books.database.write(job)


def accounts(books: Books) -> dict[str, int]:
    """What each account says now, in cents where it can."""
    sums: dict[str, int] = {}
    with books.database.read() as connection:
        for posting in connection.execute(select(tables.postings)):
            sums[posting.account] = sums.get(posting.account, 0) + posting.amount_nano
    return {account: nano for account, nano in sums.items() if nano}


def test_an_invoice_is_taken_back_as_a_whole_with_its_tax_and_its_postings(closed: Closed) -> None:
    books, invoice = closed
    note = issue(books.database, invoice.number, SETTINGS, reason="wrong customer")
    assert (note.number, note.kind, note.corrects, note.reason) == (
        "CN-000001",
        "credit_note",
        invoice.number,
        "wrong customer",
    )
    assert note.total_nano == -invoice.total_nano and note.due_at is None and note.buyer == invoice.buyer
    assert [line.words["corrects"] for line in note.lines] == [line.id for line in invoice.lines]
    assert [line.id for line in note.lines] == ["CN-000001/1", "CN-000001/2", "CN-000001/3"]
    assert accounts(books) == {} and verify(books.database).problems == ()
    assert credit_notes.get(books.database, note.number) == note
    assert invoices.get(books.database, invoice.number) == invoice
    with pytest.raises(ConflictError, match="was taken back before by CN-000001"):
        issue(books.database, invoice.number, SETTINGS)
    with pytest.raises(ConflictError, match="CN-000001 is a credit note: it cannot be taken back"):
        issue(books.database, note.number, SETTINGS)


def test_lines_are_taken_back_one_by_one_and_the_tax_in_the_end_is_what_was_charged(closed: Closed) -> None:
    books, invoice = closed
    first = issue(books.database, invoice.number, SETTINGS, lines=[invoice.lines[1].id])
    assert [line.amount_nano * 100 // USD for line in first.lines] == [-175, -33]
    with pytest.raises(ConflictError, match="was taken back before by CN-000001"):
        issue(books.database, invoice.number, SETTINGS, lines=[invoice.lines[1].id])
    rest = issue(books.database, invoice.number, SETTINGS)
    assert [line.amount_nano * 100 // USD for line in rest.lines] == [-6000, -1140]
    assert first.total_nano + rest.total_nano == -invoice.total_nano
    assert rest.number == "CN-000002" and accounts(books) == {} and verify(books.database).problems == ()


def test_what_cannot_be_taken_back_is_said_and_uses_up_no_number(closed: Closed) -> None:
    books, invoice = closed
    with pytest.raises(AccessError, match="there is no invoice") as wrong:
        issue(books.database, "INV-00001", SETTINGS)
    assert wrong.value.hint == f"did you mean '{invoice.number}'?"
    for line in (f"{invoice.number}/9", invoice.lines[2].id):  # a tax follows what it is on
        with pytest.raises(AccessError, match="no line"):
            issue(books.database, invoice.number, SETTINGS, lines=[line])
    assert issue(books.database, invoice.number, SETTINGS).number == "CN-000001"


def test_never_more_is_taken_back_than_was_invoiced(books: Books) -> None:
    tenant = books.tenant("trial", created="2026-09-11")
    use(books, tenant, 3, "trial", "2026-09-12")
    use(books, tenant, 5, "trial", "2026-09-25")
    invoice = invoices.close(books.database, tenant, SEPTEMBER, bill())
    assert invoice.total_nano == 15 * USD  # 20 fee + 3 + 5 - 10 - 3
    fee = invoice.lines[0].id
    trial = next(line.id for line in invoice.lines if line.kind == "trial" and "part" in line.words)
    with pytest.raises(ConflictError, match="not taken back by itself"):
        issue(books.database, invoice.number, bill(), lines=[trial])
    note = issue(books.database, invoice.number, bill(), lines=[fee])
    assert [line.amount_nano // USD for line in note.lines] == [-20, 10]  # the free part of the fee comes with it
    rest = issue(books.database, invoice.number, bill())
    assert note.total_nano + rest.total_nano == -invoice.total_nano and verify(books.database).problems == ()


@pytest.mark.parametrize("lines", [["fee", "usage"], ["usage", "fee"]])
def test_a_line_takes_its_share_of_the_discount_back(books: Books, lines: list[str]) -> None:
    """60.00 fee, 1.75 usage, 20 percent off, 19 percent tax: 58.79."""
    settings = bill(tax=TAX, seller=SELLER, coupons={"LAUNCH": {"percent_off": "20"}})
    tenant = books.tenant("scale")
    profiles.save(books.database, tenant, country="DE")
    use(books, tenant, 7, "scale")
    terms = {"percent": "20", "off_nano": None, "currency": None, "months": 1}
    row = {"id": "r" * 26, "tenant": tenant, "coupon": "LAUNCH", "terms": canonical(terms).decode()}
    write(books, "redemptions", row | {"at": at("2026-09-01")})
    invoice = invoices.close(books.database, tenant, SEPTEMBER, settings)
    assert invoice.total_nano == 5879 * USD // 100
    expected = {"fee": [-6000, 1200, -912], "usage": [-175, 35, -27]}
    for kind in lines:
        name = next(line.id for line in invoice.lines if line.kind == kind)
        note = issue(books.database, invoice.number, settings, lines=[name])
        assert [line.amount_nano * 100 // USD for line in note.lines] == expected[kind]
    assert accounts(books) == {} and verify(books.database).problems == ()


def test_what_prepaid_credit_paid_is_given_back_as_credit(closed: Closed) -> None:
    books, _ = closed
    tenant = books.tenant("scale")
    with books.database.read() as connection:
        later = now_us(connection) + 10**12
    credits.grant(books.database, tenant, Money(20 * USD, "USD"), reason="paid ahead", expires_at=later)
    credits.grant(books.database, tenant, Money(10 * USD, "USD"), reason="a gift")
    use(books, tenant, 40, "scale")
    invoice = invoices.close(books.database, tenant, SEPTEMBER, bill())
    assert (invoice.total_nano, invoice.due_nano) == (70 * USD, 40 * USD)
    usage = next(line.id for line in invoice.lines if line.kind == "usage")
    first = issue(books.database, invoice.number, bill(), lines=[usage])
    assert [line.amount_nano * 100 // USD for line in first.lines] == [-1000, 286, 143]
    assert (first.credits_nano, first.due_nano) == (429 * USD // 100, -571 * USD // 100)
    text = render.as_text(first)
    assert "Prepaid credit given back" in text and "To be paid back or set off" in text
    assert "退还预付余额" in render.as_text(first, "zh") and verify(books.database).problems == ()
    rest = issue(books.database, invoice.number, bill())
    assert first.due_nano + rest.due_nano == -40 * USD
    with books.database.read() as connection:
        left = [c for c in credits.of_tenant(connection, tenant) if c.left_nano]
    assert sum(c.left_nano for c in left) == 30 * USD
    assert {(c.reason, c.expires_at) for c in left} == {
        (f"credit note {note.number}", expires) for note in (first, rest) for expires in (later, None)
    }
    assert accounts(books)[credits.prepaid(tenant)] == -30 * USD
    assert verify(books.database).problems == ()
    unguarded(books, "grants", update(tables.grants).where(tables.grants.c.id == left[0].id).values(amount_nano=1))
    assert "credit" in {problem.name for problem in verify(books.database).problems}


def test_credit_that_has_expired_meanwhile_is_given_back_without_an_end(books: Books) -> None:
    tenant = books.tenant("scale")
    ends = at("2026-10-20")
    row = {"id": "g" * 26, "tenant": tenant, "currency": "USD", "amount_nano": 60 * USD, "expires_at": ends}
    write(books, "grants", row | {"reason": "", "at": at("2026-09-01")})
    sides = {credits.prepaid(tenant): -60 * USD, credits.CREDITS: 60 * USD}
    shared = {"entry": "g" * 26, "currency": "USD", "at": at("2026-09-01")}
    rows = [shared | {"account": account, "amount_nano": nano} for account, nano in sides.items()]
    books.database.write(lambda c: c.execute(insert(tables.postings), rows) and None)
    invoice = invoices.close(books.database, tenant, SEPTEMBER, bill())
    assert invoice.due_nano == 0
    issue(books.database, invoice.number, bill())
    with books.database.read() as connection:
        assert [(c.left_nano, c.expires_at) for c in credits.of_tenant(connection, tenant)] == [
            (0, ends),
            (60 * USD, None),
        ]
    assert verify(books.database).problems == ()


@hypothesis_settings(
    max_examples=10,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(counts=st.lists(st.integers(1, 40), min_size=1, max_size=4), order=st.randoms(use_true_random=False))
def test_notes_in_any_order_sum_to_the_invoice(books: Books, counts: list[int], order: Any) -> None:
    tenant = books.tenant("scale")
    profiles.save(books.database, tenant, country="CA")
    for i, count in enumerate(counts):
        use(books, tenant, count, "scale", f"2026-09-{2 + i:02d}", release="abcd"[i] * 64)
    invoice = invoices.close(books.database, tenant, SEPTEMBER, SETTINGS)
    names = [line.id for line in invoice.lines if line.kind != "tax" and line.amount_nano > 0]
    order.shuffle(names)
    for name in names[:-1]:
        issue(books.database, invoice.number, SETTINGS, lines=[name])
    issue(books.database, invoice.number, SETTINGS)
    with books.database.read() as connection:
        row = connection.execute(select(tables.invoices).where(tables.invoices.c.number == invoice.number)).one()
        notes = credit_notes.of_invoice(connection, row.id)
    assert sum(note.total_nano for note in notes) == -invoice.total_nano
    assert verify(books.database).problems == ()


def test_a_credit_note_never_changes_and_one_that_was_changed_is_named(closed: Closed) -> None:
    books, invoice = closed
    note = issue(books.database, invoice.number, SETTINGS)
    mine = tables.credit_notes.c.number == note.number
    with pytest.raises(DBAPIError):
        books.database.write(lambda c: c.execute(update(tables.credit_notes).where(mine).values(total_nano=0)))
    body = note.as_dict()
    body["lines"][0]["amount_nano"] -= USD
    unguarded(books, "credit_notes", update(tables.credit_notes).where(mine).values(body=canonical(body).decode()))
    names = {problem.name for problem in verify(books.database).problems}
    assert names - {"seal"} == {"credit-note-lines", "credit-note-total", "credit-note-postings"}
    unguarded(books, "credit_notes", update(tables.credit_notes).where(mine).values(number="CN-000007"))
    assert "credit-note-number" in {problem.name for problem in verify(books.database).problems}
