"""Usage rows in ledger order to rated lines: pure, so that anybody can rate again what was charged.

A tenant's units of one calendar month (UTC) are counted in ledger order; those beyond what the plan includes are
charged. Amounts are exact until a line is rounded, once, half to even, to the smallest coin.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from feilun.accounts.terms import METERS, Counts, Terms
from feilun.store.ledger import period_of
from feilun.store.money import format_money, round_to_minor


class UsageRow(NamedTuple):
    """What rating needs of a row of the ledger. ``at`` is in microseconds since 1970, UTC."""

    sequence: int
    request: str
    release: str
    inputs: int
    tokens: int
    price_version: str
    amount_nano: int
    currency: str
    at: int


@dataclass(frozen=True)
class Line:
    """One line: what, how much of it, at which price, and the query that counts it again.

    ``kind`` is fee, included (units that the plan's fee covers, at 0) or usage. ``exact_nano`` is before rounding,
    ``amount_nano`` after; both in nano-units. Sequences are those of the tenant's usage rows, both ends included.
    """

    id: str  # invoice number and line number, empty until it has them
    kind: str
    period: str
    description: str
    meter: str | None
    units: int
    unit_nano: int
    exact_nano: int
    amount_nano: int
    arithmetic: str
    price_version: str
    release: str | None
    first_sequence: int | None
    last_sequence: int | None
    query: str | None


class Mismatch(NamedTuple):
    """A row whose stored amount is not what its terms give."""

    sequence: int
    request: str
    stored_nano: int
    rated_nano: int


@dataclass
class Rated:
    """Lines, and the rows that do not agree with them; with none, the exact amounts sum to the stored ones."""

    lines: list[Line] = field(default_factory=list)
    mismatches: list[Mismatch] = field(default_factory=list)
    stored_nano: int = 0
    rows: int = 0
    currencies: set[str] = field(default_factory=set)


def bounds(period: str) -> tuple[int, int]:
    """First microsecond of the month, and the first of the next.

    >>> bounds("2026-11")[0]
    1793491200000000
    """
    year, month = int(period[:4]), int(period[5:7])
    following = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
    return (int(datetime(year, month, 1, tzinfo=UTC).timestamp()) * 10**6, int(following.timestamp()) * 10**6)


@dataclass
class _Group:
    """Rows of one month, price version and release: units that the plan includes, and units that it charges."""

    first: int
    last: int
    currency: str
    meters: tuple[tuple[int, int, int], ...]  # those that are shown: place in METERS, units included, price
    included: list[int] = field(default_factory=lambda: [0] * len(METERS))
    charged: list[int] = field(default_factory=lambda: [0] * len(METERS))

    @classmethod
    def under(cls, terms: Terms, sequence: int) -> _Group:
        """An empty group under ``terms``: with the meters that have a price; where none has, with requests at 0."""
        shown = [meter for meter in METERS if terms.unit_nano.get(meter)] or METERS[:1]
        meters = ((METERS.index(m), terms.included.get(m, 0), terms.unit_nano.get(m, 0)) for m in shown)
        return cls(sequence, sequence, terms.currency, tuple(meters))


def rate(
    rows: Iterable[UsageRow], terms: Mapping[str, Terms], before: Mapping[str, Counts], tenant: str, period: str
) -> Rated:
    """Rate a tenant's rows, in ledger order, for the invoice of ``period``.

    Args:
        rows: in the order of their sequence.
        terms: by price version, one for each version that the rows name.
        before: by month, the units that the tenant had used in it before the first row.
        tenant: for the queries of the lines.
        period: rows of earlier months become adjustment lines.
    """
    rated = Rated()
    groups: dict[tuple[str, str, str], _Group] = {}
    counted: dict[str, Counts] = defaultdict(Counts, before)
    starts: dict[str, int] = {}
    month, month_ends = "", 0
    for row in rows:
        if not (month and starts[month] <= row.at < month_ends):
            month = period_of(row.at)
            starts[month], month_ends = bounds(month)
        group = groups.get((month, row.price_version, row.release))
        if group is None:
            group = _Group.under(terms[row.price_version], row.sequence)
            groups[month, row.price_version, row.release] = group
        group.last = row.sequence
        earlier = counted[month]
        now = counted[month] = Counts(earlier[0] + 1, earlier[1] + row.inputs, earlier[2] + row.tokens)
        due = 0
        for i, limit, unit_nano in group.meters:
            charged = max(0, now[i] - limit) - max(0, earlier[i] - limit)
            group.charged[i] += charged
            group.included[i] += now[i] - earlier[i] - charged
            due += charged * unit_nano
        if due != row.amount_nano or group.currency != row.currency:
            rated.mismatches.append(Mismatch(row.sequence, row.request, row.amount_nano, due))
        rated.stored_nano += row.amount_nano
        rated.rows += 1
        rated.currencies.add(row.currency)
    for (month, version, release), group in sorted(groups.items(), key=lambda item: (item[0][0], item[1].first)):
        source = _Source(tenant, month, version, release, group)
        rated.lines.extend(_lines(source, terms[version], late=month != period))
    return rated


class _Source(NamedTuple):
    """What the lines of one group have in common."""

    tenant: str
    period: str
    version: str
    release: str
    group: _Group


def fee_line(terms: Terms, plan: str, period: str) -> Line:
    """The monthly fee of ``plan``; it has no usage and no release."""
    shown = format_money(terms.monthly_nano, terms.currency)
    return Line(
        id="",
        kind="fee",
        period=period,
        description=f"Plan {plan}, monthly fee for {period}",
        meter=None,
        units=1,
        unit_nano=terms.monthly_nano,
        exact_nano=terms.monthly_nano,
        amount_nano=round_to_minor(terms.monthly_nano, terms.currency),
        arithmetic=f"1 × {shown}",
        price_version=terms.version,
        release=None,
        first_sequence=None,
        last_sequence=None,
        query=None,
    )


def _lines(source: _Source, terms: Terms, *, late: bool) -> Iterable[Line]:
    group = source.group
    for i, _, _ in group.meters:
        if group.included[i]:
            yield _line(source, terms, METERS[i], units=group.included[i], included=True, late=late)
        if group.charged[i]:
            yield _line(source, terms, METERS[i], units=group.charged[i], included=False, late=late)


def _line(source: _Source, terms: Terms, meter: str, *, units: int, included: bool, late: bool) -> Line:
    unit_nano = 0 if included else terms.unit_nano.get(meter, 0)
    exact = units * unit_nano
    rounded = round_to_minor(exact, terms.currency)
    text = f"{units:,} {meter} × {format_money(unit_nano, terms.currency)} = {format_money(exact, terms.currency)}"
    if rounded != exact:
        text += f", rounded {format_money(rounded, terms.currency)}"
    what = f"{meter.capitalize()} included in the plan" if included else meter.capitalize()
    when = f"in {source.period} (not invoiced before)" if late else f"in {source.period}"
    return Line(
        id="",
        kind="included" if included else "usage",
        period=source.period,
        description=f"{what}, answered by release {source.release[:12]} {when}",
        meter=meter,
        units=units,
        unit_nano=unit_nano,
        exact_nano=exact,
        amount_nano=rounded,
        arithmetic=text,
        price_version=source.version,
        release=source.release,
        first_sequence=source.group.first,
        last_sequence=source.group.last,
        query=_query(source, meter, terms.included.get(meter, 0), included=included),
    )


def _query(source: _Source, meter: str, limit: int, *, included: bool) -> str:
    """SQL, for SQLite and PostgreSQL, that counts the line's units again from the ledger.

    The inner query numbers the month's units in ledger order; the outer one takes what of the line's rows lies beyond
    what the plan includes (or within it).
    """
    unit = "1" if meter == "requests" else meter
    begins, ends = bounds(source.period)
    beyond = f"CASE WHEN {{0}} > {limit} THEN {{0}} - {limit} ELSE 0 END"
    charged = f"({beyond.format('upto')}) - ({beyond.format('(upto - units)')})"
    counted = f"units - ({charged})" if included else charged
    return (
        f"SELECT SUM({counted}) FROM (SELECT sequence, release, price_version, {unit} AS units, "
        f"SUM({unit}) OVER (ORDER BY sequence) AS upto FROM usage WHERE tenant = '{_quoted(source.tenant)}' "
        f"AND at >= {begins} AND at < {ends}) AS month "
        f"WHERE sequence BETWEEN {source.group.first} AND {source.group.last} "
        f"AND release = '{_quoted(source.release)}' AND price_version = '{_quoted(source.version)}'"
    )


def _quoted(text: str) -> str:
    return text.replace("'", "''")
