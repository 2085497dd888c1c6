"""``GET /v1/admin/margin``: figures of all tenants, for a key that may see them."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from faults.house import PEPPER, PLANS, House, Running, ask
from feilun.accounts import keys
from feilun.bill.office import Office
from feilun.bill.settings import BillSettings
from feilun.serve.app import create_app, make_gateway
from feilun.serve.settings import GatewaySettings


def get(house: House, scope: str, *, office: bool = True, **parameters: Any) -> httpx.Response:
    gateway = make_gateway(house.store, PEPPER, PLANS, GatewaySettings())
    gateway.office = Office(house.store, BillSettings()) if office else None
    token = keys.create(house.database, PEPPER, "acme", scopes=[scope]).token

    async def fetch() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(gateway))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", verify=False) as http:
            headers = {"Authorization": f"Bearer {token}"}
            return await http.get("/v1/admin/margin", params=parameters, headers=headers)

    return asyncio.run(fetch())


def test_who_runs_the_service_is_told_what_every_customer_earns(house: House, running: Running) -> None:
    assert ask(running, house.tokens["acme"], "good film").status_code == 200
    told = get(house, "admin", by="tenant").json()
    assert told["object"] == "margin" and told["currency"] == "USD"
    acme = next(row for row in told["rows"] if row["name"] == "acme")
    assert acme["requests"] >= 1 and acme["serving_nano"] >= 0
    assert acme["margin_nano"] == acme["revenue_nano"] - acme["cost_nano"]
    assert told["total"]["margin_nano"] == sum(row["margin_nano"] for row in told["rows"])
    requests = get(house, "admin", by="request", tenant="acme", limit="2").json()["rows"]
    assert len(requests) in (2, 3) and requests[-1]["name"] == ""


@pytest.mark.parametrize(
    "parameters",
    [{"by": "all"}, {"period": "2026"}, {"limit": "x"}, {"sort": "name"}, {"period": ["2026-01", "2026-02"]}],
)
def test_a_question_that_makes_no_sense_is_refused_in_the_api_s_shape(house: House, parameters: dict[str, Any]) -> None:
    reply = get(house, "admin", **parameters)
    assert reply.status_code == 422 and reply.json()["error"]["message"]


def test_a_customer_s_key_does_not_see_it(house: House) -> None:
    assert get(house, "usage").status_code == 403


def test_where_nobody_keeps_books_there_is_nothing(house: House) -> None:
    assert get(house, "admin", office=False).status_code == 404
