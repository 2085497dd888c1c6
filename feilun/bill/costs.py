"""What serving cost in a span of time: measured processor time by what it was used for, and what is paid by the month.

Processor time of the span, in core-nanoseconds:

    requests   the engine's time of the requests that were answered (``usage.compute_ns``)
    overhead   all else that gateways did: HTTP, the ledger, runs whose answer was lost
    loads      loading releases and warming them up
    idle       wall time by cores of the machines that gateways ran on, less all that they used
    training   each finished run that went into a release, shared over the requests which that has answered so far

Requests, overhead, loads and idle sum to what the machines offered. Requests that no gateway's row covers (those of a
gateway that was killed, in its last seconds, or from before there were such rows) come on top, as ``unsampled_ns``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from typing import NamedTuple

from sqlalchemy import Connection, func, select

from feilun.bill.settings import BillSettings
from feilun.bill.shares import allocate, half_even
from feilun.errors import SettingError
from feilun.store import gateways, lineage, tables
from feilun.store.database import now_us
from feilun.store.gateways import DAY_US
from feilun.store.money import Money
from feilun.store.periods import bounds, period_of
from feilun.store.runs import FINISHED

HOUR_NS = 3_600 * 10**9
GB = 10**9
Runs = frozenset[str]  # a group of runs, by the releases that all of them went into


class Window(NamedTuple):
    """From ``begins`` to ``ends``, which is not in it, in microseconds since 1970; ``period`` is None for all time."""

    period: str | None
    begins: int
    ends: int

    def days(self) -> Iterator[tuple[int, int, int]]:
        """Each day, as days since 1970, with where it begins and ends within the window."""
        for day in range(self.begins // DAY_US, -(-self.ends // DAY_US)):
            yield day, max(self.begins, day * DAY_US), min(self.ends, (day + 1) * DAY_US)


def window(connection: Connection, period: str | None) -> Window:
    """The part of a month that is over; for None, all time since anything was written.

    Raises:
        SettingError: the month has not begun.
    """
    now = now_us(connection)
    if period is None:
        columns = (tables.usage.c.at, tables.gateways.c.at, tables.artifacts.c.created_at, tables.runs.c.finished_at)
        firsts = [connection.execute(select(func.min(column))).scalar() for column in columns]
        known = [first for first in firsts if first is not None]
        newest = connection.execute(select(func.max(tables.usage.c.at))).scalar() or 0
        return Window(None, min(known, default=now), max(now, newest + 1))
    begins, ends = bounds(period)
    if now < begins:
        raise SettingError(f"{period} has not begun", hint="months are calendar months in UTC")
    return Window(period, begins, min(ends, now + 1))


@dataclass(frozen=True)
class Measured:
    """Core-nanoseconds of a window. ``requests + overhead + loads + idle = offered + unsampled``, always."""

    requests_ns: int
    overhead_ns: int
    loads_ns: int
    idle_ns: int
    offered_ns: int  # wall time by cores
    used_ns: int  # processor time of the gateways
    engine_ns: int  # of it: running models, whether or not the answer was given
    unsampled_ns: int


def measured(requests_ns: int, used: Mapping[int, gateways.Used]) -> Measured:
    """Divide what gateways used and what they were offered, given the engine's time of the answered requests."""
    core = sum(day.core for day in used.values())
    loads = sum(day.load for day in used.values())
    known = max(core, requests_ns + loads)
    offered = max(core, sum(day.offered for day in used.values()))  # a machine cannot give more than it has
    return Measured(
        requests_ns=requests_ns,
        overhead_ns=known - requests_ns - loads,
        loads_ns=loads,
        idle_ns=offered - core,
        offered_ns=offered,
        used_ns=core,
        engine_ns=sum(day.engine for day in used.values()),
        unsampled_ns=known - core,
    )


class Trained(NamedTuple):
    """Core-nanoseconds of runs: by the releases that they went into, and what went into none.

    ``failed`` and ``unused`` are those that ended within the window; ``unused`` finished, and no release came of them.
    """

    groups: dict[Runs, int]
    failed: int
    unused: int


def trained(connection: Connection, span: Window) -> Trained:
    """Every run is in exactly one group, or in none: how many releases came of it does not matter."""
    releases = connection.execute(select(tables.releases.c.digest).order_by(tables.releases.c.digest)).scalars()
    served_by: dict[str, set[str]] = defaultdict(set)
    for release in releases:
        for link in lineage.ancestors(connection, release):
            served_by[link.digest].add(release)
    runs = tables.runs.c
    inside = (runs.finished_at >= span.begins) & (runs.finished_at < span.ends)
    query = select(runs.output, runs.outcome, inside, func.sum(runs.core_ns))
    groups: dict[Runs, int] = defaultdict(int)
    failed = unused = 0
    for output, outcome, within, core_ns in connection.execute(
        query.group_by(runs.output, runs.outcome, inside).order_by(runs.output, runs.outcome)
    ):
        if outcome == FINISHED and output in served_by:
            groups[frozenset(served_by[output])] += int(core_ns)
        elif within and outcome == FINISHED:
            unused += int(core_ns)
        elif within:
            failed += int(core_ns)
    return Trained(dict(groups), failed, unused)


def stored(connection: Connection, span: Window) -> dict[int, Fraction]:
    """GB-months (10**9 bytes, calendar months) of artefacts in each day of the window, exactly."""
    artifacts = tables.artifacts.c
    rows = connection.execute(
        select(artifacts.created_at, artifacts.bytes).where(artifacts.created_at < span.ends).order_by("created_at")
    ).all()
    days: dict[int, Fraction] = {}
    there = i = 0
    for day, begins, ends in span.days():
        byte_us = there * (ends - begins)
        while i < len(rows) and rows[i].created_at < ends:
            byte_us += rows[i].bytes * (ends - max(begins, rows[i].created_at))
            there += rows[i].bytes
            i += 1
        days[day] = Fraction(byte_us, GB * _month_us(begins))
    return days


def months(span: Window) -> dict[int, Fraction]:
    """What part of its calendar month each day of the window is."""
    return {day: Fraction(ends - begins, _month_us(begins)) for day, begins, ends in span.days()}


def _month_us(at: int) -> int:
    begins, ends = bounds(period_of(at))
    return ends - begins


def price(amount: Money, shares: Mapping[int, Fraction]) -> dict[int, int]:
    """What so many months of something cost by day, in nano-units: rounded once, for all days, and then divided."""
    whole = sum(shares.values(), Fraction(0)) * amount.nano
    nano = half_even(whole.numerator, whole.denominator)
    return dict(zip(shares, proportional(nano, list(shares.values())), strict=True))


def proportional(nano: int, shares: Sequence[Fraction]) -> list[int]:
    """``allocate`` by fractions."""
    common = lcm(*(share.denominator for share in shares))
    return divide(nano, [int(share * common) for share in shares])


def divide(nano: int, weights: Sequence[int]) -> list[int]:
    """``allocate`` of an amount that may be below 0; in equal parts where every weight is 0."""
    if not any(weights):
        weights = [1] * len(weights)
    parts = allocate(abs(nano), weights)
    return parts if nano >= 0 else [-part for part in parts]


def of_core_time(settings: BillSettings, nanoseconds: Sequence[int]) -> list[int]:
    """The price of several core times in nano-units: rounded once, for all of them, and then divided."""
    whole = half_even(sum(nanoseconds) * settings.core_hour.nano, HOUR_NS)
    return allocate(whole, nanoseconds) if any(nanoseconds) else [0] * len(nanoseconds)
