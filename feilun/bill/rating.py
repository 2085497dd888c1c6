"""Usage rows in ledger order to rated lines: pure, so that anybody can rate again what was charged.

A tenant's units of one calendar month (UTC) are counted in ledger order; those beyond what the plan includes are
charged by the terms that each row names. Amounts are exact until a line is rounded, once, half to even, to the
smallest coin.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from feilun.accounts.terms import METERS, MORE_METERS, Counts, Kind, Part, Tariff, Terms
from feilun.bill.queries import Rows, Span, charged_sql, usage_query
from feilun.bill.wording import worded
from feilun.store.money import round_to_minor
from feilun.store.periods import bounds, period_of

Window = tuple[int, int]  # microseconds since 1970; the second one is not in it
KINDS = (
    *("fee", "unused", "included", "usage", "event", "gauge"),  # what is charged, and what the plan includes at 0
    *("trial", "discount", "minimum", "tax", "credit"),  # what follows from the sum of those
)


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
    more: str | None = None  # units of the meters that have no column, canonical JSON


@dataclass(frozen=True)
class Line:
    """One line: what, how much of it, at which price, and the query that counts it again.

    ``kind`` is one of ``KINDS``. ``exact_nano`` is before rounding, ``amount_nano`` after; both in nano-units.
    Sequences are those of the tenant's usage rows, for the kinds event and gauge those of its events, both ends
    included. ``words`` is what ``wording.py`` makes its text of.
    """

    id: str = ""  # invoice number and line number, empty until it has them
    kind: str = "usage"
    period: str = ""
    description: str = ""
    meter: str | None = None
    units: int = 1
    unit_nano: int = 0
    exact_nano: int = 0
    amount_nano: int = 0
    arithmetic: str = ""
    price_version: str = ""
    release: str | None = None
    first_sequence: int | None = None
    last_sequence: int | None = None
    query: str | None = None
    words: Mapping[str, str | int] = field(default_factory=dict)


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


class _Price(NamedTuple):
    meter: str
    kind: Kind
    tier: int
    nano: int
    per: int


class Sums:
    """Parts of one source, added up by meter and price."""

    def __init__(self) -> None:
        self._sums: dict[_Price, list[int]] = {}

    def add(self, meter: str, parts: Iterable[Part], sign: int = 1) -> None:
        """Add, or with ``sign`` -1 take away, what some of a meter's units cost."""
        for part in parts:
            sums = self._sums.setdefault(_Price(meter, part.kind, part.tier, part.nano, part.per), [0, 0])
            sums[0] += sign * part.units
            sums[1] += sign * part.exact_nano

    def parts(self) -> Iterator[tuple[str, Part]]:
        """What is left, meter by meter, of each what is included before what is charged."""
        for price in sorted(self._sums, key=lambda p: (rank(p.meter), p.kind != "included", p.tier, p.kind)):
            units, exact = self._sums[price]
            if units or exact:
                yield price.meter, Part(price.tier, units, price.nano, price.per, exact, price.kind)


def rank(meter: str) -> tuple[int, str]:
    """The order of meters on an invoice: those of every answer, then the others by name."""
    known = (*METERS, *MORE_METERS)
    return (known.index(meter) if meter in known else len(known), meter)


def span_of(terms: Terms, meter: str, part: Part) -> Span:
    """Which of the month's units the price of ``part`` is for."""
    free = terms.included.get(meter, 0)
    if part.kind == "included":
        return Span(free, 0, free)
    tariff = terms.rates.tariffs.get(meter)
    if tariff is None or tariff.mode == "package":
        return Span(free, free, None)
    low = (tariff.tiers[part.tier - 1].up_to or 0) if part.tier else 0
    high = tariff.tiers[part.tier].up_to
    return Span(free, free + low, None if high is None else free + high)


