"""The outbox: rows are written with what they tell of, go out in order, at least once, and are never lost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update

from feilun.store import outbox, tables
from feilun.store.database import Database

KINDS = ("webhook",)
DAY = 86_400 * outbox.SECOND


def put(database: Database, name: str, subject: str = "acme", kind: str = "webhook", **payload: Any) -> bool:
    return database.write(lambda c: outbox.put(c, kind=kind, id=name, subject=subject, payload=payload))


def take(database: Database) -> outbox.Parcel | None:
    return database.write(lambda c: outbox.claim(c, KINDS))


def must_take(database: Database) -> outbox.Parcel:
    parcel = take(database)
    assert parcel is not None
    return parcel


def deliver(database: Database, parcel: outbox.Parcel, receipt: str = "r") -> bool:
    return database.write(lambda c: outbox.delivered(c, parcel, receipt))


def fail(database: Database, parcel: outbox.Parcel, **more: Any) -> str | None:
    return database.write(lambda c: outbox.failed(c, parcel, "503", **more))


def rows(database: Database, state: Any = None) -> list[outbox.Row]:
    with database.read() as connection:
        return outbox.rows(connection, state)


def change(database: Database, name: str, **values: Any) -> None:
    """Time passes for a row."""
    database.write(lambda c: c.execute(update(tables.outbox).where(tables.outbox.c.id == name).values(values)) and None)


def test_a_row_goes_out_once(database: Database) -> None:
    assert put(database, "one", number=1)
    parcel = must_take(database)
    assert (parcel.id, parcel.payload, parcel.attempt) == ("one", {"number": 1}, 1)
    assert deliver(database, parcel)
    assert take(database) is None
    assert not deliver(database, parcel)
    assert [(r.state, r.receipt, r.attempts) for r in rows(database)] == [("delivered", "r", 1)]


def test_the_same_id_is_the_same_row_and_what_was_put_first_stands(database: Database) -> None:
    assert put(database, "one", number=1)
    assert not put(database, "one", number=2)
    assert must_take(database).payload == {"number": 1}
    assert len(rows(database)) == 1


def test_a_row_is_rolled_back_with_what_it_tells_of(database: Database) -> None:
    def job(connection: Any) -> None:
        outbox.put(connection, kind="webhook", id="one", subject="acme", payload={})
        raise ValueError("the change it tells of is not made")

    with pytest.raises(ValueError, match="not made"):
        database.write(job)
    assert rows(database) == []


def test_a_claimed_row_is_nobody_elses_until_its_lease_ends(database: Database) -> None:
    put(database, "one")
    must_take(database)
    assert take(database) is None
    change(database, "one", due_at=0)
    again = must_take(database)
    assert (again.id, again.attempt) == ("one", 2)


def test_a_sender_whose_lease_ended_cannot_note_a_failure(database: Database) -> None:
    put(database, "one")
    late = must_take(database)
    change(database, "one", due_at=0)
    must_take(database)
    assert fail(database, late) is None
    assert rows(database)[0].failure is None
    assert deliver(database, late), "that it arrived is true whoever says it"


def test_rows_of_one_subject_go_out_in_order_and_others_do_not_wait_for_them(database: Database) -> None:
    def job(connection: Any) -> None:  # one transaction, one instant
        for name in ("c", "a", "b"):
            outbox.put(connection, kind="webhook", id=name, subject="acme", payload={})
        outbox.put(connection, kind="webhook", id="z", subject="bravo", payload={})

    database.write(job)
    first, other = must_take(database), must_take(database)
    assert [first.id, other.id] == ["c", "z"]
    assert take(database) is None, "a waits for c"
    fail(database, first)
    assert take(database) is None, "and still does while c has its pause"
    change(database, "c", due_at=0)
    deliver(database, must_take(database))
    order = []
    while parcel := take(database):
        order.append(parcel.id)
        deliver(database, parcel)
    assert order == ["a", "b"]


def test_a_row_that_a_sender_cannot_send_stays(database: Database) -> None:
    put(database, "one", kind="stripe.invoice")
    assert take(database) is None
    assert database.write(lambda c: outbox.claim(c, ("stripe.invoice",))) is not None


@given(st.text(max_size=20), st.integers(1, 200))
def test_pauses_double_up_to_an_hour_with_jitter_between_half_and_all(name: str, attempt: int) -> None:
    whole = min(outbox.FIRST_S * 2 ** (attempt - 1), outbox.LONGEST_S) * outbox.SECOND
    assert whole // 2 <= outbox.pause_us(name, attempt) <= whole


def test_pauses_of_rows_that_failed_together_differ() -> None:
    assert len({outbox.pause_us(f"row-{i}", 10) for i in range(100)}) > 90


def test_the_other_side_can_ask_for_a_longer_pause_but_not_for_ever(database: Database) -> None:
    for name, asked, at_least, at_most in (("one", 100, 100, 101), ("two", 10**9, 3600, 3601), ("three", 0, 1, 3)):
        put(database, name, subject=name)
        parcel = must_take(database)
        assert fail(database, parcel, retry_after_s=asked) == "waiting"
        with database.read() as connection:
            now = outbox.now_us(connection)
        row = next(r for r in rows(database) if r.id == name)
        assert (at_least - 1) * outbox.SECOND <= row.due_at - now <= at_most * outbox.SECOND
        assert row.failure == "503"


def test_a_row_is_given_up_after_days_and_attempts_and_not_after_days_alone(database: Database) -> None:
    put(database, "one")
    put(database, "two")
    change(database, "one", created_at=1, due_at=0)
    assert fail(database, must_take(database)) == "waiting", "no sender ran for years: that is not a failure"
    change(database, "one", attempts=outbox.GIVE_UP_TRIES - 1, due_at=0)
    assert fail(database, must_take(database)) == "dead"
    assert [r.id for r in rows(database, "dead")] == ["one"]
    assert must_take(database).id == "two", "a dead letter holds up nobody"
    assert database.write(lambda c: outbox.revive(c, "one"))
    assert not database.write(lambda c: outbox.revive(c, "two"))
    assert must_take(database).id == "one"


def test_what_cannot_be_mended_by_trying_again_is_given_up_at_once(database: Database) -> None:
    put(database, "one")
    assert fail(database, must_take(database), final=True) == "dead"
    assert take(database) is None


def test_a_failure_is_kept_short(database: Database) -> None:
    put(database, "one")
    parcel = must_take(database)
    database.write(lambda c: outbox.failed(c, parcel, "x" * 10_000))
    assert len(rows(database)[0].failure or "") == outbox.LONGEST_FAILURE


def test_senders_of_two_processes_never_hold_the_same_row(database: Database) -> None:
    for n in range(20):
        put(database, f"row-{n}", subject=f"subject-{n}")
    with Database(database.url) as other:
        taken = []
        futures = [d.submit(lambda c: outbox.claim(c, KINDS)) for _ in range(15) for d in (database, other)]
        taken = [f.result() for f in futures]
    ids = [p.id for p in taken if p is not None]
    assert sorted(ids) == sorted({f"row-{n}" for n in range(20)})


def test_payloads_are_canonical_json(database: Database) -> None:
    put(database, "one", b=1, a="ä")
    with database.read() as connection:
        assert connection.execute(select(tables.outbox.c.payload)).scalar() == '{"a":"ä","b":1}'
