"""The same Idempotency-Key again, at once, with another body, by another tenant (5 to 8), and what streams (3, 4)."""

from __future__ import annotations

import itertools
import json
from concurrent.futures import ThreadPoolExecutor

import httpx
from sqlalchemy import func, select

from faults.counting import Count, Setup, case
from faults.crashes import Fleet, fleet
from faults.house import HTTP, PEPPER, House, ask
from faults.load import broken_invariants
from feilun.accounts import keys
from feilun.bill.verify import verify
from feilun.store import event_audit, tables

AT_ONCE = 50
METERS = ("pages",)


def entries(house: House, tenant: str) -> int:
    """Usage rows of a tenant."""
    with house.database.read() as connection:
        query = select(func.count()).select_from(tables.usage).where(tables.usage.c.tenant == tenant)
        return int(connection.execute(query).scalar_one())


def at_once(gateways: Fleet, token: str, key: str, times: int = AT_ONCE) -> list[httpx.Response]:
    """The same request, many times at once, by all gateways in turn."""
    turn = itertools.cycle(gateways.running)
    with ThreadPoolExecutor(times) as pool:
        asked = [pool.submit(ask, next(turn), token, headers={"Idempotency-Key": key}) for _ in range(times)]
        return [one.result() for one in asked]


@case(5, "same key, same body: the stored answer, marked as a replay, and no second entry")
def replays(setup: Setup) -> Count:
    """Asked of two gateways in turn."""
    count = Count()
    with setup.house() as house, fleet(house, 2) as gateways:
        token = house.tokens["acme"]
        for number in range(setup.times(200, 20)):
            first, again = (ask(g, token, headers={"Idempotency-Key": f"k{number}"}) for g in gateways.running)
            marks = ["idempotent-replay" in reply.headers for reply in (first, again)]
            broken = [] if (first.status_code, first.content) == (200, again.content) else ["another answer"]
            broken += [] if marks == [False, True] else [f"marked {marks}"]
            count.trial(broken + ([] if entries(house, "acme") == number + 1 else ["a second entry"]))
    return count


@case(6, "same key, other body: 422, no inference")
def other_bodies(setup: Setup) -> Count:
    """Asked of two gateways in turn."""
    count = Count()
    with setup.house() as house, fleet(house, 2) as gateways:
        one, other = gateways.running
        token = house.tokens["acme"]
        for number in range(setup.times(200, 20)):
            key = {"Idempotency-Key": f"k{number}"}
            first, again = ask(one, token, headers=dict(key)), ask(other, token, "bad film", headers=dict(key))
            right = (first.status_code, again.status_code) == (200, 422)
            broken = [] if right else [f"answered {first.status_code}, {again.status_code}"]
            count.trial(broken + ([] if entries(house, "acme") == number + 1 else ["another entry"]))
    return count


@case(7, "same key 50 times at once by two gateways: one entry, the others replay or get 409")
def fifty_at_once(setup: Setup) -> Count:
    """Each fifty is a trial; the planted bug looks before the transaction."""
    count = Count()
    with setup.house() as house, fleet(house, 2) as gateways:
        for number in range(setup.times(40, 4)):
            replies = at_once(gateways, house.tokens["acme"], f"k{number}")
            count.trial(_one_of_them(replies) + _entries(house, number + 1))
        count.trial([str(problem) for problem in verify(house.database).problems])
    with setup.house() as house, fleet(house, 2, meters=METERS) as gateways:
        for number in range(setup.times(20, 2)):
            count.trial(_events_at_once(house, gateways, number))
    bug = "event-deduplicated-outside-the-transaction"
    with setup.house() as house, fleet(house, 2, meters=METERS, planted=bug) as gateways:
        count.controls[bug] = bool(_events_at_once(house, gateways, 0))
    bug = "deduplicate-outside-the-transaction"
    with setup.house() as house, fleet(house, 2, planted=bug) as gateways:
        replies = at_once(gateways, house.tokens["acme"], "k")
        count.controls[bug] = bool(_one_of_them(replies) + _entries(house, 1))
    return count


def _events_at_once(house: House, gateways: Fleet, number: int) -> list[str]:
    """The same batch of a hundred events, ten times at once, by both gateways."""
    token = keys.create(house.database, PEPPER, "acme", scopes=["events"]).token
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/cloudevents-batch+json"}
    shared = {"specversion": "1.0", "source": "/meter", "type": "pages", "subject": "acme", "data": 1}
    batch = json.dumps([shared | {"id": f"{number}-{n}"} for n in range(100)])
    turn = itertools.cycle(gateways.running)
    with ThreadPoolExecutor(10) as pool:
        urls = [next(turn).base + "/v1/events" for _ in range(10)]
        replies = list(pool.map(lambda url: HTTP.post(url, content=batch, headers=headers), urls))
    statuses = {r.status_code for r in replies}
    recorded = sum(r.json().get("recorded", 0) for r in replies)
    with house.database.read() as connection:
        kept = connection.execute(select(func.count()).select_from(tables.events)).scalar_one()
        found = [str(problem) for problem in event_audit.verify(connection)]
    found += [] if statuses == {200} else [f"answered with {sorted(statuses)}"]
    found += [] if recorded == 100 else [f"{recorded} of 100 events were said to be recorded"]
    return found + ([] if kept == 100 * (number + 1) else [f"{kept} events are kept"])


def _one_of_them(replies: list[httpx.Response]) -> list[str]:
    answered = [r for r in replies if r.status_code == 200]
    statuses = {r.status_code for r in replies}
    broken = [] if statuses <= {200, 409} else [f"answered with {sorted(statuses)}"]
    broken += [] if len({r.content for r in answered}) == 1 else ["several answers"]
    broken += [] if sum("idempotent-replay" not in r.headers for r in answered) == 1 else ["not one first answer"]
    late = [r for r in replies if r.status_code == 409 and "retry-after" not in r.headers]
    return broken + (["409 without Retry-After"] if late else [])


def _entries(house: House, expected: int) -> list[str]:
    found = entries(house, "acme")
    return [] if found == expected else [f"{found} entries, not {expected}"]


@case(8, "same key of two tenants: independent")
def two_tenants(setup: Setup) -> Count:
    """At once, of one gateway."""
    count = Count()
    with setup.house() as house, fleet(house, 1) as gateways, ThreadPoolExecutor(2) as pool:
        house.tenant("globex")
        tokens = [house.tokens["acme"], house.tokens["globex"]]
        answers = []
        for number in range(setup.times(200, 20)):
            key = f"k{number}"
            texts = ["good film", "bad plot"]
            asked = [
                pool.submit(ask, gateways.running[0], token, text, headers={"Idempotency-Key": key})
                for token, text in zip(tokens, texts, strict=True)
            ]
            replies = [one.result() for one in asked]
            right = [r.status_code for r in replies] == [200, 200] and replies[0].json()["id"] != replies[1].json()[
                "id"
            ]
            right &= not any("idempotent-replay" in r.headers for r in replies)
            right &= replies[0].json()["results"] != replies[1].json()["results"]
            answers += [r.json() | {"key": key, "token": t} for r, t in zip(replies, tokens, strict=True)]
            count.trial([] if right else [f"{[r.status_code for r in replies]}"])
        count.trial(broken_invariants(house.database, answers))
    return count
