"""Proving the ledger: recompute its hash chains, its postings and its counters from the rows themselves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from feilun.store import tables
from feilun.store.counts import Counts
from feilun.store.ledger import GENESIS, REVENUE, receivable, row_hash
from feilun.store.periods import period_of

# What reading a row raises whose JSON, numbers or names are not such as this program writes.
UNREADABLE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


@dataclass(frozen=True)
class Problem:
    """The first bad thing in one tenant's ledger; ``sequence`` and ``request`` name the row where there is one."""

    tenant: str
    sequence: int | None
    request: str | None
    what: str

    def __str__(self) -> str:
        row = "" if self.sequence is None else f" row {self.sequence} (request {self.request})"
        return f"{self.tenant}{row}: {self.what}"


def verify(connection: Connection, tenant: str | None = None) -> list[Problem]:
    """Check one tenant's ledger, or all; an empty list means that it holds.

    Each usage row must carry the hash of what it says and of the row before it, follow it without a gap, belong to a
    posted request, and have two postings of its amount that sum to 0; each posted request must have a usage row; each
    posting must have its entry; counters and open holds must be what the rows give.
    """
    known, stored = tables.tenants, tables.chains
    columns = [column for column in stored.columns if column.name != "tenant"]
    chains = select(known.c.id.label("tenant"), *columns).outerjoin(stored, stored.c.tenant == known.c.id)
    if tenant is not None:
        chains = chains.where(known.c.id == tenant)
    problems: list[Problem] = []
    for chain in connection.execute(chains.order_by(known.c.id)).all():
        try:
            problems += _tenant(connection, chain)
        except UNREADABLE as error:
            problems.append(Problem(chain.tenant, None, None, unreadable(error)))
    return problems if tenant is not None else problems + _strays(connection)


def unreadable(error: Exception) -> str:
    """What is said of a row that is not what this program could have written."""
    return f"a row cannot be read ({type(error).__name__}: {str(error)[:120]})"


def rebuild(connection: Connection, tenant: str) -> None:
    """Write a tenant's counters and open holds anew from its rows."""
    connection.execute(select(tables.chains).where(tables.chains.c.tenant == tenant).with_for_update()).one()
    totals, newest = _totals(connection, tenant)
    connection.execute(tables.counters.delete().where(tables.counters.c.tenant == tenant))
    for period, (counts, spent) in totals.items():
        row = {"tenant": tenant, "period": period, "spent_nano": spent, **counts.columns()}
        connection.execute(insert(tables.counters).values(row))
    held = {f"held_{name}": value for name, value in _open_holds(connection, tenant).columns().items()}
    change = update(tables.chains).where(tables.chains.c.tenant == tenant)
    connection.execute(change.values(**held, **newest, due_nano=_due(connection, tenant)))
    _rebuild_keys(connection, tenant)


def _tenant(connection: Connection, chain: Any) -> Iterator[Problem]:
    tenant = chain.tenant
    bad = next(_bad_rows(connection, tenant), None)
    if bad is not None:
        yield bad
        return
    if chain.sequence is None:
        yield Problem(tenant, None, None, "the tenant has no row in the table of chains")
        return
    totals, newest = _totals(connection, tenant)
    if (chain.sequence, chain.hash) != (newest["sequence"], newest["hash"]):
        yield Problem(tenant, newest["sequence"] + 1, None, "rows are missing from the end of the chain")
    table = tables.counters
    rows = connection.execute(select(table).where(table.c.tenant == tenant)).all()
    stored = {r.period: (Counts.of(r.requests, r.inputs, r.tokens, r.more), r.spent_nano) for r in rows}
    if stored != totals:
        wrong = min({p for p in stored.keys() | totals.keys() if stored.get(p) != totals.get(p)})
        yield Problem(tenant, None, None, f"the counters of {wrong} are not the sum of its rows (rebuild them)")
    held = Counts.of(chain.held_requests, chain.held_inputs, chain.held_tokens, chain.held_more)
    if held != _open_holds(connection, tenant):
        yield Problem(tenant, None, None, "the open holds are not those of its requests (rebuild them)")
    if chain.due_nano != _due(connection, tenant):
        yield Problem(tenant, None, None, "what is due is not the sum of the rows that no invoice covers (rebuild it)")
    wrong_keys = _by_key(connection, tenant).items() ^ _stored_by_key(connection, tenant).items()
    if wrong_keys:
        key, period = min(place for place, _ in wrong_keys)
        yield Problem(tenant, None, None, f"the counters of key {key} in {period} are not the sum of its rows")


def _bad_rows(connection: Connection, tenant: str) -> Iterator[Problem]:
    usage, requests, postings = tables.usage, tables.requests, tables.postings
    posted: dict[str, dict[tuple[str, str], int]] = defaultdict(dict)
    times: dict[str, set[int]] = defaultdict(set)
    mine = select(postings).join(usage, usage.c.request == postings.c.entry).where(usage.c.tenant == tenant)
    for row in connection.execute(mine):
        posted[row.entry][(row.account, row.currency)] = row.amount_nano
        times[row.entry].add(row.at)
    query = select(usage, requests.c.state, requests.c.tenant.label("asked_by")).outerjoin(
        requests, requests.c.id == usage.c.request
    )
    previous, at = GENESIS, 0
    rows = connection.execute(query.where(usage.c.tenant == tenant).order_by(usage.c.sequence))
    for sequence, row in enumerate(rows, start=1):
        said = {column.name: getattr(row, column.name) for column in usage.columns}
        sides = {(receivable(tenant), row.currency): row.amount_nano, (REVENUE, row.currency): -row.amount_nano}
        checks = {
            "a row is missing before it": row.sequence == sequence,
            "it does not follow the row before it": row.previous == previous,
            "its hash is not of what it says": row.hash == row_hash(said),
            "it is earlier than the row before it": row.at >= at,
            "its request is not posted": row.state == "posted" and row.asked_by == tenant,
            "its postings are not its amount": posted.get(row.request) == sides,
            "its postings are of another time": times[row.request] <= {row.at},
        }
        for what, holds in checks.items():
            if not holds:
                yield Problem(tenant, row.sequence, row.request, what)
        previous, at = row.hash, row.at


