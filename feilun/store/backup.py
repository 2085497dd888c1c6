"""A copy of the whole store at one moment, taken while gateways write, and the way back.

A backup is a folder: the database (SQLite's own online copy; of PostgreSQL each table as COPY writes it, all in one
snapshot), the artefacts that it names, and ``backup.json`` with the sha256 of every file of the database. It appears
complete or not at all, and nothing is ever overwritten. Secrets are not in it: keep ``secrets.env`` apart.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect, select, text
from sqlalchemy.exc import OperationalError

from feilun.errors import ArtifactError, ConflictError, SettingError, UnavailableError
from feilun.store import audit, seals, tables
from feilun.store.artifacts import MANIFEST, ArtifactStore, canonical, sha256_file, sync_folder
from feilun.store.database import Database, now_us
from feilun.store.migrations import migrate, migrations, open_database

FORMAT = 1
FILE = "backup.json"
_DATABASE = "feilun.db"
_ANOTHER_HOME = "name another home with FEILUN_HOME"
_PATIENCE_S = 60.0  # how long SQLite's copy waits for those who write


Check = Callable[[Database], Sequence[object]]  # what is wrong with a restored database


@dataclass(frozen=True)
class Backup:
    """What a backup has. ``at`` is in microseconds since 1970, by the database's clock, just before the copy.

    ``files`` are those of the database, by sha256; ``rows`` counts each table; ``missing`` names artefacts that could
    not be copied because they were gone or damaged.
    """

    database: str  # sqlite, postgresql
    migrations: dict[str, str]  # number -> sha256
    at: int
    files: dict[str, str]
    rows: dict[str, int]
    artifacts: tuple[str, ...]
    missing: tuple[str, ...] = ()


# --- out -----------------------------------------------------------------------------------------------------------


def backup(store: ArtifactStore, target: Path, *, link: bool = True) -> Backup:
    """Copy database and artefacts into the new folder ``target``; gateways may write meanwhile.

    Where SQLite has no write-ahead log, writers wait while its file is copied (about 2 s a gigabyte).

    Args:
        link: artefacts are hard links where the disk allows it: they never change, and cost nothing twice. Without it
            they are copies. Either way each is hashed again.

    Raises:
        ConflictError: ``target`` is there already.
        UnavailableError: the database cannot be read now.
    """
    _refuse_existing(target)
    partial = target.with_name(f"{target.name}.partial-{secrets.token_hex(4)}")
    partial.mkdir(parents=True)
    try:
        try:
            said = _copy_sqlite(store.database, partial) if store.database.is_sqlite else _dump(store.database, partial)
        except (OperationalError, sqlite3.OperationalError) as error:
            raise UnavailableError("the database cannot be read now", where=type(error).__name__) from error
        missing = _keep_artifacts(store, said.artifacts, partial / "artifacts", link=link)
        said = replace(said, missing=missing, files={name: sha256_file(partial / name) for name in said.files})
        (partial / FILE).write_bytes(canonical({"format": FORMAT, **asdict(said)}))
        _sync(partial)
        _refuse_existing(target)
        partial.rename(target)
        sync_folder(target.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return said


def _copy_sqlite(database: Database, folder: Path) -> Backup:
    with database.read() as connection:
        at = now_us(connection)
    raw = database.engine.raw_connection()
    try:
        source = raw.driver_connection
        assert isinstance(source, sqlite3.Connection)
        source.execute(f"PRAGMA busy_timeout = {int(_PATIENCE_S * 1000)}")
        with contextlib.closing(sqlite3.connect(folder / _DATABASE)) as copy:
            source.backup(copy, pages=-1)  # in one step: in several, each write in between would begin it anew
    finally:
        raw.invalidate()
        raw.close()
    with contextlib.closing(Database(f"sqlite:///{folder / _DATABASE}")) as copied, copied.read() as connection:
        return _described(connection, "sqlite", at, [_DATABASE])


def _dump(database: Database, folder: Path) -> Backup:
    """Each table from the same snapshot. ``pg_dump`` would do, but is not everywhere, and refuses newer servers."""
    (folder / "tables").mkdir()
    with _snapshot(database) as connection:
        at = now_us(connection)
        driver: Any = connection.connection.driver_connection
        names = []
        for table in tables.metadata.sorted_tables:
            names.append(f"tables/{table.name}.copy")
            with (folder / names[-1]).open("wb") as file, driver.cursor().copy(_copy(table, "TO STDOUT")) as rows:
                for part in rows:
                    file.write(part)
        return _described(connection, "postgresql", at, names)


@contextlib.contextmanager
def _snapshot(database: Database) -> Iterator[Connection]:
    with database.read() as connection:
        yield connection.execution_options(isolation_level="REPEATABLE READ")


def _copy(table: Any, direction: str) -> str:
    columns = ", ".join(f'"{column.name}"' for column in table.columns)
    return f'COPY "{table.name}" ({columns}) {direction}'


def _described(connection: Connection, kind: str, at: int, files: list[str]) -> Backup:
    done = connection.execute(text("SELECT number, sha256 FROM migrations ORDER BY number")).all()
    digests = connection.execute(select(tables.artifacts.c.digest).order_by(tables.artifacts.c.digest)).scalars().all()
    return Backup(
        database=kind,
        migrations={str(number): sha256 for number, sha256 in done},
        at=at,
        files=dict.fromkeys(files, ""),
        rows=_rows(connection),
        artifacts=tuple(digests),
    )


def _rows(connection: Connection) -> dict[str, int]:
    return {
        table.name: int(connection.execute(text(f'SELECT count(*) FROM "{table.name}"')).scalar_one())
        for table in tables.metadata.sorted_tables
    }


def _keep_artifacts(store: ArtifactStore, digests: tuple[str, ...], folder: Path, *, link: bool) -> tuple[str, ...]:
    """Bring artefacts into ``folder``, each hashed again where it lies then; returns those that could not be."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = []
    for digest in digests:
        try:
            _keep(store, digest, folder, link=link)
        except ArtifactError:
            missing.append(digest)
    return tuple(missing)


