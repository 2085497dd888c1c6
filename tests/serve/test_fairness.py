"""Whose turn it is: shares, priorities, deadlines, and that nobody is kept waiting for ever."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faults.house import House, ask, gateway
from feilun.serve.deadlines import DeadlineError
from feilun.serve.fairness import SCARCE, Standing, Turn, Turns

WINDOW = 100


async def served(turns: Turns, asked: list[tuple[Standing, int]], most: int) -> list[Standing]:
    """Who went first, of requests that all wait while the engine is busy; the engine takes them as they are let in."""
    order: list[Standing] = []
    busy = await turns.take(Standing("busy"), WINDOW)

    async def one(standing: Standing, tokens: int) -> None:
        turn = await turns.take(standing, tokens)
        order.append(standing)
        await asyncio.sleep(0)
        turn.end()

    tasks = [asyncio.ensure_future(one(*what)) for what in asked]
    await asyncio.sleep(0)
    busy.end()
    await asyncio.gather(*tasks)
    return order[:most]


def test_a_flood_keeps_nobody_else_from_an_answer() -> None:
    flood = [(Standing("flood"), 50)] * 200
    order = asyncio.run(served(Turns(WINDOW), [*flood, (Standing("small"), 50)], 10))
    assert Standing("small") in order


def test_tokens_are_given_by_shares() -> None:
    asked = [(Standing("one", 1), 10), (Standing("three", 3), 10)] * 200
    went = Counter(standing.tenant for standing in asyncio.run(served(Turns(WINDOW), asked, 200)))
    assert went["three"] / went["one"] == pytest.approx(3, abs=0.3)


def test_long_requests_take_as_many_tokens_as_short_ones_not_as_many_turns() -> None:
    asked = [(Standing("long"), 50)] * 40 + [(Standing("short"), 5)] * 400
    went = Counter(standing.tenant for standing in asyncio.run(served(Turns(WINDOW), asked, 110)))
    assert went["long"] * 50 == pytest.approx(went["short"] * 5, rel=0.25)


def test_a_higher_priority_goes_first_and_leaves_a_little_to_the_lower() -> None:
    low = [(Standing("low", 1, -1), 10)] * 40
    high = [(Standing("high", 1, 1), 10)] * 400
    order = asyncio.run(served(Turns(WINDOW), [*low, *high], 10 * (SCARCE + 1)))
    assert order[0].tenant == "high"
    assert 8 <= Counter(standing.tenant for standing in order)["low"] <= 12


def test_who_was_silent_saves_nothing_up() -> None:
    async def run() -> list[Standing]:
        turns = Turns(WINDOW)
        for _ in range(50):
            (await turns.take(Standing("busy"), 10)).end()
        return await served(turns, [(Standing("old"), 10), (Standing("new"), 10)] * 20, 20)

    went = Counter(standing.tenant for standing in asyncio.run(run()))
    assert abs(went["old"] - went["new"]) <= 2


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3), st.integers(-1, 1), st.integers(1, 300)), max_size=40)
)
def test_everybody_gets_a_turn_and_all_tokens_come_back(asked: list[tuple[str, int, int, int]]) -> None:
    turns = Turns(WINDOW)
    everyone = [(Standing(tenant, share, priority), tokens) for tenant, share, priority, tokens in asked]
    assert len(asyncio.run(served(turns, everyone, len(asked)))) == len(asked)
    assert (turns.running, turns.queued) == (0, 0)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 150), st.booleans()), max_size=30))
def test_those_who_give_up_leave_no_trace(asked: list[tuple[str, int, bool]]) -> None:
    async def run(turns: Turns) -> None:
        busy = await turns.take(Standing("busy"), WINDOW)

        async def one(tenant: str, tokens: int) -> None:
            turn: Turn = await turns.take(Standing(tenant), tokens)
            await asyncio.sleep(0)
            turn.end(max(0, tokens - 3))

        tasks = [(asyncio.ensure_future(one(tenant, tokens)), gives_up) for tenant, tokens, gives_up in asked]
        await asyncio.sleep(0)
        for task, gives_up in tasks:
            if gives_up:
                task.cancel()
        busy.end()
        await asyncio.gather(*(task for task, _ in tasks), return_exceptions=True)

    turns = Turns(WINDOW)
    asyncio.run(run(turns))
    assert (turns.running, turns.queued) == (0, 0)


def test_who_cannot_be_answered_in_time_is_told_so_without_waiting() -> None:
    async def run() -> float:
        turns = Turns(WINDOW)
        turns.pace.tokens_per_second = 100.0
        busy = await turns.take(Standing("busy"), WINDOW)
        begun = time.monotonic()
        with pytest.raises(DeadlineError) as told:
            await turns.take(Standing("late"), 100, time.monotonic() + 1.0)  # a second for what runs, one for its own
        assert told.value.retry_after >= 1
        taken = time.monotonic() - begun
        busy.end()
        assert (turns.running, turns.queued) == (0, 0)
        return taken

    assert asyncio.run(run()) < 0.5


def test_who_waits_longer_than_its_deadline_is_dropped() -> None:
    async def run() -> None:
        turns = Turns(WINDOW)
        busy = await turns.take(Standing("busy"), WINDOW)
        with pytest.raises(DeadlineError):
            await turns.take(Standing("late"), 10, time.monotonic() + 0.05)
        assert turns.queued == 0
        turn = turns.take(Standing("next"), 10, time.monotonic() + 5)
        waiting = asyncio.ensure_future(turn)
        await asyncio.sleep(0)
        busy.end()
        (await waiting).end()
        assert turns.running == 0

    asyncio.run(run())


def test_a_small_customer_is_answered_in_the_midst_of_anothers_flood(house: House) -> None:
    flood, small = house.tenant("flooding"), house.tenant("small")
    many = ["good film bad plot dull ending"] * 64
    with gateway(house, window_tokens=1) as narrow, ThreadPoolExecutor(24) as pool:
        waiting = [pool.submit(ask, narrow, flood, many) for _ in range(72)]
        wait(waiting, return_when=FIRST_COMPLETED)
        before = sum(one.done() for one in waiting)
        assert ask(narrow, small).status_code == 200
        meanwhile = sum(one.done() for one in waiting) - before
        assert {one.result().status_code for one in waiting} <= {200, 503}
    assert meanwhile < 16  # in the order of arrival it would be the 24 that were there before
