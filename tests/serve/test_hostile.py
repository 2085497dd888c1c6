"""Bodies that nobody sends by accident (RELIABILITY 25, 27, 28)."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator

import httpx
import pytest

from faults.house import HTTP, House, Running, ask, gateway
from faults.load import until

GOOD = {"model": "reviews", "input": "good film"}


def post(running: Running, house: House, body: bytes | Iterator[bytes], **headers: str) -> httpx.Response:
    usual = {"Authorization": f"Bearer {house.tokens['acme']}", "Content-Type": "application/json"}
    usual |= {name.replace("_", "-"): value for name, value in headers.items()}
    return HTTP.post(running.base + "/v1/classify", content=body, headers=usual, timeout=20)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "invalid-json"),
        (b"{", 400, "invalid-json"),
        (b"\xff\xfe", 400, "invalid-utf8"),
        (b'{"model": "reviews", "input": "caf\xe9"}', 400, "invalid-utf8"),
        (b'{"model": "reviews", "model": "films", "input": "x"}', 400, "invalid-json"),
        (b'{"model": "reviews", "input": NaN}', 400, "invalid-json"),
        (b"[" * 100_000, 400, "invalid-json"),
        (b'{"input":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "invalid-json"),
        (b'{"model": "reviews", "input": ' + b"9" * 10_000 + b"}", 400, "invalid-json"),
        (b"null", 422, "invalid-request"),
        (b"[]", 422, "invalid-request"),
        (b'"reviews"', 422, "invalid-request"),
        (json.dumps(GOOD | {"input": ""}).encode(), 422, "invalid-request"),
        (json.dumps(GOOD | {"input": []}).encode(), 422, "invalid-request"),
        (json.dumps(GOOD | {"input": [["x"]]}).encode(), 422, "invalid-request"),
        (json.dumps(GOOD | {"input": 7}).encode(), 422, "invalid-request"),
        (json.dumps(GOOD | {"input": ["x"] * 257}).encode(), 422, "invalid-request"),
        (json.dumps(GOOD | {"input": "x" * 20_001}).encode(), 422, "invalid-request"),
        (json.dumps(GOOD | {"n": 10**9}).encode(), 422, "invalid-request"),
        (json.dumps(GOOD | {"max_tokens": -1}).encode(), 422, "invalid-request"),
        (b'{"model": "reviews", "input": "half \\ud800 a pair"}', 422, "invalid-request"),
        (b'{"model": "reviews", "input": "a \\u0000 NUL"}', 422, "invalid-request"),
        (b'{"model": "reviews\\u0000", "input": "x"}', 422, "invalid-request"),
        (b'{"model": "../../etc/passwd", "input": "x"}', 404, "model-not-found"),
    ],
)
def test_a_bad_body_is_refused_in_the_apis_shape_cases_27_28(
    house: House, running: Running, body: bytes, status: int, code: str
) -> None:
    reply = post(running, house, body)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (status, code)
    assert set(error) == {"message", "type", "param", "code", "where", "hint"}


def test_encodings_and_types_that_are_not_known_are_refused_case_28(house: House, running: Running) -> None:
    body = json.dumps(GOOD).encode()
    assert post(running, house, body, Content_Encoding="gzip").status_code == 415
    assert post(running, house, body, Content_Type="text/plain").status_code == 415


@pytest.mark.parametrize("key", ["", "a b", "x" * 201, "server:01ARZ3NDEKTSV4RRFFQ69G5FAV"])
def test_a_bad_idempotency_key_is_refused(house: House, running: Running, key: str) -> None:
    assert ask(running, house.tokens["acme"], headers={"Idempotency-Key": key}).status_code == 422


def test_too_long_a_body_is_refused_before_it_is_read_case_25(house: House, running: Running) -> None:
    declared = post(running, house, b"x" * 10_000_001)
    assert (declared.status_code, declared.headers["connection"]) == (413, "close")

    def chunks() -> Iterator[bytes]:
        for _ in range(400):
            yield b"x" * 100_000

    with contextlib.suppress(httpx.WriteError):  # it was refused and closed while we still wrote
        assert post(running, house, chunks()).status_code == 413


def test_a_length_that_lies_is_refused_and_others_are_served_case_25(house: House, running: Running) -> None:
    port = int(running.base.rsplit(":", 1)[1])
    head = f"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {house.tokens['acme']}\r\n"
    with socket.create_connection(("127.0.0.1", port)) as lying:
        lying.sendall(f"{head}Content-Length: 99999999999999999999\r\n\r\n{{".encode())
        assert lying.recv(100).split()[1] in (b"413", b"400")
    with socket.create_connection(("127.0.0.1", port)) as waiting:
        waiting.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        assert ask(running, house.tokens["acme"]).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/classify", 405),
        ("POST", "/v1/none", 404),
        ("GET", "/v1/models/", 404),
        ("DELETE", "/healthz", 405),
        ("GET", "/%2e%2e/etc", 404),
    ],
)
def test_what_is_not_there_is_refused_in_the_same_shape(running: Running, method: str, path: str, status: int) -> None:
    reply = HTTP.request(method, running.base + path)
    assert reply.status_code == status
    assert reply.json()["error"]["type"].endswith("_error")


def test_a_caller_who_goes_away_in_mid_body_is_no_bug_of_ours(house: House, running: Running) -> None:
    head = f"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {house.tokens['acme']}\r\n"
    with socket.create_connection(("127.0.0.1", int(running.base.rsplit(":", 1)[1]))) as leaving:
        leaving.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        assert ask(running, house.tokens["acme"]).status_code == 200
    until(lambda: '"status": 499' in running.log.read_text())
    assert '"unexpected"' not in running.log.read_text()


def test_a_body_that_does_not_arrive_in_time_is_refused_case_26(house: House) -> None:
    with gateway(house, body_s=0.3) as hasty:
        head = f"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {house.tokens['acme']}\r\n"
        with socket.create_connection(("127.0.0.1", int(hasty.base.rsplit(":", 1)[1]))) as slow:
            slow.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
            assert slow.recv(100).split()[1] == b"408"


@pytest.mark.parametrize("stripe", [False, True])
def test_who_has_no_key_keeps_no_customer_from_an_answer_by_the_signed_route_case_26(
    house: House, stripe: bool
) -> None:
    bill = {"stripe": {}} if stripe else {}
    with (
        gateway(house, bill=bill, queue_bytes=20_000_000, queue_requests=20) as running,
        contextlib.ExitStack() as open_,
    ):
        port = int(running.base.rsplit(":", 1)[1])
        head = "POST /v1/stripe/webhook HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        for i in range(60):
            idle = open_.enter_context(socket.create_connection(("127.0.0.1", port)))
            length = "Transfer-Encoding: chunked" if i % 2 else "Content-Length: 5000"
            idle.sendall(f"{head}Stripe-Signature: t=1,v1=0\r\n{length}\r\n\r\n".encode())
        until(lambda: ask(running, house.tokens["acme"]).status_code == 200, timeout=2)
        assert [ask(running, house.tokens["acme"]).status_code for _ in range(10)] == [200] * 10
