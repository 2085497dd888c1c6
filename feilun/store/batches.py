"""Batches: many requests in one file, answered when there is time, each charged once however often work begins anew."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update
from ulid import ULID

from feilun.errors import AccessError, ConflictError, QuotaError
from feilun.store import leases, ledger, limits, tables
from feilun.store.artifacts import canonical
from feilun.store.database import now_us

OPEN = ("validating", "in_progress", "finalizing", "cancelling")
ENDED = ("completed", "failed", "expired", "cancelled")
MOST_OPEN = 20  # of a tenant


@dataclass(frozen=True)
class Batch:
    """One batch. ``times`` is when it reached which state; all times are in microseconds since 1970."""

    id: str
    tenant: str
    key: str
    endpoint: str
    input_file: str
    said: Mapping[str, Any]
    state: str
    errors: list[dict[str, Any]] | None
    total: int
    completed: int
    failed: int
    output_file: str | None
    error_file: str | None
    times: Mapping[str, int]
    created_at: int
    expires_at: int

    def line_key(self, number: int) -> str:
        """What makes a line, counted from 1, the same request however often it is asked."""
        return f"{limits.BATCH_LINES}{self.id}:{number}"


@dataclass(frozen=True)
class Wanted:
    """A batch as it was asked for."""

    tenant: str
    key: str
    endpoint: str
    input_file: str
    said: Mapping[str, Any]
    window_s: int


def create(connection: Connection, wanted: Wanted) -> Batch:
    """Note a batch, to be worked on soon.

    Raises:
        QuotaError: the tenant has too many that have not ended.
    """
    table = tables.batches
    ledger.lock(connection, wanted.tenant)
    mine = select(func.count()).where(table.c.tenant == wanted.tenant, table.c.state.in_(OPEN))
    if int(connection.execute(mine).scalar_one()) >= MOST_OPEN:
        raise QuotaError(
            f"{MOST_OPEN} of your batches have not ended yet",
            retry_after=60,
            hint="wait for one of them, or cancel it",
            code="too-many-batches",
        )
    now = now_us(connection)
    identity = f"batch_{ULID()}"
    row = {"tenant": wanted.tenant, "key": wanted.key, "endpoint": wanted.endpoint, "input_file": wanted.input_file}
    row |= {"said": canonical(dict(wanted.said)).decode(), "state": "validating", "times": "{}"}
    numbers = {"total": 0, "completed": 0, "failed": 0, "created_at": now, "lease_until": 0}
    numbers["expires_at"] = now + wanted.window_s * 10**6
    connection.execute(insert(table).values(id=identity, **row, **numbers))
    return get(connection, wanted.tenant, identity)


def get(connection: Connection, tenant: str, identity: str) -> Batch:
    """A tenant's batch.

    Raises:
        AccessError: 404, there is none, or it is somebody else's, which is the same to who asks.
    """
    table = tables.batches
    mine = (table.c.tenant == tenant) & (table.c.id == identity)
    row = connection.execute(select(table).where(mine)).one_or_none()
    if row is None:
        raise AccessError(
            "there is no such batch", status=404, hint="GET /v1/batches lists yours", code="batch-not-found"
        )
    return _batch(row)


def listed(connection: Connection, tenant: str, *, after: str | None, limit: int) -> list[Batch]:
    """A tenant's batches, newest first; at most ``limit``, older than ``after``."""
    table = tables.batches
    query = select(table).where(table.c.tenant == tenant)
    if after is not None:
        query = query.where(table.c.id < after)
    return [_batch(row) for row in connection.execute(query.order_by(table.c.id.desc()).limit(limit))]


def cancel(connection: Connection, tenant: str, identity: str) -> Batch:
    """Have a batch end soon; what is answered by then is charged and can be fetched.

    Raises:
        AccessError: 404.
        ConflictError: it has ended.
    """
    batch = get(connection, tenant, identity)
    if batch.state == "cancelling":
        return batch
    table = tables.batches
    still = (table.c.id == identity) & table.c.state.in_(("validating", "in_progress"))
    times = {**batch.times, "cancelling": now_us(connection)}
    values = {"state": "cancelling", "times": canonical(times).decode()}
    if connection.execute(update(table).where(still).values(values)).rowcount != 1:
        raise ConflictError(f"the batch is {batch.state}", hint="only one that has not ended can be cancelled")
    return get(connection, tenant, identity)


def take(connection: Connection, holder: str, lease_s: float, *, mode: str) -> Batch | None:
    """A batch to work on, made by a key of that mode: the oldest of a tenant that has none being worked on."""
    keys = tables.keys.c
    ours = tables.batches.c.key.in_(select(keys.public_id).where(keys.mode == mode))
    identity = leases.take(connection, tables.batches, OPEN, holder, lease_s, ours)
    if identity is None:
        return None
    return _batch(connection.execute(select(tables.batches).where(tables.batches.c.id == identity)).one())


def reach(connection: Connection, batch: Batch, holder: str, state: str, **values: Any) -> Batch | None:
    """Bring a held batch into a state, unless it was cancelled meanwhile; None where it is not ours any more.

    The state that it then has is in what is returned: "cancelling" stays until it is "cancelled".
    """
    table = tables.batches
    row = connection.execute(select(table).where(table.c.id == batch.id).with_for_update()).one()
    if row.holder != holder:
        return None
    now = _batch(row)
    if now.state == "cancelling" and state not in ENDED:
        return now
    times = {**now.times, state: now_us(connection)}
    ends = {"holder": None, "lease_until": 0} if state in ENDED else {}
    if "errors" in values:
        values["errors"] = canonical(values["errors"]).decode()
    leases.change(connection, table, batch.id, holder, state=state, times=canonical(times).decode(), **ends, **values)
    return _batch(connection.execute(select(table).where(table.c.id == batch.id)).one())


def _batch(row: Row[Any]) -> Batch:
    values = {name: getattr(row, name) for name in Batch.__dataclass_fields__}
    for name in ("said", "errors", "times"):
        values[name] = None if values[name] is None else json.loads(values[name])
    return Batch(**values)
