"""A gateway sends what the outbox has, and nothing that goes wrong there touches its answers (RELIABILITY 2)."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from faults.house import House, gateway, open_house
from faults.load import until
from feilun.errors import UnavailableError
from feilun.serve.delivering import delivering
from feilun.store import outbox, tables
from feilun.store.crash import VARIABLE
from tests.receiver import Receiver, listening


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with listening() as somebody:
        yield somebody


class Desk:
    """An office whose every delivery does the next thing that it is told."""

    def __init__(self, *does: Exception | int) -> None:
        self.does = list(does)
        self.calls = 0
        self.enough = threading.Event()

    def deliver(self) -> int:
        """The next thing."""
        self.calls += 1
        if not self.does:
            self.enough.set()
            return 0
        doing = self.does.pop(0)
        if isinstance(doing, Exception):
            raise doing
        return doing


def names(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_nothing_that_goes_wrong_ends_the_delivery(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "feilun.serve")
    desk: Any = Desk(UnavailableError("the database is away"), 3, KeyError("a secret word"), 0)
    with delivering(desk, pause_s=0.01):
        assert desk.enough.wait(10)
    assert names(caplog) == ["nothing delivered", "delivery failed"]
    assert "a secret word" not in caplog.text
    calls = desk.calls
    time.sleep(0.05)
    assert desk.calls == calls, "it ends with the gateway"


def test_the_end_does_not_wait_for_a_slow_receiver() -> None:
    class Slow(Desk):
        def deliver(self) -> int:
            self.enough.set()
            time.sleep(30)
            return 0

    desk: Any = Slow()
    started = time.monotonic()
    with delivering(desk, pause_s=0.01, farewell_s=0.2):
        assert desk.enough.wait(10)
    assert time.monotonic() - started < 10


def test_without_an_office_there_is_no_thread() -> None:
    before = threading.active_count()
    with delivering(None):
        assert threading.active_count() == before


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_killed_behind_sending_the_next_gateway_sends_it_again_under_the_same_id_case_2(
    kind: str, new_url: Callable[[str], str], tmp_path: Path, receiver: Receiver
) -> None:
    bill = {"webhook": {"url": receiver.url, "allow_private": True}}
    secret = {"FEILUN_WEBHOOK_SECRET": "a secret of twenty-four bytes, or more"}
    with open_house(new_url(kind), tmp_path) as house:
        with gateway(house, bill=bill, environment=secret | {VARIABLE: "outbox-send"}) as dying:
            payload = {"type": "budget.warning", "data": {"tenant": "acme"}}
            house.database.write(lambda c: outbox.put(c, kind="webhook", id="one", subject="acme", payload=payload))
            assert dying.process.wait(20) == -signal.SIGKILL
        assert noted(house) == (None, 1)
        house.database.write(lambda c: c.execute(update(tables.outbox).values(due_at=0)) and None)  # the lease is over
        with gateway(house, bill=bill, environment=secret):
            until(lambda: noted(house)[0] is not None)
        assert noted(house)[1] == 2
    assert len(receiver.got) == 2
    assert len({(headers["webhook-id"], body) for headers, body in receiver.got}) == 1


def noted(house: House) -> Any:
    """When the only row was delivered, and how many attempts there were."""
    with house.database.read() as connection:
        return tuple(connection.execute(select(tables.outbox.c.delivered_at, tables.outbox.c.attempts)).one())
