"""The gateway in a process of its own, as ``feilun serve`` runs it; or with planted bugs (no product file has them)."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import update
from starlette.requests import Request

from faults.house import PEPPER, PLANS
from feilun.accounts import access
from feilun.accounts.terms import Schedule
from feilun.bill.masking import mask
from feilun.bill.office import Office
from feilun.bill.settings import BillSettings
from feilun.errors import QuotaError
from feilun.serve import routing
from feilun.serve.answering import Answered, Answering
from feilun.serve.caching import Cache
from feilun.serve.listening import Tls
from feilun.serve.prompts import Prompts
from feilun.serve.run import run_gateway, run_workers
from feilun.serve.settings import GatewaySettings
from feilun.serve.shelf import Shelf
from feilun.serve.supervisor import NUMBER
from feilun.store import database, events, ledger, limits, tables
from feilun.store.counts import Counts
from feilun.store.database import now_us

honest = Answering._settle
late: set[asyncio.Task[Any]] = set()


async def commit_after_the_answer(self: Answering, asked: Any, work: Any, hold: ledger.Hold, computed: Any) -> Answered:
    """The positive control: answers leave while their commit still waits."""

    async def later() -> None:
        await asyncio.sleep(0.1)
        await honest(self, asked, work, hold, computed)

    task = asyncio.ensure_future(later())
    late.add(task)
    charge = ledger.Charge(hold.request, PLANS["metered"].amount(Counts(), work.units), "USD", 0, 0)
    return Answered(hold.request, computed.render(charge))


def deduplicate_outside_the_transaction() -> None:
    """The positive control of case 7: look first, then hold under a key that is never the same."""
    hold = ledger.hold

    def careless(connection: Any, ask: ledger.Ask, plans: ledger.Plans, holder: str) -> Any:
        return hold(connection, replace(ask, idempotency_key=holder), plans, holder)

    async def nobody_waits(self: Answering, mine: tuple[str, str]) -> None:
        self._working = {}

    ledger.hold = careless
    Answering._wait_for = nobody_waits


def authorise_by_prefix() -> None:
    """The positive control of case 29: who asks is checked where the path looks private."""
    allow = routing.allow

    def by_prefix(gateway: Any, scope: str) -> Any:
        honest = allow(gateway, scope)

        async def authorise(request: Request) -> None:
            if request.url.path.startswith("/v1/"):
                await honest(request)

        return authorise

    routing.allow = by_prefix


def lose_holds() -> None:
    """A positive control: a hold whose lease ended is given back, and the tenant's open holds still count it."""

    def careless(connection: Any, tenant: str, *_: Any) -> int:
        table = tables.requests
        ended = (table.c.tenant == tenant) & (table.c.state == "held") & (table.c.lease_until <= now_us(connection))
        return int(connection.execute(update(table).where(ended).values(state="released")).rowcount)

    ledger.reap = careless


class _Dearer:
    """Terms that charge one nano-unit too much."""

    def __init__(self, terms: Any) -> None:
        self._terms = terms

    def __getattr__(self, name: str) -> Any:
        return getattr(self._terms, name)

    def amount(self, before: Counts, after: Counts) -> int:
        """As the terms' own, and one more."""
        return int(self._terms.amount(before, after)) + 1


def misprice() -> None:
    """A positive control: answer, row and postings agree with each other, and not with the terms that they name."""
    capture = ledger.capture

    def dearer(connection: Any, held: Any, done: Any, plans: Any, *more: Any, **named: Any) -> Any:
        return capture(connection, held, done, lambda name, at: _Dearer(plans(name, at)), *more, **named)

    ledger.capture = dearer


def forget_holds_in_budgets() -> None:
    """The positive control of case 22: a budget is compared with what was spent, not with what is held."""
    check = limits.check

    def careless(connection: Any, wanted: limits.Wanted, *more: Any) -> None:
        check(connection, replace(wanted, held=Counts()), *more)

    limits.check = careless


def count_rates_in_memory() -> None:
    """The positive control of case 23: each gateway counts its own requests."""
    begun: dict[str, list[int]] = {}

    def careless(connection: Any, wanted: limits.Wanted, most: int) -> None:
        mine = begun.setdefault(wanted.tenant, [])
        if len([at for at in mine if wanted.now - at < limits.MINUTE]) >= most:
            raise QuotaError("too many", retry_after=60, code="rate-limited")
        mine.append(wanted.now)

    limits._check_rate = careless


