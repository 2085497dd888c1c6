"""POST and GET /v1/events over a real gateway: CloudEvents 1.0 in every mode, refused as the specification asks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from faults.house import HTTP, PEPPER, House, Running, gateway, open_house
from feilun.accounts import keys, tenants
from feilun.store import cloudevents, event_audit

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
METERS = ["pages", "seconds"]


def one(number: int, **more: Any) -> dict[str, Any]:
    event = {"specversion": "1.0", "id": f"e-{number}", "source": "/ocr/eu-1", "type": "pages", "subject": "acme"}
    return {k: v for k, v in (event | {"data": {"units": number}} | more).items() if v is not ...}


class Reporter:
    """Sends and reads with a key of the scope ``events``."""

    def __init__(self, house: House, running: Running) -> None:
        self.url = running.base + "/v1/events"
        tenants.create(house.database, "reporter", plan="metered")
        token = keys.create(house.database, PEPPER, "reporter", scopes=["events"]).token
        self.headers = {"Authorization": f"Bearer {token}"}

    def raw(self, body: bytes, kind: str | None = BATCH, **headers: str) -> httpx.Response:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        kinds = {} if kind is None else {"Content-Type": kind}
        return HTTP.post(self.url, content=body, headers=self.headers | kinds | given)

    def send(self, value: Any, kind: str = BATCH) -> httpx.Response:
        return self.raw(json.dumps(value).encode(), kind)

    def read(self, **query: Any) -> httpx.Response:
        return HTTP.get(self.url, params=query, headers=self.headers)

    def units(self, tenant: str = "acme") -> list[int]:
        return [event["data"]["units"] for event in self.read(tenant=tenant, limit=10_000).json()]


@pytest.fixture(scope="module")
def reporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reporter]:
    folder = tmp_path_factory.mktemp("events")
    with (
        open_house(f"sqlite:///{folder}/feilun.db", folder) as house,
        gateway(house, meters=METERS, body_bytes=4_000_000) as running,
    ):
        yield Reporter(house, running)


def test_every_mode_records_on_both_databases_and_the_export_can_be_sent_again(
    database_url: str, tmp_path: Path
) -> None:
    with open_house(database_url, tmp_path) as house, gateway(house, meters=METERS) as running:
        reporter = Reporter(house, running)
        house.tenant("bell")
        receipts = [
            reporter.send(one(1), STRUCTURED),
            reporter.send(one(2), STRUCTURED + "; charset=UTF-8"),
            reporter.send([one(3), one(4, subject="bell"), one(3)], BATCH),
            reporter.send([one(5), one(1)], "application/json"),
            reporter.send(one(6), "application/json"),
            reporter.raw(
                b'{"units": 7}',
                "application/json",
                ce_specversion="1.0",
                ce_id="%E9%A3%9E-7",
                ce_source="/ocr/eu-1",
                ce_type='"pages"',
                ce_subject="acme",
                ce_time="2999-01-01T00:00:00Z",
            ),
            reporter.raw(
                b"8", None, ce_specversion="1.0", ce_id="8", ce_source="/ocr", ce_type="pages", ce_subject="acme"
            ),
            reporter.send([], BATCH),
        ]
        assert [r.status_code for r in receipts] == [200] * 5 + [422, 200, 200]
        recorded = [
            (r["received"], r["recorded"], r["duplicates"]) for r in (x.json() for x in receipts) if "object" in r
        ]
        assert recorded == [(1, 1, 0), (1, 1, 0), (3, 2, 1), (2, 1, 1), (1, 1, 0), (1, 1, 0), (0, 0, 0)]
        assert reporter.units() == [1, 2, 3, 5, 6, 8]
        exported = reporter.read(tenant="acme", after=1, limit=2)
        assert exported.headers["content-type"] == BATCH
        assert [(e["id"], e["sequence"]) for e in exported.json()] == [("e-2", f"{2:020d}"), ("e-3", f"{3:020d}")]
        again = reporter.raw(exported.content, BATCH)
        assert again.json() == {"object": "events", "received": 2, "recorded": 0, "duplicates": 2}
        with house.database.read() as connection:
            assert event_audit.verify(connection) == []


def test_the_same_batch_sent_at_once_by_many_is_recorded_once(reporter: Reporter) -> None:
    batch = [one(n, source="/at-once", subject="reporter") for n in range(500)]
    with ThreadPoolExecutor(8) as pool:
        receipts = [r.json() for r in pool.map(lambda _: reporter.send(batch), range(8))]
    assert sum(r["recorded"] for r in receipts) == 500
    assert sum(r["duplicates"] for r in receipts) == 3_500
    assert reporter.units("reporter") == list(range(500))


def test_an_event_without_a_time_happened_now_and_may_be_sent_again(reporter: Reporter) -> None:
    event = one(1, source="/no-time")
    assert reporter.send([event]).json()["recorded"] == 1
    assert reporter.send([event]).json()["duplicates"] == 1


BAD: list[tuple[dict[str, Any], str]] = [
    *(({name: ...}, f"[1].{name}") for name in ("specversion", "id", "source", "type", "subject", "data")),
    *(
        ({name: value}, f"[1].{name}")
        for name in ("id", "source", "type", "subject")
        for value in ("", None, 3, "x" * 256)
    ),
    *(({"specversion": value}, "[1].specversion") for value in ("0.3", "1", "1.0.2", 1.0)),
    *(({"source": value}, "[1].source") for value in ("a b", "%zz", "飞", "<a>", "a\\b")),
    *(({"id": value}, "[1].id") for value in ("a\u0000b", "\ud800", "a\nb", "\u0085", "\ufffe")),
    *(
        ({"time": value}, "[1].time")
        for value in ("2026-11-02", "2026-11-02 10:00:00Z", "2026-11-02T10:00:00", "2026-02-30T10:00:00Z", 5, "now", "")
    ),
    *(({"time": f"{year}-01-01T00:00:00Z"}, "[1]") for year in ("1990", "2999")),
    *(
        ({"data": value}, "[1].data")
        for value in (1.5, "3", True, None, {}, [1], {"units": None}, {"units": 1, "more": 2}, {"units": 1e3})
    ),
    *(({"data": value}, "[1]") for value in (-1, {"units": -1}, 10**15, 10**40)),
    ({"data_base64": "MQ=="}, "[1].data_base64"),
    ({"datacontenttype": "text/xml"}, "[1].datacontenttype"),
    ({"dataschema": "not a uri"}, "[1].dataschema"),
    ({"Trace": "x"}, "[1]"),
    ({"trace_id": "x"}, "[1]"),
    ({"trace": {"a": 1}}, "[1].trace"),
    ({"trace": [1]}, "[1].trace"),
    ({"trace": 2**31}, "[1].trace"),
    ({"trace": 1.5}, "[1].trace"),
    ({"type": "tokens"}, "[1]"),
    ({"subject": "nobody"}, "[1]"),
]


@pytest.mark.parametrize(("change", "where"), BAD)
def test_a_bad_event_refuses_its_batch_and_says_where_case_27(
    reporter: Reporter, change: dict[str, Any], where: str
) -> None:
    before = reporter.units()
    reply = reporter.send([one(1, source="/bad"), one(2, **({"source": "/bad"} | change))])
    assert reply.status_code == 422, reply.text
    assert reply.json()["error"]["where"] == where
    assert reply.json()["error"]["hint"]
    assert reporter.units() == before


@pytest.mark.parametrize(
    "change",
    [
        {"time": "2026-11-02t10:00:00.123456789z"},
        {"time": "2026-11-02T10:00:00-08:00"},
        {"time": "2026-11-02T15:59:60Z"},
        {"time": None},
        {"data": 4},
        {"datacontenttype": "application/vnd.ocr+json; charset=utf-8", "dataschema": "https://ocr.example/schema"},
        {"traceparent": "00-4bf92f", "sampled": True, "attempt": 2, "nothing": None, "empty": ""},
        {"source": "urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66"},
        {"source": "mailto:cncf-wg-serverless@lists.cncf.io"},
        {"id": "A234-1234-1234 😀"},
    ],
)
def test_what_the_specification_allows_is_taken(
    reporter: Reporter, change: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    event = one(4, **{"id": request.node.name, **change})
    if "2026" in str(change.get("time")):  # judged apart from the clock
        assert cloudevents.read(event).at is not None
        return
    assert reporter.send([event]).json() == {"object": "events", "received": 1, "recorded": 1, "duplicates": 0}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[", 400),
        (b"\xff", 400),
        (b"[" * 100_000, 400),
        (b'[{"id": "a", "id": "b"}]', 400),
        (b'[{"data": NaN}]', 400),
        (b'[{"data": 1' + b"0" * 5_000 + b"}]", 400),
        (b'[{"data": 1' + b"0" * 400 + b"}]", 422),
        (b"[[]]", 422),
        (b"[null]", 422),
        (b'"text"', 422),
        (b"{}", 422),
    ],
)
def test_a_body_that_is_no_batch_of_events_is_refused_case_27(reporter: Reporter, body: bytes, status: int) -> None:
    reply = reporter.raw(body)
    assert reply.status_code == status, reply.text
    assert reply.json()["error"]["code"]


@pytest.mark.parametrize(
    ("kind", "value", "status"),
    [
        (STRUCTURED, [one(1)], 422),
        (BATCH, one(1), 422),
        ("application/cloudevents+xml", one(1), 415),
        ("text/plain", one(1), 415),
        ("application/json; charset=latin-1", one(1), 415),
        ('application/json; charset="utf-8"', one(90), 200),
    ],
)
def test_the_media_type_says_which_mode_it_is(reporter: Reporter, kind: str, value: Any, status: int) -> None:
    assert reporter.send(value, kind).status_code == status


def test_more_than_ten_thousand_events_or_too_many_bytes_are_refused(reporter: Reporter) -> None:
    assert reporter.send([one(n, data=1) for n in range(10_001)]).status_code == 413
    assert reporter.raw(b" " * 4_000_001).status_code == 413


def test_an_id_with_other_content_is_a_conflict(reporter: Reporter) -> None:
    assert reporter.send([one(1, source="/twice")]).status_code == 200
    reply = reporter.send([one(2, source="/twice"), one(1, source="/twice", data=9)])
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "event-id-reused")
    assert reply.json()["error"]["where"] == "[1]"


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({}, 422),
        ({"tenant": "nobody"}, 404),
        ({"tenant": "acme", "limit": 0}, 422),
        ({"tenant": "acme", "limit": 10_001}, 422),
        ({"tenant": "acme", "after": -1}, 422),
        ({"tenant": "acme", "after": "1e3"}, 422),
        ({"tenant": ["acme", "acme"]}, 422),
        ({"tenant": "acme", "order": "at"}, 422),
        ({"tenant": "acme", "after": 10**17}, 200),
    ],
)
def test_the_export_checks_what_is_asked(reporter: Reporter, query: dict[str, Any], status: int) -> None:
    assert reporter.read(**query).status_code == status
