"""The SQL on an invoice line: it counts the line's units again from the rows, on the database that holds them."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from feilun.accounts.terms import METERS, Kind
from feilun.store.counts import OF_WAYS
from feilun.store.periods import bounds


class Span(NamedTuple):
    """Which units of a month a price is for: those above ``above``, up to ``up_to`` (None: no end).

    The first ``free`` of the month's units are included in the plan.
    """

    free: int
    above: int
    up_to: int | None


class Rows(NamedTuple):
    """Rows of one tenant and month: those at the times of ``windows``, or (not ``within``) those at all other times."""

    tenant: str
    period: str
    first: int
    last: int
    windows: tuple[tuple[int, int], ...] = ()
    within: bool = False


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


def charged_sql(meter: str, apart: Collection[str], dialect: str) -> str:
    """The same without those units that are charged under a meter of ``apart``: a batch's, those of kept answers."""
    special = sorted(name for name in apart if OF_WAYS[name][1] == meter)
    return " - ".join(units_sql(name, dialect) for name in (meter, *special))


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


class Events(NamedTuple):
    """A tenant's events of a month: earlier invoices cover those up to ``covered``; they are there up to ``last``."""

    tenant: str
    period: str
    covered: int
    last: int
    late: bool = False

    @property
    def uptos(self) -> tuple[int, int]:
        """The newest event of before, and that of now."""
        return self.covered, self.last


def event_query(events: Events, meter: tuple[str, str], within: tuple[int, int], counted: tuple[Kind, Span]) -> str:
    """What a price's units are of the events of one meter (its name, and sum or count) and price segment.

    In order of when they happened, the month's units up to the segment's end less those before it: with all events
    that are there now, less the same with those that were covered before.
    """
    name, aggregate = meter
    units = "units" if aggregate == "sum" else "1"
    begins, ends = bounds(events.period)
    sums, signs = [], []
    for upto, sign in ((events.last, "+"), (events.covered, "-")):
        for before in within[::-1]:
            sums.append(f"COALESCE(SUM(CASE WHEN at < {before} AND sequence <= {upto} THEN {units} ELSE 0 END), 0)")
            signs.append(sign if before == within[1] else "+-"[sign == "+"])
    terms = " ".join(f"{sign} ({_inside(*counted, f'n{i}')})" for i, sign in enumerate(signs))
    return (
        f"SELECT {terms.removeprefix('+ ')} FROM (SELECT {', '.join(f'{each} AS n{i}' for i, each in enumerate(sums))} "
        f"FROM events WHERE tenant = '{quoted(events.tenant)}' AND meter = '{quoted(name)}' "
        f"AND at >= {begins} AND at < {ends}) AS month"
    )


def level_query(events: Events, meter: str, aggregate: str, counted: tuple[Kind, Span]) -> str:
    """The same for a level: the month's largest or latest value."""
    begins, ends = bounds(events.period)
    mine = f"tenant = '{quoted(events.tenant)}' AND meter = '{quoted(meter)}' AND at >= {begins} AND at < {ends}"
    what, order = ("MAX(units)", "") if aggregate == "max" else ("units", " ORDER BY at DESC, sequence DESC LIMIT 1")
    levels = (
        f"COALESCE((SELECT {what} FROM events WHERE {mine} AND sequence <= {upto}{order}), 0) AS n{i}"
        for i, upto in enumerate((events.last, events.covered))
    )
    return (
        f"SELECT ({_inside(*counted, 'n0')}) - ({_inside(*counted, 'n1')}) FROM (SELECT {', '.join(levels)}) AS month"
    )


def stored_query(tenant: str, ends: int, counted: tuple[Kind, Span]) -> str:
    """How many of the examples that a tenant had stored at a moment have the price."""
    stored = f"SELECT COUNT(*) AS n FROM feedback WHERE tenant = '{quoted(tenant)}' AND at < {ends}"
    return f"SELECT {_inside(*counted, 'n')} FROM ({stored}) AS stored"


def quoted(text: str) -> str:
    """Text for the inside of SQL's single quotes."""
    return text.replace("'", "''")


def _in_window(rows: Rows) -> str:
    if not rows.windows:
        return ""
    times = " OR ".join(f"(at >= {begins} AND at < {ends})" for begins, ends in rows.windows)
    return f" AND {'' if rows.within else 'NOT '}({times})"


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
