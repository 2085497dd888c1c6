"""Concurrent requests share runs of the engine.

What waits is taken in order up to a budget of tokens, for one engine at a time; the engine itself sorts rows by length.
The processor time of a run is shared among its rows by their tokens. It is that of the engine's threads
(``feilun.serve.spending``): core-nanoseconds that were really used, which a busy machine does not inflate as it would
wall time times threads, and without what the gateway itself did meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from feilun.models import threads
from feilun.serve.spending import Spending


class Engine(Protocol):
    """As much of ``feilun.models.inference.Engine`` as is used here."""

    def outputs(self, rows: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
        """Each row's scores."""


@dataclass(frozen=True)
class Scored:
    """Each row's scores, (C,) or (its tokens, C), and the request's share of the processor time."""

    outputs: list[NDArray[np.float32]]
    compute_ns: int


@dataclass(eq=False)
class _Job:
    """One request on its way."""

    engine: Engine
    rows: Sequence[Sequence[int]]
    future: asyncio.Future[Scored]
    scores: list[NDArray[np.float32]] = field(default_factory=list)
    compute_ns: int = 0


class Batcher:
    """One thread that runs engines, fed by the event loop."""

    def __init__(self, batch_tokens: int, spending: Spending | None = None) -> None:
        self.spending = spending or Spending()
        self._budget = batch_tokens
        self._waiting: deque[_Job] = deque()
        self._thread = ThreadPoolExecutor(1, threads.ENGINE, threads.rename, (threads.ENGINE,))
        self._task: asyncio.Task[None] | None = None
        self.batches = 0

    async def run(self, engine: Engine, rows: Sequence[Sequence[int]]) -> Scored:
        """Score rows of token ids; returns when all of them are done."""
        job = _Job(engine, rows, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        return await job.future

    def close(self) -> None:
        """Let go of the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def _work(self) -> None:
        """Run batches until nothing waits."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = self._take()
            rows = [row for _, part in batch for row in part]
            try:
                scores, spent = await loop.run_in_executor(self._thread, self._timed, batch[0][0].engine, rows)
            except Exception as error:  # noqa: BLE001 - whatever the engine raised belongs to those who wait for it
                self._fail([job for job, _ in batch], error)
                continue
            self.batches += 1
            self._share(batch, scores, spent)

    def _take(self) -> list[tuple[_Job, Sequence[Sequence[int]]]]:
        """Rows from the front of the queue, for the first one's engine, within the budget of tokens."""
        engine, left = self._waiting[0].engine, self._budget
        batch: list[tuple[_Job, Sequence[Sequence[int]]]] = []
        for job in [j for j in self._waiting if j.engine is engine]:
            begun = len(job.scores)
            end = begun
            while end < len(job.rows) and (left >= len(job.rows[end]) or not (batch or end > begun)):
                left -= len(job.rows[end])
                end += 1
            if end > begun:
                batch.append((job, job.rows[begun:end]))
            if end < len(job.rows):
                break
        return batch

    def _share(
        self, batch: list[tuple[_Job, Sequence[Sequence[int]]]], scores: Sequence[NDArray[np.float32]], spent: int
    ) -> None:
        total = sum(_weight(ids) for _, part in batch for ids in part)
        row = tokens = charged = 0
        for job, part in batch:
            job.scores.extend(scores[row : row + len(part)])
            row += len(part)
            tokens += sum(_weight(ids) for ids in part)
            job.compute_ns += spent * tokens // total - charged  # the shares sum to what was spent
            charged = spent * tokens // total
            if len(job.scores) == len(job.rows):
                self._waiting.remove(job)
                if not job.future.done():
                    job.future.set_result(Scored(job.scores, job.compute_ns))

    def _timed(self, engine: Engine, rows: Sequence[Sequence[int]]) -> tuple[list[NDArray[np.float32]], int]:
        with self.spending.work() as work:
            scores = engine.outputs(rows)
        return scores, work.ns

    def _fail(self, jobs: list[_Job], error: Exception) -> None:
        for job in jobs:
            self._waiting.remove(job)
            if not job.future.done():
                job.future.set_exception(error)


def _weight(ids: Sequence[int]) -> int:
    """A row's work; one without tokens is run all the same."""
    return len(ids) or 1
