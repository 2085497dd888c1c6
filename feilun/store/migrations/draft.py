"""Print the SQL of tables, their indexes and their triggers: a help in writing the next migration.

Usage: ``python -m feilun.store.migrations.draft sqlite|postgresql TABLE...``
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from sqlalchemy import URL
from sqlalchemy.schema import CreateIndex, CreateTable

from feilun.store import tables


def draft(name: str, wanted: Iterable[str]) -> str:
    """The statements for ``sqlite`` or ``postgresql``, separated by an empty line."""
    dialect = URL.create(name).get_dialect()()
    chosen = [table for table in tables.metadata.sorted_tables if table.name in set(wanted)]
    statements: list[str] = []
    for table in chosen:
        statements.append(str(CreateTable(table).compile(dialect=dialect)))
        indexes = sorted(table.indexes, key=lambda i: str(i.name))
        statements += [str(CreateIndex(index).compile(dialect=dialect)) for index in indexes]
    guarded = [table.name for table in chosen if table.name in tables.APPEND_ONLY]
    statements += [trigger for table in guarded for trigger in _triggers(name, table)]
    lines = ["\n".join(line.rstrip() for line in s.strip().splitlines() if line.strip()) for s in statements]
    return ";\n\n".join(lines) + ";\n"


def _triggers(name: str, table: str) -> list[str]:
    """An append-only table refuses changes; ``feilun_refuse`` is a function of the first migration."""
    if name == "sqlite":
        return [
            f"CREATE TRIGGER {table}_no_{event.lower()} BEFORE {event} ON {table}\n"
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            for event in ("UPDATE", "DELETE")
        ]
    return [
        f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}\n"
        "FOR EACH STATEMENT EXECUTE FUNCTION feilun_refuse()"
    ]


if __name__ == "__main__":
    sys.stdout.write(draft(sys.argv[1], sys.argv[2:]))
