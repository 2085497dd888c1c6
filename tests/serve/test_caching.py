"""Answers that are given again: only to who asks for it, never to another tenant, at a price of their own (33, 56)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from starlette.requests import Request

from faults.house import HTTP, House, Running, ask, gateway, make_release, open_house
from faults.load import broken_invariants, until
from feilun.serve.caching import MOST_S, Cache, Kept, seconds_of
from feilun.store import releases, tables
from feilun.store.counts import Counts

FRESH = {"Cache-Control": "max-age=600"}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("caching")
    with open_house(f"sqlite:///{folder}/feilun.db", folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def running(house: House) -> Iterator[Running]:
    with gateway(house) as started:
        yield started


def is_kept(reply: httpx.Response) -> bool:
    assert reply.status_code == 200, reply.text
    return reply.headers.get("x-cache") == "hit"


def usage(running: Running, token: str) -> dict[str, Any]:
    found: dict[str, Any] = HTTP.get(running.base + "/v1/usage", headers={"Authorization": f"Bearer {token}"}).json()
    return found


def test_a_kept_answer_is_the_same_answer_with_its_own_id_and_charge(house: House, running: Running) -> None:
    token = house.tenant("again")
    plain = [ask(running, token, ["good film", "bad plot"]) for _ in range(2)]
    assert [is_kept(reply) for reply in plain] == [False, False]  # nobody asked for it
    first, second = (ask(running, token, ["good film", "bad plot"], headers=FRESH) for _ in range(2))
    assert [is_kept(first), is_kept(second)] == [False, True]
    assert first.json()["results"] == second.json()["results"] == plain[0].json()["results"]
    assert second.json()["usage"] == first.json()["usage"] | {"cached": True}
    assert len({reply.json()["id"] for reply in (*plain, first, second)}) == 4
    assert not is_kept(ask(running, token, ["good film", "bad plot"], headers={"Cache-Control": "no-store"}))
    assert not is_kept(ask(running, token, ["good film"], headers=FRESH))
    said = usage(running, token)
    assert (said["requests"], said["cached_requests"], said["cached_tokens"]) == (6, 1, 4)
    with house.database.read() as connection:
        table = tables.usage
        row = connection.execute(select(table).where(table.c.request == second.json()["id"])).one()
    assert (row.compute_ns, row.release) == (0, house.release.digest)
    assert row.amount_nano == second.json()["usage"]["amount_nano"] == first.json()["usage"]["amount_nano"]


def test_a_kept_answer_replays_by_its_key_and_takes_corrections(house: House, running: Running) -> None:
    token = house.tenant("correcting")
    ask(running, token, "fine ending", headers=FRESH)
    kept = ask(running, token, "fine ending", headers=FRESH | {"Idempotency-Key": "k"})
    again = ask(running, token, "fine ending", headers=FRESH | {"Idempotency-Key": "k"})
    assert is_kept(kept)
    assert (again.content, again.headers["idempotent-replay"]) == (kept.content, "true")
    correction = {"request": kept.json()["id"], "text": "fine ending", "label": "positive", "contributor": "ann"}
    reply = HTTP.post(
        running.base + "/v1/feedback",
        json=correction | {"consent": ["learn"]},
        headers={"Authorization": f"Bearer {token}"},
    )
    assert reply.json()["data"][0]["status"] == "recorded"


def test_nothing_is_kept_across_tenants_whatever_they_send_case_56(house: House, running: Running) -> None:
    one, other = house.tenant("one"), house.tenant("other")
    assert not is_kept(ask(running, one, "dull film", headers=FRESH))
    assert is_kept(ask(running, one, "dull film", headers=FRESH))
    assert not is_kept(ask(running, other, "dull film", headers=FRESH))
    for salt in ({"X-Cache-Salt": "s"}, {"X-Cache": "hit"}, {"Vary": "*"}):
        assert is_kept(ask(running, other, "dull film", headers=FRESH | salt))  # its own by now, and salts say nothing
    refused = ask(running, one, "dull film", headers=FRESH, cache_salt="s")
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "cache_salt")


def test_another_release_answers_anew(house: House, running: Running) -> None:
    token, other = house.tenant("swapped"), make_release(house.store, house.folder, 2)
    for expected in (False, True):
        assert is_kept(ask(running, token, "slow film", headers=FRESH)) == expected
    releases.promote(house.database, "reviews", other.digest, expected_version=1, reason="other")
    until(lambda: ask(running, token, "slow film").json()["release"] == other.digest)
    assert not is_kept(ask(running, token, "slow film", headers=FRESH))
    releases.rollback(house.database, "reviews")


def test_a_plan_can_keep_answers_without_being_asked_and_price_them(house: House, running: Running) -> None:
    token = house.tenant("cheap", plan="kept")
    first, second = (ask(running, token, "good film") for _ in range(2))
    assert [is_kept(first), is_kept(second)] == [False, True]
    assert [reply.json()["usage"]["amount_nano"] for reply in (first, second)] == [1_000_000, 100_000]
    assert not is_kept(ask(running, token, "good film", headers={"Cache-Control": "no-cache"}))
    assert usage(running, token)["spent_nano"] == 2_100_000
    assert broken_invariants(house.database, [], all_delivered=False) == []


def asking(header: str) -> Request:
    return Request({"type": "http", "headers": [(b"cache-control", header.encode())] if header else []})


def test_how_old_an_answer_may_be_is_said_as_http_says_it() -> None:
    said = {"": 7, "max-age=600": 600, "MAX-AGE=5, no-transform": 5, "no-store": 0, "no-cache, max-age=9": 0}
    said |= {"max-age=0": 0, "max-age=-1": 7, "max-age=999999999": MOST_S, "max-age=9,max-age=3": 3, "min-fresh=4": 7}
    assert {header: seconds_of(asking(header), 7) for header in said} == said


def test_the_cache_is_bounded_and_who_has_most_in_it_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, now = Cache(10_000), 1_000.0
    monkeypatch.setattr("feilun.serve.caching.time.monotonic", lambda: now)

    def keep(tenant: str, name: str, size: int = 1_000) -> bytes:
        key = cache.key(tenant, "release", name)
        cache.keep(tenant, key, Kept("id", b"x" * (size - 512), Counts(1), "", now))
        return key

    few = [keep("few", f"{n}") for n in range(3)]
    many = [keep("many", f"{n}") for n in range(50)]
    assert cache.size <= 10_000
    assert all(cache.find("few", key, 60) for key in few)
    assert [cache.find("many", key, 60) is not None for key in many] == [False] * 43 + [True] * 7
    assert cache.find("few", keep("few", "large", 5_000), 60) is None
    now += 60
    assert cache.find("few", few[0], 60) is None
    assert cache.find("few", few[0], 61) is not None
    now += MOST_S
    assert cache.find("few", few[0], MOST_S) is None
    assert cache.find("few", few[0], 10**9) is None  # it is gone


def test_a_key_of_the_cache_is_this_processs_own_case_33() -> None:
    one, other = Cache(1), Cache(1)
    assert one.key("a", "r", "b") == one.key("a", "r", "b") != other.key("a", "r", "b")
    assert (
        len({one.key(*said) for said in (("a", "r", "bc"), ("a", "rb", "c"), ("ar", "", "bc"), ("a", "r", "b"))}) == 4
    )
