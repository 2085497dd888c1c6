"""What Stripe tells: only what it signed, only what is fresh, each event once, in any order (RELIABILITY 20)."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from feilun.bill import stripe_inbox
from feilun.bill.delivery import deliver
from feilun.bill.office import Office
from feilun.bill.stripe_inbox import SignatureError, payment_states, receive, state_of
from feilun.bill.stripe_sender import StripeSender
from feilun.serve.app import create_app, make_gateway
from feilun.serve.settings import GatewaySettings
from feilun.store import tables
from feilun.store.artifacts import ArtifactStore
from feilun.store.database import Database
from tests.bill import desk
from tests.bill.desk import CENT
from tests.bill.fake_stripe import KEY, SECRET, FakeStripe, Memory, event, fake_stripe, signature

LIFE = ("invoice.finalized", "invoice.payment_failed", "invoice.payment_succeeded", "invoice.paid")


@pytest.fixture
def stripe() -> Iterator[FakeStripe]:
    with fake_stripe(Memory()) as running:
        yield running


def sent(database: Database, stripe: FakeStripe) -> dict[str, Any]:
    """An invoice of 24 dollars at Stripe, paid there."""
    settings = desk.settings(stripe={"api_base": stripe.base})
    desk.close(database, settings, "acme", [2400 * CENT])
    assert settings.stripe is not None
    deliver(database, [StripeSender(settings.stripe, {"STRIPE_API_KEY": KEY})])
    assert isinstance(stripe.backend, Memory)
    (made,) = stripe.backend.of("invoice")
    return made | {"amount_paid": 2400}


def tell(database: Database, body: bytes) -> bool:
    return receive(database, body, signature(body), SECRET)


def payments(database: Database) -> list[Any]:
    with database.read() as connection:
        return list(connection.execute(select(tables.payments).order_by(tables.payments.c.id)))


def states(database: Database) -> dict[str, str]:
    with database.read() as connection:
        return payment_states(connection)


def test_a_payment_is_kept_with_its_invoice_and_amount(database: Database, stripe: FakeStripe) -> None:
    assert tell(database, event("invoice.paid", sent(database, stripe), id="evt_1", created=1_793_500_000))
    (row,) = payments(database)
    assert (row.invoice, row.status, row.amount_nano, row.currency) == ("INV-000001", "paid", 24 * 10**9, "USD")
    assert row.happened_at == 1_793_500_000 * 10**6
    assert states(database) == {"INV-000001": "paid"}


def test_an_event_that_comes_three_times_has_one_effect_case_20(database: Database, stripe: FakeStripe) -> None:
    body = event("invoice.paid", sent(database, stripe), id="evt_1")
    assert [tell(database, body) for _ in range(3)] == [True, False, False]
    assert len(payments(database)) == 1


@pytest.mark.parametrize("order", list(itertools.permutations(LIFE))[::5])
def test_events_out_of_order_end_in_the_same_state_case_20(
    database: Database, stripe: FakeStripe, order: tuple[str, ...]
) -> None:
    made = sent(database, stripe)
    for kind in order:
        tell(database, event(kind, made, id=f"evt_{kind}", created=1_793_500_000 + LIFE.index(kind)))
    assert states(database) == {"INV-000001": "paid"}
    assert len(payments(database)) == 4


@given(st.lists(st.sampled_from([*dict.fromkeys(stripe_inbox.STATES.values())])), st.randoms())
def test_the_state_is_a_function_of_what_was_told_and_not_of_its_order(told: list[str], chance: Any) -> None:
    mixed = [*told, *told]
    chance.shuffle(mixed)
    assert state_of(mixed) == state_of(told)


def forged() -> dict[str, tuple[bytes, str]]:
    body = event("invoice.paid", {"id": "in_1", "currency": "usd", "amount_paid": 1}, id="evt_1")
    now = int(time.time())
    good = signature(body)
    return {
        "another secret": (body, signature(body, secret="whsec_of_somebody_else")),
        "another body": (body + b" ", good),
        "no time": (body, good.partition(",")[2]),
        "another time": (body, good.replace(f"t={now}", f"t={now - 1}")),
        "empty": (body, ""),
        "nonsense": (body, "t=,v1="),
        "not ASCII": (body, good + "\u00e9"),
        "another scheme": (body, good.replace("v1=", "v0=")),
        "endless": (body, good + "," + "v1=a," * 5_000),
        "stale": (body, signature(body, at=now - 301)),
        "very old": (body, signature(body, at=1)),
        "not UTF-8": (b"\xff\xfe", signature(b"\xff\xfe")),
    }


@pytest.mark.parametrize("what", list(forged()))
def test_what_is_forged_or_stale_is_refused_case_20(database: Database, what: str) -> None:
    body, given_signature = forged()[what]
    with pytest.raises(SignatureError) as caught:
        receive(database, body, given_signature, SECRET)
    assert caught.value.status == 400
    assert SECRET not in str(caught.value)
    assert payments(database) == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"null", b'{"type": "invoice.paid", "id": "e"}', b"[" * 100_000])
def test_a_signed_body_that_is_no_event_is_refused(database: Database, body: bytes) -> None:
    with pytest.raises(SignatureError) as caught:
        receive(database, body, signature(body), SECRET)
    assert caught.value.name == "bad-event"


@pytest.mark.parametrize("amount", [1.5, "24", True, None])
def test_an_amount_that_is_not_a_whole_number_is_refused(database: Database, amount: Any) -> None:
    body = event("invoice.paid", {"id": "in_1", "currency": "usd", "amount_paid": amount}, id="evt_1")
    with pytest.raises(SignatureError):
        receive(database, body, signature(body), SECRET)


def test_events_about_other_things_are_taken_and_forgotten(database: Database, stripe: FakeStripe) -> None:
    made = sent(database, stripe)
    assert not tell(database, event("customer.created", {"id": "cus_1"}, id="evt_1"))
    assert not tell(database, event("invoice.paid", made | {"id": "in_other", "metadata": {}}, id="evt_2"))
    stranger = made | {"id": "in_other", "metadata": {"feilun_invoice": "INV-000099"}}
    assert not tell(database, event("invoice.paid", stranger, id="evt_3"))
    assert payments(database) == []


def test_an_event_that_is_faster_than_the_receipt_is_known_by_our_number(database: Database) -> None:
    desk.close(database, desk.settings(stripe={}), "acme", [2400 * CENT])
    made = {"id": "in_1", "currency": "usd", "amount_due": 2400, "metadata": {"feilun_invoice": "INV-000001"}}
    assert tell(database, event("invoice.finalized", made, id="evt_1"))
    assert states(database) == {"INV-000001": "open"}


def posted(database: Database, folder: Path, settings: Any, *asked: tuple[bytes, dict[str, str]]) -> list[Any]:
    """Bodies sent to the route of an application that has this office; what it answered."""
    store = ArtifactStore(folder, database)
    gateway = make_gateway(store, b"p" * 32, {}, GatewaySettings())
    gateway.office = Office(store, settings) if settings is not None else None

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(create_app(gateway))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            url = "/v1/stripe/webhook"
            return [await http.post(url, content=body, headers=headers) for body, headers in asked]

    return [(reply.status_code, reply.json()) for reply in anyio.run(ask)]


def test_the_route_takes_what_stripe_signed_and_nothing_else_case_20(
    database: Database, stripe: FakeStripe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRIPE_WEBHOOK_SECRET", SECRET)
    settings = desk.settings(stripe={"api_base": stripe.base})
    body = event("invoice.paid", sent(database, stripe), id="evt_1")
    json_type = {"Content-Type": "application/json; charset=utf-8"}
    good = json_type | {"Stripe-Signature": signature(body)}
    bad = json_type | {"Stripe-Signature": signature(body, secret="whsec_other")}
    stale = json_type | {"Stripe-Signature": signature(body, at=int(time.time()) - 600)}
    long = json_type | {"Stripe-Signature": "t=1,v1=a"}
    asked = ((body, good), (body, good), (body, bad), (body, stale), (body, json_type), (b"x" * 300_000, long))
    answers = posted(database, tmp_path, settings, *asked)
    assert [status for status, _ in answers] == [200, 200, 400, 400, 400, 413]
    assert SECRET not in json.dumps(answers)
    assert len(payments(database)) == 1


def test_without_stripe_the_route_is_not_there_and_without_a_secret_it_is_not_ready(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STRIPE_WEBHOOK_SECRET", raising=False)
    asked = (b"{}", {"Stripe-Signature": signature(b"{}"), "Content-Type": "application/json"})
    for settings, status in ((None, 404), (desk.settings(), 404), (desk.settings(stripe={}), 503)):
        assert posted(database, tmp_path, settings, asked)[0][0] == status
