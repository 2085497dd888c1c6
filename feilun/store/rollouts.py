"""What a name has beside the release that it stands for: a canary that answers some, a shadow that answers nobody.

Both are one row for each name, changed by compare-and-swap on its version, with a history that is append-only. What a
shadow answered is counted in ``agreements``, beside what was answered to the caller.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from sqlalchemy import Connection, Row, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from ulid import ULID

from feilun.errors import AccessError, ConflictError, SettingError
from feilun.store import releases, tables
from feilun.store.artifacts import canonical
from feilun.store.database import Database, now_us

Kind = Literal["canary", "shadow"]
Sticky = Literal["tenant", "request"]
KINDS: tuple[str, ...] = get_args(Kind)
WHOLE = 10_000  # a share of 1


@dataclass(frozen=True)
class Rollout:
    """A release beside the champion of ``name``; ``release`` is None where it was ended.

    ``share`` is in 1/10000 of the traffic, chosen by ``sticky``: all requests of a tenant go the same way, or each goes
    its own. The ``tenants`` that are named get it whatever the share is. ``version`` counts the changes.
    """

    name: str
    kind: str
    release: str | None
    share: int
    sticky: str
    tenants: frozenset[str]
    version: int

    def takes(self, tenant: str, request: str) -> bool:
        """Whether this request is one of its share; the same request always is, or never.

        >>> half = Rollout("reviews", "canary", "0" * 64, 5_000, "tenant", frozenset(["acme"]), 1)
        >>> half.takes("acme", "1"), half.takes("globex", "1") == half.takes("globex", "2")
        (True, True)
        """
        if self.release is None:
            return False
        if tenant in self.tenants or self.share >= WHOLE:
            return True
        if not self.share:
            return False
        who = tenant if self.sticky == "tenant" else f"{tenant}\0{request}"
        drawn = hashlib.blake2b(f"{self.kind}\0{self.release}\0{who}".encode(), digest_size=8).digest()
        return int.from_bytes(drawn, "big") % WHOLE < self.share

    def is_open_to(self, tenant: str) -> bool:
        """Whether the tenant may ask for it by name: it is meant for everybody, or for them."""
        return self.release is not None and (self.share > 0 or tenant in self.tenants)


@dataclass(frozen=True)
class Change:
    """One change of a rollout. ``at`` is in microseconds since 1970."""

    name: str
    kind: str
    release: str | None
    share: int
    sticky: str
    tenants: tuple[str, ...]
    version: int
    reason: str
    at: int


@dataclass(frozen=True)
class Agreement:
    """How often a shadow said the same as the release that answered; times are processor time of those that were
    compared, ``furthest`` the largest distance of two numbers in the same place of both answers."""

    name: str
    release: str
    shadow: str
    compared: int = 0
    agreed: int = 0
    failed: int = 0
    dropped: int = 0
    release_ns: int = 0
    shadow_ns: int = 0
    furthest: float = 0.0

    def plus(self, other: Agreement) -> Agreement:
        """Both together."""
        sums = {c: getattr(self, c) + getattr(other, c) for c in _COUNTED}
        return Agreement(self.name, self.release, self.shadow, furthest=max(self.furthest, other.furthest), **sums)


_MILLION = 10**6  # no column holds a float
_COUNTED = ("compared", "agreed", "failed", "dropped", "release_ns", "shadow_ns")


def share_of(part: float) -> int:
    """A share from 0 to 1 in 1/10000, rounded.

    Raises:
        SettingError: it is no such share, or it is above 0 and rounds to nothing.
    """
    if not 0 <= part <= 1 or (part > 0 and round(part * WHOLE) == 0):
        raise SettingError("a share is between 0.0001 and 1, or 0", where="share", hint="0.05 is 5 %")
    return round(part * WHOLE)


def change(  # noqa: PLR0913 - each is one column
    database: Database,
    kind: Kind,
    name: str,
    release: str | None,
    *,
    share: int = 0,
    tenants: Collection[str] = (),
    sticky: Sticky = "tenant",
    expected_version: int,
    reason: str,
) -> Rollout:
    """Give ``name`` another canary or shadow, or end it (``release`` None), if nobody changed it meanwhile.

    Args:
        share: in 1/10000 of the traffic.
        tenants: who gets it whatever the share is.
        expected_version: the version that the caller saw; 0 where there never was one.

    Raises:
        AccessError: no such release of that name, nothing is served under the name, or there is no such tenant.
        ConflictError: it has another version by now.
        SettingError: it would answer nobody.
    """
    if release is not None and not (share or tenants):
        raise SettingError(f"the {kind} would answer nobody", where="share", hint="give a share, or tenants")
    if not 0 <= share <= WHOLE:
        raise SettingError("a share is between 0 and 1", where="share")
    named = frozenset(tenants) if release is not None else frozenset()
    to = Rollout(name, kind, release, share if release is not None else 0, sticky, named, expected_version + 1)
    try:
        return database.write(lambda c: _change(c, to, reason))
    except IntegrityError as error:  # two first ones at once: the primary key lets one through
        raise _changed(to) from error


def find(database: Database, kind: Kind, name: str) -> Rollout | None:
    """The canary or shadow of ``name``; None where there never was one."""
    table = tables.rollouts
    with database.read() as connection:
        row = connection.execute(select(table).where(table.c.name == name, table.c.kind == kind)).one_or_none()
    return None if row is None else read(row)


def version_of(database: Database, kind: Kind, name: str) -> int:
    """How often it was changed: what ``change`` expects."""
    found = find(database, kind, name)
    return 0 if found is None else found.version


def current(database: Database) -> list[Rollout]:
    """Every canary and shadow that there is now."""
    table = tables.rollouts
    with database.read() as connection:
        rows = connection.execute(select(table).where(table.c.release.is_not(None))).all()
    return [read(row) for row in rows]


def read(row: Row[Any]) -> Rollout:
    """A row of ``rollouts``."""
    tenants = frozenset(json.loads(row.tenants))
    return Rollout(row.name, row.kind, row.release, row.share, row.sticky, tenants, row.version)


def history(database: Database, name: str) -> list[Change]:
    """Every change of the canary and of the shadow of ``name``, oldest first."""
    table = tables.rollout_changes
    query = select(table).where(table.c.name == name).order_by(table.c.at, table.c.kind, table.c.version)
    with database.read() as connection:
        rows = connection.execute(query).all()
    return [
        Change(r.name, r.kind, r.release, r.share, r.sticky, tuple(json.loads(r.tenants)), r.version, r.reason, r.at)
        for r in rows
    ]


def count(connection: Connection, found: Iterable[Agreement]) -> None:
    """Add to the counters of ``agreements``."""
    table = tables.agreements
    make = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    now = now_us(connection)
    for one in sorted(found, key=lambda a: (a.name, a.release, a.shadow)):  # one order of locks for every process
        key = (table.c.name == one.name) & (table.c.release == one.release) & (table.c.shadow == one.shadow)
        fresh = {**dict.fromkeys(_COUNTED, 0), "furthest": 0, "changed_at": now}
        row = {"name": one.name, "release": one.release, "shadow": one.shadow}
        connection.execute(make(table).values(**row, **fresh).on_conflict_do_nothing())
        sums: dict[Any, Any] = {table.c[c]: table.c[c] + getattr(one, c) for c in _COUNTED}
        connection.execute(update(table).where(key).values(sums | {table.c.changed_at: now}))
        furthest = round(min(one.furthest * _MILLION, 2.0**62))
        connection.execute(update(table).where(key, table.c.furthest < furthest).values(furthest=furthest))


def agreements(database: Database, name: str | None = None) -> list[Agreement]:
    """What shadows of ``name``, or of all names, said beside what was answered; the newest first."""
    table = tables.agreements
    query = select(table).order_by(table.c.changed_at.desc(), table.c.shadow)
    with database.read() as connection:
        rows = connection.execute(query.where(table.c.name == name) if name else query).all()
    return [
        Agreement(r.name, r.release, r.shadow, furthest=r.furthest / _MILLION, **{c: getattr(r, c) for c in _COUNTED})
        for r in rows
    ]


def as_dict(rollout: Rollout) -> dict[str, Any]:
    """Plain values: ``share`` from 0 to 1, ``tenants`` in order."""
    return asdict(rollout) | {"share": rollout.share / WHOLE, "tenants": sorted(rollout.tenants)}


def _change(connection: Connection, to: Rollout, reason: str) -> Rollout:
    pointers, table = tables.pointers, tables.rollouts
    if to.release is not None:
        releases.must_be_known(connection, to.name, to.release)
        if connection.execute(select(pointers.c.name).where(pointers.c.name == to.name)).first() is None:
            raise AccessError(
                f"nothing is served under the name '{to.name}'",
                status=404,
                hint="a canary stands beside a release that was promoted: feilun releases promote",
                code="no-release",
            )
    for tenant in sorted(to.tenants):
        if connection.execute(select(tables.tenants.c.id).where(tables.tenants.c.id == tenant)).first() is None:
            raise AccessError(f"there is no tenant '{tenant[:80]}'", status=404, where="tenants", code="no-tenant")
    columns = {"release": to.release, "share": to.share, "sticky": to.sticky, "version": to.version}
    columns["tenants"] = canonical(sorted(to.tenants)).decode()
    mine = (table.c.name == to.name) & (table.c.kind == to.kind)
    moved = connection.execute(update(table).where(mine, table.c.version == to.version - 1).values(columns))
    if moved.rowcount == 0:
        if to.version != 1 or connection.execute(select(table.c.name).where(mine)).first() is not None:
            raise _changed(to)
        connection.execute(insert(table).values(name=to.name, kind=to.kind, **columns))
    row = {"id": str(ULID()), "name": to.name, "kind": to.kind, "reason": reason, "at": now_us(connection)}
    connection.execute(insert(tables.rollout_changes).values(**row, **columns))
    return to


def _changed(to: Rollout) -> ConflictError:
    return ConflictError(
        f"the {to.kind} of '{to.name}' was changed by somebody else",
        hint="look at it again (feilun releases list), then decide again",
    )
