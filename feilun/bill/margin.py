"""Does it earn money? Revenue less every cost that was measured or stated, down to the nano-unit.

The engine's time of a request is its own. What no request caused alone is divided among all of the window: the
gateways' other processor time by requests, loads, idle time, storage and fixed costs by the engine's time, the training
of a release by the tokens that it has answered so far. Each has a column of its own, every division leaves nothing
over, and so the rows sum to what was measured, however they are grouped.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import date, timedelta
from fractions import Fraction
from typing import Any

from sqlalchemy import Connection, select

from feilun.bill import costs, earnings
from feilun.bill.costs import Measured, Trained, Window, divide
from feilun.bill.earnings import NO_DAY, Answered, Cell
from feilun.bill.reading import snapshot
from feilun.bill.settings import BillSettings
from feilun.bill.shares import allocate
from feilun.errors import SettingError, did_you_mean
from feilun.store import gateways, tables
from feilun.store.database import Database
from feilun.store.money import Money, format_money

GROUPS = ("tenant", "plan", "model", "release", "day", "request")
COSTS = ("serving", "overhead", "loads", "idle", "training", "storage", "fixed")
NOBODY = Cell(NO_DAY, "", "", "")


@dataclass(frozen=True)
class Row:
    """One line of the report; money in nano-units, ``compute_ns`` in core-nanoseconds of the engine.

    ``name`` is the tenant, plan, model, release, day or request; it is empty for what belongs to none, such as the
    monthly fee where rows are releases, or costs of a window in which nothing was asked.
    """

    name: str
    requests: int = 0
    inputs: int = 0
    tokens: int = 0
    compute_ns: int = 0
    metered_nano: int = 0  # what requests were charged
    invoiced_nano: int = 0  # fees, minimum, discounts, reported events, rounding
    serving_nano: int = 0
    overhead_nano: int = 0
    loads_nano: int = 0
    idle_nano: int = 0
    training_nano: int = 0
    storage_nano: int = 0
    fixed_nano: int = 0

    @property
    def revenue_nano(self) -> int:
        """All that was earned, without taxes."""
        return self.metered_nano + self.invoiced_nano

    @property
    def cost_nano(self) -> int:
        """All costs together."""
        return sum(getattr(self, f"{cost}_nano") for cost in COSTS)

    @property
    def margin_nano(self) -> int:
        """Revenue less all costs."""
        return self.revenue_nano - self.cost_nano

    def plus(self, other: Row) -> Row:
        """Figure by figure, under this row's name."""
        return Row(self.name, *(getattr(self, f.name) + getattr(other, f.name) for f in _FIGURES))

    def minus(self, other: Row) -> Row:
        """Figure by figure, under this row's name."""
        return Row(self.name, *(getattr(self, f.name) - getattr(other, f.name) for f in _FIGURES))

    def as_dict(self, currency: str) -> dict[str, Any]:
        """Plain values; the margin also as text."""
        sums = {"revenue_nano": self.revenue_nano, "cost_nano": self.cost_nano, "margin_nano": self.margin_nano}
        return asdict(self) | sums | {"margin": format_money(self.margin_nano, currency)}


_FIGURES = fields(Row)[1:]


@dataclass(frozen=True)
class Query:
    """What is asked: rows by one of ``GROUPS``, of a month (None: of all time), of one tenant or of all."""

    by: str = "tenant"
    period: str | None = None
    tenant: str | None = None
    limit: int = 20  # of requests, those that took the engine longest

    def __post_init__(self) -> None:
        if self.by not in GROUPS:
            hint = did_you_mean(self.by, GROUPS) or f"one of {', '.join(GROUPS)}"
            raise SettingError(f"margins are not told by '{self.by[:40]}'", where="by", hint=hint)
        if self.period is not None and not re.fullmatch(r"(19[7-9]|[2-9]\d\d)\d-(0[1-9]|1[0-2])", self.period):
            raise SettingError(f"'{self.period[:40]}' is not a month", where="period", hint="write it as 2026-11")
        if not 1 <= self.limit <= 1_000:
            raise SettingError("the limit is between 1 and 1000", where="limit")


