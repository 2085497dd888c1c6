"""A month replayed: the same rules, other terms, and nothing written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import insert, select
from ulid import ULID

from faults.house import WORDS, make_release
from feilun.accounts.terms import Terms
from feilun.bill import invoices, replay_plot
from feilun.bill.counterfactual import Change, Customer, Replay, prices_of, replay, with_plan
from feilun.bill.other_release import interval
from feilun.bill.settings import BillSettings
from feilun.errors import ArtifactError, ProjectError, SettingError
from feilun.store import tables
from feilun.store.artifacts import ArtifactStore
from feilun.store.database import Database
from feilun.store.money import Money
from tests.bill.books import Books, Use, at

MONTH = "2026-09"
CENT = 10**7
PLANS: dict[str, Any] = {
    "starter": {"monthly": "19.00 USD", "included": {"requests": 3}, "overage": {"requests": "0.0008 USD"}},
    "tokens": {"overage": {"inputs": "0.001 USD", "tokens": "0.000001234 USD"}, "included": {"tokens": 25}},
    "tiers": {
        "monthly": "5.00 USD",
        "minimum": "6.00 USD",
        "tiers": {"requests": {"mode": "graduated", "steps": [{"up_to": 2, "price": "1 USD"}, {"price": "0.5 USD"}]}},
    },
    "volume": {
        "tiers": {"tokens": {"mode": "volume", "steps": [{"up_to": 50, "price": "0.01 USD"}, {"price": "0.003 USD"}]}}
    },
    "free": {},
}


@pytest.fixture(scope="module")
def terms() -> BillSettings:
    return BillSettings.model_validate({"core_hour": Money(3_600 * 10**9, "USD"), "plans": PLANS, "grace": "0s"})


def only(found: Replay) -> Customer:
    (customer,) = found.customers
    return customer


def everything(database: Database) -> dict[str, list[Any]]:
    with database.read() as connection:
        return {t.name: sorted(map(str, connection.execute(select(t)))) for t in tables.metadata.sorted_tables}


uses = st.lists(
    st.builds(
        Use,
        at=st.integers(at("2026-09-01"), at("2026-10-01") - 1),
        release=st.sampled_from(["a" * 64, "b" * 64]),
        inputs=st.integers(1, 5),
        tokens=st.integers(0, 40),
        compute_ns=st.integers(0, 10**9),
        more=st.just(()),
    ),
    min_size=1,
    max_size=12,
)


@hypothesis_settings(
    max_examples=10,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(chosen=uses, was=st.sampled_from(sorted(PLANS)), would=st.sampled_from(sorted(PLANS)))
def test_what_was_charged_is_the_invoice_and_what_would_have_been_is_the_other_plan_s_invoice(
    books: Books, store: ArtifactStore, terms: BillSettings, chosen: list[Use], was: str, would: str
) -> None:
    chosen = sorted(chosen, key=lambda use: use.at)
    tenant, twin = books.tenant(was), books.tenant(would)  # the twin really was on the other plan
    for name, plan in ((tenant, was), (twin, would)):
        books.use(name, chosen, terms.terms(plan), plan)
    found = {c.tenant: c for c in replay(store, terms, MONTH, Change({tenant: would})).customers}
    for side, name in ((found[tenant].then, tenant), (found[tenant].instead, twin), (found[twin].then, twin)):
        assert side.revenue_nano == invoices.draft(books.database, name, MONTH, terms).total_nano
    assert found[twin].then == found[twin].instead
    assert (found[tenant].then.plan, found[tenant].instead.plan) == (was, would)


def test_a_closed_month_is_replayed_like_an_open_one_and_nothing_is_written(
    books: Books, store: ArtifactStore, terms: BillSettings
) -> None:
    tenant = books.tenant()
    books.use(tenant, [Use(at("2026-09-02"))] * 40, terms.terms("starter"))
    invoice = invoices.close(books.database, tenant, MONTH, terms)
    before = everything(books.database)
    customer = only(replay(store, terms, MONTH, with_plan(Change({}), "tiers")))
    assert everything(books.database) == before
    assert customer.then.revenue_nano == invoice.total_nano == 1903 * CENT
    assert customer.instead.revenue_nano == 5 * 10**9 + 2 * 10**9 + 38 * 5 * 10**8
    assert customer.then.cost_nano == customer.instead.cost_nano == 40 * 1_000


def test_other_prices_hold_for_the_whole_month(
    books: Books, store: ArtifactStore, terms: BillSettings, tmp_path: Path
) -> None:
    tenant, other = books.tenant(), books.tenant("free")
    for name, plan in ((tenant, "starter"), (other, "free")):
        books.use(name, [Use(at("2026-09-02"))] * 4, terms.terms(plan), plan)
    file = tmp_path / "dearer.toml"
    file.write_text('[bill.plans.starter]\nmonthly = "25 USD"\noverage = { requests = "1 USD" }\n')
    found = replay(store, terms, MONTH, Change({}, prices=prices_of(file)))
    dearer, same = found.customers
    assert (dearer.tenant, dearer.instead.revenue_nano) == (tenant, 29 * 10**9)
    assert same.then == same.instead
    assert found.total.instead.revenue_nano == 29 * 10**9 and found.total.judged == 0
    told = json.loads(json.dumps(found.as_dict()))
    assert told["customers"][0]["instead"]["margin_nano"] == 29 * 10**9 - 4_000


def test_meters_without_a_column_are_rated_too(books: Books, store: ArtifactStore) -> None:
    plans = PLANS | {"compute": {"overage": {"compute_ms": "0.01 USD"}}}
    terms = BillSettings.model_validate({"plans": plans, "grace": "0s"})
    tenant = books.tenant("free")
    books.use(tenant, [Use(at("2026-09-02"), more=(("compute_ms", 7),))] * 2, terms.terms("free"), "free")
    assert only(replay(store, terms, MONTH, Change({tenant: "compute"}))).instead.revenue_nano == 14 * CENT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Change({}), "nothing is changed"),
        (Change({"nobody": "free"}), "there is no tenant 'nobody'"),
        (Change({"*": "fre"}), "there is no plan 'fre'"),
    ],
)
def test_what_makes_no_sense_is_refused(
    books: Books, store: ArtifactStore, terms: BillSettings, change: Change, message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        replay(store, terms, MONTH, change)
    with pytest.raises(SettingError, match="not a change of plan"):
        with_plan(change, "acme=")


def test_a_file_of_prices_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    for text, message in (("[bill", "cannot be read"), ("[bill.plans.a]\nmonthly = 3\nx = 1\n", "2 problems")):
        file.write_text(text)
        with pytest.raises(ProjectError, match=message):
            prices_of(file)


def corrected(books: Books, tenant: str, release: str, answers: list[tuple[str, str, str]]) -> None:
    """Requests of a tenant, each corrected: its text, what was answered, and what is right."""
    uses = [Use(at("2026-09-02"), release, tokens=600, compute_ns=6_000)] * len(answers)
    rows = books.use(tenant, uses, Terms("USD"), "free")
    kept = [
        {"id": str(ULID()), "tenant": tenant, "request": row["request"], "input": 0, "release": release}
        | {
            "kind": "correction",
            "text": text,
            "answered": answered,
            "label": label,
            "contributor": "c",
            "at": row["at"],
        }
        for row, (text, answered, label) in zip(rows, answers, strict=True)
    ]
    books.database.write(lambda c: c.execute(insert(tables.feedback), kept))


def test_another_release_is_asked_what_was_corrected_and_costs_what_it_costs(
    books: Books, store: ArtifactStore, terms: BillSettings, tmp_path: Path
) -> None:
    from feilun import models
    from feilun.pipeline.kinds import Model

    first, second = (make_release(store, tmp_path, seed) for seed in (1, 2))
    model = next(a for a in map(store.get, second.parents) if isinstance(a, Model))
    texts = [" ".join(WORDS[i : i + 3]) for i in range(12)]
    says = models.predict(model, texts).labels
    wrong = ["negative" if label != "negative" else "positive" for label in says]
    one, two = books.tenant("free"), books.tenant("free")
    corrected(books, one, first.digest, list(zip(texts[:8], wrong[:8], says[:8], strict=True)))  # it would be right
    corrected(books, two, first.digest, list(zip(texts[8:], wrong[8:], wrong[8:], strict=True)))  # it would be wrong
    found = replay(store, terms, MONTH, Change({}, release=f"reviews@{second.digest[:12]}"))
    gets = {c.tenant: (c.judged, c.right_then, c.right_instead) for c in found.customers}
    assert gets == {one: (8, 0, 8), two: (4, 4, 0)}
    assert found.release is not None and found.release.instead.measured == "here"
    assert found.release.gain_ppm == 333_333
    assert found.release.instead.core_ns > 0
    was = sum(c.then.cost_nano for c in found.customers)
    would = sum(c.instead.cost_nano for c in found.customers)
    rates = found.release.then, found.release.instead
    expected = 72_000 * rates[1].core_ns * rates[0].tokens // (rates[0].core_ns * rates[1].tokens)
    assert abs(would - was - (expected - 72_000)) <= 2

    books.use(one, [Use(at("2026-10-02"), second.digest, tokens=2_000, compute_ns=40_000)], terms.terms("free"), "free")
    again = replay(store, terms, MONTH, Change({}, release=f"reviews@{second.digest[:12]}"))
    assert again.release is not None and again.release.instead.measured == "ledger"
    assert sum(c.instead.cost_nano - c.then.cost_nano for c in again.customers) == 72_000  # 20 for a token, not 10


def test_a_release_that_is_not_there_is_refused(
    books: Books, store: ArtifactStore, terms: BillSettings, tmp_path: Path
) -> None:
    release = make_release(store, tmp_path, 1)
    for wanted in ("reviews", f"letters@{release.digest[:12]}", "reviews@00000000"):
        with pytest.raises(ArtifactError):
            replay(store, terms, MONTH, Change({}, release=wanted))
    with pytest.raises(ArtifactError, match="no release of 'reviews' answered"):
        replay(store, terms, MONTH, Change({}, release=f"reviews@{release.digest[:12]}"))


@given(better=st.integers(0, 500), worse=st.integers(0, 500), same=st.integers(0, 500))
def test_the_interval_holds_the_difference_and_turns_with_it(better: int, worse: int, same: int) -> None:
    judged = better + worse + same
    if not judged:
        return
    gain, low, high = interval(better, worse, judged)
    assert -(10**6) <= low < high <= 10**6 and low <= gain <= high
    turned = interval(worse, better, judged)
    assert abs(turned[1] + high) <= 1 and abs(turned[2] + low) <= 1
    wider = interval(better * 4, worse * 4, judged * 4)
    assert wider[2] - wider[1] <= high - low


def test_a_replay_is_drawn(books: Books, store: ArtifactStore, terms: BillSettings, tmp_path: Path) -> None:
    tenant = books.tenant()
    books.use(tenant, [Use(at("2026-09-02"))] * 4, terms.terms("starter"))
    found = replay(store, terms, MONTH, Change({"*": "tiers"}))
    replay_plot.draw(found, tmp_path / "replay.svg")
    assert tenant[:14] in (tmp_path / "replay.svg").read_text()
    with pytest.raises(SettingError, match="cannot be written"):
        replay_plot.draw(found, tmp_path / "replay.gif")
