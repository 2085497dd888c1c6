"""The schema: what is migrated, by whom, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import DBAPIError

from feilun.errors import ConflictError
from feilun.store import tables
from feilun.store.database import Database
from feilun.store.migrations import migrate, migrations, open_database
from tests.store.books import Books


def schema(engine: Engine) -> dict[str, Any]:
    looked = inspect(engine)
    found: dict[str, Any] = {}
    for table in looked.get_table_names():
        found[table] = {
            "columns": {c["name"]: (str(c["type"]), c["nullable"]) for c in looked.get_columns(table)},
            "key": looked.get_pk_constraint(table)["constrained_columns"],
            "foreign": sorted((f["constrained_columns"], f["referred_table"]) for f in looked.get_foreign_keys(table)),
            "unique": sorted(u["column_names"] for u in looked.get_unique_constraints(table)),
            "checks": sorted(str(c["sqltext"]) for c in looked.get_check_constraints(table)),
            "indexes": sorted(
                (str(i["name"]), i["column_names"], bool(i["unique"])) for i in looked.get_indexes(table)
            ),
        }
    found.pop("migrations", None)
    return found


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_migrations_build_exactly_the_tables_that_the_code_knows(new_url: Callable[[str], str], kind: str) -> None:
    with open_database(new_url(kind)) as migrated, Database(new_url(kind)) as built:
        tables.metadata.create_all(built.engine)
        assert schema(migrated.engine) == schema(built.engine)


def test_a_second_opening_changes_nothing(database: Database) -> None:
    assert migrate(database) == []


def test_many_processes_may_open_a_new_database_at_once(database_url: str) -> None:
    code = f"from feilun.store.migrations import open_database; open_database({database_url!r}).close()"
    started = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(4)]
    assert [p.communicate()[1].decode() for p in started] == [""] * 4
    with Database(database_url) as database, database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM migrations")).scalar() == len(migrations("sqlite"))


def test_a_database_from_a_newer_program_is_refused(database: Database) -> None:
    row = "INSERT INTO migrations (number, name, sha256, at) VALUES (9999, 'future', '0', 1)"
    database.write(lambda c: c.execute(text(row)))
    with pytest.raises(ConflictError, match="newer"):
        migrate(database)


def test_a_migration_that_was_changed_after_it_ran_is_refused(database: Database) -> None:
    database.write(lambda c: c.execute(text("UPDATE migrations SET sha256 = '0'")))
    with pytest.raises(ConflictError, match="changed"):
        migrate(database)


def test_append_only_tables_refuse_changes(database: Database) -> None:
    fill(database)
    for table in tables.APPEND_ONLY:
        for change in (f"UPDATE {table} SET at = 1", f"DELETE FROM {table}"):
            with pytest.raises(DBAPIError, match=f"{table} is append-only"):
                database.write(lambda c, change=change: c.exec_driver_sql(change))


def test_replacing_a_row_is_a_change_too(new_url: Callable[[str], str]) -> None:
    with open_database(new_url("sqlite")) as database:
        Books(database).serve("one")
        with pytest.raises(DBAPIError, match="append-only"):
            database.write(lambda c: c.exec_driver_sql("INSERT OR REPLACE INTO postings SELECT * FROM postings"))


def test_truncate_is_a_change_too(new_url: Callable[[str], str]) -> None:
    with open_database(new_url("postgresql")) as database, pytest.raises(DBAPIError, match="append-only"):
        database.write(lambda c: c.exec_driver_sql("TRUNCATE postings"))


def test_a_posted_request_keeps_everything_but_its_stored_answer(database: Database) -> None:
    Books(database).serve("one")
    for change in ("state = 'released'", "held_tokens = 0", "answer = '{}'", "tenant = 'x'"):
        with pytest.raises(DBAPIError, match="never changes"):
            database.write(lambda c, change=change: c.exec_driver_sql(f"UPDATE requests SET {change}"))
    with pytest.raises(DBAPIError, match="never changes"):
        database.write(lambda c: c.exec_driver_sql("DELETE FROM requests"))
    database.write(lambda c: c.exec_driver_sql("UPDATE requests SET answer = NULL, inputs = NULL"))


def fill(database: Database) -> None:
    """SQLite's row triggers need a row to refuse."""
    Books(database).serve("one")
    rows = {
        "promotions": "'1', 'reviews', '{r}', NULL, 1, 'x', 2",
        "turns": "'1', 'reviews', '{r}', NULL, 'keep', '{{}}', 2",
        "invoices": "'1', '1', 'acme', '2026-11', 'USD', 0, 1, 1, '{{}}', 2, 1, 0",
        "feedback": "'1', 'acme', (SELECT id FROM requests), 0, '{r}', 'correction', 't', 'a', 'b', 'ann', 2",
        "consents": "'1', 'acme', 'ann', 'learn', TRUE, 2",
        "notices": "'acme', 'budget', '2026-11', 80, 2",
        "gateways": "'1', 1, 2, 3, 4, 5, 6, 7, 8",
        "credit_notes": "'1', 'CN-1', '1', 'acme', 'USD', 1, '{{}}', 2",
        "profiles": "'2', 'acme', '{{}}', 2",
        "plan_prices": "'1', 'any', (SELECT version FROM prices), 1, 2",
        "grants": "'1', 'acme', 'USD', 5, NULL, 'paid', 2",
        "grant_uses": "'1', '1', '1', 5, 2",
        "redemptions": "'1', 'acme', 'LAUNCH', '{{}}', 2",
        "event_sources": "1, 's', 2",
        "events": "'acme', 1, 1, 1, 'one', 'pages', 1, 2",
        "event_batches": "1, 'key', 1, '1234', '0', '1', 2",
        "payments": "'evt_1', '1', 'invoice.paid', 'paid', 5, 'USD', 1, 2",
        "rollout_changes": "'1', 'reviews', 'canary', NULL, 0, 'tenant', '[]', 1, 'x', 2",
    }

    def insert_all(connection: Any) -> None:
        for table, values in rows.items():
            connection.exec_driver_sql(f"INSERT INTO {table} VALUES ({values.format(r='a' * 64)})")

    database.write(insert_all)
