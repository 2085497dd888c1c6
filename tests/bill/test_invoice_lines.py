"""Every kind of line, against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, text

from feilun.accounts import tenants
from feilun.bill import coupons, credits, invoices, profiles, render
from feilun.bill.settings import BillSettings
from feilun.bill.verify import verify
from feilun.bill.wording import period_name
from feilun.errors import ConflictError, SettingError
from feilun.store import seals, tables
from feilun.store.database import now_us
from feilun.store.money import Money
from feilun.store.periods import period_of
from tests.bill.books import Books, Use, at

SEPTEMBER, OCTOBER = "2026-09", "2026-10"
USD = 10**9
PLANS: dict[str, Any] = {
    "growth": {
        "monthly": "30.00 USD",
        "included": {"requests": 2},
        "tiers": {
            "requests": {"steps": [{"up_to": 3, "price": "1 USD"}, {"price": "0.50 USD", "flat": "5 USD"}]},
            "tokens": {"mode": "volume", "steps": [{"up_to": 50, "price": "0.10 USD"}, {"price": "0.06 USD"}]},
        },
        "package": {"tokens_out": "2 USD per 100"},
        "overage": {"pages": "0.10 USD per 3", "seats": "4 USD", "disk": "1 USD", "stored_examples": "0.5 USD"},
    },
    "scale": {"monthly": "60.00 USD", "overage": {"requests": "0.25 USD"}},
    "least": {"monthly": "10.00 USD", "overage": {"requests": "1 USD"}, "minimum": "15 USD"},
    "trial": {"monthly": "30.00 USD", "overage": {"requests": "1 USD"}, "trial_days": 10, "prorate": "all"},
    "euro": {"monthly": "5.00 EUR", "overage": {"requests": "1 EUR"}},
    "plain": {"overage": {"requests": "1 USD"}},
}
METERS = {
    "pages": {"unit": "page"},
    "seats": {"unit": "seat", "aggregate": "max"},
    "disk": {"unit": "GB", "aggregate": "latest"},
    "calls": {"unit": "call", "aggregate": "count"},
}


def bill(**more: Any) -> BillSettings:
    return BillSettings.model_validate({"plans": PLANS, "meters": METERS} | more)


def told(invoice: invoices.Invoice) -> list[tuple[str, str | None, int, int]]:
    """Kind, meter, units and amount in cents of each line."""
    assert all(line.amount_nano % (USD // 100) == 0 for line in invoice.lines)
    return [(line.kind, line.meter, line.units, line.amount_nano * 100 // USD) for line in invoice.lines]


def close(books: Books, tenant: str, period: str = SEPTEMBER, **more: Any) -> invoices.Invoice:
    """Close, check that everything agrees, and count each line's units again by its own query."""
    invoice = invoices.close(books.database, tenant, period, bill(**more))
    assert verify(books.database).problems == ()
    with books.database.read() as connection:
        for line in invoice.lines:
            if line.query is not None:
                assert int(connection.execute(text(line.query)).scalar() or 0) == line.units, line.description
            assert line.description and line.arithmetic
    return invoice


def use(books: Books, tenant: str, count: int, plan: str, when: str = "2026-09-02", **more: Any) -> None:
    books.use(tenant, [Use(at(when), **more)] * count, bill().terms(plan, at(when)), plan)


def test_graduated_tiers_with_a_flat_amount_volume_prices_and_packages(books: Books) -> None:
    tenant = books.tenant("growth")
    use(books, tenant, 7, "growth", more=(("tokens_out", 30),))
    assert told(close(books, tenant)) == [
        ("fee", None, 1, 3000),
        ("included", "requests", 2, 0),
        ("usage", "requests", 3, 300),
        ("usage", "requests", 1, 500),  # the second tier is entered
        ("usage", "requests", 2, 100),
        ("usage", "tokens", 70, 420),  # all of them at the price of the tier that was reached
        ("usage", "tokens_out", 210, 600),  # three packages begun
    ]


