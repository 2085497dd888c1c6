"""The SQL on an invoice line: it counts the line's units again from the rows, on the database that holds them."""

from __future__ import annotations

from typing import NamedTuple

from feilun.accounts.terms import METERS, Kind
from feilun.store.periods import bounds


class Span(NamedTuple):
    """Which units of a month a price is for: those above ``above``, up to ``up_to`` (None: no end).

    The first ``free`` of the month's units are included in the plan.
    """

    free: int
    above: int
    up_to: int | None


class Rows(NamedTuple):
    """Rows of one tenant and month. ``window`` limits their time, within it or (``outside``) not within it."""

    tenant: str
    period: str
    first: int
    last: int
    window: tuple[int, int] | None = None
    outside: bool = False


def units_sql(meter: str, dialect: str) -> str:
    """The units of a meter in a row of ``usage``; those without a column are in its JSON."""
    if meter == "requests":
        return "1"
    if meter in METERS:
        return meter
    name = quoted(meter)
    if dialect == "sqlite":
        return f"COALESCE(json_extract(more, '$.{name}'), 0)"
    return f"COALESCE(CAST(CAST(more AS json) ->> '{name}' AS BIGINT), 0)"


def usage_query(rows: Rows, release: str, version: str, units: str, counted: tuple[Kind, Span]) -> str:
    """What a price's units are of rows that one release answered under one price version.

    The inner query numbers the month's units in ledger order, the outer one takes what of the line's rows lies in the
    span of the price: for each row, what is in it up to there less what was in it before.
    """
    begins, ends = bounds(rows.period)
    upto, before = (_inside(*counted, units) for units in ("upto", "(upto - units)"))
    return (
        f"SELECT SUM(({upto}) - ({before})) FROM (SELECT sequence, release, price_version, at, {units} AS units, "
        f"SUM({units}) OVER (ORDER BY sequence) AS upto FROM usage WHERE tenant = '{quoted(rows.tenant)}' "
        f"AND at >= {begins} AND at < {ends}) AS month "
        f"WHERE sequence BETWEEN {rows.first} AND {rows.last} "
        f"AND release = '{quoted(release)}' AND price_version = '{quoted(version)}'{_in_window(rows)}"
    )


def quoted(text: str) -> str:
    """Text for the inside of SQL's single quotes."""
    return text.replace("'", "''")


def _in_window(rows: Rows) -> str:
    if rows.window is None:
        return ""
    begins, ends = rows.window
    return f" AND {'NOT ' if rows.outside else ''}(at >= {begins} AND at < {ends})"


def _inside(kind: Kind, span: Span, units: str) -> str:
    """How many of the month's first ``units`` units have the price."""
    low, high = span.above, span.up_to
    within = f"{units} > {low}" + ("" if high is None else f" AND {units} <= {high}")
    if kind == "volume":  # all charged units, where the last of them falls in the tier
        return f"CASE WHEN {within} THEN {units} - {span.free} ELSE 0 END"
    if kind == "flat":
        return f"CASE WHEN {within} THEN 1 ELSE 0 END"
    top = "" if high is None else f" WHEN {units} > {high} THEN {high - low}"
    return f"CASE WHEN {units} <= {low} THEN 0{top} ELSE {units} - {low} END"
