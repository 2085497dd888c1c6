"""The office: what a running gateway asks of billing (``feilun.serve.office.Office``). Each method only delegates."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from feilun.bill import delivery
from feilun.bill.settings import BillSettings
from feilun.errors import AccessError, UnavailableError
from feilun.store.artifacts import ArtifactStore


class Office:
    """Billing for one gateway process.

    Args:
        store: artefacts and, through ``store.database``, events.
        settings: the project's ``[bill]``.
    """

    def __init__(self, store: ArtifactStore, settings: BillSettings) -> None:
        self.store = store
        self.database = store.database
        self.settings = settings
        self.senders = senders(settings)

    def margin(self, query: Mapping[str, str]) -> dict[str, Any]:
        """See ``feilun.serve.office.Office``."""
        from feilun.bill import margin

        return margin.report(self.database, self.settings, margin.asked(query)).as_dict()

    @property
    def hears_stripe(self) -> bool:
        """Whether the project says how to reach Stripe."""
        return self.settings.stripe is not None

    def stripe_webhook(self, body: bytes, signature: str) -> None:
        """See ``feilun.serve.office.Office``."""
        from feilun.bill import stripe_inbox

        if self.settings.stripe is None:
            raise AccessError("Stripe is not used here", status=404, code="not-found")
        name = self.settings.stripe.webhook_secret_env
        secret = os.environ.get(name)
        if not secret:  # Stripe tells it again later
            hint = "it is the signing secret of the endpoint, whsec_..."
            raise UnavailableError(f"the environment variable {name} is not set", hint=hint)
        stripe_inbox.receive(self.database, body, signature, secret)

    def deliver(self) -> int:
        """See ``feilun.serve.office.Office``."""
        return delivery.deliver(self.database, self.senders)


def senders(settings: BillSettings) -> list[delivery.Sender]:
    """Who sends what the outbox has: those whose section the project file has."""
    from feilun.bill.stripe_sender import StripeSender
    from feilun.bill.webhooks import Webhooks

    found: list[delivery.Sender] = []
    if settings.webhook is not None:
        found.append(Webhooks(settings.webhook))
    if settings.stripe is not None:
        found.append(StripeSender(settings.stripe))
    return found
