"""A copy of everything at one moment, and the way back (RELIABILITY 17; under load in ``make faults``)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert, select, update

from feilun.accounts.terms import Terms
from feilun.bill.verify import verify
from feilun.errors import ArtifactError, ConflictError, SettingError
from feilun.pipeline.kinds import Dataset
from feilun.store import audit, backup, tables
from feilun.store.artifacts import ArtifactStore
from feilun.store.database import Database
from feilun.store.migrations import open_database
from tests.bill.books import Books, Use, at

PHANTOM = "a" * 64  # the release of ``Books``: a row without files
TERMS = Terms("USD", unit_nano={"requests": 800_000})


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(new_url: Callable[[str], str], kind: str, tmp_path: Path) -> Iterator[ArtifactStore]:
    """A ledger of 200 rows and two artefacts."""
    with open_database(new_url(kind)) as database:
        made = ArtifactStore(tmp_path / "artifacts", database)
        for number in range(2):
            files = tmp_path / f"files-{number}"
            (files / "inner").mkdir(parents=True)
            (files / "inner" / "rows.jsonl").write_text(f'{{"text": "\\u96f6 {number}"}}\n')
            made.add(Dataset, files, parents=[], facts={"rows": 1})
        books = Books(database)
        for _ in range(2):
            books.use(books.tenant(), [Use(at(f"2026-09-{1 + n // 4:02d}")) for n in range(100)], TERMS)
        yield made


def content(database: Database) -> dict[str, list[tuple[object, ...]]]:
    with database.read() as connection:
        found = {table.name: connection.execute(select(table)).all() for table in tables.metadata.sorted_tables}
    return {name: sorted(map(tuple, rows), key=repr) for name, rows in found.items()}


@pytest.mark.parametrize("link", [True, False])
def test_what_is_restored_is_what_was_there_case_17(
    store: ArtifactStore, new_url: Callable[[str], str], kind: str, tmp_path: Path, link: bool
) -> None:
    made = backup.backup(store, tmp_path / "backup", link=link)
    assert (made.rows["usage"], len(made.artifacts), made.missing) == (200, 3, (PHANTOM,))
    assert backup.read(tmp_path / "backup") == made
    url = new_url(kind)
    backup.restore(tmp_path / "backup", url, tmp_path / "elsewhere", link=link)
    with contextlib.closing(Database(url)) as restored:
        assert content(restored) == content(store.database)
        assert verify(restored).problems == ()
        for digest in set(made.artifacts) - {PHANTOM}:
            other = ArtifactStore(tmp_path / "elsewhere", restored)
            assert other.verify(other.get(digest)).facts == store.get(digest).facts
        with restored.read() as connection:
            assert audit.verify(connection) == []
        with pytest.raises(Exception, match="append-only"):  # the guards are there too
            restored.write(lambda c: c.execute(update(tables.usage).values(amount_nano=0)))


def test_nothing_is_overwritten(store: ArtifactStore, new_url: Callable[[str], str], kind: str, tmp_path: Path) -> None:
    backup.backup(store, tmp_path / "backup")
    with pytest.raises(ConflictError):
        backup.backup(store, tmp_path / "backup")
    before = content(store.database)
    with pytest.raises(ConflictError) as refused:
        backup.restore(tmp_path / "backup", store.database.url, tmp_path / "elsewhere")
    if kind == "sqlite":
        assert refused.value.hint == "nothing is overwritten: name another home with FEILUN_HOME"
    assert content(store.database) == before
    assert sorted(f.name for f in tmp_path.iterdir() if f.name.startswith("backup")) == ["backup"]


def test_a_backup_that_was_changed_is_refused(
    store: ArtifactStore, new_url: Callable[[str], str], kind: str, tmp_path: Path
) -> None:
    made = backup.backup(store, tmp_path / "backup")
    for name in [*list(made.files)[:3], backup.FILE]:
        file = tmp_path / "backup" / name
        good = file.read_bytes()
        file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]) if good else b"more")
        with pytest.raises((ArtifactError, SettingError)):
            backup.restore(tmp_path / "backup", new_url(kind), tmp_path / "elsewhere")
        file.write_bytes(good)
    (tmp_path / "backup" / backup.FILE).unlink()
    with pytest.raises(ArtifactError):
        backup.read(tmp_path / "backup")


def test_a_broken_ledger_is_not_restored(
    store: ArtifactStore, new_url: Callable[[str], str], kind: str, tmp_path: Path
) -> None:
    store.database.write(lambda c: c.execute(update(tables.counters).values(spent_nano=7)) and None)
    backup.backup(store, tmp_path / "backup")
    url = new_url(kind)
    with pytest.raises(ConflictError, match="does not agree with itself"):
        backup.restore(tmp_path / "backup", url, tmp_path / "elsewhere")
    with open_database(url) as database, database.read() as connection:
        assert connection.execute(select(tables.usage)).first() is None


def test_a_damaged_artefact_is_named_and_the_rest_is_kept(
    store: ArtifactStore, new_url: Callable[[str], str], kind: str, tmp_path: Path
) -> None:
    with store.database.read() as connection:
        digest = next(d for d in connection.execute(select(tables.artifacts.c.digest)).scalars() if d != PHANTOM)
    file = store.get(digest).path / "inner" / "rows.jsonl"
    file.write_text("something else\n")
    made = backup.backup(store, tmp_path / "backup")
    assert set(made.missing) == {digest, PHANTOM}
    backup.restore(tmp_path / "backup", new_url(kind), tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere" / digest[:2] / digest).exists()


def test_a_backup_of_the_other_database_is_refused(
    store: ArtifactStore, new_url: Callable[[str], str], kind: str, tmp_path: Path
) -> None:
    backup.backup(store, tmp_path / "backup")
    other = new_url("postgresql" if kind == "sqlite" else "sqlite")
    with pytest.raises(SettingError, match="is of"):
        backup.restore(tmp_path / "backup", other, tmp_path / "elsewhere")


def test_rows_that_come_while_it_is_made_are_in_whole_or_not_at_all(
    store: ArtifactStore, new_url: Callable[[str], str], kind: str, tmp_path: Path
) -> None:
    """A transaction that is open all the while is not in it."""
    row = {"id": "late", "plan": "starter", "budget_nano": None, "active": True, "created_at": 0}
    if kind == "sqlite":  # until there is a log, it has one writer or many readers: none sees a half of it
        with store.database.alone() as connection:
            connection.execute(insert(tables.tenants).values(row))
            connection.rollback()
        assert backup.backup(store, tmp_path / "backup").rows["tenants"] == 2
        return
    with store.database.alone() as connection:
        connection.execute(insert(tables.tenants).values(row))
        made = backup.backup(store, tmp_path / "backup")
    assert made.rows["tenants"] == 2
