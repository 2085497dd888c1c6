"""``[bill.webhook]`` and ``[bill.stripe]``: who is told, and how. Secrets are in the environment, their names here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from feilun.bill.amounts import Address, Variable
from feilun.pipeline.steps import Settings


class WebhookSettings(Settings):
    """Where our own webhooks go, signed as Standard Webhooks are. Without this section nobody is told."""

    url: Address
    secret_env: Variable = "FEILUN_WEBHOOK_SECRET"  # noqa: S105 - the name of a variable, not a secret
    allow_private: bool = False  # it may be this machine, where http will do, or in a private network

    @model_validator(mode="after")
    def _secure(self) -> WebhookSettings:
        if not self.url.startswith("https://") and not self.allow_private:
            raise ValueError("url has to begin with https://; to this machine add allow_private = true")
        return self


class StripeSettings(Settings):
    """Invoices are also made at Stripe, and payments come back. Without this section Stripe is not used."""

    key_env: Variable = "STRIPE_API_KEY"
    webhook_secret_env: Variable = "STRIPE_WEBHOOK_SECRET"  # noqa: S105 - the name of a variable, not a secret
    api_base: Address = "https://api.stripe.com"
    collect: Literal["send_invoice", "charge_automatically"] = "send_invoice"
    credit_paid: Literal["outside", "refund", "balance"] = "outside"  # what a credit note on a paid invoice gives back
    meters: dict[str, str] = Field(default_factory=dict)  # ours to the event name of a meter at Stripe