def _strays(connection: Connection) -> list[Problem]:
    usage, requests, postings, invoices = tables.usage, tables.requests, tables.postings, tables.invoices
    unbilled = select(requests.c.tenant, requests.c.id).outerjoin(usage, usage.c.request == requests.c.id)
    found = [
        Problem(row.tenant, None, row.id, "a posted request has no usage row")
        for row in connection.execute(unbilled.where(requests.c.state == "posted", usage.c.request.is_(None)))
    ]
    others = (tables.grants, tables.grant_uses, tables.credit_notes)
    known = select(usage.c.request).union(select(invoices.c.id), *(select(table.c.id) for table in others))
    stray = select(postings.c.entry).where(postings.c.entry.not_in(known)).distinct()
    found += [Problem("?", None, e, "a posting has no entry") for e in connection.execute(stray).scalars()]
    for table in (invoices, *others):
        moved = select(postings.c.entry).join(table, table.c.id == postings.c.entry).where(postings.c.at != table.c.at)
        entries = connection.execute(moved.distinct()).scalars()
        found += [Problem("?", None, e, f"postings of {table.name} are of another time") for e in entries]
    sums = select(postings.c.currency, func.sum(postings.c.amount_nano).label("total")).group_by(postings.c.currency)
    found += [
        Problem("?", None, None, f"the postings in {row.currency} sum to {row.total}, not to 0")
        for row in connection.execute(sums)
        if int(row.total) != 0
    ]
    return found


def _totals(connection: Connection, tenant: str) -> tuple[dict[str, tuple[Counts, int]], dict[str, Any]]:
    """Each period's counts and spend, and the newest row, from the usage rows."""
    usage = tables.usage
    totals: dict[str, tuple[Counts, int]] = {}
    newest = {"sequence": 0, "hash": GENESIS, "at": 0}
    for row in connection.execute(select(usage).where(usage.c.tenant == tenant).order_by(usage.c.sequence)):
        counts, spent = totals.get(period_of(row.at), (Counts(), 0))
        units = Counts.of(1, row.inputs, row.tokens, row.more)
        totals[period_of(row.at)] = (counts.plus(units), spent + row.amount_nano)
        newest = {"sequence": row.sequence, "hash": row.hash, "at": row.at}
    return totals, newest


def _open_holds(connection: Connection, tenant: str) -> Counts:
    table = tables.requests
    columns = (table.c.held_inputs, table.c.held_tokens, table.c.held_more)
    rows = connection.execute(select(*columns).where(table.c.tenant == tenant, table.c.state == "held"))
    held = Counts()
    for row in rows:
        held = held.plus(Counts.of(1, *row))
    return held


def _due(connection: Connection, tenant: str) -> int:
    """Exact amounts of the usage rows that no invoice covers yet."""
    usage, invoices = tables.usage.c, tables.invoices.c
    covered = (
        connection.execute(select(func.max(invoices.last_sequence)).where(invoices.tenant == tenant)).scalar() or 0
    )
    due = select(func.sum(usage.amount_nano)).where(usage.tenant == tenant, usage.sequence > covered)
    return int(connection.execute(due).scalar() or 0)


def _by_key(connection: Connection, tenant: str) -> dict[tuple[str, str], tuple[Counts, int]]:
    """Each key's counts and spend in each period, from the usage rows."""
    usage = tables.usage.c
    found: dict[tuple[str, str], tuple[Counts, int]] = {}
    columns = (usage.key, usage.at, usage.inputs, usage.tokens, usage.more, usage.amount_nano)
    for key, at, inputs, tokens, more, amount in connection.execute(select(*columns).where(usage.tenant == tenant)):
        counts, spent = found.get((key, period_of(at)), (Counts(), 0))
        found[key, period_of(at)] = (counts.plus(Counts.of(1, inputs, tokens, more)), spent + amount)
    return found


def _stored_by_key(connection: Connection, tenant: str) -> dict[tuple[str, str], tuple[Counts, int]]:
    counters = tables.key_counters.c
    mine = select(tables.key_counters).where(
        counters.key.in_(select(tables.usage.c.key).where(tables.usage.c.tenant == tenant).distinct())
    )
    return {
        (row.key, row.period): (Counts.of(row.requests, row.inputs, row.tokens, row.more), row.spent_nano)
        for row in connection.execute(mine)
    }


def _rebuild_keys(connection: Connection, tenant: str) -> None:
    found = _by_key(connection, tenant)
    table = tables.key_counters
    connection.execute(table.delete().where(table.c.key.in_({key for key, _ in found})))
    for (key, period), (counts, spent) in found.items():
        connection.execute(insert(table).values(key=key, period=period, spent_nano=spent, **counts.columns()))
