"""``[bill.webhook]`` and ``[bill.stripe]``: who is told, and how. Secrets are in the environment, their names here."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from feilun.pipeline.steps import Settings

Variable = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{0,127}$")]  # the name of an environment variable
_URL = re.compile(r"https?://[\x21-\x7e]{1,2000}")


class WebhookSettings(Settings):
    """Where our own webhooks go, signed as Standard Webhooks are. Without this section nobody is told."""

    url: str
    secret_env: Variable = "FEILUN_WEBHOOK_SECRET"  # noqa: S105 - the name of a variable, not a secret
    allow_private: bool = False  # let the address be in a private network, and http do

    @model_validator(mode="after")
    def _secure(self) -> WebhookSettings:
        if not _URL.fullmatch(self.url):
            raise ValueError(f"url = '{self.url[:100]}' is not an address; write it as https://example.com/hook")
        if not self.url.startswith("https://") and not self.allow_private:
            raise ValueError("url has to begin with https://; in a private network add allow_private = true")
        return self


class StripeSettings(Settings):
    """Invoices are also made at Stripe, and payments come back. Without this section Stripe is not used."""

    key_env: Variable = "STRIPE_API_KEY"
    webhook_secret_env: Variable = "STRIPE_WEBHOOK_SECRET"  # noqa: S105 - the name of a variable, not a secret
    api_base: str = "https://api.stripe.com"
    collect: Literal["send_invoice", "charge_automatically"] = "send_invoice"
    credit_paid: Literal["outside", "refund", "balance"] = "outside"  # what a credit note on a paid invoice gives back
    meters: dict[str, str] = Field(default_factory=dict)  # ours to the event name of a meter at Stripe

    @field_validator("api_base")
    @classmethod
    def _address(cls, url: str) -> str:
        if not _URL.fullmatch(url):
            raise ValueError("api_base is not an address")
        return url.rstrip("/")
