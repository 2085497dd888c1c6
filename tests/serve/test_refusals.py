"""What a refusal says: what is wrong, where, and what to send instead."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from faults.house import HTTP, House, Running, ask
from feilun.bill import invoices
from feilun.bill.settings import BillSettings
from feilun.errors import ConflictError
from feilun.serve import bodies, questions
from feilun.serve.problems import RequestError

CORRECTION = {"request": "r", "text": "bad plot", "label": "negative", "contributor": "ann", "consent": ["learn"]}
TEXT = {"maxLength": bodies.MOST_CHARACTERS, "minLength": 1, "type": "string"}


def bearer(house: House) -> dict[str, str]:
    return {"Authorization": f"Bearer {house.tokens['acme']}"}


def refused(value: Any, shape: Any = questions.PAIRS) -> RequestError:
    with pytest.raises(RequestError) as caught:
        bodies.validate(value, shape)
    return caught.value


@pytest.mark.parametrize(
    ("given", "where", "what"),
    [
        ([], "input", "List should have at least 1 item after validation, not 0"),
        ([""], "input.0", "String should have at least 1 character"),
        ("", "input", "String should have at least 1 character"),
        (["x", 7], "input.1", "Input should be a valid string"),
        ([["x"]], "input.0", "Input should be a valid string"),
        (7, "input", "Input should be a string or a list of strings"),
        (None, "input", "Input should be a string or a list of strings"),
        ("a \0 NUL", "input", "Value error, the text has a NUL or half of a surrogate pair"),
        ("x" * 20_001, "input", "String should have at most 20000 characters"),
    ],
)
def test_a_wrong_input_is_named_as_it_was_sent(given: object, where: str, what: str) -> None:
    error = refused({"model": "reviews", "input": given})
    assert (error.where, error.what) == (where, what)


def test_an_empty_input_is_refused_plainly_over_http(house: House, running: Running) -> None:
    for given, param in (([], "input"), ([""], "input.0"), ("", "input")):
        reply = ask(running, house.tokens["acme"], given)
        assert (reply.status_code, reply.json()["error"]["param"]) == (422, param)


def test_one_text_and_many_are_both_lists_within() -> None:
    for given in ("good", ["good"]):
        assert bodies.validate({"model": "reviews", "input": given}, questions.PAIRS).texts == ["good"]


def test_the_document_says_a_string_or_a_list_of_them() -> None:
    many = {"items": TEXT, "maxItems": bodies.MOST_INPUTS, "minItems": 1, "type": "array"}
    assert questions.PAIRS.json_schema()["properties"]["input"]["anyOf"] == [TEXT, many]


@pytest.mark.parametrize("given", [True, "learn", [], ["sell"], ["learn", "learn"], ["share"], None])
def test_consent_of_another_kind_hints_what_consent_is(given: object) -> None:
    one = CORRECTION | {"consent": given}
    assert refused(one, bodies.CORRECTION).hint == 'consent is ["learn"] or ["learn", "share"]'
    many = refused([CORRECTION, one], bodies.CORRECTIONS)
    assert many.hint == 'consent is ["learn"] or ["learn", "share"]'
    assert (many.where or "").startswith("1.consent")


def test_further_mistakes_are_counted() -> None:
    assert refused({"model": "reviews"}).what == "Field required"
    assert refused({"model": "", "input": ["", 7]}).what == "String should have at least 1 character (and 2 more)"


def test_a_long_name_of_an_unknown_field_is_not_repeated_whole() -> None:
    good = {"model": "reviews", "input": "x"}
    assert refused(good | {"n" * 64: 1}).where == "n" * 64
    error = refused(good | {"n" * 65: 1})
    assert (error.where, error.hint) == ("n" * 64 + "...", "unknown fields are refused")
    assert refused(good | {"consent": 1}).hint == "unknown fields are refused"


def test_a_second_opinion_is_told_that_the_first_stands(house: House, running: Running) -> None:
    answer = ask(running, house.tokens["acme"], "bad plot").json()["id"]
    replies = [
        HTTP.post(
            running.base + "/v1/feedback",
            json=CORRECTION | {"request": answer, "label": label},
            headers=bearer(house),
        )
        for label in ("negative", "positive")
    ]
    assert [r.status_code for r in replies] == [200, 409]
    error = replies[1].json()["error"]
    assert error["code"] == "corrected-before"
    assert error["hint"] == "the first correction of an input stands; nothing of this call was recorded"


def test_an_unknown_model_is_answered_with_the_known_ones(house: House, running: Running) -> None:
    reply = ask(running, house.tokens["acme"], model="films")
    assert (reply.status_code, reply.json()["error"]["hint"]) == (404, "models: reviews; see GET /v1/models")


@pytest.mark.parametrize(("path", "status"), [("/v1/none", 404), ("/v1/classify", 405)])
def test_what_is_not_there_says_that_the_document_needs_a_key(running: Running, path: str, status: int) -> None:
    reply = HTTP.get(running.base + path)
    assert reply.status_code == status
    assert reply.json()["error"]["hint"] == "GET /openapi.json, with a key, lists the routes"


def test_a_parameter_given_twice_is_refused(house: House, running: Running) -> None:
    for query in ("period=2026-11&period=2026-12", "period=2026-11&period=2026-11"):
        reply = HTTP.get(f"{running.base}/v1/usage?{query}", headers=bearer(house))
        assert (reply.status_code, reply.json()["error"]["param"]) == (422, "period")


def test_closing_a_month_that_still_runs_hints_the_command(house: House) -> None:
    settings = BillSettings.model_validate(
        json.loads('{"core_hour": "0.05 USD", "plans": {"metered": {"overage": {"requests": "0.001 USD"}}}}')
    )
    house.tenant("billed")
    with pytest.raises(ConflictError, match="still runs") as caught:
        invoices.close(house.database, "billed", f"{datetime.now(UTC):%Y-%m}", settings)
    assert (caught.value.hint or "").endswith(": feilun bill --close --now")
