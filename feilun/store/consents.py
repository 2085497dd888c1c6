"""Who allows what: append-only rows, the newest of a contributor and purpose holds."""

from __future__ import annotations

from sqlalchemy import Connection, func, insert, select
from ulid import ULID

from feilun.store import tables
from feilun.store.database import now_us

PURPOSES = ("learn",)


def record(connection: Connection, tenant: str, contributor: str, purpose: str, *, granted: bool) -> None:
    """Note that a contributor of a tenant grants or withdraws a purpose; nothing is written if that holds already."""
    table = tables.consents
    newest = (
        select(table.c.granted)
        .where(table.c.tenant == tenant, table.c.contributor == contributor, table.c.purpose == purpose)
        .order_by(table.c.id.desc())
        .limit(1)
    )
    if connection.execute(newest).scalar() == granted:
        return
    row = {"tenant": tenant, "contributor": contributor, "purpose": purpose, "granted": granted}
    connection.execute(insert(table).values(id=str(ULID()), at=now_us(connection), **row))


def in_force(connection: Connection, purpose: str, *, until: str | None = None) -> set[tuple[str, str]]:
    """The (tenant, contributor) pairs whose newest row, up to the event ``until``, grants the purpose."""
    table = tables.consents
    newest = (
        select(func.max(table.c.id)).where(table.c.purpose == purpose).group_by(table.c.tenant, table.c.contributor)
    )
    if until is not None:
        newest = newest.where(table.c.id <= until)
    rows = connection.execute(
        select(table.c.tenant, table.c.contributor).where(table.c.id.in_(newest), table.c.granted)
    )
    return {(row.tenant, row.contributor) for row in rows}
