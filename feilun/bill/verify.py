"""Does every account agree? The ledger with itself, and each invoice with the ledger (RELIABILITY I1, I2, I3, I5).

Every period is rated again from rows alone: usage, events, plans, announced prices, coupons and credits as they were
known when its invoice was made. Nothing is asked of the project file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from sqlalchemy import Connection, Row, func, select, text

from feilun.bill import credit_checks
from feilun.bill.bookings import booked
from feilun.bill.charging import Charged, Known, Scope, charge
from feilun.bill.coupons import of_tenant as coupons_of
from feilun.bill.coupons import percent_of
from feilun.bill.credit_checks import Problem, guarded
from feilun.bill.event_lines import Meter
from feilun.bill.history import read as read_history
from feilun.bill.invoices import Invoice, parse
from feilun.bill.rating import Line
from feilun.bill.reading import rate_range, snapshot, terms_of
from feilun.errors import ConflictError, SettingError
from feilun.store import audit, event_audit, seals, tables
from feilun.store.database import Database
from feilun.store.money import round_to_minor
from feilun.store.periods import period_of

_WORDS = ("id", "description", "arithmetic", "query", "words")  # how a line is told, not what it charges
NOT_INVOICED = "events-not-invoiced"  # closing mends it: the next invoice has them
_EVENTS = 2  # the migration that brought events: an invoice from after it says which of them it covers
_AFTER = ("tax", "credit")  # lines that follow from all others
_COLUMNS = (
    *("number", "tenant", "period", "currency", "total_nano", "first_sequence", "last_sequence", "at"),
    *("first_event", "last_event"),
)


@dataclass(frozen=True)
class Verification:
    """How much was checked and what is wrong with it; ``compared`` is what another service's books say of it."""

    rows: int
    invoices: int
    problems: tuple[Problem, ...]
    events: int = 0
    credit_notes: int = 0
    compared: Mapping[str, Any] | None = None
    seal: str = ""  # NUMBER:HASH of the newest seal: noted elsewhere, it proves later that nothing was removed

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def hindrances(self) -> tuple[Problem, ...]:
        """The problems that nothing must be closed with; closing mends the others."""
        return tuple(problem for problem in self.problems if problem.name != NOT_INVOICED)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return asdict(self) | {"holds": self.holds}


