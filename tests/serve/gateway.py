"""The gateway in a process of its own, as ``feilun serve`` runs it; and with a planted bug (no product file has it)."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from feilun.serve import answering
from feilun.serve.answering import Answered, Answering
from feilun.serve.run import run_gateway
from feilun.serve.settings import GatewaySettings
from feilun.store import ledger
from feilun.store.counts import Counts
from tests.serve.house import PEPPER, PLANS

honest = Answering._settle
late: set[asyncio.Task[Any]] = set()


async def commit_after_the_answer(self: Answering, work: Any, hold: ledger.Hold, scored: Any) -> Answered:
    """The positive control: answers leave while their commit still waits."""

    async def later() -> None:
        await asyncio.sleep(0.1)
        await honest(self, work, hold, scored)

    task = asyncio.ensure_future(later())
    late.add(task)
    charge = ledger.Charge(hold.request, PLANS["metered"].amount(Counts(), work.units), "USD", 0, 0)
    body = answering._render(work, list(answering._results(work.loaded, scored)), charge)
    return Answered(hold.request, body)


def main() -> None:
    told = json.loads(sys.argv[1])
    options = {name: tuple(v) if isinstance(v, list) else v for name, v in told["options"].items()}
    if options.pop("planted", None) == "commit-after-the-answer":
        Answering._settle = commit_after_the_answer  # type: ignore[method-assign]
    run_gateway(
        told["url"],
        Path(told["artifacts"]),
        pepper=PEPPER,
        plans=PLANS,
        port=told["port"],
        settings=GatewaySettings(**options),
    )


if __name__ == "__main__":
    main()
