"""Credit notes: what takes back an invoice, or lines of it, with the tax on them; an invoice itself never changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, func, insert, select, text
from ulid import ULID

from feilun.bill import telling
from feilun.bill.bookings import reversed_lines
from feilun.bill.invoice import Invoice, parse, sealed
from feilun.bill.rating import Line
from feilun.bill.settings import BillSettings
from feilun.bill.wording import worded
from feilun.errors import AccessError, ConflictError, SettingError, did_you_mean
from feilun.store import ledger, tables
from feilun.store.database import Database, now_us
from feilun.store.money import format_money, half_even, round_to_minor

CREDIT_NOTE = "credit_note"
_FOLLOWS = ("tax", "credit")  # lines that cannot be taken back by themselves


def issue(
    database: Database, number: str, settings: BillSettings, *, lines: Sequence[str] | None = None, reason: str = ""
) -> Invoice:
    """Take back the invoice ``number``, or those of its ``lines`` that are named; the tax on them follows.

    Raises:
        AccessError: there is no such invoice, or no such line of it.
        ConflictError: it was taken back before, or more would be taken back than was invoiced.
    """
    identity = str(ULID())

    def write(connection: Connection) -> Invoice:
        row = _stored(connection, number)
        ledger.lock(connection, row.tenant)
        invoice = parse(row.body)
        made = note_lines(invoice, of_invoice(connection, row.id), lines)
        if connection.dialect.name == "postgresql":  # numbers have no gaps, so they are given one at a time
            connection.execute(text("LOCK TABLE credit_notes IN SHARE ROW EXCLUSIVE MODE"))
        count = connection.execute(select(func.count()).select_from(tables.credit_notes)).scalar_one()
        note = _note(invoice, f"CN-{count + 1:06d}", made, reason, max(now_us(connection), invoice.at))
        columns = {name: getattr(note, name) for name in ("number", "tenant", "currency", "total_nano", "body", "at")}
        connection.execute(insert(tables.credit_notes).values(id=identity, invoice=row.id, **columns))
        shared = {"entry": identity, "currency": note.currency, "at": note.at}
        sides = reversed_lines(note.tenant, note.lines)
        connection.execute(
            insert(tables.postings), [shared | {"account": a, "amount_nano": n} for a, n in sides.items()]
        )
        telling.tell_credit_note(connection, settings, note.tenant, note.number, note.as_dict())
        return note

    return database.write(write)


def of_invoice(connection: Connection, identity: str) -> list[Invoice]:
    """The credit notes of an invoice, by its id, oldest first."""
    notes = tables.credit_notes.c
    query = select(notes.body).where(notes.invoice == identity).order_by(func.length(notes.number), notes.number)
    return [parse(body) for body in connection.execute(query).scalars()]


def note_lines(invoice: Invoice, earlier: Sequence[Invoice], chosen: Sequence[str] | None = None) -> list[Line]:
    """The lines of a credit note after ``earlier`` ones: each takes one line of the invoice back, in whole.

    Tax is taken back in proportion to all that was taken back so far, so that in the end it is what was charged.

    Raises:
        AccessError: there is no such line.
        ConflictError: a line was taken back before, or more would be taken back than was invoiced.
    """
    own = {line.id: line for line in invoice.lines if line.kind not in _FOLLOWS}
    done = {str(line.words["corrects"]) for note in earlier for line in note.lines}
    wanted = [name for name, line in own.items() if name not in done and line.amount_nano]
    if chosen is not None:
        wanted = list(dict.fromkeys(_checked(name, own, done) for name in chosen))
    made = [_back(own[name], own[name].amount_nano, invoice.currency) for name in wanted]
    made += _taxes(invoice, earlier, -sum(line.amount_nano for line in made))
    back = -sum(line.amount_nano for line in made)
    before = -sum(note.total_nano for note in earlier)
    if not 0 < back <= invoice.total_nano - before:
        left = format_money(max(0, invoice.total_nano - before), invoice.currency)
        raise ConflictError(
            f"a credit note of {format_money(back, invoice.currency)} cannot be made: {left} is left of the invoice",
            where=invoice.number,
            hint="name other lines; a discount is taken back with what it was taken off",
            code="credit-note-refused",
        )
    return made


def _checked(name: str, own: dict[str, Line], done: set[str]) -> str:
    if name not in own:
        hint = did_you_mean(name, own) or f"its lines are {', '.join(list(own)[:10])}"
        raise AccessError(f"there is no line '{name}' to take back", status=404, hint=hint, code="not-found")
    if name in done:
        raise ConflictError(f"the line {name} was taken back before", code="credit-note-refused")
    return name


def _taxes(invoice: Invoice, earlier: Sequence[Invoice], back: int) -> Iterator[Line]:
    net = sum(line.amount_nano for line in invoice.lines if line.kind not in _FOLLOWS)
    so_far = back - sum(line.amount_nano for note in earlier for line in note.lines if line.kind != "tax")
    for line in invoice.lines:
        if line.kind == "tax" and line.amount_nano and net:
            given = [each for note in earlier for each in note.lines if each.words["corrects"] == line.id]
            whole = round_to_minor(half_even(line.amount_nano * so_far, net), invoice.currency)
            amount = whole + sum(each.amount_nano for each in given)
            if amount:
                yield _back(line, amount, invoice.currency)


def _back(line: Line, amount: int, currency: str) -> Line:
    taken = replace(
        line,
        units=-line.units,
        exact_nano=-amount,
        amount_nano=-amount,
        query=None,
        words={**line.words, "corrects": line.id},
    )
    return worded(taken, currency)


def _note(invoice: Invoice, number: str, lines: Sequence[Line], reason: str, at: int) -> Invoice:
    return sealed(
        replace(
            invoice,
            number=number,
            kind=CREDIT_NOTE,
            lines=tuple(lines),
            at=at,
            due_at=None,
            interim=False,
            first_sequence=invoice.last_sequence + 1,  # it covers no rows of its own
            first_event=None,
            last_event=None,
            aggregates={},
            corrects=invoice.number,
            reason=reason,
        )
    )


def _stored(connection: Connection, number: str) -> Any:
    row = connection.execute(select(tables.invoices).where(tables.invoices.c.number == number)).one_or_none()
    if row is None:
        numbers = connection.execute(select(tables.invoices.c.number)).scalars()
        hint = did_you_mean(number, numbers) or "list them with: feilun bill"
        raise AccessError(f"there is no invoice '{number[:80]}'", status=404, hint=hint, code="not-found")
    return row


def get(database: Database, number: str) -> Invoice:
    """A credit note by its number.

    Raises:
        AccessError: there is none.
    """
    notes = tables.credit_notes.c
    with database.read() as connection:
        body = connection.execute(select(notes.body).where(notes.number == number)).scalar()
    if body is None:
        raise AccessError(f"there is no credit note '{number[:80]}'", status=404, code="not-found")
    return parse(body)


def reason_of(text: str) -> str:
    """A reason as a credit note may say it.

    Raises:
        SettingError: it is longer than 500 characters.
    """
    if len(text) > 500:
        raise SettingError("a reason has at most 500 characters", where="reason")
    return text.strip()
