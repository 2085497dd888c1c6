from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feilun.bill import fonts
from feilun.bill.form import form_of
from feilun.bill.headings import word
from feilun.bill.pdf import as_pdf
from feilun.bill.wording import LANGUAGES, Language
from feilun.store.money import format_money
from tests.bill.paper_text import pages
from tests.bill.papers import HOSTILE, MARKUP, NANO, invoice, line, of_every_kind, usage

DRAFT: dict[str, Any] = {"number": "DRAFT", "state": "draft"}


def joined(pdf: bytes) -> str:
    return "\n".join(pages(pdf))


def run_together(text: str) -> str:
    """Without the places where a line or a font ends."""
    return "".join(text.split())


def test_the_amounts_on_paper_are_those_of_the_invoice() -> None:
    made = invoice(of_every_kind())
    text = joined(as_pdf(made))
    for told in made.lines:
        if told.kind in ("tax", "credit"):
            pattern = re.escape(f"{told.arithmetic}\n{format_money(told.amount_nano, 'USD')}\n")
        else:
            origin = re.escape(f"{told.id} · price version 3f0c3f0c3f0c")
            numbers = "" if told.kind in ("trial", "discount", "minimum") else f"{told.units:,}\n[^\n]+\n"
            pattern = f"{origin}[^\n]*\n{numbers}{re.escape(format_money(told.amount_nano, 'USD'))}\n"
        assert len(re.findall(pattern, text)) == 1, told.kind
    rest = text[text.index("Subtotal") :].split("\n")
    assert [rest[rest.index(label) + 1] for label in ("Subtotal", "Total", "Amount due")] == [
        format_money(made.total_nano - 9_500_000_000, "USD"),
        made.total,
        format_money(made.due_nano, "USD"),
    ]


@pytest.mark.parametrize("language", LANGUAGES)
def test_everything_of_the_form_is_on_paper(language: Language) -> None:
    made = invoice(of_every_kind())
    form = form_of(made, language)
    text = run_together(joined(as_pdf(made, language)))
    shown = [part for fact in form.facts for part in fact] + list(form.notes)
    shown += [part for party in form.parties for part in (party.heading, party.name, *party.more)]
    for group in form.groups:
        shown += [group.heading]
        shown += [part for e in group.entries for part in (e.description, e.arithmetic, e.origin, e.query)]
    shown += [part for total in form.totals for part in (total.label, total.detail, total.amount)]
    assert [part for part in shown if run_together(part) not in text] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_same_invoice_is_the_same_file(language: Language, monkeypatch: pytest.MonkeyPatch) -> None:
    made = invoice(of_every_kind())
    first = as_pdf(made, language)
    monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    assert as_pdf(made, language) == first
    assert as_pdf(replace(made, number="INV-000043"), language) != first


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("language", LANGUAGES)
def test_case_51_a_hostile_name_is_text_wherever_it_stands(name: str, language: Language) -> None:
    seller = {"name": name, "address": "\n".join([name] * 30), "country": name, "tax_id": name}
    lines = [usage(1, NANO, words={"unit": name}, meter="pages", kind="event"), line("fee", NANO, words={"plan": name})]
    lines += [line("discount", -NANO, words={"coupon": name}), line("credit", -NANO, words={"reason": name})]
    made = invoice(lines, tenant=name, seller=seller, buyer=seller, **DRAFT)
    text = run_together(joined(as_pdf(made, language)))
    assert run_together("".join(shown for shown, _ in fonts.runs(name))) in text


def test_case_51_markup_is_shown_as_it_was_written() -> None:
    text = run_together(joined(as_pdf(invoice([line("fee", NANO, words={"plan": MARKUP})]))))
    assert run_together(MARKUP) in text


def test_a_character_that_no_font_has_is_a_box_and_a_note_says_so() -> None:
    assert fonts.runs("a😀ש\u202eb") == [("a", ""), ("□□", fonts.CHINESE), ("b", "")]
    note = run_together("a character that this form has no font for")
    assert note in run_together(joined(as_pdf(invoice([], buyer={"name": "😀"}))))
    assert note not in run_together(joined(as_pdf(invoice([], buyer={"name": "Dvořák 数据 한국"}))))


