"""Which plan a tenant was on from when, and what it cost: what the monthly fees of a month are made of.

Prices are announced: whenever the project file is used and says other prices than were announced last, the terms in
force and those to come are written down, with the moment from which each holds, never one that has passed. An
announcement replaces what had not begun of the one before. So an edited price holds from the moment on at which it was
first seen, and what was in force before stays known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

from sqlalchemy import Connection, insert, select, text
from sqlalchemy.dialects import postgresql, sqlite
from ulid import ULID

from feilun.accounts.terms import Schedule, Terms
from feilun.bill.schedule import Segment, Window
from feilun.errors import AccessError, ConflictError, SettingError
from feilun.store import seals, tables
from feilun.store.database import Database, now_us
from feilun.store.money import MOST
from feilun.store.periods import bounds

DAY_US = 86_400 * 10**6
Prices = tuple[tuple[int, Terms], ...]  # terms by the moment from which they hold


@dataclass(frozen=True)
class PlanHistory:
    """A tenant's plans by the moment from which it was on them, and what each plan cost from when on."""

    tenant: str
    assignments: tuple[tuple[int, str], ...]
    schedules: Mapping[str, Schedule]

    def segments(self, period: str) -> tuple[Segment, ...]:
        """A month (UTC), cut where the plan or its price changed; without the time before there was the tenant.

        Raises:
            SettingError: nothing is known of a plan's prices.
        """
        begins, ends = bounds(period)
        found: list[Segment] = []
        for (since, plan), until in zip(self.assignments, self._ends(), strict=True):
            for segment in self._priced(plan, (max(since, begins), min(until, ends))):
                last = found[-1] if found else None
                if last and (last.ends, last.plan, last.terms) == (segment.begins, segment.plan, segment.terms):
                    found[-1] = Segment(last.begins, segment.ends, last.plan, last.terms)
                else:
                    found.append(segment)
        return tuple(found)

    def trials(self) -> dict[str, Window]:
        """By plan, its trial: from when the tenant first was on it, for as long as its terms said then."""
        begun: dict[str, int] = {}
        for since, plan in self.assignments:
            begun.setdefault(plan, since)  # coming back begins no trial, also where there was none the first time
        days = {plan: self._schedule(plan).at(since).trial_days for plan, since in begun.items()}
        return {plan: (since, since + days[plan] * DAY_US) for plan, since in begun.items() if days[plan]}

    def _ends(self) -> list[int]:
        return [*(since for since, _ in self.assignments[1:]), MOST]

    def _priced(self, plan: str, time: Window) -> Iterator[Segment]:
        begins, ends = time
        if begins >= ends:
            return
        schedule = self._schedule(plan)
        cuts = [us for us, _ in schedule.entries if begins < us < ends]
        for start, stop in zip([begins, *cuts], [*cuts, ends], strict=True):
            yield Segment(start, stop, plan, schedule.at(start))

    def _schedule(self, plan: str) -> Schedule:
        if plan not in self.schedules:
            raise SettingError(
                f"nothing is known of what plan '{plan}' costs",
                where="[bill.plans]",
                hint=f"tenant '{self.tenant}' was on it; put it back into the project file",
                code="unknown-plan",
            )
        return self.schedules[plan]


def announce(database: Database, plans: Mapping[str, Schedule]) -> int:
    """Write down what changed of the prices of ``plans`` since they were last announced; returns how many did."""
    with database.read() as connection:
        if not any(_news(_announced(connection), plans, now_us(connection))):
            return 0
    return database.write(lambda connection: record(connection, plans), order="plan_prices")


def record(connection: Connection, plans: Mapping[str, Schedule], at: int | None = None) -> int:
    """The same within a transaction that writes. ``at`` is the moment of the announcement, now where it is left out."""
    if connection.dialect.name == "postgresql":  # two announcements at once would each miss the other
        connection.execute(text("LOCK TABLE plan_prices IN SHARE ROW EXCLUSIVE MODE"))
    newest = connection.execute(select(tables.plan_prices.c.at).order_by(tables.plan_prices.c.at.desc()).limit(1))
    now = max(now_us(connection) if at is None else at, (newest.scalar() or 0) + 1)
    count = 0
    for plan, prices in _news(_announced(connection), plans, now):
        for begins, terms in prices:
            _keep(connection, terms, now)
            row = {"id": str(ULID()), "plan": plan, "version": terms.version, "begins_at": begins, "at": now}
            connection.execute(insert(tables.plan_prices).values(row))
            seals.seal(connection, "plan_prices", row)
        count += 1
    return count


