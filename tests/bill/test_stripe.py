"""Invoices at Stripe: each once, with our total, whatever fails on the way (RELIABILITY 19, 55)."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, update

from feilun.bill import stripe_compare
from feilun.bill.delivery import deliver
from feilun.bill.settings import BillSettings
from feilun.bill.stripe_compare import compare
from feilun.bill.stripe_sender import StripeSender, customer_params
from feilun.bill.telling import tell_customer
from feilun.errors import UnavailableError
from feilun.store import outbox, tables
from feilun.store.crash import VARIABLE
from feilun.store.database import Database
from tests.bill import desk
from tests.bill.desk import CENT
from tests.bill.fake_stripe import FAULTS, KEY, FakeStripe, Memory, fake_stripe

SEED = 20261122
AMOUNTS = (1900 * CENT, 250 * CENT, 0, -150 * CENT, 409 * CENT)
TOTAL = 2409
ENVIRONMENT = {"STRIPE_API_KEY": KEY}


@pytest.fixture
def stripe() -> Iterator[FakeStripe]:
    with fake_stripe(Memory()) as running:
        yield running


def told(stripe: FakeStripe, **more: Any) -> BillSettings:
    return desk.settings(stripe={"api_base": stripe.base} | more)


def sender(settings: BillSettings, *, timeout_s: float = 10.0) -> StripeSender:
    assert settings.stripe is not None
    return StripeSender(settings.stripe, ENVIRONMENT, timeout_s=timeout_s)


def invoices(stripe: FakeStripe) -> list[dict[str, Any]]:
    assert isinstance(stripe.backend, Memory)
    return stripe.backend.of("invoice")


def of(stripe: FakeStripe, kind: str) -> list[dict[str, Any]]:
    assert isinstance(stripe.backend, Memory)
    return stripe.backend.of(kind)


def wrong(database: Database, settings: BillSettings) -> tuple[str, ...]:
    assert settings.stripe is not None
    return compare(database, settings.stripe, environment=ENVIRONMENT).problems


def test_a_closed_invoice_is_at_stripe_with_its_number_lines_and_total(database: Database, stripe: FakeStripe) -> None:
    settings = told(stripe)
    closed = desk.close(database, settings, "acme", AMOUNTS)
    deliver(database, [sender(settings)])
    (made,) = invoices(stripe)
    assert (made["number"], made["total"], made["status"], made["currency"]) == (closed.number, TOTAL, "open", "usd")
    assert [line["amount"] for line in made["lines"]["data"]] == [1900, 250, -150, 409]
    (customer,) = of(stripe, "customer")
    assert (customer["metadata"], made["customer"]) == ({"feilun_tenant": "acme"}, customer["id"])
    assert {r.kind: r.receipt for r in desk.rows(database)}["stripe.invoice"] == made["id"]
    assert wrong(database, settings) == ()


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_at_each_call_leaves_one_invoice_case_19(database: Database, stripe: FakeStripe, fault: str) -> None:
    settings = told(stripe)
    office = sender(settings, timeout_s=0.25 if fault == "hang-after" else 10)
    for place in range(7):  # customer, invoice, four lines, finalise
        stripe.plan = [None] * place + [fault]
        desk.close(database, settings, f"tenant-{place}", AMOUNTS)
        desk.deliver_all(database, [office])
    assert [i["total"] for i in invoices(stripe)] == [TOTAL] * 7
    assert len(of(stripe, "customer")) == 7
    assert wrong(database, settings) == ()


def storm(database: Database, stripe: FakeStripe, seed: int, *, number: int = 6) -> tuple[str, ...]:
    """Closed invoices while most calls fail in some way; what is wrong at the end."""
    chance = random.Random(seed)
    settings = told(stripe, meters={"requests": "answers"})
    for n in range(number):
        desk.close(database, settings, f"tenant-{n % 3}", AMOUNTS, meter="requests")
    stripe.faults(chance, 200, 0.35)
    desk.deliver_all(database, [sender(settings)])
    return wrong(database, settings)


@pytest.mark.parametrize("seed", range(SEED, SEED + 3))
def test_in_a_storm_of_faults_each_invoice_customer_and_total_is_there_once_case_19(
    database: Database, stripe: FakeStripe, seed: int
) -> None:
    assert storm(database, stripe, seed) == ()
    assert stripe.struck > 10
    assert [i["total"] for i in invoices(stripe)] == [TOTAL] * 6
    assert len(of(stripe, "customer")) == 3
    events = of(stripe, "billing.meter_event")
    assert [e["payload"]["value"] for e in events] == [str(7 * len(AMOUNTS))] * 6
    assert len({e["identifier"] for e in events}) == 6


def test_the_same_storm_catches_a_stripe_that_ignores_the_keys(database: Database, stripe: FakeStripe) -> None:
    stripe.honours_keys = False
    with pytest.raises(AssertionError):
        assert storm(database, stripe, SEED) == ()
        assert [i["total"] for i in invoices(stripe)] == [TOTAL] * 6


def test_what_stripe_has_already_counts_as_delivered_case_19(database: Database, stripe: FakeStripe) -> None:
    settings = told(stripe)
    closed = desk.close(database, settings, "acme", AMOUNTS)
    stripe.plan = [None, "drop-after"]
    deliver(database, [sender(settings)])
    stripe.kept.clear()  # and the key is forgotten
    desk.make_due(database)
    deliver(database, [sender(settings)])
    assert [(i["number"], i["total"], i["status"]) for i in invoices(stripe)] == [(closed.number, TOTAL, "open")]
    assert wrong(database, settings) == ()


@pytest.mark.parametrize("place", range(7))
def test_a_row_older_than_stripes_keys_is_looked_for_first_case_19(
    database: Database, stripe: FakeStripe, place: int
) -> None:
    settings = told(stripe)
    desk.close(database, settings, "other", AMOUNTS)
    desk.deliver_all(database, [sender(settings)])
    desk.close(database, settings, "acme", AMOUNTS)
    stripe.plan = [None] * place + ["drop-after"]
    deliver(database, [sender(settings)])
    stripe.kept.clear()
    desk.age(database)
    desk.make_due(database)
    desk.deliver_all(database, [sender(settings)])
    assert [i["total"] for i in invoices(stripe)] == [TOTAL] * 2
    assert len(of(stripe, "customer")) == 2
    assert wrong(database, settings) == ()


RUN = """
import json, sys
from feilun.bill.delivery import deliver
from feilun.bill.office import senders
from feilun.bill.settings import BillSettings
from feilun.store.migrations import open_database
with open_database(sys.argv[1]) as database:
    deliver(database, senders(BillSettings.model_validate(json.loads(sys.argv[2]))))
