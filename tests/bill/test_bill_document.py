"""docs/bill.md: its example is a valid section, and it names every setting."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from feilun.accounts.terms import Counts
from feilun.bill.forecast import forecast
from feilun.bill.forecast_draws import Measured, Part
from feilun.bill.forecast_settings import ForecastSettings
from feilun.bill.plan_settings import Change, PlanSettings, Step, Tiers
from feilun.bill.settings import (
    BUILT_IN,
    BillSettings,
    CouponSettings,
    MeterSettings,
    SellerSettings,
    StripeSettings,
    TaxRate,
    TaxSettings,
    WebhookSettings,
)
from feilun.pipeline import project
from feilun.serve.settings import GatewaySettings
from feilun.store import cloudevents, events
from feilun.store.money import NANO

ROOT = Path(__file__).parent.parent.parent
DOCUMENT = (ROOT / "docs" / "bill.md").read_text("utf-8")
EXAMPLES = re.findall(r"```toml\n(.*?)```", DOCUMENT, re.DOTALL)
KINDS: tuple[type[BaseModel], ...] = (
    *(BillSettings, PlanSettings, Change, Tiers, Step, MeterSettings, CouponSettings, TaxSettings, TaxRate),
    *(SellerSettings, WebhookSettings, StripeSettings),
)


@pytest.fixture(scope="module")
def stated() -> BillSettings:
    return BillSettings.model_validate(tomllib.loads(EXAMPLES[0])["bill"])


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_every_example_is_a_project(number: int, tmp_path: Path) -> None:
    together = "\n".join(dict.fromkeys([EXAMPLES[0], EXAMPLES[number]]))  # the later ones go on from the first
    (tmp_path / "feilun.toml").write_text(f'[project]\nname = "documented"\n{together}', "utf-8")
    loaded = project.load(tmp_path, {"bill": BillSettings}).others["bill"]
    assert isinstance(loaded, BillSettings)
    assert loaded.all_terms().keys() == loaded.plans.keys()


def test_every_setting_of_a_forecast_is_in_its_section_and_its_example_works(stated: BillSettings) -> None:
    section = DOCUMENT.partition("\n## Forecast\n")[2].partition("\n## ")[0]
    assert not ForecastSettings.model_fields.keys() - set(re.findall(r"[a-z_]+", section))
    (example,) = re.findall(r"```toml\n(.*?)```", section, re.DOTALL)
    chosen = ForecastSettings.model_validate(tomllib.loads(example)["bill"]["forecast"]["launch"] | {"draws": 20})
    past = Measured((Part(10, {"tokens": 50}, 10**9, 10**8),), customers=(30.0,), core_hour_nano=50_000_000)
    assert forecast("launch", chosen, stated.all_terms(), past, "2026-12").months[0].revenue_nano.p50 > 0


def test_the_event_of_the_example_is_one() -> None:
    (body,) = re.findall(r"-d '(\{.*?\n  \})'", DOCUMENT, re.DOTALL)
    event = cloudevents.read(json.loads(body))
    assert (event.tenant, event.meter, event.units, event.id) == ("acme", "pages", 12, "job-1048")
    assert f"up to {events.MOST:,}" in DOCUMENT and f"{GatewaySettings().body_bytes:,} bytes" in DOCUMENT
    assert events.MOST_UNITS == 10**12 and events.LONGEST == 255 and events.PAST_US == 366 * events.FUTURE_US


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_is_in_the_example_or_the_text(kind: type[BaseModel]) -> None:
    words = set(re.findall(r"[a-z_]+", DOCUMENT))
    assert not [name for name in kind.model_fields if name not in words]


def test_every_meter_is_in_the_text() -> None:
    assert not [meter for meter in BUILT_IN if f"`{meter}`" not in DOCUMENT]


def test_the_prices_of_the_example_are_what_the_text_says(stated: BillSettings) -> None:
    growth = stated.terms("growth", 0)
    cents: list[Any] = [
        growth.total(Counts(pages=n)) // 10**7 for n in (100, 101, 1_100, 1_101, 10_100, 10_101, 10_111)
    ]
    assert cents == [0, 2, 2_000, 2_201, 11_200, 11_200, 11_205]
    assert growth.total(Counts(tokens=1)) == growth.total(Counts(tokens=1_000_000)) == 5 * NANO
    assert growth.amount(Counts(spans=100_000), Counts(spans=100_001)) < 0
    assert stated.terms("starter", 0).total(Counts(tokens=1_000_001)) == 10_000
    begins = stated.all_terms()["growth"].entries[1][0]
    assert stated.terms("growth", begins - 1).monthly_nano == 49 * NANO
    assert stated.terms("growth", begins).monthly_nano == 59 * NANO


@pytest.mark.parametrize("file", sorted(ROOT.glob("examples/*/feilun.toml")), ids=lambda path: path.parent.name)
def test_the_examples_of_the_project_have_valid_plans(file: Path) -> None:
    declared = tomllib.loads(file.read_text("utf-8"))
    assert "serve" not in declared or BillSettings.model_validate(declared["bill"]).all_terms()
