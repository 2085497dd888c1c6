"""A ledger to write in, without a gateway."""

from __future__ import annotations

import secrets

from sqlalchemy import insert
from ulid import ULID

from feilun.accounts import tenants
from feilun.accounts.terms import Terms
from feilun.store import ledger, tables
from feilun.store.counts import Counts
from feilun.store.database import Database

RELEASE = "a" * 64
PER_REQUEST = Terms("USD", unit_nano={"requests": 10})


class Books:
    """One tenant's ledger and the terms that it is written under."""

    def __init__(
        self, database: Database, tenant: str = "acme", *, terms: Terms = PER_REQUEST, budget: int | None = None
    ):
        self.database = database
        self.tenant = tenant
        self.key = secrets.token_hex(8)
        self.terms = terms
        known = database.write(_release)
        assert known
        tenants.create(database, tenant, plan="any", budget_nano=budget)

    def hold(
        self, key: str, *, tokens: int = 3, inputs: int = 1, lease_s: float = 30, body: str = "b" * 64
    ) -> ledger.Hold | ledger.Replay | ledger.Busy:
        ask = ledger.Ask(str(ULID()), self.tenant, key, body, Counts(1, inputs, tokens), lease_s, self.key)
        holder = str(ULID())
        return self.database.write(lambda c: ledger.hold(c, ask, lambda *_: self.terms, holder), order=self.tenant)

    def capture(self, held: object, *, tokens: int = 3, inputs: int = 1, compute_ns: int = 7) -> ledger.Charge:
        assert isinstance(held, ledger.Hold)
        done = ledger.Done(self.key, RELEASE, "/v1/classify", Counts(1, inputs, tokens), compute_ns)
        charge, _ = self.database.write(
            lambda c: ledger.capture(
                c, held, done, lambda *_: self.terms, lambda charge: b'{"n":%d}' % charge.sequence
            ),
            order=self.tenant,
        )
        return charge

    def serve(self, key: str, *, tokens: int = 3, inputs: int = 1) -> ledger.Charge:
        return self.capture(self.hold(key, tokens=tokens, inputs=inputs), tokens=tokens, inputs=inputs)

    def month(self) -> tuple[Counts, int]:
        with self.database.read() as connection:
            return ledger.month(connection, self.tenant)[1:]


def _release(connection: object) -> bool:
    from sqlalchemy import Connection, select

    assert isinstance(connection, Connection)
    if connection.execute(select(tables.releases)).first() is None:
        row = {"digest": RELEASE, "kind": "release", "facts": "{}", "bytes": 1, "created_at": 1}
        connection.execute(insert(tables.artifacts).values(row))
        connection.execute(insert(tables.releases).values(digest=RELEASE, name="reviews", registered_at=1))
    return True
