"""Long work that one process at a time does, in rows that have ``state``, ``holder`` and ``lease_until``.

Whoever works renews the lease; a worker that died is followed by another one when it ends. Each write of a worker names
its holder, so that one that was taken for dead changes nothing any more.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, or_, select, update

from feilun.store.database import now_us

LONGEST_US = 600 * 10**6  # a lease that would last longer was given before the clock was put back: it has ended


def take(
    connection: Connection,
    table: Table,
    states: Collection[str],
    holder: str,
    lease_s: float,
    *conditions: ColumnElement[bool],
) -> str | None:
    """The oldest row in one of ``states`` that nobody works on, now held; of a tenant that has none being worked on.

    Returns:
        Its id, or None where there is nothing to do.
    """
    now = now_us(connection)
    mine = table.alias()
    free = or_(table.c.lease_until <= now, table.c.lease_until > now + LONGEST_US)
    busy = (mine.c.tenant == table.c.tenant) & mine.c.state.in_(states) & mine.c.holder.is_not(None)
    busy &= (mine.c.lease_until > now) & (mine.c.lease_until <= now + LONGEST_US)
    idle = ~select(mine.c.id).where(busy).exists()
    query = select(table.c.id).where(table.c.state.in_(states), free, idle, *conditions)
    found: str | None = connection.execute(query.order_by(table.c.id).limit(1)).scalar_one_or_none()
    if found is None:
        return None
    until = now + int(lease_s * 10**6)
    taken = update(table).where(table.c.id == found, table.c.state.in_(states), free)
    return found if connection.execute(taken.values(holder=holder, lease_until=until)).rowcount == 1 else None


def renew(connection: Connection, table: Table, identity: str, holder: str, lease_s: float) -> str | None:
    """Hold a row for longer; its state, or None where somebody else holds it by now."""
    until = now_us(connection) + int(lease_s * 10**6)
    if not change(connection, table, identity, holder, lease_until=until):
        return None
    state: str = connection.execute(select(table.c.state).where(table.c.id == identity)).scalar_one()
    return state


def change(connection: Connection, table: Table, identity: str, by: str, /, **values: Any) -> bool:
    """Write columns of a row that ``by`` holds; False, and nothing is written, where it does not any more."""
    held = (table.c.id == identity) & (table.c.holder == by)
    return connection.execute(update(table).where(held).values(**values)).rowcount == 1
