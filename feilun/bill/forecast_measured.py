"""What the project's own usage shows: the past that a forecast draws from again."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, func, select

from feilun.bill.forecast_draws import MONTH_DAYS, Measured, Part
from feilun.bill.forecast_settings import ForecastSettings
from feilun.bill.shares import allocate
from feilun.store import tables
from feilun.store.database import Database, now_us
from feilun.store.money import half_even

GIGABYTE = 10**9
DAY_US = 86_400 * 10**6
LEAST_DAYS = 7  # below that, days are too few to be drawn again, and runs of requests stand in for them
MOST_PARTS = 200
NEWEST = 20_000  # requests that are looked at one by one
SALES = "/v1/products/%"  # downloads are no requests to a model


def measure(
    database: Database, settings: ForecastSettings, *, core_hour_nano: int, fixed_nano: int, gigabyte_nano: int = 0
) -> Measured:
    """The newest ``measured_days`` of usage, by the database's clock.

    Args:
        database: where usage, gateways and runs are.
        settings: of the forecast.
        core_hour_nano: price of one core for an hour.
        fixed_nano: fixed costs of a month.
        gigabyte_nano: price of a gigabyte (10**9 bytes) stored for a month; what is stored now is taken to stay.
    """
    with database.read() as connection:
        now = now_us(connection)
        since = now - settings.measured_days * DAY_US
        by_day = _by_day(connection, since)
        if settings.more_per_request:
            _count_more(connection, since, by_day)
        handled = _handled(connection, since)
        if len(by_day) >= LEAST_DAYS:
            parts = [_part([row], handled.get(day, 0)) for day, row in sorted(by_day.items())]
            parts_are = "days"
        else:
            requests = sum(row[0] for row in by_day.values())
            ours = sum(handled.get(day, 0) for day in by_day) * min(requests, NEWEST) // max(1, requests)
            parts = _runs_of_requests(connection, since, ours)
            parts_are = "runs of requests"
        return Measured(
            parts=_at_most(parts, MOST_PARTS),
            parts_are=parts_are,
            customers=_customers(connection, since, now),
            training_ns=_training(connection, since, now),
            fixed_nano=fixed_nano + half_even(_stored_bytes(connection) * gigabyte_nano, GIGABYTE),
            core_hour_nano=core_hour_nano,
        )


Row = tuple[int, dict[str, int], int]  # requests, units, engine's nanoseconds


def _answers(since: int) -> Any:
    usage = tables.usage.c
    return (usage.at >= since) & usage.route.not_like(SALES)


def _by_day(connection: Connection, since: int) -> dict[int, Row]:
    usage = tables.usage.c
    day = usage.at.op("/")(DAY_US)  # both databases divide whole numbers to whole numbers
    sums = (func.sum(usage.inputs), func.sum(usage.tokens), func.sum(usage.compute_ns))
    query = select(day.label("day"), func.count(), *sums).where(_answers(since)).group_by("day")
    found: dict[int, Row] = {}
    for at, requests, inputs, tokens, compute_ns in connection.execute(query):
        found[int(at)] = (int(requests), {"inputs": int(inputs), "tokens": int(tokens)}, int(compute_ns))
    return found


def _count_more(connection: Connection, since: int, by_day: dict[int, Row]) -> None:
    """Add the meters that have no column of their own."""
    usage = tables.usage.c
    query = select(usage.at, usage.more).where(_answers(since), usage.more.is_not(None))
    for at, text in connection.execute(query.execution_options(yield_per=10_000)):
        units = by_day[at // DAY_US][1]
        for meter, n in json.loads(text).items():
            units[meter] = units.get(meter, 0) + n


def _handled(connection: Connection, since: int) -> dict[int, int]:
    """Processor time of gateways, by day, that was neither the engine's nor spent on loading."""
    gateways = tables.gateways.c
    rest = gateways.core_ns - gateways.engine_ns - gateways.load_ns
    day = gateways.at.op("/")(DAY_US).label("day")
    query = select(day, func.sum(rest)).where(gateways.at >= since).group_by("day")
    return {int(at): max(0, int(ns)) for at, ns in connection.execute(query)}


def _runs_of_requests(connection: Connection, since: int, handled_ns: int) -> list[Part]:
    """The newest requests in order, cut into runs: what came together stays together."""
    usage = tables.usage.c
    columns = (usage.inputs, usage.tokens, usage.compute_ns, usage.more)
    query = select(*columns).where(_answers(since)).order_by(usage.at.desc(), usage.request.desc()).limit(NEWEST)
    rows: list[Row] = []
    for inputs, tokens, compute_ns, more in connection.execute(query):
        units = {"inputs": int(inputs), "tokens": int(tokens)} | (json.loads(more) if more else {})
        rows.append((1, units, int(compute_ns)))
    shares = allocate(handled_ns if rows else 0, [1] * len(rows))
    return [_part([row], ns) for row, ns in zip(rows, shares, strict=True)]


def _part(rows: Iterable[Row], handling_ns: int) -> Part:
    units: dict[str, int] = defaultdict(int)
    requests = answering = 0
    for count, each, compute_ns in rows:
        requests, answering = requests + count, answering + compute_ns
        for meter, n in each.items():
            units[meter] += n
    return Part(requests, dict(units), answering, handling_ns)


def _at_most(parts: Sequence[Part], most: int) -> tuple[Part, ...]:
    """Neighbours together, where there are more than ``most``."""
    size = -(-len(parts) // most) if parts else 1
    groups = [parts[i : i + size] for i in range(0, len(parts), size)]
    return tuple(
        _part([(p.requests, dict(p.units), p.answering_ns) for p in group], sum(p.handling_ns for p in group))
        for group in groups
    )


def _customers(connection: Connection, since: int, now: int) -> tuple[float, ...]:
    """Requests in 30 days of each tenant that asked anything, from the time that it was there; at least a day."""
    usage, tenants = tables.usage.c, tables.tenants.c
    query = (
        select(usage.tenant, tenants.created_at, func.count())
        .select_from(tables.usage.join(tables.tenants, tenants.id == usage.tenant))
        .where(_answers(since))
        .group_by(usage.tenant, tenants.created_at)
        .order_by(usage.tenant)
    )
    return tuple(
        count * MONTH_DAYS / max(1.0, (now - max(since, created_at)) / DAY_US)
        for _, created_at, count in connection.execute(query)
    )


def _stored_bytes(connection: Connection) -> int:
    return int(connection.execute(select(func.sum(tables.artifacts.c.bytes))).scalar() or 0)


def _training(connection: Connection, since: int, now: int) -> int:
    """Processor time of all runs, the failed ones too, for 30 days; a younger project's is not multiplied up."""
    runs = tables.runs.c
    query = select(func.sum(runs.core_ns), func.min(runs.finished_at)).where(runs.finished_at >= since)
    spent, first = connection.execute(query).one()
    if spent is None:
        return 0
    elapsed = max(MONTH_DAYS * DAY_US, now - int(first))
    return int(spent) * MONTH_DAYS * DAY_US // elapsed
