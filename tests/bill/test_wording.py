from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feilun.bill.rating import KINDS, Line
from feilun.bill.wording import LANGUAGES, Language, arithmetic, date, describe, moment, period_name, worded
from tests.bill.papers import DAY, NANO, NOVEMBER, RELEASE, line, of_every_kind, usage

PART = {"begins": NOVEMBER + 10 * DAY, "ends": NOVEMBER + 30 * DAY, "part": 20 * DAY, "whole": 30 * DAY}
TIER = {"tier": 2, "above": 1000, "up_to": 10_000}
TOLD = [
    (
        line("fee", 49 * NANO, words={"plan": "growth"}),
        ("Plan growth, monthly fee for November 2026", "1 × 49.00 USD"),
        ("套餐 growth，2026年11月月费", "1 × 49.00 USD"),
    ),
    (
        line("fee", 32_666_666_667, unit_nano=49 * NANO, words={"plan": "growth", **PART}),
        (
            "Plan growth, monthly fee for November 2026, from 11 November 2026 until 1 December 2026",
            "49.00 USD × 20/30 days ≈ 32.666666667 USD, rounded 32.67 USD",
        ),
        (
            "套餐 growth，2026年11月月费，自2026年11月11日起至2026年12月1日止",
            "49.00 USD × 20/30 天 ≈ 32.666666667 USD，舍入为 32.67 USD",
        ),
    ),
    (
        line(
            "unused",
            -9_500_000_000,
            unit_nano=19 * NANO,
            words={"plan": "starter", "part": 12 * 3600 * 10**6, "whole": DAY},
        ),
        ("Plan starter, unused part of the monthly fee for November 2026", "-19.00 USD × 12/24 hours = -9.50 USD"),
        ("套餐 starter，2026年11月月费未使用部分", "-19.00 USD × 12/24 小时 = -9.50 USD"),
    ),
    (
        usage(1, 500_000, meter="requests"),
        (
            "Requests, answered by release d45a3b0dff72 in November 2026",
            "1 request × 0.0005 USD = 0.0005 USD, rounded 0.00 USD",
        ),
        ("请求，2026年11月由版本 d45a3b0dff72 应答", "1 次请求 × 0.0005 USD = 0.0005 USD，舍入为 0.00 USD"),
    ),
    (
        usage(1000, 0, kind="included", meter="tokens_out", words={"late": 1, "trial": 1}),
        (
            "Generated tokens included in the plan, answered by release d45a3b0dff72 in November 2026, "
            "during the trial (not invoiced before)",
            "1,000 generated tokens × 0.00 USD = 0.00 USD",
        ),
        (
            "生成词元（套餐内），2026年11月由版本 d45a3b0dff72 应答，试用期内（此前未计费）",
            "1,000 个生成词元 × 0.00 USD = 0.00 USD",
        ),
    ),
    (
        usage(2_500, 10_000_000, 25_000_000, meter="tokens", words={"per": 1000, **TIER}),
        (
            "Tokens, answered by release d45a3b0dff72 in November 2026, tier 2 (1,001 to 10,000)",
            "2,500 tokens × 0.01 USD per 1,000 = 0.025 USD, rounded 0.02 USD",
        ),
        (
            "词元，2026年11月由版本 d45a3b0dff72 应答，第 2 档（1,001 至 10,000）",
            "2,500 个词元 × 0.01 USD 每 1,000 = 0.025 USD，舍入为 0.02 USD",
        ),
    ),
    (
        usage(1, 1, 0, kind="event", meter="pages", words={"unit": "page", "per": 3, "aggregate": "sum"}),
        ("Pages, in November 2026", "1 page × 0.000000001 USD per 3 ≈ 0.00 USD"),
        ("page，2026年11月", "1 page × 0.000000001 USD 每 3 ≈ 0.00 USD"),
    ),
    (
        usage(1, 5 * NANO, kind="event", meter="pages", words={"unit": "page", "rate": "package", "per": 1000}),
        ("Pages, in November 2026, in packages of 1,000", "1 page: 1 package of 1,000 begun × 5.00 USD = 5.00 USD"),
        ("page，2026年11月，按每 1,000 一包计", "1 page：新开 1 包（每包 1,000） × 5.00 USD = 5.00 USD"),
    ),
    (
        usage(7, 5 * NANO, 5 * NANO, kind="event", meter="api_calls", words={"rate": "flat", "tier": 3, "above": 6}),
        ("Api calls, in November 2026, tier 3 (from 7), flat fee of the tier", "1 × 5.00 USD = 5.00 USD"),
        ("api calls，2026年11月，第 3 档（7 起），本档固定费", "1 × 5.00 USD = 5.00 USD"),
    ),
    (
        usage(
            6,
            2 * NANO,
            7 * NANO,
            kind="gauge",
            meter="seats",
            words={"unit": "seat", "aggregate": "max", "rate": "volume", "earlier_units": 4, "earlier_nano": 13 * NANO},
        ),
        (
            "Seats, the most in November 2026, all units at its price",
            "10 seats × 2.00 USD - 13.00 USD charged before = 7.00 USD",
        ),
        ("seat，2026年11月最高值，全部用量按本档单价计", "10 seat × 2.00 USD - 此前已计 13.00 USD = 7.00 USD"),
    ),
    (
        usage(5, NANO, kind="gauge", meter="stored_examples"),
        ("Stored examples, at the end of November 2026", "5 stored examples × 1.00 USD = 5.00 USD"),
        ("已存样本，2026年11月月末", "5 条已存样本 × 1.00 USD = 5.00 USD"),
    ),
    (
        line("trial", -3 * NANO, words={"plan": "growth", "base_nano": 3 * NANO}),
        ("Plan growth, free trial: usage in November 2026", "3.00 USD × -100% = -3.00 USD"),
        ("套餐 growth，免费试用：2026年11月用量", "3.00 USD × -100% = -3.00 USD"),
    ),
    (
        line("trial", -4_430_000_000, unit_nano=19 * NANO, units=-1, words={"part": 7 * DAY, "whole": 30 * DAY}),
        ("Free trial: monthly fee for November 2026", "-19.00 USD × 7/30 days ≈ -4.43 USD"),
        ("免费试用：2026年11月月费", "-19.00 USD × 7/30 天 ≈ -4.43 USD"),
    ),
    (
        line(
            "discount",
            -11 * NANO,
            words={"coupon": "L", "percent": "20", "base_nano": 55 * NANO, "month": 1, "months": 3},
        ),
        ("Discount for November 2026, coupon L, month 1 of 3", "55.00 USD × -20% = -11.00 USD"),
        ("2026年11月折扣，优惠码 L，第 1 个月（共 3 个月）", "55.00 USD × -20% = -11.00 USD"),
    ),
    (
        line("discount", -3 * NANO, words={"coupon": "L", "off_nano": 5 * NANO, "base_nano": 3 * NANO}),
        ("Discount for November 2026, coupon L", "5.00 USD off, but no more than 3.00 USD"),
        ("2026年11月折扣，优惠码 L", "减免 5.00 USD，但不超过 3.00 USD"),
    ),
    (
        line("minimum", 2 * NANO, words={"plan": "growth", "minimum_nano": 50 * NANO, "reached_nano": 48 * NANO}),
        ("Plan growth, topped up to the minimum for November 2026", "50.00 USD - 48.00 USD = 2.00 USD"),
        ("套餐 growth，补足2026年11月最低消费", "50.00 USD - 48.00 USD = 2.00 USD"),
    ),
    (
        line("tax", 9_500_000_000, words={"name": "VAT", "country": "DE", "percent": "19", "base_nano": 50 * NANO}),
        ("VAT 19% (DE)", "50.00 USD × 19% = 9.50 USD"),
        ("VAT 19%（DE）", "50.00 USD × 19% = 9.50 USD"),
    ),
    (
        line("tax", 0, words={"name": "VAT", "base_nano": 50 * NANO, "reverse": 1, "tax_id": "DE12"}),
        (
            "VAT: reverse charge, to be accounted for by the customer; customer's tax id DE12",
            "50.00 USD × 0% = 0.00 USD",
        ),
        ("VAT：反向征收，由客户自行申报缴纳；客户税号 DE12", "50.00 USD × 0% = 0.00 USD"),
    ),
    (
        line("credit", -20 * NANO, words={"reason": "Welcome", "had_nano": 25 * NANO, "expires_at": NOVEMBER}),
        ("Prepaid credit used, Welcome, expires 1 November 2026", "20.00 USD of 25.00 USD used, 5.00 USD left"),
        ("使用预付余额，Welcome，2026年11月1日到期", "余额 25.00 USD 中使用 20.00 USD，剩余 5.00 USD"),
    ),
    (
        usage(-2, NANO, words={"corrects": "INV-000001/3"}),
        (
            "Reversal of INV-000001/3: Inputs, answered by release d45a3b0dff72 in November 2026",
            "2.00 USD of INV-000001/3 taken back",
        ),
        ("冲销 INV-000001/3：输入，2026年11月由版本 d45a3b0dff72 应答", "退回 INV-000001/3 的 2.00 USD"),
    ),
]


