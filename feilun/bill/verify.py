"""Does every account agree? The ledger with itself, and each invoice with the ledger (RELIABILITY I1, I2, I3, I5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, select

from feilun.accounts.terms import Terms
from feilun.bill.bookings import FEES, ROUNDING, invoiced
from feilun.bill.invoices import Invoice, parse
from feilun.bill.rating import Line
from feilun.bill.reading import rate_range, snapshot
from feilun.errors import ConflictError
from feilun.store import audit, tables
from feilun.store.database import Database
from feilun.store.ledger import receivable
from feilun.store.money import round_to_minor
from feilun.store.periods import period_of

_WORDS = ("id", "description", "arithmetic", "query")  # how a line is told, not what it charges


@dataclass(frozen=True)
class Problem:
    """One disagreement: ``name`` is stable, for programs; ``where`` names tenant and row, or the invoice."""

    name: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.name} at {self.where}: {self.what}"


@dataclass(frozen=True)
class Verification:
    """How much was checked and what is wrong with it."""

    rows: int
    invoices: int
    problems: tuple[Problem, ...]

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return asdict(self) | {"holds": self.holds}


def verify(database: Database) -> Verification:
    """Check everything again from the rows themselves; it takes time in proportion to the ledger.

    The hash chains, a posted request and two postings for each usage row, postings that sum to 0, counters; what each
    row was charged by the terms that it names; numbers and ranges of invoices without gaps; each invoice's lines,
    total and postings.
    """
    with snapshot(database) as connection:
        found = [Problem("ledger", _place(p), p.what) for p in audit.verify(connection)]
        stored = connection.execute(
            select(tables.invoices).order_by(func.length(tables.invoices.c.number), tables.invoices.c.number)
        ).all()
        found += _numbers([row.number for row in stored])
        for tenant, newest in connection.execute(select(tables.chains.c.tenant, tables.chains.c.sequence)).all():
            found += _tenant(connection, tenant, newest, [row for row in stored if row.tenant == tenant])
        rows = connection.execute(select(func.count()).select_from(tables.usage)).scalar_one()
    return Verification(rows, len(stored), tuple(found))


def _place(problem: audit.Problem) -> str:
    row = "" if problem.sequence is None else f" row {problem.sequence}"
    request = "" if problem.request is None else f" ({problem.request})"
    return f"{problem.tenant}{row}{request}"


def _numbers(numbers: Sequence[str]) -> Iterator[Problem]:
    for i, number in enumerate(numbers, start=1):
        if number != f"INV-{i:06d}":
            yield Problem("invoice-number", number, f"INV-{i:06d} was expected here: numbers have no gaps")
            return


def _tenant(connection: Connection, tenant: str, newest: int, stored: Sequence[Row[Any]]) -> Iterator[Problem]:
    following = 1
    for row in stored:
        invoice = parse(row.body)
        if any(getattr(row, name) != getattr(invoice, name) for name in _COLUMNS):
            yield Problem("invoice-columns", row.number, "its columns are not what its body says")
        if row.first_sequence != following:
            yield Problem("invoice-range", row.number, f"row {following} was expected to be its first")
        following = row.last_sequence + 1
        yield from _invoice(connection, row.id, invoice)
    if following <= newest:
        at = select(tables.usage.c.at).where(tables.usage.c.tenant == tenant, tables.usage.c.sequence == following)
        yield from _rate(connection, tenant, period_of(connection.execute(at).scalar() or 0), following, newest)[1]


_COLUMNS = ("number", "tenant", "period", "currency", "total_nano", "first_sequence", "last_sequence", "at")


def _invoice(connection: Connection, entry: str, invoice: Invoice) -> Iterator[Problem]:
    fees = [line for line in invoice.lines if line.kind == "fee"]
    usage = [line for line in invoice.lines if line.kind != "fee"]
    if sum(line.amount_nano for line in invoice.lines) != invoice.total_nano:
        yield Problem("invoice-total", invoice.number, "its lines do not sum to its total")
    for line in fees:
        terms = connection.execute(
            select(tables.prices.c.terms).where(tables.prices.c.version == line.price_version)
        ).scalar()
        if terms is None or Terms.from_json(terms).monthly_nano != line.exact_nano:
            yield Problem("invoice-fee", line.id, "the fee is not that of its price version")
        if round_to_minor(line.exact_nano, invoice.currency) != line.amount_nano:
            yield Problem("invoice-fee", line.id, "the fee is rounded wrongly")
    span = (invoice.first_sequence, invoice.last_sequence)
    rated, problems = _rate(connection, invoice.tenant, invoice.period, *span)
    yield from problems
    if rated is None:
        return
    lines, exact = rated
    if [_charged(line) for line in lines] != [_charged(line) for line in usage]:
        yield Problem("invoice-lines", invoice.number, "rated again, the ledger gives other lines")
    fee = sum(line.exact_nano for line in fees)
    expected = {
        invoiced(invoice.tenant): invoice.total_nano,
        receivable(invoice.tenant): -exact,
        FEES: -fee,
        ROUNDING: exact + fee - invoice.total_nano,
    }
    postings = tables.postings.c
    found = connection.execute(
        select(postings.account, postings.amount_nano).where(
            postings.entry == entry, postings.currency == invoice.currency
        )
    )
    if {account: amount for account, amount in found} != expected:  # noqa: C416 - rows are not tuples to mypy
        yield Problem("invoice-postings", invoice.number, "its postings are not its amounts")


def _rate(
    connection: Connection, tenant: str, period: str, first: int, last: int
) -> tuple[tuple[list[Line], int] | None, list[Problem]]:
    try:
        rated = rate_range(connection, tenant, period, (first, last))
    except ConflictError as error:
        return None, [Problem(error.name, error.where or tenant, error.what)]
    wrong = [
        Problem(
            "amount", f"{tenant} row {m.sequence} ({m.request})", f"charged {m.stored_nano}, terms give {m.rated_nano}"
        )
        for m in rated.mismatches
    ]
    return (rated.lines, rated.stored_nano), wrong


def _charged(line: Line) -> dict[str, Any]:
    return {name: value for name, value in asdict(line).items() if name not in _WORDS}
