"""Numbered migrations: frozen SQL for each database, run once each, in order, under a lock.

A file is ``0001_name.sqlite.sql`` or ``0001_name.postgresql.sql``; its statements are separated by an empty line. Once
released it never changes (its sha256 is kept in the database and compared); a change is the next number.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import OperationalError

from feilun.errors import ConflictError, UnavailableError
from feilun.store import seals
from feilun.store.database import Database, now_us

_LOCK = 0x6665696C  # an arbitrary number of our own for PostgreSQL's advisory locks: "feil"
_SEALS = 2  # the migration that brought seals: what was there before it is sealed by it
_HISTORY = """CREATE TABLE IF NOT EXISTS migrations (
    number INTEGER PRIMARY KEY, name VARCHAR(128) NOT NULL, sha256 VARCHAR(64) NOT NULL, at BIGINT NOT NULL)"""


@dataclass(frozen=True)
class Migration:
    """One numbered change of the schema, in one database's SQL."""

    number: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """Digest of the SQL: a migration that was run must not change later."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def open_database(url: str) -> Database:
    """Open ``url`` and bring its tables up to date.

    Raises:
        SettingError: the URL is not of a supported database.
        ConflictError: the database is newer than this program, or an old migration was changed.
        UnavailableError: it cannot be reached.
    """
    database = Database(url)
    try:
        migrate(database)
    except OperationalError as error:
        database.close()
        kind = type(error.orig).__name__
        raise UnavailableError("the database cannot be opened", where=kind, hint="is it there and running?") from error
    except ConflictError:
        database.close()
        raise
    return database


def migrate(database: Database, until: int | None = None) -> list[int]:
    """Run what is missing, in one transaction, and return its numbers. Safe from many processes at once.

    Args:
        until: the last one to run; all by default. A backup of older tables needs these first.

    Raises:
        ConflictError: the database is newer than this program, or an old migration was changed.
    """
    known = [m for m in migrations(database.engine.dialect.name) if until is None or m.number <= until]
    with database.read() as connection:  # so that opening an up-to-date database takes no lock
        if inspect(connection).has_table("migrations") and not _missing(connection, known):
            return []
    with database.alone() as connection:
        if not database.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        connection.execute(text(_HISTORY))
        missing = _missing(connection, known)
        for migration in missing:
            for statement in migration.sql.split("\n\n"):
                connection.exec_driver_sql(statement.strip().removesuffix(";"))
            row = {"number": migration.number, "name": migration.name, "sha256": migration.sha256}
            insert = text("INSERT INTO migrations (number, name, sha256, at) VALUES (:number, :name, :sha256, :at)")
            connection.execute(insert, row | {"at": now_us(connection)})
        if any(migration.number == _SEALS for migration in missing):
            seals.adopt(connection)
    return [m.number for m in missing]


def migrations(dialect: str) -> list[Migration]:
    """Every migration of this program for ``sqlite`` or ``postgresql``, in order."""
    folder = resources.files(__name__)
    return sorted(
        (_read(file) for file in folder.iterdir() if file.name.endswith(f".{dialect}.sql")), key=lambda m: m.number
    )


def _read(file: Traversable) -> Migration:
    number, _, name = file.name.split(".")[0].partition("_")
    return Migration(int(number), name, file.read_text(encoding="utf-8"))


def _missing(connection: Connection, known: list[Migration]) -> list[Migration]:
    """What has not been run yet.

    Raises:
        ConflictError: as for ``migrate``.
    """
    rows = connection.execute(text("SELECT number, sha256 FROM migrations ORDER BY number")).all()
    ours = {m.number: m for m in known}
    for number, sha256 in rows:
        if number not in ours:
            raise ConflictError(
                f"the database is newer than this program (its migration {number} is unknown here)",
                hint="install the version of feilun that wrote it",
                code="database-is-newer",
            )
        if ours[number].sha256 != sha256:
            raise ConflictError(
                f"migration {number} was changed after it had been run",
                where=ours[number].name,
                hint="put the file back; a change of the tables is a new migration",
                code="migration-changed",
            )
    done = {row[0] for row in rows}
    return [m for m in known if m.number not in done]
