"""Whoever has the database's own password can change any row: verify must say so (list by an attacker)."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text

from feilun.accounts import tenants
from feilun.bill import coupons, credit_notes, credits, invoices, profiles
from feilun.bill.settings import BillSettings
from feilun.bill.verify import verify
from feilun.errors import ConflictError, SettingError
from feilun.store import backup, seals, tables
from feilun.store.artifacts import ArtifactStore
from feilun.store.database import Database
from feilun.store.migrations import migrate, open_database
from feilun.store.money import parse_money
from tests.bill.books import Books, Use, at

SETTINGS = BillSettings.model_validate(
    {
        "grace": "0h",
        "plans": {
            "a": {
                "monthly": "1000 USD",
                "minimum": "1500 USD",
                "included": {"requests": 1},
                "overage": {"requests": "1 USD", "pages": "2 USD"},
            }
        },
        "meters": {"pages": {"unit": "page"}},
        "coupons": {"SPRING": {"percent_off": "10"}},
        "seller": {"name": "Me", "country": "DE"},
        "tax": {"rates": [{"country": "DE", "name": "VAT", "percent": "19"}]},
    }
)
TERMS = {plan: schedule.newest for plan, schedule in SETTINGS.all_terms().items()}


def honest(books: Books) -> str:
    """Two months of a customer with everything that money has: verify has nothing to say of it."""
    database = books.database
    books.announce(TERMS, "2026-01-01")
    tenant = books.tenant("a", "2026-07-01")
    tenants.create(database, f"{tenant}-other", plan="a")
    profiles.save(database, tenant, name="Ann", country="DE")
    credits.grant(database, tenant, parse_money("10 USD"), reason="top up")
    coupons.redeem(database, tenant, "SPRING", SETTINGS)
    books.use(tenant, [Use(at("2026-09-02"))] * 5, TERMS["a"], "a")
    books.events(tenant, [("pages", 7, at("2026-09-03")), ("pages", 3, at("2026-10-03"))])
    invoices.close(database, tenant, "2026-09", SETTINGS)
    invoices.close(database, tenant, "2026-10", SETTINGS)
    credit_notes.issue(database, "INV-000001", SETTINGS, lines=["INV-000001/1"])
    paid = {"id": "evt", "kind": "invoice.paid", "status": "paid", "amount_nano": 1, "currency": "USD"}
    paid |= {"invoice": books.invoice_row("INV-000001")["id"], "happened_at": 1, "at": 1}

    def pay(connection: Any) -> None:
        connection.execute(tables.payments.insert().values(paid))
        seals.seal(connection, "payments", paid)

    database.write(pay)
    return tenant


def tamper(database: Database, *statements: str) -> None:
    """Past every trigger and foreign key."""
    with database.engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        if database.is_sqlite:
            driver.execute("PRAGMA foreign_keys = OFF")
            names = driver.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
            for statement in (*(f'DROP TRIGGER "{name}"' for (name,) in names), *statements):
                driver.execute(statement)
            driver.execute("PRAGMA foreign_keys = ON")
        else:
            driver.execute("SET session_replication_role = replica")
            for statement in statements:
                driver.execute(statement)
            driver.commit()
            driver.execute("SET session_replication_role = origin")
            driver.commit()


LAST = "(SELECT id FROM invoices WHERE number = 'INV-000002')"
FIRST = "(SELECT id FROM invoices WHERE number = 'INV-000001')"
ULID = "01AAAAAAAAAAAAAAAAAAAAAAAA"
TAMPERING: dict[str, tuple[str, ...]] = {
    "invoice: partial": (
        "UPDATE invoices SET body = replace(body, '\"partial\":false', '\"partial\":true') WHERE number = 'INV-000002'",
    ),
    "invoice: tax country": ("""UPDATE invoices SET body = replace(body, '"country":"DE"', '"country":"PA"')""",),
    "invoice: another seller": ("""UPDATE invoices SET body = replace(body, '"name":"Me"', '"name":"Thief"')""",),
    "invoice: told total": ("""UPDATE invoices SET body = replace(body, '"total":"', '"total":"9')""",),
    "invoice: due later": ("""UPDATE invoices SET body = replace(body, '"due_at":', '"due_at":9')""",),
    "invoice: legacy form": (
        "UPDATE invoices SET first_event = NULL, last_event = NULL, body = replace(replace(body, "
        "'\"first_event\":1', '\"first_event\":null'), '\"last_event\":1', '\"last_event\":null')",
    ),
    "invoice: another period": (
        "UPDATE invoices SET period = '2026-08', body = replace(body, '2026-10', '2026-08') WHERE period = '2026-10'",
    ),
    "invoice: the last one removed": (
        f"DELETE FROM grant_uses WHERE invoice = {LAST}",
        f"DELETE FROM postings WHERE entry = {LAST}",
        "DELETE FROM invoices WHERE number = 'INV-000002'",
    ),
    "invoice: body is no invoice": ("UPDATE invoices SET body = '{}'",),
    "invoice: body is no JSON": ("UPDATE invoices SET body = 'x'",),
    "invoice: body is a list": ("UPDATE invoices SET body = '[1]'",),
    "postings in another currency": (
        f"INSERT INTO postings SELECT id, 'revenue:fees', 'EUR', -999000000000, at FROM invoices WHERE id = {LAST}",
        f"INSERT INTO postings SELECT id, 'assets', 'EUR', 999000000000, at FROM invoices WHERE id = {LAST}",
    ),
    "postings of another time": (f"UPDATE postings SET at = 1 WHERE entry = {LAST}",),
    "credit note: the last one removed": (
        "DELETE FROM postings WHERE entry IN (SELECT id FROM credit_notes)",
        "DELETE FROM credit_notes",
    ),
    "credit note: reason": ("""UPDATE credit_notes SET body = replace(body, '"reason":""', '"reason":"bribe"')""",),
    "credit note: another tenant": (
        "UPDATE credit_notes SET body = replace(body, tenant, tenant || '-other'), tenant = tenant || '-other'",
        "UPDATE postings SET account = replace(account, ':invoiced', '-other:invoiced') "
        "WHERE entry IN (SELECT id FROM credit_notes)",
    ),
    "credit note: body is no note": ("UPDATE credit_notes SET body = '{}'",),
    "credit note: of no invoice": ("UPDATE credit_notes SET invoice = 'zzz'",),
    "grant put in": (
        f"INSERT INTO grants SELECT '{ULID}', tenant, currency, 10, NULL, 'gift', at FROM grants LIMIT 1",
        f"INSERT INTO postings SELECT '{ULID}', 'tenant:' || tenant || ':prepaid', 'USD', -10, at FROM grants "
        f"WHERE id = '{ULID}'",
        f"INSERT INTO postings SELECT '{ULID}', 'assets:credits', 'USD', 10, at FROM grants WHERE id = '{ULID}'",
    ),
    "grant: expiry": ("UPDATE grants SET expires_at = 4102444800000000",),
    "grant: reason": ("UPDATE grants SET reason = 'x'",),
    "grants removed": ("DELETE FROM grants",),
    "grant use: time": ("UPDATE grant_uses SET at = at + 1",),
    "redemption put in": (
        f"INSERT INTO redemptions SELECT '{ULID}', tenant, 'X', terms, 1893456000000000 FROM redemptions",
    ),
    "redemption: unreadable": ("UPDATE redemptions SET terms = '{}'",),
    "redemptions removed": ("DELETE FROM redemptions",),
    "assignment: later": ("UPDATE assignments SET at = at + 31536000000000",),
    "assignment put in": (
        "INSERT INTO assignments SELECT '00000000000000000000000009', id, plan, 4102444800000000 FROM tenants LIMIT 1",
    ),
    "assignments removed": ("DELETE FROM assignments",),
    "plan prices: of another plan": ("UPDATE plan_prices SET plan = 'q'",),
    "plan prices: from later": ("UPDATE plan_prices SET begins_at = begins_at + 1, at = at + 1",),
    "plan prices removed": ("DELETE FROM plan_prices",),
    "prices removed": ("DELETE FROM prices",),
    "profile: name": ("UPDATE profiles SET body = replace(body, 'Ann', 'Eve')",),
    "profiles removed": ("DELETE FROM profiles",),
    "payment put in": (f"INSERT INTO payments SELECT 'x', {FIRST}, kind, 'paid', 1, 'USD', 1, 1 FROM payments",),
    "payment: amount": ("UPDATE payments SET amount_nano = 10000000000",),
    "payments removed": ("DELETE FROM payments",),
    "chains removed": ("DELETE FROM chains",),
    "usage without its chain": ("DELETE FROM chains", "UPDATE usage SET amount_nano = 0", "DELETE FROM counters"),
    "usage: unreadable units": ("UPDATE usage SET more = '{'",),
    "hold: unreadable units": ("UPDATE requests SET state = 'held', held_more = '{'",),
    "event: units": ("UPDATE events SET units = 1",),
    "seals removed": ("DELETE FROM seals",),
    "one seal removed": ("DELETE FROM seals WHERE number = 3",),
    "seal: time": ("UPDATE seals SET at = at + 1 WHERE number = 2",),
}


def test_every_tampering_is_named_and_the_honest_ledger_is_not(books: Books) -> None:
    """One ledger for all of them: its tables are put back after each, which is much faster than a ledger for each."""
    tenant = honest(books)
    assert tenant and verify(books.database).problems == ()
    with books.database.read() as connection:
        kept = {
            t.name: [dict(row) for row in connection.execute(select(t)).mappings()]
            for t in tables.metadata.sorted_tables
        }
    silent = [name for name, statements in TAMPERING.items() if not _found(books.database, statements, kept)]
    assert silent == []
    assert verify(books.database).problems == ()


def _found(database: Database, statements: tuple[str, ...], kept: dict[str, list[dict[str, Any]]]) -> bool:
    tamper(database, *statements)
    found = verify(database).problems
    tamper(database, *(f'DELETE FROM "{name}"' for name in reversed(kept)))

    def put_back(connection: Any) -> None:
        for name, rows in kept.items():
            if rows:
                connection.execute(tables.metadata.tables[name].insert(), rows)

    database.write(put_back)
    return bool(found)


def test_what_cannot_be_read_is_named_and_hides_nothing_else(books: Books) -> None:
    honest(books)
    tamper(
        books.database,
        "UPDATE invoices SET body = 'x' WHERE number = 'INV-000001'",
        "UPDATE grants SET reason = 'y'",
        "UPDATE events SET units = 5",
    )
    found = [(p.name, p.where) for p in verify(books.database).problems]
    assert ("unreadable", "INV-000001") in found
    assert {name for name, _ in found} >= {"events", "seal", "credit-note-invoice"}
    assert any(where.startswith("grants ") for _, where in found)


def test_a_row_is_named_that_was_changed_put_in_or_removed(books: Books) -> None:
    honest(books)
    tamper(books.database, *TAMPERING["grant: reason"], *TAMPERING["payment put in"], *TAMPERING["profiles removed"])
    with books.database.read() as connection:
        whats = {str(problem).split()[0]: problem.what for problem in seals.verify(connection)}
    assert whats == {
        "grants": "it was changed after it had been sealed",
        "payments": "it has no seal: it was put in past this program",
        "profiles": "it was sealed, and is gone",
    }


def test_a_noted_seal_shows_that_rows_were_removed_together_with_their_seals(books: Books) -> None:
    honest(books)
    noted = seals.Seal.of(verify(books.database).seal)
    assert verify(books.database, noted=noted).holds
    tamper(books.database, "DELETE FROM seals WHERE name = 'payments'", "DELETE FROM payments")
    assert verify(books.database).problems == ()  # nothing in the database itself can tell
    (problem,) = verify(books.database, noted=noted).problems
    assert (problem.name, problem.where) == ("seal", f"seal {noted.number}")
    profiles.save(books.database, books.tenant("a"), name="Eve")
    assert "rewritten" in verify(books.database, noted=noted).problems[0].what
    with pytest.raises(SettingError):
        seals.Seal.of("12")


def test_seals_of_eight_threads_and_two_processes_are_one_chain(database: Database) -> None:
    """Two objects of class Database have a writer each, as two gateways have."""
    with open_database(database.url) as second:

        def work(i: int) -> None:
            mine = (database, second)[i % 2]
            for k in range(8):
                credits.grant(mine, f"t{i}", parse_money("1 USD"), reason=str(k))
                profiles.save(mine, f"t{(i + 1) % 8}" if k > 6 else f"t{i}", name=str(k))

        for i in range(8):
            tenants.create(database, f"t{i}", plan="a")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        with database.read() as connection:
            assert seals.verify(connection) == []
            assert seals.newest(connection).number == 8 * 17


def test_a_job_that_is_rolled_back_leaves_no_seal(database: Database) -> None:
    tenants.create(database, "t", plan="a")

    def fail(connection: Any) -> None:
        tenants._assign(connection, "t", "b", 1)
        raise ConflictError("no")

    with pytest.raises(ConflictError):
        database.write(fail)
    with database.read() as connection:
        assert seals.verify(connection) == [] and seals.newest(connection).number == 1


def test_rows_from_before_there_were_seals_are_sealed_by_the_migration(database_url: str) -> None:
    with Database(database_url) as old:
        migrate(old, until=1)
        row = {"id": "t", "plan": "a", "active": True, "created_at": 5}
        old.write(lambda c: c.execute(tables.tenants.insert().values(row)))
    with open_database(database_url) as database:
        with database.read() as connection:
            assert seals.verify(connection) == [] and seals.newest(connection).number == 1
        tamper(database, "UPDATE assignments SET plan = 'b'")
        with database.read() as connection:
            assert [p.what for p in seals.verify(connection)] == ["it was changed after it had been sealed"]


def test_a_tampered_backup_is_not_restored_and_nothing_of_it_stays(
    books: Books, store: ArtifactStore, new_url: Callable[[str], str], tmp_path: Path
) -> None:
    honest(books)
    database = books.database
    tamper(database, "UPDATE prices SET terms = replace(terms, '1000000000000', '1')")
    if database.is_sqlite:  # what was dropped to tamper, so that the tables themselves are as they should be
        with Database(new_url("sqlite")) as fresh:
            migrate(fresh)
            with fresh.read() as connection:
                made = connection.execute(text("SELECT sql FROM sqlite_master WHERE type = 'trigger'")).scalars().all()
        database.write(lambda c: [c.exec_driver_sql(sql) for sql in made])
    backup.backup(store, tmp_path / "backup")
    url = new_url(database.engine.dialect.name)

    def check(restored: Database) -> list[str]:
        return [str(problem) for problem in verify(restored).problems]

    with pytest.raises(ConflictError, match="does not agree"):
        backup.restore(tmp_path / "backup", url, tmp_path / "restored", check=check)
    assert not (tmp_path / "restored").exists()
    if database.is_sqlite:
        assert not Path(url.removeprefix("sqlite:///")).exists()
    with open_database(url) as again, again.read() as connection:  # as new
        assert connection.execute(select(func.count()).select_from(tables.tenants)).scalar() == 0


@pytest.mark.parametrize(
    "change",
    [
        "DROP TRIGGER grants_no_update",
        "CREATE TRIGGER evil AFTER INSERT ON grants BEGIN UPDATE tenants SET active = 1; END",
        "DROP INDEX grants_by_tenant",
        "CREATE VIEW evil AS SELECT 1",
    ],
)
def test_a_backup_with_other_triggers_or_tables_is_refused(
    change: str, new_url: Callable[[str], str], tmp_path: Path
) -> None:
    with open_database(new_url("sqlite")) as database:
        honest(Books(database))
        with sqlite3.connect(database.url.removeprefix("sqlite:///")) as raw:
            raw.execute(change)
        raw.close()
        backup.backup(ArtifactStore(tmp_path / "artifacts", database), tmp_path / "backup")
    url = new_url("sqlite")
    with pytest.raises(ConflictError, match="are not those of feilun"):
        backup.restore(tmp_path / "backup", url, tmp_path / "restored")
    assert not Path(url.removeprefix("sqlite:///")).exists()


def test_an_old_invoice_form_is_refused_after_there_were_events(books: Books) -> None:
    honest(books)
    tamper(books.database, *TAMPERING["invoice: legacy form"])
    assert "invoice-form" in {problem.name for problem in verify(books.database).problems}
    tamper(books.database, "UPDATE migrations SET at = 4102444800000000")
    assert "invoice-form" not in {problem.name for problem in verify(books.database).problems}
