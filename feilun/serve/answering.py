"""One request from its body to its bytes: hold, infer, commit, answer, in this order and no other."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from ulid import ULID

from feilun.accounts.access import Caller, Keyring
from feilun.errors import AccessError, ConflictError, FeilunError, UnavailableError
from feilun.serve import deadlines
from feilun.serve.admission import Admission
from feilun.serve.batching import Batcher
from feilun.serve.caching import Cache, Kept, Repeating
from feilun.serve.crash import crash_point
from feilun.serve.fairness import Lanes, Standing, Turn
from feilun.serve.logs import note
from feilun.serve.patience import Patience
from feilun.serve.problems import InProgressError
from feilun.serve.release import WRITERS
from feilun.serve.settings import GatewaySettings
from feilun.serve.shadowing import Shadowing
from feilun.serve.shelf import Loaded, NotLoadedError, Shelf
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
    partial: bool = False  # it was broken off: these are the units that were delivered


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


class Delivering:
    """Work whose answer is delivered while it is done. What it may use it gets before ``compute`` is called.

    ``note`` writes down durably what was delivered so far: that is charged should this gateway die. ``free`` says that
    the engine is needed no more, and how many tokens it was.
    """

    request: str  # the request's id
    note: Callable[[Computed], Awaitable[None]]
    free: Callable[[int], None]


Begin = Callable[[Loaded], Awaitable[Work]]
T = TypeVar("T")
_NOBODY = ledger.Charge("", 0, "", 0, 0)
BACKGROUND = -2  # the priority of work that nobody waits for: below every plan's


@dataclass(frozen=True)
class Asked:
    """A request whose caller is known and whose body was read. ``route`` is the path as the app knows it.

    ``deadline`` is when its answer is of no use any more, by ``time.monotonic``; what is done in the ``background``
    lets everything else go first. An answer not older than ``fresh_s`` seconds may be given again, and this one kept.
    """

    caller: Caller
    route: str
    model: str
    body_sha256: str
    idempotency_key: str
    begin: Begin
    deadline: float | None = None
    background: bool = False
    fresh_s: int = 0

    def metered(self, units: Counts) -> Counts:
        """As they are charged: what is done in the background has meters of its own beside the usual ones."""
        return units.by_way("batch") if self.background else units


@dataclass(frozen=True)
class Answered:
    """The bytes to give; ``done`` is None where they were stored before, ``is_kept`` where they come from the cache."""

    request: str
    body: bytes
    done: ledger.Done | None = None
    is_kept: bool = False


class Answering:
    """Answers requests of one process."""

    def __init__(
        self, database: Database, keyring: Keyring, shelf: Shelf, plans: ledger.Plans, settings: GatewaySettings
    ) -> None:
        self.database = database
        self.shelf = shelf
        self.lanes = Lanes(settings.window_tokens, settings.window_generating)
        sizes = (settings.queue_requests, settings.queue_tokens, settings.queue_bytes)
        self.admission = Admission(*sizes, lambda: self.lanes.wait_s, lambda: self.lanes.done_in(settings.queue_s))
        self.batcher = Batcher(
            settings.batch_tokens, shelf.spending, streams=settings.threads, latency_s=settings.latency_ms / 1000
        )
        self.cache = Cache(settings.cache_bytes)
        self.shadowing = Shadowing(shelf, lambda: self.admission.requests > 0)
        self.engine_failures = 0
        self.patience = Patience(settings.database_s)
        self._keyring = keyring
        self._plans = plans
        self._settings = settings
        self._working: dict[tuple[str, str], asyncio.Event] = {}
        self._holds: dict[str, tuple[ledger.Hold, float]] = {}  # that are worked on here, and when they were renewed
        self._later: set[asyncio.Task[Any]] = set()

    async def answer(self, asked: Asked) -> Answered:
        """Answer once, charge once; a duplicate waits for the first and gets its bytes.

        Raises:
            AccessError, SettingError, QuotaError, ConflictError, UnavailableError: refused, and not charged.
        """
        mine = (asked.caller.tenant, asked.idempotency_key)
        await self._wait_for(mine)
        done = self._working[mine] = asyncio.Event()
        try:
            return await self._by_who_can(asked)
        finally:
            del self._working[mine]
            done.set()

    async def _by_who_can(self, asked: Asked) -> Answered:
        """By the release that is asked for; where it cannot be loaded or its engine fails, by its next fallback."""
        failure: Exception | None = None
        for model in self.shelf.chain(asked.model, asked.caller.tenant):
            try:
                loaded = await self.shelf.choose(model, asked.caller.tenant, asked.idempotency_key)
            except AccessError:
                if failure is None and (stored := await self._stored(asked)) is not None:
                    return stored  # its model has gone meanwhile, its answer has not
                raise
            except NotLoadedError as error:
                failure = failure or error
                continue
            try:
                with loaded.in_use():
                    return await self._by(asked, loaded)
            except EngineError as error:
                self.engine_failures += 1
                note(logging.ERROR, "engine-failed", release=loaded.digest, kind=type(error.cause).__name__)
                failure = failure or error.cause
        assert failure is not None  # there was one to try, and it did not answer
        raise failure

    async def _by(self, asked: Asked, loaded: Loaded) -> Answered:
        kept = self._kept(asked, loaded)
        if kept is not None:
            work = Repeating(loaded, kept)
            turn = Turn(self.lanes.of(loaded.digest, generates=False), self.standing(asked), 0)  # no engine is needed
            return await self._worked(asked, work, turn)
        standing, generates = self.standing(asked), loaded.task in WRITERS
        self.admission.look(standing, generates=generates)  # before tokens are counted: that is most of the work
        begun = await asked.begin(loaded)
        try:
            with self.admission.room(begun.units.tokens, standing, generates=generates):
                return await self._held(asked, begun)
        finally:
            begun.close()

    def _kept(self, asked: Asked, loaded: Loaded) -> Kept | None:
        if not asked.fresh_s or asked.background:  # one answer has one price, and a batch's is its own
            return None
        tenant = asked.caller.tenant
        return self.cache.find(tenant, self.cache.key(tenant, loaded.digest, asked.body_sha256), asked.fresh_s)

    async def _wait_for(self, mine: tuple[str, str]) -> None:
        try:
            async with asyncio.timeout(self._settings.wait_s):
                while mine in self._working:
                    await self._working[mine].wait()
        except TimeoutError:
            raise InProgressError(1) from None

    def standing(self, asked: Asked) -> Standing:
        """What the caller's plan gives it among those who ask at the same time."""
        try:
            terms = self._plans(asked.caller.plan, time.time_ns() // 1000)
        except UnavailableError:  # a plan without prices: the ledger refuses, unless the answer is stored already
            return Standing(asked.caller.tenant)
        return Standing(asked.caller.tenant, terms.share, BACKGROUND if asked.background else terms.priority)

    async def turn(self, asked: Asked, work: Work) -> Turn:
        """Wait until it is this request's turn at its engine; whoever takes it ends it, when the engine is done.

        Raises:
            DeadlineError: it would be answered too late.
        """
        deadlines.check(asked.deadline)
        tokens = work.units.tokens + work.units["tokens_out"]
        lane = self.lanes.of(work.loaded.digest, generates=work.loaded.task in WRITERS)
        return await lane.take(self.standing(asked), tokens, asked.deadline)

    async def _held(self, asked: Asked, work: Work) -> Answered:
        turn = await self.turn(asked, work)
        try:
            return await self._worked(asked, work, turn)
        finally:
            turn.end()

    async def _worked(self, asked: Asked, work: Work | Repeating, turn: Turn) -> Answered:
        ask = ledger.Ask(
            request=str(ULID()),
            tenant=asked.caller.tenant,
            idempotency_key=asked.idempotency_key,
            body_sha256=asked.body_sha256,
            units=asked.metered(work.units),
            lease_s=self._settings.lease_s,
            key=asked.caller.key,
        )
        holder = str(ULID())
        hold = await self._write(lambda c: ledger.hold(c, ask, self._plans, holder), ask.tenant, clean=True)
        if isinstance(hold, ledger.Replay):
            return Answered(hold.request, hold.body)
        if isinstance(hold, ledger.Busy):
            raise InProgressError(hold.retry_after)
        crash_point("after-hold")
        self._holds[hold.request] = (hold, time.monotonic())
        try:
            deadlines.check(asked.deadline)
            if isinstance(work, Delivering):
                work.request, work.free = hold.request, turn.end
                work.note = partial(self._note, asked, work, hold)
            computed = await _computed(work)
        except BaseException:
            self.database.submit(lambda c: ledger.release(c, hold), order=ask.tenant)
            raise
        finally:
            del self._holds[hold.request]
        turn.end(computed.units.tokens + computed.units["tokens_out"])
        crash_point("after-inference")
        answered = await self._settle(asked, work, hold, computed)
        crash_point("after-commit")
        if not isinstance(work, Repeating):
            self._remember(asked, work, answered, computed)
        return answered

    def _remember(self, asked: Asked, work: Work, answered: Answered, computed: Computed) -> None:
        """Keep the answer, if it may be given again; ask the shadow the same, if there is one."""
        if answered.done is None or isinstance(work, Delivering):
            return  # a stream is kept as it was told, and told once
        self.shadowing.offer(asked, work.loaded, computed)
        if asked.fresh_s:
            tenant, inputs = asked.caller.tenant, answered.done.inputs or "[]"
            units = computed.units.by_way("cached")
            kept = Kept(answered.request, answered.body, units, inputs, time.monotonic())
            self.cache.keep(tenant, self.cache.key(tenant, work.loaded.digest, asked.body_sha256), kept)

    async def _settle(self, asked: Asked, work: Work | Repeating, hold: ledger.Hold, computed: Computed) -> Answered:
        """Commit the charge and the answer; only then is there anything to give."""
        done = self._done(asked, work, computed)
        try:
            _, body = await self._write(
                lambda c: ledger.capture(c, hold, done, self._plans, computed.render), asked.caller.tenant, clean=True
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
        return Answered(hold.request, body, done, is_kept=isinstance(work, Repeating))

    def _done(self, asked: Asked, work: Work | Repeating, computed: Computed) -> ledger.Done:
        if isinstance(work, Repeating):
            inputs = work.kept.inputs
        else:
            digests = [self._keyring.digest_of(asked.caller.tenant, text) for text in work.texts]
            inputs = canonical(digests).decode()
        return ledger.Done(
            key=asked.caller.key,
            release=work.loaded.digest,
            route=asked.route,
            units=asked.metered(computed.units).plus(Counts(compute_ms=half_even(computed.compute_ns, 10**6))),
            compute_ns=computed.compute_ns,
            inputs=inputs,
            partial=computed.partial,
        )

    async def _note(self, asked: Asked, work: Work | Repeating, hold: ledger.Hold, computed: Computed) -> None:
        """Write down what of a stream is delivered: that is charged, and is its answer, should this gateway die.

        Raises:
            UnavailableError: the database is away.
            ConflictError: the hold was lost.
        """
        done, body = self._done(asked, work, computed), computed.render(_NOBODY)
        await self._write(lambda c: ledger.checkpoint(c, hold, done, body), hold.tenant)

    async def _stored(self, asked: Asked) -> Answered | None:
        def read() -> ledger.Replay | None:
            with self.database.read() as connection:
                return ledger.find(connection, asked.caller.tenant, asked.idempotency_key, asked.body_sha256)

        found = await self.patience.read(read)
        return None if found is None else Answered(found.request, found.body)

    async def _write(self, job: Any, tenant: str, *, clean: bool = False) -> Any:
        return await self.patience.wait(asyncio.wrap_future(self.database.submit(job, order=tenant, clean=clean)))

    async def reap(self) -> None:
        """Renew the holds that are worked on here, and end those of gateways that died, for ever."""
        while True:
            await asyncio.sleep(max(0.5, self._settings.lease_s / 4))
            try:
                await self._renew()
                for tenant in await self.patience.read(self._stale):
                    alive = frozenset(self._holds)
                    await self._write(lambda c, t=tenant, a=alive: ledger.reap(c, t, self._plans, a), tenant)
            except UnavailableError:
                continue  # the database is away; holds can wait

    async def _renew(self) -> None:
        """An answer may take longer to write than a lease lasts."""
        now, lease_s = time.monotonic(), self._settings.lease_s
        due = [hold for hold, at in self._holds.values() if now - at >= lease_s / 4]
        self._holds |= {hold.request: (hold, now) for hold in due}
        writes = [self._write(lambda c, h=hold: ledger.renew(c, h, lease_s), hold.tenant) for hold in due]
        await asyncio.gather(*writes)

    def later(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Work that is done whoever waits for it."""
        task = asyncio.ensure_future(work)
        self._later.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._later.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited was told

    async def finish(self) -> None:
        """Wait for what was begun by ``later``: the gateway ends."""
        await asyncio.gather(*self._later, return_exceptions=True)

    def _stale(self) -> list[str]:
        with self.database.read() as connection:
            return ledger.stale(connection)


class EngineError(Exception):
    """An engine failed at its work; ``cause`` is what it raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


async def _computed(work: Work | Repeating) -> Computed:
    """What the work comes to.

    Raises:
        FeilunError: refused, and nothing else could answer it.
        EngineError: another release might.
    """
    if isinstance(work, Repeating):
        return Computed(work.units, 0, work.kept.render)
    try:
        return await work.compute()
    except FeilunError:
        raise
    except Exception as error:  # whatever an engine can raise: who calls it does not know
        raise EngineError(error) from error


def body_digest(route: str, raw: bytes) -> str:
    """What makes two requests the same: the route and the body's bytes."""
    return hashlib.sha256(route.encode() + b"\n" + raw).hexdigest()
