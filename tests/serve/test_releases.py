"""Which release answers under which name: canaries, shadows, digests, tenants' own, fallbacks, memory (35, 38, 39)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from faults.house import HTTP, PEPPER, House, Running, ask, damage, gateway, make_release, open_house
from faults.load import Clients, broken_invariants, until
from feilun.accounts import keys
from feilun.pipeline.kinds import Release
from feilun.store import releases, rollouts


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A house of its own, with two releases of ``reviews``, the first of which is promoted."""
    folder = tmp_path_factory.mktemp("releases")
    with open_house(f"sqlite:///{folder}/feilun.db", folder) as opened:
        opened.tokens["admin"] = keys.create(opened.database, PEPPER, "acme", scopes=["classify", "admin"]).token
        opened.tenant("globex")
        yield opened


@pytest.fixture(scope="module")
def second(house: House) -> Release:
    return make_release(house.store, house.folder, 2)


@pytest.fixture(scope="module")
def running(house: House) -> Iterator[Running]:
    with gateway(house) as started:
        yield started


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def change(running: Running, house: House, path: str, **body: Any) -> httpx.Response:
    return HTTP.post(f"{running.base}/v1/releases/{path}", json=body, headers=bearer(house.tokens["admin"]))


def answered(running: Running, token: str, model: str = "reviews", **more: Any) -> str:
    reply = ask(running, token, model=model, **more)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["release"])


def listed(running: Running, token: str) -> dict[str, dict[str, Any]]:
    said = HTTP.get(running.base + "/v1/releases", headers=bearer(token)).json()
    return {row["release"]: row for row in said["data"]}


def test_a_release_is_asked_by_its_digest_and_loaded_for_it(house: House, running: Running, second: Release) -> None:
    token = house.tokens["globex"]
    assert not listed(running, token)[second.digest]["loaded"]
    assert answered(running, token, f"reviews@{second.digest[:8]}") == second.digest
    assert answered(running, token, f"reviews@{second.digest}") == second.digest
    assert answered(running, token) == house.release.digest
    assert listed(running, token)[second.digest]["loaded"]
    for wrong in (f"films@{second.digest}", f"reviews@{second.digest[:7]}", "reviews@" + "g" * 12, "reviews@%_______"):
        reply = ask(running, token, model=wrong)
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model-not-found")


def test_promoting_rolling_back_and_sending_it_again(house: House, running: Running, second: Release) -> None:
    token = house.tokens["globex"]
    now = HTTP.get(running.base + "/v1/releases/reviews", headers=bearer(token)).json()["version"]
    for _ in range(2):  # the same request twice is one promotion
        reply = change(running, house, "reviews/promote", release=second.digest, expected_version=now, reason="better")
        assert (reply.status_code, reply.json()["version"]) == (200, now + 1)
    assert answered(running, token) == second.digest
    late = change(running, house, "reviews/promote", release=house.release.digest, expected_version=now)
    assert late.status_code == 409
    assert change(running, house, "reviews/rollback").json()["release"] == house.release.digest
    assert answered(running, token) == house.release.digest
    told = HTTP.get(running.base + "/v1/releases/reviews", headers=bearer(token)).json()
    assert [(row["release"], row["reason"]) for row in told["data"][-2:]] == [
        (second.digest, "better"),
        (house.release.digest, "rolled back over HTTP"),
    ]
    refused = HTTP.post(f"{running.base}/v1/releases/reviews/rollback", json={}, headers=bearer(token))
    assert refused.status_code == 403


def test_a_canary_answers_its_share_each_tenant_one_way_and_every_gateway_follows_within_a_second(
    house: House, running: Running, second: Release
) -> None:
    tokens = [house.tenant(f"customer-{n}") for n in range(12)]
    with gateway(house) as other:
        assert (
            answered(other, tokens[0], f"reviews@{second.digest}") == second.digest
        )  # what loading takes is no matter
        reply = change(running, house, "reviews/canary", release=second.digest[:12], share=0.5)
        begun = time.monotonic()
        assert (reply.status_code, reply.json()["share"], reply.json()["sticky"]) == (200, 0.5, "tenant")
        rollout = rollouts.find(house.database, "canary", "reviews")
        assert rollout is not None
        chosen = next(n for n in range(12) if rollout.takes(f"customer-{n}", ""))
        until(lambda: answered(other, tokens[chosen]) == second.digest)
        assert time.monotonic() - begun < 1.5  # a second, and what this machine is busy with beside
        seen = [answered(running, token) for token in tokens]
        assert set(seen) == {house.release.digest, second.digest}
        assert [answered(other, token) for token in tokens] == seen
    assert [answered(running, token) for token in tokens] == seen
    assert answered(running, tokens[0], "reviews:canary") == second.digest
    names = {
        m["id"]: m["release"] for m in HTTP.get(running.base + "/v1/models", headers=bearer(tokens[0])).json()["data"]
    }
    assert names == {"reviews": house.release.digest, "reviews:canary": second.digest}
    assert change(running, house, "reviews/canary", release=None).json()["release"] is None
    assert {answered(running, token) for token in tokens} == {house.release.digest}
    gone = ask(running, tokens[0], model="reviews:canary")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "model-not-found")


