"""A customer is put on another plan: what becomes of its budget, and what is written down."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from feilun.bill import plan_history
from feilun.errors import AccessError, ConflictError, SettingError
from feilun.flywheel import Flywheel
from feilun.store import tables
from feilun.store.money import NANO

FILE = """
[project]
name = "plans"
[bill.plans.small]
monthly = "19.00 USD"
budget = "50 USD"
[bill.plans.big]
monthly = "49.00 USD"
budget = "500 USD"
[bill.plans.open]
monthly = "99.00 USD"
[bill.plans.euro]
monthly = "45.00 EUR"
budget = "400 EUR"
"""


@pytest.fixture
def wheel(tmp_path: Path) -> Iterator[Flywheel]:
    (tmp_path / "feilun.toml").write_text(FILE, "utf-8")
    with Flywheel(tmp_path, home=tmp_path / "home") as opened:
        opened.add_tenant("acme", "small")
        yield opened


def test_a_budget_that_was_the_plan_s_becomes_the_new_plan_s(wheel: Flywheel) -> None:
    assert wheel.set_plan("acme", "big").budget_nano == 500 * NANO
    assert wheel.set_plan("acme", "open").budget_nano is None
    with wheel.database.read() as connection:
        query = select(tables.assignments.c.plan).order_by(tables.assignments.c.at, tables.assignments.c.id)
        assert connection.execute(query).scalars().all() == ["small", "big", "open"]


def test_a_budget_of_its_own_stays_unless_another_is_stated(wheel: Flywheel) -> None:
    wheel.set_budget("acme", "70 USD")
    assert wheel.set_plan("acme", "big").budget_nano == 70 * NANO
    assert wheel.set_plan("acme", "open", budget="80 USD").budget_nano == 80 * NANO
    wheel.set_plan("acme", "small")
    assert wheel.set_budget("acme", None).budget_nano is None
    assert wheel.set_plan("acme", "big").budget_nano is None


def test_a_budget_is_in_the_currency_of_the_plan(wheel: Flywheel) -> None:
    with pytest.raises(SettingError, match="not in USD"):
        wheel.set_plan("acme", "big", budget="60 EUR")
    assert wheel.set_plan("acme", "big", budget="60 USD").budget_nano == 60 * NANO


def test_a_plan_or_a_customer_that_is_not_there_is_refused(wheel: Flywheel) -> None:
    with pytest.raises(SettingError, match="no plan 'bigg'"):
        wheel.set_plan("acme", "bigg")
    with pytest.raises(AccessError):
        wheel.set_plan("acne", "big")


def test_prices_are_written_down_when_there_is_somebody_to_pay_them(wheel: Flywheel) -> None:
    with wheel.database.read() as connection:
        known = plan_history.schedules(connection)
    assert {plan: schedule.newest.monthly_nano // NANO for plan, schedule in known.items()} == {
        "small": 19,
        "big": 49,
        "open": 99,
        "euro": 45,
    }


def test_an_edited_price_holds_from_when_the_project_is_next_used(wheel: Flywheel) -> None:
    file = wheel.root / "feilun.toml"
    file.write_text(FILE.replace("19.00", "29.00"), "utf-8")
    with Flywheel(wheel.root, home=wheel.deployment.home) as edited:
        edited.add_tenant("other", "small")
        with edited.database.read() as connection:
            entries = plan_history.schedules(connection)["small"].entries
            created = connection.execute(select(tables.tenants.c.created_at).order_by(tables.tenants.c.id)).scalars()
            first, second = created
    assert [terms.monthly_nano // NANO for _, terms in entries] == [19, 29]
    assert first <= entries[1][0] <= second + 1


def test_a_customer_keeps_its_currency(wheel: Flywheel) -> None:
    with pytest.raises(ConflictError, match="keeps its currency"):
        wheel.set_plan("acme", "euro")
    assert wheel.set_plan("acme", "big").plan == "big"
