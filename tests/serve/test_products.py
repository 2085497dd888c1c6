"""Data products over a real gateway: corrections with consent become rows that are paid for, until one withdraws."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from faults.house import HTTP, PEPPER, House, Running, ask, gateway, open_house
from feilun.accounts import keys, tenants
from feilun.bill.products import build
from feilun.bill.products_settings import ProductSettings
from feilun.store import audit, consents

SETTINGS = ProductSettings(source="feedback", licence="consent to share", least=3)
PRICE = 4 * 2_000_000 + 10**9


@dataclass
class Market:
    """A house whose customers' corrections are for sale, and a buyer with a key."""

    house: House
    running: Running
    token: str

    def get(self, path: str, token: str | None = None, **headers: str) -> httpx.Response:
        bearer = {"Authorization": f"Bearer {token or self.token}"}
        return HTTP.get(self.running.base + path, headers=bearer | headers)

    def buyer(self, name: str, **more: Any) -> str:
        tenants.create(self.house.database, name, plan="rows", **more)
        return keys.create(self.house.database, PEPPER, name, scopes=["products"]).token

    def spent(self, tenant: str) -> int:
        key = keys.create(self.house.database, PEPPER, tenant).token
        return int(self.get("/v1/usage", key).json()["spent_nano"])


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    folder: Path = tmp_path_factory.mktemp("market")
    with open_house(f"sqlite:///{folder}/feilun.db", folder) as house, gateway(house) as running:
        token = house.tokens["acme"]
        texts = ["=good film", "bad plot", "good ending", "dull film", "private words"]
        answer = ask(running, token, texts).json()["id"]
        corrections = [
            {"request": answer, "input": i, "text": text, "label": "neutral", "contributor": f"person-{i}"}
            | {"consent": ["learn", "share"] if i < 4 else ["learn"]}
            for i, text in enumerate(texts)
        ]
        sent = HTTP.post(running.base + "/v1/feedback", json=corrections, headers={"Authorization": f"Bearer {token}"})
        assert sent.status_code == 200, sent.text
        build(house.store, "reviews", SETTINGS, None, PEPPER)
        made = Market(house, running, "")
        made.token = made.buyer("shop")
        yield made


def test_products_are_listed_with_what_they_would_cost_this_customer(market: Market) -> None:
    (listed,) = market.get("/v1/products").json()["data"]
    assert (listed["id"], listed["rows"], listed["licence"]) == ("reviews", 4, "consent to share")
    assert (listed["amount_nano"], listed["currency"]) == (PRICE, "USD")
    assert set(listed["columns"]) == {"label", "rare", "text"}


def test_a_product_is_no_model(market: Market) -> None:
    models = market.get("/v1/models", market.house.tokens["acme"]).json()["data"]
    assert [model["id"] for model in models] == ["reviews"]
    assert "release-not-loaded" not in market.running.log.read_text()


def test_rows_are_charged_before_they_are_given_and_a_repetition_is_free(market: Market) -> None:
    token = market.buyer("twice")
    first = market.get("/v1/products/reviews", token, **{"Idempotency-Key": "one"})
    again = market.get("/v1/products/reviews", token, **{"Idempotency-Key": "one"})
    assert (first.status_code, first.headers["content-type"]) == (200, "application/x-ndjson")
    rows = [json.loads(line) for line in first.text.splitlines()]
    assert {row["text"] for row in rows} == {"=good film", "bad plot", "good ending", "dull film"}
    assert "person-" not in first.text and "private words" not in first.text
    assert again.content == first.content and again.headers["Idempotent-Replay"] == "true"
    assert "Idempotent-Replay" not in first.headers
    receipt = json.loads(first.headers["X-Receipt"])
    assert receipt["usage"] == {"amount_nano": PRICE, "currency": "USD", "downloads": 1, "requests": 1, "rows": 4}
    assert market.spent("twice") == PRICE
    with market.house.database.read() as connection:
        assert audit.verify(connection, "twice") == []


