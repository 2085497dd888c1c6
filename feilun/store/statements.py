"""SQL that is written once and handed to the driver as it is: for the few statements that every request runs.

Building a SQLAlchemy statement and its result costs some 200 µs of Python, the driver's own call 5 to 10 µs on SQLite
(docs/log.md has the figures). A gateway runs some fifteen statements for each answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Protocol

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

_NAME = re.compile(r"(?<!:):([a-z_0-9]+)")
_NOW = "NOW_US"  # in a statement: microseconds since 1970, UTC, by the database's clock (SQLite's has milliseconds)
_NOW_SQLITE = "CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER) * 1000"
_NOW_POSTGRESQL = "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)"


class Cursor(Protocol):
    """What both drivers give back."""

    rowcount: int

    def fetchone(self) -> tuple[Any, ...] | None:
        """The next row."""

    def fetchall(self) -> list[tuple[Any, ...]]:
        """All that are left."""


class Statement:
    """One statement with ``:named`` values, in the SQL that SQLite and PostgreSQL share.

    Args:
        sql: the statement; ``NOW_US`` in it is the database's time in microseconds since 1970, UTC.
        lock: the table whose selected rows PostgreSQL is to lock; SQLite has one writer anyway.
    """

    def __init__(self, sql: str, *, lock: str = "") -> None:
        self._sqlite = sql.replace(_NOW, _NOW_SQLITE)
        self._postgresql = _to_psycopg(sql) + (f" FOR UPDATE OF {lock}" if lock else "")

    def run(self, connection: Connection, **values: Any) -> Cursor:
        """Run it within the connection's transaction.

        Raises:
            DBAPIError: the same as from SQLAlchemy's own execution.
        """
        driver: Any = connection.connection.driver_connection
        try:
            found: Cursor = driver.execute(
                self._sqlite if connection.dialect.name == "sqlite" else self._postgresql, values
            )
        except _errors(connection) as error:
            raise _told(connection, error, self._sqlite) from error
        return found

    def one(self, connection: Connection, **values: Any) -> tuple[Any, ...] | None:
        """Its first row, None where there is none."""
        return self.run(connection, **values).fetchone()


class Together:
    """Writes that PostgreSQL runs in one statement, so in one round trip, and SQLite, which has none, one by one.

    None of them may depend on another, nor two change the same row.

    Args:
        first: the write whose number of rows is told.
        others: the rest.
    """

    def __init__(self, first: str, *others: str) -> None:
        self._sqlite = (first, *others)
        parts = [f"first AS ({first} RETURNING 1)", *(f"part{i} AS ({part})" for i, part in enumerate(others))]
        self._postgresql = _to_psycopg(f"WITH {', '.join(parts)} SELECT COUNT(*) FROM first")

    def run(self, connection: Connection, **values: Any) -> int:
        """Run them within the connection's transaction; returns how many rows the first has changed.

        Raises:
            DBAPIError: the same as from SQLAlchemy's own execution.
        """
        driver: Any = connection.connection.driver_connection
        try:
            if connection.dialect.name == "sqlite":
                changed, *_ = [driver.execute(part, values).rowcount for part in self._sqlite]
            else:
                (changed,) = driver.execute(self._postgresql, values).fetchone()
        except _errors(connection) as error:
            raise _told(connection, error, self._sqlite[0]) from error
        return int(changed)


def copy(connection: Connection, sql: str, rows: Iterable[tuple[Any, ...]]) -> None:
    """PostgreSQL's ``COPY ... FROM STDIN`` of many rows.

    Raises:
        DBAPIError: as for ``Statement.run``.
    """
    driver: Any = connection.connection.driver_connection
    try:
        with driver.cursor() as cursor, cursor.copy(sql) as copying:
            for row in rows:
                copying.write_row(row)
    except _errors(connection) as error:
        raise _told(connection, error, sql) from error


def _to_psycopg(sql: str) -> str:
    return _NAME.sub(r"%(\1)s", sql.replace("%", "%%").replace(_NOW, _NOW_POSTGRESQL))


def _errors(connection: Connection) -> Any:
    return connection.dialect.loaded_dbapi.Error


def _told(connection: Connection, error: Any, sql: str) -> BaseException:
    """The driver's error as SQLAlchemy tells it; a connection that is gone is not used again."""
    driver: Any = connection.connection.driver_connection
    if connection.dialect.is_disconnect(error, driver, None):
        connection.invalidate(error)
    told: BaseException = DBAPIError.instance(sql, None, error, _errors(connection), dialect=connection.dialect)
    return told


SAVEPOINT = Statement("SAVEPOINT job")
RELEASE = Statement("RELEASE SAVEPOINT job")
ROLLBACK = Statement("ROLLBACK TO SAVEPOINT job")
