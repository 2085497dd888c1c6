"""Working on batches: each line is asked by the route that its tenant would ask, after everybody who waits for answers.

A line's idempotency key follows from its batch and its number. So a gateway that dies is no harm: the next one asks
all lines again, and those that were answered are given again and not charged. A gateway renews its lease every second,
and sees then whether the batch was cancelled, has expired, or the key by which it is asked was revoked.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import IO, Any

from fastapi import FastAPI
from sqlalchemy import select
from ulid import ULID

from feilun.accounts import access
from feilun.errors import AccessError, ConflictError, FeilunError, UnavailableError
from feilun.serve import batch_lines
from feilun.serve.batch_lines import Line, Reply
from feilun.serve.gateway import Gateway
from feilun.serve.logs import frames, note
from feilun.serve.routing import INSIDE, Inside
from feilun.store import batches, files, leases, tables
from feilun.store.batches import Batch
from feilun.store.database import now_us

AT_ONCE = 4  # batches that one gateway works on, each of another tenant
WIDTH = 8  # lines of a batch that are asked at once, so that they share runs of the engine
BEAT_S = 1.0
SWEEP_S = 600.0  # how often files that have expired are deleted
LONGEST_PAUSE_S = 5.0
MEMORY = 1_000_000  # bytes of each file that comes out that are kept in memory; more go to a temporary file
_LATER = ("busy", "too-many-at-once", "rate-limited", "in-progress")  # refusals that pass
_WHY = {
    "expired": {"code": "batch_expired", "message": "the batch's time was over before this line was asked"},
    "cancelled": {"code": "batch_cancelled", "message": "the batch was cancelled before this line was asked"},
    "failed": {"code": "invalid-key", "message": "the key by which the batch was made is not valid any more"},
}


class _LostError(Exception):
    """Somebody else works on the batch by now."""


class Batches:
    """The batches that this process works on."""

    def __init__(self, app: FastAPI, gateway: Gateway) -> None:
        self._app = app
        self._gateway = gateway
        self._holder = str(ULID())
        self._tasks: set[asyncio.Task[None]] = set()

    async def follow(self) -> None:
        """Take what is there to do, for ever."""
        swept = -SWEEP_S
        clock = asyncio.get_running_loop().time
        try:
            while True:
                with contextlib.suppress(UnavailableError):  # the database is away; batches can wait
                    if clock() >= swept + SWEEP_S:
                        await self.write(files.sweep)
                        swept = clock()
                    await self._take()
                await asyncio.sleep(self._gateway.settings.batch_poll_s)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def write(self, job: Any, order: str = "~batches") -> Any:
        """Run a job in a transaction; ``order`` is the tenant whose books it locks, if it does."""
        future = self._gateway.database.submit(job, order=order)
        return await self._gateway.answering.patience.wait(asyncio.shield(asyncio.wrap_future(future)))

    async def _take(self) -> None:
        mode = self._gateway.settings.mode
        while len(self._tasks) < AT_ONCE and not self._gateway.draining:
            batch = await self.write(
                lambda c: batches.take(c, self._holder, self._gateway.settings.batch_lease_s, mode=mode)
            )
            if batch is None:
                return
            task = asyncio.create_task(self._work(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _work(self, batch: Batch) -> None:
        working = Working(self, self._app, self._gateway, batch, self._holder)
        try:
            await working.run()
        except (UnavailableError, ConflictError, _LostError) as error:
            note(logging.WARNING, "batch-put-off", tenant=batch.tenant, kind=type(error).__name__)
        except FeilunError as error:
            told = {"code": error.name, "message": error.what, "param": error.where, "line": None}
            with contextlib.suppress(UnavailableError):
                await self.write(lambda c: batches.reach(c, batch, self._holder, "failed", errors=[told]))
        except asyncio.CancelledError:  # this gateway stops: another one may go on at once
            values = {"lease_until": 0}
            self._gateway.database.submit(lambda c: leases.change(c, tables.batches, batch.id, self._holder, **values))
            raise
        except Exception as error:  # noqa: BLE001 - a bug of ours: its place is logged; the lease ends, others go on
            note(logging.ERROR, "unexpected", kind=type(error).__name__, frames=frames(error.__traceback__))


class Working:
    """One batch being worked on."""

    def __init__(self, all_: Batches, app: FastAPI, gateway: Gateway, batch: Batch, holder: str) -> None:
        self._write = all_.write
        self._app = app
        self._gateway = gateway
        self._database = gateway.database
        self._batch = batch
        self._holder = holder
        self._completed = self._failed = 0
        self._ends: str | None = None  # the state that it ends in before all lines are asked
        self._caller: access.Caller | None = None
        self._lost = False

    async def run(self) -> None:
        """Bring the batch to its end, or leave it to somebody else.

        Raises:
            FeilunError: it cannot go on; where that passes, an UnavailableError or ConflictError.
        """
        batch = self._batch
        await self._look()
        beating = asyncio.create_task(self._beat())
        try:
            file = await asyncio.to_thread(self._input)
            if batch.state == "validating" and not await self._begin(file):
                return
            with tempfile.SpooledTemporaryFile(MEMORY) as output, tempfile.SpooledTemporaryFile(MEMORY) as errors:
                lines = batch_lines.read(self._database, batch, file)
                while chunk := await asyncio.to_thread(_some, lines, WIDTH):
                    await self._ask_all(chunk, output, errors)
                await self._finish(output, errors)
        finally:
            beating.cancel()

    def _input(self) -> files.File:
        with self._database.read() as connection:
            return files.get(connection, self._batch.tenant, self._batch.input_file)

    async def _begin(self, file: files.File) -> bool:
        """Look at every line before the first one is asked; False where they cannot be."""
        total, problems = await asyncio.to_thread(batch_lines.problems, self._database, self._batch, file)
        if problems:
            await self._reach("failed", errors=problems)
            return False
        await self._reach("in_progress", total=total)
        return True

    async def _ask_all(self, chunk: Sequence[Line], output: IO[bytes], errors: IO[bytes]) -> None:
        replies = await asyncio.gather(*(self._reply(line) for line in chunk))
        if self._lost:
            raise _LostError
        for line, reply in zip(chunk, replies, strict=True):
            is_good = reply.status == 200
            self._completed += is_good
            self._failed += not is_good
            (output if is_good else errors).write(batch_lines.written(self._batch, line, reply))

    async def _reply(self, line: Line) -> Reply:
        """Ask one line, again where it was refused for now."""
        while self._ends is None and not self._lost:
            assert self._caller is not None
            inside = Inside(self._caller, self._batch.line_key(line.number))
            status, headers, raw = await ask(self._app, self._gateway, self._batch.endpoint, line.body, inside)
            body = json.loads(raw)
            again = status == 503 or (status in (409, 429) and body["error"]["code"] in _LATER)
            if not again:
                return Reply(status, headers.get("x-request-id"), body)
            await asyncio.sleep(min(LONGEST_PAUSE_S, float(headers.get("retry-after", "1"))))
        return Reply(0, None, None, _WHY.get(self._ends or "expired"))

    async def _finish(self, output: IO[bytes], errors: IO[bytes]) -> None:
        """Keep what came out, and end the batch: both in one transaction."""
        await self._reach("finalizing", completed=self._completed, failed=self._failed)
        kept = []
        for column, content in (("output_file", output), ("error_file", errors)):
            if content.tell():
                digest, size = await asyncio.to_thread(files.write_parts, self._database, self._batch.tenant, content)
                name = f"{self._batch.id}_{column.removesuffix('_file')}.jsonl"
                keep_s = self._batch.said.get("keep_s", files.BATCH_S)
                kept.append((column, self._wanted(name, keep_s), digest, size))
        state = self._ends or "completed"

        def end(connection: Any) -> Batch | None:
            found = {c: files.keep(connection, wanted, digest, size).id for c, wanted, digest, size in kept}
            told: dict[str, Any] = {"completed": self._completed, "failed": self._failed, **found}
            if state == "failed":
                told["errors"] = [_WHY["failed"] | {"param": None, "line": None}]
            ended = batches.reach(connection, self._batch, self._holder, state, **told)
            if ended is None:
                raise ConflictError("the batch is somebody else's by now")
            return ended

        await self._write(end, self._batch.tenant)

    def _wanted(self, name: str, keep_s: int) -> files.Wanted:
        return files.Wanted(self._batch.tenant, self._batch.key, "batch_output", name, keep_s)

    async def _reach(self, state: str, **values: Any) -> None:
        reached = await self._write(lambda c: batches.reach(c, self._batch, self._holder, state, **values))
        if reached is None:
            raise _LostError
        if reached.state == "cancelling":
            self._ends = "cancelled"

    async def _beat(self) -> None:
        """Hold the batch, say how far it is, and see what became of it, every second."""
        while True:
            await asyncio.sleep(BEAT_S)
            try:
                await self._look()
            except UnavailableError:  # it was not seen this time; the lease is longer than that
                continue
            except _LostError:
                return

    async def _look(self) -> None:
        values = {"completed": self._completed, "failed": self._failed}
        lease_s = self._gateway.settings.batch_lease_s

        def look(connection: Any) -> tuple[str | None, bool]:
            if self._completed or self._failed:
                leases.change(connection, tables.batches, self._batch.id, self._holder, **values)
            state = leases.renew(connection, tables.batches, self._batch.id, self._holder, lease_s)
            ends = select(tables.batches.c.expires_at).where(tables.batches.c.id == self._batch.id)
            return state, now_us(connection) >= connection.execute(ends).scalar_one()

        state, is_over = await self._write(look)
        if state is None:
            self._lost = True
            raise _LostError
        try:
            key = self._batch.key
            self._caller = await self._gateway.answering.patience.read(access.of_key, self._database, key)
        except AccessError:
            self._ends = "failed"
        if state == "cancelling":
            self._ends = "cancelled"
        elif is_over:
            self._ends = self._ends or "expired"


def _some(lines: Iterator[Line], most: int) -> list[Line]:
    return list(islice(lines, most))


async def ask(
    app: FastAPI, gateway: Gateway, path: str, body: bytes, inside: Inside
) -> tuple[int, dict[str, str], bytes]:
    """Ask a route of our own in the name of a caller who is known: status, headers and body of its answer."""
    headers = [(b"host", gateway.settings.hosts[0].encode()), (b"content-type", b"application/json")]
    scope: dict[str, Any] = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST"}
    scope |= {"scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": ""}
    scope |= {"headers": [*headers, (b"content-length", str(len(body)).encode())], "client": None, "server": None}
    told: dict[str, Any] = {"status": 500, "headers": {}, "body": b""}
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if pending:
            return pending.pop()
        await asyncio.Event().wait()  # nobody hangs up
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            told["status"] = message["status"]
            told["headers"] = {name.decode().lower(): value.decode() for name, value in message["headers"]}
        elif message["type"] == "http.response.body":
            told["body"] += message.get("body", b"")

    await app({**scope, INSIDE: inside}, receive, send)
    return told["status"], told["headers"], told["body"]
