"""A task's own ``answer`` behind the gateway: what is served is decoded by the very code that was evaluated.

    work = await begin(answering, loaded, frame, render)

``answer`` runs in a thread and asks its engine for outputs; the engine that it is given hands the rows to the gateway
and waits. So between the tokens and the run of the engine there is room for the permit and the durable hold.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feilun.models.inference import Engine
from feilun.serve.answering import Answering, Computed
from feilun.serve.shelf import Loaded
from feilun.store import ledger
from feilun.store.counts import Counts

if TYPE_CHECKING:
    import polars as pl

Outputs = list[NDArray[np.float32]]
Render = Callable[[list[dict[str, Any]], Counts, ledger.Charge], bytes]  # what was said, the units, the charge
_THREADS = ThreadPoolExecutor(64, "feilun-task")  # they wait most of the time


class _AbandonedError(Exception):
    """The request was refused meanwhile."""


@dataclass(frozen=True)
class Wanted:
    """Rows that a task wants outputs of, and where they go."""

    rows: Sequence[Sequence[int]]
    outputs: Future[Outputs]


class _Relay:
    """An engine whose outputs come from the gateway's batches."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        self.head, self.labels, self.context = engine.head, engine.labels, engine.context
        self.tokenizer, self.decided, self.encode = engine.tokenizer, engine.decided, engine.encode
        self.wanted: asyncio.Queue[Wanted] = asyncio.Queue()
        self.closed = False
        self._loop = loop

    def run(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """As ``feilun.models.inference.Engine``."""
        return np.stack(self.outputs(rows)) if rows else np.zeros((0, len(self.labels)), np.float32)

    def outputs(self, rows: Sequence[Sequence[int]]) -> Outputs:
        """As ``feilun.models.inference.Engine``."""
        wanted = Wanted(rows, Future())
        self._loop.call_soon_threadsafe(self._want, wanted)
        return wanted.outputs.result()

    def close(self) -> None:
        """Nobody will answer any more."""
        self.closed = True
        while not self.wanted.empty():
            self.wanted.get_nowait().outputs.set_exception(_AbandonedError())

    def _want(self, wanted: Wanted) -> None:
        if self.closed:
            wanted.outputs.set_exception(_AbandonedError())
        else:
            self.wanted.put_nowait(wanted)


class Relaying:
    """Some rows of a task on their way; made by ``begin``."""

    def __init__(self, answering: Answering, loaded: Loaded, frame: pl.DataFrame, render: Render) -> None:
        self.loaded = loaded
        self.texts: list[str] = frame["text"].to_list()
        self._answering = answering
        self._render = render
        self._relay = _Relay(loaded.engine, asyncio.get_running_loop())
        task = importlib.import_module(f"feilun.tasks.{loaded.task}")
        self._said = asyncio.wrap_future(_THREADS.submit(task.answer, self._relay, frame))
        self._said.add_done_callback(lambda said: said.cancelled() or said.exception())  # it may be nobody's by then
        self._open: Wanted | None = None
        self.units = Counts(1, frame.height)

    async def next_rows(self) -> bool:
        """Wait until the task wants outputs; False when it has answered instead.

        Raises:
            FeilunError: what the task raised.
        """
        wanted = asyncio.ensure_future(self._relay.wanted.get())
        try:
            await asyncio.wait((self._said, wanted), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if wanted.done():
                self._open = wanted.result()
            else:
                wanted.cancel()
        if self._open is None:
            self._said.result()
        return self._open is not None

    async def compute(self) -> Computed:
        """Run the engine for whatever rows the task wants, in batches with whoever else waits."""
        spent = 0
        while self._open is not None:
            wanted = self._open
            scored = await self._answering.batcher.run(self.loaded.engine, wanted.rows)
            spent += scored.compute_ns
            self._open = None
            wanted.outputs.set_result(scored.outputs)
            await self.next_rows()
        said = self._said.result().said
        return Computed(self.units, spent, lambda charge: self._render(said, self.units, charge))

    def count(self) -> None:
        """Count the tokens of the rows that are wanted first; all that is charged."""
        rows = self._open.rows if self._open else ()
        self.units = self.units.plus(Counts(tokens=sum(map(len, rows))))

    def close(self) -> None:
        """Let the thread go, if it still waits."""
        if self._open is not None:
            self._open.outputs.set_exception(_AbandonedError())
            self._open = None
        self._relay.close()


async def begin(answering: Answering, loaded: Loaded, frame: pl.DataFrame, render: Render) -> Relaying:
    """Start a task on N questions (a column for each of its ``READS``), up to its tokens.

    Raises:
        FeilunError: the task cannot be asked that.
    """
    work = Relaying(answering, loaded, frame, render)
    try:
        await work.next_rows()
    except BaseException:
        work.close()
        raise
    work.count()
    return work
