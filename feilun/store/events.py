"""Usage that other services report: recorded once each by source and id, in sequences without gaps, hash-chained.

One call is one batch: a row of ``event_batches`` whose hash covers every event of it and the batch before. Batches are
recorded one after the other, also by several processes, so that there is one chain; nothing else is locked, so
reporting and answering never wait for each other's tenants.

The statements work on whole batches. On SQLite each step of a statement lets go of the interpreter's lock, and to take
it back while another thread parses costs milliseconds: so rows go in by the hundred, and come out as one row of JSON.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection

from feilun.errors import AccessError, ConflictError, DataError, did_you_mean
from feilun.store.database import now_us
from feilun.store.ledger import GENESIS
from feilun.store.statements import Statement, copy

FUTURE_US = 86_400 * 10**6  # how far ahead of our clock an event's time may be: clocks differ
PAST_US = 366 * FUTURE_US  # how late it may come
MOST = 10_000  # events in one call
MOST_UNITS = 10**12  # of one event, so that a month's sum fits the database's integers
LONGEST = 255  # characters of a source, and of an id
_LOCK = 0x6665656E  # an arbitrary number of our own for PostgreSQL's advisory locks: "feen"


class Event(NamedTuple):
    """Units of a meter that a tenant used. ``at`` is in microseconds since 1970; None means: when it is recorded."""

    tenant: str
    meter: str
    source: str
    id: str
    units: int
    at: int | None = None


class Recorded(NamedTuple):
    """An event as it was recorded."""

    tenant: str
    sequence: int
    source: str
    id: str
    meter: str
    units: int
    at: int


class Receipt(NamedTuple):
    """What became of a batch: ``received`` is the sum of the other two."""

    received: int
    recorded: int
    duplicates: int


def record(connection: Connection, key: str, events: Sequence[Event], meters: Collection[str]) -> Receipt:
    """Record a batch in the caller's transaction: every event that was not recorded before, or, if one is bad, nothing.

    Run it as a job of ``Database.write`` without an order, so that it comes before what locks tenants.

    Args:
        key: the public id of the key that reports, or what else says who did.
        meters: those that the project declares.

    Raises:
        DataError: an event names a meter or a tenant that is not there, units that are no whole number from 0 on, or a
            time too far away; ``where`` gives its position, from 0.
        ConflictError: its source and id are those of another event.
    """
    if not events:
        return Receipt(0, 0, 0)
    if connection.dialect.name == "postgresql":
        _SERIALISE.run(connection, lock=_LOCK)
    before = _NEWEST_BATCH.one(connection) or (0, GENESIS, 0)
    batch: dict[str, Any] = {"number": int(before[0]) + 1, "key": key, "previous": before[1]}
    batch["at"] = max(now_us(connection), int(before[2]))
    sources = _sources(connection, {event.source for event in events}, batch["at"])
    rows = sorted(_new_rows(connection, events, meters, sources, batch["at"]))
    if rows:
        lines = [line_of(row) for row in rows]
        _insert(connection, [(r.tenant, r.sequence, batch["number"], sources[r.source], *r[3:]) for r in rows])
        batch |= {"events": len(rows), "checks": checks_of(lines)}
        _BATCH.run(connection, **batch, hash=batch_hash(batch, lines))
    return Receipt(len(events), len(rows), len(events) - len(rows))


def newest(connection: Connection, tenant: str) -> int:
    """The sequence of a tenant's newest event, 0 where it has none."""
    row = _NEWEST.one(connection, tenant=tenant)
    return int(row[0] or 0) if row else 0


def export(connection: Connection, tenant: str, *, after: int = 0, limit: int = MOST) -> list[Recorded]:
    """A tenant's events in the order of their sequence: those behind ``after``, at most ``limit`` of them.

    Raises:
        AccessError: there is no such tenant.
    """
    if _TENANT.one(connection, tenant=tenant) is None:
        raise AccessError(
            f"there is no tenant '{tenant[:80]}'", status=404, hint="feilun tenant list", code="no-tenant"
        )
    found = _EXPORT.run(connection, tenant=tenant, after=after, limit=limit).fetchall()
    return [Recorded(t, int(s), source, event, m, int(u), int(at)) for t, s, source, event, m, u, at in found]


