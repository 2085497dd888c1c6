"""Who allows what: append-only rows, the newest of a contributor and purpose holds."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select
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
        .order_by(table.c.at.desc(), table.c.granted)
        .limit(1)
    )
    if connection.execute(newest).scalar() == granted:
        return
    row = {"tenant": tenant, "contributor": contributor, "purpose": purpose, "granted": granted}
    connection.execute(insert(table).values(id=str(ULID()), at=now_us(connection), **row))


def in_force(connection: Connection, purpose: str, *, until: int | None = None) -> set[tuple[str, str]]:
    """The (tenant, contributor) pairs whose newest row grants the purpose; of two at one instant a withdrawal holds.

    Args:
        until: only rows up to this time count, microseconds by the database's clock.
    """
    table = tables.consents
    rows = select(table.c.tenant, table.c.contributor, table.c.granted).where(table.c.purpose == purpose)
    if until is not None:
        rows = rows.where(table.c.at <= until)
    held = {}
    for row in connection.execute(rows.order_by(table.c.at, table.c.granted.desc())):
        held[row.tenant, row.contributor] = row.granted
    return {who for who, granted in held.items() if granted}
