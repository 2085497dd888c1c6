"""Margins request by request: of those that took the engine longest; all others together are one row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, select
from sqlalchemy import Row as SqlRow

from feilun.bill import earnings
from feilun.bill.costs import Runs, Window
from feilun.bill.earnings import Answered
from feilun.bill.settings import BillSettings
from feilun.bill.shares import half_even
from feilun.store import tables

if TYPE_CHECKING:
    from feilun.bill.margin import Books, Query, Row


def dearest(connection: Connection, span: Window, query: Query) -> list[SqlRow[Any]]:
    """The ledger's rows of the ``query.limit`` requests that took the engine longest."""
    usage = tables.usage.c
    chosen = select(
        usage.request, usage.release, usage.inputs, usage.tokens, usage.compute_ns, usage.amount_nano, usage.currency
    ).where(usage.at >= span.begins, usage.at < span.ends)
    if query.tenant is not None:
        chosen = chosen.where(usage.tenant == query.tenant)
    return list(connection.execute(chosen.order_by(usage.compute_ns.desc(), usage.request).limit(query.limit)))


def told(found: Sequence[SqlRow[Any]], settings: BillSettings, books: Books, total: Row) -> list[Row]:
    """Requests with their exact shares rounded to nano-units, and what is left of ``total``."""
    from feilun.bill.margin import Row

    everything = Answered()
    for sums in books.answered.values():
        everything = everything.plus(sums)
    pools = {group: _tokens(books, group) for group in books.training}
    listed = []
    left = total
    convert = earnings.converter(settings)
    for row in found:
        of_engine = (row.compute_ns, everything.compute_ns) if everything.compute_ns else (1, everything.requests)
        shares = {f"{cost}_nano": _part(books.prices[cost], *of_engine) for cost in _BY_ENGINE}
        shares["overhead_nano"] = _part(books.prices["overhead"], 1, everything.requests)
        shares["training_nano"] = sum(
            _part(books.training[group], row.tokens if by_tokens else row.inputs, whole)
            for group, (whole, by_tokens) in pools.items()
            if row.release in group
        )
        figures = {"requests": 1, "inputs": row.inputs, "tokens": row.tokens, "compute_ns": row.compute_ns}
        metered = convert(row.currency, row.amount_nano)
        listed.append(Row(row.request, **figures, metered_nano=metered, **shares))
        left = left.minus(listed[-1])
    return [*listed, left]


_BY_ENGINE = ("serving", "loads", "idle", "storage", "fixed")


def _part(nano: int, weight: int, whole: int) -> int:
    return half_even(nano * weight, whole) if whole else 0


def _tokens(books: Books, group: Runs) -> tuple[int, bool]:
    """What a group's training is divided by: all tokens that its releases have answered, or inputs (then False)."""
    inside = [sums for cell, sums in books.answered.items() if cell.release in group]
    outside = [books.outside.get(release, (0, 0)) for release in group]
    tokens = sum(sums.tokens for sums in inside) + sum(tokens for tokens, _ in outside)
    if tokens:
        return tokens, True
    return sum(sums.inputs for sums in inside) + sum(inputs for _, inputs in outside), False
