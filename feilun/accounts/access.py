"""From the Authorization header to the caller: who it is comes from the key and from nothing else."""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select

from feilun.accounts.keys import digest, read_token
from feilun.errors import AccessError
from feilun.store import tables
from feilun.store.database import Database, now_us

CACHE_S = 0.5  # how long an answer is kept: a revoked key is refused within a second, reading included
CACHE_SIZE = 10_000
_DUMMY = bytes(32)  # what an absent key's digest is compared with


@dataclass(frozen=True)
class Caller:
    """Who asks. ``key`` is the key's public id."""

    tenant: str
    key: str
    scopes: frozenset[str]
    mode: str
    plan: str


def authenticate(database: Database, pepper: bytes, header: str | None) -> Caller:
    """The caller behind an ``Authorization: Bearer ...`` header.

    Raises:
        AccessError: 401, with the same words whatever is wrong with the key.
        SettingError: the pepper is too short.
    """
    token = _token(header)
    return _look_up(database, digest(pepper, token), read_token(token))


class Keyring:
    """``authenticate`` with a memory of half a second, keyed by the digest of the whole token."""

    def __init__(self, database: Database, pepper: bytes) -> None:
        digest(pepper, "")  # refuses a short pepper at start, not at the first request
        self._database = database
        self._pepper = pepper
        self._known: dict[bytes, tuple[float, Caller]] = {}
        self._lock = threading.Lock()

    def remembered(self, header: str | None) -> Caller | None:
        """The caller if the whole token was found good within the last half second; never touches the database."""
        token = _token(header)
        known = self._known.get(digest(self._pepper, token))
        return known[1] if known is not None and known[0] > time.monotonic() else None

    def authenticate(self, header: str | None) -> Caller:
        """As the function ``authenticate``."""
        token = _token(header)
        stamp = digest(self._pepper, token)
        until = time.monotonic() + CACHE_S  # from before the look-up: what it finds is at least as new
        caller = _look_up(self._database, stamp, read_token(token))
        with self._lock:
            if len(self._known) >= CACHE_SIZE:
                self._known.clear()
            self._known[stamp] = (until, caller)
        return caller

    def digest_of(self, tenant: str, text: str) -> str:
        """A keyed digest of a text of a tenant: ties feedback to what was asked without keeping it."""
        message = f"input\0{tenant}\0{text}".encode()
        return hmac.digest(self._pepper, message, hashlib.sha256).hex()


def _token(header: str | None) -> str:
    scheme, _, token = (header or "").strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip() or not token.isascii():
        raise _refused()
    return token.strip()


def of_key(database: Database, public_id: str) -> Caller:
    """The caller in whose name something is done later, by the public id of the key that asked for it.

    Raises:
        AccessError: 401, the key is not valid any more.
    """
    return _valid(*_row(database, public_id))


def _look_up(database: Database, stamp: bytes, read: tuple[str, str] | None) -> Caller:
    if read is None:
        raise _refused()
    mode, public_id = read
    row, now = _row(database, public_id)
    same = hmac.compare_digest(stamp, row.hmac if row is not None else _DUMMY)
    if row is None or not same or row.mode != mode:
        raise _refused()
    return _valid(row, now)


def _row(database: Database, public_id: str) -> tuple[Row[Any] | None, int]:
    """The key's row with its tenant's plan, and the time."""
    keys, tenants = tables.keys, tables.tenants
    query = select(keys, tenants.c.plan, tenants.c.active).join(tenants, tenants.c.id == keys.c.tenant)
    with database.read() as connection:
        row = connection.execute(query.where(keys.c.public_id == public_id)).one_or_none()
        return row, now_us(connection)


def _valid(row: Row[Any] | None, now: int) -> Caller:
    if row is None or not row.active:
        raise _refused()
    if row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= now):
        raise _refused()
    return Caller(row.tenant, row.public_id, frozenset(row.scopes.split()), row.mode, row.plan)


def _refused() -> AccessError:
    return AccessError(
        "the key is missing or not valid",
        where="Authorization",
        hint="send 'Authorization: Bearer feilun_...' with a key from 'feilun key create'",
        code="invalid-key",
    )
