"""What gateway processes used of their machines: a row every few seconds, of the time since the row before."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import NamedTuple

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects import postgresql, sqlite

from feilun.store import tables
from feilun.store.database import now_us

DAY_US = 86_400 * 10**6


@dataclass(frozen=True)
class Sample:
    """One row, before it has its time. Times are in nanoseconds; ``core_ns`` counts every thread."""

    gateway: str
    sequence: int
    machine: str
    cores: int
    wall_ns: int
    core_ns: int
    engine_ns: int
    load_ns: int


class Used(NamedTuple):
    """Core-nanoseconds of some gateways in one span of time; ``offered`` is wall time by cores of their machines."""

    offered: int
    core: int
    engine: int
    load: int


def append(connection: Connection, sample: Sample) -> None:
    """Write a row; one that is there already stays as it is, so that an unknown commit can be tried again."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    row = asdict(sample) | {"at": now_us(connection)}
    connection.execute(dialect.insert(tables.gateways).values(row).on_conflict_do_nothing())


def used(connection: Connection, begins: int, ends: int) -> dict[int, Used]:
    """What was used between two times (microseconds, the second excluded), by day: days since 1970, UTC.

    A row belongs to the day in which it was written. Gateways that ran side by side on one machine shared its cores, so
    what was offered counts the time in which any of them ran once.
    """
    g = tables.gateways.c
    day = g.at // DAY_US
    sums = (func.sum(g.core_ns), func.sum(g.engine_ns), func.sum(g.load_ns), func.sum(g.wall_ns))
    span = (func.min(g.at - g.wall_ns // 1000), func.max(g.at), func.max(g.cores))
    query = (
        select(day, g.machine, *sums, *span)
        .where(g.at >= begins, g.at < ends)
        .group_by(day, g.machine, g.gateway)
        .order_by(day, g.machine, func.min(g.at - g.wall_ns // 1000), g.gateway)
    )
    together: dict[tuple[int, str], list[_Process]] = defaultdict(list)
    for number, machine, *figures in connection.execute(query):
        together[int(number), machine].append(_Process(*(int(figure) for figure in figures)))
    days: dict[int, Used] = {}
    for (number, _), processes in together.items():
        before = days.get(number, Used(0, 0, 0, 0))
        days[number] = Used(
            before.offered + _offered(processes),
            before.core + sum(p.core for p in processes),
            before.engine + sum(p.engine for p in processes),
            before.load + sum(p.load for p in processes),
        )
    return days


class _Process(NamedTuple):
    """One gateway's sums for a day; the columns of the query in ``used``."""

    core: int
    engine: int
    load: int
    wall: int
    begun: int
    ended: int
    cores: int


def _offered(processes: Iterable[_Process]) -> int:
    """Wall time, that of several processes at once counted once, times the cores; processes by when they began."""
    wall = cores = ended = 0
    for process in processes:
        wall += process.wall - max(0, min(process.ended, ended) - process.begun) * 1000
        ended = max(ended, process.ended)
        cores = max(cores, process.cores)
    return max(0, wall) * cores