"""


def run_apart(database: Database, settings: BillSettings, **environment: str) -> int:
    """Deliver in a process of its own."""
    assert settings.stripe is not None
    told = json.dumps({"stripe": settings.stripe.model_dump()})
    command = [sys.executable, "-c", RUN, database.url, told]
    given = {**os.environ, **ENVIRONMENT, **environment}
    return subprocess.run(command, env=given, cwd=Path(__file__).parents[2], check=False, timeout=60).returncode


def test_killed_between_sending_and_noting_it_the_row_is_sent_again_and_made_once_case_2_and_19(
    database: Database, stripe: FakeStripe
) -> None:
    settings = told(stripe)
    desk.close(database, settings, "acme", AMOUNTS)
    for _ in range(2):
        assert run_apart(database, settings, **{VARIABLE: "outbox-send"}) == -signal.SIGKILL
        desk.make_due(database)  # the lease of the dead one is over
    sent = [(row.kind, row.state, row.attempts) for row in desk.rows(database)]
    assert sent == [("stripe.customer", "waiting", 2), ("stripe.invoice", "waiting", 0)], "noted never"
    assert len(of(stripe, "customer")) == 1
    assert run_apart(database, settings) == 0
    desk.close(database, settings, "acme", AMOUNTS)
    assert run_apart(database, settings, **{VARIABLE: "outbox-send"}) == -signal.SIGKILL
    desk.make_due(database)
    assert run_apart(database, settings) == 0
    assert [i["total"] for i in invoices(stripe)] == [TOTAL] * 2
    assert wrong(database, settings) == ()


def test_stripes_total_has_to_be_ours_before_anything_is_finalised(database: Database, stripe: FakeStripe) -> None:
    assert isinstance(stripe.backend, Memory)
    stripe.backend.skew = 1
    settings = told(stripe)
    desk.close(database, settings, "acme", AMOUNTS)
    deliver(database, [sender(settings)])
    row = next(r for r in desk.rows(database) if r.kind == "stripe.invoice")
    assert (row.state, invoices(stripe)[0]["status"]) == ("dead", "draft")
    assert f"Stripe counts {TOTAL + 1}" in str(row.failure)
    assert any("given up" in problem for problem in wrong(database, settings))


def test_what_stripe_refuses_for_good_is_a_dead_letter_and_holds_up_nobody(
    database: Database, stripe: FakeStripe
) -> None:
    settings = told(stripe)
    desk.close(database, settings, "acme", [12_345], currency="USD")  # finer than a cent: no such line is ever closed
    desk.close(database, settings, "acme", AMOUNTS)
    deliver(database, [sender(settings)])
    assert [r.state for r in desk.rows(database, "stripe.invoice")] == ["dead", "delivered"]


def test_too_many_requests_waits_as_long_as_stripe_asks(database: Database, stripe: FakeStripe) -> None:
    settings = told(stripe)
    stripe.retry_after = 900
    stripe.plan = ["429"]
    desk.close(database, settings, "acme", AMOUNTS)
    deliver(database, [sender(settings)])
    row = desk.rows(database, "stripe.customer")[0]
    with database.read() as connection:
        pause = row.due_at - outbox.now_us(connection)
    assert 890 * 10**6 < pause <= 900 * 10**6
    assert row.failure == "Stripe: RateLimitError 429 request req_123"


def test_neither_the_key_nor_stripes_words_are_kept_logged_or_sent_on_case_55(
    database: Database, stripe: FakeStripe, caplog: pytest.LogCaptureFixture
) -> None:
    settings = told(stripe)
    caplog.set_level(0)
    for fault in FAULTS[:-1]:
        stripe.plan = [fault]
        desk.close(database, settings, f"tenant-{fault}", AMOUNTS)
        deliver(database, [sender(settings)])
    failures = [row.failure for row in desk.rows(database) if row.failure]
    assert len(failures) == len(FAULTS) - 1
    everything = f"{failures} {caplog.text} {desk.rows(database)}"
    assert KEY not in everything
    assert "was done" not in everything, "what Stripe says can repeat what a customer wrote"
    assert all("X-Stripe-Client-Telemetry" not in headers for headers in stripe.headers)


def test_without_a_key_rows_wait(database: Database, stripe: FakeStripe) -> None:
    settings = told(stripe)
    assert settings.stripe is not None
    desk.close(database, settings, "acme", AMOUNTS)
    assert deliver(database, [StripeSender(settings.stripe, {})]) == 0
    assert desk.rows(database)[0].failure == "the environment variable STRIPE_API_KEY is not set"
    with pytest.raises(UnavailableError, match="cannot be asked"):
        compare(database, settings.stripe, environment={})


def test_without_stripe_nothing_is_put_and_nothing_is_sent(database: Database) -> None:
    desk.close(database, desk.settings(), "acme", AMOUNTS)
    assert desk.rows(database) == []
    assert deliver(database, []) == 0


def test_nothing_due_is_not_sent(database: Database, stripe: FakeStripe) -> None:
    settings = told(stripe)
    desk.close(database, settings, "acme", [CENT, -CENT])
    deliver(database, [sender(settings)])
    assert invoices(stripe) == []
    assert desk.rows(database, "stripe.invoice")[0].receipt == "nothing-due"
    assert wrong(database, settings) == ()


def test_a_very_long_invoice_is_one_line_at_stripe(database: Database, stripe: FakeStripe) -> None:
    settings = told(stripe)
    desk.close(database, settings, "acme", [CENT] * 201)
    deliver(database, [sender(settings)])
    assert [(i["total"], len(i["lines"]["data"])) for i in invoices(stripe)] == [(201, 1)]


@pytest.mark.parametrize(("currency", "nano", "wanted"), [("JPY", 500 * 10**9, 500), ("KWD", 1_250_000_000, 1250)])
def test_currencies_without_cents_and_with_three_decimals(
    database: Database, stripe: FakeStripe, currency: str, nano: int, wanted: int
) -> None:
    settings = told(stripe)
    desk.close(database, settings, "acme", [nano], currency=currency)
    deliver(database, [sender(settings)])
    assert [(i["total"], i["currency"]) for i in invoices(stripe)] == [(wanted, currency.lower())]


@pytest.mark.parametrize(("status", "gives"), [("open", None), ("paid", "out_of_band_amount")])
def test_a_credit_note_is_at_stripe_once_behind_its_invoice(
    database: Database, stripe: FakeStripe, status: str, gives: str | None
) -> None:
    settings = told(stripe)
    closed = desk.close(database, settings, "acme", AMOUNTS)
    deliver(database, [sender(settings)])
    invoices(stripe)[0]["status"] = status
    desk.credit(database, settings, closed, 5 * CENT)
    stripe.plan = ["drop-after"]
    deliver(database, [sender(settings)])
    desk.make_due(database)
    deliver(database, [sender(settings)])
    (note,) = of(stripe, "credit_note")
    assert (note["amount"], note["invoice"], note["memo"]) == ("5", invoices(stripe)[0]["id"], "CN-000001")
    assert [name for name in ("out_of_band_amount", "refund_amount", "credit_amount") if name in note] == (
        [gives] if gives else []
    )


def test_a_credit_note_takes_off_at_stripe_what_was_due_there(database: Database, stripe: FakeStripe) -> None:
    settings = told(stripe)
    closed = desk.close(database, settings, "acme", AMOUNTS)
    for amount in (2400 * CENT, 100 * CENT, 100 * CENT):
        desk.credit(database, settings, closed, amount)
    stripe.plan = [None] * 7 + ["drop-after", None, "drop-after"]
    desk.deliver_all(database, [sender(settings)])
    assert [note["amount"] for note in of(stripe, "credit_note")] == ["2400", "9"]
    assert [r.receipt for r in desk.rows(database, "stripe.credit_note")][2] == "nothing-due"


def test_a_credit_note_on_an_invoice_of_before_stripe_was_used_is_not_sent(
    database: Database, stripe: FakeStripe
) -> None:
    closed = desk.close(database, desk.settings(), "acme", AMOUNTS)
    settings = told(stripe)
    desk.credit(database, settings, closed, CENT)
    deliver(database, [sender(settings)])
    assert [r.receipt for r in desk.rows(database)] == ["nothing-due"]
    assert stripe.asked == []


def test_a_new_profile_changes_the_customer_at_stripe(database: Database, stripe: FakeStripe) -> None:
    settings = told(stripe)
    desk.close(database, settings, "acme", AMOUNTS)
    deliver(database, [sender(settings)])
    profile = {"name": "Acme Ltd", "email": "pay@acme.example", "country": "DE", "address": "Weg 1\n10115 Berlin"}

    def write(connection: Any) -> None:
        row = {"id": "p1", "tenant": "acme", "body": json.dumps(profile), "at": 1}
        connection.execute(insert(tables.profiles).values(row))
        tell_customer(connection, "acme")

    database.write(write)
    deliver(database, [sender(settings)])
    (customer,) = of(stripe, "customer")
    assert (customer["name"], customer["email"]) == ("Acme Ltd", "pay@acme.example")
    assert customer["address"] == {"line1": "Weg 1 10115 Berlin", "country": "DE"}
    assert customer_params("acme", None) == {"name": "acme", "metadata": {"feilun_tenant": "acme"}}


def test_the_comparison_names_what_is_missing_double_other_or_unfinished(
    database: Database, stripe: FakeStripe
) -> None:
    settings = told(stripe)
    closed = [desk.close(database, settings, "acme", AMOUNTS) for _ in range(5)]
    deliver(database, [sender(settings)])
    assert isinstance(stripe.backend, Memory)
    there = invoices(stripe)
    del stripe.backend.objects[there[0]["id"]]
    stripe.backend.objects["in_double"] = there[1] | {"id": "in_double"}
    there[2]["total"] += 1
    there[3]["status"] = "draft"
    desk.close(database, settings, "bravo", AMOUNTS)  # waits
    assert settings.stripe is not None
    found = compare(database, settings.stripe, environment=ENVIRONMENT)
    assert (found.compared, found.waiting, found.agrees) == (5, 1, False)
    numbers = [next(c.number for c in closed if c.number in problem) for problem in found.problems]
    assert numbers == [c.number for c in closed[:4]]
    words = ("0 invoices", "2 invoices", "24.09 USD, at Stripe 2410", "draft")
    assert all(word in problem for word, problem in zip(words, found.problems, strict=True)), found.problems


def test_the_comparison_can_be_of_one_month(database: Database, stripe: FakeStripe) -> None:
    settings = told(stripe)
    for month in ("2026-09", "2026-10", "2026-10"):
        desk.close(database, settings, "acme", AMOUNTS, period=month)
    deliver(database, [sender(settings)])
    assert settings.stripe is not None
    counted = [
        compare(database, settings.stripe, period=month, environment=ENVIRONMENT).compared
        for month in ("2026-09", "2026-10", "2026-11", None)
    ]
    assert counted == [1, 2, 0, 3]


def test_two_senders_at_once_make_each_invoice_once(database: Database, stripe: FakeStripe) -> None:
    settings = told(stripe)
    for n in range(4):
        desk.close(database, settings, f"tenant-{n}", AMOUNTS)
    with Database(database.url) as other:
        offices = itertools.cycle([(database, sender(settings)), (other, sender(settings))])
        for _ in range(8):
            where, office = next(offices)
            deliver(where, [office], most=1)
            if chance_of_a_lost_lease := next(offices)[0]:
                desk.make_due(chance_of_a_lost_lease)
    assert sorted(i["number"] for i in invoices(stripe)) == [f"INV-{n:06d}" for n in range(1, 5)]
    assert wrong(database, settings) == ()


def test_an_invoice_of_before_stripe_was_used_is_not_compared(database: Database, stripe: FakeStripe) -> None:
    desk.close(database, desk.settings(), "acme", AMOUNTS)
    settings = told(stripe)
    assert settings.stripe is not None
    assert compare(database, settings.stripe, environment=ENVIRONMENT) == stripe_compare.Comparison(0, 0, ())


def test_a_row_that_was_delivered_before_is_not_touched(database: Database, stripe: FakeStripe) -> None:
    settings = told(stripe)
    desk.close(database, settings, "acme", AMOUNTS)
    deliver(database, [sender(settings)])
    asked = len(stripe.asked)
    database.write(lambda c: c.execute(update(tables.outbox).values(due_at=0)) and None)
    assert deliver(database, [sender(settings)]) == 0
    assert len(stripe.asked) == asked