def asked(parameters: Mapping[str, str]) -> Query:
    """A query from the parameters of a request: by, period, tenant, limit.

    Raises:
        SettingError: one is unknown, or is not what it should be.
    """
    known = {"by", "period", "tenant", "limit"}
    for name in parameters:
        if name not in known:
            hint = did_you_mean(name, known) or f"there are {', '.join(sorted(known))}"
            raise SettingError(f"there is no parameter '{name[:40]}'", where=name[:40], hint=hint)
    limit = parameters.get("limit", "20")
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 4):
        raise SettingError("the limit is not a number", where="limit", hint="the most is 1000")
    chosen = {name: parameters[name] for name in ("by", "period", "tenant") if name in parameters}
    return Query(**chosen, limit=int(limit))


@dataclass(frozen=True)
class Report:
    """Margins of a window, and what was measured in it.

    ``rows`` sum to ``total``, that of the tenant if one was asked for; ``everybody`` is the sum of all tenants.
    ``apart`` holds costs that are in no row: runs that failed or whose result was never served, and of training the
    parts that fall on requests outside the window or on releases that have answered nothing yet. ``not_invoiced``
    counts tenants whose fees are missing because their month is not closed.
    """

    by: str
    window: Window
    tenant: str | None
    currency: str
    core_hour_nano: int
    rows: tuple[Row, ...]
    total: Row
    everybody: Row
    apart: Mapping[str, int]
    measured: Measured
    training_ns: int
    fixed: Mapping[str, int]
    not_invoiced: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``; money in nano-units and margins as text."""
        told = {"by": self.by, **self.window._asdict(), "tenant": self.tenant, "currency": self.currency}
        told |= {"core_hour_nano": self.core_hour_nano, "rows": [row.as_dict(self.currency) for row in self.rows]}
        told |= {name: getattr(self, name).as_dict(self.currency) for name in ("total", "everybody")}
        told |= {f"{name}_nano": nano for name, nano in self.apart.items()}
        told |= {"measured": asdict(self.measured) | {"training_ns": self.training_ns}}
        return told | {"fixed": dict(self.fixed), "not_invoiced": self.not_invoiced}


def report(database: Database, settings: BillSettings, query: Query | None = None) -> Report:
    """Margins of a window, grouped as asked for. Nothing is written.

    Raises:
        SettingError: the month has not begun, or a currency has no stated rate of exchange to that of ``core_hour``.
    """
    from feilun.bill import margin_requests

    chosen = query or Query()
    with snapshot(database) as connection:
        books = read(connection, settings, chosen)
        names = {row[0]: row[1] for row in connection.execute(select(tables.releases.c.digest, tables.releases.c.name))}
        dearest = margin_requests.dearest(connection, books.window, chosen) if chosen.by == "request" else []
    cells = _cells(books)  # no longer within the snapshot: where SQLite has no log, writers wait for it
    mine = {cell: row for cell, row in cells.items() if chosen.tenant in (None, cell.tenant)}
    total = _sum("", mine.values())
    if chosen.by == "request":
        rows = margin_requests.told(dearest, settings, books, total)
    else:
        rows = _grouped(mine, _names(chosen.by, names))
    return Report(
        by=chosen.by,
        window=books.window,
        tenant=chosen.tenant,
        currency=settings.core_hour.currency,
        core_hour_nano=settings.core_hour.nano,
        rows=tuple(rows),
        total=total,
        everybody=_sum("", cells.values()),
        apart=books.apart,
        measured=books.measured,
        training_ns=sum(books.trained.groups.values()),
        fixed={name: sum(days.values()) for name, days in books.monthly["fixed"].items()},
        not_invoiced=books.not_invoiced,
    )


@dataclass(frozen=True)
class Books:
    """All that was read of a window, and each cost's whole price."""

    window: Window
    by_day: bool
    answered: Mapping[Cell, Answered]
    outside: Mapping[str, tuple[int, int]]
    invoiced: Mapping[Cell, int]
    used: Mapping[int, gateways.Used]
    measured: Measured
    trained: Trained
    prices: Mapping[str, int]  # of COSTS, nano-units, without training
    training: Mapping[costs.Runs, int]
    monthly: Mapping[str, Mapping[str, Mapping[int, int]]]  # storage and fixed: prices by name and day
    apart: dict[str, int]
    not_invoiced: int


