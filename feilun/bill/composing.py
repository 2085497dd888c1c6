"""A tenant's invoices of a month before they have numbers: what is charged, taxes, and the credit that pays for it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Row, func, select, text

from feilun.bill import coupons, credits, history, profiles, schedule, tax
from feilun.bill.charging import CHARGES, Known, Scope, charge
from feilun.bill.event_lines import LEVELS, STORED_EXAMPLES, Meter
from feilun.bill.invoice import Invoice, parse
from feilun.bill.plan_history import PlanHistory
from feilun.bill.rating import Line
from feilun.bill.settings import BillSettings
from feilun.errors import AccessError, ConflictError, SettingError, did_you_mean
from feilun.store import events, ledger, tables
from feilun.store.money import MOST, format_money, minor_digits
from feilun.store.periods import bounds

DAY_US = 86_400 * 10**6


@dataclass(frozen=True)
class Standing:
    """Where a tenant's month stands, and what must still be so when its invoices are written.

    ``first`` is the first usage row that no invoice covers, ``last`` the last one of the month; ``state`` is draft
    while the month runs, grace until its grace time is over, then final.
    """

    tenant: str
    period: str
    at: int
    state: str
    first: int
    last: int
    last_event: int
    known: Known
    active: bool
    facts: tuple[int, ...] = ()  # how many rows there were of what charges follow from

    @property
    def interim(self) -> bool:
        """Whether the month, or its grace time, still runs."""
        return self.state != "final"


@dataclass(frozen=True)
class Draft:
    """All that an invoice says except its number; ``stored_nano`` is the exact amount of its usage rows."""

    invoice: Invoice
    stored_nano: int


def standing(connection: Connection, tenant: str, period: str, settings: BillSettings) -> Standing:
    """Where a tenant's month stands now.

    Raises:
        SettingError: not a month, a month that has not begun, or a plan that the project file does not have.
        AccessError: there is no such tenant.
    """
    ends = _bounds(period)[1]
    owner, chain = _tenant(connection, tenant)
    now = ledger.moment(connection, tenant, chain.at)
    begun(period, now)
    state = "draft" if now < ends else "grace" if now < ends + settings.grace_us else "final"
    earlier = tuple(of_tenant(connection, tenant))
    first = 1 + max((invoice.last_sequence for invoice in earlier), default=0)
    known = Known(
        tenant=tenant,
        period=period,
        final=state == "final",
        history=_history(connection, tenant, settings, now),
        meters={n: Meter(m.unit, m.aggregate) for n, m in settings.meters_reported_by("events").items()},
        earlier=earlier,
        coupons=tuple(coupons.of_tenant(connection, tenant, now)),
    )
    last = last_row(connection, tenant, first, chain.sequence, ends)
    newest = events.newest(connection, tenant)
    active = bool(owner.active) or _was_active(connection, tenant, known)
    return Standing(tenant, period, now, state, first, last, newest, known, active, facts(connection, tenant))


def begun(period: str, now: int) -> None:
    """Nothing, or an error.

    Raises:
        SettingError: not a month, or a month that has not begun.
    """
    if now < _bounds(period)[0]:
        raise SettingError(f"{period} has not begun", hint="months are calendar months in UTC")


def facts(connection: Connection, tenant: str) -> tuple[int, ...]:
    """How many plans, coupons, credits and profiles a tenant was given, and how many prices were announced."""
    given = (tables.assignments, tables.redemptions, tables.grants, tables.profiles)
    counts = [select(func.count()).select_from(table).where(table.c.tenant == tenant) for table in given]
    counts.append(select(func.count()).select_from(tables.plan_prices))
    return tuple(connection.execute(select(*(each.scalar_subquery() for each in counts))).one())


def compose(connection: Connection, stands: Standing, settings: BillSettings) -> list[Draft]:
    """The invoices of a month: one, or where a tenant was charged in several currencies one for each of these.

    Raises:
        ConflictError: the ledger does not agree with itself (see ``verify``).
    """
    drafts: list[Draft] = []
    for scope in _scopes(connection, stands):
        drafts.append(_draft(connection, stands, scope, settings))
        known = stands.known._replace(earlier=(*stands.known.earlier, drafts[-1].invoice))
        stands = replace(stands, known=known)
    said = [d for d in drafts if d.invoice.lines or d.invoice.first_sequence <= d.invoice.last_sequence]
    return said or drafts[-1:]


def of_tenant(connection: Connection, tenant: str | None = None, period: str | None = None) -> list[Invoice]:
    """Closed invoices, oldest first: of one tenant, of one period, or all."""
    invoices = tables.invoices.c
    query = select(invoices.body).order_by(func.length(invoices.number), invoices.number)
    if tenant is not None:
        query = query.where(invoices.tenant == tenant)
    if period is not None:
        query = query.where(invoices.period == period)
    return [parse(body) for body in connection.execute(query).scalars()]


def last_row(connection: Connection, tenant: str, first: int, newest: int, ends: int) -> int:
    """The last row before the first one of a later month: a late row behind that one waits for the next invoice."""
    usage = tables.usage.c
    later = (usage.tenant == tenant) & usage.sequence.between(first, newest) & (usage.at >= ends)
    following = connection.execute(select(func.min(usage.sequence)).where(later)).scalar()
    return newest if following is None else following - 1


def _scopes(connection: Connection, stands: Standing) -> list[Scope]:
    """One for each run of rows in one currency, and one for each other currency of the month's plans."""
    known = stands.known
    runs = list(_runs(connection, stands))
    parts = [part.terms.currency for part in history.segments(known.history, stands.period)]
    late = [invoice.currency for invoice in known.earlier if invoice.period < stands.period]
    # A late event is priced in the currency of its own month, of which there may be no invoice.
    plans = {plan for _, plan in known.history.assignments}
    ever = sorted({terms.currency for plan in plans for _, terms in known.history.schedules[plan].entries})
    others = dict.fromkeys([*(currency for currency in (*late, *ever) if currency not in parts), *parts])
    last_of = {currency: i for i, (currency, _, _) in enumerate(runs)}
    empty = ((currency, stands.last + 1, stands.last) for currency in others if currency not in last_of)
    scopes = []
    for i, (currency, first, last) in enumerate([*runs, *empty]):
        whole = last_of.get(currency, i) == i
        upto = stands.last_event if whole else known.covered(stands.period, currency)
        scopes.append(Scope(currency, first, last, upto, stands.active, whole))
    return scopes


