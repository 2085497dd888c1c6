"""What is answered, once and for all: shapes, idempotency, usage, feedback."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from sqlalchemy import func, select

from faults.house import CONTEXT, HTTP, LABELS, PEPPER, House, Running, ask, gateway
from faults.load import broken_invariants
from feilun.accounts import keys
from feilun.store import tables


def entries(house: House, tenant: str) -> int:
    with house.database.read() as connection:
        query = select(func.count()).select_from(tables.usage).where(tables.usage.c.tenant == tenant)
        return int(connection.execute(query).scalar_one())


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def tenant(house: House, request: pytest.FixtureRequest) -> tuple[str, str]:
    """A tenant of the test's own: (name, token)."""
    name = f"t{abs(hash(request.node.nodeid)):x}"
    return name, house.tenant(name)


def test_an_answer_names_its_release_and_what_it_cost(house: House, running: Running) -> None:
    token = house.tenant("starters", plan="starter")
    reply = ask(running, token, ["good film", "bad plot !", "good film"])
    said = reply.json()
    assert said["model"] == f"reviews@{house.release.short}"
    assert said["release"] == house.release.digest
    assert [set(r["scores"]) for r in said["results"]] == [set(LABELS)] * 3
    assert all(r["scores"][r["label"]] == r["score"] == max(r["scores"].values()) for r in said["results"])
    assert said["results"][0] == said["results"][2]
    assert said["usage"] == {"inputs": 3, "tokens": 7, "amount_nano": 0, "currency": "USD"}
    costs = [ask(running, token).json()["usage"]["amount_nano"] for _ in range(5)]
    assert costs == [0, 0, 0, 0, 800_000]  # five requests a month are included


def test_same_key_same_body_is_the_same_bytes_and_one_entry_case_5(
    house: House, running: Running, tenant: tuple[str, str]
) -> None:
    first, again = (ask(running, tenant[1], headers={"Idempotency-Key": "one"}) for _ in range(2))
    assert (first.status_code, first.content) == (again.status_code, again.content)
    assert "idempotent-replay" not in first.headers
    assert again.headers["idempotent-replay"] == "true"
    assert entries(house, tenant[0]) == 1


def test_same_key_other_body_is_refused_case_6(house: House, running: Running, tenant: tuple[str, str]) -> None:
    ask(running, tenant[1], headers={"Idempotency-Key": "one"})
    reply = ask(running, tenant[1], "bad film", headers={"Idempotency-Key": "one"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "idempotency-key-reused")
    assert entries(house, tenant[0]) == 1


def fifty_at_once(running: Running, token: str) -> list[httpx.Response]:
    with ThreadPoolExecutor(50) as pool:
        return list(pool.map(lambda _: ask(running, token, headers={"Idempotency-Key": "one"}), range(50)))


def test_the_same_check_catches_deduplication_outside_the_transaction(house: House, tenant: tuple[str, str]) -> None:
    with gateway(house, planted="deduplicate-outside-the-transaction") as planted:
        fifty_at_once(planted, tenant[1])
    assert entries(house, tenant[0]) > 1


def test_the_same_key_fifty_times_at_once_is_one_inference_and_one_entry_case_7(
    house: House, running: Running, tenant: tuple[str, str]
) -> None:
    replies = fifty_at_once(running, tenant[1])
    answered = [r for r in replies if r.status_code == 200]
    assert {r.status_code for r in replies} <= {200, 409}
    assert all("retry-after" in r.headers for r in replies if r.status_code == 409)
    assert len({r.content for r in answered}) == 1
    assert sum("idempotent-replay" not in r.headers for r in answered) == 1
    assert entries(house, tenant[0]) == 1


def test_the_same_key_of_two_tenants_is_two_entries_case_8(house: House, running: Running) -> None:
    one, other = house.tenant("one"), house.tenant("other")
    first, second = (ask(running, token, headers={"Idempotency-Key": "same"}).json() for token in (one, other))
    assert first["id"] != second["id"]
    assert (entries(house, "one"), entries(house, "other")) == (1, 1)


def test_a_model_can_be_asked_for_by_its_release(house: House, running: Running, tenant: tuple[str, str]) -> None:
    assert ask(running, tenant[1], model=f"reviews@{house.release.short}").status_code == 200
    for missing in ("reviews@0123456789ab", "reviews@", "reviews@a", "films"):
        reply = ask(running, tenant[1], model=missing)
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model-not-found")
    assert entries(house, tenant[0]) == 1


def test_a_long_text_is_read_to_the_context_and_charged_for_that(running: Running, tenant: tuple[str, str]) -> None:
    assert ask(running, tenant[1], "good " * 500).json()["usage"]["tokens"] == CONTEXT


def test_the_official_client_lists_the_models(house: House, running: Running) -> None:
    with openai.OpenAI(api_key=house.tokens["acme"], base_url=running.base + "/v1") as client:
        (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("reviews", "model", "feilun")


def test_usage_is_what_the_ledger_says_of_the_caller_alone(
    house: House, running: Running, tenant: tuple[str, str]
) -> None:
    answers = [ask(running, tenant[1], "fine plot").json() | {"key": str(n)} for n in range(3)]
    said = HTTP.get(running.base + "/v1/usage", headers=bearer(tenant[1])).json()
    assert (said["requests"], said["inputs"], said["tokens"]) == (3, 3, 6)
    assert said["spent_nano"] == sum(a["usage"]["amount_nano"] for a in answers) == 3 * 1_000_020
    elsewhere = HTTP.get(running.base + "/v1/usage?period=2020-01", headers=bearer(tenant[1])).json()
    assert (elsewhere["period"], elsewhere["requests"], elsewhere["spent_nano"]) == ("2020-01", 0, 0)
    assert broken_invariants(house.database, answers, all_delivered=False) == []


def correction(answer: str, **changes: object) -> dict[str, object]:
    usual = {"request": answer, "input": 1, "text": "bad plot", "label": "negative", "contributor": "ann"}
    return usual | {"consent": ["learn"]} | changes


def test_feedback_is_kept_once_with_its_consent_and_its_release(
    house: House, running: Running, tenant: tuple[str, str]
) -> None:
    answer = ask(running, tenant[1], ["good film", "bad plot"]).json()
    for status in ("recorded", "known"):
        reply = HTTP.post(running.base + "/v1/feedback", json=correction(answer["id"]), headers=bearer(tenant[1]))
        assert (reply.status_code, reply.json()["data"][0]["status"]) == (200, status)
    with house.database.read() as connection:
        table = tables.feedback
        (row,) = connection.execute(select(table).where(table.c.tenant == tenant[0])).all()
        agreed = connection.execute(select(tables.consents).where(tables.consents.c.tenant == tenant[0])).all()
    assert (row.release, row.text, row.label) == (house.release.digest, "bad plot", "negative")
    assert row.answered == answer["results"][1]["label"]
    assert [(c.contributor, c.purpose, c.granted) for c in agreed] == [("ann", "learn", True)]


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"text": "bad plot."}, 422, "wrong-correction"),
        ({"label": "awful"}, 422, "wrong-correction"),
        ({"input": 2}, 422, "wrong-correction"),
        ({"consent": []}, 422, "invalid-request"),
        ({"consent": ["sell"]}, 422, "invalid-request"),
        ({"tenant": "globex"}, 422, "invalid-request"),
        ({"request": "01ARZ3NDEKTSV4RRFFQ69G5FAV"}, 404, "request-not-found"),
    ],
)
def test_feedback_that_does_not_fit_its_answer_is_refused_whole(
    house: House, running: Running, changes: dict[str, object], status: int, code: str
) -> None:
    token = house.tokens["acme"]
    answer = ask(running, token, ["good film", "bad plot"]).json()["id"]
    given = [correction(answer, input=0, text="good film"), correction(answer, **changes)]
    reply = HTTP.post(running.base + "/v1/feedback", json=given, headers=bearer(token))
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
    with house.database.read() as connection:
        table = tables.feedback
        assert connection.execute(select(table).where(table.c.request == answer)).all() == []


