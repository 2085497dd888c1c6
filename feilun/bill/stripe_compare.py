"""Are the invoices at Stripe ours? For ``feilun bill verify``: each there once, with our total."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from feilun.bill.delivery import NotDelivered
from feilun.bill.outgoing_settings import StripeSettings
from feilun.bill.stripe_errors import failure
from feilun.bill.stripe_money import minor
from feilun.bill.stripe_sender import connected, metadata
from feilun.bill.telling import INVOICE
from feilun.errors import UnavailableError
from feilun.store import outbox, tables
from feilun.store.database import Database
from feilun.store.money import format_money

DAY_S = 86_400


@dataclass(frozen=True)
class Comparison:
    """How many invoices were compared, how many still wait to go out, and each thing that is wrong."""

    compared: int
    waiting: int
    problems: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """Whether nothing is wrong; invoices that wait are not wrong."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "agrees": self.agrees,
            "compared": self.compared,
            "waiting": self.waiting,
            "problems": list(self.problems),
        }


@dataclass(frozen=True)
class Sent:
    """An invoice of ours that was put into the outbox, and what came of it."""

    number: str
    currency: str
    due_nano: int
    state: outbox.State
    failure: str | None
    receipt: str | None


def compare(
    database: Database,
    settings: StripeSettings,
    *,
    period: str | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Comparison:
    """Compare what was sent of a period, or of all time, with what Stripe has.

    Raises:
        UnavailableError: Stripe cannot be asked now, or its key is not set.
    """
    import stripe

    ours, since = _sent(database, period)
    if not ours:
        return Comparison(0, 0, ())
    key = environment.get(settings.key_env)
    if not key:
        raise UnavailableError(
            "Stripe cannot be asked", where=settings.key_env, hint=f"set the environment variable {settings.key_env}"
        )
    try:
        query: Any = {"limit": 100, "created": {"gte": since // 10**6 - DAY_S}}
        with connected(settings, key) as client:
            there = list(client.v1.invoices.list(query).auto_paging_iter())
    except stripe.StripeError as error:
        raise UnavailableError(failure(error).what, hint="try again in a moment", code="stripe") from error
    return against(ours, there)


def against(ours: Iterable[Sent], there: Iterable[Any]) -> Comparison:
    """The comparison itself; ``there`` is what Stripe lists, void invoices included."""
    found: dict[str, list[Any]] = {}
    for made in there:
        number = metadata(made).get("feilun_invoice")
        if number is not None and made.status != "void":
            found.setdefault(number, []).append(made)
    problems, compared, waiting = [], 0, 0
    for mine in ours:
        if mine.state == "waiting":
            waiting += 1
        else:
            compared += 1
            problems += _problems(mine, found.get(mine.number, []))
    return Comparison(compared, waiting, tuple(problems))


def _problems(mine: Sent, there: list[Any]) -> list[str]:
    if mine.state == "dead":
        return [f"{mine.number} was given up: {mine.failure}"]
    if mine.due_nano <= 0:
        return [f"{mine.number} has nothing due, but Stripe has {len(there)} of it"] if there else []
    if len(there) != 1:
        return [f"Stripe has {len(there)} invoices for {mine.number}: {', '.join(m.id for m in there) or 'none'}"]
    (made,) = there
    wrong = []
    try:
        wanted = minor(mine.due_nano, mine.currency)
    except NotDelivered as error:
        return [f"{mine.number}: {error.what}"]
    if (made.total, made.currency) != (wanted, mine.currency.lower()):
        due = format_money(mine.due_nano, mine.currency)
        wrong.append(f"{mine.number} is {due}, at Stripe {made.total} {made.currency} in minor units ({made.id})")
    if made.status == "draft":
        wrong.append(f"{mine.number} is still a draft at Stripe ({made.id})")
    if made.id != mine.receipt:
        wrong.append(f"{mine.number} was sent as {mine.receipt}, but Stripe has {made.id}")
    return wrong


def _sent(database: Database, period: str | None) -> tuple[list[Sent], int]:
    """Our invoices that were put into the outbox, and when the first of them was."""
    from feilun.bill import invoices

    table = tables.invoices.c
    query = select(table.body).order_by(table.number)
    if period is not None:
        query = query.where(table.period == period)
    with database.read() as connection:
        closed = [invoices.parse(body) for body in connection.execute(query).scalars()]
        rows = {row.id: row for row in outbox.rows(connection, kind=INVOICE)}
    ours = []
    for made in closed:
        row = rows.get(outbox.identity(INVOICE, made.number))
        if row is not None:
            ours.append(Sent(made.number, made.currency, made.due_nano, row.state, row.failure, row.receipt))
    return ours, min((row.created_at for row in rows.values()), default=0)
