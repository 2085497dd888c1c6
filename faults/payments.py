"""What goes to Stripe and comes from it, and sums of a million small things (cases 19, 20, 21).

The parts are those of the tests (``tests/bill``): a Stripe that fails on purpose, invoices as the office has them.
"""

from __future__ import annotations

import itertools
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from faults.counting import Count, Setup, case
from feilun.bill.stripe_inbox import SignatureError, payment_states, receive
from feilun.store.crash import VARIABLE
from feilun.store.database import Database
from feilun.store.migrations import open_database
from tests.bill import desk, test_invoice_properties, test_stripe, test_stripe_events
from tests.bill.books import Books
from tests.bill.fake_stripe import SECRET, FakeStripe, Memory, event, fake_stripe, signature

INVOICES = 6  # in a storm


@contextmanager
def desk_of(setup: Setup) -> Iterator[tuple[Database, FakeStripe]]:
    """An empty database, and a Stripe."""
    with setup.place() as (url, _), open_database(url) as database, fake_stripe(Memory()) as stripe:
        yield database, stripe


@case(19, "calls to Stripe fail before, after and in between, senders are killed: each invoice there once, our total")
def payments(setup: Setup) -> Count:
    """Each faulty call and each kill is a trial; the control is a Stripe that ignores idempotency keys."""
    count = Count()
    for number in range(setup.times(60, 4)):
        with desk_of(setup) as (database, stripe):
            broken = _stormed(database, stripe, setup.seed + number)
            count.trial(broken, stripe.struck)
    for _ in range(setup.times(20, 2)):
        with desk_of(setup) as (database, stripe):
            count.trial(_killed(database, stripe), 2)
    with desk_of(setup) as (database, stripe):
        stripe.honours_keys = False
        count.controls["a Stripe that ignores the keys"] = bool(_stormed(database, stripe, setup.seed))
    return count


def _stormed(database: Database, stripe: FakeStripe, seed: int) -> list[str]:
    try:
        broken = list(test_stripe.storm(database, stripe, seed, number=INVOICES))
    except AssertionError as error:
        return [f"not delivered: {str(error)[:200]}"]
    totals = [invoice["total"] for invoice in test_stripe.invoices(stripe)]
    return broken + ([] if totals == [test_stripe.TOTAL] * INVOICES else [f"totals at Stripe: {totals}"])


def _killed(database: Database, stripe: FakeStripe) -> list[str]:
    """Killed behind sending and before noting it, for the customer and for the invoice."""
    settings = test_stripe.told(stripe)
    desk.close(database, settings, "acme", test_stripe.AMOUNTS)
    broken = []
    for passage in (1, 2):
        code = test_stripe.run_apart(database, settings, **{VARIABLE: f"outbox-send:{passage}"})
        broken += [] if code == -signal.SIGKILL else [f"the sender ended with {code}"]
        desk.make_due(database)
    code = test_stripe.run_apart(database, settings)
    broken += [] if code == 0 else [f"the last sender ended with {code}"]
    totals = [invoice["total"] for invoice in test_stripe.invoices(stripe)]
    broken += [] if totals == [test_stripe.TOTAL] else [f"totals at Stripe: {totals}"]
    broken += [] if len(test_stripe.of(stripe, "customer")) == 1 else ["not one customer"]
    return broken + list(test_stripe.wrong(database, settings))


@case(20, "webhooks forged, stale, three times, out of order: 400, 400, one effect, the same end")
def webhooks(setup: Setup) -> Count:
    """Each event is a trial; the control takes what was signed with another secret."""
    count = Count()
    chance = random.Random(setup.seed)
    with desk_of(setup) as (database, stripe):
        for what, (body, given) in test_stripe_events.forged().items():
            count.trial(_refused(database, what, body, given, SECRET))
        body, given = test_stripe_events.forged()["another secret"]
        believed = "whsec_of_somebody_else"
        count.controls["the wrong secret believed"] = bool(_refused(database, "forged", body, given, believed))
    orders = list(itertools.permutations(test_stripe_events.LIFE))
    for order in orders if not setup.quick else orders[::6]:
        with desk_of(setup) as (database, stripe):
            made = test_stripe_events.sent(database, stripe)
            told = [(kind, test_stripe_events.LIFE.index(kind)) for kind in order for _ in range(3)]
            chance.shuffle(told)
            effects = sum(_tell(database, made, kind, place) for kind, place in told)
            with database.read() as connection:
                states = payment_states(connection)
            broken = [] if states == {"INV-000001": "paid"} else [f"{order}: {states}"]
            count.trial(broken + ([] if effects == len(order) else [f"{order}: {effects} effects"]), len(told))
    return count


def _tell(database: Database, made: dict[str, Any], kind: str, place: int) -> bool:
    body = event(kind, made, id=f"evt_{kind}", created=1_793_500_000 + place)
    return receive(database, body, signature(body), SECRET)


def _refused(database: Database, what: str, body: bytes, given: str, secret: str) -> list[str]:
    try:
        receive(database, body, given, secret)
    except SignatureError as error:
        refused = error.status == 400 and error.name != "bad-event"
        return [] if refused or what == "not UTF-8" else [f"{what}: refused with {error.status} {error.name}"]
    return [f"{what}: it was believed"]


@case(21, "a million sub-cent events: the exact sum, rounded once")
def sub_cents(setup: Setup) -> Count:
    """Each event is a trial."""
    count = Count()
    with setup.place() as (url, _), open_database(url) as database:
        try:
            run = test_invoice_properties.test_case_21_a_million_sub_cent_events_sum_exactly_and_are_rounded_once
            run(Books(database))
            broken: list[str] = []
        except AssertionError as error:
            broken = [str(error)[:300]]
        count.trial(broken, 1_000_000)
    return count
