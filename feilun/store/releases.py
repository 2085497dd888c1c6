"""Releases and the pointers that say which of them answers: history is append-only, the pointer is compared and set."""

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


def register(database: Database, release: Artifact, name: str | None = None) -> str:
    """Make an artefact a release of ``name`` (by default, the name in its facts), and return the name.

    Raises:
        SettingError: there is no name.
        ConflictError: it is registered under another name.
    """
    chosen = name or release.facts.get("name")
    if not chosen:
        raise SettingError("the release has no name", where=release.short, hint="give it one: [serve.NAME]")
    registered = database.write(lambda c: register_within(c, release.digest, str(chosen)))
    if registered != chosen:
        raise ConflictError(f"release {release.short} is registered as '{registered}'", hint="use that name")
    return registered


def promote(database: Database, name: str, digest: str, *, expected_version: int, reason: str) -> Pointer:
    """Let ``name`` stand for the release ``digest``, if nobody changed the pointer since ``expected_version``.

    Args:
        expected_version: the version that the caller saw; 0 where the name had no pointer yet.

    Raises:
        AccessError: no such release of that name.
        ConflictError: the pointer has another version by now.
    """
    to = Pointer(name, digest, expected_version + 1)
    try:
        return database.write(lambda c: promote_within(c, to, reason))
    except IntegrityError as error:  # two first promotions at once: the primary key lets one through
        raise _changed(name) from error


def rollback(database: Database, name: str, *, reason: str = "rolled back") -> Pointer:
    """Go back to the release before the present one; again, to the one before that.

    Raises:
        AccessError: nothing is served under that name.
        ConflictError: there is no earlier release, or somebody changed the pointer meanwhile.
    """
    now = pointer(database, name)
    stack: list[str] = []
    for promotion in history(database, name):
        if len(stack) > 1 and stack[-2] == promotion.digest:
            stack.pop()  # this was a way back
        elif not stack or stack[-1] != promotion.digest:
            stack.append(promotion.digest)
    if len(stack) < 2:
        raise ConflictError(f"'{name}' has no earlier release", hint="feilun releases list")
    return promote(database, name, stack[-2], expected_version=now.version, reason=reason)


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


def registered(database: Database, name: str | None = None) -> list[str]:
    """Digests of the releases of ``name``, or of all, oldest first."""
    table = tables.releases
    query = select(table.c.digest).order_by(table.c.registered_at, table.c.digest)
    with database.read() as connection:
        return list(connection.execute(query.where(table.c.name == name) if name else query).scalars())


def register_within(connection: Connection, digest: str, name: str) -> str:
    """The name that the release has: ``name``, unless it was registered under another before."""
    table = tables.releases
    found = connection.execute(select(table.c.name).where(table.c.digest == digest)).scalar_one_or_none()
    if found is None:
        connection.execute(insert(table).values(digest=digest, name=name, registered_at=now_us(connection)))
    return found or name


def promote_within(connection: Connection, to: Pointer, reason: str) -> Pointer:
    """As ``promote``, in the caller's transaction; ``to.version`` is the version that it will have."""
    releases, table = tables.releases, tables.pointers
    known = select(releases.c.digest).where(releases.c.digest == to.release, releases.c.name == to.name)
    if connection.execute(known).first() is None:
        raise AccessError(
            f"'{to.release[:12]}' is not a release of '{to.name}'",
            status=404,
            hint="feilun releases list shows them",
            code="no-release",
        )
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


def _changed(name: str) -> ConflictError:
    return ConflictError(
        f"the pointer '{name}' was changed by somebody else",
        hint="look at it again (feilun releases list), then decide again",
    )
