"""The disk: full, failing, copied, damaged (cases 11, 12, 17, 18)."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import func, select, text

from faults import checks, postgres
from faults.counting import Count, Setup, case, not_tried
from faults.crashes import crowd, fleet
from faults.house import BILL, House, Running, ask, open_house, readiness
from faults.load import Clients
from faults.nursery import Nursery
from faults.outages import answered_since
from faults.shim import Shim, compiler
from feilun.bill import invoices
from feilun.bill.verify import verify
from feilun.errors import FeilunError
from feilun.store import audit, ledger, tables
from feilun.store import backup as backups
from feilun.store.artifacts import ArtifactStore
from feilun.store.database import Database

RECOVERY_S = 20.0


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path | None]:
    """A file system of that size in memory; None where it cannot be mounted."""
    with tempfile.TemporaryDirectory(prefix="faults-disk-") as folder:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "faults", folder]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            yield None
            return
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path) -> Path:
    """Take all the room that there is."""
    filler = disk / "filler"
    descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while True:
            for size in (1 << 16, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while os.write(descriptor, bytes(size)):
                        pass
            break
    os.close(descriptor)
    return filler


@case(11, "disk full: refused before inference, readyz red, recovers without a restart")
def full_disk(setup: Setup) -> Count:
    """Each time the disk is full and freed again is a trial."""
    count = Count()
    postgresql = setup.database == "postgresql"
    with small_disk(200 if postgresql else 24) as disk:
        if disk is None:
            return not_tried("a small file system needs root: mount was refused")
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(postgres.server(_made(disk / "postgres"))) if postgresql else None
            work = disk if server is None else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="faults-")))
            url = server.create() if server else f"sqlite:///{disk}/feilun.db"
            house = stack.enter_context(open_house(url, work, setup.nursery))
            gateways = stack.enter_context(fleet(house, 1))
            clients: list[Clients] = []
            for number in range(setup.times(10, 2)):
                crowds, broken = _full_once(setup, house, gateways.running[0], (disk, server, number), count)
                clients += crowds
                count.trial(broken)
            wrong = checks.everything(house, *clients, all_delivered=False)
            if wrong:
                count.survived, count.failures = 0, wrong[:20]
    return count


def _full_once(
    setup: Setup, house: House, running: Running, where: tuple[Path, postgres.Server | None, int], count: Count
) -> tuple[list[Clients], list[str]]:
    disk, server, number = where
    broken: list[str] = []
    with crowd(house, [running.base], setup.seed + number) as crowds:
        time.sleep(0.7)
        filler = fill(disk)
        time.sleep(1.5)
        posted, answered = _posted(house), _answered(crowds)
        time.sleep(1.0)
        more, read = _posted(house) - posted, _answered(crowds) - answered
        red = readiness(running, 10.0)
        filler.unlink()
        if server is not None and not server.alive:
            time.sleep(1.0)
            if not server.alive:
                server.start()
                count.notes.append("PostgreSQL itself had given up, and was started again")
        before = _answered(crowds)
        broken += [] if answered_since(crowds, before, RECOVERY_S) else ["no answers after there was room again"]
        end = time.monotonic() + RECOVERY_S
        while (green := readiness(running, 10.0)) != 200 and time.monotonic() < end:
            time.sleep(0.1)
    told = sum((c.refused for c in crowds), start=type(crowds[0].refused)())
    count.notes.append(f"refused {dict(told)}; while full {more} rows and {read} answers")
    broken += [] if not read or read <= more else [f"{read} answers, {more} rows while the disk was full"]
    broken += [] if red == 503 or more else [f"readyz said {red} while the disk was full"]
    broken += [] if green == 200 else [f"readyz said {green} when there was room again"]
    broken += [] if set(told) <= {409, 503, 507} else [f"refused with {sorted(told)}"]
    broken += [] if more or told[503] + told[507] else ["nobody was refused: the disk was not full"]
    return crowds, broken


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _posted(house: House) -> int:
    try:
        with house.database.read() as connection:
            return int(connection.execute(select(func.count()).select_from(tables.usage)).scalar_one())
    except FeilunError:
        return 0


def _answered(crowds: list[Clients]) -> int:
    return sum(len(c.answers) for c in crowds)


@case(12, "fsync fails once: the gateway (SQLite) or the server (PostgreSQL) stops, and never goes on as if")
def failed_fsync(setup: Setup) -> Count:
    """Each failed fsync is a trial."""
    if compiler() is None:
        return not_tried("there is no C compiler for the library that makes fsync fail")
    count = Count()
    pieces = ("pg_wal",) if setup.database == "postgresql" else (".db", ".db-journal")
    with tempfile.TemporaryDirectory(prefix="faults-shim-") as folder:
        shim = Shim(Path(folder))
        for number in range(setup.times(10, 2)):
            piece = pieces[number % len(pieces)]
            one = _unsynced_sqlite if setup.database == "sqlite" else _unsynced_postgresql
            count.trial(one(setup, shim, piece, setup.seed + number))
        if setup.database == "sqlite":
            bug = "go-on-after-a-failed-fsync"
            broken = _unsynced_sqlite(setup, shim, ".db", setup.seed, planted=bug)
            count.controls[bug] = any("went on" in words for words in broken)
    count.notes.append(f"files: {', '.join(pieces)}")
    return count


def _unsynced_sqlite(setup: Setup, shim: Shim, piece: str, seed: int, **options: Any) -> list[str]:
    with Nursery(shim.environment) as nursery, setup.house(nursery) as house, fleet(house, 1, **options) as gateways:
        first = gateways.running[0]
        with crowd(house, gateways.bases, seed) as crowds:
            time.sleep(0.5)
            shim.fail_fsync(piece)
            end = time.monotonic() + 5
            while first.process.poll() is None and time.monotonic() < end:
                time.sleep(0.02)
            code = first.process.poll()
            house.nursery = setup.nursery
            gateways.grow()
            gateways.bury(first)
            flows = answered_since(crowds, _answered(crowds), RECOVERY_S)
        broken = checks.everything(house, *crowds)
        broken += [] if code not in (None, 0) else [f"the gateway went on after a failed fsync (it ended with {code})"]
        broken += [] if shim.failed else ["no fsync failed"]
        return broken + ([] if flows else ["its successor gave no answers"])


def _unsynced_postgresql(setup: Setup, shim: Shim, piece: str, seed: int) -> list[str]:
    with postgres.server(environment=shim.environment) as server:
        own = Setup(setup.database, server, setup.nursery, setup.seed, setup.kills, setup.quick)
        with own.house() as house, fleet(house, 1) as gateways:
            with crowd(house, gateways.bases, seed) as crowds:
                time.sleep(0.5)
                shim.fail_fsync(piece)
                time.sleep(1.0)
                flows = answered_since(crowds, _answered(crowds), RECOVERY_S)
            broken = checks.everything(house, *crowds)
            log = (server.data / "server.log").read_text()
            broken += [] if shim.failed and "PANIC" in log else ["PostgreSQL did not stop at the failed fsync"]
            return broken + ([] if flows else ["no answers after PostgreSQL had recovered"])


@case(17, "backup under load, then restore: every chain holds, and every answer from before is in it")
def backups_under_load(setup: Setup) -> Count:
    """Each backup that is restored into a new database is a trial; the control copies without a snapshot."""
    count = Count()
    with setup.house() as house, fleet(house, 2) as gateways:
        with crowd(house, gateways.bases, setup.seed) as crowds:
            for number in range(setup.times(20, 3)):
                time.sleep(0.3)
                target = house.folder / f"backup-{number}"
                told = [answer["id"] for clients in crowds for answer in list(clients.answers)]
                backups.backup(house.store, target, link=number % 2 == 0)
                count.trial(_restored(setup, house, target, told))
            target = house.folder / "spoiled"
            backups.backup(house.store, target)
            count.controls["a byte of the backup was flipped"] = _spoiled_is_refused(setup, house, target)
            count.controls["tables copied one after the other"] = any(_torn_copy_is_caught(house) for _ in range(20))
        wrong = checks.everything(house, *crowds)
    if wrong:
        count.survived, count.failures = 0, wrong[:20]
    return count


def _restored(setup: Setup, house: House, source: Path, told: list[str]) -> list[str]:
    with setup.place() as (url, folder):
        backups.restore(source, url, folder / "artifacts")
        with contextlib.closing(Database(url)) as database:
            store = ArtifactStore(folder / "artifacts", database)
            for digest in backups.read(source).artifacts:
                store.verify(store.get(digest))
            broken = [str(problem) for problem in verify(database).problems]
            with database.read() as connection:
                kept = set(connection.execute(select(tables.usage.c.request)).scalars())
        broken += [f"{i} was answered before, and is not in the backup" for i in told if i not in kept]
        try:
            backups.restore(source, url, folder / "artifacts")
        except FeilunError as error:
            return broken + ([] if error.name == "conflict" else [f"refused with {error.name}"])
        return [*broken, "it was restored over a database that was there"]


def _spoiled_is_refused(setup: Setup, house: House, source: Path) -> bool:
    name = "feilun.db" if setup.database == "sqlite" else "tables/usage.copy"
    body = bytearray((source / name).read_bytes())
    body[len(body) // 2] ^= 1
    (source / name).write_bytes(bytes(body))
    with setup.place() as (url, folder):
        try:
            backups.restore(source, url, folder / "artifacts")
        except FeilunError:
            return True
    return False


def _torn_copy_is_caught(house: House) -> bool:
    """What a copy without a snapshot would have: usage rows of one moment, the chain's end of another."""
    usage, chains = tables.usage.c, tables.chains.c
    with house.database.read() as connection:
        rows = dict(connection.execute(select(usage.tenant, func.max(usage.sequence)).group_by(usage.tenant)).all())
    time.sleep(0.05)
    with house.database.read() as connection:
        ends = dict(connection.execute(select(chains.tenant, chains.sequence)).all())
    return any(rows.get(tenant, 0) != end for tenant, end in ends.items())


