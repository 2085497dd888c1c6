"""Files of tenants: what they upload to be worked on later, and what comes out of that.

A file's bytes are rows of the same database as everything else, so that a backup has them, a deletion leaves nothing,
and every gateway sees them. They are kept once for each tenant and content, by their sha256, which is checked when they
are read. Nothing that a caller names ever becomes a path.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

from sqlalchemy import ColumnElement, Connection, Row, delete, func, insert, select
from sqlalchemy.dialects import postgresql, sqlite
from ulid import ULID

from feilun.errors import AccessError, ArtifactError, ConflictError, QuotaError
from feilun.store import consents, ledger, tables
from feilun.store.database import Database, now_us

PART = 512 * 1024  # bytes of a row: one write of the many that share the writer's thread
LEARNS = "fine-tune"  # the purpose of a file that its tenant's models may learn from
BATCH_S = 30 * 86_400  # how long files of a batch are kept where nothing else is said
UNFINISHED_US = 86_400 * 10**6  # after which parts without a file are those of an upload that came to nothing
ATTEMPTS = 3


@dataclass(frozen=True)
class File:
    """One file. Times are in microseconds since 1970."""

    id: str
    tenant: str
    purpose: str
    filename: str
    bytes: int
    sha256: str
    created_at: int
    expires_at: int | None


@dataclass(frozen=True)
class Wanted:
    """What is to be kept: ``keep_s`` seconds long, for ever where that is None."""

    tenant: str
    key: str
    purpose: str
    filename: str
    keep_s: int | None = None


def put(database: Database, wanted: Wanted, content: IO[bytes], *, most_bytes: int | None = None) -> File:
    """Keep a file; part by part, so that no write of a request waits for the whole of it.

    A file for fine-tuning is its tenant's word that the tenant's own models, and no others, may learn from it; the
    consent is written down with it, and withdrawn by deleting it.

    Args:
        most_bytes: of all files of the tenant together.

    Raises:
        QuotaError: the tenant's files would be more than that.
        UnavailableError: the database does not take it.
    """
    with (
        database.read() as connection
    ):  # before its parts are written; ``keep`` looks again, when nobody else can write
        _check_room(connection, wanted.tenant, content.seek(0, os.SEEK_END), most_bytes)
    for attempt in range(ATTEMPTS):
        found = write_parts(database, wanted.tenant, content)
        try:
            return database.write(partial(_kept, wanted, found, most_bytes), order=wanted.tenant)
        except ConflictError:  # the same content was deleted meanwhile, with these parts
            if attempt + 1 == ATTEMPTS:
                raise
    raise AssertionError("the last attempt has raised")


def write_parts(database: Database, tenant: str, content: IO[bytes]) -> tuple[str, int]:
    """Write a file's bytes, each part in a transaction of its own; the sha256 of all, and how many there are.

    They are nobody's, and are swept away, until ``keep`` names them.

    Raises:
        UnavailableError: the database does not take it.
    """
    content.seek(0)
    digest = _digest(content)
    size = content.tell()
    content.seek(0)
    for number, body in enumerate(iter(lambda: content.read(PART), b"")):
        database.write(
            partial(_part, row={"tenant": tenant, "sha256": digest, "number": number, "body": body}), order=tenant
        )
    return digest, size


def get(connection: Connection, tenant: str, identity: str) -> File:
    """A tenant's file.

    Raises:
        AccessError: 404, there is none, or it is somebody else's, which is the same to who asks.
    """
    table = tables.files.c
    mine = (table.tenant == tenant) & (table.id == identity) & _unexpired(now_us(connection))
    row = connection.execute(select(tables.files).where(mine)).one_or_none()
    if row is None:
        raise AccessError("there is no such file", status=404, hint="GET /v1/files lists yours", code="file-not-found")
    return _file(row)


def listed(
    connection: Connection, tenant: str, *, purpose: str | None, after: str | None, limit: int, newest: bool
) -> list[File]:
    """A tenant's files in order of their ids, which is that of their times; at most ``limit``, behind ``after``."""
    table = tables.files.c
    query = select(tables.files).where(table.tenant == tenant, _unexpired(now_us(connection)))
    if purpose is not None:
        query = query.where(table.purpose == purpose)
    if after is not None:
        query = query.where(table.id < after if newest else table.id > after)
    query = query.order_by(table.id.desc() if newest else table.id).limit(limit)
    return [_file(row) for row in connection.execute(query)]


