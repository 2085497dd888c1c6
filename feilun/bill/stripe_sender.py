"""Rows of the outbox sent to Stripe, through its own client: customers, invoices, credit notes and meter events.

We are the source of truth: an invoice at Stripe has our number and our lines, and is only finalised if Stripe's total
is ours. Each call has an idempotency key made from the row's id, so a call that was accepted but not heard of is not
made twice. Stripe keeps such keys for a day at the least; for an older row it is asked first what it has (RELIABILITY
19). What it says to have already counts as delivered.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from feilun.bill.delivery import NotDelivered
from feilun.bill.outgoing_settings import StripeSettings
from feilun.bill.stripe_errors import already_there, failure, is_repeated
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
NOTHING_DUE = "nothing-due"  # the receipt of what Stripe need not know of
KEYS = 5  # that are tried for one call whose failure Stripe repeats
MOST_LINES = 200  # Stripe takes 250 for each invoice; a longer one is sent as one line that names ours


@contextlib.contextmanager
def connected(settings: StripeSettings, key: str, *, timeout_s: float = TIMEOUT_S) -> Iterator[StripeClient]:
    """Stripe's client: it leaves trying again to the outbox, and tells nothing of this machine.

    Args:
        key: the secret key.
        timeout_s: for each call, in seconds.
    """
    import stripe

    stripe.enable_telemetry = False
    logging.getLogger("stripe").setLevel(logging.WARNING)  # below that it logs what customers are called
    http = stripe.RequestsClient(timeout=timeout_s)
    base: Any = {"api": settings.api_base.rstrip("/")}
    with contextlib.closing(http):
        yield stripe.StripeClient(key, base_addresses=base, max_network_retries=0, http_client=http)


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

        name = self._settings.key_env
        key = self._environment.get(name)
        if not key:
            raise NotDelivered(f"the environment variable {name} is not set")
        try:
            with connected(self._settings, key, timeout_s=self._timeout_s) as there:
                sending = _Sending(there, self._settings, database, parcel)
                return sending.ways[parcel.kind]()
        except stripe.StripeError as error:
            if parcel.kind == METER and already_there(error):
                return parcel.id
            raise failure(error) from error


class _Sending:
    """One row on its way; each of ``ways`` sends a kind and returns Stripe's id."""

    def __init__(self, there: StripeClient, settings: StripeSettings, database: Database, parcel: Parcel) -> None:
        self._stripe = there
        self._settings = settings
        self._database = database
        self._parcel = parcel
        self.ways: dict[str, Callable[[], str]] = {
            CUSTOMER: self._customer,
            INVOICE: self._invoice,
            CREDIT_NOTE: self._credit_note,
            METER: self._meter,
        }

    # --- customers -------------------------------------------------------------------------------------------------

    def _customer(self) -> str:
        tenant = str(self._parcel.payload["tenant"])
        with self._database.read() as connection:
            known = outbox.receipt(connection, CUSTOMER, stripe_subject(tenant))
            profiles = tables.profiles.c
            body = connection.execute(
                select(profiles.body).where(profiles.id == self._parcel.payload["profile"])
            ).scalar()
        told: Any = customer_params(tenant, body)
        customers = self._stripe.v1.customers
        if known is not None:  # the same change made twice is one change
            return str(customers.update(known, told).id)

        def find() -> Any | None:
            made: Any = {"created": {"gte": self._parcel.created_at // 10**6 - 3600}, "limit": 100}
            return _ours(customers.list(made).auto_paging_iter(), "feilun_tenant", tenant)

        return str(_make(self._parcel, "customer", lambda options: customers.create(told, options), find).id)

    def _customer_of(self, tenant: str) -> str:
        with self._database.read() as connection:
            known = outbox.receipt(connection, CUSTOMER, stripe_subject(tenant))
        if known is None:
            raise NotDelivered("Stripe does not know the customer yet")
        return known

    # --- invoices --------------------------------------------------------------------------------------------------

    def _invoice(self) -> str:
        from feilun.bill import invoices

        invoice = invoices.get(self._database, str(self._parcel.payload["number"]))
        if invoice.due_nano <= 0:
            return NOTHING_DUE
        customer = self._customer_of(invoice.tenant)
        made = self._draft(invoice, customer)
        if made.status == "draft":
            self._add_lines(invoice, made)
            made = self._stripe.v1.invoices.retrieve(made.id)
        wanted = minor(invoice.due_nano, invoice.currency)
        if made.total != wanted or made.currency != invoice.currency.lower():
            raise NotDelivered(
                f"Stripe counts {made.total} {made.currency} in minor units for {invoice.number}, not {wanted}; "
                f"it is left as it is there: {made.id}",
                final=True,
            )
        if made.status == "draft":
            self._finalise(made.id)
        return str(made.id)

    def _draft(self, invoice: Invoice, customer: str) -> Any:
        """The invoice at Stripe without its lines, or however far an earlier attempt came."""
        told: Any = invoice_params(self._settings, invoice, customer, now=self._parcel.at)
        made_at_stripe = self._stripe.v1.invoices

        def find() -> Any | None:
            there = made_at_stripe.list({"customer": customer, "limit": 100}).auto_paging_iter()
            return _ours((i for i in there if i.status != "void"), "feilun_invoice", invoice.number)

        return _make(self._parcel, "create", lambda options: made_at_stripe.create(told, options), find)

    def _add_lines(self, invoice: Invoice, made: Any) -> None:
        items = self._stripe.v1.invoice_items
        for name, text, amount in shown_lines(invoice):
            told: Any = {"customer": made.customer, "invoice": made.id, "currency": invoice.currency.lower()}
            told |= {"amount": amount, "description": text, "metadata": {"feilun_line": name}}
            _make(self._parcel, name, partial(items.create, told), partial(self._find_line, made.id, name))

    def _find_line(self, invoice: str, name: str) -> Any | None:
        lines = self._stripe.v1.invoices.line_items.list(invoice, {"limit": 100}).auto_paging_iter()
        return _ours(lines, "feilun_line", name)

    def _finalise(self, invoice: str) -> None:
        made_at_stripe = self._stripe.v1.invoices

        def find() -> Any | None:
            made = made_at_stripe.retrieve(invoice)
            return None if made.status == "draft" else made

        _make(self._parcel, "finalise", partial(made_at_stripe.finalize_invoice, invoice, {"auto_advance": True}), find)

    # --- credit notes and meters -----------------------------------------------------------------------------------

    def _credit_note(self) -> str:
        number = str(self._parcel.payload["number"])
        notes, closed = tables.credit_notes.c, tables.invoices.c
        wanted = select(
            notes.total_nano, notes.body, notes.currency, notes.tenant, closed.number.label("invoice")
        ).select_from(tables.credit_notes.join(tables.invoices))
        with self._database.read() as connection:
            note = connection.execute(wanted.where(notes.number == number)).one()
            told_of = outbox.identity(INVOICE, note.invoice)
            was_put, made = outbox.is_there(connection, told_of), outbox.receipt_of(connection, told_of)
        if not was_put:  # it is of before Stripe was used
            return NOTHING_DUE
        if made is None:
            raise NotDelivered(f"Stripe does not have {note.invoice} yet")
        due = int(json.loads(note.body).get("due_nano", note.total_nano))  # the rest was given back as prepaid credit
        amount = minor(abs(due), note.currency)
        if not made.startswith("in_") or amount == 0:
            return NOTHING_DUE
        credit_notes = self._stripe.v1.credit_notes

        def find() -> Any | None:
            there = credit_notes.list({"invoice": made, "limit": 100}).auto_paging_iter()
            return _ours(there, "feilun_credit_note", number)

        invoice = self._stripe.v1.invoices.retrieve(made)
        left = invoice.total - credited(invoice)  # what prepaid credit paid was never due there
        if left < amount and (found := find()) is not None:
            return str(found.id)
        amount = min(amount, left)
        if amount <= 0:
            return NOTHING_DUE
        told: Any = {"invoice": made, "memo": number, "metadata": {"feilun_credit_note": number}, "amount": amount}
        if invoice.status == "paid":
            told[_GIVES_BACK[self._settings.credit_paid]] = amount
        return str(_make(self._parcel, "credit-note", lambda options: credit_notes.create(told, options), find).id)

    def _meter(self) -> str:
        said = self._parcel.payload
        tenant = self._parcel.subject.removeprefix(stripe_subject(""))
        value = {"stripe_customer_id": self._customer_of(tenant), "value": str(said["units"])}
        told: Any = {"event_name": said["event"], "payload": value, "timestamp": said["at"] // 10**6}
        told["identifier"] = self._parcel.id  # which Stripe takes once
        self._stripe.v1.billing.meter_events.create(told)
        return self._parcel.id


def _make(parcel: Parcel, part: str, make: Callable[[Any], Any], find: Callable[[], Any | None]) -> Any:
    """Make something at Stripe once: by an idempotency key, and by looking where the key cannot tell.

    That is where Stripe may have forgotten the key, says that it has this already, or repeats a failure: it keeps those
    under their key too, so a further key is used if nothing was made.

    Args:
        part: which call of this row it is.
        make: makes it, given the options with the key.
        find: looks for what an earlier attempt made.
    """
    import stripe

    if old(parcel) and (found := find()) is not None:
        return found
    for again in range(KEYS):
        try:
            return make({"idempotency_key": f"{parcel.id}-{part}{f'-{again}' if again else ''}"})
        except stripe.StripeError as error:
            repeated = is_repeated(error)
            if not (repeated or already_there(error)):
                raise
            if (found := find()) is not None:
                return found
            if not repeated:
                raise
    raise NotDelivered("Stripe repeats a failure")


_GIVES_BACK = {"outside": "out_of_band_amount", "refund": "refund_amount", "balance": "credit_amount"}


def customer_params(tenant: str, profile: str | None) -> dict[str, Any]:
    """What Stripe is told of a customer: no more than its invoices need."""

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
        due_at = invoice.due_at or 0
        told |= {"due_date": due_at // 10**6} if due_at > now + 3600 * 10**6 else {"days_until_due": 1}
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


def credited(invoice: Any) -> int:
    """What credit notes at Stripe took off an invoice, in minor units."""
    said = invoice.to_dict()
    names = ("pre_payment_credit_notes_amount", "post_payment_credit_notes_amount")
    return sum(int(said.get(name) or 0) for name in names)


def old(parcel: Parcel) -> bool:
    """Whether Stripe may have forgotten the idempotency keys of an earlier attempt."""
    return parcel.at - parcel.created_at > KEYS_KEPT_US


def _ours(there: Iterable[Any], name: str, value: str) -> Any | None:
    return next((item for item in there if metadata(item).get(name) == value), None)


def metadata(item: Any) -> dict[str, str]:
    """What we wrote on an object of Stripe's."""
    return dict(item.metadata.to_dict()) if item.metadata else {}
