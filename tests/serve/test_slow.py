"""Callers who are slow on purpose lose their connection and hold nobody up (RELIABILITY 26)."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from faults.house import House, Running, ask, gateway
from faults.workers import is_closed, slow_caller


@pytest.fixture(scope="module")
def hasty(house: House) -> Iterator[Running]:
    with gateway(house, header_s=0.4, body_s=0.4, write_s=0.4) as running:
        yield running


def test_slow_headers_bodies_and_readers_are_cut_off_while_others_are_served_case_26(
    house: House, hasty: Running
) -> None:
    with contextlib.ExitStack() as stack:
        token = house.tokens["acme"]
        slow = {kind: stack.enter_context(slow_caller(hasty, token, kind)) for kind in ("headers", "body", "reader")}
        silent = stack.enter_context(socket.create_connection(("127.0.0.1", int(hasty.base.rsplit(":", 1)[1]))))
        begun = time.monotonic()
        while time.monotonic() - begun < 0.8:
            asked = time.monotonic()
            assert ask(hasty, token).status_code == 200
            assert time.monotonic() - asked < 5.0  # of its own: the machine may be busy otherwise
        assert {kind: is_closed(hasty, one) for kind, one in slow.items()} == dict.fromkeys(slow, True)
        assert is_closed(hasty, silent)
        assert '"unexpected"' not in hasty.log.read_text()


def test_headers_that_trickle_are_not_kept_alive_by_trickling_case_26(hasty: Running) -> None:
    port = int(hasty.base.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port)) as trickling:
        trickling.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert trickling.recv(65_536).split()[1] == b"200"  # a connection that is kept, then the next request
        begun = time.monotonic()
        said = b""
        with contextlib.suppress(ConnectionError):
            trickling.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
            trickling.settimeout(0.1)
            while time.monotonic() - begun < 5 and not said:
                trickling.sendall(b"X-A: b\r\n")
                with contextlib.suppress(TimeoutError):
                    said = trickling.recv(65_536)
        assert time.monotonic() - begun < 2
        assert said.split()[1:2] in ([b"408"], [])
