"""``feilun bill forecast`` and ``feilun bill product`` as people and programs call them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from feilun.cli import app
from feilun.errors import FeilunError

PROJECT = """
[project]
name = "demo"

[bill]
costs = { rent = "20 USD" }

[bill.plans.starter]
monthly = "19 USD"
included = { requests = 1000 }
overage = { requests = "0.001 USD", rows = "0.01 USD" }

[bill.forecast.launch]
plans = "starter"
months = 6
new_customers_per_month = { low = 1, likely = 3, high = 8 }
churn_percent = 4
requests_per_customer = 1500
tokens_per_request = 20
cost_per_request = "0.0001 USD"
cost_per_token = "0.000001 USD"
more_per_request = { rows = 0 }
upfront_cost = "100 USD"
draws = 500

[bill.products.words]
source = "feedback"
licence = "consent to share"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "feilun.toml").write_text(PROJECT)
    return tmp_path


def run(project: Path, *arguments: str) -> Any:
    return CliRunner().invoke(app, ["bill", *arguments, "--project", str(project)], catch_exceptions=False)


def test_a_forecast_is_a_table_for_people_json_for_programs_and_a_picture(project: Path) -> None:
    told = run(project, "forecast", "--plot", str(project / "launch.svg")).stdout
    assert "launch: median [5 %, 95 %] of 500 draws, USD" in told and "what the margin depends on" in told
    assert (project / "launch.svg").read_bytes().startswith(b"<?xml")
    done = json.loads(run(project, "forecast", "launch", "--json").stdout)
    assert (done["currency"], done["draws"], len(done["months"])) == ("USD", 500, 6)
    assert done["settings"]["months"] == 6 and done["months"][0]["cost_nano"]["p50"] > 20 * 10**9  # the rent is in it


def test_an_assumption_can_be_changed_for_once(project: Path) -> None:
    change = "bill.forecast.launch.new_customers_per_month=5"
    done = json.loads(run(project, "forecast", "--set", change, "--json").stdout)
    assert done["months"][0]["customers"] == {"p5": 5, "p50": 5, "p95": 5}


def test_what_cannot_be_forecast_is_said_in_three_lines(project: Path) -> None:
    with pytest.raises(FeilunError, match="there is no") as unknown:
        run(project, "forecast", "lunch")
    assert unknown.value.hint == "did you mean 'launch'?"
    with pytest.raises(FeilunError, match="cannot be measured"):
        run(project, "forecast", "--set", "bill.forecast.launch.tokens_per_request=measured")


def test_a_product_without_people_is_not_built_and_nothing_is_for_sale(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEILUN_PEPPER", "p" * 64)
    with pytest.raises(FeilunError, match="0 people let their words be shared"):
        run(project, "product", "build")
    CliRunner().invoke(app, ["tenant", "add", "acme", "--plan", "starter", "--project", str(project)])
    assert json.loads(run(project, "product", "list", "--tenant", "acme", "--json").stdout) == []
    with pytest.raises(FeilunError, match="no such product"):
        run(project, "product", "sell", "words", "--tenant", "acme", "--out", str(project / "words.csv"))
    assert not (project / "words.csv").exists()


def test_consent_is_recorded_and_withdrawn_by_purpose(project: Path) -> None:
    def feedback(*arguments: str) -> Any:
        where = ["--tenant", "acme", "--project", str(project), "--json"]
        return json.loads(CliRunner().invoke(app, ["feedback", *arguments, *where], catch_exceptions=False).stdout)

    CliRunner().invoke(app, ["tenant", "add", "acme", "--plan", "starter", "--project", str(project)])
    assert feedback("consent", "ann", "--purpose", "share")["share"] is True
    with pytest.raises(FeilunError, match="not a purpose"):
        feedback("consent", "ann", "--purpose", "sell")
    assert feedback("withdraw", "ann") == {"tenant": "acme", "contributor": "ann", "share": False}
