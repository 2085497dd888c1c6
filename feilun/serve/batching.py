"""Concurrent requests share runs of the engine; a few runs go side by side, one on each of its streams.

Rows wait in piles, one for each engine and width: a row's width depends on its length alone (``tokens.width``), so a
run takes neighbours in length and pads little. Whichever pile has most to do goes first, unless a row has waited for
half of the latency that the project states: then the one with the oldest row does. A run is cut so that by the speed
measured so far it takes the other half. Nothing ever waits for company: a stream that is free takes what is there.

The processor time of a run is shared among its rows by their tokens. It is that of the engine's threads
(``feilun.serve.spending``): core-nanoseconds that were really used, which a busy machine does not inflate as it would
wall time times threads, and without what the gateway itself did meanwhile.

Engines that answer from one network have a ``group``: their rows wait in the same piles and share runs of it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from feilun.models import threads, tokens
from feilun.serve.spending import Spending

Ids = Sequence[int]
LATENCY_S = 0.1
FIRST_TOKENS = 256  # in a run, as long as nobody knows how fast the engine is
LEAST_TOKENS = 128  # that a run may have, however slow the engine seems: it is slow where runs are small
_MEMORY = 0.8  # of a speed's weight is what was measured before
_NOTHING = np.empty(0, np.float32)


class Engine(Protocol):
    """As much of ``feilun.models.inference.Engine`` as is used here. It may have a ``group`` (see ``Group``)."""

    def outputs(self, rows: Sequence[Ids]) -> list[NDArray[np.float32]]:
        """Each row's scores; called from several threads at once."""


@runtime_checkable
class Group(Protocol):
    """One network that answers for several engines: heads or adapters on one base. An engine of it names it by its
    attribute ``group``."""

    def outputs_each(self, members: Sequence[Engine], rows: Sequence[Ids]) -> list[NDArray[np.float32]]:
        """Each row's scores from its own engine, in one run."""


@dataclass(frozen=True)
class Scored:
    """Each row's scores, (C,) or (its tokens, C), and the request's share of the processor time."""

    outputs: list[NDArray[np.float32]]
    compute_ns: int


@dataclass(eq=False)
class _Job:
    """One request on its way."""

    engine: Engine
    future: asyncio.Future[Scored]
    since: float
    outputs: list[NDArray[np.float32]]
    left: int  # rows that are not scored yet
    compute_ns: int = 0


class _Row(NamedTuple):
    """One row of a request, waiting or in a run."""

    job: _Job
    place: int
    ids: Ids


@dataclass(eq=False)
class _Pile:
    """Rows of one width that can share a run, oldest first."""

    group: object  # the engine itself, where it has none
    width: int
    rows: deque[_Row] = field(default_factory=deque)


