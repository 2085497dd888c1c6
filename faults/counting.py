"""What a case gives back: how often something was broken, and how often everything held."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from faults.house import House, open_house
from faults.nursery import Nursery
from faults.postgres import Server

DATABASES = ("sqlite", "postgresql")
MOST_FAILURES = 20  # sentences about what failed that are kept


@dataclass
class Count:
    """Trials. ``controls`` says of each planted bug whether the same check caught it."""

    tried: int = 0
    survived: int = 0
    controls: dict[str, bool] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def trial(self, broken: Sequence[str], times: int = 1) -> None:
        """``times`` trials that were checked together: all of them held, or none is counted."""
        self.tried += times
        self.survived += 0 if broken else times
        self.failures += list(broken)[: MOST_FAILURES - len(self.failures)]

    @property
    def caught(self) -> bool | None:
        """Whether every planted bug was caught; None where none was planted."""
        return all(self.controls.values()) if self.controls else None


@dataclass(frozen=True)
class Setup:
    """What a case works with."""

    database: str  # sqlite, postgresql
    server: Server | None  # of PostgreSQL
    nursery: Nursery
    seed: int
    kills: int
    quick: bool

    def times(self, full: int, quick: int) -> int:
        """How often to try."""
        return quick if self.quick else full

    @contextmanager
    def place(self) -> Iterator[tuple[str, Path]]:
        """The URL of a new, empty database, and a folder."""
        with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as temporary:
            place = Path(temporary)
            url = self.server.create() if self.server else f"sqlite:///{place}/{uuid4().hex}.db"
            yield url, place
            if self.server is not None and self.server.alive:
                self.server.drop(url)

    @contextmanager
    def house(self, nursery: Nursery | None = None) -> Iterator[House]:
        """A new database with one release, and a tenant."""
        with self.place() as (url, folder), open_house(url, folder, nursery or self.nursery) as house:
            yield house


Run = Callable[[Setup], Count]


@dataclass(frozen=True)
class Case:
    """One case of RELIABILITY."""

    number: int
    what: str
    run: Run
    databases: tuple[str, ...]


CASES: list[Case] = []


def case(number: int, what: str, databases: tuple[str, ...] = DATABASES) -> Callable[[Run], Run]:
    """Enter a function into the list of cases; without databases it runs once, on SQLite."""

    def enter(run: Run) -> Run:
        CASES.append(Case(number, what, run, databases))
        return run

    return enter


def not_tried(reason: str) -> Count:
    """A case that says why it was not tried; never counted as survived."""
    return Count(notes=[reason])


def result(chosen: Case, setup: Setup, count: Count, seconds: float) -> dict[str, Any]:
    """As it is written to ``build/faults``."""
    return {
        "case": chosen.number,
        "what": chosen.what,
        "database": setup.database,
        "tried": count.tried,
        "survived": count.survived,
        "seed": setup.seed,
        "control_caught": count.caught,
        "controls": count.controls,
        "seconds": round(seconds, 1),
        "notes": count.notes,
        "failures": count.failures,
    }
