"""Lines for what other services reported, and for levels at a month's end: independent of when and how it came.

Events come in any order, in any batches, and late. So a month's units are counted by when they happened, those of an
earlier price segment first, and an invoice charges what the month costs with all events that are there now, less what
it cost with those that earlier invoices cover. Levels ("max", "latest", stored examples) are charged once the month is
over; a late event that changes one is an adjustment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from sqlalchemy import Connection, func, select

from feilun.bill.events import Total, of_month
from feilun.bill.history import Segment
from feilun.bill.queries import Events, event_query, level_query, stored_query
from feilun.bill.rating import Line, Sums, counted_span, part_line
from feilun.store import tables
from feilun.store.periods import bounds, period_of

STORED_EXAMPLES = "stored_examples"
SUMS = ("sum", "count")
LEVELS = ("max", "latest")


class Meter(NamedTuple):
    """What the project file says of a meter: what one unit is called, and how a month's units come of its events."""

    unit: str = ""
    aggregate: str = "sum"  # one of SUMS or LEVELS


Meters = Mapping[str, Meter]


def months(connection: Connection, tenant: str, span: tuple[int, int], before: int) -> list[str]:
    """The months, oldest first, of the events of a span of sequences (both included) that happened before a moment."""
    events = tables.events.c
    mine = (events.tenant == tenant) & events.sequence.between(*span) & (events.at < before)
    found: list[str] = []
    begins = 0
    while (at := connection.execute(select(func.min(events.at)).where(mine, events.at >= begins)).scalar()) is not None:
        found.append(period_of(at))
        begins = bounds(found[-1])[1]
    return found


def month_lines(
    connection: Connection, of: tuple[Events, Events | None], segments: Sequence[Segment], meters: Meters, currency: str
) -> Iterator[Line]:
    """What a month's events add to its cost, where the price is in ``currency``.

    Args:
        of: the events by which sums go on, and those for levels, None while the month still runs: levels are charged
            once, under the month's last segment, so fewer invoices cover them.
    """
    events, levels = of
    aggregates = {meter: rule.aggregate for meter, rule in meters.items()}
    place = (events.tenant, events.period)
    found = of_month(connection, place, events.uptos, aggregates, [segment.begins for segment in segments])
    yield from _sum_lines(events, found, segments, meters, currency)
    last = segments[-1].terms
    charged = [m for m, rule in meters.items() if rule.aggregate in LEVELS and m in last.priced]
    if levels is None or not charged or last.currency != currency:
        return
    if len(segments) > 1 or levels != events:  # else they are found already: one pass over the events is enough
        found = of_month(connection, place, levels.uptos, aggregates)
    yield from _level_lines(levels, found, segments[-1], meters)


def _sum_lines(
    events: Events, found: Sequence[Total], segments: Sequence[Segment], meters: Meters, currency: str
) -> Iterator[Line]:
    counted = {(total.meter, total.begins): total for total in found if total.aggregate in SUMS}
    for meter in sorted({meter for meter, _ in counted}):
        before = after = 0
        for segment in segments:
            total = counted.get((meter, segment.begins))
            earlier, now = (total.before, total.units) if total else (0, 0)
            if segment.terms.currency == currency and meter in segment.terms.priced:
                sums = Sums()
                sums.add(meter, segment.terms.parts(meter, after, after + now))
                sums.add(meter, segment.terms.parts(meter, before, before + earlier), -1)
                yield from _lines(events, segment, (meter, meters.get(meter, Meter())), sums)
            before, after = before + earlier, after + now


def _level_lines(events: Events, found: Sequence[Total], segment: Segment, meters: Meters) -> Iterator[Line]:
    for total in found:
        if total.aggregate in LEVELS and total.meter in segment.terms.priced:
            sums = Sums()
            sums.add(total.meter, segment.terms.parts(total.meter, total.before, total.units))
            yield from _lines(events, segment, (total.meter, meters[total.meter]), sums)


def stored_lines(connection: Connection, tenant: str, period: str, segment: Segment) -> Iterator[Line]:
    """What the examples cost that a tenant had stored at a month's end: the corrections of its answers."""
    if STORED_EXAMPLES not in segment.terms.priced:
        return
    feedback = tables.feedback.c
    ends = bounds(period)[1]
    count = select(func.count()).where(feedback.tenant == tenant, feedback.at < ends)
    stored = connection.execute(count).scalar_one()
    for part in segment.terms.parts(STORED_EXAMPLES, 0, stored):
        counted = (part.kind, counted_span(segment.terms, STORED_EXAMPLES, part))
        line = Line(kind="gauge", period=period, query=stored_query(tenant, ends, counted), words=_free(segment))
        yield part_line(segment.terms, STORED_EXAMPLES, part, line)


def _lines(events: Events, segment: Segment, of: tuple[str, Meter], sums: Sums) -> Iterator[Line]:
    meter, rule = of
    is_level = rule.aggregate in LEVELS
    words = _free(segment) | {"aggregate": rule.aggregate}
    words |= {"unit": rule.unit} if rule.unit else {}
    words |= {"late": 1} if events.late else {}
    line = Line(
        kind="gauge" if is_level else "event",
        period=events.period,
        first_sequence=events.covered + 1,
        last_sequence=events.last,
        words=words,
    )
    for _, part in sums.parts():
        counted = (part.kind, counted_span(segment.terms, meter, part))
        if is_level:
            query = level_query(events, meter, rule.aggregate, counted)
        else:
            query = event_query(events, (meter, rule.aggregate), (segment.begins, segment.ends), counted)
        yield part_line(segment.terms, meter, part, replace(line, query=query))


def _free(segment: Segment) -> dict[str, str | int]:
    return {"trial": 1} if segment.free else {}
