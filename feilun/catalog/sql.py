"""Rows from a database, read-only, taken as Parquet."""

from __future__ import annotations

import os
import re
from pathlib import Path

from feilun.errors import DataError, ProjectError, SettingError, UnavailableError


def parse(reference: str) -> tuple[str, str]:
    """``ENV_VAR:SELECT ...`` as the variable that holds the connection URL, and the query.

    >>> parse("SHOP:SELECT text FROM reviews")
    ('SHOP', 'SELECT text FROM reviews')

    Raises:
        ProjectError: it is not of that form.
    """
    found = re.fullmatch(r"([A-Za-z_][A-Za-z0-9_]*):\s*((?:select|with)\b.+)", reference, re.IGNORECASE | re.DOTALL)
    if not found:
        hint = 'write "sql:SHOP_DB:SELECT text, label FROM reviews"; the environment variable SHOP_DB holds the address'
        raise ProjectError("not an SQL reference", where=f"sql:{reference[:60]}", hint=hint)
    return found.group(1), found.group(2)


def export(variable: str, query: str, destination: Path) -> None:
    """Write the query's rows to a Parquet file. The database refuses every change while the query runs.

    Raises:
        SettingError: the variable is not set, or is not a SQLite or PostgreSQL address.
        UnavailableError: the database cannot be reached.
        DataError: the query is wrong.
    """
    import polars as pl
    from sqlalchemy import create_engine, exc, text

    address = _address(variable)
    engine = create_engine(address)
    try:
        with engine.connect() as connection:
            if engine.dialect.name == "sqlite":
                connection.exec_driver_sql("PRAGMA query_only = ON")
            else:
                connection.exec_driver_sql("SET TRANSACTION READ ONLY")
            frame = pl.read_database(text(query), connection=connection, infer_schema_length=None)
    except exc.OperationalError as error:
        raise _failed(error, variable, query) from error
    except (exc.DatabaseError, pl.exceptions.PolarsError) as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise DataError(f"the query failed: {reason}", where=f"sql:{variable}:{query[:80]}") from error
    finally:
        engine.dispose()
    frame.write_parquet(destination)


def _address(variable: str) -> str:
    value = os.environ.get(variable)
    if not value:
        hint = f"export {variable}=sqlite:///path or postgresql://user@host/name"
        raise SettingError(f"the environment variable {variable} is not set", where=f"sql:{variable}", hint=hint)
    if value.startswith("sqlite:///"):
        place = Path(value.removeprefix("sqlite:///"))
        if not place.is_file():  # SQLite would create it
            raise SettingError(f"the database in {variable} does not exist", where=f"sql:{variable}")
        return value
    if value.startswith(("postgresql://", "postgres://", "postgresql+psycopg://")):
        return "postgresql+psycopg://" + value.split("://", 1)[1]
    hint = "use sqlite:///path/to/file or postgresql://user@host/name"
    raise SettingError(f"the database in {variable} is not supported", where=f"sql:{variable}", hint=hint)


def _failed(error: Exception, variable: str, query: str) -> DataError | UnavailableError:
    """A wrong query or an unreachable database; never the address, which may hold a password (RELIABILITY 55)."""
    import sqlite3

    original = getattr(error, "orig", None)
    if isinstance(original, sqlite3.Error):
        return DataError(f"the query failed: {original}", where=f"sql:{variable}:{query[:80]}")
    what = f"the database in {variable} cannot be reached or refused the query"
    return UnavailableError(what, where=type(original or error).__name__, hint=f"check {variable}", code="unreachable")