def part_line(terms: Terms, meter: str, part: Part, line: Line) -> Line:
    """``line`` with the units, price, amount and text of ``part``; what is included is told as such."""
    words = dict(line.words)
    if part.kind in ("package", "volume", "flat"):
        words["rate"] = part.kind
    if part.per != 1:
        words["per"] = part.per
    tariff = terms.rates.tariffs.get(meter)
    if part.kind != "included" and tariff is not None and len(tariff.tiers) > 1:
        span = span_of(terms, meter, part)
        words |= {"tier": part.tier + 1, "above": span.above}
        words |= {} if span.up_to is None else {"up_to": span.up_to}
    told = replace(
        line,
        kind="included" if part.kind == "included" else line.kind,
        meter=meter,
        units=part.units,
        unit_nano=part.nano,
        exact_nano=part.exact_nano,
        amount_nano=round_to_minor(part.exact_nano, terms.currency),
        price_version=terms.version,
        words=words,
    )
    return worded(told, terms.currency)


@dataclass
class _Group:
    """Rows of one month, price version and release, within or outside of a trial."""

    terms: Terms
    first: int
    last: int
    simple: list[tuple[str, int, int]]  # meter, units included, price of each unit beyond
    tariffs: list[tuple[str, int, Tariff]]
    begun: dict[str, int]  # the month's units where the present run of consecutive rows began
    sums: Sums = field(default_factory=Sums)
    rows: int = 0
    apart: frozenset[str] = frozenset()  # of the month's units, those that are not charged as plain ones

    @classmethod
    def under(cls, terms: Terms, sequence: int) -> _Group:
        free = terms.included
        simple = [(meter, free.get(meter, 0), nano) for meter, nano in terms.rates.unit_nano.items()]
        tariffs = [(m, free.get(m, 0), t) for m, t in terms.rates.tariffs.items()]
        return cls(terms, sequence, sequence, simple, tariffs, {})

    def amount(self, before: Mapping[str, int], after: Mapping[str, int]) -> int:
        """``Terms.amount`` over plain dictionaries: this runs once for each row of the ledger."""
        special = self.terms.rates.apart
        if special and not special.isdisjoint(after):
            self.apart = special
            before, after = self.terms.charged(before), self.terms.charged(after)
        due = 0
        for meter, free, nano in self.simple:
            now = after.get(meter, 0)
            if now > free:
                due += nano * (now - max(free, before.get(meter, 0)))
        for meter, free, tariff in self.tariffs:
            now, earlier = after.get(meter, 0), before.get(meter, 0)
            if now != earlier:
                due += tariff.total(now - free) - tariff.total(earlier - free)
        return due

    def end_run(self, counted: Mapping[str, int]) -> None:
        """Add what the rows since ``begun`` cost; amounts telescope, so consecutive rows are rated as one."""
        earlier, now = self.terms.charged(self.begun), self.terms.charged(counted)
        for meter in self.terms.rates.meters:
            before, after = earlier.get(meter, 0), now.get(meter, 0)
            if before != after:
                self.sums.add(meter, self.terms.parts(meter, before, after))