def test_csv_has_neutral_cells_case_53(market: Market) -> None:
    reply = market.get("/v1/products/reviews?format=csv", market.buyer("sheets"))
    assert reply.headers["content-type"].startswith("text/csv")
    assert reply.headers["content-disposition"].startswith('attachment; filename="reviews-')
    table = list(csv.DictReader(io.StringIO(reply.text, newline="")))
    assert sorted(row["text"] for row in table) == ["'=good film", "bad plot", "dull film", "good ending"]


@pytest.mark.parametrize(
    ("path", "headers", "status", "code"),
    [
        ("/v1/products/review", {}, 404, "no-product"),
        ("/v1/products/..%2freviews", {}, 404, None),
        ("/v1/products/" + "x" * 3_000, {}, 404, "no-product"),
        ("/v1/products/%00", {}, 404, "no-product"),
        ("/v1/products/reviews%25", {}, 404, "no-product"),
        ("/v1/products/reviews?format=xlsx", {}, 422, "invalid-request"),
        ("/v1/products/reviews?format=csv&format=csv", {}, 422, "invalid-request"),
        ("/v1/products/reviews?tenant=acme", {}, 422, "invalid-request"),
        ("/v1/products?format=csv", {}, 422, "invalid-request"),
        ("/v1/products/reviews", {"Idempotency-Key": "server:mine"}, 422, "invalid-request"),
    ],
)
def test_what_cannot_be_bought_is_refused_and_charged_to_nobody(
    market: Market, path: str, headers: dict[str, str], status: int, code: str | None
) -> None:
    before = market.spent("shop")
    reply = market.get(path, **headers)
    assert reply.status_code == status, reply.text
    assert code is None or reply.json()["error"]["code"] == code
    assert market.spent("shop") == before


def test_another_request_under_the_same_key_is_refused_case_6(market: Market) -> None:
    token = market.buyer("mixed")
    assert market.get("/v1/products/reviews", token, **{"Idempotency-Key": "k"}).status_code == 200
    reply = market.get("/v1/products/reviews?format=csv", token, **{"Idempotency-Key": "k"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "idempotency-key-reused")


def test_a_budget_covers_products_case_22(market: Market) -> None:
    token = market.buyer("poor", budget_nano=PRICE)
    assert [market.get("/v1/products/reviews", token).status_code for _ in range(2)] == [200, 429]
    assert market.spent("poor") == PRICE


def test_a_sale_is_no_request_that_can_be_corrected(market: Market) -> None:
    tenants.create(market.house.database, "sly", plan="rows")
    token = keys.create(market.house.database, PEPPER, "sly", scopes=["products", "feedback"]).token
    sale = json.loads(market.get("/v1/products/reviews", token).headers["X-Receipt"])["id"]
    one = {"request": sale, "input": 0, "text": "bad plot", "label": "neutral", "contributor": "x"}
    body = one | {"consent": ["learn", "share"]}
    reply = HTTP.post(market.running.base + "/v1/feedback", json=body, headers={"Authorization": f"Bearer {token}"})
    assert reply.status_code == 404


def test_once_somebody_withdraws_it_is_gone_until_it_is_built_without_them(market: Market) -> None:
    token = market.buyer("late")
    assert market.get("/v1/products/reviews", token, **{"Idempotency-Key": "old"}).status_code == 200
    market.house.database.write(lambda c: consents.withdraw(c, "acme", "person-1"))
    for key in ("old", "new"):
        reply = market.get("/v1/products/reviews", token, **{"Idempotency-Key": key})
        assert (reply.status_code, reply.json()["error"]["code"]) == (410, "product-withdrawn")
        assert "person-1" not in reply.text
    assert market.spent("late") == PRICE
    build(market.house.store, "reviews", SETTINGS, None, PEPPER)
    reply = market.get("/v1/products/reviews", token, **{"Idempotency-Key": "new"})
    assert reply.status_code == 200 and "bad plot" not in reply.text
    assert market.get("/v1/products/reviews", token, **{"Idempotency-Key": "old"}).status_code == 410
