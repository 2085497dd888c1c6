"""The ledger: holds before work, usage rows and postings after it, and what keeps them from lying.

A request is held (its idempotency row, durable before any work), then captured or released. Capture writes the usage
row in the tenant's hash chain, two postings that sum to 0, the counters and the stored answer, all in the caller's one
transaction. Every function here first locks the tenant's row in ``chains``, so that a tenant's ledger has one order.

Budgets are exact under concurrency: a request is admitted only if the month's spend would stay within the budget were
all open holds captured. Holds are counted in units, not in money, because what one request costs depends on how many
came before it. Times are the database's and never go backwards within a tenant, whatever its clock does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from sqlalchemy import Connection, Row, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from feilun.errors import AccessError, ConflictError, QuotaError, SettingError
from feilun.store import tables
from feilun.store.artifacts import canonical
from feilun.store.counts import Counts
from feilun.store.database import now_us

GENESIS = "0" * 64  # the hash before a tenant's first row


class Pricing(Protocol):
    """What the ledger needs of a plan's terms (``feilun.accounts.terms.Terms``)."""

    @property
    def currency(self) -> str:
        """ISO 4217."""

    @property
    def version(self) -> str:
        """Digest of the terms."""

    def as_json(self) -> str:
        """The terms themselves, kept once for each version so that any row can be rated again."""

    def amount(self, before: Counts, after: Counts) -> int:
        """What it costs, in nano-units, to go from the month's counts ``before`` to ``after``."""


Plans = Callable[[str], Pricing]


@dataclass(frozen=True)
class Ask:
    """What a request needs before it may run."""

    request: str  # its id, a ULID
    tenant: str
    idempotency_key: str
    body_sha256: str
    units: Counts
    lease_s: float


@dataclass(frozen=True)
class Hold:
    """The right to work on a request until the lease ends; ``holder`` is a fencing token, a later one differs."""

    request: str
    tenant: str
    holder: str


@dataclass(frozen=True)
class Replay:
    """The stored answer of a request that was captured before."""

    request: str
    status: int
    body: bytes


@dataclass(frozen=True)
class Busy:
    """Another worker holds the request; ``retry_after`` is in seconds."""

    retry_after: int


@dataclass(frozen=True)
class Done:
    """What was done for a held request."""

    key: str
    release: str
    route: str
    units: Counts
    compute_ns: int
    inputs: str | None = None  # canonical JSON: the keyed digest of each input's text


@dataclass(frozen=True)
class Charge:
    """The usage row that capture wrote."""

    request: str
    amount_nano: int
    currency: str
    sequence: int
    at: int


