"""Streams that are broken off, repeated, read slowly or not at all (RELIABILITY 3, 4, 5, 26)."""

from __future__ import annotations

import json
import socket
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from faults.house import HTTP, Running, ask, gateway, start
from faults.load import until
from feilun.errors import UnavailableError
from feilun.models.decoder import Piece
from feilun.serve.writing import Said
from feilun.store import audit, tables
from tests.serve.talking import HASTY, MESSAGES, Talking

LONG = {"model": "talk", "messages": MESSAGES, "max_tokens": 400, "temperature": 0, "stream": True}


@dataclass
class Told:
    """What a reader saw of a stream: events, characters (each a token here), and how it ended."""

    events: list[dict[str, Any]]
    body: bytes

    @property
    def characters(self) -> int:
        return sum(len(c["delta"].get("content") or "") for e in self.events for c in e.get("choices", []))

    @property
    def whole(self) -> bool:
        return self.body.endswith(b"data: [DONE]\n\n")

    @property
    def problem(self) -> str | None:
        return next((e["error"]["code"] for e in self.events if "error" in e), None)


def told(body: bytes) -> Told:
    lines = [line[6:] for line in body.split(b"\n\n") if line.startswith(b"data: {")]
    events = []
    for line in lines:
        try:
            events.append(json.loads(line))
        except ValueError:
            break  # the connection broke in the middle of it
    return Told(events, body)


def stream(talking: Talking, running: Running, key: str, most: int | None = None, **more: Any) -> Told:
    """Read a stream to its end, or until ``most`` events are there and then go."""
    headers = talking.headers | {"Idempotency-Key": key}
    body = b""
    try:
        with HTTP.stream("POST", f"{running.base}/v1/chat/completions", json=LONG | more, headers=headers) as reply:
            if reply.status_code != 200:
                reply.read()
                raise AssertionError(reply.text)
            for chunk in reply.iter_raw():
                body += chunk
                if most is not None and body.count(b"\n\n") >= most:
                    break
    except httpx.TransportError:
        pass
    return told(body)


def rows(talking: Talking, key: str) -> list[Any]:
    usage, requests = tables.usage, tables.requests
    query = select(usage).join(requests, requests.c.id == usage.c.request).where(requests.c.idempotency_key == key)
    with talking.house.database.read() as connection:
        return list(connection.execute(query).all())


def wrote(row: Any) -> int:
    return int(json.loads(row.more or "{}").get("tokens_out", 0))


def holds(talking: Talking) -> int:
    with talking.house.database.read() as connection:
        query = select(func.count()).select_from(tables.requests).where(tables.requests.c.state == "held")
        return int(connection.execute(query).scalar_one())


def sound(talking: Talking) -> list[str]:
    with talking.house.database.read() as connection:
        return [str(problem) for problem in audit.verify(connection)]


@pytest.fixture
def mine(talking: Talking) -> Talking:
    """The same house, in which gateways die beside the one that stays."""
    return talking


def test_a_repeated_stream_is_the_same_bytes_free_case_5(mine: Talking) -> None:
    first = stream(mine, mine.running, "again", max_tokens=30)
    headers = mine.headers | {"Idempotency-Key": "again"}
    url = f"{mine.running.base}/v1/chat/completions"
    reply = HTTP.post(url, json=LONG | {"max_tokens": 30}, headers=headers)
    assert first.whole
    assert (reply.content, reply.headers["idempotent-replay"]) == (first.body, "true")
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert HTTP.post(url, json=LONG | {"max_tokens": 31}, headers=headers).status_code == 422
    (row,) = rows(mine, "again")
    assert (wrote(row), row.partial, first.characters) == (30, None, 30)


def test_a_stream_that_its_reader_leaves_is_charged_for_what_was_delivered_case_3(mine: Talking) -> None:
    left = stream(mine, mine.running, "left", most=6, n=16)
    until(lambda: bool(rows(mine, "left")))
    (row,) = rows(mine, "left")
    assert row.partial == 1
    assert left.characters <= wrote(row) < 16 * 400
    assert row.amount_nano == 10 * row.tokens + 40 * wrote(row)
    again = stream(mine, mine.running, "left", n=16)
    assert (again.problem, again.whole) == ("broken-off", False)
    assert again.characters == wrote(row)
    assert again.body.startswith(left.body)
    assert len(rows(mine, "left")) == 1
    until(lambda: holds(mine) == 0)
    assert sound(mine) == []


@pytest.mark.parametrize("passage", [1, 20, 90])
def test_a_stream_whose_gateway_is_killed_is_charged_for_its_last_checkpoint_case_3(
    mine: Talking, passage: int
) -> None:
    key = f"killed-{passage}"
    with gateway(mine.house, environment={"FEILUN_CRASH_AT": f"stream-told:{passage}"}, **HASTY) as dying:
        read = stream(mine, dying, key)
        assert dying.process.wait(5) == -9
    assert read.characters > 0
    until(lambda: bool(rows(mine, key)))  # the other gateway reaps
    (row,) = rows(mine, key)
    assert row.partial == 1
    assert 0 < wrote(row) <= read.characters
    assert read.characters - wrote(row) <= 32 + 1  # the interval, and the piece after it
    assert stream(mine, mine.running, key).problem == "broken-off"
    assert sound(mine) == []


