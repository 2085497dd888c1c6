"""One request from its body to its bytes: hold, infer, commit, answer, in this order and no other."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ulid import ULID

from feilun.accounts.access import Caller, Keyring
from feilun.errors import AccessError, ConflictError, UnavailableError
from feilun.serve.admission import Admission
from feilun.serve.batching import Batcher
from feilun.serve.crash import crash_point
from feilun.serve.patience import Patience
from feilun.serve.problems import InProgressError
from feilun.serve.settings import GatewaySettings
from feilun.serve.shelf import Loaded, Shelf
from feilun.store import ledger
from feilun.store.artifacts import canonical
from feilun.store.counts import Counts
from feilun.store.database import Database
from feilun.store.money import half_even


@dataclass(frozen=True)
class Computed:
    """What was done for a request: the units to charge for it, its processor time, and its answer, given the charge."""

    units: Counts
    compute_ns: int
    render: Callable[[ledger.Charge], bytes]


class Work(Protocol):
    """What a route wants done for one request, once its model is known and its tokens are counted."""

    @property
    def loaded(self) -> Loaded:
        """The release that answers, until the end, whatever its name stands for meanwhile."""

    @property
    def texts(self) -> Sequence[str]:
        """The inputs: their keyed digests are kept, so that feedback can be tied to them."""

    @property
    def units(self) -> Counts:
        """What is held for it: the most that it can come to."""

    async def compute(self) -> Computed:
        """Do it; the hold is durable by now."""

    def close(self) -> None:
        """It is over, however it ended; perhaps ``compute`` was never called."""


Begin = Callable[[Loaded], Awaitable[Work]]


@dataclass(frozen=True)
class Asked:
    """A request whose caller is known and whose body was read. ``route`` is the path as the app knows it."""

    caller: Caller
    route: str
    model: str
    body_sha256: str
    idempotency_key: str
    begin: Begin


@dataclass(frozen=True)
class Answered:
    """The bytes to give; ``done`` is None where they were stored before."""

    request: str
    body: bytes
    done: ledger.Done | None = None


class Answering:
    """Answers requests of one process."""

    def __init__(
        self, database: Database, keyring: Keyring, shelf: Shelf, plans: ledger.Plans, settings: GatewaySettings
    ) -> None:
        self.database = database
        self.shelf = shelf
        self.admission = Admission(settings.queue_requests, settings.queue_tokens, settings.queue_bytes)
        self.batcher = Batcher(settings.batch_tokens, shelf.spending)
        self.patience = Patience(settings.database_s)
        self._keyring = keyring
        self._plans = plans
        self._settings = settings
        self._working: dict[tuple[str, str], asyncio.Event] = {}

    async def answer(self, asked: Asked) -> Answered:
        """Answer once, charge once; a duplicate waits for the first and gets its bytes.

        Raises:
            AccessError, SettingError, QuotaError, ConflictError, UnavailableError: refused, and not charged.
        """
        mine = (asked.caller.tenant, asked.idempotency_key)
        await self._wait_for(mine)
        done = self._working[mine] = asyncio.Event()
        try:
            try:
                loaded = self.shelf.find(asked.model)
            except AccessError:
                if (stored := await self._stored(asked)) is not None:
                    return stored  # its model has gone meanwhile, its answer has not
                raise
            work = await asked.begin(loaded)
            try:
                with self.admission.room(work.units.tokens):
                    return await self._held(asked, work)
            finally:
                work.close()
        finally:
            del self._working[mine]
            done.set()

    async def _wait_for(self, mine: tuple[str, str]) -> None:
        try:
            async with asyncio.timeout(self._settings.wait_s):
                while mine in self._working:
                    await self._working[mine].wait()
        except TimeoutError:
            raise InProgressError(1) from None

    async def _held(self, asked: Asked, work: Work) -> Answered:
        ask = ledger.Ask(
            request=str(ULID()),
            tenant=asked.caller.tenant,
            idempotency_key=asked.idempotency_key,
            body_sha256=asked.body_sha256,
            units=work.units,
            lease_s=self._settings.lease_s,
            key=asked.caller.key,
        )
        holder = str(ULID())
        hold = await self._write(lambda c: ledger.hold(c, ask, self._plans, holder), ask.tenant)
        if isinstance(hold, ledger.Replay):
            return Answered(hold.request, hold.body)
        if isinstance(hold, ledger.Busy):
            raise InProgressError(hold.retry_after)
        crash_point("after-hold")
        try:
            computed = await work.compute()
        except BaseException:
            self.database.submit(lambda c: ledger.release(c, hold), order=ask.tenant)
            raise
        crash_point("after-inference")
        answered = await self._settle(asked, work, hold, computed)
        crash_point("after-commit")
        return answered

    async def _settle(self, asked: Asked, work: Work, hold: ledger.Hold, computed: Computed) -> Answered:
        """Commit the charge and the answer; only then is there anything to give."""
        digests = [self._keyring.digest_of(asked.caller.tenant, text) for text in work.texts]
        done = ledger.Done(
            key=asked.caller.key,
            release=work.loaded.digest,
            route=asked.route,
            units=computed.units.plus(Counts(compute_ms=half_even(computed.compute_ns, 10**6))),
            compute_ns=computed.compute_ns,
            inputs=canonical(digests).decode(),
        )
        try:
            _, body = await self._write(
                lambda c: ledger.capture(c, hold, done, self._plans, computed.render), asked.caller.tenant
            )
        except (UnavailableError, ConflictError) as error:
            # Either nobody knows whether the commit happened, or another worker took the request over: read again.
            if (stored := await self._stored(asked)) is not None:
                return stored
            if isinstance(error, UnavailableError):
                raise
            raise UnavailableError(
                "the request took too long", hint="send it again; it was not charged", code="hold-lost"
            ) from error
        return Answered(hold.request, body, done)

    async def _stored(self, asked: Asked) -> Answered | None:
        def read() -> ledger.Replay | None:
            with self.database.read() as connection:
                return ledger.find(connection, asked.caller.tenant, asked.idempotency_key, asked.body_sha256)

        found = await self.patience.read(read)
        return None if found is None else Answered(found.request, found.body)

    async def _write(self, job: Any, tenant: str) -> Any:
        return await self.patience.wait(asyncio.wrap_future(self.database.submit(job, order=tenant)))

    async def reap(self) -> None:
        """Release holds of gateways that died, for ever."""
        while True:
            await asyncio.sleep(max(0.5, self._settings.lease_s / 4))
            try:
                for tenant in await self.patience.read(self._stale):
                    await self._write(lambda c, t=tenant: ledger.reap(c, t), tenant)
            except UnavailableError:
                continue  # the database is away; holds can wait

    def _stale(self) -> list[str]:
        with self.database.read() as connection:
            return ledger.stale(connection)


def body_digest(route: str, raw: bytes) -> str:
    """What makes two requests the same: the route and the body's bytes."""
    return hashlib.sha256(route.encode() + b"\n" + raw).hexdigest()
