"""The ledger: holds before work, usage rows and postings after it, and what keeps them from lying.

A request is held (its idempotency row, durable before any work), then captured or released. Capture writes the usage
row in the tenant's hash chain, two postings that sum to 0, the counters and the stored answer, all in the caller's one
transaction. Every function here first locks the tenant's row in ``chains``, so that a tenant's ledger has one order.

Limits are in ``limits.py``. Times are the database's and never go backwards within a tenant, whatever its clock does.
Leases go by the clock itself: a clock that was put forward and back must not make them last for hours.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from sqlalchemy import Connection

from feilun.errors import AccessError, ConflictError, SettingError
from feilun.store import limits
from feilun.store.artifacts import canonical
from feilun.store.counts import Counts
from feilun.store.database import now_us
from feilun.store.periods import period_of
from feilun.store.statements import Statement

GENESIS = "0" * 64  # the hash before a tenant's first row
REVENUE = "revenue:usage"
LONGEST_LEASE_US = 600 * 10**6  # a lease that would last longer was given before the clock was put back: it has ended


class Pricing(limits.Limits, Protocol):
    """What the ledger needs of a plan's terms (``feilun.accounts.terms.Terms``)."""

    @property
    def version(self) -> str:
        """Digest of the terms."""

    @property
    def priced(self) -> tuple[str, ...]:
        """The meters that have a price."""

    def as_json(self) -> str:
        """The terms themselves, kept once for each version so that any row can be rated again."""


Plans = Callable[[str, int], Pricing]  # by plan and by time: a price can change at a date


@dataclass(frozen=True)
class Ask:
    """What a request needs before it may run."""

    request: str  # its id, a ULID
    tenant: str
    idempotency_key: str
    body_sha256: str
    units: Counts
    lease_s: float
    key: str = ""  # public id of the API key, for limits of its own


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


class Chain(NamedTuple):
    """A tenant's row in ``chains``, locked: newest row, open holds, what no invoice covers yet; and its limits."""

    tenant: str
    sequence: int
    hash: str
    at: int
    held: Counts
    due_nano: int
    plan: str
    active: bool
    budget_nano: int | None
    key_budget_nano: int | None  # of the key that was named,
    key_quota: Mapping[str, int]  # and the most units of a month by meter

    @property
    def budgets(self) -> limits.Budgets:
        """What limits the tenant and the key."""
        return limits.Budgets(self.budget_nano, self.key_budget_nano, self.key_quota)


class _Request(NamedTuple):
    """A row of ``requests``."""

    id: str
    body_sha256: str
    state: str
    holder: str
    lease_until: int
    status: int | None
    answer: str | None
    units: Counts


