"""kill -9 at random instants and at named points (RELIABILITY 1, 2, 13), with the planted bug as positive control."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.serve.house import House, Running, ask, gateway, open_house, start, wait_until_ready
from tests.serve.load import Clients, Posted, broken_invariants, until

SEED = 20261122
LEASE = {"lease_s": 1.0}


def kill_under_load(house: House, kills: int, **options: object) -> tuple[Clients, list[str]]:
    """Always one gateway alive at least: the next one starts, the present one is killed at a random instant."""
    chance = random.Random(SEED)
    house.tenant("globex")
    posted, changes = Posted(house.database), list[str]()
    gateways: list[Running] = [start(house, **LEASE, **options)]
    clients = Clients([gateways[0].base], [house.tokens["acme"], house.tokens["globex"]])
    try:
        with clients.at_work(8, SEED):
            for _ in range(kills):
                gateways.append(start(house, wait=False, **LEASE, **options))
                wait_until_ready(gateways[-1])
                clients.bases.append(gateways[-1].base)
                time.sleep(chance.uniform(0.0, 0.4))
                gateways[-2].kill()
                clients.bases.pop(0)
                changes += posted.changed()
        changes += posted.changed()
    finally:
        for running in gateways:
            running.kill()
    return clients, changes + broken_invariants(house.database, clients.answers)


@pytest.mark.parametrize(("kind", "kills"), [("sqlite", 20), ("postgresql", 4)])
def test_no_answer_is_lost_or_charged_twice_when_the_gateway_is_killed_under_load_case_1(
    new_url: Callable[[str], str], tmp_path: Path, kind: str, kills: int
) -> None:
    with open_house(new_url(kind), tmp_path) as house:
        clients, broken = kill_under_load(house, kills)
    assert broken == []
    assert len(clients.answers) > 10 * kills
    assert clients.lost == 0
    assert set(clients.refused) <= {409, 503}


def test_the_same_check_catches_a_commit_after_the_answer(new_url: Callable[[str], str], tmp_path: Path) -> None:
    with open_house(new_url("sqlite"), tmp_path) as house:
        _, broken = kill_under_load(house, 3, planted="commit-after-the-answer")
    assert any("is not posted" in b for b in broken)


@pytest.mark.parametrize("point", ["after-hold", "after-inference", "after-commit"])
def test_a_crash_at_a_named_point_is_answered_once_and_charged_once_case_2(
    new_url: Callable[[str], str], tmp_path: Path, point: str
) -> None:
    with open_house(new_url("sqlite"), tmp_path) as house:
        token, key = house.tokens["acme"], {"Idempotency-Key": "mine"}
        with gateway(house, environment={"FEILUN_CRASH_AT": point}, **LEASE) as dying:
            with pytest.raises(httpx.TransportError):
                ask(dying, token, headers=dict(key))
            assert dying.process.wait(5) == -9
        with gateway(house, **LEASE) as alive:
            until(lambda: ask(alive, token, headers=dict(key)).status_code == 200)
            reply = ask(alive, token, headers=dict(key))
        assert reply.headers["idempotent-replay"] == "true"
        assert broken_invariants(house.database, [reply.json() | {"key": "mine"}]) == []
