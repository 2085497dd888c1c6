"""Shadows: releases that are asked what others were asked, off the request's path, and never charged to anybody.

What was answered is compared with what the shadow says, and only that is kept: how many, how many said the same. A
request waits for none of it. While requests are inside, a shadow is asked at most once a second; what waits too long
behind them is dropped, and counted as that.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from feilun.errors import FeilunError, UnavailableError
from feilun.serve.comparing import compare
from feilun.serve.loading import Loaded
from feilun.serve.logs import frames, note
from feilun.serve.metrics import Metrics
from feilun.serve.shelf import Shelf
from feilun.store import ledger, rollouts
from feilun.store.database import Database
from feilun.store.rollouts import Agreement

if TYPE_CHECKING:
    from feilun.serve.answering import Asked, Computed

MOST = 64  # answers that wait for their comparison
PATIENCE_S = 1.0  # how long a comparison waits for a moment without requests
FLUSH_S = 0.5  # how often what was counted is written down
_NOBODY = ledger.Charge("", 0, "", 0, 0)


@dataclass(frozen=True)
class _Waiting:
    """An answer that was given, and the release that is asked the same."""

    asked: Asked
    release: str
    computed: Computed
    shadow: Loaded


class Shadowing:
    """Compares for one process; used from the event loop's thread only.

    Args:
        busy: whether requests are inside, which go first.
    """

    def __init__(self, shelf: Shelf, busy: Callable[[], bool]) -> None:
        self.metrics: Metrics | None = None
        self._shelf = shelf
        self._busy = busy
        self._waiting: deque[_Waiting] = deque()
        self._more = asyncio.Event()
        self._counted: dict[tuple[str, str, str], Agreement] = {}

    def offer(self, asked: Asked, loaded: Loaded, computed: Computed) -> None:
        """Compare what was just answered, if the release's name has a shadow that takes the request."""
        found = self._shelf.shadow_of(loaded.name)
        if found is None or not found[0].takes(asked.caller.tenant, asked.idempotency_key):
            return
        rollout, shadow = found
        if rollout.release == loaded.digest:
            return
        if shadow is None or len(self._waiting) >= MOST:
            self._count(Agreement(loaded.name, loaded.digest, str(rollout.release), dropped=1))
            return
        self._waiting.append(_Waiting(asked, loaded.digest, computed, shadow))
        self._more.set()

    async def follow(self, database: Database) -> None:
        """Compare for ever, and write down what was counted."""
        writing = asyncio.create_task(self._write_for_ever(database))
        try:
            while True:
                await self._more.wait()
                await self._quiet()
                if self._waiting:
                    self._count(await self._compare(self._waiting.popleft()))
                if not self._waiting:
                    self._more.clear()
        finally:
            writing.cancel()

    async def flush(self, database: Database) -> None:
        """Write down what was counted; where that fails it is kept for the next time."""
        counted, self._counted = self._counted, {}
        if not counted:
            return
        try:
            await asyncio.wrap_future(database.submit(partial(rollouts.count, found=list(counted.values()))))
        except (UnavailableError, SQLAlchemyError):
            for agreement in counted.values():
                self._add(agreement)

    async def _write_for_ever(self, database: Database) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush(database)

    async def _quiet(self) -> None:
        end = time.monotonic() + PATIENCE_S
        while self._busy() and time.monotonic() < end:
            await asyncio.sleep(0.01)

    async def _compare(self, one: _Waiting) -> Agreement:
        mine = Agreement(one.shadow.name, one.release, one.shadow.digest)
        try:
            with one.shadow.in_use():
                work = await one.asked.begin(one.shadow)
                try:
                    said = await work.compute()
                finally:
                    work.close()
            found = compare(one.computed.render(_NOBODY), said.render(_NOBODY))
        except FeilunError:
            return mine.plus(Agreement(mine.name, mine.release, mine.shadow, failed=1))
        except Exception as error:  # noqa: BLE001 - whatever it was, nobody was waiting for this answer
            note(logging.WARNING, "shadow-failed", kind=type(error).__name__, frames=frames(error.__traceback__))
            return mine.plus(Agreement(mine.name, mine.release, mine.shadow, failed=1))
        times = {"release_ns": one.computed.compute_ns, "shadow_ns": said.compute_ns}
        more = Agreement(mine.name, mine.release, mine.shadow, 1, int(found.same), furthest=found.furthest, **times)
        return mine.plus(more)

    def _count(self, agreement: Agreement) -> None:
        self._add(agreement)
        if self.metrics is not None:
            differed = agreement.compared - agreement.agreed
            outcomes = {"agreed": agreement.agreed, "differed": differed}
            outcomes |= {"failed": agreement.failed, "dropped": agreement.dropped}
            for outcome, times in outcomes.items():
                self.metrics.shadows.labels(agreement.shadow, outcome).inc(times)

    def _add(self, agreement: Agreement) -> None:
        key = (agreement.name, agreement.release, agreement.shadow)
        before = self._counted.get(key)
        self._counted[key] = agreement if before is None else before.plus(agreement)