class Comparison(Protocol):
    """What a payment service has of our invoices."""

    @property
    def problems(self) -> tuple[str, ...]:
        """Each thing that is wrong."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""


def verify(
    database: Database, compare: Callable[[], Comparison] | None = None, noted: seals.Seal | None = None
) -> Verification:
    """Check everything again from the rows themselves; it takes time in proportion to the ledger.

    The hash chains of usage and of events, a posted request and two postings for each usage row, postings that sum to
    0, counters; what each row was charged by the terms that it names; numbers and ranges of invoices without gaps;
    each invoice's lines, total, credits and postings; credit notes; what is left of credits; that no row of money was
    changed, put in or removed since it was sealed. A row that cannot be read is a problem like any other.

    Args:
        compare: asks a payment service what it has of our invoices.
        noted: a seal that was noted elsewhere: it must still be there.
    """
    with snapshot(database) as connection:
        found = [Problem("ledger", _place(p), p.what) for p in audit.verify(connection)]
        found += guarded("events", _events(connection))
        found += [Problem("seal", p.where, p.what) for p in seals.verify(connection)]
        newest_seal = seals.newest(connection)
        if noted is not None and (gone := seals.noted(connection, noted)) is not None:
            found.append(Problem("seal", gone.where, gone.what))
        stored = connection.execute(
            select(tables.invoices).order_by(func.length(tables.invoices.c.number), tables.invoices.c.number)
        ).all()
        found += _numbers([row.number for row in stored])
        parsed: dict[str, Invoice] = {}
        for row in stored:
            found += guarded(row.number, _parsed(connection, row, parsed))
        for tenant, newest in _newest(connection):
            mine = [row for row in stored if row.tenant == tenant]
            found += guarded(tenant, _tenant(connection, tenant, newest, mine, parsed))
        found += guarded("credits", credit_checks.grants(connection))
        found += guarded("credit notes", credit_checks.notes(connection, parsed))
        counts = [
            connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in (tables.usage, tables.events, tables.credit_notes)
        ]
    compared = compare() if compare is not None else None
    found += [Problem("payments", "the payment service", what) for what in (compared.problems if compared else ())]
    told = compared.as_dict() if compared else None
    return Verification(counts[0], len(stored), tuple(found), counts[1], counts[2], told, str(newest_seal))


def _events(connection: Connection) -> Iterator[Problem]:
    yield from (Problem("events", _place(p), p.what) for p in event_audit.verify(connection))


def _newest(connection: Connection) -> list[tuple[str, int]]:
    """Each tenant and its last usage row, by the rows: whether its chain says the same is asked elsewhere."""
    tenants, usage = tables.tenants.c, tables.usage.c
    last = select(func.coalesce(func.max(usage.sequence), 0)).where(usage.tenant == tenants.id).scalar_subquery()
    return [(tenant, newest) for tenant, newest in connection.execute(select(tenants.id, last).order_by(tenants.id))]


def _parsed(connection: Connection, row: Row[Any], parsed: dict[str, Invoice]) -> Iterator[Problem]:
    """Read an invoice into ``parsed``; one from after there were events must say which of them it covers."""
    parsed[row.id] = parse(row.body)
    if row.first_event is None or parsed[row.id].first_event is None:
        since = connection.execute(text("SELECT at FROM migrations WHERE number = :n"), {"n": _EVENTS}).scalar()
        if since is None or row.at > since:
            yield Problem("invoice-form", row.number, "it does not say which events it covers, as only old ones may")


def _place(problem: audit.Problem) -> str:
    row = "" if problem.sequence is None else f" row {problem.sequence}"
    request = "" if problem.request is None else f" ({problem.request})"
    return f"{problem.tenant}{row}{request}"


def _numbers(numbers: Sequence[str]) -> Iterator[Problem]:
    for i, number in enumerate(numbers, start=1):
        if number != f"INV-{i:06d}":
            yield Problem("invoice-number", number, f"INV-{i:06d} was expected here: numbers have no gaps")
            return


def _tenant(
    connection: Connection, tenant: str, newest: int, stored: Sequence[Row[Any]], parsed: Mapping[str, Invoice]
) -> Iterator[Problem]:
    following = 1
    earlier: list[Invoice] = []
    for row in stored:
        if row.first_sequence != following:
            yield Problem("invoice-range", row.number, f"row {following} was expected to be its first")
        following = row.last_sequence + 1
        if (invoice := parsed.get(row.id)) is None:
            continue
        if any(getattr(row, name) != getattr(invoice, name) for name in _COLUMNS):
            yield Problem("invoice-columns", row.number, "its columns are not what its body says")
        yield from guarded(row.number, _invoice(connection, row.id, invoice, tuple(earlier)))
        earlier.append(invoice)
    yield from _not_invoiced(connection, tenant, tuple(earlier))
    if following <= newest:
        at = select(tables.usage.c.at).where(tables.usage.c.tenant == tenant, tables.usage.c.sequence == following)
        period = period_of(connection.execute(at).scalar() or 0)
        try:
            rated = rate_range(connection, tenant, period, (following, newest))
        except ConflictError as error:
            yield Problem(error.name, error.where or tenant, error.what)
            return
        yield from _mismatches(tenant, Charged(mismatches=rated.mismatches))


def _not_invoiced(connection: Connection, tenant: str, invoices: tuple[Invoice, ...]) -> Iterator[Problem]:
    """Events that were there when the tenant's newest final invoice was made, of months before it, that none covers."""
    closed = [invoice for invoice in invoices if not invoice.interim and invoice.last_event]
    if not closed:
        return
    newest = max(closed, key=lambda invoice: invoice.period)
    last = newest.last_event or 0
    try:
        plans = read_history(connection, tenant, as_of=newest.at)
        priced = {plan: plans.schedules[plan].entries for _, plan in plans.assignments if plan in plans.schedules}
        meters = {meter: Meter("", aggregate) for meter, aggregate in newest.aggregates.items()}
        known = Known(tenant, newest.period, True, plans, meters, invoices, ())
        for currency in sorted({terms.currency for entries in priced.values() for _, terms in entries}):
            if known.covered(known.period, currency) >= last:
                continue
            for line in charge(connection, known, Scope(currency, 1, 0, last, fees=False)).lines:
                if line.kind in ("event", "gauge", "included") and line.period < known.period:
                    what = f"{line.units:,} units of meter '{line.meter}' of {line.period} are in no invoice"
                    yield Problem(NOT_INVOICED, f"{tenant} events {line.first_sequence} to {last}", what)
    except (ConflictError, SettingError) as error:
        yield Problem(error.name, error.where or tenant, error.what)