@case(18, "one flipped bit in the ledger: verify names the row, invoicing refuses")
def flipped_bits(setup: Setup) -> Count:
    """One bit of one column of one usage row or posting, chosen by chance, past the triggers; put back afterwards."""
    count = Count()
    chance = random.Random(setup.seed)
    with setup.house() as house, fleet(house, 1) as gateways:
        for number in range(40):
            ask(gateways.running[0], house.tokens["acme"], headers={"Idempotency-Key": f"k{number}"})
        count.trial([f"before anything: {problem}" for problem in verify(house.database).problems])
        for _ in range(setup.times(200, 20)):
            count.trial(_flip_once(house, chance))
        honest = audit.row_hash
        audit.row_hash = ledger.row_hash = lambda row: str(row["hash"])
        try:
            caught = [bool(_flip_once(house, chance, "compute_ns")) for _ in range(3)]
        finally:
            audit.row_hash = ledger.row_hash = honest
        count.controls["a check that trusts the stored hash"] = all(caught)
    return count


def _flip_once(house: House, chance: random.Random, column: str | None = None) -> list[str]:
    """Flip, look, flip back."""
    usage = tables.usage
    chosen = column or chance.choice([c.name for c in usage.columns if c.name not in ("request", "tenant", "more")])
    with house.database.read() as connection:
        row = chance.choice(connection.execute(select(usage)).mappings().all())
        period = ledger.month(connection, "acme")[0]
    flipped = _flip(row[chosen], chance)
    _change(house.database, chosen, flipped, row["request"])
    try:
        named = [str(problem) for problem in verify(house.database).problems]
        try:
            invoices.draft(house.database, "acme", period, BILL)
            refused = ""
        except FeilunError as error:
            refused = error.name
    finally:
        _change(house.database, chosen, row[chosen], row["request"])
    place = f"{chosen} of row {row['sequence']}"
    broken = [] if refused == "ledger-broken" else [f"{place} was changed, and an invoice could be made ({refused})"]
    if chosen == "sequence":  # then the row is gone from its place: what is named is the place
        return broken + ([] if named else [f"{place} was changed, and nobody noticed"])
    right = any(f"row {row['sequence']} " in words for words in named)
    return broken + ([] if right else [f"{place} was changed, and it was not named: {named[:1]}"])


def _flip(value: Any, chance: random.Random) -> Any:
    if isinstance(value, int):
        return value ^ (1 << chance.randint(8, 20))
    at = chance.randrange(len(value))
    return value[:at] + chr(ord(value[at]) ^ 1) + value[at + 1 :]


def _change(database: Database, column: str, value: Any, request: str) -> None:
    """Past triggers and keys, as somebody with the file or the superuser's password could."""
    update = f'UPDATE usage SET "{column}" = :value WHERE request = :request'
    with database.engine.connect() as connection:
        if database.is_sqlite:
            raw = connection.connection.driver_connection
            assert isinstance(raw, sqlite3.Connection)
            guards = raw.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'usage'")
            triggers = guards.fetchall()
            raw.execute("PRAGMA foreign_keys = OFF")
            for name, _ in triggers:
                raw.execute(f"DROP TRIGGER {name}")
            raw.execute(update, {"value": value, "request": request})
            for _, sql in triggers:
                raw.execute(sql)
            raw.execute("PRAGMA foreign_keys = ON")
        else:
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            connection.execute(text(update), {"value": value, "request": request})
            connection.commit()