class Batcher:
    """Threads that run engines, fed by the event loop.

    Args:
        batch_tokens: padded tokens in one run at the most.
        streams: runs side by side.
        latency_s: how long a request should take from here to its scores, where the load allows it.
    """

    def __init__(
        self,
        batch_tokens: int,
        spending: Spending | None = None,
        *,
        streams: int = 1,
        latency_s: float = LATENCY_S,
    ) -> None:
        self.spending = spending or Spending()
        self.batches = 0
        self._budget = batch_tokens
        self._half_s = latency_s / 2
        self._threads = ThreadPoolExecutor(streams, threads.ENGINE, threads.rename, (threads.ENGINE,))
        self._free = streams
        self._piles: dict[tuple[object, int], _Pile] = {}
        self._speeds: WeakKeyDictionary[object, float] = WeakKeyDictionary()  # padded tokens a second, of one stream
        self._running: set[asyncio.Task[None]] = set()

    async def run(self, engine: Engine, rows: Sequence[Ids]) -> Scored:
        """Score rows of token ids; returns when all of them are done."""
        if not rows:
            return Scored([], 0)
        loop = asyncio.get_running_loop()
        job = _Job(engine, loop.create_future(), time.monotonic(), [_NOTHING] * len(rows), len(rows))
        group = getattr(engine, "group", None) or engine
        for place, ids in enumerate(rows):
            key = (group, tokens.width(len(ids)))
            pile = self._piles.get(key)
            if pile is None:
                pile = self._piles[key] = _Pile(*key)
            pile.rows.append(_Row(job, place, ids))
        self._begin()
        return await job.future

    def close(self) -> None:
        """Let go of the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _begin(self) -> None:
        """Start a run on each stream that is free, while rows wait."""
        while self._free and self._piles:
            pile = self._choose()
            batch = self._take(pile)
            if batch:
                self._free -= 1
                task = asyncio.ensure_future(self._work(pile, batch))
                self._running.add(task)
                task.add_done_callback(self._running.discard)

    def _choose(self) -> _Pile:
        """The pile to run next: what is overdue, else what makes the largest run."""
        piles = self._piles.values()
        oldest = min(piles, key=_since)
        if len(self._piles) == 1 or time.monotonic() - _since(oldest) > self._half_s:
            return oldest
        return max(piles, key=lambda pile: (min(len(pile.rows) * pile.width, self._most(pile)), -_since(pile)))

    def _most(self, pile: _Pile) -> int:
        """Padded tokens that a run of this pile may have."""
        speed = self._speeds.get(pile.group)
        return min(self._budget, FIRST_TOKENS if speed is None else max(LEAST_TOKENS, int(speed * self._half_s)))

    def _take(self, pile: _Pile) -> list[_Row]:
        """Rows from the front of a pile, at least one; none of a request that has failed."""
        most = max(1, self._most(pile) // pile.width)
        if len(self._piles) == 1:
            most = min(most, -(-len(pile.rows) // self._free))  # nothing else is there for the other streams
        batch: list[_Row] = []
        while pile.rows and len(batch) < most:
            row = pile.rows.popleft()
            if not row.job.future.done():
                batch.append(row)
        if not pile.rows:
            del self._piles[pile.group, pile.width]
        return batch

    async def _work(self, pile: _Pile, batch: list[_Row]) -> None:
        loop = asyncio.get_running_loop()
        try:
            scores, spent, seconds = await loop.run_in_executor(self._threads, self._timed, pile.group, batch)
        except Exception as error:  # noqa: BLE001 - whatever the engine raised belongs to those who wait for it
            for row in batch:
                if not row.job.future.done():
                    row.job.future.set_exception(error)
        else:
            self._learn(pile, len(batch) * pile.width / seconds)
            self._share(batch, scores, spent)
        finally:
            self._free += 1
            self._begin()

    def _timed(self, group: object, batch: list[_Row]) -> tuple[list[NDArray[np.float32]], int, float]:
        rows = [row.ids for row in batch]
        begun = time.perf_counter()
        with self.spending.work() as work:
            if isinstance(group, Group):
                scores = group.outputs_each([row.job.engine for row in batch], rows)
            else:
                scores = batch[0].job.engine.outputs(rows)
        return scores, work.ns, time.perf_counter() - begun

    def _learn(self, pile: _Pile, speed: float) -> None:
        known = self._speeds.get(pile.group, speed)
        self._speeds[pile.group] = _MEMORY * known + (1 - _MEMORY) * speed

    def _share(self, batch: list[_Row], scores: Sequence[NDArray[np.float32]], spent: int) -> None:
        self.batches += 1
        total = sum(_weight(row.ids) for row in batch)
        done = charged = 0
        for row, found in zip(batch, scores, strict=True):
            job = row.job
            done += _weight(row.ids)
            job.compute_ns += spent * done // total - charged  # the shares sum to what was spent
            charged = spent * done // total
            job.outputs[row.place] = found
            job.left -= 1
            if not job.left and not job.future.done():
                job.future.set_result(Scored(job.outputs, job.compute_ns))


def _since(pile: _Pile) -> float:
    return pile.rows[0].job.since


def _weight(ids: Ids) -> int:
    """A row's work; one without tokens is run all the same."""
    return len(ids) or 1
