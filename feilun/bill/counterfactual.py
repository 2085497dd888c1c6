"""What if? A month that is over, or still runs, replayed under other plans, other prices or another release.

What was charged is what the ledger and the invoices' rules give for the month; the same rules give what would have been
charged. Nobody's behaviour is changed: the same requests at the same times. Taxes are left out on both sides. Nothing
is written.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, select

from feilun.bill import coupons, history, margin, rerating
from feilun.bill.charging import Known
from feilun.bill.earnings import converter
from feilun.bill.event_lines import Meter
from feilun.bill.margin import Query, Row
from feilun.bill.other_release import Other, Swap
from feilun.bill.plan_history import PlanHistory
from feilun.bill.rating import Line
from feilun.bill.reading import snapshot
from feilun.bill.settings import BillSettings
from feilun.errors import ProjectError, SettingError, did_you_mean
from feilun.store import tables
from feilun.store.artifacts import ArtifactStore
from feilun.store.database import now_us
from feilun.store.money import half_even
from feilun.store.periods import bounds

EVERYBODY = "*"


@dataclass(frozen=True)
class Change:
    """What is to be otherwise.

    Args:
        plans: by tenant, or ``EVERYBODY`` for all others, the plan that it is to have been on since it began.
        prices: whose plans are to hold, at all times, where they have a plan of the same name.
        release: the release that is to have answered what its name answered.
    """

    plans: Mapping[str, str]
    prices: BillSettings | None = None
    release: str | None = None


@dataclass(frozen=True)
class Side:
    """A month of one customer, one way: money in nano-units of the report's currency, without taxes."""

    plan: str
    revenue_nano: int
    cost_nano: int

    @property
    def margin_nano(self) -> int:
        """Revenue less cost."""
        return self.revenue_nano - self.cost_nano


@dataclass(frozen=True)
class Customer:
    """Both ways, and of its corrected answers how many were right, and would have been."""

    tenant: str
    then: Side
    instead: Side
    judged: int = 0
    right_then: int = 0
    right_instead: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        sides = {s: asdict(side) | {"margin_nano": side.margin_nano} for s, side in self._sides()}
        return asdict(self) | sides

    def _sides(self) -> tuple[tuple[str, Side], tuple[str, Side]]:
        return ("then", self.then), ("instead", self.instead)


@dataclass(frozen=True)
class Replay:
    """The month replayed, customer by customer; ``open`` says that the month, or its grace time, still runs."""

    period: str
    currency: str
    open: bool
    customers: tuple[Customer, ...]
    release: Other | None

    @property
    def total(self) -> Customer:
        """All customers together."""
        sides = []
        for chosen in ("then", "instead"):
            each: list[Side] = [getattr(customer, chosen) for customer in self.customers]
            sides.append(Side("", sum(s.revenue_nano for s in each), sum(s.cost_nano for s in each)))
        counts = (sum(getattr(c, f) for c in self.customers) for f in ("judged", "right_then", "right_instead"))
        return Customer("", sides[0], sides[1], *counts)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        told = {"period": self.period, "currency": self.currency, "open": self.open}
        told |= {"customers": [customer.as_dict() for customer in self.customers], "total": self.total.as_dict()}
        return told | {"release": self.release.as_dict() if self.release else None}


def replay(store: ArtifactStore, settings: BillSettings, period: str, change: Change) -> Replay:
    """Replay a month. The engines of a release that has never answered are run, for what it would cost and say.

    Raises:
        SettingError: no such plan or tenant, nothing is changed, or a currency has no stated rate of exchange.
        ArtifactError: there is no such release.
    """
    from feilun.bill import other_release

    if not (change.plans or change.prices or change.release):
        raise SettingError(
            "nothing is changed", hint="say what: --plan TENANT=PLAN, --prices FILE or --release NAME@DIGITS"
        )
    costs = margin.report(store.database, settings, Query("tenant", period))
    other = other_release.of(store, settings, period, change.release) if change.release else None
    rows = {row.name: row for row in costs.rows}
    with snapshot(store.database) as connection:
        owners = connection.execute(select(tables.tenants).order_by(tables.tenants.c.id)).all()
        _check(change, settings, [owner.id for owner in owners])
        over = now_us(connection) >= bounds(period)[1] + settings.grace_us
        customers = []
        pay = _Paying(connection, settings, change, period, over)
        for owner in owners:
            row = rows.get(owner.id, Row(owner.id))
            then, instead = pay.then(owner.id, active=owner.active), pay.instead(owner.id, active=owner.active)
            if not (row.requests or then[1] or instead[1]):
                continue
            swap = other.swaps.get(owner.id, Swap()) if other else Swap()
            customers.append(
                Customer(
                    owner.id,
                    Side(*then, row.cost_nano),
                    Side(*instead, row.cost_nano + swap.cost_nano),
                    swap.judged,
                    swap.right_then,
                    swap.right_instead,
                )
            )
    return Replay(period, settings.core_hour.currency, not over, tuple(customers), other)