def hold(connection: Connection, ask: Ask, plans: Plans, holder: str) -> Hold | Replay | Busy:
    """Admit a request, find its stored answer, or find that somebody works on it.

    Raises:
        QuotaError: the tenant's budget for the month does not cover it.
        SettingError: the idempotency key was used with another body (422).
        AccessError: the tenant is not active.
    """
    chain = _lock(connection, ask.tenant)
    now = _time(connection, chain)
    table = tables.requests
    same = (table.c.tenant == ask.tenant) & (table.c.idempotency_key == ask.idempotency_key)
    row = connection.execute(select(table).where(same)).one_or_none()
    if row is not None:
        if row.body_sha256 != ask.body_sha256:
            raise SettingError(
                "this Idempotency-Key was used with another request",
                where="Idempotency-Key",
                hint="use a new key for a new request",
                code="idempotency-key-reused",
            )
        if row.state == "posted":
            return _replay(row)
        if row.state == "held" and row.lease_until > now:
            return Busy(min(5, 1 + (row.lease_until - now) // 10**6))
        if row.state == "held":  # its holder is dead or too slow; it can no longer capture
            _unhold(connection, row)
            chain = _lock(connection, ask.tenant)
    tenant = connection.execute(select(tables.tenants).where(tables.tenants.c.id == ask.tenant)).one()
    if not tenant.active:
        raise AccessError("the key is not valid", code="invalid-key")
    if not _within_budget(connection, ask, chain, plans(tenant.plan), tenant.budget_nano):
        raise QuotaError(
            "the budget for this month does not cover the request",
            retry_after=_seconds_left(now),
            hint="it begins anew with the next calendar month (UTC); whoever runs this service can raise it",
            code="budget-exceeded",
        )
    held = {"state": "held", "holder": holder, "held_inputs": ask.units.inputs, "held_tokens": ask.units.tokens}
    held["lease_until"] = now + int(ask.lease_s * 10**6)
    if row is None:
        fixed = {"id": ask.request, "tenant": ask.tenant, "idempotency_key": ask.idempotency_key}
        connection.execute(insert(table).values(**fixed, body_sha256=ask.body_sha256, created_at=now, **held))
    else:
        connection.execute(update(table).where(table.c.id == row.id).values(**held))
    _shift_holds(connection, chain, ask.units)
    return Hold(row.id if row is not None else ask.request, ask.tenant, holder)


def capture(
    connection: Connection, held: Hold, done: Done, plans: Plans, render: Callable[[Charge], bytes]
) -> tuple[Charge, bytes]:
    """Charge a held request and store its answer; ``render`` makes the answer's bytes from the charge.

    Raises:
        ConflictError: the hold was lost (its lease ended): nothing is charged, and the answer must not be given.
    """
    chain = _lock(connection, held.tenant)
    row = _held_row(connection, held)
    if row is None:
        raise ConflictError("the hold of this request was lost", hint="send it again", code="hold-lost")
    at = _time(connection, chain)
    plan = connection.execute(select(tables.tenants.c.plan).where(tables.tenants.c.id == held.tenant)).scalar_one()
    terms = plans(plan)
    before, _ = _month(connection, held.tenant, period_of(at))
    amount = terms.amount(before, before.plus(done.units))
    charge = Charge(held.request, amount, terms.currency, chain.sequence + 1, at)
    body = render(charge)
    entry: dict[str, Any] = {"request": held.request, "tenant": held.tenant, "key": done.key, "release": done.release}
    entry |= {"route": done.route, "inputs": done.units.inputs, "tokens": done.units.tokens}
    entry |= {"compute_ns": done.compute_ns, "plan": plan, "price_version": terms.version, "amount_nano": amount}
    entry |= {"currency": terms.currency, "at": at, "sequence": charge.sequence, "previous": chain.hash}
    entry["hash"] = row_hash(entry)
    _keep_terms(connection, terms, at)
    connection.execute(insert(tables.usage).values(entry))
    _post(connection, charge, held.tenant)
    _count(connection, held.tenant, period_of(at), done.units, amount)
    _shift_holds(connection, chain, _held_units(row), sign=-1, newest=entry)
    answered = {"state": "posted", "status": 200, "answer": body.decode(), "inputs": done.inputs}
    connection.execute(update(tables.requests).where(tables.requests.c.id == row.id).values(answered))
    return charge, body


def release(connection: Connection, held: Hold) -> bool:
    """Give a hold back uncharged; False where it was no longer ours."""
    _lock(connection, held.tenant)
    row = _held_row(connection, held)
    if row is not None:
        _unhold(connection, row)
    return row is not None


def stale(connection: Connection) -> list[str]:
    """Tenants with holds whose lease has ended."""
    table = tables.requests
    ended = (table.c.state == "held") & (table.c.lease_until <= now_us(connection))
    return sorted(connection.execute(select(table.c.tenant).where(ended).distinct()).scalars())


def reap(connection: Connection, tenant: str) -> int:
    """Release a tenant's holds whose lease has ended; returns how many."""
    table = tables.requests
    chain = _lock(connection, tenant)
    ended = (table.c.state == "held") & (table.c.tenant == tenant) & (table.c.lease_until <= _time(connection, chain))
    rows = connection.execute(select(table).where(ended)).all()
    for row in rows:
        _unhold(connection, row)
    return len(rows)


def find(connection: Connection, tenant: str, idempotency_key: str, body_sha256: str) -> Replay | None:
    """The stored answer of a captured request: how an unknown commit is resolved."""
    table = tables.requests
    mine = (table.c.tenant == tenant) & (table.c.idempotency_key == idempotency_key) & (table.c.state == "posted")
    row = connection.execute(select(table).where(mine, table.c.body_sha256 == body_sha256)).one_or_none()
    return None if row is None else _replay(row)


def month(connection: Connection, tenant: str, period: str | None = None) -> tuple[str, Counts, int]:
    """The period (this month by default), its counts, and what was spent in nano-units."""
    chosen = period or period_of(now_us(connection))
    return (chosen, *_month(connection, tenant, chosen))


def period_of(at: int) -> str:
    """The calendar month, UTC, of a time in microseconds.

    >>> period_of(0)
    '1970-01'
    """
    return f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at):%Y-%m}"


def row_hash(row: dict[str, Any]) -> str:
    """The sha256 that a usage row must carry: of every other column, ``previous`` included."""
    return hashlib.sha256(canonical({k: v for k, v in row.items() if k != "hash"})).hexdigest()


