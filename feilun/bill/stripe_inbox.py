"""What Stripe tells us: signed events, each of which counts once, in whatever order they come (RELIABILITY 20).

Every event about one of our invoices is a row of ``payments``. The state of an invoice is a function of the set of its
rows, not of their order: of all that was told, what ranks highest holds, as Stripe's invoices only go forward.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from feilun.bill.stripe_money import nano
from feilun.bill.telling import INVOICE
from feilun.errors import SettingError
from feilun.store import outbox, seals, tables
from feilun.store.database import Database, now_us

TOLERANCE_S = 300  # how old a signature may be
LONGEST_SIGNATURE = 4_000
STATES = {  # what an event says of its invoice; of several the last in this order holds
    "invoice.finalized": "open",
    "invoice.payment_failed": "failed",
    "invoice.marked_uncollectible": "uncollectible",
    "invoice.voided": "void",
    "invoice.payment_succeeded": "paid",
    "invoice.paid": "paid",
}
_RANK = {state: rank for rank, state in enumerate(dict.fromkeys(STATES.values()))}


class SignatureError(SettingError):
    """The bytes are not what Stripe signed for us, or they are too old."""

    code = "bad-signature"
    status = 400


@dataclass(frozen=True)
class Told:
    """One event about an invoice of ours, or one that is nobody's: then ``number`` is None."""

    id: str
    kind: str
    status: str
    stripe_invoice: str
    number: str | None
    amount_nano: int
    currency: str
    happened_at: int


def receive(database: Database, body: bytes, signature: str, secret: str) -> bool:
    """Check and keep an event; False where it was told before or is of no interest.

    Raises:
        SignatureError: the signature is wrong or stale, or the body is not an event.
    """
    told = read(body, signature, secret)
    if told is None:
        return False
    return database.write(lambda connection: _keep(connection, told))


def read(body: bytes, signature: str, secret: str) -> Told | None:
    """The event that these bytes are, once their signature holds; None where it is not about an invoice's payment.

    Raises:
        SignatureError: as for ``receive``.
    """
    import stripe

    if not signature.isascii() or len(signature) > LONGEST_SIGNATURE:
        raise SignatureError("the signature is not one", where="Stripe-Signature")
    try:
        stripe.WebhookSignature.verify_header(body, signature, secret, TOLERANCE_S)
        event = json.loads(body)
        return _told(event)
    except stripe.SignatureVerificationError:
        hint = "it is over the body as it was sent, with the endpoint's secret, and at most five minutes old"
        raise SignatureError("the signature does not hold", where="Stripe-Signature", hint=hint) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise SignatureError("the body is not an event of Stripe's", code="bad-event") from None


def state_of(states: Iterable[str]) -> str | None:
    """What holds of all that was told; None where nothing was.

    >>> state_of(["paid", "failed", "open"]), state_of(["open", "failed"]), state_of([])
    ('paid', 'failed', None)
    """
    return max((state for state in states if state in _RANK), key=_RANK.__getitem__, default=None)


def payment_states(connection: Connection) -> dict[str, str]:
    """The state of each invoice that Stripe told of, by our number: open, failed, uncollectible, void, paid."""
    payments, invoices = tables.payments.c, tables.invoices.c
    rows = connection.execute(
        select(invoices.number, payments.status).select_from(tables.payments.join(tables.invoices))
    ).all()
    told: dict[str, list[str]] = {}
    for number, status in rows:
        told.setdefault(number, []).append(status)
    return {number: state for number, states in sorted(told.items()) if (state := state_of(states)) is not None}


def _told(event: dict[str, Any]) -> Told | None:
    kind = event["type"]
    if event.get("object", "event") != "event" or kind not in STATES:
        return None
    made = event["data"]["object"]
    currency = str(made["currency"]).upper()
    amount = made["amount_paid"] if STATES[kind] == "paid" else made["amount_due"]
    if not isinstance(amount, int) or isinstance(amount, bool):
        raise TypeError("an amount is a whole number")
    number = (made.get("metadata") or {}).get("feilun_invoice")
    return Told(
        id=str(event["id"])[:128],
        kind=kind,
        status=STATES[kind],
        stripe_invoice=str(made["id"]),
        number=None if number is None else str(number),
        amount_nano=nano(amount, currency),
        currency=currency,
        happened_at=int(event["created"]) * 10**6,
    )


def _keep(connection: Connection, told: Told) -> bool:
    """Write the row; the event's id is its key, so a second one has no effect."""
    invoice = _invoice(connection, told)
    if invoice is None:
        return False  # of another system that uses the same account
    row: dict[str, Any] = {"id": told.id, "invoice": invoice, "kind": told.kind, "status": told.status}
    row |= {"amount_nano": told.amount_nano, "currency": told.currency, "happened_at": told.happened_at}
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    row["at"] = now_us(connection)
    new = insert(tables.payments).values(row).on_conflict_do_nothing().returning(tables.payments.c.id)
    if connection.execute(new).first() is None:
        return False
    seals.seal(connection, "payments", row)
    return True


def _invoice(connection: Connection, told: Told) -> str | None:
    """Our invoice: the one whose receipt this is, else the one that is named, for an event can be faster than that."""
    invoices, sent = tables.invoices.c, tables.outbox.c
    payload = connection.execute(
        select(sent.payload).where(sent.kind == INVOICE, sent.receipt == told.stripe_invoice)
    ).scalar()
    number = told.number if payload is None else json.loads(payload)["number"]
    if number is None or (payload is None and not outbox.is_there(connection, outbox.identity(INVOICE, number))):
        return None
    return connection.execute(select(invoices.id).where(invoices.number == number)).scalar()
