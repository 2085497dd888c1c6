"""The ledger: holds before work, usage rows and postings after it, and what keeps them from lying.

A request is held (its idempotency row, durable before any work), then captured or released. Capture writes the usage
row in the tenant's hash chain, two postings that sum to 0, the counters and the stored answer, all in the caller's one
transaction. Every function here first locks the tenant's row in ``chains``, so that a tenant's ledger has one order.
``hold`` and ``capture`` run once for each answer: each reads all that it needs at one glance (``_look``) and writes in
one go (``statements.Together``), two round trips to PostgreSQL.

Limits are in ``limits.py``. Times are the database's and never go backwards within a tenant, whatever its clock does.
Leases go by the clock itself: a clock that was put forward and back must not make them last for hours.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from sqlalchemy import Connection

from feilun.errors import AccessError, ConflictError, SettingError
from feilun.store import limits
from feilun.store.artifacts import canonical
from feilun.store.counts import Counts
from feilun.store.database import is_new, now_us
from feilun.store.periods import period_of
from feilun.store.statements import Statement, Together

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
    partial: bool = False  # it was broken off: these are the units that were delivered


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


class _Seen(NamedTuple):
    """A locked tenant at a glance: its time is ``at``, which never goes back, while ``clock`` may."""

    chain: Chain
    request: _Request | None
    clock: int
    at: int
    period: str  # of ``at``; with what was counted in it so far
    month: limits.Month
    key_month: limits.Month


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
    progress: str | None


def hold(connection: Connection, ask: Ask, plans: Plans, holder: str) -> Hold | Replay | Busy:
    """Admit a request, find its stored answer, or find that somebody works on it.

    A job that calls it is clean (``Database.submit``): all that a refused one can have written is that a hold of
    somebody who is dead was given back, and that is as well.

    Raises:
        QuotaError: a limit of the tenant, of its plan or of the key does not cover it.
        SettingError: the idempotency key was used with another body (422).
        AccessError: the tenant is not active.
    """
    seen = _look(connection, _LOOK_BY_KEY, ask.tenant, ask.key, idempotency_key=ask.idempotency_key)
    chain, known, clock = seen.chain, seen.request, seen.clock
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
        if known.state == "held" and known.progress is not None:
            return _break_off(connection, chain.tenant, known, plans)
        if known.state == "held":  # its holder is dead or too slow; it can no longer capture
            chain = _unhold(connection, chain, known)
    if not chain.active:
        raise AccessError("the key is not valid", code="invalid-key")
    terms = plans(chain.plan, seen.at)
    months = (seen.month, seen.key_month)
    wanted = limits.Wanted(ask.tenant, ask.key, ask.units, chain.held, chain.due_nano, seen.at, *months)
    limits.check(connection, wanted, terms, chain.budgets)
    request = ask.request if known is None else known.id
    values = _asked(ask) | {"request": request, "holder": holder, "now": seen.at}
    values |= {"until": clock + int(ask.lease_s * 10**6)}
    write = _HOLD if known is None else _HOLD_AGAIN
    _move(connection, chain, chain._replace(held=chain.held.plus(ask.units)), write, values)
    return Hold(request, ask.tenant, holder)


def capture(
    connection: Connection, held: Hold, done: Done, plans: Plans, render: Callable[[Charge], bytes]
) -> tuple[Charge, bytes]:
    """Charge a held request and store its answer; ``render`` makes the answer's bytes from the charge.

    A job that calls it is clean (``Database.submit``).

    Raises:
        ConflictError: the hold was lost (its lease ended): nothing is charged, and the answer must not be given.
    """
    seen = _look(connection, _LOOK_HELD, held.tenant, done.key, id=held.request, holder=held.holder)
    chain, row, at = seen.chain, seen.request, seen.at
    if row is None:
        raise _lost()
    terms = plans(chain.plan, at)
    before, by_key = seen.month, seen.key_month
    amount = terms.amount(before.units, before.units.plus(done.units))
    more = (done.units, amount)
    step = limits.Step(held.tenant, done.key, before, before.plus(*more), by_key, by_key.plus(*more))
    charge = Charge(held.request, amount, terms.currency, chain.sequence + 1, at)
    body = render(charge)
    counted = done.units.columns()
    entry: dict[str, Any] = {"request": held.request, "tenant": held.tenant, "key": done.key, "release": done.release}
    entry |= {"route": done.route, "inputs": counted["inputs"], "tokens": counted["tokens"], "more": counted["more"]}
    entry |= {"compute_ns": done.compute_ns, "plan": chain.plan, "price_version": terms.version, "amount_nano": amount}
    entry |= {"currency": terms.currency, "at": at, "sequence": charge.sequence, "previous": chain.hash}
    entry["partial"] = 1 if done.partial else None
    entry["hash"] = row_hash(entry)
    if is_new(connection, f"terms {terms.version}"):
        _KEEP_TERMS.run(connection, version=terms.version, terms=terms.as_json(), at=at)
    values = entry | limits.counted(step, seen.period) | {"answer": body.decode(), "digests": done.inputs}
    values |= {"owed": receivable(held.tenant), "revenue": REVENUE, "plus": amount, "minus": -amount}
    newest = {"sequence": charge.sequence, "hash": entry["hash"], "at": at, "due_nano": chain.due_nano + amount}
    _move(connection, chain, chain._replace(held=chain.held.minus(row.units), **newest), _CAPTURE, values)
    limits.warn(connection, step, terms, chain.budgets, at)
    return charge, body


def checkpoint(connection: Connection, held: Hold, done: Done, body: bytes) -> None:
    """Write down what a stream has delivered: should its gateway die, that is charged, and kept as its answer.

    Raises:
        ConflictError: the hold was lost: nothing more may be delivered.
    """
    lock(connection, held.tenant)
    said = {"key": done.key, "release": done.release, "route": done.route, "units": dict(done.units)}
    progress = canonical(said | {"compute_ns": done.compute_ns, "inputs": done.inputs}).decode()
    values = {"id": held.request, "holder": held.holder, "progress": progress, "answer": body.decode()}
    if _CHECKPOINT.run(connection, **values).rowcount != 1:
        raise _lost()


def renew(connection: Connection, held: Hold, lease_s: float) -> bool:
    """Let a hold last ``lease_s`` from now on; False where it is no longer ours."""
    lock(connection, held.tenant)
    until = now_us(connection) + int(lease_s * 10**6)
    return _RENEW.run(connection, id=held.request, holder=held.holder, until=until).rowcount == 1


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


def reap(connection: Connection, tenant: str, plans: Plans, alive: Collection[str] = ()) -> int:
    """End a tenant's holds whose lease has ended; returns how many. Streams are charged for their last checkpoint.

    Args:
        alive: requests that whoever asks is working on, however late it is to renew them.
    """
    chain = lock(connection, tenant)
    clock = now_us(connection)
    ended = {"now": clock, "beyond": clock + LONGEST_LEASE_US}
    found = [_request(row) for row in _ENDED.run(connection, tenant=tenant, **ended).fetchall()]
    rows = [row for row in found if row is not None and row.id not in alive]
    for row in rows:
        if row.progress is None:
            chain = _unhold(connection, chain, row)
        else:
            _break_off(connection, tenant, row, plans)
            chain = lock(connection, tenant)
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
        raise _unknown(tenant)
    return _chain(row)


def moment(connection: Connection, tenant: str, newest: int) -> int:
    """Now in a tenant's books: never before ``newest``, the time of its newest row, and after each of its invoices.

    What changes charges from now on (a plan, a coupon) has this time, also where a clock was put back: so it is never
    taken for something that an invoice already knew. The tenant must be locked by who writes.
    """
    invoiced = _INVOICED.one(connection, tenant=tenant)
    after = int(invoiced[0]) + 1 if invoiced and invoiced[0] is not None else 0
    return max(now_us(connection), newest, after)


def _look(connection: Connection, statement: Statement, tenant: str, key: str, **which: str) -> _Seen:
    """Lock the tenant, and read it with its month, its key's and one request.

    PostgreSQL takes the lock in a statement of its own, once in a transaction: what a statement reads is from when it
    began, and that must be after the lock was got.

    Raises:
        AccessError: there is no such tenant.
    """
    if is_new(connection, f"chain {tenant}"):
        _LOCK.run(connection, tenant=tenant)
    period = period_of(time.time_ns() // 1000)  # most likely; our clock need not be the database's
    row = statement.one(connection, tenant=tenant, key=key, period=period, **which)
    if row is None:
        raise _unknown(tenant)
    chain, clock = _chain(row), _clock(row)
    at = max(clock, chain.at)
    month, key_month = limits.month_from(row[15:20]), limits.month_from(row[20:25])
    if (right := period_of(at)) != period:
        month, key_month = limits.month_of(connection, tenant, right), limits.month_of_key(connection, key, right)
    return _Seen(chain, _request(row[25:]), clock, at, right, month, key_month)


def _clock(row: tuple[Any, ...]) -> int:
    return int(row[14])


def _move(
    connection: Connection,
    old: Chain,
    new: Chain,
    write: Together | None = None,
    values: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write the locked chain row, and what goes with it; refuses if it is not as it was read."""
    held = new.held.columns()
    moved = {"tenant": old.tenant, "sequence": new.sequence, "hash": new.hash, "at": new.at, "due_nano": new.due_nano}
    moved |= {f"held_{name}": held[name] for name in held}
    moved |= {"was_sequence": old.sequence, "was_requests": old.held.requests, "was_tokens": old.held.tokens}
    if (write or _ONLY_MOVE).run(connection, **{**values, **moved}) != 1:
        raise ConflictError("the tenant's ledger was changed in between", hint="send it again")


