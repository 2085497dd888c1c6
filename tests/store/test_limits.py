"""Quotas, prepaid credit and budgets of keys: exact under concurrency, and said before they are reached."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select
from ulid import ULID

from feilun.accounts import keys, tenants
from feilun.accounts.tariffs import Tariff, Tier
from feilun.accounts.terms import Terms
from feilun.errors import QuotaError
from feilun.store import audit, ledger, outbox, tables
from feilun.store.counts import Counts
from feilun.store.database import Database, now_us
from tests.store.books import RELEASE, Books

PEPPER = b"a pepper of more than thirty-two bytes"


def at_once(books: Books, count: int, **asked: int) -> int:
    """How many of ``count`` requests that come at the same time are admitted."""

    def ask(i: int) -> bool:
        try:
            return isinstance(books.hold(f"k{i}", **asked), ledger.Hold)
        except QuotaError:
            return False

    with ThreadPoolExecutor(16) as threads:
        return sum(threads.map(ask, range(count)))


def grant(database: Database, tenant: str, nano: int, *, expires_at: int | None = None) -> None:
    row = {"id": str(ULID()), "tenant": tenant, "currency": "USD", "amount_nano": nano, "reason": "paid"}
    database.write(lambda c: c.execute(insert(tables.grants).values(**row, expires_at=expires_at, at=now_us(c))))


def notices(database: Database) -> list[tuple[str, int]]:
    with database.read() as connection:
        table = tables.notices.c
        rows = connection.execute(select(table.subject, table.percent).order_by(table.subject, table.percent))
        return [(subject, percent) for subject, percent in rows]


def test_exactly_ten_of_a_hundred_at_once_fit_a_quota_for_ten_case_22(database: Database) -> None:
    books = Books(database, terms=Terms("USD", quota={"requests": 10}))
    assert at_once(books, 100) == 10
    with pytest.raises(QuotaError, match="quota of 10 requests a month") as refused:
        books.hold("later")
    assert refused.value.name == "quota-exceeded"
    assert refused.value.retry_after


def test_of_ten_times_as_many_at_once_exactly_the_rate_is_admitted_case_23(database: Database) -> None:
    books = Books(database, terms=Terms("USD", requests_per_minute=7))
    assert at_once(books, 70) == 7
    with pytest.raises(QuotaError, match="in a minute") as refused:
        books.hold("later")
    assert refused.value.name == "rate-limited"
    assert refused.value.retry_after is not None
    assert 50 <= refused.value.retry_after <= 60


def test_no_window_of_a_minute_has_more_requests_than_the_rate_case_23(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    books, clock = Books(database, terms=Terms("USD", requests_per_minute=5)), 10**15
    admitted = []
    for i in range(200):
        clock += (i * 7_919_000) % 9_000_000
        monkeypatch.setattr(ledger, "_clock", lambda _, now=clock: now)
        try:
            books.hold(f"k{i}")
            admitted.append(clock)
        except QuotaError as error:
            assert error.retry_after is not None
            assert clock + error.retry_after * 10**6 >= admitted[-5] + 60 * 10**6
    assert len(admitted) > 20
    assert all(later - earlier >= 60 * 10**6 for earlier, later in zip(admitted, admitted[5:], strict=False))


def test_a_quota_of_a_meter_lets_through_what_does_not_use_it(database: Database) -> None:
    books = Books(database, terms=Terms("USD", quota={"tokens": 5}))
    books.serve("one", tokens=5)
    with pytest.raises(QuotaError):
        books.hold("two", tokens=1)
    assert books.serve("three", tokens=0)


def test_prepaid_credit_is_spent_to_the_last_request_and_not_beyond(database: Database) -> None:
    books = Books(database, terms=Terms("USD", unit_nano={"requests": 10}, prepaid=True))
    with pytest.raises(QuotaError, match="credit"):
        books.hold("none")
    grant(database, "acme", 75)
    assert at_once(books, 30) == 7
    grant(database, "acme", 5)
    assert isinstance(books.hold("again"), ledger.Hold)


def test_a_budget_holds_although_more_units_can_cost_less(database: Database) -> None:
    tiers = Tariff("volume", (Tier(1_000, 10), Tier(None, 0)))
    books = Books(database, terms=Terms("USD", tariffs={"tokens": tiers}), budget=100)
    with pytest.raises(QuotaError):  # together with it everything would be free, but it need not be captured
        books.hold("large", tokens=2_000)
    for i in range(10):
        books.serve(f"small {i}", tokens=1)
    with pytest.raises(QuotaError):
        books.hold("one more", tokens=1)
    assert books.month()[1] == 100


def test_credit_that_has_expired_pays_for_nothing(database: Database) -> None:
    books = Books(database, terms=Terms("USD", unit_nano={"requests": 10}, prepaid=True))
    grant(database, "acme", 100, expires_at=1)
    with pytest.raises(QuotaError):
        books.hold("one")


def test_usage_that_is_due_is_taken_off_the_credit(database: Database) -> None:
    books = Books(database, terms=Terms("USD", unit_nano={"requests": 10}, prepaid=True))
    grant(database, "acme", 20)
    books.serve("one")
    books.serve("two")
    with pytest.raises(QuotaError):
        books.hold("three")


def test_a_keys_budget_holds_for_that_key_alone_case_22(database: Database) -> None:
    books = Books(database, terms=Terms("USD", unit_nano={"requests": 10}))
    limited = keys.create(database, PEPPER, "acme", budget_nano=30)
    free = keys.create(database, PEPPER, "acme")
    books.key = limited.public_id
    assert at_once(books, 50) == 3
    books.key = free.public_id
    assert isinstance(books.hold("by the other key"), ledger.Hold)
    keys.set_budget(database, limited.public_id, 40)
    books.key = limited.public_id
    assert isinstance(books.hold("fourth"), ledger.Hold)
    with pytest.raises(QuotaError, match="this key"):
        books.hold("fifth")


def test_exactly_ten_of_a_hundred_at_once_fit_a_keys_quota_case_22(database: Database) -> None:
    books = Books(database)
    limited = keys.create(database, PEPPER, "acme", quota={"requests": 10})
    books.key = limited.public_id
    assert at_once(books, 100) == 10
    with pytest.raises(QuotaError, match="this key's quota of 10 requests"):
        books.hold("later")
    assert keys.set_quota(database, limited.public_id, {"requests": 11, "tokens": 10**6}).quota["requests"] == 11
    assert isinstance(books.hold("one more"), ledger.Hold)
    assert keys.set_quota(database, limited.public_id, {}).quota == {}
    assert isinstance(books.hold("and another"), ledger.Hold)


def test_a_key_made_by_rotation_keeps_the_budget(database: Database) -> None:
    tenants.create(database, "acme", plan="any")
    old = keys.create(database, PEPPER, "acme", budget_nano=30)
    assert keys.get(database, keys.rotate(database, PEPPER, old.public_id).public_id).budget_nano == 30


def test_a_tenant_is_told_once_at_each_percentage_and_by_webhook(database: Database) -> None:
    terms = Terms("USD", unit_nano={"requests": 10}, quota={"requests": 5}, warn_percent=(60, 100))
    books = Books(database, terms=terms, budget=100)
    for i in range(5):
        books.serve(f"k{i}")
    assert notices(database) == [("quota:requests", 60), ("quota:requests", 100)]
    with database.read() as connection:
        told = outbox.rows(connection)
    assert [row.kind for row in told] == ["webhook", "webhook"]
    parcel = database.write(lambda c: outbox.claim(c, ["webhook"]))
    assert parcel is not None and parcel.payload["type"] == "quota.warning"
    assert [parcel.payload["data"][name] for name in ("used", "limit", "unit", "percent")] == [3, 5, "requests", 60]
    with pytest.raises(QuotaError):
        books.serve("one more")
    assert len(notices(database)) == 2


def test_one_large_request_passes_several_percentages(database: Database) -> None:
    books = Books(database, terms=Terms("USD", unit_nano={"tokens": 1}, warn_percent=(50, 80, 100)), budget=100)
    books.serve("one", tokens=90)
    assert notices(database) == [("budget", 50), ("budget", 80)]


def test_more_meters_are_held_charged_counted_and_chained(database: Database) -> None:
    books = Books(database, terms=Terms("USD", unit_nano={"pages": 7, "compute_ms": 1}))
    ask = ledger.Ask("r" * 26, "acme", "k", "b" * 64, Counts(1, 1, 3, pages=2), 30, books.key)
    held = database.write(lambda c: ledger.hold(c, ask, lambda *_: books.terms, "h" * 26))
    assert isinstance(held, ledger.Hold)
    units = Counts(1, 1, 3, pages=2, compute_ms=5)
    done = ledger.Done(books.key, RELEASE, "/v1/classify", units, 5_000_000)
    charge, _ = database.write(lambda c: ledger.capture(c, held, done, lambda *_: books.terms, lambda _: b"{}"))
    assert charge.amount_nano == 2 * 7 + 5
    assert books.month() == (units, 19)
    with database.read() as connection:
        assert audit.verify(connection) == []


tariffs = st.sampled_from(
    [
        Terms("USD", unit_nano={"tokens": 3}),
        Terms("USD", included={"tokens": 50}, unit_nano={"tokens": 3}),
        Terms("USD", tariffs={"tokens": Tariff("graduated", (Tier(40, 9), Tier(None, 2)))}),
        Terms("USD", tariffs={"tokens": Tariff("package", (Tier(None, 100, per=30),))}),
    ]
)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(terms=tariffs, asked=st.lists(st.integers(0, 60), max_size=12), budget=st.integers(0, 400))
def test_no_order_of_requests_takes_a_key_over_its_budget(
    new_books: Any, terms: Terms, asked: list[int], budget: int
) -> None:
    books: Books = new_books(terms)
    key = keys.create(books.database, PEPPER, books.tenant, budget_nano=budget)
    books.key = key.public_id
    held = []
    for i, tokens in enumerate(asked):
        try:
            held.append((books.hold(f"k{i}", tokens=tokens), tokens))
        except QuotaError:
            continue
    spent = sum(books.capture(h, tokens=t).amount_nano for h, t in reversed(held))
    assert spent <= budget


@pytest.fixture
def new_books(database: Database) -> Any:
    count = iter(range(10_000))
    return lambda terms: Books(database, f"tenant-{next(count)}", terms=terms)
