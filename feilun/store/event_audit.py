"""Proving what other services reported: recompute the chain of batches from the events themselves."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from feilun.store.audit import Problem
from feilun.store.events import Recorded, batch_hash, checks_of, line_of
from feilun.store.ledger import GENESIS
from feilun.store.statements import Statement

_ROWS = 20_000  # events in memory at once, or one batch


@dataclass(frozen=True)
class EventProblem(Problem):
    """The first bad thing in the chain of batches; ``request`` is the event's source and id."""

    def __str__(self) -> str:
        row = "" if self.sequence is None else f" event {self.sequence} ({self.request})"
        return f"{self.tenant}{row}: {self.what}"


def verify(connection: Connection) -> list[Problem]:
    """Check every event: an empty list means that all are there and as they were recorded, else the first bad one.

    Each batch must follow the one before it and carry the hash of what it says, of that one and of its events; each
    tenant's sequence must have no gap, and each event a batch and a tenant.
    """
    first = next(_problems(connection), None)
    return [] if first is None else [first]


def _problems(connection: Connection) -> Iterator[Problem]:
    newest: dict[str, int] = {}
    previous, at, total = GENESIS, 0, 0
    for number, (batch, rows) in enumerate(_batches(connection), start=1):
        if batch["number"] != number:
            yield _of_batch(number, "it is missing")
        if batch["previous"] != previous or batch["at"] < at:
            yield _of_batch(number, "it does not follow the batch before it")
        yield from _bad(batch, rows, newest)
        previous, at, total = batch["hash"], batch["at"], total + len(rows)
    if (count := _COUNT.one(connection)) is not None and count[0] != total:
        yield EventProblem("?", None, None, f"{count[0] - total} events have no batch")
    for row in _STRANGERS.run(connection).fetchall():
        yield EventProblem(row[0], None, None, "there are events of this tenant, but no such tenant")


def _bad(batch: dict[str, Any], rows: Sequence[Recorded], newest: dict[str, int]) -> Iterator[Problem]:
    lines = [line_of(row) for row in rows]
    checks, stored = checks_of(lines), bytes(batch["checks"])
    for place, row in enumerate(rows):
        if row.sequence != newest.get(row.tenant, 0) + 1:
            yield _of_event(row, "an event is missing before it")
        if checks[4 * place : 4 * place + 4] != stored[4 * place : 4 * place + 4]:
            what = "it is not what was recorded"
            if len(rows) != batch["events"]:
                what = f"{len(rows)} of the {batch['events']} events of its batch are there; here they begin to differ"
            yield _of_event(row, what)
        newest[row.tenant] = row.sequence
    if len(rows) != batch["events"]:
        yield _of_batch(batch["number"], f"{len(rows)} of its {batch['events']} events are there")
    if batch["hash"] != batch_hash(batch, lines):
        yield _of_batch(batch["number"], "its hash is not of what it says")


def _batches(connection: Connection) -> Iterator[tuple[dict[str, Any], list[Recorded]]]:
    """Every batch in order, with its events in the order that the hash has them."""
    names = ("number", "key", "events", "checks", "previous", "hash", "at")
    batches = [dict(zip(names, row, strict=True)) for row in _BATCHES.run(connection, after=0).fetchall()]
    while batches:
        count = list(itertools.accumulate(batch["events"] for batch in batches))
        some = batches[: max(1, sum(n <= _ROWS for n in count))]
        rows: dict[int, list[Recorded]] = {batch["number"]: [] for batch in some}
        for number, *row in _EVENTS.run(connection, first=some[0]["number"], last=some[-1]["number"]).fetchall():
            rows.setdefault(number, []).append(Recorded(*row))
        yield from ((batch, sorted(rows[batch["number"]])) for batch in some)
        after = some[-1]["number"]
        batches = [dict(zip(names, row, strict=True)) for row in _BATCHES.run(connection, after=after).fetchall()]


_BATCHES = Statement(
    "SELECT number, key, events, checks, previous, hash, at FROM event_batches WHERE number > :after "
    "ORDER BY number LIMIT 100"
)
_EVENTS = Statement(
    "SELECT e.batch, e.tenant, e.sequence, s.source, e.event, e.meter, e.units, e.at FROM events e "
    "JOIN event_sources s ON s.id = e.source WHERE e.batch BETWEEN :first AND :last"
)
_COUNT = Statement("SELECT COUNT(*) FROM events")
_STRANGERS = Statement("SELECT DISTINCT tenant FROM events WHERE tenant NOT IN (SELECT id FROM tenants)")


def _of_event(row: Recorded, what: str) -> Problem:
    return EventProblem(row.tenant, row.sequence, f"{row.source} {row.id}", what)


def _of_batch(number: int, what: str) -> Problem:
    return EventProblem("?", None, None, f"batch {number} of events: {what}")
