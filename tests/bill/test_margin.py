from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import insert
from ulid import ULID

from feilun.accounts.terms import Terms
from feilun.bill import invoices
from feilun.bill.margin import HOUR_NS, margins
from feilun.bill.settings import BillSettings
from feilun.errors import ConflictError
from feilun.store import tables
from feilun.store.money import Money
from tests.bill.books import Books, Use, at

FIRST, SECOND, UNUSED = "1" * 64, "2" * 64, "3" * 64
DATA, MODEL = "d" * 64, "e" * 64
HOUR = Money(3_600 * 10**9, "USD")  # so that a core-nanosecond costs a nano-unit


def lineage(books: Books, runs: dict[str, int]) -> None:
    """data -> first -> second, data -> unused, and a model that went into no release; runs cost their core_ns."""
    kinds = {DATA: "dataset", MODEL: "model", FIRST: "release", SECOND: "release", UNUSED: "release"}

    def write(connection: Any) -> None:
        for digest, kind in kinds.items():
            row = {"digest": digest, "kind": kind, "facts": "{}", "bytes": 0, "created_at": 0}
            connection.execute(insert(tables.artifacts).values(row))
            if kind == "release":
                connection.execute(insert(tables.releases).values(digest=digest, name="r", registered_at=0))
        for child, parent in ((FIRST, DATA), (SECOND, FIRST), (UNUSED, DATA)):
            connection.execute(insert(tables.parents).values(child=child, parent=parent))

    books.database.write(write)
    for output, core_ns in runs.items():
        run(books, output, core_ns)


def run(books: Books, output: str | None, core_ns: int, outcome: str = "finished") -> None:
    row = {"id": str(ULID()), "fingerprint": "f", "step": "s", "version": 1, "name": "n", "settings": "{}"}
    row |= {"inputs": "{}", "environment": "{}", "metrics": "{}", "wall_ns": 0, "started_at": 0, "finished_at": 0}
    row |= {"core_ns": core_ns, "outcome": outcome, "output": output}
    books.database.write(lambda c: c.execute(insert(tables.runs).values(row)))


def test_revenue_less_serving_less_training_for_each_tenant_and_release(books: Books, settings: BillSettings) -> None:
    lineage(books, {DATA: 600, FIRST: 90, SECOND: 50, UNUSED: 7, MODEL: 1_000_000})
    run(books, FIRST, 999, "failed")
    one, two = books.tenant(), books.tenant("tokens")
    books.use(one, [Use(at("2026-09-02"), FIRST, tokens=20, compute_ns=5)] * 4, settings.terms("starter"))
    books.use(two, [Use(at("2026-09-02"), SECOND, tokens=10, compute_ns=3)], settings.terms("tokens"), "tokens")
    invoices.close(books.database, one, "2026-09", settings)
    invoices.close(books.database, two, "2026-09", settings)
    report = margins(books.database, HOUR, "2026-09")
    first, second = report.tenants
    assert (first.tenant, first.requests, first.revenue_nano, first.serving_nano) == (one, 4, 19 * 10**9, 20)
    assert (second.tenant, second.requests, second.revenue_nano, second.serving_nano) == (two, 1, 0, 3)
    # 80 tokens of the first release, 10 of the second: data and first are shared 80 : 10, second is its own
    assert [m.training_nano for m in report.tenants] == [533 + 80, 67 + 10 + 50]
    assert report.unanswered_nano == 7 and report.elsewhere_nano == 0
    assert report.cost_nano == 600 + 90 + 50 + 7 + 20 + 3
    assert [(m.tenant, m.release) for m in report.releases] == [(one, ""), (one, FIRST), (two, SECOND)]
    assert first.margin_nano == 19 * 10**9 - 20 - 613
    assert json.loads(json.dumps(report.as_dict()))["tenants"][1]["margin"] == "-0.00000013 USD"


def test_requests_that_are_not_invoiced_yet_bear_their_share(books: Books, settings: BillSettings) -> None:
    lineage(books, {FIRST: 100})
    tenant = books.tenant()
    terms = settings.terms("starter")
    books.use(tenant, [Use(at("2026-09-02"), FIRST, compute_ns=7)], terms)
    invoices.close(books.database, tenant, "2026-09", settings)
    books.use(tenant, [Use(at("2026-10-02"), FIRST, compute_ns=9)] * 3, terms)
    report = margins(books.database, HOUR)
    assert [(m.requests, m.serving_nano, m.training_nano) for m in report.tenants] == [(1, 7, 25)]
    assert report.elsewhere_nano == 27 + 75


def test_without_any_usage_there_is_nothing_to_share(books: Books) -> None:
    lineage(books, {FIRST: 100})
    report = margins(books.database, HOUR)
    assert report.tenants == () and report.unanswered_nano == report.cost_nano == 100


def test_answers_without_counted_tokens_are_weighed_by_inputs(books: Books, settings: BillSettings) -> None:
    lineage(books, {FIRST: 90})
    one, two = books.tenant(), books.tenant()
    for tenant, inputs in ((one, 2), (two, 1)):
        books.use(tenant, [Use(at("2026-09-02"), FIRST, inputs, 0, 0)], settings.terms("starter"))
        invoices.close(books.database, tenant, "2026-09", settings)
    assert [m.training_nano for m in margins(books.database, HOUR).tenants] == [60, 30]


def test_a_core_hour_in_another_currency_is_refused(books: Books, settings: BillSettings) -> None:
    lineage(books, {})
    tenant = books.tenant()
    books.use(tenant, [Use(at("2026-09-02"), FIRST)], settings.terms("starter"))
    invoices.close(books.database, tenant, "2026-09", settings)
    with pytest.raises(ConflictError, match="USD"):
        margins(books.database, Money(1, "EUR"))


@hypothesis_settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    uses=st.lists(
        st.builds(
            Use,
            at=st.sampled_from([at("2026-09-02"), at("2026-10-02")]),
            release=st.sampled_from([FIRST, SECOND]),
            inputs=st.integers(1, 4),
            tokens=st.integers(0, 500),
            compute_ns=st.integers(0, 10**12),
        ),
        max_size=8,
    ),
    price=st.integers(0, 10**12),
    core_ns=st.integers(0, 10**14),
)
def test_costs_always_sum_to_what_was_measured(books: Books, uses: list[Use], price: int, core_ns: int) -> None:
    with books.database.read() as connection:
        begun = connection.execute(tables.artifacts.select()).first() is not None
    if not begun:
        lineage(books, {DATA: 1, UNUSED: 5})
    run(books, FIRST, core_ns)
    tenant = books.tenant("free")
    settings = BillSettings.model_validate({"plans": {"free": {}}})
    books.use(tenant, sorted(uses, key=lambda use: use.at), Terms("USD"), "free")
    if any(use.at < at("2026-10-01") for use in uses):
        invoices.close(books.database, tenant, "2026-09", settings)
    for period in (None, "2026-09", "2026-10"):
        report = margins(books.database, Money(price, "USD"), period)
        inside = [m.serving_nano + m.training_nano for m in report.tenants]
        assert sum(inside) + report.elsewhere_nano + report.unanswered_nano == report.cost_nano
        assert sum(inside) == sum(m.serving_nano + m.training_nano for m in report.releases)
        assert min([*inside, report.elsewhere_nano, report.unanswered_nano]) >= 0
    with books.database.read() as connection:
        ns = sum(connection.execute(tables.usage.select()).scalars("compute_ns"))
        ns += sum(r.core_ns for r in connection.execute(tables.runs.select()))
    assert abs(report.cost_nano * HOUR_NS - ns * price) <= HOUR_NS // 2
