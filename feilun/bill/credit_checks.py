"""Do credits and credit notes agree with the books? Part of ``verify``."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, select

from feilun.bill.bookings import reversed_lines
from feilun.bill.credits import BREAKAGE, CREDITS, of_tenant, prepaid
from feilun.bill.invoice import Invoice, parse
from feilun.bill.taken_back import note_lines
from feilun.errors import FeilunError
from feilun.store import audit, tables


@dataclass(frozen=True)
class Problem:
    """One disagreement: ``name`` is stable, for programs; ``where`` names tenant and row, or the invoice."""

    name: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.name} at {self.where}: {self.what}"


def guarded(where: str, checks: Iterator[Problem]) -> Iterator[Problem]:
    """``checks``, and a problem in place of what they raise: one row that cannot be read must not hide the others."""
    try:
        yield from checks
    except FeilunError as error:
        yield Problem(error.name, error.where or where, error.what)
    except audit.UNREADABLE as error:
        yield Problem("unreadable", where, audit.unreadable(error))


def grants(connection: Connection) -> Iterator[Problem]:
    """No grant is used up below 0, each and each expiry is posted, and accounts say what is left."""
    left: dict[tuple[str, str], int] = defaultdict(int)
    found = of_tenant(connection)
    owners = {credit.id: credit for credit in found}
    returned = _returned(connection)
    for name in returned.keys() - owners.keys():
        yield Problem("credit", name, "a credit note gave it back, and there is no such grant")
    for credit in found:
        left[prepaid(credit.tenant), credit.currency] -= credit.left_nano
        if credit.left_nano < 0:
            yield Problem("credit", credit.id, f"more was used than granted: {-credit.left_nano} nano-units")
        sides = {prepaid(credit.tenant): -credit.amount_nano, CREDITS: credit.amount_nano}
        if credit.id in returned:  # posted with the credit note
            sides = {}
            if returned[credit.id] != credit.amount_nano:
                yield Problem("credit", credit.id, "it is not what its credit note gave back")
        if sides_of(connection, credit.id, credit.currency) != sides:
            yield Problem("credit", credit.id, "its postings are not its amount")
    for use in connection.execute(select(tables.grant_uses).where(tables.grant_uses.c.invoice.is_(None))):
        if (owner := owners.get(use.credit)) is None:
            yield Problem("credit", use.id, "it used a grant that is gone")
            continue
        sides = {prepaid(owner.tenant): use.amount_nano, BREAKAGE: -use.amount_nano}
        if sides_of(connection, use.id, owner.currency) != sides:
            yield Problem("credit", owner.id, "the postings of its expiry are not what was left")
    postings = tables.postings.c
    query = select(postings.account, postings.currency, func.sum(postings.amount_nano))
    mine = query.where(postings.account.like("tenant:%:prepaid")).group_by(postings.account, postings.currency)
    posted = {(account, currency): int(total) for account, currency, total in connection.execute(mine)}
    for account, currency in sorted(posted.keys() | left.keys()):
        if posted.get((account, currency), 0) != left.get((account, currency), 0):
            yield Problem("credit", f"{account} {currency}", "the account does not say what is left of its grants")


def _returned(connection: Connection) -> dict[str, int]:
    """What credit notes gave back, by the grant that they gave it with."""
    found: dict[str, int] = {}
    for body in connection.execute(select(tables.credit_notes.c.body)).scalars():
        with contextlib.suppress(*audit.UNREADABLE):  # ``notes`` names it
            found |= {str(line.words["grant"]): line.amount_nano for line in parse(body).lines if line.kind == "credit"}
    return found


def uses(connection: Connection, entry: str, invoice: Invoice) -> Iterator[Problem]:
    """An invoice's credit lines are what it used of each grant."""
    rows = tables.grant_uses.c
    query = select(rows.credit, func.sum(rows.amount_nano)).where(rows.invoice == entry).group_by(rows.credit)
    used = {credit: -int(amount) for credit, amount in connection.execute(query)}
    told = {str(line.words.get("grant")): line.amount_nano for line in invoice.lines if line.kind == "credit"}
    if used != told:
        yield Problem("invoice-credits", invoice.number, "its credit lines are not what it used of its grants")


def notes(connection: Connection, invoices: Mapping[str, Invoice]) -> Iterator[Problem]:
    """Credit notes have numbers without gaps, take back what was invoiced and no more, and are posted."""
    table = tables.credit_notes
    earlier: dict[str, list[Invoice]] = defaultdict(list)
    rows = connection.execute(select(table).order_by(func.length(table.c.number), table.c.number)).all()
    for i, row in enumerate(rows, start=1):
        if row.number != f"CN-{i:06d}":
            yield Problem("credit-note-number", row.number, f"CN-{i:06d} was expected here: numbers have no gaps")
        if (invoice := invoices.get(row.invoice)) is None:
            yield Problem(
                "credit-note-invoice", row.number, "the invoice that it takes back cannot be read, or is gone"
            )
            continue
        yield from guarded(row.number, _note(connection, row, invoice, earlier[row.invoice]))


def _note(connection: Connection, row: Row[Any], invoice: Invoice, earlier: list[Invoice]) -> Iterator[Problem]:
    note = parse(row.body)
    columns = ("number", "tenant", "currency", "total_nano", "at")
    if any(getattr(row, name) != getattr(note, name) for name in columns) or note.corrects != invoice.number:
        yield Problem("credit-note-columns", row.number, "its columns are not what its body says")
    if note.tenant != invoice.tenant:
        yield Problem("credit-note-tenant", row.number, f"its invoice is of {invoice.tenant}, not of {note.tenant}")
    chosen = [str(line.words["corrects"]) for line in note.lines if line.kind not in ("tax", "credit")]
    try:
        again = note_lines(invoice, earlier, chosen)
    except FeilunError as error:
        yield Problem("credit-note-lines", row.number, error.what)
        return
    amounts = [(line.words["corrects"], line.amount_nano) for line in note.lines]
    if [(line.words["corrects"], line.amount_nano) for line in again] != amounts:
        yield Problem("credit-note-lines", row.number, "its lines are not those of its invoice taken back")
    given = sum(line.amount_nano for line in note.lines if line.kind == "credit")
    owed = sum(line.amount_nano for line in note.lines)
    if (owed - given, given, owed) != (note.total_nano, note.credits_nano, note.due_nano):
        yield Problem("credit-note-total", row.number, "its lines do not sum to its total")
    if sides_of(connection, row.id, row.currency) != reversed_lines(note.tenant, note.lines):
        yield Problem("credit-note-postings", row.number, "its postings are not its amounts")
    earlier.append(note)


def sides_of(connection: Connection, entry: str, currency: str) -> dict[str, int]:
    """What an entry posted, by account; 0 is as if not posted. What is in another currency is named with it."""
    postings = tables.postings.c
    query = select(postings.account, postings.currency, postings.amount_nano).where(postings.entry == entry)
    return {
        account if own == currency else f"{account} {own}": int(amount)
        for account, own, amount in connection.execute(query)
        if amount
    }
