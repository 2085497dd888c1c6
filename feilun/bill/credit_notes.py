"""Credit notes: what takes back an invoice, or lines of it; an invoice itself never changes.

What prepaid credit had paid is given back as credit, by a grant in the same transaction; ``due_nano`` of a note, not
above 0, is what is to be paid back or set off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, func, insert, select, text
from ulid import ULID

from feilun.bill import telling
from feilun.bill.bookings import reversed_lines
from feilun.bill.invoice import Invoice, parse, sealed
from feilun.bill.rating import Line
from feilun.bill.settings import BillSettings
from feilun.bill.taken_back import note_lines
from feilun.bill.wording import worded
from feilun.errors import AccessError, ConflictError, SettingError, did_you_mean
from feilun.store import ledger, seals, tables
from feilun.store.database import Database, now_us

CREDIT_NOTE = "credit_note"


def issue(
    database: Database, number: str, settings: BillSettings, *, lines: Sequence[str] | None = None, reason: str = ""
) -> Invoice:
    """Take back the invoice ``number``, or those of its ``lines`` that are named; discounts, tax and credit follow.

    Raises:
        AccessError: there is no such invoice, or no such line of it.
        ConflictError: it was taken back before, it is a credit note itself, or more would be taken back than invoiced.
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
        number_of, at = f"CN-{count + 1:06d}", max(now_us(connection), invoice.at)
        made = _given_back(connection, (number_of, row.tenant, invoice.currency, at), made)
        note = _note(invoice, number_of, made, reason, at)
        columns = {name: getattr(note, name) for name in ("number", "tenant", "currency", "total_nano", "body", "at")}
        columns |= {"id": identity, "invoice": row.id}
        connection.execute(insert(tables.credit_notes).values(columns))
        seals.seal(connection, "credit_notes", columns)
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


def _given_back(connection: Connection, note: tuple[str, str, str, int], lines: Sequence[Line]) -> list[Line]:
    """Write a grant for each line of prepaid credit that is given back, and name it in the line's words.

    It expires as the grant that had paid; where that is over by now, it does not. Its postings are the note's.
    """
    number, tenant, currency, at = note
    grants, made = tables.grants.c, []
    for line in lines:
        if line.kind != "credit":
            made.append(line)
        else:
            old = select(grants.expires_at).where(grants.id == line.words["grant"])
            expires = connection.execute(old).scalar_one()
            expires = expires if expires is not None and expires > at else None
            identity = str(ULID())
            row = {"id": identity, "tenant": tenant, "currency": currency, "amount_nano": line.amount_nano, "at": at}
            row |= {"expires_at": expires, "reason": f"credit note {number}"}
            connection.execute(insert(tables.grants).values(row))
            seals.seal(connection, "grants", row)
            words = {**line.words, "grant": identity} | ({"expires_at": expires} if expires is not None else {})
            made.append(worded(replace(line, words=words), currency))
    return made


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
        notes = tables.credit_notes.c.number
        if connection.execute(select(notes).where(notes == number)).first() is not None:
            hint = "what it took back can be invoiced again; prepaid credit can be granted with: feilun bill credit"
            raise ConflictError(
                f"{number} is a credit note: it cannot be taken back", hint=hint, code="credit-note-refused"
            )
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