def batch_hash(batch: Mapping[str, Any], lines: Sequence[bytes]) -> str:
    """The sha256 that a batch must carry: of the batch before, of its own row, and of its events in order."""
    said = "\0".join(str(batch[name]) for name in ("previous", "number", "key", "events", "at"))
    digest = hashlib.sha256(said.encode() + b"\n")
    digest.update(b"".join(lines))
    return digest.hexdigest()


def line_of(row: Recorded) -> bytes:
    """What the hash covers of an event. No text has a NUL, so two events never have the same line."""
    tenant, sequence, source, event, meter, units, at = row
    return f"{tenant}\0{sequence}\0{source}\0{event}\0{meter}\0{units}\0{at}\n".encode()


def checks_of(lines: Sequence[bytes]) -> bytes:
    """4 bytes for each event: against accidents, to tell which it was. Against intent there is the hash."""
    return b"".join(zlib.crc32(line).to_bytes(4, "big") for line in lines)


def _new_rows(
    connection: Connection, events: Sequence[Event], meters: Collection[str], sources: Mapping[str, int], now: int
) -> list[Recorded]:
    """What is not recorded yet, in the order given, with the tenants' next sequences."""
    seen = _recorded_before(connection, events, sources)
    sequences = _newest_sequences(connection, {event.tenant for event in events})
    oldest, latest = now - PAST_US, now + FUTURE_US
    rows: list[Recorded] = []
    for place, event in enumerate(events):
        tenant, meter, source, identity, units, at = event
        known = seen.get((source, identity))
        if known is not None:
            if known[:3] != (tenant, meter, units) or (at is not None and at != known[3]):
                raise _reused(place)
            continue
        if meter not in meters or tenant not in sequences:
            raise _unknown(place, event, meters, sequences)
        if type(units) is not int or not 0 <= units <= MOST_UNITS:
            raise _bad(place, "the units are not a whole number", f"0 to {MOST_UNITS:,}; a price can be per 1,000")
        if at is not None and not oldest <= at <= latest:
            raise _bad(
                place, "its time is too far away", "at most 366 days ago, and a day ahead, by the database's clock"
            )
        happened = now if at is None else at
        seen[source, identity] = (tenant, meter, units, happened)
        sequences[tenant] += 1
        rows.append(Recorded(tenant, sequences[tenant], source, identity, meter, units, happened))
    return rows


def _recorded_before(
    connection: Connection, events: Sequence[Event], sources: Mapping[str, int]
) -> dict[tuple[str, str], tuple[str, str, int, int]]:
    """Those of the events that are recorded: what each says, by source and id."""
    found: dict[tuple[str, str], tuple[str, str, int, int]] = {}
    wanted: dict[str, list[str]] = {}
    for event in events:
        wanted.setdefault(event.source, []).append(event.id)
    for source, ids in wanted.items():
        for row in _rows(connection, _KNOWN, source=sources[source], names=json.dumps(ids)):
            found[source, row[0]] = (row[1], row[2], int(row[3]), int(row[4]))
    return found


def _newest_sequences(connection: Connection, tenants: Collection[str]) -> dict[str, int]:
    """The newest sequence of each of the tenants that are there."""
    rows = _rows(connection, _SEQUENCES, names=json.dumps(sorted(tenants)))
    return {tenant: int(sequence or 0) for tenant, sequence in rows}


def _sources(connection: Connection, wanted: Collection[str], now: int) -> dict[str, int]:
    """The number of each source; new ones get the next."""
    rows = _rows(connection, _NUMBERS, names=json.dumps(sorted(wanted)))
    known = {source: int(number) for number, source in rows}
    for source in sorted(set(wanted) - known.keys()):
        row = _NEW_SOURCE.one(connection, source=source, at=now)
        assert row is not None
        known[source] = int(row[0])
    return known


