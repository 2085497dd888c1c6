"""What the gateway needs of billing. Stages never import each other: whoever starts a gateway hands an office over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from feilun.store.artifacts import ArtifactStore


class Office(Protocol):
    """The billing side of a gateway (``feilun.bill.office.Office``). Every method may be called from any thread."""

    def margin(self, query: Mapping[str, str]) -> dict[str, Any]:
        """What ``GET /v1/admin/margin`` answers; ``query`` holds its parameters as they were given.

        Raises:
            SettingError: a parameter is unknown, or is not what it should be.
        """

    @property
    def hears_stripe(self) -> bool:
        """Whether anything from Stripe is expected here."""

    def stripe_webhook(self, body: bytes, signature: str) -> None:
        """Take in what Stripe tells: ``signature`` is its ``Stripe-Signature`` header, over exactly these bytes.

        Raises:
            AccessError: Stripe is not used here (404).
            SettingError: the signature is not that of our endpoint, or it is too old (400).
        """

    def deliver(self) -> int:
        """Send what the outbox has due, and return how many rows went out; called again and again by one thread."""


OfficeFactory = Callable[[ArtifactStore], Office]
