"""Invoices: fees, usage and events of a month, closed once, numbered without gaps, never changed.

A tenant's invoices tile its ledger: each covers the usage rows from where the one before ended, so a row is in exactly
one, and so is each event. What belongs to an earlier month that no invoice has covered becomes adjustment lines of the
next. Rating is done before the writing transaction, which is short: it only checks that nothing has changed meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from sqlalchemy import Connection, func, insert, select, text, update
from ulid import ULID

from feilun.bill import credits, plan_history, telling
from feilun.bill.bookings import booked, invoiced
from feilun.bill.composing import Draft, Standing, begun, compose, facts, last_row, of_tenant, standing
from feilun.bill.invoice import DRAFT, Invoice, parse, sealed
from feilun.bill.reading import snapshot
from feilun.bill.settings import BillSettings
from feilun.errors import AccessError, ConflictError, DataError, FeilunError, did_you_mean
from feilun.store import ledger, seals, tables
from feilun.store.database import Database, now_us

__all__ = [
    "DRAFT",
    "Invoice",
    "PartlyClosedError",
    "close",
    "close_all",
    "draft",
    "drafts",
    "get",
    "invoiced",
    "of_tenant",
    "parse",
]

SHOWN = 20  # of those that were not closed, how many are told with the reason
ATTEMPTS = 5  # how often rating starts anew because rows or other invoices came in between


class PartlyClosedError(ConflictError):
    """Some tenants of a month could not be closed: ``closed`` are the invoices of the others, ``failed`` says why."""

    code = "partly-closed"

    def __init__(self, closed: Sequence[Invoice], failed: Mapping[str, FeilunError]) -> None:
        self.closed, self.failed = tuple(closed), dict(failed)
        numbers = [f"{invoice.number} ({invoice.tenant})" for invoice in closed[:SHOWN]]
        numbers += [f"and {len(closed) - SHOWN:,} more"] if len(closed) > SHOWN else []
        why = [f"{tenant}: {error.what}" for tenant, error in list(failed.items())[:SHOWN]]
        why += [f"and {len(failed) - SHOWN:,} more"] if len(failed) > SHOWN else []
        super().__init__(
            f"{len(failed):,} tenants could not be closed; closed: {', '.join(numbers) or 'none'}",
            where="; ".join(why),
            hint="mend these and close again: what is closed stays as it is",
        )


def draft(database: Database, tenant: str, period: str, settings: BillSettings) -> Invoice:
    """What an invoice for ``period`` would say now, of what no invoice covers yet; nothing is written.

    Raises:
        SettingError: not a month, a month that has not begun, or a plan that the project file does not have.
        AccessError: there is no such tenant.
        ConflictError: the ledger does not agree with itself (see ``verify``).
    """
    return drafts(database, tenant, period, settings)[-1]


def drafts(database: Database, tenant: str, period: str, settings: BillSettings) -> list[Invoice]:
    """The same, one for each currency: at least one, which may have no lines.

    Raises:
        SettingError: as for ``draft``.
        AccessError: as for ``draft``.
        ConflictError: as for ``draft``.
    """
    with snapshot(database) as connection:
        stands = standing(connection, tenant, period, settings)
        made = compose(connection, stands, settings)
    return [sealed(replace(each.invoice, number=DRAFT, state=stands.state)) for each in made]


def close(database: Database, tenant: str, period: str, settings: BillSettings, *, interim: bool = False) -> Invoice:
    """Close the invoice of ``period``; closing again returns the one that was closed.

    With ``interim``, a month that still runs (or its grace time) is invoiced up to now: later rows go to its next
    invoice, and the monthly fee is on the first one. Where a tenant was charged in several currencies there is an
    invoice for each, and the last one is returned.

    Raises:
        DataError: there is nothing to invoice.
        ConflictError: the month still runs, or the ledger does not agree with itself (see ``verify``).
        SettingError: as for ``draft``.
        AccessError: as for ``draft``.
    """
    plan_history.announce(database, settings.all_terms())
    for _ in range(ATTEMPTS):
        with snapshot(database) as connection:
            known = of_tenant(connection, tenant, period)
            if known and not known[-1].interim:
                return known[-1]
            stands = standing(connection, tenant, period, settings)
            made = compose(connection, stands, settings)
        if stands.interim and not interim:
            raise _too_early(stands)
        if not any(each.invoice.lines for each in made):
            if not stands.interim:
                _sweep(database, tenant, stands.known.month[1])
            if known:
                return known[-1]
            raise DataError(f"tenant '{tenant}' has nothing to invoice for {period}", code="nothing-to-invoice")
        identities = [str(ULID()) for _ in made]
        job = partial(_write, stands=stands, made=made, identities=identities, settings=settings)
        written = database.write(job, order=tenant)
        if written is not None:
            return written
    raise ConflictError(f"the ledger of tenant '{tenant}' kept changing", hint="try again", code="ledger-is-busy")


def close_all(database: Database, period: str, settings: BillSettings, *, interim: bool = False) -> list[Invoice]:
    """``close`` for each tenant that has something to invoice, in the order of their ids.

    Raises:
        PartlyClosedError: some tenants could not be closed; all others were.
        ConflictError: the month still runs.
        SettingError: not a month, or a month that has not begun.
    """
    with database.read() as connection:
        begun(period, now_us(connection))
        tenants = connection.execute(select(tables.tenants.c.id).order_by(tables.tenants.c.id)).scalars().all()
    closed: list[Invoice] = []
    failed: dict[str, FeilunError] = {}
    for tenant in tenants:
        try:
            closed.append(close(database, tenant, period, settings, interim=interim))
        except FeilunError as error:
            if error.name in ("period-runs", "period-in-grace"):  # so it is for everybody
                raise
            if error.name != "nothing-to-invoice":
                failed[tenant] = error
    if failed:
        raise PartlyClosedError(closed, failed)
    return closed


def get(database: Database, number: str) -> Invoice:
    """A closed invoice by its number.

    Raises:
        AccessError: there is none.
    """
    with database.read() as connection:
        body = connection.execute(select(tables.invoices.c.body).where(tables.invoices.c.number == number)).scalar()
        if body is None:
            numbers = connection.execute(select(tables.invoices.c.number)).scalars()
            hint = did_you_mean(number, numbers) or "list them with: feilun bill"
            raise AccessError(f"there is no invoice '{number}'", status=404, hint=hint, code="not-found")
        return parse(body)


def _too_early(stands: Standing) -> ConflictError:
    now = "or invoice it up to now: feilun bill --close --now"
    if stands.state == "draft":
        return ConflictError(f"{stands.period} still runs", hint=f"wait for its end (UTC), {now}", code="period-runs")
    what = f"late usage of {stands.period} can still come: its grace time runs"
    return ConflictError(what, hint=f"wait for its end ([bill] grace), {now}", code="period-in-grace")


def _write(
    connection: Connection, stands: Standing, made: Sequence[Draft], identities: Sequence[str], settings: BillSettings
) -> Invoice | None:
    """Number and store the drafts; None where they are no longer all that there is to invoice."""
    chain = ledger.lock(connection, stands.tenant)
    if _covered(connection, stands.tenant) != (stands.first - 1, len(stands.known.earlier)):
        return None
    ends = stands.known.month[1]
    if facts(connection, stands.tenant) != stands.facts:
        return None
    newest = last_row(connection, stands.tenant, stands.first, chain.sequence, ends)
    if not stands.interim and newest != stands.last:
        return None
    used = [line for each in made for line in each.invoice.lines if line.kind == "credit"]
    if not credits.still_there(connection, stands.tenant, used):
        return None
    if connection.dialect.name == "postgresql":  # numbers have no gaps, so they are given one at a time
        connection.execute(text("LOCK TABLE invoices IN SHARE ROW EXCLUSIVE MODE"))
    count = connection.execute(select(func.count()).select_from(tables.invoices)).scalar_one()
    for i, (each, identity) in enumerate(zip(made, identities, strict=True), start=count + 1):
        invoice = sealed(replace(each.invoice, number=f"INV-{i:06d}"))
        _store(connection, invoice, identity, each.stored_nano)
        telling.tell_invoice(connection, settings, invoice)
    covered = sum(each.stored_nano for each in made)
    mine = tables.chains.c.tenant == stands.tenant
    connection.execute(update(tables.chains).where(mine).values(due_nano=tables.chains.c.due_nano - covered))
    credits.sweep(connection, stands.tenant, min(stands.at, ends), now_us(connection))
    return invoice


def _store(connection: Connection, invoice: Invoice, identity: str, stored_nano: int) -> None:
    columns = [column.name for column in tables.invoices.columns if column.name != "id"]
    row: dict[str, Any] = {"id": identity} | {name: getattr(invoice, name) for name in columns}
    connection.execute(insert(tables.invoices).values(row))
    seals.seal(connection, "invoices", row)
    shared = {"entry": identity, "currency": invoice.currency, "at": invoice.at}
    sides = booked(invoice, stored_nano)
    rows = [shared | {"account": account, "amount_nano": amount} for account, amount in sides.items()]
    if rows:
        connection.execute(insert(tables.postings), rows)
    credits.use(connection, [line for line in invoice.lines if line.kind == "credit"], identity, invoice.at)


def _covered(connection: Connection, tenant: str) -> tuple[int, int]:
    """The last row that an invoice covers, and how many invoices there are."""
    invoices = tables.invoices.c
    query = select(func.max(invoices.last_sequence), func.count()).where(invoices.tenant == tenant)
    last, count = connection.execute(query).one()
    return last or 0, count


def _sweep(database: Database, tenant: str, before: int) -> None:
    with database.read() as connection:
        expired = [
            c for c in credits.of_tenant(connection, tenant) if c.left_nano and (c.expires_at or before) < before
        ]
    if expired:

        def job(connection: Connection) -> None:
            ledger.lock(connection, tenant)
            credits.sweep(connection, tenant, before, now_us(connection))

        database.write(job, order=tenant)
