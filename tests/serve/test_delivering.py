"""A gateway sends what the outbox has, and nothing that goes wrong there touches its answers."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import pytest

from feilun.errors import UnavailableError
from feilun.serve.delivering import delivering


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