def _runs(connection: Connection, stands: Standing) -> Iterator[tuple[str, int, int]]:
    """Currency, first and last of each run of consecutive rows in one currency."""
    query = text(
        "SELECT currency, sequence FROM (SELECT currency, sequence, LAG(currency) OVER (ORDER BY sequence) AS earlier "
        "FROM usage WHERE tenant = :tenant AND sequence BETWEEN :first AND :last) AS rows_in_order "
        "WHERE earlier IS NULL OR earlier <> currency ORDER BY sequence"
    )
    values = {"tenant": stands.tenant, "first": stands.first, "last": stands.last}
    begun = [(str(row.currency), int(row.sequence)) for row in connection.execute(query, values)]
    ends = [*(first - 1 for _, first in begun), stands.last][1:]
    for (currency, first), last in zip(begun, ends, strict=True):
        yield currency, first, last


def _draft(connection: Connection, stands: Standing, scope: Scope, settings: BillSettings) -> Draft:
    charged = charge(connection, stands.known, scope)
    if charged.mismatches:
        row = charged.mismatches[0]
        raise ConflictError(
            f"{len(charged.mismatches)} rows were not charged what their terms say",
            where=f"usage of tenant '{stands.tenant}', sequence {row.sequence}",
            hint="see all that is wrong with: feilun bill --verify",
            code="ledger-broken",
        )
    buyer = profiles.on_paper(profiles.newest(connection, stands.tenant))
    seller = {name: value for name, value in settings.seller.model_dump().items() if value}
    ends = stands.known.month[1]
    when = (stands.period, min(stands.at, ends - 1), scope.currency)
    lines = [*charged.lines, *tax.taxes(charged.lines, buyer, seller, settings.tax, when)]
    _refuse_too_much(stands.tenant, lines, scope.currency)
    lines += _paid(connection, stands, scope, lines)
    is_level = {name: meter.aggregate for name, meter in stands.known.meters.items() if meter.aggregate != "sum"}
    invoice = Invoice(
        number="",
        tenant=stands.tenant,
        period=stands.period,
        interim=stands.interim,
        currency=scope.currency,
        total_nano=0,
        first_sequence=scope.first,
        last_sequence=scope.last,
        at=stands.at,
        lines=tuple(lines),
        body="",
        buyer=buyer,
        seller=seller,
        due_at=stands.at + settings.due_days * DAY_US,
        first_event=stands.known.covered(stands.period, scope.currency) + 1,
        last_event=scope.last_event,
        aggregates=is_level,
        partial=not scope.all,
        to_come=tuple(_to_come(stands, scope)) if stands.interim and scope.all else (),
    )
    return Draft(invoice, charged.stored_nano)


