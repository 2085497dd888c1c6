"""One database, SQLite or PostgreSQL: many readers, and one writer thread a process that groups commits.

Jobs from concurrent requests are run in one transaction, each in its own savepoint, and none is told that it succeeded
before the commit is on disk. SQLite below 3.51.3 can corrupt a database that several writers share in WAL mode, so
there the journal is a rollback journal with ``synchronous=EXTRA`` and one writer at a time (RELIABILITY, rules).
"""

from __future__ import annotations

import contextlib
import math
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from feilun.errors import FeilunError, SettingError, UnavailableError
from feilun.store.statements import RELEASE, ROLLBACK, SAVEPOINT, Statement

T = TypeVar("T")
Job = Callable[[Connection], T]

LINGER_S = 0.005  # how long a group waits for more, where at least ``COMPANY`` jobs came in such a time lately
COMPANY = 1.0
PACE_S = 0.2  # over how long their number is averaged
GROUP = 128  # jobs in one commit at the most: bounds how long the first of them waits
CACHE_KB = 65_536  # of pages that a connection to SQLite keeps, at the most
BUSY_MS = 5_000  # how long one attempt waits for another process's lock
RETRY_S = 20.0  # how long a group that certainly changed nothing is tried again
WAL_IS_SAFE = sqlite3.sqlite_version_info >= (3, 51, 3)
_UNSYNCED = (sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC)
_AT_END = "feilun_at_end"  # where a connection keeps what is written just before its commit
_MET = "feilun_met"  # and what its transaction has locked or written already, by whatever name
_LOST_A_RACE = ("40001", "40P01", "55P03")  # PostgreSQL: serialisation failure, deadlock, lock not available
_POSTGRES = "-c synchronous_commit=on -c timezone=UTC -c lock_timeout=10s -c statement_timeout=60s"


@dataclass
class _Waiting(Generic[T]):
    """One job in the writer's queue."""

    job: Job[T]
    order: str
    clean: bool
    future: Future[T] = field(default_factory=Future)


class _AgainError(Exception):
    """A job without a savepoint of its own ended otherwise than it promised."""


class _Pace:
    """How fast jobs come."""

    def __init__(self) -> None:
        self._per_s = 0.0
        self._at = time.monotonic()

    @property
    def is_busy(self) -> bool:
        """Whether it is worth waiting for others."""
        return self._per_s * LINGER_S >= COMPANY

    def count(self, jobs: int) -> None:
        """So many have come since the last time."""
        now = time.monotonic()
        passed = max(now - self._at, 1e-6)
        kept = math.exp(-passed / PACE_S)
        self._per_s, self._at = kept * self._per_s + (1 - kept) * jobs / passed, now