def _invoice(connection: Connection, entry: str, invoice: Invoice, earlier: tuple[Invoice, ...]) -> Iterator[Problem]:
    total = sum(line.amount_nano for line in invoice.lines if line.kind != "credit")
    credit = sum(line.amount_nano for line in invoice.lines if line.kind == "credit")
    if (total, credit, total + credit) != (invoice.total_nano, invoice.credits_nano, invoice.due_nano):
        yield Problem("invoice-total", invoice.number, "its lines do not sum to its total")
    yield from _derived(invoice)
    try:
        charged = _again(connection, invoice, earlier)
    except (ConflictError, SettingError) as error:
        yield Problem(error.name, error.where or invoice.number, error.what)
        return
    yield from _mismatches(invoice.tenant, charged)
    again = [_charged(line) for line in charged.lines]
    if again != [_charged(line) for line in invoice.lines if line.kind not in _AFTER]:
        yield Problem("invoice-lines", invoice.number, "rated again, the ledger gives other lines")
    yield from _postings(connection, entry, invoice, charged)
    yield from credit_checks.uses(connection, entry, invoice)


def _again(connection: Connection, invoice: Invoice, earlier: tuple[Invoice, ...]) -> Charged:
    """What the invoice charges, from the rows."""
    span = (invoice.first_sequence, invoice.last_sequence)
    if invoice.first_event is None:  # from before there were events: usage, and whole fees of the terms they name
        rated = rate_range(connection, invoice.tenant, invoice.period, span)
        fees = [line for line in invoice.lines if line.kind == "fee"]
        terms = terms_of(connection, {line.price_version for line in fees})
        again = [_refee(line, terms[line.price_version].monthly_nano, invoice.currency) for line in fees]
        return Charged([*again, *rated.lines], rated.mismatches, rated.stored_nano, rated.rows)
    known = Known(
        tenant=invoice.tenant,
        period=invoice.period,
        final=not invoice.interim,
        history=read_history(connection, invoice.tenant, as_of=invoice.at),
        meters={meter: Meter("", aggregate) for meter, aggregate in invoice.aggregates.items()},
        earlier=earlier,
        coupons=tuple(coupons_of(connection, invoice.tenant, invoice.at)),
    )
    own = [line for line in invoice.lines if line.period == invoice.period]
    due = any(line.kind in ("fee", "unused", "minimum") or "part" in line.words for line in own)
    scope = Scope(invoice.currency, *span, invoice.last_event or 0, due, all=not invoice.partial)
    return charge(connection, known, scope)


def _refee(line: Line, monthly_nano: int, currency: str) -> Line:
    amount = round_to_minor(monthly_nano, currency)
    return replace(line, unit_nano=monthly_nano, exact_nano=monthly_nano, amount_nano=amount)


def _derived(invoice: Invoice) -> Iterator[Problem]:
    """Taxes are what their percent gives of all lines before them; no line but the first is rounded otherwise."""
    base = sum(line.amount_nano for line in invoice.lines if line.kind not in _AFTER)
    for line in invoice.lines:
        if line.kind == "tax":
            exact = 0 if line.words.get("reverse") else percent_of(base, str(line.words["percent"]))
            if line.words["base_nano"] != base or line.exact_nano != exact:
                yield Problem("invoice-tax", line.id, "the tax is not its percent of the lines before it")
        if round_to_minor(line.exact_nano, invoice.currency) != line.amount_nano:
            yield Problem("invoice-rounding", line.id, "the amount is not the exact one, rounded once")


def _postings(connection: Connection, entry: str, invoice: Invoice, charged: Charged) -> Iterator[Problem]:
    found = credit_checks.sides_of(connection, entry, invoice.currency)
    if found != booked(invoice, charged.stored_nano):
        yield Problem("invoice-postings", invoice.number, "its postings are not its amounts")


def _mismatches(tenant: str, charged: Charged) -> Iterator[Problem]:
    for m in charged.mismatches:
        what = f"charged {m.stored_nano}, terms give {m.rated_nano}"
        yield Problem("amount", f"{tenant} row {m.sequence} ({m.request})", what)


def _charged(line: Line) -> dict[str, Any]:
    return {name: value for name, value in asdict(line).items() if name not in _WORDS}
