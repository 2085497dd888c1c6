"""Nothing is lost or charged twice: late events, stopped customers, coupons in mid-month, absurd amounts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feilun.accounts import tenants
from feilun.accounts.terms import Terms
from feilun.bill import composing, coupons, invoices, plan_history
from feilun.bill.coupons import Coupon, discounts
from feilun.bill.invoice import Invoice
from feilun.bill.rating import Line
from feilun.bill.settings import BillSettings
from feilun.bill.verify import NOT_INVOICED, verify
from feilun.errors import ConflictError
from feilun.store.database import Database, now_us
from feilun.store.money import MOST
from feilun.store.periods import bounds, period_of
from tests.bill.books import Books, Use, at

USD = 10**9
PAGES = {"pages": {"unit": "page"}}
HALF = {"HALF": {"percent_off": "50", "months": 12}}


def bill(plans: dict[str, Any], **more: Any) -> BillSettings:
    return BillSettings.model_validate({"core_hour": "0.05 USD", "grace": "0h", "plans": plans, "meters": PAGES} | more)


def all_of(books: Books, tenant: str) -> list[Invoice]:
    with books.database.read() as connection:
        return invoices.of_tenant(connection, tenant)


def this_month(database: Database) -> tuple[str, int]:
    with database.read() as connection:
        now = now_us(connection)
    return period_of(now), now


def announce(books: Books, settings: BillSettings) -> None:
    books.announce({plan: schedule.newest for plan, schedule in settings.all_terms().items()}, "2026-01-01")


TWO = {"usd": {"overage": {"pages": "1 USD"}}, "eur": {"monthly": "5 EUR", "overage": {"pages": "1 EUR"}}}


def test_a_late_event_of_a_month_in_a_currency_that_the_tenant_has_left_is_invoiced_in_that(books: Books) -> None:
    settings = bill(TWO)
    announce(books, settings)
    tenant = books.tenant("usd", "2026-07-01")
    books.assign(tenant, "eur", "2026-08-31T23:00:00")
    invoices.close(books.database, tenant, "2026-08", settings)
    books.events(tenant, [("pages", 500, at("2026-08-10"))])
    invoices.close(books.database, tenant, "2026-09", settings)
    late = [line for i in all_of(books, tenant) for line in i.lines if line.meter == "pages" and i.currency == "USD"]
    assert [(line.period, line.units, line.amount_nano) for line in late] == [("2026-08", 500, 500 * USD)]
    invoices.close(books.database, tenant, "2026-10", settings)
    assert sum(line.units for i in all_of(books, tenant) for line in i.lines if line.meter == "pages") == 500
    assert verify(books.database).problems == ()


def test_events_that_no_invoice_covers_are_told_and_do_not_hinder_the_closing_that_mends_it(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = bill(TWO)
    announce(books, settings)
    tenant = books.tenant("usd", "2026-07-01")
    books.assign(tenant, "eur", "2026-08-31T23:00:00")
    invoices.close(books.database, tenant, "2026-08", settings)
    books.events(tenant, [("pages", 500, at("2026-08-10"))])
    real = composing.compose
    with monkeypatch.context() as before:  # as closing once was: only in the currencies of the month itself
        before.setattr(invoices, "compose", lambda *all: [d for d in real(*all) if d.invoice.currency == "EUR"])
        invoices.close(books.database, tenant, "2026-09", settings)
    found = verify(books.database)
    (problem,) = found.problems
    assert (problem.name, found.hindrances) == (NOT_INVOICED, ())
    assert "500 units of meter 'pages' of 2026-08" in problem.what
    invoices.close(books.database, tenant, "2026-10", settings)
    assert verify(books.database).problems == ()


def test_an_absurd_event_is_told_and_the_other_tenants_are_closed(books: Books) -> None:
    settings = bill({"a": {"monthly": "1 USD", "overage": {"pages": "0.01 USD"}}})
    announce(books, settings)
    absurd, gone, other = (books.tenant("a", "2026-07-01") for _ in range(3))
    books.assign(gone, "forgotten", "2026-09-02")
    books.events(absurd, [("pages", 10**12, at("2026-09-03"))])
    with pytest.raises(invoices.PartlyClosedError) as told:
        invoices.close_all(books.database, "2026-09", settings)
    assert other in [invoice.tenant for invoice in told.value.closed] and len(all_of(books, other)) == 1
    why = told.value.failed[absurd]
    assert isinstance(why, ConflictError) and why.name == "amount-too-large"
    assert "1,000,000,000,000 units of meter 'pages'" in why.what and absurd in why.what
    assert "forgotten" in told.value.failed[gone].what and gone in str(told.value.where)
    assert told.value.exit_code != 0 and other in told.value.what
    assert not all_of(books, absurd) and verify(books.database).holds


def test_the_largest_amount_that_the_ledger_holds_is_invoiced(books: Books) -> None:
    settings = bill({"a": {"overage": {"pages": "0.01 USD"}}})
    announce(books, settings)
    tenant = books.tenant("a", "2026-07-01")
    books.events(tenant, [("pages", MOST // 10**7, at("2026-09-03"))])
    assert invoices.close(books.database, tenant, "2026-09", settings).total_nano == MOST // 10**7 * 10**7
    assert verify(books.database).holds


@pytest.mark.parametrize("what", ["coupon", "plan"])
def test_what_changes_after_a_clock_was_put_back_is_behind_the_invoice(books: Books, what: str) -> None:
    plans = {"usd": {"monthly": "10 USD", "overage": {"requests": "1 USD"}}, "two": {"monthly": "5 USD"}}
    settings = bill(plans, coupons=HALF)
    plan_history.announce(books.database, settings.all_terms())
    tenant = books.tenant("usd", "2026-07-01")
    month, now = this_month(books.database)
    ahead = min(now + 600 * 10**6, bounds(month)[1] - 10**6)
    books.use(tenant, [Use(ahead)], settings.terms("usd"), "usd")
    invoices.close(books.database, tenant, month, settings, interim=True)
    if what == "coupon":
        coupons.redeem(books.database, tenant, "HALF", settings)
    else:
        tenants.set_plan(books.database, tenant, "two")
    assert verify(books.database).problems == ()
    books.use(tenant, [Use(ahead)], settings.terms("usd"), "usd")
    invoices.close(books.database, tenant, month, settings, interim=True)
    kinds = {line.kind for line in all_of(books, tenant)[1].lines}
    assert ("discount" if what == "coupon" else "unused") in kinds
    assert verify(books.database).problems == ()


@pytest.mark.parametrize("what", ["coupon", "plan"])
def test_what_is_committed_between_the_snapshot_and_the_commit_of_a_closing_is_in_the_invoice(
    books: Books, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = bill({"usd": {"monthly": "10 USD"}, "two": {"monthly": "5 USD"}}, coupons=HALF)
    plan_history.announce(books.database, settings.all_terms())
    tenant = books.tenant("usd", "2026-07-01")
    month, _ = this_month(books.database)
    write = Database.write
    changed: list[str] = []

    def after_the_change(database: Database, job: Any, **order: Any) -> Any:
        if not changed:
            changed.append(what)
            if what == "coupon":
                coupons.redeem(database, tenant, "HALF", settings)
            else:
                tenants.set_plan(database, tenant, "two")
        return write(database, job, **order)

    monkeypatch.setattr(Database, "write", after_the_change)
    closed = invoices.close(books.database, tenant, month, settings, interim=True)
    if what == "coupon":
        assert [line.kind for line in closed.lines] == ["fee", "discount"]
    else:
        assert {str(line.words["plan"]) for line in closed.lines} == {"usd", "two"}
    assert len(all_of(books, tenant)) == 1 and verify(books.database).problems == ()


def test_a_trial_is_not_given_on_coming_back_to_a_plan_that_had_none_at_first(books: Books) -> None:
    first = {"a": Terms("USD", 30 * USD), "b": Terms("USD", USD)}
    books.announce(first, "2026-01-01")
    tenant = books.tenant("a", "2026-07-01")
    books.assign(tenant, "b", "2026-08-01")
    books.announce(first | {"a": Terms("USD", 30 * USD, trial_days=30)}, "2026-08-15")
    books.assign(tenant, "a", "2026-09-01")
    settings = bill({"a": {"monthly": "30 USD", "trial_days": 30}, "b": {"monthly": "1 USD"}})
    assert [line.kind for line in invoices.close(books.database, tenant, "2026-09", settings).lines] == ["fee"]
    assert verify(books.database).problems == ()


@pytest.mark.parametrize("used", ["usage", "event", "assignment", None])
def test_a_stopped_tenant_pays_for_a_past_month_in_which_it_was_active(books: Books, used: str | None) -> None:
    settings = bill({"a": {"monthly": "30 USD"}, "b": {"monthly": "30 USD"}})
    announce(books, settings)
    tenant = books.tenant("a", "2026-07-01")
    if used == "usage":
        books.use(tenant, [Use(at("2026-09-03"))], settings.terms("a"), "a")
        invoices.close(books.database, tenant, "2026-08", settings)
    elif used == "event":
        books.events(tenant, [("pages", 1, at("2026-09-03"))])
    elif used == "assignment":
        books.assign(tenant, "b", "2026-09-16")
    tenants.set_active(books.database, tenant, active=False)
    fees = [
        line.amount_nano
        for line in invoices.draft(books.database, tenant, "2026-09", settings).lines
        if line.kind == "fee"
    ]
    assert sum(fees) == (30 * USD if used else 0)
    later = invoices.draft(books.database, tenant, "2026-10", settings)
    assert not any(line.period == "2026-10" for line in later.lines)


def test_a_coupon_takes_nothing_from_a_fee_given_back_that_was_charged_without_it(books: Books) -> None:
    settings = bill({"a": {"monthly": "100 USD"}, "z": {}}, coupons=HALF)
    plan_history.announce(books.database, settings.all_terms())
    tenant = books.tenant("a", "2026-07-01")
    month, _ = this_month(books.database)
    invoices.close(books.database, tenant, month, settings, interim=True)
    coupons.redeem(books.database, tenant, "HALF", settings)
    tenants.set_plan(books.database, tenant, "z")
    refund = invoices.close(books.database, tenant, month, settings, interim=True)
    assert [line.kind for line in refund.lines] == ["unused"] and refund.total_nano < 0
    assert verify(books.database).problems == ()


MONTH = "2026-09"
BEGINS, ENDS = bounds(MONTH)
DAY = 86_400 * 10**6


def coupon(*, percent: str | None = None, off: int | None = None, code: str = "C", when: int = BEGINS) -> Coupon:
    return Coupon(code, percent, None if off is None else off * USD, None if off is None else "USD", 3, when)


def fee(kind: str, days: tuple[int, int]) -> Line:
    """30 coins a day."""
    times = {"begins": BEGINS + days[0] * DAY, "ends": BEGINS + days[1] * DAY, "part": 1, "whole": 30}
    units = 1 if kind == "fee" else -1
    nano = units * (days[1] - days[0]) * USD
    return Line(
        kind=kind, period=MONTH, units=units, unit_nano=30 * USD, exact_nano=nano, amount_nano=nano, words=times
    )


def charges(used: int) -> Line:
    return Line(kind="usage", period=MONTH, exact_nano=used * USD, amount_nano=used * USD)


def total(held: list[Coupon], batches: list[list[Line]]) -> int:
    """What the discounts of several invoices of a month come to."""
    earlier: list[tuple[int, Line]] = []
    for number, lines in enumerate(batches):
        when = BEGINS + 1 + number
        made = discounts([c for c in held if c.at <= when], lines, earlier, "USD")
        earlier += [(when, line) for line in (*lines, *made)]
    return sum(line.amount_nano for _, line in earlier if line.kind == "discount")


rules = st.lists(
    st.one_of(
        st.sampled_from(["10", "25", "50", "100"]).map(lambda p: {"percent": p}),
        st.integers(1, 60).map(lambda off: {"off": off}),
    ),
    min_size=1,
    max_size=3,
)


@given(rules=rules, left=st.integers(0, 30), used=st.lists(st.integers(0, 40), min_size=1, max_size=4))
def test_discounts_of_interim_invoices_and_the_final_one_come_to_those_of_one_final_invoice(
    rules: list[dict[str, Any]], left: int, used: list[int]
) -> None:
    held = [coupon(code=f"C{i}", **rule) for i, rule in enumerate(rules)]
    back = [fee("unused", (left, 30))] if left < 30 else []
    split = [[fee("fee", (0, 30)), charges(used[0])], *([charges(units)] for units in used[1:]), back]
    whole = [*([fee("fee", (0, left))] if left else []), charges(sum(used))]
    assert abs(total(held, split) - total(held, [whole])) <= len(held) * len(split) * 10**7 // 2  # half a coin a line


@given(rule=rules, left=st.integers(0, 29), used=st.integers(0, 40))
def test_a_coupon_redeemed_after_a_fee_was_charged_never_makes_what_is_given_back_smaller(
    rule: list[dict[str, Any]], left: int, used: int
) -> None:
    held = [coupon(code=f"C{i}", when=BEGINS + 2, **each) for i, each in enumerate(rule)]
    paid = [[fee("fee", (0, 30))], [fee("unused", (left, 30)), charges(used)]]
    assert -used * USD <= total(held, paid) <= 0
    assert total(held, paid) == total(held, [[], [charges(used)]])  # as if there were no fee


def test_a_fee_charged_again_with_the_coupon_is_given_back_with_it() -> None:
    held = [coupon(percent="50", when=BEGINS + 3)]
    before = [[fee("fee", (0, 30))], [fee("unused", (3, 30))]]
    assert total(held, [*before, [fee("fee", (9, 30))], [fee("unused", (19, 30))]]) == -5 * USD
