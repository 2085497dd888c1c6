"""Usage that other services report: once each, in order, and proved (cases 10, 13, 18, 21, 27)."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from feilun.accounts import tenants
from feilun.errors import ConflictError, DataError, FeilunError
from feilun.store import event_audit, events
from feilun.store.database import Database, now_us
from feilun.store.events import Event, Receipt
from feilun.store.migrations import open_database

METERS = ("pages", "seconds")
SOURCE = "https://ocr.example/eu-1"


def event(number: int, tenant: str = "acme", **more: Any) -> Event:
    return Event(tenant, more.pop("meter", "pages"), more.pop("source", SOURCE), f"id-{number}", number, **more)


def record(database: Database, *given: Event) -> Receipt:
    return database.write(lambda c: events.record(c, "key", given, METERS))


def stored(database: Database, tenant: str = "acme") -> list[tuple[int, str, int]]:
    with database.read() as connection:
        return [(e.sequence, e.id, e.units) for e in events.export(connection, tenant)]


def problems(database: Database) -> list[str]:
    with database.read() as connection:
        return [str(problem) for problem in event_audit.verify(connection)]


def tamper(database: Database, *statements: str) -> None:
    """Change rows as somebody who has the file could: past the triggers."""
    with database.alone() as connection:
        for table in ("events", "event_batches"):
            if database.is_sqlite:
                connection.execute(text(f"DROP TRIGGER IF EXISTS {table}_no_update"))
                connection.execute(text(f"DROP TRIGGER IF EXISTS {table}_no_delete"))
            else:
                connection.execute(text(f"DROP TRIGGER IF EXISTS {table}_no_change ON {table}"))
        for statement in statements:
            connection.execute(text(statement))


@pytest.fixture
def house(database: Database) -> Database:
    for tenant in ("acme", "bell"):
        tenants.create(database, tenant, plan="any")
    return database


def test_each_tenant_has_a_sequence_of_its_own_without_gaps(house: Database) -> None:
    assert record(house, event(1), event(2, "bell"), event(3)) == Receipt(3, 3, 0)
    assert record(house, event(4, "bell"), event(5)) == Receipt(2, 2, 0)
    assert stored(house) == [(1, "id-1", 1), (2, "id-3", 3), (3, "id-5", 5)]
    assert stored(house, "bell") == [(1, "id-2", 2), (2, "id-4", 4)]
    assert problems(house) == []


def test_the_same_event_again_is_counted_and_not_recorded(house: Database) -> None:
    record(house, event(1, at=None), event(2))
    assert record(house, event(2), event(3), event(3), event(1)) == Receipt(4, 1, 3)
    assert record(house, event(2), event(3)) == Receipt(2, 0, 2)
    assert stored(house) == [(1, "id-1", 1), (2, "id-2", 2), (3, "id-3", 3)]
    assert problems(house) == []


def test_one_id_of_two_sources_is_two_events(house: Database) -> None:
    assert record(house, event(1), event(1, source="other"), event(1, source="other/")).recorded == 3


@pytest.mark.parametrize(
    "other",
    [
        event(1, "bell"),
        event(1, meter="seconds"),
        event(1)._replace(units=2),
        event(1, at=1_700_000_000_000_000),
    ],
)
def test_one_source_and_id_with_other_content_refuses_the_whole_batch(house: Database, other: Event) -> None:
    record(house, event(1))
    for batch in ((event(7), other), (event(7), event(8), event(7)._replace(units=9))):
        with pytest.raises(ConflictError) as refused:
            record(house, *batch)
        assert refused.value.where == f"[{len(batch) - 1}]"
    assert stored(house) == [(1, "id-1", 1)]


YEAR = 366 * 86_400 * 10**6


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"tenant": "nobody"}, "unknown-tenant"),
        ({"meter": "page"}, "unknown-meter"),
        ({"meter": "tokens"}, "unknown-meter"),
        ({"units": -1}, "bad-event"),
        ({"units": 1.0}, "bad-event"),
        ({"units": True}, "bad-event"),
        ({"units": 10**12 + 1}, "bad-event"),
        ({"units": 10**30}, "bad-event"),
        ({"at": 0}, "bad-event"),
        ({"at": 2**62}, "bad-event"),
    ],
)
def test_a_bad_event_is_named_with_its_place_and_nothing_is_recorded_case_27(
    house: Database, change: dict[str, Any], code: str
) -> None:
    with pytest.raises(DataError) as refused:
        record(house, event(1), event(2)._replace(**change), event(3, "nobody"))
    assert (refused.value.where, refused.value.name) == ("[1]", code)
    assert refused.value.hint
    assert stored(house) == []
    with house.read() as connection:
        assert connection.execute(text("SELECT COUNT(*) FROM event_sources")).scalar() == 0


def test_times_from_a_year_ago_to_a_day_ahead_are_taken(house: Database) -> None:
    with house.read() as connection:
        now = now_us(connection)
    early, late = now - YEAR + 10**7, now + 86_400 * 10**6 - 10**7
    record(house, event(1, at=early), event(2, at=late), event(3))
    with house.read() as connection:
        times = [e.at for e in events.export(connection, "acme")]
    assert times[:2] == [early, late]
    assert now <= times[2] <= now + 60 * 10**6


def test_a_refused_batch_leaves_the_others_of_its_group(house: Database) -> None:
    jobs = [(event(1),), (event(2, "nobody"),), (event(3),)]
    futures = [house.submit(lambda c, job=job: events.record(c, "key", job, METERS)) for job in jobs]
    assert futures[0].result().recorded == futures[2].result().recorded == 1
    with pytest.raises(DataError):
        futures[1].result()
    assert stored(house) == [(1, "id-1", 1), (2, "id-3", 3)]
    assert problems(house) == []


def test_text_is_kept_as_it_came_whatever_is_in_it(house: Database) -> None:
    odd = ["\\N", "a\tb", "a\\tb", "quote'\"", "{1,2}", "%s", ":name", "飞轮", "😀", " ", "é", "e\u0301"]
    record(house, *(Event("acme", "pages", "s'\\%:x", name, 1) for name in odd))
    assert record(house, *(Event("acme", "pages", "s'\\%:x", name, 1) for name in odd)).duplicates == len(odd)
    with house.read() as connection:
        assert [e.id for e in events.export(connection, "acme")] == odd
    assert problems(house) == []


def test_a_large_batch_is_recorded_whole(house: Database) -> None:
    assert record(house, *(event(n, "acme" if n % 3 else "bell") for n in range(2_501))) == Receipt(2_501, 2_501, 0)
    assert len(stored(house)) + len(stored(house, "bell")) == 2_501
    assert problems(house) == []


def test_two_processes_that_report_at_once_make_one_chain_case_13(house: Database) -> None:
    """Two databases objects have two writers; the same events are sent through both."""
    receipts: list[Receipt] = []
    batches = [[event(n) for n in range(b * 20, b * 20 + 40)] for b in range(10)]

    def send(order: list[list[Event]]) -> None:
        with Database(house.url) as other:
            receipts.extend(record(other, *batch) for batch in order)

    threads = [threading.Thread(target=send, args=(order,)) for order in (batches, batches[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(r.recorded for r in receipts) == len({e.id for batch in batches for e in batch}) == 220
    assert [sequence for sequence, _, _ in stored(house)] == list(range(1, 221))
    assert problems(house) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE events SET units = 77 WHERE tenant = 'acme' AND sequence = 2", "acme event 2 (*: it is not what was"),
        ("UPDATE events SET at = at + 1 WHERE tenant = 'bell' AND sequence = 1", "bell event 1 (*: it is not what was"),
        ("UPDATE events SET event = 'id-9' WHERE tenant = 'acme' AND sequence = 3", "acme event 3 (*: it is not what"),
        ("DELETE FROM events WHERE tenant = 'acme' AND sequence = 1", "acme event 2 (*: an event is missing before it"),
        ("DELETE FROM events WHERE tenant = 'acme' AND sequence = 4", "?: batch 3 of events: 0 of its 1 events"),
        ("DELETE FROM event_batches WHERE number = 2", "?: batch 2 of events: it is missing"),
        ("DELETE FROM event_batches WHERE number = 3", "?: 1 events have no batch"),
        ("UPDATE event_batches SET key = 'other' WHERE number = 2", "?: batch 2 of events: its hash is not"),
        ("UPDATE event_batches SET hash = '0' WHERE number = 1", "?: batch 1 of events: its hash is not"),
    ],
)
def test_one_changed_value_is_found_and_the_first_bad_row_named_case_18(
    house: Database, change: str, said: str
) -> None:
    record(house, event(1), event(2), event(1, "bell", source="b"))
    record(house, event(3))
    record(house, event(4))
    assert problems(house) == []
    tamper(house, change)
    (found,) = problems(house)
    head, _, tail = said.partition("*")
    assert found.startswith(head)
    assert tail in found


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(12)), cuts=st.sets(st.integers(1, 11)), again=st.sets(st.integers(0, 11)))
def test_what_is_recorded_does_not_depend_on_order_batches_or_repetition(
    new_url: Callable[[str], str], order: list[int], cuts: set[int], again: set[int]
) -> None:
    edges = [0, *sorted(cuts), 12]
    batches = [order[a:b] for a, b in itertools.pairwise(edges)] + [sorted(again)]
    with open_database(new_url("sqlite")) as database:
        tenants.create(database, "acme", plan="any")
        receipts = [record(database, *(event(n) for n in batch)) for batch in batches]
        assert sum(r.recorded for r in receipts) == 12
        assert sorted(units for _, _, units in stored(database)) == list(range(12))
        assert [sequence for sequence, _, _ in stored(database)] == list(range(1, 13))
        assert problems(database) == []


def test_an_unknown_tenant_cannot_be_exported(house: Database) -> None:
    with house.read() as connection, pytest.raises(FeilunError, match="there is no tenant"):
        events.export(connection, "nobody")
