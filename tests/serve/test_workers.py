"""Four gateways behind one port, as ``feilun serve --workers 4`` runs them (RELIABILITY 13, 16, 22, 23, 34)."""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from faults.house import HTTP, House, Running, ask, make_release, open_house
from faults.load import Clients, broken_invariants, until
from faults.workers import WORKERS, answered_by, crew, processes, revocation_round
from feilun.serve.listening import listen
from feilun.serve.supervisor import ATTEMPTS, Supervisor
from feilun.store import releases


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("crew")
    with open_house(f"sqlite:///{folder}/feilun.db", folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def running(house: House) -> Iterator[Running]:
    with crew(house) as started:
        yield started


def hundred(running: Running, token: str) -> Counter[int]:
    with ThreadPoolExecutor(50) as pool:
        return Counter(reply.status_code for reply in pool.map(lambda _: ask(running, token), range(100)))


def test_exactly_ten_of_a_hundred_are_admitted_by_a_budget_for_ten_cases_13_22(house: House, running: Running) -> None:
    token = house.tenant("ten", plan="tens", budget_nano=10 * 10**9)
    assert hundred(running, token) == {200: 10, 429: 90}


def test_four_workers_on_postgresql_keep_a_budget_exactly_and_end_in_order_cases_13_16_22(
    new_url: Callable[[str], str], tmp_path: Path
) -> None:
    with open_house(new_url("postgresql"), tmp_path) as house, crew(house) as running:
        token = house.tenant("ten", plan="tens", budget_nano=10 * 10**9)
        assert hundred(running, token) == {200: 10, 429: 90}
        clients = Clients([running.base], [house.tokens["acme"]], giving_up=0.5)
        workers = processes(running)
        with clients.at_work(6, seed=1):
            time.sleep(0.5)
            code = running.stop()
        assert code == 0
        assert not any(worker.is_running() for worker in workers)
        assert broken_invariants(house.database, clients.answers, all_delivered=False) == []


def test_a_rate_of_ten_a_minute_lets_ten_of_a_hundred_in_case_23(house: House, running: Running) -> None:
    assert hundred(running, house.tenant("minute", plan="minute")) == {200: 10, 429: 90}


def test_every_worker_answers_and_any_of_them_tells_the_figures_of_all(house: House, running: Running) -> None:
    until(lambda: len(hundred(running, house.tokens["acme"])) == 1 and len(answered_by(running, house)) == WORKERS)


def test_a_revoked_key_is_refused_by_every_worker_within_a_second_case_34(house: House, running: Running) -> None:
    assert revocation_round(house, running, "leaving") == []


def test_every_worker_follows_a_promotion_within_a_second(house: House, running: Running, tmp_path: Path) -> None:
    other = make_release(house.store, tmp_path, 2)
    releases.promote(house.database, "reviews", other.digest, expected_version=1, reason="better")
    time.sleep(1.0)
    with ThreadPoolExecutor(20) as pool:
        replies = list(pool.map(lambda _: ask(running, house.tokens["acme"]).json()["release"], range(60)))
    assert set(replies) == {other.digest}


def test_a_worker_that_is_killed_is_replaced_and_nothing_is_lost_case_13(house: House, running: Running) -> None:
    clients = Clients([running.base], [house.tokens["acme"]])
    before = {process.pid for process in processes(running)}
    with clients.at_work(6, seed=3):
        time.sleep(0.3)
        victim = processes(running)[0]
        victim.kill()
        until(lambda: len({p.pid for p in processes(running)} - before) == 1, timeout=20)
        time.sleep(0.5)
    assert len(clients.answers) > 10
    told = [a for a in clients.answers if broken_invariants(house.database, [a], all_delivered=False)]
    assert told == []
    assert '"unexpected"' not in running.log.read_text()


def test_workers_that_cannot_start_end_the_supervisor_with_their_code() -> None:
    command = [sys.executable, "-c", "raise SystemExit(7)"]
    with listen("127.0.0.1", 0) as listener:
        before = signal.getsignal(signal.SIGTERM)
        begun = time.monotonic()
        assert Supervisor(command, 1, listener, grace_s=1).run() == 7
        assert signal.getsignal(signal.SIGTERM) == before
    assert time.monotonic() - begun < ATTEMPTS * 3


def test_the_health_of_one_port_is_that_of_whoever_answers(running: Running) -> None:
    assert {HTTP.get(running.base + path).status_code for path in ("/healthz", "/readyz") * 4} == {200}


def test_workers_do_not_outlive_their_supervisor(running: Running) -> None:
    workers = processes(running)
    assert len(workers) == WORKERS
    running.kill()
    assert psutil.wait_procs(workers, timeout=20)[1] == []
