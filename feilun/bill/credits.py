"""Prepaid credit: granted to a tenant, used by its invoices, what expires first before all else, and what expired.

A grant, a use and an expiry are rows that never change; what is left of a grant is its amount less its uses. Each is
posted, so that the books say at any time how much credit tenants still have.

    granted   tenant:T:prepaid -amount   assets:credits   +amount
    used      tenant:T:prepaid +used     tenant:T:invoiced  -used    (within the invoice's own entry)
    expired   tenant:T:prepaid +left     revenue:breakage   -left
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, func, insert, select
from ulid import ULID

from feilun.bill.rating import Line
from feilun.bill.wording import worded
from feilun.errors import SettingError
from feilun.store import ledger, seals, tables
from feilun.store.database import Database, now_us
from feilun.store.money import MOST, Money, format_money, round_to_minor

CREDITS = "assets:credits"
BREAKAGE = "revenue:breakage"


@dataclass(frozen=True)
class Credit:
    """A grant, and what is left of it. Amounts are nano-units, times microseconds since 1970, UTC."""

    id: str
    tenant: str
    currency: str
    amount_nano: int
    left_nano: int
    expires_at: int | None
    reason: str
    at: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return vars(self) | {"left": format_money(self.left_nano, self.currency)}


def prepaid(tenant: str) -> str:
    """The account of what a tenant has paid in advance."""
    return f"tenant:{tenant}:prepaid"


def grant(
    database: Database,
    tenant: str,
    money: Money,
    *,
    reason: str,
    expires_at: int | None = None,
    currency: str | None = None,
) -> Credit:
    """Give a tenant prepaid credit.

    Args:
        currency: of the tenant's plan, where credit in another one, that pays for nothing, is to be refused.

    Raises:
        SettingError: nothing, less than nothing or a part of the smallest coin is given, or it has expired already,
            or it is in another currency.
        AccessError: there is no such tenant.
    """
    if not 0 < money.nano <= MOST or round_to_minor(*money) != money.nano:
        raise SettingError(
            f"'{money}' cannot be granted", where="credit", hint="give whole coins, above 0: '50.00 USD'"
        )
    if currency is not None and money.currency != currency:
        raise SettingError(
            f"credit in {money.currency} would pay for nothing: the plan of '{tenant}' is in {currency}",
            where="credit",
            hint=f"grant it in {currency}",
            code="other-currency",
        )
    identity = str(ULID())

    def write(connection: Connection) -> Credit:
        ledger.lock(connection, tenant)
        now = now_us(connection)
        if expires_at is not None and expires_at <= now:
            raise SettingError("this credit would have expired already", where="expires", hint="give a later day")
        credit = Credit(identity, tenant, money.currency, money.nano, money.nano, expires_at, reason, now)
        row = {name: value for name, value in vars(credit).items() if name != "left_nano"}
        connection.execute(insert(tables.grants).values(row))
        seals.seal(connection, "grants", row)
        _post(connection, (identity, money.currency, now), {prepaid(tenant): -money.nano, CREDITS: money.nano})
        return credit

    return database.write(write, order=tenant)


def of_tenant(connection: Connection, tenant: str | None = None) -> list[Credit]:
    """Grants, of one tenant or of all, with what is left of each; what expires first comes first."""
    grants, uses = tables.grants.c, tables.grant_uses.c
    used = select(uses.credit, func.sum(uses.amount_nano).label("used")).group_by(uses.credit).subquery()
    query: Select[Any] = select(tables.grants, used.c.used).outerjoin(used, used.c.credit == grants.id)
    if tenant is not None:
        query = query.where(grants.tenant == tenant)
    found = [
        Credit(
            r.id, r.tenant, r.currency, r.amount_nano, r.amount_nano - int(r.used or 0), r.expires_at, r.reason, r.at
        )
        for r in connection.execute(query)
    ]
    return sorted(found, key=lambda c: (c.expires_at is None, c.expires_at or 0, c.at, c.id))


def cover(credits: Iterable[Credit], due_nano: int, period: str, payable: Callable[[int], int]) -> list[Line]:
    """Lines that pay for ``due_nano`` out of ``credits``, which are in the order in which they are used up.

    Args:
        payable: how much of ``due_nano`` was owed before a moment: credit that has expired since pays for no more.
    """
    lines: list[Line] = []
    paid = 0
    for credit in credits:
        most = due_nano if credit.expires_at is None else min(due_nano, payable(credit.expires_at))
        used = min(credit.left_nano, most - paid)
        if used <= 0:
            continue
        paid += used
        words: dict[str, str | int] = {"grant": credit.id, "had_nano": credit.left_nano}
        words |= {"reason": credit.reason} if credit.reason else {}
        words |= {"expires_at": credit.expires_at} if credit.expires_at is not None else {}
        line = Line(kind="credit", period=period, unit_nano=-used, exact_nano=-used, amount_nano=-used, words=words)
        lines.append(worded(line, credit.currency))
    return lines


def still_there(connection: Connection, tenant: str, lines: Sequence[Line]) -> bool:
    """Whether nobody has used up meanwhile what ``lines`` take. The tenant must be locked."""
    left = {credit.id: credit.left_nano for credit in of_tenant(connection, tenant)}
    return all(left.get(str(line.words["grant"]), 0) >= -line.amount_nano for line in lines)


def use(connection: Connection, lines: Sequence[Line], invoice: str, at: int) -> None:
    """Write that an invoice used credit; its postings are the invoice's. The tenant must be locked."""
    rows = [
        {
            "id": str(ULID()),
            "credit": line.words["grant"],
            "invoice": invoice,
            "amount_nano": -line.amount_nano,
            "at": at,
        }
        for line in lines
    ]
    if rows:
        connection.execute(insert(tables.grant_uses), rows)
        seals.seal(connection, "grant_uses", *rows)


def sweep(connection: Connection, tenant: str, before: int, now: int) -> list[Credit]:
    """Book as income what is left of credit that expired up to ``before``. The tenant must be locked.

    Args:
        before: the end of what is invoiced: later credit can still pay for usage from before it expired.
    """
    expired = [c for c in of_tenant(connection, tenant) if c.left_nano and c.expires_at is not None]
    expired = [credit for credit in expired if (credit.expires_at or 0) <= before]
    for credit in expired:
        identity = str(ULID())
        row = {"id": identity, "credit": credit.id, "invoice": None, "amount_nano": credit.left_nano, "at": now}
        connection.execute(insert(tables.grant_uses).values(row))
        seals.seal(connection, "grant_uses", row)
        sides = {prepaid(tenant): credit.left_nano, BREAKAGE: -credit.left_nano}
        _post(connection, (identity, credit.currency, now), sides)
    return expired


def _post(connection: Connection, entry: tuple[str, str, int], sides: Mapping[str, int]) -> None:
    shared = dict(zip(("entry", "currency", "at"), entry, strict=True))
    connection.execute(insert(tables.postings), [shared | {"account": a, "amount_nano": n} for a, n in sides.items()])