def read(connection: Connection, settings: BillSettings, query: Query) -> Books:
    """Read the window and price what was used in it."""
    by_day = query.by == "day"
    span = costs.window(connection, query.period)
    answered = earnings.answered(connection, span, settings, by_day=by_day)
    used = gateways.used(connection, span.begins, span.ends)
    known = costs.measured(sum(sums.compute_ns for sums in answered.values()), used)
    trained = costs.trained(connection, span)
    # One division between everything that is measured in core time, so that the parts sum to the whole's price.
    direct = (known.requests_ns, known.overhead_ns, known.loads_ns, known.idle_ns, trained.failed, trained.unused)
    serving, overhead, loads, idle, failed, unused, *training = costs.of_core_time(
        settings, [*direct, *trained.groups.values()]
    )
    monthly = _monthly(connection, settings, span)
    prices = {"serving": serving, "overhead": overhead, "loads": loads, "idle": idle}
    prices |= {"storage": _total(monthly["storage"]), "fixed": _total(monthly["fixed"])}
    return Books(
        window=span,
        by_day=by_day,
        answered=answered,
        outside=earnings.answered_outside(connection, span),
        invoiced=earnings.invoiced(connection, span, settings, by_day=by_day),
        used=used,
        measured=known,
        trained=trained,
        prices=prices,
        training=dict(zip(trained.groups, training, strict=True)),
        monthly=monthly,
        apart={"failed_runs": failed, "unused_runs": unused, "training_elsewhere": 0, "training_unanswered": 0},
        not_invoiced=earnings.not_invoiced(connection, span),
    )


def _monthly(connection: Connection, settings: BillSettings, span: Window) -> dict[str, dict[str, Mapping[int, int]]]:
    """What is paid by the month, by name and day, in the report's currency."""
    convert = earnings.converter(settings)

    def days(amount: Money, shares: Mapping[int, Fraction]) -> Mapping[int, int]:
        return {day: convert(amount.currency, nano) for day, nano in costs.price(amount, shares).items()}

    gigabytes = settings.storage_gb_month
    share = costs.months(span)
    return {
        "storage": {"artefacts": days(gigabytes, costs.stored(connection, span))} if gigabytes else {},
        "fixed": {name: days(amount, share) for name, amount in settings.costs.items()},
    }


def _total(named: Mapping[str, Mapping[int, int]]) -> int:
    return sum(nano for days in named.values() for nano in days.values())


