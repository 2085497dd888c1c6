"""One database, SQLite or PostgreSQL: many readers, and one writer thread a process that groups commits.

Jobs from concurrent requests are run in one transaction, each in its own savepoint, and none is told that it succeeded
before the commit is on disk. SQLite below 3.51.3 can corrupt a database that several writers share in WAL mode, so
there the journal is a rollback journal with ``synchronous=EXTRA`` and one writer at a time (RELIABILITY, rules).
"""

from __future__ import annotations

import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import OperationalError

from feilun.errors import SettingError, UnavailableError

T = TypeVar("T")
Job = Callable[[Connection], T]

GROUP = 128  # jobs in one commit at the most: bounds how long the first of them waits
BUSY_MS = 5_000  # how long a write waits for another process's lock
WAL_IS_SAFE = sqlite3.sqlite_version_info >= (3, 51, 3)


class Database:
    """A connection pool for reading and one thread for writing.

    Args:
        url: a SQLAlchemy URL, ``sqlite:///path`` or ``postgresql://...``.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = _engine(url)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        self._jobs: queue.SimpleQueue[tuple[Job[Any], Future[Any]] | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        self._starting = threading.Lock()

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection whose changes are rolled back: for SELECT only."""
        with self.engine.connect() as connection:
            yield connection

    def write(self, job: Job[T]) -> T:
        """Run ``job`` in a transaction and return its result once that is durable."""
        return self.submit(job).result()

    def submit(self, job: Job[T]) -> Future[T]:
        """Queue ``job`` for the writer thread; the future resolves after the commit.

        A job that raises is rolled back alone; the others of its group are committed.
        """
        future: Future[T] = Future()
        if self._writer is None:
            with self._starting:
                if self._writer is None:
                    self._writer = threading.Thread(target=self._write_forever, name="feilun-writer", daemon=True)
                    self._writer.start()
        self._jobs.put((job, future))
        return future

    def close(self) -> None:
        """Finish the queued writes, then let go of every connection."""
        if self._writer is not None:
            self._jobs.put(None)
            self._writer.join()
            self._writer = None
        self.engine.dispose()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_forever(self) -> None:
        while True:
            group = self._next_group()
            if group:
                _commit(self.engine, group)
            else:
                return

    def _next_group(self) -> list[tuple[Job[Any], Future[Any]]]:
        """Wait for one job and take what else is there; an empty list means: stop."""
        group: list[tuple[Job[Any], Future[Any]]] = []
        item = self._jobs.get()
        while item is not None:
            group.append(item)
            if len(group) == GROUP:
                return group
            try:
                item = self._jobs.get_nowait()
            except queue.Empty:
                return group
        if group:
            self._jobs.put(None)  # the stop came behind work: do the work, then stop
        return group


def _commit(engine: Engine, group: list[tuple[Job[Any], Future[Any]]]) -> None:
    """One transaction for the whole group; futures are resolved only after it is durable."""
    results: list[tuple[Future[Any], Any, BaseException | None]] = []
    try:
        with engine.begin() as connection:
            for job, future in group:
                try:
                    with connection.begin_nested():
                        results.append((future, job(connection), None))
                except OperationalError:
                    raise  # the database itself: nothing of this group is certain
                except Exception as error:  # handed to the caller, whose job it was
                    results.append((future, None, error))
    except Exception as error:  # nothing was committed: every caller must know
        failure = UnavailableError("the database did not take the write", where=type(error).__name__)
        failure.__cause__ = error
        for _, future in group:
            future.set_exception(failure)
        return
    for future, value, problem in results:
        if problem is None:
            future.set_result(value)
        else:
            future.set_exception(problem)


def now_us(connection: Connection) -> int:
    """Microseconds since 1970, UTC, by the database's clock (SQLite's has milliseconds)."""
    if connection.dialect.name == "sqlite":
        query = "SELECT CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER) * 1000"
    else:
        query = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)"
    return int(connection.execute(text(query)).scalar_one())


def _engine(url: str) -> Engine:
    if url.startswith("sqlite:///"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(url, connect_args={"timeout": BUSY_MS / 1000, "check_same_thread": False})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if url.startswith(("postgresql://", "postgres://")):
        rest = url.split("://", 1)[1]
        return create_engine(f"postgresql+psycopg://{rest}", pool_pre_ping=True, pool_timeout=10)
    raise SettingError(
        f"the database '{url.split(':', 1)[0]}' is not supported",
        where="FEILUN_DATABASE_URL",
        hint="use sqlite:///path/to/file or postgresql://user@host/name",
    )


def _prepare_sqlite(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, see below
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA journal_mode = {'WAL' if WAL_IS_SAFE else 'DELETE'}")
    connection.execute("PRAGMA synchronous = EXTRA")


def _begin_sqlite(connection: Connection) -> None:
    """Writers take the lock at once: a deferred BEGIN can fail half-way with 'database is locked'."""
    writing = threading.current_thread().name == "feilun-writer"
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")
