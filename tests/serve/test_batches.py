"""/v1/batches over a real gateway: each line answered and charged once, at a batch's price, whatever happens."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from sqlalchemy import select, update

from faults.house import HTTP, House, Running, ask, gateway, open_house
from feilun.accounts import keys
from feilun.store import audit, ledger, tables
from feilun.store.counts import Counts
from tests.serve.talking import MESSAGES, open_talking
from tests.serve.uploading import Customer, ended, until

CHAT = "/v1/chat/completions"
QUICK = {"batch_poll_s": 0.05, "batch_lease_s": 2.0, "lease_s": 3.0}


@pytest.fixture(scope="module")
def open_(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, Running]]:
    folder = tmp_path_factory.mktemp("batches")
    with open_house(f"sqlite:///{folder}/feilun.db", folder) as house, gateway(house, **QUICK) as running:
        yield house, running


@pytest.fixture(scope="module")
def customer(open_: tuple[House, Running]) -> Customer:
    return Customer(*open_, "emil")


def month(house: House, tenant: str) -> tuple[Counts, int]:
    with house.database.read() as connection:
        return ledger.month(connection, tenant)[1:]


def test_a_batch_is_answered_charged_half_and_found_in_the_ledger(database_url: str, tmp_path: Path) -> None:
    with open_house(database_url, tmp_path) as house, gateway(house, **QUICK) as running:
        customer = Customer(house, running, "anna")
        texts = ["good film", "bad plot ending", "dull", *["fine bright film"] * 20]
        one = ask(running, customer.token, texts[0]).json()
        before, spent_before = month(house, "anna")
        made = customer.batch(texts, metadata={"run": "7"})
        assert (made.object, made.endpoint, made.completion_window) == ("batch", "/v1/classify", "24h")
        done = ended(customer, made.id)
        assert (done.status, done.metadata) == ("completed", {"run": "7"})
        counts = done.request_counts
        assert (counts.total, counts.completed, counts.failed, done.error_file_id) == (23, 23, 0, None)
        assert made.created_at <= done.in_progress_at <= done.finalizing_at <= done.completed_at
        lines = customer.read(done.output_file_id)
        assert [line["custom_id"] for line in lines] == [f"c-{n}" for n in range(23)]
        assert len({line["id"] for line in lines}) == len({line["response"]["request_id"] for line in lines}) == 23
        assert lines[0]["response"]["body"]["results"] == one["results"] and lines[0]["error"] is None
        after, spent = month(house, "anna")
        units = Counts(**{m: after[m] - before[m] for m in after if m != "compute_ms"})
        assert (units["requests"], units["batch_requests"], units["batch_inputs"]) == (23, 23, 23)
        assert units["tokens"] == units["batch_tokens"] == sum(len(text.split()) for text in texts)
        assert spent - spent_before == (23 * 1_000_000 + units["tokens"] * 10) // 2
        charged = [line["response"]["body"]["usage"]["amount_nano"] for line in lines]
        assert sum(charged) == spent - spent_before
        with house.database.read() as connection:
            assert audit.verify(connection) == []


def test_lines_that_fail_are_in_the_error_file_and_are_not_charged(open_: tuple[House, Running]) -> None:
    house, running = open_
    customer = Customer(house, running, "carl")
    bodies: list[dict[str, Any]] = [
        {"model": "reviews", "input": "good"},
        {"model": "absent", "input": "good"},
        {"model": "reviews", "input": "good", "tenant": "anna"},
    ]
    rows = [
        {"custom_id": str(n), "method": "POST", "url": "/v1/classify", "body": body} for n, body in enumerate(bodies)
    ]
    file = customer.upload(rows)
    asked = {"endpoint": "/v1/classify", "completion_window": "1h"}
    done = ended(customer, customer.api.batches.create(input_file_id=file, **asked).id)
    assert (done.status, done.request_counts.completed, done.request_counts.failed) == ("completed", 1, 2)
    failed = customer.read(done.error_file_id)
    assert [(line["custom_id"], line["response"]["status_code"]) for line in failed] == [("1", 404), ("2", 422)]
    assert failed[0]["response"]["body"]["error"]["code"] == "model-not-found"
    assert month(house, "carl")[0].requests == 1


WRONG: list[tuple[list[Any] | bytes, str | None]] = [
    (b"{}\n", "custom_id"),
    (b"not json\n", None),
    (b'{"custom_id": "a", "custom_id": "b"}\n', None),
    ([{"custom_id": "a", "method": "GET", "url": "/v1/classify", "body": {}}], "method"),
    ([{"custom_id": "a", "method": "POST", "url": "/v1/usage", "body": {}}], "url"),
    ([{"custom_id": "a", "method": "POST", "url": "/v1/classify", "body": {"stream": True}}], "body.stream"),
    ([{"custom_id": "a", "method": "POST", "url": "/v1/classify", "body": {}, "key": "x"}], "key"),
    ([{"custom_id": "a", "method": "POST", "url": "/v1/classify", "body": {}}] * 2, "custom_id"),
]


def test_a_file_with_a_wrong_line_fails_as_a_whole_and_says_which_case_27(open_: tuple[House, Running]) -> None:
    customer = Customer(*open_, "dora")
    made = []
    for rows, _ in WRONG:
        good = b'{"custom_id": "z", "method": "POST", "url": "/v1/classify", "body": {}}\n\n'
        body = rows if isinstance(rows, bytes) else b"".join(_line(row) for row in rows)
        file = customer.upload(good + body)
        asked = {"endpoint": "/v1/classify", "completion_window": "24h"}
        made.append(customer.api.batches.create(input_file_id=file, **asked).id)
    for identity, (rows, where) in zip(made, WRONG, strict=True):
        failed = ended(customer, identity)
        assert failed.status == "failed" and failed.output_file_id is None
        (problem,) = failed.errors.data
        assert (problem.param, problem.line) == (where, 4 if rows == WRONG[-1][0] else 3)
    assert month(open_[0], "dora")[0] == Counts()


def _line(row: Any) -> bytes:

    return json.dumps(row).encode() + b"\n"


@pytest.mark.parametrize(
    "change",
    [
        {"endpoint": "/v1/usage"},
        {"endpoint": "http://127.0.0.1/v1/classify"},
        {"completion_window": "0h"},
        {"completion_window": "999h"},
        {"completion_window": "soon"},
        {"tenant": "anna"},
        {"metadata": {"a": "b" * 513}},
        {"input_file_id": "../rows"},
    ],
)
def test_a_batch_that_cannot_be_is_refused(customer: Customer, change: dict[str, Any]) -> None:
    file = customer.upload([{"n": 1}])
    asked = {"input_file_id": file, "endpoint": "/v1/classify", "completion_window": "24h"}
    reply = customer.get("/v1/batches", method="POST", json=asked | change)
    assert reply.status_code == (404 if "input_file_id" in change else 422), reply.text
    assert list(customer.api.batches.list()) == []


def test_a_batch_is_its_tenants_alone_case_35(open_: tuple[House, Running]) -> None:
    hers, other = Customer(*open_, "fred"), Customer(*open_, "gina")
    batch = hers.batch(["good"]).id
    for method, path in (("GET", "/v1/batches/{}"), ("POST", "/v1/batches/{}/cancel")):
        replies = [other.get(path.format(n), method=method) for n in (batch, "batch_01ARZ3NDEKTSV4RRFFQ69G5FAV")]
        assert [r.status_code for r in replies] == [404, 404] and replies[0].content == replies[1].content
    assert list(other.api.batches.list()) == []
    assert ended(hers, batch).status == "completed"
    with pytest.raises(openai.ConflictError):
        hers.api.batches.cancel(batch)


def test_a_cancelled_batch_stops_soon_and_keeps_what_it_has(open_: tuple[House, Running]) -> None:
    house, running = open_
    customer = Customer(house, running, "hans")
    batch = customer.batch(["good film"] * 1_500)
    until(lambda: customer.api.batches.retrieve(batch.id), lambda found: found.request_counts.completed > 0)
    assert customer.api.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    done = ended(customer, batch.id)
    counts = done.request_counts
    assert done.status == "cancelled" and 0 < counts.completed < 1_500
    assert counts.completed + counts.failed == 1_500
    assert len(customer.read(done.output_file_id)) == counts.completed == month(house, "hans")[0]["batch_requests"]
    assert {line["error"]["code"] for line in customer.read(done.error_file_id)} == {"batch_cancelled"}


def test_a_batch_whose_time_is_over_ends_with_what_it_has(open_: tuple[House, Running]) -> None:
    house, running = open_
    customer = Customer(house, running, "ida")
    batch = customer.batch(["good film"] * 1_500)
    table = tables.batches
    until(lambda: customer.api.batches.retrieve(batch.id), lambda found: found.request_counts.completed > 0)
    house.database.write(lambda c: c.execute(update(table).where(table.c.id == batch.id).values(expires_at=1)))
    done = ended(customer, batch.id)
    assert done.status == "expired" and done.request_counts.completed == month(house, "ida")[0].requests
    assert {line["error"]["code"] for line in customer.read(done.error_file_id)} == {"batch_expired"}


def test_a_revoked_key_stops_its_batch_case_34(open_: tuple[House, Running]) -> None:
    house, running = open_
    customer, again = Customer(house, running, "jens"), None
    batch = customer.batch(["good film"] * 1_500)
    until(lambda: customer.api.batches.retrieve(batch.id), lambda found: found.request_counts.completed > 0)
    keys.revoke(house.database, customer.key)
    table = tables.batches

    def state() -> Any:
        with house.database.read() as connection:
            return connection.execute(select(table).where(table.c.id == batch.id)).one()

    again = until(state, lambda row: row.state == "failed")
    assert 0 < again.completed < 1_500 and "invalid-key" in again.errors
    assert month(house, "jens")[0].requests == again.completed


def test_a_batch_takes_nothing_of_a_rate_and_a_rate_nothing_of_a_batch(open_: tuple[House, Running]) -> None:
    house, running = open_
    customer = Customer(house, running, "kurt", plan="minute")  # 10 requests a minute
    batch = customer.batch(["good film"] * 30)
    assert ended(customer, batch.id).request_counts.completed == 30
    assert [ask(running, customer.token).status_code for _ in range(11)] == [200] * 10 + [429]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_batch_goes_on_where_a_killed_gateway_left_it_and_nothing_is_charged_twice_case_1(
    new_url: Callable[[str], str], tmp_path: Path, kind: str
) -> None:
    lines = 150
    with open_house(new_url(kind), tmp_path) as house:
        with gateway(house, **QUICK) as first:
            customer = Customer(house, first, "lena")
            batch = customer.batch([f"good film {n}" for n in range(lines)])
            until(lambda: month(house, "lena")[0].requests, lambda n: n > 30)
            first.kill()
        begun = month(house, "lena")[0].requests
        with gateway(house, **QUICK) as second:
            customer.move(second)
            done = ended(customer, batch.id)
            assert (done.status, done.request_counts.completed) == ("completed", lines)
            answers = customer.read(done.output_file_id)
        assert begun < lines
        units, _ = month(house, "lena")
        assert (units.requests, units["batch_requests"]) == (lines, lines)
        assert len({line["response"]["body"]["id"] for line in answers}) == lines
        with house.database.read() as connection:
            assert audit.verify(connection) == []


def test_a_scope_cannot_be_forged_by_a_header(open_: tuple[House, Running]) -> None:
    """What marks a request as a line of a batch is no header, and idempotency keys of lines are the server's alone."""
    house, running = open_
    for headers in ({"feilun.inside": "x"}, {"feilun-inside": "x"}):
        body = {"model": "reviews", "input": "good"}
        assert HTTP.post(running.base + "/v1/classify", json=body, headers=headers).status_code == 401
    told = {"Idempotency-Key": "server:batch:batch_1:1"}
    assert ask(running, house.tokens["acme"], headers=told).status_code == 422


