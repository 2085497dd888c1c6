"""What was answered and what it earned, in sums that the database makes: never a row of the ledger at a time.

Revenue is what requests were charged when they were answered, and of invoices all lines but those: fees, minimum,
discounts, what other services reported, the rounding. Taxes are not revenue, and prepaid credit is a way to pay.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, literal, select

from feilun.bill.costs import Window, divide
from feilun.bill.settings import BillSettings
from feilun.store import tables
from feilun.store.gateways import DAY_US
from feilun.store.money import Money
from feilun.store.periods import bounds

NO_DAY = -1  # where days are not asked for
_METERED = ("usage", "included")  # lines of what the ledger charged request by request
_NOT_REVENUE = ("tax", "credit")


class Cell(NamedTuple):
    """What figures are kept for; "" where something has no tenant, plan or release."""

    day: int  # since 1970, or NO_DAY
    tenant: str
    plan: str
    release: str


class Answered(NamedTuple):
    """Sums of usage rows; ``metered_nano`` in the currency of the report."""

    requests: int = 0
    inputs: int = 0
    tokens: int = 0
    compute_ns: int = 0
    metered_nano: int = 0

    def plus(self, other: Answered) -> Answered:
        """Figure by figure."""
        return Answered(*(a + b for a, b in zip(self, other, strict=True)))


def answered(connection: Connection, span: Window, settings: BillSettings, *, by_day: bool) -> dict[Cell, Answered]:
    """Usage of the window by tenant, plan and release, and by day if asked for.

    Raises:
        SettingError: a currency has no stated rate of exchange to that of ``core_hour``.
    """
    usage = tables.usage.c
    day = usage.at // DAY_US if by_day else literal(NO_DAY)
    columns = (day.label("day"), usage.tenant, usage.plan, usage.release)
    keys = columns if by_day else columns[1:]
    sums = (func.sum(c) for c in (usage.inputs, usage.tokens, usage.compute_ns, usage.amount_nano))
    query = select(usage.currency, *columns, func.count(), *sums).where(usage.at >= span.begins, usage.at < span.ends)
    convert = converter(settings)
    found: dict[Cell, Answered] = defaultdict(Answered)
    for currency, number, tenant, plan, release, *figures in connection.execute(
        query.group_by(usage.currency, *keys).order_by(usage.currency, *keys)
    ):
        requests, inputs, tokens, compute_ns, amount = (int(figure) for figure in figures)
        sums_here = Answered(requests, inputs, tokens, compute_ns, convert(currency, amount))
        cell = Cell(int(number), tenant, plan, release)
        found[cell] = found[cell].plus(sums_here)
    return dict(found)


def answered_outside(connection: Connection, span: Window) -> dict[str, tuple[int, int]]:
    """Tokens and inputs that each release has answered before and after the window."""
    usage = tables.usage.c
    outside = (usage.at < span.begins) | (usage.at >= span.ends)
    query = select(usage.release, func.sum(usage.tokens), func.sum(usage.inputs)).where(outside)
    return {
        release: (int(tokens), int(inputs))
        for release, tokens, inputs in connection.execute(query.group_by(usage.release))
    }


def converter(settings: BillSettings) -> Callable[[str, int], int]:
    """Turns amounts of any stated currency into that of ``core_hour``, so that converted parts sum to a converted sum.

    Each amount becomes the difference that it makes to the rounded total of its currency so far.
    """
    totals: dict[str, int] = defaultdict(int)
    target = settings.core_hour.currency

    def convert(currency: str, nano: int) -> int:
        before = settings.convert(Money(totals[currency], currency), target).nano
        totals[currency] += nano
        return settings.convert(Money(totals[currency], currency), target).nano - before

    return convert


def invoiced(connection: Connection, span: Window, settings: BillSettings, *, by_day: bool) -> dict[Cell, int]:
    """Revenue of closed invoices and credit notes that is not in the ledger's rows, in nano-units, by cell.

    An invoice's amounts are spread evenly over the days of its month.
    """
    convert = converter(settings)
    plans = {row[0]: row[1] for row in connection.execute(select(tables.tenants.c.id, tables.tenants.c.plan))}
    found: dict[Cell, int] = defaultdict(int)
    for period, tenant, currency, body in _bodies(connection, span.period):
        days = _days(span, period) if by_day else [NO_DAY]
        for line in json.loads(body)["lines"]:
            nano = _beyond_usage(line)
            if nano:
                plan = str(line.get("words", {}).get("plan", plans[tenant]))
                parts = divide(convert(currency, nano), [1] * len(days))
                for day, part in zip(days, parts, strict=True):
                    found[Cell(day, tenant, plan, line["release"] or "")] += part
    for at, tenant, currency, body in _notes(connection, span):
        day = at // DAY_US if by_day else NO_DAY
        for line in json.loads(body)["lines"]:
            if line["kind"] not in _NOT_REVENUE and line["amount_nano"]:
                plan = str(line.get("words", {}).get("plan", plans[tenant]))
                found[Cell(day, tenant, plan, line["release"] or "")] += convert(currency, line["amount_nano"])
    return {cell: nano for cell, nano in found.items() if nano}


def not_invoiced(connection: Connection, span: Window) -> int:
    """How many tenants used something in the month and have no final invoice of it; 0 for all time."""
    if span.period is None:
        return 0
    usage = tables.usage.c
    used = select(usage.tenant).where(usage.at >= span.begins, usage.at < span.ends).distinct()
    final = {tenant for _, tenant, _, body in _bodies(connection, span.period) if not json.loads(body)["interim"]}
    return len(set(connection.execute(used).scalars()) - final)


def _bodies(connection: Connection, period: str | None) -> list[tuple[str, str, str, str]]:
    invoices = tables.invoices.c
    query = select(invoices.period, invoices.tenant, invoices.currency, invoices.body).order_by(invoices.number)
    if period is not None:
        query = query.where(invoices.period == period)
    return [(row[0], row[1], row[2], row[3]) for row in connection.execute(query)]


def _notes(connection: Connection, span: Window) -> Iterable[tuple[int, str, str, str]]:
    notes = tables.credit_notes.c
    inside = (notes.at >= span.begins) & (notes.at < span.ends)
    query = select(notes.at, notes.tenant, notes.currency, notes.body).where(inside).order_by(notes.number)
    return [(row[0], row[1], row[2], row[3]) for row in connection.execute(query)]


def _beyond_usage(line: Mapping[str, Any]) -> int:
    """What a line adds to revenue: of usage, which the ledger has, only the rounding."""
    if line["kind"] in _NOT_REVENUE:
        return 0
    amount: int = line["amount_nano"]
    return amount - line["exact_nano"] if line["kind"] in _METERED else amount


def _days(span: Window, period: str) -> list[int]:
    begins, ends = bounds(period)
    return [day for day, _, _ in Window(period, begins, max(begins + 1, min(ends, span.ends))).days()]
