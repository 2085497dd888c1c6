"""The gateway in a process of its own, as ``feilun serve`` runs it; and with a planted bug, as no product file can."""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from feilun.serve.answering import Answered, Answering
from feilun.serve.run import run_gateway
from feilun.serve.settings import GatewaySettings
from feilun.store import ledger
from tests.serve.house import PEPPER, PLANS


def plant_commit_after_the_answer() -> None:
    """The positive control: answers leave while their commit still waits."""
    honest = Answering._settle

    async def settle(self: Answering, work: Any, hold: ledger.Hold, scored: Any) -> Answered:
        import asyncio

        from feilun.serve import answering

        async def later() -> None:
            await asyncio.sleep(0.1)
            await honest(self, work, hold, scored)

        self.late = asyncio.gather(later(), getattr(self, "late", asyncio.sleep(0)))  # type: ignore[attr-defined]
        terms = PLANS["metered"]
        from feilun.store.counts import Counts

        charge = ledger.Charge(hold.request, terms.amount(Counts(), work.units), "USD", 0, 0)
        body = answering._render(work, list(answering._results(work.loaded, scored)), charge)
        return Answered(hold.request, body, charge, scored)

    Answering._settle = settle  # type: ignore[method-assign]


def main() -> None:
    told = json.loads(sys.argv[1])
    options = dict(told["options"])
    if options.pop("planted", None) == "commit-after-answer":
        plant_commit_after_the_answer()
    known = {f.name for f in fields(GatewaySettings)}
    assert options.keys() <= known, options
    run_gateway(
        told["url"],
        Path(told["artifacts"]),
        pepper=PEPPER,
        plans=PLANS,
        port=told["port"],
        settings=GatewaySettings(**{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}),
    )


if __name__ == "__main__":
    main()