def _cells(books: Books) -> dict[Cell, Row]:
    """Every figure by cell: each cost is divided among cells, and among days where they are asked for."""
    columns: dict[Cell, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for cell, sums in books.answered.items():
        for name, figure in sums._asdict().items():
            columns[cell][name] += figure
    for cell, nano in books.invoiced.items():
        columns[cell]["invoiced_nano"] += nano
    compute = {cell: sums.compute_ns for cell, sums in books.answered.items()}
    for cell, nano in _over(books.prices["serving"], compute).items():
        columns[cell]["serving_nano"] += nano
    for cell, nano in _training(books).items():
        columns[cell]["training_nano"] += nano
    for cost in ("overhead", "loads", "idle", "storage", "fixed"):
        for cell, nano in _spread(books, cost).items():
            columns[cell][f"{cost}_nano"] += nano
    return {cell: Row("", **figures) for cell, figures in columns.items()}


def _spread(books: Books, cost: str) -> dict[Cell, int]:
    """A cost that belongs to no request alone: to each day what it cost, within it by everybody's part of the window.

    A day on which nothing was asked is borne by those who asked on others: the machine was kept ready for them.
    """
    nano = books.prices[cost]
    everybody: dict[Cell, Answered] = defaultdict(Answered)
    for cell, sums in books.answered.items():
        everybody[cell._replace(day=NO_DAY)] = everybody[cell._replace(day=NO_DAY)].plus(sums)
    by_requests = cost == "overhead" or not any(sums.compute_ns for sums in everybody.values())
    parts = {cell: s.requests if by_requests else s.compute_ns for cell, s in everybody.items()} or {NOBODY: 1}
    found: dict[Cell, int] = {}
    for day, of_day in (_days(books, cost, nano) if books.by_day else {NO_DAY: nano}).items():
        shares = zip(parts, divide(of_day, list(parts.values())), strict=True)
        found |= {cell._replace(day=day): share for cell, share in shares if share}
    return found


def _days(books: Books, cost: str, nano: int) -> dict[int, int]:
    """What a cost was on each day."""
    if cost in books.monthly:
        found: dict[int, int] = defaultdict(int)
        for days_of_one in books.monthly[cost].values():
            for day, part in days_of_one.items():
                found[day] += part
        return found
    requests: dict[int, int] = defaultdict(int)
    for cell, sums in books.answered.items():
        requests[cell.day] += sums.compute_ns
    days = sorted({*books.used, *requests}) or [day for day, _, _ in books.window.days()][:1]
    used = {day: books.used.get(day, gateways.Used(0, 0, 0, 0)) for day in days}
    weights = {
        "overhead": [max(0, used[day].core - used[day].load - requests[day]) for day in days],
        "loads": [used[day].load for day in days],
        "idle": [max(0, used[day].offered - used[day].core) for day in days],
    }
    return dict(zip(days, divide(nano, weights[cost]), strict=True))


def _training(books: Books) -> dict[Cell, int]:
    """Each group of runs over the answers of its releases, those outside the window included; notes what is apart."""
    training: dict[Cell, int] = defaultdict(int)
    for releases, nano in books.training.items():
        inside = {cell: sums for cell, sums in books.answered.items() if cell.release in releases}
        outside = [books.outside.get(release, (0, 0)) for release in sorted(releases)]
        weights = [*(sums.tokens for sums in inside.values()), sum(tokens for tokens, _ in outside)]
        if not any(weights):
            weights = [*(sums.inputs for sums in inside.values()), sum(inputs for _, inputs in outside)]
        if not any(weights):
            books.apart["training_unanswered"] += nano
            continue
        *shares, elsewhere = allocate(nano, weights)
        books.apart["training_elsewhere"] += elsewhere
        for cell, share in zip(inside, shares, strict=True):
            training[cell] += share
    return training


def _over(nano: int, weights: Mapping[Cell, int]) -> dict[Cell, int]:
    return dict(zip(weights, allocate(nano, list(weights.values())), strict=True))


def _names(by: str, models: Mapping[str, str]) -> Callable[[Cell], str]:
    if by == "model":
        return lambda cell: models.get(cell.release, "")
    if by == "day":
        return lambda cell: f"{date(1970, 1, 1) + timedelta(days=cell.day)}"
    return lambda cell: str(getattr(cell, by))


def _grouped(cells: Mapping[Cell, Row], name: Callable[[Cell], str]) -> list[Row]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for cell, row in cells.items():
        groups[name(cell)].append(row)
    return [_sum(group, groups[group]) for group in sorted(groups)]


def _sum(name: str, rows: Iterable[Row]) -> Row:
    chosen: Sequence[Row] = list(rows)
    return Row(name, *(sum(getattr(row, f.name) for row in chosen) for f in _FIGURES))
