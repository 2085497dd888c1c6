"""Rows of the outbox sent to Stripe, through its own client: customers, invoices, credit notes and meter events.

We are the source of truth: an invoice at Stripe has our number and our lines, and is only finalised if Stripe's total
is ours. Each call has an idempotency key made from the row's id, so a call that was accepted but not heard of is not
made twice. Stripe keeps such keys for a day at the least; for an older row it is asked first what it has (RELIABILITY
19). What it says to have already counts as delivered.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from feilun.bill.delivery import NotDelivered
from feilun.bill.outgoing_settings import StripeSettings
from feilun.bill.stripe_errors import already_there, failure
from feilun.bill.stripe_money import minor
from feilun.bill.telling import CREDIT_NOTE, CUSTOMER, INVOICE, METER, STRIPE, stripe_subject
from feilun.store import outbox, tables
from feilun.store.database import Database
from feilun.store.money import format_money
from feilun.store.outbox import Parcel

if TYPE_CHECKING:
    from stripe import StripeClient

    from feilun.bill.invoices import Invoice

TIMEOUT_S = 20.0
KEYS_KEPT_US = 20 * 3600 * 10**6  # Stripe keeps idempotency keys for 24 hours at the least
MOST_LINES = 200  # Stripe takes 250 for each invoice; a longer one is sent as one line that names ours


def client(settings: StripeSettings, key: str, *, timeout_s: float = TIMEOUT_S) -> StripeClient:
    """Stripe's client: it does not try again by itself, for the outbox does, and tells Stripe nothing of this machine.

    Args:
        key: the secret key.
        timeout_s: for each call, in seconds.
    """
    import stripe

    stripe.enable_telemetry = False
    return stripe.StripeClient(
        key,
        base_addresses={"api": settings.api_base.rstrip("/")},
        max_network_retries=0,
        http_client=stripe.RequestsClient(timeout=timeout_s),
    )


class StripeSender:
    """Sends rows of the kinds ``stripe.*``."""

    kinds = STRIPE

    def __init__(
        self, settings: StripeSettings, environment: Mapping[str, str] = os.environ, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._settings = settings
        self._environment = environment
        self._timeout_s = timeout_s

    def send(self, database: Database, parcel: Parcel) -> str:
        """See ``delivery.Sender``; the receipt is Stripe's id of the object."""
        import stripe

        ways: dict[str, Callable[[Database, Parcel], str]] = {
            CUSTOMER: self._customer,
            INVOICE: self._invoice,
            CREDIT_NOTE: self._credit_note,
            METER: self._meter,
        }
        try:
            return ways[parcel.kind](database, parcel)
        except stripe.StripeError as error:
            raise failure(error) from error

    @cached_property
    def _stripe(self) -> StripeClient:
        name = self._settings.key_env
        key = self._environment.get(name)
        if not key:
            raise NotDelivered(f"the environment variable {name} is not set")
        return client(self._settings, key, timeout_s=self._timeout_s)

    # --- customers -------------------------------------------------------------------------------------------------

    def _customer(self, database: Database, parcel: Parcel) -> str:
        tenant = str(parcel.payload["tenant"])
        with database.read() as connection:
            known = outbox.receipt(connection, CUSTOMER, stripe_subject(tenant))
            profiles = tables.profiles.c
            body = connection.execute(select(profiles.body).where(profiles.id == parcel.payload["profile"])).scalar()
        told: Any = customer_params(tenant, body)
        options: Any = {"idempotency_key": parcel.id}
        if known is not None:
            return str(self._stripe.v1.customers.update(known, told, options).id)
        if old(parcel):
            made: Any = {"created": {"gte": parcel.created_at // 10**6 - 3600}, "limit": 100}
            there = self._stripe.v1.customers.list(made).auto_paging_iter()
            found = _ours(there, "feilun_tenant", tenant)
            if found is not None:
                return str(found.id)
        return str(self._stripe.v1.customers.create(told, options).id)

    def _customer_of(self, database: Database, tenant: str) -> str:
        with database.read() as connection:
            known = outbox.receipt(connection, CUSTOMER, stripe_subject(tenant))
        if known is None:
            raise NotDelivered("Stripe does not know the customer yet")
        return known

    # --- invoices --------------------------------------------------------------------------------------------------

    def _invoice(self, database: Database, parcel: Parcel) -> str:
        from feilun.bill import invoices

        invoice = invoices.get(database, str(parcel.payload["number"]))
        if invoice.due_nano <= 0:
            return "nothing-due"
        customer = self._customer_of(database, invoice.tenant)
        made = self._draft(parcel, invoice, customer)
        if made.status == "draft":
            self._add_lines(parcel, invoice, made)
            made = self._stripe.v1.invoices.retrieve(made.id)
        wanted = minor(invoice.due_nano, invoice.currency)
        if made.total != wanted or made.currency != invoice.currency.lower():
            raise NotDelivered(
                f"Stripe counts {made.total} {made.currency} in minor units for {invoice.number}, not {wanted}; "
                f"it is left as it is there: {made.id}",
                final=True,
            )
        if made.status == "draft":
            options: Any = {"idempotency_key": f"{parcel.id}-finalise"}
            made = self._stripe.v1.invoices.finalize_invoice(made.id, {"auto_advance": True}, options)
        return str(made.id)

    def _draft(self, parcel: Parcel, invoice: Invoice, customer: str) -> Any:
        """The invoice at Stripe without its lines, or however far an earlier attempt came."""
        import stripe

        told: Any = invoice_params(self._settings, invoice, customer, now=parcel.at)
        options: Any = {"idempotency_key": f"{parcel.id}-create"}
        if old(parcel) and (found := self._find(customer, invoice.number)) is not None:
            return found
        try:
            return self._stripe.v1.invoices.create(told, options)
        except stripe.StripeError as error:
            if not already_there(error):
                raise
            found = self._find(customer, invoice.number)
            if found is None:
                raise
            return found

    def _find(self, customer: str, number: str) -> Any | None:
        there = self._stripe.v1.invoices.list({"customer": customer, "limit": 100}).auto_paging_iter()
        return _ours((i for i in there if i.status != "void"), "feilun_invoice", number)

    def _add_lines(self, parcel: Parcel, invoice: Invoice, made: Any) -> None:
        there: set[str] = set()
        if old(parcel):
            lines = self._stripe.v1.invoices.line_items.list(made.id, {"limit": 100}).auto_paging_iter()
            there = {_metadata(line).get("feilun_line", "") for line in lines}
        for name, text, amount in shown_lines(invoice):
            if name in there:
                continue
            told: Any = {"customer": made.customer, "invoice": made.id, "currency": invoice.currency.lower()}
            told |= {"amount": amount, "description": text, "metadata": {"feilun_line": name}}
            options: Any = {"idempotency_key": f"{parcel.id}-{name}"}
            self._stripe.v1.invoice_items.create(told, options)

    # --- credit notes and meters -----------------------------------------------------------------------------------

    def _credit_note(self, database: Database, parcel: Parcel) -> str:
        number = str(parcel.payload["number"])
        notes, closed = tables.credit_notes.c, tables.invoices.c
        wanted = select(notes.total_nano, notes.currency, notes.tenant, closed.number.label("invoice")).select_from(
            tables.credit_notes.join(tables.invoices)
        )
        with database.read() as connection:
            note = connection.execute(wanted.where(notes.number == number)).one()
            made = outbox.receipt_of(connection, outbox.identity(INVOICE, note.invoice))
        if made is None:
            raise NotDelivered(f"Stripe does not have {note.invoice} yet")
        amount = minor(abs(note.total_nano), note.currency)
        if not made.startswith("in_") or amount == 0:
            return "nothing-due"
        invoice = self._stripe.v1.invoices.retrieve(made)
        if old(parcel):
            there = self._stripe.v1.credit_notes.list({"invoice": made, "limit": 100}).auto_paging_iter()
            if (found := _ours(there, "feilun_credit_note", number)) is not None:
                return str(found.id)
        told: Any = {"invoice": made, "memo": number, "metadata": {"feilun_credit_note": number}, "amount": amount}
        if invoice.status == "paid":
            told[_GIVES_BACK[self._settings.credit_paid]] = amount
        return str(self._stripe.v1.credit_notes.create(told, {"idempotency_key": parcel.id}).id)

    def _meter(self, database: Database, parcel: Parcel) -> str:
        import stripe

        said = parcel.payload
        tenant = parcel.subject.removeprefix(stripe_subject(""))
        value = {"stripe_customer_id": self._customer_of(database, tenant), "value": str(said["units"])}
        told: Any = {"event_name": said["event"], "payload": value, "timestamp": said["at"] // 10**6}
        try:
            made = self._stripe.v1.billing.meter_events.create(
                told | {"identifier": parcel.id}, {"idempotency_key": parcel.id}
            )
        except stripe.StripeError as error:
            if already_there(error):
                return parcel.id
            raise
        return str(made.identifier)


_GIVES_BACK = {"outside": "out_of_band_amount", "refund": "refund_amount", "balance": "credit_amount"}


def customer_params(tenant: str, profile: str | None) -> dict[str, Any]:
    """What Stripe is told of a customer: no more than its invoices need."""
    import json

    known = json.loads(profile) if profile else {}
    told: dict[str, Any] = {"name": known.get("name") or tenant, "metadata": {"feilun_tenant": tenant}}
    if known.get("email"):
        told["email"] = known["email"]
    if known.get("language"):
        told["preferred_locales"] = [known["language"]]
    address = {"line1": " ".join(str(known.get("address", "")).split()), "country": known.get("country", "")}
    if any(address.values()):
        told["address"] = {name: value for name, value in address.items() if value}
    return told


def invoice_params(settings: StripeSettings, invoice: Invoice, customer: str, *, now: int) -> dict[str, Any]:
    """What Stripe is told of an invoice before its lines; it takes no due date that has passed ``now``."""
    told: dict[str, Any] = {
        "customer": customer,
        "currency": invoice.currency.lower(),
        "number": invoice.number,
        "auto_advance": False,
        "collection_method": settings.collect,
        "pending_invoice_items_behavior": "exclude",
        "metadata": {"feilun_invoice": invoice.number, "feilun_tenant": invoice.tenant, "period": invoice.period},
    }
    if settings.collect == "send_invoice":
        soon = now + 3600 * 10**6
        told |= {"due_date": invoice.due_at // 10**6} if (invoice.due_at or 0) > soon else {"days_until_due": 1}
    return told


def shown_lines(invoice: Invoice) -> list[tuple[str, str, int]]:
    """Id, text and amount, in Stripe's minor units, of the lines with an amount; of a very long invoice one for all."""
    lines = [
        (line.id.rpartition("/")[2], line.description, minor(line.amount_nano, invoice.currency))
        for line in invoice.lines
        if line.amount_nano
    ]
    if len(lines) <= MOST_LINES:
        return lines
    whole = format_money(invoice.due_nano, invoice.currency)
    return [("all", f"{invoice.number}, {len(lines)} lines: {whole}", minor(invoice.due_nano, invoice.currency))]


def old(parcel: Parcel) -> bool:
    """Whether Stripe may have forgotten the idempotency keys of an earlier attempt."""
    return parcel.at - parcel.created_at > KEYS_KEPT_US


def _ours(there: Iterable[Any], name: str, value: str) -> Any | None:
    return next((item for item in there if _metadata(item).get(name) == value), None)


def _metadata(item: Any) -> dict[str, str]:
    return dict(item.metadata or {})
