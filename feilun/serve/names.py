"""What every name stands for now: the release that answers, its canary and its shadow, and who may ask for it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from feilun.store import products, releases, rollouts
from feilun.store.database import Database
from feilun.store.releases import Pointer
from feilun.store.rollouts import Rollout
from feilun.store.statements import Statement


@dataclass(frozen=True)
class Facts:
    """What never changes of a release: its task, labels, fallbacks, whose it is, and when it was registered."""

    task: str
    labels: tuple[str, ...]
    fallback: tuple[str, ...]
    tenant: str | None
    registered_at: int


@dataclass(frozen=True)
class Named:
    """A name and all that it stands for."""

    pointer: Pointer
    facts: Facts
    canary: Rollout | None = None
    shadow: Rollout | None = None

    def is_open_to(self, tenant: str | None) -> bool:
        """Whether the tenant may know of it; None is nobody in particular."""
        return self.facts.tenant is None or self.facts.tenant == tenant

    def chosen(self, tenant: str | None, request: str) -> str:
        """The release that is meant for this request, and for the same request always."""
        if (
            tenant is not None
            and self.canary is not None
            and self.canary.release
            and self.canary.takes(tenant, request)
        ):
            return self.canary.release
        return self.pointer.release

    @property
    def beside(self) -> Iterator[Rollout]:
        """Its canary and its shadow, as far as there are any."""
        yield from (rollout for rollout in (self.canary, self.shadow) if rollout is not None)


class Directory:
    """Reads the names; remembers what never changes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._facts: dict[str, Facts] = {}

    def read(self) -> dict[str, Named]:
        """Every name of a model that was promoted.

        Raises:
            UnavailableError: the database cannot be read.
        """
        beside = {(rollout.name, rollout.kind): rollout for rollout in rollouts.current(self._database)}
        with self._database.read() as connection:
            rows = _POINTERS.run(connection).fetchall()
            unknown = [digest for _, digest, _ in rows if digest not in self._facts]
            for digest in unknown:
                found = _FACTS.one(connection, digest=digest)
                assert found is not None  # a pointer refers to a registered artefact
                self._facts[digest] = _facts(*found)
        return {
            name: Named(
                Pointer(name, digest, version),
                self._facts[digest],
                beside.get((name, "canary")),
                beside.get((name, "shadow")),
            )
            for name, digest, version in rows
            if not products.is_product(name)
        }

    def find(self, name: str, digits: str) -> releases.Registered | None:
        """See ``feilun.store.releases.find``."""
        return releases.find(self._database, name, digits)

    def retired(self) -> frozenset[str]:
        """Releases that answer no more."""
        with self._database.read() as connection:
            return frozenset(digest for (digest,) in _RETIRED.run(connection).fetchall())


def _facts(text: str, tenant: str | None, registered_at: int) -> Facts:
    facts: Mapping[str, Any] = json.loads(text)
    labels, fallback = tuple(facts.get("labels", ())), tuple(facts.get("fallback", ()))
    return Facts(str(facts.get("task", "")), labels, fallback, tenant, registered_at)


_POINTERS = Statement("SELECT name, release, version FROM pointers ORDER BY name")
_FACTS = Statement(
    "SELECT artifacts.facts, releases.tenant, releases.registered_at FROM releases "
    "JOIN artifacts ON artifacts.digest = releases.digest WHERE releases.digest = :digest"
)
_RETIRED = Statement("SELECT digest FROM releases WHERE retired_at IS NOT NULL")
