"""The ledger on both databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text, update

from feilun.accounts import tenants
from feilun.accounts.terms import Terms
from feilun.errors import ConflictError, QuotaError, SettingError
from feilun.store import audit, ledger, tables
from feilun.store import database as databases
from feilun.store.counts import Counts
from feilun.store.database import Database
from tests.store.books import PER_REQUEST, Books


def problems(database: Database) -> list[str]:
    with database.read() as connection:
        return [str(p) for p in audit.verify(connection)]


def test_a_captured_request_is_one_usage_row_two_postings_and_the_stored_answer(database: Database) -> None:
    books = Books(database)
    held = books.hold("one")
    charge = books.capture(held)
    again = books.hold("one")
    assert again == ledger.Replay(charge.request, 200, b'{"n":1}')
    with database.read() as connection:
        usage = connection.execute(select(tables.usage)).one()
        postings = connection.execute(select(tables.postings.c.account, tables.postings.c.amount_nano)).all()
    assert (usage.amount_nano, usage.sequence, usage.tokens) == (10, 1, 3)
    assert sorted(map(tuple, postings)) == [("revenue:usage", -10), ("tenant:acme:receivable", 10)]
    assert problems(database) == []


def test_another_body_under_the_same_key_is_refused_whatever_became_of_the_first_case_6(database: Database) -> None:
    books = Books(database)
    books.hold("one")
    with pytest.raises(SettingError, match="another request"):
        books.hold("one", body="c" * 64)


def test_the_same_key_of_two_tenants_is_two_requests_case_8(database: Database) -> None:
    acme, globex = Books(database), Books(database, "globex")
    assert acme.serve("same").request != globex.serve("same").request
    assert problems(database) == []


def test_a_request_that_is_held_is_busy_and_one_that_was_released_can_be_held_again(database: Database) -> None:
    books = Books(database)
    held = books.hold("one")
    assert isinstance(held, ledger.Hold)
    assert isinstance(books.hold("one"), ledger.Busy)
    assert database.write(lambda c: ledger.release(c, held))
    again = books.hold("one")
    assert isinstance(again, ledger.Hold)
    assert again.request == held.request
    books.capture(again)
    assert problems(database) == []


def test_who_lost_the_lease_can_neither_capture_nor_release(database: Database) -> None:
    books = Books(database)
    slow = books.hold("one", lease_s=0)
    fast = books.hold("one")
    assert isinstance(slow, ledger.Hold)
    with pytest.raises(ConflictError, match="lost"):
        books.capture(slow)
    assert not database.write(lambda c: ledger.release(c, slow))
    books.capture(fast)
    assert books.month() == (Counts(1, 1, 3), 10)
    assert problems(database) == []


def test_stale_holds_are_reaped_and_their_budget_is_free_again(database: Database) -> None:
    books = Books(database, budget=10)
    books.hold("dead", lease_s=0)
    with pytest.raises(QuotaError):
        books.hold("alive")
    with database.read() as connection:
        assert ledger.stale(connection) == ["acme"]
    assert database.write(lambda c: ledger.reap(c, "acme", lambda *_: books.terms)) == 1
    books.serve("alive")
    assert problems(database) == []


def test_exactly_ten_of_a_hundred_at_once_fit_a_budget_for_ten_case_22(database_url: str) -> None:
    with databases.Database(database_url) as first:
        from feilun.store.migrations import migrate

        migrate(first)
        books = Books(first, budget=100)
        with databases.Database(database_url) as second, ThreadPoolExecutor(16) as pool:
            other = object.__new__(Books)
            other.__dict__ |= books.__dict__ | {"database": second}

            def one(n: int) -> bool:
                try:
                    (books if n % 2 else other).serve(f"key-{n}")
                except QuotaError:
                    return False
                return True

            assert sum(pool.map(one, range(100))) == 10
        assert books.month() == (Counts(10, 10, 30), 100)
        assert problems(first) == []


def test_a_hold_counts_against_the_units_that_are_included(database: Database) -> None:
    books = Books(database, terms=Terms("USD", 0, {"requests": 1}, {"requests": 10}), budget=10)
    first, second = books.hold("free"), books.hold("paid")
    with pytest.raises(QuotaError):
        books.hold("too much")
    books.capture(second)  # in whatever order they end
    with pytest.raises(QuotaError):
        books.hold("still too much")
    books.capture(first)
    assert books.month() == (Counts(2, 2, 6), 10)


def test_zero_usage_is_billed_zero_case_4(database: Database) -> None:
    books = Books(database, terms=Terms("USD", unit_nano={"tokens": 5}))
    assert books.serve("nothing", tokens=0).amount_nano == 0
    assert problems(database) == []


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("usage", "amount_nano", "11"),
        ("usage", "tokens", "4"),
        ("usage", "release", f"'{'a' * 64}' || ''"),
        ("postings", "amount_nano", "11"),
        ("requests", "state", "'held'"),
    ],
)
def test_verify_names_the_first_row_that_was_changed_case_18(
    database: Database, table: str, column: str, value: str
) -> None:
    books = Books(database)
    second = [books.serve(f"key-{n}") for n in range(4)][1].request
    ident = {"usage": "request", "postings": "entry", "requests": "id"}[table]

    def tamper(connection: object) -> None:
        run = connection.exec_driver_sql
        drop_triggers(connection, table)
        run(f"UPDATE {table} SET {column} = {value} WHERE {ident} = '{second}'")

    database.write(tamper)
    found = problems(database)
    if column == "release":  # the same value again: nothing was changed
        assert found == []
    else:
        assert f"row 2 (request {second})" in found[0]


def drop_triggers(connection: object, table: str) -> None:
    """As somebody would who has the database's own password."""
    from sqlalchemy import Connection

    assert isinstance(connection, Connection)
    if connection.dialect.name == "sqlite":
        names = connection.execute(text(f"SELECT name FROM sqlite_master WHERE type='trigger' AND tbl_name='{table}'"))
        for name in names.scalars().all():
            connection.execute(text(f"DROP TRIGGER {name}"))
    else:
        connection.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))