def test_who_asks_again_after_a_kill_gets_what_was_kept_without_waiting_for_the_reaper(mine: Talking) -> None:
    with gateway(mine.house, environment={"FEILUN_CRASH_AT": "stream-told:3"}, **HASTY) as dying:
        stream(mine, dying, "soon")
        assert dying.process.wait(5) == -9
    until(lambda: HTTP.post(
        f"{mine.running.base}/v1/chat/completions", json=LONG, headers=mine.headers | {"Idempotency-Key": "soon"}
    ).status_code == 200)  # fmt: skip
    assert stream(mine, mine.running, "soon").problem == "broken-off"
    assert len(rows(mine, "soon")) == 1


@pytest.mark.parametrize(("point", "charged"), [("after-hold", 0), ("stream-begun", 1), ("after-inference", 1)])
def test_a_crash_before_during_and_after_a_stream_leaves_one_row_or_none_case_2(
    mine: Talking, point: str, charged: int
) -> None:
    with gateway(mine.house, environment={"FEILUN_CRASH_AT": point}, **HASTY) as dying:
        stream(mine, dying, point, max_tokens=40)
        assert dying.process.wait(5) == -9
    until(lambda: holds(mine) == 0)
    assert [row.partial for row in rows(mine, point)] == [1] * charged
    assert sound(mine) == []


def test_a_stream_can_last_longer_than_a_lease(mine: Talking) -> None:
    """Forty-eight answers at once take a while; nobody reaps what is still written."""
    with ThreadPoolExecutor(6) as pool:
        streams = list(pool.map(lambda n: stream(mine, mine.running, f"long-{n}", n=8), range(6)))
    assert all(s.whole and s.characters == 8 * 400 for s in streams)
    assert all([row.partial for row in rows(mine, f"long-{n}")] == [None] for n in range(6))


def test_an_answer_without_a_token_is_charged_no_token_case_4(mine: Talking) -> None:
    """Its end comes first: what the model says is 0 is 0, and not guessed."""
    prompt = HTTP.post(
        f"{mine.running.base}/v1/completions",
        json={"model": "mute", "prompt": "good", "max_tokens": 9},
        headers=mine.headers | {"Idempotency-Key": "mute"},
    )
    assert prompt.status_code == 200, prompt.text
    assert prompt.json()["usage"]["completion_tokens"] == 0
    silent = stream(mine, mine.running, "mute-stream", model="mute", max_tokens=9)
    assert (silent.whole, silent.characters) == (True, 0)
    for key in ("mute", "mute-stream"):
        (row,) = rows(mine, key)
        assert (wrote(row), row.partial, row.amount_nano) == (0, None, 10 * row.tokens)


def test_text_without_a_count_is_an_error_and_no_guess_case_4() -> None:
    said = Said()
    said.take(Piece("", 2))
    said.take(Piece("good", 0))
    assert said.tokens == 2
    with pytest.raises(UnavailableError) as caught:
        Said().take(Piece("good", 0))
    assert caught.value.name == "usage-missing"


@contextmanager
def not_reading(talking: Talking, running: Running, key: str) -> Iterator[None]:
    """A reader who asks for more than the system keeps for it, and takes nothing."""
    body = json.dumps(LONG | {"n": 16, "logprobs": True, "top_logprobs": 20}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {talking.token}\r\n"
        f"Idempotency-Key: {key}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", int(running.base.rsplit(":", 1)[1])))
        slow.sendall(head.encode() + body)
        yield


def test_a_gateway_that_is_told_to_stop_charges_what_it_delivered_before_it_ends_case_16(mine: Talking) -> None:
    leaving = start(mine.house, grace_s=1.0)  # its leases are long: nobody else ends its streams meanwhile
    with not_reading(mine, leaving, "stopped"):
        until(lambda: holds(mine) == 1)
        time.sleep(0.5)
        assert leaving.stop() == 0
    (row,) = rows(mine, "stopped")
    assert row.partial == 1
    assert 0 < wrote(row) < 16 * 400
    assert sound(mine) == []


def test_a_reader_who_does_not_read_is_cut_off_and_holds_nobody_up_case_26(mine: Talking) -> None:
    with gateway(mine.house, write_s=0.5, deliver_s=1.0, **HASTY) as patient:
        with not_reading(mine, patient, "slow"):
            until(lambda: holds(mine) == 1)
            begun = time.monotonic()
            assert ask(patient, mine.token).status_code == 200
            assert time.monotonic() - begun < 2
            until(lambda: bool(rows(mine, "slow")), timeout=20)
        (row,) = rows(mine, "slow")
        assert row.partial == 1
        assert 0 < wrote(row) < 16 * 400
    assert sound(mine) == []


def test_a_database_that_goes_away_ends_a_stream_with_an_error_in_it(mine: Talking, tmp_path: Path) -> None:
    place = mine.house.url.removeprefix("sqlite:///")
    options: dict[str, Any] = {"database_s": 0.5, "checkpoint_tokens": 4, "checkpoint_s": 0.1}
    with gateway(mine.house, **HASTY, **options) as running:
        headers = mine.headers | {"Idempotency-Key": "away"}
        with HTTP.stream("POST", f"{running.base}/v1/chat/completions", json=LONG, headers=headers) as reply:
            pieces = reply.iter_raw()
            body = next(pieces)
            locking = sqlite3.connect(place, isolation_level=None)
            locking.execute("BEGIN IMMEDIATE")
            body += b"".join(pieces)
            locking.execute("ROLLBACK")
            locking.close()
        read = told(body)
        assert read.problem in ("no-database", "unavailable")
        until(lambda: bool(rows(mine, "away")))
    (row,) = rows(mine, "away")
    assert row.partial == 1
    assert 0 < wrote(row) <= read.characters
    assert sound(mine) == []
