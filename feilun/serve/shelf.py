"""The releases that answer now, following the pointers.

A release is verified, loaded, warmed up and made to answer its probes before it takes the place of another, in one
assignment. Requests in flight keep the release that they began with; it goes when the last of them is done. A release
that cannot be loaded leaves the old one in its place.

Beside the release that each name stands for there are canaries and shadows, and whatever was asked for by its digest:
that is loaded when it is asked for. Where all of them together take more memory than they may, the one that was used
least recently goes, never one that answers somebody; a name that lost its release so gets it again when it is asked.

Everything here but loading itself is done on the event loop, so that nothing changes between two lines of it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import psutil

from feilun.errors import AccessError, FeilunError, UnavailableError
from feilun.serve.loading import Closable, Loaded, load
from feilun.serve.logs import frames, note
from feilun.serve.names import Directory, Named
from feilun.serve.settings import GatewaySettings
from feilun.serve.spending import Spending
from feilun.store.artifacts import ArtifactStore
from feilun.store.rollouts import Rollout

if TYPE_CHECKING:
    from feilun.models.shared import Bases

__all__ = ["CANARY", "Failure", "Loaded", "NotLoadedError", "Shelf"]

RETRY_S = 5.0  # before a release that could not be loaded is tried again
LOADERS = 2  # threads that load
MOST_LOADING = 16  # releases that are being loaded or wait for it; who asks for one more is refused
SPARE = 3  # releases that nobody is meant to be answered by, but may soon be: the one before, one asked by its digest
FRESH_S = 1.0  # a release that was asked for in the last second is not evicted: who asked may be about to use it
CANARY = ":canary"
_DIGITS = re.compile(r"[0-9a-f]{8,64}")


class Failure(NamedTuple):
    """Why a release was not loaded, and when (``time.monotonic``)."""

    name: str
    what: str
    at: float


class _Wanted(NamedTuple):
    """A name and the digits of one of its releases; ``exact`` where no other of them may answer."""

    name: str
    digits: str
    named: Named | None
    exact: bool


class NotLoadedError(UnavailableError):
    """The release that is asked for cannot be loaded now: another may answer in its place."""


class Shelf:
    """Name -> loaded release."""

    def __init__(self, store: ArtifactStore, settings: GatewaySettings, spending: Spending | None = None) -> None:
        self.spending = spending or Spending()
        self.loaded: dict[str, Loaded] = {}  # by name, what it stands for
        self.others: dict[str, Loaded] = {}  # by digest: canaries, shadows, what was asked for, what was replaced
        self.named: dict[str, Named] = {}
        self.failed: dict[str, Failure] = {}  # by digest
        self.failures = 0
        self.evictions = 0
        self.store = store
        self._settings = settings
        self._directory = Directory(store.database)
        self._loading: dict[str, asyncio.Task[Loaded]] = {}
        self._threads = ThreadPoolExecutor(LOADERS, "feilun-loader")
        self._evicted: set[str] = set()  # names whose release is loaded again when it is asked for
        memory_mb = settings.memory_mb
        self._most = int(memory_mb * 10**6) if memory_mb is not None else psutil.virtual_memory().total // 2

    @property
    def size(self) -> int:
        """Bytes of all releases that are loaded."""
        return sum(loaded.size for loaded in self._all())

    @property
    def failing(self) -> dict[str, Failure]:
        """By digest, the releases that should be loaded now and could not be."""
        wanted = {named.pointer.release for named in self.named.values()}
        wanted |= {str(rollout.release) for named in self.named.values() for rollout in named.beside}
        return {digest: failure for digest, failure in self.failed.items() if digest in wanted}

    @cached_property
    def _bases(self) -> Bases:
        """What models share that were kept apart from their base."""
        from feilun.models.shared import Bases  # it imports the engine, which takes a while

        return Bases(threads=self._settings.threads, budget=self._settings.adapter_bytes)

    # --- asking -----------------------------------------------------------------------------------------------------

    def find(self, model: str, tenant: str | None = None, request: str = "") -> Loaded:
        """The release behind ``name``, ``name@digits`` or ``name:canary``, if it is loaded.

        Args:
            tenant: who asks; what is another tenant's alone is not found.
            request: what decides for a canary that takes some requests of each tenant.

        Raises:
            AccessError: 404.
            NotLoadedError: it has to be loaded first (see ``choose``).
        """
        wanted = self._wanted(model, tenant, request)
        found = self._here(wanted.name, wanted.digits, tenant)
        if found is None and not wanted.exact:
            found = self.loaded.get(wanted.name)  # its canary is not there yet, or its new release: the old one answers
        if found is None:
            raise not_found() if wanted.named is None else _not_loaded()
        return found

    async def choose(self, model: str, tenant: str | None, request: str = "") -> Loaded:
        """As ``find``, and loads what is not loaded.

        Raises:
            AccessError: 404.
            NotLoadedError: it cannot be loaded, or not in time.
        """
        try:
            found = self.find(model, tenant, request)
        except (NotLoadedError, AccessError):
            wanted = self._wanted(model, tenant, request)
            found = await self.obtain(wanted.name, await self._digest(wanted, tenant))
        found.use.last = time.monotonic()
        return found

    def chain(self, model: str, tenant: str | None) -> Iterator[str]:
        """The model that is asked for, then those that answer in its place where it cannot.

        A fallback is passed over where it is not there, is another tenant's, or was tuned for another task.
        """
        yield model
        named = self.named.get(_name_of(model))
        if named is None:
            return
        for other in named.facts.fallback:
            found = self.named.get(other)
            if found is not None and found.is_open_to(tenant) and found.facts.task == named.facts.task:
                yield other

    def visible(self, tenant: str | None) -> list[Named]:
        """Every name that the tenant may know of, in order."""
        return [self.named[name] for name in sorted(self.named) if self.named[name].is_open_to(tenant)]

    def shadow_of(self, name: str) -> tuple[Rollout, Loaded | None] | None:
        """The shadow of a name, and its release where that is loaded; None where there is no shadow."""
        named = self.named.get(name)
        if named is None or named.shadow is None or named.shadow.release is None:
            return None
        return named.shadow, self._here(name, named.shadow.release, named.facts.tenant)

    # --- following --------------------------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Poll the pointers for ever."""
        while True:
            await asyncio.sleep(self._settings.poll_s)
            try:
                await self.refresh(wait=False)
            except UnavailableError as error:  # what is loaded serves on
                note(logging.WARNING, "pointers-not-read", code=error.name)
            except Exception as error:  # noqa: BLE001 - our own bug: whoever stops following answers with old releases
                note(logging.ERROR, "unexpected", kind=type(error).__name__, frames=frames(error.__traceback__))

    async def refresh(self, *, wait: bool = True) -> None:
        """Load what the names stand for and is not loaded, and let go of what is not needed.

        Args:
            wait: for what is being loaded; it takes its place in any case.

        Raises:
            UnavailableError: the database cannot be read.
        """
        self.named = await asyncio.to_thread(self._directory.read)
        if self.others:
            for digest in self.others.keys() & await asyncio.to_thread(self._directory.retired):
                self._evict(self.others[digest])
        begun = [self._begin(name, digest) for name, digest in self._missing()]
        if wait and begun:
            await asyncio.wait(begun)
        self._make_room()

    async def obtain(self, name: str, digest: str) -> Loaded:
        """A registered release of ``name``, loaded now if it is not.

        Raises:
            NotLoadedError: it cannot be loaded, or not in time.
        """
        found = self._here(name, digest, None, anybody=True)
        if found is not None:
            return found
        failure = self.failed.get(digest)
        if failure is not None and time.monotonic() < failure.at + RETRY_S:
            raise _not_loaded(failure.what)
        task = self._loading.get(digest)
        if task is None:
            if len(self._loading) >= MOST_LOADING:
                raise _not_loaded("many releases are being loaded")
            task = self._begin(name, digest)
        try:
            async with asyncio.timeout(self._settings.wait_s):
                return await asyncio.shield(task)
        except TimeoutError:
            raise _not_loaded("it is being loaded") from None

    def close(self) -> None:
        """Let go of the threads and of everything that is loaded."""
        for loaded in list(self._all()):
            if isinstance(loaded.engine, Closable):
                loaded.engine.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    # --- how --------------------------------------------------------------------------------------------------------

    def _wanted(self, model: str, tenant: str | None, request: str) -> _Wanted:
        """What is asked for; its name's entry if the tenant may know of it.

        Raises:
            AccessError: 404, nothing of that form can be asked for.
        """
        name, at, digits = model.partition("@")
        canary = not at and name.endswith(CANARY)
        name = name.removesuffix(CANARY) if canary else name
        named = self.named.get(name)
        if named is not None and not named.is_open_to(tenant):
            named = None
        if at:
            if not _DIGITS.fullmatch(digits):
                raise not_found()
            return _Wanted(name, digits, named, exact=True)
        if named is None:
            raise not_found()
        if not canary:
            return _Wanted(name, named.chosen(tenant, request), named, exact=False)
        if named.canary is None or named.canary.release is None or not named.canary.is_open_to(tenant or ""):
            raise not_found()
        return _Wanted(name, named.canary.release, named, exact=True)

    def _here(self, name: str, digits: str, tenant: str | None, *, anybody: bool = False) -> Loaded | None:
        """What is loaded of a name and begins with ``digits``, if the tenant may ask it."""
        champion = self.loaded.get(name)
        found = champion if champion is not None and champion.digest.startswith(digits) else None
        if found is None:
            found = self.others.get(digits)
            if found is None and len(digits) < 64:
                matching = [o for o in self.others.values() if o.name == name and o.digest.startswith(digits)]
                found = matching[0] if matching else None
        if found is None or found.name != name:
            return None
        return found if anybody or found.tenant is None or found.tenant == tenant else None

    async def _digest(self, wanted: _Wanted, tenant: str | None) -> str:
        """The whole digest of a release that is known and not retired.

        Raises:
            AccessError: 404.
        """
        if wanted.named is not None and wanted.digits == wanted.named.pointer.release:
            return wanted.digits
        found = await asyncio.to_thread(self._directory.find, wanted.name, wanted.digits)
        if found is None or found.tenant not in (None, tenant):
            raise not_found()
        return found.digest

    def _missing(self) -> Iterator[tuple[str, str]]:
        """Name and digest of each release that should be loaded, is not, and is not being loaded."""
        for name, named in self.named.items():
            now = self.loaded.get(name)
            digest = named.pointer.release
            if now is not None and now.digest == digest:
                continue
            if digest in self.others:
                self._swap(self.others[digest])
            elif now is None and (name in self._evicted or self.size >= self._most):
                self._evicted.add(name)
            elif self._may_load(digest):
                yield name, digest
        for name, named in self.named.items():
            for rollout in named.beside:
                champion = self.loaded.get(name)
                if rollout.release is not None and rollout.release not in self.others:
                    if champion is not None and champion.digest == rollout.release:
                        continue
                    if self._may_load(rollout.release):
                        yield name, rollout.release

    def _may_load(self, digest: str) -> bool:
        failure = self.failed.get(digest)
        recently = failure is not None and time.monotonic() < failure.at + RETRY_S
        return not recently and digest not in self._loading

    def _begin(self, name: str, digest: str) -> asyncio.Task[Loaded]:
        task = self._loading[digest] = asyncio.create_task(self._load(name, digest))
        task.add_done_callback(lambda done: self._loaded(digest, done))
        return task

    async def _load(self, name: str, digest: str) -> Loaded:
        """Load aside, then take the place that is the release's.

        Raises:
            NotLoadedError: it cannot be loaded.
            UnavailableError: the database is away.
        """
        try:
            loaded = await asyncio.get_running_loop().run_in_executor(self._threads, self._open, digest)
        except UnavailableError:
            raise
        except FeilunError as error:
            self._note_failure(name, digest, error.name, error.what)
            raise _not_loaded(error.what) from error
        except Exception as error:  # whatever a file can make an engine raise: the old release serves on
            self._note_failure(name, digest, type(error).__name__, "the engine could not load it")
            note(logging.ERROR, "unexpected", kind=type(error).__name__, frames=frames(error.__traceback__))
            raise _not_loaded("the engine could not load it") from error
        loaded.use.last = time.monotonic()
        self.failed.pop(digest, None)
        named = self.named.get(name)
        if named is not None and named.pointer.release == digest:
            self._swap(loaded)
        else:
            self.others[digest] = loaded
        note(logging.INFO, "release-loaded", release=digest, model=name)
        self._make_room()
        return loaded

    def _open(self, digest: str) -> Loaded:
        with self.spending.work(loads=True):
            return load(self.store, digest, self._settings, self.spending.work, self._bases)

    def _loaded(self, digest: str, done: asyncio.Task[Loaded]) -> None:
        self._loading.pop(digest, None)
        if not done.cancelled():
            done.exception()  # noted already; whoever waits for it has it too

    def _note_failure(self, name: str, digest: str, code: str, what: str) -> None:
        self.failures += 1
        self.failed[digest] = Failure(name, what, time.monotonic())
        note(logging.ERROR, "release-not-loaded", release=digest, code=code, reason=what)

    def _swap(self, loaded: Loaded) -> None:
        """Let a name be answered by it; what answered before stays for a while, for a way back."""
        before = self.loaded.get(loaded.name)
        self.loaded[loaded.name] = loaded
        self.others.pop(loaded.digest, None)
        self._evicted.discard(loaded.name)
        if before is not None and before is not loaded:
            before.use.last = time.monotonic()
            self.others[before.digest] = before

    def _all(self) -> Iterator[Loaded]:
        yield from self.loaded.values()
        yield from self.others.values()

    def _make_room(self) -> None:
        """Let go of what is not needed, and of what was used least recently where there is too much."""
        needed = {r.release for named in self.named.values() for r in named.beside}
        spare = [o for o in self.others.values() if o.digest not in needed]
        spare.sort(key=lambda loaded: loaded.use.last, reverse=True)
        now = time.monotonic()
        for place, loaded in enumerate(spare):
            if place >= SPARE or now - loaded.use.last > self._settings.idle_s:
                self._evict(loaded)
        over = self.size - self._most
        for loaded in sorted(self._all(), key=lambda loaded: loaded.use.last) if over > 0 else ():
            if over > 0 and now - loaded.use.last > FRESH_S and self._evict(loaded):
                over -= loaded.size
                self.evictions += 1

    def _evict(self, loaded: Loaded) -> bool:
        """Let go of a release, unless it answers somebody now."""
        if loaded.use.requests:
            return False
        if self.loaded.get(loaded.name) is loaded:
            del self.loaded[loaded.name]
            self._evicted.add(loaded.name)
        self.others.pop(loaded.digest, None)
        if isinstance(loaded.engine, Closable):
            self._threads.submit(loaded.engine.close)
        return True


def not_found() -> AccessError:
    """What is said of a model that is not there, and of one that the caller may not know of."""
    return AccessError(
        "no such model is served", status=404, where="model", hint="GET /v1/models", code="model-not-found"
    )


def _not_loaded(why: str = "") -> NotLoadedError:
    return NotLoadedError(
        "the model is not loaded now",
        retry_after=int(RETRY_S),
        where="model",
        hint=f"{why}; send it again, it was not charged" if why else "send it again; it was not charged",
        code="model-not-loaded",
    )


def _name_of(model: str) -> str:
    return model.partition("@")[0].removesuffix(CANARY)
