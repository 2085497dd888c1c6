"""Our own webhooks: signed, told once each, and to nobody inside (RELIABILITY 2, 54, 55)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from feilun.bill.delivery import NotDelivered, deliver
from feilun.bill.outgoing_settings import WebhookSettings
from feilun.bill.settings import BillSettings
from feilun.bill.webhooks import Webhooks, key_of
from feilun.errors import SettingError
from feilun.store import outbox
from feilun.store.database import Database
from tests.bill import desk
from tests.bill.desk import CENT
from tests.receiver import Receiver, listening

KEY = b"twenty-four bytes or more of a secret"
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"
ENVIRONMENT = {"FEILUN_WEBHOOK_SECRET": SECRET}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with listening() as somebody:
        yield somebody


def told(receiver: Receiver) -> BillSettings:
    return desk.settings(webhook={"url": receiver.url, "allow_private": True})


def sender(settings: BillSettings) -> Webhooks:
    assert settings.webhook is not None
    return Webhooks(settings.webhook, ENVIRONMENT)


def verified(headers: dict[str, str], body: bytes) -> dict[str, Any]:
    """What a receiver does that follows Standard Webhooks, without any of our code."""
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    wanted = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
    assert f"v1,{wanted}" in headers["webhook-signature"].split(" ")
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 300
    return dict(json.loads(body))


def test_a_closed_invoice_is_told_signed(database: Database, receiver: Receiver) -> None:
    settings = told(receiver)
    closed = desk.close(database, settings, "acme", [19 * 100 * CENT])
    assert deliver(database, [sender(settings)]) == 1
    ((headers, body),) = receiver.got
    said = verified(headers, body)
    assert said["type"] == "invoice.closed"
    assert said["data"] == closed.as_dict()
    assert said["timestamp"].endswith("Z")
    assert headers["content-type"] == "application/json"
    assert desk.rows(database)[0].receipt == "200"


def test_the_documented_lines_verify_a_real_message_and_refuse_others(database: Database, receiver: Receiver) -> None:
    document = Path(__file__).parents[2] / "docs" / "bill.md"
    (lines,) = re.findall(r"```python\n(.*?)```", document.read_text("utf-8"), re.DOTALL)
    assert len(lines.strip().splitlines()) <= 10
    there: dict[str, Any] = {}
    exec(lines, there)
    settings = told(receiver)
    desk.close(database, settings, "acme", [CENT])
    assert deliver(database, [sender(settings)]) == 1
    ((headers, body),) = receiver.got
    genuine = there["is_genuine"]
    assert genuine(SECRET, headers, body)
    assert not genuine(SECRET, headers, body + b" ")
    assert not genuine(f"whsec_{base64.b64encode(KEY + b'!').decode()}", headers, body)
    assert not genuine(SECRET, headers | {"webhook-timestamp": str(int(time.time()) - 400)}, body)


def test_each_attempt_has_the_same_id_and_body_and_its_own_time(database: Database, receiver: Receiver) -> None:
    settings = told(receiver)
    receiver.answers = [500, 302, 404, 200]
    desk.close(database, settings, "acme", [CENT])
    desk.deliver_all(database, [sender(settings)])
    assert len({(headers["webhook-id"], body) for headers, body in receiver.got}) == 1
    assert len(receiver.got) == 4
    for headers, body in receiver.got:
        verified(headers, body)


def test_a_limit_that_the_ledger_notes_is_told(database: Database, receiver: Receiver) -> None:
    settings = told(receiver)
    payload = {"type": "budget.warning", "data": {"tenant": "acme", "percent": 80}}
    identity = "limit:" + "a" * 64 + ":budget:2026-11:80"
    for _ in range(2):
        database.write(lambda c: outbox.put(c, kind="webhook", id=identity, subject="acme", payload=payload))
    assert deliver(database, [sender(settings)]) == 1
    ((headers, body),) = receiver.got
    assert verified(headers, body)["data"] == payload["data"]


def test_credit_notes_are_told_behind_their_invoice(database: Database, receiver: Receiver) -> None:
    settings = told(receiver)
    closed = desk.close(database, settings, "acme", [CENT])
    desk.credit(database, settings, closed, CENT)
    assert deliver(database, [sender(settings)]) == 2
    assert [verified(*got)["type"] for got in receiver.got] == ["invoice.closed", "credit_note.closed"]


def test_gone_is_for_good_and_a_pause_that_is_asked_for_is_kept(database: Database, receiver: Receiver) -> None:
    settings = told(receiver)
    receiver.answers, receiver.headers = [410, 503], {"Retry-After": "600"}
    desk.close(database, settings, "acme", [CENT])
    desk.close(database, settings, "bravo", [CENT])
    deliver(database, [sender(settings)])
    gone, busy = desk.rows(database)
    assert (gone.state, busy.state) == ("dead", "waiting")
    with database.read() as connection:
        assert busy.due_at - outbox.now_us(connection) > 590 * 10**6


def test_redirects_are_not_followed_case_54(database: Database, receiver: Receiver) -> None:
    settings = told(receiver)
    receiver.answers, receiver.headers = [307], {"Location": f"{receiver.url}/inside"}
    desk.close(database, settings, "acme", [CENT])
    assert deliver(database, [sender(settings)]) == 0
    assert len(receiver.got) == 1
    assert desk.rows(database)[0].failure == "it answered 307"


def reached(url: str, *, private: bool = False) -> str:
    """What kept a webhook from ``url``."""
    settings = WebhookSettings.model_construct(
        url=url, secret_env="FEILUN_WEBHOOK_SECRET", allow_private=private
    )  # the settings' own check is another one
    parcel = outbox.Parcel("id", "webhook", "acme", {"type": "x"}, 1, 0, int(time.time()) * 10**6)
    nothing: Any = None  # it asks no database
    with pytest.raises(NotDelivered) as caught:
        Webhooks(settings, ENVIRONMENT).send(nothing, parcel)
    return caught.value.what


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0", "[::1]", "[::ffff:127.0.0.1]"),
        *("10.0.0.8", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254", "[fe80::1]", "[fc00::1]"),
        *("[64:ff9b::7f00:1]", "[2002:7f00:1::]", "0.0.0.0", "224.0.0.1"),
    ],
)
def test_nothing_inside_is_connected_to_case_54(receiver: Receiver, host: str) -> None:
    port = receiver.url.rpartition(":")[2]
    assert reached(f"http://{host}:{port}").startswith("private-address")
    assert receiver.got == []


@pytest.mark.parametrize("host", ["169.254.169.254", "[fe80::1]", "0.0.0.0", "[fd00:ec2::254]", "224.0.0.1"])
def test_a_private_network_does_not_mean_a_machines_own_credentials_case_54(host: str) -> None:
    assert reached(f"http://{host}:80", private=True).startswith("private-address")


def test_a_name_that_resolves_otherwise_the_second_time_reaches_nothing_case_54(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(receiver.url.rpartition(":")[2].partition("/")[0])
    asked: list[str] = []
    real: Callable[..., Any] = socket.getaddrinfo

    def rebinding(host: str, *more: Any, **named: Any) -> Any:
        if host != "rebinds.example":
            return real(host, *more, **named)
        asked.append(host)
        address = "203.0.113.1" if len(asked) % 2 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    assert reached(f"http://rebinds.example:{port}").startswith("private-address")  # 203.0.113.0/24 is for documents
    assert reached(f"http://rebinds.example:{port}").startswith("private-address")
    assert len(asked) == 2, "a connection is made to the address that was checked"
    assert receiver.got == []


def test_settings_want_https(receiver: Receiver) -> None:
    for url in ("http://example.com/hook", "ftp://example.com", "example.com", receiver.url):
        with pytest.raises(ValidationError):
            WebhookSettings(url=url)
    assert WebhookSettings(url="https://example.com/hook").allow_private is False


@pytest.mark.parametrize("secret", ["", "short", "whsec_!!!", "whsec_c2hvcnQ="])
def test_without_a_good_secret_nothing_is_sent_and_none_of_it_is_told_case_55(
    database: Database, receiver: Receiver, secret: str
) -> None:
    settings = told(receiver)
    assert settings.webhook is not None
    desk.close(database, settings, "acme", [CENT])
    assert deliver(database, [Webhooks(settings.webhook, {"FEILUN_WEBHOOK_SECRET": secret})]) == 0
    failure = desk.rows(database)[0].failure
    assert failure is not None
    assert "FEILUN_WEBHOOK_SECRET" in failure
    assert not secret or secret.removeprefix("whsec_") not in failure
    assert receiver.got == []


def test_the_secret_is_in_no_row_and_no_log_case_55(
    database: Database, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    settings = told(receiver)
    receiver.answers = [500]
    desk.close(database, settings, "acme", [CENT])
    desk.deliver_all(database, [sender(settings)])
    everything = f"{caplog.text} {desk.rows(database)} {receiver.got}"
    assert SECRET not in everything
    assert KEY.decode() not in everything


def test_secrets_are_base64_or_text() -> None:
    assert key_of(SECRET) == KEY
    assert key_of(KEY.decode()) == KEY
    with pytest.raises(SettingError):
        key_of("whsec_ä")


def test_an_endpoint_that_is_down_does_not_hold_up_another_customer(database: Database, receiver: Receiver) -> None:
    settings = told(receiver)
    for name in ("acme", "bravo", "acme"):
        desk.close(database, settings, name, [CENT])
    receiver.answers = [500]
    assert deliver(database, [sender(settings)]) == 1
    assert [row.state for row in desk.rows(database)] == ["waiting", "delivered", "waiting"]
