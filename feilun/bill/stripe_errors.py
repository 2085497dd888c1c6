"""What an error of Stripe's client means for a row of the outbox, told without its words, which can repeat data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from feilun.bill.delivery import NotDelivered
from feilun.bill.webhooks import seconds

if TYPE_CHECKING:
    from stripe import StripeError

_THERE = ("resource_already_exists", "duplicate_meter_event", "invoice_number_already_used")


def already_there(error: StripeError) -> bool:
    """Whether Stripe says that it has this, perhaps under an idempotency key whose parameters differ by now."""
    import stripe

    code = error.code or ""
    if code in _THERE or code.endswith("already_exists") or isinstance(error, stripe.IdempotencyError):
        return True
    return isinstance(error, stripe.InvalidRequestError) and error.param == "number"


def is_repeated(error: StripeError) -> bool:
    """Whether this failure is one that Stripe keeps under the idempotency key and would repeat for a day."""
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    return headers.get("idempotent-replayed") == "true" and (error.http_status or 0) >= 500


def failure(error: StripeError) -> NotDelivered:
    """Kind, status, code and the request's id; final where the same request can never succeed."""
    import stripe

    status = error.http_status
    said = [type(error).__name__, str(status or ""), error.code or "", getattr(error, "param", None) or ""]
    said += [f"request {error.request_id}" if error.request_id else ""]
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    final = isinstance(error, stripe.InvalidRequestError) and status in (400, 404) and not already_there(error)
    what = f"Stripe: {' '.join(part for part in said if part)}"
    return NotDelivered(what, retry_after=seconds(headers.get("retry-after")), final=final)