def test_a_canary_for_named_tenants_answers_them_alone(house: House, running: Running, second: Release) -> None:
    mine, other = house.tokens["globex"], house.tokens["acme"]
    assert change(running, house, "reviews/canary", release=second.digest, tenants=["globex"]).status_code == 200
    assert (answered(running, mine), answered(running, other)) == (second.digest, house.release.digest)
    assert ask(running, other, model="reviews:canary").status_code == 404
    assert answered(running, mine, f"reviews@{house.release.digest[:12]}") == house.release.digest
    by_request = {"share": 0.5, "by": "request", "tenants": []}
    assert change(running, house, "reviews/canary", release=second.digest, **by_request).status_code == 200
    assert {answered(running, other) for _ in range(20)} == {house.release.digest, second.digest}
    key = {"Idempotency-Key": "the-same-request"}
    assert len({answered(running, other, headers=key) for _ in range(3)}) == 1
    assert change(running, house, "reviews/canary", release=None).status_code == 200


def test_a_shadow_is_asked_beside_and_charged_to_nobody(house: House, running: Running, second: Release) -> None:
    token, texts = house.tenant("watched"), [f"{word} film" for word in ("good", "bad", "dull", "bright", "slow")]
    assert change(running, house, "reviews/shadow", release=second.digest, share=1.0).status_code == 200
    own = [ask(running, token, text).json() for text in texts]
    until(lambda: sum(a.compared for a in rollouts.agreements(house.database, "reviews")) == len(texts))
    change(running, house, "reviews/shadow", release=None)
    theirs = [ask(running, token, text, model=f"reviews@{second.digest}").json() for text in texts]
    (found,) = rollouts.agreements(house.database, "reviews")
    same = sum(a["results"][0]["label"] == b["results"][0]["label"] for a, b in zip(own, theirs, strict=True))
    assert (found.release, found.shadow, found.agreed) == (house.release.digest, second.digest, same)
    assert (found.failed, found.dropped) == (0, 0)
    assert 0 < found.furthest <= 1
    assert {a["release"] for a in own} == {house.release.digest}
    said = HTTP.get(running.base + "/v1/usage", headers=bearer(token)).json()
    assert said["requests"] == 2 * len(texts)
    assert broken_invariants(house.database, []) == [
        p for p in broken_invariants(house.database, []) if p.startswith("I2")
    ]
    told = HTTP.get(running.base + "/v1/releases/reviews/rollouts", headers=bearer(house.tokens["admin"])).json()
    assert told["agreements"][0]["agreed"] == same


def test_a_tenants_own_model_is_byte_for_byte_like_none_to_others_case_35(house: House, running: Running) -> None:
    private = make_release(house.store, house.folder, 3, "own-words", tenant="acme")
    releases.promote(house.database, "own-words", private.digest, expected_version=0, reason="first")
    until(lambda: ask(running, house.tokens["acme"], model="own-words").status_code == 200)
    names = ("own-words", f"own-words@{private.digest}", f"own-words@{private.digest[:12]}", "own-words:canary")
    for path, mine in (("/v1/models", "id"), ("/v1/releases", "name")):
        told = [HTTP.get(running.base + path, headers=bearer(house.tokens[who])) for who in ("acme", "globex")]
        assert [any(row[mine] == "own-words" for row in t.json()["data"]) for t in told] == [True, False]
        assert b"own-words" not in told[1].content
    stranger = house.tokens["globex"]
    for name in names:
        nothing = name.replace("own-words", "own-wordz")
        for send in (
            lambda model: ask(running, stranger, model=model),
            lambda model: HTTP.get(f"{running.base}/v1/models/{model}", headers=bearer(stranger)),
            lambda model: HTTP.get(f"{running.base}/v1/releases/{model}", headers=bearer(stranger)),
        ):
            theirs, none = send(name), send(nothing)
            assert (theirs.status_code, theirs.content) == (404, none.content)
    assert (
        HTTP.get(f"{running.base}/v1/models/own-words", headers=bearer(house.tokens["acme"])).json()["owned_by"]
        == "acme"
    )


def test_the_official_client_asks_for_a_model(house: House, running: Running) -> None:
    with openai.OpenAI(api_key=house.tokens["globex"], base_url=running.base + "/v1") as client:
        assert client.models.retrieve("reviews").id == "reviews"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("nothing")


