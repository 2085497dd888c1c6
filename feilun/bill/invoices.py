"""Invoices: usage rows and the monthly fee, closed once, numbered without gaps, never changed.

A tenant's invoices tile its ledger: each covers the usage rows from where the one before ended, so a row is in exactly
one. Rows of an earlier month that no invoice has covered become adjustment lines of the next. Rating is done before the
writing transaction, which is short: it only checks that nothing has changed meanwhile.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, text
from ulid import ULID

from feilun.accounts.terms import Terms
from feilun.bill.rating import Line, fee_line
from feilun.bill.reading import keep_terms, rate_range, snapshot
from feilun.bill.settings import BillSettings
from feilun.errors import AccessError, ConflictError, DataError, SettingError, did_you_mean
from feilun.store import tables
from feilun.store.artifacts import canonical
from feilun.store.database import Database, now_us
from feilun.store.ledger import receivable
from feilun.store.money import format_money
from feilun.store.periods import bounds

DRAFT = "DRAFT"
FEES = "revenue:fees"
ROUNDING = "revenue:rounding"
ATTEMPTS = 5  # how often rating starts anew because rows or other invoices came in between


@dataclass(frozen=True)
class Invoice:
    """An invoice as it was closed, or a draft of it. ``body`` is the canonical JSON that is stored.

    It covers the tenant's usage rows ``first_sequence`` to ``last_sequence``, both included; none where the last is
    below the first. ``interim`` says that the month was still running. ``at`` is in microseconds since 1970, UTC.
    """

    number: str
    tenant: str
    period: str
    interim: bool
    currency: str
    total_nano: int
    first_sequence: int
    last_sequence: int
    at: int
    lines: tuple[Line, ...]
    body: str
    kind: str = "invoice"
    state: str = "final"  # draft, grace or final
    buyer: Mapping[str, str] = field(default_factory=dict)  # name, address, country, tax_id, as they were then
    seller: Mapping[str, str] = field(default_factory=dict)
    due_at: int | None = None
    first_event: int | None = None  # of the tenant's events that it covers, both included
    last_event: int | None = None
    credits_nano: int = 0  # sum of the credit lines, not above 0; ``total_nano`` is the sum of all others
    due_nano: int = 0

    @property
    def total(self) -> str:
        """The amount for people."""
        return format_money(self.total_nano, self.currency)

    def as_dict(self) -> dict[str, Any]:
        """What ``body`` says, as plain values."""
        return dict(json.loads(self.body))


@dataclass(frozen=True)
class _Draft:
    """All that an invoice says except its number, and what must still be so when it gets one."""

    tenant: str
    period: str
    interim: bool
    currency: str
    first: int
    last: int
    at: int
    lines: tuple[Line, ...]
    stored_nano: int  # exact amounts of its usage rows
    fee: Terms | None
    earlier: int  # how many invoices the tenant had


def draft(database: Database, tenant: str, period: str, settings: BillSettings) -> Invoice:
    """What an invoice for ``period`` would say now, of rows that no invoice covers yet; nothing is written.

    Raises:
        SettingError: not a month, a month that has not begun, or a plan that the project file does not have.
        AccessError: there is no such tenant.
        ConflictError: the ledger does not agree with itself (see ``verify``).
    """
    with snapshot(database) as connection:
        return _numbered(_compose(connection, tenant, period, settings), DRAFT)


def close(database: Database, tenant: str, period: str, settings: BillSettings, *, interim: bool = False) -> Invoice:
    """Close the invoice of ``period``; closing again returns the one that was closed.

    With ``interim``, a month that still runs is invoiced up to now: later rows go to its next invoice, and the monthly
    fee is on the first one.

    Raises:
        DataError: there is nothing to invoice.
        ConflictError: the month still runs, or the ledger does not agree with itself (see ``verify``).
        SettingError: as for ``draft``.
        AccessError: as for ``draft``.
    """
    for _ in range(ATTEMPTS):
        with snapshot(database) as connection:
            known = of_tenant(connection, tenant, period)
            if known and not known[-1].interim:
                return known[-1]
            made = _compose(connection, tenant, period, settings)
        if made.interim and not interim:
            hint = "wait for its end (UTC), or invoice it up to now: feilun bill --close --now"
            raise ConflictError(f"{period} still runs", hint=hint, code="period-runs")
        if not made.lines:
            if known:
                return known[-1]
            raise DataError(f"tenant '{tenant}' has nothing to invoice for {period}", code="nothing-to-invoice")
        identity = str(ULID())
        written = database.write(partial(_write, made=made, identity=identity), order=tenant)
        if written is not None:
            return written
    raise ConflictError(f"the ledger of tenant '{tenant}' kept changing", hint="try again", code="ledger-is-busy")


def close_all(database: Database, period: str, settings: BillSettings, *, interim: bool = False) -> list[Invoice]:
    """``close`` for each tenant that has something to invoice, in the order of their ids."""
    with database.read() as connection:
        tenants = connection.execute(select(tables.tenants.c.id).order_by(tables.tenants.c.id)).scalars().all()
    closed = []
    for tenant in tenants:
        try:
            closed.append(close(database, tenant, period, settings, interim=interim))
        except DataError as error:
            if error.name != "nothing-to-invoice":
                raise
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


def of_tenant(connection: Connection, tenant: str | None = None, period: str | None = None) -> list[Invoice]:
    """Closed invoices, oldest first: of one tenant, of one period, or all."""
    invoices = tables.invoices.c
    query = select(invoices.body).order_by(func.length(invoices.number), invoices.number)
    if tenant is not None:
        query = query.where(invoices.tenant == tenant)
    if period is not None:
        query = query.where(invoices.period == period)
    return [parse(body) for body in connection.execute(query).scalars()]


def parse(body: str) -> Invoice:
    """An invoice from its stored JSON."""
    values = json.loads(body)
    lines = tuple(Line(**line) for line in values.pop("lines"))
    del values["total"]
    values.setdefault("due_nano", values["total_nano"])  # bodies from before there were credits
    return Invoice(**values, lines=lines, body=body)


def invoiced(tenant: str) -> str:
    """The account of what a tenant owes by invoice."""
    return f"tenant:{tenant}:invoiced"


def _compose(connection: Connection, tenant: str, period: str, settings: BillSettings) -> _Draft:
    owner, chain = _tenant(connection, tenant)
    now = max(now_us(connection), chain.at)
    begins, ends = _bounds(period)
    if now < begins:
        raise SettingError(f"{period} has not begun", hint="months are calendar months in UTC")
    first, earlier = _covered(connection, tenant)
    last = _last(connection, tenant, first, chain.sequence, ends)
    rated = rate_range(connection, tenant, period, (first, last))
    if rated.mismatches:
        row = rated.mismatches[0]
        raise ConflictError(
            f"{len(rated.mismatches)} rows were not charged what their terms say",
            where=f"usage of tenant '{tenant}', sequence {row.sequence}",
            hint="see all that is wrong with: feilun bill --verify",
            code="ledger-broken",
        )
    charged = any(line.kind == "fee" for invoice in of_tenant(connection, tenant, period) for line in invoice.lines)
    due = not charged and (rated.rows > 0 or (owner.active and owner.created_at < ends))
    terms = settings.terms(owner.plan) if due else None
    fee = terms if terms and terms.monthly_nano else None
    lines = [*([fee_line(fee, owner.plan, period)] if fee else []), *rated.lines]
    currency = _one_currency(tenant, rated.currencies | ({fee.currency} if fee else set()), settings)
    return _Draft(tenant, period, now < ends, currency, first, last, now, tuple(lines), rated.stored_nano, fee, earlier)


def _bounds(period: str) -> tuple[int, int]:
    if not re.fullmatch(r"(19[7-9]|[2-9]\d\d)\d-(0[1-9]|1[0-2])", period):
        raise SettingError(f"'{period}' is not a month", hint="write it as 2026-11")
    return bounds(period)


def _tenant(connection: Connection, tenant: str) -> tuple[Row[Any], Row[Any]]:
    owner = connection.execute(select(tables.tenants).where(tables.tenants.c.id == tenant)).one_or_none()
    chain = connection.execute(select(tables.chains).where(tables.chains.c.tenant == tenant)).one_or_none()
    if owner is None or chain is None:
        known = connection.execute(select(tables.tenants.c.id)).scalars()
        hint = did_you_mean(tenant, known) or "list them with: feilun tenant list"
        raise AccessError(f"there is no tenant '{tenant}'", status=404, hint=hint, code="not-found")
    return owner, chain


def _covered(connection: Connection, tenant: str) -> tuple[int, int]:
    """The first sequence that no invoice covers yet, and how many invoices there are."""
    invoices = tables.invoices.c
    query = select(func.max(invoices.last_sequence), func.count()).where(invoices.tenant == tenant)
    last, count = connection.execute(query).one()
    return (last or 0) + 1, count


def _last(connection: Connection, tenant: str, first: int, newest: int, ends: int) -> int:
    """The last row before the first one of a later month: a late row behind that one waits for the next invoice."""
    usage = tables.usage.c
    later = (usage.tenant == tenant) & usage.sequence.between(first, newest) & (usage.at >= ends)
    following = connection.execute(select(func.min(usage.sequence)).where(later)).scalar()
    return newest if following is None else following - 1


def _one_currency(tenant: str, found: set[str], settings: BillSettings) -> str:
    if len(found) > 1:
        raise ConflictError(
            f"usage of tenant '{tenant}' is in several currencies: {', '.join(sorted(found))}",
            hint="invoice what is there before a plan's currency is changed",
        )
    return next(iter(found), settings.core_hour.currency)


def _write(connection: Connection, made: _Draft, identity: str) -> Invoice | None:
    """Number and store the draft; None where it is no longer all that there is to invoice."""
    chains = tables.chains
    lock = select(chains.c.sequence).where(chains.c.tenant == made.tenant).with_for_update()
    newest = connection.execute(lock).scalar_one()
    if _covered(connection, made.tenant) != (made.first, made.earlier):
        return None
    if not made.interim and _last(connection, made.tenant, made.first, newest, bounds(made.period)[1]) != made.last:
        return None
    if connection.dialect.name == "postgresql":  # numbers have no gaps, so they are given one at a time
        connection.execute(text("LOCK TABLE invoices IN SHARE ROW EXCLUSIVE MODE"))
    count = connection.execute(select(func.count()).select_from(tables.invoices)).scalar_one()
    invoice = _numbered(made, f"INV-{count + 1:06d}")
    if made.fee is not None:
        keep_terms(connection, made.fee, made.at)
    row = {k: getattr(invoice, k) for k in tables.invoices.c.keys() if k != "id"}  # noqa: SIM118 - a collection of columns
    connection.execute(insert(tables.invoices).values(id=identity, **row))
    connection.execute(insert(tables.postings), _postings(made, invoice, identity))
    return invoice


def _numbered(made: _Draft, number: str) -> Invoice:
    lines = tuple(replace(line, id=f"{number}/{i}") for i, line in enumerate(made.lines, start=1))
    invoice = Invoice(
        number=number,
        tenant=made.tenant,
        period=made.period,
        interim=made.interim,
        currency=made.currency,
        total_nano=sum(line.amount_nano for line in lines),
        first_sequence=made.first,
        last_sequence=made.last,
        at=made.at,
        lines=lines,
        body="",
        state="draft" if number == DRAFT else "final",
        due_nano=sum(line.amount_nano for line in lines),
    )
    values = asdict(invoice) | {"total": invoice.total}
    del values["body"]
    return replace(invoice, body=canonical(values).decode())


def _postings(made: _Draft, invoice: Invoice, identity: str) -> Sequence[dict[str, Any]]:
    """What was owed request by request becomes owed by invoice; the fee and the rounding are added. Sums to 0."""
    fee = made.fee.monthly_nano if made.fee else 0
    sides = {
        invoiced(made.tenant): invoice.total_nano,
        receivable(made.tenant): -made.stored_nano,
        FEES: -fee,
        ROUNDING: -(invoice.total_nano - made.stored_nano - fee),
    }
    shared = {"entry": identity, "currency": made.currency, "at": made.at}
    return [shared | {"account": account, "amount_nano": amount} for account, amount in sides.items()]
