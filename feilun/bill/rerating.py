"""A tenant's month under other terms: the ledger's rows are summed by the database, run by run, and rated again.

A run is consecutive rows that one release answered at one price. Amounts telescope, so rating runs gives the lines that
rating every row would give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from sqlalchemy import Connection, text

from feilun.accounts.terms import Terms
from feilun.bill.charging import Known, Scope, charge
from feilun.bill.history import Segment, segments
from feilun.bill.queries import units_sql
from feilun.bill.rating import Line, Rated, Sums, part_line
from feilun.bill.reading import terms_of
from feilun.store import events

_RUNS = """SELECT release, price_version, segment, MIN(sequence) AS first, MAX(sequence) AS last, {sums} FROM (
SELECT sequence, release, price_version, segment, {units},
ROW_NUMBER() OVER (ORDER BY sequence) - ROW_NUMBER() OVER (PARTITION BY release, price_version, segment
ORDER BY sequence) AS island
FROM (SELECT sequence, release, price_version, inputs, tokens, more, {segment} AS segment
FROM usage WHERE tenant = :tenant AND at >= :begins AND at < :ends) AS cut) AS placed
GROUP BY release, price_version, segment, island ORDER BY MIN(sequence)"""


@dataclass
class _Group:
    """What one release answered under one version of terms, within a trial or outside of it."""

    terms: Terms
    first: int
    last: int
    free: bool
    sums: Sums = field(default_factory=Sums)


def charges(connection: Connection, known: Known, *, active: bool, as_charged: bool) -> dict[str, list[Line]]:
    """All lines of a month but taxes and credits, by currency, as if one invoice were made of all of it.

    Args:
        known: with the history of plans and prices that is to hold, and no earlier invoices.
        active: whether a fee is due also where nothing was used.
        as_charged: take the terms that each row names, else those that the history has for its time.
    """
    parts = segments(known.history, known.period)
    rated = usage(connection, known, parts, as_charged=as_charged)
    newest = events.newest(connection, known.tenant)
    charged: dict[str, list[Line]] = {}
    for currency in dict.fromkeys([*rated, *(part.terms.currency for part in parts)]):
        mine = rated.get(currency, [])
        fees = active or any(rated.values())
        scope = Scope(currency, first=1, last=0, last_event=newest, fees=fees)
        found = charge(connection, known, scope, Rated(lines=mine)).lines
        charged[currency] = [line for line in found if line.period == known.period]  # not what is late of others
    return charged


def usage(connection: Connection, known: Known, parts: Sequence[Segment], *, as_charged: bool) -> dict[str, list[Line]]:
    """Lines of usage by currency."""
    rows, names = _runs(connection, known, parts)
    versions = terms_of(connection, {row.price_version for row in rows}) if as_charged else {}
    before = dict.fromkeys(names, 0)
    groups: dict[tuple[str, str, bool], _Group] = {}
    for row in rows:
        part = parts[int(row.segment)]
        terms = versions[row.price_version] if as_charged else part.terms
        after = {meter: before[meter] + int(getattr(row, name)) for meter, name in names.items()}
        was, now = terms.charged(before), terms.charged(after)
        key = (terms.version, row.release, part.free)
        group = groups.setdefault(key, _Group(terms, int(row.first), int(row.last), part.free))
        group.last = int(row.last)
        for meter in terms.rates.meters:
            if was.get(meter, 0) != now.get(meter, 0):
                group.sums.add(meter, terms.parts(meter, was.get(meter, 0), now.get(meter, 0)))
        before = after
    found: dict[str, list[Line]] = {}
    for (_, release, free), group in sorted(groups.items(), key=lambda item: item[1].first):
        line = Line(
            period=known.period,
            release=release,
            first_sequence=group.first,
            last_sequence=group.last,
            words={"trial": 1} if free else {},
        )
        lines = [part_line(group.terms, meter, part, line) for meter, part in group.sums.parts()]
        found.setdefault(group.terms.currency, []).extend(lines)
    return found


_SPECIAL = text(
    "SELECT 1 FROM usage WHERE tenant = :tenant AND at >= :begins AND at < :ends "
    "AND (more LIKE '%\"batch_%' OR more LIKE '%\"cached_%') LIMIT 1"
)


def _runs(connection: Connection, known: Known, parts: Sequence[Segment]) -> tuple[Sequence[Any], dict[str, str]]:
    """The month's runs in ledger order, and under which name each meter's units are in them."""
    usage_rows = text(
        "SELECT DISTINCT price_version FROM usage WHERE tenant = :tenant AND at >= :begins AND at < :ends"
    )
    values: dict[str, Any] = {"tenant": known.tenant, "begins": known.month[0], "ends": known.month[1]}
    versions = set(connection.execute(usage_rows, values).scalars())
    used = [*(part.terms for part in parts), *terms_of(connection, versions).values()]
    special = connection.execute(_SPECIAL, values).first() is not None  # else its sums would cost time for nothing
    every = {meter for terms in used for meter in (terms.rates.meters if special else terms.priced)}
    names = {meter: f"units_{i}" for i, meter in enumerate(sorted({"requests", *every}))}
    dialect = connection.dialect.name
    query = _RUNS.format(
        sums=", ".join(f"SUM({name}) AS {name}" for name in names.values()),
        units=", ".join(f"{units_sql(meter, dialect)} AS {name}" for meter, name in names.items()),
        segment=_segment([part.begins for part in parts]),
    )
    return connection.execute(text(query), values).all(), names


def _segment(begins: Sequence[int]) -> str:
    """SQL for the number of the segment that a row lies in; integers only, so nothing needs quoting."""
    if len(begins) == 1:
        return "0"
    cases = " ".join(f"WHEN at < {after} THEN {i}" for i, (_, after) in enumerate(pairwise(begins)))
    return f"CASE {cases} ELSE {len(begins) - 1} END"
