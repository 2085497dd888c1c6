"""``feilun bill`` and its sub-commands, in this process, on a project of plans alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from feilun.cli import app
from feilun.errors import AccessError, ConflictError, SettingError

PROJECT = """
[project]
name = "shop"

[bill]
seller = { name = "Shop GmbH", country = "DE" }

[bill.plans.small]
monthly = "20.00 USD"

[bill.plans.large]
monthly = "50.00 USD"

[bill.coupons.TENTH]
percent_off = "10"

[bill.tax]
rates = [{ country = "DE", name = "VAT", percent = "19" }]
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "feilun.toml").write_text(PROJECT)
    monkeypatch.chdir(tmp_path)
    for name in ("FEILUN_HOME", "FEILUN_DATABASE_URL", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)


def feilun(*arguments: str, code: int = 0) -> Any:
    """What a command prints with --json."""
    done = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def test_from_a_customer_to_a_paid_and_a_corrected_invoice() -> None:
    feilun("tenant", "add", "acme", "--plan", "small")
    assert feilun("bill", "profile", "acme", "--name", "Acme", "--country", "DE") == {"name": "Acme", "country": "DE"}
    assert feilun("bill", "coupon", "acme", "TENTH")[0]["off"] == "10%"
    (credit,) = feilun("bill", "credit", "acme", "5.00 USD", "--expires", "2999-01-01", "--reason", "welcome")
    assert (credit["left"], credit["reason"]) == ("5.00 USD", "welcome")
    (invoice,) = feilun("bill", "close", "--now")["invoices"]
    assert [line["kind"] for line in invoice["lines"]] == ["fee", "discount", "tax", "credit"]
    assert (invoice["total"], invoice["due_nano"]) == ("21.42 USD", 16_420_000_000)
    assert feilun("bill", "credit", "acme")[0]["left"] == "0.00 USD"
    note = feilun("bill", "note", invoice["number"], "--reason", "a gift")
    assert (note["number"], note["total"], note["reason"]) == ("CN-000001", "-21.42 USD", "a gift")
    checked = feilun("bill", "verify")
    assert (checked["holds"], checked["invoices"], checked["credit_notes"]) == (True, 1, 1)


def test_an_upgrade_is_prorated_on_the_next_invoice() -> None:
    feilun("tenant", "add", "acme", "--plan", "small")
    feilun("bill", "close", "--now")
    assert feilun("bill", "plan", "acme", "large")["plan"] == "large"
    drafts = feilun("bill", "--tenant", "acme")["invoices"]
    assert [line["kind"] for line in drafts[-1]["lines"]] == ["unused", "fee", "tax"]
    assert len(drafts) == 2 and drafts[-1]["number"] == "DRAFT" and drafts[-1]["state"] == "draft"


def test_the_last_month_is_closed_where_none_is_named_and_mistakes_are_said() -> None:
    feilun("tenant", "add", "acme", "--plan", "small")
    closed = feilun("bill", "close")
    assert closed["invoices"] == [] and closed["period"] < feilun("bill", "close", "--now")["period"]
    with pytest.raises(SettingError, match="no plan 'lrge'"):
        feilun("bill", "plan", "acme", "lrge")
    with pytest.raises(SettingError, match="is not a day"):
        feilun("bill", "credit", "acme", "5 USD", "--expires", "soon")
    feilun("bill", "coupon", "acme", "TENTH")
    with pytest.raises(ConflictError, match="redeemed before"):
        feilun("bill", "coupon", "acme", "TENTH")


@pytest.mark.parametrize("command", ["close", "verify", "note", "credit", "coupon", "profile", "plan"])
def test_each_sub_command_explains_itself_and_shows_a_table_without_json(command: str) -> None:
    done = CliRunner().invoke(app, ["bill", command, "--help"])
    assert done.exit_code == 0 and "--json" in done.stdout


def test_tables_for_people() -> None:
    feilun("tenant", "add", "acme", "--plan", "small")
    commands = (["credit", "acme", "5 USD"], ["coupon", "acme"], ["profile", "acme", "--name", "Acme"])
    for command in (*commands, ["close", "--now"], ["note", "INV-000001"], ["verify"], ["plan", "acme", "large"]):
        done = CliRunner().invoke(app, ["bill", *command], catch_exceptions=False)
        assert done.exit_code == 0, done.output


def test_a_product_that_is_not_built_is_not_sold_and_says_what_to_do() -> None:
    with Path("feilun.toml").open("a") as file:
        file.write('\n[bill.products.complaints]\nsource = "feedback"\nlicence = "none"\ncolumns = ["text"]\n')
    feilun("tenant", "add", "acme", "--plan", "small")
    assert feilun("bill", "product", "list") == feilun("bill", "product", "list", "--tenant", "acme") == []
    said = {}
    for name in ("complaints", "complaint", "something"):
        with pytest.raises(AccessError) as refused:
            feilun("bill", "product", "sell", name, "--tenant", "acme", "--out", "rows.csv")
        said[name] = (refused.value.what, refused.value.hint)
    assert said["complaints"] == (
        "product 'complaints' is not built yet",
        "build it: feilun bill product build complaints",
    )
    assert said["complaint"][1] == "did you mean 'complaints'?" and said["something"][1] == "known: complaints"
    assert not Path("rows.csv").exists()


def test_what_a_customer_s_country_would_decide_and_an_interim_state_are_said() -> None:
    feilun("tenant", "add", "acme", "--plan", "small")
    feilun("tenant", "add", "beta", "--plan", "small")
    feilun("bill", "profile", "beta", "--country", "DE")
    shown = " ".join(CliRunner().invoke(app, ["bill", "close", "--now"], catch_exceptions=False).output.split())
    assert "interim" in shown and "final" not in shown
    assert "no country known of: acme; taxed as in DE: feilun bill profile" in shown
    with pytest.raises(SettingError, match="would pay for nothing"):
        feilun("bill", "credit", "acme", "5 EUR")
    with pytest.raises(SettingError, match="cannot be granted"):
        CliRunner().invoke(app, ["bill", "credit", "acme", "--", "-5 USD"], catch_exceptions=False)


def test_a_note_says_what_became_credit_again_and_what_is_to_be_paid_back() -> None:
    feilun("tenant", "add", "acme", "--plan", "small")
    feilun("bill", "credit", "acme", "5.00 USD")
    (invoice,) = feilun("bill", "close", "--now")["invoices"]
    done = CliRunner().invoke(app, ["bill", "note", invoice["number"]], catch_exceptions=False)
    shown = " ".join(done.output.split())
    assert "CN-000001 takes back 23.80 USD of INV-000001" in shown
    assert "5.00 USD is prepaid credit of acme again" in shown and "18.80 USD is to be paid back or set off" in shown
    assert [grant["left"] for grant in feilun("bill", "credit", "acme")] == ["0.00 USD", "5.00 USD"]