def _refuse_too_much(tenant: str, lines: Sequence[Line], currency: str) -> None:
    """No column holds more than ``MOST``: what comes to more is a mistake in what was reported, or in a price."""
    exact, amounts = sum(abs(line.exact_nano) for line in lines), sum(abs(line.amount_nano) for line in lines)
    if max(exact, amounts) <= MOST:
        return
    worst = max(lines, key=lambda line: abs(line.exact_nano))
    what = f"{worst.units:,} units of meter '{worst.meter}'" if worst.meter else f"the {worst.kind}"
    raise ConflictError(
        f"{what} of tenant '{tenant}' come to {format_money(worst.exact_nano, currency)}: no invoice can hold that",
        where=f"tenant '{tenant}', {worst.period}",
        hint=f"the most is {format_money(MOST, currency)}; look at what was reported, and at the price",
        code="amount-too-large",
    )


def _to_come(stands: Standing, scope: Scope) -> Iterator[Mapping[str, str | int]]:
    """What the month's last invoice will charge and an interim one does not: the minimum, and levels with a price."""
    known = stands.known
    parts = known.history.segments(stands.period)
    if not parts or parts[-1].terms.currency != scope.currency:
        return
    least = schedule.minimum_nano(parts, known.month, known.history.trials()) if scope.fees else 0
    if least > 0 and {part.terms.currency for part in parts} == {scope.currency}:
        yield {"minimum_nano": least}
    levels = [name for name, meter in known.meters.items() if meter.aggregate in LEVELS]
    priced = parts[-1].terms.priced
    yield from ({"meter": name} for name in (*sorted(levels), STORED_EXAMPLES) if name in priced)


def _paid(connection: Connection, stands: Standing, scope: Scope, lines: Sequence[Line]) -> list[Line]:
    """Credit that pays for the lines: what expires first, first; expired credit for what was used before that."""
    total = sum(line.amount_nano for line in lines)
    if total <= 0 or not scope.all:
        return []
    own = [c for c in credits.of_tenant(connection, stands.tenant) if c.currency == scope.currency and c.left_nano > 0]
    over = min(stands.at, stands.known.month[1])
    net = sum(line.amount_nano for line in lines if line.kind in CHARGES)
    fees = sum(line.amount_nano for line in lines if line.kind in ("fee", "unused"))
    coin = 10 ** (9 - minor_digits(scope.currency))

    def payable(until: int) -> int:
        if until >= over or net <= 0:
            return total
        usage = tables.usage.c
        mine = (usage.tenant == stands.tenant) & usage.sequence.between(scope.first, scope.last) & (usage.at < until)
        used = int(connection.execute(select(func.sum(usage.amount_nano)).where(mine)).scalar() or 0)
        share: int = total * (fees + used) // net // coin * coin
        return max(0, min(total, share))

    return credits.cover(own, total, stands.period, payable)


def _was_active(connection: Connection, tenant: str, known: Known) -> bool:
    """Whether a tenant that is stopped now used anything in the month, or was given a plan in it."""
    begins, ends = known.month
    for table in (tables.assignments, tables.usage, tables.events):
        mine = (table.c.tenant == tenant) & (table.c.at >= begins) & (table.c.at < ends)
        if connection.execute(select(table.c.at).where(mine).limit(1)).first() is not None:
            return True
    return False


def _history(connection: Connection, tenant: str, settings: BillSettings, now: int) -> PlanHistory:
    found = history.read(connection, tenant, settings.all_terms(), now)
    for _, plan in found.assignments:
        if plan not in found.schedules:
            settings.schedule(plan)  # says which plan is not there, and which one may be meant
    return found


def _bounds(period: str) -> tuple[int, int]:
    if not re.fullmatch(r"(19[7-9]|[2-9]\d\d)\d-(0[1-9]|1[0-2])", period):
        raise SettingError(f"'{period}' is not a month", hint="write it as 2026-11")
    return bounds(period)


def _tenant(connection: Connection, tenant: str) -> tuple[Row[Any], Row[Any]]:
    owner = connection.execute(select(tables.tenants).where(tables.tenants.c.id == tenant)).one_or_none()
    chain = connection.execute(select(tables.chains).where(tables.chains.c.tenant == tenant)).one_or_none()
    if owner is None or chain is None:
        known = connection.execute(select(tables.tenants.c.id)).scalars()
        hint = did_you_mean(tenant, known) or "list them with: feilun tenant list"
        raise AccessError(f"there is no tenant '{tenant}'", status=404, hint=hint, code="not-found")
    return owner, chain
