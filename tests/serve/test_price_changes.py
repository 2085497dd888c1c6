"""A running gateway changes its prices when their date comes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from faults.house import PEPPER, open_house
from feilun.accounts.terms import Schedule, Terms
from feilun.serve.app import create_app, make_gateway
from feilun.serve.settings import GatewaySettings
from feilun.store import tables
from feilun.store.database import now_us

OLD, NEW = Terms("USD", unit_nano={"requests": 1_000_000}), Terms("USD", unit_nano={"requests": 3_000_000})


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_price_of_a_request_is_that_of_its_moment(new_url: Callable[[str], str], tmp_path: Path, kind: str) -> None:
    with open_house(new_url(kind), tmp_path) as house:
        plans = {"metered": Schedule.always(OLD)}
        app = create_app(make_gateway(house.store, PEPPER, plans, GatewaySettings()))
        told = {"Authorization": f"Bearer {house.tokens['acme']}"}
        with TestClient(app, base_url="http://127.0.0.1", headers=told) as client:
            with house.database.read() as connection:
                begins = now_us(connection) + 2_000_000
            plans["metered"] = Schedule(((0, OLD), (begins, NEW)))
            for pause in (0.0, 2.1):
                time.sleep(pause)
                answer = client.post("/v1/classify", json={"model": "reviews", "input": "good film"})
                assert answer.status_code == 200, answer.text
        with house.database.read() as connection:
            usage = tables.usage.c
            rows = connection.execute(select(usage.at, usage.price_version, usage.amount_nano).order_by(usage.sequence))
            charged = [(row.at >= begins, row.price_version, row.amount_nano) for row in rows]
    assert charged == [(False, OLD.version, 1_000_000), (True, NEW.version, 3_000_000)]
