"""Print the SQL that builds ``tables.metadata`` from nothing: the first migration, and a help in writing the next.

Usage: ``python -m feilun.store.migrations.draft sqlite|postgresql``
"""

from __future__ import annotations

import sys

from sqlalchemy import URL
from sqlalchemy.schema import CreateIndex, CreateTable

from feilun.store import tables

# A posted row may only lose its stored answer (to forget it); what was charged stays.
_KEPT = (
    "id",
    "tenant",
    "idempotency_key",
    "body_sha256",
    "state",
    "held_inputs",
    "held_tokens",
    "status",
    "created_at",
)


def draft(name: str) -> str:
    """All statements for ``sqlite`` or ``postgresql``, separated by an empty line."""
    dialect = URL.create(name).get_dialect()()
    statements: list[str] = []
    for table in tables.metadata.sorted_tables:
        statements.append(str(CreateTable(table).compile(dialect=dialect)))
        indexes = sorted(table.indexes, key=lambda i: str(i.name))
        statements += [str(CreateIndex(index).compile(dialect=dialect)) for index in indexes]
    statements += _sqlite_triggers() if name == "sqlite" else _postgresql_triggers()
    lines = ["\n".join(line.rstrip() for line in s.strip().splitlines() if line.strip()) for s in statements]
    return ";\n\n".join(lines) + ";\n"


def _sqlite_triggers() -> list[str]:
    made = [
        f"CREATE TRIGGER {table}_no_{event.lower()} BEFORE {event} ON {table}\n"
        f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        for table in tables.APPEND_ONLY
        for event in ("UPDATE", "DELETE")
    ]
    changed = " OR ".join(f"NEW.{c} IS NOT OLD.{c}" for c in _KEPT)
    changed += "".join(f" OR (NEW.{c} IS NOT NULL AND NEW.{c} IS NOT OLD.{c})" for c in ("answer", "inputs"))
    refuse = "BEGIN SELECT RAISE(ABORT, 'a posted request never changes'); END"
    made.append(
        f"CREATE TRIGGER requests_posted_no_update BEFORE UPDATE ON requests\n"
        f"WHEN OLD.state = 'posted' AND ({changed})\n{refuse}"
    )
    made.append(f"CREATE TRIGGER requests_no_delete BEFORE DELETE ON requests\n{refuse}")
    return made


def _postgresql_triggers() -> list[str]:
    made = [
        "CREATE FUNCTION feilun_refuse() RETURNS trigger LANGUAGE plpgsql AS\n"
        "'BEGIN RAISE EXCEPTION USING MESSAGE = TG_TABLE_NAME || '' is append-only'', ERRCODE = ''23001''; END'",
        "CREATE FUNCTION feilun_refuse_posted() RETURNS trigger LANGUAGE plpgsql AS\n"
        "'BEGIN RAISE EXCEPTION USING MESSAGE = ''a posted request never changes'', ERRCODE = ''23001''; END'",
    ]
    made += [
        f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}\n"
        "FOR EACH STATEMENT EXECUTE FUNCTION feilun_refuse()"
        for table in tables.APPEND_ONLY
    ]
    changed = " OR ".join(f"NEW.{c} IS DISTINCT FROM OLD.{c}" for c in _KEPT)
    changed += "".join(f" OR (NEW.{c} IS NOT NULL AND NEW.{c} IS DISTINCT FROM OLD.{c})" for c in ("answer", "inputs"))
    made.append(
        "CREATE TRIGGER requests_posted_no_update BEFORE UPDATE ON requests\n"
        f"FOR EACH ROW WHEN (OLD.state = 'posted' AND ({changed})) EXECUTE FUNCTION feilun_refuse_posted()"
    )
    made.append(
        "CREATE TRIGGER requests_no_delete BEFORE DELETE OR TRUNCATE ON requests\n"
        "FOR EACH STATEMENT EXECUTE FUNCTION feilun_refuse_posted()"
    )
    return made


if __name__ == "__main__":
    sys.stdout.write(draft(sys.argv[1]))