@pytest.mark.parametrize(("told", "english", "chinese"), TOLD, ids=[f"{t[0].kind}-{i}" for i, t in enumerate(TOLD)])
def test_a_line_is_told_in_both_languages(told: Line, english: tuple[str, str], chinese: tuple[str, str]) -> None:
    assert (describe(told, "en"), arithmetic(told, "USD", "en")) == english
    assert (describe(told, "zh"), arithmetic(told, "USD", "zh")) == chinese
    assert (told.description, told.arithmetic) == english


def test_every_kind_of_line_has_words_and_is_among_the_examples() -> None:
    assert {told.kind for told, _, _ in TOLD} == set(KINDS)
    assert {told.kind for told in of_every_kind()} == set(KINDS)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", [*KINDS, "something-new"])
def test_a_line_of_an_older_invoice_is_told_without_any_words(kind: str, language: Language) -> None:
    bare = Line(kind=kind, period="2026-11", units=1, unit_nano=3 * NANO, exact_nano=3 * NANO, amount_nano=3 * NANO)
    for told in (bare, replace(bare, meter="tokens", release=RELEASE), replace(bare, description="As it was")):
        assert describe(told, language) and "3.00 USD" in arithmetic(told, "USD", language)
    assert "None" not in describe(bare, language)
    if kind in ("fee", "something-new"):
        assert describe(replace(bare, description="As it was"), "en") == "As it was"