def rate(
    rows: Iterable[UsageRow],
    terms: Mapping[str, Terms],
    before: Mapping[str, Counts],
    tenant: str,
    period: str,
    *,
    trial: Sequence[Window] = (),
    dialect: str = "sqlite",
) -> Rated:
    """Rate a tenant's rows, in ledger order, for the invoice of ``period``.

    Args:
        rows: in the order of their sequence.
        terms: by price version, one for each version that the rows name.
        before: by month, the units that the tenant had used in it before the first row.
        tenant: for the queries of the lines.
        period: rows of earlier months become adjustment lines.
        trial: rows of these times are on lines of their own, which say so in their words.
        dialect: of the database that the queries are for.
    """
    rated = Rated()
    groups: dict[tuple[str, str, str, bool], _Group] = {}
    counted: dict[str, dict[str, int]] = defaultdict(dict, {month: dict(counts) for month, counts in before.items()})
    month, starts, ends = "", 0, 0
    open_group, open_month = None, ""
    for row in rows:
        if not starts <= row.at < ends:
            month = period_of(row.at)
            starts, ends = bounds(month)
        key = (month, row.price_version, row.release, any(begins <= row.at < ends for begins, ends in trial))
        earlier = counted[month]
        now = counted[month] = _plus(earlier, row)
        group = groups.get(key)
        if group is None:
            group = groups[key] = _Group.under(terms[row.price_version], row.sequence)
        if group is not open_group:
            if open_group is not None:
                open_group.end_run(earlier if open_month == month else counted[open_month])
            open_group, open_month, group.begun = group, month, earlier
        group.last = row.sequence
        group.rows += 1
        due = group.amount(earlier, now)
        if due != row.amount_nano or group.terms.currency != row.currency:
            rated.mismatches.append(Mismatch(row.sequence, row.request, row.amount_nano, due))
        rated.stored_nano += row.amount_nano
        rated.rows += 1
        rated.currencies.add(row.currency)
    if open_group is not None:
        open_group.end_run(counted[open_month])
    for (month, _, release, free), group in sorted(groups.items(), key=lambda item: (item[0][0], item[1].first)):
        source = _Source(tenant, month, release, trial, free, dialect)
        rated.lines.extend(_lines(source, group, late=month != period))
    return rated


def _plus(counted: Mapping[str, int], row: UsageRow) -> dict[str, int]:
    now = {**counted, "requests": counted.get("requests", 0) + 1}
    now["inputs"] = counted.get("inputs", 0) + row.inputs
    now["tokens"] = counted.get("tokens", 0) + row.tokens
    if row.more is not None:
        for meter, units in json.loads(row.more).items():
            now[meter] = counted.get(meter, 0) + units
    return now


class _Source(NamedTuple):
    """What the lines of one group have in common."""

    tenant: str
    period: str
    release: str
    trial: Sequence[Window]
    free: bool  # within the trial
    dialect: str


def _lines(source: _Source, group: _Group, *, late: bool) -> Iterator[Line]:
    parts = list(group.sums.parts())
    if not parts:  # nothing that they used has a price: the answers are counted, at 0
        parts = [("requests", Part(0, group.rows, 0, 1, 0, "unit"))]
    words: dict[str, str | int] = {"late": 1} if late else {}
    words |= {"trial": 1} if source.free else {}
    begins, ends = bounds(source.period)
    trial = tuple(window for window in source.trial if window[0] < ends and window[1] > begins)
    rows = Rows(source.tenant, source.period, group.first, group.last, trial, within=source.free)
    for meter, part in parts:
        counted = (part.kind, counted_span(group.terms, meter, part))
        units = charged_sql(meter, group.apart, source.dialect)
        line = Line(
            period=source.period,
            release=source.release,
            first_sequence=group.first,
            last_sequence=group.last,
            query=usage_query(rows, source.release, group.terms.version, units, counted),
            words=words,
        )
        yield part_line(group.terms, meter, part, line)


def counted_span(terms: Terms, meter: str, part: Part) -> Span:
    """The units that a line's query counts; a graduated tier is entered once and never left again."""
    if part.kind == "unit" and meter not in terms.rates.meters:
        return Span(0, 0, None)
    span = span_of(terms, meter, part)
    tariff = terms.rates.tariffs.get(meter)
    entered = part.kind == "flat" and tariff is not None and tariff.mode == "graduated"
    return span._replace(up_to=None) if entered else span


def fee_line(terms: Terms, plan: str, period: str) -> Line:
    """The whole monthly fee of ``plan``; it has no usage and no release."""
    line = Line(
        kind="fee",
        period=period,
        unit_nano=terms.monthly_nano,
        exact_nano=terms.monthly_nano,
        amount_nano=round_to_minor(terms.monthly_nano, terms.currency),
        price_version=terms.version,
        words={"plan": plan},
    )
    return worded(line, terms.currency)