def test_a_second_opinion_on_the_same_input_is_a_conflict(running: Running, tenant: tuple[str, str]) -> None:
    answer = ask(running, tenant[1], ["good film", "bad plot"]).json()["id"]
    codes = [
        HTTP.post(
            running.base + "/v1/feedback", json=correction(answer, label=label), headers=bearer(tenant[1])
        ).status_code
        for label in ("negative", "positive")
    ]
    assert codes == [200, 409]


def test_metrics_count_and_name_nobody(house: House, running: Running, tenant: tuple[str, str]) -> None:
    ask(running, tenant[1], "sharp ending")
    token = keys.create(house.database, PEPPER, "acme", scopes=["metrics"]).token
    text = HTTP.get(running.base + "/metrics", headers=bearer(token)).text
    assert 'feilun_requests_total{route="/v1/classify",status="200"}' in text
    assert f'release="{house.release.digest}"' in text
    assert tenant[0] not in text
    assert "acme" not in text


def test_the_document_describes_every_route_and_its_body(house: House, running: Running) -> None:
    said = HTTP.get(running.base + "/openapi.json", headers=bearer(house.tokens["acme"])).json()
    assert sorted(said["paths"]) == [
        "/healthz",
        "/metrics",
        "/readyz",
        "/v1/admin/margin",
        "/v1/batches",
        "/v1/batches/{batch}",
        "/v1/batches/{batch}/cancel",
        "/v1/chat/completions",
        "/v1/classify",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/events",
        "/v1/extract",
        "/v1/feedback",
        "/v1/files",
        "/v1/files/{file}",
        "/v1/files/{file}/content",
        "/v1/fine_tuning/jobs",
        "/v1/fine_tuning/jobs/{job}",
        "/v1/fine_tuning/jobs/{job}/cancel",
        "/v1/fine_tuning/jobs/{job}/checkpoints",
        "/v1/fine_tuning/jobs/{job}/events",
        "/v1/models",
        "/v1/models/{model}",
        "/v1/moderations",
        "/v1/predict",
        "/v1/products",
        "/v1/products/{name}",
        "/v1/rank",
        "/v1/releases",
        "/v1/releases/{name}",
        "/v1/releases/{name}/canary",
        "/v1/releases/{name}/promote",
        "/v1/releases/{name}/rollback",
        "/v1/releases/{name}/rollouts",
        "/v1/releases/{name}/shadow",
        "/v1/score",
        "/v1/stripe/webhook",
        "/v1/tag",
        "/v1/usage",
    ]
    body = said["paths"]["/v1/classify"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["model", "input"]
    assert "$ref" not in json.dumps(said["paths"]["/v1/feedback"])
    assert said["paths"]["/v1/classify"]["post"]["security"]
    assert "security" not in said["paths"]["/healthz"]["get"]