def _keep(store: ArtifactStore, digest: str, folder: Path, *, link: bool) -> None:
    """Written aside, hashed, renamed, as ``ArtifactStore.add`` does; what is left of a damaged one is put aside."""
    artifact = store.get(digest)
    place = folder / digest[:2] / digest
    aside = place.with_name(f"{digest}.{secrets.token_hex(4)}")
    try:
        for file in sorted(artifact.path.rglob("*")):
            to = aside / file.relative_to(artifact.path)
            if file.is_dir():
                to.mkdir(parents=True, exist_ok=True)
                continue
            to.parent.mkdir(parents=True, exist_ok=True)
            _link_or_copy(file, to, link=link)
        store.verify(replace(artifact, path=aside))
    except ArtifactError:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    if place.exists():
        place.rename(place.with_name(f"{aside.name}.damaged"))
    aside.rename(place)
    sync_folder(place.parent)


def _link_or_copy(file: Path, to: Path, *, link: bool) -> None:
    if link:
        with contextlib.suppress(OSError):  # another disk, or one without hard links
            os.link(file, to)
            return
    shutil.copyfile(file, to)
    with to.open("rb") as opened:
        os.fsync(opened.fileno())


# --- back ----------------------------------------------------------------------------------------------------------


def read(source: Path) -> Backup:
    """What the backup in ``source`` has, every file of its database hashed again.

    Raises:
        ArtifactError: it is not a backup, or a file was changed.
        SettingError: it was written by a newer version.
    """
    try:
        said = json.loads((source / FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise ArtifactError("there is no whole backup", where=str(source / FILE)) from error
    if said.pop("format", None) != FORMAT:
        raise SettingError("the backup is of another version", where=str(source), hint="install a newer feilun")
    said = Backup(**{**said, "artifacts": tuple(said["artifacts"]), "missing": tuple(said["missing"])})
    for name, sha256 in said.files.items():
        if not (source / name).is_file() or sha256_file(source / name) != sha256:
            raise ArtifactError("a file of the backup was changed", where=str(source / name), hint="use another one")
    return said


def restore(source: Path, url: str, artifacts: Path, *, link: bool = True, check: Check | None = None) -> Backup:
    """Make database and artefacts from a backup; both must be new (artefacts that are there already may stay).

    The tables are brought up to date. The hash chains, the seals, the postings and the counters are checked before
    anything is left behind, and of SQLite's file also that its tables, indexes and triggers are ours.

    Args:
        check: what else must hold of the restored database: it names what is wrong.

    Raises:
        ConflictError: there is a database already, or the ledger of the backup does not agree with itself.
        ArtifactError: the backup was changed.
        SettingError: the backup is of the other kind of database, or of a newer version.
        UnavailableError: the database cannot be reached.
    """
    said = read(source)
    kind = "sqlite" if url.startswith("sqlite") else "postgresql"
    if said.database != kind:
        raise SettingError(
            f"the backup is of {said.database}, the database to restore into is {kind}",
            where="FEILUN_DATABASE_URL",
            hint=f"set it to a new {said.database} database",
        )
    _check_version(said)
    if kind == "sqlite":
        _place_sqlite(source / _DATABASE, Path(url.removeprefix("sqlite:///")), check)
    else:
        _load(source, said, url)
        _check_loaded(url, check)
    with open_database(url) as database:
        store = ArtifactStore(artifacts, database)
        backed_up = ArtifactStore(source / "artifacts", database)
        wanted = [digest for digest in said.artifacts if digest not in said.missing]
        lost = _keep_artifacts(backed_up, tuple(d for d in wanted if not _has(store, d)), artifacts, link=link)
    if lost:
        raise ArtifactError(
            f"{len(lost)} artefacts of the backup were changed; all the rest is restored",
            where=str(source / "artifacts" / lost[0][:2] / lost[0] / MANIFEST),
            hint="feilun run makes them again",
        )
    return said


def _check_version(said: Backup) -> None:
    ours = {str(m.number): m.sha256 for m in migrations(said.database)}
    if any(ours.get(number) != sha256 for number, sha256 in said.migrations.items()):
        raise SettingError(
            "the backup is of another version of the tables", hint="restore it with the version of feilun that wrote it"
        )


def _place_sqlite(file: Path, to: Path, check: Check | None) -> None:
    _refuse_existing(to, _ANOTHER_HOME)
    to.parent.mkdir(parents=True, exist_ok=True)
    partial = to.with_name(f"{to.name}.partial-{secrets.token_hex(4)}")
    try:
        shutil.copyfile(file, partial)
        with contextlib.closing(Database(f"sqlite:///{partial}")) as database, database.read() as connection:
            if connection.execute(text("PRAGMA integrity_check")).scalars().all() != ["ok"]:
                raise ArtifactError("the backup's database is damaged", where=str(file), hint="use another backup")
            _check_schema(connection)
        with open_database(f"sqlite:///{partial}") as database:
            with database.read() as connection:
                _check_ledger(connection)
            _refuse(check(database) if check is not None else [])
        with partial.open("rb") as opened:
            os.fsync(opened.fileno())
        os.link(partial, to)  # unlike a rename, this refuses to overwrite
        sync_folder(to.parent)
    except FileExistsError:
        _refuse_existing(to, _ANOTHER_HOME)
    finally:
        partial.unlink(missing_ok=True)


def _load(source: Path, said: Backup, url: str) -> None:
    """All tables in one transaction: an interrupted restore leaves none."""
    newest = max(map(int, said.migrations))
    with contextlib.closing(Database(url)) as database:
        try:
            with database.read() as connection:
                if inspect(connection).has_table("migrations"):
                    raise ConflictError("there is a database already", where=_place(database), hint=_NEW)
            migrate(database, until=newest)
            with database.alone() as connection:
                connection.execute(text("LOCK TABLE tenants IN ACCESS EXCLUSIVE MODE"))
                if any(_rows(connection).values()):
                    raise ConflictError("there is a database already", where=_place(database), hint=_NEW)
                driver: Any = connection.connection.driver_connection
                for table in tables.metadata.sorted_tables:
                    file = source / "tables" / f"{table.name}.copy"
                    if file.exists():
                        _load_table(driver, table, file)
                if _rows(connection) != said.rows:
                    raise ConflictError("the restored tables have not the rows of the backup", where=_place(database))
                _check_ledger(connection)
        except OperationalError as error:
            raise UnavailableError("the database cannot be reached", where=type(error.orig).__name__) from error


_NEW = "restore into a new database: FEILUN_HOME=some/other/folder, or another FEILUN_DATABASE_URL"


def _load_table(driver: Any, table: Any, file: Path) -> None:
    with file.open("rb") as opened, driver.cursor().copy(_copy(table, "FROM STDIN")) as rows:
        while part := opened.read(1 << 20):
            rows.write(part)


def _check_schema(connection: Connection) -> None:
    """SQLite keeps triggers in the file: none of ours may be gone, and none may be there that is not ours."""
    newest = connection.execute(text("SELECT MAX(number) FROM migrations")).scalar_one()
    with tempfile.TemporaryDirectory(prefix="feilun-schema-") as folder, Database(f"sqlite:///{folder}/x.db") as fresh:
        migrate(fresh, until=int(newest))
        with fresh.read() as other:
            wanted = _schema(other)
    found = _schema(connection)
    if different := sorted(name for _, name, *_ in found ^ wanted):
        raise ConflictError(
            f"the backup's tables, indexes and triggers are not those of feilun: '{different[0][:80]}' differs",
            hint="use an earlier backup",
            code="ledger-broken",
        )


def _schema(connection: Connection) -> set[tuple[Any, ...]]:
    made = text("SELECT type, name, tbl_name, sql FROM sqlite_master WHERE substr(name, 1, 7) <> 'sqlite_'")
    return {tuple(row) for row in connection.execute(made)}


def _check_loaded(url: str, check: Check | None) -> None:
    """What was loaded into PostgreSQL, brought up to date; where it does not hold, its tables are removed again."""
    with open_database(url) as database:
        try:
            _refuse(check(database) if check is not None else [])
        except BaseException:
            with database.alone() as connection:
                for table in reversed(tables.metadata.sorted_tables):
                    connection.execute(text(f'DROP TABLE "{table.name}"'))
                connection.execute(text("DROP TABLE migrations"))
                for function in ("feilun_refuse", "feilun_refuse_posted"):
                    connection.execute(text(f"DROP FUNCTION {function}()"))
            raise


def _check_ledger(connection: Connection) -> None:
    _refuse([*audit.verify(connection), *seals.verify(connection)])


def _refuse(problems: Sequence[object]) -> None:
    if problems:
        raise ConflictError(
            f"the backup's ledger does not agree with itself: {problems[0]}",
            hint="use an earlier backup",
            code="ledger-broken",
        )


def _has(store: ArtifactStore, digest: str) -> bool:
    try:
        store.verify(store.get(digest))
    except ArtifactError:
        return False
    return True


def _place(database: Database) -> str:
    return database.engine.url.render_as_string(hide_password=True)


def _refuse_existing(path: Path, instead: str = "name another folder") -> None:
    if path.exists():
        hint = f"nothing is overwritten: {instead}"
        raise ConflictError(f"'{path.name}' is there already", where=str(path), hint=hint)


def _sync(folder: Path) -> None:
    """The database's files, ``backup.json`` and all folders; artefacts were synced one by one, or are links."""
    for file in [folder / FILE, *folder.glob(_DATABASE), *folder.glob("tables/*")]:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    for inner in sorted((f for f in folder.rglob("*") if f.is_dir()), reverse=True):
        sync_folder(inner)
    sync_folder(folder)
