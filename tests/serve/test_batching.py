"""Batches: who shares a run, who pays for it, who is let in. The engine here is real, the model tiny."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
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
from feilun.serve.admission import Admission
from feilun.serve.batching import Batcher, Scored


class Watched:
    """An engine that notes the rows of each run."""

    def __init__(self, engine: openvino.Engine) -> None:
        self.runs: list[int] = []
        self._engine = engine

    def outputs(self, rows: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
        self.runs.append(sum(len(row) for row in rows))
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


def test_a_run_stays_within_its_budget_of_tokens_unless_one_row_is_larger(engine: openvino.Engine) -> None:
    watched = Watched(engine)
    run(Batcher(10), watched, [[[1] * 4, [2] * 4, [3] * 4], [[4] * 12], [[5] * 2]])
    assert watched.runs == [8, 4, 12, 2]


def test_processor_time_is_shared_by_tokens_and_nothing_is_lost(engine: openvino.Engine) -> None:
    large, small = run(Batcher(10_000), engine, [[[3] * 30] * 30, [[3] * 3]])
    assert large.compute_ns > small.compute_ns > 0
    assert 150 < large.compute_ns / small.compute_ns < 700  # 900 tokens to 3


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
