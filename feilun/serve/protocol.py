"""HTTP connections that do not wait for ever: for headers that do not come, and for readers that do not read.

uvicorn closes connections that are idle between two requests; it waits without end for the headers of one that has
begun, and for room to write to a client that takes nothing. Here both have a time. Bodies have theirs in ``bodies``.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's own, with two timers; made by ``with_patience``. A request that is complete at once starts neither."""

    header_s = 10.0
    write_s = 30.0

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._heads = 0  # requests whose headers are complete
        self._heard = False
        self._answered: Any = None  # the request that is answered now
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """The first request's headers have to come in time."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(self.header_s, self._give_up_reading)

    def data_received(self, data: bytes) -> None:
        """Headers that have begun have to end in time; every byte more does not begin it anew."""
        heads, self._heard = self._heads, True
        super().data_received(data)
        waits = self.cycle is None or self.cycle.response_complete
        if heads == self._heads and waits and self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(self.header_s, self._give_up_reading)

    def on_headers_complete(self) -> None:
        """They came."""
        self._heads += 1
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()

    def pause_writing(self) -> None:
        """The client does not take what is written to it."""
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.write_s, self._give_up_writing)

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more, and nobody is there to be answered.

        uvicorn tells this to the newest request alone; with pipelining the one that is answered is an older one.
        """
        if self._answered is not None:
            self._answered.disconnected = True
        self.pipeline.clear()
        for timer in (self._head_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._write_timer = None
        super().connection_lost(exc)

    def _give_up_reading(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            if self._heard:
                self.transport.write(_TOO_SLOW)
            self.transport.close()

    def _give_up_writing(self) -> None:
        self._write_timer = None
        self.transport.abort()  # closing would wait for the same reader


def with_patience(header_s: float, write_s: float) -> type[PatientProtocol]:
    """The protocol with its times in seconds, for ``uvicorn.Config(http=...)``."""
    return type("PatientProtocol", (PatientProtocol,), {"header_s": header_s, "write_s": write_s})
