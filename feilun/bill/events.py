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
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

from feilun.store.events import FUTURE_US, newest
from feilun.store.periods import bounds, period_of

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


def totals(
    connection: Connection, tenant: str, period: str, aggregates: Mapping[str, str], cuts: Sequence[int] = ()
) -> list[Total]:
    """What the invoice of ``period`` has to rate: that month, and each earlier one with events that are not covered.

    Ordered by period, segment and meter. All months are aggregated from one snapshot if the connection has one.

    Args:
        aggregates: by meter, one of ``AGGREGATES``; a meter that is not named is summed.
        cuts: times at which the tenant's prices change, whenever: those within a month divide it into segments.
    """
    last = newest(connection, tenant)
    if not last:
        return []
    found: list[Total] = []
    for month, watermark in _months(connection, tenant, period, last):
        found += _month(connection, _Month(tenant, month, watermark, last, cuts), aggregates)
    return found


def of_month(
    connection: Connection,
    of: tuple[str, str],
    marks: tuple[int, int],
    aggregates: Mapping[str, str],
    cuts: Sequence[int] = (),
) -> list[Total]:
    """The same for one tenant and month (``of``), where invoices cover what is up to the first of ``marks``.

    Args:
        marks: sequences: what was covered, and what is there; as they were when some invoice was made, say.
    """
    return list(_month(connection, _Month(*of, *marks, cuts), aggregates)) if marks[1] else []


def recount(total: Total, ends: int) -> str:
    """The query that gives ``units - before`` (sum, count) or ``units`` (max, latest) of a total again, on either
    database; ``ends`` is where its segment ends."""
    where = f"FROM events WHERE tenant = '{total.tenant}' AND meter = '{total.meter}'"
    where += f" AND at >= {total.begins} AND at < {ends} AND sequence <= {total.last or total.watermark}"
    if total.aggregate == "latest":
        return f"SELECT units {where} ORDER BY at DESC, sequence DESC LIMIT 1"
    if total.aggregate == "max":
        return f"SELECT MAX(units) {where}"
    what = "SUM(units)" if total.aggregate == "sum" else "COUNT(*)"
    return f"SELECT {what} {where} AND sequence > {total.watermark}"


class _Month(NamedTuple):
    """The events of one tenant and month, up to sequence ``last``; invoices cover those up to ``watermark``."""

    tenant: str
    period: str
    watermark: int
    last: int
    cuts: Sequence[int]


def _months(connection: Connection, tenant: str, period: str, last: int) -> Iterator[tuple[str, int]]:
    """The months to look at, oldest first, each with the sequence up to which invoices cover its events."""
    query = text("SELECT period, last_event FROM invoices WHERE tenant = :tenant AND last_event > 0")
    covered = [(r.period, int(r.last_event)) for r in connection.execute(query, {"tenant": tenant})]

    def watermark(month: str) -> int:
        return max((upto for of, upto in covered if of >= month), default=0)

    begins, _ = bounds(period)
    earlier = period_of(begins - 1)
    values = {"tenant": tenant, "after": watermark(earlier), "last": last, "begins": begins}
    oldest = connection.execute(_OLDEST_LATE, values).scalar()
    while oldest is not None and (month := period_of(int(oldest))) < period:
        yield month, watermark(month)
        oldest = bounds(month)[1]
    yield period, watermark(period)


_OLDEST_LATE = text(
    "SELECT MIN(at) FROM events WHERE tenant = :tenant AND sequence > :after AND sequence <= :last AND at < :begins"
)


def _month(connection: Connection, month: _Month, aggregates: Mapping[str, str]) -> Iterator[Total]:
    begins, ends = bounds(month.period)
    segments = [begins, *sorted({cut for cut in month.cuts if begins < cut < ends})]
    values = {"tenant": month.tenant, "begins": begins, "ends": ends, "last": month.last, "mark": month.watermark}
    values["first"] = _first(connection, month, begins - FUTURE_US)
    segment = _segment(segments)
    latest = {}
    if "latest" in aggregates.values():
        for upto in ("mark", "last"):
            rows = connection.execute(text(_LATEST.format(segment=segment, upto=upto)), values)
            latest[upto] = {(int(r.segment), r.meter): int(r.units) for r in rows}
    for row in connection.execute(text(_SUMS.format(segment=segment)), values).all():
        key = (int(row.segment), row.meter)
        aggregate = aggregates.get(row.meter, "sum")
        if aggregate == "latest":
            before, units = (latest[upto].get(key, 0) for upto in ("mark", "last"))
        else:
            before, units = (int(getattr(row, f"{side}_{aggregate}") or 0) for side in ("before", "all"))
        new = (int(row.all_count - row.before_count), int(row.first or 0), int(row.last or 0))
        yield Total(month.tenant, month.period, *key, aggregate, before, units, *new, month.watermark)


_ROWS = (
    "FROM events WHERE tenant = :tenant AND sequence >= :first AND sequence <= :last AND at >= :begins AND at < :ends"
)
_SUMS = f"""SELECT {{segment}} AS segment, meter,
COUNT(*) AS all_count, SUM(units) AS all_sum, MAX(units) AS all_max,
COUNT(CASE WHEN sequence <= :mark THEN 1 END) AS before_count,
SUM(CASE WHEN sequence <= :mark THEN units END) AS before_sum,
MAX(CASE WHEN sequence <= :mark THEN units END) AS before_max,
MIN(CASE WHEN sequence > :mark THEN sequence END) AS first, MAX(CASE WHEN sequence > :mark THEN sequence END) AS last
{_ROWS} GROUP BY 1, 2 ORDER BY 1, 2"""
_LATEST = f"""SELECT segment, meter, units FROM (SELECT {{segment}} AS segment, meter, units,
ROW_NUMBER() OVER (PARTITION BY {{segment}}, meter ORDER BY at DESC, sequence DESC) AS place
{_ROWS} AND sequence <= :{{upto}}) AS placed WHERE place = 1"""


def _segment(begins: Sequence[int]) -> str:
    """SQL for where the segment of a row begins; integers only, so nothing needs quoting."""
    if len(begins) == 1:
        return f"CAST({begins[0]} AS BIGINT)"
    cases = " ".join(f"WHEN at < {after} THEN {at}" for at, after in itertools.pairwise(begins))
    return f"CAST(CASE {cases} ELSE {begins[-1]} END AS BIGINT)"


def _first(connection: Connection, month: _Month, recorded: int) -> int:
    """A sequence before which nothing of the month can be: events are refused that lie further in the future.

    Both batches and sequences are in the order of recording, so it is found by halving, whatever there is before.
    """
    last = connection.execute(text("SELECT MAX(number) FROM event_batches")).scalar() or 0
    batch = _halve(connection, text("SELECT at FROM event_batches WHERE number = :at"), {}, int(last), recorded)
    one = text("SELECT batch FROM events WHERE tenant = :tenant AND sequence = :at")
    return _halve(connection, one, {"tenant": month.tenant}, month.last, batch)


def _halve(connection: Connection, query: Any, values: Mapping[str, Any], last: int, wanted: int) -> int:
    """The first of 1..last for which ``query`` gives at least ``wanted``; last + 1 where none does."""
    low, high = 1, last + 1
    while low < high:
        middle = (low + high) // 2
        if int(connection.execute(query, {**values, "at": middle}).scalar_one()) < wanted:
            low = middle + 1
        else:
            high = middle
    return low