def _unhold(connection: Connection, chain: Chain, row: _Request) -> Chain:
    moved = chain._replace(held=chain.held.minus(row.units))
    _move(connection, chain, moved)
    _LET_GO.run(connection, id=row.id)
    return moved


def _break_off(connection: Connection, tenant: str, row: _Request, plans: Plans) -> Replay:
    """Charge a stream whose gateway died for what it had delivered, as far as it is known."""
    assert row.progress is not None and row.answer is not None
    said, body = json.loads(row.progress), row.answer.encode()
    units = Counts(**said["units"])
    done = Done(said["key"], said["release"], said["route"], units, said["compute_ns"], said["inputs"], partial=True)
    capture(connection, Hold(row.id, tenant, row.holder), done, plans, lambda _: body)
    return Replay(row.id, 200, body)


def _lost() -> ConflictError:
    return ConflictError("the hold of this request was lost", hint="send it again", code="hold-lost")


def _asked(ask: Ask) -> dict[str, Any]:
    counted = ask.units.columns()
    values = {"key": ask.key or None, "idempotency_key": ask.idempotency_key, "body_sha256": ask.body_sha256}
    return values | {f"ask_{name}": counted[name] for name in ("inputs", "tokens", "more")}


def _chain(row: tuple[Any, ...]) -> Chain:
    name, sequence, digest, at, requests, inputs, tokens, more, due_nano, plan, active, budget, key_budget, quota = row[
        :14
    ]
    held = Counts.of(requests, inputs, tokens, more)
    limited = (budget, key_budget, json.loads(quota) if quota else {})
    return Chain(name, sequence, digest, at, held, due_nano, plan, bool(active), *limited)


