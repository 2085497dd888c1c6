"""What is told when an invoice or a credit note is closed: rows of the outbox, in the closing transaction.

Nothing is told that the project does not ask for: webhooks need ``[bill.webhook]``, Stripe needs ``[bill.stripe]``.
Rows name what they tell of; whoever sends them reads it from the database, where closed bytes never change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, select

from feilun.bill.settings import BillSettings
from feilun.store import outbox, tables

if TYPE_CHECKING:
    from feilun.bill.invoices import Invoice

WEBHOOK = "webhook"
CUSTOMER = "stripe.customer"
INVOICE = "stripe.invoice"
CREDIT_NOTE = "stripe.credit_note"
METER = "stripe.meter"
STRIPE = (CUSTOMER, INVOICE, CREDIT_NOTE, METER)


def tell_invoice(connection: Connection, settings: BillSettings, invoice: Invoice) -> None:
    """Write, in the transaction that closes ``invoice``, what goes out about it. Doing so again changes nothing."""
    if settings.webhook is not None:
        _webhook(connection, "invoice.closed", invoice.tenant, invoice.number, invoice.as_dict())
    if settings.stripe is None:
        return
    subject = stripe_subject(invoice.tenant)
    tell_customer(connection, invoice.tenant)
    identity = outbox.identity(INVOICE, invoice.number)
    outbox.put(connection, kind=INVOICE, id=identity, subject=subject, payload={"number": invoice.number})
    for meter, event in sorted(settings.stripe.meters.items()):
        units = sum(line.units for line in invoice.lines if line.meter == meter and line.kind in _COUNTED)
        if units > 0:
            payload = {"number": invoice.number, "event": event, "units": units, "at": invoice.at}
            identity = outbox.identity(METER, invoice.number, event)
            outbox.put(connection, kind=METER, id=identity, subject=subject, payload=payload)


def tell_credit_note(connection: Connection, settings: BillSettings, tenant: str, number: str, body: Any) -> None:
    """The same for the credit note ``number``; ``body`` is its document as plain values."""
    if settings.webhook is not None:
        _webhook(connection, "credit_note.closed", tenant, number, body)
    if settings.stripe is not None:
        subject, identity = stripe_subject(tenant), outbox.identity(CREDIT_NOTE, number)
        outbox.put(connection, kind=CREDIT_NOTE, id=identity, subject=subject, payload={"number": number})


def tell_customer(connection: Connection, tenant: str) -> None:
    """Let Stripe know the customer, as its newest profile says; once for each profile."""
    profiles = tables.profiles.c
    newest = select(profiles.id).where(profiles.tenant == tenant).order_by(profiles.at.desc(), profiles.id.desc())
    profile = connection.execute(newest.limit(1)).scalar()
    identity = outbox.identity(CUSTOMER, tenant, profile or "")
    payload = {"tenant": tenant, "profile": profile}
    outbox.put(connection, kind=CUSTOMER, id=identity, subject=stripe_subject(tenant), payload=payload)


def stripe_subject(tenant: str) -> str:
    """What rows for Stripe about a tenant are about: they do not wait for the tenant's webhooks."""
    return f"stripe:{tenant}"


def _webhook(connection: Connection, kind: str, tenant: str, number: str, data: Any) -> None:
    payload = {"type": kind, "data": data}
    outbox.put(connection, kind=WEBHOOK, id=outbox.identity(kind, number), subject=tenant, payload=payload)


_COUNTED = ("included", "usage", "event", "gauge")
