"""Tenants: who is served, under which plan, up to which monthly budget."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update
from sqlalchemy.exc import IntegrityError
from ulid import ULID

from feilun.errors import AccessError, ConflictError, SettingError
from feilun.store import seals, tables
from feilun.store.database import Database, now_us
from feilun.store.ledger import GENESIS, lock, moment
from feilun.store.money import MOST

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True)
class Tenant:
    """``budget_nano`` is a hard limit for a calendar month (UTC) in the plan's currency; None means no limit."""

    id: str
    plan: str
    budget_nano: int | None
    active: bool
    created_at: int


def create(database: Database, tenant: str, *, plan: str, budget_nano: int | None = None) -> Tenant:
    """Make a tenant.

    Raises:
        SettingError: the name is not lower-case letters, digits and hyphens, or the budget is negative.
        ConflictError: there is one of that name.
    """
    if not _NAME.fullmatch(tenant):
        raise SettingError(f"'{tenant[:80]}' cannot be a tenant's name", hint="use a-z, 0-9 and -, at most 63 of them")
    row = {"id": tenant, "plan": plan, "budget_nano": checked(budget_nano), "active": True}
    try:
        return database.write(lambda c: _create(c, row), order=tenant)
    except IntegrityError as error:
        raise ConflictError(f"there is a tenant '{tenant}' already", hint="feilun tenant list") from error


def tenants(database: Database) -> list[Tenant]:
    """All of them, by name."""
    with database.read() as connection:
        return [_tenant(r) for r in connection.execute(select(tables.tenants).order_by(tables.tenants.c.id))]


def get(database: Database, tenant: str) -> Tenant:
    """One tenant.

    Raises:
        AccessError: there is none of that name.
    """
    with database.read() as connection:
        row = connection.execute(select(tables.tenants).where(tables.tenants.c.id == tenant)).one_or_none()
    if row is None:
        raise AccessError(
            f"there is no tenant '{tenant[:80]}'", status=404, hint="feilun tenant list", code="no-tenant"
        )
    return _tenant(row)


def set_plan(database: Database, tenant: str, plan: str) -> Tenant:
    """Put a tenant on another plan, from its next request on; what it was on before is kept in ``assignments``.

    Raises:
        AccessError: there is none of that name.
    """
    get(database, tenant)

    def change(connection: Connection) -> None:
        chain = lock(connection, tenant)
        current = select(tables.tenants.c.plan).where(tables.tenants.c.id == tenant)
        if connection.execute(current).scalar_one() != plan:
            connection.execute(update(tables.tenants).where(tables.tenants.c.id == tenant).values(plan=plan))
            _assign(connection, tenant, plan, moment(connection, tenant, chain.at))

    database.write(change, order=tenant)
    return get(database, tenant)


def set_budget(database: Database, tenant: str, budget_nano: int | None) -> Tenant:
    """Change a tenant's monthly budget, from its next request on."""
    return _change(database, tenant, budget_nano=checked(budget_nano))


def set_active(database: Database, tenant: str, *, active: bool) -> Tenant:
    """Stop or resume a tenant; its keys fail within a second."""
    return _change(database, tenant, active=active)


def _change(database: Database, tenant: str, **values: object) -> Tenant:
    table = tables.tenants
    database.write(lambda c: c.execute(update(table).where(table.c.id == tenant).values(values)), order=tenant)
    return get(database, tenant)


def _create(connection: Connection, row: dict[str, Any]) -> Tenant:
    made = row | {"created_at": now_us(connection)}
    connection.execute(insert(tables.tenants).values(made))
    empty = {"sequence": 0, "hash": GENESIS, "at": 0, "held_requests": 0, "held_inputs": 0, "held_tokens": 0}
    connection.execute(insert(tables.chains).values(tenant=row["id"], **empty))
    _assign(connection, row["id"], row["plan"], made["created_at"])
    return Tenant(**made)


def _assign(connection: Connection, tenant: str, plan: str, at: int) -> None:
    row = {"id": str(ULID()), "tenant": tenant, "plan": plan, "at": at}
    connection.execute(insert(tables.assignments).values(row))
    seals.seal(connection, "assignments", row)


def checked(budget_nano: int | None) -> int | None:
    """A budget as it may be stored.

    Raises:
        SettingError: it is below 0, or more than the ledger can hold.
    """
    if budget_nano is not None and not 0 <= budget_nano <= MOST:
        raise SettingError("a budget is between 0 and what the ledger can hold", where="budget")
    return budget_nano


def _tenant(row: Row[Any]) -> Tenant:
    return Tenant(row.id, row.plan, row.budget_nano, row.active, row.created_at)
