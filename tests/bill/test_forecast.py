"""Forecasts: exact where nothing is unsure, reproducible where something is, and right where a closed form says so."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pydantic import ValidationError
from sqlalchemy import update

from feilun.accounts.tariffs import Tariff, Tier
from feilun.accounts.terms import Counts, Schedule, Terms
from feilun.bill import forecast_plot
from feilun.bill.forecast import Forecast, forecast
from feilun.bill.forecast_draws import HOUR_NS, Measured, Part
from feilun.bill.forecast_measured import DAY_US, measure
from feilun.bill.forecast_prices import revenue_at
from feilun.bill.forecast_settings import ForecastSettings
from feilun.bill.forecast_world import MONTH_HOURS, World
from feilun.errors import DataError, SettingError
from feilun.store import tables
from feilun.store.artifacts import canonical
from feilun.store.money import half_even
from feilun.store.periods import bounds
from tests.bill.books import Books, Use

GROWTH = Tariff("graduated", (Tier(500, 20_000_000, 10), Tier(None, 15_000_000, 10, 10**9)))
PLANS = {
    "starter": Schedule.always(Terms("USD", 19 * 10**9, {"requests": 100}, {"requests": 800_000})),
    "growth": Schedule.always(Terms("USD", 49 * 10**9, {}, {"tokens": 13}, {"requests": GROWTH}, 60 * 10**9)),
    "euro": Schedule.always(Terms("EUR", 19 * 10**9)),
    "pages": Schedule.always(Terms("USD", 0, {}, {"pages": 5})),
    "free": Schedule.always(Terms("USD")),
    "trial": Schedule.always(Terms("USD", 10**10, trial_days=45)),
}
CERTAIN: dict[str, Any] = {
    "plans": "starter",
    "months": 12,
    "new_customers_per_month": 2,
    "churn_percent": 0,
    "requests_per_customer": 150,
    "tokens_per_request": 20,
    "cost_per_request": "0.0003 USD",
    "cost_per_token": "0.00001 USD",
    "training_per_month": "1.50 USD",
    "fixed_per_month": "7 USD",
    "upfront_cost": "500 USD",
    "draws": 40,
}
UNSURE = {
    "new_customers_per_month": {"low": 1, "likely": 3, "high": 8},
    "churn_percent": {"low": 1, "likely": 3, "high": 9},
    "requests_per_customer": {"low": 50, "likely": 200, "high": 900},
    "cost_per_token": {"low": "0.000001 USD", "likely": "0.00001 USD", "high": "0.0001 USD"},
    "draws": 400,
}
PAST = Measured(
    parts=tuple(
        Part(90 + i, {"tokens": 2_000 + 40 * i, "inputs": 100, "pages": 300}, 5 * 10**9, 10**9) for i in range(8)
    ),
    customers=(30.0, 60.0, 600.0),
    training_ns=HOUR_NS * 10,
    fixed_nano=3 * 10**9,
    core_hour_nano=50_000_000,
)

NOTHING = Measured()


def made(measured: Measured = NOTHING, **changes: Any) -> Forecast:
    chosen = ForecastSettings.model_validate(CERTAIN | changes)
    return forecast("launch", chosen, PLANS, measured, "2026-12")


def world(measured: Measured = NOTHING, **changes: Any) -> World:
    return World(ForecastSettings.model_validate(CERTAIN | changes), PLANS, measured, "2026-12")


def test_without_uncertainty_every_month_is_the_exact_arithmetic_of_the_terms() -> None:
    found = made(plans="growth")
    cumulative = -500 * 10**9
    for number, month in enumerate(found.months, start=1):
        customers = 2 * number
        terms = PLANS["growth"].newest
        owed = max(terms.minimum_nano, terms.monthly_nano + terms.total(Counts(requests=150, tokens=3_000)))
        cost = customers * (150 * 300_000 + 3_000 * 10_000) + 8_500_000_000
        cumulative += customers * owed - cost
        assert month.customers == (customers,) * 3
        assert month.revenue_nano == (customers * owed,) * 3
        assert month.cost_nano == (cost,) * 3
        assert month.margin_nano == (customers * owed - cost,) * 3
        assert month.cumulative_nano == (cumulative,) * 3
    assert found.margin_nano == (cumulative,) * 3 and found.at_medians_nano == cumulative
    assert all(type(n) is int for month in found.months for n in (*month.revenue_nano, *month.cost_nano))


def test_months_have_the_names_and_the_terms_of_the_calendar() -> None:
    later = Terms("USD", 29 * 10**9)
    plans = {"starter": Schedule(((0, Terms("USD", 19 * 10**9)), (bounds("2027-02")[0], later)))}
    chosen = ForecastSettings.model_validate(CERTAIN | {"new_customers_per_month": 0, "customers_at_start": 3})
    found = forecast("launch", chosen, plans, Measured(), "2026-12")
    assert [m.period for m in found.months][:4] == ["2026-12", "2027-01", "2027-02", "2027-03"]
    assert [m.revenue_nano.p50 // 10**9 for m in found.months][:4] == [57, 57, 87, 87]


def test_customers_of_several_plans_and_sizes_sum_to_all_of_them() -> None:
    there = world(plans={"starter": 70, "growth": 30}, usage_spread=[1, 2, 7], churn_percent=7, months=30)
    flows = there.simulate(there.draws())
    assert (sum(bill.paying for bill in flows.bills) == flows.customers).all()
    assert {bill.units["requests"][0, 0] for bill in flows.bills} == {45, 90, 315}  # 150 on average


def test_a_trial_of_45_days_is_a_free_month_and_half_of_the_next() -> None:
    found = made(plans="trial", new_customers_per_month=10)
    assert [m.revenue_nano.p50 // 10**10 for m in found.months][:4] == [0, 5, 15, 25]


def test_churn_and_growth_follow_their_closed_forms() -> None:
    found = made(churn_percent=10, new_customers_per_month=1_000, months=60)
    for month, row in enumerate(found.months, start=1):
        assert row.customers.p50 == pytest.approx(10_000 * (1 - 0.9**month), abs=1)
    grown = made(growth_percent=50, new_customers_per_month=64, months=5)
    assert grown.months[-1].customers.p50 == 64 + 96 + 144 + 216 + 324


def test_reserved_cores_are_paid_whether_busy_or_not() -> None:
    idle = made(PAST, cores_at_least=4, cost_per_request="0 USD", cost_per_token="0 USD")
    assert idle.months[0].cost_nano.p50 == 4 * MONTH_HOURS * 50_000_000 + 8_500_000_000
    full = made(PAST, most_used_percent=30)
    busy = 2 * (150 * 300_000 + 3_000 * 10_000)
    assert full.months[0].cost_nano.p50 == half_even(busy * 100, 30) + 8_500_000_000


def test_break_even_is_the_first_month_that_is_not_below_nothing() -> None:
    found = made(new_customers_per_month=10)
    even = found.break_even
    first = next(i for i, m in enumerate(found.months, 1) if m.cumulative_nano.p50 >= 0)
    assert (even.p5, even.p50, even.p95) == (first,) * 3 and even.never == 0
    assert even.chance[first - 2 : first] == (0.0, 1.0)
    assert even.deepest_nano.p50 == min(-500 * 10**9, *(m.cumulative_nano.p50 for m in found.months))
    begins = made(new_customers_per_month=1_000)
    assert begins.months[0].cumulative_nano.p50 > 0 and begins.break_even.deepest_nano == (-500 * 10**9,) * 3
    assert begins.begins_nano == (-500 * 10**9,) * 3
    never = made(plans="free").break_even
    assert (never.p5, never.p50, never.p95, never.never) == (None, None, None, 1.0)


def test_a_triangular_assumption_has_the_mean_and_the_spread_of_its_formula() -> None:
    there = world(new_customers_per_month={"low": 2, "likely": 5, "high": 11}, shape="triangular", draws=200_000)
    draws = there.assumptions["new_customers_per_month"].draws
    assert draws.mean() == pytest.approx(6, abs=0.02)
    assert draws.var() == pytest.approx((4 + 25 + 121 - 10 - 22 - 55) / 18, rel=0.02)
    pert = world(new_customers_per_month={"low": 2, "likely": 5, "high": 11}, draws=200_000)
    assert pert.assumptions["new_customers_per_month"].draws.mean() == pytest.approx((2 + 4 * 5 + 11) / 6, abs=0.02)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    one, two, other = (made(**UNSURE, seed=seed) for seed in (7, 7, 8))
    assert canonical(one.as_dict()) == canonical(two.as_dict()) != canonical(other.as_dict())


def test_changing_one_assumption_leaves_the_draws_of_the_others() -> None:
    one, two = world(**UNSURE).draws(), world(**UNSURE | {"churn_percent": {"low": 0, "likely": 1, "high": 2}}).draws()
    assert [name for name in one if not np.array_equal(one[name], two[name])] == ["churn_percent"]


@settings(max_examples=25)
@given(some.integers(0, 10**6), some.integers(0, 10**6), some.integers(0, 3), some.integers(0, 2**20))
def test_more_cost_never_breaks_even_earlier(one: int, two: int, more: int, seed: int) -> None:
    low, high = sorted((one, two))
    chosen = UNSURE | {"draws": 50, "months": 8, "seed": seed, "plans": {"starter": 3, "growth": 1}}
    cheap, dear = (
        made(**chosen | {"cost_per_request": f"0.{nano:09d} USD", "fixed_per_month": f"{fixed} USD"})
        for nano, fixed in ((low, 5), (high, 5 + more))
    )
    assert all(a >= b for a, b in zip(cheap.break_even.chance, dear.break_even.chance, strict=True))
    assert (dear.break_even.p50 or 99) >= (cheap.break_even.p50 or 99)
    assert all(a >= b for a, b in zip(cheap.margin_nano, dear.margin_nano, strict=True))


@settings(max_examples=25)
@given(some.integers(1, 97), some.integers(10, 90), some.integers(0, 100), some.sampled_from(["starter", "growth"]))
def test_the_price_found_meets_the_margin_and_one_nano_unit_less_does_not(
    target: int, chance: int, seed: int, plan: str
) -> None:
    changes = UNSURE | {"target_margin_percent": target, "target_chance_percent": chance, "seed": seed, "draws": 30}
    there = world(**changes | {"plans": {"starter": 1, "growth": 1}})
    flows = there.simulate(there.draws())
    spent = flows.cost.sum(axis=1) + flows.upfront
    found = made(**changes | {"plans": {"starter": 1, "growth": 1}})

    def met(what: str, nano: int) -> bool:
        revenue = revenue_at(there, flows, plan, what)(nano)
        enough = [int(r) * (100 - target) >= int(c) * 100 for r, c in zip(revenue, spent, strict=True)]
        return sum(enough) * 100 >= chance * len(enough)

    for price in found.prices:
        if price.plan == plan and price.needed_nano is not None:
            assert met(price.what, price.needed_nano)
            assert price.needed_nano == 0 or not met(price.what, price.needed_nano - 1)
    assert {p.what for p in found.prices if p.plan == "growth"} == {"monthly", "tokens"}  # tiers have no one price


def test_a_needed_price_put_into_the_plan_gives_the_target() -> None:
    target = Fraction(65)
    fee = next(p.needed_nano for p in made(target_margin_percent=65).prices if p.what == "monthly")
    assert fee is not None
    for nano, enough in ((fee, True), (fee - 1, False)):
        plans = {"starter": Schedule.always(Terms("USD", nano, {"requests": 100}, {"requests": 800_000}))}
        found = forecast("x", ForecastSettings.model_validate(CERTAIN), plans, Measured(), "2026-12")
        assert (Fraction(found.margin_nano.p50, found.revenue_nano.p50) * 100 >= target) == enough


def test_where_no_price_is_enough_it_is_said() -> None:
    found = {p.what: p for p in made(requests_per_customer=100, target_margin_percent=99).prices}
    assert found["requests"].needed_nano is None and "no price" in str(found["requests"].why)  # all are included
    assert found["monthly"].needed_nano is not None


def test_a_target_that_is_met_without_a_price_is_met_already() -> None:
    found = {p.what: p for p in made(new_customers_per_month=10, target_margin_percent=1).prices}
    assert (found["requests"].needed_nano, found["requests"].why) == (0, "met already")
    assert found["monthly"].needed_nano and found["monthly"].why is None


def test_what_is_assumed_without_a_range_is_named() -> None:
    found = made(**UNSURE, cores_at_least=0)
    assert {e.name for e in found.effects if e.has_range} == UNSURE.keys() - {"draws"}
    assert {"plans", "cores_at_least", "upfront_cost", "fixed_per_month"} <= set(found.fixed)
    assert not {"growth_percent", "churn_percent", "months"} & set(found.fixed)


def test_the_picture_begins_before_the_first_month_and_no_line_crosses_its_legend() -> None:
    figure = Figure(figsize=(10, 4), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    forecast_plot.fan(axes, made(new_customers_per_month=10))
    canvas.draw()
    middle = next(line for line in axes.lines if line.get_label() == "median")
    assert [np.asarray(middle.get_xdata())[0], np.asarray(middle.get_ydata())[0]] == [0, -500]
    legend = axes.get_legend()
    assert legend is not None and not legend.get_window_extent().overlaps(axes.get_window_extent())
    assert not legend.get_window_extent().overlaps(axes.xaxis.label.get_window_extent())


def test_the_tornado_moves_one_assumption_and_keeps_the_rest_at_their_medians() -> None:
    found = made(**UNSURE)
    swings = [effect.swing_nano for effect in found.effects]
    assert swings == sorted(swings, reverse=True) and swings[0] > 0
    new = next(e for e in found.effects if e.name == "new_customers_per_month")
    medians: dict[str, Any] = {e.name: e.median for e in found.effects if e.unit != "nano-units"}
    money = {e.name: f"{e.median / 1e9:.9f} USD" for e in found.effects if e.unit == "nano-units"}
    at_high = made(**UNSURE | medians | money | {"new_customers_per_month": 8})
    assert new.at_high_nano == pytest.approx(at_high.margin_nano.p50, rel=1e-4)
    assert new.rank_correlation > 0.5 > 0 > next(e for e in found.effects if e.name == "churn_percent").rank_correlation
    assert all(-1 <= e.rank_correlation <= 1 for e in found.effects)
    assert next(e for e in found.effects if e.name == "upfront_cost").rank_correlation == 0


def test_what_is_measured_is_drawn_again_from_what_was_seen() -> None:
    names = ("requests_per_customer", "tokens_per_request", "cost_per_token", "cost_per_request", "fixed_per_month")
    there = world(PAST, **dict.fromkeys((*names, "training_per_month", "customers_at_start"), "measured"), draws=5_000)
    seen = there.assumptions
    tokens, requests = sum(p.units["tokens"] for p in PAST.parts), PAST.requests
    nano = 50_000_000 / HOUR_NS
    assert seen["tokens_per_request"].draws.mean() == pytest.approx(tokens / requests, rel=0.01)
    assert seen["cost_per_token"].draws.mean() == pytest.approx(40 * 10**9 * nano / tokens, rel=0.01)
    assert seen["cost_per_request"].draws.mean() == pytest.approx(8 * 10**9 * nano / requests, rel=0.01)
    assert seen["requests_per_customer"].draws.mean() == pytest.approx(230, rel=0.05)
    assert seen["requests_per_customer"].draws.std() == pytest.approx(np.std([30, 60, 600]) / 3**0.5, rel=0.05)
    assert seen["training_per_month"].draws[0] == 10 * 50_000_000
    assert seen["fixed_per_month"].draws[0] == 3 * 10**9 and seen["customers_at_start"].draws[0] == 3
    assert seen["cost_per_token"].basis == "748 requests in 8 days"


def test_without_tokens_the_engines_work_goes_with_requests() -> None:
    parts = tuple(Part(10, {}, 7 * 10**9, 10**9) for _ in range(3))
    there = world(Measured(parts, core_hour_nano=HOUR_NS), cost_per_request="measured", cost_per_token="measured")
    assert set(there.assumptions["cost_per_request"].draws) == {0.8 * 10**9}
    assert set(there.assumptions["cost_per_token"].draws) == {0.0}


def test_usage_beyond_what_is_included_depends_on_how_unequal_customers_are() -> None:
    alike = made(requests_per_customer=100)
    spread = made(PAST, requests_per_customer=100, usage_spread="measured")
    assert spread.revenue_nano.p50 > alike.revenue_nano.p50  # the mean of all is included, that of the largest is not


def test_nothing_to_measure_wrong_currencies_and_forgotten_meters_are_said() -> None:
    with pytest.raises(DataError, match="cannot be measured"):
        made(tokens_per_request="measured")
    with pytest.raises(DataError, match="usage_spread cannot be measured"):
        made(usage_spread="measured")
    with pytest.raises(SettingError, match="cost_per_request is in USD, the plans are in EUR"):
        made(plans="euro")
    with pytest.raises(SettingError, match="the plans are in EUR and USD"):
        made(plans={"euro": 1, "starter": 1})
    with pytest.raises(SettingError, match="prices 'pages'"):
        made(plans="pages")
    with pytest.raises(SettingError, match="no plan 'startr'") as unknown:
        made(plans="startr")
    assert unknown.value.hint == "did you mean 'starter'?"
    paged = made(PAST, plans="pages", more_per_request={"pages": "measured"})
    assert paged.months[0].revenue_nano.p50 > 0


@pytest.mark.parametrize(
    "absurd", [{"requests_per_customer": 10**12}, {"new_customers_per_month": 10**12}, {"growth_percent": 1_000}]
)
def test_amounts_that_no_ledger_holds_are_refused_and_never_wrap(absurd: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="no ledger holds"):
        made(**absurd | {"months": 60})


@pytest.mark.parametrize(
    "wrong",
    [
        {"churn_percent": "measured"},
        {"churn_percent": 101},
        {"churn_percent": True},
        {"churn_percent": {"low": 1, "high": 2}},
        {"churn_percent": {"low": 3, "likely": 2, "high": 5}},
        {"cost_per_request": 0.1},
        {"cost_per_request": "-1 USD"},
        {"cost_per_request": {"low": "1 USD", "likely": "1 EUR", "high": "2 USD"}},
        {"upfront_cost": "measured"},
        {"usage_spread": [0, 0]},
        {"usage_spread": []},
        {"plans": {}},
        {"plans": {"starter": 0}},
        {"target_margin_percent": 100},
        {"months": 0},
        {"surprise": 1},
    ],
)
def test_assumptions_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ForecastSettings.model_validate(CERTAIN | wrong)


def test_settings_survive_json() -> None:
    chosen = ForecastSettings.model_validate(CERTAIN | UNSURE)
    kept = json.loads(json.dumps(chosen.model_dump(mode="json")))
    assert kept["churn_percent"] == {"low": 1.0, "likely": 3.0, "high": 9.0}
    assert json.loads(json.dumps(made(**UNSURE).as_dict()))["months"][0]["revenue_nano"].keys() == {"p5", "p50", "p95"}


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_a_plot_has_the_same_bytes_each_time_and_says_its_units(tmp_path: Path, ending: str) -> None:
    found = made(**UNSURE)
    for name in ("one", "two"):
        forecast_plot.draw(found, tmp_path / f"{name}.{ending}")
    one = (tmp_path / f"one.{ending}").read_bytes()
    assert one == (tmp_path / f"two.{ending}").read_bytes()
    if ending == "svg":
        assert b"cumulative margin, USD" in one and b"new customers per month" in one
    with pytest.raises(SettingError, match="a plot cannot be"):
        forecast_plot.draw(found, tmp_path / "plot.pdf")


def test_usage_of_the_past_days_is_measured_and_older_usage_is_not(books: Books) -> None:
    with books.database.read() as connection:
        from feilun.store.database import now_us

        today = now_us(connection) // DAY_US
    tenant = books.tenant(created="2020-01-01")
    when = [(today - 10 + day) * DAY_US + hour for day in range(9) for hour in range(day + 1)]
    terms = Terms("USD", unit_nano={"requests": 1})
    books.use(tenant, [Use((today - 200) * DAY_US, tokens=10**9), *(Use(at, tokens=20) for at in when)], terms)
    chosen = ForecastSettings.model_validate(CERTAIN | {"measured_days": 30})
    found = measure(books.database, chosen, core_hour_nano=5, fixed_nano=7)
    assert (found.parts_are, found.requests, found.fixed_nano) == ("days", 45, 7)
    assert [part.requests for part in found.parts] == list(range(1, 10))
    assert sum(part.units["tokens"] for part in found.parts) == 900
    assert found.customers == (pytest.approx(45, rel=0.01),)
    books.database.write(lambda c: c.execute(update(tables.artifacts).values(bytes=3 * 10**9)))
    stored = measure(books.database, chosen, core_hour_nano=5, fixed_nano=7, gigabyte_nano=2)
    assert stored.fixed_nano == 7 + 3 * 2
    few = measure(books.database, chosen.model_copy(update={"measured_days": 6}), core_hour_nano=5, fixed_nano=0)
    assert few.parts_are == "runs of requests" and few.requests == sum(part.requests for part in few.parts) == len(
        few.parts
    )