class Database:
    """A connection pool for reading and one thread for writing.

    Args:
        url: a SQLAlchemy URL, ``sqlite:///path`` or ``postgresql://...``.

    Attributes:
        takes_writes: whether the newest group of writes was committed, as far as is known.
        refused_at: when one was not for the last time, by ``time.monotonic``. On a full disk small writes succeed
            between larger ones that fail.
        broken: the disk said that it did not keep what was written (a failed fsync). Nobody knows then what is in the
            file, so nothing is read or written any more: the process has to end, and the next one begins with what is
            on the disk.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.takes_writes = True
        self.refused_at = -math.inf
        self.broken = False
        self.engine = _engine(url)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        self._writing = self.engine.execution_options(feilun_writes=True)
        self._jobs: queue.SimpleQueue[_Waiting[Any] | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._pace = _Pace()

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection whose changes are rolled back: for SELECT only.

        Raises:
            UnavailableError: the database cannot be reached, or its lock was not free in time.
        """
        self.trust()
        try:
            with self.engine.connect() as connection:
                yield connection
        except OperationalError as error:
            raise UnavailableError("the database cannot be read now", where=_short(error)) from error

    def trust(self) -> None:
        """Nothing, while the disk keeps what is written.

        Raises:
            UnavailableError: it did not; see ``broken``.
        """
        if self.broken:
            raise _broken()

    @contextlib.contextmanager
    def alone(self) -> Iterator[Connection]:
        """A writing transaction in the caller's own thread, for migrations; ``write`` is for all else."""
        with self._writing.begin() as connection:
            _begin(connection)
            yield connection
            _finish(connection)

    def write(self, job: Job[T], *, order: str = "", clean: bool = False) -> T:
        """Run ``job`` in a transaction and return its result once that is durable. See ``submit``."""
        return self.submit(job, order=order, clean=clean).result()

    def submit(self, job: Job[T], *, order: str = "", clean: bool = False) -> Future[T]:
        """Queue ``job`` for the writer thread; the future resolves after the commit.

        A job that raises is rolled back alone; the others of its group are committed. A job may run more than once
        before it is committed once, so it must change nothing but the database.

        Args:
            order: what the job locks, a tenant say. A group runs in this order, so that two processes whose groups
                lock the same rows do not wait for each other in a circle.
            clean: the job refuses (``FeilunError``) before it writes anything or not at all; so it needs no savepoint
                of its own. Where it fails otherwise all the same, its group is run again with them.

        Raises:
            UnavailableError: (from the future) the commit failed, or nobody knows whether it did not: read again.
        """
        waiting = _Waiting(job, order, clean)
        with self._lock:
            if self._closed:
                raise UnavailableError("the database is closed")
            self.trust()
            if self._writer is None:
                self._writer = threading.Thread(target=self._write_forever, name="feilun-writer", daemon=True)
                self._writer.start()
            self._jobs.put(waiting)
        return waiting.future

    def close(self) -> None:
        """Finish the queued writes, then let go of every connection."""
        with self._lock:
            self._closed = True
            self._jobs.put(None)
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        self.engine.dispose()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_forever(self) -> None:
        while group := self._next_group():
            self._pace.count(len(group))
            # A future that is running can no longer be cancelled, so its result can always be set.
            live = [w for w in group if w.future.set_running_or_notify_cancel()]
            if self.broken:
                _fail(live, _broken())
            elif live:
                problem = _commit(self._writing, sorted(live, key=lambda w: w.order))
                self.broken = _is_unsynced(problem)
                self.takes_writes = problem is None
                self.refused_at = self.refused_at if problem is None else time.monotonic()
                _fail([w for w in live if not w.future.done()], problem)

    def _next_group(self) -> list[_Waiting[Any]]:
        """Wait for one job and take what else is there; an empty list means: stop."""
        group: list[_Waiting[Any]] = []
        item = self._jobs.get()
        if self._pace.is_busy and item is not None:
            time.sleep(LINGER_S)  # a commit takes as long for many as for one
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


def _commit(engine: Engine, group: list[_Waiting[Any]]) -> Exception | None:
    """One transaction for the whole group; futures are resolved only after it is durable.

    Returns what went wrong with the whole of it; then no future is resolved.
    """
    deadline = time.monotonic() + RETRY_S
    pause = 0.005
    careful = False
    while True:
        try:
            results = _attempt(engine, group, careful)
        except _AgainError:
            careful = True
            continue
        except SQLAlchemyError as error:
            if _changed_nothing(error) and time.monotonic() < deadline:
                time.sleep(pause)
                pause = min(pause * 2, 0.5)
                continue
            return error
        except Exception as error:  # noqa: BLE001 - whatever it was, no caller may wait for ever
            return error
        for waiting, (value, problem) in zip(group, results, strict=True):
            if problem is None:
                waiting.future.set_result(value)
            else:
                waiting.future.set_exception(problem)
        return None


def _attempt(engine: Engine, group: list[_Waiting[Any]], careful: bool) -> list[tuple[Any, Exception | None]]:
    results: list[tuple[Any, Exception | None]] = []
    with engine.begin() as connection:
        _begin(connection)
        for waiting in group:
            if careful or not waiting.clean:
                results.append(_alone(connection, waiting.job))
                continue
            try:
                results.append((waiting.job(connection), None))
            except OperationalError:
                raise  # the database itself: nothing of this group is certain
            except FeilunError as error:
                results.append((None, error))
            except Exception as error:
                raise _AgainError from error
        _finish(connection)
    return results


def _alone(connection: Connection, job: Job[T]) -> tuple[T | None, Exception | None]:
    """What became of a job in a savepoint of its own."""
    SAVEPOINT.run(connection)
    before = len(connection.info[_AT_END])
    try:
        result: tuple[T | None, Exception | None] = (job(connection), None)
    except OperationalError:
        raise  # as above
    except Exception as error:  # noqa: BLE001 - handed to the caller, whose job it was
        result = (None, error)
        ROLLBACK.run(connection)
        del connection.info[_AT_END][before:]
        connection.info[_MET].clear()  # what it locked or wrote since its savepoint is gone
    RELEASE.run(connection)
    return result


def at_end(connection: Connection, write: Callable[[Connection, list[Any]], None], rows: list[Any]) -> None:
    """Have ``write`` called with ``rows`` just before the transaction's commit, with those of all its other jobs.

    For locks that every transaction must take last. What a job that is rolled back left is forgotten with it.
    """
    connection.info[_AT_END].extend((write, row) for row in rows)