class _Paying:
    """What tenants were charged for a month, and would have been: plan at its end, and amount without taxes."""

    def __init__(self, connection: Connection, settings: BillSettings, change: Change, period: str, over: bool) -> None:
        self._connection = connection
        self._settings = settings
        self._change = change
        self._period = period
        self._over = over
        self._converters = converter(settings), converter(settings)

    def then(self, tenant: str, *, active: bool) -> tuple[str, int]:
        """As it was."""
        known = self._known(tenant, history.read(self._connection, tenant, self._settings.all_terms()), self._settings)
        charged = rerating.charges(self._connection, known, active=active, as_charged=True)
        return known.history.assignments[-1][1], self._sum(charged, 0)

    def instead(self, tenant: str, *, active: bool) -> tuple[str, int]:
        """As it would have been."""
        change, settings = self._change, self._change.prices or self._settings
        before = history.read(self._connection, tenant, self._settings.all_terms())
        schedules = {**before.schedules, **self._settings.all_terms()} if change.plans else dict(before.schedules)
        if change.prices is not None:
            schedules |= change.prices.all_terms()
        plan = change.plans.get(tenant) or change.plans.get(EVERYBODY)
        assignments = ((before.assignments[0][0], plan),) if plan else before.assignments
        known = self._known(tenant, PlanHistory(tenant, assignments, schedules), settings)
        same = plan is None and change.prices is None
        charged = rerating.charges(self._connection, known, active=active, as_charged=same)
        return known.history.assignments[-1][1], self._sum(charged, 1)

    def _known(self, tenant: str, plans: PlanHistory, settings: BillSettings) -> Known:
        return Known(
            tenant=tenant,
            period=self._period,
            final=self._over,
            history=plans,
            meters={n: Meter(m.unit, m.aggregate) for n, m in settings.meters_reported_by("events").items()},
            earlier=(),
            coupons=tuple(coupons.of_tenant(self._connection, tenant)),
        )

    def _sum(self, charged: Mapping[str, Sequence[Line]], side: int) -> int:
        convert = self._converters[side]
        return sum(convert(currency, sum(line.amount_nano for line in lines)) for currency, lines in charged.items())


def _check(change: Change, settings: BillSettings, tenants: Sequence[str]) -> None:
    prices = change.prices or settings
    for tenant, plan in change.plans.items():
        if tenant not in (*tenants, EVERYBODY):
            hint = did_you_mean(tenant, tenants) or "list them with: feilun tenant list"
            raise SettingError(f"there is no tenant '{tenant[:80]}'", where="--plan", hint=hint)
        prices.schedule(plan)  # says which plan is not there


def with_plan(change: Change, text: str) -> Change:
    """``change`` with ``acme=growth``, or ``growth`` for everybody.

    Raises:
        SettingError: it is neither.
    """
    tenant, equals, plan = text.rpartition("=")
    tenant = tenant if equals else EVERYBODY
    if not tenant or not plan:
        raise SettingError(f"'{text[:80]}' is not a change of plan", where="--plan", hint="write TENANT=PLAN, or PLAN")
    return replace(change, plans={**change.plans, tenant: plan})


def prices_of(file: Path) -> BillSettings:
    """The section ``[bill]`` of another project file; the rest of it does not matter.

    Raises:
        ProjectError: it cannot be read, or its section has problems; all of them are said.
    """
    try:
        declared = tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ProjectError("the prices cannot be read", where=str(file), hint=str(error)) from error
    try:
        return BillSettings.model_validate(declared.get("bill", {}))
    except ValidationError as error:
        found = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise ProjectError(f"[bill] has {len(found)} problems", where=str(file), hint="; ".join(found)) from error


def percent(part: int, whole: int) -> str:
    """For people: tenths of a percent.

    >>> percent(1, 3)
    '33.3 %'
    """
    tenths = half_even(1_000 * part, whole)
    return f"{tenths // 10}.{tenths % 10} %"
