"""All that the routes work with."""

from __future__ import annotations

from dataclasses import dataclass, field

from feilun.accounts.access import Keyring
from feilun.serve.answering import Answering
from feilun.serve.metrics import Metrics
from feilun.serve.office import Office
from feilun.serve.prompts import PromptLog
from feilun.serve.settings import GatewaySettings
from feilun.serve.shelf import Shelf
from feilun.serve.tracing import Tracing
from feilun.store import ledger
from feilun.store.database import Database


@dataclass
class Gateway:
    """One process that answers."""

    database: Database
    keyring: Keyring
    shelf: Shelf
    answering: Answering
    plans: ledger.Plans
    settings: GatewaySettings
    metrics: Metrics = field(default_factory=Metrics)
    draining: bool = False
    office: Office | None = None  # billing, where whoever started the gateway handed it over
    prompts: PromptLog | None = None  # where inputs are written down, where the project says so
    tracing: Tracing | None = None  # OpenTelemetry, where the environment names a collector
