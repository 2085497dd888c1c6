"""The section [bill]: what it may say, and how it says what is wrong."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from feilun.accounts.terms import Counts, Tariff, Terms, Tier
from feilun.bill.amounts import microseconds
from feilun.bill.settings import BillSettings
from feilun.errors import ProjectError, SettingError
from feilun.pipeline import project
from feilun.store.money import Money, parse_money

JANUARY = microseconds(datetime(2027, 1, 1, tzinfo=UTC))


def problems(values: dict[str, Any]) -> list[tuple[str, str]]:
    with pytest.raises(ValidationError) as caught:
        BillSettings.model_validate(values)
    return [(".".join(map(str, e["loc"])), e["msg"].removeprefix("Value error, ")) for e in caught.value.errors()]


def bill(toml: str) -> BillSettings:
    return BillSettings.model_validate(tomllib.loads(toml))


def test_the_section_of_the_example_becomes_terms(settings: BillSettings) -> None:
    terms = settings.terms("starter")
    assert (terms.currency, terms.monthly_nano) == ("USD", 19 * 10**9)
    assert terms.included["requests"] == 3 and terms.unit_nano == {"requests": 800_000}
    assert settings.core_hour == Money(50_000_000, "USD")
    assert set(settings.all_terms()) == {"starter", "tokens", "free"}
    assert BillSettings.model_validate(settings.model_dump()) == settings
    assert BillSettings.model_validate_json(settings.model_dump_json()) == settings


def test_a_price_for_several_units_is_a_plain_price_where_that_is_exact_and_a_tariff_where_it_is_not() -> None:
    plans = bill('[plans.a]\noverage = { tokens = "0.01 USD per 1000", inputs = "0.000000001 USD per 3" }')
    terms = plans.terms("a")
    assert terms.unit_nano == {"tokens": 10_000}
    assert terms.tariffs == {"inputs": Tariff("graduated", (Tier(None, 1, 3),))}
    assert terms.version == Terms("USD", unit_nano={"tokens": 10_000}, tariffs=terms.tariffs).version


def test_tiers_packages_and_limits_become_terms() -> None:
    plans = bill("""
        [meters.pages]
        unit = "page"
        [plans.growth]
        monthly = "49.00 EUR"
        minimum = "60.00 EUR"
        included = { tokens = 100, pages = 5, stored_examples = 50 }
        package = { tokens = "5 EUR per 1_000" }
        overage = { stored_examples = "0.01 EUR" }
        trial_days = 14
        prorate = "all"
        quota = { requests = 1000 }
        warn = [100, 50]
        prepaid = true
        tiers.pages = { mode = "volume", steps = [
            { up_to = 1000, price = "0 EUR" },
            { price = "0.002 EUR per 10", flat = "1 EUR" } ] }
    """)
    terms = plans.terms("growth")
    assert terms == Terms(
        "EUR",
        49 * 10**9,
        {"tokens": 100, "pages": 5, "stored_examples": 50},
        {"stored_examples": 10**7},
        {
            "tokens": Tariff("package", (Tier(None, 5 * 10**9, 1000),)),
            "pages": Tariff("volume", (Tier(1000, 0), Tier(None, 2_000_000, 10, 10**9))),
        },
        minimum_nano=60 * 10**9,
        trial_days=14,
        prorate="all",
        quota={"requests": 1000},
        warn_percent=(50, 100),
        prepaid=True,
    )
    assert terms.total(Counts(tokens=1101)) == 2 * 5 * 10**9
    assert plans.currency("growth") == "EUR"


def test_each_plan_has_its_own_currency_and_a_plan_without_amounts_that_of_the_core_hour() -> None:
    plans = bill('core_hour = "0.04 CHF"\n[plans.us]\nmonthly = "19 USD"\n[plans.jp]\nbudget = "100 JPY"\n[plans.no]')
    assert [plans.terms(name).currency for name in plans.plans] == ["USD", "JPY", "CHF"]


def test_a_change_begins_at_its_date_and_not_before() -> None:
    plans = bill("""
        [plans.growth]
        monthly = "49.00 USD"
        included = { requests = 10, tokens = 5 }
        overage = { requests = "0.01 USD", tokens = "0.001 USD" }
        [[plans.growth.changes]]
        begins = 2027-01-01
        monthly = "59.00 USD"
        overage = { requests = "0.02 USD" }
        [[plans.growth.changes]]
        begins = 2027-03-01T12:00:00+02:00
        included = { requests = 0 }
        tiers.tokens.steps = [{ up_to = 10, price = "0.003 USD" }, { price = "0.002 USD" }]
    """)
    before, after, last = (plans.terms("growth", us) for us in (JANUARY - 1, JANUARY, JANUARY + 10**14))
    assert (before.monthly_nano, after.monthly_nano, last.monthly_nano) == (49 * 10**9, 59 * 10**9, 59 * 10**9)
    assert before.unit_nano == {"requests": 10**7, "tokens": 10**6}
    assert after.unit_nano == {"requests": 2 * 10**7, "tokens": 10**6}, "a meter that a change does not name stays"
    assert last.unit_nano == {"requests": 2 * 10**7} and last.tariffs["tokens"].tiers[0] == Tier(10, 3 * 10**6)
    assert (after.included, last.included) == ({"requests": 10, "tokens": 5}, {"tokens": 5})
    entries = plans.all_terms()["growth"].entries
    noon = microseconds(datetime(2027, 3, 1, 10, tzinfo=UTC))
    assert [us for us, _ in entries] == [0, JANUARY, noon]
    assert [plans.all_terms()["growth"].at(us) for us in (JANUARY - 1, JANUARY, noon)] == [before, after, last]


def test_without_a_moment_the_terms_are_those_of_now() -> None:
    plans = bill("""
        [plans.a]
        monthly = "1 USD"
        changes = [{ begins = 2001-01-01, monthly = "2 USD" }, { begins = 9000-01-01, monthly = "3 USD" }]
    """)
    assert plans.terms("a").monthly_nano == 2 * 10**9


def test_case_45_every_problem_is_told_at_once_with_its_place() -> None:
    found = problems(
        {
            "core_hour": "cheap",
            "exchange": {"EUR": "1", "EUR/USD": 1.08},
            "grace": "soon",
            "meters": {"tokens": {"unit": "x"}, "Pages": {"unit": "page"}},
            "plans": {
                "a": {"monthly": 19, "included": {"reqests": 1}, "overage": {"tokens": "0.0000000001 USD"}},
                "b": {"budget": "-1 USD", "included": {"requests": True}},
            },
            "tax": {"rates": [{"country": "Germany", "name": "VAT", "percent": 19.5}]},
            "coupons": {"X": {"percent_off": "101"}},
            "webhook": {"url": "http://example.org/hook"},
        }
    )
    assert {place for place, _ in found} == {
        "core_hour",
        "exchange.EUR/USD",
        "grace",
        "meters.tokens",
        "meters.Pages",
        "plans.a.monthly",
        "plans.a.overage.tokens",
        "plans.b.included.requests",
        "plans.b.budget",
        "tax.rates.0.country",
        "tax.rates.0.percent",
        "coupons.X.percent_off",
        "webhook.url",
    }
    assert dict(found)["plans.a.monthly"] == "money is written as text, like '19.00 USD'"


def test_case_45_a_meter_that_nobody_counts_is_told_beside_what_else_is_wrong_with_the_plans() -> None:
    found = problems(
        {
            "meters": {"pages": {"unit": "page"}},
            "plans": {
                "a": {"monthly": 19, "included": {"reqests": 1}},
                "b": {"overage": {"pages": "1 USD"}, "changes": [{"begins": "2027-01-01", "quota": {"page": 1}}]},
                "c": 5,
            },
        }
    )
    assert dict(found) == {
        "plans.a.monthly": "money is written as text, like '19.00 USD'",
        "plans.a.included.reqests": "'reqests' is not metered; did you mean 'requests'?",
        "plans.b.changes.0.quota.page": "'page' is not metered; did you mean 'pages'?",
        "plans.c": "Input should be a valid dictionary or instance of PlanSettings",
    }


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"included": {"requests": 5}}, "has no price"),
        ({"changes": [{"begins": "2027-01-01", "included": {"requests": 5}}]}, "has no price"),
        ({"monthly": "19.005 USD"}, "finer than the smallest coin"),
        ({"minimum": "19.5 JPY"}, "finer than the smallest coin"),
        ({"monthly": "19.00 EUR", "overage": {"requests": "1 JPY"}}, "one currency, this one has EUR and JPY"),
        ({"monthly": "1 EUR", "changes": [{"begins": "2027-01-01", "monthly": "1 USD"}]}, "EUR and USD"),
        ({"budget": "1 USD", "tiers": {"tokens": {"steps": [{"price": "1 USD", "flat": "1 EUR"}]}}}, "one currency"),
        ({"overage": {"tokens": "1 USD"}, "package": {"tokens": "1 USD per 5"}}, "'tokens' has two prices"),
        ({"tiers": {"tokens": {"steps": [{"price": "1 USD", "up_to": 5}]}}}, "last tier has no end"),
        ({"tiers": {"tokens": {"steps": [{"price": "1 USD"}, {"price": "1 USD"}]}}}, "tiers ascend"),
        ({"tiers": {"tokens": {"mode": "package", "steps": [{"price": "1 USD"}]}}}, "'graduated' or 'volume'"),
        ({"overage": {"tokens": "1 USD per 0"}}, "not an amount of money"),
        ({"overage": {"tokens": "1 USD per 10_000_000_000_000"}}, "too many"),
        ({"overage": {"tokens": 0.01}}, "money is written as text"),
        ({"warn": [0]}, "greater than or equal to 1"),
        ({"trial_days": 1.5}, "integer"),
        ({"quota": {"stored_examples": 5}}, "no request can be refused for it"),
        ({"prorate": "some"}, "'changes', 'all' or 'none'"),
        ({"changes": [{"begins": "2027-02-01"}, {"begins": "2027-01-01"}]}, "in the order of their dates"),
        ({"changes": [{"begins": "2027-01-01"}, {"begins": "2027-01-01"}]}, "in the order of their dates"),
        ({"changes": [{"begins": "soon"}]}, "it is a date"),
        ({"changes": [{"begins": 20270101}]}, "it is a date"),
        ({"changes": [{"monthly": "1 USD"}]}, "Field required"),
        ({"changes": [{"begins": "2027-01-01", "budget": "1 USD"}]}, "not permitted"),
    ],
)
def test_a_plan_that_does_not_agree_with_itself_is_refused(plan: dict[str, Any], message: str) -> None:
    ((_, said),) = problems({"plans": {"a": plan}})
    assert message in said


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"coupons": {"X": {}}}, "either percent_off or amount_off"),
        ({"coupons": {"X": {"percent_off": "5", "amount_off": "1 USD"}}}, "either percent_off or amount_off"),
        ({"coupons": {"X": {"percent_off": 0}}}, "takes something off"),
        ({"coupons": {"X": {"percent_off": 5, "plans": ["pro"]}}}, "there is no plan 'pro'; did you mean 'prof'?"),
        ({"coupons": {"X": {"amount_off": "5 EUR", "plans": ["prof"]}}}, "'prof' is in USD"),
        ({"coupons": {"X": {"percent_off": 12.5}}}, "written as text"),
        ({"exchange": {"EUR/EUR": "1"}}, "two currencies"),
        ({"exchange": {"eur/usd": "1"}}, "two currencies"),
        ({"exchange": {"EUR/USD": "1.1", "USD/EUR": "0.9"}}, "one of them is enough"),
        ({"exchange": {"EUR/USD": "0"}}, "above 0"),
        ({"tax": {"rates": [{"country": "DE", "name": "VAT", "percent": "19"}] * 2}}, "begins twice"),
        ({"meters": {"pages": {"unit": "p", "aggregate": "max", "reported": "answers"}}}, "is summed"),
        ({"webhook": {"url": "https://me:secret@example.org/"}}, "without a name or password"),
        ({"stripe": {"api_base": "http://192.168.0.1"}}, "use https"),
        ({"stripe": {"key_env": "sk_live_123"}}, "match pattern"),
        ({"grace": 24}, "like '24h'"),
        ({"due_days": -1}, "greater than or equal to 0"),
        ({"seller": {"country": "de"}}, "match pattern"),
    ],
)
def test_a_section_that_means_nothing_is_refused(section: dict[str, Any], message: str) -> None:
    ((_, said),) = problems({"plans": {"prof": {"monthly": "1 USD"}}} | section)
    assert message in said


def test_the_problems_of_a_project_file_name_its_lines(tmp_path: Path) -> None:
    written = '[project]\nname = "x"\n[bill.plans.a]\nincluded = { reqests = 1 }\nmonthly = 19\n'
    (tmp_path / "feilun.toml").write_text(written, "utf-8")
    with pytest.raises(ProjectError) as caught:
        project.load(tmp_path, {"bill": BillSettings})
    told = str(caught.value)
    assert "did you mean 'requests'?" in told and "feilun.toml:4" in told
    assert "money is written as text" in told and "feilun.toml:5" in told


def test_an_unknown_plan_is_answered_with_the_known_ones(settings: BillSettings) -> None:
    with pytest.raises(SettingError) as caught:
        settings.terms("xyz")
    assert caught.value.hint == "known: free, starter, tokens"


def test_amounts_are_exchanged_by_the_stated_rate_in_both_directions_or_not_at_all() -> None:
    stated = bill('exchange = { "EUR/USD" = "1.08" }')
    assert stated.convert(Money(100, "EUR"), "USD") == Money(108, "USD")
    assert stated.convert(Money(108, "USD"), "EUR") == Money(100, "EUR")
    assert stated.convert(Money(1, "USD"), "EUR") == Money(1, "EUR")
    assert stated.convert(Money(7, "CHF"), "CHF") == Money(7, "CHF")
    with pytest.raises(SettingError, match="no rate of exchange from CHF to USD"):
        stated.convert(Money(1, "CHF"), "USD")


def test_a_tax_rate_holds_from_its_date_until_the_next_of_its_name() -> None:
    tax = bill("""
        [tax]
        rates = [
            { country = "DE", name = "VAT", percent = "16", begins = 2020-07-01 },
            { country = "DE", name = "VAT", percent = 19 },
            { country = "CA", name = "PST", percent = "7" },
            { country = "CA", name = "GST", percent = "5" },
        ]
        reverse_charge = ["DE", "FR"]
    """).tax
    july = microseconds(datetime(2020, 7, 1, tzinfo=UTC))
    assert [r.percent for us in (july - 1, july) for r in tax.in_force("DE", us)] == [Decimal(19), Decimal(16)]
    assert [r.name for r in tax.in_force("CA", july)] == ["GST", "PST"]
    assert tax.in_force("US", july) == ()


def test_what_is_left_out_has_its_default() -> None:
    empty = BillSettings()
    assert (empty.grace, empty.grace_us, empty.due_days) == (timedelta(hours=24), 86_400 * 10**6, 14)
    assert (empty.webhook, empty.stripe, empty.tax.rates, empty.seller.name) == (None, None, (), "")
    assert bill("[stripe]").stripe.api_base == "https://api.stripe.com"
    assert bill('grace = "3d"').grace_us == 3 * 86_400 * 10**6


def test_meters_are_reported_by_events_or_by_answers() -> None:
    stated = bill(
        '[meters.pages]\nunit = "page"\naggregate = "max"\n[meters.spans]\nunit = "span"\nreported = "answers"'
    )
    assert set(stated.meters_reported_by("events")) == {"pages"}
    assert set(stated.meters_reported_by("answers")) == {"spans"}


def test_a_product_given_away_is_priced_and_one_without_a_price_is_not() -> None:
    plans = {"gift": {"overage": {"rows": "0 USD"}}, "none": {"monthly": "9 USD"}}
    settings = BillSettings.model_validate({"plans": plans})
    assert settings.terms("gift").priced == ("rows",) and settings.terms("none").priced == ()
    assert settings.terms("gift").total(Counts(rows=9)) == 0


@pytest.mark.parametrize(("text", "hint"), [("5 usd", "write it as '5.00 USD'"), ("-5 usd", "write it as '-5.00 USD'")])
def test_a_currency_in_small_letters_is_written_out_in_the_hint(text: str, hint: str) -> None:
    with pytest.raises(SettingError) as refused:
        parse_money(text)
    assert refused.value.hint == hint
