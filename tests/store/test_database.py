"""One writer thread that groups commits."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from feilun.errors import SettingError, UnavailableError
from feilun.store.database import Database, now_us


@pytest.fixture
def notes(database: Database) -> Database:
    database.write(lambda c: c.execute(text("CREATE TABLE notes (id INTEGER PRIMARY KEY, n INTEGER)")))
    return database


def put(n: int) -> object:
    return lambda c: c.execute(text("INSERT INTO notes VALUES (:n, 0)"), {"n": n})


def count(database: Database) -> int:
    with database.read() as connection:
        return int(connection.execute(text("SELECT count(*) FROM notes")).scalar_one())


def test_one_bad_job_is_rolled_back_alone(notes: Database) -> None:
    hold = threading.Event()
    first = notes.submit(lambda c: hold.wait(5))  # so that the rest becomes one group
    jobs = [notes.submit(put(n)) for n in (1, 2, 2, 3)]
    hold.set()
    first.result()
    assert isinstance(jobs[2].exception(), IntegrityError)
    assert [job.exception() for job in (jobs[0], jobs[1], jobs[3])] == [None] * 3
    assert count(notes) == 3


def test_a_group_runs_in_the_order_of_what_it_locks(notes: Database) -> None:
    hold, ran = threading.Event(), []
    first = notes.submit(lambda c: hold.wait(5))
    jobs = [notes.submit(lambda c, name=name: ran.append(name), order=name) for name in "cab"]
    hold.set()
    for job in [first, *jobs]:
        job.result()
    assert ran == ["a", "b", "c"]


def test_a_job_that_was_cancelled_in_time_does_not_run_and_the_writer_lives_on(notes: Database) -> None:
    hold = threading.Event()
    first = notes.submit(lambda c: hold.wait(5))
    time.sleep(0.05)
    cancelled = notes.submit(put(1))
    assert cancelled.cancel()
    assert not first.cancel()
    hold.set()
    notes.write(put(2))
    assert count(notes) == 1


def test_a_read_changes_nothing(notes: Database) -> None:
    with notes.read() as connection:
        connection.execute(text("INSERT INTO notes VALUES (1, 0)"))
    assert count(notes) == 0


def test_closing_finishes_what_was_queued_and_takes_no_more(notes: Database) -> None:
    jobs = [notes.submit(put(n)) for n in range(50)]
    notes.close()
    assert all(job.done() and job.exception() is None for job in jobs)
    with pytest.raises(UnavailableError):
        notes.submit(put(99))


def test_two_writers_that_lock_in_a_circle_both_commit_case_13(notes: Database) -> None:
    with Database(notes.url) as other:
        notes.write(lambda c: c.execute(text("INSERT INTO notes VALUES (1, 0), (2, 0)")))

        def add(first: int, second: int) -> object:
            def job(connection: Connection) -> None:
                for n in (first, second):
                    connection.execute(text("UPDATE notes SET n = n + 1 WHERE id = :n"), {"n": n})
                    time.sleep(0.05)

            return job

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda d: d[0].write(add(*d[1])), [(notes, (1, 2)), (other, (2, 1))] * 3))
    with notes.read() as connection:
        assert connection.execute(text("SELECT n FROM notes")).scalars().all() == [6, 6]


def test_the_databases_clock_is_in_microseconds(database: Database) -> None:
    with database.read() as connection:
        assert abs(now_us(connection) - time.time() * 1e6) < 2e6


def test_an_unknown_database_is_refused_with_a_hint() -> None:
    with pytest.raises(SettingError, match="'mysql' is not supported"):
        Database("mysql://root:secret@host/db")