WORDS = ("plan", "rate", "per", "tier", "above", "up_to", "late", "trial", "unit", "aggregate", "coupon", "percent")
MORE = ("off_nano", "base_nano", "month", "months", "minimum_nano", "reached_nano", "name", "country", "reverse")
NUMBERS = {"per", "tier", "above", "up_to", "off_nano", "base_nano", "minimum_nano", "reached_nano", "part", "whole"}


@given(
    kind=st.sampled_from(KINDS),
    meter=st.sampled_from([None, "requests", "pages"]),
    units=st.integers(-(10**12), 10**12),
    nano=st.integers(-(10**12), 10**12),
    words=st.dictionaries(
        st.sampled_from([*WORDS, *MORE, "part", "whole", "tax_id", "reason"]), st.integers(1, 10**15)
    ),
)
def test_whatever_words_are_there_both_languages_are_told_and_end_in_the_amount(
    kind: str, meter: str | None, units: int, nano: int, words: dict[str, Any]
) -> None:
    told = {name: value if name in NUMBERS else str(value) for name, value in words.items()}
    made = Line(kind=kind, period="2026-11", meter=meter, units=units, exact_nano=nano, amount_nano=nano, words=told)
    for language in LANGUAGES:
        assert describe(made, language)
        assert arithmetic(made, "USD", language)
    assert worded(made, "USD").description == describe(made, "en")


def test_words_are_shown_as_they_are_and_never_read_as_a_pattern() -> None:
    hostile = "{plan} %s <b> {0}"
    assert hostile in describe(line("fee", NANO, words={"plan": hostile}), "zh")
    assert describe(line("discount", -NANO, words={"coupon": hostile}), "en").endswith(hostile)


def test_dates_and_months_are_those_of_utc() -> None:
    assert [date(NOVEMBER - 1, language) for language in LANGUAGES] == ["31 October 2026", "2026年10月31日"]
    assert [moment(NOVEMBER, language) for language in LANGUAGES] == ["1 November 2026", "2026年11月1日"]
    assert moment(NOVEMBER + 3_600 * 10**6, "zh") == "2026年11月1日 01:00 UTC"
    assert [period_name("2027-01", language) for language in LANGUAGES] == ["January 2027", "2027年1月"]


@given(part=st.integers(1, 31 * DAY), whole=st.integers(1, 31 * DAY))
def test_a_share_of_a_month_is_told_exactly(part: int, whole: int) -> None:
    shown = arithmetic(line("fee", NANO, words={"part": part, "whole": whole}), "USD", "en")
    if part == whole:
        assert shown == "1 × 1.00 USD"
        return
    told, of = shown.split(" × ")[1].split(" ")[0].replace(",", "").split("/")
    assert int(told) * whole == int(of) * part
