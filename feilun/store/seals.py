"""One hash chain over the rows that decide what is owed: what is changed, put in or taken out later shows.

Usage and events have chains of their own. All other rows of money are sealed by the transaction that writes them: a
seal has the sha256 of the row and of the seal before it. A seal's number and hash, noted where the database's owner
cannot write, prove later that nothing before it was changed or removed, not even together with its seals.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, insert, select, text

from feilun.errors import SettingError
from feilun.store import tables
from feilun.store.artifacts import canonical
from feilun.store.database import at_end, now_us

GENESIS = "0" * 64  # the hash before the first seal
SEALED = (
    *(tables.invoices, tables.credit_notes, tables.grants, tables.grant_uses, tables.redemptions),
    *(tables.assignments, tables.plan_prices, tables.profiles, tables.payments),
)
_LOCK = 0x7365616C  # an arbitrary number of our own for PostgreSQL's advisory locks: "seal"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong; ``where`` names the table and the row's id, or the seal."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class Seal(NamedTuple):
    """What to note elsewhere: the newest seal."""

    number: int
    hash: str

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}"

    @classmethod
    def of(cls, note: str) -> Seal:
        """A seal as it was noted, ``NUMBER:HASH``.

        Raises:
            SettingError: it is not such a note.
        """
        if not re.fullmatch(r"[0-9]{1,18}:[0-9a-f]{64}", note):
            raise SettingError(f"'{note[:80]}' is no seal", where="--seal", hint="as 'feilun bill verify' prints it")
        number, _, digest = note.partition(":")
        return cls(int(number), digest)


def seal(connection: Connection, name: str, *rows: Mapping[str, Any]) -> None:
    """Seal rows that this transaction writes into the table ``name``.

    The seals themselves are written at the end of the transaction: their lock is then the last that it takes, so no
    two transactions can wait for each other in a circle because of it.
    """
    table = tables.metadata.tables[name]
    at_end(connection, _write, [(name, str(row["id"]), row_hash(table.columns.keys(), row)) for row in rows])


def row_hash(columns: Iterable[str], row: Mapping[str, Any]) -> str:
    """The sha256 of every column that is not null, so that a column that is added later changes nothing."""
    said = {column: row.get(column) for column in columns}
    return hashlib.sha256(canonical({k: v for k, v in said.items() if v is not None})).hexdigest()


def adopt(connection: Connection) -> None:
    """Seal what is there already: by the migration that brought seals, on rows from before it."""
    for table in SEALED:
        rows = connection.execute(select(table).order_by(table.c.id)).mappings().all()
        _write(connection, [(table.name, row["id"], row_hash(table.columns.keys(), dict(row))) for row in rows])


def newest(connection: Connection) -> Seal:
    """The last seal; number 0 where there is none."""
    seals = tables.seals.c
    row = connection.execute(select(seals.number, seals.hash).order_by(seals.number.desc()).limit(1)).first()
    return Seal(0, GENESIS) if row is None else Seal(row.number, row.hash)


def noted(connection: Connection, note: Seal) -> Problem | None:
    """What a seal that was noted elsewhere says of this database: None where it is still there."""
    if note == (0, GENESIS):
        return None
    found = connection.execute(select(tables.seals.c.hash).where(tables.seals.c.number == note.number)).scalar()
    if found is None:
        return Problem(f"seal {note.number}", "it was noted, and is not there: rows were removed with their seals")
    if found != note.hash:
        return Problem(f"seal {note.number}", "it is not the one that was noted: rows at or before it were rewritten")
    return None


def verify(connection: Connection) -> list[Problem]:
    """Check the chain, that every sealed row says what was sealed, and that every row has a seal."""
    found: list[Problem] = []
    sealed: dict[str, dict[str, str]] = {table.name: {} for table in SEALED}
    previous, at = GENESIS, 0
    query = select(tables.seals).order_by(tables.seals.c.number)
    for number, row in enumerate(connection.execute(query).mappings(), start=1):
        checks = {
            "a seal is missing before it": row["number"] == number,
            "it does not follow the seal before it": row["previous"] == previous and row["at"] >= at,
            "its hash is not of what it says": row["hash"] == _hash(dict(row)),
            "it seals a row that was sealed before": row["key"] not in sealed.get(row["name"], {}),
            f"it seals a row of '{row['name']}', where none are sealed": row["name"] in sealed,
        }
        broken = [what for what, holds in checks.items() if not holds]
        if broken:  # nothing after it can be trusted to be the next
            found.append(Problem(f"seal {row['number']} ({row['name']} {row['key']})", broken[0]))
            break
        sealed[row["name"]][row["key"]] = row["row"]
        previous, at = row["hash"], row["at"]
    whole = not found
    for table in SEALED:
        found += _rows(connection, table.name, sealed[table.name], whole=whole)
    return found


def _rows(connection: Connection, name: str, sealed: dict[str, str], *, whole: bool) -> Iterable[Problem]:
    table = tables.metadata.tables[name]
    missing = dict(sealed)
    for row in connection.execute(select(table).order_by(table.c.id)).mappings():
        stored = missing.pop(row["id"], None)
        if stored is None and whole:
            yield Problem(f"{name} {row['id']}", "it has no seal: it was put in past this program")
        elif stored is not None and stored != row_hash(table.columns.keys(), dict(row)):
            yield Problem(f"{name} {row['id']}", "it was changed after it had been sealed")
    for key in missing:
        yield Problem(f"{name} {key}", "it was sealed, and is gone")


def _write(connection: Connection, rows: Iterable[tuple[str, str, str]]) -> None:
    wanted = list(rows)
    if not wanted:
        return
    if connection.dialect.name == "postgresql":  # SQLite has one writer anyway
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    seals = tables.seals.c
    last = connection.execute(
        select(seals.number, seals.hash, seals.at).order_by(seals.number.desc()).limit(1)
    ).first() or (0, GENESIS, 0)
    number, previous, at = last[0], last[1], max(now_us(connection), last[2])
    made: list[dict[str, Any]] = []
    for name, key, digest in wanted:
        number += 1
        new: dict[str, Any] = {"number": number, "name": name, "key": key, "row": digest}
        new |= {"previous": previous, "at": at}
        previous = new["hash"] = _hash(new)
        made.append(new)
    connection.execute(insert(tables.seals), made)


def _hash(row: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical({k: v for k, v in row.items() if k != "hash"})).hexdigest()