def _unknown(tenant: str) -> AccessError:
    return AccessError("there is no such tenant", status=404, where=tenant, hint="feilun tenant list")


def _request(row: tuple[Any, ...] | None) -> _Request | None:
    if row is None or row[0] is None:
        return None
    identity, body, state, holder, until, status, answer, inputs, tokens, more, progress = row
    units = Counts.of(1, inputs, tokens, more)
    return _Request(identity, body, state, holder, until, status, answer, units, progress)


def _replay(row: _Request) -> Replay:
    if row.answer is None or row.status is None:
        raise ConflictError("the answer of this request is no longer kept", hint="use a new Idempotency-Key")
    return Replay(row.id, row.status, row.answer.encode())


_STATE = (
    "chains.tenant, sequence, hash, at, held_requests, chains.held_inputs, chains.held_tokens, chains.held_more, "
    "due_nano, plan, active, tenants.budget_nano, keys.budget_nano, keys.quota"
)
_TENANT = "chains JOIN tenants ON tenants.id = chains.tenant LEFT JOIN keys ON keys.public_id = :key"
_CHAIN = Statement(f"SELECT {_STATE} FROM {_TENANT} WHERE chains.tenant = :tenant", lock="chains")
_LOCK = Statement("SELECT 1 FROM chains WHERE tenant = :tenant", lock="chains")
_INVOICED = Statement("SELECT MAX(at) FROM invoices WHERE tenant = :tenant")
_MOVE = (
    "UPDATE chains SET sequence = :sequence, hash = :hash, at = :at, held_requests = :held_requests, "
    "held_inputs = :held_inputs, held_tokens = :held_tokens, held_more = :held_more, due_nano = :due_nano "
    "WHERE tenant = :tenant AND sequence = :was_sequence "
    "AND held_requests = :was_requests AND held_tokens = :was_tokens"
)
_COLUMNS = "id, body_sha256, state, holder, lease_until, status, answer, held_inputs, held_tokens, held_more, progress"
_BY_KEY = Statement(f"SELECT {_COLUMNS} FROM requests WHERE tenant = :tenant AND idempotency_key = :idempotency_key")
_BY_HOLDER = Statement(f"SELECT {_COLUMNS} FROM requests WHERE id = :id AND state = 'held' AND holder = :holder")
_COUNTED = "requests, {0}.inputs, {0}.tokens, {0}.more, {0}.spent_nano"
_LOOK = (
    f"SELECT {_STATE}, NOW_US, m.{_COUNTED.format('m')}, k.{_COUNTED.format('k')}, "
    f"{', '.join(f'r.{column}' for column in _COLUMNS.split(', '))} FROM {_TENANT} "
    "LEFT JOIN counters AS m ON m.tenant = chains.tenant AND m.period = :period "
    "LEFT JOIN key_counters AS k ON k.key = :key AND k.period = :period "
    "LEFT JOIN requests AS r ON {} WHERE chains.tenant = :tenant"
)
_LOOK_BY_KEY = Statement(_LOOK.format("r.tenant = chains.tenant AND r.idempotency_key = :idempotency_key"))
_LOOK_HELD = Statement(_LOOK.format("r.id = :id AND r.state = 'held' AND r.holder = :holder"))
_HAS_ENDED = "state = 'held' AND (lease_until <= :now OR lease_until > :beyond)"
_ENDED = Statement(f"SELECT {_COLUMNS} FROM requests WHERE tenant = :tenant AND {_HAS_ENDED}")
_STALE = Statement(f"SELECT DISTINCT tenant FROM requests WHERE {_HAS_ENDED}")
_ONLY_MOVE = Together(_MOVE)
_HOLD = Together(
    _MOVE,
    "INSERT INTO requests (id, tenant, idempotency_key, body_sha256, state, holder, held_inputs, held_tokens, "
    "created_at, lease_until, key, held_more) VALUES (:request, :tenant, :idempotency_key, :body_sha256, 'held', "
    ":holder, :ask_inputs, :ask_tokens, :now, :until, :key, :ask_more)",
)
_HOLD_AGAIN = Together(
    _MOVE,
    "UPDATE requests SET state = 'held', holder = :holder, held_inputs = :ask_inputs, held_tokens = :ask_tokens, "
    "held_more = :ask_more, key = :key, created_at = :now, lease_until = :until WHERE id = :request",
)
_LET_GO = Statement("UPDATE requests SET state = 'released', progress = NULL, answer = NULL WHERE id = :id")
_MINE = "WHERE id = :id AND holder = :holder AND state = 'held'"
_CHECKPOINT = Statement(f"UPDATE requests SET progress = :progress, answer = :answer {_MINE}")
_RENEW = Statement(f"UPDATE requests SET lease_until = :until {_MINE}")
_KEEP_TERMS = Statement(
    "INSERT INTO prices (version, terms, at) VALUES (:version, :terms, :at) ON CONFLICT (version) DO NOTHING"
)
_CAPTURE = Together(
    _MOVE,
    "INSERT INTO usage (request, tenant, key, release, route, inputs, tokens, compute_ns, plan, price_version, "
    "amount_nano, currency, at, sequence, previous, hash, more, partial) VALUES (:request, :tenant, :key, :release, "
    ":route, :inputs, :tokens, :compute_ns, :plan, :price_version, :amount_nano, :currency, :at, :sequence, :previous, "
    ":hash, :more, :partial)",
    "INSERT INTO postings (entry, account, currency, amount_nano, at) VALUES "
    "(:request, :owed, :currency, :plus, :at), (:request, :revenue, :currency, :minus, :at)",
    limits.COUNT,
    limits.COUNT_KEY,
    "UPDATE requests SET state = 'posted', status = 200, answer = :answer, inputs = :digests, "
    "progress = NULL WHERE id = :request",
)
