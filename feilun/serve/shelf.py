"""The releases that answer now, following the pointers.

A release is verified, loaded, warmed up and made to answer its probes before it takes the place of another, in one
assignment. Requests in flight keep the release that they began with; it goes when the last of them is done. A release
that cannot be loaded leaves the old one in its place.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

from sqlalchemy import select

from feilun.errors import AccessError, ArtifactError, FeilunError, UnavailableError
from feilun.models.inference import Engine
from feilun.pipeline.kinds import Model, Release
from feilun.serve import release
from feilun.serve.logs import note
from feilun.serve.problems import RequestError
from feilun.serve.settings import GatewaySettings
from feilun.serve.spending import Spending
from feilun.store import products, releases, tables
from feilun.store.artifacts import ArtifactStore

RETRY_S = 5.0  # before a release that could not be loaded is tried again


@dataclass(frozen=True, eq=False)
class Loaded:
    """A release that can answer."""

    name: str
    digest: str
    task: str
    engine: Engine
    registered_at: int

    @property
    def label(self) -> str:
        """How answers name it."""
        return f"{self.name}@{self.digest[:12]}"

    def must(self, *tasks: str) -> None:
        """Refuse a question that this model does not answer.

        Raises:
            RequestError: 422, it was tuned for another task.
        """
        if self.task not in tasks:
            raise RequestError(
                f"the model '{self.name}' was tuned to {self.task}, not to {' or '.join(tasks)}",
                status=422,
                code="wrong-task",
                where="model",
                hint="GET /v1/models lists every model with its task",
            )


class Shelf:
    """Name -> loaded release."""

    def __init__(self, store: ArtifactStore, settings: GatewaySettings, spending: Spending | None = None) -> None:
        self.spending = spending or Spending()
        self.loaded: dict[str, Loaded] = {}
        self.failed: dict[str, tuple[str, float]] = {}  # digest -> (what was wrong, when)
        self.failures = 0
        self.store = store
        self._settings = settings

    def find(self, model: str) -> Loaded:
        """The release behind ``name`` or ``name@digits``.

        Raises:
            AccessError: 404.
        """
        name, at, digits = model.partition("@")
        found = self.loaded.get(name)
        if found is None or (at and (len(digits) < 8 or not found.digest.startswith(digits))):
            raise AccessError(
                "no such model is served", status=404, where="model", hint="GET /v1/models", code="model-not-found"
            )
        return found

    async def follow(self) -> None:
        """Poll the pointers for ever."""
        while True:
            await asyncio.sleep(self._settings.poll_s)
            try:
                await asyncio.to_thread(self.refresh)
            except UnavailableError as error:  # what is loaded serves on
                note(logging.WARNING, "pointers-not-read", code=error.name)

    def refresh(self) -> None:
        """Load what the pointers say and is not loaded.

        Raises:
            UnavailableError: the database cannot be read.
        """
        wanted = [p for p in releases.pointers(self.store.database) if not products.is_product(p.name)]
        for pointer in wanted:
            now = self.loaded.get(pointer.name)
            tried = self.failed.get(pointer.release, ("", -RETRY_S))[1]
            if (now is None or now.digest != pointer.release) and time.monotonic() >= tried + RETRY_S:
                self._swap(pointer)

    def _swap(self, pointer: releases.Pointer) -> None:
        try:
            with self.spending.work(loads=True):
                self.loaded[pointer.name] = self._load(pointer)
        except UnavailableError:
            raise
        except FeilunError as error:
            self.failures += 1
            self.failed[pointer.release] = (error.what, time.monotonic())
            note(logging.ERROR, "release-not-loaded", release=pointer.release, code=error.name, reason=error.what)
        else:
            self.failed.pop(pointer.release, None)
            note(logging.INFO, "release-loaded", release=pointer.release, model=pointer.name)

    def _load(self, pointer: releases.Pointer) -> Loaded:
        found = self.store.get(pointer.release)
        if not isinstance(found, Release):
            raise ArtifactError(f"{found.short} is a {found.kind}, not a release")
        said = release.read(self.store.verify(found).path)
        model = self.store.get(said["model"])
        if not isinstance(model, Model) or model.digest not in found.parents:
            raise ArtifactError("the release names a model that it was not made from", where=found.short)
        engine = release.open_engine(self.store.verify(model), self._settings.threads)
        release.check(engine, said, self._settings.probe_tolerance)
        table = tables.releases
        with self.store.database.read() as connection:
            query = select(table.c.registered_at).where(table.c.digest == found.digest)
            return Loaded(pointer.name, found.digest, said["task"], engine, connection.execute(query).scalar_one())
