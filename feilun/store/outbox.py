"""What goes out to other services: written in the transaction of what it tells of, delivered later, made once.

``put`` is called by whoever changes the database, in the same transaction: either both are there or neither. A row's id
is deterministic, so telling the same thing again is the same row. A sender takes a row with a lease (``claim``), sends
it, and notes that it was ``delivered`` or has ``failed``. Whatever dies in between, the row is sent again: delivery is
at least once, and the id, which goes out as an idempotency key, makes it once on the other side (RELIABILITY 2, 19).

Rows of one subject go out one after the other, in the order in which they were put; a row that was given up (a dead
letter) no longer holds up those behind it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Select, and_, func, literal, select, update
from sqlalchemy.dialects import postgresql, sqlite

from feilun.store import tables
from feilun.store.artifacts import canonical
from feilun.store.database import now_us

SECOND = 10**6  # times are in microseconds
LEASE_S = 120  # how long one sender may take; then another one may send the same row
FIRST_S = 2  # the pause after a first failure; each one after it doubles
LONGEST_S = 3600  # but no pause is longer
GIVE_UP_DAYS = 7  # after so long
GIVE_UP_TRIES = 12  # and so many attempts a row is a dead letter: days in which no sender ran do not count alone
LONGEST_FAILURE = 500  # characters that are kept of a failure

State = Literal["waiting", "delivered", "dead"]


@dataclass(frozen=True)
class Parcel:
    """A claimed row. ``attempt`` counts from 1 and fences: only the newest claim of a row can note a failure.

    ``created_at`` is when it was put, ``at`` when it was claimed: microseconds since 1970, UTC.
    """

    id: str
    kind: str
    subject: str
    payload: Mapping[str, Any]
    attempt: int
    created_at: int
    at: int


@dataclass(frozen=True)
class Row:
    """A row as ``feilun bill outbox`` lists it; times are microseconds since 1970, UTC."""

    id: str
    kind: str
    subject: str
    state: State
    attempts: int
    created_at: int
    due_at: int
    delivered_at: int | None
    receipt: str | None
    failure: str | None


def identity(*parts: str) -> str:
    """A row's id from what it tells of, 64 characters: the same parts are the same row.

    >>> identity("invoice.closed", "INV-000001") == identity("invoice.closed", "INV-000001")
    True
    >>> identity("a", "bc") == identity("ab", "c")
    False
    """
    return hashlib.sha256(canonical(list(parts))).hexdigest()


def put(connection: Connection, *, kind: str, id: str, subject: str, payload: Mapping[str, Any]) -> bool:
    """Write a row in the caller's transaction; False where it is there already, and then what was put first stands.

    Args:
        kind: which sender takes it: ``webhook``, ``stripe.customer``, ``stripe.invoice``, ...
        id: deterministic; of one with more than 64 characters the ``identity`` is kept.
        subject: what it is about, at most 128 characters; rows of one subject go out in order.
        payload: plain JSON values; no secrets.
    """
    outbox = tables.outbox.c
    newest = connection.execute(select(func.max(outbox.created_at)).where(outbox.subject == subject)).scalar()
    at = max(now_us(connection), (newest or 0) + 1)  # one subject's rows never share an instant, so they have an order
    row = {
        "id": id if len(id) <= 64 else identity(id),
        "kind": kind,
        "subject": subject,
        "payload": canonical(dict(payload)).decode(),
    }
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    new = insert(tables.outbox).values(**row, created_at=at, due_at=at, attempts=0).on_conflict_do_nothing()
    return connection.execute(new.returning(outbox.id)).first() is not None


def claim(connection: Connection, kinds: Sequence[str]) -> Parcel | None:
    """Take the oldest row that is due and first of its subject, for ``LEASE_S``; None where nothing is due.

    Args:
        kinds: what this sender can send; rows of other kinds stay where they are.
    """
    outbox = tables.outbox.c
    earlier = tables.outbox.alias("earlier").c
    ahead = select(literal(1)).where(
        earlier.subject == outbox.subject,
        earlier.created_at < outbox.created_at,
        earlier.delivered_at.is_(None),
        earlier.dead_at.is_(None),
    )
    now = now_us(connection)
    due = select(tables.outbox).where(_waiting(), outbox.due_at <= now, outbox.kind.in_(kinds), ~ahead.exists())
    first = due.order_by(outbox.due_at, outbox.id).limit(1).with_for_update(skip_locked=True, of=tables.outbox)
    row = connection.execute(first).one_or_none()
    if row is None:
        return None
    taken = {"attempts": row.attempts + 1, "due_at": now + LEASE_S * SECOND}
    connection.execute(update(tables.outbox).where(outbox.id == row.id).values(taken))
    return Parcel(row.id, row.kind, row.subject, json.loads(row.payload), row.attempts + 1, row.created_at, now)


def delivered(connection: Connection, parcel: Parcel, receipt: str) -> bool:
    """Note that it arrived; ``receipt`` is what the other side called it. False where that was noted before."""
    mine = and_(tables.outbox.c.id == parcel.id, tables.outbox.c.delivered_at.is_(None))
    arrived = {"delivered_at": now_us(connection), "receipt": receipt, "failure": None, "dead_at": None}
    return connection.execute(update(tables.outbox).where(mine).values(arrived)).rowcount == 1


def failed(
    connection: Connection, parcel: Parcel, failure: str, *, retry_after_s: int = 0, final: bool = False
) -> State | None:
    """Note that it did not arrive, and when it is tried again; None where another sender has it by now.

    Args:
        failure: what happened, for people: no secrets, no bodies. Its first 500 characters are kept.
        retry_after_s: what the other side asked for; the pause is not shorter.
        final: trying again cannot help, so the row is a dead letter at once.
    """
    now = now_us(connection)
    old = now - parcel.created_at >= GIVE_UP_DAYS * 86_400 * SECOND
    dead = final or (old and parcel.attempt >= GIVE_UP_TRIES)
    wait = max(pause_us(parcel.id, parcel.attempt), min(retry_after_s, LONGEST_S) * SECOND)
    noted = {"failure": failure[:LONGEST_FAILURE], "due_at": now + wait, "dead_at": now if dead else None}
    mine = and_(tables.outbox.c.id == parcel.id, tables.outbox.c.attempts == parcel.attempt, _waiting())
    if connection.execute(update(tables.outbox).where(mine).values(noted)).rowcount != 1:
        return None
    return "dead" if dead else "waiting"


def revive(connection: Connection, id: str) -> bool:
    """Let a dead letter go out again, now; False where there is no such dead letter."""
    dead = and_(tables.outbox.c.id == id, tables.outbox.c.dead_at.is_not(None))
    again = {"dead_at": None, "attempts": 0, "due_at": now_us(connection)}
    return connection.execute(update(tables.outbox).where(dead).values(again)).rowcount == 1


def rows(connection: Connection, state: State | None = None, *, kind: str | None = None) -> list[Row]:
    """Every row, or those of one state or kind, in the order in which they were put."""
    outbox = tables.outbox.c
    wanted: dict[State, Any] = {
        "waiting": _waiting(),
        "dead": outbox.dead_at.is_not(None),
        "delivered": outbox.delivered_at.is_not(None),
    }
    query: Select[Any] = select(tables.outbox).order_by(outbox.created_at, outbox.id)
    query = query.where(wanted[state]) if state else query
    found = connection.execute(query.where(outbox.kind == kind) if kind else query)
    return [
        Row(
            r.id, r.kind, r.subject, _state(r), r.attempts, r.created_at, r.due_at, r.delivered_at, r.receipt, r.failure
        )
        for r in found
    ]


def count(connection: Connection) -> dict[State, int]:
    """How many rows there are in each state."""
    outbox = tables.outbox.c
    all_rows, arrived, dead = connection.execute(
        select(func.count(), func.count(outbox.delivered_at), func.count(outbox.dead_at)).select_from(tables.outbox)
    ).one()
    return {"waiting": all_rows - arrived - dead, "delivered": arrived, "dead": dead}


def receipt(connection: Connection, kind: str, subject: str) -> str | None:
    """What the other side called the first row of a kind about a subject; None where none has arrived."""
    outbox = tables.outbox.c
    arrived = select(outbox.receipt).where(outbox.subject == subject, outbox.kind == kind, outbox.receipt.is_not(None))
    return connection.execute(arrived.order_by(outbox.created_at).limit(1)).scalar()


def is_there(connection: Connection, id: str) -> bool:
    """Whether a row was put, whatever became of it."""
    return connection.execute(select(literal(1)).where(tables.outbox.c.id == id)).first() is not None


def receipt_of(connection: Connection, id: str) -> str | None:
    """What the other side called a row; None where it has not arrived."""
    return connection.execute(select(tables.outbox.c.receipt).where(tables.outbox.c.id == id)).scalar()


def next_due_at(connection: Connection, kinds: Sequence[str]) -> int | None:
    """When the next waiting row of these kinds may be tried, leases included; None where none waits."""
    query = select(func.min(tables.outbox.c.due_at)).where(_waiting(), tables.outbox.c.kind.in_(kinds))
    return connection.execute(query).scalar()


def pause_us(id: str, attempt: int) -> int:
    """Microseconds until the next attempt: doubling, at most an hour, and between half and all of that by jitter.

    The jitter comes from the row and the attempt, so that rows which failed together do not come back together.

    >>> [1 * SECOND <= pause_us("a", 1) <= 2 * SECOND, 1800 * SECOND <= pause_us("a", 60) <= 3600 * SECOND]
    [True, True]
    """
    whole = min(FIRST_S << min(attempt - 1, 20), LONGEST_S) * SECOND
    seed = int.from_bytes(hashlib.sha256(f"{id} {attempt}".encode()).digest()[:8], "big")
    return whole // 2 + seed % (whole // 2 + 1)


def _waiting() -> Any:
    return and_(tables.outbox.c.delivered_at.is_(None), tables.outbox.c.dead_at.is_(None))


def _state(row: Any) -> State:
    if row.delivered_at is not None:
        return "delivered"
    return "waiting" if row.dead_at is None else "dead"
