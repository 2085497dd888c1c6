"""Answers of batches and answers that were kept: their own price, and the same sum on ledger, invoice and its query."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sqlalchemy import text

from feilun.accounts.tariffs import Tariff, Tier
from feilun.accounts.terms import Terms
from feilun.bill import invoices
from feilun.bill.counterfactual import Change, replay
from feilun.bill.plan_settings import PlanSettings
from feilun.bill.rating import UsageRow, rate
from feilun.bill.settings import BillSettings
from feilun.store.artifacts import ArtifactStore
from feilun.store.counts import Counts
from tests.bill.books import Books, Use, at

TIERED = Tariff("graduated", (Tier(5, 1_000, 1, 7), Tier(None, 300, 7)))
PACKAGES = Tariff("package", (Tier(None, 101, 10),))
PLANS = (
    Terms("USD", unit_nano={"requests": 10, "tokens": 3}),
    Terms("USD", included={"requests": 4}, unit_nano={"requests": 10}, batch_percent=33),
    Terms("USD", unit_nano={"requests": 10, "batch_requests": 4}, cached_percent=0),
    Terms("USD", tariffs={"requests": TIERED, "tokens": PACKAGES}, batch_percent=25, cached_percent=10),
    Terms("USD", unit_nano={"requests": 10}, batch_percent=100),
)
ANSWER = st.tuples(st.sampled_from(["", "batch", "cached"]), st.integers(0, 9))


def test_half_the_plain_price_is_what_a_batch_costs_where_nothing_else_is_said() -> None:
    plan = Terms("USD", unit_nano={"requests": 10, "tokens": 3})
    batch = Counts(2, 2, 5).by_way("batch")
    assert plan.total(Counts(2, 2, 5)) == 35
    assert plan.total(batch) == 2 * 5 + 8  # 7.5, half to even
    assert plan.total(Counts(2, 2, 5).by_way("cached")) == 35
    assert plan.version == Terms("USD", unit_nano={"requests": 10, "tokens": 3}, batch_percent=50).version
    assert Terms.from_json(PLANS[3].as_json()) == PLANS[3] and PLANS[3].version != PLANS[0].version


def test_an_answer_has_one_way() -> None:
    assert Counts(1, 1, 3).by_way("cached").by_way("batch") == Counts(1, 1, 3).by_way("cached")


@given(st.sampled_from(PLANS), st.lists(ANSWER, max_size=12))
def test_the_amounts_of_rows_sum_to_the_month_and_to_its_lines(plan: Terms, answers: list[tuple[str, int]]) -> None:
    month, rows, total = Counts(), [], 0
    for number, (way, tokens) in enumerate(answers, start=1):
        units = Counts(1, 1, tokens)
        after = month.plus(units.by_way(way) if way else units)
        amount = plan.amount(month, after)
        assert amount >= 0
        more = after.minus(month).columns()["more"]
        rows.append(
            UsageRow(number, f"r{number}", "a" * 64, 1, tokens, plan.version, amount, "USD", at("2026-09-02"), more)
        )
        month, total = after, total + amount
    rated = rate(rows, {plan.version: plan}, {}, "acme", "2026-09")
    assert total == plan.total(month) == sum(line.exact_nano for line in rated.lines)
    assert rated.mismatches == [] and rated.stored_nano == total
    assert plan.ceiling(month) >= total


def test_the_query_on_a_line_counts_its_units_again(books: Books) -> None:
    plan = Terms("USD", included={"requests": 2}, unit_nano={"requests": 1_000_000, "tokens": 10})
    tenant = books.tenant("free")
    uses = [Use(at("2026-09-02")), Use(at("2026-09-03"), more=(("batch_requests", 1), ("batch_tokens", 3)))] * 4
    books.use(tenant, uses, plan, "free")
    columns = ", ".join(UsageRow._fields)
    with books.database.read() as connection:
        found = connection.execute(
            text(f"SELECT {columns} FROM usage WHERE tenant = :t ORDER BY sequence"), {"t": tenant}
        )
        rows = [UsageRow(*row) for row in found]
        rated = rate(rows, {plan.version: plan}, {}, tenant, "2026-09", dialect=connection.dialect.name)
        assert rated.mismatches == []
        assert {line.meter for line in rated.lines} == {"requests", "tokens", "batch_requests", "batch_tokens"}
        for line in rated.lines:
            assert connection.execute(text(str(line.query))).scalar_one() == line.units, line.description
    (batch,) = (line for line in rated.lines if line.meter == "batch_requests")
    assert (batch.units, batch.exact_nano) == (4, 2_000_000) and "batch" in batch.description


def test_a_plan_may_state_its_own_price_or_share() -> None:
    plan = PlanSettings.model_validate(
        {
            "overage": {"requests": "0.001 USD", "batch_tokens": "0.00001 USD"},
            "batch_percent": 20,
            "included": {"batch_requests": 5},
        }
    )
    terms = plan.schedule("USD").newest
    assert terms.rates.unit_nano == {"requests": 1_000_000, "batch_requests": 200_000, "batch_tokens": 10_000}
    with pytest.raises(ValidationError, match="included names 'cached_requests'"):
        PlanSettings.model_validate({"overage": {"requests": "0.001 USD"}, "included": {"cached_requests": 5}})


def test_a_month_with_batches_is_replayed_under_another_plan(books: Books, store: ArtifactStore) -> None:
    plans = {
        "half": {"overage": {"requests": "1 USD"}},
        "fifth": {"overage": {"requests": "1 USD"}, "batch_percent": 20},
    }
    settings = BillSettings.model_validate({"core_hour": "1 USD", "plans": plans, "grace": "0s"})
    tenant = books.tenant("half")
    uses = [Use(at("2026-09-02")), Use(at("2026-09-03"), more=(("batch_requests", 1),))] * 5
    books.use(tenant, uses, settings.terms("half"), "half")
    (customer,) = replay(store, settings, "2026-09", Change({tenant: "fifth"})).customers
    assert customer.instead.revenue_nano == 6 * 10**9
    (invoice,) = invoices.drafts(books.database, tenant, "2026-09", settings)
    assert invoice.total_nano == 7_500_000_000
