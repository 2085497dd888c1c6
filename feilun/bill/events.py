"""Units of what other services reported, by tenant, meter, month and price segment: SQL alone, over the rows.

Which events an invoice covers. Events come in any order, so a tenant's events do not lie in its ledger month by month.
An event of month M with sequence S is covered once there is an invoice of a period P >= M whose ``last_event`` is at
least S; the invoice of a period P therefore covers every event of P and of earlier months that no invoice covers yet
(those of earlier months are late: adjustments), up to the tenant's newest one, which becomes its ``last_event``. Events
of later months stay for later invoices, whatever their sequence. So each event is in exactly one invoice.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Connection

from feilun.store.events import FUTURE_US
from feilun.store.periods import bounds
from feilun.store.statements import Statement

AGGREGATES = ("sum", "count", "max", "latest")  # how a month's units of a meter come of its events


class Total(NamedTuple):
    """What a tenant's events of one meter come to in one price segment of one month, as the meter aggregates them.

    ``before`` is what the events come to that invoices cover already, ``units`` what all of them come to; both are
    values of the segment alone (for ``latest``: of its last event by time, then by sequence; 0 where there is none).
    ``events`` counts those that no invoice covers yet, from sequence ``first`` to ``last`` (0 and 0 where there are
    none), and ``watermark`` is the sequence up to which invoices cover this month's events.
    """

    tenant: str
    period: str
    begins: int  # of the segment, microseconds since 1970: the month's first, or one of the cuts
    meter: str
    aggregate: str
    before: int
    units: int
    events: int
    first: int
    last: int
    watermark: int


def of_month(
    connection: Connection,
    of: tuple[str, str],
    marks: tuple[int, int],
    aggregates: Mapping[str, str],
    cuts: Sequence[int] = (),
) -> list[Total]:
    """The totals of one tenant and month (``of``), ordered by segment and meter.

    Args:
        of: tenant and month.
        marks: sequences: up to where invoices cover the month's events, and up to where events are counted at all; as
            they were when some invoice was made, say.
        aggregates: by meter, one of ``AGGREGATES``; a meter that is not named is summed.
        cuts: times at which the tenant's prices change, whenever: those within the month divide it into segments.
    """
    return list(_month(connection, _Month(*of, *marks, cuts), aggregates)) if marks[1] else []


class _Month(NamedTuple):
    """The events of one tenant and month, up to sequence ``last``; invoices cover those up to ``watermark``."""

    tenant: str
    period: str
    watermark: int
    last: int
    cuts: Sequence[int]


def _month(connection: Connection, month: _Month, aggregates: Mapping[str, str]) -> Iterator[Total]:
    begins, ends = bounds(month.period)
    segments = (begins, *sorted({cut for cut in month.cuts if begins < cut < ends}))
    statement = _statement(connection.dialect.name, segments, "latest" in aggregates.values())
    values = {"tenant": month.tenant, "begins": begins, "ends": ends, "last": month.last, "mark": month.watermark}
    values["first"] = _first(connection, month, begins - FUTURE_US)
    for begun, meter, first, last, *row in statement.run(connection, **values).fetchall():
        aggregate = aggregates.get(meter, "sum")
        pairs = dict(zip(AGGREGATES, zip(row[::2], row[1::2], strict=True), strict=True))
        before, units = (int(value or 0) for value in pairs[aggregate])
        covered, count = pairs["count"]
        new = (count - covered, int(first or 0), int(last or 0))
        yield Total(month.tenant, month.period, int(begun), meter, aggregate, before, units, *new, month.watermark)


_LATEST = {  # what sorts by time, then by sequence, with the units behind it
    "sqlite": "CAST(SUBSTR(MAX({}PRINTF('%020d%020d%020d', at, sequence, units){}), 41) AS INTEGER)",
    "postgresql": "(MAX({}ARRAY[at, sequence, units]{}))[3]",
}


@lru_cache(maxsize=256)
def _statement(dialect: str, begins: tuple[int, ...], latest: bool) -> Statement:
    """The query for segments that begin then, which are integers; the latest costs most, so only where it is wanted.

    Each aggregate is there twice: of the events that invoices cover, and of all.
    """
    cases = " ".join(f"WHEN at < {after} THEN {at}" for at, after in itertools.pairwise(begins))
    segment = f"CASE {cases} ELSE {begins[-1]} END" if cases else str(begins[0])
    forms = ["SUM({}units{})", "COUNT({}1{})", "MAX({}units{})", _LATEST[dialect] if latest else "MAX({}0{})"]
    sides = (("CASE WHEN sequence <= :mark THEN ", " END"), ("", ""))
    return Statement(
        f"SELECT CAST({segment} AS BIGINT) AS segment, meter, MIN(CASE WHEN sequence > :mark THEN sequence END), "
        f"MAX(CASE WHEN sequence > :mark THEN sequence END), {', '.join(f.format(*s) for f in forms for s in sides)} "
        "FROM events WHERE tenant = :tenant AND sequence >= :first AND sequence <= :last "
        "AND at >= :begins AND at < :ends GROUP BY 1, 2 ORDER BY 1, 2"
    )


def _first(connection: Connection, month: _Month, recorded: int) -> int:
    """A sequence before which nothing of the month can be: events are refused that lie further in the future.

    Both batches and sequences are in the order of recording, so it is found by halving, whatever there is before.
    """
    row = _NEWEST_BATCH.one(connection)
    batch = _halve(connection, _BATCH_AT, {}, int(row[0]) if row and row[0] else 0, recorded)
    return _halve(connection, _BATCH_OF, {"tenant": month.tenant}, month.last, batch)


_NEWEST_BATCH = Statement("SELECT MAX(number) FROM event_batches")
_BATCH_AT = Statement("SELECT at FROM event_batches WHERE number = :place")
_BATCH_OF = Statement("SELECT batch FROM events WHERE tenant = :tenant AND sequence = :place")


def _halve(connection: Connection, query: Statement, values: Mapping[str, Any], last: int, wanted: int) -> int:
    """The first of 1..last for which ``query`` gives at least ``wanted``; last + 1 where none does."""
    low, high = 1, last + 1
    while low < high:
        middle = (low + high) // 2
        row = query.one(connection, **values, place=middle)
        if row is not None and int(row[0]) < wanted:
            low = middle + 1
        else:
            high = middle
    return low
