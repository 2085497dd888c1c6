"""What reported events come to, by SQL, against the same counted in Python."""

from __future__ import annotations

import itertools
import random

import pytest

from feilun.accounts import tenants
from feilun.bill.events import AGGREGATES, Total, of_month
from feilun.store import events
from feilun.store.database import Database, now_us
from feilun.store.events import Event, Recorded
from feilun.store.periods import bounds, period_of

METERS = dict(zip(("pages", "calls", "users", "stored"), AGGREGATES, strict=True))


def month_before(database: Database, count: int = 1) -> str:
    with database.read() as connection:
        at = now_us(connection)
    for _ in range(count):
        at = bounds(period_of(at))[0] - 1
    return period_of(at)


def expected(
    rows: list[Recorded], period: str, marks: tuple[int, int], cuts: list[int]
) -> set[tuple[int, str, int, int, int, int, int]]:
    """(segment, meter, before, units, events, first, last), counted one by one."""
    begins, ends = bounds(period)
    found = set()
    edges = [begins, *sorted({cut for cut in cuts if begins < cut < ends}), ends]
    for (start, end), (meter, aggregate) in itertools.product(itertools.pairwise(edges), METERS.items()):
        mine = [r for r in rows if start <= r.at < end and r.meter == meter and r.sequence <= marks[1]]
        if not mine:
            continue
        values = []
        for some in ([r for r in mine if r.sequence <= marks[0]], mine):
            units = [r.units for r in some]
            newest = max(some, key=lambda r: (r.at, r.sequence), default=None)
            by = {"sum": sum(units), "count": len(units), "max": max(units, default=0)}
            values.append(by.get(aggregate, newest.units if newest else 0))
        new = [r.sequence for r in mine if r.sequence > marks[0]]
        found.add((start, meter, *values, len(new), min(new, default=0), max(new, default=0)))
    return found


def said(total: Total) -> tuple[int, str, int, int, int, int, int]:
    return (total.begins, total.meter, total.before, total.units, total.events, total.first, total.last)


@pytest.mark.parametrize("seed", range(5))
def test_totals_are_what_counting_one_by_one_gives(database: Database, seed: int) -> None:
    draw = random.Random(seed)
    for tenant in ("acme", "bell"):
        tenants.create(database, tenant, plan="any")
    late, period = month_before(database, 2), month_before(database)
    times = [
        *bounds(late),
        *bounds(period),
        *(draw.randrange(*(bounds(late)[0], bounds(period)[1])) for _ in range(20)),
    ]
    given = [
        Event(
            draw.choice(["acme", "bell"]), draw.choice(list(METERS)), "s", str(n), draw.randrange(9), draw.choice(times)
        )
        for n in range(300)
    ]
    for at in range(0, 300, 50):
        database.write(lambda c, at=at: events.record(c, "k", given[at : at + 50], METERS))
    for tenant, month in itertools.product(("acme", "bell"), (late, period)):
        with database.read() as connection:
            rows = events.export(connection, tenant)
            newest = events.newest(connection, tenant)
            assert newest == len(rows) > 100
            for marks in (
                (0, newest),
                (draw.randrange(newest), newest),
                (newest, newest),
                (5, draw.randrange(5, newest)),
            ):
                for cuts in ([], draw.sample(times, 4)):
                    found = of_month(connection, (tenant, month), marks, METERS, cuts)
                    assert {said(total) for total in found} == expected(rows, month, marks, cuts)
                    assert [(t.begins, t.meter) for t in found] == sorted((t.begins, t.meter) for t in found)
                    assert all((t.tenant, t.period, t.aggregate) == (tenant, month, METERS[t.meter]) for t in found)


def test_a_tenant_without_events_has_no_totals(database: Database) -> None:
    tenants.create(database, "acme", plan="any")
    with database.read() as connection:
        assert of_month(connection, ("acme", month_before(database)), (0, 0), METERS) == []


def test_the_sum_of_the_largest_events_is_exact(database: Database) -> None:
    tenants.create(database, "acme", plan="any")
    period = month_before(database)
    at = bounds(period)[0]
    given = [Event("acme", "pages", "s", str(n), events.MOST_UNITS, at) for n in range(1_000)]
    database.write(lambda c: events.record(c, "k", given, METERS))
    with database.read() as connection:
        (total,) = of_month(connection, ("acme", period), (0, 1_000), METERS)
    assert total.units == 1_000 * events.MOST_UNITS
