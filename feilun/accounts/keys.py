"""API keys: made once, shown once, kept only as a keyed digest.

``feilun_<live|test>_<public id>_<secret>_<checksum>``: the public id finds the row, the secret is 256 bits, the
checksum lets secret scanners and typing mistakes be recognised without the database.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from feilun.accounts import tenants
from feilun.errors import AccessError, SettingError, did_you_mean
from feilun.store import tables
from feilun.store.artifacts import canonical
from feilun.store.counts import NAME
from feilun.store.database import Database, now_us

SCOPES = ("classify", "generate", "files", "feedback", "usage", "products", "metrics", "events", "admin")
# metrics, events and admin reach over all tenants: for who runs the service
USUAL = ("classify", "generate", "feedback", "usage")
MODES = ("live", "test")
_FORM = re.compile(r"(feilun_(live|test)_([0-9a-f]{16})_[0-9a-f]{64})_([0-9a-f]{8})")
LONGEST = 128  # of anything that could be a token


@dataclass(frozen=True)
class NewKey:
    """A key at the one moment when its token is known."""

    public_id: str
    token: str


@dataclass(frozen=True)
class Key:
    """What is known of a key later. Times are in microseconds since 1970."""

    public_id: str
    tenant: str
    mode: str
    scopes: tuple[str, ...]
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    budget_nano: int | None  # hard limit of this key for a calendar month (UTC); None means no limit of its own
    quota: Mapping[str, int]  # the same in units by meter


def create(
    database: Database,
    pepper: bytes,
    tenant: str,
    *,
    scopes: Collection[str] = USUAL,
    mode: str = "live",
    days: float | None = None,
    budget_nano: int | None = None,
    quota: Mapping[str, int] | None = None,
) -> NewKey:
    """Make a key for a tenant. Its token cannot be shown again.

    Args:
        days: how long it lives; None for ever.
        budget_nano: what it may spend in a calendar month (UTC), beside its tenant's budget; None for no such limit.
        quota: the most units of a month by meter, of those that come with answers.

    Raises:
        SettingError: an unknown scope or mode, a budget below 0, or the pepper is too short.
        AccessError: no such tenant.
    """
    unknown = [s for s in scopes if s not in SCOPES]
    if unknown or not scopes:
        hint = (did_you_mean(unknown[0], SCOPES) if unknown else None) or f"scopes are {', '.join(SCOPES)}"
        raise SettingError(f"'{unknown[0]}' is not a scope" if unknown else "a key needs a scope", hint=hint)
    if mode not in MODES:
        raise SettingError(f"'{mode}' is not a mode of keys", hint="live or test")
    tenants.get(database, tenant)
    key = _generate(mode)
    row: dict[str, Any] = {
        "public_id": key.public_id,
        "tenant": tenant,
        "mode": mode,
        "scopes": " ".join(sorted(set(scopes))),
        "budget_nano": tenants.checked(budget_nano),
        "quota": _written(quota or {}),
    }
    row["hmac"] = digest(pepper, key.token)
    database.write(lambda c: _create(c, row, days))
    return key


def rotate(database: Database, pepper: bytes, public_id: str, *, overlap_s: float = 86_400) -> NewKey:
    """Make a key with the same tenant, scopes, mode and budget; the old one lives on for ``overlap_s`` seconds.

    Raises:
        AccessError: no such key, or it is revoked.
    """
    old = get(database, public_id)
    if old.revoked_at is not None:
        raise AccessError(f"key '{public_id}' is revoked", status=409, hint="make a new one: feilun key create")
    same: dict[str, Any] = {"scopes": old.scopes, "mode": old.mode, "budget_nano": old.budget_nano, "quota": old.quota}
    made = create(database, pepper, old.tenant, **same)
    database.write(lambda c: _expire(c, public_id, int(overlap_s * 10**6)))
    return made


def revoke(database: Database, public_id: str) -> Key:
    """End a key now; every worker refuses it within a second.

    Raises:
        AccessError: no such key.
    """
    table = tables.keys
    still = (table.c.public_id == public_id) & table.c.revoked_at.is_(None)
    database.write(lambda c: c.execute(update(table).where(still).values(revoked_at=now_us(c))))
    return get(database, public_id)


def set_budget(database: Database, public_id: str, budget_nano: int | None) -> Key:
    """Change what a key may spend in a month, from its next request on.

    Raises:
        AccessError: no such key.
        SettingError: the budget is below 0.
    """
    values = {"budget_nano": tenants.checked(budget_nano)}
    database.write(lambda c: c.execute(update(tables.keys).where(tables.keys.c.public_id == public_id).values(values)))
    return get(database, public_id)


def set_quota(database: Database, public_id: str, quota: Mapping[str, int]) -> Key:
    """Change how many units of a month a key may use, by meter, from its next request on; empty for any number.

    Raises:
        AccessError: no such key.
        SettingError: not a meter, or a number below 0.
    """
    values = {"quota": _written(quota)}
    database.write(lambda c: c.execute(update(tables.keys).where(tables.keys.c.public_id == public_id).values(values)))
    return get(database, public_id)


def _written(quota: Mapping[str, int]) -> str | None:
    for meter, most in quota.items():
        if not NAME.fullmatch(meter):
            raise SettingError(f"'{meter[:80]}' is not a meter", where="quota", hint="requests=1000")
        if not 0 <= most < 2**53:
            raise SettingError(f"a quota of {most:,} {meter} cannot be", where="quota", hint="0 or more")
    return canonical(dict(quota)).decode() if quota else None


def keys(database: Database, tenant: str | None = None) -> list[Key]:
    """The keys of a tenant, or all, oldest first."""
    query = select(tables.keys).order_by(tables.keys.c.created_at, tables.keys.c.public_id)
    if tenant is not None:
        query = query.where(tables.keys.c.tenant == tenant)
    with database.read() as connection:
        return [_key(row) for row in connection.execute(query)]


def get(database: Database, public_id: str) -> Key:
    """One key by its public id.

    Raises:
        AccessError: there is none.
    """
    with database.read() as connection:
        row = connection.execute(select(tables.keys).where(tables.keys.c.public_id == public_id)).one_or_none()
    if row is None:
        raise AccessError(f"there is no key '{public_id[:40]}'", status=404, hint="feilun key list", code="no-key")
    return _key(row)


def digest(pepper: bytes, token: str) -> bytes:
    """HMAC-SHA-256 of a whole token.

    Raises:
        SettingError: the pepper has fewer than 32 bytes.
    """
    if len(pepper) < 32:
        raise SettingError(
            "the secret is shorter than 32 bytes",
            where="FEILUN_PEPPER",
            hint="export FEILUN_PEPPER=$(openssl rand -hex 32), and keep it: keys are checked with it",
        )
    return hmac.new(pepper, token.encode(), hashlib.sha256).digest()


def read_token(token: str) -> tuple[str, str] | None:
    """(mode, public id) of a well-formed token with a right checksum, else None."""
    match = _FORM.fullmatch(token) if len(token) <= LONGEST else None
    if match is None or _checksum(match[1]) != match[4]:
        return None
    return match[2], match[3]


def _generate(mode: str) -> NewKey:
    public_id = secrets.token_hex(8)
    body = f"feilun_{mode}_{public_id}_{secrets.token_hex(32)}"
    return NewKey(public_id, f"{body}_{_checksum(body)}")


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"


def _create(connection: Connection, row: dict[str, Any], days: float | None) -> None:
    now = now_us(connection)
    expires = None if days is None else now + int(days * 86_400 * 10**6)
    connection.execute(insert(tables.keys).values(**row, created_at=now, expires_at=expires))


def _expire(connection: Connection, public_id: str, after_us: int) -> None:
    table = tables.keys
    end = now_us(connection) + after_us
    later = (table.c.public_id == public_id) & (table.c.expires_at.is_(None) | (table.c.expires_at > end))
    connection.execute(update(table).where(later).values(expires_at=end))


def _key(row: Row[Any]) -> Key:
    scopes = tuple(row.scopes.split())
    times = (row.created_at, row.expires_at, row.revoked_at)
    quota = json.loads(row.quota) if row.quota else {}
    return Key(row.public_id, row.tenant, row.mode, scopes, *times, row.budget_nano, quota)