@pytest.mark.parametrize(
    ("char", "font"),
    [
        *(("é", ""), ("€", ""), ("×", ""), ("Ł", fonts.LATIN), ("≈", fonts.LATIN), ("元", fonts.CHINESE)),
        *(("體", fonts.CHINESE), ("Ж", fonts.CHINESE), ("カ", fonts.CHINESE), ("국", fonts.KOREAN)),
    ],
)
def test_each_script_has_its_font(char: str, font: str) -> None:
    assert fonts.runs(char) == [(char, font)]


def test_a_letter_that_no_font_has_with_its_mark_loses_the_mark() -> None:
    assert fonts.runs("ř") == [("r", "")]


@given(text=st.text(max_size=60))
def test_runs_say_what_is_seen_of_any_text(text: str) -> None:
    found = fonts.runs(text)
    assert all(shown for shown, _ in found)
    for shown, font in found:
        if not font:
            shown.encode("cp1252")
    assert fonts.markup(text).count("<") == 2 * sum(bool(font) for _, font in found)


@settings(max_examples=25)
@given(name=st.text(max_size=200), reason=st.text(max_size=2000))
def test_no_text_breaks_the_paper(name: str, reason: str) -> None:
    lines = [replace(usage(1, NANO), description=reason), line("credit", -NANO, words={"reason": reason})]
    assert as_pdf(invoice(lines, tenant=name, buyer={"name": name, "address": reason})).startswith(b"%PDF")


def test_a_draft_says_so_across_every_page_and_an_issued_invoice_does_not() -> None:
    lines = [usage(n, NANO) for n in range(1, 60)]
    for language in LANGUAGES:
        mark = word("draft", language)
        drafts = pages(as_pdf(invoice(lines, **DRAFT), language))
        assert len(drafts) > 3 and all(mark in page.split("\n") for page in drafts)
        assert not any(mark in page for page in pages(as_pdf(invoice(lines), language)))
    assert "Provisional" in joined(as_pdf(invoice(lines, number="DRAFT", state="grace")))


def test_headings_and_page_numbers_are_on_every_page_of_a_thousand_lines() -> None:
    lines = [usage(n, 7_000_000) for n in range(1, 1001)]
    begun = time.process_time()
    found = pages(as_pdf(invoice(lines)))
    assert time.process_time() - begun < 60  # some 3 seconds where nothing else runs
    for number, page in enumerate(found, start=1):
        assert f"Page {number} of {len(found)}" in page
    table = [page for page in found if "price version" in page]
    assert len(table) > 20 and all("Description\nUnits\nUnit price\nAmount" in page for page in table)
    amounts = re.findall(r"release d45a3b0dff72\n[\d,]+\n0\.007 USD\n([\d,.]+) USD", "\n".join(table))
    assert [f"{amount} USD" for amount in amounts] == [format_money(told.amount_nano, "USD") for told in lines]


def test_an_invoice_of_no_lines_says_that_there_is_nothing_to_charge() -> None:
    (page,) = pages(as_pdf(invoice([], seller={}, buyer={}, due_at=None, last_sequence=0)))
    assert "There is nothing to charge." in page and "Amount due\n0.00 USD" in page
    assert "Bill to\nacme" in page and "From" not in page and "Payment due" not in page


def test_yen_have_no_decimals_and_the_largest_amounts_fit() -> None:
    text = joined(as_pdf(invoice([line("fee", 1234 * NANO, "JPY")], "JPY")))
    assert "Amount due\n1,234 JPY" in text and "1,234.00" not in text
    most = 2**63 - 1
    text = joined(as_pdf(invoice([usage(most, 1, most), line("fee", -most)])))
    assert run_together("9,223,372,036.854775807 USD") in run_together(text)
    assert run_together("-9,223,372,036.85 USD") in run_together(text)
