"""A tenant's month as rating needs it: which terms price a moment, and whether it lies in a trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from sqlalchemy import Connection

from feilun.accounts.terms import Schedule, Terms
from feilun.bill import plan_history
from feilun.bill.plan_history import PlanHistory
from feilun.bill.schedule import Window
from feilun.store.periods import bounds


class Segment(NamedTuple):
    """A part of a month with one plan and one version of its terms; ``free`` where it lies in a trial."""

    begins: int
    ends: int
    plan: str
    terms: Terms
    free: bool


def read(
    connection: Connection, tenant: str, plans: Mapping[str, Schedule] | None = None, as_of: int | None = None
) -> PlanHistory:
    """What is known of a tenant's plans and of their prices.

    Args:
        plans: prices of the project file, of which some may not have been announced yet.
        as_of: leave out what came after this moment.
    """
    schedules = plan_history.schedules(connection, plans, as_of=as_of)
    return plan_history.of_tenant(connection, tenant, schedules, as_of=as_of)


def free_times(history: PlanHistory) -> tuple[Window, ...]:
    """When usage is free: in the trial of a plan, while the tenant is on it."""
    trials = history.trials()
    ends = [*(at for at, _ in history.assignments[1:]), 2**63 - 1]
    times = (
        (max(at, trials[plan][0]), min(end, trials[plan][1]))
        for (at, plan), end in zip(history.assignments, ends, strict=True)
        if plan in trials
    )
    return tuple(window for window in times if window[0] < window[1])


def segments(history: PlanHistory, period: str) -> list[Segment]:
    """All of a month in parts; before the tenant was there, what it was on first holds."""
    begins, ends = bounds(period)
    found = list(history.segments(period))
    if not found:
        plan = history.assignments[0][1]
        return [Segment(begins, ends, plan, history.schedules[plan].at(begins), free=False)]
    found[0] = replace(found[0], begins=begins)
    free = free_times(history)
    return [
        Segment(start, stop, part.plan, part.terms, any(a <= start < b for a, b in free))
        for part in found
        for start, stop in _cut(part.begins, part.ends, free)
    ]


def _cut(begins: int, ends: int, windows: tuple[Window, ...]) -> Iterator[Window]:
    inside = {at for window in windows for at in window if begins < at < ends}
    yield from pairwise(sorted({begins, ends, *inside}))
