"""Releases and the pointers that say which of them answers: history is append-only, the pointer is compared and set.

A release belongs to everybody or to one tenant, as all releases of its name do; a retired one answers no more.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError
from ulid import ULID

from feilun.errors import AccessError, ConflictError, SettingError
from feilun.store import tables
from feilun.store.artifacts import Artifact
from feilun.store.database import Database, now_us


@dataclass(frozen=True)
class Pointer:
    """Which release the name stands for now; ``version`` counts its changes."""

    name: str
    release: str
    version: int


@dataclass(frozen=True)
class Promotion:
    """One change of a pointer. ``at`` is in microseconds since 1970."""

    name: str
    digest: str
    replaced: str | None
    version: int
    reason: str
    at: int


@dataclass(frozen=True)
class Registered:
    """A release as it is known; ``tenant`` is None where everybody may ask it. Times are microseconds since 1970."""

    digest: str
    name: str
    registered_at: int
    tenant: str | None
    retired_at: int | None


def register(database: Database, release: Artifact, name: str | None = None, *, tenant: str | None = None) -> str:
    """Make an artefact a release of ``name`` (by default, the name in its facts), and return the name.

    Args:
        tenant: whose alone it is, and the name with it; None for everybody's.

    Raises:
        SettingError: there is no name.
        ConflictError: it is registered under another name, or the name is somebody else's.
    """
    chosen = name or release.facts.get("name")
    if not chosen:
        raise SettingError("the release has no name", where=release.short, hint="give it one: [serve.NAME]")
    registered = database.write(lambda c: register_within(c, release.digest, str(chosen), tenant=tenant))
    if registered != chosen:
        raise ConflictError(f"release {release.short} is registered as '{registered}'", hint="use that name")
    return registered


def promote(database: Database, name: str, digest: str, *, expected_version: int, reason: str) -> Pointer:
    """Let ``name`` stand for the release ``digest``, if nobody changed the pointer since ``expected_version``.

    Args:
        expected_version: the version that the caller saw; 0 where the name had no pointer yet.

    Raises:
        AccessError: no such release of that name, or it is retired.
        ConflictError: the pointer has another version by now.
    """
    to = Pointer(name, digest, expected_version + 1)
    try:
        return database.write(lambda c: promote_within(c, to, reason))
    except IntegrityError as error:  # two first promotions at once: the primary key lets one through
        raise _changed(name) from error


def rollback(
    database: Database, name: str, *, reason: str = "rolled back", expected_version: int | None = None
) -> Pointer:
    """Go back to the release before the present one; again, to the one before that. What is retired is passed over.

    Args:
        expected_version: the version that the caller saw; by default whatever it is now.

    Raises:
        AccessError: nothing is served under that name.
        ConflictError: there is no earlier release, or somebody changed the pointer meanwhile.
    """
    now = pointer(database, name)
    if expected_version is not None and now.version != expected_version:
        raise _changed(name)
    return promote(database, name, before(database, name), expected_version=now.version, reason=reason)


def before(database: Database, name: str) -> str:
    """The release that ``rollback`` would go back to.

    Raises:
        ConflictError: there is none.
    """
    stack: list[str] = []
    for promotion in history(database, name):
        if len(stack) > 1 and stack[-2] == promotion.digest:
            stack.pop()  # this was a way back
        elif not stack or stack[-1] != promotion.digest:
            stack.append(promotion.digest)
    retired = {release.digest for release in known(database, name) if release.retired_at is not None}
    earlier = [digest for digest in stack[:-1] if digest not in retired]
    if not earlier:
        raise ConflictError(f"'{name}' has no earlier release", hint="feilun releases list", code="no-earlier-release")
    return earlier[-1]


def find_pointer(database: Database, name: str) -> Pointer | None:
    """The pointer ``name``, or None where nothing was promoted yet."""
    with database.read() as connection:
        row = connection.execute(select(tables.pointers).where(tables.pointers.c.name == name)).one_or_none()
    return None if row is None else Pointer(row.name, row.release, row.version)


def pointer(database: Database, name: str) -> Pointer:
    """The pointer ``name``.

    Raises:
        AccessError: there is none.
    """
    found = find_pointer(database, name)
    if found is None:
        raise AccessError(
            f"nothing is served under the name '{name}'", status=404, hint="feilun releases promote", code="no-release"
        )
    return found


def pointers(database: Database) -> list[Pointer]:
    """Every pointer, by name."""
    with database.read() as connection:
        rows = connection.execute(select(tables.pointers).order_by(tables.pointers.c.name)).all()
    return [Pointer(row.name, row.release, row.version) for row in rows]


def history(database: Database, name: str) -> list[Promotion]:
    """Every change of the pointer ``name``, oldest first."""
    table = tables.promotions
    with database.read() as connection:
        rows = connection.execute(select(table).where(table.c.name == name).order_by(table.c.version)).all()
    return [Promotion(r.name, r.release, r.replaced, r.version, r.reason, r.at) for r in rows]


def known(database: Database, name: str | None = None) -> list[Registered]:
    """The releases of ``name``, or all, oldest first; the retired ones too."""
    table = tables.releases
    query = select(table).order_by(table.c.registered_at, table.c.digest)
    with database.read() as connection:
        rows = connection.execute(query.where(table.c.name == name) if name else query).all()
    return [Registered(r.digest, r.name, r.registered_at, r.tenant, r.retired_at) for r in rows]


def registered(database: Database, name: str | None = None) -> list[str]:
    """Digests of the releases of ``name``, or of all, oldest first."""
    return [release.digest for release in known(database, name)]


def find(database: Database, name: str, digits: str) -> Registered | None:
    """The one release of ``name`` whose digest begins with ``digits`` and that is not retired; else None."""
    table = tables.releases
    query = select(table).where(table.c.name == name, table.c.digest.startswith(digits, autoescape=True)).limit(2)
    with database.read() as connection:
        rows = connection.execute(query.where(table.c.retired_at.is_(None))).all()
    found = [Registered(r.digest, r.name, r.registered_at, r.tenant, r.retired_at) for r in rows]
    return found[0] if len(found) == 1 else None


def retire(database: Database, name: str, digest: str) -> Registered:
    """Let a release answer no more, under no name; its artefact and what it answered stay. It cannot be undone.

    Raises:
        AccessError: no such release of that name.
        ConflictError: the name stands for it now, or it is its canary or shadow.
    """
    database.write(lambda c: _retire(c, name, digest))
    return next(release for release in known(database, name) if release.digest == digest)


def register_within(connection: Connection, digest: str, name: str, *, tenant: str | None = None) -> str:
    """The name that the release has: ``name``, unless it was registered under another before.

    Raises:
        ConflictError: the name is another tenant's, or everybody's where it is to be one tenant's.
    """
    table = tables.releases
    found = connection.execute(select(table.c.name, table.c.tenant).where(table.c.digest == digest)).one_or_none()
    owner = select(table.c.tenant).where(table.c.name == name).order_by(table.c.registered_at).limit(1)
    first = connection.execute(owner).one_or_none()
    if (found is not None and found.name == name and found.tenant != tenant) or (
        first is not None and first.tenant != tenant
    ):
        raise ConflictError(f"the name '{name}' is somebody else's", hint="choose another one", code="name-taken")
    if found is None:
        row = {"digest": digest, "name": name, "tenant": tenant, "registered_at": now_us(connection)}
        connection.execute(insert(table).values(row))
        return name
    return str(found.name)


def promote_within(connection: Connection, to: Pointer, reason: str) -> Pointer:
    """As ``promote``, in the caller's transaction; ``to.version`` is the version that it will have."""
    table = tables.pointers
    must_be_known(connection, to.name, to.release)
    replaced = connection.execute(select(table.c.release).where(table.c.name == to.name)).scalar_one_or_none()
    at_version = (table.c.name == to.name) & (table.c.version == to.version - 1)
    swapped = connection.execute(update(table).where(at_version).values(release=to.release, version=to.version))
    if swapped.rowcount == 0:
        if replaced is not None or to.version != 1:
            raise _changed(to.name)
        connection.execute(insert(table).values(name=to.name, release=to.release, version=1))
    row = {"id": str(ULID()), "name": to.name, "release": to.release, "replaced": replaced}
    connection.execute(
        insert(tables.promotions).values(version=to.version, reason=reason, at=now_us(connection), **row)
    )
    return to


