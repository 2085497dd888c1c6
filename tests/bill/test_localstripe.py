"""The same senders against localstripe, a Stripe of other people's making (case 19, 20).

localstripe 1.15 has customers, invoice items, payments and signed events. It has no idempotency keys, which the layer
of ``fake_stripe`` adds in front of it, and no invoices without a subscription, finalising, credit notes or meter
events: those are tested against ``fake_stripe.Memory`` alone (``test_stripe.py``).
"""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from sqlalchemy import select, update

from feilun.bill.delivery import deliver
from feilun.bill.office import Office
from feilun.bill.outgoing_settings import StripeSettings
from feilun.bill.stripe_inbox import payment_states
from feilun.bill.stripe_sender import StripeSender, connected, shown_lines
from feilun.serve.app import create_app, make_gateway
from feilun.serve.settings import GatewaySettings
from feilun.store import tables
from feilun.store.artifacts import ArtifactStore
from feilun.store.database import Database
from tests.bill import desk
from tests.bill.desk import CENT
from tests.bill.fake_stripe import FAULTS, KEY, SECRET, Forward, fake_stripe

AMOUNTS = (1900 * CENT, 250 * CENT, -150 * CENT)
ENVIRONMENT = {"STRIPE_API_KEY": KEY}
PICKLE = Path("/tmp/localstripe.pickle")  # where it keeps everything; that cannot be set


def until(true: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def answers(base: str) -> bool:
    try:
        return httpx.get(f"{base}/v1/customers", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def localstripe() -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "localstripe", "--port", str(port), "--from-scratch"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    base = f"http://127.0.0.1:{port}"
    try:
        until(lambda: answers(base))
        yield base
    finally:
        process.kill()
        process.wait()
        PICKLE.unlink(missing_ok=True)


@contextmanager
def gateway(database: Database, folder: Path, settings: Any) -> Iterator[str]:
    """The routes with this office behind them, on a port of this machine."""
    store = ArtifactStore(folder, database)
    made = make_gateway(store, b"p" * 32, {}, GatewaySettings())
    made.office = Office(store, settings)
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(create_app(made), port=port, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    yield f"http://127.0.0.1:{port}/v1/stripe/webhook"
    server.should_exit = True
    thread.join()


def customers(base: str, name: str) -> list[Any]:
    with connected(StripeSettings(api_base=base), KEY) as client:
        there = list(client.v1.customers.list({"limit": 100}).auto_paging_iter())
    return [c for c in there if c.metadata and c.metadata.to_dict().get("feilun_tenant") == name]


def test_a_customer_is_made_once_at_localstripe_whatever_fails_case_19(database: Database, localstripe: str) -> None:
    chance = random.Random(20261122)
    names = [f"{database.engine.dialect.name}-{n}" for n in range(6)]
    with closing(Forward(localstripe)) as backend, fake_stripe(backend) as faulty:
        settings = desk.settings(stripe={"api_base": faulty.base})
        for name in names:
            desk.close(database, settings, name, AMOUNTS)
        waiting = tables.outbox.c.kind != "stripe.customer"
        database.write(lambda c: c.execute(update(tables.outbox).where(waiting).values(dead_at=1)) and None)
        faulty.faults(chance, 40, 0.7, FAULTS[:6])  # it cannot list by time, as looking for a customer does
        assert settings.stripe is not None
        desk.deliver_all(database, [StripeSender(settings.stripe, ENVIRONMENT)])
        assert faulty.struck > 5
    made = [customers(localstripe, name) for name in names]
    assert [len(found) for found in made] == [1] * 6
    receipts = [row.receipt for row in desk.rows(database, "stripe.customer")]
    assert sorted(receipts) == sorted(found[0].id for found in made)


def paid_at_localstripe(base: str, customer: str, lines: list[tuple[str, str, int]]) -> Any:
    """localstripe makes invoices of a subscription only: one that costs nothing, with our lines as further items."""
    with connected(StripeSettings(api_base=base), KEY) as client:
        return subscribed(client.v1, customer, lines)


def subscribed(v1: Any, customer: str, lines: list[tuple[str, str, int]]) -> Any:
    card: Any = {"number": "4242424242424242", "exp_month": 12, "exp_year": 2040, "cvc": "123"}
    way = v1.payment_methods.create({"type": "card", "card": card})
    v1.payment_methods.attach(way.id, {"customer": customer})
    v1.customers.update(customer, {"invoice_settings": {"default_payment_method": way.id}})
    product = v1.products.create({"name": "nothing"})
    plan = v1.plans.create({"product": product.id, "amount": 0, "currency": "usd", "interval": "month"})
    for name, text, amount in lines:
        told: Any = {"customer": customer, "amount": amount, "currency": "usd", "description": text}
        v1.invoice_items.create(told | {"metadata": {"feilun_line": name}})
    items: Any = [{"plan": plan.id}]
    subscription = v1.subscriptions.create({"customer": customer, "items": items})
    return v1.invoices.retrieve(str(subscription.latest_invoice))


def test_localstripe_counts_our_total_and_its_signed_payment_reaches_the_invoice_once_case_20(
    database: Database, localstripe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRIPE_WEBHOOK_SECRET", SECRET)
    settings = desk.settings(stripe={"api_base": localstripe})
    assert settings.stripe is not None
    closed = desk.close(database, settings, f"{database.engine.dialect.name}-pays", AMOUNTS)
    deliver(database, [StripeSender(settings.stripe, ENVIRONMENT)], most=1)
    customer = desk.rows(database, "stripe.customer")[0].receipt
    assert customer is not None
    with gateway(database, tmp_path, settings) as hook:
        for name in ("one", "two"):  # two endpoints at the same address: each event comes twice
            endpoint = f"{localstripe}/_config/webhooks/{database.engine.dialect.name}-{name}"
            kinds = ["invoice.payment_succeeded", "customer.updated"]
            assert httpx.post(endpoint, json={"url": hook, "secret": SECRET, "events": kinds}).status_code == 200
        made = paid_at_localstripe(localstripe, customer, shown_lines(closed))
        assert (made.total, made.status, made.currency) == (closed.due_nano // CENT, "paid", "usd")
        ours = tables.outbox.c.kind == "stripe.invoice"
        database.write(lambda c: c.execute(update(tables.outbox).where(ours).values(receipt=made.id)) and None)
        until(lambda: states(database) == {closed.number: "paid"})
        time.sleep(0.3)  # the second copy
    with database.read() as connection:
        (row,) = connection.execute(select(tables.payments)).all()
    assert (row.kind, row.amount_nano, row.currency) == ("invoice.payment_succeeded", closed.due_nano, "USD")


def states(database: Database) -> dict[str, str]:
    with database.read() as connection:
        return payment_states(connection)


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "billing/meter_events"), ("GET", "credit_notes"), ("POST", "invoices/in_1/finalize")],
)
def test_what_localstripe_does_not_have_is_known(localstripe: str, method: str, path: str) -> None:
    reply = httpx.request(method, f"{localstripe}/v1/{path}", headers={"Authorization": f"Bearer {KEY}"})
    assert reply.status_code == 404, "it has it now: test against it"
