"""Waiting for the database, but not for ever: a link can go silent without closing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from feilun.errors import UnavailableError

T = TypeVar("T")
READERS = 10  # threads, as many as the pool has connections


class Patience:
    """Gives up after ``seconds``; what was begun goes on by itself, and its outcome is found by reading again later.

    Reading has threads of its own, so that those which a silent link holds up keep nobody else from working.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._threads = ThreadPoolExecutor(READERS, "feilun-reader")

    async def read(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function that reads the database in a thread.

        Raises:
            UnavailableError: it takes too long.
        """
        return await self.wait(asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments))

    async def wait(self, work: Awaitable[T]) -> T:
        """Wait for what the database does.

        Raises:
            UnavailableError: it takes too long.
        """
        try:
            async with asyncio.timeout(self._seconds):
                return await work
        except TimeoutError:
            raise UnavailableError(
                "the database does not answer", hint="send it again with the same Idempotency-Key", code="no-database"
            ) from None
