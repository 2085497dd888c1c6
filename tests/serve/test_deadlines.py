"""``X-Deadline-Ms``: what cannot be answered in time is refused, and not charged."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from faults.house import HTTP, House, Running, ask, gateway


def used(running: Running, token: str) -> int:
    said = HTTP.get(running.base + "/v1/usage", headers={"Authorization": f"Bearer {token}"}).json()
    return int(said["requests"])


@pytest.mark.parametrize("given", ["", "0", "-5", "1.5", "soon", "99999999999", "5" * 400])
def test_a_deadline_that_is_none_is_refused(house: House, running: Running, given: str) -> None:
    reply = ask(running, house.tokens["acme"], headers={"X-Deadline-Ms": given})
    assert (reply.status_code, reply.json()["error"]["where"]) == (422, "X-Deadline-Ms")


def test_a_deadline_that_is_far_away_changes_nothing(house: House, running: Running) -> None:
    assert ask(running, house.tokens["acme"], headers={"X-Deadline-Ms": "60000"}).status_code == 200


def test_who_waits_a_millisecond_is_refused_before_the_engine_and_not_charged(house: House, running: Running) -> None:
    token = house.tenant("hasty")
    replies = [ask(running, token, headers={"X-Deadline-Ms": "1"}) for _ in range(20)]
    count = Counter(reply.status_code for reply in replies)
    assert set(count) <= {200, 504}
    assert count[504] > 0
    late = next(reply for reply in replies if reply.status_code == 504)
    assert late.json()["error"]["code"] == "deadline"
    assert int(late.headers["retry-after"]) >= 1
    assert used(running, token) == count[200]


def test_a_crowd_behind_a_narrow_engine_is_answered_in_time_or_told_at_once(house: House) -> None:
    token = house.tenant("crowd-with-deadlines")
    texts = ["good film bad plot dull ending"] * 64
    with gateway(house, window_tokens=1) as narrow, ThreadPoolExecutor(30) as pool:
        replies = list(pool.map(lambda _: ask(narrow, token, texts, headers={"X-Deadline-Ms": "150"}), range(120)))
        count = Counter(reply.status_code for reply in replies)
        assert set(count) <= {200, 504}
        assert used(narrow, token) == count[200] > 0
