"""The ledger as rating needs it: rows in order, each checked against the chain, and the terms that they name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from sqlalchemy import Connection, func, select, text

from feilun.accounts.terms import METERS, Counts, Terms
from feilun.bill.queries import units_sql
from feilun.bill.rating import Rated, UsageRow, Window, rate
from feilun.errors import ConflictError
from feilun.store import ledger, tables
from feilun.store.database import Database
from feilun.store.periods import bounds, period_of

BATCH = 5_000  # rows in memory at once


@contextlib.contextmanager
def snapshot(database: Database) -> Iterator[Connection]:
    """A connection whose queries all see the same moment, so that figures from several of them agree under load.

    A SQLite transaction does that by itself; PostgreSQL's default shows each query what was committed before it. Where
    SQLite has no write-ahead log (see ``feilun.store.database``), writers wait until such a reader is done.
    """
    with database.read() as connection:
        if not database.is_sqlite:
            connection.execution_options(isolation_level="REPEATABLE READ")
        yield connection


def rate_range(
    connection: Connection, tenant: str, period: str, span: tuple[int, int], trial: Sequence[Window] = ()
) -> Rated:
    """Rate a tenant's rows from the first to the last of ``span``, both included, for an invoice of ``period``.

    Args:
        trial: see ``rate``.

    Raises:
        ConflictError: a row is missing or was changed, or names terms that are not there.
    """
    usage = tables.usage.c
    first, last = span
    covered = (usage.tenant == tenant) & usage.sequence.between(first, last)
    earliest, latest = connection.execute(select(func.min(usage.at), func.max(usage.at)).where(covered)).one()
    versions = set(connection.execute(select(usage.price_version).where(covered).distinct()).scalars())
    terms = terms_of(connection, versions)
    priced = {meter for each in terms.values() for meter in each.rates.meters}
    before = {}
    if earliest is not None and first > 1:
        before = {m: _before(connection, tenant, first, m, priced) for m in _months(earliest, latest)}
    rows = _chained(connection, tenant, first, last)
    return rate(rows, terms, before, tenant, period, trial=trial, dialect=connection.dialect.name)


def _chained(connection: Connection, tenant: str, first: int, last: int) -> Iterator[UsageRow]:
    """The rows in order; stops with an error at the first that does not follow from the one before."""
    usage = tables.usage.c
    expected = ledger.GENESIS
    if first > 1:
        previous = (usage.tenant == tenant) & (usage.sequence == first - 1)
        expected = connection.execute(select(usage.hash).where(previous)).scalar() or ""
    mine = (usage.tenant == tenant) & usage.sequence.between(first, last)
    query = select(tables.usage).where(mine).order_by(usage.sequence).execution_options(yield_per=BATCH)
    sequence = first
    with connection.execute(query) as found:  # a server-side cursor must be closed, also where we stop half-way
        for row in found.mappings():
            if row["sequence"] != sequence or row["previous"] != expected or ledger.row_hash(dict(row)) != row["hash"]:
                raise _broken(tenant, sequence)
            yield UsageRow(*(row[name] for name in UsageRow._fields))
            sequence, expected = sequence + 1, row["hash"]
    if sequence != last + 1:
        raise _broken(tenant, sequence)


def _broken(tenant: str, sequence: int) -> ConflictError:
    return ConflictError(
        "the ledger was changed behind our back: this row is missing or not what its hash says",
        where=f"usage of tenant '{tenant}', sequence {sequence}",
        hint="see all that is wrong with: feilun bill --verify; then restore a backup",
        code="ledger-broken",
    )


def terms_of(connection: Connection, versions: Iterable[str]) -> Mapping[str, Terms]:
    """The terms behind price versions.

    Raises:
        ConflictError: some are missing, or are not what their version says.
    """
    prices, wanted = tables.prices.c, set(versions)
    found = connection.execute(select(prices.version, prices.terms).where(prices.version.in_(wanted)))
    terms = {version: Terms.from_json(text) for version, text in found}
    for version in sorted(wanted):
        if version not in terms or terms[version].version != version:
            raise ConflictError(
                f"the terms of price version {version[:12]} are missing or were changed",
                where="table prices",
                hint="restore a backup",
                code="ledger-broken",
            )
    return terms


def _months(earliest: int, latest: int) -> list[str]:
    months = [period_of(earliest)]
    while months[-1] < period_of(latest):
        months.append(period_of(bounds(months[-1])[1]))
    return months


def _before(connection: Connection, tenant: str, first: int, month: str, meters: Iterable[str]) -> Counts:
    """What a tenant used in a month before its row ``first``, of the meters that are asked for."""
    begins, ends = bounds(month)
    dialect = connection.dialect.name
    wanted = sorted({*METERS, *meters})
    sums = ", ".join(f"SUM({units_sql(meter, dialect)})" for meter in wanted)
    query = text(f"SELECT {sums} FROM usage WHERE tenant = :t AND sequence < :first AND at >= :begins AND at < :ends")
    found = connection.execute(query, {"t": tenant, "first": first, "begins": begins, "ends": ends}).one()
    return Counts(**{meter: int(units or 0) for meter, units in zip(wanted, found, strict=True)})
