"""Sending what the outbox has due: claim, send, note what came of it; in any number of processes at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from feilun.errors import UnavailableError
from feilun.store import outbox
from feilun.store.crash import crash_point
from feilun.store.database import Database, now_us
from feilun.store.outbox import Parcel

MOST = 200  # rows in one call, so that whoever calls comes back to see whether it is to stop


class NotDelivered(UnavailableError):  # noqa: N818 - the state of a row rather than a fault of ours
    """It did not arrive: ``what`` is kept with the row, so it holds no secret and nothing that somebody wrote.

    Args:
        retry_after: seconds that the other side asked us to wait.
        final: trying again cannot help.
    """

    def __init__(self, what: str, *, retry_after: int = 0, final: bool = False, hint: str | None = None) -> None:
        super().__init__(what, retry_after=retry_after, hint=hint, code="not-delivered")
        self.final = final


class Sender(Protocol):
    """Sends rows of some kinds."""

    @property
    def kinds(self) -> Sequence[str]:
        """Which rows it takes."""

    def send(self, database: Database, parcel: Parcel) -> str:
        """Send a row that may have been sent before, and return what the other side calls it.

        Raises:
            NotDelivered: it did not arrive, or nobody knows whether it did.
        """


def deliver(
    database: Database, senders: Sequence[Sender], *, most: int = MOST, go_on: Callable[[], bool] = lambda: True
) -> int:
    """Send what is due, oldest first; return how many rows arrived.

    Args:
        most: rows to try at the most.
        go_on: asked before each row; False ends early.

    Raises:
        UnavailableError: the database cannot be used now.
    """
    by_kind = {kind: sender for sender in senders for kind in sender.kinds}
    arrived = 0
    for _ in range(most):
        if not (go_on() and _anything(database, by_kind)):
            break
        parcel = database.write(partial(outbox.claim, kinds=list(by_kind)))
        if parcel is None:
            break
        arrived += _send(database, by_kind[parcel.kind], parcel)
    return arrived


def _anything(database: Database, senders: Mapping[str, Sender]) -> bool:
    """Whether a row may be due: a look that takes no lock, for mostly there is none."""
    if not senders:
        return False
    with database.read() as connection:
        due_at = outbox.next_due_at(connection, list(senders))
        return due_at is not None and due_at <= now_us(connection)


def _send(database: Database, sender: Sender, parcel: Parcel) -> bool:
    try:
        receipt = sender.send(database, parcel)
    except NotDelivered as failure:
        noted = partial(outbox.failed, parcel=parcel, failure=failure.what)
        database.write(partial(noted, retry_after_s=failure.retry_after, final=failure.final))
        return False
    except Exception as error:  # our own bug: noted with the row, which waits, so that it cannot hold up the others
        database.write(partial(outbox.failed, parcel=parcel, failure=f"a bug: {type(error).__name__}"))
        raise
    crash_point("outbox-send")
    return database.write(partial(outbox.delivered, parcel=parcel, receipt=receipt))