def schedules(
    connection: Connection, plans: Mapping[str, Schedule] | None = None, *, as_of: int | None = None
) -> dict[str, Schedule]:
    """What each plan cost from when on: as announced, and as it would be if ``plans`` were announced now.

    What was announced first also holds for the time before: nothing else is known of it.

    Args:
        plans: what the project file says, for drafts; leave it out to know what was written down.
        as_of: the moment up to which announcements count, in microseconds since 1970, UTC; all where it is left out.

    Raises:
        ConflictError: terms were changed behind our back.
    """
    announced = {}
    for plan, each in _announced(connection).items():
        announced[plan] = [prices for prices in each if as_of is None or prices[0][0] <= as_of] or each[:1]
    newest = max((each[-1][0][0] for each in announced.values()), default=0)
    now = max(now_us(connection) if as_of is None else as_of, newest + 1)
    for plan, prices in _news(announced, plans or {}, now):
        announced.setdefault(plan, []).append(prices)
    return {plan: _flattened(each) for plan, each in announced.items()}


def of_tenant(
    connection: Connection, tenant: str, schedules: Mapping[str, Schedule], *, as_of: int | None = None
) -> PlanHistory:
    """A tenant's plans from when it was made on, up to ``as_of`` where it is given.

    Raises:
        AccessError: there is no such tenant.
    """
    table = tables.assignments.c
    query = select(table.at, table.plan).where(table.tenant == tenant).order_by(table.at, table.id)
    assigned = [(int(at), str(plan)) for at, plan in connection.execute(query)]
    if not assigned:
        owner = connection.execute(select(tables.tenants).where(tables.tenants.c.id == tenant)).one_or_none()
        if owner is None:
            raise AccessError(f"there is no tenant '{tenant[:80]}'", status=404, hint="feilun tenant list")
        assigned = [(int(owner.created_at), str(owner.plan))]
    known = [one for one in assigned if as_of is None or one[0] <= as_of] or assigned[:1]
    return PlanHistory(tenant, tuple(known), schedules)


def _news(
    announced: Mapping[str, Sequence[Prices]], plans: Mapping[str, Schedule], now: int
) -> Iterator[tuple[str, Prices]]:
    """Each plan whose prices from now on are not what was announced, with what they are."""
    for plan, schedule in plans.items():
        wanted = _from(schedule, now)
        if plan not in announced or _versions(wanted) != _versions(_from(_flattened(announced[plan]), now)):
            yield plan, wanted


def _from(schedule: Schedule, now: int) -> Prices:
    """What is in force now, and what begins later."""
    found = [(now, schedule.at(now))]
    for begins, terms in schedule.entries:
        if begins > now and terms.version != found[-1][1].version:
            found.append((begins, terms))
    return tuple(found)


def _versions(prices: Prices) -> list[tuple[int, str]]:
    return [(begins, terms.version) for begins, terms in prices]


def _flattened(announcements: Sequence[Prices]) -> Schedule:
    """Announcements of one plan, oldest first, as what was really in force from when on."""
    ends = [*(prices[0][0] for prices in announcements[1:]), MOST]
    found: list[tuple[int, Terms]] = []
    for prices, end in zip(announcements, ends, strict=True):
        for begins, terms in prices:
            if begins < end and not (found and found[-1][1].version == terms.version):
                found.append((begins if found else 0, terms))
    return Schedule(tuple(found))


def _announced(connection: Connection, as_of: int | None = None) -> dict[str, list[Prices]]:
    rows, prices = tables.plan_prices.c, tables.prices.c
    query = (
        select(rows.plan, rows.at, rows.begins_at, rows.version, prices.terms)
        .join(tables.prices, prices.version == rows.version)
        .order_by(rows.plan, rows.at, rows.begins_at)
    )
    if as_of is not None:
        query = query.where(rows.at <= as_of)
    found: dict[str, list[Prices]] = {}
    for (plan, _), group in groupby(connection.execute(query), key=lambda row: (row.plan, row.at)):
        entries = ((int(row.begins_at), _checked(row.version, row.terms)) for row in group)
        found.setdefault(plan, []).append(tuple(entries))
    return found


@lru_cache(maxsize=1_024)
def _checked(version: str, written: str) -> Terms:
    terms = Terms.from_json(written)
    if terms.version != version:
        raise ConflictError(
            f"the terms of price version {version[:12]} were changed",
            where="table prices",
            hint="restore a backup",
            code="ledger-broken",
        )
    return terms


def _keep(connection: Connection, terms: Terms, at: int) -> None:
    upsert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    row = {"version": terms.version, "terms": terms.as_json(), "at": at}
    connection.execute(upsert(tables.prices).values(row).on_conflict_do_nothing())
