"""What is earned and what it costs: every part of it once, and all parts together what was measured."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import insert, select
from ulid import ULID

from feilun.accounts.terms import Terms
from feilun.bill import credit_notes, invoices, margin_plot
from feilun.bill.costs import HOUR_NS
from feilun.bill.margin import COSTS, GROUPS, Query, Report, Row, asked, report
from feilun.bill.settings import BillSettings
from feilun.errors import SettingError
from feilun.store import tables
from feilun.store.money import Money, format_money
from feilun.store.periods import period_of
from tests.bill.books import Books, Use, at

FIRST, SECOND, UNUSED = "1" * 64, "2" * 64, "3" * 64
DATA, MODEL = "d" * 64, "e" * 64
SEPTEMBER = Query(period="2026-09")
SECOND_NS = 10**9


def priced(**more: Any) -> BillSettings:
    """A core-nanosecond costs a nano-unit."""
    plans = {
        "starter": {"monthly": "19.00 USD", "included": {"requests": 3}, "overage": {"requests": "0.0008 USD"}},
        "tokens": {"overage": {"tokens": "0.000001234 USD"}},
        "free": {},
    }
    return BillSettings.model_validate({"core_hour": Money(HOUR_NS, "USD"), "plans": plans} | more)


def lineage(books: Books, runs: dict[str, int]) -> None:
    """data -> first -> second, data -> unused, and a model that went into no release; runs cost their core_ns."""
    kinds = {DATA: "dataset", MODEL: "model", FIRST: "release", SECOND: "release", UNUSED: "release"}

    def write(connection: Any) -> None:
        for digest, kind in kinds.items():
            row = {"digest": digest, "kind": kind, "facts": "{}", "bytes": 0, "created_at": 0}
            connection.execute(insert(tables.artifacts).values(row))
            if kind == "release":
                name = "letters" if digest == SECOND else "reviews"
                connection.execute(insert(tables.releases).values(digest=digest, name=name, registered_at=0))
        for child, parent in ((FIRST, DATA), (SECOND, FIRST), (UNUSED, DATA)):
            connection.execute(insert(tables.parents).values(child=child, parent=parent))

    books.database.write(write)
    for output, core_ns in runs.items():
        run(books, output, core_ns)


def run(books: Books, output: str | None, core_ns: int, outcome: str = "finished", ended: str = "2026-09-01") -> None:
    row = {"id": str(ULID()), "fingerprint": "f", "step": "s", "version": 1, "name": "n", "settings": "{}"}
    row |= {"inputs": "{}", "environment": "{}", "metrics": "{}", "wall_ns": 0, "started_at": 0}
    row |= {"core_ns": core_ns, "outcome": outcome, "output": output, "finished_at": at(ended)}
    books.database.write(lambda c: c.execute(insert(tables.runs).values(row)))


def sampled(books: Books, when: str, *, wall: int, core: int, engine: int = 0, load: int = 0, cores: int = 2) -> None:
    """What one gateway used until ``when``."""
    row = {"gateway": str(ULID()), "sequence": 1, "machine": str(ULID()), "cores": cores, "at": at(when)}
    row |= {"wall_ns": wall, "core_ns": core, "engine_ns": engine, "load_ns": load}
    books.database.write(lambda c: c.execute(insert(tables.gateways).values(row)))


def by_name(found: Report) -> dict[str, Row]:
    return {row.name: row for row in found.rows}


def closes(found: Report) -> int:
    """Rows sum to the total, and the parts to what was measured; returns all that is priced by core time."""
    figures = [f.name for f in fields(Row)[1:]]
    assert {n: sum(getattr(row, n) for row in found.rows) for n in figures} == {
        n: getattr(found.total, n) for n in figures
    }
    m = found.measured
    assert m.requests_ns + m.overhead_ns + m.loads_ns + m.idle_ns == m.offered_ns + m.unsampled_ns
    assert min(m.requests_ns, m.overhead_ns, m.loads_ns, m.idle_ns, m.unsampled_ns) >= 0
    assert m.requests_ns == found.everybody.compute_ns
    assert found.everybody.fixed_nano == sum(found.fixed.values())
    return sum(getattr(found.everybody, f"{cost}_nano") for cost in COSTS[:5]) + sum(found.apart.values())


def test_every_cost_has_a_column_and_goes_to_those_who_caused_it(books: Books) -> None:
    settings = priced()
    lineage(books, {DATA: 600, FIRST: 90, SECOND: 50, UNUSED: 7, MODEL: 1_000_000})
    run(books, FIRST, 999, "failed")
    sampled(books, "2026-09-02T12:00", wall=1_000, core=500, engine=25, load=100)
    one, two = books.tenant(), books.tenant("tokens")
    books.use(one, [Use(at("2026-09-02"), FIRST, tokens=20, compute_ns=5)] * 4, settings.terms("starter"))
    books.use(two, [Use(at("2026-09-02"), SECOND, tokens=10, compute_ns=5)], settings.terms("tokens"), "tokens")
    found = report(books.database, settings, SEPTEMBER)
    closes(found)
    first, second = found.rows
    assert (first.name, first.requests, first.compute_ns, second.name) == (one, 4, 20, two)
    assert (first.metered_nano, second.metered_nano) == (800_000, 12_340)
    assert (first.serving_nano, second.serving_nano) == (20, 5)
    assert (first.overhead_nano, second.overhead_nano) == (300, 75)  # 500 - 25 - 100, by requests
    assert (first.loads_nano, second.loads_nano) == (80, 20)  # by the engine's time
    assert (first.idle_nano, second.idle_nano) == (1_200, 300)  # 2 x 1000 - 500
    # 80 tokens of the first release, 10 of the second: data and first are shared 80 : 10, second is its own
    assert (first.training_nano, second.training_nano) == (533 + 80, 67 + 10 + 50)
    assert found.apart == {
        "failed_runs": 999,
        "unused_runs": 1_000_000,
        "training_elsewhere": 0,
        "training_unanswered": 7,
    }
    assert first.margin_nano == 800_000 - 20 - 300 - 80 - 1_200 - 613
    told = json.loads(json.dumps(found.as_dict()))
    assert told["rows"][1]["margin"] == format_money(second.margin_nano, "USD")
    assert told["measured"]["idle_ns"] == 1_500


def test_revenue_is_what_invoices_charge_without_taxes_and_however_much_is_closed(books: Books) -> None:
    settings = priced()
    lineage(books, {})
    tenant = books.tenant()
    books.use(tenant, [Use(at("2026-09-02"), FIRST)] * 5, settings.terms("starter"))
    open_month = report(books.database, settings, SEPTEMBER)
    assert open_month.total.revenue_nano == 1_600_000 and open_month.not_invoiced == 1
    invoice = invoices.close(books.database, tenant, "2026-09", settings)
    closed = report(books.database, settings, SEPTEMBER)
    assert closed.total.revenue_nano == invoice.total_nano and closed.not_invoiced == 0
    assert closed.total.metered_nano == 1_600_000  # the rest is the fee, and the rounding of the usage to a cent
    fees = by_name(report(books.database, settings, replace(SEPTEMBER, by="release")))
    assert fees[""].revenue_nano >= 19 * 10**9 and fees[""].requests == 0
    by_day = report(books.database, settings, replace(SEPTEMBER, by="day"))
    assert len(by_day.rows) == 30 and by_day.total.revenue_nano == invoice.total_nano


def test_trials_minimums_taxes_and_credit_notes_are_in_the_revenue_or_out_of_it(books: Books) -> None:
    plan = {"overage": {"requests": "0.013 USD"}, "minimum": "4.00 USD"}
    tax = {"rates": [{"country": "DE", "name": "VAT", "percent": "19"}]}
    settings = priced(plans={"paid": plan, "trial": plan | {"trial_days": 400}}, tax=tax, seller={"country": "DE"})
    lineage(books, {})
    for plan_name, revenue in (("paid", 4 * 10**9), ("trial", 0)):
        tenant = books.tenant(plan_name)
        books.use(tenant, [Use(at("2026-09-02"), FIRST)] * 7, settings.terms(plan_name), plan_name)
        invoice = invoices.close(books.database, tenant, "2026-09", settings)
        net = sum(line.amount_nano for line in invoice.lines if line.kind != "tax")
        mine = Query(period="2026-09", tenant=tenant)
        assert report(books.database, settings, mine).total.revenue_nano == net == revenue
        if revenue:
            note = credit_notes.issue(books.database, invoice.number, settings, reason="a gift")
            this_month = Query(period=period_of(note.at), tenant=tenant)
            assert report(books.database, settings, this_month).total.revenue_nano == -revenue
            assert report(books.database, settings, Query(tenant=tenant)).total.revenue_nano == 0


def test_requests_outside_the_window_bear_their_share_of_training(books: Books) -> None:
    settings = priced()
    lineage(books, {FIRST: 100})
    tenant = books.tenant()
    books.use(tenant, [Use(at("2026-09-02"), FIRST, compute_ns=7)], settings.terms("free"))
    books.use(tenant, [Use(at("2026-10-02"), FIRST, compute_ns=9)] * 3, settings.terms("free"))
    found = report(books.database, settings, SEPTEMBER)
    closes(found)
    assert (found.total.serving_nano, found.total.training_nano) == (7, 25)
    assert found.apart["training_elsewhere"] == 75
    assert report(books.database, settings).total.training_nano == 100


def test_answers_without_counted_tokens_are_weighed_by_inputs(books: Books) -> None:
    settings = priced()
    lineage(books, {FIRST: 90})
    for inputs in (2, 1):
        books.use(books.tenant(), [Use(at("2026-09-02"), FIRST, inputs, 0, 0)], settings.terms("free"))
    assert [row.training_nano for row in report(books.database, settings, SEPTEMBER).rows] == [60, 30]


def test_a_month_in_which_nobody_asked_costs_all_the_same(books: Books) -> None:
    settings = priced(costs={"rent": "20 USD"})
    lineage(books, {FIRST: 100})
    sampled(books, "2026-09-02T12:00", wall=1_000, core=500, load=100)
    for by in GROUPS[:5]:
        found = report(books.database, settings, replace(SEPTEMBER, by=by))
        closes(found)
        assert found.total.cost_nano == 2_000 + 20 * 10**9
    assert found.apart["training_unanswered"] == 100
    assert [row.name for row in report(books.database, settings, SEPTEMBER).rows] == [""]


def test_an_idle_day_is_its_own_and_is_borne_by_those_who_asked_on_others(books: Books) -> None:
    settings = priced()
    lineage(books, {})
    one, two = books.tenant("free"), books.tenant("free")
    for tenant, engine in ((one, 30), (two, 10)):
        books.use(tenant, [Use(at("2026-09-02"), FIRST, compute_ns=engine)], Terms("USD"), "free")
    sampled(books, "2026-09-02T12:00", wall=105, core=50)
    sampled(books, "2026-09-06T12:00", wall=400, core=0)
    days = by_name(report(books.database, settings, replace(SEPTEMBER, by="day")))
    assert (days["2026-09-02"].idle_nano, days["2026-09-06"].idle_nano) == (160, 800)
    assert days["2026-09-06"].requests == 0
    assert (days["2026-09-02"].overhead_nano, days["2026-09-06"].overhead_nano) == (10, 0)
    mine = by_name(report(books.database, settings, Query("day", "2026-09", one)))
    assert mine["2026-09-06"].idle_nano == 600
    assert [row.idle_nano for row in report(books.database, settings, SEPTEMBER).rows] == [720, 240]


def test_time_that_no_gateway_wrote_down_is_said_and_charged(books: Books) -> None:
    settings = priced()
    lineage(books, {})
    books.use(books.tenant("free"), [Use(at("2026-09-02"), FIRST, compute_ns=70)], Terms("USD"), "free")
    sampled(books, "2026-09-02T12:00", wall=100, core=50)
    found = report(books.database, settings, SEPTEMBER)
    closes(found)
    assert (found.measured.unsampled_ns, found.measured.overhead_ns, found.total.serving_nano) == (20, 0, 70)


def test_what_is_paid_by_the_month_is_prorated_to_the_day(books: Books) -> None:
    settings = priced(storage_gb_month="0.30 USD", costs={"rent": "20 USD", "line": "0.000000001 USD"})
    books.database.write(
        lambda c: c.execute(
            insert(tables.artifacts),
            [
                {"digest": d * 64, "kind": "model", "facts": "{}", "bytes": n * 10**9, "created_at": at(created)}
                for d, n, created in (("5", 2, "2026-01-01"), ("6", 10, "2026-09-16"), ("7", 99, "2026-10-01"))
            ],
        )
    )
    found = report(books.database, settings, SEPTEMBER)
    assert found.total.storage_nano == 2 * 300_000_000 + 10 * 150_000_000
    assert found.total.fixed_nano == 20 * 10**9 + 1 and dict(found.fixed) == {"rent": 20 * 10**9, "line": 1}
    days = by_name(report(books.database, settings, replace(SEPTEMBER, by="day")))
    assert days["2026-09-15"].storage_nano == 20_000_000 and days["2026-09-16"].storage_nano == 120_000_000
    assert {row.fixed_nano for row in days.values()} <= {666_666_666, 666_666_667, 666_666_668}


def test_amounts_in_other_currencies_are_converted_by_stated_rates_and_sum_exactly(books: Books) -> None:
    euros = {"plans": {"euro": {"monthly": "10 EUR", "overage": {"requests": "0.000000001 EUR"}}}}
    settings = priced(**euros, costs={"rent": "3 EUR"}, exchange={"EUR/USD": "1.08"})
    lineage(books, {})
    tenants = [books.tenant("euro") for _ in range(7)]
    for tenant in tenants:
        books.use(tenant, [Use(at("2026-09-02"), FIRST)] * 3, settings.terms("euro"), "euro")
    found = report(books.database, settings, SEPTEMBER)
    closes(found)
    assert found.total.metered_nano == 23  # 21 x 1.08 = 22.68, rounded once
    assert {row.metered_nano for row in found.rows} == {3, 4}
    assert found.total.fixed_nano == 3_240_000_000
    other_way = priced(**euros, costs={"rent": "3 EUR"}, exchange={"USD/EUR": "0.5"})
    assert report(books.database, other_way, SEPTEMBER).total.metered_nano == 42
    with pytest.raises(SettingError, match="no rate of exchange from EUR to USD") as caught:
        report(books.database, priced(**euros), SEPTEMBER)
    assert "EUR/USD" in str(caught.value.hint)


def test_requests_are_listed_dearest_first_and_the_others_are_one_row(books: Books) -> None:
    settings = priced(costs={"rent": "20 USD"})
    lineage(books, {FIRST: 1_001})
    sampled(books, "2026-09-02T12:00", wall=10**6, core=30_000, load=100)
    one, two = books.tenant("free"), books.tenant("free")
    for tenant in (one, two):
        uses = [Use(at("2026-09-02"), FIRST, tokens=7 * i, compute_ns=100 * i) for i in range(1, 9)]
        books.use(tenant, uses, settings.terms("tokens"), "tokens")
    found = report(books.database, settings, Query("request", "2026-09", limit=3))
    closes(found)
    assert [row.compute_ns for row in found.rows] == [800, 800, 700, 7_200 - 2_300]
    assert [row.requests for row in found.rows] == [1, 1, 1, 13]
    assert found.rows[0].serving_nano == 800 and found.rows[0].metered_nano == 56 * 1_234
    with books.database.read() as connection:
        dearest = connection.execute(select(tables.usage.c.request).where(tables.usage.c.compute_ns == 800)).scalars()
        assert {row.name for row in found.rows[:2]} == set(dearest)
    everything = report(books.database, settings, Query("request", "2026-09", two, limit=8))
    closes(everything)
    rest = everything.rows[-1]
    assert rest.requests == rest.metered_nano == 0 and abs(rest.cost_nano) <= 8 * len(COSTS)  # what rounding left


def test_models_and_plans_are_told_apart(books: Books) -> None:
    settings = priced()
    lineage(books, {})
    tenant = books.tenant("free")
    books.use(tenant, [Use(at("2026-09-02"), FIRST)], Terms("USD"), "free")
    books.use(tenant, [Use(at("2026-09-03"), SECOND)] * 2, settings.terms("tokens"), "tokens")
    names = {
        by: {row.name: row.requests for row in report(books.database, settings, replace(SEPTEMBER, by=by)).rows}
        for by in ("model", "plan", "release", "day")
    }
    assert names["model"] == {"reviews": 1, "letters": 2}
    assert names["plan"] == {"free": 1, "tokens": 2}
    assert names["release"] == {FIRST: 1, SECOND: 2}
    assert names["day"] == {"2026-09-02": 1, "2026-09-03": 2}


@pytest.mark.parametrize(
    ("parameters", "where"),
    [
        ({"by": "tenants"}, "by"),
        ({"period": "2026-13"}, "period"),
        ({"period": "'; DROP TABLE usage"}, "period"),
        ({"limit": "0"}, "limit"),
        ({"limit": "1e3"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"order": "x"}, "order"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(parameters: dict[str, str], where: str) -> None:
    with pytest.raises(SettingError) as caught:
        asked(parameters)
    assert caught.value.where == where


def test_a_month_that_has_not_begun_is_refused(books: Books) -> None:
    with pytest.raises(SettingError, match="has not begun"):
        report(books.database, priced(), Query(period="2999-01"))


def test_a_report_is_drawn(books: Books, tmp_path: Path) -> None:
    settings = priced()
    lineage(books, {FIRST: 900})
    books.use(books.tenant("free"), [Use(at("2026-09-02"), FIRST)], Terms("USD"), "free")
    found = report(books.database, settings, replace(SEPTEMBER, by="model"))
    for ending, begins in ((".svg", b"<?xml"), (".png", b"\x89PNG")):
        margin_plot.draw(found, tmp_path / f"margin{ending}")
        assert (tmp_path / f"margin{ending}").read_bytes().startswith(begins)
    assert "reviews" in (tmp_path / "margin.svg").read_text()
    with pytest.raises(SettingError, match="cannot be written"):
        margin_plot.draw(found, tmp_path / "margin.pdf")


@hypothesis_settings(
    max_examples=12,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    uses=st.lists(
        st.builds(
            Use,
            at=st.sampled_from([at("2026-09-02"), at("2026-09-30T23:59:59"), at("2026-10-02")]),
            release=st.sampled_from([FIRST, SECOND]),
            inputs=st.integers(1, 4),
            tokens=st.integers(0, 500),
            compute_ns=st.integers(0, 10**12),
            more=st.just(()),
        ),
        max_size=8,
    ),
    price=st.integers(0, 10**12),
    core_ns=st.integers(0, 10**14),
    wall_ns=st.integers(0, 10**13),
)
def test_costs_always_sum_to_what_was_measured(
    books: Books, uses: list[Use], price: int, core_ns: int, wall_ns: int
) -> None:
    with books.database.read() as connection:
        begun = connection.execute(tables.artifacts.select()).first() is not None
    if not begun:
        lineage(books, {DATA: 1, UNUSED: 5})
    run(books, FIRST, core_ns)
    run(books, None, core_ns // 3, "interrupted")
    sampled(books, "2026-09-02T00:00:01", wall=wall_ns, core=wall_ns // 2, engine=wall_ns // 3, load=wall_ns // 7)
    tenant = books.tenant("free")
    settings = priced(core_hour=Money(price, "USD"), storage_gb_month="1 USD", costs={"rent": "7.77 USD"})
    books.use(tenant, sorted(uses, key=lambda use: use.at), Terms("USD"), "free")
    for period in (None, "2026-09", "2026-10"):
        for by in GROUPS[:5] if period == "2026-09" else GROUPS[:1]:
            found = report(books.database, settings, Query(by, period))
            in_core_time = closes(found)
            ns = found.measured.offered_ns + found.measured.unsampled_ns
            with books.database.read() as connection:
                for row in connection.execute(select(tables.runs)):  # all of them ended in September
                    ns += row.core_ns if row.outcome == "finished" or period != "2026-10" else 0
            assert abs(in_core_time * HOUR_NS - ns * price) <= HOUR_NS // 2
