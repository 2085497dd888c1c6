"""``feilun bill margin`` and ``feilun bill replay``, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from feilun.cli import app
from feilun.store.migrations import open_database
from tests.bill.books import Books, Use, at

PROJECT = """[project]
name = "shop"

[bill]
costs = { rent = "20 USD" }

[bill.plans.starter]
monthly = "19.00 USD"
overage = { requests = "0.01 USD" }

[bill.plans.growth]
monthly = "30.00 USD"
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from feilun.flywheel import Flywheel

    url = f"sqlite:///{tmp_path}/feilun.db"
    monkeypatch.setenv("FEILUN_DATABASE_URL", url)
    (tmp_path / "feilun.toml").write_text(PROJECT)
    with Flywheel(tmp_path) as wheel, open_database(url) as database:
        books = Books(database)
        tenant = books.tenant()
        books.use(tenant, [Use(at("2026-09-02"))] * 5, wheel.bill_settings.terms("starter"))
    return tmp_path


def run(shop: Path, *words: str) -> str:
    done = CliRunner().invoke(app, ["bill", *words, "--project", str(shop)])
    assert done.exit_code == 0, done.output
    return done.output


def told(shop: Path, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(shop, *words, "--json"))
    return found


def test_margins_are_told_as_a_table_as_json_and_as_a_picture(shop: Path) -> None:
    text = run(shop, "margin", "--period", "2026-09", "--plot", str(shop / "margin.svg"))
    assert "20.00 USD" in text and "without fees yet" in text
    assert (shop / "margin.svg").stat().st_size > 1_000
    found = told(shop, "margin", "--by", "day", "--period", "2026-09")
    assert len(found["rows"]) == 30 and found["total"]["fixed_nano"] == 20 * 10**9
    assert told(shop, "margin", "--period", "all")["total"]["requests"] == 5


def test_a_month_is_replayed_under_another_plan(shop: Path) -> None:
    found = told(shop, "replay", "--period", "2026-09", "--plan", "growth")
    assert found["total"]["then"]["revenue_nano"] == 19_050_000_000
    assert found["total"]["instead"]["revenue_nano"] == 30 * 10**9
    assert "starter > growth" in run(shop, "replay", "--period", "2026-09", "--plan", "growth")