def test_verify_sees_a_row_that_was_removed_from_the_middle_or_the_end(database: Database) -> None:
    books = Books(database)
    charges = [books.serve(f"key-{n}") for n in range(4)]

    def remove(request: str) -> None:
        def job(connection: object) -> None:
            drop_triggers(connection, "usage")
            connection.exec_driver_sql(f"DELETE FROM usage WHERE request = '{request}'")

        database.write(job)

    remove(charges[3].request)
    assert any("missing from the end" in p for p in problems(database))
    remove(charges[1].request)
    assert "row 3" in problems(database)[0]
    assert "missing before" in problems(database)[0]


def test_counters_can_be_rebuilt_from_the_ledger(database: Database) -> None:
    books = Books(database)
    for n in range(3):
        books.serve(f"key-{n}")
    books.hold("open")
    database.write(lambda c: c.execute(update(tables.counters).values(spent_nano=1)))
    database.write(lambda c: c.execute(update(tables.chains).values(held_tokens=99)))
    assert len(problems(database)) == 2
    database.write(lambda c: audit.rebuild(c, "acme"))
    assert problems(database) == []
    assert books.month() == (Counts(3, 3, 9), 30)


def test_a_clock_that_goes_back_does_not_take_a_tenant_back_case_9(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    books = Books(database)
    end_of_november = 1_796_083_199_999_000  # 2026-11-30 23:59:59.999
    ats = []
    for n, clock in enumerate((end_of_november, end_of_november + 1000, end_of_november - 7_200_000_000)):
        monkeypatch.setattr(ledger, "_clock", lambda _, clock=clock: clock)
        ats.append(books.serve(f"key-{n}").at)
    assert [ledger.period_of(at) for at in ats] == ["2026-11", "2026-12", "2026-12"]
    assert problems(database) == []


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 400)), max_size=12), st.integers(0, 60))
def test_the_amounts_of_a_month_sum_to_the_price_of_its_counts_case_21(
    database: Database, asked: list[tuple[int, int]], included: int
) -> None:
    from uuid import uuid4

    terms = Terms("USD", 0, {"inputs": included}, {"inputs": 3, "tokens": 7})
    books = Books(database, f"t{uuid4().hex}", terms=terms)
    total = sum(books.serve(f"k{n}", inputs=i, tokens=t).amount_nano for n, (i, t) in enumerate(asked))
    counts, spent = books.month()
    assert total == spent == terms.amount(Counts(), counts)
    assert counts == Counts(len(asked), sum(i for i, _ in asked), sum(t for _, t in asked))


def test_the_terms_behind_a_price_version_are_kept_once(database: Database) -> None:
    books = Books(database)
    books.serve("one")
    books.serve("two")
    with database.read() as connection:
        kept = connection.execute(select(tables.prices)).all()
    assert [(row.version, Terms.from_json(row.terms).version) for row in kept] == [(PER_REQUEST.version,) * 2]


def test_a_new_plan_counts_from_the_next_request(database: Database) -> None:
    books = Books(database)
    books.serve("one")
    tenants.set_plan(database, "acme", "other")
    assert books.serve("two").amount_nano == 10
    with database.read() as connection:
        assert connection.execute(select(tables.usage.c.plan).order_by(tables.usage.c.sequence)).scalars().all() == [
            "any",
            "other",
        ]
