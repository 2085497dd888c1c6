"""The office: what a running gateway asks of billing (``feilun.serve.office.Office``). Each method only delegates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from feilun.bill.settings import BillSettings
from feilun.errors import AccessError
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

    def margin(self, query: Mapping[str, str]) -> dict[str, Any]:
        """See ``feilun.serve.office.Office``."""
        from feilun.bill import margin

        return margin.margins(self.database, self.settings.core_hour, query.get("period")).as_dict()

    def product(self, name: str, tenant: str) -> dict[str, Any]:
        """See ``feilun.serve.office.Office``."""
        raise AccessError(f"there is no product '{name}'", status=404, code="not-found")

    def stripe_webhook(self, body: bytes, signature: str) -> None:
        """See ``feilun.serve.office.Office``."""
        raise AccessError("Stripe is not used here", status=404, code="not-found")

    def deliver(self) -> int:
        """See ``feilun.serve.office.Office``."""
        return 0
