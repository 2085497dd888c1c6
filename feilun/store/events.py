"""Usage that other services report: recorded once each by source and id, in sequences without gaps, hash-chained."""

from __future__ import annotations

from sqlalchemy import Connection, text

FUTURE_US = 86_400 * 10**6  # how far ahead of our clock an event's time may be


def newest(connection: Connection, tenant: str) -> int:
    """The sequence of a tenant's newest event, 0 where it has none."""
    query = text("SELECT MAX(sequence) FROM events WHERE tenant = :tenant")
    return int(connection.execute(query, {"tenant": tenant}).scalar() or 0)
