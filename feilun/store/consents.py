"""Who allows what: append-only rows, the newest of a contributor and purpose holds."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, insert, select, text
from ulid import ULID

from feilun.store import tables
from feilun.store.database import now_us

PURPOSES = ("serve", "learn", "share")  # answer with their words, train on them, sell them or what is made of them


def record(connection: Connection, tenant: str, contributor: str, purpose: str, *, granted: bool) -> int:
    """Note that a contributor of a tenant grants or withdraws a purpose; nothing is written if that holds already.

    Returns:
        Since when it holds, in microseconds. A person's rows are in order even where the database's clock steps back.
    """
    table = tables.consents
    newest = (
        select(table.c.granted, table.c.at)
        .where(table.c.tenant == tenant, table.c.contributor == contributor, table.c.purpose == purpose)
        .order_by(table.c.at.desc())
        .limit(1)
    )
    last = connection.execute(newest).first()
    if last is not None and last.granted == granted:
        return int(last.at)
    at = max(now_us(connection), int(last.at) + 1 if last is not None else 0)
    row = {"tenant": tenant, "contributor": contributor, "purpose": purpose, "granted": granted}
    connection.execute(insert(table).values(id=str(ULID()), at=at, **row))
    return at


def withdraw(connection: Connection, tenant: str, contributor: str, purposes: Collection[str] = PURPOSES) -> list[str]:
    """Note that a contributor withdraws each of the purposes that they ever granted; returns these purposes."""
    table = tables.consents.c
    mine = (table.tenant == tenant) & (table.contributor == contributor)
    known = set(connection.execute(select(table.purpose).where(mine).distinct()).scalars())
    gone = [purpose for purpose in purposes if purpose in known]
    for purpose in gone:
        record(connection, tenant, contributor, purpose, granted=False)
    return gone


def in_force(connection: Connection, purpose: str, *, until: int | None = None) -> dict[tuple[str, str], int]:
    """Who grants the purpose, as (tenant, contributor), and since when: what came before a withdrawal stays withdrawn.

    Args:
        until: only rows up to this time count, microseconds by the database's clock.
    """
    table = tables.consents
    rows = select(table.c.tenant, table.c.contributor, table.c.granted, table.c.at).where(table.c.purpose == purpose)
    if until is not None:
        rows = rows.where(table.c.at <= until)
    held: dict[tuple[str, str], int] = {}
    for row in connection.execute(rows.order_by(table.c.at)):
        if row.granted:
            held.setdefault((row.tenant, row.contributor), row.at)
        else:
            held.pop((row.tenant, row.contributor), None)
    return held


def allows(held: dict[tuple[str, str], int], tenant: str, contributor: str, at: int) -> bool:
    """Whether words of that time may be used, by what ``in_force`` found."""
    since = held.get((tenant, contributor))
    return since is not None and since <= at


def hold_still(connection: Connection) -> None:
    """No consent is granted or withdrawn until this transaction ends, so that what it finds is so when it commits."""
    if connection.dialect.name == "postgresql":  # SQLite has one writer anyway
        connection.execute(text("LOCK TABLE consents IN SHARE MODE"))