def _lock(connection: Connection, tenant: str) -> Row[Any]:
    """The tenant's chain row, ours until the end of the transaction. SQLite has one writer anyway."""
    table = tables.chains
    row = connection.execute(select(table).where(table.c.tenant == tenant).with_for_update()).one_or_none()
    if row is None:
        raise AccessError("there is no such tenant", status=404, where=tenant, hint="feilun tenant list")
    return row


def _time(connection: Connection, chain: Row[Any]) -> int:
    return max(now_us(connection), int(chain.at))


def _within_budget(connection: Connection, ask: Ask, chain: Row[Any], terms: Pricing, budget_nano: int | None) -> bool:
    """Whether the month's spend stays within the budget if this and all open holds are captured."""
    if budget_nano is None:
        return True
    used, spent = _month(connection, ask.tenant, period_of(_time(connection, chain)))
    return spent + terms.amount(used, used.plus(_open(chain)).plus(ask.units)) <= budget_nano


def _seconds_left(now: int) -> int:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=now)
    following = datetime(moment.year + moment.month // 12, moment.month % 12 + 1, 1, tzinfo=UTC)
    return int((following - moment).total_seconds()) + 1


def _month(connection: Connection, tenant: str, period: str) -> tuple[Counts, int]:
    table = tables.counters
    row = connection.execute(select(table).where(table.c.tenant == tenant, table.c.period == period)).one_or_none()
    return (Counts(), 0) if row is None else (Counts(row.requests, row.inputs, row.tokens), row.spent_nano)


def _held_row(connection: Connection, held: Hold) -> Row[Any] | None:
    table = tables.requests
    ours = (table.c.id == held.request) & (table.c.state == "held") & (table.c.holder == held.holder)
    return connection.execute(select(table).where(ours)).one_or_none()


def _held_units(row: Row[Any]) -> Counts:
    return Counts(1, row.held_inputs, row.held_tokens)


def _open(chain: Row[Any]) -> Counts:
    return Counts(chain.held_requests, chain.held_inputs, chain.held_tokens)


def _unhold(connection: Connection, row: Row[Any]) -> None:
    _shift_holds(connection, _lock(connection, row.tenant), _held_units(row), sign=-1)
    connection.execute(update(tables.requests).where(tables.requests.c.id == row.id).values(state="released"))


def _shift_holds(
    connection: Connection, chain: Row[Any], units: Counts, *, sign: int = 1, newest: dict[str, Any] | None = None
) -> None:
    """Open or close a hold, and move the chain on; refuses if the row is not as it was read."""
    table = tables.chains
    unchanged = (table.c.tenant == chain.tenant) & (table.c.sequence == chain.sequence)
    unchanged &= (table.c.held_requests == chain.held_requests) & (table.c.held_tokens == chain.held_tokens)
    values = {f"held_{m}": table.c[f"held_{m}"] + sign * n for m, n in zip(Counts._fields, units, strict=True)}
    moved = {c: newest[c] for c in ("sequence", "hash", "at")} if newest else {}
    if connection.execute(update(table).where(unchanged).values(**values, **moved)).rowcount != 1:
        raise ConflictError("the tenant's ledger was changed in between", hint="send it again")


def _keep_terms(connection: Connection, terms: Pricing, at: int) -> None:
    row = {"version": terms.version, "terms": terms.as_json(), "at": at}
    connection.execute(_upsert(connection)(tables.prices).values(row).on_conflict_do_nothing())


def _post(connection: Connection, charge: Charge, tenant: str) -> None:
    shared = {"entry": charge.request, "currency": charge.currency, "at": charge.at}
    sides: Sequence[tuple[str, int]] = (
        (receivable(tenant), charge.amount_nano),
        (REVENUE, -charge.amount_nano),
    )
    connection.execute(insert(tables.postings), [shared | {"account": a, "amount_nano": n} for a, n in sides])


REVENUE = "revenue:usage"


def receivable(tenant: str) -> str:
    """The account of what a tenant owes for usage."""
    return f"tenant:{tenant}:receivable"


def _count(connection: Connection, tenant: str, period: str, units: Counts, amount: int) -> None:
    table = tables.counters
    row = {"tenant": tenant, "period": period, "spent_nano": amount, **units._asdict()}
    added = {c: table.c[c] + row[c] for c in (*Counts._fields, "spent_nano")}
    statement = _upsert(connection)(table).values(row)
    connection.execute(statement.on_conflict_do_update(index_elements=["tenant", "period"], set_=added))


def _upsert(connection: Connection) -> Callable[[Any], Any]:
    return sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert


def _replay(row: Row[Any]) -> Replay:
    if row.answer is None:
        raise ConflictError("the answer of this request is no longer kept", hint="use a new Idempotency-Key")
    return Replay(row.id, row.status, row.answer.encode())
