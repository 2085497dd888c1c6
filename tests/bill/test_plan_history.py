"""Plans and prices of the past: what was announced when, and what a tenant's month is made of."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.exc import DBAPIError
from ulid import ULID

from feilun.accounts import tenants
from feilun.accounts.terms import Schedule, Terms
from feilun.bill import plan_history
from feilun.bill.plan_history import DAY_US, PlanHistory
from feilun.bill.schedule import due
from feilun.errors import AccessError, ConflictError, SettingError, UnavailableError
from feilun.store import tables
from feilun.store.database import Database
from feilun.store.money import NANO
from feilun.store.periods import bounds

NOVEMBER, DECEMBER = bounds("2026-11"), bounds("2026-12")
OLD, NEW, OTHER = (Terms("USD", monthly * NANO) for monthly in (30, 60, 90))
FIRST = NOVEMBER[0] + 5 * DAY_US


def day(number: int) -> int:
    """The first moment of a day of November, counted from 1."""
    return NOVEMBER[0] + (number - 1) * DAY_US


def announce(database: Database, at: int, **plans: Terms | Schedule) -> int:
    given = {name: p if isinstance(p, Schedule) else Schedule.always(p) for name, p in plans.items()}
    return database.write(lambda c: plan_history.record(c, given, at=at))


def known(database: Database, **more: Any) -> dict[str, tuple[tuple[int, Terms], ...]]:
    with database.read() as connection:
        return {plan: s.entries for plan, s in plan_history.schedules(connection, **more).items()}


def rows(database: Database) -> int:
    with database.read() as connection:
        return connection.execute(select(func.count()).select_from(tables.plan_prices)).scalar_one()


def test_prices_are_announced_once_and_also_hold_for_the_time_before(database: Database) -> None:
    assert announce(database, FIRST, a=OLD, b=NEW) == 2
    assert announce(database, FIRST + DAY_US, a=OLD, b=NEW) == 0
    assert known(database) == {"a": ((0, OLD),), "b": ((0, NEW),)}
    assert rows(database) == 2


def test_an_edited_price_holds_from_when_it_is_first_seen_and_never_before(database: Database) -> None:
    announce(database, FIRST, a=OLD)
    assert announce(database, day(15), a=NEW) == 1
    assert known(database)["a"] == ((0, OLD), (day(15), NEW))
    assert announce(database, day(20), a=Schedule(((0, OTHER), (day(2), NEW)))) == 0, "a date that has passed is not"
    backdated = Schedule(((0, OLD), (day(2), OTHER)))
    assert announce(database, day(25), a=backdated) == 1
    assert known(database)["a"] == ((0, OLD), (day(15), NEW), (day(25), OTHER))


def test_a_price_that_is_announced_early_begins_at_its_date(database: Database) -> None:
    plan = Schedule(((0, OLD), (day(20), NEW)))
    assert announce(database, FIRST, a=plan) == 1
    assert announce(database, day(25), a=plan) == 0
    assert known(database)["a"] == ((0, OLD), (day(20), NEW))


def test_what_was_announced_and_has_not_begun_can_be_changed_moved_and_taken_back(database: Database) -> None:
    announce(database, FIRST, a=Schedule(((0, OLD), (day(20), NEW))))
    announce(database, day(8), a=Schedule(((0, OLD), (day(20), OTHER))))
    assert known(database)["a"] == ((0, OLD), (day(20), OTHER))
    announce(database, day(9), a=Schedule(((0, OLD), (day(25), OTHER))))
    assert known(database)["a"] == ((0, OLD), (day(25), OTHER))
    announce(database, day(10), a=OLD)
    assert known(database)["a"] == ((0, OLD),)
    assert known(database, as_of=day(8))["a"] == ((0, OLD), (day(20), OTHER)), "what was known then is kept"
    assert known(database, as_of=1)["a"] == ((0, OLD), (day(20), NEW)), "before that, what was announced first"


def test_a_draft_knows_what_is_not_announced_yet(database: Database) -> None:
    announce(database, FIRST, a=OLD)
    plans = {"a": Schedule.always(NEW), "b": Schedule.always(OTHER)}
    assert known(database, plans=plans, as_of=day(9)) == {"a": ((0, OLD), (day(9), NEW)), "b": ((0, OTHER),)}
    assert known(database) == {"a": ((0, OLD),)}


def test_announcing_is_cheap_where_nothing_changed_and_uses_the_database_s_clock(database: Database) -> None:
    plans = {"a": Schedule.always(OLD)}
    assert [plan_history.announce(database, plans) for _ in range(3)] == [1, 0, 0]
    assert plan_history.announce(database, {"a": Schedule.always(NEW)}) == 1
    (_, first), (begins, last) = known(database)["a"]
    with database.read() as connection:
        now = plan_history.now_us(connection)
    assert (first, last) == (OLD, NEW) and now - 60 * 10**6 < begins <= now + 1


def test_announcements_cannot_be_changed(database: Database) -> None:
    announce(database, FIRST, a=OLD)
    with pytest.raises((UnavailableError, DBAPIError)):
        database.write(lambda c: c.execute(tables.plan_prices.update().values(begins_at=0)))


def test_terms_that_were_changed_behind_our_back_are_refused(database: Database) -> None:
    forged = {"version": OLD.version, "terms": NEW.as_json(), "at": 0}
    row = {"id": str(ULID()), "plan": "a", "version": OLD.version, "begins_at": 1, "at": 1}

    def write(connection: Any) -> None:
        connection.execute(insert(tables.prices).values(forged))
        connection.execute(insert(tables.plan_prices).values(row))

    database.write(write)
    with pytest.raises(ConflictError, match="changed"):
        known(database)


def history(*assignments: tuple[int, str], **plans: Terms | Schedule) -> PlanHistory:
    given = {name: p if isinstance(p, Schedule) else Schedule.always(p) for name, p in plans.items()}
    return PlanHistory("t", assignments, given)


def told(history: PlanHistory, period: str = "2026-11") -> list[tuple[int, int, str, Terms]]:
    return [
        ((s.begins - NOVEMBER[0]) // DAY_US + 1, (s.ends - NOVEMBER[0]) // DAY_US + 1, s.plan, s.terms)
        for s in history.segments(period)
    ]


def test_a_month_is_cut_where_the_plan_or_its_price_changed() -> None:
    known = history((day(3), "a"), (day(10), "b"), (day(20), "a"), a=Schedule(((0, OLD), (day(25), NEW))), b=OTHER)
    assert told(known) == [(3, 10, "a", OLD), (10, 20, "b", OTHER), (20, 25, "a", OLD), (25, 31, "a", NEW)]
    assert told(known, "2026-12") == [(31, 62, "a", NEW)]
    assert told(known, "2026-10") == []


def test_changes_at_one_moment_and_back_again_leave_no_trace() -> None:
    known = history((day(1), "b"), (day(1), "a"), (day(9), "b"), (day(9), "a"), a=OLD, b=NEW)
    assert told(known) == [(1, 31, "a", OLD)]


def test_a_trial_is_of_the_first_time_on_a_plan_and_as_long_as_it_was_then() -> None:
    tried, longer = Terms("USD", 30 * NANO, trial_days=7), Terms("USD", 30 * NANO, trial_days=30)
    known = history((day(3), "a"), (day(4), "b"), (day(20), "a"), a=Schedule(((0, tried), (day(15), longer))), b=OLD)
    assert known.trials() == {"a": (day(3), day(10))}


def test_a_plan_that_nothing_is_known_of_is_refused() -> None:
    with pytest.raises(SettingError, match="plan 'gone'"):
        history((day(3), "gone")).segments("2026-11")


def test_the_history_of_a_tenant_is_what_was_done_with_it(database: Database) -> None:
    plans = {"a": Schedule.always(OLD), "b": Schedule.always(NEW)}
    plan_history.announce(database, plans)
    made = tenants.create(database, "acme", plan="a")
    tenants.set_plan(database, "acme", "b")
    with database.read() as connection:
        known = plan_history.of_tenant(connection, "acme", plan_history.schedules(connection))
        then = plan_history.of_tenant(connection, "acme", {}, as_of=known.assignments[0][0])
        with pytest.raises(AccessError):
            plan_history.of_tenant(connection, "nobody", {})
    assert [plan for _, plan in known.assignments] == ["a", "b"]
    assert abs(known.assignments[0][0] - made.created_at) < 60 * 10**6
    assert [plan for _, plan in then.assignments][:1] == ["a"]


def test_a_tenant_from_before_plans_were_kept_has_been_on_its_plan_since_it_was_made(database: Database) -> None:
    row = {"id": "old", "plan": "a", "budget_nano": None, "active": True, "created_at": day(4)}
    database.write(lambda c: c.execute(insert(tables.tenants).values(row)))
    with database.read() as connection:
        known = plan_history.of_tenant(connection, "old", {"a": Schedule.always(OLD)})
    assert told(known) == [(4, 31, "a", OLD)]


def test_segments_are_what_fees_are_made_of(database: Database) -> None:
    announce(database, FIRST, a=OLD)
    announce(database, day(16), a=NEW)
    with database.read() as connection:
        month = history((day(1), "a"), **plan_history.schedules(connection)).segments("2026-11")
    assert [(s.kind, s.exact_nano) for s in due(month, NOVEMBER, {})] == [("fee", 15 * NANO), ("fee", 30 * NANO)]
