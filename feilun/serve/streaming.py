"""An answer that is told while it is written (server-sent events), and charged for what was delivered.

The order: durable hold, first piece, a checkpoint in the ledger, first token. From then on a checkpoint follows every
so many tokens or seconds, and the whole is committed before the end is told. Whoever breaks off, caller or gateway,
leaves one ``partial`` usage row: of the tokens that were handed to the connection, or of those of the last checkpoint.

``Telling`` writes, in the task that holds and charges; ``EventStream`` sends, in the caller's own; a ``Channel`` is
between them, so that a caller who reads slowly keeps no engine waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from feilun.errors import FeilunError
from feilun.models.decoder import Decoder, Piece
from feilun.serve import problems
from feilun.serve.answering import Answered, Asked, Computed, Delivering
from feilun.serve.crash import crash_point, torn
from feilun.serve.gateway import Gateway
from feilun.serve.loading import Loaded
from feilun.serve.problems import RequestError
from feilun.serve.settings import GatewaySettings
from feilun.serve.writing import Wanted, Writing, failure_of, usage, written
from feilun.store import ledger
from feilun.store.counts import Counts

KIND = "text/event-stream"
_DONE = b"data: [DONE]\n\n"


@dataclass
class Script:
    """A stream as it is kept: what its events share, and what each of them says beside that.

    The same script is told as the same bytes, whenever it is. ``whole``: its end was committed with it.
    """

    head: Mapping[str, Any]
    events: list[str] = field(default_factory=list)  # JSON objects
    whole: bool = False

    @classmethod
    def read(cls, kept: bytes) -> Script:
        """From ``kept``."""
        said = json.loads(kept)
        return cls(said["head"], [written(event) for event in said["events"]], said["whole"])

    def kept(self, events: Sequence[str], *, whole: bool = False) -> bytes:
        """This script with these events, as it is stored."""
        told = "true" if whole else "false"
        return f'{{"head":{written(self.head)},"events":[{",".join(events)}],"whole":{told}}}'.encode()

    def lines(self, events: Sequence[str]) -> bytes:
        """Events as they are sent."""
        head = written(self.head)[:-1]
        return "".join(f"data: {head},{event[1:]}\n\n" for event in events).encode()

    def told(self, begin: int = 0) -> bytes:
        """The events from a number on, and how it ends."""
        return self.lines(self.events[begin:]) + (_DONE if self.whole else problem(_broken_off()))


def problem(error: FeilunError) -> bytes:
    """An error as an event, in the shape that it would have as an answer of its own."""
    return b"data: " + bytes(problems.answer(error).body) + b"\n\n"


class Channel:
    """Batches of events on their way from who writes to who sends.

    ``handed`` is how many of them the connection has; ``gone``: nobody takes any more. ``failure`` is why the writing
    ended early, where it did. ``cut``: what is still to be sent must not be.
    """

    def __init__(self) -> None:
        self.request = ""  # its id, known with the first batch
        self.handed = 0
        self.events = 0  # in the batches that were handed over
        self.gone = False
        self.failure: FeilunError | None = None
        self._batches: asyncio.Queue[tuple[bytes, int] | None] = asyncio.Queue()
        self._taken = asyncio.Event()
        self.cut = asyncio.Event()
        self._writer: Telling | None = None

    def open(self, request: str, writer: Telling) -> None:
        """Somebody writes."""
        self.request, self._writer = request, writer

    def put(self, lines: bytes, events: int) -> None:
        """A batch, of so many events."""
        self._batches.put_nowait((lines, events))

    async def drained(self, seconds: float) -> None:
        """Nothing more is put: wait until all of it was handed over, or nobody takes it, or the time is over."""
        self._batches.put_nowait(None)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._taken.wait()
                return
        self.gone = True
        self.cut.set()

    async def take(self) -> tuple[bytes, int] | None:
        """The next batch, when it may be handed over; None when there is no more.

        Raises:
            FeilunError: what was handed over cannot be written down, so nothing more may be.
        """
        batch = await self._batches.get()
        if batch is None:
            self._taken.set()
        elif self._writer is not None:
            await self._writer.clear(self.handed)
        return batch

    def hand_over(self, events: int) -> None:
        """The connection has the batch that was taken last."""
        self.handed += 1
        self.events += events

    @property
    def texts(self) -> Sequence[str]:
        """What was sent to be answered."""
        return self._writer.texts if self._writer is not None else ()

    def leave(self) -> None:
        """Nobody takes what is still to come."""
        self.gone = True
        self._taken.set()
        if self._writer is not None:
            self._writer.interrupt(GoneError())


class GoneError(FeilunError):
    """The caller went before anything was delivered."""

    code = "gone"
    status = 499

    def __init__(self) -> None:
        super().__init__("the caller has gone")


class Telling(Writing, Delivering):
    """Writing that is told while it is done (``feilun.serve.answering.Work``)."""

    def __init__(
        self, loaded: Loaded, decoder: Decoder, wanted: Wanted, channel: Channel, settings: GatewaySettings
    ) -> None:
        super().__init__(loaded, decoder, wanted)
        self._channel = channel
        self._settings = settings
        self._script = Script({})
        self._told: dict[int, int] = {}  # characters of each choice that was begun
        self._marks: list[tuple[int, Counts]] = []  # after each batch: events and units
        self._noted, self._noted_at = 0, 0.0  # tokens and time of the newest checkpoint,
        self._durable = 0  # tokens of the newest that is on disk
        self._noting: asyncio.Task[None] | None = None

    async def compute(self) -> Computed:
        """Write all of it, tell it, and wait until it is delivered; or as far as that goes.

        Raises:
            FeilunError: it failed, or its caller went, before anything was delivered.
        """
        channel = self._channel
        channel.open(self.request, self)
        self._script = Script(self.head(self.request, int(time.time()), self.form.part))
        try:
            await self._tell()
        except Exception as error:
            if not self._marks:
                raise
            channel.failure = channel.failure or failure_of(error)
        self.free(self.used.tokens + self.used["tokens_out"])
        await channel.drained(self._settings.deliver_s)
        self.close()
        if channel.failure is None and channel.handed == len(self._marks) and not channel.gone:
            return Computed(self.used, self.compute_ns, self._whole)
        if not channel.handed:
            raise channel.failure or GoneError()
        events, units = self._marks[channel.handed - 1]
        said = self._script.events[:events]
        return Computed(units, self.compute_ns, lambda _: self._script.kept(said), partial=True)

    async def _tell(self) -> None:
        async with contextlib.aclosing(self._batches()) as batches:
            async for batch in batches:
                self._script.events += batch
                self._marks.append((len(self._script.events), self.used))
                if len(self._marks) == 1:
                    await self._note(*self._marks[0])
                    crash_point("stream-begun")
                self._channel.put(self._script.lines(batch), len(batch))

    async def _batches(self) -> AsyncGenerator[list[str], None]:
        """Events of each piece that has something to tell; what has not is told with the next one."""
        waiting: dict[int, Piece] = {}
        async with contextlib.aclosing(self.pieces()) as pieces:
            async for index, piece in pieces:
                before = waiting.pop(index, None)
                whole = piece if before is None else replace(piece, chances=(*before.chances, *piece.chances))
                if not whole.text and not (whole.finish and whole.chances):
                    waiting[index] = whole
                    continue
                events = [] if index in self._told else [self.form.opening(index)]
                events.append(self.form.piece(index, whole, self._told.get(index, 0)))
                self._told[index] = self._told.get(index, 0) + len(whole.text)
                yield [self._event(choice) for choice in events if choice is not None]

    def _event(self, choice: dict[str, Any]) -> str:
        return written({"choices": [choice]} | ({"usage": None} if self.wanted.tells_usage else {}))

    async def clear(self, number: int) -> None:
        """Let a batch be handed over: what is on disk is never further behind than a checkpoint's interval.

        Raises:
            UnavailableError: the ledger is out of reach.
            ConflictError: the hold was lost.
        """
        settings, wrote = self._settings, self._marks[number][1]["tokens_out"]
        if self._noting is not None and self._noting.done():
            self._noting.result()
            self._noting = None
        late = time.monotonic() - self._noted_at >= settings.checkpoint_s
        if self._noting is None and number and (late or wrote - self._noted >= settings.checkpoint_tokens // 2):
            self._noting = asyncio.create_task(self._note(*self._marks[number - 1]))  # while more is told
            self._noting.add_done_callback(lambda task: task.cancelled() or task.exception())  # perhaps nobody asks
        if self._noting is not None and wrote - self._durable > settings.checkpoint_tokens:
            await self._noting

    async def _note(self, events: int, units: Counts) -> None:
        """Write down what was delivered."""
        self._noted, self._noted_at = units["tokens_out"], time.monotonic()
        said = self._script.events[:events]
        await self.note(Computed(units, self.compute_ns, lambda _: self._script.kept(said), partial=True))
        self._durable = units["tokens_out"]

    def _whole(self, charge: ledger.Charge) -> bytes:
        events = list(self._script.events)
        for index, said in enumerate(self.said):
            assert said.finish is not None
            opening = None if index in self._told else self.form.opening(index)
            events += [self._event(c) for c in (opening, self.form.closing(index, said.finish)) if c is not None]
        if self.wanted.tells_usage:
            events.append(written({"choices": [], "usage": usage(self.used, charge)}))
        return self._script.kept(events, whole=True)


class EventStream(Response):
    """Sends what a channel brings, and the end once it is committed."""

    def __init__(self, gateway: Gateway, request: Request, channel: Channel, answering: asyncio.Task[Answered]) -> None:
        self.status_code = 200
        self.media_type = KIND
        self.background = None
        self.init_headers({"X-Request-Id": channel.request, "X-Accel-Buffering": "no"})
        self._gateway, self._request, self._channel, self._answering = gateway, request, channel, answering
        self._first: tuple[bytes, int] | None = None

    def begin(self, batch: tuple[bytes, int]) -> EventStream:
        """With the batch that was waited for before there was a response."""
        self._first = batch
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        gone = asyncio.ensure_future(departure(receive))
        cut = asyncio.ensure_future(self._channel.cut.wait())
        telling: asyncio.Future[None] | None = None
        try:
            await asyncio.sleep(0)  # who has gone already is not sent the first batch, nor charged for it
            if not gone.done():
                telling = asyncio.ensure_future(self._tell(send))
                await asyncio.wait((telling, gone, cut), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._channel.leave()
            tasks: list[asyncio.Future[Any]] = [task for task in (telling, gone, cut) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(FeilunError):  # the lease ends, and whoever finds it charges the last checkpoint
            _count(self._gateway, self._request, self._channel, await asyncio.shield(self._answering))
        if telling is not None and not telling.cancelled():
            telling.result()

    async def _tell(self, send: Send) -> None:
        channel, batch = self._channel, self._first
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            while batch is not None:
                await send({"type": "http.response.body", "body": batch[0], "more_body": True})
                channel.hand_over(batch[1])
                await torn("stream-told")
                batch = await channel.take()
            answered = await asyncio.shield(self._answering)
            script = Script.read(answered.body)
            end = script.told(channel.events) if channel.failure is None else problem(channel.failure)
        except FeilunError as error:
            self._request.state.code = error.name
            channel.failure = channel.failure or error
            channel.leave()
            end = problem(error)
        await send({"type": "http.response.body", "body": end, "more_body": False})


async def streamed(gateway: Gateway, request: Request, asked: Asked, channel: Channel) -> Response:
    """Answer a request by a stream of what its work tells; a repetition gets the stored stream, free.

    Raises:
        FeilunError: refused before anything was told, and not charged.
        ClientDisconnect: the caller went before that.
    """
    answering = gateway.answering.later(gateway.answering.answer(asked))
    first, gone = asyncio.ensure_future(channel.take()), asyncio.ensure_future(departure(request.receive))
    try:
        await asyncio.wait((answering, first, gone), return_when=asyncio.FIRST_COMPLETED)
        if first.done() and (batch := first.result()) is not None:
            request.state.request = channel.request
            return EventStream(gateway, request, channel, answering).begin(batch)
        if gone.done() and not answering.done():
            channel.leave()
            answering.cancel()
            raise ClientDisconnect
        answered = await asyncio.shield(answering)
    finally:
        for task in (first, gone):
            task.cancel()
        await asyncio.gather(first, gone, return_exceptions=True)
    request.state.request = answered.request
    headers = {"X-Request-Id": answered.request}
    if answered.done is None:
        gateway.metrics.replays.inc()
        headers["Idempotent-Replay"] = "true"
    _count(gateway, request, channel, answered)
    return Response(Script.read(answered.body).told(), 200, headers, KIND)


def writer(gateway: Gateway, loaded: Loaded, decoder: Decoder, wanted: Wanted, channel: Channel | None) -> Writing:
    """The work of a request that writes, told to a channel where there is one."""
    if channel is None:
        return Writing(loaded, decoder, wanted)
    return Telling(loaded, decoder, wanted, channel, gateway.settings)


async def departure(receive: Receive) -> None:
    """Returns when the caller has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _count(gateway: Gateway, request: Request, channel: Channel, answered: Answered) -> None:
    if answered.done is None:
        return
    if gateway.prompts is not None:
        gateway.prompts.note(answered.request, request.state.tenant, request.state.model, channel.texts)
    units, metrics = answered.done.units, gateway.metrics
    request.state.inputs, request.state.tokens = units.inputs, units.tokens
    request.state.tokens_out = units["tokens_out"] or None
    request.state.release = answered.done.release
    metrics.inputs.inc(units.inputs)
    metrics.tokens.inc(units.tokens)
    metrics.core_seconds.inc(answered.done.compute_ns / 1e9)


def _broken_off() -> RequestError:
    return RequestError(
        "the answer was broken off here",
        status=409,
        code="broken-off",
        hint="what was delivered is charged and kept; a new Idempotency-Key has it written anew",
    )
