"""kill -9 at random instants and at named points (RELIABILITY 1, 2, 13): a sample of what ``make faults`` does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from faults.crashes import CONTROLS, LEASE, point_round, random_round
from faults.house import ask, gateway, open_house
from faults.load import broken_invariants, until
from faults.nursery import Nursery
from feilun.serve.crash import POINTS

SEED = 20261122


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as opened:
        yield opened


@pytest.mark.parametrize(("kind", "kills"), [("sqlite", 15), ("postgresql", 8)])
def test_no_answer_is_lost_or_charged_twice_when_gateways_are_killed_under_load_case_1(
    new_url: Callable[[str], str], tmp_path: Path, nursery: Nursery, kind: str, kills: int
) -> None:
    with open_house(new_url(kind), tmp_path, nursery) as house:
        broken, answers = random_round(house, kills, SEED)
    assert broken == []
    assert answers > 10 * kills


@pytest.mark.parametrize(("bug", "words"), CONTROLS.items())
def test_the_same_check_catches_each_planted_bug(
    new_url: Callable[[str], str], tmp_path: Path, nursery: Nursery, bug: str, words: str
) -> None:
    """A kill has to fall where the bug shows, so a round that met no such instant is followed by another."""
    for number in range(4):
        with open_house(new_url("sqlite"), tmp_path / str(number), nursery) as house:
            broken, _ = random_round(house, 5, SEED + number, planted=bug)
        if any(words in b for b in broken):
            return
    pytest.fail(f"20 kills did not show '{bug}'")


@pytest.mark.parametrize("point", POINTS)
def test_a_crash_at_a_named_point_under_load_loses_nothing_case_2(
    new_url: Callable[[str], str], tmp_path: Path, nursery: Nursery, point: str
) -> None:
    with open_house(new_url("sqlite"), tmp_path, nursery) as house:
        broken, _ = point_round(house, point, 2, SEED)
    assert broken == []


@pytest.mark.parametrize("point", POINTS)
def test_a_crash_at_a_named_point_is_answered_once_and_charged_once_case_2(
    new_url: Callable[[str], str], tmp_path: Path, nursery: Nursery, point: str
) -> None:
    with open_house(new_url("sqlite"), tmp_path, nursery) as house:
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