def test_volume_tiers_reprice_what_an_interim_invoice_charged(books: Books) -> None:
    tenant = books.tenant("growth")
    with books.database.read() as connection:
        now = now_us(connection)
    terms = bill().terms("growth")
    books.use(tenant, [Use(now - 2)] * 4, terms, "growth")
    first = invoices.close(books.database, tenant, period_of(now), bill(), interim=True)
    books.use(tenant, [Use(now - 1)] * 3, terms, "growth")
    second = invoices.close(books.database, tenant, period_of(now), bill(), interim=True)
    tokens = [line for i in (first, second) for line in i.lines if line.meter == "tokens"]
    assert [(line.units, line.amount_nano) for line in tokens] == [(40, 4 * USD), (-40, -4 * USD), (70, 42 * USD // 10)]
    assert verify(books.database).problems == ()


def test_events_are_summed_and_counted_and_levels_charged_at_the_month_s_end(books: Books) -> None:
    tenant = books.tenant("growth")
    day = at("2026-09-05")
    books.events(tenant, [("pages", 4, day), ("pages", 3, day + 1), ("seats", 5, day), ("seats", 3, day + 2)])
    books.events(tenant, [("disk", 9, day), ("disk", 2, day + 5), ("disk", 7, day + 4)])
    invoice = close(books, tenant)
    assert told(invoice) == [
        ("fee", None, 1, 3000),
        ("event", "pages", 7, 23),  # 0.2333…
        ("gauge", "disk", 2, 200),
        ("gauge", "seats", 5, 2000),
    ]
    assert (invoice.first_event, invoice.last_event) == (1, 7)
    assert invoice.lines[1].exact_nano == 233_333_333


def test_late_events_are_adjustments_of_their_own_month(books: Books) -> None:
    tenant = books.tenant("growth")
    day = at("2026-09-05")
    books.events(tenant, [("pages", 4, day), ("seats", 5, day)])
    close(books, tenant)
    books.events(tenant, [("pages", 2, day), ("seats", 8, day), ("seats", 1, at("2026-10-01")), ("disk", 3, day)])
    late = close(books, tenant, OCTOBER)
    assert [(line.period, line.kind, line.meter, line.units, line.amount_nano * 100 // USD) for line in late.lines] == [
        (OCTOBER, "fee", None, 1, 3000),
        (SEPTEMBER, "event", "pages", 2, 7),  # 0.20 in all, 0.1333 charged
        (SEPTEMBER, "gauge", "disk", 3, 300),
        (SEPTEMBER, "gauge", "seats", 3, 1200),
        (OCTOBER, "gauge", "seats", 1, 400),
    ]
    assert "not invoiced before" in late.lines[1].description


def test_stored_examples_are_those_at_the_month_s_end(books: Books) -> None:
    tenant = books.tenant("growth")
    rows = books.use(tenant, [Use(at("2026-09-02"), tokens=0)], bill().terms("growth"), "growth")
    shared = {"tenant": tenant, "request": rows[0]["request"], "release": "a" * 64, "kind": "correction", "text": "t"}
    shared |= {"answered": "no", "label": "yes", "contributor": "ann"}
    times = [at("2026-09-03"), at("2026-09-30T23:59:59.999999"), at("2026-10-01")]
    stored = [shared | {"id": f"{tenant}-{i}", "input": i, "at": when} for i, when in enumerate(times)]
    books.database.write(lambda c: c.execute(tables.feedback.insert(), stored))
    assert told(close(books, tenant))[-1] == ("gauge", "stored_examples", 2, 100)
    assert told(close(books, tenant, OCTOBER))[-1] == ("gauge", "stored_examples", 3, 150)


def test_a_plan_that_changed_within_a_month_is_prorated_and_each_part_has_its_prices(books: Books) -> None:
    tenant = books.tenant("growth")
    books.assign(tenant, "growth", "2026-01-01")
    books.assign(tenant, "scale", "2026-09-11")
    use(books, tenant, 3, "growth", "2026-09-10", tokens=0)
    use(books, tenant, 4, "scale", "2026-09-20")
    books.events(tenant, [("pages", 30, at("2026-09-12")), ("pages", 6, at("2026-09-10"))])  # scale has no such price
    assert told(close(books, tenant)) == [
        ("fee", None, 1, 1000),
        ("fee", None, 1, 4000),
        ("included", "requests", 2, 0),
        ("usage", "requests", 1, 100),
        ("usage", "requests", 4, 100),
        ("event", "pages", 6, 20),
    ]


def test_an_upgrade_after_an_interim_invoice_credits_what_is_unused(books: Books) -> None:
    tenant = books.tenant("growth")
    with books.database.read() as connection:
        now = now_us(connection)
    month = period_of(now)
    first = invoices.close(books.database, tenant, month, bill(), interim=True)
    assert told(first) == [("fee", None, 1, 3000)]
    tenants.set_plan(books.database, tenant, "scale")
    second = invoices.close(books.database, tenant, month, bill(), interim=True)
    unused, fee = second.lines
    assert (unused.kind, fee.kind) == ("unused", "fee") and unused.amount_nano < 0 < fee.amount_nano
    assert abs(fee.amount_nano + 2 * unused.amount_nano) <= USD // 100  # the same time, at twice the price
    assert fee.words["begins"] == unused.words["begins"] and fee.words["ends"] == unused.words["ends"]
    assert verify(books.database).problems == ()


def test_an_announced_price_holds_from_its_date_and_never_for_the_past(books: Books) -> None:
    tenant = books.tenant("plain")
    old, new = bill().terms("growth"), bill().terms("scale")
    books.announce({"growth": old}, "2026-01-01")
    books.announce({"growth": new}, "2026-09-16")
    books.assign(tenant, "growth", "2026-01-01")
    invoice = invoices.draft(books.database, tenant, SEPTEMBER, bill())
    assert told(invoice) == [("fee", None, 1, 1500), ("fee", None, 1, 3000)]
    assert [line.price_version for line in invoice.lines] == [old.version, new.version]


def test_what_is_used_in_a_trial_is_shown_and_taken_off_to_the_coin(books: Books) -> None:
    tenant = books.tenant("trial", created="2026-09-11")
    use(books, tenant, 3, "trial", "2026-09-20T23:59:59.999999")
    use(books, tenant, 2, "trial", "2026-09-21")
    assert told(close(books, tenant)) == [
        ("fee", None, 1, 2000),  # 20 of 30 days
        ("usage", "requests", 3, 300),
        ("usage", "requests", 2, 200),
        ("trial", None, -1, -1000),
        ("trial", None, 1, -300),
    ]


def test_a_month_below_its_minimum_is_topped_up_and_late_usage_is_within_that(books: Books) -> None:
    tenant = books.tenant("least")
    use(books, tenant, 2, "least")
    assert told(close(books, tenant))[-1] == ("minimum", None, 1, 300)
    use(books, tenant, 1, "least", "2026-09-30")
    use(books, tenant, 9, "least", "2026-10-02")
    late = close(books, tenant, OCTOBER)
    assert [(line.kind, line.period, line.amount_nano // USD) for line in late.lines] == [
        ("fee", OCTOBER, 10),
        ("usage", SEPTEMBER, 1),
        ("usage", OCTOBER, 9),
        ("minimum", SEPTEMBER, -1),
    ]
    assert late.lines[-1].arithmetic == "15.00 USD - 16.00 USD = -1.00 USD"


COUPONS = {
    "TENTH": {"percent_off": "10", "months": 2},
    "FIVE": {"amount_off": "5 USD", "months": 1},
    "GROWERS": {"percent_off": "50", "plans": ["growth"]},
    "ONCE": {"percent_off": "50", "most": 1},
    "OVER": {"percent_off": "50", "redeem_by": "2026-01-01"},
}


def test_coupons_take_off_one_after_the_other_and_an_amount_once_a_month(books: Books) -> None:
    tenant = books.tenant("scale")
    settings = bill(coupons=COUPONS)
    for code in ("TENTH", "FIVE"):
        coupons.redeem(books.database, tenant, code, settings)
    with books.database.read() as connection:
        now = now_us(connection)
    month, terms = period_of(now), settings.terms("scale")
    first = invoices.close(books.database, tenant, month, settings, interim=True)
    assert told(first)[1:] == [("discount", None, 1, -600), ("discount", None, 1, -500)]
    books.use(tenant, [Use(now)] * 8, terms, "scale")
    second = invoices.close(books.database, tenant, month, settings, interim=True)
    assert told(second) == [("usage", "requests", 8, 200), ("discount", None, 1, -20)]
    assert first.lines[1].description == f"Discount for {period_name(month, 'en')}, coupon TENTH, month 1 of 2"
    assert verify(books.database).problems == ()


def test_an_interim_invoice_says_what_the_end_of_the_month_still_charges(books: Books) -> None:
    plan = {"monthly": "9 USD", "minimum": "30 USD", "overage": {"disk": "1 USD", "stored_examples": "0.5 USD"}}
    settings = BillSettings.model_validate({"plans": {"late": plan}, "meters": METERS})
    tenant = books.tenant("late")
    with books.database.read() as connection:
        now = now_us(connection)
    draft = invoices.draft(books.database, tenant, period_of(now), settings)
    first = invoices.close(books.database, tenant, period_of(now), settings, interim=True)
    said = [{"minimum_nano": 30 * USD}, {"meter": "disk"}, {"meter": "stored_examples"}]
    assert first.as_dict()["to_come"] == said == list(draft.to_come)
    assert invoices.get(books.database, first.number) == first
    english = "Still to come when the month ends: minimum 30.00 USD, disk, stored_examples"
    for one in (draft, first):
        assert english in render.as_text(one) and english in render.as_html(one)
        assert "账期结束时另计：最低消费 30.00 USD、disk" in render.as_text(one, "zh")
    ended = invoices.close(books.database, tenant, SEPTEMBER, settings)
    assert "to_come" not in ended.as_dict() and "Still to come" not in render.as_text(ended)
    assert verify(books.database).problems == ()


def test_credit_in_another_currency_than_the_plan_s_is_refused(books: Books) -> None:
    tenant = books.tenant("scale")
    with pytest.raises(SettingError, match="would pay for nothing") as refused:
        credits.grant(books.database, tenant, Money(5 * USD, "EUR"), reason="", currency="USD")
    assert refused.value.hint == "grant it in USD"


@pytest.mark.parametrize("code", ["ZZ", "de", "EU", "UK"])
def test_a_country_is_one_of_iso_3166(books: Books, code: str) -> None:
    tenant = books.tenant()
    profiles.save(books.database, tenant, country="XK")
    with pytest.raises(SettingError, match="is not a country") as refused:
        profiles.save(books.database, tenant, country=code)
    assert ("'GB'" in str(refused.value.hint)) == (code == "UK")


def test_a_coupon_is_refused_with_the_reason(books: Books) -> None:
    settings = bill(coupons=COUPONS)
    one, two = books.tenant("scale"), books.tenant("scale")
    coupons.redeem(books.database, one, "ONCE", settings)
    for tenant, code, why in (
        (one, "ONCE", "redeemed before"),
        (two, "ONCE", "as often as it may be"),
        (one, "GROWERS", "not for the plan 'scale'"),
        (one, "OVER", "no longer"),
        (books.tenant("euro"), "FIVE", "takes off USD, and the plan 'euro' is in EUR: it would never apply"),
    ):
        with pytest.raises(ConflictError, match=why):
            coupons.redeem(books.database, tenant, code, settings)
    with pytest.raises(SettingError) as unknown:
        coupons.redeem(books.database, one, "TENHT", settings)
    assert unknown.value.hint == "did you mean 'TENTH'?"


TAX = {
    "rates": [
        {"country": "DE", "name": "VAT", "percent": "16", "begins": "2020-07-01"},
        {"country": "DE", "name": "VAT", "percent": "19", "begins": "2021-01-01"},
        {"country": "FR", "name": "TVA", "percent": "20"},
        {"country": "CA", "name": "GST", "percent": "5"},
        {"country": "CA", "name": "QST", "percent": "9.975"},
    ],
    "reverse_charge": ["DE", "FR"],
}
SELLER = {"name": "Shop GmbH", "address": "Street 1", "country": "DE", "tax_id": "DE123"}


@pytest.mark.parametrize(
    ("buyer", "wanted"),
    [
        ({}, [("tax", None, 1, 1140)]),
        ({"country": "DE", "tax_id": "DE999"}, [("tax", None, 1, 1140)]),
        ({"country": "FR"}, [("tax", None, 1, 1200)]),
        ({"country": "FR", "tax_id": "FR1"}, [("tax", None, 1, 0)]),
        ({"country": "CA"}, [("tax", None, 1, 300), ("tax", None, 1, 598)]),  # 5.985, half to even
        ({"country": "US"}, []),
    ],
)
def test_taxes_are_those_of_the_buyer_s_country_or_move_to_the_customer(
    books: Books, buyer: dict[str, str], wanted: list[Any]
) -> None:
    tenant = books.tenant("scale")
    if buyer:
        profiles.save(books.database, tenant, **buyer)
    invoice = close(books, tenant, tax=TAX, seller=SELLER)
    assert told(invoice)[1:] == wanted
    assert invoice.buyer == buyer and invoice.seller == SELLER
    assert invoice.total_nano == 60 * USD + sum(cents * USD // 100 for *_, cents in wanted)
    reverse = [line for line in invoice.lines if line.words.get("reverse")]
    assert bool(reverse) == (buyer.get("tax_id") == "FR1")
    with books.database.read() as connection:
        accounts = connection.execute(select(tables.postings).where(tables.postings.c.account.like("tax:%"))).all()
    assert {a.account: -a.amount_nano for a in accounts} == (
        {f"tax:{buyer.get('country', 'DE')}": sum(c for *_, c in wanted) * USD // 100}
        if any(c for *_, c in wanted)
        else {}
    )


def test_a_profile_is_kept_as_it_was_when_the_invoice_was_closed(books: Books) -> None:
    tenant = books.tenant("scale")
    profiles.save(books.database, tenant, name="Acme", country="FR", email="a@b.example")
    first = close(books, tenant)
    assert profiles.save(books.database, tenant, name="Acme SA", email="") == {"name": "Acme SA", "country": "FR"}
    assert first.buyer == {"name": "Acme", "country": "FR"}
    assert invoices.get(books.database, first.number) == first
    for field, value in (("country", "Germany"), ("tax_id", "<b>"), ("language", "de"), ("nme", "x"), ("email", "x")):
        with pytest.raises(SettingError):
            profiles.save(books.database, tenant, **{field: value})


def test_credit_that_expires_first_is_used_first_and_what_expired_is_income(books: Books) -> None:
    tenant = books.tenant("scale")
    with books.database.read() as connection:
        now = now_us(connection)
    for amount, expires in ((50, None), (25, now + 10**10), (7, now + 10**9)):
        credits.grant(books.database, tenant, Money(amount * USD, "USD"), reason="paid ahead", expires_at=expires)
    credits.grant(books.database, tenant, Money(9 * USD, "EUR"), reason="another currency")
    invoice = close(books, tenant)
    assert [line.amount_nano // USD for line in invoice.lines] == [60, -7, -25, -28]
    assert (invoice.total_nano, invoice.credits_nano, invoice.due_nano) == (60 * USD, -60 * USD, 0)
    assert invoice.lines[3].arithmetic == "28.00 USD of 50.00 USD used, 22.00 USD left"
    with books.database.read() as connection:
        left = [(credit.currency, credit.left_nano // USD) for credit in credits.of_tenant(connection, tenant)]
    assert left == [("USD", 0), ("USD", 0), ("USD", 22), ("EUR", 9)]


def test_expired_credit_pays_for_what_was_used_before_and_the_rest_is_swept(books: Books) -> None:
    tenant = books.tenant("plain")
    use(books, tenant, 4, "plain", "2026-09-05")
    use(books, tenant, 3, "plain", "2026-09-25")
    row = {"id": f"G{tenant}"[:26], "tenant": tenant, "currency": "USD", "amount_nano": 6 * USD, "reason": "", "at": 1}
    row["expires_at"] = at("2026-09-15")
    sides = {credits.prepaid(tenant): -6 * USD, credits.CREDITS: 6 * USD}
    posted = [
        {"entry": row["id"], "currency": "USD", "at": 1, "account": a, "amount_nano": n} for a, n in sides.items()
    ]

    def write(connection: Any) -> None:
        connection.execute(tables.grants.insert().values(row))
        seals.seal(connection, "grants", row)
        connection.execute(tables.postings.insert(), posted)

    books.database.write(write)
    invoice = close(books, tenant)
    assert (invoice.credits_nano, invoice.due_nano) == (-4 * USD, 3 * USD)
    with books.database.read() as connection:
        accounts = {p.account: p.amount_nano for p in connection.execute(select(tables.postings))}
        assert credits.of_tenant(connection, tenant)[0].left_nano == 0
    assert accounts[credits.BREAKAGE] == -2 * USD


@pytest.mark.parametrize("amount", [0, -USD, 1, 2**63])
def test_only_whole_coins_above_0_are_granted(books: Books, amount: int) -> None:
    with pytest.raises(SettingError):
        credits.grant(books.database, books.tenant(), Money(amount, "USD"), reason="")


def test_a_tenant_that_was_charged_in_two_currencies_gets_an_invoice_in_each(books: Books) -> None:
    tenant = books.tenant("plain")
    books.assign(tenant, "scale", "2026-01-01")
    books.assign(tenant, "euro", "2026-09-16")
    use(books, tenant, 2, "scale")
    use(books, tenant, 3, "euro", "2026-09-20")
    last = close(books, tenant)
    with books.database.read() as connection:
        one, other = invoices.of_tenant(connection, tenant)
    assert (one.currency, told(one)) == ("USD", [("fee", None, 1, 3000), ("usage", "requests", 2, 50)])
    assert (other.currency, told(other)) == ("EUR", [("fee", None, 1, 250), ("usage", "requests", 3, 300)])
    assert other == last == invoices.close(books.database, tenant, SEPTEMBER, bill())


def test_a_month_is_a_draft_then_in_grace_then_final(books: Books) -> None:
    tenant = books.tenant("scale")
    with books.database.read() as connection:
        now = period_of(now_us(connection))
    assert invoices.draft(books.database, tenant, now, bill()).state == "draft"
    assert invoices.draft(books.database, tenant, SEPTEMBER, bill()).state == "final"
    long = bill(grace="3650d")
    assert invoices.draft(books.database, tenant, SEPTEMBER, long).state == "grace"
    with pytest.raises(ConflictError) as caught:
        invoices.close(books.database, tenant, SEPTEMBER, long)
    assert caught.value.name == "period-in-grace"
    early = invoices.close(books.database, tenant, SEPTEMBER, long, interim=True)
    assert early.interim and early.state == "final"
    use(books, tenant, 4, "scale")
    following = close(books, tenant)
    assert not following.interim and told(following) == [("usage", "requests", 4, 100)]


def test_what_is_due_falls_by_what_an_invoice_covers(books: Books) -> None:
    tenant = books.tenant("plain")
    use(books, tenant, 3, "plain", "2026-09-05")
    use(books, tenant, 2, "plain", "2026-10-05")

    def due() -> int:
        with books.database.read() as connection:
            query = select(tables.chains.c.due_nano).where(tables.chains.c.tenant == tenant)
            return int(connection.execute(query).scalar_one())

    assert due() == 5 * USD
    close(books, tenant)
    assert due() == 2 * USD
    close(books, tenant, OCTOBER)
    assert due() == 0
