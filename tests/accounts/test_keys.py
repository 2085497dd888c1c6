"""Keys and the callers behind them (RELIABILITY 31, 33, 34)."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import select

from feilun.accounts import keys, tenants
from feilun.accounts.access import CACHE_S, Keyring, authenticate
from feilun.errors import AccessError, ConflictError, SettingError
from feilun.store import tables
from feilun.store.database import Database

PEPPER = b"p" * 32


@pytest.fixture
def acme(database: Database) -> keys.NewKey:
    tenants.create(database, "acme", plan="starter", budget_nano=5)
    return keys.create(database, PEPPER, "acme", scopes=["classify"])


def test_a_key_names_its_tenant_scopes_and_plan(database: Database, acme: keys.NewKey) -> None:
    caller = authenticate(database, PEPPER, f"Bearer {acme.token}")
    assert (caller.tenant, caller.key, caller.scopes, caller.plan) == ("acme", acme.public_id, {"classify"}, "starter")


def test_nothing_that_is_stored_opens_the_door(database: Database, acme: keys.NewKey) -> None:
    with database.read() as connection:
        row = connection.execute(select(tables.keys)).one()
    secret = acme.token.split("_")[3]
    assert all(secret not in str(value) and bytes.fromhex(secret) != value for value in row)
    with pytest.raises(AccessError):
        authenticate(database, b"q" * 32, f"Bearer {acme.token}")


def test_two_tokens_with_a_common_beginning_never_share_an_entry_case_33(database: Database, acme: keys.NewKey) -> None:
    ring = Keyring(database, PEPPER)
    ring.authenticate(f"Bearer {acme.token}")
    body = acme.token.rsplit("_", 1)[0]
    forged = f"{body[:-1]}{'0' if body[-1] != '0' else '1'}"
    forged = f"Bearer {forged}_{keys._checksum(forged)}"
    assert ring.remembered(forged) is None
    with pytest.raises(AccessError):
        ring.authenticate(forged)
    assert ring.remembered(f"Bearer {acme.token}") is not None


def test_what_is_remembered_is_forgotten_within_half_a_second_case_34(database: Database, acme: keys.NewKey) -> None:
    ring = Keyring(database, PEPPER)
    ring.authenticate(f"Bearer {acme.token}")
    keys.revoke(database, acme.public_id)
    time.sleep(CACHE_S)
    assert ring.remembered(f"Bearer {acme.token}") is None
    with pytest.raises(AccessError):
        ring.authenticate(f"Bearer {acme.token}")


def test_a_rotated_key_overlaps_with_its_successor(database: Database, acme: keys.NewKey) -> None:
    new = keys.rotate(database, PEPPER, acme.public_id, overlap_s=3600)
    for token in (acme.token, new.token):
        assert authenticate(database, PEPPER, f"Bearer {token}").scopes == {"classify"}
    newer = keys.rotate(database, PEPPER, new.public_id, overlap_s=0)
    with pytest.raises(AccessError):
        authenticate(database, PEPPER, f"Bearer {new.token}")
    keys.revoke(database, newer.public_id)
    with pytest.raises(AccessError, match="revoked"):
        keys.rotate(database, PEPPER, newer.public_id)


def test_a_stopped_tenants_keys_are_refused(database: Database, acme: keys.NewKey) -> None:
    tenants.set_active(database, "acme", active=False)
    with pytest.raises(AccessError):
        authenticate(database, PEPPER, f"Bearer {acme.token}")


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic x",
        "Bearer x",
        "Bearer ключ",
        "Bearer " + "x" * 10_000,
        "Bearer ' OR 1=1 --",
    ],
)
def test_what_is_no_key_is_refused_in_the_same_words_case_31(database: Database, header: str | None) -> None:
    with pytest.raises(AccessError) as refused:
        authenticate(database, PEPPER, header)
    assert refused.value.what == "the key is missing or not valid"


def test_a_short_pepper_is_refused_at_the_start(database: Database) -> None:
    with pytest.raises(SettingError, match="shorter than 32"):
        Keyring(database, b"short")


def test_tenants_are_made_changed_and_listed(database: Database, acme: keys.NewKey) -> None:
    with pytest.raises(ConflictError):
        tenants.create(database, "acme", plan="other")
    for name in ("", "Acme", "a b", "../x", "é", "a" * 64):
        with pytest.raises(SettingError):
            tenants.create(database, name, plan="starter")
    with pytest.raises(SettingError):
        tenants.set_budget(database, "acme", -1)
    with pytest.raises(AccessError):
        tenants.set_plan(database, "nobody", "starter")
    tenants.set_plan(database, "acme", "growth")
    tenants.set_budget(database, "acme", None)
    assert [(t.id, t.plan, t.budget_nano) for t in tenants.tenants(database)] == [("acme", "growth", None)]


@pytest.mark.parametrize(("scopes", "mode"), [([], "live"), (["clasify"], "live"), (["classify"], "prod")])
def test_a_key_needs_known_scopes_and_a_known_mode(
    database: Database, acme: keys.NewKey, scopes: list[str], mode: str
) -> None:
    with pytest.raises(SettingError):
        keys.create(database, PEPPER, "acme", scopes=scopes, mode=mode)
    with pytest.raises(AccessError):
        keys.create(database, PEPPER, "nobody")
