"""Batches: who shares a run, who pays for it, who is let in. The engine here is real, the model tiny."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from faults.house import WORDS, build_model
from feilun.errors import UnavailableError
from feilun.models import openvino
from feilun.models.tokens import WIDTH
from feilun.serve.admission import Admission
from feilun.serve.batching import LEAST_TOKENS, Batcher, Scored


class Watched:
    """An engine that notes the rows of each run, and can wait in it until it is told to go on."""

    def __init__(self, engine: openvino.Engine) -> None:
        self.runs: list[list[int]] = []  # the lengths of the rows
        self.go_on = threading.Event()
        self.go_on.set()
        self._engine = engine

    def outputs(self, rows: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
        self.runs.append([len(row) for row in rows])
        assert self.go_on.wait(10)
        if any(row == [0] for row in rows):
            raise RuntimeError("a bad row")
        return self._engine.outputs(rows)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> openvino.Engine:
    folder: Path = tmp_path_factory.mktemp("batching") / "model"
    build_model(folder, 1)
    return openvino.load(folder, threads=1)


def run(batcher: Batcher, engine: Any, requests: list[list[list[int]]]) -> list[Any]:
    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*(batcher.run(engine, rows) for rows in requests), return_exceptions=True)

    try:
        return asyncio.run(all_at_once())
    finally:
        batcher.close()


@given(st.lists(st.lists(st.lists(st.integers(0, 19), min_size=1, max_size=9), min_size=1, max_size=6), max_size=8))
def test_each_request_gets_its_own_scores_whatever_shares_its_batch(
    engine: openvino.Engine, requests: list[list[list[int]]]
) -> None:
    found = run(Batcher(16), engine, requests)
    for rows, scored in zip(requests, found, strict=True):
        assert isinstance(scored, Scored)
        assert scored.compute_ns >= 0
        assert np.array_equal(scored.outputs, engine.outputs(rows))


def test_a_run_stays_within_its_budget_of_padded_tokens_unless_one_row_is_larger(engine: openvino.Engine) -> None:
    watched = Watched(engine)
    run(Batcher(2 * WIDTH), watched, [[[1] * 4, [2] * 4, [3] * 4], [[4] * (2 * WIDTH + 1)], [[5] * 2]])
    assert sorted(watched.runs) == sorted([[4, 4], [4, 2], [2 * WIDTH + 1]])


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def while_the_first_runs(batcher: Batcher, watched: Watched, requests: list[list[list[int]]]) -> list[Scored]:
    """Ask for the first, and for the rest while it runs."""

    async def ask() -> list[Scored]:
        watched.go_on.clear()
        first = asyncio.ensure_future(batcher.run(watched, requests[0]))
        await until(lambda: bool(watched.runs))
        rest = [asyncio.ensure_future(batcher.run(watched, rows)) for rows in requests[1:]]
        await asyncio.sleep(0.05)
        watched.go_on.set()
        return await asyncio.gather(first, *rest)

    try:
        return asyncio.run(ask())
    finally:
        batcher.close()


def test_rows_that_wait_share_runs_with_their_neighbours_in_length(engine: openvino.Engine) -> None:
    watched, long = Watched(engine), WIDTH + 2
    asked = [[[1]], *[[[1] * n] for n in (long, 3, long, 4, 5)]]
    while_the_first_runs(Batcher(10_000, latency_s=60), watched, asked)
    assert watched.runs == [[1], [long, long], [3, 4, 5]]  # the one with most tokens first


def test_a_row_that_has_waited_half_of_the_latency_goes_before_larger_runs(engine: openvino.Engine) -> None:
    watched, long = Watched(engine), WIDTH + 2
    asked = [[[1]], [[3] * 3], *[[[1] * long]] * 9]
    while_the_first_runs(Batcher(10_000, latency_s=0.02), watched, asked)
    assert watched.runs[1] == [3]


def test_a_run_is_as_long_as_the_latency_allows_at_the_speed_that_was_measured(engine: openvino.Engine) -> None:
    watched = Watched(engine)
    while_the_first_runs(Batcher(10_000, latency_s=1e-9), watched, [[[1]], [[1] * WIDTH] * 50])
    assert max(map(len, watched.runs)) == LEAST_TOKENS // WIDTH


def test_streams_run_side_by_side_and_share_what_one_of_them_could_do(engine: openvino.Engine) -> None:
    watched = Watched(engine)

    async def ask() -> None:
        watched.go_on.clear()
        asked = asyncio.ensure_future(batcher.run(watched, [[1] * 3] * 8))
        await until(lambda: len(watched.runs) == 2)
        watched.go_on.set()
        await asked

    batcher = Batcher(10_000, streams=2)
    try:
        asyncio.run(asyncio.wait_for(ask(), 10))
    finally:
        batcher.close()
    assert watched.runs == [[3] * 4] * 2


class Heads:
    """One network that answers for several engines."""

    def __init__(self) -> None:
        self.runs: list[list[int]] = []

    def outputs_each(self, members: Sequence[Any], rows: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
        self.runs.append([member.number for member in members])
        return [np.array([member.number, len(row)], np.float32) for member, row in zip(members, rows, strict=True)]


class Head:
    """One of them."""

    def __init__(self, group: Heads, number: int) -> None:
        self.group, self.number = group, number

    def outputs(self, rows: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
        return self.group.outputs_each([self] * len(rows), rows)


def test_engines_of_one_group_share_a_run_and_each_row_is_answered_by_its_own() -> None:
    group = Heads()

    async def ask() -> list[Scored]:
        return await asyncio.gather(*(batcher.run(Head(group, n), [[7] * (n + 1)]) for n in range(5)))

    batcher = Batcher(10_000)
    try:
        found = asyncio.run(ask())
    finally:
        batcher.close()
    assert [scored.outputs[0].tolist() for scored in found] == [[n, n + 1] for n in range(5)]
    assert group.runs == [[0], [1, 2, 3, 4]]


def test_no_rows_are_scored_at_once(engine: openvino.Engine) -> None:
    (found,) = run(Batcher(10), engine, [[]])
    assert (found.outputs, found.compute_ns) == ([], 0)


def test_processor_time_is_shared_by_tokens_and_nothing_is_lost(engine: openvino.Engine) -> None:
    watched = Watched(engine)
    _, large, small = while_the_first_runs(Batcher(10_000, latency_s=60), watched, [[[1]], [[3] * 8] * 90, [[3] * 4]])
    assert watched.runs == [[1], [8] * 90 + [4]]
    assert large.compute_ns / small.compute_ns == pytest.approx(720 / 4, rel=0.01)


def test_a_run_that_fails_fails_its_own_requests_and_the_next_are_answered(engine: openvino.Engine) -> None:
    watched = Watched(engine)
    bad, good = run(Batcher(1), watched, [[[0]], [[1, 2]]])
    assert isinstance(bad, RuntimeError)
    assert isinstance(good, Scored)


def test_encoding_counts_what_is_charged(engine: openvino.Engine) -> None:
    assert [len(row) for row in engine.encode(["good", " ".join(WORDS), "good " * 99])] == [1, len(WORDS), 32]


def test_places_and_room_are_given_back_whatever_happened() -> None:
    admission = Admission(1, 10, 100)
    with pytest.raises(ZeroDivisionError), admission.permit(), admission.room(8), admission.space(60):
        with pytest.raises(UnavailableError), admission.permit():
            pass
        with pytest.raises(UnavailableError), admission.room(3):
            pass
        with pytest.raises(UnavailableError), admission.space(41):
            pass
        raise ZeroDivisionError
    assert (admission.requests, admission.tokens, admission.bytes) == (0, 0, 0)


def test_a_request_larger_than_all_the_room_is_let_in_alone() -> None:
    admission = Admission(5, 10, 100)
    with admission.room(99):
        assert admission.tokens == 99