def test_openais_routes_are_asked_in_batches_and_what_is_written_costs_half_too(tmp_path: Path) -> None:
    with open_talking(f"sqlite:///{tmp_path}/feilun.db", tmp_path, **QUICK) as opened:
        house, running = opened.house, opened.running
        customer = Customer(house, running, "mona", plan="spoken", scopes=("classify", "generate", "files"))
        chat = {"model": "talk", "messages": MESSAGES, "max_tokens": 5, "seed": 1}
        alone = customer.api.chat.completions.create(**chat)
        before, spent_before = month(house, "mona")
        rows = [{"custom_id": f"{n}", "method": "POST", "url": CHAT, "body": chat} for n in range(6)]
        made = customer.api.batches.create(input_file_id=customer.upload(rows), endpoint=CHAT, completion_window="24h")
        done = ended(customer, made.id)
        assert (done.status, done.request_counts.completed) == ("completed", 6)
        said = [line["response"]["body"] for line in customer.read(done.output_file_id)]
        assert {one["choices"][0]["message"]["content"] for one in said} == {alone.choices[0].message.content}
        after, spent = month(house, "mona")
        out = 6 * alone.usage.completion_tokens
        assert after["batch_tokens_out"] == after["tokens_out"] - before["tokens_out"] == out
        assert spent - spent_before == (after["batch_tokens"] * 10 + out * 40) // 2
        with house.database.read() as connection:
            assert audit.verify(connection) == []
