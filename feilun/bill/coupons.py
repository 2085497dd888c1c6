"""Coupons: redeemed once by a tenant, with the terms that they had then; discounts on invoices follow from these."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, insert, select, text
from ulid import ULID

from feilun.bill.amounts import microseconds
from feilun.bill.rating import Line
from feilun.bill.schedule import FeeShare, charged
from feilun.bill.wording import worded
from feilun.errors import ConflictError, SettingError, did_you_mean
from feilun.store import ledger, seals, tables
from feilun.store.artifacts import canonical
from feilun.store.database import Database
from feilun.store.money import MOST, format_money, half_even, round_to_minor
from feilun.store.periods import bounds, period_of

if TYPE_CHECKING:
    from feilun.bill.settings import BillSettings

CHARGES = ("fee", "unused", "included", "usage", "event", "gauge", "trial")  # what a discount is taken off


@dataclass(frozen=True)
class Coupon:
    """What a tenant redeemed: a percentage or an amount off each of the first ``months`` months.

    ``percent`` is a decimal string, ``off_nano`` nano-units of ``currency``; the other one is None.
    """

    code: str
    percent: str | None
    off_nano: int | None
    currency: str | None
    months: int
    at: int

    def month(self, period: str) -> int | None:
        """Which of its months ``period`` is, from 1; None where it does not hold then."""
        begun = period_of(self.at)
        number = (int(period[:4]) - int(begun[:4])) * 12 + int(period[5:]) - int(begun[5:]) + 1
        return number if 1 <= number <= self.months else None

    @property
    def off(self) -> str:
        """What it takes off, for people."""
        return f"{self.percent}%" if self.percent is not None else format_money(self.off_nano or 0, self.currency or "")

    def as_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return asdict(self) | {"off": self.off}


def redeem(database: Database, tenant: str, code: str, settings: BillSettings) -> Coupon:
    """Redeem a coupon of the project file for a tenant: it holds from this month on.

    Raises:
        SettingError: there is no such coupon.
        AccessError: there is no such tenant.
        ConflictError: it was redeemed before, too often or too late, or is not for the tenant's plan.
    """
    if code not in settings.coupons:
        hint = did_you_mean(code, settings.coupons) or f"known: {', '.join(sorted(settings.coupons)) or 'none'}"
        raise SettingError(
            f"there is no coupon '{code[:80]}'", where="[bill.coupons]", hint=hint, code="unknown-coupon"
        )
    offer = settings.coupons[code]

    def write(connection: Connection) -> Coupon:
        chain = ledger.lock(connection, tenant)
        now = ledger.moment(connection, tenant, chain.at)
        if connection.dialect.name == "postgresql" and offer.most is not None:  # how often is counted over all tenants
            connection.execute(text("LOCK TABLE redemptions IN SHARE ROW EXCLUSIVE MODE"))
        plan = connection.execute(select(tables.tenants.c.plan).where(tables.tenants.c.id == tenant)).scalar_one()
        used = tables.redemptions.c
        tenants = connection.execute(select(used.tenant).where(used.coupon == code)).scalars().all()
        own, of = settings.terms(plan).currency, offer.amount_off.currency if offer.amount_off else None
        refused = {
            "was redeemed before": tenant in tenants,
            f"is not for the plan '{plan}'": bool(offer.plans) and plan not in offer.plans,
            f"takes off {of}, and the plan '{plan}' is in {own}: it would never apply": of not in (None, own),
            "was redeemed as often as it may be": offer.most is not None and len(tenants) >= offer.most,
            "can no longer be redeemed": offer.redeem_by is not None and now >= microseconds(offer.redeem_by),
        }
        for why, is_so in refused.items():
            if is_so:
                hint = f"it is for {', '.join(offer.plans)}" if why.startswith("is not for") else None
                hint = f"a coupon that takes off {own}, or a percentage" if why.startswith("takes off") else hint
                raise ConflictError(
                    f"the coupon '{code}' {why}", where=f"tenant '{tenant}'", hint=hint, code="coupon-refused"
                )
        amount = offer.amount_off
        coupon = Coupon(
            code,
            None if offer.percent_off is None else str(offer.percent_off),
            amount.nano if amount else None,
            amount.currency if amount else None,
            offer.months,
            now,
        )
        terms = {name: value for name, value in asdict(coupon).items() if name not in ("code", "at")}
        row = {"id": str(ULID()), "tenant": tenant, "coupon": code, "terms": canonical(terms).decode(), "at": now}
        connection.execute(insert(tables.redemptions).values(row))
        seals.seal(connection, "redemptions", row)
        return coupon

    return database.write(write, order=tenant)


def of_tenant(connection: Connection, tenant: str, before: int | None = None) -> list[Coupon]:
    """What a tenant has redeemed (up to ``before``), oldest first."""
    rows = tables.redemptions.c
    query = select(tables.redemptions).where(rows.tenant == tenant).order_by(rows.at, rows.id)
    if before is not None:
        query = query.where(rows.at <= before)
    return [Coupon(code=row.coupon, at=row.at, **json.loads(row.terms)) for row in connection.execute(query)]


def discounts(
    coupons: Sequence[Coupon], lines: Sequence[Line], earlier: Sequence[tuple[int, Line]], currency: str
) -> list[Line]:
    """What the coupons take off the lines, a line for each coupon and month; a later coupon off what is left.

    A percentage is also taken off what is given back, so a corrected charge is discounted as it would have been; but
    not off a fee that an invoice charged before the coupon was redeemed. An amount is taken once a month, and never
    more of it than the month is charged.

    Args:
        earlier: lines of earlier invoices in ``currency``, oldest first, and when each of them was made.
    """
    base: dict[str, int] = {}
    for line in lines:
        if line.kind in CHARGES:
            base[line.period] = base.get(line.period, 0) + line.amount_nano
    found = []
    for i, coupon in enumerate(coupons):
        found_before = {other.code for other in coupons[:i]}
        for period in sorted(base):
            month = coupon.month(period)
            if month is None or coupon.currency not in (None, currency):
                continue
            every = [(at, line) for at, line in (*earlier, *((MOST, line) for line in lines)) if line.period == period]
            apart = list(_in_full(coupon.at, every, currency))
            own = base[period] - sum(nano for at, nano in apart if at == MOST)
            words: dict[str, str | int] = {"coupon": coupon.code, "base_nano": own}
            words |= {"month": month, "months": coupon.months}
            if coupon.percent is not None:
                words["percent"] = coupon.percent
                exact = -percent_of(own, coupon.percent)
            else:
                given, before = _so_far(coupon, found_before, every)
                before -= sum(nano for at, nano in apart if at != MOST)
                exact = -max(0, min(coupon.off_nano or 0, before + own)) - given
                if exact < 0:  # else some of it is taken back
                    words["off_nano"] = (coupon.off_nano or 0) + given
            amount = round_to_minor(exact, currency)
            if not exact:
                continue
            line = Line(
                kind="discount", period=period, unit_nano=exact, exact_nano=exact, amount_nano=amount, words=words
            )
            found.append(worded(line, currency))
            base[period] += amount
    return found


def _so_far(coupon: Coupon, before: Collection[str], lines: Iterable[tuple[int, Line]]) -> tuple[int, int]:
    """What earlier invoices took off a month for the coupon (below 0), and what they could take it off."""
    given = base = 0
    for at, line in lines:
        if coupon.at <= at < MOST:
            code = line.words.get("coupon") if line.kind == "discount" else None
            given += line.amount_nano if code == coupon.code else 0
            base += line.amount_nano if line.kind in CHARGES or code in before else 0
    return given, base


def _in_full(since: int, lines: Iterable[tuple[int, Line]], currency: str) -> Iterator[tuple[int, int]]:
    """What is given back from ``since`` on of fees that were charged before: when, and the amount (below 0).

    Of a fee that was charged, given back and charged again, the last charge of each moment counts.
    """
    fees: list[tuple[int, FeeShare]] = []
    for at, line in lines:
        if line.kind not in ("fee", "unused"):
            continue
        (one,) = charged([line], currency, bounds(line.period))
        if line.kind == "fee":
            fees.append((at, one))
        elif at >= since:
            price = (one.version, one.monthly_nano)
            same = [(when, fee) for when, fee in fees if (fee.version, fee.monthly_nano) == price]
            inner = {edge for _, fee in same for edge in (fee.begins, fee.ends) if one.begins < edge < one.ends}
            for begins, ends in pairwise(sorted({one.begins, one.ends, *inner})):
                made = [when for when, fee in same if fee.begins <= begins and ends <= fee.ends]
                if made and made[-1] < since:
                    yield at, one._replace(begins=begins, ends=ends).exact_nano


def percent_of(nano: int, percent: str) -> int:
    """Exact but for the last nano-unit, half to even.

    >>> percent_of(19 * 10**9, "7.5")
    1425000000
    """
    share = Fraction(percent) * nano / 100
    return half_even(share.numerator, share.denominator)
