"""Fine-tuning jobs: asked for by tenants, done one after the other by ``feilun work``, followed by their events."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update
from ulid import ULID

from feilun.errors import AccessError, ConflictError, QuotaError
from feilun.store import leases, ledger, tables
from feilun.store.artifacts import canonical
from feilun.store.database import now_us

OPEN = ("queued", "running")
MOST_OPEN = 10  # of a tenant
MOST_ATTEMPTS = 3  # workers that may die of a job


@dataclass(frozen=True)
class Job:
    """One job. Times are in microseconds since 1970."""

    id: str
    tenant: str
    key: str
    model: str
    base: str
    training_file: str
    validation_file: str | None
    said: Mapping[str, Any]
    state: str
    error: Mapping[str, Any] | None
    release: str | None
    served: str | None
    result_file: str | None
    trained_tokens: int | None
    core_ns: int
    attempts: int
    created_at: int
    finished_at: int | None


@dataclass(frozen=True)
class Wanted:
    """A job as it was asked for; ``base`` is the digest of the release that ``model`` stands for."""

    tenant: str
    key: str
    model: str
    base: str
    training_file: str
    validation_file: str | None
    said: Mapping[str, Any]


@dataclass(frozen=True)
class Event:
    """Something that happened; ``type`` is "metrics" where ``data`` holds figures."""

    job: str
    number: int
    level: str
    type: str
    message: str
    data: Mapping[str, Any]
    at: int


def create(connection: Connection, wanted: Wanted) -> Job:
    """Queue a job.

    Raises:
        QuotaError: the tenant has too many that have not ended.
    """
    table = tables.jobs
    ledger.lock(connection, wanted.tenant)
    mine = select(func.count()).where(table.c.tenant == wanted.tenant, table.c.state.in_(OPEN))
    if int(connection.execute(mine).scalar_one()) >= MOST_OPEN:
        raise QuotaError(
            f"{MOST_OPEN} of your jobs have not ended yet",
            retry_after=60,
            hint="wait for one of them, or cancel it",
            code="too-many-jobs",
        )
    identity, now = f"ftjob-{ULID()}", now_us(connection)
    row = {name: getattr(wanted, name) for name in Wanted.__dataclass_fields__}
    row |= {"id": identity, "said": canonical(dict(wanted.said)).decode(), "state": "queued", "created_at": now}
    connection.execute(insert(table).values(**row, core_ns=0, attempts=0, lease_until=0))
    tell(connection, identity, f"Created fine-tuning job: {identity}")
    return get(connection, wanted.tenant, identity)


def get(connection: Connection, tenant: str, identity: str) -> Job:
    """A tenant's job.

    Raises:
        AccessError: 404, there is none, or it is somebody else's, which is the same to who asks.
    """
    table = tables.jobs
    mine = (table.c.tenant == tenant) & (table.c.id == identity)
    row = connection.execute(select(table).where(mine)).one_or_none()
    if row is None:
        raise AccessError(
            "there is no such job", status=404, hint="GET /v1/fine_tuning/jobs lists yours", code="job-not-found"
        )
    return _job(row)


def listed(connection: Connection, tenant: str, *, after: str | None, limit: int) -> list[Job]:
    """A tenant's jobs, newest first; at most ``limit``, older than ``after``."""
    table = tables.jobs
    query = select(table).where(table.c.tenant == tenant)
    if after is not None:
        query = query.where(table.c.id < after)
    return [_job(row) for row in connection.execute(query.order_by(table.c.id.desc()).limit(limit))]


def events(connection: Connection, job: str, *, before: int | None, limit: int) -> list[Event]:
    """A job's events, newest first; at most ``limit``, older than the one with the number ``before``."""
    table = tables.job_events
    query = select(table).where(table.c.job == job)
    if before is not None:
        query = query.where(table.c.number < before)
    rows = connection.execute(query.order_by(table.c.number.desc()).limit(limit))
    return [Event(r.job, r.number, r.level, r.type, r.message, json.loads(r.data), r.at) for r in rows]


def cancel(connection: Connection, tenant: str, identity: str) -> Job:
    """End a job; who works on it stops within seconds, and nothing of it is served.

    Raises:
        AccessError: 404.
        ConflictError: it has ended.
    """
    job = get(connection, tenant, identity)
    table = tables.jobs
    still = (table.c.id == identity) & table.c.state.in_(OPEN)
    ended = {"state": "cancelled", "finished_at": now_us(connection), "holder": None, "lease_until": 0}
    if connection.execute(update(table).where(still).values(ended)).rowcount != 1:
        raise ConflictError(f"the job has {job.state}", hint="only one that has not ended can be cancelled")
    tell(connection, identity, "The job was cancelled")
    return get(connection, tenant, identity)


def tell(
    connection: Connection,
    job: str,
    message: str,
    *,
    level: str = "info",
    data: Mapping[str, Any] | None = None,
) -> None:
    """Add an event; one with ``data`` is of metrics."""
    table = tables.job_events
    newest = connection.execute(select(func.max(table.c.number)).where(table.c.job == job)).scalar()
    row = {"job": job, "number": (newest or 0) + 1, "level": level, "type": "message" if data is None else "metrics"}
    row |= {"message": message, "data": canonical(dict(data or {})).decode(), "at": now_us(connection)}
    connection.execute(insert(table).values(row))


def take(connection: Connection, holder: str, lease_s: float) -> Job | None:
    """A job to do, now running. One that its workers died of is failed instead, and None is returned."""
    identity = leases.take(connection, tables.jobs, OPEN, holder, lease_s)
    if identity is None:
        return None
    job = _job(connection.execute(select(tables.jobs).where(tables.jobs.c.id == identity)).one())
    if job.attempts >= MOST_ATTEMPTS:
        what = f"the work on it ended {job.attempts} times without a word: perhaps it needs more memory than there is"
        end(connection, job, holder, "failed", error={"code": "worker-died", "message": what, "param": None})
        return None
    leases.change(connection, tables.jobs, identity, holder, state="running", attempts=job.attempts + 1)
    tell(connection, identity, "Fine-tuning job started" if job.attempts == 0 else "Fine-tuning job goes on")
    return _job(connection.execute(select(tables.jobs).where(tables.jobs.c.id == identity)).one())


def end(connection: Connection, job: Job, holder: str, state: str, **values: Any) -> bool:
    """End a held job; False where it was cancelled, or is not ours any more."""
    if values.get("error") is not None:
        told = values["error"]["message"]
        values["error"] = canonical(values["error"]).decode()
    else:
        told = "The job has successfully completed"
    now = now_us(connection)
    ended = leases.change(
        connection, tables.jobs, job.id, holder, state=state, finished_at=now, holder=None, lease_until=0, **values
    )
    if ended:
        tell(connection, job.id, told, level="info" if state == "succeeded" else "error")
    return ended


def _job(row: Row[Any]) -> Job:
    values = {name: getattr(row, name) for name in Job.__dataclass_fields__}
    for name in ("said", "error"):
        values[name] = None if values[name] is None else json.loads(values[name])
    return Job(**values)
