"""Do credits and credit notes agree with the books? Part of ``verify``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from feilun.bill.bookings import reversed_lines
from feilun.bill.credit_notes import note_lines
from feilun.bill.credits import BREAKAGE, CREDITS, of_tenant, prepaid
from feilun.bill.invoice import Invoice, parse
from feilun.errors import FeilunError
from feilun.store import tables


@dataclass(frozen=True)
class Problem:
    """One disagreement: ``name`` is stable, for programs; ``where`` names tenant and row, or the invoice."""

    name: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.name} at {self.where}: {self.what}"


def grants(connection: Connection) -> Iterator[Problem]:
    """No grant is used up below 0, each and each expiry is posted, and accounts say what is left."""
    left: dict[tuple[str, str], int] = defaultdict(int)
    found = of_tenant(connection)
    owners = {credit.id: credit for credit in found}
    for credit in found:
        left[prepaid(credit.tenant), credit.currency] -= credit.left_nano
        if credit.left_nano < 0:
            yield Problem("credit", credit.id, f"more was used than granted: {-credit.left_nano} nano-units")
        sides = {prepaid(credit.tenant): -credit.amount_nano, CREDITS: credit.amount_nano}
        if sides_of(connection, credit.id, credit.currency) != sides:
            yield Problem("credit", credit.id, "its postings are not its amount")
    for use in connection.execute(select(tables.grant_uses).where(tables.grant_uses.c.invoice.is_(None))):
        credit = owners[use.credit]
        sides = {prepaid(credit.tenant): use.amount_nano, BREAKAGE: -use.amount_nano}
        if sides_of(connection, use.id, credit.currency) != sides:
            yield Problem("credit", credit.id, "the postings of its expiry are not what was left")
    postings = tables.postings.c
    query = select(postings.account, postings.currency, func.sum(postings.amount_nano))
    mine = query.where(postings.account.like("tenant:%:prepaid")).group_by(postings.account, postings.currency)
    posted = {(account, currency): int(total) for account, currency, total in connection.execute(mine)}
    for account, currency in sorted(posted.keys() | left.keys()):
        if posted.get((account, currency), 0) != left.get((account, currency), 0):
            yield Problem("credit", f"{account} {currency}", "the account does not say what is left of its grants")


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
        note, invoice = parse(row.body), invoices[row.invoice]
        if row.number != f"CN-{i:06d}":
            yield Problem("credit-note-number", row.number, f"CN-{i:06d} was expected here: numbers have no gaps")
        columns = ("number", "tenant", "currency", "total_nano", "at")
        if any(getattr(row, name) != getattr(note, name) for name in columns) or note.corrects != invoice.number:
            yield Problem("credit-note-columns", row.number, "its columns are not what its body says")
        chosen = [str(line.words["corrects"]) for line in note.lines if line.kind != "tax"]
        try:
            again = note_lines(invoice, earlier[row.invoice], chosen)
        except FeilunError as error:
            yield Problem("credit-note-lines", row.number, error.what)
            continue
        amounts = [(line.words["corrects"], line.amount_nano) for line in note.lines]
        if [(line.words["corrects"], line.amount_nano) for line in again] != amounts:
            yield Problem("credit-note-lines", row.number, "its lines are not those of its invoice taken back")
        if sum(line.amount_nano for line in note.lines) != note.total_nano:
            yield Problem("credit-note-total", row.number, "its lines do not sum to its total")
        if sides_of(connection, row.id, row.currency) != reversed_lines(note.tenant, note.lines):
            yield Problem("credit-note-postings", row.number, "its postings are not its amounts")
        earlier[row.invoice].append(note)


def sides_of(connection: Connection, entry: str, currency: str) -> dict[str, int]:
    """What an entry posted in a currency, by account; 0 is as if not posted."""
    postings = tables.postings.c
    query = select(postings.account, postings.amount_nano).where(postings.entry == entry, postings.currency == currency)
    return {account: int(amount) for account, amount in connection.execute(query) if amount}