def test_a_load_that_fails_is_refused_told_and_changes_nothing_case_39(house: House, running: Running) -> None:
    """Over HTTP the load answers 4xx; promoted past it, the old release serves on, and says so."""
    bad = make_release(house.store, house.folder, 10)
    damage(house.store.get(bad.parents[0]).path / "model.bin")
    reply = change(running, house, "reviews/promote", release=bad.digest)
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "release-not-loaded")
    for kind in ("canary", "shadow"):
        assert change(running, house, f"reviews/{kind}", release=bad.digest, share=0.5).status_code == 409
    now = releases.pointer(house.database, "reviews")
    assert now.release == house.release.digest
    assert "warnings" not in HTTP.get(running.base + "/readyz").json()
    releases.promote(house.database, "reviews", bad.digest, expected_version=now.version, reason="past the gateway")
    until(lambda: "warnings" in HTTP.get(running.base + "/readyz").json())
    assert HTTP.get(running.base + "/readyz").status_code == 200
    row = listed(running, house.tokens["globex"])[bad.digest]
    assert (row["serves"], row["loaded"]) == (["champion"], False)
    assert "was changed" in row["failure"]
    assert answered(running, house.tokens["globex"]) == house.release.digest
    refused = ask(running, house.tokens["globex"], model=f"reviews@{bad.digest}")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    releases.rollback(house.database, "reviews")
    until(lambda: "warnings" not in HTTP.get(running.base + "/readyz").json())


def test_a_retired_release_answers_no_more(house: House, running: Running) -> None:
    old = make_release(house.store, house.folder, 4)
    assert answered(running, house.tokens["globex"], f"reviews@{old.digest}") == old.digest
    releases.retire(house.database, "reviews", old.digest)
    until(lambda: ask(running, house.tokens["globex"], model=f"reviews@{old.digest}").status_code == 404)


def test_where_an_engine_fails_or_is_not_there_the_next_release_answers_and_says_so(
    house: House, running: Running
) -> None:
    """A real engine that fails at one word; one whose weights are damaged."""
    token = house.tenant("careful")
    brittle = make_release(house.store, house.folder, 5, "brittle", fallback=("nothing", "reviews"), fragile=True)
    releases.promote(house.database, "brittle", brittle.digest, expected_version=0, reason="first")
    until(lambda: ask(running, token, "good film good film", model="brittle").status_code == 200)
    whole = ask(running, token, "good bad good bad", model="brittle").json()
    assert whole["release"] == brittle.digest
    instead = ask(running, token, "this film", model="brittle", headers={"Idempotency-Key": "k"})
    assert instead.json()["model"] == f"reviews@{house.release.short}"
    again = ask(running, token, "this film", model="brittle", headers={"Idempotency-Key": "k"})
    assert (again.content, again.headers["idempotent-replay"]) == (instead.content, "true")
    assert "engine-failed" in running.log.read_text()
    worse = make_release(house.store, house.folder, 6, "missing", fallback=("reviews",))
    damage(house.store.get(worse.parents[0]).path / "model.bin")
    releases.promote(house.database, "missing", worse.digest, expected_version=0, reason="first")
    until(lambda: ask(running, token, model="missing").status_code == 200)
    assert ask(running, token, model="missing").json()["release"] == house.release.digest
    alone = make_release(house.store, house.folder, 7, "alone", fragile=True)
    releases.promote(house.database, "alone", alone.digest, expected_version=0, reason="first")
    until(lambda: ask(running, token, "good film good film", model="alone").status_code == 200)
    assert ask(running, token, "this film", model="alone").status_code == 500


def test_releases_that_do_not_fit_together_take_turns_and_none_answers_for_another_case_38(
    new_url: Callable[[str], str], tmp_path: Path
) -> None:
    """Three models where memory is for one: each request gets its own, the sum stays within, nothing is refused."""
    with open_house(new_url("sqlite"), tmp_path) as house:
        made = {"reviews": house.release} | {
            f"model-{n}": make_release(house.store, tmp_path, 20 + n, f"model-{n}") for n in range(2)
        }
        for name, release in list(made.items())[1:]:
            releases.promote(house.database, name, release.digest, expected_version=0, reason="first")
        size = sum(f.stat().st_size for f in house.store.get(house.release.parents[0]).path.iterdir())
        with gateway(house, memory_mb=1.5 * size / 10**6) as running:
            token = house.tokens["acme"]
            for _ in range(2):
                for name, release in made.items():
                    assert answered(running, token, name) == release.digest
            until(lambda: sum(row["loaded"] for row in listed(running, token).values()) == 1)


def test_a_slow_load_keeps_nobody_waiting(new_url: Callable[[str], str], tmp_path: Path) -> None:
    """While releases are loaded one after the other, requests to what is loaded are answered as fast as ever."""
    with open_house(new_url("sqlite"), tmp_path) as house, gateway(house) as running:
        many = [make_release(house.store, tmp_path, 30 + n) for n in range(6)]
        clients = Clients([running.base], [house.tokens["acme"]])
        with clients.at_work(2, seed=3):
            for release in many:
                assert answered(running, house.tokens["acme"], f"reviews@{release.digest}") == release.digest
        assert (clients.lost, dict(clients.refused)) == (0, {})
        assert clients.slowest < 2.0
        loaded = [json.loads(line) for line in running.log.read_text().splitlines() if "release-loaded" in line]
        assert {line["release"] for line in loaded} >= {release.digest for release in many}
