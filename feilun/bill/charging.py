"""What an invoice charges: fees, usage, events, trials, discounts and the minimum, from rows alone.

The same function makes an invoice and checks it: it is told what earlier invoices charged and what was known when the
invoice was made, and reads nothing of the project file. So any closed period can be rated again at any later time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import Connection

from feilun.bill import coupons, schedule
from feilun.bill.event_lines import LEVELS, SUMS, Meter, month_lines, months, stored_lines
from feilun.bill.history import free_times, segments
from feilun.bill.invoice import Invoice
from feilun.bill.plan_history import PlanHistory
from feilun.bill.queries import Events
from feilun.bill.rating import Line, Mismatch, Rated
from feilun.bill.reading import rate_range
from feilun.bill.schedule import FeeShare, Window
from feilun.bill.wording import worded
from feilun.store.money import round_to_minor
from feilun.store.periods import bounds, period_of

CHARGES = coupons.CHARGES


class Known(NamedTuple):
    """What was known of a tenant when an invoice for ``period`` was made.

    ``final`` is False where the month, or its grace time, still ran. ``earlier`` are the tenant's invoices before it.
    """

    tenant: str
    period: str
    final: bool
    history: PlanHistory
    meters: Mapping[str, Meter]
    earlier: tuple[Invoice, ...]
    coupons: tuple[coupons.Coupon, ...]

    @property
    def month(self) -> Window:
        """Its first moment, and the first of the next."""
        return bounds(self.period)

    def before(self, currency: str, period: str | None = None) -> Iterator[Line]:
        """Lines of earlier invoices in ``currency``; of those for one period, where one is named."""
        for invoice in self.earlier:
            if invoice.currency == currency and period in (None, invoice.period):
                yield from invoice.lines

    def covered(self, month: str, currency: str, *, final: bool = False) -> int:
        """The newest event of ``month`` that an invoice covers; with ``final``, one that also charged its levels."""
        marks = [
            invoice.last_event or 0
            for invoice in self.earlier
            if invoice.currency == currency
            and invoice.period >= month
            and not (final and invoice.interim and invoice.period == month)
        ]
        return max(marks, default=0)


@dataclass(frozen=True)
class Scope:
    """What one invoice is about: usage rows, events up to one, and whether fees and all else are on it.

    Where a tenant's rows are in several currencies, it gets an invoice for each run of rows; only the last one of a
    currency has ``all``.
    """

    currency: str
    first: int
    last: int
    last_event: int
    fees: bool
    all: bool = True


@dataclass
class Charged:
    """Lines up to the minimum, and what the rows say that they are made of."""

    lines: list[Line] = field(default_factory=list)
    mismatches: list[Mismatch] = field(default_factory=list)
    stored_nano: int = 0
    rows: int = 0


def charge(connection: Connection, known: Known, scope: Scope, rated: Rated | None = None) -> Charged:
    """Everything of an invoice but taxes and credits, in order.

    Args:
        rated: lines of usage that were rated otherwise, for what if; those of the ledger where it is left out.

    Raises:
        ConflictError: a usage row is missing or was changed, or names terms that are not there.
    """
    free = free_times(known.history)
    if rated is None:
        rated = rate_range(connection, known.tenant, known.period, (scope.first, scope.last), free)
    fees = list(_fees(known, scope)) if scope.all and scope.fees else []
    reported = list(_reported(connection, known, scope)) if scope.all else []
    used = sorted([*rated.lines, *reported], key=lambda line: (line.period, _place(line)))
    lines = [line for line in fees if line.kind != "trial"] + used
    lines += [line for line in fees if line.kind == "trial"] + list(_trials(known, used, scope.currency))
    if scope.all:
        earlier = [(i.at, line) for i in known.earlier if i.currency == scope.currency for line in i.lines]
        lines += coupons.discounts(known.coupons, lines, earlier, scope.currency)
        lines += _minimums(known, lines, scope)
    return Charged(lines, rated.mismatches, rated.stored_nano, rated.rows)


def _fees(known: Known, scope: Scope) -> Iterator[Line]:
    """Fees, unused fees and fees that a trial makes good: what is due by now less what was charged already."""
    parts, trials = known.history.segments(known.period), known.history.trials()
    due = [one for one in schedule.due(parts, known.month, trials) if one.currency == scope.currency]
    charged = schedule.charged(known.before(scope.currency, known.period), scope.currency, known.month)
    for one in schedule.outstanding(due, charged):
        line = Line(
            kind=one.kind,
            period=known.period,
            units=one.units,
            unit_nano=one.monthly_nano,
            exact_nano=one.exact_nano,
            amount_nano=round_to_minor(one.exact_nano, one.currency),
            price_version=one.version,
            words=_told(one),
        )
        yield worded(line, one.currency)


def _place(line: Line) -> int:
    """Usage before events before levels, which are told by what they have."""
    if line.release is not None:
        return 0
    return 1 if line.words.get("aggregate") in SUMS else 2


def _told(one: FeeShare) -> dict[str, str | int]:
    """The words of a fee; a whole month needs none of its times."""
    if one.kind != "trial" and (one.begins, one.ends) == one.month:
        return {"plan": one.plan}
    return one.words


def _reported(connection: Connection, known: Known, scope: Scope) -> Iterator[Line]:
    """Events that no invoice covers yet, of the month and of earlier ones, and levels of months that are over."""
    currency, last = scope.currency, scope.last_event
    begins = known.month[0]
    first = known.covered(period_of(begins - 1), currency) + 1
    found = {known.period, *months(connection, known.tenant, (first, last), begins)}
    if any(meter.aggregate in LEVELS for meter in known.meters.values()):  # a month that was never closed as a whole
        found |= {invoice.period for invoice in known.earlier if invoice.interim and invoice.period < known.period}
    for month in sorted(found) if last else ():
        late = month != known.period
        sums = Events(known.tenant, month, known.covered(month, currency), last, late)
        levels = sums._replace(covered=known.covered(month, currency, final=True)) if late or known.final else None
        parts = segments(known.history, month)
        yield from month_lines(connection, (sums, levels), parts, known.meters, currency)
    done = [i for i in known.earlier if i.period == known.period and i.currency == currency]
    if known.final and all(invoice.interim or invoice.partial for invoice in done):
        end = segments(known.history, known.period)[-1]
        if end.terms.currency == currency:
            yield from stored_lines(connection, known.tenant, known.period, end)


def _trials(known: Known, used: Sequence[Line], currency: str) -> Iterator[Line]:
    """What was used in a trial is shown, and taken off again to the coin."""
    free: dict[str, int] = {}
    for line in used:
        if line.words.get("trial"):
            free[line.period] = free.get(line.period, 0) + line.amount_nano
    for period, nano in sorted(free.items()):
        begins, ends = bounds(period)
        plan, window = next(
            (plan, window) for plan, window in known.history.trials().items() if window[0] < ends and window[1] > begins
        )
        words: dict[str, str | int] = {"plan": plan, "begins": window[0], "ends": window[1], "base_nano": nano}
        if nano:
            line = Line(kind="trial", period=period, unit_nano=-nano, exact_nano=-nano, amount_nano=-nano, words=words)
            yield worded(line, currency)


def _minimums(known: Known, lines: Sequence[Line], scope: Scope) -> Iterator[Line]:
    """What is missing of a month's minimum once it is over; late usage is within what was topped up before."""
    before = list(known.before(scope.currency))
    topped = {line.period for line in before if line.kind == "minimum"}
    candidates = {known.period} if known.final and scope.fees else set()
    for month in sorted(candidates | {line.period for line in lines if line.period in topped}):
        parts = known.history.segments(month)
        if not parts or {part.terms.currency for part in parts} != {scope.currency}:
            continue  # a month in two currencies has no minimum in either
        least = schedule.minimum_nano(parts, bounds(month), known.history.trials())
        every = [line for line in (*before, *lines) if line.period == month]
        reached = sum(line.amount_nano for line in every if line.kind in (*CHARGES, "discount"))
        charged = sum(line.amount_nano for line in every if line.kind == "minimum")
        missing = max(0, least - reached) - charged
        if missing:
            last = parts[-1]
            words: dict[str, str | int] = {"plan": last.plan, "minimum_nano": least, "reached_nano": least - missing}
            line = Line(
                kind="minimum",
                period=month,
                unit_nano=missing,
                exact_nano=missing,
                amount_nano=missing,
                price_version=last.terms.version,
                words=words,
            )
            yield worded(line, scope.currency)
