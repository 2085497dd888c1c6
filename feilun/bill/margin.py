"""What is left of each tenant's invoices: revenue, less the measured cost of serving, less a share of training.

Every figure is an integer of nano-units, and every division leaves nothing over: parts sum exactly to their whole.
Processor time that answered nothing (an idle server, failed runs) is not allocated to anybody yet.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, select

from feilun.bill.reading import snapshot
from feilun.bill.shares import allocate, half_even
from feilun.errors import ConflictError
from feilun.store import lineage, tables
from feilun.store.database import Database
from feilun.store.money import Money, format_money
from feilun.store.runs import FINISHED

HOUR_NS = 3_600 * 10**9
Runs = frozenset[str]  # a group of runs, by the releases that all of them went into
FEE = ""  # stands for the release where revenue has none: the monthly fee


class Cell(NamedTuple):
    """What costs are shared over: the answers of one release to one tenant, within invoices of one period."""

    tenant: str
    release: str
    period: str | None  # None: not invoiced yet


@dataclass(frozen=True)
class Margin:
    """One line of the report, in nano-units; ``release`` is empty for monthly fees and None for all of a tenant."""

    tenant: str
    release: str | None
    requests: int
    revenue_nano: int
    serving_nano: int
    training_nano: int

    @property
    def margin_nano(self) -> int:
        """Revenue less both costs."""
        return self.revenue_nano - self.serving_nano - self.training_nano


@dataclass(frozen=True)
class Margins:
    """Margins of every tenant, the same by release, and what of the costs belongs to neither.

    ``elsewhere_nano`` is the part of serving and training that falls on requests outside these invoices (other periods,
    or not invoiced yet); ``unanswered_nano`` is the training of releases that have answered nothing. Tenants, elsewhere
    and unanswered sum to ``cost_nano``: serving, and the finished runs that went into any release.
    """

    currency: str
    core_hour_nano: int
    period: str | None
    tenants: tuple[Margin, ...]
    releases: tuple[Margin, ...]
    elsewhere_nano: int
    unanswered_nano: int
    cost_nano: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``; money in nano-units and as text."""

        def shown(rows: Iterable[Margin]) -> list[dict[str, Any]]:
            return [
                asdict(row) | {"margin_nano": row.margin_nano, "margin": format_money(row.margin_nano, self.currency)}
                for row in rows
            ]

        return asdict(self) | {"tenants": shown(self.tenants), "releases": shown(self.releases)}


def margins(database: Database, core_hour: Money, period: str | None = None) -> Margins:
    """Margins of the invoices of ``period``, or of all invoices.

    Revenue is the rounded lines of closed invoices; its cost is that of the very requests which these invoices cover.

    Training: each finished run whose output is a release, or went into one, costs its ``core_ns``. A run counts once,
    however many releases descend from it, and is shared over all requests that those releases have answered so far,
    invoiced or not, in proportion to tokens (inputs where no tokens were counted). So a tenant's share of an old run
    falls as others use what came of it.

    Args:
        database: where usage, invoices and runs are.
        core_hour: price of one core for an hour.
        period: ``"2026-11"``; None for every period.

    Raises:
        ConflictError: invoices are in another currency than ``core_hour``.
    """
    with snapshot(database) as connection:
        revenue = _revenue(connection, core_hour.currency)
        answered = _answered(connection)
        runs = _training_runs(connection)
    serving_ns = sum(weight.compute_ns for weight in answered.values())
    whole = half_even((serving_ns + sum(runs.values())) * core_hour.nano, HOUR_NS)
    # One division between serving and each group of runs, then one within each: the parts sum to the whole.
    price_of_serving, *price_of_runs = allocate(whole, [serving_ns, *runs.values()])
    serving = _over(price_of_serving, {cell: weight.compute_ns for cell, weight in answered.items()})
    training, unanswered = _training(dict(zip(runs, price_of_runs, strict=True)), answered)
    rows = [
        Margin(
            cell.tenant,
            cell.release,
            answered[cell].requests if cell in answered else 0,
            revenue.get(cell, 0),
            serving.get(cell, 0),
            training.get(cell, 0),
        )
        for cell in sorted({*answered, *revenue}, key=str)
        if cell.period is not None and period in (None, cell.period)
    ]
    return Margins(
        currency=core_hour.currency,
        core_hour_nano=core_hour.nano,
        period=period,
        tenants=_summed(rows, by_release=False),
        releases=_summed(rows, by_release=True),
        elsewhere_nano=whole - unanswered - sum(row.serving_nano + row.training_nano for row in rows),
        unanswered_nano=unanswered,
        cost_nano=whole,
    )