def hold(connection: Connection, ask: Ask, plans: Plans, holder: str) -> Hold | Replay | Busy:
    """Admit a request, find its stored answer, or find that somebody works on it.

    Raises:
        QuotaError: a limit of the tenant, of its plan or of the key does not cover it.
        SettingError: the idempotency key was used with another body (422).
        AccessError: the tenant is not active.
    """
    chain = lock(connection, ask.tenant, ask.key)
    clock = now_us(connection)
    now = max(clock, chain.at)
    known = _request(_BY_KEY.one(connection, tenant=ask.tenant, idempotency_key=ask.idempotency_key))
    if known is not None:
        if known.body_sha256 != ask.body_sha256:
            raise SettingError(
                "this Idempotency-Key was used with another request",
                where="Idempotency-Key",
                hint="use a new key for a new request",
                code="idempotency-key-reused",
            )
        if known.state == "posted":
            return _replay(known)
        if known.state == "held" and clock < known.lease_until <= clock + LONGEST_LEASE_US:
            return Busy(min(5, 1 + (known.lease_until - clock) // 10**6))
        if known.state == "held":  # its holder is dead or too slow; it can no longer capture
            chain = _unhold(connection, chain, known)
    if not chain.active:
        raise AccessError("the key is not valid", code="invalid-key")
    terms = plans(chain.plan, now)
    wanted = limits.Wanted(ask.tenant, ask.key, ask.units, chain.held, chain.due_nano, now)
    limits.check(connection, wanted, terms, chain.budgets)
    request = ask.request if known is None else known.id
    values = _held(ask) | {"id": request, "holder": holder, "now": now, "until": clock + int(ask.lease_s * 10**6)}
    if known is None:
        same = {"tenant": ask.tenant, "idempotency_key": ask.idempotency_key, "body_sha256": ask.body_sha256}
        _INSERT_REQUEST.run(connection, **values, **same)
    else:
        _HOLD_AGAIN.run(connection, **values)
    _move(connection, chain, chain._replace(held=chain.held.plus(ask.units)))
    return Hold(request, ask.tenant, holder)


def capture(
    connection: Connection, held: Hold, done: Done, plans: Plans, render: Callable[[Charge], bytes]
) -> tuple[Charge, bytes]:
    """Charge a held request and store its answer; ``render`` makes the answer's bytes from the charge.

    Raises:
        ConflictError: the hold was lost (its lease ended): nothing is charged, and the answer must not be given.
    """
    chain = lock(connection, held.tenant, done.key)
    row = _request(_BY_HOLDER.one(connection, id=held.request, holder=held.holder))
    if row is None:
        raise ConflictError("the hold of this request was lost", hint="send it again", code="hold-lost")
    at = max(now_us(connection), chain.at)
    terms = plans(chain.plan, at)
    period = period_of(at)
    before = limits.month_of(connection, held.tenant, period)
    amount = terms.amount(before.units, before.units.plus(done.units))
    by_key = limits.month_of_key(connection, done.key, period)
    more = (done.units, amount)
    step = limits.Step(held.tenant, done.key, before, before.plus(*more), by_key, by_key.plus(*more))
    charge = Charge(held.request, amount, terms.currency, chain.sequence + 1, at)
    body = render(charge)
    counted = done.units.columns()
    entry: dict[str, Any] = {"request": held.request, "tenant": held.tenant, "key": done.key, "release": done.release}
    entry |= {"route": done.route, "inputs": counted["inputs"], "tokens": counted["tokens"], "more": counted["more"]}
    entry |= {"compute_ns": done.compute_ns, "plan": chain.plan, "price_version": terms.version, "amount_nano": amount}
    entry |= {"currency": terms.currency, "at": at, "sequence": charge.sequence, "previous": chain.hash}
    entry["hash"] = row_hash(entry)
    _KEEP_TERMS.run(connection, version=terms.version, terms=terms.as_json(), at=at)
    _INSERT_USAGE.run(connection, **entry)
    shared = {"entry": held.request, "currency": terms.currency, "at": at}
    owed = receivable(held.tenant)
    _INSERT_POSTINGS.run(connection, **shared, owed=owed, revenue=REVENUE, plus=amount, minus=-amount)
    limits.count(connection, step, period)
    newest = {"sequence": charge.sequence, "hash": entry["hash"], "at": at, "due_nano": chain.due_nano + amount}
    _move(connection, chain, chain._replace(held=chain.held.minus(row.units), **newest))
    _POST.run(connection, id=row.id, answer=body.decode(), inputs=done.inputs)
    limits.warn(connection, step, terms, chain.budgets, at)
    return charge, body


def release(connection: Connection, held: Hold) -> bool:
    """Give a hold back uncharged; False where it was no longer ours."""
    chain = lock(connection, held.tenant)
    row = _request(_BY_HOLDER.one(connection, id=held.request, holder=held.holder))
    if row is not None:
        _unhold(connection, chain, row)
    return row is not None


def stale(connection: Connection) -> list[str]:
    """Tenants with holds whose lease has ended."""
    clock = now_us(connection)
    found = _STALE.run(connection, now=clock, beyond=clock + LONGEST_LEASE_US).fetchall()
    return sorted(tenant for (tenant,) in found)


def reap(connection: Connection, tenant: str) -> int:
    """Release a tenant's holds whose lease has ended; returns how many."""
    chain = lock(connection, tenant)
    clock = now_us(connection)
    ended = {"now": clock, "beyond": clock + LONGEST_LEASE_US}
    rows = [_request(row) for row in _ENDED.run(connection, tenant=tenant, **ended).fetchall()]
    for row in rows:
        assert row is not None
        chain = _unhold(connection, chain, row)
    return len(rows)


def find(connection: Connection, tenant: str, idempotency_key: str, body_sha256: str) -> Replay | None:
    """The stored answer of a captured request: how an unknown commit is resolved."""
    row = _request(_BY_KEY.one(connection, tenant=tenant, idempotency_key=idempotency_key))
    if row is None or row.state != "posted" or row.body_sha256 != body_sha256:
        return None
    return _replay(row)


def month(connection: Connection, tenant: str, period: str | None = None) -> tuple[str, Counts, int]:
    """The period (this month by default), its counts, and what was spent in nano-units."""
    chosen = period or period_of(now_us(connection))
    found = limits.month_of(connection, tenant, chosen)
    return chosen, found.units, found.spent


def row_hash(row: dict[str, Any]) -> str:
    """The sha256 that a usage row must carry: of every other column that is not null, ``previous`` included."""
    return hashlib.sha256(canonical({k: v for k, v in row.items() if k != "hash" and v is not None})).hexdigest()


def receivable(tenant: str) -> str:
    """The account of what a tenant owes for usage."""
    return f"tenant:{tenant}:receivable"


def lock(connection: Connection, tenant: str, key: str = "") -> Chain:
    """The tenant's chain row, ours until the end of the transaction, with what limits the tenant and its key.

    Raises:
        AccessError: there is no such tenant.
    """
    row = _CHAIN.one(connection, tenant=tenant, key=key)
    if row is None:
        raise AccessError("there is no such tenant", status=404, where=tenant, hint="feilun tenant list")
    name, sequence, digest, at, requests, inputs, tokens, more, due_nano, plan, active, budget, key_budget, quota = row
    held = Counts.of(requests, inputs, tokens, more)
    return Chain(
        name, sequence, digest, at, held, due_nano, plan, bool(active), budget, key_budget, json.loads(quota or "{}")
    )


def moment(connection: Connection, tenant: str, newest: int) -> int:
    """Now in a tenant's books: never before ``newest``, the time of its newest row, and after each of its invoices.

    What changes charges from now on (a plan, a coupon) has this time, also where a clock was put back: so it is never
    taken for something that an invoice already knew. The tenant must be locked by who writes.
    """
    invoiced = _INVOICED.one(connection, tenant=tenant)
    after = int(invoiced[0]) + 1 if invoiced and invoiced[0] is not None else 0
    return max(now_us(connection), newest, after)


def _move(connection: Connection, old: Chain, new: Chain) -> None:
    """Write the locked chain row; refuses if it is not as it was read."""
    held = new.held.columns()
    values = {"sequence": new.sequence, "hash": new.hash, "at": new.at, "due_nano": new.due_nano}
    values |= {f"held_{name}": held[name] for name in held}
    was = {"was_sequence": old.sequence, "was_requests": old.held.requests, "was_tokens": old.held.tokens}
    if _MOVE.run(connection, tenant=old.tenant, **values, **was).rowcount != 1:
        raise ConflictError("the tenant's ledger was changed in between", hint="send it again")


def _unhold(connection: Connection, chain: Chain, row: _Request) -> Chain:
    moved = chain._replace(held=chain.held.minus(row.units))
    _move(connection, chain, moved)
    _LET_GO.run(connection, id=row.id)
    return moved


def _held(ask: Ask) -> dict[str, Any]:
    counted = ask.units.columns()
    return {"key": ask.key or None} | {f"held_{name}": counted[name] for name in ("inputs", "tokens", "more")}


def _request(row: tuple[Any, ...] | None) -> _Request | None:
    if row is None:
        return None
    identity, body, state, holder, until, status, answer, inputs, tokens, more = row
    return _Request(identity, body, state, holder, until, status, answer, Counts.of(1, inputs, tokens, more))


def _replay(row: _Request) -> Replay:
    if row.answer is None or row.status is None:
        raise ConflictError("the answer of this request is no longer kept", hint="use a new Idempotency-Key")
    return Replay(row.id, row.status, row.answer.encode())


_CHAIN = Statement(
    "SELECT chains.tenant, sequence, hash, at, held_requests, held_inputs, held_tokens, held_more, due_nano, plan, "
    "active, tenants.budget_nano, keys.budget_nano, keys.quota FROM chains JOIN tenants ON tenants.id = chains.tenant "
    "LEFT JOIN keys ON keys.public_id = :key WHERE chains.tenant = :tenant",
    lock="chains",
)
_INVOICED = Statement("SELECT MAX(at) FROM invoices WHERE tenant = :tenant")
_MOVE = Statement(
    "UPDATE chains SET sequence = :sequence, hash = :hash, at = :at, held_requests = :held_requests, "
    "held_inputs = :held_inputs, held_tokens = :held_tokens, held_more = :held_more, due_nano = :due_nano "
    "WHERE tenant = :tenant AND sequence = :was_sequence "
    "AND held_requests = :was_requests AND held_tokens = :was_tokens"
)
_COLUMNS = "id, body_sha256, state, holder, lease_until, status, answer, held_inputs, held_tokens, held_more"
_BY_KEY = Statement(f"SELECT {_COLUMNS} FROM requests WHERE tenant = :tenant AND idempotency_key = :idempotency_key")
_BY_HOLDER = Statement(f"SELECT {_COLUMNS} FROM requests WHERE id = :id AND state = 'held' AND holder = :holder")
_HAS_ENDED = "state = 'held' AND (lease_until <= :now OR lease_until > :beyond)"
_ENDED = Statement(f"SELECT {_COLUMNS} FROM requests WHERE tenant = :tenant AND {_HAS_ENDED}")
_STALE = Statement(f"SELECT DISTINCT tenant FROM requests WHERE {_HAS_ENDED}")
_INSERT_REQUEST = Statement(
    "INSERT INTO requests (id, tenant, idempotency_key, body_sha256, state, holder, held_inputs, held_tokens, "
    "created_at, lease_until, key, held_more) VALUES (:id, :tenant, :idempotency_key, :body_sha256, 'held', :holder, "
    ":held_inputs, :held_tokens, :now, :until, :key, :held_more)"
)
_HOLD_AGAIN = Statement(
    "UPDATE requests SET state = 'held', holder = :holder, held_inputs = :held_inputs, held_tokens = :held_tokens, "
    "held_more = :held_more, key = :key, created_at = :now, lease_until = :until WHERE id = :id"
)
_LET_GO = Statement("UPDATE requests SET state = 'released' WHERE id = :id")
_POST = Statement(
    "UPDATE requests SET state = 'posted', status = 200, answer = :answer, inputs = :inputs WHERE id = :id"
)
_KEEP_TERMS = Statement(
    "INSERT INTO prices (version, terms, at) VALUES (:version, :terms, :at) ON CONFLICT (version) DO NOTHING"
)
_INSERT_USAGE = Statement(
    "INSERT INTO usage (request, tenant, key, release, route, inputs, tokens, compute_ns, plan, price_version, "
    "amount_nano, currency, at, sequence, previous, hash, more) VALUES (:request, :tenant, :key, :release, :route, "
    ":inputs, :tokens, :compute_ns, :plan, :price_version, :amount_nano, :currency, :at, :sequence, :previous, :hash, "
    ":more)"
)
_INSERT_POSTINGS = Statement(
    "INSERT INTO postings (entry, account, currency, amount_nano, at) VALUES "
    "(:entry, :owed, :currency, :plus, :at), (:entry, :revenue, :currency, :minus, :at)"
)
