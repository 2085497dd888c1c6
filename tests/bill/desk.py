"""Closed invoices as the office has them, and the office that sends them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import func, insert, select, update

from feilun.accounts import tenants
from feilun.bill.delivery import Sender, deliver
from feilun.bill.invoices import Invoice
from feilun.bill.rating import Line
from feilun.bill.settings import BillSettings
from feilun.bill.telling import tell_invoice
from feilun.store import outbox, tables
from feilun.store.artifacts import canonical
from feilun.store.database import Database

CENT = 10**7


def settings(**sections: Any) -> BillSettings:
    """A project with one plan and these further sections."""
    return BillSettings.model_validate({"plans": {"starter": {"monthly": "19.00 USD"}}} | sections)


def tenant(database: Database, name: str) -> str:
    with database.read() as connection:
        known = connection.execute(select(tables.tenants.c.id).where(tables.tenants.c.id == name)).first()
    if not known:
        tenants.create(database, name, plan="starter")
    return name


def close(
    database: Database,
    told: BillSettings,
    name: str,
    amounts: Sequence[int],
    *,
    currency: str = "USD",
    meter: str | None = None,
    period: str = "2026-10",
) -> Invoice:
    """An invoice with lines of these amounts, written with what is told of it in one transaction."""
    tenant(database, name)

    def write(connection: Any) -> Invoice:
        number = f"INV-{connection.execute(select(func.count()).select_from(tables.invoices)).scalar_one() + 1:06d}"
        lines = tuple(
            Line(f"{number}/{i}", "usage", period, f"line {i}", meter, 7, amount_nano=amount, exact_nano=amount)
            for i, amount in enumerate(amounts, start=1)
        )
        at = outbox.now_us(connection)
        made = Invoice(number, name, period, False, currency, sum(amounts), 1, 0, at, lines, "", due_nano=sum(amounts))
        values = asdict(made) | {"total": made.total}
        del values["body"]
        made = replace(made, body=canonical(values).decode())
        row = {"id": number, "number": number, "tenant": name, "period": period, "currency": currency}
        row |= {"total_nano": made.total_nano, "first_sequence": 1, "last_sequence": 0, "body": made.body, "at": at}
        connection.execute(insert(tables.invoices).values(row))
        tell_invoice(connection, told, made)
        return made

    return database.write(write)


def credit(database: Database, told: BillSettings, invoice: Invoice, amount: int) -> str:
    """A credit note that takes ``amount`` of an invoice back."""
    from feilun.bill.telling import tell_credit_note

    def write(connection: Any) -> str:
        number = f"CN-{connection.execute(select(func.count()).select_from(tables.credit_notes)).scalar_one() + 1:06d}"
        row = {"id": number, "number": number, "invoice": invoice.number, "tenant": invoice.tenant, "at": 1}
        row |= {"currency": invoice.currency, "total_nano": -amount, "body": "{}"}
        connection.execute(insert(tables.credit_notes).values(row))
        tell_credit_note(connection, told, invoice.tenant, number, {"number": number})
        return number

    return database.write(write)


def make_due(database: Database) -> None:
    """All pauses and leases are over."""
    waiting = tables.outbox.c.delivered_at.is_(None)
    database.write(lambda c: c.execute(update(tables.outbox).where(waiting).values(due_at=0)) and None)


def age(database: Database, days: int = 2) -> None:
    """Every row was put so long ago."""
    then = tables.outbox.c.created_at - days * 86_400 * 10**6
    database.write(lambda c: c.execute(update(tables.outbox).values(created_at=then)) and None)


def deliver_all(database: Database, senders: Sequence[Sender], *, rounds: int = 60) -> int:
    """Deliver, with every pause over at once, until nothing waits; returns how many rounds that took."""
    for done in range(rounds):
        deliver(database, senders)
        with database.read() as connection:
            if not outbox.rows(connection, "waiting"):
                return done
        make_due(database)
    raise AssertionError(f"still waiting after {rounds} rounds: {rows(database)}")


def rows(database: Database, kind: str | None = None) -> list[outbox.Row]:
    with database.read() as connection:
        return outbox.rows(connection, kind=kind)


def body(row: Any) -> dict[str, Any]:
    return dict(json.loads(row))