class _Weight(NamedTuple):
    requests: int
    inputs: int
    tokens: int
    compute_ns: int


def _revenue(connection: Connection, currency: str) -> dict[Cell, int]:
    found: dict[Cell, int] = defaultdict(int)
    invoices = tables.invoices.c
    for tenant, period, used, body in connection.execute(
        select(invoices.tenant, invoices.period, invoices.currency, invoices.body)
    ):
        if used != currency:
            raise ConflictError(
                f"an invoice is in {used}, the price of a core-hour in {currency}",
                where="[bill] core_hour",
                hint=f"give core_hour in {used}",
            )
        for line in json.loads(body)["lines"]:
            found[Cell(tenant, line["release"] or FEE, period)] += line["amount_nano"]
    return dict(found)


def _answered(connection: Connection) -> dict[Cell, _Weight]:
    usage, invoices = tables.usage.c, tables.invoices.c
    covering = (
        (invoices.tenant == usage.tenant)
        & (invoices.first_sequence <= usage.sequence)
        & (invoices.last_sequence >= usage.sequence)
    )
    query = (
        select(
            usage.tenant,
            usage.release,
            invoices.period,
            func.count(),
            func.sum(usage.inputs),
            func.sum(usage.tokens),
            func.sum(usage.compute_ns),
        )
        .select_from(tables.usage.outerjoin(tables.invoices, covering))
        .group_by(usage.tenant, usage.release, invoices.period)
        .order_by(usage.tenant, usage.release, invoices.period)
    )
    return {
        Cell(tenant, release, period): _Weight(requests, int(inputs), int(tokens), int(compute_ns))
        for tenant, release, period, requests, inputs, tokens, compute_ns in connection.execute(query)
    }


def _training_runs(connection: Connection) -> dict[Runs, int]:
    """Core-nanoseconds of the runs behind each set of releases: every run is in exactly one set."""
    releases = connection.execute(select(tables.releases.c.digest).order_by(tables.releases.c.digest)).scalars()
    served_by: dict[str, set[str]] = defaultdict(set)
    for release in releases:
        for link in lineage.ancestors(connection, release):
            served_by[link.digest].add(release)
    runs = tables.runs.c
    query = select(runs.output, func.sum(runs.core_ns)).where(runs.outcome == FINISHED).group_by(runs.output)
    found: dict[Runs, int] = defaultdict(int)
    for output, core_ns in connection.execute(query.order_by(runs.output)):
        if output in served_by:
            found[frozenset(served_by[output])] += int(core_ns)
    return dict(found)


def _training(prices: Mapping[Runs, int], answered: Mapping[Cell, _Weight]) -> tuple[dict[Cell, int], int]:
    """Each group's price over the answers of its releases, and the price of those that answered nothing."""
    training: dict[Cell, int] = defaultdict(int)
    unanswered = 0
    for releases, price in prices.items():
        cells = {cell: weight for cell, weight in answered.items() if cell.release in releases}
        tokens = {cell: weight.tokens for cell, weight in cells.items()}
        weights = tokens if any(tokens.values()) else {cell: weight.inputs for cell, weight in cells.items()}
        if not any(weights.values()):
            unanswered += price
        for cell, share in _over(price, weights).items():
            training[cell] += share
    return training, unanswered


def _over(whole: int, weights: Mapping[Cell, int]) -> dict[Cell, int]:
    if not any(weights.values()):
        return {}
    return dict(zip(weights, allocate(whole, list(weights.values())), strict=True))


def _summed(rows: Iterable[Margin], *, by_release: bool) -> tuple[Margin, ...]:
    sums: dict[tuple[str, str | None], Margin] = {}
    for row in rows:
        key = (row.tenant, row.release if by_release else None)
        old = sums.get(key, Margin(key[0], key[1], 0, 0, 0, 0))
        sums[key] = Margin(
            *key,
            old.requests + row.requests,
            old.revenue_nano + row.revenue_nano,
            old.serving_nano + row.serving_nano,
            old.training_nano + row.training_nano,
        )
    return tuple(sums[key] for key in sorted(sums, key=lambda k: (k[0], k[1] or "")))