def parts(database: Database, file: File) -> Iterator[bytes]:
    """A file's bytes, checked: the last part comes only if all of them are what they were.

    Raises:
        ArtifactError: they are not.
        AccessError: 404, the file was deleted meanwhile.
    """
    digest, held = hashlib.sha256(), b""
    table = tables.file_parts.c
    for number in range(-(-file.bytes // PART)):
        mine = (table.tenant == file.tenant) & (table.sha256 == file.sha256) & (table.number == number)
        with database.read() as connection:
            body = connection.execute(select(table.body).where(mine)).scalar_one_or_none()
            if body is None:
                get(connection, file.tenant, file.id)
                raise ArtifactError("a part of the file is missing", where=file.id)
        if held:
            yield held
        held = bytes(body)
        digest.update(held)
    if digest.hexdigest() != file.sha256:
        raise ArtifactError("the file is not what it was", where=file.id, hint="restore a backup")
    if held:
        yield held


def lines(database: Database, file: File) -> Iterator[bytes]:
    """The lines of a file, without their ends; empty ones too.

    Raises:
        ArtifactError, AccessError: as ``parts``.
    """
    rest = b""
    for body in parts(database, file):
        *whole, rest = (rest + body).split(b"\n")
        yield from whole
    if rest:
        yield rest


def remove(connection: Connection, tenant: str, identity: str) -> None:
    """Delete a file, and its bytes where no other file of the tenant has the same.

    Raises:
        AccessError: 404, as ``get``.
    """
    file = get(connection, tenant, identity)
    _remove(connection, file)


def sweep(connection: Connection) -> int:
    """Delete what has expired and what was never finished; returns how many files went."""
    now = now_us(connection)
    table, kept = tables.files.c, tables.file_parts
    expired = select(tables.files).where(table.expires_at <= now).order_by(table.tenant)
    gone = [_file(row) for row in connection.execute(expired)]
    for file in gone:
        _remove(connection, file)
    named = select(table.id).where(table.tenant == kept.c.tenant, table.sha256 == kept.c.sha256).exists()
    connection.execute(delete(kept).where(kept.c.at < now - UNFINISHED_US, ~named))
    return len(gone)


def _remove(connection: Connection, file: File) -> None:
    ledger.lock(connection, file.tenant)
    table, kept = tables.files, tables.file_parts
    connection.execute(delete(table).where(table.c.id == file.id))
    same = (table.c.tenant == file.tenant) & (table.c.sha256 == file.sha256)
    if connection.execute(select(table.c.id).where(same).limit(1)).first() is None:
        connection.execute(delete(kept).where(kept.c.tenant == file.tenant, kept.c.sha256 == file.sha256))
    if file.purpose == LEARNS:
        consents.record(connection, file.tenant, file.id, "learn", granted=False)


def _kept(wanted: Wanted, found: tuple[str, int], most_bytes: int | None, connection: Connection) -> File:
    return keep(connection, wanted, *found, most_bytes)


def _part(connection: Connection, row: dict[str, Any]) -> None:
    into = (sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert)(tables.file_parts)
    now = now_us(connection)
    again = into.values(**row, at=now).on_conflict_do_update(
        index_elements=["tenant", "sha256", "number"], set_={"at": now}
    )
    connection.execute(again)


def keep(connection: Connection, wanted: Wanted, digest: str, size: int, most_bytes: int | None = None) -> File:
    """Make a file of what ``write_parts`` wrote.

    Raises:
        QuotaError: the tenant's files would be more than ``most_bytes``.
        ConflictError: its parts were deleted meanwhile: write them again.
    """
    ledger.lock(connection, wanted.tenant)  # uploads and deletions of a tenant come one after the other
    _check_room(connection, wanted.tenant, size, most_bytes)
    kept = tables.file_parts.c
    there = select(func.count()).where(kept.tenant == wanted.tenant, kept.sha256 == digest)
    if int(connection.execute(there).scalar_one()) != -(-size // PART):
        raise ConflictError("the file was deleted while it came", hint="send it again")
    now = now_us(connection)
    row: dict[str, Any] = {
        "id": f"file-{ULID()}",
        "tenant": wanted.tenant,
        "purpose": wanted.purpose,
        "filename": wanted.filename,
    }
    row |= {"bytes": size, "sha256": digest, "created_at": now}
    row |= {"expires_at": None if wanted.keep_s is None else now + wanted.keep_s * 10**6}
    connection.execute(insert(tables.files).values(key=wanted.key, **row))
    if wanted.purpose == LEARNS:
        consents.record(connection, wanted.tenant, row["id"], "learn", granted=True)
    return File(**row)


def _check_room(connection: Connection, tenant: str, size: int, most_bytes: int | None) -> None:
    if most_bytes is None:
        return
    table = tables.files.c
    used = select(func.sum(table.bytes)).where(table.tenant == tenant)
    if int(connection.execute(used).scalar() or 0) + size > most_bytes:
        raise QuotaError(
            f"your files would be more than {most_bytes:,} bytes together",
            retry_after=None,
            hint="delete some: DELETE /v1/files/{id}",
            code="too-many-files",
        )


def _unexpired(now: int) -> ColumnElement[bool]:
    table = tables.files.c
    return table.expires_at.is_(None) | (table.expires_at > now)


def _file(row: Row[Any]) -> File:
    return File(**{name: getattr(row, name) for name in File.__dataclass_fields__})


def _digest(content: IO[bytes]) -> str:
    """The sha256 of all that is left; the position is at the end then."""
    digest = hashlib.sha256()
    for body in iter(lambda: content.read(PART), b""):
        digest.update(body)
    return digest.hexdigest()