def deduplicate_events_outside() -> None:
    """A positive control: what was recorded is remembered by the process, and the transaction does not look."""
    record, known = events.record, set[tuple[str, str]]()

    def careless(connection: Any, key: str, given: Any, meters: Any) -> Any:
        fresh = [event for event in given if (event.source, event.id) not in known]
        known.update((event.source, event.id) for event in fresh)
        return record(connection, key, fresh, meters)

    events.record = careless
    events._recorded_before = lambda *_: {}


def forget_streams() -> None:
    """The positive control of case 3: nobody writes down what a stream has delivered."""
    ledger.checkpoint = lambda *_: None


def remember_keys() -> None:
    """The positive control of case 34: what was found good of a key is believed for a minute."""
    access.CACHE_S = 60.0


def use_own_clock() -> None:
    """The positive control of case 9: rows have the time of the gateway, not of the database."""
    ledger._clock = lambda row: time.time_ns() // 1000


def mix_up_adapters() -> None:
    """A positive control: rows of a run read the slots of their neighbours."""
    from feilun.models.shared import Group

    pin = Group._pin

    def careless(self: Group, *given: Any, **named: Any) -> Any:
        pinned, chosen, slots = pin(self, *given, **named)
        return pinned, chosen, slots[::-1].copy()

    Group._pin = careless


def answer_by_any_release() -> None:
    """A positive control of case 38: whichever release of a name is loaded answers for all of them."""

    def careless(self: Shelf, name: str, digits: str, tenant: str | None, *, anybody: bool = False) -> Any:
        return self.loaded.get(name)

    Shelf._here = careless


def share_the_cache() -> None:
    """The positive control of case 56: what is kept is kept for everybody."""
    key, find, keep = Cache.key, Cache.find, Cache.keep
    Cache.key = lambda self, tenant, *more: key(self, "", *more)
    Cache.find = lambda self, tenant, *more: find(self, "", *more)
    Cache.keep = lambda self, tenant, *more: keep(self, "", *more)


def plant(bug: str | None) -> None:
    if bug == "commit-after-the-answer":
        Answering._settle = commit_after_the_answer
    elif bug == "deduplicate-outside-the-transaction":
        deduplicate_outside_the_transaction()
    elif bug == "authorise-by-prefix":
        authorise_by_prefix()
    elif bug == "go-on-after-a-failed-fsync":
        database._is_unsynced = lambda error: False
    elif bug is not None:
        BUGS[bug]()


def run(told: dict[str, Any]) -> None:
    """Answer until told to stop: ``url``, ``artifacts``, ``port`` and ``options`` (of GatewaySettings, or planted).

    The option ``bill`` is a section ``[bill]``, whose office then delivers; with ``workers`` there are several
    processes, with ``tls`` it speaks HTTPS, and with ``prompts`` it writes down what was asked.
    """
    options: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in told["options"].items()}
    plant(options.pop("planted", None))
    bill, tls, prompts = (options.pop(name, None) for name in ("bill", "tls", "prompts"))
    workers = options.pop("workers", 1)
    settings = GatewaySettings(
        **options,
        tls=Tls(Path(tls["certificate"]), Path(tls["key"])) if tls else None,
        prompts=Prompts(Path(prompts["folder"]), prompts["keep_days"], _masked) if prompts else None,
    )
    if workers > 1 and NUMBER not in os.environ:
        command = [sys.executable, "-m", "faults.gateway", json.dumps(told)]
        sys.exit(run_workers(command, workers, host="127.0.0.1", port=told["port"], settings=settings))
    run_gateway(
        told["url"],
        Path(told["artifacts"]),
        pepper=PEPPER,
        plans={name: Schedule.always(terms) for name, terms in PLANS.items()},
        port=told["port"],
        settings=settings,
        office_factory=None if bill is None else lambda store: Office(store, BillSettings.model_validate(bill)),
    )


def _masked(text: str) -> str:
    return mask(text)[0]


BUGS = {
    "lost-hold": lose_holds,
    "mispriced-row": misprice,
    "budget-without-holds": forget_holds_in_budgets,
    "rates-in-memory": count_rates_in_memory,
    "own-clock": use_own_clock,
    "keys-remembered": remember_keys,
    "forgotten-stream": forget_streams,
    "event-deduplicated-outside-the-transaction": deduplicate_events_outside,
    "adapters-mixed-up": mix_up_adapters,
    "any-release": answer_by_any_release,
    "one-cache-for-all": share_the_cache,
}

if __name__ == "__main__":
    run(json.loads(sys.argv[1]))
