"""Budgets, queues and endings (RELIABILITY 13, 16, 22, 24)."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from faults.house import HTTP, PEPPER, PLANS, House, Running, ask, gateway, open_house
from faults.load import Clients, broken_invariants
from feilun.errors import SettingError
from feilun.serve.run import run_gateway


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_exactly_ten_of_a_hundred_at_once_are_admitted_by_two_workers_cases_13_22(
    new_url: Callable[[str], str], tmp_path: Path, kind: str
) -> None:
    with open_house(new_url(kind), tmp_path) as house:
        token = house.tenant("ten", plan="tens", budget_nano=10 * 10**9)
        with gateway(house) as one, gateway(house) as other, ThreadPoolExecutor(25) as pool:
            replies = list(pool.map(lambda n: ask((one, other)[n % 2], token), range(100)))
        assert Counter(r.status_code for r in replies) == {200: 10, 429: 90}
        assert all(int(r.headers["retry-after"]) > 0 for r in replies if r.status_code == 429)
        answers = [r.json() | {"key": str(n)} for n, r in enumerate(replies) if r.status_code == 200]
        assert broken_invariants(house.database, answers) == []


def test_what_does_not_fit_the_queue_is_refused_at_once_and_not_charged_case_24(house: House, running: Running) -> None:
    token = house.tenant("crowd")
    with gateway(house, queue_requests=2) as small, ThreadPoolExecutor(20) as pool:
        replies = list(pool.map(lambda _: ask(small, token), range(60)))
    count = Counter(r.status_code for r in replies)
    assert set(count) == {200, 503}
    refused = [r for r in replies if r.status_code == 503]
    assert {(r.json()["error"]["code"], r.headers["retry-after"]) for r in refused} == {("busy", "1")}
    said = HTTP.get(running.base + "/v1/usage", headers={"Authorization": f"Bearer {token}"}).json()
    assert said["requests"] == count[200]


def test_a_gateway_that_is_told_to_stop_finishes_what_it_began_case_16(
    new_url: Callable[[str], str], tmp_path: Path
) -> None:
    with open_house(new_url("sqlite"), tmp_path) as house, gateway(house) as running:
        clients = Clients([running.base], [house.tokens["acme"]], giving_up=0.5)
        with clients.at_work(6, seed=1):
            time.sleep(1.0)
            stopping = threading.Thread(target=running.stop)
            stopping.start()
            stopping.join()
        assert running.process.returncode == 0
        assert len(clients.answers) > 10
        assert broken_invariants(house.database, clients.answers) == []
        assert "unexpected" not in running.log.read_text()


def test_a_port_that_is_taken_is_said_in_words(house: House, running: Running) -> None:
    with pytest.raises(SettingError, match="cannot listen"):
        run_gateway(
            house.url,
            house.folder / "artifacts",
            pepper=PEPPER,
            plans=PLANS,
            port=int(running.base.rsplit(":", 1)[1]),
        )