def must_be_known(connection: Connection, name: str, digest: str) -> None:
    """Refuse a release that is not one of ``name``, or is retired; it stays as it is until the transaction's end.

    Raises:
        AccessError: 404.
    """
    table = tables.releases
    same = (table.c.digest == digest) & (table.c.name == name) & table.c.retired_at.is_(None)
    if connection.execute(select(table.c.digest).where(same).with_for_update()).first() is None:
        raise AccessError(
            f"'{digest[:12]}' is not a release of '{name}'",
            status=404,
            hint="feilun releases list shows them",
            code="no-release",
        )


def _retire(connection: Connection, name: str, digest: str) -> None:
    must_be_known(connection, name, digest)
    for table in (tables.pointers, tables.rollouts):
        if connection.execute(select(table.c.name).where(table.c.release == digest)).first() is not None:
            raise ConflictError(
                f"'{name}' stands for that release now, or it is its canary or shadow",
                hint="promote another release first, or end the canary",
                code="release-in-use",
            )
    values = {"retired_at": now_us(connection)}
    connection.execute(update(tables.releases).where(tables.releases.c.digest == digest).values(values))


def _changed(name: str) -> ConflictError:
    return ConflictError(
        f"the pointer '{name}' was changed by somebody else",
        hint="look at it again (feilun releases list), then decide again",
    )