def _insert(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    if connection.dialect.name == "postgresql":
        copy(connection, f"COPY events ({_COLUMNS}) FROM STDIN", rows)
        return
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        places = ",".join(["(?,?,?,?,?,?,?,?)"] * len(some))
        values = tuple(value for row in some for value in row)
        # OR FAIL: what went in before a bad row stays for the savepoint around the batch to take back.
        connection.exec_driver_sql(f"INSERT OR FAIL INTO events ({_COLUMNS}) VALUES {places}", values)


def _rows(connection: Connection, statement: tuple[Statement, Statement], **values: Any) -> list[list[Any]]:
    chosen = statement[0] if connection.dialect.name == "sqlite" else statement[1]
    row = chosen.one(connection, **values)
    return json.loads(row[0]) if row and row[0] else []


def _as_json(columns: str, rest: str) -> tuple[Statement, Statement]:
    """One row of JSON on SQLite and on PostgreSQL; ``{names}`` in ``rest`` is a table of the texts in :names."""
    lite = rest.format(names="(SELECT value FROM json_each(:names))")
    post = rest.format(names="(SELECT value FROM json_array_elements_text(CAST(:names AS json)))")
    return (
        Statement(f"SELECT json_group_array(json_array({columns})) FROM {lite}"),
        Statement(f"SELECT CAST(json_agg(json_build_array({columns})) AS TEXT) FROM {post}"),
    )


_AT_ONCE = 100  # rows in one statement on SQLite; more are no faster
_COLUMNS = "tenant, sequence, batch, source, event, meter, units, at"
_SERIALISE = Statement("SELECT pg_advisory_xact_lock(:lock)")
_NEWEST_BATCH = Statement("SELECT number, hash, at FROM event_batches ORDER BY number DESC LIMIT 1")
_KNOWN = _as_json("event, tenant, meter, units, at", "events WHERE source = :source AND event IN {names}")
_SEQUENCES = _as_json(
    "id, (SELECT MAX(sequence) FROM events WHERE events.tenant = tenants.id)", "tenants WHERE id IN {names}"
)
_NUMBERS = _as_json("id, source", "event_sources WHERE source IN {names}")
_NEW_SOURCE = Statement(
    "INSERT INTO event_sources (id, source, at) "
    "SELECT COALESCE(MAX(id), 0) + 1, :source, :at FROM event_sources RETURNING id"
)
_BATCH = Statement(
    "INSERT INTO event_batches (number, key, events, checks, previous, hash, at) "
    "VALUES (:number, :key, :events, :checks, :previous, :hash, :at)"
)
_NEWEST = Statement("SELECT MAX(sequence) FROM events WHERE tenant = :tenant")
_TENANT = Statement("SELECT id FROM tenants WHERE id = :tenant")
_EXPORT = Statement(
    "SELECT e.tenant, e.sequence, s.source, e.event, e.meter, e.units, e.at FROM events e "
    "JOIN event_sources s ON s.id = e.source WHERE e.tenant = :tenant AND e.sequence > :after "
    "ORDER BY e.sequence LIMIT :limit"
)


def _bad(place: int, what: str, hint: str | None, code: str = "bad-event") -> DataError:
    return DataError(
        f"event {place}: {what}", where=f"[{place}]", hint=f"{hint}; nothing of this call was recorded", code=code
    )


def _unknown(place: int, event: Event, meters: Collection[str], tenants: Collection[str]) -> DataError:
    if event.meter not in meters:
        close = did_you_mean(event.meter, meters)
        hint = close or f"declare it: [bill.meters.{event.meter[:32]}]"
        return _bad(place, f"its type '{event.meter[:40]}' is not a meter of this project", hint, "unknown-meter")
    return _bad(place, f"its subject '{event.tenant[:80]}' is not a tenant", "feilun tenant list", "unknown-tenant")


def _reused(place: int) -> ConflictError:
    return ConflictError(
        f"event {place}: its source and id are those of another event",
        where=f"[{place}]",
        hint="give each event an id of its own; nothing of this call was recorded",
        code="event-id-reused",
    )
