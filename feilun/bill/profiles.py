"""Who a customer is, on paper: name, address, country and tax id. The newest profile holds; invoices keep a copy."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, insert, select
from ulid import ULID

from feilun.bill.countries import COUNTRIES
from feilun.errors import AccessError, SettingError, did_you_mean
from feilun.store import seals, tables
from feilun.store.artifacts import canonical
from feilun.store.database import Database, now_us

FIELDS = {  # and the most characters of each
    "name": 200,
    "address": 500,
    "country": 2,
    "tax_id": 32,
    "email": 254,
    "language": 2,
}
ON_PAPER = ("name", "address", "country", "tax_id")
LANGUAGES = ("en", "zh")
_MEANT = {"UK": "GB", "EL": "GR"}  # codes that are in use, and are not of ISO 3166-1
_TAX_ID = re.compile(r"[A-Z0-9][A-Z0-9 ./-]*", re.ASCII)


def save(database: Database, tenant: str, **values: str | None) -> dict[str, str]:
    """Change what is known of a customer; "" forgets a field, None leaves it as it is.

    Raises:
        SettingError: no such field, or a value that it cannot have.
        AccessError: there is no such tenant.
    """
    given = {name: value.strip() for name, value in values.items() if value is not None}
    for name, value in given.items():
        _check(name, value)

    def write(connection: Connection) -> dict[str, str]:
        _exists(connection, tenant)
        merged = {name: value for name, value in (newest(connection, tenant) | given).items() if value}
        row: dict[str, Any] = {"id": str(ULID()), "tenant": tenant, "body": canonical(merged).decode()}
        row["at"] = now_us(connection)
        connection.execute(insert(tables.profiles).values(row))
        seals.seal(connection, "profiles", row)
        return merged

    return database.write(write, order=tenant)


def get(database: Database, tenant: str) -> dict[str, str]:
    """What is known of a customer.

    Raises:
        AccessError: there is no such tenant.
    """
    with database.read() as connection:
        _exists(connection, tenant)
        return newest(connection, tenant)


def newest(connection: Connection, tenant: str) -> dict[str, str]:
    """The profile that holds now; empty where there is none."""
    profiles = tables.profiles.c
    query = select(profiles.body).where(profiles.tenant == tenant).order_by(profiles.at.desc(), profiles.id.desc())
    body = connection.execute(query.limit(1)).scalar()
    return {} if body is None else dict(json.loads(body))


def on_paper(profile: Mapping[str, str]) -> dict[str, str]:
    """What of it an invoice shows."""
    return {name: profile[name] for name in ON_PAPER if profile.get(name)}


def _check(name: str, value: str) -> None:
    if name not in FIELDS:
        raise SettingError(f"a profile has no '{name}'", hint=did_you_mean(name, FIELDS) or ", ".join(FIELDS))
    if len(value) > FIELDS[name] or any(ord(sign) < 32 and sign != "\n" for sign in value):
        raise SettingError(f"this cannot be a customer's {name}", where=name, hint=f"at most {FIELDS[name]} characters")
    if not value:
        return
    if name == "country" and value not in COUNTRIES:
        hint = f"did you mean '{_MEANT[value]}'?" if value in _MEANT else "two capital letters, ISO 3166-1: DE"
        raise SettingError(f"'{value}' is not a country", where=name, hint=hint)
    if name == "tax_id" and not _TAX_ID.fullmatch(value):
        raise SettingError(f"'{value}' cannot be a tax id", where=name, hint="capital letters and digits: DE123456789")
    if name == "language" and value not in LANGUAGES:
        raise SettingError(f"there are no invoices in '{value}'", where=name, hint=f"one of {', '.join(LANGUAGES)}")
    if name == "email" and ("@" not in value or " " in value):
        raise SettingError(f"'{value}' is not an e-mail address", where=name)


def _exists(connection: Connection, tenant: str) -> None:
    if connection.execute(select(tables.tenants.c.id).where(tables.tenants.c.id == tenant)).first() is None:
        hint = "list them with: feilun tenant list"
        raise AccessError(f"there is no tenant '{tenant[:80]}'", status=404, hint=hint, code="not-found")