def is_new(connection: Connection, what: str) -> bool:
    """Whether the transaction meets ``what`` for the first time: a lock that it takes, a row that is there then."""
    met: set[str] = connection.info[_MET]
    if what in met:
        return False
    met.add(what)
    return True


def _begin(connection: Connection) -> None:
    connection.info[_AT_END] = []
    connection.info[_MET] = set()


def _finish(connection: Connection) -> None:
    together: dict[Callable[[Connection, list[Any]], None], list[Any]] = {}
    for write, row in connection.info.pop(_AT_END):
        together.setdefault(write, []).append(row)
    for write, rows in together.items():
        write(connection, rows)


def _changed_nothing(error: SQLAlchemyError) -> bool:
    """Whether the database itself said that it rolled back, so that the same jobs may be run again."""
    if not isinstance(error, DBAPIError):
        return False
    if isinstance(error.orig, sqlite3.OperationalError):
        return error.orig.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    return getattr(error.orig, "sqlstate", None) in _LOST_A_RACE


def _is_unsynced(error: Exception | None) -> bool:
    """SQLite could not sync its file or its journal. (PostgreSQL sees to this itself: it restarts from its log.)"""
    orig = getattr(error, "orig", None)
    return isinstance(orig, sqlite3.OperationalError) and orig.sqlite_errorcode in _UNSYNCED


def _broken() -> UnavailableError:
    return UnavailableError(
        "the disk did not keep what was written to the database",
        hint="look at the disk, then start again: what is on it is used; 'feilun bill --verify' checks it",
        code="database-broken",
    )


def _fail(group: list[_Waiting[Any]], error: Exception | None) -> None:
    for waiting in group:
        failure = error
        if not isinstance(error, UnavailableError):
            failure = UnavailableError("the database did not take the write", where=_short(error))
            failure.__cause__ = error
        waiting.future.set_exception(failure)


def _short(error: Exception | None) -> str:
    """The kind of failure without its SQL and parameters, which can hold what users sent."""
    return type(getattr(error, "orig", None) or error).__name__


_PROBE = Statement("UPDATE migrations SET at = at")
_NOW = Statement("SELECT NOW_US")


def probe(connection: Connection) -> None:
    """Write something that changes nothing: whether the database takes writes again."""
    _PROBE.run(connection)


def now_us(connection: Connection) -> int:
    """Microseconds since 1970, UTC, by the database's clock (SQLite's has milliseconds)."""
    row = _NOW.one(connection)
    assert row is not None
    return int(row[0])


def _engine(url: str) -> Engine:
    if url.startswith("sqlite:///"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(url, connect_args={"timeout": BUSY_MS / 1000, "check_same_thread": False})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if url.startswith(("postgresql://", "postgres://")):
        rest = url.split("://", 1)[1]
        options = {"connect_timeout": 5, "options": _POSTGRES, "tcp_user_timeout": 10_000}
        options |= {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}  # a link that went silent
        engine = create_engine(
            f"postgresql+psycopg://{rest}", pool_pre_ping=True, pool_timeout=10, pool_size=10, connect_args=options
        )
        event.listen(engine, "connect", _prepare_postgresql)
        return engine
    raise SettingError(
        f"the database '{url.split(':', 1)[0]}' is not supported",
        where="FEILUN_DATABASE_URL",
        hint="use sqlite:///path/to/file or postgresql://user@host/name",
    )


def _prepare_sqlite(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, see below
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA recursive_triggers = ON")  # else INSERT OR REPLACE passes the append-only triggers
    connection.execute(f"PRAGMA journal_mode = {'WAL' if WAL_IS_SAFE else 'DELETE'}")
    connection.execute("PRAGMA synchronous = EXTRA")
    # A cache smaller than what a transaction changes is written out before its end, each time with an fsync; what a
    # savepoint would take back need not be on disk (decision 0009).
    connection.execute(f"PRAGMA cache_size = -{CACHE_KB}")
    connection.execute("PRAGMA temp_store = MEMORY")


def _prepare_postgresql(connection: Any, _: object) -> None:
    """Whole numbers are sent as bigint, not as the smallest type for each: a statement has one plan, not many."""
    from psycopg.types.numeric import Int8Dumper

    connection.adapters.register_dumper(int, Int8Dumper)


def _begin_sqlite(connection: Connection) -> None:
    """Writers take the lock at once: a deferred BEGIN can fail half-way with 'database is locked'."""
    writes = connection.get_execution_options().get("feilun_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
