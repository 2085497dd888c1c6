"""Keys, tenants and what is never told (RELIABILITY 29-36, 55)."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from faults.house import HTTP, PEPPER, PLANS, House, Running, ask, gateway
from faults.load import until
from feilun.accounts import keys, tenants
from feilun.serve.app import create_app, make_gateway
from feilun.serve.settings import GatewaySettings

SIGNED = "/v1/stripe/webhook"  # by its signature, not by a key; in this house there is no Stripe, so it is not found
PUBLIC = {"/healthz": 200, "/readyz": 200, SIGNED: 404}


@pytest.fixture(scope="module")
def app(house: House) -> FastAPI:
    return create_app(make_gateway(house.store, PEPPER, PLANS, GatewaySettings()))


def routes(app: FastAPI) -> set[tuple[str, str]]:
    """(method, path) of every route that the application has, however deep its routers are nested."""
    found: set[tuple[str, str]] = set()
    waiting: list[Any] = list(app.routes)
    while waiting:
        route = waiting.pop()
        inner = getattr(route, "original_router", route)
        waiting += getattr(inner, "routes", [])
        found |= {(method, route.path) for method in getattr(route, "methods", None) or ()}
    assert {path for _, path in found} == {*app.openapi()["paths"], "/openapi.json"}
    return found


def wrong_keys(house: House) -> dict[str, str]:
    expired = keys.create(house.database, PEPPER, "acme", days=0).token
    revoked = keys.create(house.database, PEPPER, "acme")
    keys.revoke(house.database, revoked.public_id)
    good = house.tokens["acme"]
    stranger = keys.create(house.database, b"another pepper, of thirty-two bytes", "acme").token
    test = keys.create(house.database, PEPPER, "acme", mode="test").token
    return {
        "none": "",
        "empty": "Bearer",
        "basic": f"Basic {good}",
        "twice": f"Bearer {good} {good}",
        "cut": f"Bearer {good[:-1]}",
        "wrong checksum": f"Bearer {good[:-8]}00000000",
        "another pepper": f"Bearer {stranger}",
        "expired": f"Bearer {expired}",
        "revoked": f"Bearer {revoked.token}",
        "test key on a live gateway": f"Bearer {test}",
        "sql (31)": "Bearer feilun_live_' OR 1=1 --_x_y",
        "ten kilobytes (31)": "Bearer " + "feilun_live_" * 850,
    }


def open_doors(app: FastAPI, house: House, running: Running) -> list[str]:
    """Private routes that answered a wrong key otherwise than with 401, and public ones that did not answer."""
    wrong = wrong_keys(house)
    found = []
    for method, path in sorted(routes(app)):
        if path in PUBLIC:
            found += [path] if HTTP.request(method, running.base + path).status_code != PUBLIC[path] else []
            continue
        for what, header in wrong.items():
            reply = HTTP.request(method, running.base + path, headers={"Authorization": header} if header else {})
            if reply.status_code != 401 or reply.headers["www-authenticate"] != "Bearer":
                found.append(f"{method} {path} with {what}: {reply.status_code}")
    return found


def test_every_route_refuses_every_wrong_key_case_29(app: FastAPI, house: House, running: Running) -> None:
    assert open_doors(app, house, running) == []


def test_the_same_check_catches_authorisation_by_path_prefix(app: FastAPI, house: House) -> None:
    with gateway(house, planted="authorise-by-prefix") as planted:
        assert any("/metrics with none" in door for door in open_doors(app, house, planted))


def test_every_route_refuses_a_key_without_its_scope_case_29(app: FastAPI, house: House, running: Running) -> None:
    made = {s: keys.create(house.database, PEPPER, "acme", scopes=[s]).token for s in keys.SCOPES}
    opens = {"/v1/classify": "classify", "/v1/models": "classify", "/openapi.json": "classify"}
    opens |= {"/v1/feedback": "feedback", "/v1/usage": "usage", "/metrics": "metrics", "/v1/admin/margin": "admin"}
    opens |= {"/v1/events": "events", "/v1/products": "products", "/v1/products/{name}": "products"}
    opens |= {"/v1/models/{model}": "classify", "/v1/releases": "classify", "/v1/releases/{name}": "classify"}
    opens |= dict.fromkeys(("/v1/chat/completions", "/v1/completions"), "generate")
    opens |= dict.fromkeys(("/v1/embeddings", "/v1/moderations"), "classify")
    opens |= dict.fromkeys(("/v1/tag", "/v1/rank", "/v1/extract", "/v1/score", "/v1/predict"), "classify")
    files = ("/v1/files", "/v1/batches", "/v1/fine_tuning/jobs")  # and all that is below them
    verbs = ("promote", "rollback", "canary", "shadow", "rollouts")
    opens |= {f"/v1/releases/{{name}}/{verb}": "admin" for verb in verbs}
    with httpx.Client(base_url=running.base, verify=False) as http:
        for method, path in routes(app):
            for scope, token in made.items():
                if path not in PUBLIC:
                    reply = http.request(method, path, headers={"Authorization": f"Bearer {token}"})
                    wanted = "files" if path.startswith(files) else opens[path]
                    assert (reply.status_code == 403) == (scope != wanted), (path, scope, reply.text)


def test_a_key_in_other_than_ascii_is_refused_case_31(running: Running) -> None:
    reply = HTTP.get(running.base + "/v1/models", headers=[(b"authorization", "Bearer feilun_ключ".encode())])
    assert reply.status_code == 401


def test_two_keys_in_one_request_are_refused(house: House, running: Running) -> None:
    good = f"Bearer {house.tokens['acme']}"
    reply = HTTP.get(running.base + "/v1/models", headers=[("authorization", good), ("authorization", good)])
    assert reply.status_code == 401


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "localhost:x", ""]
)
def test_a_forged_host_is_refused_everywhere_case_30(house: House, running: Running, host: str) -> None:
    for path in ("/healthz", "/v1/models", "/nowhere"):
        headers = {"Host": host, "Authorization": f"Bearer {house.tokens['acme']}"}
        reply = HTTP.get(running.base + path, headers=headers)
        assert reply.status_code == 400


def test_a_known_public_id_answers_like_an_unknown_one_case_32(house: House, running: Running) -> None:
    good = house.tokens["acme"]
    known = good.split("_")[2]
    forged = [keys._generate("live").token for _ in range(2)]
    body = f"feilun_live_{known}_{forged[0].split('_')[3]}"
    replies = [
        HTTP.get(running.base + "/v1/models", headers={"Authorization": f"Bearer {token}"})
        for token in (f"{body}_{keys._checksum(body)}", forged[1])
    ]
    assert {r.status_code for r in replies} == {401}
    assert replies[0].content == replies[1].content


@pytest.mark.parametrize("way", ["the key is revoked", "the tenant is stopped"])
def test_revocation_holds_in_every_worker_within_a_second_case_34(house: House, running: Running, way: str) -> None:
    tenant = f"leaver-{len(way)}"
    tenants.create(house.database, tenant, plan="metered")
    key = keys.create(house.database, PEPPER, tenant)

    def seen(worker: Running) -> int:
        headers = {"Authorization": f"Bearer {key.token}"}
        return HTTP.get(worker.base + "/v1/models", headers=headers).status_code

    with gateway(house) as second:
        assert [seen(running), seen(second)] == [200, 200]
        if way == "the key is revoked":
            keys.revoke(house.database, key.public_id)
        else:
            tenants.set_active(house.database, tenant, active=False)
        begun = time.monotonic()
        until(lambda: [seen(running), seen(second)] == [401, 401])
        assert time.monotonic() - begun < 1.0


def test_another_tenants_request_is_byte_for_byte_like_none_case_35(house: House, running: Running) -> None:
    theirs = ask(running, house.tenant("owner"), "good film", headers={"Idempotency-Key": "k"}).json()["id"]
    mine = {"Authorization": f"Bearer {house.tenant('stranger')}"}
    body = {"input": 0, "text": "good film", "label": "negative", "contributor": "x", "consent": ["learn"]}
    replies = [
        HTTP.post(running.base + "/v1/feedback", json=body | {"request": r}, headers=mine)
        for r in (theirs, "01ARZ3NDEKTSV4RRFFQ69G5FAV")
    ]
    assert [r.status_code for r in replies] == [404, 404]
    assert replies[0].content == replies[1].content
    without_date = [{k: v for k, v in r.headers.items() if k != "date"} for r in replies]
    assert without_date[0] == without_date[1]


@pytest.mark.parametrize(
    "field",
    ["tenant", "tenant_id", "role", "price", "release", "base_url", "chat_template", "cache_salt", "model_path"],
)
def test_fields_that_are_not_the_callers_to_set_are_refused_cases_36_37(
    house: House, running: Running, field: str
) -> None:
    reply = ask(running, house.tokens["acme"], **{field: "x"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (422, field)
    query = HTTP.get(f"{running.base}/v1/usage?{field}=x", headers={"Authorization": f"Bearer {house.tokens['acme']}"})
    assert query.status_code == 422


def test_nothing_that_was_sent_is_in_the_logs_or_the_errors_case_55(house: House, running: Running) -> None:
    secret = "jane.doe@example.com"
    token = house.tokens["acme"]
    for headers in ({}, {"Idempotency-Key": "jane-doe-key"}):
        assert ask(running, token, f"good {secret}", headers=headers).status_code == 200
    refused = [ask(running, token, ["x", ""], user=secret), ask(running, token + secret, "good")]
    refused.append(HTTP.get(f"{running.base}/v1/{secret}?q={secret}"))
    assert all(secret not in r.text for r in refused)
    log = running.log.read_text()
    assert "answered" in log
    for word in (secret, "jane-doe-key", token, token.split("_")[3], "Bearer"):
        assert word not in log
