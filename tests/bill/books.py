"""A ledger that tests can write with times of their own choosing, row by row as ``feilun.store.ledger`` does."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import insert, select, update
from ulid import ULID

from feilun.accounts.terms import Counts, Schedule, Terms
from feilun.bill import plan_history
from feilun.store import audit, ledger, seals, tables
from feilun.store.database import Database
from feilun.store.events import Event, record
from feilun.store.periods import period_of

NUMBERS = itertools.count(1)


def at(text: str) -> int:
    """Microseconds of an ISO time in UTC."""
    moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
    return int(moment.timestamp()) * 10**6 + moment.microsecond


class Use(NamedTuple):
    at: int
    release: str = "a" * 64
    inputs: int = 1
    tokens: int = 10
    compute_ns: int = 1_000
    more: tuple[tuple[str, int], ...] = ()  # units of the meters that have no column

    @property
    def units(self) -> Counts:
        return Counts(1, self.inputs, self.tokens, **dict(self.more))


@dataclass
class Books:
    """Writes tenants, releases and usage rows; every row is chained, posted and counted."""

    database: Database
    releases: set[str] = field(default_factory=set)

    def tenant(self, plan: str = "starter", created: str = "2026-01-01") -> str:
        name = f"tenant-{next(NUMBERS):05d}"
        row = {"id": name, "plan": plan, "budget_nano": None, "active": True, "created_at": at(created)}
        chain = {"tenant": name, "sequence": 0, "hash": ledger.GENESIS, "at": 0}
        held = {"held_requests": 0, "held_inputs": 0, "held_tokens": 0}

        def write(connection: Any) -> None:
            connection.execute(insert(tables.tenants).values(row))
            connection.execute(insert(tables.chains).values(**chain, **held))
            first = {"id": str(ULID()), "tenant": name, "plan": plan, "at": at(created)}
            connection.execute(insert(tables.assignments).values(first))
            seals.seal(connection, "assignments", first)

        self.database.write(write)
        return name

    def assign(self, tenant: str, plan: str, when: str) -> None:
        """Put a tenant on a plan at a time of our own choosing."""
        row = {"id": str(ULID()), "tenant": tenant, "plan": plan, "at": at(when)}

        def write(connection: Any) -> None:
            connection.execute(insert(tables.assignments).values(row))
            seals.seal(connection, "assignments", row)
            connection.execute(update(tables.tenants).where(tables.tenants.c.id == tenant).values(plan=plan))

        self.database.write(write)

    def announce(self, plans: Mapping[str, Terms], when: str) -> None:
        """Say at a time of our own choosing what plans cost from then on."""
        prices = {plan: Schedule.always(terms) for plan, terms in plans.items()}
        self.database.write(lambda c: plan_history.record(c, prices, at(when)))

    def events(self, tenant: str, reported: Iterable[tuple[str, int, int]]) -> None:
        """What other services report of a tenant, in one batch: meter, units, and when it happened."""
        batch = [Event(tenant, meter, "test", str(next(NUMBERS)), units, when) for meter, units, when in reported]
        meters = {event.meter for event in batch}
        self.database.write(lambda c: record(c, "key", batch, meters))

    def use(self, tenant: str, uses: Iterable[Use], terms: Terms, plan: str = "starter") -> list[dict[str, Any]]:
        chosen = list(uses)
        return self.database.write(lambda c: self._use(c, tenant, chosen, terms, plan))

    def _use(self, connection: Any, tenant: str, uses: Sequence[Use], terms: Terms, plan: str) -> list[dict[str, Any]]:
        known = connection.execute(select(tables.releases.c.digest)).scalars().all()
        for release in {use.release for use in uses} - set(known):
            artifact = {"digest": release, "kind": "release", "facts": "{}", "bytes": 0, "created_at": 0}
            connection.execute(insert(tables.artifacts).values(artifact))
            connection.execute(insert(tables.releases).values(digest=release, name="reviews", registered_at=0))
        if not connection.execute(select(tables.prices).where(tables.prices.c.version == terms.version)).first():
            connection.execute(insert(tables.prices).values(version=terms.version, terms=terms.as_json(), at=0))
        chain = connection.execute(select(tables.chains).where(tables.chains.c.tenant == tenant)).one()
        sequence, previous = chain.sequence, chain.hash
        counters = connection.execute(select(tables.counters).where(tables.counters.c.tenant == tenant)).all()
        counts = {c.period: Counts.of(c.requests, c.inputs, c.tokens, c.more) for c in counters}
        spent = {c.period: c.spent_nano for c in counters}
        requests, usage, postings = [], [], []
        for use in uses:
            month = period_of(use.at)
            before = counts.get(month, Counts())
            counts[month] = before.plus(use.units)
            amount = terms.amount(before, counts[month])
            spent[month] = spent.get(month, 0) + amount
            sequence += 1
            row = {"request": str(ULID()), "tenant": tenant, "key": f"k-{tenant}"[:32]}
            row |= {"release": use.release, "route": "classify"}
            row |= {"inputs": use.inputs, "tokens": use.tokens, "compute_ns": use.compute_ns, "plan": plan}
            row |= {"price_version": terms.version, "amount_nano": amount, "currency": terms.currency, "at": use.at}
            row |= {"sequence": sequence, "previous": previous, "more": use.units.columns()["more"]}
            previous = row["hash"] = ledger.row_hash(row)
            usage.append(row)
            asked = {"id": row["request"], "tenant": tenant, "idempotency_key": row["request"], "body_sha256": "0" * 64}
            asked |= {"state": "posted", "holder": "h", "held_inputs": 0, "held_tokens": 0, "status": 200}
            requests.append(asked | {"answer": "{}", "created_at": use.at, "lease_until": use.at})
            shared = {"entry": row["request"], "currency": terms.currency, "at": use.at}
            postings.append(shared | {"account": ledger.receivable(tenant), "amount_nano": amount})
            postings.append(shared | {"account": ledger.REVENUE, "amount_nano": -amount})
        if usage:
            connection.execute(insert(tables.requests), requests)
            connection.execute(insert(tables.usage), usage)
            connection.execute(insert(tables.postings), postings)
        mine = tables.chains.c.tenant == tenant
        newest = usage[-1]["at"] if usage else chain.at
        connection.execute(update(tables.chains).where(mine).values(sequence=sequence, hash=previous, at=newest))
        connection.execute(tables.counters.delete().where(tables.counters.c.tenant == tenant))
        for month, count in counts.items():
            row = {"tenant": tenant, "period": month, "spent_nano": spent[month], **count.columns()}
            connection.execute(insert(tables.counters).values(row))
        audit.rebuild(connection, tenant)  # what is due, and the counters of keys
        return usage

    def invoice_row(self, number: str) -> dict[str, Any]:
        with self.database.read() as connection:
            query = select(tables.invoices).where(tables.invoices.c.number == number)
            return dict(connection.execute(query).mappings().one())
