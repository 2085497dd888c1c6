"""A release from its artefact to an engine that has proved itself: verified, opened, warmed up, probed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from sqlalchemy import select

from feilun.errors import ArtifactError
from feilun.models.inference import Engine
from feilun.pipeline.kinds import Model, Release
from feilun.serve import release
from feilun.serve.problems import RequestError
from feilun.serve.settings import GatewaySettings
from feilun.store import tables
from feilun.store.artifacts import ArtifactStore

if TYPE_CHECKING:
    from feilun.models.desk import Work
    from feilun.models.shared import Bases


@runtime_checkable
class Weighed(Protocol):
    """An engine that knows what it keeps in memory, where that is not the size of its model's files."""

    memory_bytes: int


@runtime_checkable
class Closable(Protocol):
    """An engine that has to be told that it is over."""

    def close(self) -> None:
        """Free what it holds."""


@dataclass(eq=False)
class Use:
    """Who is answered by a release now, and when somebody last was (``time.monotonic``)."""

    requests: int = 0
    last: float = 0.0


@dataclass(frozen=True, eq=False)
class Loaded:
    """A release that can answer. ``tenant`` is None where everybody may ask it; ``size`` is in bytes."""

    name: str
    digest: str
    task: str
    engine: Engine
    registered_at: int
    tenant: str | None = None
    size: int = 0
    use: Use = field(default_factory=Use)
    harmless: frozenset[str] = frozenset()  # labels that are no reason to look at a text

    @property
    def label(self) -> str:
        """How answers name it."""
        return f"{self.name}@{self.digest[:12]}"

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """It is neither closed nor evicted meanwhile."""
        self.use.requests += 1
        try:
            yield
        finally:
            self.use.requests -= 1

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


def load(
    store: ArtifactStore,
    digest: str,
    settings: GatewaySettings,
    work: Work | None = None,
    bases: Bases | None = None,
) -> Loaded:
    """Open a registered release and see that it answers as it says.

    Args:
        work: counts the processor time of what writes answers in threads of its own.
        bases: what models share that were kept apart from their base.

    Raises:
        ArtifactError: a file is missing or changed, the engine cannot read it, or it answers its probes otherwise.
        StepError: no engine here runs its format.
    """
    found = store.get(digest)
    if not isinstance(found, Release):
        raise ArtifactError(f"{found.short} is a {found.kind}, not a release")
    said = release.read(store.verify(found).path)
    model = store.get(said["model"])
    if not isinstance(model, Model) or model.digest not in found.parents:
        raise ArtifactError("the release names a model that it was not made from", where=found.short)
    engine = release.open_engine(store.verify(model), settings.threads, work, bases)
    release.check(engine, said, settings.probe_tolerance)
    size = engine.memory_bytes if isinstance(engine, Weighed) else _size(model.path)
    table = tables.releases
    with store.database.read() as connection:
        row = connection.execute(select(table).where(table.c.digest == digest)).one()
    harmless = frozenset(found.facts.get("harmless", ()))
    return Loaded(row.name, digest, said["task"], engine, row.registered_at, row.tenant, size, harmless=harmless)


def _size(folder: Path) -> int:
    """Bytes of all files: about what their weights take in memory."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
