"""``feilun bill deliver``, ``outbox`` and ``payments`` as people and programs call them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert
from typer.testing import CliRunner

from feilun.accounts import tenants
from feilun.cli import app
from feilun.errors import AccessError
from feilun.flywheel import Flywheel
from feilun.store import outbox, tables
from tests.receiver import Receiver, listening

PROJECT = """
[project]
name = "demo"

[bill.webhook]
url = "{url}"
allow_private = true
"""


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv("FEILUN_WEBHOOK_SECRET", "a secret of twenty-four bytes, or more")
    with listening() as somebody:
        yield somebody


@pytest.fixture
def project(tmp_path: Path, receiver: Receiver) -> Path:
    (tmp_path / "feilun.toml").write_text(PROJECT.format(url=receiver.url))
    with Flywheel(tmp_path) as wheel:
        for name in ("one", "two", "three"):
            payload = {"type": "budget.warning", "data": {"tenant": name}}

            def write(connection: Any, name: str = name, payload: dict[str, Any] = payload) -> bool:
                return outbox.put(connection, kind="webhook", id=name, subject=name, payload=payload)

            wheel.database.write(write)
    return tmp_path


def run(project: Path, *arguments: str) -> Any:
    return CliRunner().invoke(app, ["bill", *arguments, "--project", str(project)], catch_exceptions=False)


def told(project: Path, *arguments: str) -> Any:
    return json.loads(run(project, *arguments, "--json").stdout)


def test_what_is_due_is_sent_and_what_is_dead_is_listed_and_can_go_out_again(project: Path, receiver: Receiver) -> None:
    receiver.answers = [200, 410, 503]
    assert told(project, "deliver") == {"delivered": 1, "counts": {"waiting": 1, "delivered": 1, "dead": 1}}
    listed = told(project, "outbox")["rows"]
    assert {row["state"]: row["failure"] for row in listed} == {
        "dead": "it answered 410: it wants no more of this",
        "waiting": "it answered 503",
    }
    shown = run(project, "outbox").stdout
    assert "dead" in shown and "webhook" in shown
    dead = next(row["id"] for row in listed if row["state"] == "dead")
    assert told(project, "outbox", "--again", dead)["counts"]["dead"] == 0
    assert told(project, "deliver")["delivered"] == 1
    assert len(told(project, "outbox", "--all")["rows"]) == 3


def test_a_letter_that_is_not_dead_cannot_go_out_again(project: Path) -> None:
    with pytest.raises(AccessError, match="no dead letter"):
        run(project, "outbox", "--again", "one")
    assert told(project, "outbox", "--again", "all")["counts"]["waiting"] == 3


def test_payments_are_listed(project: Path) -> None:
    values = {"id": "i1", "number": "INV-000001", "tenant": "acme", "period": "2026-10", "currency": "USD", "at": 1}
    values |= {"total_nano": 1, "first_sequence": 1, "last_sequence": 0, "body": "{}"}
    paid = {"id": "evt_1", "invoice": "i1", "kind": "invoice.paid", "status": "paid", "amount_nano": 1}
    with Flywheel(project) as wheel:
        tenants.create(wheel.database, "acme", plan="starter")

        def write(connection: Any) -> None:
            connection.execute(insert(tables.invoices).values(values))
            connection.execute(insert(tables.payments).values(**paid, currency="USD", happened_at=1, at=1))

        wheel.database.write(write)
    assert told(project, "payments") == {"payments": {"INV-000001": "paid"}}
    assert "INV-000001" in run(project, "payments").stdout


def test_people_are_told_how_many_went_out(project: Path) -> None:
    assert "3 delivered, 0 waiting, 0 given up" in run(project, "deliver").stdout
